"""Why a SQLite file does not keep what an application saves, from the bottom up: folder, file, rights, whether it is whole, locks, tables.

Writes nothing, and waits for a lock as long as LuminoraCore does (5 s, fact sheet H46). Which tables LuminoraCore takes for its own it is told
by the layout: the first of a kind's names that is there, whatever its columns (B11).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from migrator.adapters.mending import no_folder, not_there_yet
from migrator.adapters.sql.snapshot import connect, looks_like_sqlite, size_words, stands
from migrator.layout import Layout
from migrator.model import Address, Finding

LOCK_SECONDS = 5.0
"""How long LuminoraCore waits for a lock before it drops the record (fact sheet H46)."""

CHECK_SECONDS = 10.0
"""After so long the check of a large file is left, and said to be not complete."""

_LITTLE = 64 << 20  # bytes of room, below which a person should know


def ladder(address: Address, layout: Layout) -> Iterator[Finding]:
    """The rungs up to the first that does not hold what is above it."""
    path = Path(os.path.realpath(address.name))  # a link is as good as what it leads to
    folder = path.parent
    if not folder.is_dir():
        yield no_folder(folder)
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        seen = f"no permission to write in {folder}, where SQLite keeps its journal"
        yield Finding("folder", "fault", seen, f"chmod u+rwx {shlex.quote(str(folder))}")
        return
    yield Finding("folder", "well", str(folder))
    if (free := shutil.disk_usage(folder).free) < _LITTLE:
        yield Finding(
            "room",
            "fault" if free < 1 << 20 else "note",
            f"{size_words(free)} free",
            f"df -h {shlex.quote(str(folder))}",
        )
    if not path.exists():
        yield not_there_yet(address)
        return
    yield from _of_the_file(path, layout)


def _of_the_file(path: Path, layout: Layout) -> Iterator[Finding]:
    quoted = shlex.quote(str(path))
    if path.is_dir():
        yield Finding(
            "file",
            "fault",
            f"{path} is a folder",
            f"export LUMINORA_SQLITE_PATH={shlex.quote(str(path / 'luminora.db'))}",
        )
        return
    if not path.is_file():
        yield Finding("file", "fault", f"{path} is no regular file", "export LUMINORA_SQLITE_PATH=./luminora.db")
        return
    if not os.access(path, os.R_OK | os.W_OK):
        yield Finding("file", "fault", "no permission to read and write it", f"chmod u+rw {quoted}")
        return
    if not looks_like_sqlite(path):
        yield Finding("file", "fault", "not a SQLite database", f"mv {quoted} {shlex.quote(f'{path}.not-sqlite')}")
        return
    yield Finding("file", "well", f"{path}, {size_words(path.stat().st_size)}")
    mend = _salvage(path, layout)
    try:
        standing = stands(path)
        if standing == "unclean":
            yield Finding(
                "whole", "note", "it was not closed in good order; SQLite mends that when LuminoraCore opens it"
            )
            return
        options = "mode=ro&immutable=1" if standing == "still" else "mode=ro"
        with closing(connect(path, options, LOCK_SECONDS)) as look:
            problem = _problem(look)
            if problem is None:
                yield Finding(
                    "whole",
                    "note",
                    f"not checked to the end in {CHECK_SECONDS:.0f} s",
                    f"sqlite3 {quoted} 'PRAGMA integrity_check'",
                )
            elif problem:
                yield Finding("whole", "fault", f"it is corrupt: {problem}", mend)
                return
            else:
                yield Finding("whole", "well", "PRAGMA integrity_check found nothing")
            tables = _columns(look)
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            yield _locked(path)
        else:
            yield Finding("whole", "fault", f"it is corrupt: {exc}", mend)
        return
    if standing == "live":
        try:
            with closing(connect(path, "mode=rw", LOCK_SECONDS)) as writer:
                writer.execute("BEGIN IMMEDIATE")
                writer.execute("ROLLBACK")
        except sqlite3.OperationalError:
            yield _locked(path)
            return
    yield Finding("lock", "well", "nobody holds it")
    faults = [*_misfits(path, tables, layout)]
    yield from faults or [Finding("tables", "well", ", ".join(tables) or "none yet; LuminoraCore makes them")]


def _problem(look: sqlite3.Connection) -> str | None:
    """The first thing that is wrong; empty if nothing is, None if there was no time to find out."""
    began = time.monotonic()
    look.set_progress_handler(lambda: time.monotonic() - began > CHECK_SECONDS, 100_000)
    try:
        (answer,) = look.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return None
        raise
    finally:
        look.set_progress_handler(None, 0)
    lines = [line for line in str(answer).splitlines() if not line.startswith("***")]
    return "" if answer == "ok" else (lines or [str(answer)])[0]


def _salvage(path: Path, layout: Layout) -> str:
    """What can be read into a new file, which takes the place of this one only if there is something in it; this one is kept.

    Not every sqlite3 can `.recover` (Debian's 3.40 cannot); `.dump` reads each table from both ends, and undoes all of it in its last line.
    """
    if shutil.which("sqlite3") is None:
        return "put a sqlite3 command on the PATH (package sqlite3), then ask migrator doctor again"
    quoted, mended, broken = (shlex.quote(f"{path}{suffix}") for suffix in ("", ".mended", ".broken"))
    table = layout.kinds["fact"].collections[0] if "fact" in layout.kinds else "sqlite_master"
    return (
        f"rm -f {mended}; {{ sqlite3 {quoted} .recover || sqlite3 {quoted} .dump; }} 2>/dev/null | sed '$s/^ROLLBACK;.*/COMMIT;/' "
        f"| sqlite3 {mended} 2>/dev/null; test \"$(sqlite3 {mended} 'SELECT count(*) FROM {table}' 2>&1)\" -gt 0 2>/dev/null "
        f"&& mv {quoted} {broken} && mv {mended} {quoted} || echo 'nothing could be read: put a backup in its place'"
    )


def _columns(look: sqlite3.Connection) -> dict[str, set[str]]:
    names = [
        name
        for (name,) in look.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
    ]
    return {
        name: {column for (column,) in look.execute("SELECT name FROM pragma_table_info(?)", (name,))}
        for name in sorted(names)
    }


def _misfits(path: Path, tables: dict[str, set[str]], layout: Layout) -> Iterator[Finding]:
    """Tables that the application takes for its own and cannot use."""
    for kind in layout.kinds.values():
        taken = next((name for name in kind.collections if name in tables), None)
        lacking = {place.attribute for place in kind.places} - tables.get(taken or "", set())
        if taken is not None and lacking:
            seen = f"LuminoraCore takes {taken} for its {kind.kind.name} table, and it has no column {min(lacking)}: saving fails"
            other = path.with_name(f"{path.stem}-chat{path.suffix}")
            yield Finding("tables", "fault", seen, f"export LUMINORA_SQLITE_PATH={shlex.quote(str(other))}")


def _locked(path: Path) -> Finding:
    seen = f"locked by another process for more than {LOCK_SECONDS:.0f} s: LuminoraCore drops what it saves meanwhile"
    holders = [f"{pid} ({name})" for pid, name in _holders(path)]
    mend = f"end process {', '.join(holders)}" if holders else f"fuser {shlex.quote(str(path))}"
    return Finding("lock", "fault", seen, mend)


def _holders(path: Path) -> Iterator[tuple[int, str]]:
    """Other processes that have the file open, as far as this user may see (Linux)."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and any(_is(link, path) for link in (entry / "fd").iterdir()):
                yield int(entry.name), (entry / "comm").read_text().strip()
        except OSError:
            continue


def _is(link: Path, path: Path) -> bool:
    try:
        return link.samefile(path)
    except OSError:
        return False
