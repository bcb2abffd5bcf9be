"""Writes records into one DynamoDB table and reads them back.

Knows boto3, the service's limits, sizes and answers, and repeats what was throttled, left unprocessed or lost on the way, so that nothing
is left out and nothing spins. Knows nothing of fields, mappings, slices or checkpoints: `layout` makes attributes of rows and rows of
attributes, the engine decides what is written and when.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import boto3
import botocore.loaders
import botocore.session
from botocore import exceptions as boto
from botocore.config import Config

from migrator.adapters.base import PAGE_BYTES, PAGE_ROWS, Flushed, Reader, Setting, Sink, Source
from migrator.errors import ConfigError, RecordError, StoreError, TransientStoreError
from migrator.model import (
    UNKNOWN_KIND,
    Address,
    Cursor,
    Existing,
    Foreign,
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
from migrator.values import Value, canonical, is_number, number

AttributeValue = dict[str, Any]
Item = dict[str, AttributeValue]

ITEM_BYTES = 409_600
HASH_BYTES, RANGE_BYTES = 2048, 1024
DIGITS = 38
DEPTH = 31  # lists and maps inside each other: the item itself is the first of the service's 32 levels

BATCH_ITEMS, FETCH_KEYS = 25, 100
BATCH_BYTES = 2 << 20  # a request may have 16 MB, and a byte of text may take six in JSON
THREADS = 4  # requests at once, to hide latency
PENDING = 2 * THREADS  # batches that are sent or wait for a thread

PAUSE_BASE, PAUSE_CAP = 0.05, 20.0  # seconds
PATIENCE = 300.0  # seconds without any progress after which a call gives up
PLAN_PATIENCE = 3.0  # the same while a person waits for the plan

_END = "end"  # the cursor behind the last page


class DynamoDBAdapter:
    traits = Traits(parallel=True)

    def describe(self, address: Address) -> Shape | None:
        with _planning(), closing(_Table(address, PLAN_PATIENCE)) as table:
            described = table.describe()
            if described is None:
                return None
            items = table.call("scan", TableName=table.name, Limit=25)["Items"]
            return table.shape(described, tuple(_plain(item) for item in items))

    def whereabouts(self, address: Address) -> str:
        """ARN, endpoint and profile, for the plan. Of a table that is not there yet the account is not known: `*`."""
        with _planning(), closing(_Table(address, PLAN_PATIENCE)) as table:
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

    def __init__(self, address: Address, setting: Setting, pace: Pace | None = None) -> None:
        super().__init__(setting)
        self._table = _Table(address, pace=pace)

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
                match _read(self.layout, item):
                    case Row() as row:
                        page.rows.append(row)
                    case Foreign() as foreign:
                        page.foreign.append(foreign)
                    case Reject() as reject:
                        page.rejects.append(reject)
            yield page

    def holds(self, kinds: Sequence[str]) -> Holdings:
        described = self._description()
        if described is None:
            return Holdings(False, "no table")
        words = f"~{described.get('ItemCount', 0):,} items"
        for items, _ in self._scan({"segment": 0, "of": 1}, None, PAGE_ROWS):
            for item in items:
                found = _read(self.layout, item)
                if not isinstance(found, Foreign) and found.kind in (*kinds, UNKNOWN_KIND):
                    return Holdings(True, words)
        return Holdings(False, words)

    def size_hint(self) -> int | None:
        described = self._description()
        return described.get("ItemCount") if described else 0

    def time_to_live(self) -> str | None:
        """The attribute by which the table deletes items; None if it deletes none, or its server does not know the call."""
        try:
            told = self._table.call("describe_time_to_live", TableName=self._table.name)["TimeToLiveDescription"]
        except (_NoTable, _NoSuchCall):
            return None
        return told["AttributeName"] if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") else None

    def close(self) -> None:
        self._table.close()

    def _description(self) -> dict[str, Any] | None:
        described = self._table.describe()
        if described is None and not self.may_be_missing:
            raise StoreError(f"{self._table.words}: there is no such table any more")
        return described

    def _scan(self, spec: dict[str, Any], start: Item | None, limit: int) -> Iterator[tuple[list[Item], Item | None]]:
        segment = {"Segment": spec["segment"], "TotalSegments": spec["of"]}
        yield from self._answers("scan", start, Limit=limit, **segment)

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
            except _NoTable:
                if self.may_be_missing:
                    return
                raise
            start = answer.get("LastEvaluatedKey")
            yield answer["Items"], start
            if not start:
                return


class DynamoDBReader(DynamoDBSource, Reader):
    """A table as a run looks at the place it would write to: consistent reads, and a table that is not there is empty."""

    consistent = True
    may_be_missing = True

    def fit(self, row: Row) -> Row | Reject:
        try:
            fitted = self.layout.fit(row, self.setting.unknown_fields)
            _check(_to_item(self.layout.write(fitted)), self.layout.key, self.layout.index)
        except RecordError as exc:
            return Reject(row.kind, row.place, str(exc), row.record, row.origin)
        return fitted

    def weigh(self, row: Row) -> Weight:
        item = _to_item(self.layout.write(row))
        size = item_size(item)
        indexed = self.layout.index is not None and all(name in item for name in self.layout.index[1:])
        return Weight(size, -(-size // 1024) * (2.0 if indexed else 1.0))

    def fetch(self, rows: Sequence[Row]) -> dict[tuple[str, Identity], Row]:
        """As the base says. A place that holds an item of another identity or kind gives that one, under the identity asked for.

        So the engine sees that something else lives where the row would go.
        """
        by_key: dict[str, tuple[Item, list[Row]]] = {}
        by_prefix: dict[tuple[str, str], list[tuple[Row, str]]] = {}
        for row in rows:
            try:
                key = _to_item(_only(self.layout.key, self.layout.write(row)))
                hashed, ranged = (key[name]["S"] for name in self.layout.key)
                spec = self.layout.kinds[row.kind]
                free = spec.keys[1].free
                prefix = free.render(spec.kind, row.record) if free else None
            except (RecordError, KeyError):
                continue  # it has no place here, so nothing is held there
            place = _place(key)
            if prefix is not None:
                by_prefix.setdefault((hashed, prefix), []).append((row, place))
            if prefix is None or not ranged.startswith(prefix):
                by_key.setdefault(place, (key, []))[1].append(row)
        held: dict[tuple[str, Identity], Row] = {}
        for item in self._fetch_keys([key for key, _ in by_key.values()]):
            for row in by_key[_place(_only(self.layout.key, item))][1]:
                held[self._name(row)] = _as_held(self.layout, row, item)
        # What has the identity itself, under whatever key, comes before what only sits at the row's own key.
        for found in self._table.pool.map(self._fetch_prefix, by_prefix.keys(), by_prefix.values()):
            held.update(found)
        return held

    def _fetch_keys(self, keys: list[Item]) -> Iterator[Item]:
        for start in range(0, len(keys), FETCH_KEYS):
            request = {self._table.name: {"Keys": keys[start : start + FETCH_KEYS], "ConsistentRead": True}}
            try:
                for answer in self._table.batches("batch_get_item", request):
                    yield from answer["Responses"].get(self._table.name, ())
            except _NoTable:
                return

    def _fetch_prefix(self, prefix: tuple[str, str], wanted: list[tuple[Row, str]]) -> dict[tuple[str, Identity], Row]:
        """By identity under a prefix of range keys; of several that share one, that at the row's own place, else at the smallest."""
        own = {self._name(row): place for row, place in wanted}
        tenants: dict[str, list[Row]] = {}
        for row, place in wanted:
            tenants.setdefault(place, []).append(row)
        held: dict[tuple[str, Identity], Row] = {}
        others: dict[tuple[str, Identity], Row] = {}
        query: dict[str, Any] = {
            "KeyConditionExpression": "#hash = :hash AND begins_with(#range, :range)",
            "ExpressionAttributeNames": {"#hash": self.layout.key[0], "#range": self.layout.key[1]},
            "ExpressionAttributeValues": {":hash": {"S": prefix[0]}, ":range": {"S": prefix[1]}},
        }
        for items, _ in self._answers("query", **query):
            for item in items:
                found = _read(self.layout, item)
                name = self._name(found) if isinstance(found, Row) else None
                if name in own and isinstance(found, Row):
                    held[name] = min(held.get(name, found), found, key=lambda row: (row.place != own[name], row.place))
                for row in tenants.get(found.place, ()):
                    if self._name(row) != name:
                        others[self._name(row)] = _as_held(self.layout, row, item)
        return others | held

    def _name(self, row: Row) -> tuple[str, Identity]:
        return row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record)


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
        self._table = _Table(address, pace=pace)
        self._slice = _Slice()

    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        table = self._table
        with _planning():
            if table.describe() is None:
                if not create:
                    raise ConfigError(f"{table.words}: there is no such table; --create makes it")
                table.create(self.layout.key, self.layout.index)
            described = table.wait_until_active()
            shape = table.shape(described)
        if (shape.key, shape.index) != (self.layout.key, self.layout.index):
            raise ConfigError(
                f"{table.words}: its keys are {_shape_words(shape.key, shape.index)}, the layout {self.layout.id} needs "
                f"{_shape_words(self.layout.key, self.layout.index)}; choose another table or another --mapping"
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
                item = _to_item(self.layout.write(row))
                key = _place(_only(self.layout.key, item))
                name = identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))
            except (RecordError, ValueError) as exc:
                now.flushed.rejects.append(Reject(row.kind, row.place, str(exc), row.record, row.origin))
                continue
            if key not in now.keys:
                now.keys[key] = name
            elif now.keys[key] != name:
                reason = "another record of the same slice, with another identity, has the same key"
                now.flushed.rejects.append(Reject(row.kind, row.place, reason, row.record, row.origin))
                continue
            elif key not in now.batch:
                self._settle()  # what was sent under this key must not come after what is sent now
            self._add(key, _Put(row, item, item_size(item)))

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
        except _Refused as exc:
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
            except _Refused as exc:
                flushed.rejects.append(_refused(put.row, exc))
            else:
                if held is not None:
                    flushed.held.append((put.row, _as_held(self.layout, put.row, held)))
        return flushed

    def _put_or_held(self, now: _Slice, put: _Put) -> Item | None:
        """Puts the item where nothing is; else what is there. An item of ours whose answer was lost is there too, and equal."""
        for _ in range(5):
            try:
                self._table.call(
                    "put_item",
                    now.stop,
                    TableName=self._table.name,
                    Item=put.item,
                    ConditionExpression="attribute_not_exists(#hash)",
                    ExpressionAttributeNames={"#hash": self.layout.key[0]},
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
                return None
            except _Taken as exc:
                # Not every server says what it holds. What was deleted since makes room for ours.
                held = exc.item or self._get(now, _only(self.layout.key, put.item))
            if held:
                return held
        raise TransientStoreError(f"{self._table.words}: an item comes and goes where one is to be written")

    def _get(self, now: _Slice, key: Item) -> Item | None:
        answer = self._table.call("get_item", now.stop, TableName=self._table.name, Key=key, ConsistentRead=True)
        held: Item | None = answer.get("Item")
        return held

    def reader(self) -> Reader:
        return DynamoDBReader(self._address, self.setting, self._pace)

    def close(self) -> None:
        self._abandon()
        self._table.close()


def _refused(row: Row, exc: _Refused) -> Reject:
    return Reject(row.kind, row.place, f"DynamoDB refuses it: {exc}", row.record, row.origin)


# Requests --------------------------------------------------------------------------------------------------------------


class Pace:
    """When requests may be sent. After one that brought nothing all threads pause together and one alone tries again.

    Exponential backoff with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/);
    whatever gets through ends it.
    """

    def __init__(
        self,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._patience, self._wait, self._jitter = patience, wait, jitter
        self._lock, self._moved = threading.Lock(), threading.Condition()
        # A queue, for a plain lock would go to the thread that just failed again and again.
        self._queue: deque[object] = deque()
        self._failures = 0
        self._until = 0.0  # nothing is sent before
        self._progress = float("-inf")

    @contextmanager
    def turn(self, stop: threading.Event) -> Iterator[None]:
        """One request may be sent inside. Raises TransientStoreError if `stop` is set meanwhile."""
        if not self._failures:
            _unless(stop)
            yield
            return
        me = object()
        with self._moved:
            self._queue.append(me)
        try:
            with self._moved:
                while self._queue[0] is not me:
                    self._moved.wait(0.5)
                    _unless(stop)
            while self._failures and (pause := self._until - self.clock()) > 0:
                self.rest(stop, pause)
            _unless(stop)
            yield
        finally:
            with self._moved:
                self._queue.remove(me)
                self._moved.notify_all()

    def rest(self, stop: threading.Event, seconds: float | None = None) -> None:
        """Hold only this thread up: by default the shortest pause, for a batch of which a part got through."""
        self._wait(stop, self._jitter() * PAUSE_BASE if seconds is None else seconds)
        _unless(stop)

    def progress(self) -> None:
        with self._lock:
            self._failures = 0
            self._progress = self.clock()

    def trouble(self, error: TransientStoreError, begun: float) -> None:
        """A request brought nothing. Raises the error once nothing has got through for too long since `begun`."""
        with self._lock:
            now = self.clock()
            waited = now - max(begun, self._progress)
            if waited > self._patience:
                raise TransientStoreError(f"{error}; nothing got through for {waited:.0f} s") from error
            if self._failures and now < self._until:
                return  # sent before the pause began
            self._until = now + self._jitter() * min(PAUSE_CAP, PAUSE_BASE * 2 ** min(self._failures, 16))
            self._failures += 1


def _unless(stop: threading.Event) -> None:
    if stop.is_set():
        raise TransientStoreError("the slice was given up")


_paces: WeakValueDictionary[tuple[str, ...], Pace] = WeakValueDictionary()
_paces_lock = threading.Lock()


def _shared_pace(*name: str) -> Pace:
    """One for all the stores in this process that speak to one table: throttled together, they wait together."""
    with _paces_lock:
        pace = _paces.get(name)
        if pace is None:
            pace = _paces[name] = Pace()
        return pace


class _Table:
    """One table: a client, the paces of reading and writing, and threads. Safe to use from several threads."""

    def __init__(self, address: Address, patience: float | None = None, pace: Pace | None = None) -> None:
        self.name = address.name
        self.words = address.text
        session, self.client = _client(address)
        self.profile: str = session.profile_name
        url = urlsplit(self.client.meta.endpoint_url)
        self.endpoint = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"  # never a password
        own = Pace(patience) if patience is not None else pace
        self._read = own or _shared_pace(self.endpoint, self.region, self.name, "read")
        self._write = own or _shared_pace(self.endpoint, self.region, self.name, "write")
        self._stop = threading.Event()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def region(self) -> str:
        return str(self.client.meta.region_name)

    @property
    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "dynamodb")
        return self._pool

    def close(self) -> None:
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown()
        self.client.close()

    def call(self, operation: str, stop: threading.Event | None = None, **request: Any) -> dict[str, Any]:
        """One request, repeated until it is answered. Raises TransientStoreError when nothing has got through for too long."""
        pace = self._pace_of(operation)
        answer = self._sent(pace, operation, request, stop or self._stop, pace.clock())
        pace.progress()
        return answer

    def batches(
        self, operation: str, request: dict[str, Any], stop: threading.Event | None = None
    ) -> Iterator[dict[str, Any]]:
        """A batch, repeated with what was left unprocessed until nothing is."""
        pace = self._pace_of(operation)
        begun = pace.clock()
        leftover = _NEEDED[operation]
        while request:
            answer = self._sent(pace, operation, {"RequestItems": request}, stop or self._stop, begun)
            left = answer[leftover]
            if _count(left) == _count(request):
                pace.trouble(TransientStoreError(f"{self.words}: throttled, all items came back unprocessed"), begun)
            else:
                pace.progress()
                if left:
                    pace.rest(stop or self._stop)
            yield answer
            request = left

    def _sent(
        self, pace: Pace, operation: str, request: dict[str, Any], stop: threading.Event, begun: float
    ) -> dict[str, Any]:
        while True:
            with pace.turn(stop):
                try:
                    with _sorted_errors(self, operation):
                        answer: dict[str, Any] = getattr(self.client, operation)(**request)
                    # A proxy's page, or half an answer, is an answer without content to botocore.
                    if _NEEDED.get(operation, "ResponseMetadata") in answer:
                        return answer
                    raise TransientStoreError(f"{self.words}: an answer to {operation} that is not DynamoDB's")
                except TransientStoreError as exc:
                    error = exc
                except StoreError:
                    pace.progress()  # it was answered
                    raise
                pace.trouble(error, begun)

    def _pace_of(self, operation: str) -> Pace:
        return self._write if operation in ("put_item", "batch_write_item", "create_table") else self._read

    # the table itself

    def describe(self) -> dict[str, Any] | None:
        try:
            described: dict[str, Any] = self.call("describe_table", TableName=self.name)["Table"]
        except _NoTable:
            return None
        return described

    def shape(self, described: dict[str, Any], sample: tuple[Record, ...] = ()) -> Shape:
        """Raises ConfigError for a table that cannot be used as it is, or not yet."""
        status = described.get("TableStatus", "ACTIVE")
        if status not in ("ACTIVE", "UPDATING"):
            raise ConfigError(f"{self.words}: the table is {status}; run again when it is ACTIVE")
        key = _key_names(described["KeySchema"])
        types = {each["AttributeName"]: each["AttributeType"] for each in described["AttributeDefinitions"]}
        if not key[1]:
            raise ConfigError(
                f"{self.words}: the table has a hash key only ({key[0]}); a range key is needed, LuminoraCore cannot use it either. "
                "Choose another table, or a new name with --create"
            )
        for name in key:
            if types.get(name) != "S":
                raise ConfigError(f"{self.words}: the key attribute {name} has type {types.get(name)}, not S (text)")
        indexes = described.get("GlobalSecondaryIndexes") or []
        index = (indexes[0]["IndexName"], *_key_names(indexes[0]["KeySchema"])) if indexes else None
        words = f"DynamoDB table {self.name} ({_shape_words(key, index)}, {self.region})"
        return Shape("dynamodb", words, key=key, index=index, sample=sample)

    def create(self, key: tuple[str, ...], index: tuple[str, ...] | None) -> None:
        """Make it, billed by request and without time-to-live. That another makes it at the same time is fine."""
        names = dict.fromkeys((*key, *(index or ())[1:]))
        request: dict[str, Any] = {
            "TableName": self.name,
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": _key_schema(key),
            "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in names],
        }
        if index is not None:
            whole = {"ProjectionType": "ALL"}
            schema = {"IndexName": index[0], "KeySchema": _key_schema(index[1:]), "Projection": whole}
            request["GlobalSecondaryIndexes"] = [schema]
        try:
            self.call("create_table", **request)
        except _InUse:
            return

    def wait_until_active(self) -> dict[str, Any]:
        pause, deadline = 0.05, time.monotonic() + PATIENCE
        while True:
            described = self.describe()  # None right after its making: the service catches up
            if described and described.get("TableStatus", "ACTIVE") in ("ACTIVE", "UPDATING"):
                return described
            if time.monotonic() > deadline:
                raise StoreError(f"{self.words}: not ACTIVE after {PATIENCE:.0f} s; run again when it is")
            self._stop.wait(pause)
            pause = min(2 * pause, 5)


_NEEDED = {
    "batch_write_item": "UnprocessedItems",
    "batch_get_item": "UnprocessedKeys",
    "scan": "Items",
    "query": "Items",
    "describe_table": "Table",
    "describe_time_to_live": "TimeToLiveDescription",
}


def _count(request_items: dict[str, Any]) -> int:
    return sum(len(each["Keys"] if isinstance(each, dict) else each) for each in request_items.values())


@cache
def _service_models() -> Any:
    """One loader for all clients of the process: to parse DynamoDB's service model again takes a quarter of a second each."""
    return botocore.loaders.Loader()


def _client(address: Address) -> tuple[Any, Any]:
    """Raises ConfigError if the address, the profile or the region do not make one."""
    options = address.options
    config = Config(
        retries={"total_max_attempts": 1},  # `Pace` repeats
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=THREADS + 1,
        parameter_validation=False,
        tcp_keepalive=True,
    )
    try:
        own = botocore.session.Session(profile=options.get("profile"))
        own.register_component("data_loader", _service_models())
        session = boto3.Session(botocore_session=own)
        client = session.client(
            "dynamodb", region_name=options.get("region"), endpoint_url=options.get("endpoint"), config=config
        )
    except boto.ProfileNotFound as exc:
        raise ConfigError(f"{address.text}: {exc}; see `aws configure list-profiles`") from exc
    except boto.NoRegionError as exc:
        raise ConfigError(
            f"{address.text}: no AWS region. Add ?region=eu-west-1 to the address, set AWS_DEFAULT_REGION, or give the profile one "
            "(AWS_REGION alone is not read by boto3)"
        ) from exc
    except boto.BotoCoreError as exc:
        raise ConfigError(f"{address.text}: {exc}; check the region, the profile and the AWS_* variables") from exc
    except ValueError as exc:
        raise ConfigError(f"{address.text}: the endpoint is no whole URL, such as http://localhost:8000") from exc
    return session, client


# Values cross the border in pairs --------------------------------------------------------------------------------------


def _to_attribute(value: Value, depth: int = 0) -> AttributeValue:
    """Raises ValueError, without the value, if DynamoDB has nothing for it."""
    if isinstance(value, str):
        return {"S": _text(value)}
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if is_number(value):
        return {"N": _number_text(value)}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, frozenset):
        return _to_set(value)
    if depth == DEPTH:
        raise ValueError(f"is nested deeper than DynamoDB allows ({DEPTH} lists or objects)")
    if isinstance(value, list):
        return {"L": [_to_attribute(each, depth + 1) for each in value]}
    if isinstance(value, dict):
        return {"M": {_name(name): _to_attribute(each, depth + 1) for name, each in value.items()}}
    raise ValueError(f"holds a {type(value).__name__}")


