"""Writes records into one DynamoDB table and reads them back.

Knows scans, queries, batches and conditional puts. Leaves how a request gets through to `dynamodb_requests`, what a value becomes and
what an item weighs to `dynamodb_values`. Knows nothing of fields, mappings, slices or checkpoints: `layout` makes attributes of rows and
rows of attributes, the engine decides what is written and when.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, NamedTuple

from migrator.adapters import dynamodb_ladder
from migrator.adapters.base import PAGE_BYTES, PAGE_ROWS, Flushed, Reader, Setting, Sink, Source, is_as_it_was, rejected
from migrator.adapters.dynamodb_requests import (
    PLAN_PATIENCE,
    THREADS,
    NoSuchCall,
    NoTable,
    Pace,
    Refused,
    Table,
    Taken,
    planning,
    shape_words,
)
from migrator.adapters.dynamodb_values import Item, check_item, from_item, item_size, to_item
from migrator.errors import ConfigError, RecordError, StoreError, TransientStoreError
from migrator.layout import Layout, Request
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Address,
    Cursor,
    Existing,
    Finding,
    Foreign,
    Found,
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
    identity_key,
)
from migrator.values import canonical, is_number

BATCH_ITEMS, FETCH_KEYS = 25, 100
BATCH_BYTES = 2 << 20  # a request may have 16 MB, and a byte of text may take six in JSON
PENDING = 2 * THREADS  # batches that are sent or wait for a thread

_FEW = 100  # items that are enough to tell what a table holds, mostly
_END = "end"  # the cursor behind the last page


class DynamoDBAdapter:
    traits = Traits(parallel=True)

    def describe(self, address: Address) -> Shape | None:
        with planning(), closing(Table(address, PLAN_PATIENCE)) as table:
            described = table.describe()
            if described is None:
                return None
            items = table.call("scan", TableName=table.name, Limit=_FEW)["Items"]
            return table.shape(described, tuple(from_item(item) for item in items))

    def check(self, layout: Layout) -> None:
        """Nothing can be wrong that the mapping itself does not tell."""

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        return dynamodb_ladder.ladder(address)

    def whereabouts(self, address: Address) -> str:
        """ARN, endpoint and profile, for the plan. Of a table that is not there yet the account is not known: `*`."""
        with planning(), closing(Table(address, PLAN_PATIENCE)) as table:
            described = table.describe()
            meta = table.client.meta
            made = f"arn:{meta.partition}:dynamodb:{meta.region_name}:*:table/{table.name}"
            arn = described.get("TableArn", made) if described else made
            return f"{arn} at {table.endpoint} (profile {table.profile})"

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> Source:
        return DynamoDBSource(address, setting)

    def reader(self, address: Address, setting: Setting) -> Reader:
        return DynamoDBReader(address, setting)

    def sink(self, address: Address, setting: Setting) -> Sink:
        return DynamoDBSink(address, setting)


# Reading ---------------------------------------------------------------------------------------------------------------


class DynamoDBSource(Source):
    """A table as it is scanned, eventually consistent: half the price, and a copy of a moving table is no moment anyway."""

    consistent = False
    may_be_missing = False
    holds_foreign = True

    def __init__(self, address: Address, setting: Setting, pace: Pace | None = None) -> None:
        super().__init__(setting)
        self._table = Table(address, pace=pace)

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
        for items, behind in self._scan(partition.spec, after, PAGE_ROWS):
            page = Page([], behind or _END)
            for item in items:
                page.add(_read(self.layout, item))
            yield page

    def holds(self, kinds: Sequence[str]) -> Holdings:
        described = self._description()
        if described is None:
            return Holdings(False, "no table")
        words = f"~{described.get('ItemCount', 0):,} items"
        for item in self._items():
            found = _read(self.layout, item)
            if (FOREIGN if isinstance(found, Foreign) else found.kind) in (*kinds, UNKNOWN_KIND):
                return Holdings(True, words)
        return Holdings(False, words)

    def size_hint(self) -> int | None:
        described = self._description()
        return described.get("ItemCount") if described else 0

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
        return described

    def _items(self) -> Iterator[Item]:
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

    def repeated(self, kinds: Sequence[str]) -> Iterator[Row]:
        """Read once more: rows of kinds whose key guarantees no identity, rows that lie elsewhere than their key says, and what lies there."""
        mates: dict[str, Item] = {}
        for partition in self.partitions(kinds, 1):
            for page in self.pages(partition, None):
                for row in page.rows:
                    if row.kind not in kinds:
                        continue
                    if not self.layout.guarantees(row.kind):
                        yield row
                    elif self.layout.is_misplaced(row):
                        yield row
                        with suppress(RecordError):
                            key = to_item(_only(self.layout.key, self.layout.write(replace(row, origin=None))))
                            mates[_place(key)] = key
                if len(mates) >= FETCH_KEYS:
                    yield from self._mates(mates)
                    mates = {}
        yield from self._mates(mates)

    def _mates(self, keys: dict[str, Item]) -> Iterator[Row]:
        found = (_read(self.layout, item) for item in self._fetch_keys(list(keys.values())))
        return (row for row in found if isinstance(row, Row))

    def _fetch_keys(self, keys: list[Item]) -> Iterator[Item]:
        for start in range(0, len(keys), FETCH_KEYS):
            request = {self._table.name: {"Keys": keys[start : start + FETCH_KEYS], "ConsistentRead": True}}
            try:
                for answer in self._table.batches("batch_get_item", request):
                    yield from answer["Responses"].get(self._table.name, ())
            except NoTable:
                return

    def _answers(
        self, operation: str, start: Item | None = None, **request: Any
    ) -> Iterator[tuple[list[Item], Item | None]]:
        """The items of each answer with the key behind them, which is None behind the last."""
        request |= {"TableName": self._table.name, "ConsistentRead": self.consistent}
        while True:
            if start:
                request["ExclusiveStartKey"] = start
            try:
                answer = self._table.call(operation, **request)
            except NoTable:
                if self.may_be_missing:
                    return
                raise
            start = answer.get("LastEvaluatedKey")
            yield answer["Items"], start
            if not start:
                return


class _Wanted(NamedTuple):
    """A row of a kind with derived keys that is looked for: its number among those asked for, and the place it would get."""

    number: int
    row: Row
    place: str


class DynamoDBReader(DynamoDBSource, Reader):
    """A table as a run looks at the place it would write to: consistent reads, and a table that is not there is empty."""

    consistent = True
    may_be_missing = True

    def fit(self, row: Row) -> Row | Reject:
        try:
            fitted = self.layout.fit(row, self.setting.unknown_fields)
            item = self.layout.write(fitted)
            check_item(to_item(item), self.layout.key, self.layout.index)
            if self.setting.expired == "reject" and (left := self._left(row.kind, item)) is not None and left <= 0:
                raise RecordError(
                    f"expired: the table deletes it by its {self._deletes_by}, which has passed (--expired write writes it all the same)"
                )
        except RecordError as exc:
            return rejected(row, str(exc))
        return fitted

    def remaining(self, row: Row) -> float | None:
        name = self.layout.kinds[row.kind].kind.expires
        if name is None or (name not in (row.origin.extra if row.origin else {}) and name not in row.record):
            return None
        if self._deletes_by is None:
            return None
        return self._left(row.kind, self.layout.write(row))

    def _left(self, kind: str, item: dict[str, Any]) -> float | None:
        """What only records with a time of expiry have; without one the table is not even asked."""
        name = self._expires.get(kind)
        until = item.get(name) if name else None
        if until is None or not is_number(until) or self._deletes_by != name:
            return None
        return float(until) - time.time()

    @cached_property
    def _expires(self) -> dict[str, str | None]:
        """By kind, the attribute with the time of expiry."""
        found: dict[str, str | None] = {}
        for name, spec in self.layout.kinds.items():
            places = [place.attribute for place in spec.places if place.field.name == spec.kind.expires]
            found[name] = places[0] if places else spec.kind.expires
        return found

    @cached_property
    def _deletes_by(self) -> str | None:
        """Asked for once: a time-to-live that somebody switches on meanwhile counts from the next run on."""
        return self.time_to_live() if self._description() is not None else None

    def takes(self, foreign: Foreign) -> bool:
        """As it is: into a table whose key attributes it has."""
        try:
            check_item(to_item(foreign.held), self.layout.key, self.layout.index)
        except RecordError:
            return False
        return True

    def weigh(self, row: Row) -> Weight:
        item = to_item(self.layout.write(row))
        size = item_size(item)
        indexed = self.layout.index is not None and all(name in item for name in self.layout.index[1:] if name)
        return Weight(size, -(-size // 1024) * (2.0 if indexed else 1.0))

    def apart(self, row: Row) -> bytes:
        origin = row.origin
        if origin is None or origin.layout != self.layout.id:
            return b""
        return canonical(_only(self.layout.key, origin.set))

    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        """As the base says. A place that holds an item of another identity or kind gives that one, under the identity asked for.

        So the engine sees that something else lives where the row would go.
        """
        by_key: dict[str, tuple[Item, list[int]]] = {}
        by_prefix: dict[tuple[str, str], list[_Wanted]] = {}
        for number, row in enumerate(rows):
            try:
                key = to_item(_only(self.layout.key, self.layout.write(row)))
                hashed, ranged = (*(key[name]["S"] for name in self.layout.key), "")[:2]
                spec = self.layout.kinds.get(row.kind)  # a foreign item has none
                free = spec.keys[-1].free if spec else None
                prefix = free.render(spec.kind, row.record) if spec and free else None
            except (RecordError, KeyError):
                continue  # it has no place here, so nothing is held there
            place = _place(key)
            if prefix is not None:
                by_prefix.setdefault((hashed, prefix), []).append(_Wanted(number, row, place))
            if prefix is None or not ranged.startswith(prefix):
                by_key.setdefault(place, (key, []))[1].append(number)
        held: list[Row | None] = [None] * len(rows)
        for item in self._fetch_keys([key for key, _ in by_key.values()]):
            for number in by_key[_place(_only(self.layout.key, item))][1]:
                held[number] = _as_held(self.layout, rows[number], item)
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
                found = _read(self.layout, item)
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
                held[each.number] = _as_held(self.layout, each.row, strangers[each.place])
        return held

    def _name(self, row: Row) -> tuple[str, Identity]:
        return row.kind, self.layout.identity_of(row)


# Writing ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Put:
    row: Row
    item: Item
    size: int


@dataclass(slots=True)
class _Slice:
    """What came since `begin`: the batch that grows, those under way, and which identity has which key."""

    existing: Existing = Existing.EMPTY
    batch: dict[str, _Put] = field(default_factory=dict)
    batch_bytes: int = 0
    pending: deque[Future[Flushed]] = field(default_factory=deque)
    flushed: Flushed = field(default_factory=Flushed)
    keys: dict[str, bytes] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class DynamoDBSink(Sink):
    """A table as it is written: batches where nothing can be in the way, else single puts with a condition."""

    traits = DynamoDBAdapter.traits

    def __init__(self, address: Address, setting: Setting, pace: Pace | None = None) -> None:
        super().__init__(setting)
        self._address = address
        self._pace = pace
        self._table = Table(address, pace=pace)
        self._slice = _Slice()

    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        table = self._table
        with planning():
            if table.describe() is None:
                if not create:
                    raise ConfigError(f"{table.words}: there is no such table; --create makes it")
                table.create(self.layout.key, self.layout.index)
            described = table.wait_until_active()
            shape = table.shape(described)
        if (shape.key, shape.index) != (self.layout.key, self.layout.index):
            raise ConfigError(
                f"{table.words}: its keys are {shape_words(shape.key, shape.index)}, the layout {self.layout.id} needs "
                f"{shape_words(self.layout.key, self.layout.index)}; choose another table or another --mapping"
            )

    def begin(self, slice_name: str) -> None:
        self._abandon()
        self._slice = _Slice()

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        now = self._slice
        if existing is not now.existing:
            self._send()
            now.existing = existing
        for row in rows:
            try:
                item = to_item(self.layout.write(row))
                key = _place(_only(self.layout.key, item))
                name = identity_key(row.kind, self.layout.identity_of(row))
            except (RecordError, ValueError) as exc:
                now.flushed.rejects.append(rejected(row, str(exc)))
                continue
            if key not in now.keys:
                now.keys[key] = name
            elif now.keys[key] != name:
                reason = "another record of the same slice, with another identity, has the same key"
                now.flushed.rejects.append(rejected(row, reason))
                continue
            elif key not in now.batch:
                self._settle()  # what was sent under this key must not come after what is sent now
            self._add(key, _Put(row, item, item_size(item)))

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        now = self._slice
        self._send()
        self._settle()  # a row may come a second time, after what was there has changed
        for row, before in pairs:
            while len(now.pending) >= PENDING:
                self._collect()
            try:
                item = to_item(self.layout.write(row))
            except RecordError as exc:
                now.flushed.rejects.append(rejected(row, str(exc)))
                continue
            put = _Put(row, item, item_size(item))
            now.pending.append(
                self._table.pool.submit(self._guarded, now, partial(self._put_over, before=before), [put])
            )

    def _put_over(self, now: _Slice, puts: list[_Put], before: Row) -> Flushed:
        """Puts an item over another that is still as it was: read once more, and put under the condition that this very item is there."""
        (put,) = puts
        item = self._get(now, _only(self.layout.key, put.item))
        if item is None:
            return self._put_where_nothing_is(now, puts)
        held = _as_held(self.layout, put.row, item)
        if is_as_it_was(before, held):
            condition, names, values = _that_is(item)
            try:
                later = self._put_if(now, put, condition, names, values)
            except Refused as exc:
                return Flushed(rejects=[_refused(put.row, exc)])
            if later is None or later == put.item:  # our own, whose answer was lost
                return Flushed()
            if not later:
                return self._put_where_nothing_is(now, puts)
            held = _as_held(self.layout, put.row, later)
        return Flushed(held=[(put.row, held)])

    def remove(self, rows: Iterable[Row]) -> None:
        now = self._slice
        self._send()
        self._settle()
        for row in rows:
            while len(now.pending) >= PENDING:
                self._collect()
            now.pending.append(self._table.pool.submit(self._guarded, now, partial(self._delete, row=row), []))

    def _delete(self, now: _Slice, puts: list[_Put], row: Row) -> Flushed:
        """Deletes an item that is still as it was: read once more, and deleted under the condition that this very item is there."""
        key = _only(self.layout.key, to_item(self.layout.write(row)))
        item = self._get(now, key)
        while item is not None:
            held = _as_held(self.layout, row, item)
            if not is_as_it_was(row, held):
                return Flushed(held=[(row, held)])
            condition, names, values = _that_is(item)
            try:
                self._table.call(
                    "delete_item",
                    now.stop,
                    TableName=self._table.name,
                    Key=key,
                    ConditionExpression=condition,
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues=values,
                )
            except Taken:
                item = self._get(now, key)
                continue
            break
        return Flushed()

    def _add(self, key: str, put: _Put) -> None:
        now = self._slice
        earlier = now.batch.pop(key, None)
        if earlier is not None:
            now.batch_bytes -= earlier.size
        elif len(now.batch) == BATCH_ITEMS or now.batch_bytes + put.size > BATCH_BYTES:
            self._send()
        now.batch[key] = put
        now.batch_bytes += put.size

    def _send(self) -> None:
        now = self._slice
        if now.stop.is_set():
            raise now.error or StoreError("the slice was given up: begin it again")
        if not now.batch:
            return
        while len(now.pending) >= PENDING:
            self._collect()
        puts, now.batch, now.batch_bytes = list(now.batch.values()), {}, 0
        write = self._put_where_nothing_is if now.existing is Existing.REFUSE else self._put_batch
        now.pending.append(self._table.pool.submit(self._guarded, now, write, puts))

    def flush(self) -> Flushed:
        self._send()
        self._settle()
        return self._slice.flushed

    def _settle(self) -> None:
        while self._slice.pending:
            self._collect()

    def _collect(self) -> None:
        now = self._slice
        sent = now.pending.popleft()
        error = sent.exception()
        if error is not None:
            self._abandon()
            raise now.error or error
        flushed = sent.result()
        now.flushed.held += flushed.held
        now.flushed.rejects += flushed.rejects

    def _abandon(self) -> None:
        """End what is under way: nothing of a slice that failed is written once the next one has begun."""
        now = self._slice
        now.stop.set()
        while now.pending:
            now.pending.popleft().exception()

    def _guarded(self, now: _Slice, write: Callable[[_Slice, list[_Put]], Flushed], puts: list[_Put]) -> Flushed:
        """In a thread of the pool: the first error ends the other threads' waiting, and is the one that is told."""
        try:
            return write(now, puts)
        except Exception as exc:
            if not now.stop.is_set():
                now.error = exc
                now.stop.set()
            raise

    def _put_batch(self, now: _Slice, puts: list[_Put]) -> Flushed:
        request = {self._table.name: [{"PutRequest": {"Item": put.item}} for put in puts]}
        try:
            for _ in self._table.batches("batch_write_item", request, now.stop):
                pass
        except Refused as exc:
            if len(puts) == 1:
                return Flushed(rejects=[_refused(puts[0].row, exc)])
            # One bad item and the service refuses all: alone, each shows whether it is the one.
            alone = [self._put_batch(now, [put]) for put in puts]
            return Flushed(rejects=[reject for each in alone for reject in each.rejects])
        return Flushed()

    def _put_where_nothing_is(self, now: _Slice, puts: list[_Put]) -> Flushed:
        flushed = Flushed()
        for put in puts:
            try:
                held = self._put_or_held(now, put)
            except Refused as exc:
                flushed.rejects.append(_refused(put.row, exc))
            else:
                if held is not None:
                    flushed.held.append((put.row, _as_held(self.layout, put.row, held)))
        return flushed

    def _put_or_held(self, now: _Slice, put: _Put) -> Item | None:
        """Puts the item where nothing is; else what is there. An item of ours whose answer was lost is there too, and equal."""
        for _ in range(5):
            held = self._put_if(now, put, "attribute_not_exists(#hash)", {"#hash": self.layout.key[0]})
            if held is None or held:
                return held
        raise TransientStoreError(f"{self._table.words}: an item comes and goes where one is to be written")

    def _put_if(
        self, now: _Slice, put: _Put, condition: str, names: dict[str, str], values: Item | None = None
    ) -> Item | None:
        """Puts the item under a condition: None if it is there now, else what is held in its place; empty if that has gone meanwhile."""
        request: dict[str, Any] = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
        if values:
            request["ExpressionAttributeValues"] = values
        try:
            self._table.call(
                "put_item",
                now.stop,
                TableName=self._table.name,
                Item=put.item,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **request,
            )
        except Taken as exc:  # not every server says what it holds
            return exc.item or self._get(now, _only(self.layout.key, put.item)) or {}
        return None

    def _get(self, now: _Slice, key: Item) -> Item | None:
        answer = self._table.call("get_item", now.stop, TableName=self._table.name, Key=key, ConsistentRead=True)
        held: Item | None = answer.get("Item")
        return held

    def reader(self) -> Reader:
        return DynamoDBReader(self._address, self.setting, self._pace)

    def close(self) -> None:
        self._abandon()
        self._table.close()


