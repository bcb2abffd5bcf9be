"""Rates: what a table is asked for in a second, by one thread or many, by one process or several; and who gives way when it is too much.

Time is virtual where it is long: `Together` lets it pass when every thread waits for it. Real where processes share: then units are counted where
they arrive, with margins that a slow machine only widens.
"""

import itertools
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrator
import proxy
from migrator import Options
from migrator.adapters import memory
from migrator.adapters.base import Setting
from migrator.adapters.dynamodb.governor import BURST, Governor, Meter, consumed, provisioned, read_units
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.dynamodb.sink import DynamoDBSink
from migrator.adapters.dynamodb.source import DynamoDBReader, DynamoDBSource
from migrator.adapters.dynamodb.values import item_size, to_item
from migrator.cli import main
from migrator.engine import part_of_rate
from migrator.errors import ConfigError
from migrator.mapping_file import load_mapping
from migrator.model import Existing, Row
from migrator.run import Silent
from stores import records, rows_of
from tables import client_of
from test_dynamodb import KINDS, Stub, at, fact, put_rows, refusal, setting, stub, table

__all__ = ["setting", "stub", "table"]  # fixtures

DATA = Path(__file__).parent / "data"
NEVER = threading.Event()


class Together:
    """A clock for so many threads: when all of them wait, it is at once as late as the first is waiting for."""

    def __init__(self, threads: int = 1) -> None:
        self.now = 0.0
        self._threads = threads
        self._until: dict[object, float] = {}
        self._moved = threading.Condition()

    def clock(self) -> float:
        return self.now

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        me = object()
        with self._moved:
            self._until[me] = self.now + seconds
            self._pass()
            while me in self._until:
                assert self._moved.wait(30), "a thread waits for nothing"
        return stop.is_set()

    def governor(self, limit: float = math.inf) -> Governor:
        return Governor(limit, self.clock, self.wait)

    def run(self, *bodies: Callable[[], None]) -> None:
        """Each in a thread of its own, until all have ended; there must be as many as the clock was made for."""
        failed: list[BaseException] = []

        def guarded(body: Callable[[], None]) -> None:
            try:
                body()
            except BaseException as exc:
                failed.append(exc)
            with self._moved:
                self._threads -= 1
                self._pass()

        threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def _pass(self) -> None:
        if self._until and len(self._until) == self._threads:
            self.now = max(self.now, min(self._until.values()))
            for each in [each for each, until in self._until.items() if until <= self.now]:
                del self._until[each]
            self._moved.notify_all()


def most_in(window: float, taken: list[tuple[float, float]]) -> float:
    """The most units in any so many seconds; `taken` are moments with units."""
    taken = sorted(taken)
    most = now = 0.0
    first = 0
    for moment, units in taken:
        now += units
        while taken[first][0] < moment - window:
            now -= taken[first][1]
            first += 1
        most = max(most, now)
    return most


# The governor ----------------------------------------------------------------------------------------------------------


@given(
    rate=st.floats(0.3, 5_000),
    asked=st.lists(st.tuples(st.floats(0, 3), st.floats(0.5, 400)), min_size=1, max_size=60),
    window=st.floats(0.1, 30),
)
def test_no_time_sees_more_than_its_rate_a_burst_and_a_request(
    rate: float, asked: list[tuple[float, float]], window: float
) -> None:
    time_ = Together()
    governor = time_.governor(rate)
    taken = []
    for idle, units in asked:
        time_.now += idle
        governor.admit(units, NEVER)
        taken.append((time_.now, units))
        governor.settle(units, units)
    largest = max(units for _, units in asked)
    assert most_in(window, taken) <= (window * rate + rate * BURST + largest) * 1.000001


def test_a_rate_is_used_to_the_full() -> None:
    time_ = Together()
    governor = time_.governor(100)
    for _ in range(100):
        governor.admit(25, NEVER)
    assert time_.now == pytest.approx(25)


def test_threads_share_one_rate_in_the_order_of_asking() -> None:
    time_ = Together(4)
    governor = time_.governor(50)
    taken: list[tuple[float, float]] = []

    def work(name: int) -> None:
        for _ in range(20):
            governor.admit(10, NEVER)
            taken.append((time_.now, 10))
            governor.settle(10, 10)

    time_.run(*(lambda name=name: work(name) for name in range(4)))  # type: ignore[misc]
    assert time_.now == pytest.approx(4 * 20 * 10 / 50, rel=0.05)
    assert most_in(2, taken) <= 2 * 50 + 50 * BURST + 10