def _from_attribute(attribute: AttributeValue) -> Value:
    """And back. Raises ValueError for a number that is none."""
    ((sort, held),) = attribute.items()
    match sort:
        case "S" | "BOOL" | "B":
            return held
        case "N":
            return number(held)
        case "NULL":
            return None
        case "L":
            return [_from_attribute(each) for each in held]
        case "M":
            return _plain(held)
        case "NS":
            return frozenset(map(number, held))
        case "SS" | "BS":
            return frozenset(held)
    raise ValueError(f"an attribute of the unknown type {sort}")


def _to_set(value: frozenset[Value]) -> AttributeValue:
    if not value:
        raise ValueError("is an empty set, and DynamoDB holds none")
    if all(isinstance(each, str) for each in value):
        return {"SS": sorted(map(_text, value))}
    if all(map(is_number, value)):
        return {"NS": sorted(map(_number_text, value))}
    if all(isinstance(each, bytes) for each in value):
        return {"BS": sorted(value)}
    raise ValueError("is a set of several types")


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds text that is not Unicode (a lone surrogate)") from None
    return value


def _name(name: str) -> str:
    if not name:
        raise ValueError("holds an empty name, and DynamoDB takes none")
    return _text(name)


def _number_text(value: Value) -> str:
    """The shortest decimal text, as LuminoraCore writes it (`Decimal(str(x))`)."""
    if type(value) is int and -(10**DIGITS) < value < 10**DIGITS:
        return str(value)
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        raise ValueError("is not a finite number")
    if exact:
        digits, _ = _significant(exact)
        if len(digits) > DIGITS:
            raise ValueError(f"has {len(digits)} significant digits, DynamoDB holds {DIGITS}")
        if not -130 <= exact.adjusted() <= 125:
            raise ValueError("is outside of DynamoDB's numbers (1e-130 to 9.99e125)")
    return repr(value) if isinstance(value, float) else str(exact)


