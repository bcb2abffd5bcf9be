"""What everybody writes, against which ours is held: sqlite3, json, and boto3's resource, on one thread.

    python naive.py sqlite_to_dynamodb chat.db http://127.0.0.1:8000

Each function gets ready and returns what is measured, which returns how many items it moved. Imports nothing of ours; no checkpoint, no
verification, nothing repeated.
"""

import gzip
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

Run = Callable[[], int]

FACT_COLUMNS = ("user_id", "session_id", "category", "key", "value", "confidence", "created_at", "updated_at")
FACTS = (
    "CREATE TABLE facts (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, category TEXT NOT NULL, "
    "key TEXT NOT NULL, value TEXT, confidence REAL DEFAULT 1.0, created_at TEXT, updated_at TEXT, UNIQUE(user_id, category, key))"
)
BLOBS = "CREATE TABLE session_blobs (session_id TEXT NOT NULL, session_data TEXT NOT NULL, UNIQUE(session_id))"
INSERT_FACT = f"INSERT INTO facts ({', '.join(FACT_COLUMNS)}) VALUES ({', '.join('?' * len(FACT_COLUMNS))})"
INSERT_BLOB = "INSERT INTO session_blobs VALUES (?, ?)"


def sqlite_to_dynamodb(path: str, endpoint: str, kind: str = "fact", count: int | None = None) -> Run:
    table = _table(endpoint)

    def run() -> int:
        db = sqlite3.connect(path)
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM facts" if kind == "fact" else "SELECT * FROM session_blobs")
        moved = 0
        with closing(db), table.batch_writer() as batch:
            for row in islice(rows, count):
                batch.put_item(Item=_fact_item(dict(row)) if kind == "fact" else dict(row))
                moved += 1
        return moved

    return run


def jsonl_to_dynamodb(path: str, endpoint: str, count: int | None = None) -> Run:
    table = _table(endpoint)

    def run() -> int:
        moved = 0
        with Path(path).open() as file, table.batch_writer() as batch:
            for line in islice(file, count):
                batch.put_item(Item=_fact_item(json.loads(line)["record"]))
                moved += 1
        return moved

    return run


def _fact_item(fact: dict[str, Any]) -> dict[str, Any]:
    item = {name: Decimal(str(value)) if isinstance(value, float) else value for name, value in fact.items()}
    item["SK"] = f"FACT#{fact['category']}#{fact['key']}"
    return item


def dynamodb_to_jsonl_gz(endpoint: str, path: str, most: int) -> Run:
    """At least `most` items: the page that they end in is the last."""
    table = _table(endpoint)

    def run() -> int:
        moved, page = 0, {}
        with gzip.open(path, "wt") as file:  # -9 is Python's default
            while not moved or ("LastEvaluatedKey" in page and moved < most):
                start = {"ExclusiveStartKey": page["LastEvaluatedKey"]} if moved else {}
                page = table.scan(**start)
                for item in page["Items"]:
                    file.write(json.dumps(item, default=float) + "\n")
                moved += len(page["Items"])
        return moved

    return run


def json_to_sqlite(path: str, sink: str) -> Run:
    def run() -> int:
        with Path(path).open() as file:
            sessions = json.load(file)
        db = sqlite3.connect(sink)
        with closing(db), db:
            db.execute(BLOBS)
            db.executemany(INSERT_BLOB, ((name, json.dumps(blob)) for name, blob in sessions.items()))
        return len(sessions)

    return run


def sqlite_to_sqlite(path: str, sink: str) -> Run:
    def run() -> int:
        db, there = sqlite3.connect(path), sqlite3.connect(sink)
        with closing(db), closing(there), there:
            there.execute(FACTS)
            rows = db.execute(f"SELECT {', '.join(FACT_COLUMNS)} FROM facts")
            return there.executemany(INSERT_FACT, rows).rowcount

    return run


def ready_tuples_to_sqlite(path: str, sink: str) -> Run:
    """The physical limit of a SQLite sink: rows that are tuples already, 1,000 a transaction, as durable as ours (rollback journal, FULL)."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(f"SELECT {', '.join(FACT_COLUMNS)} FROM facts").fetchall()

    def run() -> int:
        with closing(sqlite3.connect(sink)) as there:
            there.execute("PRAGMA synchronous = FULL")
            there.execute(FACTS)
            for batch in _batches(rows, 1000):
                with there:
                    there.executemany(INSERT_FACT, batch)
        return len(rows)

    return run


def _batches(rows: list[Any], size: int) -> Iterator[list[Any]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _table(endpoint: str) -> Any:
    import boto3

    return boto3.resource("dynamodb", endpoint_url=endpoint, region_name="eu-west-1").Table("bench")


if __name__ == "__main__":
    print(f"{globals()[sys.argv[1]](*sys.argv[2:])():,} items")