def test_what_was_not_taken_is_given_back_and_what_more_was_taken_is_waited_for() -> None:
    time_ = Together()
    governor = time_.governor(10)
    governor.admit(10, NEVER)
    assert time_.now == pytest.approx(1)
    governor.settle(10, 0)
    governor.admit(10, NEVER)
    assert time_.now == pytest.approx(1)
    governor.settle(10, 40)
    governor.admit(10, NEVER)
    assert time_.now == pytest.approx(5)


def test_a_request_that_is_given_up_holds_nobody_up() -> None:
    time_, stop = Together(), threading.Event()
    governor = time_.governor(10)
    stop.set()
    governor.admit(1_000, stop)
    before = time_.now
    governor.admit(10, NEVER)
    assert time_.now - before <= 1.01


class Service:
    """What a table does: so many units a second, and a second's worth saved up; what is over that is refused."""

    def __init__(self, units: float, clock: Callable[[], float]) -> None:
        self.units, self.clock = units, clock
        self.left, self.at = units, clock()
        self.lock = threading.Lock()
        self.answers: list[tuple[float, float]] = []  # moment, units; 0 for refused

    def takes(self, units: float) -> bool:
        with self.lock:
            now = self.clock()
            self.left, self.at = min(self.units, self.left + (now - self.at) * self.units), now
            fits = units <= self.left
            self.left -= units * fits
            self.answers.append((now, units * fits))
            return fits

    def refused(self, since: float) -> float:
        """The part of the answers since then."""
        answers = [units for moment, units in self.answers if moment >= since]
        return sum(not units for units in answers) / len(answers)

    def rate(self, since: float, until: float) -> float:
        return sum(units for moment, units in self.answers if since <= moment < until) / (until - since)


def _ask_until(time_: Together, governor: Governor, service: Service, end: float) -> None:
    while time_.now < end:
        governor.admit(25, NEVER)
        sent = time_.now
        time_.wait(NEVER, 0.005)
        if service.takes(25):
            governor.settle(25, 25)
        else:
            governor.settle(25, 0)
            governor.throttled(sent)


@pytest.mark.parametrize("limit", [1_600, math.inf])
def test_throttling_becomes_rare_and_most_of_what_there_is_is_used(limit: float) -> None:
    time_ = Together(4)
    governor, service = time_.governor(limit), Service(400, time_.clock)
    time_.run(*[lambda: _ask_until(time_, governor, service, 300)] * 4)
    assert service.refused(100) < 0.03
    assert service.rate(100, 300) > 0.6 * 400


def test_it_goes_down_fast_and_comes_back_little_by_little() -> None:
    time_ = Together()
    governor = time_.governor(100)
    for rate in (50, 25, 12.5):
        governor.throttled(time_.now)
        assert governor.rate == pytest.approx(rate)
        time_.now += 1e-9
    time_.now += 1
    assert governor.rate == pytest.approx(17.5)
    time_.now += 60
    assert governor.rate == 100
    for _ in range(50):
        time_.now += 1e-9
        governor.throttled(time_.now)
    assert governor.rate == pytest.approx(2)


def test_what_was_sent_before_the_last_slowing_does_not_slow_again() -> None:
    time_ = Together()
    governor = time_.governor(100)
    time_.now = 5
    governor.throttled(4)
    governor.throttled(4.5)
    assert governor.rate == 50


def test_without_a_limit_nothing_waits_until_it_is_too_much_and_then_half_of_what_got_through_is_asked_for() -> None:
    time_ = Together()
    governor = time_.governor()
    for _ in range(400):
        assert governor.admit(25, NEVER) == 0
        time_.now += 0.01
        governor.settle(25, 25)
    governor.throttled(time_.now)
    assert governor.rate == pytest.approx(1_250, rel=0.02)


def test_parts_of_a_rate_are_together_the_whole() -> None:
    time_ = Together()
    one, two = time_.governor(100), time_.governor(100)
    one.share("a", 0.25)
    one.share("b", 0.25)
    two.share("a", 0.5)
    assert (one.rate, two.rate) == (50, 50)
    one.share("a", 0)
    assert one.rate == 25
    one.share("b", 0)
    assert one.rate == 100  # nobody divides it any more


