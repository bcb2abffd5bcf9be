"""What a JSON file holds, from its beginning: whether it is one of ours at all, and which kinds or keys are in it.

Reads little of a large file. Raises ConfigError for what the first bytes tell. Leaves records to `rows`.
"""

from __future__ import annotations

import os
from pathlib import Path

from migrator.adapters.base import RECORD_BYTES
from migrator.adapters.jsonfile.rows import WANTED, is_line
from migrator.adapters.jsonfile.text import Broken, Scanner, parsed
from migrator.adapters.packing import GZIP, PLAIN, ZSTD, compression_of, next_line, opened
from migrator.errors import ConfigError, RecordError
from migrator.model import UNKNOWN_KIND, Record
from migrator.values import AROUND, Value

_LOOK_LINES, _LOOK_KEYS, _LOOK_BYTES = 1_000, 64, 8 << 20  # how much `describe` looks at


def check_beginning(path: Path, is_document: bool) -> None:
    """Raises ConfigError for what the first bytes tell: an empty file, the wrong compression, a byte order mark."""
    compression = compression_of(path)
    with path.open("rb") as raw:
        beginning = raw.read(4)
    if not beginning:
        if is_document or compression is not PLAIN:
            raise ConfigError(
                f"{path} holds nothing (0 bytes): it was never written to its end; take a whole copy of it"
            )
        return
    if not beginning.startswith(compression.magic):
        raise ConfigError(f"{path} is not {compression.name} data: name it without {compression.suffix}")
    if compression is PLAIN:
        for other in (GZIP, ZSTD):
            if beginning.startswith(other.magic):
                raise ConfigError(f"{path} is {other.name} data: name it {path.name}{other.suffix}")
    with opened(path) as file:
        beginning = file.read(3)
    if beginning.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path} starts with a byte order mark (byte 0, line 1): save it as UTF-8 without one")


def kinds_of(path: Path) -> list[str]:
    """The kinds of the first lines. Raises ConfigError if not one of them is a record."""
    kinds: dict[str, None] = {}
    is_ours, problem, at, number = False, "", 0, 0
    with opened(path) as file:
        while number < _LOOK_LINES and at < _LOOK_BYTES:
            line, size = next_line(file, RECORD_BYTES)
            if not size:
                break
            start, at, number = at, at + size, number + 1
            if line is None or line.isspace():
                continue
            try:
                held = parsed(line, around=AROUND)
            except (Broken, RecordError) as exc:
                offset, reason = (exc.offset, f"not JSON: {exc.reason}") if isinstance(exc, Broken) else (0, str(exc))
                problem = problem or f"{reason} (byte {start + offset}, line {number})"
                continue
            if not is_line(held):
                problem = problem or f"{WANTED} (byte {start}, line {number}); one document in a file is named .json"
                continue
            is_ours = True
            if held["kind"] != UNKNOWN_KIND and held.get("foreign") is not True:
                kinds[held["kind"]] = None
    if problem and not is_ours:
        raise ConfigError(f"{path}: no JSON Lines of records: {problem}")
    return list(kinds)


def arrays_of(path: Path) -> tuple[list[str], list[Record]]:
    """The names of the first arrays, and a few of the entries that are none: where each session is one, they are its identities."""
    others: dict[str, Value] = {}
    with opened(path) as file:
        scanner = Scanner(file, RECORD_BYTES)
        for found in scanner.items():
            value: Value = None
            if found.text is not None:
                try:
                    value = parsed(found.text, around=AROUND)
                except Broken as exc:
                    raise Broken(found.offset + exc.offset, exc.reason) from exc
                except RecordError:
                    pass  # reading rejects this one
            if found.position is None:
                others[found.key] = value
            if len(scanner.keys) >= _LOOK_KEYS or scanner.offset > _LOOK_BYTES:
                _check_end(path)
                break
        arrays = [key for key in scanner.keys if key not in others]
    return arrays, [{key: value} for key, value in others.items()]


def _check_end(path: Path) -> None:
    """Tells a truncated document that is too long to look through; of a compressed one only reading tells."""
    if compression_of(path) is not PLAIN:
        return
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        if not file.read().rstrip().endswith(b"}"):
            raise Broken(size, "the document is truncated")
