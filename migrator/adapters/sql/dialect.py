"""The tables of an SQL database, and the statements that read and write them.

Knows types, unique indexes, NULL in comparisons, upserts and DDL; what differs between databases is a Dialect. Writes statements
and runs none of them on rows: that is left to `rows` and `sql`. What a column means is left to the layout.

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
from typing import Concatenate, Literal, NamedTuple, ParamSpec

from migrator.adapters.base import PAGE_ROWS
from migrator.errors import ConfigError
from migrator.kind_layout import KindLayout
from migrator.model import Record
from migrator.values import Value, by_value, is_unicode, to_json

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
    found by its identity without reading all. said: columns of JSON text that is no part of the identity. misfit: why LuminoraCore could not keep this kind here, so that the table must be another's.
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
    said: frozenset[str] = field(init=False)
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
        said = {place.attribute for place in self.kind.places if place.form == "json"}
        object.__setattr__(self, "said", frozenset(said.difference(self.identity)))
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
_Write = Callable[Concatenate["Dialect", Table, _P], str]


def _once(write_it: _Write[_P]) -> _Write[_P]:
    """Keep a table's statement: to write it takes longer than to run it."""

    @wraps(write_it)
    def kept(self: Dialect, table: Table, /, *args: _P.args, **options: _P.kwargs) -> str:
        which = (write_it.__name__, args, *options.values())
        if which not in table.statements:
            table.statements[which] = write_it(self, table, *args, **options)
        return table.statements[which]

    return kept


