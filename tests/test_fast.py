"""The fast way to a table (`dynamodb.fast`) leaves what boto3 leaves, and gives way to it wherever it is not sure of itself.

Who loses nothing under faults, by either way, says `test_faults.py`; what both do with batches, `test_dynamodb.py` and `test_dynamodb_sink.py`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import math
import os
import socket
import ssl
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

import endpoint
import kills
from conftest import needed
from migrator.adapters.base import Setting
from migrator.adapters.dynamodb import signing as dynamodb_signing
from migrator.adapters.dynamodb import sink as dynamodb_sink
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.dynamodb.requests import Table
from migrator.adapters.dynamodb.signing import Pattern, Signer, Unlike
from migrator.adapters.dynamodb.sink import DynamoDBSink
from migrator.adapters.dynamodb.values import to_item
from migrator.adapters.dynamodb.wire import Puts, Wire, item_json
from migrator.errors import StoreError, TransientStoreError
from migrator.model import Address, Existing, Row
from tables import address_of, client_of, items_of
from test_dynamodb import KINDS, NEW, Stub, at, episode, fact, put_rows, refusal
from test_wire import items_of_many_types

needed("msgspec")
dynamodb_fast = import_module("migrator.adapters.dynamodb.fast")

MANY = [fact(n) for n in range(400)]


class Served(Stub):
    """A table that counts connections, and requests by who sent them."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: set[Any] = set()
        self.fast = 0
        self.most = 0
        self.now = 0
        self.delay = 0.0
        self.headers: list[dict[str, str]] = []

    def heard(self, operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        with self.lock:
            self.headers.append(dict(headers))
            if "amz-sdk-request" not in headers:
                self.fast += 1
                self.now += 1
                self.most = max(self.most, self.now)
        time.sleep(self.delay)
        status, told = self.answer(operation, json.loads(body))
        with self.lock:
            if "amz-sdk-request" not in headers:
                self.now -= 1
        return status, told if isinstance(told, bytes) else json.dumps(told).encode()


@pytest.fixture
def table() -> Iterator[Served]:
    served = Served()
    with endpoint.answering(served.heard) as served.endpoint:
        yield served


@pytest.fixture(autouse=True)
def _from_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATOR_FAST", "1")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(NEW, KINDS, tmp_path)


@pytest.fixture
def sink(table: Served, setting: Setting) -> Iterator[DynamoDBSink]:
    sink = DynamoDBSink(at(table.endpoint, region="eu-west-1"), setting, Pace())
    yield sink
    sink.close()


# Signatures ------------------------------------------------------------------------------------------------------------

KEYS = st.text("abcXYZ019/+=", min_size=1, max_size=30)
HOSTS = st.sampled_from(
    ["dynamodb.eu-west-1.amazonaws.com", "127.0.0.1:8000", "[::1]:8000", "Localhost:80", "host:443"]
)


def signed_by_botocore(url: str, body: bytes, credentials: Credentials, where: tuple[str, str], agent: str) -> Pattern:
    headers = {
        "X-Amz-Target": "DynamoDB_20120810.BatchWriteItem",
        "Content-Type": "application/x-amz-json-1.0",
        "User-Agent": agent,
    }
    request = AWSRequest("POST", url, headers, body)
    SigV4Auth(credentials, *reversed(where)).add_auth(request)
    prepared = request.prepare()
    return Pattern(prepared.method, prepared.url, {name: str(value) for name, value in prepared.headers.items()}, body)


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=HOSTS,
    body=st.binary(max_size=200),
    keys=st.tuples(KEYS, KEYS, st.none() | KEYS),
    region=st.sampled_from(["eu-west-1", "us-gov-west-1"]),
    agent=st.sampled_from(["migrator", "a  b/1"]),
)
def test_a_signature_is_the_one_that_botocore_makes(
    scheme: str, host: str, body: bytes, keys: tuple[str, str, str | None], region: str, agent: str
) -> None:
    """Of the same second: the signer's time is the pattern's."""
    url, where = f"{scheme}://{host}/", (region, "dynamodb")
    pattern = signed_by_botocore(url, b"another body", Credentials(*keys), where, agent)
    signer = Signer(pattern, ReadOnlyCredentials(*keys))
    for other in (keys, ("another", "secret", None), ("another", "secret", "token")):
        for _ in range(3):
            expected = signed_by_botocore(url, body, Credentials(*other), where, agent).headers
            lines = signer.lines(body, ReadOnlyCredentials(*other)).decode("ascii")
            headers = dict(line.split(": ", 1) for line in lines.removesuffix("\r\n").split("\r\n"))
            if headers["x-amz-date"] == expected["X-Amz-Date"]:
                break
        assert headers["authorization"] == expected["Authorization"]
        assert headers["accept-encoding"] == "identity"
        assert headers.get("x-amz-security-token") == expected.get("X-Amz-Security-Token")


