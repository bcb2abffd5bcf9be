"""DynamoDB: nothing is lost under throttling and lost answers, values and sizes are the service's, messages say the next step.

Faults come from `Stub`, an endpoint of our own; real behaviour from the servers of tests/README.md. Time is virtual where it is long.
"""

import gc
import json
import multiprocessing
import os
import random
import socket
import sys
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import endpoint
import migrator
from migrator.adapters.base import Setting
from migrator.adapters.dynamodb import client as dynamodb_client
from migrator.adapters.dynamodb import source as dynamodb_source
from migrator.adapters.dynamodb.adapter import ADAPTER
from migrator.adapters.dynamodb.errors import GivenUp
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.dynamodb.requests import Table
from migrator.adapters.dynamodb.sink import DynamoDBSink
from migrator.adapters.dynamodb.source import DynamoDBReader, DynamoDBSource
from migrator.adapters.dynamodb.values import from_attribute, item_size, to_attribute, to_item
from migrator.errors import ConfigError, StoreError, TransientStoreError
from migrator.mapping_file import load_mapping
from migrator.model import Address, Existing, Origin, Partition, Reject, Row
from migrator.values import canonical
from stores import fetched

MAPPING = load_mapping("luminoracore-v1.1")
KINDS = MAPPING.kind_names()
NEW = MAPPING.layouts["user_id/SK"]
INDEXED = MAPPING.layouts["session_id/SK+GSI1"]
WHOLE = Partition("whole", {"segment": 0, "of": 1})
PASSING = [
    "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError",
]  # fmt: skip


def at(endpoint: str, table: str = "chat", **options: str) -> Address:
    return Address("dynamodb", "dynamodb", f"dynamodb://{table}", table, {"endpoint": endpoint, **options})


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(NEW, KINDS, tmp_path)


@pytest.fixture
def table() -> str:
    """A name that no other test uses: the servers are shared."""
    return f"t-{uuid.uuid4().hex[:12]}"


def fact(key: Any, value: str = "v", user: str = "ana", **more: Any) -> Row:
    return Row(
        "fact", {"user_id": user, "session_id": None, "category": "work", "key": str(key), "value": value, **more}
    )


def episode(title: str, summary: str = "s", created: str = "2025-01-01T00:00:00.5", user: str = "ana") -> Row:
    fields = {"episode_type": "moment", "title": title, "summary": summary, "created_at": created}
    return Row("episode", {"user_id": user, "session_id": None, **fields})


def keyed(row: Row, key: str) -> Row:
    """The row as it comes from a table where it has that key."""
    return Row(row.kind, row.record, Origin("dynamodb", NEW.id, {"SK": key}))


def put_rows(sink: DynamoDBSink, rows: list[Row], existing: Existing = Existing.EMPTY) -> Any:
    sink.begin("0000")
    sink.upsert(rows, existing)
    return sink.flush()


def rows_of(source: DynamoDBSource, wanted: int = 1) -> list[Row]:
    return [row for part in source.partitions(KINDS, wanted) for page in source.pages(part, None) for row in page.rows]


def plain(rows: Any) -> list[tuple[Any, ...]]:
    return sorted((row.kind, canonical(row.record), row.origin) for row in rows)


# An endpoint of our own ------------------------------------------------------------------------------------------------


class Stub:
    """A table user_id/SK called chat, that keeps items and answers as `before` and `after` say.

    `before(operation, request)` may answer (status, body) instead of doing it; `after` may answer instead of telling that it was done.
    """

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.largest = 0
        self.lock = threading.Lock()
        self.before: Callable[[str, dict[str, Any]], Any] = lambda operation, request: None
        self.after: Callable[[str, dict[str, Any]], Any] = lambda operation, request: None
        self.status = "ACTIVE"
        self.endpoint = ""

    def count(self, operation: str) -> int:
        return sum(each == operation for each, _ in self.requests)

    def answer(self, operation: str, request: dict[str, Any]) -> Any:
        with self.lock:
            self.requests.append((operation, request))
            return self.before(operation, request) or self.done(operation, request)

    def done(self, operation: str, request: dict[str, Any]) -> Any:
        answer = getattr(self, operation)(request)
        return self.after(operation, request) or answer

    def put(self, item: dict[str, Any]) -> None:
        self.items[item["user_id"]["S"], item["SK"]["S"]] = item

    def BatchWriteItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        items = [each["PutRequest"]["Item"] for each in request["RequestItems"]["chat"]]
        keys = {(item["user_id"]["S"], item["SK"]["S"]) for item in items}
        if len(items) > 25 or len(keys) != len(items) or any("bad" in item for item in items):
            return refusal("ValidationException", "one item is bad")
        for item in items:
            self.put(item)
        return 200, {"UnprocessedItems": {}}

    def PutItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        item = request["Item"]
        held = self.items.get((item["user_id"]["S"], item["SK"]["S"]))
        if "bad" in item:
            return refusal("ValidationException", "the item is bad")
        if held and "ConditionExpression" in request:
            status, body = refusal("ConditionalCheckFailedException", "The conditional request failed")
            return status, {**body, "Item": held}
        self.put(item)
        return 200, {}

    def GetItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        held = self.items.get((request["Key"]["user_id"]["S"], request["Key"]["SK"]["S"]))
        return 200, {"Item": held} if held else {}

    def DescribeTable(self, request: dict[str, Any]) -> Any:  # noqa: N802
        schema = [{"AttributeName": "user_id", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}]
        types = [{"AttributeName": name, "AttributeType": "S"} for name in ("user_id", "SK")]
        table = {"TableName": "chat", "KeySchema": schema, "AttributeDefinitions": types, "TableStatus": self.status}
        return 200, {"Table": {**table, "ItemCount": len(self.items)}}

    def Scan(self, request: dict[str, Any]) -> Any:  # noqa: N802
        return 200, {"Items": list(self.items.values()), "Count": len(self.items)}

    def BatchGetItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        keys = [(key["user_id"]["S"], key["SK"]["S"]) for key in request["RequestItems"]["chat"]["Keys"]]
        found = [self.items[key] for key in keys if key in self.items]
        return 200, {"Responses": {"chat": found}, "UnprocessedKeys": {}}


