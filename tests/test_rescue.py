"""Rescue from memory: a running chat whose storage is in this process, rescued, restarted on a store, and asked again.

The storages are LuminoraCore's own classes; Core's, whose file is not at hand, is built here by fact sheet 2.11.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import migrator
from migrator import ConfigError, Options, Report
from migrator.adapters import memory
from migrator.adapters.sql import adapter as sql
from migrator.run import Silent
from tables import client_of

USERS = [f"user-{number}" for number in range(50)]
LUNA = "Dr. Luna"


@pytest.fixture(autouse=True)
def _states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "states"))


@pytest.fixture
def v11(luminoracore: ModuleType) -> Any:
    return luminoracore.storage("v1_1").InMemoryStorageV11()


@pytest.fixture
def v10(luminoracore: ModuleType) -> Any:
    module = luminoracore.storage("storage")
    return module.InMemoryStorage(module.StorageConfig())


@pytest.fixture
def table(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a table that is not there yet, at an endpoint that LuminoraCore finds too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    name = f"rescue-{uuid.uuid4().hex[:12]}"
    yield f"dynamodb://{name}?region=eu-west-1&endpoint={moto_endpoint}"
    with closing(client_of(moto_endpoint)) as client:
        if name in client.list_tables()["TableNames"]:
            client.delete_table(TableName=name)


def sqlite(luminoracore: ModuleType, path: Path) -> Any:
    return luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11(str(path))


def counts(report: Report, name: str) -> dict[str, int]:
    """Of each kind, where there are any."""
    found = {kind: getattr(each.tally, name) for kind, each in report.kinds.items()}
    return {kind: count for kind, count in found.items() if count}


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def rejects(report: Report) -> list[dict[str, Any]]:
    if report.rejects_file is None:
        return []
    return [json.loads(line) for line in Path(report.rejects_file).read_text("utf-8").splitlines()]


# A chat ----------------------------------------------------------------------------------------------------------------


async def begin(storage: Any, user: str) -> None:
    """A user comes: what LuminoraCore's client saves then (fact sheet 2.12)."""
    now, session = datetime.now(), f"session_{user}"
    expires = (now + timedelta(seconds=3600)).isoformat()
    provider = {"name": "openai", "api_key": "sk-EXAMPLE", "model": "gpt-4o-mini"}
    await storage.save_session(
        session, user, LUNA, now.isoformat(), expires, now.isoformat(), "active", provider_config=provider
    )
    about = {"session_id": session, "personality_name": LUNA, "expires_at": expires, "provider_config": provider}
    await storage.save_fact(user, "session_metadata", f"session_{session}", about)
    await storage.save_affinity(user, LUNA, 0, "stranger", created_at=now.isoformat())
    await storage.save_episode(user, "milestone", "First talk", f"with {user} ⛴", 7.5, "positive", session_id=session)
    await storage.save_mood(session, user, "curious", 0.25)
    await storage.save_fact(user, "personal_info", "name", "María", confidence=0.9, session_id=session)
    await storage.save_fact(user, "personal_info", "age", 42, session_id=session)
    await storage.save_fact(user, "preferences", "likes_tea", True, session_id=session)
    await storage.save_fact(user, "preferences", "seen", [1, None, {"é": 2.5}], session_id=session)


async def say(storage: Any, user: str, number: int) -> None:
    """A message and its answer, with all they change."""
    session, now = f"session_{user}", datetime.now()
    turn = {"user_message": f"m{number}", "assistant_response": "Sí", "timestamp": now.isoformat()}
    await storage.save_fact(session, "conversation_history", f"turn_{number:06}", json.dumps(turn))
    await storage.save_affinity(session, LUNA, number, "friend", total_interactions=number, positive_interactions=1)
    await storage.save_fact(user, "personal_info", "name", f"María {number}", confidence=0.9, session_id=session)
    await storage.update_session_activity(session, now.isoformat())
    await asyncio.sleep(0)


async def chat(storage: Any, users: list[str], messages: int = 3) -> None:
    for user in users:
        await begin(storage, user)
        for number in range(1, messages + 1):
            await say(storage, user, number)


