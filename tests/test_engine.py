"""One slice, the loop that remembers slices, and the workers who copy them: each of their promises alone, on stores in memory."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock, Timeout

from migrator import engine
from migrator.adapters import memory
from migrator.adapters.base import Flushed
from migrator.checkpoint import Checkpoint, Progress, State
from migrator.choice import Choice, User
from migrator.crew import Crew, Stop, _Garbage, collect_rarely
from migrator.digest import Digest
from migrator.duplicates import Duplicates
from migrator.engine import (
    Job,
    SliceResult,
    Weights,
    _Turns,
    by_partition,
    copy,
    copy_slice,
    get_ready,
    let_go,
    note_repeated,
    part_of_rate,
    read_sink_partition,
    remember,
    slice_name,
)
from migrator.errors import AccountError, Interrupted, StoreError, TransientStoreError
from migrator.model import Address, Alike, Existing, Foreign, Origin, Page, Partition, Reject, Row, Tally, Weight
from migrator.pair import Pair
from migrator.plain import Signature
from stores import MAPPING, record_of

LAYOUT = MAPPING.layout_for("memory", None)
TABLE = MAPPING.layouts["user_id/SK"]
ALL = Partition("000", {"from": 0, "to": 1000})


class Bench:
    """Two stores in memory and a job between them; pages are of two records, slices of four."""

    def __init__(self, folder: Path) -> None:
        self.names = f"{uuid.uuid4().hex}-a", f"{uuid.uuid4().hex}-b"
        self.source, self.sink = (memory.store(name) for name in self.names)
        self.folder = folder
        addresses = [Address("memory", "memory", f"memory:{name}", name) for name in self.names]
        self.job = Job(
            uuid.uuid4().hex,
            *addresses,
            LAYOUT,
            LAYOUT,
            MAPPING.kind_names(),
            str(folder),
            "job",
            None,
            Existing.EMPTY,
            True,
            False,
        )
        self.state.make()

    @property
    def state(self) -> State:
        return self.job.state

    def other(self, **changed: Any) -> None:
        """The same job with other choices, and stores opened anew."""
        self.job = replace(self.job, id=uuid.uuid4().hex, **changed)

    def fill(self, rows: list[Row], there: list[Row] | None = None) -> None:
        for store, given in ((self.source, rows), (self.sink, there or [])):
            for row in given:
                store.append(row.kind, row.record, LAYOUT.kinds[row.kind].kind.identity_of(row.record))

    def values(self) -> list[Any]:
        return [row.record["value"] for row in self.sink.rows.values() if isinstance(row, Row)]

    def slice(self, after: Any = None, careful: bool = False, most: int | None = None, number: int = 0) -> SliceResult:
        return copy_slice(self.job, 0, self.partition, after, number, careful, most)

    @property
    def partition(self) -> Partition:
        return Partition("000", {"from": 0, "to": self.source.end})

    def notes(self, name: str) -> list[dict[str, Any]]:
        path = self.state.path / name / "0000-000000.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def checkpoint(self, *partitions: Partition) -> Checkpoint:
        return Checkpoint("job", {}, "now", progress=[Progress(each) for each in partitions])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(memory, "PAGE_ROWS", 2)
    bench = Bench(tmp_path)
    yield bench
    for name in bench.names:
        memory.forget(name)
    for stores in engine._open.__dict__.pop("stores", {}).values():
        stores.close()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest that each pause may take; none takes any time."""
    asked: list[float] = []
    monkeypatch.setattr("migrator.engine.random.uniform", lambda low, high: asked.append(high) or low)
    monkeypatch.setattr("migrator.engine.time.sleep", lambda seconds: asked.append(-seconds) if seconds else None)
    return asked


def fact(number: int, **more: Any) -> Row:
    return record_of("fact", number, **more)


def tally(result: SliceResult, kind: str = "fact") -> Tally:
    return result.tallies[kind]


# One slice -------------------------------------------------------------------------------------------------------------


def test_a_slice_is_two_pages_and_the_next_goes_on_behind_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(n) for n in range(9)])
    opened, pages = [0], memory.MemorySource.pages

    def counted(self: memory.MemorySource, partition: Partition, after: Any) -> Iterator[Page]:
        opened[0] += 1
        return pages(self, partition, after)

    monkeypatch.setattr(memory.MemorySource, "pages", counted)
    found, after = [], None
    for number in range(3):
        result = bench.slice(after, number=number)
        found.append((result.turn, result.number, result.read, tally(result).written, result.cursor, result.done))
        after = result.cursor
    assert found == [(0, 0, 4, 4, 4, False), (0, 1, 4, 4, 8, False), (0, 2, 1, 1, 9, True)]
    assert (len(bench.sink.rows), opened[0]) == (9, 1)  # one iterator served them all
    again = bench.slice(4, careful=True, number=1)
    assert (again.cursor, tally(again).written, opened[0]) == (8, 4, 2)
    assert bench.slice(8, careful=True, number=2).done
    assert opened[0] == 2
    bench.slice(None, careful=True)
    bench.slice(2, careful=True)  # not where the iterator stopped
    assert opened[0] == 4


