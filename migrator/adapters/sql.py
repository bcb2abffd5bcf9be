"""Reads and writes the tables of an SQL database: SQLite so far.

Knows SQLAlchemy, tables, row ids, unique indexes and transactions; what differs between databases is a Dialect. Leaves what a
column means to the layout, and how a SQLite file lies on disk to `sqlite_snapshot`. A store opened here belongs to the
thread that uses it first.

To add a database: a subclass of Dialect, and its scheme in `_DIALECTS`.
"""

from __future__ import annotations

import math
import os
import random
import sqlite3
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql import ClauseElement, ColumnElement

from migrator.adapters import sqlite_snapshot as files
from migrator.adapters.base import PAGE_BYTES, PAGE_ROWS, Flushed, Reader, Setting, Sink, Source
from migrator.errors import ConfigError, RecordError, StoreError, TransientStoreError
from migrator.layout import KindLayout
from migrator.model import (
    Address,
    Cursor,
    Existing,
    Holdings,
    Identity,
    Page,
    Partition,
    Record,
    Reject,
    Row,
    Shape,
    Snapshot,
    Traits,
    Weight,
)
from migrator.values import Value, by_value, short_digest, to_json

Connection = sqlite3.Connection
Key = tuple[Value, ...]
"""What tells a row of a table from the others, and orders them: its row id, or its primary key."""

Affinity = Literal["text", "integer", "real", "numeric", "none"]

_PARTITION_ROWS = 10_000
_INDEX_STEP = 20_000  # rows read in one go while the index of identities is built: a lock is held that long
_PART_ROWS = 100  # rows between two looks at the clock


# Tables ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. required: it may not be NULL. given: the database fills it in when it is not named."""

    name: str
    affinity: Affinity
    required: bool
    given: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table, as far as it tells rows apart: compares bytes, and leaves no row out."""

    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True, eq=False)
class Table:
    """The table in which a kind lives.

    columns: all that are read and written. key: see Key. guaranteed: no two rows share an identity. conflict: it is so by a unique
    index over exactly the identity, which an upsert can name; "own" is ours, that takes NULL as a value. indexed: a row can be
    found by its identity without reading all. misfit: why LuminoraCore could not keep this kind here, so that the table must be another's.
    """

    name: str
    kind: KindLayout
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    keyed_by_row_id: bool = True
    guaranteed: bool = False
    conflict: Literal["own", "plain"] | None = None
    indexed: bool = False
    misfit: str | None = None
    names: tuple[str, ...] = field(init=False)
    identity: tuple[str, ...] = field(init=False)
    by_name: Mapping[str, Column] = field(init=False)
    fields: frozenset[str] = field(init=False)
    attributes: frozenset[str] = field(init=False)
    statements: dict[object, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        attributes = {place.field.name: place.attribute for place in self.kind.places}
        object.__setattr__(self, "names", tuple(column.name for column in self.columns))
        object.__setattr__(self, "identity", tuple(attributes[name] for name in self.kind.kind.identity))
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})
        object.__setattr__(self, "fields", frozenset(attributes))
        object.__setattr__(self, "attributes", frozenset(attributes.values()))
        object.__setattr__(self, "statements", {})

    def place(self, key: Key) -> str:
        return f"{self.name}:{key[0] if self.keyed_by_row_id else to_json(list(key)).decode()}"

    def values(self, held: Record) -> tuple[Value, ...]:
        """What goes into every column: a row is written whole, so what the record lacks is NULL."""
        return tuple([held.get(name) for name in self.names])

    def identity_values(self, held: Record) -> tuple[Value, ...]:
        return tuple([held.get(name) for name in self.identity])


_P = ParamSpec("_P")
_Compile = Callable[Concatenate["Dialect", Table, _P], str]


def _once(compile_it: _Compile[_P]) -> _Compile[_P]:
    """Keep a table's statement: to compile it takes longer than to run it."""

    @wraps(compile_it)
    def kept(self: Dialect, table: Table, /, *args: _P.args, **options: _P.kwargs) -> str:
        which = (compile_it.__name__, args, *options.values())
        if which not in table.statements:
            table.statements[which] = compile_it(self, table, *args, **options)
        return table.statements[which]

    return kept