def meant(value: Any) -> Any:
    """What the application makes of a fact's value: from some of its stores JSON text comes as what it says (fact sheet 2.4)."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


async def answers(storage: Any, users: list[str], has_history: bool) -> dict[Any, Any]:
    """What a storage says of its users, in the words that memory and files share."""
    found: dict[Any, Any] = {}
    for user in users:
        for owner in (user, f"session_{user}"):
            facts = await storage.get_facts(owner)
            found["facts", owner] = {(f["category"], f["key"]): (meant(f["value"]), f["updated_at"]) for f in facts}
            assert len(found["facts", owner]) == len(facts)
            points = await storage.get_affinity(owner, LUNA)
            names = ("affinity_points", "current_level", "updated_at")
            found["affinity", owner] = points and {name: points[name] for name in names}
        names = ("episode_type", "title", "summary", "importance", "sentiment")
        found["episodes", user] = [{n: e[n] for n in names} for e in await storage.get_episodes(user)]
        if has_history:
            moods = [(m["mood_type"], m["intensity"], m["created_at"]) for m in await storage.get_mood_history(user)]
        else:
            mood = await storage.get_mood(f"session_{user}")
            moods = [(mood["current_mood"], mood["mood_intensity"], mood["updated_at"])] if mood else []
        found["moods", user] = moods
    return found


async def sessions(storage: Any, users: list[str]) -> list[Any]:
    names = ("session_id", "user_id", "personality_name", "created_at", "last_activity")
    return [{name: (await storage.get_session(f"session_{user}"))[name] for name in names} for user in users]


# LuminoraCore 1.1 --------------------------------------------------------------------------------------------------------


def test_a_chat_with_fifty_users_is_rescued_while_it_runs_and_goes_on_on_sqlite(
    v11: Any, luminoracore: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "luminoracore.db"  # no folder yet, as on the day a chat is in need of one

    async def live() -> tuple[Report, Report, dict[Any, Any], list[Any], int]:
        await chat(v11, USERS)
        is_over, said = asyncio.Event(), 0

        async def write() -> None:
            nonlocal said
            while not is_over.is_set():
                said += 1
                await say(v11, USERS[said % 50], 1000 + said)
                await asyncio.sleep(0.001)  # a chat waits for its people, and leaves the machine to others

        writer = asyncio.create_task(write())
        await asyncio.sleep(0.02)
        first = await migrator.rescue_async(v11, f"sqlite:///{path}")
        before = said
        is_over.set()
        await writer
        last = migrator.rescue(v11, f"sqlite:///{path}")  # the plain call under the loop
        return first, last, await answers(v11, USERS, False), await sessions(v11, USERS), before

    first, last, told, known, meanwhile = asyncio.run(live())
    assert meanwhile > 50, "the loop went on while the copy was written"
    assert (first.outcome, first.proven, last.outcome) == ("done", "digest", "done")
    assert counts(first, "read") == counts(first, "written") and counts(first, "written")["session"] == 50
    assert counts(last, "written")["session"] > 0 and counts(last, "unchanged")["episode"] == 50
    restarted = sqlite(luminoracore, path)
    assert asyncio.run(answers(restarted, USERS, True)) == told
    assert asyncio.run(sessions(restarted, USERS)) == known
    assert len(told["facts", "session_user-0"]) > 3


def test_the_copy_is_of_the_moment_of_the_call(v11: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def live() -> Report:
        await chat(v11, USERS[:2])
        rescue = asyncio.create_task(migrator.rescue_async(v11, path))
        await asyncio.sleep(0)  # the task has begun, and its copy is taken
        for user in USERS[:2]:
            v11._sessions[f"session_{user}"]["personality_name"] = "changed in place"
        await begin(v11, "late")
        return await rescue

    report = asyncio.run(live())
    assert report.outcome == "done"
    assert rows(path, "SELECT user_id, personality_name FROM sessions") == [(user, LUNA) for user in USERS[:2]]
    assert report.snapshot is not None and report.snapshot["moment"] is not None


def test_the_storage_is_left_as_it_was(v11: Any, tmp_path: Path) -> None:
    asyncio.run(chat(v11, USERS[:3]))
    before, stores = json.dumps(vars(v11)), set(memory._STORES)
    migrator.rescue(v11, tmp_path / "chat.db")
    assert json.dumps(vars(v11)) == before and set(memory._STORES) == stores


def test_a_session_keeps_its_moment_of_expiry(v11: Any, tmp_path: Path) -> None:
    asyncio.run(begin(v11, "ana"))
    expires = datetime.fromisoformat(v11._sessions["session_ana"]["expires_at"])
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert rows(tmp_path / "chat.db", "SELECT ttl, updated_at = last_activity FROM sessions") == [
        (int(expires.timestamp()), 1)
    ]
    assert [words for words in report.narrowed if words.startswith("session")] == [
        f"session {name} stays behind: this sink has no place for it (1 record)"
        for name in ("status", "provider_config")
    ]


def test_an_expiry_in_the_hour_that_the_clock_repeats_is_not_guessed(
    v11: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    try:
        for session, expires in (("s1", "2025-10-26T02:30:00"), ("s2", "2025-10-26T04:30:00"), ("s3", None)):
            asyncio.run(
                v11.save_session(session, "ana", LUNA, "2025-10-26T01:00:00", expires, "2025-10-26T01:00:00", "active")
            )
        report = migrator.rescue(v11, tmp_path / "chat.db")
        lines = migrator.rescue(v11, tmp_path / "chat.jsonl")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert rows(tmp_path / "chat.db", "SELECT session_id, ttl FROM sessions") == [("s2", 1761449400)]
    assert (report.outcome, counts(report, "rejected")) == ("rejects", {"session": 2})
    reasons = {each["record"]["session_id"]: each["reason"] for each in rejects(report)}
    assert "expires_at" in reasons["s1"] and "ttl" in reasons["s3"]
    assert lines.outcome == "done"  # where there is room for it the time travels as it is
    held = [json.loads(line)["record"] for line in (tmp_path / "chat.jsonl").read_text("utf-8").splitlines()]
    assert [each.get("expires_at") for each in held] == ["2025-10-26T02:30:00", None, None]
    assert {each["status"] for each in held} == {"active"}


def test_what_has_no_place_is_rejected_with_its_reason_and_kept_in_a_file(v11: Any, tmp_path: Path) -> None:
    async def fill() -> None:
        await v11.save_snapshot("ana", "s1", {"mood": "calm"})
        await v11.save_fact("ana", "work", "boss", "Zoë", tags=["a", "b"])
        await v11.save_fact("ana", "work", "desk", "left")

    asyncio.run(fill())
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert (report.outcome, report.exit_code, report.rejected) == ("rejects", 3, 2)
    assert rows(tmp_path / "chat.db", "SELECT key FROM facts") == [("desk",)]
    snapshot, fact = sorted(rejects(report), key=lambda each: str(each["kind"]), reverse=True)
    assert (snapshot["kind"], snapshot["record"]["snapshot_data"]) == ("snapshot", {"mood": "calm"})
    assert "no place for a snapshot" in snapshot["reason"] and "ana_snapshot_s1" in snapshot["place"]
    assert "tags" in fact["reason"] and fact["record"]["tags"] == ["a", "b"] and "_facts['ana'][0]" in fact["place"]
    dropped = migrator.rescue(v11, tmp_path / "dropped.db", Options(unknown_fields="drop"))
    assert counts(dropped, "written") == {"fact": 2}


def test_snapshots_alone_are_not_lost_either(v11: Any, tmp_path: Path) -> None:
    asyncio.run(v11.save_snapshot("ana", "s1", {"mood": "calm"}))
    report = migrator.rescue(v11, tmp_path / "chat.db", Options(allow_empty=True))
    assert [each["record"]["snapshot_id"] for each in rejects(report)] == ["s1"] and report.outcome == "rejects"


def test_moods_that_were_saved_the_flexible_way_are_put_right(
    v11: Any, luminoracore: ModuleType, tmp_path: Path
) -> None:
    async def fill() -> None:
        await v11.save_mood("ana", "serene", 0.5, "after the move")  # as the Flexible classes take it
        await v11.save_mood("session_bo", "bo", "happy", 0.75)
        await v11.save_mood("eve", "tense", 0.5)  # shifted, and its 1.0 may be the default or not

    asyncio.run(fill())
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert any("shifted by one" in words and "1 record" in words for words in report.narrowed)
    (reject,) = rejects(report)
    assert "which is which cannot be told" in reject["reason"] and reject["record"]["session_id"] == "eve"
    storage = sqlite(luminoracore, tmp_path / "chat.db")
    (mood,) = asyncio.run(storage.get_mood_history("ana"))
    assert (mood["mood_type"], mood["intensity"], mood["context"]) == ("serene", 0.5, "after the move")
    (mood,) = asyncio.run(storage.get_mood_history("bo"))
    assert (mood["mood_type"], mood["intensity"], mood["context"]) == ("happy", 0.75, None)
    assert rows(tmp_path / "chat.db", "SELECT session_id FROM moods ORDER BY user_id") == [(None,), ("session_bo",)]


def test_a_number_as_an_id_is_the_text_unless_that_is_somebody_else(v11: Any, tmp_path: Path) -> None:  # H23
    async def fill() -> None:
        for user in (42, "42", 7):
            await v11.save_fact(user, "work", "boss", f"of {user!r}")
        await v11.save_fact(42, "work", "desk", "only the number has one")

    asyncio.run(fill())
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert rows(tmp_path / "chat.db", "SELECT user_id, key, value FROM facts ORDER BY user_id, key") == [
        ("42", "boss", "of '42'"),
        ("42", "desk", "only the number has one"),
        ("7", "boss", "of 7"),
    ]
    assert [each["record"]["value"] for each in rejects(report)] == ["of 42"]
    assert report.closes and counts(report, "written") == {"fact": 3}
    assert any("fact user_id: what was no text is written as text (3 records)" in words for words in report.narrowed)


def test_a_separator_in_an_id_confuses_nobody(v11: Any, tmp_path: Path) -> None:  # H2
    async def fill() -> None:
        await v11.save_affinity("a:b", "c", 1, "stranger")
        await v11.save_affinity("a", "x:y", 2, "stranger")
        await v11.save_fact("a:b", "c:d", "e_f", "colons")

    asyncio.run(fill())
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert report.outcome == "done"
    assert rows(tmp_path / "chat.db", "SELECT user_id, personality_name, affinity_points FROM affinity ORDER BY 3") == [
        ("a:b", "c", 1),
        ("a", "x:y", 2),
    ]
    assert rows(tmp_path / "chat.db", "SELECT user_id, category, key FROM facts") == [("a:b", "c:d", "e_f")]


class Colour(Enum):
    RED = "red"


class Tone(str, Enum):  # noqa: UP042 (as LuminoraCore writes its own)
    WARM = "warm"


def test_values_are_written_as_luminoracore_writes_them(v11: Any, luminoracore: ModuleType, tmp_path: Path) -> None:
    provider = SimpleNamespace(name="openai", extra={"tries": 3})
    values: dict[str, Any] = {
        "text": "plain", "digits": "0042", "number": 42, "float": 0.1, "yes": True, "nothing": None, "list": [1, "é"],
        "object": provider, "enum": Colour.RED, "decimal": Decimal("1.10"), "set": frozenset({1}),
    }  # fmt: skip

    async def fill() -> None:
        for key, value in values.items():
            await v11.save_fact("ana", "work", key, value)
        circle: list[Any] = []
        circle.append(circle)
        await v11.save_fact("ana", "work", "circle", circle)
        await v11.save_fact("ana", "work", "keys", {(1, 2): "a pair"})
        await v11.save_episode("ana", "milestone", "t", "s", 7, Tone.WARM, timestamp=datetime(2025, 3, 1, 10, 20, 30))
        await v11.save_affinity("ana", LUNA, True, "stranger")

    asyncio.run(fill())
    report = migrator.rescue(v11, tmp_path / "chat.db")
    stored = dict(rows(tmp_path / "chat.db", "SELECT key, value FROM facts"))
    assert stored == {
        "text": "plain", "digits": "0042", "number": "42", "float": "0.1", "yes": "true", "nothing": "null", "list": '[1, "\\u00e9"]',
        "object": '{"name": "openai", "extra": {"tries": 3}}', "enum": '"red"', "decimal": "1.10", "set": "frozenset({1})",
    }  # fmt: skip
    assert {each["reason"] for each in rejects(report)} == {
        "value is nested too deeply, or holds itself",
        "value holds an object with a key that is not text",
        "affinity_points holds a boolean, the mapping says integer",
    }
    facts = asyncio.run(sqlite(luminoracore, tmp_path / "chat.db").get_facts("ana"))
    read = {fact["key"]: fact["value"] for fact in facts}
    assert all(read[key] == values[key] for key in ("text", "digits", "number", "float", "yes", "nothing", "list"))
    episodes = rows(tmp_path / "chat.db", "SELECT sentiment, created_at, updated_at FROM episodes")
    assert episodes == [("warm", "2025-03-01T10:20:30", None)]


def test_what_luminoracore_will_read_as_another_type_is_said(v11: Any, tmp_path: Path, table: str) -> None:
    async def fill() -> None:
        for key, value in (("a", "42"), ("b", "plain"), ("c", 1), ("d", [2])):
            await v11.save_fact("ana", "work", key, value)

    asyncio.run(fill())
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert any("text that is JSON is read as JSON" in each and "1 record)" in each for each in report.narrowed)
    report = migrator.rescue(v11, table, Options(create=True))
    assert any("no text is read as its JSON text" in each and "2 records)" in each for each in report.narrowed)


def test_a_chat_is_rescued_into_dynamodb_and_goes_on_there(v11: Any, luminoracore: ModuleType, table: str) -> None:
    users = USERS[:5]
    asyncio.run(chat(v11, users))
    report = migrator.rescue(v11, table, Options(create=True, existing="newer"))
    assert (report.outcome, report.proven) == ("done", "digest")
    asyncio.run(say(v11, users[0], 1001))
    again = migrator.rescue(v11, table)
    assert again.outcome == "done" and sum(counts(again, "written").values()) == 4
    storage = luminoracore.storage("dynamodb_flexible").FlexibleDynamoDBStorageV11(
        table.split("//")[1].split("?")[0], region_name="eu-west-1"
    )
    assert asyncio.run(answers(storage, users, True)) == asyncio.run(answers(v11, users, False))


# Called again ------------------------------------------------------------------------------------------------------------


def test_a_newer_record_of_the_sink_stays_and_an_older_one_gives_way(v11: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    asyncio.run(chat(v11, ["ana", "bo"]))
    migrator.rescue(v11, path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE facts SET value = 'later', updated_at = '2999-01-01T00:00:00' WHERE user_id = 'ana' AND key = 'name'"
        )
        db.execute(
            "UPDATE facts SET value = 'earlier', updated_at = '2001-01-01T00:00:00' WHERE user_id = 'bo' AND key = 'name'"
        )
    report = migrator.rescue(v11, path)
    assert report.outcome == "done" and (counts(report, "written"), counts(report, "kept")) == (
        {"fact": 1},
        {"fact": 1},
    )
    assert rows(path, "SELECT value FROM facts WHERE key = 'name' ORDER BY user_id") == [("later",), ("María 3",)]
    assert report.replaced_file is not None and "earlier" in Path(report.replaced_file).read_text("utf-8")


def test_options_that_are_given_hold(v11: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    asyncio.run(chat(v11, ["ana"]))
    migrator.rescue(v11, path)
    asyncio.run(say(v11, "ana", 9))
    report = migrator.rescue(v11, path, Options(existing="refuse"))
    assert (report.outcome, counts(report, "differing")) == ("differences", {"fact": 1, "affinity": 1, "session": 1})
    assert report.mend == "the same call again, --existing replace"
    report = migrator.rescue(v11, path, Options(existing="keep"))
    assert report.outcome == "done" and counts(report, "kept") == {"fact": 1, "affinity": 1, "session": 1}
    report = migrator.rescue(v11, tmp_path / "new" / "dry.db", Options(dry_run=True))
    assert report.command == "dry-run" and not (tmp_path / "new").exists()


def test_two_rescues_at_once_do_not_meet(luminoracore: ModuleType, tmp_path: Path) -> None:
    storages = [luminoracore.storage("v1_1").InMemoryStorageV11() for _ in range(3)]

    async def both() -> list[Report]:
        for turn, storage in enumerate(storages):
            await chat(storage, [f"only-{turn}"])
        runs = [migrator.rescue_async(each, tmp_path / f"{turn}.db") for turn, each in enumerate(storages)]
        return await asyncio.gather(*runs)

    reports = asyncio.run(both())
    assert [report.outcome for report in reports] == ["done"] * 3
    for turn in range(3):
        assert rows(tmp_path / f"{turn}.db", "SELECT DISTINCT user_id FROM sessions") == [(f"only-{turn}",)]


# LuminoraCore 1.0 --------------------------------------------------------------------------------------------------------


def blob(luminoracore: ModuleType, session: str) -> dict[str, Any]:
    """What SessionManager saves (fact sheet 1.1), with LuminoraCore's own classes."""
    types = __import__("luminoracore_sdk.types.session", fromlist=["Message"])
    at = datetime(2025, 11, 3, 17, 20, 41, 118204)
    messages = [types.Message("user", "Is the ferry running? ⛴", at), types.Message("assistant", "Sí", at, {"id": 81})]
    config = {"name": "openai", "api_key": "sk-EXAMPLE", "model": "gpt-4o-mini", "base_url": None, "extra": {}}
    return {
        "config": types.SessionConfig(session, {"name": "harbour"}, config),
        "conversation": types.Conversation(session, messages, {}, at, at),
        "personality": {"name": "harbour", "tags": ("a", "b"), 7: "seven"},
        "provider": SimpleNamespace(config=config, name="openai", timeout=30.0),
        "created_at": at,
        "last_activity": at,
    }