def refusal(code: str, message: str = "", status: int = 400) -> tuple[int, dict[str, str]]:
    return status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()

    def answer(operation: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        stub.largest = max(stub.largest, len(body))
        status, told = stub.answer(operation, json.loads(body))
        return status, told if isinstance(told, bytes) else json.dumps(told).encode()

    with endpoint.answering(answer) as stub.endpoint:
        yield stub


class VirtualTime:
    """A clock that only waiting moves."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.waited: list[float] = []
        self._lock = threading.Lock()
        self._random = random.Random(seed)

    def pace(self, patience: float = 300) -> Pace:
        return Pace(patience, lambda: self.now, self.wait, self._random.random)

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        with self._lock:
            self.now += seconds
            self.waited.append(seconds)
        return stop.is_set()


@pytest.fixture
def clock() -> VirtualTime:
    return VirtualTime()


@pytest.fixture(params=["boto3", "fast"])
def sink(
    stub: Any, setting: Setting, clock: VirtualTime, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DynamoDBSink]:
    monkeypatch.setenv("MIGRATOR_FAST", str(int(request.param == "fast")))
    sink = DynamoDBSink(at(stub.endpoint), setting, clock.pace())
    yield sink
    sink.close()


# Never lost, never spinning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", range(26))
def test_what_comes_back_unprocessed_is_sent_again(stub: Stub, sink: DynamoDBSink, left: int) -> None:
    short: list[int] = []

    def leave_some(operation: str, request: dict[str, Any]) -> Any:
        puts = request["RequestItems"]["chat"]
        if len(short) >= 3 or not left:
            return None
        short.append(left)
        for put in puts[left:]:
            stub.put(put["PutRequest"]["Item"])
        return 200, {"UnprocessedItems": {"chat": puts[:left]}}

    stub.before = leave_some
    rows = [fact(n) for n in range(60)]
    flushed = put_rows(sink, rows)
    assert not flushed.held
    assert not flushed.rejects
    assert len(stub.items) == 60


NO_ANSWERS = {
    "html": (200, b"<html>please log in to this network</html>"), "nothing": (200, b""), "half": (200, b'{"Unprocessed'),
    "half a letter": (200, b'{"Items": "\xc3'), "a list": (200, b"[1]"), "another's": (200, {"message": "down for maintenance"}),
    "half an error": (400, b'{"__type":"com.amazonaws.dynamodb.v2012'), "400 of html": (400, b"<html>bad request</html>"),
    "500": (500, b"oops"), "503": (503, {}), "502 of a list": (502, b"[]"), "504 of bytes": (504, b"\xff"),
}  # fmt: skip
"""What a proxy between says, or half of what DynamoDB says. To botocore some of it is an answer without content, as that to a put is."""


@pytest.mark.parametrize("existing", [Existing.EMPTY, Existing.REFUSE])
@pytest.mark.parametrize("code", [*PASSING, *NO_ANSWERS, "dropped"])
def test_a_passing_trouble_loses_nothing(
    stub: Stub, sink: DynamoDBSink, clock: VirtualTime, code: str, existing: Existing
) -> None:
    pace = sink._pace
    assert pace is not None

    def trouble(operation: str, request: dict[str, Any]) -> Any:
        if pace._failures > 1:  # with what the other threads have under way, five in a row bring nothing at most
            return None
        if code == "dropped":
            raise endpoint.Dropped
        return NO_ANSWERS.get(code) or refusal(code)

    stub.before = trouble
    put_rows(sink, [fact(n) for n in range(130 if existing is Existing.EMPTY else 20)], existing)
    assert len(stub.items) == (130 if existing is Existing.EMPTY else 20)
    assert clock.waited
    assert max(clock.waited) <= 1  # in which the governor looks again whether it may send


def test_half_an_error_is_not_what_the_table_says(stub: Stub, setting: Setting) -> None:
    """One that is torn while the plan is made, too. An answer of another sort, whoever gives it, is none that passes."""
    halves = [NO_ANSWERS["half an error"], NO_ANSWERS["400 of html"]]
    stub.before = lambda operation, request: halves.pop() if halves else None
    assert ADAPTER.describe(at(stub.endpoint, region="eu-west-1")) is not None
    assert halves == []
    stub.before = lambda operation, request: (403, b"<html>not from here</html>")
    assert "403" in told(at(stub.endpoint, region="eu-west-1"))
    assert stub.count("DescribeTable") == 4


def test_what_was_left_of_a_table_may_be_nothing(stub: Stub, sink: DynamoDBSink) -> None:
    stub.after = lambda operation, request: (200, {"UnprocessedItems": {"chat": []}})
    flushed = put_rows(sink, [fact(n) for n in range(60)])
    assert (flushed.rejects, len(stub.items), stub.count("BatchWriteItem")) == ([], 60, 3)


def test_half_an_answer_is_not_nothing_there(stub: Stub, setting: Setting, clock: VirtualTime) -> None:
    stub.put(to_item(NEW.write(fact(1))))
    halves = [NO_ANSWERS["half"], NO_ANSWERS["nothing"]]
    stub.before = lambda operation, request: halves.pop() if operation == "GetItem" and halves else None
    sink = DynamoDBSink(at(stub.endpoint), setting, clock.pace())
    assert sink._get(sink._slice, to_item({"user_id": "ana", "SK": "FACT#work#1"})) is not None
    assert halves == []
    sink.close()


@pytest.mark.parametrize("fast", ["0", "1"])
@pytest.mark.parametrize("unprocessed", [True, False])
def test_a_minute_of_total_throttling_takes_few_requests(
    stub: Stub,
    setting: Setting,
    clock: VirtualTime,
    unprocessed: bool,
    fast: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIGRATOR_FAST", fast)

    def throttled(operation: str, request: dict[str, Any]) -> Any:
        if clock.now > 60:
            return None
        return (200, {"UnprocessedItems": request["RequestItems"]}) if unprocessed else refusal(PASSING[0])

    stub.before = throttled
    pace = clock.pace()
    sinks = [DynamoDBSink(at(stub.endpoint), setting, pace) for _ in range(4)]
    writers = [
        threading.Thread(target=put_rows, args=(sink, [fact(n, user=f"u{turn}") for n in range(200)]))
        for turn, sink in enumerate(sinks)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    sent = len(stub.requests) - 4 * 200 // 25
    assert len(stub.items) == 800
    assert sent < 100
    assert max(clock.waited) <= 20
    for sink in sinks:
        sink.close()


def _is_shared(address: Address) -> bool:
    table = Table(address)
    return any(table.client is held.client or table._write is held._write for held in _HELD)


_HELD: list[Table] = []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody is forked here")
def test_a_process_that_was_forked_has_connections_of_its_own(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor that somebody brings may fork its workers: of one connection each would hear the other's answers."""
    monkeypatch.setattr(sys.modules[__name__], "_HELD", [Table(at(stub.endpoint))])
    assert _is_shared(at(stub.endpoint))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert not pool.submit(_is_shared, at(stub.endpoint)).result(timeout=60)
    assert _is_shared(at(stub.endpoint))


def test_stores_of_one_table_in_one_process_pause_together(setting: Setting) -> None:
    one, two, other = (DynamoDBSink(at("http://127.0.0.1:1", name), setting) for name in ("a", "a", "b"))
    assert one._table._write is two._table._write
    assert one._table._write is not other._table._write
    assert one._table._write is not one._table._read
    for each in (one, two, other):
        each.close()


def test_the_embedded_server_loses_nothing_that_comes_at_once(moto_endpoint: str) -> None:
    """moto did: tests/moto_server.py."""
    from moto.dynamodb.models.table import Table as MotoTable

    schema = [{"AttributeName": "h", "KeyType": "HASH"}, {"AttributeName": "r", "KeyType": "RANGE"}]
    attributes = [{"AttributeName": name, "AttributeType": "S"} for name in "hr"]
    held, meeting = MotoTable("t", "1", "eu-west-1", schema, attributes), threading.Barrier(2)

    def put(turn: int) -> None:
        for number in range(5000):
            if number % 50 == 0:
                meeting.wait(60)
            held.put_item({"h": {"S": f"{number}"}, "r": {"S": f"{turn}"}})

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(put, range(2)))
    finally:
        sys.setswitchinterval(before)
    assert sum(map(len, held.items.values())) == 10_000