def _significant(exact: Decimal) -> tuple[str, int]:
    """The digits of a number without zeros around them, and the exponent of the last."""
    _, digits, exponent = exact.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    return stripped, int(exponent) + len(text) - len(stripped)


def _to_item(attributes: Record) -> Item:
    """Raises RecordError, naming the attribute, if DynamoDB cannot hold one."""
    item: Item = {}
    for name, value in attributes.items():
        try:
            item[_name(name)] = _to_attribute(value)
        except ValueError as exc:
            raise RecordError(f"{name} {exc}" if name.isprintable() and name else f"a field {exc}") from exc
    return item


def _plain(item: Item) -> Record:
    return {name: _from_attribute(attribute) for name, attribute in item.items()}


def _read(layout: Any, item: Item) -> Row | Foreign | Reject:
    place = _place(_only(layout.key, item))
    try:
        held = _plain(item)
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


# Limits and sizes ------------------------------------------------------------------------------------------------------


def item_size(item: Item) -> int:
    """The bytes an item counts: names and values, by the service's arithmetic.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html says "approximately" of numbers;
    here they are as DynamoDB Local counts them: a byte, and one for each pair of digits, pairs aligned at the decimal point, and
    one for a minus; 0 is one byte.
    """
    return sum(len(name.encode()) + _value_size(attribute) for name, attribute in item.items())