def test_blobs_become_the_file_that_luminoracore_itself_would_write(
    v10: Any, luminoracore: ModuleType, tmp_path: Path
) -> None:
    module = luminoracore.storage("storage")

    def file(path: Path) -> Any:
        return module.JSONFileStorage(module.StorageConfig(connection_string=str(path)))

    ids = [str(uuid.uuid4()) for _ in range(50)]

    async def live() -> list[Report]:
        theirs = file(tmp_path / "theirs.json")
        for session in ids:
            await v10.save_session(session, blob(luminoracore, session))
            await theirs.save_session(session, blob(luminoracore, session))
        return [migrator.rescue(v10, tmp_path / "new" / name) for name in ("ours.json", "ours.db")]

    for report in asyncio.run(live()):
        assert (report.outcome, report.proven, counts(report, "written")) == ("done", "digest", {"session_blob": 50})
    assert (tmp_path / "new" / "ours.json").read_bytes() == (tmp_path / "theirs.json").read_bytes()

    async def restarted() -> None:
        ours = file(tmp_path / "new" / "ours.json")
        assert await ours.list_sessions() == ids
        loaded = await ours.load_session(ids[0])
        assert [m["content"] for m in loaded["conversation"]["messages"]] == ["Is the ferry running? ⛴", "Sí"]

    asyncio.run(restarted())
    back = migrator.migrate(tmp_path / "new" / "ours.db", tmp_path / "back.json")
    assert back.outcome == "done"
    assert json.loads((tmp_path / "back.json").read_bytes()) == json.loads((tmp_path / "theirs.json").read_bytes())