def test_progress_ends_the_pauses(clock: VirtualTime) -> None:
    pace, never = clock.pace(), threading.Event()
    for _ in range(12):
        with pace.turn(never):
            pace.trouble(TransientStoreError("throttled"), 0)
    assert clock.now > 5
    pace.progress()
    before = len(clock.waited)
    for _ in range(5):
        with pace.turn(never):
            pass
    assert len(clock.waited) == before


def test_without_any_progress_it_gives_up_and_is_usable_again(
    stub: Stub, sink: DynamoDBSink, clock: VirtualTime
) -> None:
    stub.before = lambda operation, request: refusal(PASSING[0])
    with pytest.raises(
        GivenUp, match=r"ProvisionedThroughputExceededException; nothing got through for 3\d\d s: run again"
    ):
        put_rows(sink, [fact(n) for n in range(300)])
    assert clock.now > 300
    stub.before = lambda operation, request: None
    put_rows(sink, [fact(n) for n in range(300)])
    assert len(stub.items) == 300


def test_the_first_error_is_told_and_ends_the_waiting_of_the_others(stub: Stub, setting: Setting) -> None:
    stub.before = lambda operation, request: refusal(
        "AccessDeniedException" if "fatal" in str(request) else "ThrottlingException"
    )
    sink = DynamoDBSink(at(stub.endpoint), setting, Pace(jitter=lambda: 1.0))
    begun = time.monotonic()
    with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
        put_rows(sink, [fact(n, "fatal" if n > 80 else "v") for n in range(100)])
    assert time.monotonic() - begun < 10
    with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
        sink.flush()
    sink.close()


