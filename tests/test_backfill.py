"""Filling up a sink that is in use: what is there stays, or stays unless it is older, decided by the store in the same write."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import Options
from migrator.adapters import memory
from migrator.run import Silent
from tables import address_of, client_of, items_of
from test_run import episode, fact, fill, lines_of, records_of

KEEP, NEWER = Options(existing="keep"), Options(existing="newer")
LONG = os.environ.get("MIGRATOR_LONG") == "1"
NOON = datetime(2026, 1, 1, 12)


pytestmark = pytest.mark.usefixtures("own_states")


@pytest.fixture
def names() -> Iterator[tuple[str, str]]:
    made = (uuid.uuid4().hex, uuid.uuid4().hex)
    yield made
    for name in made:
        memory.forget(name)


def at(minutes: float) -> str:
    return (NOON + timedelta(minutes=minutes)).isoformat()


def values(name: str) -> dict[str, str]:
    return {record["key"]: record["value"] for record in records_of(name)}


# What stays ------------------------------------------------------------------------------------------------------------


def test_keep_fills_up_and_changes_nothing(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n}", updated_at=at(n)) for n in range(5)))
    fill(sink, "fact", fact("u", "k1", "theirs"), fact("u", "k2", updated_at=at(2)), fact("u", "k9", "own"))
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", KEEP)
    tally = report.kinds["fact"].tally
    assert (tally.written, tally.unchanged, tally.kept, tally.differing) == (3, 1, 1, 0)
    assert (report.outcome, report.proven, report.kinds["fact"].proof.digest) == ("done", "rows", "not compared")
    assert values(sink)["k1"] == "theirs"
    assert report.replaced_file is None


def test_newer_replaces_what_is_older_and_keeps_it_in_a_file(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n}", "ours", updated_at=at(0)) for n in range(6)))
    fill(
        sink, "fact",
        fact("u", "k0", "older", updated_at=at(-0.001)), fact("u", "k1", "newer", updated_at=at(1)),
        fact("u", "k2", "same time", updated_at=at(0)), fact("u", "k3", "no time", updated_at=None),
        fact("u", "k4", "ours", updated_at=at(0)),
    )  # fmt: skip
    report = migrator.migrate(f"memory:{source}?tz=UTC", f"memory:{sink}?tz=UTC", NEWER)
    tally = report.kinds["fact"].tally
    assert (tally.written, tally.unchanged, tally.kept) == (3, 1, 2)
    assert report.outcome == "done"
    assert values(sink) == {"k0": "ours", "k1": "newer", "k2": "same time", "k3": "ours", "k4": "ours", "k5": "ours"}
    assert {line["record"]["value"] for line in lines_of(report.replaced_file)} == {"older", "no time"}


def test_naive_times_are_meant_in_each_stores_zone(names: tuple[str, str]) -> None:
    """H20, H21: one o'clock in Madrid is before half past twelve in London; a fraction, a space and an offset are read as they are."""
    source, sink = names
    times = [
        ("2026-01-01T13:00:00", "2026-01-01T12:30:00", "kept"), ("2026-01-01T14:00:00", "2026-01-01T12:30:00.5", "replaced"),
        ("2026-01-01 13:31:00", "2026-01-01T12:30:00.000001", "replaced"), ("2026-01-01T12:31:00Z", "2026-01-01T12:30:00", "replaced"),
        ("2026-01-01T12:29:00+00:00", "2026-01-01T12:30:00", "kept"), ("2026-07-01T13:00:00", "2026-07-01T12:00:01", "kept"),
    ]  # fmt: skip
    for number, (ours, theirs, _) in enumerate(times):
        fill(source, "fact", fact("u", str(number), "replaced", updated_at=ours))
        fill(sink, "fact", fact("u", str(number), "kept", updated_at=theirs))
    migrator.migrate(f"memory:{source}?tz=Europe/Madrid", f"memory:{sink}?tz=Europe/London", NEWER)
    assert [values(sink)[str(number)] for number in range(len(times))] == [expected for *_, expected in times]


