"""Why a JSON file does not keep what an application saves: folder, rights, and whether LuminoraCore would take it for empty.

LuminoraCore reads its file once, takes one that it cannot parse for no sessions, and writes over it at its next save (fact sheet H40, H41).
Writes nothing.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from migrator.adapters.jsonfile.text import Broken, Scanner
from migrator.adapters.mending import no_folder, not_there_yet
from migrator.adapters.packing import line_at, opened
from migrator.model import Address, Finding, counted


def ladder(address: Address, largest: int) -> Iterator[Finding]:
    """The rungs up to the first that does not hold what is above it. `largest`: entries of more bytes are passed unread."""
    path = Path(os.path.realpath(address.name))
    folder, quoted = path.parent, shlex.quote(str(path))
    if not folder.is_dir():
        yield no_folder(folder)
        return
    if path.is_dir():
        yield Finding("file", "fault", f"{path} is a folder", f"rmdir {quoted}")
        return
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        yield Finding(
            "file",
            "fault",
            "no permission to read and write it",
            f"chmod u+rw {quoted} && chmod u+rwx {shlex.quote(str(folder))}",
        )
        return
    if not path.exists():
        yield not_there_yet(address)
        return
    if not path.is_file():
        yield Finding("file", "fault", f"{path} is no regular file", f"rm {quoted}")
        return
    yield Finding("file", "well", f"{path}, {path.stat().st_size:,} bytes")
    yield (
        _whole(path, largest)
        if address.scheme == "json" and path.suffix == ".json"
        else Finding("whole", "note", "no form of LuminoraCore's own: a copy")
    )


def _whole(path: Path, largest: int) -> Finding:
    aside = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.broken')}"
    lost = "LuminoraCore takes it for no sessions, and writes over it at its next save"
    entries = 0
    try:
        with opened(path) as file:
            if file.read(3) == b"\xef\xbb\xbf":
                return Finding(
                    "whole",
                    "fault",
                    f"it starts with a byte order mark: {lost}",
                    f"sed -i '1s/^\\xEF\\xBB\\xBF//' {shlex.quote(str(path))}",
                )
        with opened(path) as file:
            for found in Scanner(file, largest).items(whole=True):
                entries += 1
                if found.text is not None:
                    _judge(found.text, found.offset)
    except Broken as exc:
        if exc.reason.endswith("there twice"):
            return Finding("whole", "note", f"{exc.reason} (byte {exc.offset}): LuminoraCore reads the later one")
        line = 0
        with suppress(Broken, OSError):
            line = line_at(path, exc.offset)[1]
        return Finding("whole", "fault", f"not JSON: {exc.reason} (byte {exc.offset}, line {line}): {lost}", aside)
    return Finding("whole", "well", counted(entries, "session"))


def _judge(text: bytes, offset: int) -> None:
    """As Python's own json does, NaN and all; of bytes that are no UTF-8 too."""
    try:
        json.loads(text.decode())
    except json.JSONDecodeError as exc:
        raise Broken(offset + len(exc.doc[: exc.pos].encode()), exc.msg) from exc
    except UnicodeDecodeError as exc:
        raise Broken(offset + exc.start, "not UTF-8") from exc
    except (RecursionError, ValueError) as exc:
        raise Broken(offset, str(exc)) from exc