def test_blobs_that_went_on_differ_and_are_not_overwritten_unasked(v10: Any, tmp_path: Path) -> None:
    path = tmp_path / "blobs.db"

    async def save(session: str, text: str) -> None:
        await v10.save_session(session, {"messages": [text]})

    asyncio.run(save("s1", "one"))
    migrator.rescue(v10, path)
    asyncio.run(save("s1", "two"))
    asyncio.run(save("s2", "new"))
    report = migrator.rescue(v10, path)
    assert report.outcome == "differences" and counts(report, "written") == {"session_blob": 1}
    report = migrator.rescue(v10, path, Options(existing="replace"))
    assert report.outcome == "done"
    assert [text for (text,) in rows(path, "SELECT session_data FROM session_blobs ORDER BY session_id")] == [
        '{"messages":["two"]}',
        '{"messages":["new"]}',
    ]


def test_a_blob_that_holds_itself_is_rejected_with_the_parts_that_can_be_said(v10: Any, tmp_path: Path) -> None:
    circle = SimpleNamespace()
    circle.client = circle
    asyncio.run(v10.save_session("s1", {"messages": ["hello"], "provider": circle}))
    asyncio.run(v10.save_session("s2", {"messages": ["fine"]}))
    report = migrator.rescue(v10, tmp_path / "blobs.db")
    assert counts(report, "written") == {"session_blob": 1}
    (reject,) = rejects(report)
    assert reject["reason"] == "session_data is nested too deeply, or holds itself"
    assert reject["record"]["session_data"]["messages"] == ["hello"] and reject["record"]["session_id"] == "s1"