@given(st.integers(1, 20), st.lists(st.integers(1, 6), min_size=1, max_size=20), st.randoms())
def test_whatever_is_under_way_at_once_has_at_most_the_whole(workers: int, slices: list[int], chance: Any) -> None:
    """As the engine submits: partitions of so many slices, at most one of each at a time."""
    waiting, flying = list(slices), []
    while waiting or flying:
        while waiting and len(flying) < workers:
            part = part_of_rate(workers, len(waiting) + len(flying))
            flying.append((waiting.pop(0), part))
        assert sum(part for _, part in flying) <= 1.000001
        left, _ = flying.pop(chance.randrange(len(flying)))
        if left > 1:
            waiting.append(left - 1)


# What answers say ------------------------------------------------------------------------------------------------------


def test_the_servers_count_goes_before_ours() -> None:
    assert consumed({"ConsumedCapacity": [{"TableName": "t", "CapacityUnits": 7.5}]}) == 7.5
    assert consumed({"ConsumedCapacity": {"CapacityUnits": 0.5}}) == 0.5
    assert consumed({}) is None
    meter = Meter(governor := Together().governor(10))
    request = {"RequestItems": {"t": [{}] * 4}}
    permit = meter.admit("batch_write_item", request, 4, NEVER)
    meter.answered("batch_write_item", request, permit, {"ConsumedCapacity": [{"CapacityUnits": 34.0}]})
    before = governor._clock()
    meter.admit("batch_write_item", request, 4, NEVER)
    assert governor._clock() - before == pytest.approx(3.4)


def test_where_it_does_not_count_sizes_are_counted() -> None:
    item = to_item({"user_id": "ana", "SK": "x", "value": "v" * 9_000})
    assert read_units({"Limit": 5}, {"Items": [item, item]}) == 2.5  # 18 KB, half price
    assert read_units({"ConsistentRead": True}, {"Items": []}) == 1
    keys = {"RequestItems": {"t": {"Keys": [{}, {}], "ConsistentRead": True}}}
    assert read_units(keys, {"Responses": {"t": [item]}}) == 3 + 1  # what is not there is paid for, too
    meter = Meter(governor := Together().governor(10))
    request = {"RequestItems": {"t": [{}] * 4}}
    permit = meter.admit("batch_write_item", request, 8, NEVER)
    meter.answered("batch_write_item", request, permit, {"UnprocessedItems": {"t": [{}]}})
    assert governor._last_second + governor._counted == 6
    assert governor.rate == 5  # a part was left: that is throttling


def test_an_answer_is_asked_to_be_no_larger_than_a_burst() -> None:
    meter = Meter(Together().governor(10))
    assert meter.fitting("scan", 1_000) == 20  # of 4 KB each, as long as nothing is known
    request = {"Limit": 20}
    permit = meter.admit("scan", request, None, NEVER)
    meter.answered("scan", request, permit, {"ScannedCount": 20, "ConsumedCapacity": {"CapacityUnits": 1.0}})
    assert meter.fitting("scan", 1_000) == 200
    assert Meter(Governor()).fitting("scan", 1_000) == 1_000


def test_a_table_says_what_it_is_provisioned_with() -> None:
    some = {"ReadCapacityUnits": 40, "WriteCapacityUnits": 20}
    none = {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0}
    fewer = {"ReadCapacityUnits": 100, "WriteCapacityUnits": 8}
    assert provisioned({"ProvisionedThroughput": some}) == (40, 20)
    assert provisioned({"ProvisionedThroughput": none}) is None
    assert provisioned({}) is None
    assert provisioned({"ProvisionedThroughput": some, "GlobalSecondaryIndexes": [{"ProvisionedThroughput": fewer}]}) == (40, 8)  # fmt: skip


# A table ---------------------------------------------------------------------------------------------------------------


def told(units: float) -> dict[str, Any]:
    return {"TableName": "chat", "CapacityUnits": units}