class Dialect(ABC):
    """What differs between databases: types, NULL in comparisons and indexes, upserts, DDL. Statements are compiled once and run on tuples."""

    sa_dialect: sa.Dialect

    @abstractmethod
    def tables(self, connection: Connection) -> dict[str, tuple[str, ...]]:
        """The columns of every table."""

    @abstractmethod
    def table(self, connection: Connection, kind: KindLayout) -> Table | None:
        """The kind's table (the first of its collections) as it is, or None."""

    @abstractmethod
    def same(self, column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
        """Equal to the byte, and NULL equal to NULL."""

    @abstractmethod
    def null_as_value(self, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """An expression that is equal for equal values, and for NULL and NULL; what our own indexes hold of a column that may be NULL."""

    @abstractmethod
    def create(self, kind: KindLayout) -> tuple[Table, list[str]]:
        """The table that we make for a kind, and the statements that make it.

        Where the application's own constraint does not keep identities apart, an index of ours does, for which NULL is a value.
        """

    @abstractmethod
    def upserting(self, table: Table, replace: bool) -> ClauseElement:
        """INSERT of all columns that, where the identity is taken, replaces the row or does nothing. For tables with `conflict`."""

    @abstractmethod
    def problem(self, column: Column, value: Value) -> str | None:
        """Why a column would not give this value back, or None."""

    # The rest is the same everywhere.

    def text(self, statement: ClauseElement, *parameters: str) -> str:
        """The statement for the driver, which takes its parameters in this order."""
        compiled = statement.compile(dialect=self.sa_dialect)
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        assert compiled.positiontup == list(parameters)
        return compiled.string

    def quote(self, name: str) -> str:
        return self.sa_dialect.identifier_preparer.quote_identifier(name)

    @_once
    def page(self, table: Table, after: bool, upto: bool) -> str:
        """Key and columns of the next rows behind a key, in the order of keys."""
        base, key = self._base(table), _columns(table.key)
        statement = sa.select(*key, *(base.c[name] for name in table.names)).select_from(base).order_by(*key)
        parameters: list[str] = []
        for wanted, prefix in ((after, "after"), (upto, "upto")):
            if wanted:
                names = [f"{prefix}{i}" for i in range(len(key))]
                # One column is compared as such: SQLite does not seek on a row value of one.
                left: Any = key[0] if len(key) == 1 else sa.tuple_(*key)
                right: Any = sa.bindparam(names[0]) if len(key) == 1 else sa.tuple_(*map(sa.bindparam, names))
                statement = statement.where(left > right if prefix == "after" else left <= right)
                parameters += names
        return self.text(statement.suffix_with(f"LIMIT {PAGE_ROWS}"), *parameters)

    @_once
    def by_key(self, table: Table) -> str:
        """The columns of one row."""
        return self._by_key(table, _columns(table.names))

    @_once
    def value_by_key(self, table: Table, name: str) -> str:
        """Type and value of one column of one row."""
        return self._by_key(table, [sa.func.typeof(sa.column(name)), sa.column(name)])

    def _by_key(self, table: Table, wanted: Sequence[ColumnElement[Any]]) -> str:
        names = [f"k{i}" for i in range(len(table.key))]
        where = [sa.column(k) == sa.bindparam(n) for k, n in zip(table.key, names)]
        return self.text(sa.select(*wanted).select_from(self._base(table)).where(*where), *names)

    @_once
    def by_identity(self, table: Table) -> str:
        """Key of the first row with an identity."""
        base, key = self._base(table), _columns(table.key)
        names = [f"i{i}" for i in range(len(table.identity))]
        terms = [self._is(table, column, sa.bindparam(name)) for column, name in zip(table.identity, names)]
        statement = sa.select(*key).select_from(base).where(*terms).order_by(*key)
        return self.text(statement.suffix_with("LIMIT 1"), *names)

    def _is(self, table: Table, column: str, value: ColumnElement[Any]) -> ColumnElement[bool]:
        if table.conflict == "own" and not table.by_name[column].required:
            return self.null_as_value(sa.column(column)) == self.null_as_value(value)
        return self.same(sa.column(column), value)

    @_once
    def repeated(self, table: Table) -> str:
        """Keys of all rows that share their identity with another; in a window as in a GROUP BY, NULL is a value like others."""
        base, key = self._base(table), _columns(table.key)
        count = sa.func.count().over(partition_by=[base.c[name] for name in table.identity]).label("how_many")
        counted = (
            sa.select(*(column.label(f"k{i}") for i, column in enumerate(key)), count).select_from(base).subquery()
        )
        keys = [counted.c[f"k{i}"] for i in range(len(key))]
        return self.text(sa.select(*keys).where(counted.c.how_many > sa.literal_column("1")).order_by(*keys))

    @_once
    def upsert(self, table: Table, replace: bool) -> str:
        return self.text(self.upserting(table, replace), *table.names)

    @_once
    def insert(self, table: Table) -> str:
        return self.text(sa.insert(self._base(table)).values(_parameters(table.names)), *table.names)

    @_once
    def update(self, table: Table) -> str:
        """All columns of the row with a key; the key's parameters come last."""
        names = [f"k{i}" for i in range(len(table.key))]
        where = [sa.column(k) == sa.bindparam(n) for k, n in zip(table.key, names)]
        return self.text(
            sa.update(self._base(table)).values(_parameters(table.names)).where(*where), *table.names, *names
        )

    def _own_terms(self, table: Table) -> list[ColumnElement[Any]]:
        """What our own index is over."""
        return [
            sa.column(name) if table.by_name[name].required else self.null_as_value(sa.column(name))
            for name in table.identity
        ]

    def _base(self, table: Table) -> sa.TableClause:
        return sa.table(table.name, *(sa.column(name) for name in table.names))


def _columns(names: Iterable[str]) -> list[ColumnElement[Any]]:
    return [sa.column(name) for name in names]


def _parameters(names: Iterable[str]) -> dict[str, ColumnElement[Any]]:
    return {name: sa.bindparam(name) for name in names}


class Sqlite(Dialect):
    """SQLite: any column holds any value, NULLs in a unique index are distinct, and there is one writer."""

    sa_dialect = sqlite.dialect(paramstyle="qmark")

    def tables(self, connection: Connection) -> dict[str, tuple[str, ...]]:
        inspector = _inspector(connection)
        return {name: tuple(c["name"] for c in inspector.get_columns(name)) for name in inspector.get_table_names()}

    def table(self, connection: Connection, kind: KindLayout) -> Table | None:
        name, inspector = kind.collections[0], _inspector(connection)
        if name not in inspector.get_table_names():
            return None
        primary = inspector.get_pk_constraint(name)["constrained_columns"]
        found = [c for c in inspector.get_columns(name) if "computed" not in c]  # generated columns are no data
        row_id = self._row_id(connection, name, {c["name"].lower() for c in found})
        alias = primary[0] if row_id and len(primary) == 1 and not self._has_primary_index(connection, name) else None
        columns = tuple(
            Column(
                c["name"],
                _affinity(c["type"]),
                not c["nullable"] or c["name"] == alias,
                c["default"] is not None or c["name"] == alias,
            )
            for c in found
            if c["name"] not in kind.surrogate
        )
        table = Table(name, kind, columns, (row_id,) if row_id else tuple(primary), row_id is not None)
        misfit = _misfit(table)
        if misfit is not None:
            return replace(table, misfit=misfit)
        indexes = [*self._indexes(connection, name), *([Index((alias,), unique=True)] if alias else [])]
        return _with_indexes(table, indexes, self._has_own_index(connection, table))

    def _row_id(self, connection: Connection, name: str, columns: set[str]) -> str | None:
        for each in ("rowid", "_rowid_", "oid"):
            if each not in columns:
                try:
                    connection.execute(f"SELECT {each} FROM {self.quote(name)} LIMIT 0")
                except sqlite3.OperationalError:
                    return None  # WITHOUT ROWID
                return each
        raise ConfigError(f"the table {name} has columns named rowid, _rowid_ and oid: its rows cannot be told apart")

    def _has_primary_index(self, connection: Connection, name: str) -> bool:
        """False where the primary key is another name for the row id."""
        return any(
            origin == "pk" for _, _, _, origin, _ in connection.execute(f"PRAGMA index_list({self.quote(name)})")
        )

    def _indexes(self, connection: Connection, name: str) -> Iterator[Index]:
        for _, index, unique, _, partial in connection.execute(f"PRAGMA index_list({self.quote(name)})").fetchall():
            parts = connection.execute(f"PRAGMA index_xinfo({self.quote(index)})").fetchall()
            keys = [(column, collation) for _, _, column, _, collation, is_key in parts if is_key]
            if not partial and all(column is not None and collation == "BINARY" for column, collation in keys):
                yield Index(tuple(column for column, _ in keys), bool(unique))

    def _has_own_index(self, connection: Connection, table: Table) -> bool:
        found = connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name = ?",
            (table.name, _own_index_name(table)),
        ).fetchone()
        return found is not None and found[0] == self._create_index(table)

    # DDL

    def create(self, kind: KindLayout) -> tuple[Table, list[str]]:
        statements = [self._create_table(kind)]
        with closing(sqlite3.connect(":memory:")) as empty:  # whose types and constraints are read like those of a file
            empty.execute(statements[0])
            table = self.table(empty, kind)
            assert table is not None
            if not (table.misfit or table.guaranteed):
                statements.append(self._create_index(table))
                empty.execute(statements[1])
                table = self.table(empty, kind)
                assert table is not None
        return table, statements

    def _create_table(self, kind: KindLayout) -> str:
        places = {place.field.name: place.attribute for place in kind.places}
        lines = [f"{self.quote(name)} {sql_type}" for name, sql_type in kind.columns.items()]
        if kind.unique:
            lines.append(f"UNIQUE ({', '.join(self.quote(places[name]) for name in kind.kind.identity)})")
        return f"CREATE TABLE {self.quote(kind.collections[0])} ({', '.join(lines)})"

    def _create_index(self, table: Table) -> str:
        terms = [str(term.compile(dialect=self.sa_dialect)) for term in self._own_terms(table)]
        return (
            f"CREATE UNIQUE INDEX {self.quote(_own_index_name(table))} ON {self.quote(table.name)} ({', '.join(terms)})"
        )

    # Statements

    def same(self, column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
        # BINARY, or "Ana" and "ana" would be one record where the table says NOCASE.
        return column.is_not_distinct_from(sa.collate(value, "BINARY"))

    def null_as_value(self, value: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.func.ifnull(value, sa.literal_column("x''"))  # no text and no number equals a blob

    def upserting(self, table: Table, replace: bool) -> ClauseElement:
        insert = sqlite.insert(self._base(table)).values(_parameters(table.names))
        target: list[Any] = self._own_terms(table) if table.conflict == "own" else list(table.identity)
        changed = {name: insert.excluded[name] for name in table.names if name not in table.identity}
        if replace and changed:
            return insert.on_conflict_do_update(index_elements=target, set_=changed)
        return insert.on_conflict_do_nothing(index_elements=target)

    # Values

    def problem(self, column: Column, value: Value) -> str | None:
        if value is None:
            return f"{column.name} is NULL, and its column may not be" if column.required else None
        sort = type(value)
        if sort is str:
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    return f"{column.name} holds text that is not Unicode (a lone surrogate)"
            if column.affinity not in ("text", "none") and _looks_numeric(value):
                return f"{column.name} is text that its column would turn into a number"
            return None
        if sort is bytes:
            return None
        if sort is bool:
            return f"{column.name} is a boolean, and SQLite has none"
        if sort is not int and sort is not float:
            what = "a number of more digits than SQLite keeps" if sort is Decimal else "no plain value"
            return f"{column.name} is {what}"
        if column.affinity == "text":
            return f"{column.name} is a number that its column would turn into text"
        return _number_problem(column, value)


def _number_problem(column: Column, value: int | float) -> str | None:
    kept: int | float = value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            return f"{column.name} is an integer of more than 64 bits"
        if column.affinity == "real":
            kept = float(value)
    elif math.isnan(value):
        return f"{column.name} is NaN, which SQLite turns into NULL"
    elif column.affinity in ("integer", "numeric") and value.is_integer() and abs(value) < 1 << 63:
        kept = int(value)
    if by_value(kept) != by_value(value):
        return f"{column.name} is a number that its column would round"
    return None


def _looks_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _affinity(sql_type: Any) -> Affinity:
    """SQLite's affinity of a column, from SQLAlchemy's reading of its declared type."""
    for sort, affinity in _AFFINITIES:
        if isinstance(sql_type, sort):
            return affinity
    return "numeric"


_AFFINITIES: tuple[tuple[type[Any], Affinity], ...] = (
    (sa.types.NullType, "none"),
    (sa.LargeBinary, "none"),
    (sa.BLOB, "none"),
    (sa.Integer, "integer"),
    (sa.Float, "real"),
    (sa.String, "text"),
)


def _inspector(connection: Connection) -> sa.Inspector:
    """SQLAlchemy's view of a database. Never inside a transaction: it rolls back what it finds open."""
    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    return sa.inspect(engine)


def _own_index_name(table: Table) -> str:
    return f"migrator_identity_{table.name}"


def _misfit(table: Table) -> str | None:
    places = {place.attribute for place in table.kind.places}
    missing = sorted(places - set(table.names))
    if missing:
        return f"it has no column {missing[0]}"
    for column in table.columns:
        if column.name not in places and column.required and not column.given:
            return f"its column {column.name} must be given, and the mapping does not know it"
    return None


def _with_indexes(table: Table, indexes: Sequence[Index], own: bool) -> Table:
    identity, required = set(table.identity), {column.name for column in table.columns if column.required}
    telling = [set(index.columns) for index in indexes if index.unique and set(index.columns) <= identity & required]
    searchable = any(set(index.columns[: len(identity)]) == identity for index in indexes)
    conflict: Literal["own", "plain"] | None = "plain" if identity in telling else "own" if own else None
    guaranteed = bool(telling) or own
    return replace(table, guaranteed=guaranteed, conflict=conflict, indexed=guaranteed or searchable)


# Rows ------------------------------------------------------------------------------------------------------------------


class Rows:
    """Reads the rows of one table. One that cannot be read becomes a reject; the others go on."""

    def __init__(self, connection: Connection, dialect: Dialect, table: Table, setting: Setting) -> None:
        self.connection, self.dialect, self.table, self.setting = connection, dialect, table, setting
        self._by_key = dialect.by_key(table)

    def page(self, after: Key, upto: Key) -> tuple[Page, bool]:
        """The next page behind a key (empty: the start), and whether there may be more."""
        page, size, last = Page([], list(after)), 0, after
        while not _is_full(page, size):
            try:
                with closing(self._run(last, upto)) as run:
                    for key, values in run:
                        size += self._add(page, key, values)
                        last = key
                        if _is_full(page, size):
                            break
                    else:
                        page.cursor = list(last)
                        return page, False
            except sqlite3.Error as exc:
                if not _is_unreadable(exc):
                    raise
                # sqlite3 steps ahead: it may be the next row or the one behind it. One row with care, then on as before.
                behind = self._next_key(last, upto)
                found = self.at(behind) if behind is not None else None
                if isinstance(found, Row):
                    page.rows.append(found)
                elif found is not None:
                    page.rejects.append(found)
                    size += _size(found.held.values())
                last = behind or last
        page.cursor = list(last)
        return page, True

    def at(self, key: Key) -> Row | Reject | None:
        """The row with that key."""
        try:
            values = self.connection.execute(self._by_key, key).fetchone()
        except sqlite3.Error as exc:
            if not _is_unreadable(exc):
                raise
            return self._salvage(key)
        if values is None:
            return None
        page = Page([], None)
        self._add(page, key, values)
        return (page.rows or page.rejects)[0]

    def _run(self, after: Key, upto: Key) -> Generator[tuple[Key, tuple[Value, ...]], None, None]:
        """Rows from one statement. It is closed with the generator, for it holds a lock."""
        width = len(self.table.key)
        with closing(self.connection.cursor()) as cursor:
            for found in cursor.execute(self.dialect.page(self.table, bool(after), bool(upto)), (*after, *upto)):
                yield found[:width], found[width:]

    def _next_key(self, after: Key, upto: Key) -> Key | None:
        keys = replace(self.table, columns=())
        found: Key | None = self.connection.execute(
            self.dialect.page(keys, bool(after), bool(upto)), (*after, *upto)
        ).fetchone()
        if found and any(isinstance(part, bytes) for part in found):
            raise StoreError(f"{self.table.name} has a key that is not text: it cannot be read in order")
        return found

    def _add(self, page: Page, key: Key, values: tuple[Value, ...]) -> int:
        size = _size(values)
        held = dict(zip(self.table.names, values))
        place, kind = self.table.place(key), self.table.kind.kind.name
        if size * 4 > self.setting.record_bytes and (exact := _exact_size(values)) > self.setting.record_bytes:
            page.rejects.append(Reject(kind, place, self._too_large(exact), held))
            return exact
        found = self.setting.layout.read(held, place, kind)
        if isinstance(found, Row):
            page.rows.append(found)
        elif isinstance(found, Reject):
            page.rejects.append(found)
        return size

    def _salvage(self, key: Key) -> Reject | None:
        """What can be read of a row that sqlite3 cannot give: column by column, text as bytes."""
        held: Record = {}
        reasons: list[str] = []
        total = 0
        self.connection.text_factory = bytes
        try:
            for name in self.table.names:
                try:
                    found = self.connection.execute(self.dialect.value_by_key(self.table, name), key).fetchone()
                except sqlite3.DataError:
                    reasons.append(f"{name} holds more than {self.setting.record_bytes:,} bytes")
                    total += self._length(name, key)
                    continue
                if found is None:
                    return None
                value = found[1]
                total += _exact_size((value,))
                if found[0] == b"text":
                    try:
                        value = value.decode()
                    except UnicodeDecodeError:
                        reasons.append(f"{name} is not UTF-8 text")
                held[name] = value
        finally:
            self.connection.text_factory = str
        if total > self.setting.record_bytes:
            reasons = [self._too_large(total)]
        return Reject(self.table.kind.kind.name, self.table.place(key), "; ".join(reasons) or "cannot be read", held)

    def _length(self, column: str, key: Key) -> int:
        if not self.table.keyed_by_row_id:
            return self.setting.record_bytes + 1
        # A blob tells its length without being read.
        with self.connection.blobopen(self.table.name, column, key[0], readonly=True) as blob:
            return len(blob)

    def _too_large(self, size: int) -> str:
        return f"{size:,} bytes, and a record may have {self.setting.record_bytes:,}"


def _is_full(page: Page, size: int) -> bool:
    return len(page.rows) + len(page.rejects) >= PAGE_ROWS or size >= PAGE_BYTES


def _size(values: Iterable[Value]) -> int:
    """About how much values take: text counts its characters."""
    return sum([len(v) if type(v) is str or type(v) is bytes else 8 for v in values])


def _exact_size(values: Iterable[Value]) -> int:
    return sum(len(v.encode()) if isinstance(v, str) else len(v) if isinstance(v, bytes) else 8 for v in values)


def _is_unreadable(exc: sqlite3.Error) -> bool:
    """A row that sqlite3 cannot give us: larger than the limit, or text that is not UTF-8 (which it reports without an error code)."""
    if isinstance(exc, sqlite3.DataError):
        return True
    return isinstance(exc, sqlite3.OperationalError) and str(exc).startswith("Could not decode")


class Finder:
    """Finds rows of one table by their identity.

    Where the table has no index for that, one of our own is kept in the connection's temporary database, never in the application's
    file. Rows that come later are found by their row ids, which grow; a row that was found is looked at once more, for it may be gone.
    """

    def __init__(self, connection: Connection, dialect: Dialect, table: Table) -> None:
        self.connection, self.table = connection, table
        if table.indexed:
            self._find = dialect.by_identity(table)
            return
        quote = dialect.quote
        name, (key,) = quote(f"identities_{table.name}"), table.key
        parts = [f"i{i}" for i in range(len(table.identity))]
        columns, sources = ", ".join(parts), ", ".join(quote(column) for column in table.identity)
        where = " AND ".join(f"x.{p} IS ?" for p in parts)
        still = " AND ".join(f"t.{quote(c)} IS x.{p} COLLATE BINARY" for p, c in zip(parts, table.identity))
        base = f"main.{quote(table.name)}"
        self._find = f"SELECT x.k FROM temp.{name} x CROSS JOIN {base} t ON t.{key} = x.k WHERE {where} AND {still} ORDER BY x.k LIMIT 1"
        self._take_in = (
            f"INSERT INTO temp.{name} (k, {columns}) SELECT {key}, {sources} FROM {base} "
            f"WHERE {key} > coalesce((SELECT max(k) FROM temp.{name}), -9223372036854775808) ORDER BY {key} LIMIT {_INDEX_STEP}"
        )
        connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
        connection.execute(f"CREATE TEMP TABLE {name} (k INTEGER PRIMARY KEY, {columns})")
        connection.execute(f"CREATE INDEX temp.{quote(f'identities_{table.name}_index')} ON {name} ({columns})")

    def catch_up(self) -> None:
        """Take in the rows that have come since; in steps, each of which holds a lock only briefly."""
        if not self.table.indexed:
            while self.connection.execute(self._take_in).rowcount == _INDEX_STEP:
                pass

    def find(self, identity: tuple[Value, ...]) -> Key | None:
        found: Key | None = self.connection.execute(self._find, identity).fetchone()
        return found


# Reading ---------------------------------------------------------------------------------------------------------------


class SqlSource(Source):
    """Reads from the snapshot of a file. Several may be open on one snapshot."""

    loses = frozenset({"absent", "origins"})

    def __init__(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> None:
        super().__init__(setting)
        self.path, self.text = Path(address.name), address.text
        self.dialect = _DIALECTS[address.scheme]()
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
        return Holdings(count > 0, f"{count:,} records")

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

    def fetch(self, rows: Sequence[Row]) -> dict[tuple[str, Identity], Row]:
        found: dict[tuple[str, Identity], Row] = {}
        with _sorted_errors(f"{self.text}, fetching"):
            for kind, group in groupby(rows, key=lambda row: row.kind):
                at = self._table(kind)
                if at is None:
                    continue
                finder, reader = self._finder(*at), Rows(at[0], self.dialect, at[1], self.setting)
                finder.catch_up()
                at[0].execute("BEGIN")  # one lock for all of them, held for a moment
                try:
                    for row in group:
                        held = _find(finder, reader, self.layout.write(row))
                        if held is not None:
                            found[kind, at[1].kind.kind.identity_of(row.record)] = held
                finally:
                    at[0].execute("ROLLBACK")
        return found

    def fit(self, row: Row) -> Row | Reject:
        table = self._targets.get(row.kind) or self._target(row.kind)
        try:
            fitted = self._fit_fields(row, table)
            self._check(table, self.layout.write(fitted))
        except RecordError as exc:
            return Reject(row.kind, row.place, str(exc), row.record, row.origin)
        return fitted

    def weigh(self, row: Row) -> Weight:
        return Weight(_size(row.record.values()))

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


class SqlSink(Sink):
    """Writes into a file, alone: SQLite has one writer. Every transaction that was committed is durable."""

    traits = Traits(parallel=False)

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(setting)
        self.address, self.path, self.text = address, Path(address.name), address.text
        self.dialect = _DIALECTS[address.scheme]()
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
        for kind, group in groupby(rows, key=lambda row: row.kind):
            with _sorted_errors(f"{self.text}, writing"):
                pairs = [(row, self.layout.write(row)) for row in group]
                done = 0
                patience = time.monotonic() + files.BUSY_SECONDS
                while done < len(pairs):
                    try:
                        done = self._write_some(kind, pairs, done, existing)
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

    def _write_some(self, kind: str, pairs: Sequence[tuple[Row, Record]], done: int, existing: Existing) -> int:
        """Write as many rows as one transaction may take; how far it came."""
        _, finder, _ = self._store(kind)
        finder.catch_up()  # the long way while no lock is held; inside the transaction only what came since
        last = min(len(pairs), done + self._pace.rows)
        flushed = Flushed()
        with self._transaction():
            finder.catch_up()
            while done < last and not self._pace.is_over:
                part = pairs[done : min(last, done + _PART_ROWS)]
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

    def _write_part(self, kind: str, part: Sequence[tuple[Row, Record]], existing: Existing, flushed: Flushed) -> None:
        table, _, _ = self._store(kind)
        connection = self._connection()
        if table.conflict and existing is not Existing.REFUSE:
            try:
                connection.executemany(self.dialect.upsert(table, True), [table.values(held) for _, held in part])
                return
            except (sqlite3.IntegrityError, sqlite3.DataError):
                self._must_be_in_transaction()  # one of them is refused: once more, one by one
        for row, held in part:
            try:
                there = self._write_one(kind, held, existing)
            except (sqlite3.IntegrityError, sqlite3.DataError) as exc:
                self._must_be_in_transaction()
                flushed.rejects.append(
                    Reject(row.kind, row.place, f"the table {table.name} refuses it: {exc}", row.record, row.origin)
                )
                continue
            if there is not None:
                flushed.held.append((row, there))

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
            raise ConfigError(f"{self.text}: there is no folder {self.path.parent}; make it first")
        try:
            self.setting.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.touch(exist_ok=False)
            found = self.path.stat()
            self._marker.write_text(f"{found.st_dev} {found.st_ino}")
        except OSError as exc:
            raise ConfigError(f"{self.text} cannot be made: {exc.strerror}") from exc

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
                return Shape("sql", words, _DIALECTS[address.scheme]().tables(connection))
        except TransientStoreError:
            raise
        except StoreError as exc:
            raise ConfigError(f"{exc}. Nothing was touched") from exc

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


_DIALECTS = {"sqlite": Sqlite}

ADAPTER = SqlAdapter()
