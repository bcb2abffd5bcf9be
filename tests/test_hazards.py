"""The hazards of the fact sheet that no other test names, end to end; and that every hazard is pinned or ruled out by name."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import Options
from migrator.adapters import memory
from tables import client_of
from test_run import fact, fill, lines_of

HERE = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("own_states")


@pytest.fixture
def source() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    memory.forget(name)


class Table:
    """A table of our making on one server."""

    def __init__(self, endpoint: str) -> None:
        self.name = f"hazards-{uuid.uuid4().hex[:12]}"
        self.address = f"dynamodb://{self.name}?region=eu-west-1&endpoint={endpoint}"
        self.client = client_of(endpoint)

    def items(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.scan(TableName=self.name)["Items"]
        return found


@pytest.fixture
def table(dynamodb_endpoint: str) -> Table:
    return Table(dynamodb_endpoint)


@pytest.fixture
def local(dynamodb_local_endpoint: str) -> Table:
    return Table(dynamodb_local_endpoint)


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


# Identity --------------------------------------------------------------------------------------------------------------


def test_row_ids_are_no_identity(source: str, tmp_path: Path) -> None:
    """H4: a session that is saved again gets a new id; records are the same under whatever id."""
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(5)))
    migrator.migrate(f"memory:{source}", tmp_path / "a.db")
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.execute("UPDATE facts SET id = id + 1000")
    again = migrator.migrate(f"memory:{source}", tmp_path / "a.db")
    assert (again.outcome, again.kinds["fact"].tally.unchanged, again.kinds["fact"].tally.written) == ("done", 5, 0)


# Values ----------------------------------------------------------------------------------------------------------------

TEXTS = (
    "True",
    "true",
    "None",
    "null",
    "42",
    "0042",
    "1e5",
    "NaN",
    '"x"',
    '{"a": 1}',
    '{"n": "caf\\u00e9"}',
    "",
    "nan",
)


def test_stored_text_stays_that_text(source: str, table: Table, tmp_path: Path) -> None:
    """H9, H10: `True` is not `true`, and a text that looks like JSON is not parsed on the way; H25: empty text is text."""
    fill(source, "fact", *(fact("u", f"k{n:02}", text) for n, text in enumerate(TEXTS)))
    steps = [
        f"memory:{source}",
        str(tmp_path / "a.db"),
        table.address,
        str(tmp_path / "b.jsonl"),
        str(tmp_path / "c.json"),
        str(tmp_path / "d.db"),
    ]
    for at, to in pairwise(steps):
        assert migrator.migrate(at, to, Options(create=True)).outcome == "done"
    for name in ("a.db", "d.db"):
        assert [value for (value,) in rows(tmp_path / name, "SELECT value FROM facts ORDER BY key")] == list(TEXTS)
    assert sorted(item["value"]["S"] for item in table.items()) == sorted(TEXTS)


def test_a_fraction_in_an_integer_column_stays(tmp_path: Path, local: Table) -> None:
    """H12: SQLite keeps 43.5 as REAL. H15: numbers of DynamoDB are plain JSON numbers on the way out."""
    migrator.migrate(_one_affinity(tmp_path), local.address, Options(create=True))
    assert local.items()[0]["affinity_points"] == {"N": "43.5"}
    migrator.migrate(local.address, tmp_path / "x.jsonl")
    (line,) = lines_of(str(tmp_path / "x.jsonl"))
    assert line["record"]["affinity_points"] == 43.5
    migrator.migrate(str(tmp_path / "x.jsonl"), tmp_path / "back.db")
    assert rows(tmp_path / "back.db", "SELECT affinity_points, typeof(affinity_points) FROM affinity") == [
        (43.5, "real")
    ]


def _one_affinity(tmp_path: Path) -> Path:
    path = tmp_path / "one.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "CREATE TABLE affinity (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, session_id TEXT, personality_name TEXT NOT NULL, affinity_points INTEGER, "
            "current_level TEXT, total_interactions INTEGER, positive_interactions INTEGER, created_at TEXT, updated_at TEXT)"
        )
        db.execute("INSERT INTO affinity (user_id, personality_name, affinity_points) VALUES ('u', 'p', 43.5)")
    return path


def test_a_missing_time_or_a_missing_part_of_a_session_is_a_reject(local: Table, tmp_path: Path) -> None:
    """H31: SQLite's sessions need every column; an item without one is named, the others travel."""
    session = {
        "user_id": "u",
        "SK": "SESSION#s",
        "session_id": "s",
        "personality_name": "p",
        "last_activity": "2026-01-01",
        "created_at": "2026-01-01",
        "updated_at": "2026-01-01",
    }
    migrator.migrate(_one_affinity(tmp_path), local.address, Options(create=True))
    for number, item in enumerate((session, session | {"TTL": 5})):
        typed = {n: {"S": v} if isinstance(v, str) else {"N": str(v)} for n, v in item.items()}
        local.client.put_item(
            TableName=local.name, Item=typed | {"SK": {"S": f"SESSION#s{number}"}, "session_id": {"S": f"s{number}"}}
        )
    report = migrator.migrate(local.address, tmp_path / "x.db", Options(on_reject="continue"))
    assert (report.kinds["session"].tally.written, report.kinds["session"].tally.rejected) == (1, 1)
    assert "ttl is NULL" in lines_of(report.rejects_file)[0]["reason"]


