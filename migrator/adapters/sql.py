"""Reads and writes the tables of an SQL database: SQLite so far.

Knows connections, partitions, transactions and SQLite's errors. Leaves tables and statements to `sql_dialect`, the rows of a table to
`sql_rows`, what a column means to the layout, and how a SQLite file lies on disk to `sqlite_snapshot`. A store opened here belongs to
the thread that uses it first.
"""

from __future__ import annotations

import math
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from migrator.adapters import sqlite_ladder
from migrator.adapters import sqlite_snapshot as files
from migrator.adapters.base import Flushed, Reader, Setting, Sink, Source, is_as_it_was, rejected
from migrator.adapters.sql_dialect import DIALECTS, Connection, Dialect, Key, Table
from migrator.adapters.sql_rows import Finder, Rows, size_of
from migrator.errors import ConfigError, RecordError, StoreError, TransientStoreError
from migrator.layout import Layout
from migrator.model import (
    Address,
    Cursor,
    Existing,
    Finding,
    Found,
    Holdings,
    Page,
    Partition,
    Record,
    Reject,
    Row,
    Shape,
    Snapshot,
    Traits,
    Weight,
    counted,
)
from migrator.values import short_digest

_PARTITION_ROWS = 10_000
_PART_ROWS = 100  # rows between two looks at the clock


# Reading ---------------------------------------------------------------------------------------------------------------


