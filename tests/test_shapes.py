"""Every shape of table that LuminoraCore uses: recognised, moved key for key, and readable by LuminoraCore where the plan says so."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import Options, Report
from migrator.binding import shape_of
from migrator.mapping_file import load_mapping
from stores import DATA
from tables import address_of, client_of, create, fill, items_of
from test_application import SAMPLE, as_text, column, from_dynamodb, on_table, users
from test_run import lines_of

MAPPING = load_mapping("luminoracore-v1.1")
WRITTEN_BY_LUMINORACORE = ("user_id-SK", "session_id-timestamp", "session_id-SK-gsi1", "PK-SK-gsi1")
WIDE_OPEN = 36_500  # days
LONG = os.environ.get("MIGRATOR_LONG") == "1"  # every user, and more sinks

Items = list[dict[str, Any]]


class Tables:
    """Tables of one server, all of them gone at the end."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = client_of(endpoint)
        self.made: list[str] = []
        self.is_slow = False

    def new(self) -> str:
        self.made.append(f"shapes-{uuid.uuid4().hex[:12]}")
        return self.made[-1]

    def address(self, name: str) -> str:
        return address_of(name, self.endpoint)

    def like(self, described: dict[str, Any], items: Items) -> str:
        """A table as DescribeTable described it, with these items."""
        indexes = [
            {"IndexName": each["IndexName"], "KeySchema": each["KeySchema"], "Projection": {"ProjectionType": "ALL"}}
            for each in described.get("GlobalSecondaryIndexes", [])
        ]
        create(
            self.client,
            TableName=(name := self.new()),
            KeySchema=described["KeySchema"],
            AttributeDefinitions=described["AttributeDefinitions"],
            BillingMode="PAY_PER_REQUEST",
            **({"GlobalSecondaryIndexes": indexes} if indexes else {}),
        )
        fill(self.client, name, items)
        return name

    def items(self, name: str) -> Items:
        return items_of(self.client, name)

    def close(self) -> None:
        for name in self.client.list_tables()["TableNames"]:
            if name in self.made:
                self.client.delete_table(TableName=name)
        self.client.close()


@pytest.fixture(params=["moto", "dynamodb_local", "dynalite"] if LONG else ["dynamodb_local"])
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    made = Tables(request.getfixturevalue(f"{request.param}_endpoint"))
    made.is_slow = request.param == "moto"
    yield made
    made.close()


@pytest.fixture
def local(dynamodb_local_endpoint: str) -> Iterator[Tables]:
    made = Tables(dynamodb_local_endpoint)
    yield made
    made.close()


pytestmark = pytest.mark.usefixtures("own_states")


def sample(name: str) -> tuple[dict[str, Any], Items]:
    held = json.loads(gzip.decompress((DATA / f"dynamodb-{name}.json.gz").read_bytes()))
    return held["TableDescription"], held["Items"]


def read(report: Report) -> int:
    return sum(kind.tally.read for kind in report.kinds.values())


def left_behind(report: Report) -> int:
    return sum(kind.tally.duplicates + kind.tally.rejected for kind in report.kinds.values())


# Key for key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITTEN_BY_LUMINORACORE)
def test_a_table_comes_back_through_json_lines_attribute_for_attribute(
    name: str, tables: Tables, tmp_path: Path
) -> None:
    """H3 among them: one fact under the keys of two sessions is two items again."""
    described, items = sample(name)
    items = items[::6] if tables.is_slow and not LONG else items
    source = tables.like(described, items)
    there = migrator.migrate(tables.address(source), tmp_path / "x.jsonl.gz")
    assert (there.outcome, there.proven, read(there), left_behind(there)) == ("done", "digest", len(items), 0)
    empty, made = tables.like(described, []), tables.new()
    shape = "/".join(each["AttributeName"] for each in described["KeySchema"]) + ("+GSI1" if "gsi1" in name else "")
    for sink, options in ((empty, Options()), (made, Options(create=True, table_shape=shape))):
        back = migrator.migrate(str(tmp_path / "x.jsonl.gz"), tables.address(sink), options)
        assert (back.outcome, back.proven, left_behind(back)) == ("done", "digest", 0)
        assert tables.items(sink) == tables.items(source)
        again = migrator.migrate(str(tmp_path / "x.jsonl.gz"), tables.address(sink), options)
        assert (again.outcome, sum(kind.tally.written for kind in again.kinds.values())) == ("done", 0)
    described_again = tables.client.describe_table(TableName=made)["Table"]
    assert described_again["KeySchema"] == described["KeySchema"]