def test_a_sink_can_be_closed_while_it_waits(stub: Stub, setting: Setting) -> None:
    stub.before = lambda operation, request: refusal("ThrottlingException")
    sink = DynamoDBSink(at(stub.endpoint), setting, Pace(jitter=lambda: 1.0))
    sink.begin("0000")
    sink.upsert([fact(n) for n in range(100)], Existing.EMPTY)
    time.sleep(0.3)
    begun = time.monotonic()
    sink.close()
    sink.close()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("existing", list(Existing))
def test_a_lost_answer_is_no_lost_record(stub: Stub, sink: DynamoDBSink, existing: Existing) -> None:
    def lose(operation: str, request: dict[str, Any]) -> Any:
        if len(stub.requests) % 2:
            raise endpoint.Dropped

    stub.after = lose
    rows = [fact(n) for n in range(40)]
    flushed = put_rows(sink, rows, existing)
    assert len(stub.items) == 40
    assert not flushed.rejects
    if existing is Existing.REFUSE:  # our own earlier write stands in the way, and is equal
        assert flushed.held
        assert plain(mine for mine, _ in flushed.held) == plain(held for _, held in flushed.held)
    else:
        assert not flushed.held


@pytest.mark.parametrize("existing", list(Existing))
def test_one_bad_item_is_rejected_alone(stub: Stub, sink: DynamoDBSink, existing: Existing) -> None:
    rows = [fact(n, **({"bad": True} if n in (3, 30) else {})) for n in range(60)]
    flushed = put_rows(sink, rows, existing)
    assert sorted(reject.held["key"] for reject in flushed.rejects) == ["3", "30"]
    assert all("the item is bad" in r.reason or "one item is bad" in r.reason for r in flushed.rejects)
    assert len(stub.items) == 58


def test_a_key_is_never_twice_in_a_batch(stub: Stub, sink: DynamoDBSink) -> None:
    first = episode("one")
    second = keyed(episode("two"), NEW.write(first)["SK"])
    flushed = put_rows(sink, [first, second, *[fact(n) for n in range(30)]])
    assert [reject.held["title"] for reject in flushed.rejects] == ["two"]
    assert "same key" in flushed.rejects[0].reason
    assert len(stub.items) == 31


@pytest.mark.parametrize("between", [0, 200])
def test_the_same_identity_again_replaces(stub: Stub, sink: DynamoDBSink, between: int) -> None:
    put_rows(sink, [fact("k", "old"), *[fact(n) for n in range(between)], fact("k", "new")], Existing.REPLACE)
    assert stub.items["ana", "FACT#work#k"]["value"] == {"S": "new"}
    assert len(stub.items) == between + 1


def test_refusals_are_answers_and_end_the_pauses(stub: Stub, sink: DynamoDBSink, clock: VirtualTime) -> None:
    rows = [fact(n) for n in range(50)]
    put_rows(sink, rows)
    stub.before = lambda operation, request: refusal(PASSING[0]) if len(stub.requests) < 10 else None
    assert len(put_rows(sink, rows, Existing.REFUSE).held) == 50
    assert sink._table._write._failures == 0


def test_requests_are_bounded_in_bytes(stub: Stub, sink: DynamoDBSink) -> None:
    rows = [fact(n, "\x01" * 400_000) for n in range(30)]  # a byte of text, six of JSON
    put_rows(sink, rows)
    assert len(stub.items) == 30
    assert stub.largest < 16 << 20


def test_unprocessed_keys_are_asked_for_again(stub: Stub, setting: Setting, clock: VirtualTime) -> None:
    for n in range(50):
        stub.put(to_item(NEW.write(fact(n))))

    def leave_half(operation: str, request: dict[str, Any]) -> Any:
        asked = request["RequestItems"]["chat"]
        if operation != "BatchGetItem" or len(asked["Keys"]) < 2:
            return None
        half = len(asked["Keys"]) // 2
        status, answer = stub.BatchGetItem({"RequestItems": {"chat": {**asked, "Keys": asked["Keys"][:half]}}})
        return status, {**answer, "UnprocessedKeys": {"chat": {**asked, "Keys": asked["Keys"][half:]}}}

    stub.before = leave_half
    reader = DynamoDBReader(at(stub.endpoint), setting, clock.pace())
    assert len(fetched(reader, [fact(n) for n in range(200)])) == 50
    reader.close()


def test_only_a_reader_reads_consistently(stub: Stub, setting: Setting) -> None:
    stub.put(to_item(NEW.write(fact(1))))
    for adapter, wanted in ((ADAPTER.source, False), (ADAPTER.reader, True)):
        stub.requests.clear()
        store = adapter(at(stub.endpoint), setting)
        assert len(rows_of(store)) == 1  # type: ignore[arg-type]
        assert {request["ConsistentRead"] for operation, request in stub.requests if operation == "Scan"} == {wanted}
        store.close()


