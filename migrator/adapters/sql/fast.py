"""Rows of a snapshot by a SQLite of its own, which gives them in half the time.

Comes with the extra `fast`: apsw, opened without a lock around each value that is read. It reads snapshots and nothing else: two SQLites in one process
do not see each other's locks on a file (https://www.sqlite.org/howtocorrupt.html, 2.2.1), and a snapshot needs none. Mends nothing: what is
large or no Unicode is said as sqlite3 says it, and whatever else is the matter is left to sqlite3 to meet. Leaves what is read to `rows`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice

import apsw

from migrator.adapters.sql.errors import UnknownTrouble
from migrator.values import Value

Fetch = Callable[[int], list[tuple[Value, ...]]]
"""The next rows of a statement, so many at the most."""


class FastRows:
    """A snapshot, opened once more, for the thread that opens it. Raises UnknownTrouble where that cannot be."""

    def __init__(self, uri: str) -> None:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOMUTEX
        try:
            self._connection = apsw.Connection(uri, flags=flags)
        except apsw.Error as exc:
            raise UnknownTrouble from exc

    @contextmanager
    def running(self, statement: str, values: Sequence[Value], longest: int) -> Iterator[Fetch]:
        """Run a statement while the block lasts. Raises sqlite3.DataError where a value is longer or no Unicode, else UnknownTrouble."""
        self._connection.limit(apsw.SQLITE_LIMIT_LENGTH, longest)
        try:
            with closing(self._connection.cursor()) as run:
                rows = run.execute(statement, values)
                yield lambda most: [*islice(rows, most)]
        except (apsw.TooBigError, UnicodeDecodeError) as exc:
            raise sqlite3.DataError from exc
        except (apsw.Error, TypeError, ValueError, OverflowError) as exc:
            raise UnknownTrouble from exc

    def close(self) -> None:
        self._connection.close()
