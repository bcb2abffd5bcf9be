"""Killed at any step, between any two stores, and resumed by any workers: the sink and the accounting end as those of a clean run.

What a step is says `killed.py`, what is copied `kills.py`. The long profile takes every step of every pair, the short one a spread; both end with
a line of how many there were.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, product
from pathlib import Path
from typing import Any

import psutil
import pytest

import kills
import proxy
from conftest import needed, skip_for
from kills import KILLED, PAGE, Ended, Killer, Place
from tables import address_of, client_of, texts_of

LONG = os.environ.get("MIGRATOR_LONG") == "1"
SOURCES = ("db", "jsonl", "json", "dynamodb")
SINKS = ("db", "jsonl", "jsonl.gz", "json", "dynamodb")
REPLACED = ("db", "jsonl", "json", "dynamodb")
PAIRS = [*product(SOURCES, SINKS, ("refuse",)), *product(("db",), REPLACED, ("replace",))]
CREWS: tuple[dict[str, Any], ...] = (
    {"workers": 1, "processes": False},
    {"workers": 2, "processes": False},
    {"workers": 2, "processes": True},
)
"""Whoever may copy: one thread, two, two processes. A source that is read in one go, or a sink that takes one writer, makes it one thread."""
PARALLEL = [(source, sink) for source in ("db", "jsonl", "dynamodb") for sink in ("jsonl", "json", "dynamodb")]


class Bench:
    """Makes trials: places with a source that is not written to, and command lines there."""

    def __init__(self, killer: Killer, between: proxy.Proxy, folder: Path, pair: tuple[str, str, str]) -> None:
        self.killer, self.between, self.folder = killer, between, folder
        self.source, self.sink, self.existing = pair
        self.client = client_of(between.upstream)
        if self.source == "dynamodb":
            table = f"from-{id(self)}"
            kills.write_table(self.client, table, kills.SOURCE)
            self.address = address_of(table, between.upstream)
        else:
            path = folder / f"chat.{self.source}"
            kills.WRITERS[self.source](path, kills.SOURCE)
            self.address = str(path)
        self.began = self._source_bytes()

    def _source_bytes(self) -> bytes:
        return b"" if self.source == "dynamodb" else Path(self.address).read_bytes()

    def place(self, name: str) -> Place:
        place = Place(self.folder / name, self.sink, self.between.endpoint, self.client)
        if self.existing == "replace":
            place.fill(kills.THERE)
        return place

    def run(self, place: Place, crew: dict[str, Any], **death: Any) -> Ended:
        args = ["migrate", self.address, place.address, "--create", "--on-reject", "continue", "--json"]
        args += ["--workers", str(crew["workers"]), "--existing", self.existing]
        return self.killer.run(place.folder, *args, processes=crew["processes"], fast=crew.get("fast", False), **death)

    def _writes(self) -> int:
        return sum(self.between.requests[operation] for operation in proxy.WRITES)

    def clean(self, crew: dict[str, Any] = CREWS[1], **death: Any) -> "Clean":
        place = self.place("clean")
        before, asked = self.between.acknowledged, self._writes()
        ended = self.run(place, crew, **death)
        assert ended.code == 3, ended.err
        if "where" not in death:  # of one process only its own are seen
            sent = [sort for sort, _ in ended.steps].count("send")
            assert sent == self._writes() - asked, "writes that no death waits for"
        held = place.look()
        assert held is not None
        clean = Clean(self, ended, held, place, self.between.acknowledged - before)
        figures = kills.account(ended.report, apart=False)
        assert sum(each["read"] for each in figures.values()) == 18
        assert sum(each["rejected"] for each in figures.values()) == kills.REJECTED
        return clean


class Clean:
    """What a clean run leaves, and the claim that another trial has left the same."""

    def __init__(self, bench: Bench, ended: Ended, held: list[str], place: Place, sent: int) -> None:
        self.bench, self.ended, self.held, self.place, self.sent = bench, ended, held, place, sent

    def is_met_by(self, trial: Place, first: Ended, crew: dict[str, Any], again: Ended, sent: int, words: str) -> None:
        """`first` was interrupted with `crew` at work, `again` is the same command line, to the end; `sent`: records both brought to a table."""
        bench = self.bench
        assert again.code == self.ended.code, f"{words}: {again.err}"
        assert trial.look() == self.held, words
        apart = bench.existing == "refuse" and bool(again.report["resumed"])
        assert kills.account(again.report, apart) == kills.account(self.ended.report, apart), words
        for name in ("rejects", "duplicates"):
            assert trial.noted(name) == self.place.noted(name), f"{words}: {name}"
        if trial.is_whole:  # the old file; a job that was done and is run once more puts another beside it
            assert set(trial.noted("replaced")) >= set(self.place.noted("replaced")), f"{words}: the replaced file"
        else:
            assert trial.noted("replaced") == self.place.noted("replaced"), f"{words}: replaced"
        assert trial.left() == self.place.left(), f"{words}: left over"
        assert bench._source_bytes() == bench.began, f"{words}: the source"
        if again.report["resumed"]:  # the bound: a slice for each worker of the run that was killed
            repeated = len(first.slices) + len(again.slices) - len(self.ended.slices)
            assert repeated <= crew["workers"], f"{words}: {repeated} slices were done again"
            assert sent - self.sent <= crew["workers"] * PAGE, f"{words}: {sent - self.sent} records were sent again"
            assert set(first.slices) | set(again.slices) == set(self.ended.slices), words


def point(number: int, part: int, parts: int, steps: int) -> int:
    """For the short profile: the steps of all pairs together are spread evenly over a run."""
    return 1 + int(((number * 0.6180339887 + part) / parts % 1) * steps)


PARTS = ("written", "unchanged", "kept", "differing", "duplicates", "filtered", "rejected")
Record = Callable[[str, object], None]


@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.parametrize(("number", "pair"), list(enumerate(PAIRS)), ids=["-".join(pair) for pair in PAIRS])
def test_killed_at_any_step_between_any_two_stores_and_resumed_it_ends_as_a_clean_run(
    number: int,
    pair: tuple[str, str, str],
    killer: Killer,
    between: proxy.Proxy,
    tmp_path: Path,
    record_property: Record,
) -> None:
    bench = Bench(killer, between, tmp_path, pair)
    clean = bench.clean()
    steps = len(clean.ended.steps)
    assert steps > 50 and {"write", "fsync", "rename"} <= {sort for sort, _ in clean.ended.steps}
    if pair[1] == "dynamodb":
        assert {"send", "sent"} <= {sort for sort, _ in clean.ended.steps}
    resumed = 0
    taken = count(1) if LONG else (point(number, part, 2, steps) for part in range(2))
    for turn, step in enumerate(taken, number):
        place = bench.place(f"{step}")
        before, crew = between.acknowledged, CREWS[turn % 2]
        killed = bench.run(place, crew, nth=step)
        if killed.code == clean.ended.code and len(killed.steps) < step:
            break  # the end of this run: threads do not always take the same number of steps
        words = f"{'-'.join(pair)}, step {step} {killed.steps[-1][0]}, {crew}"
        assert killed.code == KILLED, f"{words}: {killed.err}"
        if place.is_whole:
            assert place.look() in (clean.held, None if pair[2] == "refuse" else there(bench)), f"{words}: not whole"
        unfinished = place.is_unfinished()
        # Processes take ten times as long to start as all the rest: now and then.
        again = bench.run(place, CREWS[2 if LONG and not step % 12 else (turn // 2) % 2])
        assert again.code in (0, 3), f"{words}: {again.err}"
        assert again.report["resumed"] is unfinished, words
        clean.is_met_by(place, killed, crew, again, between.acknowledged - before, words)
        place.clear()
        resumed += 1
    assert not LONG or resumed >= steps * 0.9
    record_property("kills", [resumed, resumed])


def there(bench: Bench) -> list[str] | None:
    """What a sink held before it was replaced."""
    place = bench.place("there")
    held = place.look()
    place.clear()
    return held


@pytest.mark.timeout(1800 if LONG else 300)
def test_killed_at_any_write_by_the_extra_fast_and_resumed_either_way_it_ends_as_a_clean_run(
    killer: Killer, between: proxy.Proxy, tmp_path: Path, record_property: Record
) -> None:
    needed("msgspec")
    bench = Bench(killer, between, tmp_path, ("db", "dynamodb", "refuse"))
    crew, writes = CREWS[0] | {"fast": True}, ["send", "sent"]
    clean = bench.clean(crew, sorts=writes)
    steps = len(clean.ended.steps)
    taken = range(1, steps + 1) if LONG else range(2, steps + 1, 3)
    for turn, step in enumerate(taken):
        place = bench.place(f"{step}")
        before = between.acknowledged
        killed = bench.run(place, crew, nth=step, sorts=writes)
        assert killed.code == KILLED, killed.err
        again = bench.run(place, crew | {"fast": turn % 2 == 0})
        clean.is_met_by(place, killed, crew, again, between.acknowledged - before, f"{killed.steps[-1][0]} {step}")
        place.clear()
    record_property("kills", [len(taken)] * 2)


def test_killed_at_any_write_between_two_tables_both_keys_of_one_identity_arrive(
    between: proxy.Proxy, tmp_path: Path, record_property: Record
) -> None:
    """H3: what a slice that is done again finds under the other key, from a slice before, is not what it is about to write."""
    client = client_of(between.upstream)
    twice = [kills.episode(1), kills.episode(1, summary="older", updated_at=kills.OLDER)]
    kills.write_table(client, "two-keys", {"facts": [], "episodes": twice})
    source, points = address_of("two-keys", between.upstream), 0
    with kills.killing(page=1) as killer:
        for step in count(1):
            place = Place(tmp_path / f"{step}", "dynamodb", between.endpoint, client)
            args = ("migrate", source, place.address, "--create", "--workers", "1", "--json")
            killed = killer.run(place.folder, *args, nth=step, sorts=["send", "sent"])
            again = killer.run(place.folder, *args) if killed.code == KILLED else killed
            assert (again.code, again.report["proven"]) == (0, "digest"), f"step {step}: {again.err}"
            assert place.look() == texts_of(client, "two-keys"), f"step {step}"
            place.clear()
            if killed.code != KILLED:
                break
            points += 1
    assert points == 6  # the table, and each of two slices, before and behind
    record_property("kills", [points, points])


@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.parametrize(("source", "sink"), PARALLEL if LONG else [("db", "dynamodb")])
@pytest.mark.parametrize(
    ("where", "whom"), [("coordinator", "one"), ("worker", "one"), *([("coordinator", "group")] if LONG else [])]
)
def test_killed_with_worker_processes_it_ends_as_a_clean_run(
    source: str,
    sink: str,
    where: str,
    whom: str,
    killer: Killer,
    between: proxy.Proxy,
    tmp_path: Path,
    record_property: Record,
) -> None:
    """The coordinator alone: nothing is written after it. The whole group. One worker: the run says so and ends with 1, or goes on."""
    bench = Bench(killer, between, tmp_path, (source, sink, "refuse"))
    clean = bench.clean(CREWS[2], where=where)
    steps, resumed = len(clean.ended.steps), 0
    assert steps > 20
    # Not before the workers are there: what comes earlier is the same with threads.
    taken = range(1, steps + 1) if LONG else [steps // 4] if where == "worker" else [steps * 2 // 3]
    for turn, step in enumerate(taken):
        place = bench.place(f"{step}")
        before = between.acknowledged
        killed = bench.run(place, CREWS[2], nth=step, where=where, whom=whom)
        if killed.code == 3:  # the other worker has done the most of it, and none came so far
            place.clear()
            continue
        words = f"{source} to {sink}, {where} {whom}, step {step} of {steps}"
        if where == "worker":
            assert killed.code == 1 and "a worker process died" in killed.err, f"{words}: {killed.code} {killed.err}"
            assert killed.report["outcome"] == "failed" and killed.report["exit_code"] == 1, words
        else:
            assert killed.code == KILLED, f"{words}: {killed.err}"
        again = bench.run(place, CREWS[turn % 3])
        clean.is_met_by(place, killed, CREWS[2], again, between.acknowledged - before, words)
        place.clear()
        resumed += 1
    assert resumed
    record_property("kills", [resumed, resumed])


@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.parametrize(
    ("source", "sink"), PARALLEL if LONG else [("db", "db"), ("dynamodb", "json"), ("jsonl", "dynamodb")]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_at_any_step_finishes_what_is_in_flight_and_the_run_resumes(
    number: signal.Signals,
    source: str,
    sink: str,
    killer: Killer,
    between: proxy.Proxy,
    tmp_path: Path,
    record_property: Record,
) -> None:
    """Nothing is done again: a signal costs no slice. Before and after the copy there is nothing to finish, and it may be too late to stop."""
    bench = Bench(killer, between, tmp_path, (source, sink, "refuse"))
    clean = bench.clean(number=number)
    steps, stopped = len(clean.ended.steps), 0
    taken = range(1, steps + 1) if LONG else (point(number, part, 2, steps) for part in range(2))
    for turn, step in enumerate(taken):
        place = bench.place(f"{step}")
        before, crew = between.acknowledged, CREWS[turn % 2]
        ended = bench.run(place, crew, nth=step, number=number)
        words = f"{source} to {sink}, {number.name} at step {step} of {steps}"
        assert ended.code in (3, 128 + number, -number), f"{words}: {ended.code} {ended.err}"
        assert "Traceback" not in ended.err, f"{words}: {ended.err}"
        if ended.code == 128 + number:
            stopped += 1
            assert (ended.report["outcome"], ended.report["exit_code"]) == ("interrupted", ended.code), words
            assert "run the same command again" in ended.err, words
            assert all(
                each["read"] == sum(each[name] for name in PARTS) for each in ended.report.get("kinds", {}).values()
            )
        again = bench.run(place, CREWS[(turn + 1) % 2])
        clean.is_met_by(place, ended, crew, again, between.acknowledged - before, words)
        if ended.code == 128 + number and again.report["resumed"]:
            assert sorted(ended.slices + again.slices) == sorted(clean.ended.slices), f"{words}: a slice was done again"
        place.clear()
    assert stopped or not LONG
    record_property("kills", [steps if LONG else 2, steps if LONG else 2])


def test_steps_are_counted_within_sqlite_too(killer: Killer, between: proxy.Proxy, tmp_path: Path) -> None:
    """Between SQLite and the system; where its library cannot be reached, only our own steps are taken."""
    sorts = {sort for sort, _ in Bench(killer, between, tmp_path, ("jsonl", "db", "refuse")).clean().ended.steps}
    if "sqlite" not in sorts:
        skip_for("Python's sqlite3 uses no library that a test could reach")
    assert {"sqlite", "unlink"} <= sorts


# From outside, in the middle ---------------------------------------------------------------------------------------------


FACTS = 300


def begin(folder: Path, address: str) -> subprocess.Popen[str]:
    """A migration with two worker processes, in a process group of its own."""
    kills.make_chat(folder / "chat.db", FACTS)
    args = ["migrate", "chat.db", address, "--create", "--workers", "2", "--json"]
    order = {"args": args, "seen": str(folder / "seen"), "processes": True}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "killed.py"), json.dumps(order)],
        env=os.environ | {"MIGRATOR_STATE": str(folder / "state"), "XDG_STATE_HOME": str(folder / "user")},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(between: proxy.Proxy, written: int) -> None:
    deadline = time.monotonic() + 100
    while between.acknowledged < written and time.monotonic() < deadline:
        time.sleep(0.005)
    assert between.acknowledged >= written


@pytest.fixture
def alone(moto_endpoint: str) -> Iterator[proxy.Proxy]:
    """A proxy that nothing else has counted at."""
    with proxy.before(moto_endpoint) as between:
        yield between


def test_workers_die_with_the_coordinator(killer: Killer, alone: proxy.Proxy, tmp_path: Path) -> None:
    """Killed alone in the middle, with worker processes: no write reaches the endpoint later than a second after."""
    address = address_of("workers-die", alone.endpoint)
    with begin(tmp_path, address) as process:
        wait_for(alone, 100)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = time.monotonic()
        time.sleep(2)
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    assert alone.acknowledged < FACTS
    assert alone.last_write < killed + 1
    again = killer.run(tmp_path, "migrate", "chat.db", address, "--create", "--workers", "1", "--json")
    assert again.code == 0, again.err
    assert again.report["kinds"]["fact"]["written"] == FACTS == len(alone.items)
    assert alone.acknowledged - FACTS <= 2 * 25, "repeats beyond the bound"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_or_one_leaves_every_acknowledged_record_in_the_account(
    number: int, code: int, killer: Killer, alone: proxy.Proxy, tmp_path: Path
) -> None:
    """Ctrl-C reaches the whole group, the workers too; SIGTERM the coordinator alone."""
    address = address_of(f"signal-{code}", alone.endpoint)
    with begin(tmp_path, address) as process:
        wait_for(alone, 100)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        output, trouble = process.communicate(timeout=100)
    assert process.returncode == code, trouble
    assert "Traceback" not in trouble
    assert "run the same command again to resume" in trouble
    report = json.loads(output)
    assert (report["outcome"], report["exit_code"]) == ("interrupted", code)
    assert report["kinds"]["fact"]["written"] == alone.acknowledged < FACTS
    again = killer.run(tmp_path, "migrate", "chat.db", address, "--workers", "1", "--json")
    assert again.code == 0, again.err
    assert again.report["resumed"] is True
    assert alone.acknowledged == FACTS == len(alone.items)