# Core, other storages, and what is none ----------------------------------------------------------------------------------------


class InMemoryStorage:
    """Core's own (fact sheet 2.11)."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {"facts": {}, "episodes": {}, "affinities": {}}

    def fill(self, user: str) -> None:
        now = datetime.now().isoformat()
        fact = {
            "user_id": user,
            "category": "a_b",
            "key": "c",
            "value": [1],
            "confidence": 0.8,
            "created_at": now,
            "updated_at": now,
        }
        self.data["facts"][user] = {f"{user}_a_b_c": {"id": f"{user}_a_b_c"} | fact}
        episode = {
            "episode_type": "milestone",
            "title": "t",
            "summary": "s",
            "importance": 0.5,
            "sentiment": "neutral",
            "created_at": now,
        }
        self.data["episodes"][user] = [
            {"id": "episode_1", "user_id": user, "metadata": {}} | episode,
            {"id": "episode_2", "user_id": user, "metadata": {"place": "port"}} | episode | {"title": "u"},
        ]
        points = {"points": 21, "level": "friend", "interaction_count": 5, "last_interaction": now, "created_at": now}
        self.data["affinities"][user] = {f"{user}_{LUNA}": {"user_id": user, "personality_name": LUNA} | points}


def test_cores_own_storage_is_rescued_too(luminoracore: ModuleType, tmp_path: Path) -> None:
    core = InMemoryStorage()
    core.fill("ana")
    report = migrator.rescue(core, tmp_path / "chat.db")
    assert counts(report, "written") == {"fact": 1, "episode": 1, "affinity": 1}
    (reject,) = rejects(report)
    assert "metadata" in reject["reason"] and reject["record"]["title"] == "u"
    storage = sqlite(luminoracore, tmp_path / "chat.db")

    async def look() -> None:
        (fact,) = await storage.get_facts("ana")
        assert (fact["category"], fact["key"], fact["value"], fact["confidence"]) == ("a_b", "c", [1], 0.8)
        points = await storage.get_affinity("ana", LUNA)
        assert (points["affinity_points"], points["current_level"], points["total_interactions"]) == (21, "friend", 5)
        assert points["updated_at"] == core.data["affinities"]["ana"][f"ana_{LUNA}"]["last_interaction"]

    asyncio.run(look())


def test_a_storage_over_a_store_is_migrated_from_there(luminoracore: ModuleType, table: str, tmp_path: Path) -> None:
    source = sqlite(luminoracore, tmp_path / "100% chat.db")

    async def fill() -> None:
        assert await source.save_fact("ana", "work", "boss", "Zoë")
        assert await source.save_memory("ana", "m", [1])

    asyncio.run(fill())
    report = migrator.rescue(source, table, Options(create=True))
    assert (report.outcome, counts(report, "written")) == ("done", {"fact": 1, "memory": 1})
    tables = luminoracore.storage("dynamodb_flexible").FlexibleDynamoDBStorageV11(
        table.split("//")[1].split("?")[0], region_name="eu-west-1"
    )
    report = migrator.rescue(tables, tmp_path / "new" / "back.db")
    assert (report.outcome, counts(report, "written")) == ("done", {"fact": 1, "memory": 1})
    assert rows(tmp_path / "new" / "back.db", "SELECT value FROM facts") == [("Zoë",)]


def test_a_storage_with_a_table_that_the_mapping_would_not_read_is_refused(
    luminoracore: ModuleType, tmp_path: Path
) -> None:
    flexible = luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11
    asyncio.run(flexible(str(tmp_path / "chat.db")).save_fact("ana", "work", "boss", "Zoë"))
    source = flexible(str(tmp_path / "chat.db"), facts_table="old_facts")
    asyncio.run(source.save_fact("bo", "work", "boss", "Ida"))
    with pytest.raises(ConfigError, match=r'fact records in the table "old_facts".*Options\(mapping=FILE\)'):
        migrator.rescue(source, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_json_file_storage_is_its_file(luminoracore: ModuleType, tmp_path: Path) -> None:
    module = luminoracore.storage("storage")
    storage = module.JSONFileStorage(module.StorageConfig(connection_string=str(tmp_path / "sessions.json")))
    asyncio.run(storage.save_session("s1", {"messages": []}))
    report = migrator.rescue(storage, tmp_path / "blobs.db")
    assert (report.outcome, counts(report, "written")) == ("done", {"session_blob": 1})


def test_what_holds_a_storage_is_followed(v11: Any, tmp_path: Path) -> None:
    asyncio.run(begin(v11, "ana"))
    client = SimpleNamespace(_storage=SimpleNamespace(base_storage=v11))
    assert migrator.rescue(client, tmp_path / "chat.db").source.startswith("memory:InMemoryStorageV11")


def test_other_objects_are_refused_by_name(luminoracore: ModuleType, tmp_path: Path) -> None:
    redis = object.__new__(luminoracore.storage("redis_flexible").FlexibleRedisStorageV11)  # without its driver
    with pytest.raises(
        ConfigError, match=r"^FlexibleRedisStorageV11: no storage that can be rescued from\. There are InMemoryStorage"
    ):
        migrator.rescue(redis, tmp_path / "chat.db")
    loop = SimpleNamespace()
    loop.storage = loop
    for thing in (loop, MagicMock(), None, "chat.db", {"_facts": {}}):
        with pytest.raises(ConfigError, match=type(thing).__name__ if thing is not None else ": no storage"):
            migrator.rescue(thing, tmp_path / "chat.db")
    assert not list(tmp_path.glob("*.db"))


def test_an_empty_storage_is_refused(v11: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="InMemoryStorageV11 holds no records: is it the storage"):
        migrator.rescue(v11, tmp_path / "chat.db")


def test_what_else_a_storage_holds_is_said(v11: Any, tmp_path: Path) -> None:
    asyncio.run(begin(v11, "ana"))
    v11._memories = {"ana": {"m": 1}}
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert "not read: _memories, 1 entry" in report.narrowed


# Trouble -------------------------------------------------------------------------------------------------------------------


def test_a_sink_that_fails_leaves_a_report_and_the_memory_untouched(v11: Any, tmp_path: Path, table: str) -> None:
    asyncio.run(chat(v11, USERS[:2]))
    before, stores = json.dumps(vars(v11)), set(memory._STORES)
    (tmp_path / "chat.db").write_bytes(b"no database" * 100)
    (tmp_path / "file").touch()
    for sink, words in ((tmp_path / "chat.db", "chat.db"), (table, "--create")):
        with pytest.raises(migrator.MigratorError, match=words) as caught:
            migrator.rescue(v11, sink)
        report = caught.value.report
        assert report.outcome in ("refused", "failed") and report.error == str(caught.value)
        assert report.source.startswith("memory:InMemoryStorageV11")
    with pytest.raises(ConfigError, match="this folder cannot be made"):
        migrator.rescue(v11, tmp_path / "file" / "chat.db")
    assert json.dumps(vars(v11)) == before and set(memory._STORES) == stores
    assert migrator.rescue(v11, tmp_path / "good.db").outcome == "done"


def test_a_failed_rescue_is_simply_called_again(v11: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(chat(v11, USERS[:5]))
    path = tmp_path / "chat.db"
    sink = sql.SqlSink
    whole = sink.flush

    def fails_once(self: Any) -> Any:
        whole(self)
        monkeypatch.setattr(sink, "flush", whole)
        raise migrator.StoreError("no room left")

    monkeypatch.setattr(sink, "flush", fails_once)
    with pytest.raises(migrator.StoreError, match="no room left") as caught:
        migrator.rescue(v11, path)
    assert caught.value.report.outcome == "failed"
    asyncio.run(say(v11, USERS[0], 77))
    report = migrator.rescue(v11, path)
    assert (report.outcome, report.resumed) == ("done", False)
    assert rows(path, "SELECT count(*) FROM sessions") == [(5,)]


def test_signals_remain_the_applications(v11: Any, tmp_path: Path) -> None:
    asyncio.run(chat(v11, USERS[:3]))
    heard: list[int] = []

    class Ends(Silent):
        def plan(self, lines: list[tuple[str, str]]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        report = migrator.rescue(v11, tmp_path / "chat.db", show=Ends())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] and report.outcome == "done"


def test_a_copy_begins_anew_when_another_thread_writes_into_it(v11: Any, tmp_path: Path) -> None:
    class Restless(dict[str, Any]):
        turns = 0

        def items(self) -> Any:
            self.turns += 1
            if self.turns < 4:
                raise RuntimeError("dictionary changed size during iteration")
            return super().items()

    asyncio.run(begin(v11, "ana"))
    v11._facts = Restless(v11._facts)
    report = migrator.rescue(v11, tmp_path / "chat.db")
    assert (
        report.outcome == "done" and counts(report, "written")["fact"] == 5 and counts(report, "read")["session"] == 1
    )
    v11._facts.turns = -1000
    with pytest.raises(migrator.StoreError, match="other threads write into it faster"):
        migrator.rescue(v11, tmp_path / "chat.db")


def test_other_threads_may_write_meanwhile(v11: Any, tmp_path: Path) -> None:
    asyncio.run(chat(v11, USERS[:10], messages=20))
    is_over = threading.Event()

    def write() -> None:
        for number in range(400):
            asyncio.run(begin(v11, f"threaded-{number}"))
            if is_over.wait(0.001):
                break

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = [migrator.rescue(v11, tmp_path / "chat.db") for _ in range(3)]
    finally:
        is_over.set()
        writer.join()
    assert {report.outcome for report in reports} == {"done"}
    assert migrator.rescue(v11, tmp_path / "chat.db").outcome == "done"
    assert rows(tmp_path / "chat.db", "SELECT count(*) FROM sessions") == [(len(v11._sessions),)]
