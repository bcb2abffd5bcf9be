"""Of several records with one identity the newest travels, in whatever order they are read."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrator
from migrator import migration
from migrator.duplicates import Duplicates
from migrator.engine import note_repeated
from migrator.errors import StoreError
from migrator.mapping_file import load_mapping
from migrator.model import Row
from migrator.values import to_json
from tables import client_of, create

KINDS = load_mapping("luminoracore-v1.1").kinds


def fact(key: str, updated_at: Any, place: str, **more: Any) -> Row:
    record = {"user_id": "ana", "category": "work", "key": key, "updated_at": updated_at}
    return Row("fact", record | more, None, place)


def losers_of(rows: Iterable[Row]) -> set[str]:
    rows = list(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "duplicates.sqlite"
        count = Duplicates.build(path, rows, KINDS, lambda row: b"")
        duplicates = Duplicates(path)
        losers = duplicates.losers(rows)
        duplicates.close()
        assert [each.name for each in Path(folder).iterdir()] == [path.name]
    assert count == len(losers)
    return losers


def winner(*times: Any) -> Any:
    """Of facts that differ in `updated_at` alone, and are read in this order, the time of the one that travels."""
    rows = [fact("boss", time, str(place)) for place, time in enumerate(times)]
    losers = losers_of(rows)
    (left,) = [row.record["updated_at"] for row in rows if row.place not in losers]
    return left


def losers_noted_apart(parts: list[list[Row]]) -> set[str]:
    """The same of rows that several have read."""
    with tempfile.TemporaryDirectory() as folder:
        notes = [Path(folder) / f"note {number}" for number in range(len(parts) - 1)]
        for note, rows in zip(notes, parts):
            Duplicates.note(note, rows, KINDS, lambda row: b"")
        path = Path(folder) / "duplicates.sqlite"
        Duplicates.build(path, parts[-1], KINDS, lambda row: b"", notes)
        duplicates = Duplicates(path)
        losers = duplicates.losers([row for rows in parts for row in rows])
        duplicates.close()
    return losers


TIMES = st.none() | st.datetimes(min_value=datetime(2000, 1, 1)).map(datetime.isoformat) | st.sampled_from(["", "x"])
ROWS = st.lists(st.tuples(st.sampled_from("abc"), TIMES), max_size=8)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 8), max_size=11))
def test_it_does_not_matter_who_has_noted_what(rows: list[tuple[str, Any]], cuts: list[int]) -> None:
    facts = [fact(key, time, str(place)) for place, (key, time) in enumerate(rows)]
    borders = [0, *sorted(cuts), 8]
    parts = [facts[start:end] for start, end in pairwise(borders)]
    assert losers_noted_apart(parts) == losers_of(facts)


@given(rows=ROWS, data=st.data())
def test_one_record_of_each_identity_travels_whatever_the_order(
    rows: list[tuple[str, Any]], data: st.DataObject
) -> None:
    """H3."""
    facts = [fact(key, time, f"p{place}") for place, (key, time) in enumerate(rows)]
    losers = losers_of(facts)
    assert len(facts) - len(losers) == len({key for key, _ in rows})
    assert losers_of(data.draw(st.permutations(facts))) == losers


@given(st.lists(st.datetimes(), min_size=1, max_size=6, unique=True))
def test_the_newest_travels(times: list[datetime]) -> None:
    assert winner(*map(datetime.isoformat, times)) == max(times).isoformat()


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (None, "2026-01-01T00:00:00"),
        (None, ""),
        (None, 0),
        (None, -5),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:00.000001"),
        ("2026-01-01 23:59:59", "2026-01-02T00:00:00"),
        ("2026-01-02", "2026-01-02T00:00:01"),
        ("2026-01-01T12:00:00+02:00", "2026-01-01T11:00:00+00:00"),
        ("2026-01-01T12:00:00+02:00", "2026-01-01T10:30:00"),
        ("2026-01-01T09:59:59", "2026-01-01T10:00:00Z"),
        ("yesterday", "2026-01-01T00:00:00"),
        ("\ud800", "2026-01-01T00:00:00"),
        (1732266000, 1732266001),
        (2**53, 2**53 + 1),
        (-2, -1.5),
        (9, 10),
        (2**63, 10**400),
        (-(10**400), 0),
        (True, 0),
    ],
)
def test_the_later_of_two_times_travels(older: Any, newer: Any) -> None:
    """H20, H21: a time with a zone counts in UTC, one without as it stands; what is no time is older than any; NULL is the oldest."""
    assert winner(older, newer) == newer
    assert winner(newer, older) == newer


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_edge_of_the_calendar_is_no_accident(time: str) -> None:
    assert len(losers_of([fact("boss", time, "1"), fact("boss", "2026-01-01", "2")])) == 1


@given(st.permutations(["a", "b", "c"]))
def test_a_tie_is_broken_by_place(places: list[str]) -> None:
    same = ["2026-01-01T10:00:00", "2026-01-01 10:00:00", "2026-01-01T12:00:00+02:00"]
    assert losers_of(fact("boss", time, place) for place, time in zip(places, same)) == {"a", "b"}


def test_records_that_are_equal_in_every_field_are_duplicates_too() -> None:
    """H5."""
    moods = [Row("mood", {"user_id": "ana", "mood_type": "calm", "created_at": "2026-01-01"}, None, p) for p in "abc"]
    assert losers_of(moods) == {"a", "b"}


def test_an_absent_field_of_an_identity_is_null() -> None:
    held = {"user_id": "ana", "mood_type": "calm", "created_at": None}
    assert losers_of([Row("mood", held, None, "a"), Row("mood", held | {"context": None}, None, "b")]) == {"a"}


def test_other_identities_and_other_kinds_do_not_meet() -> None:
    """H6, H23: letters, numbers and text are told apart."""
    keys: list[Any] = ["boss", "Boss", "boss ", "1", 1, "", None, "null"]
    rows = [fact(key, "2026-01-01", f"f{place}") for place, key in enumerate(keys)]
    memory = Row("memory", {"user_id": "ana", "memory_key": "boss"}, None, "m")
    session = Row("session", {"session_id": "ana"}, None, "s")
    assert losers_of([*rows, memory, session]) == set()
    assert losers_of([fact("x", "2026-01-01", "a", user_id=2), fact("x", "2026-01-01", "b", user_id=2.0)]) == {"a"}


def test_a_lone_surrogate_in_an_identity_meets_nothing() -> None:
    """H30: such a record is rejected later, by name."""
    assert losers_of([fact("\ud800", "2026-01-01", "a"), fact("\ud800", "2026-01-02", "b")]) == set()


def test_an_index_that_was_not_made_knows_no_losers(tmp_path: Path) -> None:
    duplicates = Duplicates(tmp_path / "none")
    assert duplicates.losers([fact("boss", None, "a")]) == set()
    duplicates.close()
    assert list(tmp_path.iterdir()) == []


def test_an_index_made_again_forgets_the_last(tmp_path: Path) -> None:
    path = tmp_path / "odd ?#%name"
    rows = [fact("boss", None, str(place)) for place in range(1200)]
    (tmp_path / "odd ?#%name.tmp").write_text("left by a kill")
    assert Duplicates.build(path, rows, KINDS, lambda row: b"") == 1199
    assert len(Duplicates(path).losers(rows)) == 1199
    assert Duplicates.build(path, rows[:1], KINDS, lambda row: b"") == 0
    assert Duplicates(path).losers(rows) == set()


def test_a_full_disk_is_no_bug(tmp_path: Path) -> None:
    path = tmp_path / "duplicates.db"
    real = sqlite3.connect

    class Full(sqlite3.Connection):
        def executemany(self, *args: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **options: real(*args, **options, factory=Full))
        with pytest.raises(StoreError, match=r"full; make room there, or choose another folder with --state"):
            Duplicates.build(path, [fact("k", None, "1")], KINDS, lambda row: b"")


@pytest.mark.parametrize("processes", [False, True])
def test_records_of_one_identity_are_found_by_several_workers(
    processes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads another part of the file, and the two that are of one identity lie at its ends."""
    monkeypatch.setattr("migrator.migration.SMALL", 0)
    lines = [fact(f"k{n}", f"2026-01-01T00:00:{n % 60:02}", "", value="x" * 20_000).to_plain() for n in range(500)]
    lines += [fact(f"k{n}", f"2026-02-01T00:00:00+0{n}:00", "", value="new").to_plain() for n in range(3)]
    path, state = tmp_path / "facts.jsonl", str(tmp_path / "state")
    path.write_bytes(b"".join(to_json(line) + b"\n" for line in lines))
    noted, real = list[Path](), migration.by_partition

    def by_partition(call: Any, *rest: Any) -> Any:
        found = [*real(call, *rest)]
        noted.extend(found if call is note_repeated else [])
        return found

    monkeypatch.setattr(migration, "by_partition", by_partition)
    options = migrator.Options(workers=2, processes=processes, state=state)
    report = migrator.migrate(path, tmp_path / "out.jsonl", options)
    assert (report.outcome, report.proven) == ("done", "digest")
    tally = report.kinds["fact"].tally
    assert (tally.read, tally.written, tally.duplicates) == (503, 500, 3)
    assert not any(path.exists() for path in noted)
    assert [path.name for path in sorted(noted)] == ["repeated-0000.sqlite", "repeated-0001.sqlite"][: 2 * processes]
    assert report.duplicates_file is not None
    lost = [json.loads(line)["record"] for line in Path(report.duplicates_file).read_bytes().splitlines()]
    assert sorted(each["key"] for each in lost) == ["k0", "k1", "k2"] and "new" not in [each["value"] for each in lost]