# Values ----------------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(bool)
numbers = st.one_of(
    st.integers(-(10**38) + 1, 10**38 - 1),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x == 0 or 1e-130 <= abs(x) < 9.99e125),
)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), texts, numbers, st.binary(max_size=20),
        st.frozensets(texts, min_size=1), st.frozensets(numbers, min_size=1), st.frozensets(st.binary(), min_size=1),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert canonical(from_attribute(to_attribute(value))) == canonical(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9"), (0.1 + 0.2, "0.30000000000000004"), (1e-7, "1e-07"), (42, "42"), (2.0, "2.0"),
        (10**125, "1" + 125 * "0"), (Decimal("1.1000000000000000000000000000000000001"),) * 2,
    ],
)  # fmt: skip
def test_numbers_are_written_as_their_shortest_text(value: Any, text: Any) -> None:
    assert to_attribute(value) == {"N": str(text)}


def nested(depth: int) -> Any:
    value: Any = "x"
    for turn in range(depth):
        value = [value] if turn % 2 else {"a": value}
    return value


BAD_VALUES = [
    (float("nan"), "not a finite number"),
    (float("-inf"), "not a finite number"),
    (10**38 + 1, "39 significant digits"),
    (Decimal("0." + "1" * 39), "39 significant digits"),
    (1e126, "outside"),
    (10**5000, "outside"),
    (1e-131, "outside"),
    (nested(32), "deeper"),
    (frozenset(), "empty set"),
    (frozenset({1, "a"}), "several types"),
    ("\ud800", "lone surrogate"),
    ({"\ud800": 1}, "lone surrogate"),
    ({"": 1}, "empty name"),
    ([{"a": ["\ud800"]}], "lone surrogate"),
]


@pytest.mark.parametrize(
    ("value", "reason"), BAD_VALUES, ids=[f"{n}-{reason}" for n, (_, reason) in enumerate(BAD_VALUES)]
)
def test_what_dynamodb_cannot_hold_is_rejected_by_name_of_field(setting: Setting, value: Any, reason: str) -> None:
    reader = DynamoDBReader(at("http://127.0.0.1:1"), setting)
    fitted = reader.fit(fact("k", mine=value))
    assert isinstance(fitted, Reject)
    assert fitted.reason.startswith("mine ")
    assert reason in fitted.reason
    reader.close()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (fact("k", user=""), "user_id is empty"),
        (fact("k", user="u" * 2049), "user_id takes 2,049 bytes"),
        (fact("é" * 508), "SK takes 1,026 bytes"),
        (fact("k", "x" * 409_600), "DynamoDB allows 409,600 (most of it in value)"),
        (fact("k", **{"": 1}), "empty name"),
        (Row("affinity", {"user_id": "ana", "personality_name": "p"}), "affinity_points"),
        (fact("k", affinity_points=1, personality_name="p"), "affinity"),
    ],
)
def test_a_record_over_a_limit_is_rejected_with_the_reason(setting: Setting, row: Row, reason: str) -> None:
    reader = DynamoDBReader(at("http://127.0.0.1:1"), setting)
    fitted = reader.fit(row)
    assert isinstance(fitted, Reject)
    assert reason in fitted.reason
    assert reader.fit(fact("é" * 506)) == fact("é" * 506)
    reader.close()


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("", 0), ("é", 2), (b"abc", 3), (None, 1), (True, 1), ([], 3), ({}, 3), (["a"], 5), (["a"] * 3, 9), ({"k": "a"}, 6),
        (0, 1), (1, 2), (12, 2), (123, 3), (-1, 3), (-123, 4), (100, 2), (1000, 2), (0.5, 2), (0.05, 2), (1.5, 3), (12.5, 3),
        (int("1" * 38), 20), (1e20, 2), (frozenset({"a", "bb"}), 3), (frozenset({1, 22}), 4), (frozenset({b"abc"}), 3),
    ],
)  # fmt: skip
def test_sizes_are_counted_as_the_service_counts(value: Any, size: int) -> None:
    assert item_size({"name": to_attribute(value)}) == 4 + size


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(names, values, max_size=6))
def test_our_sizes_are_those_of_dynamodb_local(dynamodb_local_endpoint: str, attributes: dict[str, Any]) -> None:
    item = to_item({**attributes, "user_id": "u", "SK": "s", "padding": ""})
    client = boto3.client("dynamodb", endpoint_url=dynamodb_local_endpoint)
    if "sizes" not in client.list_tables()["TableNames"]:
        make_table(dynamodb_local_endpoint, "sizes")
    item["padding"] = {"S": "x" * (409_600 - item_size(item))}
    client.put_item(TableName="sizes", Item=item)
    item["padding"]["S"] += "x"
    with pytest.raises(client.exceptions.ClientError, match="maximum allowed size"):
        client.put_item(TableName="sizes", Item=item)


@pytest.mark.parametrize("depth", [31, 32])
def test_the_deepest_nesting_is_that_of_dynamodb_local(
    dynamodb_local_endpoint: str, table: str, depth: int, setting: Setting
) -> None:
    client = make_table(dynamodb_local_endpoint, table)
    value: dict[str, Any] = {"S": "x"}
    for _ in range(depth):
        value = {"L": [value]}
    fits = isinstance(DynamoDBReader(at("http://127.0.0.1:1"), setting).fit(fact("k", mine=nested(depth))), Row)
    try:
        client.put_item(TableName=table, Item={"user_id": {"S": "u"}, "SK": {"S": "s"}, "v": value})
        assert fits
    except client.exceptions.ClientError:
        assert not fits