class Dialect(ABC):
    """What differs between databases: types, NULL in comparisons and indexes, upserts, DDL. Statements are written once and run on tuples.

    Their parameters are in the order in which the docstrings name them.
    """

    @abstractmethod
    def tables(self, connection: Connection) -> dict[str, tuple[str, ...]]:
        """The columns of every table."""

    @abstractmethod
    def table(self, connection: Connection, kind: KindLayout) -> Table | None:
        """The kind's table (the first of its collections) as it is, or None."""

    @abstractmethod
    def same(self, column: str) -> str:
        """A column equal to a parameter to the byte, and NULL equal to NULL."""

    @abstractmethod
    def null_as_value(self, expression: str) -> str:
        """An expression that is equal for equal values, and for NULL and NULL; what our own indexes hold of a column that may be NULL."""

    @abstractmethod
    def takes_utf8(self, connection: Connection) -> bool:
        """Whether text may be given as its bytes in UTF-8 where the statements say so: to `insert`, `upsert` and `update` in the columns of `Table.said`."""

    @abstractmethod
    def create(self, kind: KindLayout) -> tuple[Table, list[str]]:
        """The table that we make for a kind, and the statements that make it.

        Where the application's own constraint does not keep identities apart, an index of ours does, for which NULL is a value.
        """

    @abstractmethod
    def problem(self, column: Column, value: Value) -> str | None:
        """Why a column would not give this value back, or None."""

    @abstractmethod
    def takes_any(self, column: Column, sort: type) -> bool:
        """Whether a column gives every value of a Python type back, as far as a text is Unicode."""

    @abstractmethod
    def takes_plain(self, column: Column, sort: type) -> bool:
        """Whether a column gives back every value of a Python type that needs no closer look (`plain.Signature.columns`): numbers by value."""

    # The rest is standard SQL.

    def quote(self, name: str) -> str:
        """An identifier that is one whatever it holds: no name of a file's is ever taken for anything else."""
        return '"' + name.replace('"', '""') + '"'

    @_once
    def page(self, table: Table, after: bool, upto: bool) -> str:
        """Key and columns of the next rows behind a key (`after`), as far as another (`upto`), in the order of keys."""
        key = self._key(table)
        # One column is compared as such: SQLite does not seek on a row value of one.
        left, right = (key[0], "?") if len(key) == 1 else (f"({_list(key)})", f"({_marks(key)})")
        terms = [f"{left} > {right}"] * after + [f"{left} <= {right}"] * upto
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        return f"{self._select([*key, *self._names(table)], table)}{where} ORDER BY {_list(key)} LIMIT {PAGE_ROWS}"

    @_once
    def by_key(self, table: Table) -> str:
        """The columns of the row with a key."""
        return f"{self._select(self._names(table), table)} WHERE {self._is_key(table)}"

    @_once
    def value_by_key(self, table: Table, name: str) -> str:
        """Type and value of one column of the row with a key."""
        column = self.quote(name)
        return f"{self._select([f'typeof({column})', column], table)} WHERE {self._is_key(table)}"

    @_once
    def by_identity(self, table: Table) -> str:
        """Key of the first row with an identity."""
        key, terms = self._key(table), " AND ".join(self._is(table, name) for name in table.identity)
        return f"{self._select(key, table)} WHERE {terms} ORDER BY {_list(key)} LIMIT 1"

    def _is(self, table: Table, name: str) -> str:
        column = self.quote(name)
        if table.conflict == "own" and not table.by_name[name].required:
            return f"{self.null_as_value(column)} = {self.null_as_value('?')}"
        return self.same(column)

    @_once
    def asked(self, table: Table, columns: tuple[str, ...], count: int) -> str:
        """The columns of all rows that have one of `count` values, or rows of values, in these columns."""
        quoted = [self.quote(name) for name in columns]
        left, right = (quoted[0], "?") if len(quoted) == 1 else (f"({_list(quoted)})", f"({_marks(quoted)})")
        wanted = f"{left} IN ({_list([right] * count)})"
        return f"{self._select(self._names(table), table)} WHERE {wanted} ORDER BY {_list(self._key(table))}"

    @_once
    def repeated(self, table: Table) -> str:
        """Keys of all rows that share their identity with another; in a window as in a GROUP BY, NULL is a value like others."""
        names = [f"k{number}" for number in range(len(table.key))]
        keys = [f"{key} AS {name}" for key, name in zip(self._key(table), names)]
        count = f"count(*) OVER (PARTITION BY {_list(map(self.quote, table.identity))}) AS how_many"
        counted = self._select([*keys, count], table)
        return f"SELECT {_list(names)} FROM ({counted}) AS counted WHERE how_many > 1 ORDER BY {_list(names)}"

    @_once
    def upsert(self, table: Table, replace: bool) -> str:
        """INSERT of all columns that, where the identity is taken, replaces the row or does nothing. For tables with `conflict`."""
        own = table.conflict == "own"
        target = _list(self._own_terms(table) if own else map(self.quote, table.identity))
        changed = [self.quote(name) for name in table.names if name not in table.identity]
        action = (
            f"UPDATE SET {_list(f'{name} = excluded.{name}' for name in changed)}" if replace and changed else "NOTHING"
        )
        return f"{self.insert(table)} ON CONFLICT ({target}) DO {action}"

    @_once
    def insert(self, table: Table) -> str:
        """INSERT of all columns."""
        return (
            f"INSERT INTO {self.quote(table.name)} ({_list(self._names(table))}) VALUES ({_list(self._values(table))})"
        )

    @_once
    def update(self, table: Table) -> str:
        """All columns of the row with a key; the key's parameters come last."""
        changed = _list(f"{name} = {value}" for name, value in zip(self._names(table), self._values(table)))
        return f"UPDATE {self.quote(table.name)} SET {changed} WHERE {self._is_key(table)}"

    @_once
    def delete(self, table: Table) -> str:
        """The row with a key."""
        return f"DELETE FROM {self.quote(table.name)} WHERE {self._is_key(table)}"

    def _select(self, columns: Iterable[str], table: Table) -> str:
        return f"SELECT {_list(columns)} FROM {self.quote(table.name)}"

    def _is_key(self, table: Table) -> str:
        return " AND ".join(f"{key} = ?" for key in self._key(table))

    def _key(self, table: Table) -> list[str]:
        return list(table.key) if table.keyed_by_row_id else [self.quote(name) for name in table.key]

    def _names(self, table: Table) -> list[str]:
        return [self.quote(name) for name in table.names]

    def _values(self, table: Table) -> list[str]:
        return ["CAST(? AS TEXT)" if name in table.said else "?" for name in table.names]

    def _own_terms(self, table: Table) -> list[str]:
        """What our own index is over."""
        quoted = {name: self.quote(name) for name in table.identity}
        return [
            column if table.by_name[name].required else self.null_as_value(column) for name, column in quoted.items()
        ]


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _marks(parts: Sequence[str]) -> str:
    return _list("?" * len(parts))


