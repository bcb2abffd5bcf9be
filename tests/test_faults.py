"""Faults between a run and its table: it survives them, or ends with its accounting closed and a next step, and resumes to what a clean run leaves.

`faulty.py` stands between and follows a script. Each fault befalls the n-th request that it can befall, for every n of the run in the long profile,
and for some in the short one. Waiting is shortened: pauses to a few hundredths of a second, an answer that never comes to a second.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

import faulty
from faulty import SCRIPTS, Fault
from kills import account, make_chat
from migrator import cli, engine
from migrator.adapters import base
from migrator.adapters.dynamodb import adapter as dynamodb
from migrator.adapters.dynamodb import client as dynamodb_client
from migrator.adapters.dynamodb import governor as dynamodb_governor
from migrator.adapters.dynamodb import pace as dynamodb_pace
from migrator.adapters.dynamodb import requests as dynamodb_requests
from migrator.adapters.dynamodb import source as dynamodb_source
from migrator.adapters.dynamodb.errors import Denied, Expired, Taken
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.jsonfile import adapter as jsonfile
from migrator.adapters.sql import dialect as sql_dialect
from migrator.adapters.sql import source as sql_source
from migrator.errors import Interrupted, MigratorError
from tables import address_of, client_of, create, fill, items_of, texts_of

LONG = os.environ.get("MIGRATOR_LONG") == "1"
FAULTY = Path(faulty.__file__)
FACTS, EPISODES = 90, 35
ACCOUNT = ("written", "unchanged", "kept", "differing", "duplicates", "filtered", "rejected")
NEXT_STEP = ("run again", "--restart", "check ", "log in", "bring it back")

Items = list[dict[str, Any]]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "chat.db"
    make_chat(path, FACTS, EPISODES)
    return path


@pytest.fixture(scope="module")
def server(dynamodb_local_endpoint: str) -> str:
    return dynamodb_local_endpoint


@pytest.fixture(scope="module")
def between(server: str) -> Iterator[faulty.Between]:
    with faulty.before(server) as running:
        yield running


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 25 records, so that little data makes many; pauses that a test can wait for."""
    for module in (base, sql_dialect, dynamodb_source):
        monkeypatch.setattr(module, "PAGE_ROWS", 25)
    monkeypatch.setattr(sql_source, "_PARTITION_ROWS", 25)
    monkeypatch.setattr(engine, "SLICE_PAGES", 1)
    for adapter in (dynamodb.ADAPTER, jsonfile.ADAPTER):
        monkeypatch.setattr(adapter, "traits", replace(adapter.traits, stretch=1))
    monkeypatch.setattr(dynamodb_governor, "_LEAST_STEP", 10_000.0)  # back at full speed soon after it was throttled
    monkeypatch.setattr(dynamodb_pace, "PAUSE_BASE", 0.001)
    monkeypatch.setattr(dynamodb_pace, "PAUSE_CAP", 0.05)
    monkeypatch.setattr(dynamodb_client, "ANSWER_SECONDS", 1)


@dataclass
class Ended:
    """How a run of the command line ended."""

    code: int
    report: dict[str, Any]
    trouble: str

    @property
    def error(self) -> str:
        return str(self.report["error"])


@dataclass
class Place:
    """A table of its own behind the faulty endpoint, a chat.db, and a folder with a state folder."""

    folder: Path
    between: faulty.Between
    upstream: str
    chat: Path
    capsys: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.table = f"faults-{uuid.uuid4().hex[:12]}"
        self.client = client_of(self.upstream)
        self.address = address_of(self.table, self.between.endpoint)
        self.file = self.folder / "out.jsonl"

    def make(self, items: Items) -> None:
        """The table as a clean run would find it, past the faults."""
        create(
            self.client,
            TableName=self.table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("user_id", "SK")],
        )
        fill(self.client, self.table, items)

    def items(self) -> list[str]:
        return texts_of(self.client, self.table)

    def run(self, *args: str) -> Ended:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([*args, "--json", "--state", str(self.folder / "state")])
        said = self.capsys.readouterr()
        code = end.value.code if isinstance(end.value.code, int) else 0
        return Ended(code, json.loads(said.out), said.err)


