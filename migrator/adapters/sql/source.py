"""Reads the tables of an SQL database, from a snapshot, and as a run looks at the place it would write to.

Knows connections and partitions. Leaves tables and statements to `dialect`, the rows of a table to `rows`, what a column means to
the layout, and how a SQLite file lies on disk to `snapshot`. A store opened here belongs to the thread that uses it first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from migrator.adapters.base import Reader, Setting, Source, rejected
from migrator.adapters.sql import snapshot as files
from migrator.adapters.sql.dialect import DIALECTS, Connection, Dialect, Key, Table
from migrator.adapters.sql.errors import sorted_errors
from migrator.adapters.sql.rows import Finder, Rows, size_of
from migrator.errors import ConfigError, RecordError, StoreError
from migrator.layout import Layout, encode_or_null
from migrator.model import (
    Address,
    Alike,
    Cursor,
    Found,
    Holdings,
    Page,
    Partition,
    Record,
    Reject,
    Row,
    Snapshot,
    Weight,
    counted,
)
from migrator.places import Place, json_text
from migrator.values import Value, is_unicode

if TYPE_CHECKING:
    from migrator.adapters.sql.fast import FastRows

_PARTITION_ROWS = 10_000
_SIGNATURES = 1_000  # combinations of types in a table's rows that are remembered


class SqlSource(Source):
    """Reads from the snapshot of a file. Several may be open on one snapshot."""

    loses = frozenset({"absent", "origins"})
    repeats_by_part = False

    def __init__(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> None:
        super().__init__(setting)
        self.path, self.text = Path(address.name), address.text
        self.dialect = DIALECTS[address.scheme]()
        self._snapshot = snapshot
        self._look: files.Look | None = None
        self._fast: FastRows | None = None
        self._tables: dict[str, Table | None] = {}
        self._schema = -1
        self._counts: dict[str, int] = {}

    def snapshot(self) -> Snapshot:
        self._counts = {}
        with sorted_errors(f"{self.text}, taking a snapshot"):
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
        with sorted_errors(f"{self.text}, planning"):
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
        last, more, rows = tuple(after or spec["after"]), True, None
        while more:
            # A page is one short statement: on a file in use it holds a lock no longer than that.
            with sorted_errors(f"{self.text}, reading"):
                at = self._table(spec["kind"])
                if at is None:
                    return
                if rows is None or (rows.connection, rows.table) != at:
                    rows = Rows(at[0], self.dialect, at[1], self.setting, self._opened_fast())
                page, more = rows.page(last, tuple(spec["upto"]))
            last = tuple(page.cursor)
            if page.count or page.rejects:
                yield page

    def holds(self, kinds: Sequence[str]) -> Holdings:
        with sorted_errors(f"{self.text}, counting"):
            count = sum(self._count(kind) for kind in kinds)
        return Holdings(count > 0, counted(count))

    def size_hint(self) -> int | None:
        """As `Source`; before there is a snapshot as many as the file has kilobytes."""
        with sorted_errors(f"{self.text}, counting"):
            if self._snapshot is None:
                return self.path.stat().st_size // 1024
            return self._count_all()

    def repeated(self, kinds: Sequence[str], partition: Partition | None = None) -> Iterator[Row]:
        """As `Source`; one statement tells it of a whole table."""
        for kind in kinds:
            with sorted_errors(f"{self.text}, looking for duplicates"):
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
        with sorted_errors(f"{self.text}, reading"):
            at = self._table(kind)
        return at is None or at[1].guaranteed

    def ask(self, kind: str, wanted: Sequence[Record]) -> list[Found]:
        by = self.layout.kinds[kind].kind.asked
        assert by is not None
        with sorted_errors(f"{self.text}, asking"):
            at = self._table(kind)
            if at is None:
                return [Found() for _ in wanted]
            return Rows(at[0], self.dialect, at[1], self.setting).asked(by.by, wanted)

    def close(self) -> None:
        for opened in (self._fast, self._look.connection if self._look is not None else None):
            if opened is not None:
                opened.close()
        self._look, self._fast, self._schema = None, None, -1

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
        if kind not in self._counts:
            count = int(connection.execute(f"SELECT count(*) FROM {self.dialect.quote(table.name)}").fetchone()[0])
            if self._snapshot is None:
                return count
            self._counts[kind] = count  # for good
        return self._counts[kind]

    def _count_all(self) -> int:
        return sum(self._count(kind) for kind in self.setting.kinds)

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

    def _opened_fast(self) -> FastRows | None:
        if self._fast is None and self._snapshot is not None:
            self._fast = files.open_fast(self._snapshot)
        return self._fast

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
        borders += _borders(connection, table, dialect, count, -(-count // wanted))[: wanted - 1]
    kind = table.kind.kind.name
    return [
        Partition(f"{kind}/{i:03}", {"kind": kind, "after": list(start), "upto": list(end)})
        for i, (start, end) in enumerate(zip(borders, [*borders[1:], ()]))
    ]


def _borders(connection: Connection, table: Table, dialect: Dialect, count: int, step: int) -> list[Key]:
    """The row ids of each so many rows' last."""
    key, name = table.key[0], dialect.quote(table.name)
    least, most = (connection.execute(f"SELECT {end}({key}) FROM {name}").fetchone()[0] for end in ("min", "max"))
    if count == most - least + 1:  # none is missing: one need not walk to them
        return [(border,) for border in range(least + step - 1, most + 1, step)]
    find = f"SELECT {key} FROM {name} WHERE {key} >= ? ORDER BY {key} LIMIT 1 OFFSET ?"
    borders: list[Key] = []
    at = least, step - 1
    while (border := connection.execute(find, at).fetchone()) is not None:
        borders.append(border)
        at = *border, step
    return borders