def test_many_rows_of_a_page_are_noted_as_each_of_them_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one signature as columns, but where one needs a closer look or is one of few; and those with an origin by themselves."""
    pair = engine._opened(bench.job).pair
    rows = [fact(n, value=f'"{n}"\n') for n in range(40)] + [fact(n, value=n, confidence=1e300) for n in range(40, 80)]
    rows += [record_of("mood", n) for n in range(5)] + [fact(100 + n, value=None, confidence=2.0) for n in range(40)]
    for row in rows:
        row.signature = Signature.of(row.record)
    rows += [replace(fact(200 + n), origin=Origin("memory", LAYOUT.id, {"x": n})) for n in range(40)]
    together: list[int] = []
    note = Pair._note_alike
    monkeypatch.setattr(Pair, "_note_alike", lambda self, *given: together.append(len(given[1])) or note(self, *given))
    each: dict[str, Digest] = {}
    many: dict[str, Digest] = {}
    for row in rows:
        pair.note(each, [row])
    assert together == []
    pair.note_held(many, Page([*rows[::2], *rows[1::2]], 1))
    assert (many, together) == (each, [40, 40])


def test_a_slice_is_longer_where_the_sink_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(n) for n in range(20)])
    monkeypatch.setattr(memory.ADAPTER, "traits", replace(memory.ADAPTER.traits, stretch=3))
    assert (bench.slice().read, bench.slice(12).read) == (12, 8)


def test_what_a_thread_has_open_for_a_job_is_closed_once_and_only_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(memory.MemorySource, "close", lambda self: closed.append(self))
    bench.slice()
    let_go(replace(bench.job, id="another"))
    assert closed == []
    let_go(bench.job)
    let_go(bench.job)
    assert len(closed) == 2  # the source, and the reader of the sink
    assert bench.job.id not in engine._open.stores


def alike(*numbers: int) -> Alike:
    records = [fact(number).record for number in numbers]
    signature = Signature.of(records[0])
    assert signature is not None
    return Alike("fact", signature, [*zip(*[record.values() for record in records])], str)


@pytest.mark.parametrize(
    ("changed", "careful", "batches"),
    [
        ({}, False, [2, 2, 1]),
        ({}, True, []),
        ({"existing": Existing.REFUSE, "sink_was_empty": False}, False, []),
        ({"existing": Existing.KEEP}, False, []),
        ({"dry": True}, False, []),
    ],
)
def test_rows_that_are_alike_go_together_into_a_sink_that_was_empty_and_are_counted_as_each(
    changed: dict[str, Any], careful: bool, batches: list[int], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [
        Page([fact(1)], 1, alike=[alike(2, 3), alike(4, 5)]),
        Page([record_of("mood", 1)], 2, alike=[alike(6)]),
    ]
    together: list[int] = []
    upsert_alike = memory.MemorySink.upsert_alike
    for name in ("fits_alike", "fit_alike"):
        monkeypatch.setattr(memory.MemoryReader, name, lambda self, rows: True)
    monkeypatch.setattr(memory.MemorySource, "pages", lambda self, partition, after: iter(given))
    monkeypatch.setattr(
        memory.MemorySink, "upsert_alike", lambda self, rows: together.append(len(rows)) or upsert_alike(self, rows)
    )
    bench.other(**changed)
    result = bench.slice(careful=careful)
    assert (tally(result), tally(result, "mood"), together) == (
        Tally(read=6, written=6),
        Tally(read=1, written=1),
        batches,
    )
    assert (result.digests["fact"].count, len(bench.sink.rows)) == (6, 0 if "dry" in changed else 7)


def test_an_empty_partition_is_done_where_it_began(bench: Bench) -> None:
    result = bench.slice(7)
    assert (result.cursor, result.done, result.tallies) == (7, True, {})


def test_a_slice_takes_no_more_records_than_it_may(bench: Bench) -> None:
    bench.fill([fact(n) for n in range(9)])
    result = bench.slice(most=3)
    assert (result.read, tally(result).written, len(bench.sink.rows)) == (3, 3, 3)
    assert [bench.slice(most=most, careful=True).read for most in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 4]


def test_names_of_slices_sort_in_the_order_of_the_plan() -> None:
    names = [slice_name(turn, number) for turn in (0, 1, 9, 10, 999) for number in (0, 1, 9, 10, 99_999)]
    assert names == sorted(names)
    assert slice_name(3, 7) == "0003-000007"


def test_a_job_can_be_sent_to_another_process(bench: Bench) -> None:
    assert pickle.loads(pickle.dumps(bench.job)) == bench.job


def test_a_job_is_packed_and_unpacked_once_however_many_slices_it_goes_with(bench: Bench) -> None:
    """With all its layouts it would take a millisecond each way."""
    first, second = (pickle.loads(pickle.dumps((bench.job, number)))[0] for number in (1, 2))
    assert first is second
    other = replace(bench.job, id="another", limit=7)
    assert pickle.loads(pickle.dumps(other)) == other != first


def test_what_is_written_is_the_digest_of_what_should_be_there(bench: Bench) -> None:
    bench.fill([fact(1), fact(2), record_of("mood", 1)])
    result = bench.slice()
    expected = {}
    for partition in bench_reader(bench).partitions(list(MAPPING.kind_names()), 1):
        seen = read_sink_partition(bench.job, partition)
        for kind, digest in seen.digests.items():
            expected.setdefault(kind, Digest()).add(digest)
    assert result.digests == expected
    assert {kind: digest.count for kind, digest in result.digests.items()} == {"fact": 2, "mood": 1}


def bench_reader(bench: Bench) -> Any:
    return memory.ADAPTER.reader(bench.job.sink, bench.job.settings(LAYOUT))


def test_rejects_losers_and_foreign_items_are_left_in_notes_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(1)])
    foreign = [Foreign(f"f{n}") for n in range(15)]
    loser, winner = (Row("fact", fact(1).record, place=place) for place in ("loser", "winner"))
    Duplicates.build(bench.state.duplicates, [loser, winner], bench.job.kind_map, lambda row: b"")
    monkeypatch.setattr(
        memory.MemoryReader, "remaining", lambda self, row: 5.0 if row.record["key"] == "boss_1" else None
    )
    given = [
        Page([loser, winner], 1, [Reject("fact", "r1", "broken")], [*foreign, Foreign("g", ghost=True)]),
        Page([fact(2)], 2, [Reject("fact", "r2", "broken")], [*foreign, Foreign("meant-1"), Foreign("meant-2")]),
        Page([fact(3)], 3),
    ]
    monkeypatch.setattr(memory.MemorySource, "pages", lambda self, partition, after: iter(given))
    bench.other(setting={"foreign": ("meant-*",)})
    result = bench.slice()
    assert tally(result) == Tally(read=5, written=2, duplicates=1, rejected=2)
    assert (result.rejected, result.read, result.due) == (2, 5, 1)
    assert [each["place"] for each in bench.notes("duplicates")] == ["loser"]
    assert [each["place"] for each in bench.notes("rejects")] == ["r1", "r2"]
    assert (result.foreign, result.ghosts, result.accepted) == (30, 1, 2)
    assert result.foreign_seen == [each.place for each in [*foreign, *foreign]][:20]
    assert (result.cursor, result.done) == (2, False)


# What is there already -------------------------------------------------------------------------------------------------


def test_in_an_empty_sink_nothing_is_looked_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(1)])
    asked: list[Existing] = []
    upsert = memory.MemorySink.upsert
    monkeypatch.setattr(memory.MemoryReader, "fetch", lambda *_: pytest.fail("nothing is to be looked up"))
    monkeypatch.setattr(memory.MemorySink, "swap", lambda *_: pytest.fail("nothing is to be replaced"))
    monkeypatch.setattr(
        memory.MemorySink, "upsert", lambda self, rows, existing: asked.append(existing) or upsert(self, rows, existing)
    )
    assert tally(bench.slice()).written == 1
    for existing in (Existing.KEEP, Existing.NEWER):  # the sink tells what has come meanwhile
        bench.other(existing=existing)
        bench.sink.rows.clear()
        bench.sink.places.clear()
        assert tally(bench.slice()).written == 1
    assert asked == [Existing.EMPTY, Existing.REFUSE, Existing.REFUSE]


def test_a_slice_done_again_counts_its_own_as_written_and_what_differs_as_differing(bench: Bench) -> None:
    bench.fill([fact(1), fact(2), fact(3)], [fact(1), fact(2, value="the application's")])
    result = bench.slice(careful=True)
    assert (tally(result).written, tally(result).unchanged, tally(result).differing) == (2, 0, 1)
    assert sorted(bench.values()) == ["María José", "María José", "the application's"]
    (note,) = bench.notes("differing")
    assert note == {
        "what": "differing",
        "kind": "fact",
        "identity": "fact user_id=ana2 category=work key=boss_2",
        "fields": ["value"],
    }


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("is_apart", [False, True])
def test_what_lies_apart_is_not_taken_for_a_slices_own_when_it_is_done_again(
    careful: bool, is_apart: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H3: a store may hold several of one identity, each in a place of its own. Only a run that has been here can have brought the other."""
    places = {"mine": b"1", "theirs": b"2" if is_apart else b"1"}
    monkeypatch.setattr(memory.MemoryReader, "apart", lambda self, row: places[row.record["value"]])
    written: list[Row] = []
    upsert = memory.MemorySink.upsert

    def noted(self: Any, rows: Any, existing: Existing) -> None:
        written.extend(rows := list(rows))
        upsert(self, rows, existing)

    monkeypatch.setattr(memory.MemorySink, "upsert", noted)
    bench.fill([fact(0, value="mine")], [fact(0, value="theirs")])
    bench.other(existing=Existing.EMPTY if careful else Existing.REFUSE)
    bench.slice(careful=careful)
    assert [row.record["value"] for row in written] == (["mine"] if careful and is_apart else [])


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("was_empty", [False, True])
@pytest.mark.parametrize("existing", list(Existing))
def test_what_is_there_is_looked_up_unless_the_sink_tells_it_by_itself(
    existing: Existing, was_empty: bool, dry: bool, careful: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sink that was not empty a record may lie under another key; so may what an earlier try left."""
    bench.fill([fact(1)])
    bench.other(existing=existing, sink_was_empty=was_empty, dry=dry)
    looked, asked = list[Any](), list[Existing]()
    monkeypatch.setattr(memory.MemoryReader, "fetch", lambda self, rows: looked.append(rows) or [None] * len(rows))
    monkeypatch.setattr(memory.MemorySink, "upsert", lambda self, rows, existing: asked.append(existing))
    bench.slice(careful=careful)
    by_itself = existing in (Existing.KEEP, Existing.NEWER) and was_empty and not dry
    plain = existing is Existing.EMPTY and not careful
    assert bool(looked) == (not by_itself and not plain)
    assert asked == ([] if dry else [Existing.EMPTY if plain else Existing.REFUSE])


def test_a_slice_holds_no_more_records_than_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    bench.fill([fact(n) for n in range(engine.SLICE_ROWS + 1)])
    result = bench.slice()
    assert (result.read, result.done) == (engine.SLICE_ROWS, False)


def test_a_part_of_a_file_replaces_what_the_same_slice_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(1)], [fact(1, value="older")])
    monkeypatch.setattr(type(memory.ADAPTER), "traits", replace(memory.ADAPTER.traits, whole=True))
    assert tally(bench.slice(careful=True)).written == 1
    assert bench.values() == ["María José"]


FULL = [fact(1), fact(2), fact(3)]
THERE = [fact(1), fact(2, value="other", updated_at="2020-01-01T00:00:00")]


@pytest.mark.parametrize(
    ("existing", "tallied", "values"),
    [
        (Existing.REFUSE, {"written": 1, "unchanged": 1, "differing": 1}, ["María José", "María José", "other"]),
        (Existing.KEEP, {"written": 1, "unchanged": 1, "kept": 1}, ["María José", "María José", "other"]),
        (Existing.NEWER, {"written": 2, "unchanged": 1}, ["María José"] * 3),
        (Existing.REPLACE, {"written": 2, "unchanged": 1}, ["María José"] * 3),
    ],
)
@pytest.mark.parametrize("was_empty", [False, True])
@pytest.mark.parametrize("careful", [False, True])
def test_what_becomes_of_a_record_that_is_there(
    existing: Existing, tallied: dict[str, int], values: list[str], was_empty: bool, careful: bool, bench: Bench
) -> None:
    bench.fill(FULL, THERE)
    bench.other(existing=existing, sink_was_empty=was_empty, choice=Choice("UTC", "UTC"))
    result = bench.slice(careful=careful)
    assert tally(result) == Tally(read=3, **tallied)
    assert sorted(bench.values()) == values
    replaced = bench.state.replaced_file
    assert replaced.exists() == (tallied["written"] == 2)
    kept = replaced.read_text().splitlines() if replaced.exists() else []
    assert [json.loads(line)["record"]["value"] for line in kept] == ["other"] * replaced.exists()
    assert len(bench.notes("differing")) == tallied.get("differing", 0)


def test_of_two_that_differ_the_newer_stays(bench: Bench) -> None:
    bench.fill([fact(1, value="ours")], [fact(1, value="theirs", updated_at="2030-01-01T00:00:00")])
    bench.other(existing=Existing.NEWER, sink_was_empty=False, choice=Choice("UTC", "UTC"))
    assert tally(bench.slice()).kept == 1
    assert bench.values() == ["theirs"]


@pytest.mark.parametrize("existing", [Existing.EMPTY, Existing.REFUSE, Existing.KEEP, Existing.NEWER, Existing.REPLACE])
def test_a_dry_run_counts_the_same_and_writes_nothing(
    existing: Existing, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill(FULL, THERE)
    bench.other(existing=existing, dry=True, choice=Choice("UTC", "UTC"), sink_was_empty=existing is Existing.EMPTY)
    monkeypatch.setattr(memory.MemoryAdapter, "sink", lambda *_: pytest.fail("a dry run opens no sink"))
    result = bench.slice()
    counts = {
        Existing.EMPTY: Tally(read=3, written=3),
        Existing.REFUSE: Tally(read=3, written=1, unchanged=1, differing=1),
        Existing.KEEP: Tally(read=3, written=1, unchanged=1, kept=1),
    }
    assert tally(result) == counts.get(existing, Tally(read=3, written=2, unchanged=1))
    assert (bench.values(), bench.state.replaced_file.exists()) == (["María José", "other"], False)


@pytest.mark.parametrize("existing", [Existing.KEEP, Existing.NEWER])
def test_a_dry_run_looks_up_what_is_there_also_in_what_was_empty(existing: Existing, bench: Bench) -> None:
    bench.fill(FULL, [fact(1)])
    bench.other(existing=existing, dry=True)
    assert tally(bench.slice()).unchanged == 1


def test_a_dry_run_weighs_what_would_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(1), fact(6), fact(2), record_of("mood", 1)], [fact(2)])
    sizes, forms = {"boss_1": 100, "boss_6": 300, None: 0}, {100: "compressed", 300: "split"}
    monkeypatch.setattr(
        memory.MemoryReader,
        "weigh",
        lambda self, row: Weight(size := sizes[row.record.get("key")], size / 100, forms.get(size, "plain")),
        raising=False,
    )
    monkeypatch.setattr("migrator.pair.Pair.is_retyped", lambda self, row: row.record.get("key") == "boss_6")
    bench.other(
        dry=True, existing=Existing.REFUSE, sink_was_empty=False, choice=Choice(user=User("user_id", "session_id"))
    )
    result = bench.slice()
    assert result.weights == {
        "fact": Weights(400, 4.0, 300, "fact user_id=ana1 category=work key=boss_6", 1, 1),
        "mood": Weights(),
    }
    assert result.retyped == {"fact": 1, "mood": 0}
    assert bench.notes("users") == [{"user": "ana1", "bytes": 400}]
    bench.other(choice=Choice())
    bench.slice()
    assert bench.notes("users") == []


def test_weights_add_up_and_the_largest_record_is_named() -> None:
    total = Weights()
    for number, size in enumerate((5, 9, 9, 2)):
        total.add(Weights(size, 0.5, size, f"record {number}", 1, 2))
    assert total == Weights(25, 2.0, 9, "record 1", 4, 8)
    assert list(vars(Weights()).values()) == [0, 0.0, 0, "", 0, 0]


# What the sink refuses -------------------------------------------------------------------------------------------------


class Refusing:
    """A sink that holds back some rows at each flush, as others write between looking and writing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: list[Callable[[memory.MemorySink], Flushed]]) -> None:
        self.flushes = 0
        self.swapped: list[Any] = []
        swap = memory.MemorySink.swap

        def flush(sink: memory.MemorySink) -> Flushed:
            self.flushes += 1
            return answers[min(self.flushes, len(answers)) - 1](sink)

        def swapping(sink: memory.MemorySink, pairs: Any) -> None:
            self.swapped += pairs
            swap(sink, pairs)

        monkeypatch.setattr(memory.MemorySink, "flush", flush)
        monkeypatch.setattr(memory.MemorySink, "swap", swapping)


