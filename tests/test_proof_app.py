"""`--proof app`: what the application would remember of each user. LuminoraCore's own classes are the measure of what we say it is given."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import Options
from migrator.adapters.dynamodb.source import DynamoDBSource
from migrator.application import answers
from migrator.cli import main
from migrator.errors import ConfigError, StoreError
from migrator.mapping_file import load_mapping
from migrator.model import Found
from test_application import SAMPLE, _whole, column, on_table, users
from test_run import lines_of
from test_shapes import LONG, SHAPES, Tables, sample

GIVEN = {
    "affinity": ["affinity_points", "current_level", "total_interactions", "positive_interactions", "created_at", "updated_at"],
    "memory": ["memory_value"],
}  # fmt: skip


@pytest.fixture
def local(dynamodb_local_endpoint: str) -> Iterator[Tables]:
    made = Tables(dynamodb_local_endpoint)
    yield made
    made.close()


pytestmark = pytest.mark.usefixtures("own_states")


# As LuminoraCore's own classes ------------------------------------------------------------------------------------------


def ours(at: str, kind: str, by: dict[str, Any], mapping: str | None = None) -> list[dict[str, Any]]:
    with migrator.open_store(at, mapping) as store:
        (found,) = store.ask(kind, [by])
        spec = store.layout.kinds[kind]
        return [answer.given for answer in answers(spec, store.layout.store, by, found, datetime.now()).given]


async def theirs(storage: Any, kind: str, by: dict[str, Any]) -> list[Any]:
    if kind == "fact":
        return list(await storage.get_facts(by["user_id"]))
    if kind == "episode":
        return list(await storage.get_episodes(by["user_id"]))
    if kind == "mood":
        return list(await storage.get_mood_history(by["user_id"]))
    if kind == "affinity":
        found = await storage.get_affinity(by["user_id"], by["personality_name"])
    elif kind == "memory":
        found = await storage.get_memory(by["user_id"], by["memory_key"])
        return [] if found is None else [{"memory_value": found}]
    else:
        found = await storage.get_session(by["session_id"])
    return [] if found is None else [found]


def plain(kind: str, given: list[dict[str, Any]]) -> list[str]:
    """Answers without their order. Of a session the fields, as numbers and without what is NULL: it is given whole, in the store's own attributes."""
    if kind == "session":
        names = {each.name for each in load_mapping("luminoracore-v1.1").kinds["session"].fields}
        given = [{("ttl" if n == "TTL" else n): v for n, v in each.items()} for each in given]
        given = [
            {n: int(v) if n == "ttl" else v for n, v in each.items() if n in names and v is not None} for each in given
        ]
    return sorted(json.dumps(each, sort_keys=True, default=_whole) for each in given)