def _that_is(item: Item) -> tuple[str, dict[str, str], Item]:
    """The condition that this very item is there, with its names and values."""
    names = {f"#{n}": name for n, name in enumerate(item)}
    values = {f":{mark[1:]}": item[name] for mark, name in names.items()}
    return " AND ".join(f"{mark} = :{mark[1:]}" for mark in names), names, values


def _refused(row: Row, exc: Refused) -> Reject:
    return rejected(row, f"DynamoDB refuses it: {exc}")


# Items as rows ---------------------------------------------------------------------------------------------------------


def _read(layout: Any, item: Item) -> Row | Foreign | Reject:
    place = _place(_only(layout.key, item))
    try:
        held = from_item(item)
    except ValueError:
        return Reject(UNKNOWN_KIND, place, "holds a value that is none of DynamoDB's", {})
    found: Row | Foreign | Reject = layout.read(held, place)
    return found


def _as_held(layout: Any, wanted: Row, item: Item) -> Row:
    """What is held at a row's place, as a row, whatever it is: an item of no kind comes as the kind wanted, with all its attributes."""
    found = _read(layout, item)
    return found if isinstance(found, Row) else Row(wanted.kind, found.held, None, found.place)


def _only(names: tuple[str, ...], held: dict[str, Any]) -> dict[str, Any]:
    return {name: held[name] for name in names if name in held}


def _place(key: Item) -> str:
    """A key as canonical JSON text, for people and for the order of duplicates."""
    plain = {name: held for name, attribute in key.items() for held in attribute.values()}
    try:
        return canonical(plain).decode()
    except ValueError:
        return json.dumps(plain, sort_keys=True)  # a lone surrogate, which only emulators let in


ADAPTER = DynamoDBAdapter()
