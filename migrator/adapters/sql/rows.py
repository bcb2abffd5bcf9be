"""The rows of one table: read page by page, by key, and found by identity.

Knows sqlite3, what it cannot give (larger than the limit, not UTF-8) and how to save the rest of such a row. Leaves statements to
`dialect`, fields to the layout, partitions and locks to `source`, what an error means to `errors`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from migrator.adapters.base import PAGE_BYTES, PAGE_ROWS, Setting, is_full, too_large
from migrator.adapters.sql.dialect import Connection, Dialect, Key, Table
from migrator.adapters.sql.errors import UnknownTrouble
from migrator.errors import StoreError
from migrator.model import Found, Page, Record, Reject, Row
from migrator.values import Value

if TYPE_CHECKING:
    from migrator.adapters.sql.fast import FastRows

_ROWS_AT_ONCE = 100  # of a page of columns: these are read before their size is looked at
_SMALL = PAGE_BYTES // _ROWS_AT_ONCE  # bytes of a value in such a page
_PAGES_BY_ROW = 20  # after one that could not be read so

_INDEX_STEP = 20_000  # rows read in one go while the index of identities is built: a lock is held that long


class Rows:
    """Reads the rows of one table. One that cannot be read becomes a reject; the others go on."""

    def __init__(
        self, connection: Connection, dialect: Dialect, table: Table, setting: Setting, fast: FastRows | None = None
    ) -> None:
        """`fast` reads the same, and is asked first."""
        self.connection, self.dialect, self.table, self.setting = connection, dialect, table, setting
        self._fast = fast
        self._by_key = dialect.by_key(table)
        self._weigh: dict[tuple[type, ...], Callable[[tuple[Value, ...]], int]] = {}
        self._read = setting.layout.reading(table.kind.kind.name, table.names)
        self._large = 0  # pages that are read row by row before another is read as columns

    def page(self, after: Key, upto: Key) -> tuple[Page, bool]:
        """The next page behind a key (empty: the start), and whether there may be more."""
        if self._large:
            self._large -= 1
        elif (page := self._page_of_columns(after, upto)) is not None:
            return page
        else:
            self._large = _PAGES_BY_ROW
        return self._page_by_row(after, upto)

    def _page_of_columns(self, after: Key, upto: Key) -> tuple[Page, bool] | None:
        """The same where all rows can be read, and none is large; else None."""
        if 4 * _SMALL * len(self.table.names) > self.setting.record_bytes:
            return None
        try:
            found = self._small_rows(self.dialect.page(self.table, bool(after), bool(upto)), (*after, *upto))
        except sqlite3.Error as exc:
            if not _is_unreadable(exc):
                raise
            return None
        width = len(self.table.key)
        page = Page([], list(found[-1][:width] if found else after))
        for types, columns in _by_types(found):
            alike = self._read.alike(columns[width:], types[width:], partial(self._place, columns[:width]))
            if alike is not None:
                page.alike.append(alike)
                continue
            for row in zip(*columns):
                page.add(self._read.row(row[width:], types[width:], self.table.place(row[:width])))
        return page, bool(found)

    def _small_rows(self, statement: str, values: Key) -> list[tuple[Value, ...]]:
        """The first rows that a statement gives, none of them large, as many as a page takes. Raises sqlite3's errors."""
        if self._fast is not None:
            try:
                with self._fast.running(statement, values, _SMALL) as fetch:
                    return _as_many_as_a_page(fetch)
            except UnknownTrouble:
                self._fast = None
        before = self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _SMALL)
        try:
            with closing(self.connection.cursor()) as run:  # it holds a lock
                run.execute(statement, values)
                return _as_many_as_a_page(run.fetchmany)
        finally:
            self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)

    def _place(self, keys: list[tuple[Value, ...]], number: int) -> str:
        return self.table.place(tuple([column[number] for column in keys]))

    def _page_by_row(self, after: Key, upto: Key) -> tuple[Page, bool]:
        page, size, last, width = Page([], list(after)), 0, after, len(self.table.key)
        while not is_full(page, size):
            try:
                with closing(self.connection.cursor()) as run:  # it holds a lock
                    for found in run.execute(self.dialect.page(self.table, bool(last), bool(upto)), (*last, *upto)):
                        last = found[:width]
                        size += self._add(page, last, found[width:])
                        if is_full(page, size):
                            break
                    else:
                        page.cursor = list(last)
                        return page, False
            except sqlite3.Error as exc:
                if not _is_unreadable(exc):
                    raise
                # sqlite3 steps ahead: it may be the next row or the one behind it. One row with care, then on as before.
                behind = self._next_key(last, upto)
                there = self.at(behind) if behind is not None else None
                if there is not None:
                    page.add(there)
                if isinstance(there, Reject):
                    size += size_of(there.held.values())
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

    def asked(self, by: Sequence[str], wanted: Sequence[Record]) -> list[Found]:
        """All columns of the rows with these values of some fields, in one statement: it may have to read the whole table.

        A row that sqlite3 cannot give leaves the application with none of that user's.
        """
        named = [tuple(str(each[name]) for name in by) for each in wanted]
        found: dict[tuple[str, ...], Found] = {name: Found() for name in named}
        places = {place.field.name: place.attribute for place in self.table.kind.places}
        columns = tuple(places[name] for name in by)
        statement = self.dialect.asked(self.table, columns, len(named))
        try:
            with closing(self.connection.execute(statement, [value for name in named for value in name])) as run:
                for values in run:
                    held = dict(zip(self.table.names, values))
                    there = found.get(tuple(str(held[column]) for column in columns))
                    if there is not None:
                        there.items.append(held)
        except sqlite3.Error as exc:
            if not _is_unreadable(exc):
                raise
            if len(wanted) == 1:
                return [Found(trouble="a row holds text that is not UTF-8, or is too large")]
            return [each for one in wanted for each in self.asked(by, [one])]
        return [found[name] for name in named]

    def _next_key(self, after: Key, upto: Key) -> Key | None:
        keys = replace(self.table, columns=())
        found: Key | None = self.connection.execute(
            self.dialect.page(keys, bool(after), bool(upto)), (*after, *upto)
        ).fetchone()
        if found and any(isinstance(part, bytes) for part in found):
            raise StoreError(
                f"{self.table.name} has a key that is not text: it cannot be read in order; leave its kind out with --kinds"
            )
        return found

    def _add(self, page: Page, key: Key, values: tuple[Value, ...]) -> int:
        types, place = tuple(map(type, values)), self.table.place(key)
        weigh = self._weigh.get(types)
        if weigh is None:
            weigh = self._weigh[types] = _weighing(types)
        size = weigh(values)
        if size * 4 > self.setting.record_bytes and (exact := _exact_size(values)) > self.setting.record_bytes:
            held = dict(zip(self.table.names, values))
            page.rejects.append(
                Reject(self.table.kind.kind.name, place, too_large(exact, self.setting.record_bytes), held)
            )
            return exact
        found = self._read.row(values, types, place)
        if type(found) is Row:
            page.rows.append(found)
        else:
            page.add(found)
        return size

    def _salvage(self, key: Key) -> Reject | None:
        """What can be read of a row that sqlite3 cannot give: column by column, text as bytes."""
        held: Record = {}
        reasons: list[str] = []
        omitted: list[str] = []
        total = 0
        self.connection.text_factory = bytes
        try:
            for name in self.table.names:
                try:
                    found = self.connection.execute(self.dialect.value_by_key(self.table, name), key).fetchone()
                except sqlite3.DataError:
                    reasons.append(f"{name} holds more than {self.setting.record_bytes:,} bytes")
                    omitted.append(name)
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
            reasons = [too_large(total, self.setting.record_bytes)]
        reason = "; ".join(reasons) or "cannot be read"
        return Reject(self.table.kind.kind.name, self.table.place(key), reason, held, omitted=tuple(omitted))

    def _length(self, column: str, key: Key) -> int:
        if not self.table.keyed_by_row_id:
            return self.setting.record_bytes + 1
        # A blob tells its length without being read.
        with self.connection.blobopen(self.table.name, column, key[0], readonly=True) as blob:
            return len(blob)