def asks(every: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request for every n-th user of the sample."""
    chosen = set(users()[::every])
    for user in sorted(chosen):
        for kind in ("fact", "episode", "mood"):
            yield kind, {"user_id": user}
    for kind, query, names in (
        ("affinity", "SELECT user_id, personality_name FROM affinity", ("user_id", "personality_name")),
        ("memory", "SELECT user_id, memory_key FROM memories", ("user_id", "memory_key")),
        ("session", "SELECT user_id, session_id FROM sessions", ("user_id", "session_id")),
    ):
        for values in column(query):
            by = dict(zip(names, values, strict=True))
            if by["user_id"] in chosen:
                yield kind, {"session_id": by["session_id"]} if kind == "session" else by


def answers_as_luminoracore(at: str, storage: Any, every: int) -> dict[str, int]:
    """How many answers of each kind there were, all of them equal."""
    counts: dict[str, int] = {}
    with migrator.open_store(at) as store:
        wanted: dict[str, list[dict[str, Any]]] = {}
        for kind, by in asks(every):
            wanted.setdefault(kind, []).append(by)
        for kind, bys in wanted.items():
            for by, found in zip(bys, store.ask(kind, bys), strict=True):
                spec = store.layout.kinds[kind]
                given = [a.given for a in answers(spec, store.layout.store, by, found, datetime.now()).given]
                assert plain(kind, given) == plain(kind, asyncio.run(theirs(storage, kind, by)))
                counts[kind] = counts.get(kind, 0) + len(given)
    return counts


def test_the_answers_from_sqlite_are_those_of_luminoracores_own_class_for_every_user(
    luminoracore: Any, tmp_path: Path
) -> None:
    shutil.copy(SAMPLE, tmp_path / "chat.db")
    storage = luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11(str(tmp_path / "chat.db"))
    counts = answers_as_luminoracore(str(SAMPLE), storage, 1)
    for kind, table in (
        ("fact", "facts"),
        ("affinity", "affinity"),
        ("episode", "episodes"),
        ("memory", "memories"),
        ("session", "sessions"),
    ):
        assert counts[kind] == column(f"SELECT count(*) FROM {table}")[0][0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answers_from_a_table_of_every_shape_are_those_of_luminoracores_own_class(
    shape: str, luminoracore: Any, local: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = local.new()
    report = migrator.migrate(
        SAMPLE, local.address(name), Options(create=True, table_shape=shape, proof="app", users=None if LONG else 4)
    )
    assert (report.outcome, report.proven) == ("done", "digest")
    found = report.application
    assert found is not None
    assert (found["users"], found["asked"], found["unexpected"]) == (30, 30 if LONG else 4, 0)
    for kind, counts in found["kinds"].items():
        lost = kind in report.unread["now"]
        assert counts["missing"] == (counts["source"] if lost else 0)
        assert counts["sink"] == (0 if lost else counts["source"])
    counts = answers_as_luminoracore(
        local.address(name), on_table(luminoracore, name, local.endpoint, monkeypatch), 1 if LONG else 6
    )
    assert counts["fact"] > 30
    assert (counts["session"] == 0) == ("session" in report.unread["now"])


@pytest.mark.parametrize("name", ["user_id-SK", "session_id-timestamp", "session_id-SK-gsi1", "PK-SK-gsi1"])
def test_the_answers_from_luminoracores_own_tables_are_its_own(
    name: str, luminoracore: Any, local: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = local.like(*sample(name))
    answers_as_luminoracore(
        local.address(table), on_table(luminoracore, table, local.endpoint, monkeypatch), 1 if LONG else 4
    )


def times() -> dict[str, Any]:
    now = datetime.now()
    return {
        "new": now.isoformat(), "old": (now - timedelta(days=40)).isoformat(), "old-z": f"{(now - timedelta(days=40)).isoformat()}Z",
        "space": (now - timedelta(days=2)).isoformat(" "), "no time": "yesterday", "null": None, "empty": "",
        "almost": (now - timedelta(days=29, hours=23)).isoformat(), "aware": f"{(now - timedelta(days=40)).isoformat()}+02:00",
    }  # fmt: skip


ODD = [
    "hello",
    "42",
    "true",
    "null",
    "1e5",
    "NaN",
    '"x"',
    '{"a": 1}',
    '{"n": "caf\\u00e9"}',
    "[1, 2.50]",
    "0042",
    "",
    None,
    "True",
    "{broken",
    '"\\ud800"',
]


def test_what_sqlite_parses_and_luminoracore_skips_there_is_parsed_and_skipped_alike(
    luminoracore: Any, tmp_path: Path
) -> None:
    """Fact sheet 2.4 and 4.2: JSON text, NULLs, times as text, text that is not UTF-8."""
    shutil.copy(SAMPLE, path := tmp_path / "chat.db")
    with closing(sqlite3.connect(path)) as db, db:
        for number, value in enumerate(ODD):
            db.execute(
                "INSERT INTO facts (user_id, category, key, value, confidence) VALUES ('odd', 'c', ?, ?, NULL)",
                (f"k{number}", value),
            )
            db.execute(
                "INSERT INTO memories (user_id, memory_key, memory_value) VALUES ('odd', ?, ?)", (f"m{number}", value)
            )
        db.execute(
            "INSERT INTO facts (user_id, category, key, value) VALUES ('odd', '', '', 'x'), ('odd', 'c', 'b', x'616263')"
        )
        db.execute(
            "INSERT INTO facts (user_id, category, key, value) VALUES ('broken', 'c', 'k', 'x'), ('broken', 'c', 'l', CAST(x'ff' AS TEXT))"
        )
        for title, at in times().items():
            db.execute(
                "INSERT INTO moods (user_id, mood_type, context, created_at) VALUES ('odd', ?, NULL, ?)", (title, at)
            )
            db.execute(
                "INSERT INTO episodes (user_id, episode_type, title, importance, created_at) VALUES ('odd', '', ?, NULL, ?)",
                (title, at),
            )
    storage = luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11(str(path))
    wanted = [(kind, {"user_id": user}) for kind in ("fact", "mood", "episode") for user in ("odd", "broken", "nobody")]
    for kind, by in [*wanted, *(("memory", {"user_id": "odd", "memory_key": f"m{n}"}) for n in range(len(ODD)))]:
        if kind == "fact" and by["user_id"] == "odd":
            with closing(sqlite3.connect(path)) as db, db:
                assert len(ours(str(path), kind, by)) == len(ODD) + 2
                db.execute("DELETE FROM facts WHERE key = 'b'")  # bytes, which JSON cannot say
        given = [each for each in ours(str(path), kind, by) if kind != "memory" or each["memory_value"] is not None]
        assert plain(kind, given) == plain(kind, asyncio.run(theirs(storage, kind, by))), (kind, by)
    assert {each["mood_type"] for each in ours(str(path), "mood", {"user_id": "odd"})} >= {"new", "almost", "no time"}


@pytest.mark.parametrize("name", ["user_id-SK", "session_id-SK-gsi1"])
def test_what_luminoracore_skips_in_a_table_is_skipped_alike(
    name: str, luminoracore: Any, local: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fact sheet 4.3: empty key or title, no value, confidence NULL or text, times of every sort; values of every type."""
    described, _ = sample(name)
    hashed, ranged = (each["AttributeName"] for each in described["KeySchema"])
    items = []

    def put(kind: str, suffix: str, **attributes: Any) -> None:
        item = {
            hashed: {"S": "odd"},
            ranged: {"S": f"{kind}#x#{suffix}"},
            "GSI1PK": {"S": "USER#odd"},
            "GSI1SK": {"S": suffix},
            "user_id": {"S": "odd"},
        }
        items.append(item | {n: v if isinstance(v, dict) else {"S": v} for n, v in attributes.items() if v is not None})

    values = [
        None,
        *({"S": each} for each in ODD if each),
        {"S": ""},
        {"N": "42.50"},
        {"N": "0.0000001"},
        {"BOOL": True},
        {"NULL": True},
        {"M": {"a": {"S": "é"}}},
        {"M": {"a": {"N": "1"}}},
        {"L": [{"S": "x"}]},
    ]
    for number, value in enumerate(values):
        put("FACT", f"v{number}", category="c", key=f"v{number}", value=value)
        put("MEMORY", f"v{number}", memory_key=f"v{number}", memory_value=value)
    for number, confidence in enumerate(
        ({"N": "0.25"}, {"S": "0.5"}, {"S": "much"}, {"NULL": True}, {"BOOL": True}, None)
    ):
        put("FACT", f"c{number}", category="c", key=f"c{number}", value="x", confidence=confidence)
        put(
            "EPISODE",
            f"i{number}",
            episode_type="t",
            title=f"i{number}",
            summary="s",
            sentiment={"NULL": True},
            importance=confidence,
        )
        put("MOOD", f"i{number}", mood_type=f"i{number}", intensity=confidence)
    put("FACT", "e1", category="", key="k", value="x")
    put("FACT", "e2", category="c", value="x")
    put("EPISODE", "e1", episode_type="t", title="", summary="s", sentiment="n")
    put("EPISODE", "e2", episode_type="t", title="no summary", sentiment="n")
    for title, at in times().items():
        put("MOOD", f"t{title}", mood_type=title, intensity={"N": "1"}, context={"NULL": True}, created_at=at)
    table = local.like(described, items)
    storage = on_table(luminoracore, table, local.endpoint, monkeypatch)
    for kind in ("fact", "episode", "mood"):
        given = ours(local.address(table), kind, {"user_id": "odd"})
        assert plain(kind, given) == plain(kind, asyncio.run(theirs(storage, kind, {"user_id": "odd"})))
        assert len(given) < sum(each[ranged]["S"].startswith(kind.upper()) for each in items)
    for key in (f"v{number}" for number in range(len(values))):
        by = {"user_id": "odd", "memory_key": key}
        given = [each for each in ours(local.address(table), "memory", by) if each["memory_value"] is not None]
        assert plain("memory", given) == plain("memory", asyncio.run(theirs(storage, "memory", by)))
    for user in ("", "x" * 3000, "nobody"):  # a key that DynamoDB refuses is nothing found
        assert (
            ours(local.address(table), "fact", {"user_id": user})
            == asyncio.run(theirs(storage, "fact", {"user_id": user}))
            == []
        )


# What differs is named --------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(local: Tables, tmp_path: Path) -> tuple[str, Tables, str]:
    """A file with few users, in a table of our making: the file, the server, the table's name."""
    shutil.copy(SAMPLE, path := tmp_path / "chat.db")
    kept = users()[:2]
    sessions = [s for user in kept for (s,) in column(f"SELECT session_id FROM sessions WHERE user_id = '{user}'")]
    with closing(sqlite3.connect(path)) as db, db:
        for table in ("facts", "affinity", "episodes", "moods", "memories", "sessions"):
            db.execute(
                f"DELETE FROM {table} WHERE user_id NOT IN ({','.join('?' * len(kept + sessions))})", kept + sessions
            )
    name = local.new()
    report = migrator.migrate(path, local.address(name), Options(create=True, proof="app", table_shape="session_id/SK"))
    assert (report.outcome, report.application and report.application["otherwise"]) == ("done", 0)
    return str(path), local, name


APP = Options(proof="app")


def asked(source: str, sink: str, options: Options = APP) -> tuple[migrator.Report, list[tuple[Any, ...]]]:
    """The report, and what nothing foretold: what, kind, fields."""
    report = migrator.verify(source, sink, options)
    found = report.application
    assert found is not None
    named = [json.dumps(each) for each in lines_of(found["file"])]
    assert sorted(named) == sorted(json.dumps(each) for each in found["differences"])
    return report, [
        (each["what"], each["kind"], each.get("fields", [])) for each in found["differences"] if not each["known"]
    ]


def test_a_users_conversation_is_counted_with_the_user(moved: tuple[str, Tables, str]) -> None:
    path, tables, name = moved
    report, unexpected = asked(path, tables.address(name))
    assert (report.outcome, report.exit_code, report.proven, unexpected) == ("done", 0, "app", [])
    assert report.application is not None
    assert [each["user"] for each in report.application["people"]] == users()[:2]
    for person in report.application["people"]:
        ids = f"user_id = '{person['user']}' OR user_id IN (SELECT session_id FROM sessions WHERE user_id = '{person['user']}')"
        turns, facts = column(
            f"SELECT sum(category = 'conversation_history'), sum(category <> 'conversation_history') FROM facts WHERE {ids}"
        )[0]
        points = [
            p for (p,) in column(f"SELECT affinity_points FROM affinity WHERE {ids} ORDER BY affinity_points DESC")
        ]
        told = person["remembers"]
        assert (told["turn"]["sink"], told["fact"]["sink"], told["affinity"]["sink"]) == (turns, facts, points)
        assert turns > 0


def test_what_comes_as_another_type_is_counted_by_field_and_foretold(moved: tuple[str, Tables, str]) -> None:
    path, tables, name = moved
    report, _ = asked(path, tables.address(name))
    assert report.application is not None
    values = [v for (v,) in sqlite3.connect(path).execute("SELECT value FROM facts")]
    parsed = []
    for value in values:
        try:
            parsed.append(json.loads(value))
        except ValueError:
            continue
    assert (
        sum(report.application["retyped"].values()) == len([each for each in parsed if not isinstance(each, str)]) > 0
    )
    assert all(
        words.startswith("fact value: ") and words.endswith(" → text") for words in report.application["retyped"]
    )
    assert report.application["foretold"] + report.application["same"] == 2


def test_a_differing_affinity_a_forgotten_user_and_one_more_fact_are_named(moved: tuple[str, Tables, str]) -> None:
    path, tables, name = moved
    items = tables.items(name)
    one, two = users()[:2]
    affinity = next(each for each in items if "affinity_points" in each and each["user_id"]["S"] == one)
    fact = next(each for each in items if "category" in each and each["user_id"]["S"] == one)
    tables.client.put_item(TableName=name, Item=affinity | {"affinity_points": {"N": "1000"}})
    tables.client.put_item(
        TableName=name, Item=fact | {"SK": {"S": "FACT#new#one"}, "category": {"S": "new"}, "key": {"S": "one"}}
    )
    for each in items:
        if each["user_id"]["S"] == two:
            tables.client.delete_item(TableName=name, Key={key: each[key] for key in ("session_id", "SK")})
    report, unexpected = asked(path, tables.address(name))
    assert (report.outcome, report.exit_code, report.proven) == ("differences", 4, "none")
    assert ("differing", "affinity", ["affinity_points"]) in unexpected
    assert ("extra", "fact", []) in unexpected
    assert report.application is not None
    people = {each["user"]: each for each in report.application["people"]}
    gone = sum(each["user_id"]["S"] == two for each in items)
    assert people[two]["missing"] == people[two]["unexpected"] == gone > 10
    assert people[one]["remembers"]["affinity"]["sink"][0] == 1000
    assert len(unexpected) == gone + 2
    one_way, unexpected = asked(path, tables.address(name), Options(proof="app", one_way=True))
    assert one_way.outcome == "differences" and not any(what == "extra" for what, *_ in unexpected)


def test_a_fact_that_the_application_skips_is_missing_with_the_reason(moved: tuple[str, Tables, str]) -> None:
    path, tables, name = moved
    fact = next(each for each in tables.items(name) if "category" in each and each["user_id"]["S"] == users()[0])
    tables.client.put_item(TableName=name, Item=fact | {"confidence": {"NULL": True}})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE facts SET confidence = NULL WHERE user_id = ? AND category = ? AND key = ?",
            [fact[n]["S"] for n in ("user_id", "category", "key")],
        )
    report, unexpected = asked(path, tables.address(name))
    assert (report.outcome, unexpected) == ("differences", [("missing", "fact", [])])
    assert report.application is not None
    assert report.application["why"] == {"fact missing: confidence is no number": 1}
    assert (
        migrator.verify(path, tables.address(name)).outcome == "done"
    )  # every record is there: only the application does not read it