def test_a_row_weighs_its_item_and_its_index_entry(tmp_path: Path) -> None:
    row = fact("k", "x" * 1000)
    for layout, units in ((NEW, 2), (INDEXED, 4)):
        reader = DynamoDBReader(at("http://127.0.0.1:1"), Setting(layout, KINDS, tmp_path))
        weight = reader.weigh(row)
        assert 1024 < weight.bytes < 1200
        assert weight.units == units
        reader.close()


# Describing, and messages ----------------------------------------------------------------------------------------------


def make_table(endpoint: str, name: str, keys: str = "user_id:S SK:S", **more: Any) -> Any:
    client = boto3.client("dynamodb", endpoint_url=endpoint)
    pairs = [key.split(":") for key in keys.split()]
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": n, "KeyType": t} for (n, _), t in zip(pairs, ("HASH", "RANGE"), strict=False)],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": t} for n, t in pairs],
        **more,
    )
    return client


def told(address: Address) -> str:
    with pytest.raises(ConfigError) as caught:
        ADAPTER.describe(address)
    message = str(caught.value)
    assert "testing" not in message
    assert len(message.splitlines()) <= 2
    assert len(message) < 400
    assert message.startswith(address.text)
    return message


def test_describe_tells_keys_index_and_a_sample(dynamodb_endpoint: str, table: str, tmp_path: Path) -> None:
    assert ADAPTER.describe(at(dynamodb_endpoint, table)) is None
    sink = DynamoDBSink(at(dynamodb_endpoint, table), Setting(INDEXED, KINDS, tmp_path))
    sink.prepare(KINDS, create=True)
    put_rows(sink, [fact(n) for n in range(30)])
    sink.close()
    shape = ADAPTER.describe(at(dynamodb_endpoint, table))
    assert shape is not None
    assert (shape.key, shape.index) == (("session_id", "SK"), ("GSI1", "GSI1PK", "GSI1SK"))
    assert shape.words == f"DynamoDB table {table} (session_id/SK with index GSI1: GSI1PK/GSI1SK, eu-west-1)"
    assert len(shape.sample) == 30
    assert shape.sample[0]["category"] == "work"
    assert MAPPING.layout_for("dynamodb", shape) is INDEXED


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, moto_endpoint: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_ACCESS_KEY_ID" in told(at(moto_endpoint))


def test_no_region(monkeypatch: pytest.MonkeyPatch, moto_endpoint: str) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    message = told(at(moto_endpoint))
    assert "?region=" in message
    assert "AWS_REGION alone is not read" in message
    assert ADAPTER.describe(at(moto_endpoint, "absent", region="eu-west-1")) is None


def test_no_such_profile(moto_endpoint: str) -> None:
    assert "(nobody)" in told(at(moto_endpoint, profile="nobody"))


def test_no_such_endpoint() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = at(f"http://127.0.0.1:{free.getsockname()[1]}")
    begun = time.monotonic()
    assert f"no answer from {address.options['endpoint']}" in told(address)
    assert time.monotonic() - begun < 20
    assert "whole URL" in told(at("localhost:8000"))


def test_no_such_proxy_and_no_such_certificate(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "speaks TLS, and the certificates that are believed (AWS_CA_BUNDLE" in told(
        at(stub.endpoint.replace("http:", "https:"), region="eu-west-1")
    )
    monkeypatch.setenv("HTTP_PROXY", "http://bob:hunter2@127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    said = told(at("http://dynamodb.example:8000", region="eu-west-1"))
    assert "check the proxy (HTTP_PROXY, HTTPS_PROXY; NO_PROXY" in said and "hunter2" not in said


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("UnrecognizedClientException", "does not accept these credentials"),
        ("InvalidSignatureException", "does not accept these credentials"),
        ("ExpiredTokenException", "log in anew"),
        ("AccessDeniedException", "dynamodb:DescribeTable on the table chat"),
        ("SomethingNewException", "SomethingNewException"),
    ],
)
def test_an_answer_that_is_an_error_tells_the_next_step(stub: Any, code: str, words: str) -> None:
    stub.before = lambda operation, request: refusal(
        code, "a canonical string of many lines\n" * 20 if "Sig" in code else ""
    )
    assert words in told(at(stub.endpoint))


def test_a_denied_scan_names_the_scan(stub: Any) -> None:
    stub.before = lambda operation, request: refusal("AccessDeniedException") if operation == "Scan" else None
    assert "dynamodb:Scan on the table chat" in told(at(stub.endpoint))


def test_a_table_that_is_being_made(stub: Any) -> None:
    stub.status = "CREATING"
    assert "CREATING" in told(at(stub.endpoint))
    stub.status = "UPDATING"
    assert ADAPTER.describe(at(stub.endpoint)) is not None


@pytest.mark.parametrize(
    ("keys", "words"), [("id:S n:N", "n has type N"), ("id:B n:S", "id has type B"), ("id:B", "id has type B")]
)
def test_a_table_with_other_keys(moto_endpoint: str, table: str, keys: str, words: str) -> None:
    make_table(moto_endpoint, table, keys)
    assert words in told(at(moto_endpoint, table))


def test_whereabouts_need_no_table_and_hide_a_password(moto_endpoint: str, table: str) -> None:
    assert ADAPTER.whereabouts(at(moto_endpoint, table)) == (
        f"arn:aws:dynamodb:eu-west-1:*:table/{table} at {moto_endpoint} (profile default)"
    )
    make_table(moto_endpoint, table)
    secret = moto_endpoint.replace("://", "://me:hidden@")
    assert ADAPTER.whereabouts(at(secret, table)) == (
        f"arn:aws:dynamodb:eu-west-1:123456789012:table/{table} at {moto_endpoint} (profile default)"
    )