@pytest.mark.parametrize("name", WRITTEN_BY_LUMINORACORE)
def test_what_does_not_fit_into_sqlite_is_in_its_file_and_nothing_else_is_missing(
    name: str, local: Tables, tmp_path: Path
) -> None:
    described, items = sample(name)
    report = migrator.migrate(local.address(local.like(described, items)), tmp_path / "x.db")
    assert (report.outcome, report.proven, read(report)) == ("done", "digest", len(items))
    duplicates = left_behind(report)
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        tables = ("facts", "affinity", "episodes", "moods", "memories", "sessions")
        rows = sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
    assert rows == len(items) - duplicates
    assert duplicates == (len(lines_of(report.duplicates_file)) if report.duplicates_file else 0)
    if name.startswith("session_id"):
        identity = {(i["user_id"]["S"], i["category"]["S"], i["key"]["S"]) for i in items if "category" in i}
        assert duplicates >= sum("category" in item for item in items) - len(identity) > 0
    # The newest wins (H3), and each loser is older or equal.
    for line in lines_of(report.duplicates_file) if duplicates else ():
        record = line["record"]
        if line["kind"] == "fact":
            with closing(sqlite3.connect(tmp_path / "x.db")) as db:
                query = "SELECT updated_at FROM facts WHERE user_id = ? AND category = ? AND key = ?"
                (newest,) = db.execute(query, (record["user_id"], record["category"], record["key"])).fetchone()
            assert newest >= record["updated_at"]


# What is no record of anybody -------------------------------------------------------------------------------------------


def strange(described: dict[str, Any]) -> Items:
    """An item of another program, one with values of every sort, and a ghost of LuminoraCore's (L5)."""
    hashed, ranged = (each["AttributeName"] for each in described["KeySchema"])
    return [
        {hashed: {"S": "app"}, ranged: {"S": "CONFIG#main"}, "limit": {"N": "12345678901234567890.5"}},
        {hashed: {"S": "app"}, ranged: {"S": "CONFIG#more"}, "raw": {"B": b"\x00\xff"}, "set": {"SS": ["a", "b"]}, "no": {"NULL": True}, "m": {"M": {"l": {"L": [{"BOOL": True}]}}}},
        {hashed: {"S": "s-gone"}, ranged: {"S": "SESSION#s-gone"}, "last_activity": {"S": "2026-01-01T00:00:00"}, "updated_at": {"S": "2026-01-01T00:00:00"}},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["user_id-SK", "session_id-timestamp", "PK-SK-gsi1"])