class SqlReader(SqlSource, Reader):
    """Reads a file as it is, page by page, while others write. A file or a table that is not there is empty."""

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(address, setting)
        self._finders: dict[str, Finder] = {}
        self._targets: dict[str, Table] = {}
        self._ways: dict[tuple[str, ...], Way | None] = {}
        self._by_types: dict[tuple[object, ...], tuple[list[int], list[int]]] = {}

    def snapshot(self) -> Snapshot:
        return Snapshot("live", None, f"{self.text} as it is while it is read")

    def size_hint(self) -> int | None:
        with sorted_errors(f"{self.text}, counting"):
            return self._count_all()

    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        found: list[Row | None] = []
        with sorted_errors(f"{self.text}, fetching"):
            for kind, group in groupby(rows, key=lambda row: row.kind):
                at = self._table(kind)
                if at is None:
                    found += [None for _ in group]
                    continue
                finder, reader = self._finder(*at), Rows(at[0], self.dialect, at[1], self.setting)
                finder.catch_up()
                at[0].execute("BEGIN")  # one lock for all of them, held for a moment
                try:
                    found += [find_row(finder, reader, values_of(row, at[1], self.layout)) for row in group]
                finally:
                    at[0].execute("ROLLBACK")
        return found

    def fit(self, row: Row) -> Row | Reject:
        table = self._targets.get(row.kind) or self._target(row.kind)
        names = row.kind, *row.record
        way = self._ways.get(names) if row.origin is None else None
        try:
            if way is not None:
                fitted, values = row, way.values(row)
            else:
                fitted = self._fit_fields(row, table)
                values = table.values(self.layout.write(fitted))
                if fitted is row and row.origin is None and names not in self._ways and len(self._ways) < _SIGNATURES:
                    self._ways[names] = Way.of(row, table, self._takes_utf8())
            self._check(table, values)
        except RecordError as exc:
            return rejected(row, str(exc))
        fitted.encoded = table.names, values
        return fitted

    def fits_alike(self, rows: Alike) -> bool:
        signature, table = rows.signature, self._targets.get(rows.kind) or self._target(rows.kind)
        names = rows.kind, *signature.names
        if names not in self._ways:
            self.fit(rows[0])
        way = self._ways.get(names)
        if way is None:
            return False
        coded = {number for number, _ in way.coded}
        sorts = way.pick((*map(signature.type_of, signature.names), type(None)))
        return all(
            (number in way.said and sort is dict) if number in coded else self.dialect.takes_plain(column, sort)
            for number, (column, sort) in enumerate(zip(table.columns, sorts))
        )

    def fit_alike(self, rows: Alike) -> bool:
        way, table, nulls = self._ways[rows.kind, *rows.signature.names], self._targets[rows.kind], [None] * len(rows)
        assert way is not None
        columns = [*way.pick((*rows.columns, nulls))]
        for number, spot in way.coded:
            assert rows.texts is not None
            columns[number] = rows.texts[rows.signature.text(spot.field.name)]
        rows.encoded = Fitted(table.names, [*zip(*columns)])
        return True

    def would_fit_alike(self, rows: Alike) -> bool:
        return True

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

    def _check(self, table: Table, values: Sequence[Value]) -> None:
        for number in self._unsure(table, values):
            column, value = table.columns[number], values[number]
            problem = self.dialect.problem(column, value)
            if problem is None and type(value) is bytes and column.name in table.attributes - table.said:
                problem = f"{column.name} holds bytes"
            if problem is not None:
                raise RecordError(problem)

    def _unsure(self, table: Table, values: Sequence[Value]) -> Sequence[int]:
        """The columns whose values must be looked at: those of whose types some are refused, and all where a text might be no Unicode."""
        signature = (table.name, *map(type, values))
        known = self._by_types.get(signature)
        if known is None:
            sure = [
                self.dialect.takes_any(column, type(value)) or (column.name in table.said and type(value) is bytes)
                for column, value in zip(table.columns, values)
            ]
            texts = [number for number, value in enumerate(values) if type(value) is str]
            unsure = [number for number, is_sure in enumerate(sure) if not is_sure]
            known = texts, unsure
            if len(self._by_types) < _SIGNATURES:
                self._by_types[signature] = known
        texts, unsure = known
        together = "".join([values[number] for number in texts])
        return unsure if together.isascii() or is_unicode(together) else range(len(values))

    def _takes_utf8(self) -> bool:
        connection = self._connection()
        return connection is None or self.dialect.takes_utf8(connection)

    def _target(self, kind: str) -> Table:
        """The table as it is, or as `prepare` would make it. ConfigError if another schema's is in its place."""
        with sorted_errors(f"{self.text}, reading"):
            table = self._found(kind) or self.dialect.create(self.layout.kinds[kind])[0]
        must_fit(table, self.text)
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
        self._ways.clear()
        self._by_types.clear()


