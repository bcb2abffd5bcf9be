"""Small migrations between every two stores, to be killed: what is copied, where to, and what is there afterwards.

The data has what a copy has to account for: records that travel, one that cannot, one that shares its identity with a newer one, and, where a sink
is to be replaced, records that differ there, that are equal there, and that only the sink has. What a sink holds is read by sqlite3, json, gzip and
boto3, never by us.
"""

import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tables import address_of, create, texts_of

PAGE = 4
"""Of the fixture `killer`: records of a page, and of a slice."""

STAMP = "2026-01-02T03:04:05.678901"
OLDER = "2025-01-02T03:04:05.678901"
TABLES = {"facts": "fact", "episodes": "episode"}
DDL = {
    "facts": "CREATE TABLE facts (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, category TEXT NOT NULL,"
    " key TEXT NOT NULL, value TEXT, confidence REAL DEFAULT 1.0, created_at TEXT, updated_at TEXT, UNIQUE(user_id, category, key))",
    "episodes": "CREATE TABLE episodes (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, episode_type TEXT NOT NULL,"
    " title TEXT NOT NULL, summary TEXT, importance REAL DEFAULT 0.0, sentiment TEXT, created_at TEXT, updated_at TEXT)",
}
"""LuminoraCore's own tables."""

Records = dict[str, list[dict[str, Any]]]


# Command lines ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command line ended, and the steps and slices that it came to; see `killed_often.py`."""

    code: int
    steps: list[list[str]]
    slices: list[str]
    out: str
    err: str
    ended: float

    @cached_property
    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


class Killer:
    """Runs command lines with a death built in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, folder: Path, *args: str, fast: bool = False, **death: Any) -> Ended:
        """One command line in `folder`, which has its states too; `death` is as in `killed.Order`. `fast`: batches go by the extra of that name."""
        env = {"MIGRATOR_STATE": str(folder / "state"), "XDG_STATE_HOME": str(folder / "user")}
        env["MIGRATOR_FAST"] = str(int(fast))
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"args": args, "env": env, "cwd": str(folder), **death}), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))


@contextmanager
def killing(page: int, **more: str) -> Iterator[Killer]:
    """A process that forks command lines; pages and slices have `page` records. `more`: other variables that `killed.py` asks for."""
    script = str(Path(__file__).parent / "killed_often.py")
    environment = os.environ | {"KILLED_PAGE": str(page), **more}
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Killer(process)
        assert process.stdin is not None
        process.stdin.close()


# What is copied --------------------------------------------------------------------------------------------------------


def fact(n: int, **more: Any) -> dict[str, Any]:
    record = {"user_id": f"ana{n % 3}", "session_id": f"s{n}", "category": "c", "key": f"k{n}", "value": f"v {n}"}
    return record | {"confidence": 0.5, "created_at": STAMP, "updated_at": STAMP} | more


def episode(n: int, **more: Any) -> dict[str, Any]:
    record = {"user_id": f"ana{n % 2}", "session_id": "s", "episode_type": "t", "title": f"title {n}", "summary": "x"}
    return record | {"importance": 5.5, "sentiment": "good", "created_at": STAMP, "updated_at": STAMP} | more


SOURCE: Records = {
    "facts": [*(fact(n) for n in range(4)), fact(4, confidence="much"), *(fact(n) for n in range(5, 12))],
    "episodes": [*(episode(n) for n in range(4)), episode(1, summary="older", updated_at=OLDER), episode(5)],
}
TRAVELS, REJECTED, DUPLICATE = 16, 1, 1
THERE: Records = {
    "facts": [fact(2, value="another"), fact(3), fact(9, value="another"), fact(50)],
    "episodes": [episode(2, summary="another")],
}
"""What a sink holds that is to be replaced."""


def write_db(path: Path, records: Records) -> None:
    """LuminoraCore's tables for facts and episodes, filled."""
    with closing(sqlite3.connect(path)) as db:
        for table, ddl in DDL.items():
            db.execute(ddl)
            for record in records[table]:
                marks = ", ".join("?" * len(record))
                db.execute(f"INSERT INTO {table} ({', '.join(record)}) VALUES ({marks})", list(record.values()))
        db.commit()


def write_jsonl(path: Path, records: Records) -> None:
    lines = ({"kind": TABLES[table], "record": record} for table, held in records.items() for record in held)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_json(path: Path, records: Records) -> None:
    path.write_text(json.dumps(records))


def write_gz(path: Path, records: Records) -> None:
    write_jsonl(path, records)
    path.write_bytes(gzip.compress(path.read_bytes()))


def make_chat(path: Path, facts: int, episodes: int = 0, value: str = "v") -> None:
    """A chat.db with so many facts and episodes."""
    with closing(sqlite3.connect(path)) as db:
        for ddl in DDL.values():
            db.execute(ddl)
        db.executemany(
            "INSERT INTO facts (user_id, session_id, category, key, value, confidence, created_at, updated_at) VALUES (?, ?, 'c', ?, ?, 0.9, ?, ?)",
            ((f"user-{n % 97}", f"s{n % 7}", f"key-{n}", f"{value} {n}", STAMP, STAMP) for n in range(facts)),
        )
        db.executemany(
            "INSERT INTO episodes (user_id, session_id, episode_type, title, summary, importance, sentiment, created_at, updated_at)"
            " VALUES (?, 's', 't', ?, 'x', 5.5, 'good', ?, ?)",
            ((f"user-{n % 5}", f"title {n}", STAMP, STAMP) for n in range(episodes)),
        )
        db.commit()