def test_foreign_items_travel_as_they_are_where_they_can_be_held(name: str, tables: Tables, tmp_path: Path) -> None:
    described, items = sample(name)
    source = tables.like(described, items[:30] + strange(described))
    empty, direct = tables.like(described, []), tables.like(described, [])
    for steps in ([str(tmp_path / "x.jsonl"), tables.address(empty)], [tables.address(direct)]):
        at = tables.address(source)
        for step in steps:
            report = migrator.migrate(at, step)
            assert (report.outcome, report.proven, report.foreign, report.ghosts) == ("done", "digest", 0, 0)
            assert (report.kinds["foreign"].tally.read, report.kinds["foreign"].tally.written) == (3, 3)
            again = migrator.migrate(at, step)
            assert (again.outcome, again.kinds["foreign"].tally.unchanged) == ("done", 3)
            assert migrator.verify(at, step).outcome == "done"
            at = step
    assert tables.items(empty) == tables.items(direct) == tables.items(source)
    (key,) = [item for item in tables.items(empty) if "limit" in item]
    tables.client.put_item(TableName=empty, Item=key | {"limit": {"N": "1"}})
    found = migrator.verify(str(tmp_path / "x.jsonl"), tables.address(empty))
    assert [(each.what, each.kind, each.fields) for each in found.differences] == [("differing", "foreign", ("limit",))]
    assert migrator.migrate(str(tmp_path / "x.jsonl"), tables.address(empty)).kinds["foreign"].tally.differing == 1


def test_foreign_items_that_stay_behind_are_exit_3_unless_they_are_expected(tables: Tables, tmp_path: Path) -> None:
    described, items = sample("user_id-SK")
    source = tables.address(tables.like(described, items[:30] + strange(described)))
    migrator.migrate(source, tmp_path / "x.jsonl")
    for number, at in enumerate((source, str(tmp_path / "x.jsonl"))):
        report = migrator.migrate(at, tmp_path / f"{number}-a.db")
        assert (report.outcome, report.exit_code, report.foreign, report.ghosts) == ("rejects", 3, 2, 1)
        assert all("CONFIG#" in place for place in report.foreign_seen)
        for pattern in ("CONFIG#*", "app", '*"CONFIG#m*'):
            accepted = migrator.migrate(
                at, tmp_path / f"{number}-{pattern[:3].strip(chr(42))}.db", Options(foreign=(pattern,), restart=True)
            )
            assert (accepted.outcome, accepted.foreign, accepted.accepted, accepted.ghosts) == ("done", 0, 2, 1)
        some = migrator.migrate(at, tmp_path / f"{number}-some.db", Options(foreign=("CONFIG#main",)))
        assert (some.outcome, some.foreign, some.accepted) == ("rejects", 1, 1)
        facts = migrator.migrate(at, tmp_path / f"{number}-facts.jsonl", Options(kinds=("fact",)))
        assert (facts.outcome, facts.foreign, "foreign" in facts.kinds) == ("done", 0, False)


# As LuminoraCore sees it -----------------------------------------------------------------------------------------------

