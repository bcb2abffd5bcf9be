"""LuminoraCore itself as the judge: its own classes are asked before and after, and go on writing where we have written."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import uuid
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import migrator
from migrator import Options
from stores import DATA
from tables import address_of
from test_pairs import count_in, rows_in, unchanged, written

SAMPLE = DATA / "chat.db"
ONLY_LONG = pytest.mark.skipif(os.environ.get("MIGRATOR_LONG") != "1", reason="long profile: scripts/test --long")
WIDE_OPEN = 36_500  # days

Answers = dict[tuple[Any, ...], Any]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("moto user_id/SK", marks=ONLY_LONG),
        "dynamodb_local user_id/SK",
        "dynamodb_local session_id/SK+GSI1",
    ],
)
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """The sample in a table of our making: its name, endpoint and shape."""
    server, _, shape = request.param.partition(" ")
    endpoint = request.getfixturevalue(f"{server}_endpoint")
    table = f"application-{uuid.uuid4().hex[:12]}"
    options = Options(state=str(tmp_path_factory.mktemp("states")), create=True, table_shape=shape)
    report = migrator.migrate(str(SAMPLE), address_of(table, endpoint), options)
    assert (report.outcome, report.proven) == ("done", "digest")
    return table, endpoint, shape


@pytest.fixture
def before(luminoracore: ModuleType, tmp_path: Path) -> Any:
    """LuminoraCore on the sample in SQLite."""
    shutil.copy(SAMPLE, tmp_path / "before.db")
    return luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11(str(tmp_path / "before.db"))


@pytest.fixture
def after(luminoracore: ModuleType, migrated: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """LuminoraCore on the migrated table."""
    table, endpoint, _ = migrated
    return on_table(luminoracore, table, endpoint, monkeypatch)


def on_table(luminoracore: ModuleType, table: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return luminoracore.storage("dynamodb_flexible").FlexibleDynamoDBStorageV11(table, region_name="eu-west-1")


def column(query: str) -> list[Any]:
    with closing(sqlite3.connect(f"{SAMPLE.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def users() -> list[str]:
    tables = ("facts", "affinity", "episodes", "moods", "memories", "sessions")
    return [user for (user,) in column(" UNION ".join(f"SELECT user_id FROM {table}" for table in tables))]


async def facts_of(storage: Any) -> Answers:
    """By user, category and key; two under one name would be seen."""
    found: Answers = {}
    for user in users():
        for fact in await storage.get_facts(user):
            assert found.setdefault((user, fact["category"], fact["key"]), fact) is fact
    return found


async def rest_of(storage: Any) -> Answers:
    found: Answers = {}
    for user in users():
        found["episodes", user] = sorted(map(as_text, await storage.get_episodes(user)))
        found["moods", user] = sorted(map(as_text, await storage.get_mood_history(user, days_back=WIDE_OPEN)))
    for user, personality in column("SELECT user_id, personality_name FROM affinity"):
        found["affinity", user, personality] = as_text(await storage.get_affinity(user, personality))
    for user, key in column("SELECT user_id, memory_key FROM memories"):
        found["memory", user, key] = as_text(await storage.get_memory(user, key))
    return found


def as_text(answer: Any) -> str:
    """A DynamoDB number is a Decimal where SQLite's is an int (fact sheet 4.1): by value, and nothing else is let pass."""
    return json.dumps(answer, sort_keys=True, default=_whole)


def _whole(value: Decimal) -> int:
    assert value == int(value)
    return int(value)


def test_luminoracore_answers_the_same_from_the_migrated_table(before: Any, after: Any) -> None:
    ours, theirs = asyncio.run(rest_of(before)), asyncio.run(rest_of(after))
    assert theirs == ours
    for sort in ("episodes", "moods"):
        assert (
            sum(len(answer) for name, answer in ours.items() if name[0] == sort)
            == column(f"SELECT count(*) FROM {sort}")[0][0]
        )
    assert "null" not in {answer for name, answer in ours.items() if name[0] == "affinity"}


