"""Reads one DynamoDB table: as a source, eventually consistent, and as a run looks at the place it would write to.

Knows scans, segments and queries. Leaves how a request gets through to `requests`, what an item is as a row to `items`, what
a value becomes and what an item weighs to `values`, what attributes say of a record to `layout`. Knows no slice and no writing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, NamedTuple

from migrator.adapters.base import PAGE_BYTES, PAGE_ROWS, Reader, Setting, Source, rejected
from migrator.adapters.dynamodb.errors import NoSuchCall, NoTable, Refused
from migrator.adapters.dynamodb.items import FETCH_KEYS, Items, only, place_of, read_item
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.dynamodb.requests import Table
from migrator.adapters.dynamodb.values import Item, check_item, from_item, to_item, write_units
from migrator.errors import RecordError, StoreError, TransientStoreError
from migrator.kind_layout import Request
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Address,
    Alike,
    Cursor,
    Foreign,
    Found,
    Holdings,
    Identity,
    Page,
    Partition,
    Rates,
    Record,
    Reject,
    Row,
    Snapshot,
    Weight,
)
from migrator.values import canonical, is_number

_FEW = 100  # items that are enough to tell what a table holds, mostly
_AT_ONCE = 4 * PAGE_ROWS  # items that are asked for where no slice ends behind a page
_END = "end"  # the cursor behind the last page


class DynamoDBSource(Source):
    """A table as it is scanned, eventually consistent: half the price, and a copy of a moving table is no moment anyway."""

    consistent = False
    may_be_missing = False
    holds_foreign = True

    def __init__(self, address: Address, setting: Setting, pace: Pace | None = None) -> None:
        super().__init__(setting)
        self._table = Table(address, pace=pace, rates=(setting.read_rate, setting.write_rate))
        self._items = Items(self._table, setting)

    def snapshot(self) -> Snapshot:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Snapshot(now, None, f"DynamoDB cannot be held still: read between {now} and the end of the run")

    def partitions(self, kinds: Sequence[str], wanted: int) -> list[Partition]:
        """Scan segments. ItemCount is up to six hours old: it decides how many, never whether there are any."""
        described = self._description()
        if described is None:
            return []
        count = described.get("ItemCount", 0)
        if count:
            wanted = min(wanted, max(count // PAGE_ROWS, described.get("TableSizeBytes", 0) // PAGE_BYTES))
        elif not any(items for items, _ in self._scan({"segment": 0, "of": 1}, None, 1)):
            return []
        of = max(1, wanted)
        return [Partition(f"segment-{segment}-of-{of}", {"segment": segment, "of": of}) for segment in range(of)]

    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        if after == _END:
            return
        yield from self._pages(partition, after, PAGE_ROWS)

    def _pages(self, partition: Partition, after: Cursor, most: int, without: Set[str] = frozenset()) -> Iterator[Page]:
        """`without`: pages whose items all are of these kinds, and lie where they belong, may be left out."""
        last: Item = {}
        oversize = self._items.oversize
        for items, behind in self._scan(partition.spec, after, most):
            page, size = Page([], behind or _END), 0
            if not oversize.is_used:
                if without and self._items.plain.lie_right(items, without):
                    continue
                page.alike, items = self._items.plain.rows(items)
            for item, found, taken in self._items.read_all(items):
                if size >= PAGE_BYTES:  # of what lies in parts there may be more than a page in 1 MB of items
                    page.cursor = only(self.layout.key, last)
                    yield page
                    page, size = Page([], behind or _END), 0
                page.add(found)
                size += taken
                if oversize.is_used and isinstance(found, Row) and (form := oversize.form_of(item)):
                    page.forms[found.kind, form] += 1
                last = item
            yield page

    def holds(self, kinds: Sequence[str]) -> Holdings:
        described = self._description()
        if described is None:
            return Holdings(False, "no table")
        words = f"~{described.get('ItemCount', 0):,} items"
        for item in self._each():
            if self._items.oversize.is_part(item):
                continue  # its record tells, and without one nothing is there
            found = read_item(self.layout, item)
            if (FOREIGN if isinstance(found, Foreign) else found.kind) in (*kinds, UNKNOWN_KIND):
                return Holdings(True, words)
        return Holdings(False, words)

    def size_hint(self) -> int | None:
        described = self._description()
        return described.get("ItemCount") if described else 0

    def rates(self) -> Rates:
        (read, read_words), (write, write_words) = self._table.rates()
        described = self._table.describe() or {}
        each = 2.0 if described.get("GlobalSecondaryIndexes") or self.layout.index is not None else 1.0
        return Rates(read, write, read_words, write_words, described.get("TableSizeBytes"), each)

    def share(self, part: float) -> None:
        self._table.share(part)

    def time_to_live(self) -> str | None:
        """The attribute by which the table deletes items; None if it deletes none, or its server does not know the call."""
        try:
            told = self._table.call("describe_time_to_live", TableName=self._table.name)["TimeToLiveDescription"]
        except (NoTable, NoSuchCall):
            return None
        return told["AttributeName"] if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") else None

    def ask(self, kind: str, wanted: Sequence[Record]) -> list[Found]:
        request = self.layout.kinds[kind].request
        assert request is not None
        return list(self._table.pool.map(partial(self._ask, request), wanted))

    def _ask(self, request: Request, by: Record) -> Found:
        """One GetItem or one page of a Query: LuminoraCore reads no second (H27). What DynamoDB refuses is nothing found."""
        try:
            if request.index is not None and self.layout.index is not None:
                name, hashed, _ = self.layout.index
                # The name as it is, as LuminoraCore writes it: where it is a reserved word neither is answered.
                return self._first_page([(hashed, "=", request.index.fill(by))], True, IndexName=name)
            if request.query:
                names = {f"#k{n}": name for n, name in enumerate(self.layout.key)}
                terms = zip(names, ("=", "begins_with"), (template.fill(by) for template in request.query))
                return self._first_page(list(terms), False, ExpressionAttributeNames=names)
            for templates in request.get:
                key = {
                    name: {"S": template.fill(by)} for name, template in zip(self.layout.key, templates, strict=True)
                }
                answer = self._table.call(
                    "get_item", TableName=self._table.name, Key=key, ConsistentRead=self.consistent
                )
                if "Item" in answer:
                    return Found([from_item(answer["Item"])])
        except Refused as exc:
            return Found(trouble=f"DynamoDB refuses the request: {exc}")
        except NoTable:
            if not self.may_be_missing:
                raise
        except ValueError:
            return Found(trouble="an item holds a value that is none of DynamoDB's")
        return Found()

    def _first_page(self, terms: list[tuple[str, str, str]], by_index: bool, **request: Any) -> Found:
        conditions = [
            f"{n} = :v{i}" if how == "=" else f"begins_with({n}, :v{i})" for i, (n, how, _) in enumerate(terms)
        ]
        answer = self._table.call(
            "query",
            TableName=self._table.name,
            KeyConditionExpression=" AND ".join(conditions),
            ExpressionAttributeValues={f":v{i}": {"S": value} for i, (_, _, value) in enumerate(terms)},
            ConsistentRead=self.consistent and not by_index,
            **request,
        )
        return Found([from_item(item) for item in answer["Items"]], "LastEvaluatedKey" in answer, by_index)

    def close(self) -> None:
        self._table.close()

    def _description(self) -> dict[str, Any] | None:
        described = self._table.describe()
        if described is None and not self.may_be_missing:
            raise StoreError(f"{self._table.words}: there is no such table any more; bring it back and run again")
        if described is not None:
            self.may_be_missing = False
        return described

    def _each(self) -> Iterator[Item]:
        """The table's items one after the other. A few first: mostly they tell enough, and a page of up to 1 MB is not paid for."""
        whole = {"segment": 0, "of": 1}
        few, behind = next(self._scan(whole, None, _FEW), ([], None))
        yield from few
        if behind:
            for items, _ in self._scan(whole, behind, PAGE_ROWS):
                yield from items

    def _scan(self, spec: dict[str, Any], start: Item | None, limit: int) -> Iterator[tuple[list[Item], Item | None]]:
        segment = {"Segment": spec["segment"], "TotalSegments": spec["of"]}
        yield from self._answers("scan", start, Limit=limit, **segment)

    def repeated(self, kinds: Sequence[str], partition: Partition | None = None) -> Iterator[Row]:
        """Read once more: rows of kinds whose key guarantees no identity, rows that lie elsewhere than their key says, and what lies there."""
        mates: dict[str, Item] = {}
        guaranteed = {kind for kind in kinds if kind in self.layout.kinds and self.layout.guarantees(kind)}
        for each in [partition] if partition is not None else self.partitions(kinds, 1):
            for page in self._pages(each, None, _AT_ONCE, guaranteed):
                # What is alike lies where its record belongs.
                page.alike = [rows for rows in page.alike if rows.kind in kinds and rows.kind not in guaranteed]
                for row in page.rows:
                    if row.kind not in kinds:
                        continue
                    if row.kind not in guaranteed:
                        yield row
                    elif self.layout.is_misplaced(row):
                        yield row
                        with suppress(RecordError):
                            key = to_item(only(self.layout.key, self.layout.write(replace(row, origin=None))))
                            mates[place_of(key)] = key
                if len(mates) >= FETCH_KEYS:
                    yield from self._mates(mates)
                    mates = {}
        yield from self._mates(mates)

    def _mates(self, keys: dict[str, Item]) -> Iterator[Row]:
        for item in self._fetch_keys(list(keys.values())):
            found = self._items.read(item)
            if isinstance(found, Row):
                yield found

    def _fetch_keys(self, keys: list[Item]) -> Iterator[Item]:
        try:
            for item in self._items.fetch(keys):
                self.may_be_missing = False
                yield item
        except NoTable:
            if self.may_be_missing:
                return
            raise
        if keys:
            self.may_be_missing = False  # it was asked, and has answered

    def _answers(
        self, operation: str, start: Item | None = None, **request: Any
    ) -> Iterator[tuple[list[Item], Item | None]]:
        """The items of each answer with the key behind them, which is None behind the last."""
        request |= {"TableName": self._table.name, "ConsistentRead": self.consistent}
        most = request.get("Limit")
        while True:
            if most is not None:
                request["Limit"] = self._table.reads.fitting(operation, most)
            if start:
                request["ExclusiveStartKey"] = start
            try:
                answer = self._table.call(operation, **request)
            except NoTable:
                if self.may_be_missing:
                    return
                raise
            self.may_be_missing = False
            behind = answer.get("LastEvaluatedKey")
            if start and behind == start:
                raise TransientStoreError(f"{self._table.words}: {operation} gave the page before once more; run again")
            start = behind
            yield answer["Items"], start
            if not start:
                return