# Time to live ----------------------------------------------------------------------------------------------------------


def test_what_the_table_would_delete_at_once_is_rejected_and_told(dynamodb_local_endpoint: str, tmp_path: Path) -> None:
    """H33, H36: only where the table has it on; a record of every kind carries it as `TTL`."""
    local, twin = Table(dynamodb_local_endpoint), Table(dynamodb_local_endpoint)
    now = int(time.time())
    lines = [
        {
            "kind": "fact",
            "record": fact("u", f"k{n}"),
            "origin": {"store": "dynamodb", "layout": "user_id/SK", "extra": {"TTL": until}},
        }
        for n, until in enumerate((now - 5, now + 9 * 86_400, now + 300 * 86_400))
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for sink in (local, twin):
        migrator.migrate(_one_affinity(tmp_path), sink.address, Options(create=True))
    off = migrator.migrate(str(path), local.address)
    assert (off.outcome, off.kinds["fact"].tally.written, off.due) == ("done", 3, 0)
    twin.client.update_time_to_live(
        TableName=twin.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "TTL"}
    )
    dry = migrator.migrate(str(path), twin.address, Options(dry_run=True))
    assert (dry.kinds["fact"].tally.written, dry.kinds["fact"].tally.rejected, dry.due) == (2, 1, 1)
    on = migrator.migrate(str(path), twin.address, Options(on_reject="continue"))
    assert (on.outcome, on.kinds["fact"].tally.written, on.due) == ("rejects", 2, 1)
    assert "expired" in lines_of(on.rejects_file)[0]["reason"]
    all_the_same = migrator.migrate(str(path), twin.address, Options(expired="write", proof="none"))
    assert all_the_same.kinds["fact"].tally.rejected == 0


def test_a_time_to_live_is_carried_and_never_computed(local: Table, tmp_path: Path) -> None:
    """H34: SQLite has one for sessions only; that of other kinds stays behind there, as the plan says, and comes back through JSON Lines."""
    line = {
        "kind": "fact",
        "record": fact("u", "k"),
        "origin": {"store": "dynamodb", "layout": "user_id/SK", "extra": {"TTL": 1_900_000_000}},
    }
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n")
    migrator.migrate(str(tmp_path / "x.jsonl"), local.address, Options(create=True))
    assert local.items()[0]["TTL"] == {"N": "1900000000"}
    into_sql = migrator.migrate(local.address, tmp_path / "x.db")
    assert any("TTL" in words for words in into_sql.narrowed)
    migrator.migrate(local.address, tmp_path / "y.jsonl")
    assert lines_of(str(tmp_path / "y.jsonl"))[0]["origin"]["extra"] == {"TTL": 1_900_000_000}


# Under way -------------------------------------------------------------------------------------------------------------