def rows(path: Path) -> list[Any]:
    """What a chat.db holds, but for the ids of its rows."""
    with closing(sqlite3.connect(path)) as db:
        facts = "SELECT user_id, session_id, category, key, value, confidence, created_at, updated_at FROM facts"
        episodes = "SELECT user_id, session_id, episode_type, title, summary, importance, sentiment, created_at, updated_at FROM episodes"
        return sorted(db.execute(facts).fetchall()) + sorted(db.execute(episodes).fetchall())


WRITERS = {"db": write_db, "jsonl": write_jsonl, "json": write_json, "jsonl.gz": write_gz}


def write_table(client: Any, table: str, records: Records) -> None:
    create(
        client,
        TableName=table,
        KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("user_id", "SK")],
        BillingMode="PAY_PER_REQUEST",
    )
    for record in records["facts"]:
        put(client, table, record, f"FACT#{record['category']}#{record['key']}")
    for number, record in enumerate(records["episodes"]):
        put(client, table, record, f"EPISODE#t#{record['episode_type']}_20260102_0304{number:02}")


def put(client: Any, table: str, record: dict[str, Any], key: str) -> None:
    item = {name: {"N": repr(value)} if isinstance(value, float) else {"S": value} for name, value in record.items()}
    client.put_item(TableName=table, Item=item | {"SK": {"S": key}})


# Where it is copied to -------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """One trial's folder and sink. `form`: a suffix, or `dynamodb`."""

    folder: Path
    form: str
    endpoint: str
    client: Any
    table: str = field(default_factory=lambda: f"kill-{uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        self.folder.mkdir()

    @property
    def is_file(self) -> bool:
        return self.form != "dynamodb"

    @property
    def is_whole(self) -> bool:
        return self.form.startswith("json")

    @property
    def path(self) -> Path:
        return self.folder / f"out.{self.form}"

    @property
    def address(self) -> str:
        return str(self.path) if self.is_file else address_of(self.table, self.endpoint)

    def fill(self, records: Records) -> None:
        if self.is_file:
            WRITERS[self.form](self.path, records)
        else:
            write_table(self.client, self.table, records)

    def look(self) -> list[str] | None:
        """Everything the sink holds, None if there is none."""
        if not self.is_file:
            return texts_of(self.client, self.table)
        if not self.path.exists():
            return None
        if self.form == "db":
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
                db.row_factory = sqlite3.Row
                rows = [(table, dict(row)) for table in DDL for row in db.execute(f"SELECT * FROM {table}")]
            return sorted(json.dumps([table, row | {"id": 0}], sort_keys=True) for table, row in rows)
        data = self.path.read_bytes()
        return sorted((gzip.decompress(data) if self.form.endswith(".gz") else data).decode().splitlines())

    def left(self) -> list[str]:
        """The files beside the sink, and those of the job, each slice's notes by their folder alone."""
        beside = [path.name for path in self.folder.iterdir() if path.name not in ("state", "user")]
        state = sorted((self.folder / "state").glob("*"))
        job = [str(path.relative_to(each)) for each in state for path in each.rglob("*") if path.is_file()]
        notes = ("rejects/", "duplicates/")
        names = {name.partition("/")[0] if name.startswith(notes) else name for name in beside + job}
        return sorted(name for name in names if not name.startswith("replaced"))

    def noted(self, name: str) -> list[str]:
        """The lines of a job's file, and of those of the same name that earlier runs left."""
        files = (self.folder / "state").glob(f"*/{name}*.jsonl")
        return sorted({line for path in files for line in path.read_text().splitlines()})

    def is_unfinished(self) -> bool:
        """Whether a job was left behind to go on with."""
        found = [path.read_bytes() for path in (self.folder / "state").glob("*/checkpoint.json")]
        return any(b'"phase":"finished"' not in text for text in found)

    def clear(self) -> None:
        shutil.rmtree(self.folder)
        if not self.is_file:
            self.client.delete_table(TableName=self.table)


def account(report: dict[str, Any], apart: bool) -> dict[str, dict[str, int]]:
    """The accounting of each kind; unless `apart`, what was written and what was there already are one figure (design: the sum is a clean run's)."""
    names = ("read", "kept", "differing", "duplicates", "filtered", "rejected")
    return {
        kind: {name: found[name] for name in names}
        | (
            {"written": found["written"], "unchanged": found["unchanged"]}
            if apart
            else {"there": found["written"] + found["unchanged"]}
        )
        for kind, found in report["kinds"].items()
        if found["read"]
    }


def spread(count: int, points: int) -> list[int]:
    """So many of 1 to `count`, the first and the last among them."""
    return sorted({1 + (count - 1) * n // max(1, points - 1) for n in range(points)})


KILLED = -signal.SIGKILL