@dataclass
class Way:
    """A command between a store and the table: what is there before, and what is there after a clean run."""

    name: str
    command: Callable[[Place], tuple[str, ...]]
    make: Callable[[Place], None]
    look: Callable[[Place], list[str]]


def changed(items: Items) -> Items:
    """Half of them, and a third of those as somebody else has written them."""
    half = [dict(item) for item in items if int(item.get("key", {"S": "key-0"})["S"][4:]) % 2]
    for item in half[::3]:
        item["value"] = {"S": "another"}
    return half


@pytest.fixture(scope="module")
def items(chat: Path, server: str, tmp_path_factory: pytest.TempPathFactory) -> Items:
    """What a clean run makes of chat.db."""
    folder = tmp_path_factory.mktemp("clean")
    table = f"faults-clean-{uuid.uuid4().hex[:8]}"
    address = address_of(table, server)
    command = ["migrate", str(chat), address, "--create", "--state", str(folder)]
    subprocess.run([sys.executable, "-m", "migrator", *command], check=True, capture_output=True, timeout=120)
    found = items_of(client_of(server), table)
    assert len(found) == FACTS + EPISODES
    return found


@pytest.fixture(scope="module")
def ways(items: Items) -> dict[str, Way]:
    def lines(place: Place) -> list[str]:
        return sorted(place.file.read_text().splitlines()) if place.file.exists() else []

    found = (
        Way(
            "into a new table",
            lambda p: ("migrate", str(p.chat), p.address, "--create", "--workers", "2"),
            lambda p: None,
            lambda p: p.items(),
        ),
        Way(
            "into a table with other records",
            lambda p: ("migrate", str(p.chat), p.address, "--existing", "replace", "--workers", "2"),
            lambda p: p.make(changed(items)),
            lambda p: p.items(),
        ),
        Way(
            "out of a table",
            lambda p: ("migrate", p.address, str(p.file), "--workers", "2"),
            lambda p: p.make(items),
            lines,
        ),
        Way(
            "verify",
            lambda p: ("verify", str(p.chat), p.address),
            lambda p: p.make(items),
            lambda p: p.items(),
        ),
    )
    return {way.name: way for way in found}


WAYS = ["into a new table", "into a table with other records", "out of a table", "verify"]
WRITING = WAYS[:2]


@pytest.fixture
def place(tmp_path: Path, between: faulty.Between, server: str, chat: Path, capsys: Any) -> Callable[[str], Place]:
    def made(name: str) -> Place:
        between.follow(())
        between.befallen.clear()
        between.script.moments.clear()
        between.proxy.requests.clear()
        return Place(tmp_path / name, between, server, chat, capsys)

    return made


def closes(report: dict[str, Any]) -> bool:
    if report["command"] == "verify":
        return True  # which writes nothing, and counts what is read
    kinds = report["kinds"].values()
    return all(kind["read"] == sum(kind[name] for name in ACCOUNT) for kind in kinds)


def some(count: int, turn: int) -> Iterable[int]:
    """Each of so many requests in the long profile, else one, another for each turn."""
    return range(count) if LONG else [turn * 7 % count]


BY = ["0", "1"]
"""MIGRATOR_FAST: batches are written by boto3 alone, or by what the extra `fast` brings."""


def by_turns(names: list[str]) -> list[tuple[str, str, str]]:
    """Each fault with each way in the long profile, else with two; where batches are written, by boto3 and fast."""
    ways = [(name, way) for n, name in enumerate(names) for m, way in enumerate(WAYS) if LONG or (n + m) % 2 == 0]
    return [(way, name, fast) for name, way in ways for fast in (BY if way in WRITING else BY[:1])]


def survives(place: Place, way: Way, script: list[Fault], clean: Ended, expected: list[str]) -> Ended:
    """The claim: the run survives, or ends with its accounting closed and a next step, and the same command then ends as the clean run."""
    way.make(place)
    place.between.follow(script)
    ended = place.run(*way.command(place))
    assert "Traceback" not in ended.trouble
    assert closes(ended.report) if "kinds" in ended.report else ended.code == 2
    if ended.code:
        assert ended.code in (1, 2), ended.error
        assert ended.trouble.splitlines()[-1].startswith("error: ")
        assert any(words in ended.error for words in NEXT_STEP), ended.error
        place.between.follow(())
        again = place.run(*way.command(place))
    else:
        again = ended
    assert again.code == 0, again.error
    assert (again.report["outcome"], again.report["proven"]) == ("done", "digest")
    assert closes(again.report)
    assert account(again.report, apart=False) == account(clean.report, apart=False)
    assert way.look(place) == expected
    return ended