class SqlSource(Source):
    """Reads from the snapshot of a file. Several may be open on one snapshot."""

    loses = frozenset({"absent", "origins"})

    def __init__(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> None:
        super().__init__(setting)
        self.path, self.text = Path(address.name), address.text
        self.dialect = DIALECTS[address.scheme]()
        self._snapshot = snapshot
        self._look: files.Look | None = None
        self._tables: dict[str, Table | None] = {}
        self._schema = -1

    def snapshot(self) -> Snapshot:
        with _sorted_errors(f"{self.text}, taking a snapshot"):
            self._snapshot = files.take_snapshot(
                self.path, self.setting.scratch, self.setting.snapshot_limit, self.setting.say
            )
            misfits = [
                table for kind in self.setting.kinds if (table := self._found(kind)) is not None and table.misfit
            ]
        for table in misfits:
            self.setting.say(f"the table {table.name} is not read: {table.misfit}")
        return self._snapshot

    def is_still(self, snapshot: Snapshot) -> bool:
        """The file itself may have changed, or be gone: what counts is the copy."""
        return files.is_there(snapshot)

    def partitions(self, kinds: Sequence[str], wanted: int) -> list[Partition]:
        parts: list[Partition] = []
        with _sorted_errors(f"{self.text}, planning"):
            counts = {kind: self._count(kind) for kind in kinds}
            for kind, count in counts.items():
                at = self._table(kind)
                if at is None or not count:
                    continue
                share = max(1, min(round(wanted * count / sum(counts.values())), count // _PARTITION_ROWS))
                parts += _ranges(*at, self.dialect, count, share)
        return parts

    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        spec = partition.spec
        last, more = tuple(after or spec["after"]), True
        while more:
            # A page is one short statement: on a file in use it holds a lock no longer than that.
            with _sorted_errors(f"{self.text}, reading"):
                at = self._table(spec["kind"])
                if at is None:
                    return
                page, more = Rows(at[0], self.dialect, at[1], self.setting).page(last, tuple(spec["upto"]))
            last = tuple(page.cursor)
            if page.rows or page.rejects:
                yield page

    def holds(self, kinds: Sequence[str]) -> Holdings:
        with _sorted_errors(f"{self.text}, counting"):
            count = sum(self._count(kind) for kind in kinds)
        return Holdings(count > 0, counted(count))

    def size_hint(self) -> int | None:
        with _sorted_errors(f"{self.text}, counting"):
            return sum(self._count(kind) for kind in self.setting.kinds)

    def repeated(self, kinds: Sequence[str]) -> Iterator[Row]:
        for kind in kinds:
            with _sorted_errors(f"{self.text}, looking for duplicates"):
                at = self._table(kind)
                if at is None or at[1].guaranteed:
                    continue
                connection, table = at
                rows = Rows(connection, self.dialect, table, self.setting)
                for key in connection.execute(self.dialect.repeated(table)):
                    found = rows.at(key)
                    if isinstance(found, Row):
                        yield found

    def guarantees(self, kind: str) -> bool:
        with _sorted_errors(f"{self.text}, reading"):
            at = self._table(kind)
        return at is None or at[1].guaranteed

    def ask(self, kind: str, wanted: Sequence[Record]) -> list[Found]:
        by = self.layout.kinds[kind].kind.asked
        assert by is not None
        with _sorted_errors(f"{self.text}, asking"):
            at = self._table(kind)
            if at is None:
                return [Found() for _ in wanted]
            return Rows(at[0], self.dialect, at[1], self.setting).asked(by.by, wanted)

    def close(self) -> None:
        if self._look is not None:
            self._look.connection.close()
        self._look, self._schema = None, -1

    # Connection and tables

    def _table(self, kind: str) -> tuple[Connection, Table] | None:
        """The kind's table, with a connection to read it on; None if there is none, or it is another schema's."""
        table = self._found(kind)
        return (self._opened, table) if table is not None and not table.misfit else None

    def _count(self, kind: str) -> int:
        at = self._table(kind)
        if at is None:
            return 0
        connection, table = at
        return int(connection.execute(f"SELECT count(*) FROM {self.dialect.quote(table.name)}").fetchone()[0])

    def _found(self, kind: str) -> Table | None:
        """The table with the kind's name, whether it fits or not."""
        connection = self._connection()
        if connection is None or kind not in self.layout.kinds:
            return None
        (schema,) = connection.execute("PRAGMA schema_version").fetchone()
        if schema != self._schema:
            self._tables, self._schema = {}, schema
        if kind not in self._tables:
            self._tables[kind] = self.dialect.table(connection, self.layout.kinds[kind])
        return self._tables[kind]

    def _connection(self) -> Connection | None:
        """A connection to what is read; None while there is no file."""
        if self._look is None:
            if self._snapshot is None:
                raise StoreError(f"{self.text}: no snapshot was taken")
            connection = files.open_snapshot(self._snapshot)
            if connection is None:
                raise StoreError(
                    f"{self._snapshot.spec['path']}, the {self._snapshot.words}, is gone: start anew with --restart"
                )
            self._open(files.Look(connection))
        return self._opened

    @property
    def _opened(self) -> Connection:
        assert self._look is not None
        return self._look.connection

    def _open(self, look: files.Look) -> None:
        self._look = look
        # Larger values are not even loaded; the schema's own text must still pass.
        look.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(self.setting.record_bytes, 1 << 20))


def _ranges(connection: Connection, table: Table, dialect: Dialect, count: int, wanted: int) -> list[Partition]:
    """Key ranges of about equally many rows. The last is open: what comes later belongs to it."""
    borders: list[Key] = [()]
    if table.keyed_by_row_id and wanted > 1:
        key, name = table.key[0], dialect.quote(table.name)
        step = -(-count // wanted)
        find = f"SELECT {key} FROM {name} WHERE {key} > ? ORDER BY {key} LIMIT 1 OFFSET {step - 1}"
        border = connection.execute(f"SELECT min({key}) - 1 FROM {name}").fetchone()
        while len(borders) < wanted and (border := connection.execute(find, border).fetchone()) is not None:
            borders.append(border)
    kind = table.kind.kind.name
    return [
        Partition(f"{kind}/{i:03}", {"kind": kind, "after": list(start), "upto": list(end)})
        for i, (start, end) in enumerate(zip(borders, [*borders[1:], ()]))
    ]


class SqlReader(SqlSource, Reader):
    """Reads a file as it is, page by page, while others write. A file or a table that is not there is empty."""

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(address, setting)
        self._finders: dict[str, Finder] = {}
        self._targets: dict[str, Table] = {}

    def snapshot(self) -> Snapshot:
        return Snapshot("live", None, f"{self.text} as it is while it is read")

    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        found: list[Row | None] = []
        with _sorted_errors(f"{self.text}, fetching"):
            for kind, group in groupby(rows, key=lambda row: row.kind):
                at = self._table(kind)
                if at is None:
                    found += [None for _ in group]
                    continue
                finder, reader = self._finder(*at), Rows(at[0], self.dialect, at[1], self.setting)
                finder.catch_up()
                at[0].execute("BEGIN")  # one lock for all of them, held for a moment
                try:
                    found += [_find(finder, reader, self.layout.write(row)) for row in group]
                finally:
                    at[0].execute("ROLLBACK")
        return found

    def fit(self, row: Row) -> Row | Reject:
        table = self._targets.get(row.kind) or self._target(row.kind)
        try:
            fitted = self._fit_fields(row, table)
            self._check(table, self.layout.write(fitted))
        except RecordError as exc:
            return rejected(row, str(exc))
        return fitted

    def weigh(self, row: Row) -> Weight:
        return Weight(size_of(row.record.values()))

    def _fit_fields(self, row: Row, table: Table) -> Row:
        """What the layout leaves of the row, and the unknown fields that this very table has columns for."""
        if row.record.keys() <= table.fields:
            return self.layout.fit(row, self.setting.unknown_fields)
        # NULL and absent are one here, so an unknown field that is NULL needs no column.
        record = {name: value for name, value in row.record.items() if value is not None or name in table.fields}
        own = (table.by_name.keys() - table.attributes) & (record.keys() - table.fields)
        rest = {name: value for name, value in record.items() if name not in own}
        fitted = self.layout.fit(replace(row, record=rest), self.setting.unknown_fields)
        return replace(fitted, record=fitted.record | {name: record[name] for name in own})

    def _check(self, table: Table, held: Record) -> None:
        for column in table.columns:
            value = held.get(column.name)
            problem = self.dialect.problem(column, value)
            if problem is None and type(value) is bytes and column.name in table.attributes:
                problem = f"{column.name} holds bytes"
            if problem is not None:
                raise RecordError(problem)

    def _target(self, kind: str) -> Table:
        """The table as it is, or as `prepare` would make it. ConfigError if another schema's is in its place."""
        with _sorted_errors(f"{self.text}, reading"):
            table = self._found(kind) or self.dialect.create(self.layout.kinds[kind])[0]
        _must_fit(table, self.text)
        self._targets[kind] = table
        return table

    def _finder(self, connection: Connection, table: Table) -> Finder:
        kind = table.kind.kind.name
        if (
            kind not in self._finders
            or self._finders[kind].table is not table
            or self._finders[kind].connection is not connection
        ):
            self._finders[kind] = Finder(connection, self.dialect, table)
        return self._finders[kind]

    def _connection(self) -> Connection | None:
        if self._look is not None and self._look.is_stale(self.path):
            self.close()
        if self._look is None and self.path.exists():
            self._open(files.look(self.path, self.setting.scratch))
        return self._opened if self._look is not None else None

    def close(self) -> None:
        super().close()
        self._finders.clear()
        self._targets.clear()


def _find(finder: Finder, rows: Rows, held: Record) -> Row | None:
    """What a table holds under the identity of these attributes. What cannot be read as a record is given as it is: it differs."""
    key = finder.find(finder.table.identity_values(held))
    found = rows.at(key) if key is not None else None
    return Row(found.kind, found.held, None, found.place) if isinstance(found, Reject) else found


def _must_fit(table: Table, where: str) -> None:
    kind = table.kind.kind.name
    if table.misfit:
        raise ConfigError(
            f"{where}: the table {table.name} is not one for {kind} records: {table.misfit}. "
            "Choose another file, or leave this kind out with --kinds"
        )
    if not table.indexed and not table.keyed_by_row_id:
        raise ConfigError(
            f"{where}: the table {table.name} has neither row ids nor an index by which a {kind} is found: make one, "
            f"CREATE INDEX found_by_migrator ON {table.name} ({', '.join(table.identity)})"
        )


# Writing ---------------------------------------------------------------------------------------------------------------


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
    """A row, its columns, and what it replaces, if that has been compared."""

    row: Row
    held: Record
    before: Row | None


class SqlSink(Sink):
    """Writes into a file, alone: SQLite has one writer. Every transaction that was committed is durable."""

    traits = Traits(parallel=False)

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
        with _sorted_errors(f"{self.text}, preparing"):
            connection = self._connection()
            statements: list[str] = []
            missing: list[str] = []
            for kind in kinds:
                table = self.dialect.table(connection, self.layout.kinds[kind])
                if table is None:
                    table, made = self.dialect.create(self.layout.kinds[kind])
                    statements += made
                    missing.append(table.name)
                _must_fit(table, self.text)
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
        self._flushed = Flushed()

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        self._write(((row, None) for row in rows), existing)

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        self._write(pairs, Existing.REPLACE)

    def remove(self, rows: Iterable[Row]) -> None:
        for kind, group in groupby(rows, key=lambda row: row.kind):
            with _sorted_errors(f"{self.text}, deleting"):
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
                held = self.layout.write(row)
                now = _find(finder, rows, held)
                if now is not None and not is_as_it_was(row, now):
                    changed.append((row, now))
                elif now is not None and (key := finder.find(table.identity_values(held))) is not None:
                    self._connection().execute(self.dialect.delete(table), key)
        self._flushed.held += changed

    def _write(self, pairs: Iterable[tuple[Row, Row | None]], existing: Existing) -> None:
        for kind, group in groupby(pairs, key=lambda pair: pair[0].kind):
            with _sorted_errors(f"{self.text}, writing"):
                writes = [_Write(row, self.layout.write(row), before) for row, before in group]
                done = 0
                patience = time.monotonic() + files.BUSY_SECONDS
                while done < len(writes):
                    try:
                        done = self._write_some(kind, writes, done, existing)
                        patience = time.monotonic() + files.BUSY_SECONDS
                    except sqlite3.OperationalError as exc:
                        if not _is_busy(exc) or time.monotonic() > patience:
                            raise

    def flush(self) -> Flushed:
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
        with self._transaction():
            finder.catch_up()
            while done < last and not self._pace.is_over:
                part = writes[done : min(last, done + _PART_ROWS)]
                self._write_part(kind, part, existing, flushed)
                done += len(part)
        self._flushed.held += flushed.held
        self._flushed.rejects += flushed.rejects
        return done

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block, durable, or nothing.

        The lock is waited for while nothing is held. A commit that has to wait for readers gives up soon: while it waits, nobody else gets in.
        """
        connection = self._connection()
        self._pace.before()
        connection.execute(f"PRAGMA busy_timeout={int(files.BUSY_SECONDS * 1000)}")
        connection.execute("BEGIN IMMEDIATE")
        self._pace.begun()
        try:
            yield
            connection.execute("PRAGMA busy_timeout=2000")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._pace.ended()

    def _write_part(self, kind: str, part: Sequence[_Write], existing: Existing, flushed: Flushed) -> None:
        table, _, _ = self._store(kind)
        connection = self._connection()
        if table.conflict and existing is not Existing.REFUSE and not any(each.before for each in part):
            try:
                connection.executemany(self.dialect.upsert(table, True), [table.values(each.held) for each in part])
                return
            except (sqlite3.IntegrityError, sqlite3.DataError):
                self._must_be_in_transaction()  # one of them is refused: once more, one by one
        for each in part:
            try:
                there = self._changed(kind, each) or self._write_one(kind, each.held, existing)
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
        now = _find(finder, rows, write.held)
        return now if now is not None and not is_as_it_was(write.before, now) else None

    def _write_one(self, kind: str, held: Record, existing: Existing) -> Row | None:
        """Write a record, or give what is there if that must stay."""
        table, finder, rows = self._store(kind)
        connection, values = self._connection(), table.values(held)
        if table.conflict:
            done = connection.execute(self.dialect.upsert(table, existing is not Existing.REFUSE), values)
            return _find(finder, rows, held) if existing is Existing.REFUSE and not done.rowcount else None
        if existing is Existing.REFUSE and (there := _find(finder, rows, held)) is not None:
            return there
        key = finder.find(table.identity_values(held)) if existing is not Existing.REFUSE else None
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
            table = self.dialect.table(connection, self.layout.kinds[kind])
            if table is None:
                raise StoreError(
                    f"{self.text}: the table {self.layout.kinds[kind].collections[0]} is gone; run again to make it"
                )
            _must_fit(table, self.text)
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
            if not self._pace.alone:
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


# Errors ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _sorted_errors(doing: str) -> Iterator[None]:
    """sqlite3's exceptions, its own or wrapped by SQLAlchemy, as ours."""
    try:
        yield
    except (sqlite3.Error, sa.exc.DBAPIError) as exc:
        cause = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
        code = _code(cause)
        words = "text that is not UTF-8" if str(cause).startswith("Could not decode") else str(cause)
        if code in _BUSY:
            raise TransientStoreError(f"{doing}: somebody else holds the lock for too long: {words}") from exc
        step = _NEXT_STEPS.get(code, "run again to resume")
        raise StoreError(f"{doing}: {words}; {step}") from exc
    except OSError as exc:
        raise StoreError(f"{doing}: {exc.filename or ''}: {exc.strerror}; mend that and run again") from exc


def _code(exc: BaseException | None) -> int:
    """SQLite's primary result code; 0 for what Python's sqlite3 reports by itself."""
    return int(getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF


def _is_busy(exc: sqlite3.Error) -> bool:
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


# Adapter ---------------------------------------------------------------------------------------------------------------


class SqlAdapter:
    """SQL databases, by the scheme of the address."""

    traits = Traits(parallel=False)

    def describe(self, address: Address) -> Shape | None:
        path, words = Path(address.name), f"SQLite file {address.name}"
        if not path.exists():
            return None
        _must_be_readable(path)
        try:
            with (
                tempfile.TemporaryDirectory() as scratch,
                _sorted_errors(words),
                closing(files.look(path, Path(scratch)).connection) as connection,
            ):
                return Shape("sql", words, DIALECTS[address.scheme]().tables(connection))
        except TransientStoreError:
            raise
        except StoreError as exc:
            raise ConfigError(f"{exc}. Nothing was touched") from exc

    def check(self, layout: Layout) -> None:
        for name, kind in layout.kinds.items():
            for dialect in dict.fromkeys(DIALECTS.values()):
                try:
                    dialect().create(kind)
                except sqlite3.Error as exc:
                    raise ConfigError(
                        f"[layouts.{layout.id}.{name}]: the table cannot be made: {exc}; mend the mapping there"
                    ) from exc

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        return sqlite_ladder.ladder(address, layout)

    def whereabouts(self, address: Address) -> str:
        return str(Path(address.name).absolute())

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> Source:
        return SqlSource(address, setting, snapshot)

    def reader(self, address: Address, setting: Setting) -> Reader:
        return SqlReader(address, setting)

    def sink(self, address: Address, setting: Setting) -> Sink:
        return SqlSink(address, setting)


def _must_be_readable(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}, not a SQLite file: name the file itself"
        )
    try:
        is_sqlite = files.looks_like_sqlite(path)
    except OSError as exc:
        raise ConfigError(
            f"{path} may not be read by this user ({exc.strerror}): change its permissions, or run as its owner"
        ) from exc
    if not is_sqlite:
        raise ConfigError(f"{path} is not a SQLite database, or is encrypted: name another file, or decrypt it first")


ADAPTER = SqlAdapter()
