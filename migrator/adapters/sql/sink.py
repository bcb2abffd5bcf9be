"""Writes records into the tables of an SQL database.

Knows transactions, and how long an application may have to wait for one. Leaves tables and statements to `dialect`, the rows of a table
to `rows`, what a column means to the layout. A store opened here belongs to the thread that uses it first.
"""

from __future__ import annotations

import math
import os
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from migrator.adapters.base import Flushed, Reader, Setting, Sink, is_as_it_was, rejected
from migrator.adapters.sql import snapshot as files
from migrator.adapters.sql.dialect import DIALECTS, Connection, Table
from migrator.adapters.sql.errors import is_busy, sorted_errors
from migrator.adapters.sql.rows import Finder, Rows
from migrator.adapters.sql.source import Fitted, SqlReader, find_row, must_fit, values_of
from migrator.errors import ConfigError, StoreError
from migrator.model import (
    Address,
    Alike,
    Existing,
    Row,
    Traits,
)
from migrator.values import Value, short_digest

TRAITS = Traits(parallel=False, stretch=5)

_CACHE_KIB = 48 << 10  # of a file of our own: identities that come in any order are looked up all over its index
_PART_ROWS = 100  # rows between two looks at the clock


class _Pace:
    """Keeps write transactions short, and the lock free between them, so that no writer of the application waits 5 s (H46).

    A writer that waits looks for the lock every 100 ms at the latest. The lock is left alone at least as long as it was held, for a
    random time so that the two never fall into step, and once a second so long that such a writer must find it free.
    """

    ROWS, SECONDS = 500, 0.05
    OWN_ROWS = 10_000
    _LONG = 0.12

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.rows = self.OWN_ROWS if alone else self.ROWS
        self.seconds = math.inf if alone else self.SECONDS
        self._began = self._ended = self._last_long = time.monotonic()
        self._rest = 0.0

    def before(self) -> None:
        if self.alone:
            return
        free = time.monotonic() - self._ended
        rest = max(self._rest, self._LONG if time.monotonic() - self._last_long > 1 else 0)
        if free < rest:
            time.sleep(rest - free)
        if max(free, rest) >= self._LONG:
            self._last_long = time.monotonic()

    def begun(self) -> None:
        self._began = time.monotonic()

    def ended(self) -> None:
        self._ended = time.monotonic()
        self._rest = (self._ended - self._began) * random.uniform(1, 2)

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self._began >= self.seconds


class _Write(NamedTuple):
    """A row, what goes into the columns, and what it replaces, if that has been compared."""

    row: Row
    values: tuple[Value, ...]
    before: Row | None