def _units(put: dict[str, Any]) -> int:
    return -(-item_size(put["PutRequest"]["Item"]) // 1024)


class Throttling:
    """Makes the stub a service that takes so many write units a second, and says what it took; its time passes with its answers."""

    def __init__(self, stub: Stub, units: float) -> None:
        self.stub, self.now = stub, 0.0
        self._lock = threading.Lock()
        self.service = Service(units, lambda: self.now)
        stub.before = self.answer

    def clock(self) -> float:
        return self.now

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        with self._lock:
            self.now += seconds
        return stop.is_set()

    def answer(self, operation: str, request: dict[str, Any]) -> Any:
        if operation != "BatchWriteItem":
            return None
        self.wait(NEVER, 0.002)
        puts = request["RequestItems"]["chat"]
        taken = [put for put in puts if self.service.takes(_units(put))]
        for put in taken:
            self.stub.put(put["PutRequest"]["Item"])
        left = [put for put in puts if put not in taken]
        if not taken:
            return refusal("ProvisionedThroughputExceededException")
        return 200, {
            "UnprocessedItems": {"chat": left} if left else {},
            "ConsumedCapacity": [told(sum(map(_units, taken)))],
        }


@pytest.mark.parametrize("limit", [600.0, None])
def test_a_table_that_throttles_gets_all_and_is_soon_asked_for_what_it_takes(
    stub: Stub, setting: Setting, limit: float | None
) -> None:
    service = Throttling(stub, 200)
    pace = Pace(300, service.clock, service.wait, lambda: 0.5)
    asked = Setting(setting.layout, setting.kinds, setting.scratch, write_rate=limit)
    sink = DynamoDBSink(at(stub.endpoint), asked, pace)
    for turn in range(8):
        put_rows(sink, [fact(n, user=f"u{turn}") for n in range(1_000)])
    sink.close()
    assert len(stub.items) == 8_000
    half = service.now / 2
    assert service.service.refused(0) > 0  # else nothing was tried
    assert service.service.refused(half) < 0.1
    assert service.service.rate(half, service.now) > 0.5 * 200


def test_a_rate_holds_at_the_table_whatever_the_sizes_of_items(
    stub: Stub, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.adapters.dynamodb.requests.THREADS", 1)  # who waits moves the clock of who sends
    service = Throttling(stub, 1e9)
    asked = Setting(setting.layout, setting.kinds, setting.scratch, write_rate=50)
    sink = DynamoDBSink(at(stub.endpoint), asked, Pace(300, service.clock, service.wait, lambda: 0.5))
    rows = [fact(n, "v" * (n * 37 % 20_000)) for n in range(600)]
    put_rows(sink, rows)
    sink.close()
    units = service.service.answers
    assert len(stub.items) == 600
    assert most_in(5, units) <= 5 * 50 + 50 * BURST + 50
    assert service.now >= (sum(each for _, each in units) - 50) / 50


def test_requests_are_no_larger_than_a_burst(stub: Stub, setting: Setting) -> None:
    service = Throttling(stub, 1e9)
    asked = Setting(setting.layout, setting.kinds, setting.scratch, write_rate=4)
    sink = DynamoDBSink(at(stub.endpoint), asked, Pace(300, service.clock, service.wait, lambda: 0.5))
    put_rows(sink, [fact(n) for n in range(30)])
    sink.close()
    sent = [len(request["RequestItems"]["chat"]) for name, request in stub.requests if name == "BatchWriteItem"]
    assert sum(sent) == 30 and max(sent) == 4


def test_every_request_asks_what_it_takes(stub: Stub, setting: Setting) -> None:
    sink = DynamoDBSink(at(stub.endpoint), setting)
    put_rows(sink, [fact(1)])
    put_rows(sink, [fact(2)], Existing.REFUSE)
    reader = sink.reader()
    reader.fetch([fact(1)])
    rows_of(reader)
    for operation, request in stub.requests:
        assert (request.get("ReturnConsumedCapacity") == "TOTAL") == (operation != "DescribeTable")
    reader.close()
    sink.close()


def test_by_default_a_quarter_of_a_provisioned_table_is_taken(
    dynamodb_local_endpoint: str, tmp_path: Path, table: str
) -> None:
    client = client_of(dynamodb_local_endpoint)
    layout = load_mapping("luminoracore-v1.1").layouts["session_id/SK+GSI1"]
    index, hashed, ranged = layout.index or ("", "", "")
    schema = lambda *names: [{"AttributeName": n, "KeyType": r} for n, r in zip(names, ("HASH", "RANGE"))]  # noqa: E731
    client.create_table(
        TableName=table,
        KeySchema=schema(*layout.key),
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in (*layout.key, hashed, ranged)],
        ProvisionedThroughput={"ReadCapacityUnits": 4_000, "WriteCapacityUnits": 8_000},
        GlobalSecondaryIndexes=[
            {
                "IndexName": index,
                "KeySchema": schema(hashed, ranged),
                "Projection": {"ProjectionType": "ALL"},
                "ProvisionedThroughput": {"ReadCapacityUnits": 6_000, "WriteCapacityUnits": 6_000},
            }
        ],
    )
    plain = Setting(layout, KINDS, tmp_path)
    sink = DynamoDBSink(at(dynamodb_local_endpoint, table, region="eu-west-1"), plain)
    put_rows(sink, [fact(1)])
    reader = sink.reader()
    assert len(rows_of(reader)) == 1
    assert sink._table.writes.governor.limit == 1_500
    assert reader._table.reads.governor.limit == 1_000
    rates = reader.rates()
    assert (rates.read, rates.write, rates.each) == (1_000, 1_500, 2)
    assert "a quarter of the 6,000" in rates.write_words
    given = DynamoDBReader(
        at(dynamodb_local_endpoint, table, region="eu-west-1"), Setting(layout, KINDS, tmp_path, write_rate=7.5)
    )
    assert (given.rates().write, given.rates().write_words) == (7.5, "as asked for")
    for each in (sink, reader, given):
        each.close()
    client.close()


def test_a_table_on_demand_has_no_limit(stub: Stub, setting: Setting) -> None:
    source = DynamoDBSource(at(stub.endpoint), setting)
    rows_of(source)
    assert source._table.reads.governor.limit == math.inf
    assert source.rates().write == math.inf
    source.close()


# Whole runs ------------------------------------------------------------------------------------------------------------


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def plan(self, lines: list[tuple[str, str]]) -> None:
        self.lines += lines


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SQLite file with 1,500 records of all kinds."""
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    held = memory.store("rates")
    for row in records(250):
        held.append(row.kind, row.record, (), row.place)
    path = tmp_path / "chat.db"
    try:
        assert migrator.migrate("memory:rates", path).outcome == "done"
    finally:
        memory.forget("rates")
    return path


@pytest.fixture
def between(dynamodb_local_endpoint: str) -> Iterator[proxy.Proxy]:
    with proxy.before(dynamodb_local_endpoint) as running:
        yield running


def counting(between: proxy.Proxy) -> dict[bool, list[tuple[float, float]]]:
    """What the endpoint takes from now on, by whether it is a write: moments with units."""
    taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}

    def took(operation: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
        units = consumed(answer)
        if units:
            taken[operation in proxy.WRITES].append((time.monotonic(), units))

    between.took = took  # type: ignore[method-assign]
    return taken


def must_hold(rate: float, taken: list[tuple[float, float]]) -> None:
    """No window has more than the rate, a burst, and what a slow machine may have held back and sent at once."""
    whole = sum(units for _, units in taken)
    assert whole > 4 * rate, "too little to tell"
    assert most_in(4, taken) <= 4 * rate + rate * BURST + rate
    assert max(taken)[0] - min(taken)[0] >= 0.8 * (whole - rate) / rate


@pytest.mark.parametrize("processes", [False, True])
def test_all_workers_together_hold_the_rates(
    between: proxy.Proxy, chat: Path, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool
) -> None:
    monkeypatch.setattr("migrator.migration.SMALL", 0)
    address = f"dynamodb://{table}?region=eu-west-1&endpoint={between.endpoint}"
    options = Options(create=True, workers=2, processes=processes, write_rate=300, read_rate=15)
    taken = counting(between)
    there = migrator.migrate(chat, address, options)
    assert (there.outcome, there.proven) == ("done", "digest")
    must_hold(300, taken[True])
    must_hold(15, taken[False])
    taken = counting(between)
    back = migrator.migrate(address, tmp_path / "back.jsonl.gz", Options(workers=2, processes=processes, read_rate=15))
    assert (back.outcome, back.proven) == ("done", "digest")
    assert sum(kind.tally.written for kind in back.kinds.values()) == 1_500
    must_hold(15, taken[False])


def test_the_plan_says_the_rates_and_the_time_they_take(
    moto_endpoint: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    shutil.copy(DATA / "chat.db", tmp_path)
    stores = tmp_path / "chat.db", f"dynamodb://{table}?region=eu-west-1&endpoint={moto_endpoint}"
    shown = Lines()
    dry = migrator.migrate(*stores, Options(dry_run=True, write_rate=10, read_rate=5), shown)
    assert dict(shown.lines)["sink reads"] == "5 read units a second, as asked for (--read-rate)"
    assert dry.estimate is not None
    assert dry.estimate["seconds"] == dry.estimate["write_units"] / 10 > 50
    assert dry.estimate["read_seconds"] == pytest.approx(dry.estimate["read_units"] / 5, abs=0.1)
    shown = Lines()
    report = migrator.migrate(*stores, Options(create=True, write_rate=3_000, read_rate=2_000), shown)
    assert report.outcome == "done"
    assert json.loads(Path(report.state, "report.json").read_text())["options"]["write_rate"] == 3_000
    words = dict(shown.lines)["write rate"]
    assert words == "3,000 write units a second, as asked for (--write-rate): 581 records take about 0 s or more"
    shown = Lines()
    assert migrator.verify(*stores, Options(), shown).outcome == "done"
    assert not any(name in ("write rate", "sink reads") for name, _ in shown.lines)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "fast"])
def test_a_rate_is_more_than_nothing(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^write_rate: "):
        Options(write_rate=value)
    with pytest.raises(ConfigError, match=r"^read_rate: "):
        Options(read_rate=value)


@pytest.mark.parametrize("command", ["migrate a.db b.db --write-rate", "cutover a.db b.db --read-rate", "verify a.db b.db --read-rate", "inspect a.db --read-rate"])  # fmt: skip
def test_no_command_takes_a_rate_of_nothing(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "0"])
    assert ended.value.code == 2
    assert "0.0 is not in the range x>0" in capfd.readouterr().err


def test_the_settings_file_may_say_a_rate(tmp_path: Path) -> None:
    file = tmp_path / "migrator.toml"
    file.write_text("[options]\nwrite_rate = 12.5\n")
    assert Options.from_file(environ={}, folder=tmp_path).write_rate == 12.5
    file.write_text("[options]\nwrite_rate = 0\n")
    with pytest.raises(ConfigError, match=r"migrator.toml: options.write_rate: 0 is not in the range x>0"):
        Options.from_file(environ={}, folder=tmp_path)


# Spread over the table -------------------------------------------------------------------------------------------------


def test_neighbours_of_a_sorted_source_do_not_travel_together(
    dynamodb_local_endpoint: str, tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    source = tmp_path / "sorted.jsonl"
    lines = [
        {"kind": "fact", "record": {**fact(n, user=f"user-{user:03}").record, "created_at": "2026-01-01T00:00:00", "updated_at": "2026-01-01T00:00:00", "confidence": 1.0}}
        for user, n in itertools.product(range(40), range(50))
    ]  # fmt: skip
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batches: list[list[str]] = []
    with proxy.before(dynamodb_local_endpoint) as between:

        def took(operation: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
            if operation == "BatchWriteItem":
                puts = request["RequestItems"][table]
                batches.append([put["PutRequest"]["Item"]["user_id"]["S"] for put in puts])

        between.took = took  # type: ignore[method-assign]
        address = f"dynamodb://{table}?region=eu-west-1&endpoint={between.endpoint}"
        report = migrator.migrate(source, address, Options(create=True, workers=1))
    assert (report.outcome, report.proven) == ("done", "digest")
    full = [batch for batch in batches if len(batch) == 25]
    assert len(full) >= 70
    # A page of 1,000 rows is of 20 users: a batch of neighbours would be of one or two.
    assert min(len(set(batch)) for batch in full) >= 8
    assert max(batch.count(user) for batch in full for user in set(batch)) <= 12


def test_several_ranges_of_keys_are_written_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: Stub
) -> None:
    """One worker, a source in order of users: it does not write one range to its end before it begins the next."""
    monkeypatch.setattr(memory, "PAGE_ROWS", 10)
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    held = memory.store("ranges")
    for user, n in itertools.product(range(40), range(40)):
        row: Row = fact(n, user=f"user-{user:03}")
        held.append(row.kind, row.record, (), row.place)
    try:
        report = migrator.migrate(
            "memory:ranges", f"dynamodb://chat?region=eu-west-1&endpoint={stub.endpoint}", Options(workers=1)
        )
    finally:
        memory.forget("ranges")
    assert report.outcome == "done"
    users = [
        int(put["PutRequest"]["Item"]["user_id"]["S"][5:])
        for name, request in stub.requests
        if name == "BatchWriteItem"
        for put in request["RequestItems"]["chat"]
    ]
    assert {user // 10 for user in users[: len(users) // 2]} == {0, 1, 2, 3}