@pytest.mark.parametrize(
    "change",
    [
        {"Authorization": "Bearer of-a-token"},
        {"Authorization": None},
        {"X-Amz-Date": "20250101T000000Z"},
        {"X-Amz-Target": "DynamoDB_20990101.BatchWriteItem"},
        {"X-Amz-New": "what nobody knows yet"},
    ],
)
def test_a_request_that_is_not_as_we_know_it_is_not_imitated(change: dict[str, str | None]) -> None:
    credentials = Credentials("key", "secret")
    pattern = signed_by_botocore("http://host/", b"{}", credentials, ("eu-west-1", "dynamodb"), "migrator")
    changed = {name: value for name, value in (pattern.headers | change).items() if value is not None}
    frozen = credentials.get_frozen_credentials()
    Signer(pattern, frozen)
    for other in (
        pattern._replace(headers=changed),
        pattern._replace(body=b"[]"),
        pattern._replace(url="http://u:p@host/"),
    ):
        with pytest.raises(Unlike):
            Signer(other, frozen)
    with pytest.raises(Unlike):
        Signer(pattern, ReadOnlyCredentials("key", "another", None))


def test_what_this_boto3_sends_is_as_we_know_it(table: Served, sink: DynamoDBSink) -> None:
    """Fails with a boto3 that makes its requests another way: until we know that, every batch goes by boto3."""
    put_rows(sink, MANY)
    assert len(table.items) == 400
    assert table.count("BatchWriteItem") == table.fast == 16
    assert sink._table._pool is None, "no thread was needed"