def test_what_lies_behind_the_first_page_is_forgotten(
    local: Tables, luminoracore: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H27: 12 facts of 200 KB."""
    shutil.copy(SAMPLE, path := tmp_path / "chat.db")
    with closing(sqlite3.connect(path)) as db, db:
        for table in ("facts", "affinity", "episodes", "moods", "memories", "sessions"):
            db.execute(f"DELETE FROM {table}")
        now = datetime.now().isoformat()
        db.executemany(
            "INSERT INTO facts VALUES (NULL, 'big', 'big', 'c', ?, ?, 1.0, ?, ?)",
            [(f"k{n}", "x" * 200_000, now, now) for n in range(12)],
        )
    name = local.new()
    report = migrator.migrate(path, local.address(name), Options(create=True, proof="app"))
    assert (report.outcome, report.exit_code, report.proven) == ("differences", 4, "digest")
    storage = on_table(luminoracore, name, local.endpoint, monkeypatch)
    left = len(asyncio.run(storage.get_facts("big")))
    assert report.application is not None
    assert (report.application["kinds"]["fact"]["sink"], report.application["unexpected"]) == (left, 12 - left)
    assert 0 < left < 12
    assert report.application["why"] == {
        "fact missing: the application reads one page of 1 MB, and there is more": 12 - left
    }


def test_what_could_not_travel_is_no_surprise(local: Tables, tmp_path: Path) -> None:
    shutil.copy(SAMPLE, path := tmp_path / "chat.db")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE facts SET category = 'a#b' WHERE id = (SELECT min(id) FROM facts)")
    report = migrator.migrate(
        path, local.address(local.new()), Options(create=True, proof="app", on_reject="continue", kinds=("fact",))
    )
    assert (report.outcome, report.rejected) == ("rejects", 1)
    assert report.application is not None
    assert (report.application["unexpected"], report.application["why"]) == (
        0,
        {"fact missing: it could not travel, see the rejects": 1},
    )


def test_what_an_index_does_not_say_yet_is_asked_for_once_more(local: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """H48: an index is eventually consistent, and LuminoraCore looks for episodes there."""
    name = local.new()
    real, late, slept, lock = DynamoDBSource._ask, {"calls": 2}, [], threading.Lock()

    def lagging(self: DynamoDBSource, request: Any, by: Any) -> Found:
        found = real(self, request, by)
        with lock:  # several threads ask
            # Of what is asked by a session's id no item is an episode: nobody would miss those answers.
            if not (found.is_late and late["calls"] and any("episode_type" in item for item in found.items)):
                return found
            late["calls"] -= 1
            return Found([], is_late=True)

    monkeypatch.setattr(DynamoDBSource, "_ask", lagging)
    monkeypatch.setattr("migrator.application.time.sleep", slept.append)
    options = Options(create=True, table_shape="user_id/SK+GSI1", proof="app", users=3)
    report = migrator.migrate(SAMPLE, local.address(name), options)
    assert report.application is not None
    assert (report.outcome, report.application["unexpected"], late["calls"]) == ("done", 0, 0)
    assert slept
    late["calls"] = 1_000_000  # one that never comes up to date is no excuse
    report = migrator.verify(SAMPLE, local.address(name), Options(proof="app", users=3))
    assert report.outcome == "differences"
    assert sum(slept) < 20


def test_what_was_kept_is_no_surprise_and_what_was_refused_is(tmp_path: Path) -> None:
    for existing, outcome in (("keep", "done"), ("refuse", "differences")):
        shutil.copy(SAMPLE, path := tmp_path / f"{existing}.db")
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE facts SET value = 'other' WHERE id = (SELECT min(id) FROM facts)")
        report = migrator.migrate(SAMPLE, path, Options(proof="app", existing=existing))  # type: ignore[arg-type]
        assert report.application is not None
        assert (report.outcome, report.application["kinds"]["fact"]["differing"]) == (outcome, 1)
        assert report.application["unexpected"] == (existing == "refuse")


def test_a_run_that_ends_while_it_asks_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("migrator.application.Comparison.run", broken)
        with pytest.raises(StoreError):
            migrator.migrate(SAMPLE, tmp_path / "new.db", APP)
    report = migrator.migrate(SAMPLE, tmp_path / "new.db", APP)
    assert (report.resumed, report.outcome, report.proven) == (True, "done", "digest")
    assert report.application is not None
    assert report.application["same"] == report.application["asked"] == 30


# Who is asked for -------------------------------------------------------------------------------------------------------


def test_a_sample_of_users_is_the_same_each_time_and_proves_nothing(tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "copy.db")
    chosen = []
    for count in (5, 5, 9):
        report, unexpected = asked(str(SAMPLE), str(tmp_path / "copy.db"), Options(proof="app", users=count))
        assert (report.outcome, report.proven, unexpected) == ("done", "none", [])
        assert report.application is not None
        assert (report.application["asked"], report.application["users"], report.application["same"]) == (
            count,
            30,
            count,
        )
        chosen.append([each["user"] for each in report.application["people"]])
    assert chosen[0] == chosen[1] and set(chosen[0]) < set(chosen[2])


def test_one_users_migration_is_compared_for_that_user(local: Tables) -> None:
    report = migrator.migrate(SAMPLE, local.address(local.new()), Options(create=True, proof="app", user=users()[0]))
    assert report.outcome == "done" and report.application is not None
    assert [each["user"] for each in report.application["people"]] == [users()[0]]


def test_stores_that_no_application_reads_and_halves_are_refused(tmp_path: Path) -> None:
    migrator.migrate(SAMPLE, tmp_path / "chat.jsonl")
    shutil.copy(SAMPLE, tmp_path / "copy.db")
    with pytest.raises(ConfigError, match=r"no application reads jsonl:.*chat\.jsonl"):
        migrator.verify(SAMPLE, tmp_path / "chat.jsonl", APP)
    with pytest.raises(ConfigError, match="leave --limit out"):
        migrator.migrate(SAMPLE, tmp_path / "new.db", Options(proof="app", limit=5))
    with pytest.raises(ConfigError, match="only --proof app"):
        migrator.verify(SAMPLE, tmp_path / "copy.db", Options(users=3))
    assert not (tmp_path / "new.db").exists()


# What is shown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False], ids=["in a terminal", "in a pipe"])
def test_a_line_for_each_user_is_whole_or_fits_80_columns_and_shows_no_value(
    is_terminal: bool,
    moved: tuple[str, Tables, str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("migrator.console.is_terminal", lambda stream: is_terminal)
    path, tables, name = moved
    tables.client.delete_item(TableName=name, Key={k: v for k, v in next(e for e in tables.items(name) if "category" in e and e["user_id"]["S"] == users()[0]).items() if k in ("session_id", "SK")})  # fmt: skip
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["verify", path, tables.address(name), "--proof", "app"])
    said = capfd.readouterr().out
    assert ended.value.code == 4
    start = said.index("what the application remembers of each user:")
    lines = said[start : said.index("missing: fact user_id=")].splitlines()
    assert len(lines) >= 3
    if is_terminal:
        assert max(map(len, lines)) <= 80
    else:  # nobody who is looked for with grep is told by half
        assert all("facts," in line and "affinity " in line for line in lines[1:])
    assert lines[1].split()[0] == users()[0]  # who differs comes first
    words = " ".join(" ".join(lines).split())
    assert (
        "facts," in words
        and "turns," in words
        and "affinity " in words
        and "as foretold (" in words
        and "1 missing" in words
    )
    values = [v for (v,) in sqlite3.connect(path).execute("SELECT value FROM facts") if len(v) > 8]
    assert not any(value in said for value in values)


# A mapping of one's own -------------------------------------------------------------------------------------------------


OWN = """
name = "own"
extends = "luminoracore-v1.1"

[kinds.mood.asked]
recent = ["created_at", 36500]

[kinds.fact.asked]
gives = ["category", "key", "value"]

[layouts."user_id/SK".fact.request]
query = ["{user_id}", "FACT#preferences#"]
text = ["value"]
"""


def test_a_mapping_of_ones_own_names_its_own_requests(
    luminoracore: Any, local: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    described, items = sample("user_id-SK")
    table = local.like(described, items)
    storage = on_table(luminoracore, table, local.endpoint, monkeypatch)
    work, moods = 0, 0
    for user in sorted({each["user_id"]["S"] for each in items})[:12]:
        given = ours(local.address(table), "fact", {"user_id": user}, str(tmp_path / "own.toml"))
        facts = asyncio.run(storage.get_facts(user, "preferences"))
        assert plain("fact", given) == plain(
            "fact", [{n: each[n] for n in ("category", "key", "value")} for each in facts]
        )
        given = ours(local.address(table), "mood", {"user_id": user}, str(tmp_path / "own.toml"))
        assert plain("mood", given) == plain("mood", asyncio.run(storage.get_mood_history(user, days_back=36500)))
        work, moods = work + len(facts), moods + len(given)
    assert work and moods