def test_a_record_that_the_sink_rejects_is_neither_written_nor_in_the_digest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(1), fact(2), fact(3)])
    Refusing(monkeypatch, [lambda sink: Flushed(rejects=[Reject("fact", "7", "too large", fact(2).record)])])
    result = bench.slice()
    assert tally(result) == Tally(read=3, written=2, rejected=1)
    assert [each["reason"] for each in bench.notes("rejects")] == ["too large"]
    bench.other()
    only = Bench(bench.folder / "only")
    only.fill([fact(1), fact(3)])
    monkeypatch.undo()
    assert {b: v for b, v in result.digests["fact"].sums.items() if v} == only.slice().digests["fact"].sums
    assert result.digests["fact"].count == 2


@pytest.mark.parametrize(
    ("existing", "tallied"),
    [(Existing.REFUSE, Tally(read=2, written=1, differing=1)), (Existing.KEEP, Tally(read=2, written=1, kept=1))],
)
def test_what_came_meanwhile_is_not_counted_as_written(
    existing: Existing, tallied: Tally, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(1), fact(2)])
    bench.other(existing=existing, sink_was_empty=False)
    sink = Refusing(monkeypatch, [lambda sink: Flushed(held=[(fact(2), fact(2, value="theirs"))])])
    assert tally(bench.slice()) == tallied
    assert (sink.flushes, sink.swapped) == (1, [])


