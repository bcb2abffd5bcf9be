"""Looks at a SQLite file without leaving a trace, and takes a snapshot of it.

Knows how a SQLite database lies on disk: journal modes, side files, locks, the online backup. Knows nothing of tables,
rows or layouts. Exceptions of sqlite3 pass through: `sql` sorts them.

A file is *live* where SQLite can read it as it is; *still* where it is in WAL mode and nobody has it open (opening it, even
read-only, would leave -wal and -shm files behind); *unclean* where only a recovery can tell what it holds (a hot journal, a
-wal without its -shm, a folder that may not be written): then a copy is recovered, never the original.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from migrator.adapters.sql.errors import UnknownTrouble
from migrator.errors import ConfigError
from migrator.model import Snapshot
from migrator.values import short_digest

if TYPE_CHECKING:
    from migrator.adapters.sql.fast import FastRows

BUSY_SECONDS = 30.0
"""How long we wait for a lock that the application holds."""

_MAGIC = b"SQLite format 3\0"
_SAMPLE = 8 << 20
_CHUNK = 4 << 20
_STEP_PAGES = 4096
_ATTEMPTS = 5
_SLOW_BYTES = 256 << 20
_OURS = "mode=ro&immutable=1"
"""How a finished file that is nobody else's is opened: without locks."""

Standing = Literal["live", "still", "unclean"]


@dataclass(slots=True)
class Look:
    """A connection that reads a file. `stamp` says of which state, where SQLite itself would not notice a change."""

    connection: sqlite3.Connection
    stamp: tuple[object, ...] | None = None

    def is_stale(self, path: Path) -> bool:
        return self.stamp is not None and self.stamp != _stamp(path)