class _Wanted(NamedTuple):
    """A row of a kind with derived keys that is looked for: its number among those asked for, and the place it would get."""

    number: int
    row: Row
    place: str


class DynamoDBReader(DynamoDBSource, Reader):
    """A table as a run looks at the place it would write to: consistent reads, and a table that is not there yet is empty.

    One that was there and has gone is not empty: that is an error, as it is of a source.
    """

    consistent = True
    may_be_missing = True

    def fit(self, row: Row) -> Row | Reject:
        plain = self._items.plain.of(row)
        if plain is not None:
            row.encoded = plain
            return row
        try:
            fitted = self.layout.fit(row, self.setting.unknown_fields)
            stored = self._items.stored(fitted)
            if self.setting.expired == "reject" and (left := self.remaining(fitted)) is not None and left <= 0:
                raise RecordError(
                    f"expired: the table deletes it by its {self._deletes_by}, which has passed (--expired write writes it all the same)"
                )
        except RecordError as exc:
            return rejected(row, str(exc))
        fitted.encoded = None if stored.texts else stored
        return fitted

    def fits_alike(self, rows: Alike) -> bool:
        return self._items.plain.makes(rows.kind, rows.signature)

    def fit_alike(self, rows: Alike) -> bool:
        rows.encoded = self._items.plain.of_all(rows)
        return rows.encoded is not None

    def would_fit_alike(self, rows: Alike) -> bool:
        return self._items.plain.are_small(rows) or self.fit_alike(rows)

    def remaining(self, row: Row) -> float | None:
        name = self._expiring[row.kind]
        if name is None or (name not in row.record and (row.origin is None or name not in row.origin.extra)):
            return None  # without a time of expiry the table is not even asked
        attribute = self._expires[row.kind]
        if self._deletes_by != attribute:
            return None
        until: Any = self.layout.write(row).get(attribute)
        return float(until) - time.time() if is_number(until) else None

    @cached_property
    def _expiring(self) -> dict[str, str | None]:
        """By kind, the field, or the attribute of an origin, with the time of expiry."""
        return {name: spec.kind.expires for name, spec in self.layout.kinds.items()}

    @cached_property
    def _expires(self) -> dict[str, str]:
        """By kind, for those that have one, the attribute with the time of expiry: where that field lives, else one of the store's own."""
        found = {}
        for name, spec in self.layout.kinds.items():
            if (expires := spec.kind.expires) is not None:
                places = (place.attribute for place in spec.places if place.field.name == expires)
                found[name] = next(places, expires)
        return found

    @cached_property
    def _deletes_by(self) -> str | None:
        """Asked for once: a time-to-live that somebody switches on meanwhile counts from the next run on."""
        return self.time_to_live() if self._description() is not None else None

    def takes(self, foreign: Foreign) -> bool:
        """As it is: into a table whose key attributes it has."""
        try:
            item = to_item(foreign.held)
            check_item(item, self.layout.key, self.layout.index)
        except RecordError:
            return False
        return not self._items.oversize.is_part(item)

    def weigh(self, row: Row) -> Weight:
        item = to_item(self.layout.write(row))
        packed = self._items.oversize.pack(row.kind, item)
        head, *parts = self._items.oversize.sizes(packed)
        units = write_units(packed.item, head, self.layout.index) + sum(-(-size // 1024) for size in parts)
        return Weight(head + sum(parts), float(units), packed.form)

    def apart(self, row: Row) -> bytes:
        origin = row.origin
        if origin is None or origin.layout != self.layout.id:
            return b""
        key = only(self.layout.key, origin.set)
        return canonical(key) if key else b""

    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        """As the base says. A place that holds an item of another identity or kind gives that one, under the identity asked for.

        So the engine sees that something else lives where the row would go.
        """
        by_key: dict[str, tuple[Item, list[int]]] = {}
        by_prefix: dict[tuple[str, str], list[_Wanted]] = {}
        for number, row in enumerate(rows):
            try:
                key = to_item(only(self.layout.key, self.layout.write(row)))
                hashed, ranged = (*(key[name]["S"] for name in self.layout.key), "")[:2]
                spec = self.layout.kinds.get(row.kind)  # a foreign item has none
                free = spec.keys[-1].free if spec else None
                prefix = free.render(spec.kind, row.record) if spec and free else None
            except (RecordError, KeyError):
                continue  # it has no place here, so nothing is held there
            place = place_of(key)
            if prefix is not None:
                by_prefix.setdefault((hashed, prefix), []).append(_Wanted(number, row, place))
            if prefix is None or not ranged.startswith(prefix):
                by_key.setdefault(place, (key, []))[1].append(number)
        held: list[Row | None] = [None] * len(rows)
        for item in self._fetch_keys([key for key, _ in by_key.values()]):
            for number in by_key[place_of(only(self.layout.key, item))][1]:
                held[number] = self._items.held(rows[number], item)
        # What has the identity itself, under whatever key, comes before what only sits at the row's own key.
        for found in self._table.pool.map(self._fetch_prefix, by_prefix.keys(), by_prefix.values()):
            for number, there in found.items():
                held[number] = there
        return held

    def _fetch_prefix(self, prefix: tuple[str, str], wanted: list[_Wanted]) -> dict[int, Row]:
        """By identity under a prefix of range keys: what is at the row's own place, else the smallest that no other row has; or what else is there."""
        same: dict[tuple[str, Identity], dict[str, Row]] = {self._name(each.row): {} for each in wanted}
        places = {each.place for each in wanted}
        strangers: dict[str, Item] = {}
        query: dict[str, Any] = {
            "KeyConditionExpression": "#hash = :hash AND begins_with(#range, :range)",
            "ExpressionAttributeNames": {"#hash": self.layout.key[0], "#range": self.layout.key[1]},
            "ExpressionAttributeValues": {":hash": {"S": prefix[0]}, ":range": {"S": prefix[1]}},
        }
        for items, _ in self._answers("query", **query):
            for item in items:
                found = self._items.read(item)
                if found is None or self._items.oversize.is_part(item):
                    continue
                if isinstance(found, Row) and (name := self._name(found)) in same:
                    same[name][found.place] = found
                if found.place in places:
                    strangers[found.place] = item
        held: dict[int, Row] = {}
        for each in wanted:
            own = same[self._name(each.row)].pop(each.place, None)
            if own is not None:
                held[each.number] = own
        for each in wanted:
            others = same[self._name(each.row)]
            if each.number in held:
                continue
            if others:
                held[each.number] = others.pop(min(others))
            elif each.place in strangers:
                held[each.number] = self._items.held(each.row, strangers[each.place])
        return held

    def _name(self, row: Row) -> tuple[str, Identity]:
        return row.kind, self.layout.identity_of(row)