def test_a_writer_of_the_source_never_waits_for_us(source: str, tmp_path: Path) -> None:
    """H46: LuminoraCore gives up after 5 s; a reader of ours holds no lock while records are on their way."""
    fill(source, "fact", *(fact("u", f"k{n}", "x" * 500) for n in range(3000)))
    path = tmp_path / "chat.db"
    migrator.migrate(f"memory:{source}", path)
    waits: list[float] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            began = time.monotonic()
            with closing(sqlite3.connect(path, timeout=5)) as db, db:
                db.execute("UPDATE facts SET value = 'y' WHERE key = 'k1'")
            waits.append(time.monotonic() - began)
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert migrator.migrate(path, tmp_path / "x.jsonl").outcome == "done"
    finally:
        stop.set()
        writer.join()
    assert max(waits) < 5


def test_one_user_of_many_megabytes_travels_whole(source: str, local: Table) -> None:
    """H27, H47: LuminoraCore lists one page of 1 MB; what it does not list has travelled all the same."""
    fill(source, "fact", *(fact("global", f"k{n}", "x" * 300_000) for n in range(8)))
    report = migrator.migrate(f"memory:{source}", local.address, Options(create=True))
    assert (report.outcome, report.kinds["fact"].tally.written) == ("done", 8)
    counted = local.client.scan(TableName=local.name, Select="COUNT")
    assert counted["Count"] < 8 and counted["LastEvaluatedKey"]


def test_fields_that_luminoracores_own_calls_drop_are_kept(source: str, local: Table) -> None:
    """H54: records are written into the store itself, so that created_at, ttl and fields of a later version survive."""
    fill(source, "fact", fact("u", "k", created_at="2020-01-01T00:00:00", tags=["a", {"b": 1.5}]))
    migrator.migrate(f"memory:{source}", local.address, Options(create=True))
    (item,) = local.items()
    assert item["created_at"] == {"S": "2020-01-01T00:00:00"}
    assert item["tags"] == {"L": [{"S": "a"}, {"M": {"b": {"N": "1.5"}}}]}


def test_a_dry_run_tells_what_the_application_will_see_differently(source: str, local: Table, tmp_path: Path) -> None:
    """H10, H27: values that come back as text, and users of whom it lists one page."""
    fill(source, "fact", *(fact("u", f"k{n:02}", text) for n, text in enumerate(TEXTS)))
    fill(
        source,
        "fact",
        *(fact("heavy", f"k{n}", "x" * 300_000) for n in range(4)),
        *(fact("light", f"k{n}", "x" * 1000) for n in range(4)),
    )
    migrator.migrate(f"memory:{source}", tmp_path / "a.db")
    report = migrator.migrate(tmp_path / "a.db", local.address, Options(dry_run=True))
    assert any("fact value: from the source the application reads it as JSON" in words for words in report.narrowed)
    assert report.estimate is not None
    parsed = [text for text in TEXTS if _parses(text)]
    assert report.estimate["retyped"] == {"fact": len(parsed)} and len(parsed) == 8
    assert report.estimate["users_over_a_page"] == 1
    assert [each["user"] for each in report.estimate["heaviest_users"]] == ["heavy", "light", "u"]
    assert report.estimate["heaviest_users"][0]["bytes"] > 1_200_000


def _parses(text: str) -> bool:
    try:
        return bool(json.loads(text) != text)
    except ValueError:
        return False


# All of them -----------------------------------------------------------------------------------------------------------


def test_every_hazard_is_pinned_by_a_test_or_ruled_out_by_name() -> None:
    named = {number for path in HERE.glob("test_*.py") for number in re.findall(r"\bH(\d+)\b", path.read_text("utf-8"))}
    text = (HERE / "README.md").read_text("utf-8")
    ruled_out = dict(re.findall(r"^\| H(\d+) \| (.+) \|$", text, re.M))
    assert named.isdisjoint(ruled_out)
    assert sorted(map(int, named | ruled_out.keys())) == list(range(1, 55))
    assert all(len(reason) > 10 for reason in ruled_out.values())