def test_headers_are_those_of_boto3_but_for_its_counters(
    table: Served, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_rows(sink, [fact(1)])
    monkeypatch.setenv("MIGRATOR_FAST", "0")
    plain = DynamoDBSink(at(table.endpoint, region="eu-west-1"), sink.setting, Pace())
    put_rows(plain, [fact(1)])
    plain.close()
    fast, slow = (
        {name.lower(): value for name, value in headers.items()} for headers in (table.headers[-3], table.headers[-1])
    )
    told = slow.keys() - fast.keys()
    assert told <= {"amz-sdk-invocation-id", "amz-sdk-request", "connection"}
    assert fast.keys() <= slow.keys()
    for name in fast.keys() - {"authorization", "x-amz-date"}:
        assert fast[name] == slow[name], name


def test_credentials_are_those_of_the_moment(table: Served, sink: DynamoDBSink) -> None:
    """Each request asks boto3's own, which are refreshed when botocore finds it time."""
    direct = sink._table.client.direct(sink._table.name)
    assert direct.credentials.__self__ is sink._table.client.session.get_credentials()
    made = itertools.count()
    rotating = direct._replace(credentials=lambda: ReadOnlyCredentials(f"key-{next(made)}", "s", f"token-{next(made)}"))
    lane = dynamodb_fast.Lane(sink._table, rotating)
    for n in range(3):
        assert lane.send(puts([fact(n)]), 1, lambda left: None)
        lane.wait()
    lane.close()
    told = [(each["authorization"].partition("/")[0][-5:], each["x-amz-security-token"]) for each in table.headers[-3:]]
    assert told == [("key-0", "token-1"), ("key-2", "token-3"), ("key-4", "token-5")]


def puts(rows: list[Row]) -> Puts:
    return Puts(item_json(to_item(NEW.write(row))) for row in rows)


# What is written -------------------------------------------------------------------------------------------------------


def test_tables_written_fast_by_boto3_with_our_bodies_and_by_boto3_alone_are_equal(
    dynamodb_endpoint: str, tmp_path: Path
) -> None:
    client = client_of(dynamodb_endpoint)
    rows = [*(fact(n, VALUES[n % len(VALUES)]) for n in range(60)), *(episode(f"e{n}") for n in range(30))]
    found = []
    for way in ("fast", "bodies", "boto3"):
        name = f"fast-{uuid.uuid4().hex[:12]}"
        sink = DynamoDBSink(at(dynamodb_endpoint, name, region="eu-west-1"), Setting(NEW, KINDS, tmp_path))
        sink.prepare(["fact"], create=True)
        if way != "fast":
            sink._before_lane = 1 << 30
            sink._opened_lane = lambda: None  # type: ignore[method-assign]
        sink._table.client.wire._is_plain = way == "boto3"
        assert put_rows(sink, rows).rejects == []
        items = Puts(map(item_json, items_of_many_types()))
        left: list[Any] = []
        if sink._lane is not None:
            assert sink._lane.send(items, 25, left.append)
            sink._lane.wait()
            assert left == [[]]
        else:
            list(sink._table.batches("batch_write_item", {name: items}))
        assert (sink._lane is None) == (way != "fast")
        assert items.is_sent == (way == "bodies")
        found.append(items_of(client, name))
        sink.close()
    assert len(found[0]) == 60 + 30 + 25
    assert found[0] == found[1] == found[2]


VALUES = ["v", 'añ"\\\n\u2028😀', "\x00\x1f", "x" * 5000, " ", "\ud7ff"]


# How many at once ------------------------------------------------------------------------------------------------------


def test_it_begins_with_few_at_once_and_takes_more_as_they_are_answered(table: Served, sink: DynamoDBSink) -> None:
    table.delay = 0.05
    made = 0
    put_rows(sink, [fact(0)])
    create = sink._lane._loop.create_connection

    async def counting(*args: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        return await create(*args, **options)

    sink._lane._loop.create_connection = counting  # type: ignore[method-assign]
    put_rows(sink, [fact(n) for n in range(80)])
    assert 1 < table.most <= dynamodb_fast.FIRST
    put_rows(sink, [fact(n) for n in range(4000)])
    assert dynamodb_fast.FIRST < table.most <= dynamodb_fast.CONNECTIONS
    assert made < dynamodb_fast.CONNECTIONS < table.fast, "connections are used again"


def test_what_is_under_way_is_bounded_in_bytes(
    table: Served, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb_fast, "BYTES", 1)
    table.delay = 0.005
    put_rows(sink, MANY)
    assert (table.most, table.fast, len(table.items)) == (1, 16, 400)


@pytest.mark.parametrize("count", [25 * (dynamodb_fast.PORTION - 1) + 1, 400])
def test_a_page_is_on_its_way_before_the_next_is_asked_for(count: int, table: Served, sink: DynamoDBSink) -> None:
    """Nobody needs to flush that what fills a batch is sent, be they fewer than what is sent in one go."""
    put_rows(sink, [fact("first")])
    sink.begin("0000")
    sink.upsert(MANY[:count], Existing.EMPTY)
    full = 1 + (count - 1) // 25  # nothing says yet that the last is full
    deadline = time.monotonic() + 30
    while table.fast < full and time.monotonic() < deadline:
        time.sleep(0.01)
    assert table.fast == full


def test_what_is_under_way_has_come_to_its_end_when_the_next_slice_begins(table: Served, sink: DynamoDBSink) -> None:
    """Nothing of a slice that was given up is written behind what is done instead."""
    put_rows(sink, [fact("first")])
    table.delay = 0.3
    sink.upsert(MANY[:100], Existing.EMPTY)
    sink.begin("0001")
    assert len(table.items) == 1 + 75
    put_rows(sink, [fact("first")])
    assert len(table.items) == 1 + 75


def test_a_large_batch_is_sent_whole(table: Served, sink: DynamoDBSink) -> None:
    put_rows(sink, [fact(n, "\x01" * 300_000) for n in range(7)])  # six bytes of JSON each
    assert (len(table.items), table.fast > 1, sink._table._pool) == (7, True, None)


# In trouble ------------------------------------------------------------------------------------------------------------


def test_only_what_is_left_goes_once_more_and_by_boto3(table: Served, sink: DynamoDBSink) -> None:
    def leave_some(operation: str, request: dict[str, Any]) -> Any:
        asked = request["RequestItems"]["chat"] if operation == "BatchWriteItem" else []
        if len(asked) == 25:
            for put in asked[7:]:
                table.put(put["PutRequest"]["Item"])
            return 200, {"UnprocessedItems": {"chat": asked[:7]}}
        return None

    table.before = leave_some
    put_rows(sink, [fact(n) for n in range(25)])
    sizes = [
        len(request["RequestItems"]["chat"]) for operation, request in table.requests if operation == "BatchWriteItem"
    ]
    assert (sizes, table.fast, len(table.items)) == ([25, 7], 1, 25)


def test_a_connection_that_was_ended_while_nothing_was_sent_is_no_trouble(
    table: Served, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_rows(sink, MANY)
    count = len(sink._lane._connections.all)
    assert count
    for connection in sink._lane._connections.all:  # as its server would, while the loop stands still
        connection._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    monkeypatch.setattr(dynamodb_fast, "STALE", 0.0)
    put_rows(sink, [fact(f"more {n}") for n in range(25)])
    assert (table.fast, len(table.items), table.count("BatchWriteItem")) == (17, 425, 17)


@pytest.mark.parametrize("of", ["chat", "others"])
def test_if_what_is_left_is_none_of_what_was_sent_all_goes_once_more(
    of: str, table: Served, sink: DynamoDBSink
) -> None:
    another = [{"PutRequest": {"Item": to_item(NEW.write(fact("another")))}}]
    answers = [(200, {"UnprocessedItems": {of: another}})]
    table.before = lambda operation, request: answers.pop() if answers and operation == "BatchWriteItem" else None
    put_rows(sink, [fact(n) for n in range(25)])
    assert (len(table.items), table.fast, table.count("BatchWriteItem")) == (25, 1, 2)


def test_an_answer_whose_sum_is_wrong_is_none(setting: Setting) -> None:
    """DynamoDB tells the CRC32 of each answer; boto3 looks at it too."""
    stub, wrong = Served(), [True]

    def answer(operation: str, body: bytes, headers: Any) -> Any:
        status, told = stub.heard(operation, body, headers)
        right = zlib.crc32(told)
        is_wrong = operation == "BatchWriteItem" and wrong and wrong.pop()
        return status, told, {"x-amz-crc32": str(right ^ 1 if is_wrong else right)}

    with endpoint.answering(answer) as url:
        sink = DynamoDBSink(at(url, region="eu-west-1"), setting, Pace())
        put_rows(sink, [fact(1)])
        put_rows(sink, [fact(2)])
        assert (stub.count("BatchWriteItem"), stub.fast, len(stub.items)) == (3, 2, 2)
        sink.close()


def test_where_answers_are_never_as_dynamodbs_are_boto3_has_the_rest(setting: Setting) -> None:
    """Each was sent twice, once by either way; it ends there."""
    served = Served()

    def answer(operation: str, body: bytes, headers: Any) -> Any:
        status, told = served.heard(operation, body, headers)
        return status, told, {"content-length": str(len(told))}  # twice

    with endpoint.answering(answer) as url:
        sink = DynamoDBSink(at(url, region="eu-west-1"), setting, Pace())
        for begun in range(0, 400, 100):
            put_rows(sink, [fact(n) for n in range(begun, begun + 100)])
        assert len(served.items) == 400
        assert dynamodb_fast.ODD <= served.fast < dynamodb_fast.ODD + dynamodb_fast.FIRST
        assert served.count("BatchWriteItem") == 16 + served.fast + 1  # over a connection of ours, once
        sink.close()


def test_while_others_pause_nothing_is_sent_past_them(table: Served, sink: DynamoDBSink) -> None:
    put_rows(sink, [fact(1)])
    fast, pace = table.fast, sink._table._write
    pace.trouble(TransientStoreError("throttled"), pace.clock())
    put_rows(sink, [fact(2)])
    assert (table.fast, table.count("BatchWriteItem")) == (fast, fast + 1)
    put_rows(sink, [fact(3)])
    assert (table.fast, table.count("BatchWriteItem")) == (fast + 1, fast + 2)


def test_while_others_pause_nobody_asks_what_the_table_has_either(table: Served, sink: DynamoDBSink) -> None:
    table.before = lambda operation, request: refusal("ThrottlingException") if operation == "DescribeTable" else None
    put_rows(sink, [fact(1)])
    asked, pace = table.count("DescribeTable"), sink._table._write
    pace.trouble(TransientStoreError("throttled"), pace.clock())
    assert [sink._table.leave("batch_write_item", 1) for _ in range(9)] == [None] * 9
    assert table.count("DescribeTable") == asked > 0


def test_after_throttling_it_begins_with_few_again_and_the_rate_is_lower(table: Served, sink: DynamoDBSink) -> None:
    put_rows(sink, MANY)
    assert sink._lane._room > dynamodb_fast.FIRST
    assert sink._table.writes.burst == math.inf
    refused = [1]
    table.before = lambda operation, request: refusal("ThrottlingException") if refused and refused.pop() else None
    put_rows(sink, [fact(1)])
    assert sink._lane._room == dynamodb_fast.FIRST
    assert sink._table.writes.governor.rate < math.inf
    assert sink._table._write.is_clear


def test_what_would_have_to_wait_for_its_rate_waits_in_a_thread(table: Served, tmp_path: Path) -> None:
    sink = DynamoDBSink(
        at(table.endpoint, "chat", region="eu-west-1"), Setting(NEW, KINDS, tmp_path, write_rate=100.0), Pace()
    )
    begun = time.monotonic()
    put_rows(sink, [fact(n) for n in range(200)])
    assert time.monotonic() - begun > 1  # 200 units, of which at most a second's worth had been saved up
    at_once = table.fast
    assert at_once <= 4
    assert (table.count("BatchWriteItem"), len(table.items)) == (8, 200)
    sink._table.writes.limit_to(1e9)
    time.sleep(0.01)
    put_rows(sink, [fact(n) for n in range(200)])
    assert table.fast == at_once + 8
    sink.close()


# Where boto3 has to do it ----------------------------------------------------------------------------------------------


def by_a_proxy(patch: pytest.MonkeyPatch, table: Served) -> None:
    patch.setenv("HTTP_PROXY", table.endpoint)
    patch.setenv("NO_PROXY", "")
    table.endpoint = "http://dynamodb.example:8000"


WAYS: dict[str, Callable[[pytest.MonkeyPatch, Served], object]] = {
    "it is turned off": lambda patch, table: patch.setenv("MIGRATOR_FAST", "0"),
    "the extra is not there": lambda patch, table: patch.setitem(sys.modules, "migrator.adapters.dynamodb.fast", None),
    "a proxy is between": by_a_proxy,
    "there is no event": lambda patch, table: patch.setattr(Wire, "pattern", lambda self, table: None),
    "a signature differs": lambda patch, table: patch.setattr(dynamodb_signing, "_key", lambda *of: b"wrong"),
    "the CA bundle is none": lambda patch, table: patch.setattr(Wire, "pattern", _of_https),
}


def _of_https(self: Wire, table: str) -> Pattern:
    raise FileNotFoundError


def test_where_it_is_imported_already_it_is_begun_at_once_and_once(
    table: Served, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATOR_FAST")
    lanes: list[Any] = []
    real = dynamodb_fast.opened
    monkeypatch.setattr(dynamodb_fast, "opened", lambda table: lanes.append(real(table)) or lanes[-1])
    sink = DynamoDBSink(at(table.endpoint, region="eu-west-1"), setting, Pace())
    put_rows(sink, MANY)
    assert (table.fast, lanes, len(table.items)) == (16, [sink._lane], 400)
    loop = sink._lane._loop
    sink.close()
    assert (loop.is_closed(), sink._lane) == (True, None)


def test_where_it_is_asked_for_it_is_imported_for_the_first_batch(
    table: Served, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "migrator.adapters.dynamodb.fast")
    put_rows(sink, [fact(n) for n in range(25)])
    assert table.fast == 1


@pytest.mark.parametrize("way", WAYS)
def test_boto3_takes_over_where(way: str, table: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WAYS[way](monkeypatch, table)
    sink = DynamoDBSink(at(table.endpoint, region="eu-west-1"), Setting(NEW, KINDS, tmp_path), Pace())
    put_rows(sink, MANY)
    assert (len(table.items), table.fast, sink._lane) == (400, 0, None)
    sink.close()


def test_where_endpoints_are_discovered_boto3_takes_over(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked for: an endpoint of one's own is not discovered, so there is none here."""
    monkeypatch.setattr(Wire, "pattern", lambda self, table: pytest.fail("a request was made"))
    monkeypatch.setenv("AWS_ENDPOINT_DISCOVERY_ENABLED", "true")
    table = Table(Address("dynamodb", "dynamodb", "dynamodb://chat", "chat", {"region": "eu-west-1"}))
    assert dynamodb_fast.opened(table) is None
    table.close()


def test_in_a_thread_that_runs_an_event_loop_boto3_takes_over(table: Served, sink: DynamoDBSink) -> None:
    async def put() -> None:
        put_rows(sink, MANY)

    asyncio.run(put())
    assert (len(table.items), table.fast) == (400, 0)


def test_a_request_that_cannot_be_made_goes_by_boto3(
    table: Served, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, body: bytes) -> Any:
        raise TypeError("nobody foresaw it")

    monkeypatch.setattr(dynamodb_fast.Lane, "_ask", broken)
    put_rows(sink, MANY)
    assert (len(table.items), table.fast) == (400, 0)


def test_a_small_job_does_not_pay_for_the_import(table: Served, tmp_path: Path) -> None:
    chat = tmp_path / "chat.db"
    kills.make_chat(chat, 50)
    script = (
        "import sys\nfrom migrator import cli\n"
        "try: cli.main(sys.argv[1:])\nfinally: print('migrator.adapters.dynamodb.fast' in sys.modules, file=sys.stderr)"
    )
    args = [
        "migrate",
        str(chat),
        address_of("chat", table.endpoint),
        "--proof",
        "none",
        "--state",
        str(tmp_path / "state"),
    ]
    for chosen, is_there in (("", "False"), ("1", "True")):
        run = [sys.executable, "-c", script, *args, "--restart"]
        ended = subprocess.run(
            run, env=os.environ | {"MIGRATOR_FAST": chosen}, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.splitlines()[-1] == is_there
        table.items.clear()


def test_after_enough_batches_it_is_begun(table: Served, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATOR_FAST", "")
    monkeypatch.setattr(dynamodb_sink, "FAST_AFTER", 3)
    monkeypatch.delitem(sys.modules, "migrator.adapters.dynamodb.fast")  # nobody has imported it
    sink = DynamoDBSink(at(table.endpoint, region="eu-west-1"), setting, Pace())
    put_rows(sink, MANY)
    assert (table.fast, table.count("BatchWriteItem"), len(table.items)) == (13, 16, 400)
    sink.close()


# TLS -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_the_certificates_that_boto3_trusts_are_trusted(
    variable: str, certificate: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    served = Served()
    with endpoint.answering(served.heard, tls=tls) as url:
        monkeypatch.setenv(variable, f"{certificate}.crt")
        sink = DynamoDBSink(at(url, region="eu-west-1"), setting, Pace())
        put_rows(sink, MANY)
        assert (len(served.items), served.fast) == (400, 16)
        sink.close()
        monkeypatch.delenv(variable)
        sink = DynamoDBSink(at(url, region="eu-west-1"), setting, Pace(patience=0.5))
        with pytest.raises(StoreError, match="SSL"):
            put_rows(sink, MANY)
        assert served.fast == 16
        sink.close()


# Ends ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "forgotten", "forgotten within another loop", "forgotten under way"])
@pytest.mark.filterwarnings("error")
def test_nothing_is_left_open(
    how: str, table: Served, setting: Setting, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    sink = DynamoDBSink(at(table.endpoint, region="eu-west-1"), setting, Pace())
    put_rows(sink, MANY)
    loop = sink._lane._loop
    if how == "forgotten under way":
        table.delay = 0.2
        sink.upsert([fact(n) for n in range(100)], Existing.EMPTY)

    async def forget() -> None:
        nonlocal sink
        del sink
        gc.collect()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        if how == "closed":
            sink.close()
            sink.close()
        elif how == "forgotten within another loop":
            asyncio.run(forget())
        else:
            del sink
        gc.collect()
    assert loop.is_closed()
    assert [record for record in caplog.records if "nclosed" in record.message or "pending" in record.message] == []
    assert [
        str(each.message) for each in recwarn if "loop" in str(each.message) or "session" in str(each.message)
    ] == []


def test_worker_processes_and_their_threads_write_fast_and_leave_nothing_open(table: Served, tmp_path: Path) -> None:
    chat = tmp_path / "chat.db"
    kills.make_chat(chat, 300)
    address = address_of("chat", table.endpoint)
    args = ["migrate", str(chat), address, "--workers", "2", "--proof", "none"]
    for processes in (True, False):
        order = {"args": [*args, "--state", str(tmp_path / f"{processes}")], "seen": os.devnull, "processes": processes}
        fast = table.fast
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", str(Path(__file__).parent / "killed.py"), json.dumps(order)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert ("2 workers (processes)" in ended.stdout) == processes
        assert (len(table.items), table.fast - fast) == (300, 12)
        assert "nclosed" not in ended.stderr.replace("unclosed <socket", ""), ended.stderr
        assert "Traceback" not in ended.stderr
        table.items.clear()
