"""SQLite's errors as ours, by what to do next."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from migrator.errors import StoreError, TransientStoreError


class UnknownTrouble(Exception):
    """Whoever was asked first cannot do it; sqlite3 will, or says what is the matter."""


@contextmanager
def sorted_errors(doing: str) -> Iterator[None]:
    """sqlite3's exceptions as ours."""
    try:
        yield
    except sqlite3.Error as exc:
        code = _code(exc)
        words = "text that is not UTF-8" if str(exc).startswith("Could not decode") else str(exc)
        if code in _BUSY:
            raise TransientStoreError(f"{doing}: somebody else holds the lock for too long: {words}") from exc
        step = _NEXT_STEPS.get(code, "run again to resume")
        raise StoreError(f"{doing}: {words}; {step}") from exc
    except OSError as exc:
        raise StoreError(f"{doing}: {exc.filename or ''}: {exc.strerror}; mend that and run again") from exc


def _code(exc: BaseException | None) -> int:
    """SQLite's primary result code; 0 for what Python's sqlite3 reports by itself."""
    return int(getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF


def is_busy(exc: sqlite3.Error) -> bool:
    return _code(exc) in _BUSY


_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_NEXT_STEPS = {
    sqlite3.SQLITE_FULL: "make room on the disk, then run again to resume",
    sqlite3.SQLITE_READONLY: "give this user the right to write the file and its folder, then run again to resume",
    sqlite3.SQLITE_PERM: "give this user the right to the file and its folder, then run again to resume",
    sqlite3.SQLITE_CANTOPEN: "look whether the file is still there and may be opened, then run again to resume",
    sqlite3.SQLITE_IOERR: "look after the disk, then run again to resume",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: save what can be saved with sqlite3's .recover",
    sqlite3.SQLITE_NOTADB: "the file is encrypted or damaged",
}