def _value_size(attribute: AttributeValue) -> int:
    ((sort, held),) = attribute.items()
    match sort:
        case "S":
            return len(held) if held.isascii() else len(held.encode())
        case "N":
            return _number_size(held)
        case "B":
            return len(held)
        case "L":
            return 3 + sum(1 + _value_size(each) for each in held)
        case "M":
            return 3 + len(held) + item_size(held)
        case "SS":
            return sum(len(each.encode()) for each in held)
        case "NS":
            return sum(map(_number_size, held))
        case "BS":
            return sum(map(len, held))
    return 1  # NULL, BOOL


def _number_size(text: str) -> int:
    exact = Decimal(text)
    if not exact:
        return 1
    digits, exponent = _significant(exact)
    return 1 + (len(digits) + exponent % 2 + 1) // 2 + (exact < 0)


def _check(item: Item, key: tuple[str, ...], index: tuple[str, ...] | None) -> None:
    """Raises RecordError if an item is over a limit or its keys are none."""
    for position, name in enumerate((*key, *(index or ())[1:])):
        limit = (HASH_BYTES, RANGE_BYTES)[position % 2]
        attribute = item.get(name)
        if attribute is None and name not in key:
            continue  # the item is only missing in the index
        text = (attribute or {}).get("S")
        if not isinstance(text, str):
            raise RecordError(f"the key attribute {name} is not text")
        if not text:
            raise RecordError(f"the key attribute {name} is empty")
        if len(text.encode()) > limit:
            raise RecordError(f"the key attribute {name} takes {len(text.encode()):,} bytes, DynamoDB allows {limit:,}")
    size = item_size(item)
    if size > ITEM_BYTES:
        largest = max(item, key=lambda name: _value_size(item[name]))
        raise RecordError(f"its item takes {size:,} bytes, DynamoDB allows {ITEM_BYTES:,} (most of it in {largest})")