def test_what_came_meanwhile_is_replaced_until_it_holds_still(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(1), fact(2)])
    bench.other(existing=Existing.REPLACE, sink_was_empty=False)
    met = [fact(2, value=f"theirs {n}") for n in range(2)]
    answers: list[Callable[[Any], Flushed]] = [lambda sink, held=held: Flushed(held=[(fact(2), held)]) for held in met]
    sink = Refusing(monkeypatch, [*answers, lambda sink: Flushed()])
    assert tally(bench.slice()) == Tally(read=2, written=2)
    assert (sink.flushes, sink.swapped) == (3, [(fact(2), each) for each in met])
    kept = [json.loads(line)["record"]["value"] for line in bench.state.replaced_file.read_text().splitlines()]
    assert kept == ["theirs 0", "theirs 1"]


def test_what_never_holds_still_makes_the_slice_be_done_again_and_fail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    bench.fill([fact(2)], [fact(2, value="theirs")])
    bench.other(existing=Existing.REPLACE, sink_was_empty=False)
    sink = Refusing(monkeypatch, [lambda sink: Flushed(held=[(fact(2), fact(2, value="theirs"))])])
    monkeypatch.setattr(memory.MemorySink, "swap", lambda *_: None)
    with pytest.raises(StoreError, match="change faster than they can be replaced"):
        bench.slice()
    assert sink.flushes == 5 * 10


def test_a_slice_that_cannot_account_for_what_came_is_a_bug_and_says_which(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(1), fact(2), fact(3)])
    expected = Pair.expected
    with monkeypatch.context() as patch:
        patch.setattr(Pair, "expected", lambda self, page: expected(self, Page(page.rows[:1], page.cursor)))
        with pytest.raises(AccountError, match="slice 0000-000000: 3 records came, and 2 were counted as read"):
            bench.slice()
    with monkeypatch.context() as patch:
        patch.setattr(Pair, "expected", lambda self, page: counted_twice(expected(self, page)))
        with pytest.raises(AccountError, match="slice 0000-000000 does not close: fact"):
            bench.slice()
    for lost in ("_unsend", "_unnote"):
        with monkeypatch.context() as patch:
            Refusing(patch, [lambda sink: Flushed(rejects=[Reject("fact", "7", "too large", fact(2).record)])])
            patch.setattr(engine._Slice, lost, lambda *_: None)
            with pytest.raises(AccountError, match="slice 0000-000000 does not close: fact"):
                bench.slice()
    assert bench.notes("rejects") == []


def counted_twice(expected: Any) -> Any:
    expected.tally("fact").rejected += 1
    return expected


def test_a_kind_of_which_nothing_travels_is_accounted_for(bench: Bench) -> None:
    bench.fill([fact(1)])
    bench.source.refuse(Reject("mood", "1", "broken"))
    assert tally(bench.slice(), "mood") == Tally(read=1, rejected=1)


def test_a_record_keeps_the_derived_key_that_it_has_in_the_sink() -> None:
    mine = record_of("episode", 1)
    there = Row("episode", mine.record, Origin("dynamodb", TABLE.id, {"SK": "EPISODE#old"}, extra={"TTL": 5}))
    ours = replace(mine, origin=Origin("dynamodb", "another", {"SK": "x"}, extra={"TTL": 7}), encoded=b"x")
    kept = engine._under_its_key(ours, there, TABLE)
    assert (kept.origin, kept.encoded) == (Origin("dynamodb", TABLE.id, {"SK": "EPISODE#old"}, extra={"TTL": 7}), None)
    assert engine._under_its_key(mine, there, TABLE).origin == Origin("dynamodb", TABLE.id, {"SK": "EPISODE#old"})
    for row, held in (
        (ours, replace(there, origin=None)),
        (ours, replace(there, origin=Origin("dynamodb", "another", {"SK": "y"}))),
        (replace(ours, kind="unheard of"), there),
        (replace(ours, kind="fact"), there),
    ):
        assert engine._under_its_key(row, held, TABLE) is row


# Passing failures ------------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """A sink whose flush fails so many times, after what it was given is stored."""
    flush, calls = memory.MemorySink.flush, list[str]()

    def flaky(self: memory.MemorySink) -> Flushed:
        calls.append("flush")
        if len(calls) <= times:
            raise TransientStoreError("throttled")
        return flush(self)

    monkeypatch.setattr(memory.MemorySink, "flush", flaky)
    return calls


def test_a_passing_failure_is_met_by_doing_the_slice_again_with_care(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    bench.fill([fact(n) for n in range(5)])
    calls = failing(monkeypatch, 4)
    result = bench.slice()
    assert (tally(result), result.cursor, len(bench.sink.rows)) == (Tally(read=4, written=4), 4, 4)
    assert (len(calls), naps) == (5, [1.0, 2.0, 4.0, 8.0])
    monkeypatch.undo()
    assert bench.slice(4, number=1).done


def test_a_slice_done_again_overwrites_nothing_that_came_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    bench.fill([fact(1)])

    def changed(seconds: float) -> None:
        (place,) = bench.sink.rows
        bench.sink.rows[place] = replace(bench.sink.rows[place], record=fact(1, value="theirs").record)

    monkeypatch.setattr("migrator.engine.time.sleep", changed)
    failing(monkeypatch, 1)
    assert tally(bench.slice()) == Tally(read=1, differing=1)
    assert bench.values() == ["theirs"]


def test_a_failure_that_does_not_pass_ends_the_slice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    bench.fill([fact(n) for n in range(5)])
    calls = failing(monkeypatch, 100)
    with pytest.raises(StoreError, match=r"^throttled \(tried 5 times\)$"):
        bench.slice()
    assert (len(calls), len(naps)) == (5, 4)


def test_another_error_is_not_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    bench.fill([fact(1)])
    monkeypatch.setattr(memory.MemorySink, "flush", lambda self: (_ for _ in ()).throw(StoreError("gone")))
    with pytest.raises(StoreError, match=r"^gone$"):
        bench.slice()
    assert naps == []


# Opened stores ---------------------------------------------------------------------------------------------------------


def test_a_worker_opens_its_stores_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(n) for n in range(5)])
    opened = Counter[str]()
    for role in ("source", "sink"):
        real = getattr(memory.MemoryAdapter, role)
        monkeypatch.setattr(
            memory.MemoryAdapter,
            role,
            lambda self, *given, role=role, real=real: opened.update([role]) or real(self, *given),
        )
    bench.slice()
    bench.slice(4, number=1)
    assert opened == {"source": 1, "sink": 1}
    bench.other()
    bench.slice(careful=True)
    assert opened == {"source": 2, "sink": 2}