class SqlSink(Sink):
    """Writes into a file, alone: SQLite has one writer. Every transaction that was committed is durable."""

    traits = TRAITS

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(setting)
        self.address, self.path, self.text = address, Path(address.name), address.text
        self.dialect = DIALECTS[address.scheme]()
        self._open: Connection | None = None
        self._stores: dict[str, tuple[Table, Finder, Rows]] = {}
        self._flushed = Flushed()
        self._pace = _Pace(alone=False)

    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        if self.path.exists():
            _must_be_writable(self.path, self.text)
        elif not create:
            raise ConfigError(f"{self.text} does not exist, and --no-create forbids to make it: run with --create")
        else:
            self._create_file()
        with sorted_errors(f"{self.text}, preparing"):
            connection = self._connection()
            statements: list[str] = []
            missing: list[str] = []
            for kind in kinds:
                table = self.dialect.table(connection, self.layout.kinds[kind])
                if table is None:
                    table, made = self.dialect.create(self.layout.kinds[kind])
                    statements += made
                    missing.append(table.name)
                must_fit(table, self.text)
            if missing and not create:
                names = ", ".join(missing)
                raise ConfigError(
                    f"{self.text} has no table {names}, and --no-create forbids to make it: run with --create"
                )
            if missing:
                with self._transaction():
                    for statement in statements:
                        connection.execute(statement)

    def discard(self) -> None:
        """A file that is there when a job begins anew may be in use by now, even if an earlier run made it."""
        self.close()
        self._marker.unlink(missing_ok=True)

    def begin(self, slice_name: str) -> None:
        self._roll_back()
        self._flushed = Flushed()

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        for kind, group in groupby(rows, key=attrgetter("kind")):
            some = list(group)
            encoded = [row.encoded or (None, ()) for row in some] if self._is_slice_whole(existing) else []
            names = encoded[0][0] if encoded else None
            if (
                names is None
                or any(each[0] is not names for each in encoded)
                or not self._is_written(kind, names, [values for _, values in encoded])
            ):
                self._write(((row, None) for row in some), existing)

    def upsert_alike(self, rows: Alike) -> None:
        fitted = rows.encoded
        if not (
            self._is_slice_whole(Existing.EMPTY)
            and isinstance(fitted, Fitted)
            and self._is_written(rows.kind, fitted.names, fitted.values)
        ):
            self.upsert(rows, Existing.EMPTY)

    def _is_written(self, kind: str, names: tuple[str, ...], many: Sequence[tuple[Value, ...]]) -> bool:
        """Write all of what goes into these columns at once, within the slice's transaction; False where each must be written by itself."""
        with sorted_errors(f"{self.text}, writing"):
            table, _, _ = self._store(kind)
            if not table.conflict or names != table.names:
                return False
            with self._slice_transaction(), suppress(sqlite3.IntegrityError, sqlite3.DataError):
                self._connection().executemany(self.dialect.upsert(table, True), many)
                return True
            self._must_be_in_transaction()  # one of them is refused
        return False

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        self._write(pairs, Existing.REPLACE)

    def remove(self, rows: Iterable[Row]) -> None:
        for kind, group in groupby(rows, key=lambda row: row.kind):
            with sorted_errors(f"{self.text}, deleting"):
                left = list(group)
                while left:
                    part, left = left[:_PART_ROWS], left[_PART_ROWS:]
                    self._remove_part(kind, part)

    def _remove_part(self, kind: str, part: Sequence[Row]) -> None:
        table, finder, rows = self._store(kind)
        finder.catch_up()
        changed: list[tuple[Row, Row]] = []
        with self._transaction():
            finder.catch_up()
            for row in part:
                values = values_of(row, table, self.layout)
                now = find_row(finder, rows, values)
                if now is not None and not is_as_it_was(row, now):
                    changed.append((row, now))
                elif now is not None and (key := finder.find(table.identity_in(values))) is not None:
                    self._connection().execute(self.dialect.delete(table), key)
        self._flushed.held += changed

    def _write(self, pairs: Iterable[tuple[Row, Row | None]], existing: Existing) -> None:
        for kind, group in groupby(pairs, key=lambda pair: pair[0].kind):
            with sorted_errors(f"{self.text}, writing"):
                table, layout = self._store(kind)[0], self.layout
                writes = [_Write(row, values_of(row, table, layout), before) for row, before in group]
                done = 0
                patience = time.monotonic() + files.BUSY_SECONDS
                while done < len(writes):
                    try:
                        done = self._write_some(kind, writes, done, existing)
                        patience = time.monotonic() + files.BUSY_SECONDS
                    except sqlite3.OperationalError as exc:
                        if self._is_slice_whole(existing) or not is_busy(exc) or time.monotonic() > patience:
                            raise

    def flush(self) -> Flushed:
        with sorted_errors(f"{self.text}, writing"):
            self._commit()
        flushed, self._flushed = self._flushed, Flushed()
        return flushed

    def reader(self) -> Reader:
        return SqlReader(self.address, self.setting)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            self._stores.clear()

    # Transactions

    def _write_some(self, kind: str, writes: Sequence[_Write], done: int, existing: Existing) -> int:
        """Write as many rows as one transaction may take; how far it came."""
        _, finder, _ = self._store(kind)
        finder.catch_up()  # the long way while no lock is held; inside the transaction only what came since
        last = min(len(writes), done + self._pace.rows)
        flushed = Flushed()
        with self._slice_transaction() if self._is_slice_whole(existing) else self._transaction():
            finder.catch_up()
            while done < last and not self._pace.is_over:
                part = writes[done : min(last, done + _PART_ROWS)]
                self._write_part(kind, part, existing, flushed)
                done += len(part)
        self._flushed.held += flushed.held
        self._flushed.rejects += flushed.rejects
        return done

    def _is_slice_whole(self, existing: Existing) -> bool:
        """Whether one transaction takes all of a slice: nobody else uses the file, and what is in it is never looked at meanwhile."""
        return self._pace.alone and existing is Existing.EMPTY

    @contextmanager
    def _slice_transaction(self) -> Iterator[None]:
        """All of the slice so far, durable when it is flushed: each commit rewrites much of an index. What fails takes all of the slice with it."""
        connection = self._connection()
        if not connection.in_transaction:
            connection.execute(f"PRAGMA busy_timeout={int(files.BUSY_SECONDS * 1000)}")
            connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._roll_back()
            raise

    def _commit(self) -> None:
        if self._open is not None and self._open.in_transaction:
            self._open.execute("COMMIT")

    def _roll_back(self) -> None:
        if self._open is not None and self._open.in_transaction:
            self._open.execute("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block, durable, or nothing.

        The lock is waited for while nothing is held. A commit that has to wait for readers gives up soon: while it waits, nobody else gets in.
        """
        connection = self._connection()
        self._commit()  # of a slice, as far as it is
        self._pace.before()
        connection.execute(f"PRAGMA busy_timeout={int(files.BUSY_SECONDS * 1000)}")
        connection.execute("BEGIN IMMEDIATE")
        self._pace.begun()
        try:
            yield
            connection.execute("PRAGMA busy_timeout=2000")
            connection.execute("COMMIT")
        finally:
            self._roll_back()
            self._pace.ended()

    def _write_part(self, kind: str, part: Sequence[_Write], existing: Existing, flushed: Flushed) -> None:
        table, _, _ = self._store(kind)
        connection = self._connection()
        if table.conflict and existing is not Existing.REFUSE and not any(each.before for each in part):
            try:
                connection.executemany(self.dialect.upsert(table, True), [each.values for each in part])
                return
            except (sqlite3.IntegrityError, sqlite3.DataError):
                self._must_be_in_transaction()  # one of them is refused: once more, one by one
        for each in part:
            try:
                there = self._changed(kind, each) or self._write_one(kind, each.values, existing)
            except (sqlite3.IntegrityError, sqlite3.DataError) as exc:
                self._must_be_in_transaction()
                flushed.rejects.append(rejected(each.row, f"the table {table.name} refuses it: {exc}"))
                continue
            if there is not None:
                flushed.held.append((each.row, there))

    def _changed(self, kind: str, write: _Write) -> Row | None:
        """What is there, if it is another than the one that is to be replaced."""
        if write.before is None:
            return None
        _, finder, rows = self._store(kind)
        now = find_row(finder, rows, write.values)
        return now if now is not None and not is_as_it_was(write.before, now) else None

    def _write_one(self, kind: str, values: tuple[Value, ...], existing: Existing) -> Row | None:
        """Write a record, or give what is there if that must stay."""
        table, finder, rows = self._store(kind)
        connection = self._connection()
        if table.conflict:
            done = connection.execute(self.dialect.upsert(table, existing is not Existing.REFUSE), values)
            return find_row(finder, rows, values) if existing is Existing.REFUSE and not done.rowcount else None
        if existing is Existing.REFUSE and (there := find_row(finder, rows, values)) is not None:
            return there
        key = finder.find(table.identity_in(values)) if existing is not Existing.REFUSE else None
        if key is None:
            connection.execute(self.dialect.insert(table), values)
        else:
            connection.execute(self.dialect.update(table), (*values, *key))
        return None

    def _must_be_in_transaction(self) -> None:
        if not self._connection().in_transaction:
            raise StoreError(
                f"{self.text}: a trigger or a constraint of a table ended our transaction; run again without it"
            )

    def _store(self, kind: str) -> tuple[Table, Finder, Rows]:
        if kind not in self._stores:
            connection = self._connection()
            self._commit()  # of a slice, as far as it is: looking at a table would roll it back
            table = self.dialect.table(connection, self.layout.kinds[kind])
            if table is None:
                raise StoreError(
                    f"{self.text}: the table {self.layout.kinds[kind].collections[0]} is gone; run again to make it"
                )
            must_fit(table, self.text)
            rows = Rows(connection, self.dialect, table, self.setting)
            self._stores[kind] = table, Finder(connection, self.dialect, table), rows
        return self._stores[kind]

    # File

    def _connection(self) -> Connection:
        if self._open is None:
            if not self.path.exists():
                raise StoreError(f"{self.text} is gone; run again with --restart to make it anew")
            self._pace = _Pace(alone=self._is_our_file())
            self._open = files.connect(self.path, "mode=rw")
            self._open.execute("PRAGMA synchronous=FULL")
            if self._pace.alone:
                self._open.execute(f"PRAGMA cache_size={-_CACHE_KIB}")
            else:
                self._open.execute("PRAGMA cache_spill=OFF")  # a spill would lock readers out before the commit
        return self._open

    @property
    def _marker(self) -> Path:
        return self.setting.scratch / f"created-{short_digest(os.fsencode(self.path.resolve()))}"

    def _create_file(self) -> None:
        if not self.path.parent.is_dir():
            raise ConfigError(
                f"{self.text}: there is no folder {self.path.parent}; make it first: mkdir -p '{self.path.parent}'"
            )
        try:
            self.setting.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.touch(0o600, exist_ok=False)  # it will hold people's chats
            found = self.path.stat()
            self._marker.write_text(f"{found.st_dev} {found.st_ino}")
        except OSError as exc:
            raise ConfigError(
                f"{self.text} cannot be made: {exc.strerror}; mend that, or choose another place"
            ) from exc

    def _is_our_file(self) -> bool:
        """True if this job made the file: nobody else uses it yet, so that transactions may be long. Workers and resumes see the mark."""
        found = self.path.stat()
        return self._marker.exists() and self._marker.read_text() == f"{found.st_dev} {found.st_ino}"


def _must_be_writable(path: Path, text: str) -> None:
    for each in (path, path.parent):
        if not os.access(each, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise ConfigError(
                f"{text} cannot be written: {each} is read-only for this user; change its permissions or choose another file"
            )