class Sqlite(Dialect):
    """SQLite: any column holds any value, NULLs in a unique index are distinct, and there is one writer."""

    def tables(self, connection: Connection) -> dict[str, tuple[str, ...]]:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return {
            name: tuple(column.name for column in self._declared(connection, name))
            for (name,) in names
            if not name.startswith("sqlite_")
        }

    def table(self, connection: Connection, kind: KindLayout) -> Table | None:
        name = kind.collections[0]
        declared = self._declared(connection, name)
        if not declared or not self._is_table(connection, name):
            return None
        primary = [each.name for each in sorted(declared, key=lambda each: each.primary) if each.primary]
        found = [each for each in declared if not each.is_hidden]  # generated columns are no data
        row_id = self._row_id(connection, name, {each.name.lower() for each in found})
        alias = primary[0] if row_id and len(primary) == 1 and not self._has_primary_index(connection, name) else None
        columns = tuple(
            Column(
                each.name,
                _affinity(each.type),
                each.is_required or each.name == alias,
                each.is_given or each.name == alias,
            )
            for each in found
            if each.name not in kind.surrogate
        )
        table = Table(name, kind, columns, (row_id,) if row_id else tuple(primary), row_id is not None)
        misfit = _misfit(table)
        if misfit is not None:
            return replace(table, misfit=misfit)
        indexes = [*self._indexes(connection, name), *([Index((alias,), unique=True)] if alias else [])]
        return _with_indexes(table, indexes, self._has_own_index(connection, table))

    def _is_table(self, connection: Connection, name: str) -> bool:
        """Whether it is one, and no view."""
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return connection.execute(query, (name,)).fetchone() is not None

    def _declared(self, connection: Connection, name: str) -> list[_Declared]:
        return [
            _Declared(column, declared or "", bool(required), default is not None, primary, bool(hidden))
            for _, column, declared, required, default, primary, hidden in connection.execute(
                f"PRAGMA table_xinfo({self.quote(name)})"
            )
        ]

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
        return found is not None and _unquoted(found[0]) == _unquoted(self._create_index(table))

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
        index, name = self.quote(_own_index_name(table)), self.quote(table.name)
        return f"CREATE UNIQUE INDEX {index} ON {name} ({_list(self._own_terms(table))})"

    # Statements

    def same(self, column: str) -> str:
        # BINARY, or "Ana" and "ana" would be one record where the table says NOCASE.
        return f"{column} IS (? COLLATE BINARY)"

    def null_as_value(self, expression: str) -> str:
        return f"ifnull({expression}, x'')"  # no text and no number equals a blob

    def takes_utf8(self, connection: Connection) -> bool:
        return bool(connection.execute("PRAGMA encoding").fetchone()[0] == "UTF-8")

    # Values

    def takes_any(self, column: Column, sort: type) -> bool:
        return (sort is str and column.affinity in ("text", "none")) or (sort is type(None) and not column.required)

    def takes_plain(self, column: Column, sort: type) -> bool:
        return self.takes_any(column, sort) or (sort in (int, float) and column.affinity != "text")

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


def _looks_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _affinity(declared: str) -> Affinity:
    """SQLite's affinity of a column with a declared type (https://www.sqlite.org/datatype3.html, 3.1)."""
    upper = declared.upper()
    if not upper:
        return "none"
    return next((affinity for affinity, signs in _AFFINITIES if any(sign in upper for sign in signs)), "numeric")


_AFFINITIES: tuple[tuple[Affinity, tuple[str, ...]], ...] = (
    ("integer", ("INT",)),
    ("text", ("CHAR", "CLOB", "TEXT")),
    ("none", ("BLOB",)),
    ("real", ("REAL", "FLOA", "DOUB")),
)


class _Declared(NamedTuple):
    """A column as SQLite tells it. is_given: it has a default. primary: its place in the primary key, from 1 on. is_hidden: also a generated one."""

    name: str
    type: str
    is_required: bool
    is_given: bool
    primary: int
    is_hidden: bool


def _unquoted(statement: str) -> str:
    """Of a statement of ours what counts: an older release quoted only the names that need it."""
    return statement.replace('"', "")


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