def connect(path: Path, options: str, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions are begun where they are wanted."""
    return sqlite3.connect(_uri(path, options), uri=True, isolation_level=None, timeout=timeout)


def _uri(path: Path, options: str) -> str:
    return f"{path.as_uri()}?{options}"


def looks_like_sqlite(path: Path) -> bool:
    """True for a file with SQLite's header, and for one of 0 bytes, which is an empty database."""
    with _raw(path) as descriptor:
        head = os.pread(descriptor, 100, 0)
    return not head or (len(head) == 100 and head.startswith(_MAGIC))


def look(path: Path, scratch: Path) -> Look:
    """Open a file for reading, as it stands. What must be recovered first is copied into `scratch`."""
    path = path.resolve()
    for _ in range(_ATTEMPTS):
        before, standing = _stamp(path), stands(path)
        if standing == "live" and (connection := _open_live(path)) is not None:
            return Look(connection)
        if standing == "still":
            return Look(connect(path, _OURS), before)
        copy = scratch / f"recovered-{short_digest(os.fsencode(path))}.db"
        if _copy_unchanged(path, copy):
            _recover(copy)
            return Look(connect(copy, _OURS), before)
    raise _in_use(path)


def is_there(snapshot: Snapshot) -> bool:
    """Whether the copy that was taken is still whole."""
    path = Path(snapshot.spec["path"])
    return path.is_file() and path.stat().st_size == snapshot.spec["bytes"]


def open_snapshot(snapshot: Snapshot) -> sqlite3.Connection | None:
    """The copy that was taken, None if it is gone. It is nobody else's and finished, so it needs no locks."""
    return connect(Path(snapshot.spec["path"]), _OURS) if is_there(snapshot) else None


def open_fast(snapshot: Snapshot) -> FastRows | None:
    """The same for reading many rows, where the extra `fast` is installed."""
    try:
        from migrator.adapters.sql.fast import FastRows
    except ImportError:
        return None
    with suppress(UnknownTrouble):
        return FastRows(_uri(Path(snapshot.spec["path"]), _OURS))
    return None


def take_snapshot(path: Path, scratch: Path, limit: float, say: Callable[[str], None]) -> Snapshot:
    """Copy the one moment of a file that is now into `scratch`.

    In WAL mode nobody notices. In rollback-journal mode writers wait while the copy is made: ConfigError if that would take, or
    takes, more than `limit` seconds. An earlier snapshot in `scratch` is replaced.
    """
    path = path.resolve()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    size = sum(side.stat().st_size for side in _with_sides(path))
    _check_space(path, scratch, size)
    if size >= _SLOW_BYTES:
        say(f"taking a snapshot of {path.name}, {size_words(size)}")
    part = scratch / "snapshot.partial"
    for _ in range(_ATTEMPTS):
        _remove(part)
        moment = _take(path, part, limit)
        if moment is not None:
            break
    else:
        raise _in_use(path)
    _recover(part)
    final = scratch / "snapshot.db"
    with part.open("rb+") as copy:
        os.fsync(copy.fileno())
    part.replace(final)
    words = moment.isoformat(timespec="milliseconds")
    name = short_digest(f"{path} {words}".encode())
    return Snapshot(
        name, words, f"snapshot of {path} taken at {words}", {"path": str(final), "bytes": final.stat().st_size}
    )


def _take(path: Path, part: Path, limit: float) -> datetime | None:
    """The moment that `part` now holds, or None if the file changed under a plain copy."""
    if stands(path) == "live":
        if not _is_wal(path) and (expected := _seconds_to_copy(path, part)) > limit:
            raise _too_slow(path, expected, limit)
        with _raw(path) as descriptor:
            if (connection := _open_live(path)) is not None:
                with closing(connection):
                    return _hold_and_copy(connection, descriptor, path, part, limit)
    moment = datetime.now(UTC)
    return moment if _copy_unchanged(path, part) else None


def _hold_and_copy(source: sqlite3.Connection, descriptor: int, path: Path, part: Path, limit: float) -> datetime:
    """Copy the moment that a read transaction keeps.

    It is begun by us, for SQLite's online backup itself waits for a lock without end. In rollback-journal mode nobody writes to a file that is being read
    (https://www.sqlite.org/lockingv3.html): its bytes are copied as they are, which holds writers up for a quarter of the time that a backup page by page takes.
    """
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    moment, began, size = datetime.now(UTC), time.monotonic(), os.fstat(descriptor).st_size

    def check(copied: int) -> None:
        seconds = time.monotonic() - began
        if copied < size and seconds > limit:
            raise _too_slow(path, seconds * size / copied, limit)

    try:
        if _says_wal(descriptor):
            _back_up(source, part)
        else:
            _copy_bytes(descriptor, part, check)
    except ConfigError:
        _remove(part)
        raise
    finally:
        source.execute("ROLLBACK")
    return moment


def _back_up(source: sqlite3.Connection, part: Path) -> None:
    """SQLite's online backup; within a transaction it goes in steps without starting again."""
    _make_private(part)
    with closing(connect(part, "mode=rw")) as copy:
        copy.execute("PRAGMA journal_mode=OFF")
        copy.execute("PRAGMA synchronous=OFF")  # synced once, when no lock is held any more
        source.backup(copy, pages=_STEP_PAGES)


def _seconds_to_copy(path: Path, part: Path) -> float:
    """How long the copy would take, measured on a sample: spots all over the file."""
    with _raw(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if not size:
            return 0.0
        spots = 8 if size > _SAMPLE else 1
        length = min(size, _SAMPLE) // spots
        _make_private(part)
        target = os.open(part, os.O_WRONLY)
        began = time.monotonic()
        try:
            for spot in range(spots):
                os.write(target, os.pread(descriptor, length, (size - length) * spot // max(1, spots - 1)))
            seconds = time.monotonic() - began
        finally:
            os.close(target)
            _remove(part)
    return seconds * size / (length * spots)


# How a file stands -----------------------------------------------------------------------------------------------------


def stands(path: Path) -> Standing:
    """How a file can be read, see above."""
    if not _is_wal(path):
        return "live"  # whether its journal is hot, SQLite says when it reads
    if _side(path, "-wal").exists():
        return "live" if _side(path, "-shm").exists() else "unclean"
    return "still"


def _open_live(path: Path) -> sqlite3.Connection | None:
    """A read-only connection that has read something, or None if the file cannot be read without changing something."""
    connection = connect(path, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as exc:
        connection.close()
        if exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return None
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _is_wal(path: Path) -> bool:
    with _raw(path) as descriptor:
        return _says_wal(descriptor)


def _says_wal(descriptor: int) -> bool:
    return os.pread(descriptor, 2, 18) == b"\x02\x02"


def _side(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _with_sides(path: Path) -> list[Path]:
    """The file, and those beside it that hold data of it."""
    return [path, *(side for side in (_side(path, "-wal"), _side(path, "-journal")) if side.exists())]


def _stamp(path: Path) -> tuple[object, ...]:
    """Equal as long as neither the file nor one beside it has changed, come or gone."""
    stamps: list[object] = []
    for each in (path, _side(path, "-wal"), _side(path, "-journal")):
        with suppress(FileNotFoundError):
            found = each.stat()
            stamps.append((each.name, found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(stamps)


@contextmanager
def _raw(path: Path) -> Iterator[int]:
    """A descriptor for reading a file past SQLite.

    Closing any descriptor of a file drops every POSIX lock that the process holds on it, SQLite's too
    (https://www.sqlite.org/howtocorrupt.html, 2.2): while something else here has the file open, ours stays open.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        if not _is_open_elsewhere(descriptor):
            os.close(descriptor)


def _is_open_elsewhere(descriptor: int) -> bool:
    ours = os.fstat(descriptor)
    try:
        others = [int(name) for name in os.listdir("/dev/fd") if int(name) != descriptor]  # noqa: PTH208
    except OSError:
        return False
    for other in others:
        with suppress(OSError):
            if os.path.samestat(ours, os.fstat(other)):
                return True
    return False


# Copies ----------------------------------------------------------------------------------------------------------------


def _copy_unchanged(path: Path, target: Path) -> bool:
    """Copy a file with those beside it; False if one of them changed meanwhile, and the copy is worth nothing."""
    before = _stamp(path)
    _remove(target)
    try:
        for each in _with_sides(path):
            with _raw(each) as descriptor:
                _copy_bytes(descriptor, target.with_name(target.name + each.name.removeprefix(path.name)))
    except FileNotFoundError:
        return False
    return _stamp(path) == before


def _copy_bytes(descriptor: int, target: Path, check: Callable[[int], None] = lambda copied: None) -> None:
    """Copy a file as it is; `check` is told after each piece how many bytes are there."""
    _make_private(target)
    with target.open("rb+") as out:
        offset = 0
        while chunk := os.pread(descriptor, _CHUNK, offset):
            out.write(chunk)
            offset += len(chunk)
            check(offset)


def _recover(copy: Path) -> None:
    """Let SQLite make one plain file of a copy and the files beside it."""
    with closing(connect(copy, "mode=rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("PRAGMA journal_mode=DELETE")


def _make_private(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        _side(path, suffix).unlink(missing_ok=True)


def _check_space(path: Path, scratch: Path, size: int) -> None:
    free = shutil.disk_usage(scratch).free
    needed = size + _CHUNK
    if free < needed:
        raise ConfigError(
            f"{path}: a snapshot needs {size_words(needed)} to be safe, and {scratch} has {size_words(free)} free: "
            "make room, or choose another folder with --state"
        )


def _too_slow(path: Path, seconds: float, limit: float) -> ConfigError:
    return ConfigError(
        f"{path} is in rollback-journal mode: a snapshot would hold its writers up for about {seconds:.1f} s, and may for "
        f"{limit:g} s (--snapshot-limit). Nothing was touched. Either switch it to WAL mode, once, in which nobody has to wait: "
        f"sqlite3 '{path}' 'PRAGMA journal_mode=WAL;' "
        f"or stop the application and run again with --snapshot-limit {max(1, round(seconds * 3))}"
    )


def _in_use(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} changes while it is copied, and it cannot be read in place without touching it. "
        "Stop the application, or run as a user who may write in its folder"
    )


def size_words(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