@pytest.mark.parametrize(
    ("source", "sink", "options", "words"),
    [
        ("", "?tz=UTC", NEWER, "tz="),
        ("?tz=UTC", "", NEWER, "tz="),
        ("?tz=Mars/Base", "?tz=UTC", NEWER, "no zone"),
        ("", "", Options(since="2026-01-01"), "tz="),
        ("?tz=UTC", "", Options(since="yesterday"), "no time"),
        ("", ".jsonl", KEEP, "compared and replaced whole"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    source: str, sink: str, options: Options, words: str, names: tuple[str, str], tmp_path: Path
) -> None:
    fill(names[0], "fact", fact("u", "k"))
    to = str(tmp_path / f"x{sink}") if sink.startswith(".") else f"memory:{names[1]}{sink}"
    with pytest.raises(migrator.ConfigError, match=words) as refused:
        migrator.migrate(f"memory:{names[0]}{source}", to, options)
    assert refused.value.report.exit_code == 2


# Under a live application ----------------------------------------------------------------------------------------------

Write = Callable[[str, str, str], bool]
"""The application writes a fact (key, value, updated_at) if what is there is not newer; False if it did not."""


def _memory(
    names: tuple[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[str, Write, Callable[[], dict[str, Any]]]:
    held = memory.store(names[1])

    def write(key: str, value: str, stamp: str) -> bool:
        with held.lock:
            for row in held.rows.values():
                if row.record["key"] == key:
                    row.record |= {"value": value, "updated_at": stamp}
                    return True
            fill(names[1], "fact", fact("u", key, value, updated_at=stamp))
        return True

    return (
        f"memory:{names[1]}?tz=UTC",
        write,
        lambda: {r["key"]: (r["value"], r["updated_at"]) for r in records_of(names[1])},
    )


def _sqlite(
    names: tuple[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[str, Write, Callable[[], dict[str, Any]]]:
    path = tmp_path / "sink.db"
    fill(names[1], "fact", fact("u", "first"))
    migrator.migrate(f"memory:{names[1]}", path)

    def write(key: str, value: str, stamp: str) -> bool:
        with closing(sqlite3.connect(path, timeout=5)) as db, db:
            db.execute(
                "INSERT INTO facts (user_id, category, key, value, updated_at) VALUES ('u', 'c', ?, ?, ?) ON CONFLICT (user_id, category, key) "
                "DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
                (key, value, stamp),
            )
        return True

    def read() -> dict[str, Any]:
        with closing(sqlite3.connect(path)) as db:
            return {key: (value, stamp) for key, value, stamp in db.execute("SELECT key, value, updated_at FROM facts")}

    return f"sqlite:///{path}?tz=UTC", write, read


def _dynamodb(
    names: tuple[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[str, Write, Callable[[], dict[str, Any]]]:
    endpoint = request.getfixturevalue("dynamodb_local_endpoint")
    name = f"backfill-{uuid.uuid4().hex[:12]}"
    address = address_of(name, endpoint)
    fill(names[1], "fact", fact("u", "first"))
    migrator.migrate(f"memory:{names[1]}", address, Options(create=True))
    client = client_of(endpoint)

    def write(key: str, value: str, stamp: str) -> bool:
        item = fact("u", key, value, updated_at=stamp) | {"SK": f"FACT#c#{key}", "user_id": "u"}
        plain = {n: {"S": str(v)} if n != "confidence" else {"N": str(v)} for n, v in item.items() if v is not None}
        client.put_item(TableName=name, Item=plain)
        return True

    def read() -> dict[str, Any]:
        items = items_of(client, name)
        return {i["key"]["S"]: (i["value"]["S"], i["updated_at"]["S"]) for i in items if "updated_at" in i}

    return f"{address}&tz=UTC", write, read


@pytest.mark.timeout(3600 if LONG else 300)
@pytest.mark.parametrize(("sort", "seeds"), [(_memory, 10), (_sqlite, 2), (_dynamodb, 3)])
def test_no_newer_record_is_overwritten_and_every_older_one_is(
    sort: Any,
    seeds: int,
    names: tuple[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A writer changes the sink all through the backfill, some records to newer and some to older times than the source has."""
    monkeypatch.setattr("migrator.adapters.base.PAGE_ROWS", 20)
    address, write, read = sort(names, tmp_path, request)
    keys = [f"k{n:03}" for n in range(80)]
    source = uuid.uuid4().hex
    fill(source, "fact", *(fact("u", key, "source", updated_at=at(0)) for key in keys))
    for seed in range(100 if LONG else seeds):
        rnd = random.Random(seed)
        last: dict[str, tuple[str, str]] = {}
        for key in rnd.sample(keys, 30):
            last[key] = (f"before {seed}", at(rnd.choice((-5, 5))))
            write(key, *last[key])
        stop = threading.Event()

        def live(
            rnd: random.Random = rnd,
            last: dict[str, tuple[str, str]] = last,
            stop: threading.Event = stop,
            seed: int = seed,
        ) -> None:
            count = 0
            while not stop.is_set():
                key, count = rnd.choice(keys), count + 1
                # An application's own clock only goes on: what it writes now is newer than the source, and than what it wrote before.
                last[key] = (f"live {seed}.{count}", at(10 + count / 1000))
                write(key, *last[key])

        writer = threading.Thread(target=live)
        writer.start()
        try:
            report = migrator.migrate(f"memory:{source}?tz=UTC", address, Options(existing="newer", workers=2))
        finally:
            stop.set()
            writer.join()
        assert report.outcome == "done", report.to_plain()
        found = read()
        for key in keys:
            newest = last.get(key)
            expected = newest if newest is not None and newest[1] > at(0) else ("source", at(0))
            assert found[key] == expected, (seed, key)
        for key in keys:  # the next seed begins with older ones, which the source replaces
            write(key, "old", at(-60))
    memory.forget(source)


# Who and when ----------------------------------------------------------------------------------------------------------


def test_one_user_travels_with_the_users_sessions_and_what_is_kept_for_all(names: tuple[str, str]) -> None:
    """Fact sheet 2.12: the conversation lies under the session's id, evolution under "global" with the user in the key."""
    source, sink = names
    fill(
        source, "fact",
        fact("ana", "name", session_id="s1"), fact("s1", "turn_1", session_id="s1"), fact("s2", "turn_2"), fact("ana-20", "name", session_id="s9"),
        fact("global", "personality_ana_luna"), fact("global", "evolution_history_ana"), fact("global", "personality_ana-20_luna"), fact("s9", "turn_9"),
    )  # fmt: skip
    fill(source, "episode", episode("ana", "e", session_id="s2"), episode("s9", "e"))
    said: list[str] = []

    class Show(Silent):
        def plan(self, lines: list[tuple[str, str]]) -> None:
            said.extend(words for name, words in lines if name == "user")

    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(user="ana"), Show())
    assert (report.outcome, report.proven, said) == ("done", "digest", ["ana: records of ana, s1, s2"])
    assert (report.kinds["fact"].tally.written, report.kinds["fact"].tally.filtered) == (5, 3)
    assert {(r["user_id"], r.get("key")) for r in records_of(sink)} == {
        ("ana", "name"), ("s1", "turn_1"), ("s2", "turn_2"), ("global", "personality_ana_luna"), ("global", "evolution_history_ana"), ("ana", None),
    }  # fmt: skip


def test_a_user_that_nobody_is_is_no_empty_answer(names: tuple[str, str], tmp_path: Path) -> None:
    fill(names[0], "fact", fact("ana", "k"))
    with pytest.raises(migrator.ConfigError, match=r'no record of .* is of the user "Ana"; there is "ana"'):
        migrator.migrate(f"memory:{names[0]}", tmp_path / "x.jsonl", Options(user="Ana"))
    empty = migrator.migrate(f"memory:{names[0]}", tmp_path / "x.jsonl", Options(user="Ana", allow_empty=True))
    assert (empty.outcome, empty.kinds["fact"].tally.filtered) == ("done", 1)


def test_what_was_changed_since_travels_and_what_has_no_time(names: tuple[str, str]) -> None:
    source, sink = names
    stamps = [
        "2026-01-01T00:59:59",
        "2026-01-01T01:00:00",
        "2026-01-01T00:30:00Z",
        "2025-12-31T23:59:00Z",
        "some day",
        None,
    ]
    fill(source, "fact", *(fact("u", str(n), updated_at=stamp) for n, stamp in enumerate(stamps)))
    report = migrator.migrate(f"memory:{source}?tz=Europe/Madrid", f"memory:{sink}", Options(since="2026-01-01T01:00"))
    assert (report.outcome, report.kinds["fact"].tally.filtered) == ("done", 2)
    assert set(values(sink)) == {"1", "2", "4", "5"}


def test_a_limit_is_never_called_complete(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.adapters.base.PAGE_ROWS", 7)
    monkeypatch.setattr("migrator.adapters.memory.PAGE_ROWS", 7)
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(60)))
    fill(source, "episode", *(episode("u", f"t{n}") for n in range(60)))
    for limit, to in ((25, f"memory:{sink}"), (1, str(tmp_path / "x.jsonl")), (100, str(tmp_path / "x.db"))):
        report = migrator.migrate(f"memory:{source}", to, Options(limit=limit, workers=3))
        assert sum(kind.tally.written for kind in report.kinds.values()) == limit
        assert (report.outcome, report.proven) == ("done", "none")
    assert len(records_of(sink)) == 25
