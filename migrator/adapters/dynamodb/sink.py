"""Writes records into one DynamoDB table.

Knows batches and conditional puts, which may be under way together, and in which order a record in parts is written. Leaves how a request gets
through to `requests`, what a value becomes and what an item weighs to `values`, the forms of large records to
`oversize`; how batches go many at once on this thread, where that can be, to `fast`. Knows nothing of fields, mappings or
checkpoints: `layout` makes attributes of rows, the engine decides what is written and when, and what a slice is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from migrator.adapters.base import Flushed, Reader, Setting, Sink, is_as_it_was, rejected
from migrator.adapters.dynamodb.errors import Refused, Taken, planning
from migrator.adapters.dynamodb.items import Items, only, place_of
from migrator.adapters.dynamodb.oversize import PART_BYTES, Packed
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.dynamodb.parts import Notes
from migrator.adapters.dynamodb.plain import Stock, Stored
from migrator.adapters.dynamodb.requests import THREADS, Table, shape_words
from migrator.adapters.dynamodb.source import DynamoDBReader
from migrator.adapters.dynamodb.values import Item, item_size, to_item, write_units
from migrator.adapters.dynamodb.wire import Puts, key_json
from migrator.errors import ConfigError, RecordError, StoreError, TransientStoreError
from migrator.model import (
    Address,
    Alike,
    Existing,
    Reject,
    Row,
    Traits,
    identity_key,
)

if TYPE_CHECKING:
    from migrator.adapters.dynamodb.fast import Lane

BATCH_ITEMS = 25
BATCH_BYTES = 2 << 20  # a request may have 16 MB, and a byte of text may take six in JSON
BATCH_PARTS = BATCH_BYTES // PART_BYTES
TRAITS = Traits(parallel=True, stretch=2)
PENDING = 2 * THREADS  # batches that are sent or wait for a thread
FAST_AFTER = 40  # batches by boto3, after which it pays to import what sends the others faster: each by boto3 costs a millisecond more


class _Put(NamedTuple):
    row: Row
    stored: Stored

    @property
    def packed(self) -> Packed:
        return self.stored.packed

    @property
    def item(self) -> Item:
        return self.stored.packed.item


class _PutsAlike(Sequence[_Put]):
    """Some of the rows that are alike, by their numbers, in a batch: mostly nobody asks for one."""

    def __init__(self, rows: Alike, numbers: range, stock: Stock) -> None:
        self.rows, self.numbers, self.stock = rows, numbers, stock

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> _Put: ...

    @overload
    def __getitem__(self, number: slice) -> list[_Put]: ...

    def __getitem__(self, number: int | slice) -> _Put | list[_Put]:
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        return _Put(self.rows[self.numbers[number]], self.stock[number])


@dataclass(slots=True)
class _Slice:
    """What came since `begin`: the batch that grows, those under way, and which row has which key."""

    name: str = ""
    existing: Existing = Existing.EMPTY
    batch: dict[bytes, _Put] = field(default_factory=dict)
    batch_bytes: int = 0
    batch_units: int = 0
    pending: deque[Future[Flushed]] = field(default_factory=deque)
    flushed: Flushed = field(default_factory=Flushed)
    rows: dict[bytes, Row | Alike] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class DynamoDBSink(Sink):
    """A table as it is written: batches where nothing can be in the way, else single puts with a condition."""

    traits = TRAITS

    def __init__(self, address: Address, setting: Setting, pace: Pace | None = None) -> None:
        super().__init__(setting)
        self._address = address
        self._pace = pace
        self._table = Table(address, pace=pace, rates=(setting.read_rate, setting.write_rate))
        self._items = Items(self._table, setting)
        self._notes = Notes(setting.scratch)
        self._slice = _Slice()
        self._lane: Lane | None = None
        self._before_lane = {"0": -1, "1": 0}.get(os.environ.get("MIGRATOR_FAST", ""), FAST_AFTER)

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
        self._take_leftovers_away()

    def begin(self, slice_name: str) -> None:
        self._abandon()
        self._slice = _Slice(slice_name)

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        now = self._slice
        if existing is not now.existing:
            self._send()
            now.existing = existing
        puts = []
        for row in rows:
            try:
                puts.append(self._put(row))
            except RecordError as exc:
                now.flushed.rejects.append(rejected(row, str(exc)))
        for put in _spread(puts):
            key, row = put.stored.key, put.row
            there = now.rows.get(key)
            if isinstance(there, Alike):
                there = there[_stock(there).keys.index(key)]
            if there is None:
                now.rows[key] = row
            elif self._name(there) != self._name(row):
                reason = "another record of the same slice, with another identity, has the same key"
                now.flushed.rejects.append(rejected(row, reason))
                continue
            elif key not in now.batch:
                self._settle()  # what was sent under this key must not come after what is sent now
            self._add(key, put)
        if self._lane is not None:
            self._lane.turn()

    def upsert_alike(self, rows: Alike) -> None:
        now, stock, each = self._slice, _stock(rows), BATCH_ITEMS
        batches = len(stock) // each
        if not now.rows.keys().isdisjoint(stock.keys) or len({*stock.keys}) < len(stock):
            self.upsert(rows, Existing.EMPTY)
            return
        if now.existing is not Existing.EMPTY:
            self._send()
            now.existing = Existing.EMPTY
        for first in range(batches):  # as `_spread` has it
            numbers = range(first, batches * each, batches)
            some = stock[numbers.start : numbers.stop : numbers.step]
            if sum(some.sizes) > BATCH_BYTES or sum(some.units) > self._table.writes.burst:
                self.upsert([rows[number] for number in numbers], Existing.EMPTY)
                continue
            now.rows.update(dict.fromkeys(some.keys, rows))
            self._hand_over(now, _PutsAlike(rows, numbers, some))
        self.upsert([rows[number] for number in range(batches * each, len(rows))], Existing.EMPTY)

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        now = self._slice
        self._send()
        self._settle()  # a row may come a second time, after what was there has changed
        for row, before in pairs:
            try:
                put = self._put(row)
            except RecordError as exc:
                now.flushed.rejects.append(rejected(row, str(exc)))
            else:
                self._submit(now, partial(self._put_over, before=before), [put])

    def _put_over(self, now: _Slice, puts: Sequence[_Put], before: Row) -> Flushed:
        """Puts an item over another that is still as it was: read once more, and put under the condition that this very item is there."""
        (put,) = puts
        item = self._get(now, only(self.layout.key, put.item))
        if item is None:
            return self._put_where_nothing_is(now, puts)
        held = self._items.held(put.row, item)
        if is_as_it_was(before, held):
            condition, names, values = self._that_is(item)
            try:
                self._note(now, item)
                self._put_parts(now, put)
                later = self._put_if(now, put, condition, names, values)
            except Refused as exc:
                return Flushed(rejects=[_refused(put.row, exc)])
            if later is None or later == put.item:  # our own, whose answer was lost
                return Flushed()
            if not later:
                return self._put_where_nothing_is(now, puts)
            held = self._items.held(put.row, later)
        return Flushed(held=[(put.row, held)])

    def remove(self, rows: Iterable[Row]) -> None:
        now = self._slice
        self._send()
        self._settle()
        for row in rows:
            self._submit(now, partial(self._delete, row=row), [])

    def _delete(self, now: _Slice, puts: Sequence[_Put], row: Row) -> Flushed:
        """Deletes an item that is still as it was: read once more, and deleted under the condition that this very item is there."""
        key = only(self.layout.key, to_item(self.layout.write(row)))
        item = self._get(now, key)
        while item is not None:
            held = self._items.held(row, item)
            if not is_as_it_was(row, held):
                return Flushed(held=[(row, held)])
            condition, names, values = self._that_is(item)
            self._note(now, item)
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

    def _name(self, row: Row) -> bytes:
        return identity_key(row.kind, self.layout.identity_of(row))

    def _put(self, row: Row) -> _Put:
        """Raises RecordError if there is no item for it."""
        return _Put(row, row.encoded or self._items.stored(row))

    def _add(self, key: bytes, put: _Put) -> None:
        now = self._slice
        earlier = now.batch.pop(key, None)
        if earlier is not None:
            now.batch_bytes -= earlier.stored.size
            now.batch_units -= earlier.stored.units
        elif (
            len(now.batch) == BATCH_ITEMS
            or now.batch_bytes + put.stored.size > BATCH_BYTES
            or now.batch_units + put.stored.units > self._table.writes.burst
        ):
            self._send()
        if put.stored.texts:  # alone: its parts come first
            self._send()
        now.batch[key] = put
        now.batch_bytes += put.stored.size
        now.batch_units += put.stored.units
        if put.stored.texts:
            self._send()

    def _send(self) -> None:
        now = self._slice
        puts, now.batch, now.batch_bytes, now.batch_units = list(now.batch.values()), {}, 0, 0
        self._hand_over(now, puts)

    def _hand_over(self, now: _Slice, puts: Sequence[_Put]) -> None:
        if now.stop.is_set():
            self._abandon()
            raise now.error or StoreError("the slice was given up: begin it again")
        if not puts:
            return
        if now.existing is Existing.REFUSE:
            self._submit(now, self._put_where_nothing_is, puts)
        elif not self._is_on_its_way(now, puts):
            self._submit(now, self._put_batch, puts)

    def _submit(self, now: _Slice, write: Callable[[_Slice, Sequence[_Put]], Flushed], puts: Sequence[_Put]) -> None:
        while len(now.pending) >= PENDING:
            self._collect()
        now.pending.append(self._table.pool.submit(self._guarded, now, write, puts))

    def _is_on_its_way(self, now: _Slice, puts: Sequence[_Put]) -> bool:
        """Whether a batch has gone the fast way: if there is one, for what needs nothing but a batch, while nothing is in trouble."""
        if self._before_lane >= 0:
            self._before_lane -= 1
            if (
                self._before_lane < 0 or sys.modules.get("migrator.adapters.dynamodb.fast") is not None
            ):  # imported already, it costs nothing
                self._before_lane = -1
                self._lane = self._opened_lane()
        needs_more = self._items.oversize.is_used and (now.existing is Existing.REPLACE or bool(_in_parts(puts)))
        if self._lane is None or needs_more:
            return False
        return self._lane.send(_request(puts), _units(puts), partial(self._answered, now, puts))

    def _opened_lane(self) -> Lane | None:
        try:
            from migrator.adapters.dynamodb.fast import opened
        except ImportError:
            return None
        return opened(self._table)

    def _answered(self, now: _Slice, puts: Sequence[_Put], left: list[Item] | None) -> None:
        """What of a batch is not stored, or not known to be, goes the ordinary way; all of it if what is left is none of it."""
        if left is not None:
            if not left:
                return
            keys = {key_json(item, self.layout.key) for item in left}
            these = [put for put in puts if put.stored.key in keys]
            puts = these if len(these) == len(left) else puts
        now.pending.append(self._table.pool.submit(self._guarded, now, self._put_batch, puts))

    def hasten(self) -> bool:
        self._send()
        if self._lane is not None:
            self._lane.turn()
        return bool(self._slice.pending) or (self._lane is not None and self._lane.is_busy)

    def flush(self) -> Flushed:
        self._send()
        self._settle()
        now = self._slice
        self._take_leftovers_away(now.name)
        flushed, now.flushed = now.flushed, Flushed()
        return flushed

    def _settle(self) -> None:
        if self._lane is not None:
            self._lane.wait()
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
        if self._lane is not None:
            self._lane.wait()
        while now.pending:
            now.pending.popleft().exception()

    def _guarded(
        self, now: _Slice, write: Callable[[_Slice, Sequence[_Put]], Flushed], puts: Sequence[_Put]
    ) -> Flushed:
        """In a thread of the pool: the first error ends the other threads' waiting, and is the one that is told."""
        try:
            return write(now, puts)
        except Exception as exc:
            if not now.stop.is_set():
                now.error = exc
                now.stop.set()
            raise

    def _put_batch(self, now: _Slice, puts: Sequence[_Put]) -> Flushed:
        request = {self._table.name: _request(puts)}
        if self._items.oversize.is_used and now.existing is Existing.REPLACE:
            for item in self._items.fetch([only(self.layout.key, put.item) for put in puts]):
                self._note(now, item)
        try:
            for put in _in_parts(puts):
                self._put_parts(now, put)
            for _ in self._table.batches("batch_write_item", request, now.stop, _units(puts)):
                pass
        except Refused as exc:
            if len(puts) == 1:
                return Flushed(rejects=[_refused(puts[0].row, exc)])
            # One bad item and the service refuses all: alone, each shows whether it is the one.
            alone = [self._put_batch(now, [put]) for put in puts]
            return Flushed(rejects=[reject for each in alone for reject in each.rejects])
        return Flushed()

    def _put_where_nothing_is(self, now: _Slice, puts: Sequence[_Put]) -> Flushed:
        flushed = Flushed()
        for put in puts:
            try:
                held = self._get(now, only(self.layout.key, put.item)) if put.stored.texts else None
                if held is None:
                    self._put_parts(now, put)
                    held = self._put_or_held(now, put)
            except Refused as exc:
                flushed.rejects.append(_refused(put.row, exc))
            else:
                if held is not None:
                    flushed.held.append((put.row, self._items.held(put.row, held)))
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
                put.stored.units,
                TableName=self._table.name,
                Item=put.item,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **request,
            )
        except Taken as exc:  # not every server says what it holds
            return exc.item or self._get(now, only(self.layout.key, put.item)) or {}
        return None

    def _that_is(self, item: Item) -> tuple[str, dict[str, str], Item]:
        """The condition that this very item is there, with its names and values. Of a text in parts the digest tells."""
        parts = self._items.oversize.parts_of(item)
        names = {f"#{n}": name for n, name in enumerate(item)}
        paths = {mark: f"{mark}.#sha256" if name in parts else mark for mark, name in names.items()}
        values = {f":{m[1:]}": {"S": parts[n].sha256} if n in parts else item[n] for m, n in names.items()}
        if parts:
            names["#sha256"] = "sha256"
        return " AND ".join(f"{path} = :{mark[1:]}" for mark, path in paths.items()), names, values

    def _get(self, now: _Slice, key: Item) -> Item | None:
        answer = self._table.call("get_item", now.stop, TableName=self._table.name, Key=key, ConsistentRead=True)
        held: Item | None = answer.get("Item")
        return held

    def share(self, part: float) -> None:
        self._table.share(part)

    # parts

    def _put_parts(self, now: _Slice, put: _Put) -> None:
        """Write what does not fit into the item, if anything, before the item that names it."""
        if not put.stored.texts:
            return
        self._note(now, put.item)
        parts = self._items.oversize.parts(put.packed)
        at_once = max(1, int(min(BATCH_PARTS, self._table.writes.burst * 1024 / PART_BYTES)))
        while batch := list(islice(parts, at_once)):
            request = {self._table.name: [{"PutRequest": {"Item": part}} for part in batch]}
            units = sum(write_units(part, item_size(part), None) for part in batch)
            for _ in self._table.batches("batch_write_item", request, now.stop, units):
                pass

    def _note(self, now: _Slice, item: Item) -> None:
        """The parts of an item may be left over, if this slice ends now: they are not there yet, or will not be needed any more."""
        keys = self._items.keys_of_parts(item)
        if keys:
            self._notes.add(now.name, only(self.layout.key, item), keys)

    def _take_leftovers_away(self, slice_name: str | None = None) -> None:
        """Delete those parts that were noted and that their record does not have: of one slice, or of all that an earlier run has left."""
        for head, keys in self._notes.of(slice_name):
            item = next(self._items.fetch([head]), None)
            kept = {place_of(key) for key in self._items.keys_of_parts(item)} if item is not None else set()
            gone = [key for key in keys if place_of(key) not in kept]
            for start in range(0, len(gone), BATCH_ITEMS):
                some = gone[start : start + BATCH_ITEMS]
                request = {self._table.name: [{"DeleteRequest": {"Key": key}} for key in some]}
                for _ in self._table.batches("batch_write_item", request, self._slice.stop):
                    pass
        self._notes.drop(slice_name)

    def reader(self) -> Reader:
        reader = DynamoDBReader(self._address, self.setting, self._pace)
        reader.may_be_missing = False  # it was made ready, or nothing would be written
        return reader

    def close(self) -> None:
        self._abandon()
        if self._lane is not None:
            self._lane.close()
            self._lane = None
        self._table.close()


def _stock(rows: Alike) -> Stock:
    """What `fit_alike` has made of them."""
    assert isinstance(rows.encoded, Stock)
    return rows.encoded


def _request(puts: Sequence[_Put]) -> Puts:
    return Puts(puts.stock.jsons if isinstance(puts, _PutsAlike) else [put.stored.json for put in puts])


def _units(puts: Sequence[_Put]) -> int:
    return sum(puts.stock.units if isinstance(puts, _PutsAlike) else [put.stored.units for put in puts])


def _in_parts(puts: Sequence[_Put]) -> list[_Put]:
    """Those that do not fit into an item; of rows that are alike each does."""
    return [] if isinstance(puts, _PutsAlike) else [put for put in puts if put.stored.texts]


def _spread(puts: list[_Put]) -> Iterator[_Put]:
    """Neighbours in a sorted source would all go to one partition of the table: each batch takes rows from all over the page."""
    batches = -(-len(puts) // BATCH_ITEMS)
    return chain.from_iterable(puts[number::batches] for number in range(batches))


def _refused(row: Row, exc: Refused) -> Reject:
    return rejected(row, f"DynamoDB refuses it: {exc}")