def _as_many_as_a_page(fetch: Callable[[int], list[tuple[Value, ...]]]) -> list[tuple[Value, ...]]:
    found: list[tuple[Value, ...]] = []
    size = 0
    while len(found) < PAGE_ROWS and size < PAGE_BYTES and (some := fetch(_ROWS_AT_ONCE)):
        found += some
        size += sum(map(_column_size, zip(*some)))
    return found


def size_of(values: Iterable[Value]) -> int:
    """About how much values take: text counts its characters."""
    return sum([len(v) if type(v) is str or type(v) is bytes else 8 for v in values])


def _column_size(column: Sequence[Value]) -> int:
    """`size_of`, in one step where all are text."""
    try:
        return sum(map(len, column))
    except TypeError:
        return size_of(column)


def _by_types(rows: list[tuple[Value, ...]]) -> Iterator[tuple[tuple[type, ...], list[tuple[Value, ...]]]]:
    """The columns of rows whose values have the same types, with those."""
    columns = [*zip(*rows)]
    of_columns = [{*map(type, column)} for column in columns]
    if all(len(types) == 1 for types in of_columns):
        if rows:
            yield tuple([types.pop() for types in of_columns]), columns
        return
    found: dict[tuple[type, ...], list[tuple[Value, ...]]] = {}
    for row in rows:
        found.setdefault(tuple(map(type, row)), []).append(row)
    for each, some in found.items():
        yield each, [*zip(*some)]


def _weighing(types: tuple[type, ...]) -> Callable[[tuple[Value, ...]], int]:
    """`size_of` for values of these types."""
    long = [number for number, each in enumerate(types) if each in (str, bytes)]
    if len(long) < 2:
        return size_of
    pick, rest = itemgetter(*long), 8 * (len(types) - len(long))
    return lambda values: sum(map(len, pick(values)), rest)


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