@pytest.fixture(scope="module")
def clean(ways: dict[str, Way]) -> dict[str, tuple[Ended, list[str], dict[str, int]]]:
    """By way, a clean run, what it left, and how many requests of each operation it made; filled as they are asked for."""
    return {}


def clean_run(
    way: Way, place: Callable[[str], Place], clean: dict[str, Any]
) -> tuple[Ended, list[str], dict[str, int]]:
    if way.name not in clean:
        at = place("clean")
        way.make(at)
        ended = at.run(*way.command(at))
        assert ended.code == 0, ended.trouble
        clean[way.name] = ended, way.look(at), dict(at.between.proxy.requests)
    return clean[way.name]  # type: ignore[no-any-return]


PASSING = ["throttled", "500", "500-landed", "503", "cut", "cut-landed", "silent", "silent-landed", "slow", "garbage", "garbage-landed", "torn",
           "torn-wrong-length", "expired"]  # fmt: skip


@pytest.mark.timeout(1800 if LONG else 300)
@pytest.mark.parametrize(("way_name", "name", "fast"), by_turns(PASSING))
def test_a_fault_at_any_request_loses_nothing_and_doubles_nothing(
    name: str,
    way_name: str,
    fast: str,
    ways: dict[str, Way],
    place: Callable[[str], Place],
    clean: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIGRATOR_FAST", fast)
    way = ways[way_name]
    whole, expected, requests = clean_run(way, place, clean)
    count = sum(made for operation, made in requests.items() if SCRIPTS[name][0].can_befall(operation))
    befallen = 0
    for number in some(count, PASSING.index(name) + WAYS.index(way_name)):
        at = place(f"{number}")
        script = [replace(fault, after=number) for fault in SCRIPTS[name]]
        ended = survives(at, way, script, whole, expected)
        befallen += len(at.between.befallen) > 0
        if name == "expired" and at.between.befallen:
            assert ended.code in (1, 2)
            assert "credentials have expired" in ended.error
        else:
            assert ended.code == 0, f"{number}: {ended.error}"
    assert befallen


@pytest.mark.parametrize(("way_name", "fast"), list(product(WRITING, BY)) if LONG else list(zip(WRITING, reversed(BY))))
def test_whatever_part_of_a_batch_comes_back_unprocessed_is_written(
    way_name: str,
    fast: str,
    ways: dict[str, Way],
    place: Callable[[str], Place],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 26 batches none, one, two … all 25 items come back; of those that are asked for by key, seven, twice."""
    monkeypatch.setenv("MIGRATOR_FAST", fast)
    at, new = place("any"), way_name == WRITING[0]
    if new:
        at.chat = tmp_path / "more.db"
        make_chat(at.chat, 800)
    ways[way_name].make(at)
    script = SCRIPTS["unprocessed-any" if new else "unprocessed-keys"]
    at.between.follow(script)
    ended = at.run(*ways[way_name].command(at))
    assert (ended.code, ended.report["proven"]) == (0, "digest"), ended.trouble
    assert closes(ended.report)
    assert len(at.between.befallen) == sum(fault.times or 0 for fault in script)
    assert len(at.items()) == (800 if new else FACTS + EPISODES)


@pytest.mark.parametrize("way_name", WAYS)
def test_pages_may_end_anywhere(
    way_name: str, ways: dict[str, Way], place: Callable[[str], Place], clean: dict[str, Any]
) -> None:
    whole, expected, _ = clean_run(ways[way_name], place, clean)
    at = place("short")
    assert survives(at, ways[way_name], SCRIPTS["short-pages"], whole, expected).code == 0
    assert len(at.between.befallen) > 20


@pytest.mark.parametrize("way_name", ["out of a table", "verify"])
def test_a_page_that_comes_twice_is_not_taken_twice(
    way_name: str, ways: dict[str, Way], place: Callable[[str], Place], clean: dict[str, Any]
) -> None:
    """A page that is asked for again comes again (`cut-landed`); here one comes that was not asked for."""
    whole, expected, _ = clean_run(ways[way_name], place, clean)
    befallen = 0
    for number in range(8) if LONG else (0, 4):
        at = place(f"{number}")
        survives(at, ways[way_name], [Fault("repeated-page", after=number)], whole, expected)
        befallen += len(at.between.befallen)
    assert befallen


@pytest.mark.parametrize("fast", BY)
def test_total_throttling_is_waited_out(
    fast: str,
    ways: dict[str, Way],
    place: Callable[[str], Place],
    clean: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundredth of the minute, and of the pauses in it. The minute itself is in the long profile."""
    monkeypatch.setenv("MIGRATOR_FAST", fast)
    way = ways[WRITING[0]]
    whole, expected, _ = clean_run(way, place, clean)
    monkeypatch.setattr(dynamodb_pace, "PAUSE_CAP", 0.2)
    at = place("throttled")
    ended = survives(at, way, [replace(SCRIPTS["throttled-for-a-minute"][0], after=4, seconds=0.6)], whole, expected)
    assert ended.code == 0
    assert 0 < len(at.between.befallen) < 200


@pytest.mark.parametrize("fast", BY)
def test_a_run_gives_up_once_its_patience_is_spent_and_resumes(
    fast: str,
    ways: dict[str, Way],
    place: Callable[[str], Place],
    clean: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not five times over: what was repeated for so long is not begun again by the slice."""
    monkeypatch.setenv("MIGRATOR_FAST", fast)
    way = ways[WRITING[0]]
    whole, expected, _ = clean_run(way, place, clean)
    monkeypatch.setattr(dynamodb_requests, "Pace", lambda patience=1.0: Pace(patience))
    slept: list[float] = []
    monkeypatch.setattr(engine.time, "sleep", slept.append)
    at = place("patience")
    ended = survives(at, way, [Fault("error", ("BatchWriteItem",), after=3, times=None)], whole, expected)
    assert ended.code == 1
    assert "ProvisionedThroughputExceededException; nothing got through for" in ended.error
    assert sum(kind["written"] for kind in ended.report["kinds"].values()) > 0
    assert slept == []


# Credentials and tables that go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [Expired("m", "c"), Denied("m", "a"), Taken("m", {"k": {"S": "v"}}), Interrupted("m", 2), MigratorError()]
)
def test_an_error_of_a_worker_process_arrives_as_it_was(error: MigratorError) -> None:
    error.report = ["a report"]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def on_processes(args: list[str]) -> list[str]:
    """A command line that has small pages, and worker processes for any size."""
    return [
        sys.executable,
        str(Path(__file__).parent / "killed.py"),
        json.dumps({"args": args, "seen": os.devnull, "processes": True}),
    ]


@pytest.mark.parametrize("fast", BY if LONG else BY[1:])
def test_credentials_that_expire_under_worker_processes_are_named(fast: str, place: Callable[[str], Place]) -> None:
    at = place("expired")
    at.between.follow([replace(SCRIPTS["expired"][0], on=("BatchWriteItem",), after=2)])
    args = ["migrate", str(at.chat), at.address, "--create", "--workers", "2"]
    command = on_processes(args)
    environment = os.environ | {"MIGRATOR_STATE": str(at.folder / "state"), "MIGRATOR_FAST": fast}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "2 workers (processes)" in ended.stdout
    assert "the AWS credentials have expired (ExpiredTokenException); log in anew and run again" in ended.stderr
    at.between.follow(())
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert len(at.items()) == FACTS + EPISODES


@pytest.mark.parametrize("operation", ["BatchWriteItem", "Scan"])
def test_a_sink_whose_table_is_deleted_ends_the_run_and_is_written_anew_with_restart(
    operation: str, ways: dict[str, Way], place: Callable[[str], Place], clean: dict[str, Any]
) -> None:
    """While it is written, and while it is read once more to prove it: a table that has gone is no empty table."""
    way = ways[WRITING[0]]
    _, expected, requests = clean_run(way, place, clean)
    at = place("deleted")
    at.between.follow([Fault("table-deleted", (operation,), after=requests[operation] - 2)])
    ended = at.run(*way.command(at))
    assert at.between.befallen
    assert ended.code == 1, ended.error
    assert "there is no such table in eu-west-1" in ended.error
    assert "bring it back" in ended.error
    assert closes(ended.report)
    assert sum(kind["written"] for kind in ended.report["kinds"].values()) > 0
    refused = at.run(*way.command(at))
    assert refused.code == 2
    assert "the interrupted job wrote to arn:aws:dynamodb:" in refused.error
    assert refused.error.endswith("now. Bring it back, or begin anew with --restart")
    again = at.run(*way.command(at), "--restart")
    assert (again.code, again.report["proven"]) == (0, "digest"), again.error
    assert way.look(at) == expected


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_source_whose_table_is_deleted_ends_the_run_which_resumes_when_it_is_back(
    part: float, items: Items, ways: dict[str, Way], place: Callable[[str], Place], clean: dict[str, Any]
) -> None:
    way = ways["out of a table"]
    _, expected, requests = clean_run(way, place, clean)
    at = place("deleted")
    way.make(at)
    at.between.follow([Fault("table-deleted", ("Scan",), after=int(requests["Scan"] * part))])
    ended = at.run(*way.command(at))
    assert ended.code == 1, ended.error
    assert "there is no such table" in ended.error
    assert "bring it back" in ended.error
    assert not at.file.exists()
    gone = at.run(*way.command(at))
    assert gone.code == 2, gone.error
    at.make(items)
    again = at.run(*way.command(at))
    assert again.code == 0, again.error
    assert way.look(at) == expected


def test_verify_does_not_take_a_table_that_has_gone_for_an_empty_one(
    ways: dict[str, Way], place: Callable[[str], Place], clean: dict[str, Any]
) -> None:
    way = ways["verify"]
    _, _, requests = clean_run(way, place, clean)
    for number in range(2, requests["Scan"]) if LONG else (2, requests["Scan"] - 1):
        at = place(f"{number}")
        way.make(at)
        at.between.follow([Fault("table-deleted", ("Scan",), after=number)])
        ended = at.run(*way.command(at))
        assert ended.code == 1, ended.error
        assert "there is no such table" in ended.error
        assert ended.report["differences"] == []


# The real minute -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not LONG, reason="a minute of real time: in the long profile (scripts/test --long)")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("way_name", "fast"), [(WRITING[0], "0"), (WRITING[0], "1"), ("out of a table", "0")])
def test_under_a_minute_of_total_throttling_it_makes_few_requests_and_loses_nothing(
    way_name: str, fast: str, ways: dict[str, Way], place: Callable[[str], Place], clean: dict[str, Any]
) -> None:
    """Four workers, processes of their own, at the pauses that users have."""
    way = ways[way_name]
    _, expected, _ = clean_run(way, place, clean)
    at = place("minute")
    way.make(at)
    on = ("BatchWriteItem",) if way_name == WRITING[0] else ("Scan",)
    at.between.follow([replace(SCRIPTS["throttled-for-a-minute"][0], on=on, after=3)])
    command = on_processes([*way.command(at)[:-1], "4", "--json"])
    environment = os.environ | {"MIGRATOR_STATE": str(at.folder / "state"), "MIGRATOR_FAST": fast}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    moments = at.between.script.moments
    print(f"{way_name}: {len(moments)} requests in {moments[-1] - moments[0]:.0f} s of total throttling")
    assert moments[-1] - moments[0] > 30
    assert len(moments) < 200
    assert way.look(at) == expected


# By hand ---------------------------------------------------------------------------------------------------------------


def test_the_faulty_endpoint_can_be_run_by_hand(moto_endpoint: str, tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"what": "error", "code": "ThrottlingException", "on": ["ListTables"], "times": 2}]))
    command = [sys.executable, str(FAULTY), "--upstream", moto_endpoint, "--script"]
    with subprocess.Popen(
        [*command, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        once = Config(retries={"total_max_attempts": 1})
        client = boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=address, config=once)
        for _ in range(2):
            with pytest.raises(client.exceptions.ClientError, match="ThrottlingException"):
                client.list_tables()
        assert "TableNames" in client.list_tables()
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert told.splitlines() == ["error: ListTables", "error: ListTables", "2 befallen of 3 ListTables"]
    script.write_text('[{"what": "flood"}]')
    for wrong in (str(script), "no-such-script"):
        refused = subprocess.run([*command, wrong], capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 2
        assert wrong in refused.stderr
        assert "Traceback" not in refused.stderr
