"""One DynamoDB table, asked and told: the calls, and what repeats them.

Repeats what was throttled, left unprocessed or lost on the way, so that nothing is left out; what must not
be repeated it raises. Leaves boto3, its credentials and endpoints to `client`, when to try again to `pace`, what an answer that is an error means to `errors`, what an item holds to
`values`, and what is asked for, and when, to the source and the sink.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from migrator.adapters.dynamodb.client import client_of
from migrator.adapters.dynamodb.errors import (
    THROTTLED,
    InUse,
    NoTable,
    Throttled,
    no_answer,
    sorted_errors,
)
from migrator.adapters.dynamodb.governor import QUARTER, READS, WRITES, Governor, Meter, Permit, counted, provisioned
from migrator.adapters.dynamodb.pace import PATIENCE, Pace, unless
from migrator.adapters.dynamodb.wire import Unread
from migrator.errors import ConfigError, StoreError, TransientStoreError
from migrator.model import Address, Record, Shape

THREADS = 4  # requests at once, to hide latency

PLAN_PATIENCE = 3.0  # seconds without any progress after which a call gives up while a person waits for the plan


_paces: WeakValueDictionary[tuple[str, ...], Pace] = WeakValueDictionary()
_paces_lock = threading.Lock()


def _shared_pace(*name: str) -> Pace:
    """One for all the stores in this process that speak to one table: throttled together, they wait together."""
    with _paces_lock:
        pace = _paces.get(name)
        if pace is None:
            pace = _paces[name] = Pace()
        return pace


_meters: WeakValueDictionary[tuple[str, ...], Meter] = WeakValueDictionary()


def _shared_meter(pace: Pace, *name: str) -> Meter:
    """One for all the stores in this process that speak to one table at one pace."""
    with _paces_lock:
        meter = _meters.get((*name, str(id(pace))))
        if meter is None:
            meter = Meter(Governor(clock=pace.clock, wait=pace.wait), pace.clock)
            _meters[(*name, str(id(pace)))] = meter
        return meter


def _forget() -> None:
    """In a process that was forked: who has a turn is another's affair."""
    _paces.clear()
    _meters.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Table:
    """One table: a client, the paces of reading and writing, what both may take, and threads. Safe to use from several threads.

    `rates`: read and write units a second, each None for what we take by default, QUARTER of a provisioned table. With a patience of its own,
    a table is asked a few things before a run, and not metered.
    """

    def __init__(
        self,
        address: Address,
        patience: float | None = None,
        pace: Pace | None = None,
        rates: tuple[float | None, float | None] = (None, None),
    ) -> None:
        self.name = address.name
        self.words = address.text
        self.client = client_of(address)
        self.endpoint, self.region = self.client.endpoint, self.client.region
        own = Pace(patience) if patience is not None else pace
        self._read = own or _shared_pace(self.endpoint, self.region, self.name, "read")
        self._write = own or _shared_pace(self.endpoint, self.region, self.name, "write")
        self._is_metered = patience is None
        self._given = rates
        self.reads = _shared_meter(self._read, self.endpoint, self.region, self.name, "read")
        self.writes = _shared_meter(self._write, self.endpoint, self.region, self.name, "write")
        for meter, rate in zip((self.reads, self.writes), rates):
            if rate is not None:
                meter.limit_to(rate)
        self._meters_lock = threading.Lock()
        self._stop = threading.Event()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "dynamodb")
        return self._pool

    def share(self, part: float) -> None:
        """Take this part of the rates from now on; 0: none of one's own any more."""
        for meter in (self.reads, self.writes):
            meter.governor.share(self, part)

    def close(self) -> None:
        self.share(0)
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown()

    # as another client sends it

    def leave(self, operation: str, units: float) -> Permit | None:
        """Leave to send one request at once; None if it would have to wait for its turn, as in `batches`."""
        if not self._pace_of(operation).is_clear:
            return None
        meter = self._meter_of(operation)
        return meter.admit_now(units) if meter else Permit(units, time.monotonic(), 0.0)

    def took(self, operation: str, request: dict[str, Any], permit: Permit, answer: dict[str, Any]) -> bool:
        """Hear an answer to a request that had leave; whether anything of it was done."""
        pace = self._pace_of(operation)
        try:
            self._heard(operation, request, permit, answer)
        except TransientStoreError as exc:
            pace.trouble(exc, pace.clock())
            return False
        pace.progress()
        return True

    def lost(self, operation: str, permit: Permit, status: int, code: str) -> None:
        """A request that had leave brought nothing: all pause, if that may pass. `status`: of the answer, 0 if none came; `code`: its name for why."""
        pace, meter = self._pace_of(operation), self._meter_of(operation)
        is_throttled = code in THROTTLED
        if is_throttled and meter:
            meter.throttled(permit)
        if is_throttled or not 400 <= status < 500:
            pace.trouble(TransientStoreError(f"{self.words}: {operation}: {code or 'no answer'}"), pace.clock())
        else:
            pace.progress()  # it was answered

    # as boto3 sends it

    def call(
        self, operation: str, stop: threading.Event | None = None, units: float | None = None, **request: Any
    ) -> dict[str, Any]:
        """One request, repeated until it is answered. `units`: the capacity it will take, if that is known.

        Raises GivenUp when nothing has got through for too long.
        """
        pace = self._pace_of(operation)
        answer = self._sent(pace, operation, request, stop or self._stop, pace.clock(), units)
        pace.progress()
        return answer

    def batches(
        self,
        operation: str,
        request: dict[str, Any],
        stop: threading.Event | None = None,
        units: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A batch, repeated with what was left unprocessed until nothing is."""
        pace = self._pace_of(operation)
        begun = pace.clock()
        while request:
            answer = self._sent(pace, operation, {"RequestItems": request}, stop or self._stop, begun, units)
            pace.progress()
            left = {table: some for table, some in answer[_LEFTOVER[operation]].items() if counted({table: some})}
            yield answer
            if left:
                pace.rest(stop or self._stop)
            units = units and units * counted(left) / counted(request)
            request = left

    def _sent(
        self,
        pace: Pace,
        operation: str,
        request: dict[str, Any],
        stop: threading.Event,
        begun: float,
        units: float | None = None,
    ) -> dict[str, Any]:
        meter = self._meter_of(operation)
        if meter is not None:
            request = request | {"ReturnConsumedCapacity": "TOTAL"}
        while True:
            with pace.turn(stop):  # until it is known what became of it: the next in turn pauses too
                permit = meter.admit(operation, request, units, stop) if meter else None
                unless(stop)
                begun += permit.waited if permit else 0.0
                try:
                    with sorted_errors(self, operation):
                        answer = self.client.wire.ask(operation, request)
                    self._heard(operation, request, permit, answer)
                    return answer
                except TransientStoreError as exc:
                    if meter and permit and isinstance(exc, Throttled):
                        meter.throttled(permit)
                    pace.trouble(exc, begun)
                except StoreError:
                    pace.progress()  # it was answered
                    raise

    def _heard(self, operation: str, request: dict[str, Any], permit: Permit | None, answer: dict[str, Any]) -> None:
        """Raises TransientStoreError for an answer that brings nothing."""
        needed = _NEEDED.get(operation, "ResponseMetadata")
        if not isinstance(answer.get(needed), (list, Unread) if needed == "Items" else dict):
            raise no_answer(self.words, operation)  # a part of one
        meter = self._meter_of(operation)
        if meter and permit:
            meter.answered(operation, request, permit, answer)
        left = answer[needed] if operation in _LEFTOVER else None
        if left and counted(left) == counted(request["RequestItems"]):
            raise TransientStoreError(f"{self.words}: throttled, all items came back unprocessed")

    def _pace_of(self, operation: str) -> Pace:
        return (
            self._write if operation in ("put_item", "delete_item", "batch_write_item", "create_table") else self._read
        )

    def _meter_of(self, operation: str) -> Meter | None:
        meter = self.writes if operation in WRITES else self.reads if operation in READS else None
        if meter is None or not self._is_metered:
            return None
        if not meter.is_set:
            with self._meters_lock:
                self._limit_by_default()
        return meter

    def rates(self) -> list[tuple[float, str]]:
        """Of reading and of writing: units a second, infinite where nothing limits them, and who decided so."""
        described = self.describe() or {}
        has = provisioned(described) or (math.inf, math.inf)
        words = []
        for given, units in zip(self._given, has):
            if given is not None:
                words.append((given, "as asked for"))
            elif units == math.inf:
                words.append(
                    (units, "no limit: the table is on demand; when it is throttled we are the first to give way")
                )
            else:
                words.append((units * QUARTER, f"a quarter of the {units:,.0f} that the table is provisioned with"))
        return words

    def _limit_by_default(self) -> None:
        """Ask once what the table is provisioned with. Where that cannot be had just now, the request itself will tell why."""
        try:
            with sorted_errors(self, "describe_table"):
                described = self.client.boto.describe_table(TableName=self.name).get("Table")
        except TransientStoreError:
            described = None
        except StoreError:
            described = {}
        if described is None:
            return  # asked again before the next request
        has = provisioned(described)
        for meter, units in zip((self.reads, self.writes), has or (math.inf, math.inf)):
            if not meter.is_set:
                meter.limit_to(units * QUARTER)

    # the table itself

    def describe(self) -> dict[str, Any] | None:
        try:
            described: dict[str, Any] = self.call("describe_table", TableName=self.name)["Table"]
        except NoTable:
            return None
        return described

    def shape(self, described: dict[str, Any], sample: tuple[Record, ...] = ()) -> Shape:
        """Raises ConfigError for a table that cannot be used as it is, or not yet."""
        status = described.get("TableStatus", "ACTIVE")
        if status not in ("ACTIVE", "UPDATING"):
            raise ConfigError(f"{self.words}: the table is {status}; run again when it is ACTIVE")
        key = tuple(filter(None, _key_names(described["KeySchema"])))
        types = {each["AttributeName"]: each["AttributeType"] for each in described["AttributeDefinitions"]}
        for name in key:
            if types.get(name) != "S":
                raise ConfigError(
                    f"{self.words}: the key attribute {name} has type {types.get(name)}, not S (text): choose another table"
                )
        indexes = described.get("GlobalSecondaryIndexes") or []
        index = (indexes[0]["IndexName"], *_key_names(indexes[0]["KeySchema"])) if indexes else None
        words = f"DynamoDB table {self.name} ({shape_words(key, index)}, {self.region})"
        return Shape("dynamodb", words, key=key, index=index, sample=sample)

    def create(self, key: tuple[str, ...], index: tuple[str, ...] | None) -> None:
        """Make it, billed by request and without time-to-live. That another makes it at the same time is fine."""
        names = dict.fromkeys(filter(None, (*key, *(index or ())[1:])))
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
        except InUse:
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


_LEFTOVER = {"batch_write_item": "UnprocessedItems", "batch_get_item": "UnprocessedKeys"}
_NEEDED = _LEFTOVER | {
    "scan": "Items",
    "query": "Items",
    "describe_table": "Table",
    "describe_time_to_live": "TimeToLiveDescription",
}


def _key_names(schema: list[dict[str, str]]) -> tuple[str, str]:
    names = {each["KeyType"]: each["AttributeName"] for each in schema}
    return names["HASH"], names.get("RANGE", "")


def _key_schema(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": sort} for name, sort in zip(names, ("HASH", "RANGE"))]


def shape_words(key: tuple[str, ...], index: tuple[str, ...] | None) -> str:
    named = "/".join(key) if len(key) > 1 else f"{key[0]} without a range"
    return named + (f" with index {index[0]}: {'/'.join(filter(None, index[1:]))}" if index else "")