def test_prepare_makes_the_table_only_if_it_may(dynamodb_endpoint: str, table: str, tmp_path: Path) -> None:
    sink = DynamoDBSink(at(dynamodb_endpoint, table), Setting(INDEXED, KINDS, tmp_path))
    with pytest.raises(ConfigError, match="--create makes it"):
        sink.prepare(KINDS, create=False)
    for _ in range(2):
        sink.prepare(KINDS, create=True)
    sink.prepare(KINDS, create=False)
    assert sink.reader().holds(KINDS).any is False
    other = DynamoDBSink(at(dynamodb_endpoint, table), Setting(NEW, KINDS, tmp_path))
    with pytest.raises(ConfigError, match=r"session_id/SK with index GSI1.*needs user_id/SK"):
        other.prepare(KINDS, create=True)
    for each in (sink, other):
        each.close()


def test_two_that_make_the_table_at_once_both_succeed(dynamodb_endpoint: str, table: str, setting: Setting) -> None:
    sinks = [DynamoDBSink(at(dynamodb_endpoint, table), setting) for _ in range(3)]
    failed: list[Exception] = []

    def prepare(sink: DynamoDBSink) -> None:
        try:
            sink.prepare(KINDS, create=True)
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=prepare, args=(sink,)) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for sink in sinks:
        sink.close()


# Against the servers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def real(dynamodb_endpoint: str, table: str, setting: Setting) -> Iterator[DynamoDBSink]:
    sink = DynamoDBSink(at(dynamodb_endpoint, table), setting)
    sink.prepare(KINDS, create=True)
    yield sink
    sink.close()


def test_what_is_written_is_read(real: DynamoDBSink) -> None:
    rows = [*[fact(n, user=f"u{n % 7}") for n in range(100)], *[episode(f"t{n}") for n in range(20)]]
    for _ in range(2):
        put_rows(real, rows, Existing.REPLACE)
        for wanted in (1, 5):
            assert plain(rows_of(real.reader(), wanted)) == plain(rows)


def test_reading_on_from_any_page_gives_exactly_the_rest(real: DynamoDBSink, monkeypatch: pytest.MonkeyPatch) -> None:
    put_rows(real, [fact(n, user=f"u{n % 11}") for n in range(60)])
    monkeypatch.setattr(dynamodb_source, "PAGE_ROWS", 7)
    reader = real.reader()
    for part in [Partition(str(segment), {"segment": segment, "of": 3}) for segment in range(3)]:
        pages = list(reader.pages(part, None))
        for position, page in enumerate(pages):
            cursor = json.loads(json.dumps(page.cursor))
            rest = [row.place for each in reader.pages(part, cursor) for row in each.rows]
            assert rest == [row.place for each in pages[position + 1 :] for row in each.rows]
        assert list(reader.pages(part, pages[-1].cursor)) == []


def test_refusing_gives_back_what_is_there(real: DynamoDBSink) -> None:
    put_rows(real, [fact(n, "old") for n in range(40)])
    flushed = put_rows(real, [fact(n, "old" if n % 2 else "new") for n in range(60)], Existing.REFUSE)
    assert len(flushed.held) == 40
    assert Counter(mine.record == held.record for mine, held in flushed.held) == {True: 20, False: 20}
    assert Counter(row.record["value"] for row in rows_of(real.reader())) == {"old": 50, "new": 10}


def test_fetch_finds_by_key_and_says_nothing_of_what_is_not_there(real: DynamoDBSink) -> None:
    put_rows(real, [fact(n) for n in range(250)])
    held = fetched(real.reader(), [fact(n) for n in range(200, 330)])
    assert sorted(int(key[1][2]) for key in held) == list(range(200, 250))
    assert held["fact", ("ana", "work", "200")].record == fact(200).record


def test_fetch_finds_an_episode_under_whatever_key(real: DynamoDBSink) -> None:
    derived = NEW.write(episode("three"))["SK"]
    put_rows(
        real,
        [
            keyed(episode("one"), "EPISODE#moment#moment_20250101_000000"),
            keyed(episode("two", "later"), "EPISODE#moment#b"),
            keyed(episode("other"), derived),  # sits where "three" would go
        ],
    )
    put_rows(real, [keyed(episode("two", "first"), "EPISODE#moment#a")])
    held = fetched(real.reader(), [episode(title) for title in ("one", "two", "three", "four")])

    def of(title: str) -> Any:
        return held.get(("episode", ("ana", "moment", "2025-01-01T00:00:00.5", title)))

    assert of("one").origin.set == {"SK": "EPISODE#moment#moment_20250101_000000"}
    assert of("two").record["summary"] == "first"
    assert of("three").record["title"] == "other"
    assert of("four") is None
    put_rows(real, [episode("two", "own")])
    assert fetched(real.reader(), [episode("two")]).popitem()[1].record["summary"] == "own"
    both = fetched(real.reader(), [episode("three"), episode("other")])
    assert [row.record["title"] for row in both.values()] == ["other", "other"]


