"""Data that no store of ours may hold, or not every one: each either arrives as it was, or is a reject with its reason; the rest travels.

One database and one file hold everything at once, and go to every sort of sink. What is checked here is told of LuminoraCore's facts and
affinity; the reason never repeats a value.
"""

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import Options
from tables import client_of
from test_run import lines_of

STAMP = "2026-01-02T03:04:05.678901"
ITEM = 409_600
"""400 KB: the largest item of DynamoDB, names included (Service, account, and table quotas in Amazon DynamoDB)."""


pytestmark = pytest.mark.usefixtures("own_states")


@pytest.fixture(params=["sqlite", "jsonl", "dynamodb"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Which sort of store, and a new address of it; DynamoDB is AWS's own, which enforces the limits."""
    if request.param != "dynamodb":
        yield request.param, str(tmp_path / f"sink.{'db' if request.param == 'sqlite' else 'jsonl'}")
        return
    endpoint = request.getfixturevalue("dynamodb_local_endpoint")
    name = f"bad-input-{os.getpid()}-{tmp_path.name}"
    yield "dynamodb", f"dynamodb://{name}?region=eu-west-1&endpoint={endpoint}"
    client = client_of(endpoint)
    client.delete_table(TableName=name)


def fact(key: str, value: Any = "v", user: str = "ana", **more: Any) -> dict[str, Any]:
    plain = {"user_id": user, "session_id": "s", "category": "c", "key": key, "value": value, "confidence": 0.5}
    return plain | {"created_at": STAMP, "updated_at": STAMP} | more


def item_bytes(record: dict[str, Any]) -> int:
    """What the item of a fact weighs without its value, by the rules of AWS's "DynamoDB item sizes": names and texts as UTF-8, a number
    one byte and half a byte a digit."""
    texts = {"SK": f"FACT#{record['category']}#{record['key']}"} | {
        name: text for name, text in record.items() if isinstance(text, str) and name != "value"
    }
    number = len("confidence") + 1 + 1  # 0.5: one pair of digits
    return sum(len(name) + len(text.encode()) for name, text in texts.items()) + number + len("value")


FULL = fact("full")
ROOM = ITEM - item_bytes(FULL)
"""The longest value that the item of this fact has room for."""

# The key of a fact → what it is, and by sort of sink the reason why it stays behind; a sink that is not named takes it as it is.
FACTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "good": (fact("good"), {}),
    "nul": (fact("nul", "a\x00b"), {}),
    "escape": (fact("escape", "\x1b[31m\u202e\x7f"), {}),
    "empty": (fact("empty", ""), {}),
    "full": (fact("full", "x" * ROOM), {}),
    "over": (fact("over", "x" * (ROOM + 1)), {"dynamodb": r"409,?601.*409,?600|400 KB"}),
    "nobody": (fact("nobody", user=""), {"dynamodb": "user_id"}),
    "long hash": (fact("long hash", user="ü" * 1024), {}),
    "too long a hash": (fact("too long a hash", user="ü" * 1024 + "u"), {"dynamodb": "2,?049.*2,?048"}),
    "r" * (1024 - len("FACT#c#")): (fact("r" * (1024 - len("FACT#c#"))), {}),
    "r" * (1025 - len("FACT#c#")): (fact("r" * (1025 - len("FACT#c#"))), {"dynamodb": "1,?025.*1,?024"}),
    "huge": (fact("huge", "x" * 100_000_000), dict.fromkeys(("sqlite", "jsonl", "dynamodb"), "33,?554,?432|32 MiB")),
}  # fmt: skip


def make_database(path: Path) -> None:
    """LuminoraCore's tables of facts and affinity, with everything that SQLite lets anybody put there."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "CREATE TABLE facts (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, category TEXT NOT NULL,"
            " key TEXT NOT NULL, value TEXT, confidence REAL DEFAULT 1.0, created_at TEXT, updated_at TEXT, UNIQUE(user_id, category, key))"
        )
        db.execute(
            "CREATE TABLE affinity (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, personality_name TEXT NOT NULL,"
            " affinity_points INTEGER DEFAULT 0, current_level TEXT DEFAULT 'stranger', total_interactions INTEGER DEFAULT 0,"
            " positive_interactions INTEGER DEFAULT 0, created_at TEXT, updated_at TEXT, UNIQUE(user_id, personality_name))"
        )
        names = ", ".join(FULL)
        marks = ", ".join(f":{name}" for name in FULL)
        for record, _ in FACTS.values():
            db.execute(f"INSERT INTO facts ({names}) VALUES ({marks})", record)
        odd = (
            f"INSERT INTO facts ({names}) VALUES ('ana', 's', 'c', ?, {{value}}, {{confidence}}, '{STAMP}', '{STAMP}')"
        )
        db.execute(odd.format(value="CAST(X'61ff62' AS TEXT)", confidence="0.5"), ("not utf-8",))
        db.execute(odd.format(value="X'00ff'", confidence="0.5"), ("blob",))
        db.execute(odd.format(value="'v'", confidence="9e999"), ("infinite",))
        db.execute(odd.format(value="'v'", confidence="-9e999"), ("minus infinite",))
        db.execute(odd.format(value="'v'", confidence="'much'"), ("text for a number",))
        points = "INSERT INTO affinity (user_id, personality_name, affinity_points, created_at) VALUES ('ana', ?, ?, ?)"
        db.executemany(points, [("good", 2**63 - 1, STAMP), ("words", "many", STAMP), ("real", 1.5, STAMP)])


SQL_ONLY = {
    "not utf-8": "value is not UTF-8",
    "blob": "value holds .*(bytes|BLOB)",
    "text for a number": "confidence holds text",
}
INFINITE = {
    "infinite": "confidence is not a finite number",
    "minus infinite": "confidence is not a finite number",
}  # only DynamoDB cannot hold them


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad") / "chat.db"
    make_database(path)
    return path


def test_whatever_a_database_holds_arrives_or_is_named(database: Path, sink: tuple[str, str], tmp_path: Path) -> None:
    sort, address = sink
    report = migrator.migrate(str(database), address, Options(on_reject="continue", create=True))
    assert (report.outcome, report.exit_code, report.proven, report.closes) == ("rejects", 3, "digest", True)
    expected = {key: reasons[sort] for key, (_, reasons) in FACTS.items() if sort in reasons} | SQL_ONLY
    expected |= INFINITE if sort == "dynamodb" else {}
    rejects = lines_of(report.rejects_file)
    said = {line["record"]["key"]: line["reason"] for line in rejects if line["kind"] == "fact"}
    assert said.keys() == expected.keys()
    for key, reason in expected.items():
        assert re.search(reason, said[key]), (key, said[key])
        assert len(said[key]) < 300
    assert {line["record"]["personality_name"]: line["reason"] for line in rejects if line["kind"] == "affinity"} == {
        "words": "affinity_points holds text, the mapping says integer"
    }
    assert report.kinds["affinity"].tally.written == 2  # H36: a fraction in an integer column stays

    back = tmp_path / "back.jsonl"
    migrator.migrate(address, str(back))
    held = {line["record"]["key"]: line["record"] for line in lines_of(str(back)) if line["kind"] == "fact"}
    assert held.keys() == (FACTS.keys() | INFINITE.keys()) - expected.keys()
    for key in held.keys() & FACTS.keys():
        assert {name: value for name, value in held[key].items() if value is not None} == FACTS[key][0]

    again = migrator.migrate(str(database), address, Options(on_reject="continue"))
    assert again.kinds["fact"].tally.written == 0  # and the rejects are named again
    assert len(lines_of(again.rejects_file)) == len(rejects)


# A line of a JSON Lines file → by sort of sink the reason why it stays behind, as far as a fact of that key goes.
LINES: list[tuple[str, str, dict[str, str]]] = [
    ("good", json.dumps({"kind": "fact", "record": fact("good")}), {}),
    ("past 64 bits", '{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "past 64 bits", "value": "v", "n": 18446744073709551616}}', {"sqlite": "n"}),
    ("38 digits", '{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "38 digits", "value": "v", "n": ' + "9" * 38 + "}}", {"sqlite": "n"}),
    ("39 digits", '{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "39 digits", "value": "v", "n": ' + "9" * 39 + "}}", {"sqlite": "n", "dynamodb": "n .*38"}),
    ("points", '{"kind": "affinity", "record": {"user_id": "ana", "personality_name": "points", "affinity_points": 9223372036854775808}}', {"sqlite": "affinity_points"}),
]  # fmt: skip

EVERYWHERE: list[tuple[str, str]] = [
    ('{"kind": "fact", "record": {"user_id": "ana", "key": "nan", "confidence": NaN}}', "NaN"),
    ('{"kind": "fact", "record": {"user_id": "ana", "key": "inf", "confidence": -Infinity}}', "Infinity"),
    ('{"kind": "fact", "record": {"user_id": "ana", "key": "twice", "value": "1", "value": "2"}}', '"value"|twice|repeat'),
    ('{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "half", "value": "\\ud83d"}}', "surrogate"),
    ('{"kind": "fact", "record": {"user_id": "ana", "key": "behind"}} {"and": "more"}', "byte|trailing|behind"),
    ('{"kind": "fact", "record": ["no", "record"]}', "record"),
    ('{"kind": "fact", "record": {"user_id": "ana", "key": "cut", ', "not JSON"),
    ('{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "deep", "value": ' + "[" * 2000 + "]" * 2000 + "}}", "deep|value"),
    *[('{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "deep", "value": ' + "[" * n + "]" * n + "}}", why) for n, why in ((199, "value holds a list"), (200, "value holds a list"), (201, "deep"), (253, "deep"), (254, "deep"), (300, "deep"))],
    ('{"kind": "wish", "record": {}}', "wish"),
]  # fmt: skip


def test_whatever_a_file_holds_arrives_or_is_named_by_line(sink: tuple[str, str], tmp_path: Path) -> None:
    sort, address = sink
    source = tmp_path / "odd.jsonl"
    lines = [line.encode() for _, line, _ in LINES] + [line.encode() for line, _ in EVERYWHERE]
    lines.append(b'{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "x", "value": "a\xffb"}}')
    source.write_bytes(b"\n".join(lines) + b"\n")
    report = migrator.migrate(str(source), address, Options(on_reject="continue", create=True))
    assert (report.outcome, report.proven, report.closes) == ("rejects", "digest", True)
    rejects = lines_of(report.rejects_file)
    said = {line["record"].get("key") or line["record"].get("personality_name"): line for line in rejects}
    expected = {name: reasons[sort] for name, _, reasons in LINES if sort in reasons}
    for name, reason in expected.items():
        assert re.search(reason, said[name]["reason"]), said[name]
    by_line = {line["place"].rpartition("line ")[2]: line["reason"] for line in rejects if "line " in line["place"]}
    unreadable = [*(reason for _, reason in EVERYWHERE), "not JSON from byte .* on: .*UTF-8"]
    assert by_line.keys() == {str(len(LINES) + number) for number in range(1, len(unreadable) + 1)}
    for number, reason in enumerate(unreadable, len(LINES) + 1):
        assert re.search(reason, by_line[str(number)]), (number, by_line[str(number)])
    assert len(rejects) == len(expected) + len(unreadable)

    back = tmp_path / "back.jsonl"
    migrator.migrate(address, str(back), Options(allow_empty=True))
    held = {
        line["record"].get("key") or line["record"]["personality_name"]: text
        for text in back.read_text().splitlines()
        if (line := json.loads(text))
    }
    assert held.keys() == {name for name, _, reasons in LINES if sort not in reasons}
    for name in held.keys() & {"past 64 bits", "38 digits", "39 digits", "points"}:
        number = re.search(r"\d{19,}", next(line for each, line, _ in LINES if each == name))
        assert number is not None
        assert number.group() in held[name]  # to the last digit