def test_facts_are_the_same_but_for_their_type(before: Any, after: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = asyncio.run(facts_of(before)), asyncio.run(facts_of(after))
    stored = {
        name: text
        for *name, text in column("SELECT user_id, category, key, value FROM facts")
        for name in [tuple(name)]
    }
    assert set(ours) == set(theirs) == set(stored)
    retyped = []
    for name, fact in ours.items():
        assert {n: v for n, v in theirs[name].items() if n != "value"} == {
            n: v for n, v in fact.items() if n != "value"
        }
        assert fact["value"] == from_sqlite(stored[name]) and theirs[name]["value"] == from_dynamodb(stored[name])
        if type(fact["value"]) is not type(theirs[name]["value"]):
            retyped.append((*name, type(fact["value"]).__name__, type(theirs[name]["value"]).__name__))
    with capsys.disabled():
        print(
            f"\n{len(retyped)} of {len(ours)} fact values come back as text, as LuminoraCore gives them from DynamoDB:"
        )
        sorts = {each[3:] for each in retyped}
        for was, now in sorted(sorts):
            print(f"  {sum(each[3:] == (was, now) for each in retyped):4} {was} → {now}")
    assert retyped and {now for *_, now in retyped} == {"str"}


def from_sqlite(text: str) -> Any:
    """What LuminoraCore makes of a stored text (fact sheet 2.4)."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def from_dynamodb(text: str) -> str:
    """The same there: always text, an object or a list written anew."""
    parsed = from_sqlite(text)
    return json.dumps(parsed, ensure_ascii=False) if isinstance(parsed, dict | list) else text


def test_sessions_are_found_where_luminoracore_can_find_them(
    before: Any, after: Any, migrated: tuple[str, str, str]
) -> None:
    _, _, shape = migrated
    for (session,) in column("SELECT session_id FROM sessions"):
        ours, theirs = asyncio.run(before.get_session(session)), asyncio.run(after.get_session(session))
        if shape == "user_id/SK":  # it looks under the session's id, and the hash is the user's (fact sheet L4)
            assert theirs is None
        else:
            names = set(ours) - {"id", "ttl"}
            assert {name: theirs[name] for name in names} == {name: ours[name] for name in names}
            assert theirs["TTL"] == ours["ttl"]


# The application goes on ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived_on(luminoracore: ModuleType, moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A new table of ours into which LuminoraCore has written since; its address."""
    table = f"application-{uuid.uuid4().hex[:12]}"
    migrator.migrate(str(SAMPLE), address_of(table, moto_endpoint), options(tmp_path_factory.mktemp("lived")))
    with pytest.MonkeyPatch.context() as patch:
        storage = on_table(luminoracore, table, moto_endpoint, patch)

    async def live() -> None:
        session = {"session_id": "session_0123456789ab_1795338915"}
        assert await storage.save_fact("кира-0", "work", "new boss", {"name": "María"}, confidence=0.75, **session)
        assert await storage.save_episode("кира-0", "milestone", "Moved", "to a new home", 9.5, "positive", **session)
        assert await storage.save_mood("кира-0", "serene", 0.5, "after the move", **session)
        assert await storage.save_memory("кира-0", "last move", [1, 2.5], **session)
        assert await storage.save_affinity("кира-0", "a new friend", 3, "stranger", **session)
        facts = [fact for fact in await storage.get_facts("кира-0", "work") if fact["key"] == "new boss"]
        assert [(fact["value"], fact["confidence"]) for fact in facts] == [('{"name": "María"}', 0.75)]
        assert [e["summary"] for e in await storage.get_episodes("кира-0") if e["title"] == "Moved"] == [
            "to a new home"
        ]
        assert [m["context"] for m in await storage.get_mood_history("кира-0", mood_type="serene")] == [
            "after the move"
        ]
        assert await storage.get_memory("кира-0", "last move") == [1, 2.5]
        assert (await storage.get_affinity("кира-0", "a new friend"))["affinity_points"] == 3

    asyncio.run(live())
    return address_of(table, moto_endpoint)


NEW = 5


def options(folder: Path) -> Options:
    return Options(state=str(folder / "states"), create=True)


def test_what_luminoracore_writes_into_our_table_it_finds_again_and_nothing_is_doubled(
    lived_on: str, tmp_path: Path
) -> None:
    again = migrator.migrate(str(SAMPLE), lived_on, options(tmp_path))
    assert (again.outcome, written(again), unchanged(again)) == ("done", 0, count_in(SAMPLE))
    back = migrator.migrate(lived_on, str(tmp_path / "back.db"), options(tmp_path))
    assert (back.outcome, back.proven, written(back)) == ("done", "digest", count_in(SAMPLE) + NEW)
    found = rows_in(tmp_path / "back.db")
    assert all(set(rows) <= set(found[table]) for table, rows in rows_in(SAMPLE).items())


def test_the_way_back_into_the_old_file_brings_only_what_is_new(
    lived_on: str, luminoracore: ModuleType, tmp_path: Path
) -> None:
    shutil.copy(SAMPLE, tmp_path / "chat.db")
    for wanted in (NEW, 0):
        report = migrator.migrate(lived_on, str(tmp_path / "chat.db"), options(tmp_path))
        assert (report.outcome, written(report), unchanged(report)) == ("done", wanted, count_in(SAMPLE) + NEW - wanted)
        assert count_in(tmp_path / "chat.db") == count_in(SAMPLE) + NEW
    storage = luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11(str(tmp_path / "chat.db"))

    async def look() -> None:
        facts = [fact for fact in await storage.get_facts("кира-0", "work") if fact["key"] == "new boss"]
        assert [(fact["value"], fact["confidence"]) for fact in facts] == [({"name": "María"}, 0.75)]
        assert [e["summary"] for e in await storage.get_episodes("кира-0") if e["title"] == "Moved"] == [
            "to a new home"
        ]
        assert [m["context"] for m in await storage.get_mood_history("кира-0", mood_type="serene")] == [
            "after the move"
        ]
        assert await storage.get_memory("кира-0", "last move") == [1, 2.5]

    asyncio.run(look())