# Under whatever key ------------------------------------------------------------------------------------------------------


def _fact_item(sk: str, value: str, updated: str, **more: Any) -> dict[str, Any]:
    plain = {"user_id": "ana", "category": "c", "key": "k", "session_id": "ana", "created_at": "2026-01-01T00:00:00"}
    texts = plain | {"SK": sk, "value": value, "updated_at": updated} | more
    return {name: {"S": text} for name, text in texts.items()} | {"confidence": {"N": "1"}}


@pytest.mark.parametrize(
    "items",
    [
        [("FACT#c#k", "NEW", "2026-03-01T00:00:00"), ("FACT#c#k_old", "OLD", "2026-02-01T00:00:00")],
        [("FACT#c#k", "OLD", "2026-02-01T00:00:00"), ("FACT#c#k_new", "NEW", "2026-03-01T00:00:00")],
        [("FACT#c#1", "OLD", "2026-02-01T00:00:00"), ("FACT#c#2", "NEW", "2026-03-01T00:00:00"), ("FACT#c#3", "x", "2026-01-01T00:00:00")],
    ],
)  # fmt: skip
def test_one_identity_under_two_keys_of_a_table_is_seen_whatever_the_keys(
    items: list[tuple[str, str, str]], dynamodb_local_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item is recognised by its attributes, so the key alone guarantees no identity."""
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    name = f"dup-{tmp_path.name}"[:60]
    address = f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_local_endpoint}"
    client = client_of(dynamodb_local_endpoint)
    migrator.init(address).make()
    for item in items:
        client.put_item(TableName=name, Item=_fact_item(*item))
    report = migrator.migrate(address, tmp_path / "x.db", migrator.Options(kinds=("fact",)))
    tally = report.kinds["fact"].tally
    assert (report.outcome, report.proven, tally.written, tally.duplicates) == ("done", "digest", 1, len(items) - 1)
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        assert db.execute("SELECT value FROM facts").fetchall() == [("NEW",)]
    through = migrator.migrate(address, tmp_path / "x.jsonl")  # lines hold them all
    assert (through.outcome, through.kinds["fact"].tally.written) == ("done", len(items))
    client.delete_table(TableName=name)


def test_a_range_key_that_is_a_time_guarantees_nothing(
    dynamodb_local_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LuminoraCore's "schema 3", user_id/created_at: every save is an item more (fact sheet 2.10)."""
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    name = f"dup-{tmp_path.name}"[:60]
    client = client_of(dynamodb_local_endpoint)
    create(
        client,
        TableName=name,
        KeySchema=[
            {"AttributeName": "user_id", "KeyType": "HASH"},
            {"AttributeName": "created_at", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("user_id", "created_at")],
        BillingMode="PAY_PER_REQUEST",
    )
    for number in range(3):
        updated = "2027-01-01T00:00:00" if number == 0 else f"2026-02-0{number}T00:00:00"
        item = _fact_item("", f"v{number}", updated, created_at=f"2026-01-01T00:00:0{number}")
        del item["SK"]
        client.put_item(TableName=name, Item=item)
    report = migrator.migrate(
        f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_local_endpoint}", tmp_path / "x.db"
    )
    assert (report.outcome, report.kinds["fact"].tally.duplicates) == ("done", 2)
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        assert db.execute("SELECT value FROM facts").fetchall() == [("v0",)]
    client.delete_table(TableName=name)
