"""The tables of an SQL database, and the statements that read and write them.

Knows SQLAlchemy, types, unique indexes, NULL in comparisons, upserts and DDL; what differs between databases is a Dialect. Compiles
statements and runs none of them on rows: that is left to `sql_rows` and `sql`. What a column means is left to the layout.

To add a database: a subclass of Dialect, and its scheme in `DIALECTS`.
"""

from __future__ import annotations

import math
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql import ClauseElement, ColumnElement

from migrator.adapters.base import PAGE_ROWS
from migrator.errors import ConfigError
from migrator.kind_layout import KindLayout
from migrator.model import Record
from migrator.values import Value, by_value, to_json

Connection = sqlite3.Connection
Key = tuple[Value, ...]
"""What tells a row of a table from the others, and orders them: its row id, or its primary key."""

Affinity = Literal["text", "integer", "real", "numeric", "none"]


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
    identity_at: tuple[int, ...] = field(init=False)
    by_name: Mapping[str, Column] = field(init=False)
    fields: frozenset[str] = field(init=False)
    attributes: frozenset[str] = field(init=False)
    statements: dict[object, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        attributes = {place.field.name: place.attribute for place in self.kind.places}
        object.__setattr__(self, "names", tuple(column.name for column in self.columns))
        object.__setattr__(self, "identity", tuple(attributes[name] for name in self.kind.kind.identity))
        numbers = {name: number for number, name in enumerate(self.names)}
        object.__setattr__(self, "identity_at", tuple(numbers[name] for name in self.identity if name in numbers))
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})
        object.__setattr__(self, "fields", frozenset(attributes))
        object.__setattr__(self, "attributes", frozenset(attributes.values()))
        object.__setattr__(self, "statements", {})

    def place(self, key: Key) -> str:
        return f"{self.name}:{key[0] if self.keyed_by_row_id else to_json(list(key)).decode()}"

    def values(self, held: Record) -> tuple[Value, ...]:
        """What goes into every column: a row is written whole, so what the record lacks is NULL."""
        return tuple([held.get(name) for name in self.names])

    def identity_in(self, values: Sequence[Value]) -> tuple[Value, ...]:
        """The identity among what goes into every column."""
        return tuple([values[number] for number in self.identity_at])


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

    @abstractmethod
    def takes_any(self, column: Column, sort: type) -> bool:
        """Whether a column gives every value of a Python type back, as far as a text is Unicode."""

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
    def asked(self, table: Table, columns: tuple[str, ...], count: int) -> str:
        """The columns of all rows that have one of `count` values, or rows of values, in these columns."""
        base = self._base(table)
        names = [[f"v{n}_{i}" for i in range(len(columns))] for n in range(count)]
        left: Any = base.c[columns[0]] if len(columns) == 1 else sa.tuple_(*(base.c[name] for name in columns))
        right: list[Any] = [sa.bindparam(v[0]) if len(v) == 1 else sa.tuple_(*map(sa.bindparam, v)) for v in names]
        wanted = [base.c[name] for name in table.names]
        statement = sa.select(*wanted).select_from(base).where(left.in_(right)).order_by(*_columns(table.key))
        return self.text(statement, *(name for v in names for name in v))

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

    @_once
    def delete(self, table: Table) -> str:
        """The row with a key."""
        names = [f"k{i}" for i in range(len(table.key))]
        where = [sa.column(k) == sa.bindparam(n) for k, n in zip(table.key, names)]
        return self.text(sa.delete(self._base(table)).where(*where), *names)

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
        raise ConfigError(
            f"the table {name} has columns named rowid, _rowid_ and oid: its rows cannot be told apart; choose another file, or a mapping with another table"
        )

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

    def takes_any(self, column: Column, sort: type) -> bool:
        return (sort is str and column.affinity in ("text", "none")) or (sort is type(None) and not column.required)

    def problem(self, column: Column, value: Value) -> str | None:
        if value is None:
            return f"{column.name} is NULL, and its column may not be" if column.required else None
        sort = type(value)
        if sort is str:
            if not (value.isascii() or is_unicode(value)):
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
    if kept is not value and by_value(kept) != by_value(value):
        return f"{column.name} is a number that its column would round"
    return None


def is_unicode(text: str) -> bool:
    """False for text with a lone surrogate, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


DIALECTS = {"sqlite": Sqlite}