SHAPES = (
    "user_id/SK", "user_id/data_type+GSI1", "user_id/SK+by_session(session_id/created_at)", "session_id/SK", "session_id/timestamp",
    "session_id/SK+GSI1", "session_id/SK+by_user(user_id/updated_at)", "PK/SK", "partition_key/sort_key", "PK/SK+GSI1",
    "PK/SK+lower(gsi1pk/gsi1sk)", "pk/sk", "id/SK", "pk/sk+other(gsi_pk/gsi_sk)",
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_luminoracore_finds_every_record_that_the_plan_calls_readable(
    shape: str, luminoracore: Any, local: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = local.new()
    report = migrator.migrate(SAMPLE, local.address(name), Options(create=True, table_shape=shape))
    assert (report.outcome, report.proven) == ("done", "digest")
    layout = MAPPING.layout_for("dynamodb", shape_of(shape))
    assert report.unread["now"] == layout.unread
    finds_all(luminoracore, local, name, monkeypatch, set(layout.unread))


@pytest.mark.parametrize("name", WRITTEN_BY_LUMINORACORE)
def test_from_any_shape_to_any_other_luminoracore_finds_what_is_called_readable(
    name: str, luminoracore: Any, local: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own keys stay behind, where they would not be found: between two shapes we write what it looks for."""
    described, items = sample(name)
    source = local.address(local.like(described, items))
    own = migrator.migrate(source, tmp_path / "own.db")
    sinks = ("user_id/SK", "PK/SK+GSI1", "session_id/timestamp", "session_id/SK+GSI1", "PK/SK")
    for shape in sinks if LONG else sinks[:2]:
        if shape.partition("+")[0] == name.replace("-", "/").removesuffix("/gsi1"):
            continue
        sink = local.new()
        report = migrator.migrate(source, local.address(sink), Options(create=True, table_shape=shape))
        assert (report.outcome, report.proven, left_behind(report)) == ("done", "digest", left_behind(own))
        monkeypatch.setattr("test_application.SAMPLE", tmp_path / "own.db")
        finds_all(luminoracore, local, sink, monkeypatch, set(report.unread["now"]))


def finds_all(luminoracore: Any, local: Tables, name: str, monkeypatch: pytest.MonkeyPatch, unread: set[str]) -> None:
    """LuminoraCore, asked for every user, answers from the table what is in the SQLite file; what is called unread it does not find."""
    storage = on_table(luminoracore, name, local.endpoint, monkeypatch)

    async def look() -> None:
        for user in users() if LONG else users()[::4]:
            stored = {
                (category, key): from_dynamodb(value)
                for category, key, value in column(
                    f"SELECT category, key, value FROM facts WHERE user_id = {quoted(user)}"
                )
            }
            facts = await storage.get_facts(user)
            assert len(facts) == len(stored)
            assert {(fact["category"], fact["key"]): fact["value"] for fact in facts} == stored
            for kind, table, answer in (
                ("episode", "episodes", await storage.get_episodes(user)),
                ("mood", "moods", await storage.get_mood_history(user, days_back=WIDE_OPEN)),
            ):
                (count,) = column(f"SELECT count(*) FROM {table} WHERE user_id = {quoted(user)}")[0]
                assert len(answer) == (0 if kind in unread else count)
        for user, personality, points in column("SELECT user_id, personality_name, affinity_points FROM affinity"):
            assert json.loads(as_text(await storage.get_affinity(user, personality)))["affinity_points"] == points
        for user, key in column("SELECT user_id, memory_key FROM memories"):
            assert await storage.get_memory(user, key) is not None
        for (session,) in column("SELECT session_id FROM sessions"):
            assert (await storage.get_session(session) is None) == ("session" in unread)

    asyncio.run(look())


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@pytest.mark.parametrize("name", WRITTEN_BY_LUMINORACORE)
def test_inspect_counts_what_luminoracore_finds_of_what_it_wrote(
    name: str, luminoracore: Any, local: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L1 to L4: measured, not concluded from the shape; and a copy that keeps the keys is not called better than its source."""
    described, items = sample(name)
    made = local.like(described, items)
    found = migrator.inspect(local.address(made))
    storage = on_table(luminoracore, made, local.endpoint, monkeypatch)
    known = {
        (item["user_id"]["S"], item["category"]["S"], item["key"]["S"]): item for item in items if "category" in item
    }
    ids = {item["session_id"]["S"] for item in items if "last_activity" in item and "session_id" in item}

    async def count() -> tuple[int, int]:
        answers = {user: await storage.get_facts(user) for user in {user for user, *_ in known}}
        given = {(user, fact["category"], fact["key"]) for user, facts in answers.items() for fact in facts}
        return len(known.keys() & given), sum([await storage.get_session(each) is not None for each in ids])

    facts, sessions = asyncio.run(count())
    fact, session = found.kinds["fact"], found.kinds["session"]
    assert session.count - session.unfound == sessions
    assert (
        fact.count - fact.unfound == facts
    )  # H3: of one fact under two keys one at the most is where it is looked for
    migrator.migrate(local.address(made), tmp_path / "x.jsonl")
    for source in (local.address(made), tmp_path / "x.jsonl"):
        report = migrator.migrate(source, local.address(local.like(described, [])))
        assert ("fact" in report.unread["now"]) == (facts < len(known))
        assert ("session" in report.unread["now"]) == (sessions < session.count)


def test_a_session_whose_id_was_written_over_has_it_from_its_key(
    luminoracore: Any, local: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H49: two sessions stay two, each rejected for what is really lost (its time), and neither is a duplicate of the other."""
    shape = "user_id/SK+by_session(session_id/created_at)"
    name = local.new()
    migrator.migrate(SAMPLE, local.address(name), Options(create=True, table_shape=shape, kinds=("mood",)))
    storage = on_table(luminoracore, name, local.endpoint, monkeypatch)

    async def live() -> None:
        await storage.save_session("sess-ana", "ana", "Dr. Luna")
        await storage.save_session("sess-bob", "bob", "Dr. Luna")

    asyncio.run(live())
    report = migrator.migrate(local.address(name), tmp_path / "x.db", Options(on_reject="continue"))
    tally = report.kinds["session"].tally
    assert (report.outcome, tally.rejected, tally.duplicates) == ("rejects", 2, 0)
    assert {line["record"]["session_id"] for line in lines_of(report.rejects_file)} == {"sess-ana", "sess-bob"}
    again = migrator.migrate(
        local.address(name), local.address(like := local.new()), Options(create=True, table_shape=shape)
    )
    assert again.outcome == "done"
    assert local.items(like) == local.items(name)


# The application goes on, and all comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_what_luminoracore_writes_afterwards_comes_back_and_the_newest_wins(
    shape: str, luminoracore: Any, local: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its client writes: learned facts and memories with a session id, affinity and metadata without (H3, L3, L4)."""
    name = local.new()
    migrator.migrate(SAMPLE, local.address(name), Options(create=True, table_shape=shape))
    before = {tuple(key): value for *key, value in column("SELECT user_id, category, key, value FROM facts")}
    known = [key for key in before if key[1] == "preferences" or key[1] == "personal_info"][:5] or list(before)[:5]
    storage = on_table(luminoracore, name, local.endpoint, monkeypatch)

    async def live() -> None:
        for number, (user, category, key) in enumerate(known):
            assert await storage.save_fact(
                user, category, key, f"changed {number}", session_id=f"session_{number:012x}_1795338915"
            )
            assert await storage.save_fact(
                user, category, f"new {key}", f"new {number}", session_id=f"session_{number:012x}_1795338915"
            )
        assert await storage.save_memory("кира-0", "after", "the move", session_id="session_00000000000a_1795338915")
        assert await storage.save_affinity("кира-0", "somebody", 12, "stranger")
        assert await storage.save_episode("кира-0", "milestone", "After", "the move", 5.0, "positive")
        await storage.save_session("session_00000000000a_1795338915", "кира-0", "Dr. Luna")

    asyncio.run(live())
    back = migrator.migrate(local.address(name), tmp_path / "back.db", Options(on_reject="continue"))
    # H49: over this index LuminoraCore writes its own key into a time of the session, without which SQLite takes none.
    corrupts = "by_" in shape
    assert (back.outcome, back.proven, back.foreign) == ("rejects" if corrupts else "done", "digest", 0)
    assert (
        [line["kind"] for line in lines_of(back.rejects_file)] == ["session"] if corrupts else back.rejects_file is None
    )
    losers = back.kinds["fact"].tally.duplicates
    assert losers == (len(lines_of(back.duplicates_file)) if back.duplicates_file else 0)
    with closing(sqlite3.connect(tmp_path / "back.db")) as db:
        facts = {tuple(key): value for *key, value in db.execute("SELECT user_id, category, key, value FROM facts")}
        assert db.execute("SELECT memory_value FROM memories WHERE memory_key = 'after'").fetchall() == [("the move",)]
        assert db.execute("SELECT affinity_points FROM affinity WHERE personality_name = 'somebody'").fetchall() == [
            (12,)
        ]
        assert db.execute("SELECT count(*) FROM episodes WHERE title = 'After'").fetchone() == (1,)
        found = db.execute("SELECT user_id FROM sessions WHERE session_id LIKE 'session_00000000000a%'").fetchall()
        assert found == ([] if corrupts else [("кира-0",)])
    changed = {key: f"changed {number}" for number, key in enumerate(known)}
    new = {(user, category, f"new {key}"): f"new {number}" for number, (user, category, key) in enumerate(known)}
    assert facts == before | changed | new


def test_a_table_whose_attributes_have_other_names_is_read_by_a_mapping_of_ones_own(
    tables: Tables, tmp_path: Path
) -> None:
    """H50, a "flexible" store: its keys have names of their own, and so have some fields."""
    mapping = tmp_path / "flexible.toml"
    mapping.write_text(
        'name = "flexible"\nextends = "luminoracore-v1.1"\n'
        '[layouts."user_id/SK"]\nalso = [["owner"], ["place"]]\n'
        '[layouts."user_id/SK".fact.fields]\nvalue = "content"\n'
        '[layouts."user_id/SK".memory.fields]\nmemory_value = { attribute = "body", otherwise = "memory_value" }\n'
    )
    described, items = sample("user_id-SK")
    renamed = {"fact": {"value": "content"}, "memory": {"memory_value": "body"}}
    ours = []
    for item in items[::3]:
        kind = "fact" if item["SK"]["S"].startswith("FACT#") else "memory" if "memory_key" in item else ""
        fields = {renamed.get(kind, {}).get(name, name): value for name, value in item.items() if name != "SK"}
        ours.append(fields | {"owner": item["user_id"], "place": item["SK"]})
    for each in (described["KeySchema"], described["AttributeDefinitions"]):
        for attribute in each:
            attribute["AttributeName"] = {"user_id": "owner", "SK": "place"}[attribute["AttributeName"]]
    source, empty = tables.like(described, ours), tables.like(described, [])
    options = Options(mapping=str(mapping))
    steps = (tmp_path / "x.jsonl", tables.address(empty), tmp_path / "x.db")
    at: Any = tables.address(source)
    for step in steps:
        report = migrator.migrate(at, step, options)
        assert (report.outcome, report.proven, read(report), left_behind(report)) == ("done", "digest", len(ours), 0)
        at = step
    assert tables.items(empty) == tables.items(source)
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        values = {row[0] for row in db.execute("SELECT value FROM facts")}
        assert {row[0] for row in db.execute("SELECT memory_value FROM memories")} == {
            item["body"].get("S") for item in ours if "body" in item
        }
    contents = {item["content"].get("S") for item in ours if "content" in item}
    assert contents
    assert {text for text in contents if text is not None} <= values
    plain = migrator.migrate(
        tables.address(source), tmp_path / "plain.jsonl"
    )  # without it the field is one more, unknown
    assert (plain.outcome, read(plain)) == ("done", len(ours))


OWN = """
name = "notes"
[kinds.note]
identity = ["id"]
[kinds.note.fields]
id = "text"
tags = "json"
pinned = "boolean"
[user]
field = "id"
[layouts.sqlite]
store = "sql"
[layouts.sqlite.note]
collection = ["notes"]
columns = { id = "TEXT NOT NULL PRIMARY KEY", tags_json = "TEXT", pinned = "INTEGER" }
fields = { tags = { attribute = "tags_json", as = "json" } }
[layouts.json]
store = "json"
note = { collection = "notes" }
[layouts."id/SK"]
store = "dynamodb"
key = ["id", "SK"]
[layouts."id/SK".note]
key = ["{id}", "NOTE"]
marks = ["id"]
"""


def test_a_field_of_json_and_one_of_truth_come_back_whatever_they_hold(tables: Tables, tmp_path: Path) -> None:
    """NULL stays NULL and the text `null` stays that text, through a store that knows "absent"; the spelling of a JSON text is no difference."""
    (tmp_path / "notes.toml").write_text(OWN)
    options = Options(mapping=str(tmp_path / "notes.toml"), create=True)
    rows = [("a", None, 1), ("b", "null", 0), ("c", "[1, 2]", None), ("d", '{"x":2.50}', 1), ("e", '"null"', None)]
    with closing(sqlite3.connect(tmp_path / "notes.db")) as db, db:
        db.execute("CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY, tags_json TEXT, pinned INTEGER)")
        db.executemany("INSERT INTO notes VALUES (?, ?, ?)", rows)
    at: Any = tmp_path / "notes.db"
    for step in (tables.address(tables.new()), tmp_path / "x.jsonl", tmp_path / "back.db"):
        report = migrator.migrate(at, step, options)
        assert (report.outcome, report.proven, report.kinds["note"].tally.written) == ("done", "digest", len(rows))
        assert migrator.migrate(at, step, options).kinds["note"].tally.unchanged == len(rows)
        assert migrator.verify(tmp_path / "notes.db", step, Options(mapping=options.mapping)).outcome == "done"
        at = step
    with closing(sqlite3.connect(tmp_path / "back.db")) as db:
        back = db.execute("SELECT id, tags_json, pinned FROM notes ORDER BY id").fetchall()
    assert [(key, None if tags is None else json.loads(tags), pinned) for key, tags, pinned in back] == [
        (key, None if tags is None else json.loads(tags), pinned) for key, tags, pinned in rows
    ]
    assert [tags is None for _, tags, _ in back] == [True, False, False, False, False]
    lines = tmp_path / "one.jsonl"
    lines.write_text(
        '{"kind": "note", "record": {"id": "f"}}\n{"kind": "note", "record": {"id": "g", "pinned": true, "tags": null}}\n'
    )
    absent = migrator.migrate(lines, tmp_path / "one.db", options)
    assert (absent.outcome, absent.proven) == ("done", "digest")
    only = migrator.migrate(lines, tmp_path / "f.db", Options(mapping=options.mapping, user="f"))
    assert only.kinds["note"].tally.written == 1


def test_a_schema_of_ones_own_goes_there_and_back_as_the_format_teaches(tables: Tables, tmp_path: Path) -> None:
    """The worked example of mappings/README.md, word for word: chat messages with a composite key."""
    readme = (Path(__file__).parents[1] / "mappings" / "README.md").read_text("utf-8")
    chat, _, layouts = re.findall(r"```toml\n(.*?)```", readme, re.S)[:3]
    mapping = tmp_path / "chat.toml"
    mapping.write_text(f"{chat}\n{layouts}".replace('extends = "luminoracore-v1.1"', ""))
    with closing(sqlite3.connect(tmp_path / "chat.db")) as db, db:
        db.execute(
            "CREATE TABLE messages (channel TEXT NOT NULL, sent_at TEXT NOT NULL, body TEXT, stars INTEGER, edited_at TEXT, ttl INTEGER, PRIMARY KEY (channel, sent_at))"
        )
        rows = [
            (f"c{n % 7}", f"2026-01-01T00:00:{n:02}", f"text {n} 🦜", n if n % 3 else None, None, n) for n in range(60)
        ]
        db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
    options = Options(create=True, mapping=str(mapping))
    table = tables.new()
    for at, to in (
        (str(tmp_path / "chat.db"), tables.address(table)),
        (tables.address(table), str(tmp_path / "back.db")),
    ):
        report = migrator.migrate(at, to, options)
        assert (report.outcome, report.proven, report.kinds["message"].tally.written) == ("done", "digest", 60)
        again = migrator.migrate(at, to, options)
        assert again.kinds["message"].tally.unchanged == 60
    with closing(sqlite3.connect(tmp_path / "back.db")) as db:
        assert sorted(
            db.execute("SELECT channel, sent_at, body, stars, edited_at, ttl FROM messages"), key=repr
        ) == sorted(rows, key=repr)
    described = tables.client.describe_table(TableName=table)["Table"]["KeySchema"]
    assert [each["AttributeName"] for each in described] == ["channel", "SK"]