def test_what_a_worker_opened_can_be_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    for each in (memory.MemorySource, memory.MemorySink):
        monkeypatch.setattr(each, "close", lambda self: closed.append(type(self).__name__))
    bench.slice()
    for dry in (False, True):
        bench.other(dry=dry)
        bench.slice()
        stores = engine._opened(bench.job)
        closed.clear()
        stores.close()
        assert sorted(closed) == ["MemoryReader", *([] if dry else ["MemorySink"]), "MemorySource"]


def test_a_worker_takes_its_part_of_the_rates_while_it_works(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(1)])
    shared: list[tuple[str, float]] = []
    for each in (memory.MemorySource, memory.MemorySink):
        monkeypatch.setattr(each, "share", lambda self, part: shared.append((type(self).__name__, part)), raising=False)
    copy_slice(bench.job, 0, bench.partition, None, 0, False, None, 0.5)
    assert shared == [("MemorySource", 0.5), ("MemorySink", 0.5), ("MemorySource", 0), ("MemorySink", 0)]
    shared.clear()
    monkeypatch.setattr(memory.MemorySink, "begin", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.slice()
    assert shared == [("MemorySource", 1.0), ("MemorySink", 1.0), ("MemorySource", 0), ("MemorySink", 0)]
    bench.other(dry=True)
    shared.clear()
    read_sink_partition(bench.job, ALL, 0.25)
    read_sink_partition(bench.job, ALL)
    parts = [part for name, part in shared if name == "MemoryReader"]
    assert (parts, len(shared)) == ([0.25, 0, 1.0, 0], 8)


def test_parts_of_a_rate_never_add_up_to_more_than_the_whole() -> None:
    assert [part_of_rate(2, left) for left in (5, 2, 1)] == [0.5, 0.5, 1.0]
    assert part_of_rate(4, 3) == 1 / 3


# The loop --------------------------------------------------------------------------------------------------------------


class Hand(Executor):
    """Does what is submitted when `wait` asks, the first that came first; notes how many were under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 1) -> None:
        self.most = most  # finished at once
        self.flying: dict[Future[Any], tuple[Any, ...]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.together = 0
        monkeypatch.setattr(engine, "wait", self.wait)

    def submit(self, call: Any, /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.flying[future] = (call, *given)
        self.calls.append(given)
        self.together = max(self.together, len(self.flying))
        return future

    def wait(self, futures: Any, timeout: float | None = None, return_when: str = "ALL") -> tuple[list[Any], set[Any]]:
        done = [future for future in self.flying if future in set(futures)][: self.most]
        for future in done:
            call, *given = self.flying.pop(future)
            try:
                future.set_result(call(*given))
            except BaseException as exc:
                future.set_exception(exc)
        return done, set(futures) - set(done)


class Run:
    """A bench with a crew of hands."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, workers: int = 1, most: int = 1) -> None:
        self.bench, self.stop = bench, Stop()
        self.hand = Hand(monkeypatch, most)
        self.crew = Crew(workers, False, bench.state, self.hand)
        self.results: list[SliceResult] = []
        self.tick: Callable[[SliceResult], None] = self.results.append

    def copy(self, checkpoint: Checkpoint, is_resumed: bool = False, stop_on_reject: bool = False) -> bool:
        return copy(
            self.bench.job, checkpoint, self.crew, self.stop, is_resumed, stop_on_reject, lambda r: self.tick(r)
        )


def halves(bench: Bench) -> list[Partition]:
    end = bench.source.end
    return [Partition("000", {"from": 0, "to": end // 2}), Partition("001", {"from": end // 2, "to": end})]


@pytest.fixture
def run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Run:
    bench.fill([fact(n) for n in range(20)])
    return Run(bench, monkeypatch)


def test_every_slice_is_copied_once_and_remembered(run: Run) -> None:
    checkpoint = run.bench.checkpoint(*halves(run.bench))
    assert run.copy(checkpoint)
    assert [(each.cursor, each.slices, each.done) for each in checkpoint.progress] == [(10, 3, True), (20, 3, True)]
    assert (checkpoint.tallies["fact"], len(run.bench.sink.rows)) == (Tally(read=20, written=20), 20)
    assert [(each.turn, each.number) for each in run.results] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert run.bench.state.load() == checkpoint
    assert {call[5:8] for call in run.hand.calls} == {(False, None, 1.0)}


def test_a_slice_is_saved_before_it_is_told_and_before_the_next_of_its_partition(run: Run) -> None:
    checkpoint = run.bench.checkpoint(run.bench.partition)
    saved: list[int] = []

    def look(result: SliceResult) -> None:
        held = run.bench.state.load()
        assert held is not None
        saved.append(held.progress[0].slices)
        assert len(run.hand.calls) == held.progress[0].slices

    run.tick = look
    run.copy(checkpoint)
    assert saved == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_more_slices_are_unsaved_than_there_are_workers(
    workers: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(n) for n in range(32)])
    run = Run(bench, monkeypatch, workers)
    parts = [Partition(f"{n}", {"from": 8 * n, "to": 8 * n + 8}) for n in range(4)]
    assert run.copy(bench.checkpoint(*parts))
    assert run.hand.together == workers
    assert {call[7] for call in run.hand.calls[:4]} == {1 / workers}
    assert len(bench.sink.rows) == 32


def test_what_is_done_is_not_done_again_and_what_may_have_begun_is_done_with_care(run: Run) -> None:
    checkpoint = run.bench.checkpoint(*halves(run.bench))
    checkpoint.progress[0].done = True
    checkpoint.progress[1].cursor, checkpoint.progress[1].slices = 14, 1
    assert run.copy(checkpoint, is_resumed=True)
    assert [(call[1], call[3], call[4], call[5]) for call in run.hand.calls] == [(1, 14, 1, True), (1, 18, 2, False)]
    assert run.copy(checkpoint)
    assert len(run.hand.calls) == 2


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What happens, in its order, with a sink that is at work until it is flushed: pages are read, and flushed."""
    seen: list[tuple[str, Any]] = []
    pages, flush = memory.MemorySource.pages, memory.MemorySink.flush

    def told(self: memory.MemorySource, partition: Partition, after: Any) -> Iterator[Page]:
        for page in pages(self, partition, after):
            seen.append((partition.id, page.cursor))
            yield page

    def flushed(self: memory.MemorySink) -> Flushed:
        seen.append(("flush", None))
        return flush(self)

    monkeypatch.setattr(memory.MemorySource, "pages", told)
    monkeypatch.setattr(memory.MemorySink, "flush", flushed)
    monkeypatch.setattr(memory.MemorySink, "hasten", lambda self: True)
    return seen


def test_the_page_behind_a_slice_is_read_once_while_the_sink_is_at_work(run: Run, read: list[tuple[str, Any]]) -> None:
    assert run.copy(run.bench.checkpoint(run.bench.partition))
    ends = [("000", 2 * n) for n in range(1, 11)]
    flush = ("flush", None)
    assert read == [*ends[:3], flush, *ends[3:5], flush, *ends[5:7], flush, *ends[7:9], flush, ends[9], flush, flush]
    assert len(run.bench.sink.rows) == 20


def test_where_a_worker_will_go_on_is_read_ahead_and_each_goes_on_where_it_has_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, read: list[tuple[str, Any]]
) -> None:
    bench.fill([fact(n) for n in range(32)])
    parts = [Partition(f"{n}", {"from": 8 * n, "to": 8 * n + 8}) for n in range(4)]
    run = Run(bench, monkeypatch, 2)
    assert run.copy(bench.checkpoint(*parts))
    calls = [(call[2].id, call[3], call[8] and (call[8][0].id, call[8][1])) for call in run.hand.calls]
    assert calls[:4] == [
        ("0", None, ("1", None)),
        ("2", None, ("3", None)),
        ("1", None, ("0", 4)),
        ("3", None, ("2", 20)),
    ]
    assert [call[:2] for call in calls[4:8]] == [("0", 4), ("2", 20), ("1", 12), ("3", 28)]
    assert Counter(each for each in read if each[0] != "flush").most_common(1)[0][1] == 1
    assert len(bench.sink.rows) == 32


def test_a_worker_goes_on_with_what_it_has_open_and_takes_over_from_others_at_last() -> None:
    turns = _Turns([0, 1, 2])
    assert turns.take(idle := [0, 1]) == (0, 0) and idle == [1]
    assert turns.following(0) == 1
    assert turns.take([1]) == (1, 2)
    assert turns.following(1) is None
    turns.waiting.append(2)
    assert turns.take([1, 0]) == (0, 1)  # which has waited longest, and whose worker is free
    turns.waiting.append(0)
    assert turns.take([1]) == (1, 2)
    assert turns.take([1]) == (1, 0)
    turns.waiting.append(0)
    assert turns.take([0, 1]) == (1, 0)  # it is the other one's now


def test_what_is_read_ahead_is_where_the_worker_goes_on_and_nothing_where_the_sink_has_nothing_to_do(
    bench: Bench, read: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(n) for n in range(20)])
    first, second = halves(bench)
    flush = ("flush", None)
    copy_slice(bench.job, 0, first, None, 0, False, None, 1.0, (second, None))
    assert read == [("000", 2), ("000", 4), ("001", 12), flush]  # there, and not behind the slice
    read.clear()
    copy_slice(bench.job, 0, first, 4, 1, False, None, 1.0, (second, None))
    assert read == [("000", 6), ("000", 8), flush]  # it is ready there
    read.clear()
    result = copy_slice(bench.job, 0, first, 8, 2, False, None, 1.0, (second, None))
    assert (result.done, read) == (True, [("000", 10), flush])
    read.clear()
    result = copy_slice(bench.job, 1, second, None, 0, False)
    assert (result.cursor, tally(result).written, read) == (14, 4, [("001", 14), ("001", 16), flush])
    assert len(bench.sink.rows) == 14
    read.clear()
    monkeypatch.setattr(memory.MemorySink, "hasten", lambda self: False)
    copy_slice(bench.job, 1, second, 14, 1, False)
    assert read == [("001", 18), flush]
    assert len(bench.sink.rows) == 18


def test_a_worker_whose_partition_has_ended_reads_ahead_in_the_next(bench: Bench, read: list[tuple[str, Any]]) -> None:
    bench.fill([fact(n) for n in range(6)])
    parts = [Partition("0", {"from": 0, "to": 2}), Partition("1", {"from": 2, "to": 6})]
    assert copy_slice(bench.job, 0, parts[0], None, 0, False, None, 1.0, (parts[1], None)).done
    assert read == [("0", 2), ("1", 4), ("flush", None)]
    assert copy_slice(bench.job, 1, parts[1], None, 0, False).cursor == 6
    assert copy_slice(bench.job, 1, parts[1], 6, 1, False).done
    assert engine._opened(bench.job)._open == {}  # nothing is opened behind an end


def test_what_was_read_ahead_in_vain_is_read_anew(bench: Bench, read: list[tuple[str, Any]]) -> None:
    bench.fill([fact(n) for n in range(20)])
    first, second = halves(bench)
    copy_slice(bench.job, 0, first, None, 0, False, None, 1.0, (second, None))
    for after, number in ((None, 0), (14, 1), (18, 2)):
        result = copy_slice(bench.job, 1, second, after, number, True, None, 1.0, (first, 8))
    assert result.done
    assert tally(copy_slice(bench.job, 1, second, 12, 1, True)).written == 4  # not where it was read
    assert tally(copy_slice(bench.job, 0, first, 4, 1, False)).written == 4
    assert copy_slice(bench.job, 0, first, 8, 2, False).done
    assert len(bench.sink.rows) == 20


def test_a_page_that_cannot_be_read_ahead_is_an_error_when_it_is_wanted(
    run: Run, read: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = memory.MemorySource.pages

    def broken(self: memory.MemorySource, partition: Partition, after: Any) -> Iterator[Page]:
        for page in pages(self, partition, after):
            if page.cursor == 6:
                raise StoreError("this page is broken")
            yield page

    monkeypatch.setattr(memory.MemorySource, "pages", broken)
    checkpoint = run.bench.checkpoint(run.bench.partition)
    with pytest.raises(StoreError, match="this page is broken"):
        run.copy(checkpoint)
    assert (checkpoint.progress[0].cursor, len(run.bench.sink.rows)) == (4, 4)


def test_of_some_records_nothing_is_read_ahead(run: Run, read: list[tuple[str, Any]]) -> None:
    run.bench.other(limit=4)
    assert run.copy(run.bench.checkpoint(run.bench.partition))
    assert [cursor for what, cursor in read if what != "flush"] == [2, 4]


def test_a_dry_run_remembers_nothing(run: Run) -> None:
    run.bench.other(dry=True)
    checkpoint = run.bench.checkpoint(run.bench.partition)
    assert run.copy(checkpoint)
    assert (checkpoint.tallies["fact"].written, run.bench.state.load(), run.bench.sink.rows) == (20, None, {})


def test_no_more_records_are_read_than_the_limit(run: Run) -> None:
    run.bench.other(limit=7)
    checkpoint = run.bench.checkpoint(*halves(run.bench))
    assert run.copy(checkpoint)
    assert (checkpoint.tallies["fact"].read, len(run.bench.sink.rows)) == (7, 7)
    assert [call[6] for call in run.hand.calls] == [7, 3]
    assert all(each.done for each in checkpoint.progress)
    run.bench.other(limit=5)
    checkpoint = run.bench.checkpoint(run.bench.partition)
    assert run.copy(checkpoint)
    assert checkpoint.tallies["fact"].read == 5
    run.hand.calls.clear()
    run.bench.other(limit=8)
    checkpoint = run.bench.checkpoint(*halves(run.bench))
    assert run.copy(checkpoint)
    assert [call[6] for call in run.hand.calls] == [8, 4]


def test_rejects_stop_it_behind_the_slices_that_were_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(n) for n in range(20)])
    bench.source.rows[1] = Reject("fact", "1", "broken")
    run = Run(bench, monkeypatch, workers=2)
    checkpoint = bench.checkpoint(*halves(bench))
    assert not run.copy(checkpoint, stop_on_reject=True)
    assert [(each.turn, each.rejected) for each in run.results] == [(0, 1), (1, 0)]
    assert [each.slices for each in checkpoint.progress] == [1, 1]
    assert run.copy(checkpoint, stop_on_reject=True)
    assert checkpoint.tallies["fact"] == Tally(read=20, written=19, rejected=1)


def test_rejects_may_be_left_behind(run: Run) -> None:
    run.bench.source.rows[1] = Reject("fact", "1", "broken")
    checkpoint = run.bench.checkpoint(*halves(run.bench))
    assert run.copy(checkpoint)
    assert checkpoint.tallies["fact"].rejected == 1


def test_rejects_in_the_last_slice_have_nothing_left_to_stop(run: Run) -> None:
    run.bench.source.rows[17] = Reject("fact", "17", "broken")
    del run.bench.source.rows[18], run.bench.source.rows[19]
    assert run.copy(run.bench.checkpoint(run.bench.partition), stop_on_reject=True)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("second", ["fails", "dies", "succeeds"])
@pytest.mark.parametrize("first", [StoreError("the first"), ValueError("the first")])
def test_the_first_failure_is_told_when_the_slices_under_way_are_saved(
    first: Exception, second: str, together: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(n) for n in range(20)])
    run = Run(bench, monkeypatch, workers=2, most=together)
    begin = memory.MemorySink.begin

    def failing_first(self: memory.MemorySink, name: str) -> None:
        if name == "0000-000001":
            raise first
        if name == "0001-000001" and second != "succeeds":
            raise StoreError("the second") if second == "fails" else BrokenProcessPool("the second")
        begin(self, name)

    monkeypatch.setattr(memory.MemorySink, "begin", failing_first)
    checkpoint = bench.checkpoint(*halves(bench))
    with pytest.raises(type(first), match=r"^the first$"):
        run.copy(checkpoint)
    assert [each.slices for each in checkpoint.progress] == [1, 2 if second == "succeeds" else 1]
    assert checkpoint.tallies["fact"].written == 4 * sum(each.slices for each in checkpoint.progress)
    assert (bench.state.load(), len(run.hand.calls)) == (checkpoint, 4)


@pytest.mark.parametrize("together", [1, 2])
def test_a_worker_that_died_takes_nothing_with_it_that_was_copied(
    together: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([fact(n) for n in range(20)])
    run = Run(bench, monkeypatch, workers=2, most=together)
    begin = memory.MemorySink.begin

    def dying(self: memory.MemorySink, name: str) -> None:
        if name == "0000-000000":
            raise BrokenProcessPool("gone")
        begin(self, name)

    monkeypatch.setattr(memory.MemorySink, "begin", dying)
    checkpoint = bench.checkpoint(*halves(bench))
    with pytest.raises(StoreError, match="a worker process died"):
        run.copy(checkpoint)
    assert [each.slices for each in checkpoint.progress] == [0, 1]


def test_a_worker_that_died_asks_to_run_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "copy_slice", lambda *_: (_ for _ in ()).throw(BrokenProcessPool("gone")))
    with pytest.raises(StoreError, match="run the same command again to resume"):
        run.copy(run.bench.checkpoint(*halves(run.bench)))
    assert len(run.hand.calls) == 1


def test_workers_that_a_signal_ended_are_no_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: Any) -> None:
        run.stop.signal_number = signal.SIGTERM
        raise BrokenProcessPool("gone")

    monkeypatch.setattr(engine, "copy_slice", ended)
    with pytest.raises(Interrupted):
        run.copy(run.bench.checkpoint(run.bench.partition))


def test_a_signal_lets_the_slices_under_way_finish(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fill([fact(n) for n in range(20)])
    run = Run(bench, monkeypatch, workers=2)
    checkpoint = bench.checkpoint(*halves(bench))
    run.tick = lambda result: setattr(run.stop, "signal_number", signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        run.copy(checkpoint)
    assert stopped.value.signal_number == signal.SIGINT
    assert [each.slices for each in checkpoint.progress] == [1, 1]
    assert len(run.hand.calls) == 2


def test_a_signal_behind_the_last_slice_stops_nothing_more(run: Run) -> None:
    run.tick = lambda result: setattr(run.stop, "signal_number", signal.SIGINT if result.done else None)
    assert run.copy(run.bench.checkpoint(run.bench.partition))


def test_nothing_to_copy_is_done(run: Run) -> None:
    assert run.copy(run.bench.checkpoint())
    assert run.bench.state.load() is None


def test_the_checkpoint_adds_up_what_slices_did() -> None:
    checkpoint = Checkpoint("job", {}, "now", progress=[Progress(ALL), Progress(ALL)])
    for number in (0, 1):
        result = SliceResult(1, number, f"cursor {number}", number == 1)
        result.tallies = {"fact": Tally(read=3, written=3), "mood": Tally(read=1, kept=1)}
        result.digests = {"fact": Digest(3, {7: 2**128 - 1})}
        result.weights = {"fact": Weights(10, 1.5, 8 + number, f"record {number}", 1, 2)}
        result.foreign, result.ghosts, result.accepted, result.due = 1, 2, 3, 4
        result.retyped = {"fact": 5}
        result.foreign_seen = [f"{number}-{n}" for n in range(12)]
        remember(checkpoint, result)
        assert (checkpoint.progress[1].cursor, checkpoint.progress[1].slices) == (f"cursor {number}", number + 1)
        assert checkpoint.progress[1].done == (number == 1)
    assert checkpoint.progress[0] == Progress(ALL)
    assert checkpoint.tallies == {"fact": Tally(read=6, written=6), "mood": Tally(read=2, kept=2)}
    assert checkpoint.digests["fact"] == Digest(6, {7: 2**128 - 2})
    assert checkpoint.weights == {"fact": vars(Weights(20, 3.0, 9, "record 1", 2, 4))}
    assert (checkpoint.foreign, checkpoint.ghosts, checkpoint.accepted, checkpoint.due) == (2, 4, 6, 8)
    assert checkpoint.retyped == {"fact": 10}
    assert checkpoint.foreign_seen == [f"0-{n}" for n in range(12)] + [f"1-{n}" for n in range(8)]
    json.dumps(checkpoint.to_plain())


def test_a_slice_that_did_nothing_says_so() -> None:
    result = SliceResult(0, 0, None, False)
    assert (result.foreign, result.ghosts, result.accepted, result.due, result.read, result.rejected) == (0,) * 6


# Reading the sink on many workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_partition_of_the_sink_is_read_by_no_more_than_the_workers(
    workers: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill([], [fact(n) for n in range(10)])
    run = Run(bench, monkeypatch, workers)
    parts = [Partition(f"{n}", {"from": 2 * n, "to": 2 * n + 2}) for n in range(5)]
    seen = list(by_partition(read_sink_partition, bench.job, parts, run.crew))
    assert [each.digests["fact"].count for each in seen] == [2] * 5
    assert run.hand.together == workers
    assert [call[1] for call in run.hand.calls] == parts
    assert [call[2] for call in run.hand.calls][: 5 - workers] == [1 / workers] * (5 - workers)
    assert list(by_partition(read_sink_partition, bench.job, [], run.crew)) == []


def test_a_worker_notes_what_of_a_partition_may_share_an_identity(bench: Bench) -> None:
    bench.fill([record_of("mood", n % 3) for n in range(9)])
    noted = [note_repeated(bench.job, part) for part in halves(bench)]
    assert len({*noted}) == 2 and all(path.parent == bench.state.scratch for path in noted)
    counts = []
    for path in noted:
        with closing(sqlite3.connect(path)) as db:
            counts += db.execute("SELECT count(*), count(DISTINCT identity) FROM seen").fetchall()
    assert sum(count for count, _ in counts) == 9 and max(different for _, different in counts) == 3


def test_a_worker_gets_ready_for_the_stores_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(engine, "adapter_for", asked.append)
    get_ready("sql", "dynamodb")
    assert asked == ["sql", "dynamodb"]


def test_what_fails_while_it_is_read_is_told_when_the_others_have_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(bench, monkeypatch, 2)
    parts = [Partition(each) for each in "0123"]
    with pytest.raises(ZeroDivisionError):
        list(by_partition(lambda job, part, share: 1 / int(part.id), bench.job, parts, run.crew))
    assert (len(run.hand.calls), run.hand.flying) == (2, {})


# Signals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends_at_once(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, heard = Stop(), list[Any]()
    stop.on_first, stop.on_second = lambda: heard.append("first"), lambda: heard.append("second")
    monkeypatch.setattr("migrator.crew.os._exit", heard.append)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    stop.check()
    with stop.listening() as given:
        assert given is stop
        signal.raise_signal(number)
        assert heard == ["first"]
        with pytest.raises(Interrupted) as stopped:
            stop.check()
        signal.raise_signal(number)
        assert heard[:3] == ["first", "second", 128 + number]
    assert stopped.value.signal_number == number
    assert {each: signal.getsignal(each) for each in before} == before


def test_signals_are_as_they_were_also_after_an_error() -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(StoreError), Stop().listening():
        raise StoreError("gone")
    assert {each: signal.getsignal(each) for each in before} == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    heard: list[Any] = []

    def listen() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Stop().listening() as stop:
            is_left = signal.getsignal(signal.SIGTERM) is before
        heard.append((stop.signal_number, is_left))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [(None, True)]


# Workers ---------------------------------------------------------------------------------------------------------------


def test_a_crew_is_of_threads_unless_processes_are_asked_for_and_worth_it(bench: Bench) -> None:
    for workers, processes in ((1, True), (2, False)):
        crew = Crew(workers, processes, bench.state)
        try:
            assert (crew.workers, crew._executors[0].submit(os.getpid).result()) == (workers, os.getpid())
            assert not crew.are_processes
            crew.end_at_once()
        finally:
            crew.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            crew._executors[0].submit(os.getpid)


def test_an_executor_that_was_given_is_left_running(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Hand(monkeypatch)
    crew = Crew(3, True, bench.state, given)
    assert (crew._executors, crew.workers) == ([given] * 3, 3)
    given.shutdown = lambda *_, **__: pytest.fail("it is not ours to end")  # type: ignore[method-assign]
    crew.close()


def test_closing_a_crew_waits_for_its_workers_and_drops_what_has_not_begun(bench: Bench) -> None:
    crew = Crew(1, False, bench.state)
    begun, go_on = threading.Event(), threading.Event()
    first = crew._executors[0].submit(lambda: begun.set() or go_on.wait(30))
    second = crew._executors[0].submit(os.getpid)
    assert begun.wait(30)
    threading.Timer(0.2, go_on.set).start()
    crew.close()
    assert first.done()
    assert first.result() is True
    assert second.cancelled()


def test_a_worker_process_holds_a_lock_ignores_ctrl_c_and_ends_with_the_coordinator(bench: Bench) -> None:
    crew = Crew(2, True, bench.state)
    try:
        number = crew._executors[0].submit(os.getpid).result(timeout=120)
        assert number != os.getpid()
        lock = FileLock(bench.state.path / "locks" / f"worker-{number}.lock")
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
        os.kill(number, signal.SIGINT)
        time.sleep(0.2)
        assert crew._executors[0].submit(os.getpid).result(timeout=120) > 0
        worker = psutil.Process(number)
        assert worker.is_running()
        crew.end_at_once()
        worker.wait(60)
        lock.acquire(timeout=60)
        lock.release()
    finally:
        crew.close()


def test_a_crew_has_a_process_for_each_worker(bench: Bench) -> None:
    crew = Crew(2, True, bench.state)
    try:
        assert crew.are_processes
        both = [crew.submit(worker, os.getpid) for worker in (0, 1, 0, 1, 0, 1)]
        assert len({each.result(timeout=120) for each in both}) == 2
        assert both[0].result() == both[2].result() == both[4].result()
        assert sum("--multiprocessing-fork" in child.cmdline() for child in psutil.Process().children()) == 2
    finally:
        crew.close()


def test_a_worker_process_ends_when_its_crew_is_closed(bench: Bench) -> None:
    crew = Crew(2, True, bench.state)
    worker = psutil.Process(crew._executors[0].submit(os.getpid).result(timeout=120))
    crew.close()
    assert not worker.is_running()


def test_a_worker_process_ends_at_sigterm(bench: Bench) -> None:
    crew = Crew(2, True, bench.state)
    try:
        worker = psutil.Process(crew._executors[0].submit(os.getpid).result(timeout=120))
        worker.terminate()
        worker.wait(60)
    finally:
        crew.close()


def test_a_worker_process_that_would_not_end_by_itself_is_ended(bench: Bench) -> None:
    crew = Crew(2, True, bench.state)
    worker = psutil.Process(crew._executors[0].submit(os.getpid).result(timeout=120))
    busy = [each.submit(time.sleep, 1000) for each in crew._executors]
    while not all(future.running() for future in busy):
        time.sleep(0.01)
    crew.close()
    assert not worker.is_running()


def test_garbage_is_collected_as_before_when_the_last_of_several_runs_has_ended() -> None:
    before = gc.get_threshold()
    first, second = collect_rarely(), collect_rarely()
    first()
    assert gc.get_threshold()[0] > before[0]
    second()
    assert gc.get_threshold() == before


@pytest.mark.parametrize(
    ("before", "within"),
    [
        ((700, 12, 9), (20_000, 12, 9)),
        ((1, 12, 9), (20_000, 12, 9)),
        ((700, 0, 9), (20_000, 0, 9)),
        ((0, 12, 9), (0, 12, 9)),  # somebody has turned it off
        ((30_000, 12, 9), (30_000, 12, 9)),
    ],
)
def test_garbage_is_looked_for_less_often_but_by_who_has_chosen_how_often(
    before: tuple[int, int, int], within: tuple[int, int, int]
) -> None:
    found, garbage = gc.get_threshold(), _Garbage()
    try:
        for _ in range(2):
            gc.set_threshold(*before)
            garbage.begin()
            assert gc.get_threshold() == within
            garbage.begin()
            garbage.end()
            assert gc.get_threshold() == within
            garbage.end()
            assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*found)


def test_a_worker_process_looks_for_garbage_less_often(bench: Bench) -> None:
    crew = Crew(2, True, bench.state)
    try:
        assert crew._executors[0].submit(gc.get_threshold).result(timeout=120)[0] == 20_000
    finally:
        crew.close()


def test_a_crew_is_closed_when_what_is_at_work_has_ended(bench: Bench) -> None:
    for processes in (False, True):
        crew = Crew(2, processes, bench.state)
        slow, quick = crew.submit(0, time.sleep, 0.3), crew.submit(1, os.getpid)
        crew.close()
        assert slow.result(timeout=0) is None and quick.result(timeout=0) > 0


def test_a_worker_process_is_deaf_to_ctrl_c_from_its_first_moment(bench: Bench) -> None:
    """Blocked when it was started, not only ignored once it has imported what it needs; the coordinator goes on hearing it."""
    crew = Crew(2, True, bench.state)
    try:
        assert signal.SIGINT in crew._executors[0].submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(
            timeout=120
        )
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        crew.close()