def _key_names(schema: list[dict[str, str]]) -> tuple[str, str]:
    names = {each["KeyType"]: each["AttributeName"] for each in schema}
    return names["HASH"], names.get("RANGE", "")


def _key_schema(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": sort} for name, sort in zip(names, ("HASH", "RANGE"), strict=True)]


def _shape_words(key: tuple[str, ...], index: tuple[str, ...] | None) -> str:
    return "/".join(key) + (f" with index {index[0]}: {'/'.join(filter(None, index[1:]))}" if index else "")


# Errors ----------------------------------------------------------------------------------------------------------------


class _NoTable(StoreError):
    """There is no such table."""


class _InUse(StoreError):
    """The table is being made or changed."""


class _NoSuchCall(StoreError):
    """The server does not know the operation."""


class _Refused(StoreError):
    """The service refuses what the request holds; the message is the service's reason."""


class _Taken(StoreError):
    """The condition does not hold; `item` is what is there, where the server says it."""

    def __init__(self, message: str, item: Item | None) -> None:
        super().__init__(message)
        self.item = item


_PASSING = {
    "InternalFailure", "InternalServerError", "LimitExceededException", "ProvisionedThroughputExceeded",
    "ProvisionedThroughputExceededException", "ReplicatedWriteConflictException", "RequestLimitExceeded",
    "RequestTimeout", "ServiceUnavailable", "Throttling", "ThrottlingException", "TransactionConflictException",
    "TransactionInProgressException",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_CREDENTIALS = _EXPIRED | {
    "AuthFailure", "IncompleteSignature", "IncompleteSignatureException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip
_REFUSED = {"ValidationException", "SerializationException", "ItemCollectionSizeLimitExceededException"}
_NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError,
    boto.NoAuthTokenError, boto.SSOError, boto.UnauthorizedSSOTokenError,
)  # fmt: skip
_UNREACHABLE = (
    boto.ConnectionError, boto.HTTPClientError, boto.ChecksumError, boto.ResponseStreamingError, boto.IncompleteReadError,
)  # fmt: skip


@contextmanager
def _sorted_errors(table: _Table, operation: str) -> Iterator[None]:
    words = table.words
    try:
        yield
    except boto.ClientError as exc:
        raise _sorted_answer(exc, table, operation) from exc
    except _NO_CREDENTIALS as exc:
        raise StoreError(
            f"{words}: no AWS credentials could be had ({type(exc).__name__}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a "
            "profile (?profile=NAME), or log in (`aws sso login`); a local server takes any"
        ) from exc
    except _UNREACHABLE as exc:
        raise TransientStoreError(
            f"{words}: no answer from {table.endpoint} ({type(exc).__name__}); check the endpoint (?endpoint=, AWS_ENDPOINT_URL_DYNAMODB), "
            "the region and the network"
        ) from exc
    except boto.BotoCoreError as exc:
        raise StoreError(f"{words}: {operation}: {exc}") from exc


def _sorted_answer(exc: Any, table: _Table, operation: str) -> StoreError:
    """An answer that is an error, by what to do next. Messages name what was asked for and never an item."""
    code, reason = exc.response["Error"].get("Code", ""), exc.response["Error"].get("Message", "")
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    words, action = table.words, table.client.meta.method_to_api_mapping[operation]
    if code in _PASSING or status >= 500:
        return TransientStoreError(f"{words}: {action}: {code}")
    if code == "ConditionalCheckFailedException":
        return _Taken(f"{words}: {action}: something is there", exc.response.get("Item"))
    if code == "ResourceNotFoundException":
        return _NoTable(f"{words}: there is no such table in {table.region} at {table.endpoint}")
    if code == "ResourceInUseException":
        return _InUse(f"{words}: the table is being made or changed")
    if code == "UnknownOperationException":
        return _NoSuchCall(f"{words}: the server does not know {action}")
    if code in _EXPIRED:
        return StoreError(f"{words}: the AWS credentials have expired ({code}); log in anew and run again")
    if code in _CREDENTIALS:
        return StoreError(
            f"{words}: AWS does not accept these credentials ({code}); check the keys or the profile ({table.profile}), the region "
            f"({table.region}) and this machine's clock"
        )
    if code in ("AccessDeniedException", "AccessDenied"):
        need = f"dynamodb:{action} on the table {table.name}"
        return StoreError(f"{words}: no permission for {need}; allow it in the policy of these credentials")
    if code in _REFUSED:
        return _Refused(reason or code)
    return StoreError(f"{words}: {action}: {code} (HTTP {status}) {reason[:200]}".rstrip())


@contextmanager
def _planning() -> Iterator[None]:
    """Before anything was touched, every trouble is one with the plan."""
    try:
        yield
    except StoreError as exc:
        message = f"{exc}" if not isinstance(exc, _Refused) else f"DynamoDB refuses the request: {exc}"
        raise ConfigError(message) from exc


ADAPTER = DynamoDBAdapter()