class Way(NamedTuple):
    """How the records with some fields go into the columns of a table: which value goes where, and what is encoded on its way.

    `said` are the columns whose JSON text goes there as bytes: a large text would else be decoded here, and encoded by the database again.
    """

    pick: Callable[[tuple[Value, ...]], tuple[Value, ...]]
    coded: tuple[tuple[int, Place], ...]
    said: frozenset[int] = frozenset()

    @staticmethod
    def of(row: Row, table: Table, takes_utf8: bool) -> Way | None:
        """Of a row that fits as it is. None where its fields do not tell."""
        layout, fields = table.kind, list(row.record)
        spots = {place.attribute: place for place in layout.places}
        if layout.keys or layout.index or layout.marks or layout.extra or len(table.names) < 2:
            return None
        if len(spots) < len(layout.places) or any(place.otherwise for place in layout.places):
            return None
        sources = [spots[name].field.name if name in spots else name for name in table.names]
        numbers = [fields.index(source) if source in row.record else len(fields) for source in sources]
        coded = [
            (n, spots[name]) for n, name in enumerate(table.names) if name in spots and spots[name].form != "native"
        ]
        said = {n for n, spot in coded if takes_utf8 and spot.attribute in table.said}
        return Way(itemgetter(*numbers), tuple(coded), frozenset(said))

    def values(self, row: Row) -> tuple[Value, ...]:
        picked = self.pick((*row.record.values(), None))
        if not self.coded:
            return picked
        values = list(picked)
        for number, spot in self.coded:
            if row.is_plain and number in self.said and (values[number] is not None or spot.says_null):
                values[number] = json_text(spot.field.name, values[number], True)
            else:
                values[number] = encode_or_null(spot, values[number], row.is_plain)
        return tuple(values)


class Fitted(Sequence[tuple[tuple[str, ...], tuple[Value, ...]]]):
    """What goes into these columns of many rows; of one it is what `Row.encoded` holds."""

    def __init__(self, names: tuple[str, ...], values: Sequence[tuple[Value, ...]]) -> None:
        self.names, self.values = names, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: Any) -> Any:
        return self.names, self.values[number]


def values_of(row: Row, table: Table, layout: Layout) -> tuple[Value, ...]:
    """What of a row goes into a table's columns; as `fit` has it, if that was for these columns."""
    names, values = row.encoded or (None, ())
    return values if names == table.names else table.values(layout.write(row))


def find_row(finder: Finder, rows: Rows, values: Sequence[Value]) -> Row | None:
    """What a table holds under the identity in these columns. What cannot be read as a record is given as it is: it differs."""
    key = finder.find(finder.table.identity_in(values))
    found = rows.at(key) if key is not None else None
    return Row(found.kind, found.held, None, found.place) if isinstance(found, Reject) else found


def must_fit(table: Table, where: str) -> None:
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