def test_another_kind_at_a_rows_key_comes_under_that_rows_name(real: DynamoDBSink, dynamodb_endpoint: str) -> None:
    client = boto3.client("dynamodb", endpoint_url=dynamodb_endpoint)
    key = {"user_id": {"S": "ana"}, "SK": {"S": "FACT#work#k"}}
    client.put_item(TableName=real._table.name, Item={**key, "strange": {"NULL": True}})
    held = fetched(real.reader(), [fact("k")])
    assert held["fact", ("ana", "work", "k")].record == {"user_id": "ana", "SK": "FACT#work#k", "strange": None}
    flushed = put_rows(real, [fact("k")], Existing.REFUSE)
    assert flushed.held[0][1].record["strange"] is None


def test_a_ghost_and_a_foreign_item_hold_no_record(real: DynamoDBSink, dynamodb_endpoint: str) -> None:
    client = boto3.client("dynamodb", endpoint_url=dynamodb_endpoint)
    ghost = {"last_activity": {"S": "t"}, "updated_at": {"S": "t"}}
    for key, more in (("SESSION#s", ghost), ("x", {"a": {"S": "b"}})):
        client.put_item(TableName=real._table.name, Item={"user_id": {"S": "s"}, "SK": {"S": key}, **more})
    reader = real.reader()
    assert not reader.holds(KINDS).any
    (page,) = reader.pages(WHOLE, None)
    assert sorted((each.place, each.ghost) for each in page.foreign) == [
        ('{"SK":"SESSION#s","user_id":"s"}', True), ('{"SK":"x","user_id":"s"}', False),
    ]  # fmt: skip
    put_rows(real, [fact(1)])
    assert reader.holds(KINDS).any
    assert not reader.holds(["mood"]).any


def test_a_reader_finds_a_missing_table_empty_and_a_source_does_not(
    dynamodb_endpoint: str, table: str, setting: Setting
) -> None:
    reader = ADAPTER.reader(at(dynamodb_endpoint, table), setting)
    assert reader.partitions(KINDS, 4) == []
    assert list(reader.pages(WHOLE, None)) == []
    assert fetched(reader, [fact(1), episode("t")]) == {}
    assert not reader.holds(KINDS).any
    source = ADAPTER.source(at(dynamodb_endpoint, table), setting)
    with pytest.raises(StoreError, match="no such table"):
        source.partitions(KINDS, 4)
    with pytest.raises(StoreError, match="no such table"):
        list(source.pages(WHOLE, None))
    for each in (reader, source):
        each.close()
        each.close()


def test_time_to_live_is_told_where_the_server_knows_it(
    real: DynamoDBSink, dynamodb_endpoint: str, request: Any
) -> None:
    assert real.reader().time_to_live() is None  # type: ignore[attr-defined]
    if "dynalite" in request.node.callspec.id:
        return
    client = boto3.client("dynamodb", endpoint_url=dynamodb_endpoint)
    client.update_time_to_live(
        TableName=real._table.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "TTL"}
    )
    assert real.reader().time_to_live() == "TTL"  # type: ignore[attr-defined]


def test_few_segments_for_a_small_table(
    moto_endpoint: str, table: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = DynamoDBSink(at(moto_endpoint, table), setting)
    sink.prepare(KINDS, create=True)
    reader = sink.reader()
    assert reader.partitions(KINDS, 8) == []
    put_rows(sink, [fact(n, user=str(n)) for n in range(60)])
    assert len(reader.partitions(KINDS, 8)) == 1
    monkeypatch.setattr(dynamodb_source, "PAGE_ROWS", 20)
    parts = reader.partitions(KINDS, 8)
    assert len(parts) == 3
    assert {part.spec["of"] for part in parts} == {3}
    assert len(rows_of(reader, 8)) == 60
    sink.close()


def test_tables_that_are_open_at_once_share_a_client_and_none_outlives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who logs in anew between two runs of one process is let in with what is there then."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    here = Address("dynamodb", "dynamodb", "dynamodb://here", "here", {"region": "eu-west-1"})
    first, second = Table(here), Table(here)
    assert first.client is second.client
    elsewhere = Table(Address("dynamodb", "dynamodb", "dynamodb://here", "here", {"region": "eu-west-2"}))
    assert elsewhere.client is not first.client and elsewhere.client.session is first.client.session
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    third = Table(here)
    assert third.client is not first.client
    assert third.client.session.get_credentials().access_key == "second"
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert Table(here).client is not third.client
    gone = weakref.ref(first.client.session)
    del first, second, elsewhere
    gc.collect()
    assert gone() is None


def test_a_run_makes_one_client_for_a_table_however_often_it_opens_it(
    dynamodb_local_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Looked at, asked where it is, opened for reading and for writing: what tells its shape keeps the client."""
    make, made = dynamodb_client._made, []
    monkeypatch.setattr(dynamodb_client, "_clients", weakref.WeakValueDictionary())  # the tests' own is there already
    monkeypatch.setattr(dynamodb_client, "_made", lambda address: made.append(address) or make(address))
    source = Path(__file__).parent / "data" / "chat.db"
    sink = f"dynamodb://{uuid.uuid4()}?region=eu-west-1&endpoint={dynamodb_local_endpoint}"
    for _ in range(2):
        gc.collect()
        made.clear()
        report = migrator.migrate(source, sink, migrator.Options(state=str(tmp_path), create=True, workers=1))
        assert report.proven == "digest"
    assert len(made) == 1
