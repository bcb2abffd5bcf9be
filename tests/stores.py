"""The stores under test: each adapter in every form, layout and server, described alike.

A test asks a store for a source, a reader or a sink and does not ask which it is. What differs is told here, once: how an address is
made, how an item is spoiled behind the adapter's back, and what somebody who writes would change.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import pytest

from conftest import needed
from migrator.adapters import adapter_for, memory
from migrator.adapters.base import Adapter, Flushed, Reader, Setting, Sink, Source
from migrator.config import resolve
from migrator.layout import Layout
from migrator.mapping_file import load_mapping
from migrator.model import Address, Existing, Origin, Page, Partition, Row, Snapshot
from migrator.values import canonical
from tables import address_of, client_of, items_of

MAPPING = load_mapping("luminoracore-v1.1")
KINDS = MAPPING.kind_names()

DATA = Path(__file__).resolve().parent / "data"

_numbers = itertools.count()

# Every store that is opened makes a session of boto3's, and each would read the service's description anew: 0.1 s.
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)


class Store:
    """One place, empty and untouched when it is made. Whatever is opened through it is closed when the test ends."""

    splits = True
    """Whether a store of many records has several partitions."""

    can_lack = True
    """Whether there may be nothing at an address, so that `prepare` has something to make."""

    def __init__(self, name: str, address: str, folder: Path, layout: Layout | None = None) -> None:
        self.name = name
        self.address: Address = resolve(address)
        self.adapter: Adapter = adapter_for(self.address.store)
        self.layout = layout or MAPPING.layout_for(self.address.store, None)
        self.folder = folder
        self.opened: list[Source | Sink] = []

    # opening

    def setting(self, job: str = "job", **more: Any) -> Setting:
        """As a job of that name has it: the scratch folder is the job's own."""
        scratch = self.folder / "state" / job
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Setting(self.layout, KINDS, scratch, **more)

    def source(self, snapshot: Snapshot | None = None, **more: Any) -> Source:
        """Opened and held still."""
        source = self._noted(self.adapter.source(self.address, self.setting("source", **more), snapshot))
        if snapshot is None:
            source.snapshot()
        return source

    def reader(self, **more: Any) -> Reader:
        return self._noted(self.adapter.reader(self.address, self.setting("reader", **more)))

    def sink(self, job: str = "job", **more: Any) -> Sink:
        return self._noted(self.adapter.sink(self.address, self.setting(job, **more)))

    def prepared(self, job: str = "job", **more: Any) -> Sink:
        sink = self.sink(job, **more)
        sink.prepare(KINDS, create=True)
        return sink

    def write(self, rows: Iterable[Row], existing: Existing = Existing.REPLACE) -> Flushed:
        """As a job of its own, from `prepare` to `publish`."""
        sink = self.prepared(f"job-{next(_numbers)}")
        sink.begin("0000-000000")
        sink.upsert(list(rows), existing)
        flushed = sink.flush()
        sink.publish()
        sink.close()
        return flushed

    def close(self) -> None:
        for each in self.opened:
            each.close()

    def _noted(self, store: Any) -> Any:
        self.opened.append(store)
        return store

    # comparing

    def values(self, rows: Iterable[Row]) -> list[bytes]:
        """Rows as text, in an order of their own; numbers by value, and without what this store cannot tell apart."""
        return sorted(map(self._value, rows))

    def _value(self, row: Row) -> bytes:
        record = {n: v for n, v in row.record.items() if v is not None} if "absent" in self.loses else row.record
        origin = row.origin.to_plain() if row.origin and "origins" not in self.loses else None
        return canonical([row.kind, record, origin])

    @functools.cached_property
    def loses(self) -> frozenset[str]:
        return self.reader().loses

    # behind the adapter's back

    def spoil(self) -> int:
        """Put broken records between the good ones; how many. Their values hold "secret"."""
        raise NotImplementedError

    def footprint(self) -> object:
        """Equal before and after what writes nothing."""
        raise NotImplementedError

    def under_another_key(self, row: Row) -> Row:
        """The row as a store holds it that made its derived key differently; where keys are not derived, the row."""
        return row

    def __str__(self) -> str:
        return self.name


class MemoryStore(Store):
    can_lack = False

    def spoil(self) -> int:
        held = memory.store(self.address.name)
        held.append("fact", {"user_id": "eve", "category": "secret", "key": 7}, ("eve", "secret", 7))
        return 1

    def footprint(self) -> object:
        held = memory._STORES.get(self.address.name)
        return repr(sorted(held.rows.items())) if held is not None and held.rows else None

    def close(self) -> None:
        super().close()
        memory.forget(self.address.name)


class FileStore(Store):
    @property
    def path(self) -> Path:
        return Path(self.address.name)

    def footprint(self) -> object:
        """The folder with whatever lies in it: a lock, a journal or a part would be seen."""
        found = {}
        for path in sorted(self.path.parent.rglob("*")):
            stat = path.stat()
            found[path.name] = (
                stat.st_ino,
                stat.st_mtime_ns,
                stat.st_mode,
                path.read_bytes() if path.is_file() else None,
            )
        return found


class JsonStore(FileStore):
    @property
    def splits(self) -> bool:  # type: ignore[override]
        return self.path.suffix == ".jsonl"

    def spoil(self) -> int:
        module: Any = importlib.import_module("migrator.adapters.packing")
        with module.opened(self.path) as file:
            text = file.read()
        if self.address.store == "jsonl":
            wrong = {"kind": "fact", "record": {"user_id": "eve", "category": "secret", "key": 7}}
            text = json.dumps(wrong).encode() + b'\n{"kind": secret}\n' + text + b'["secret"]\n'
            broken = 3
        else:
            document = json.loads(text)
            document["facts"][1:1] = ["secret", {"user_id": "eve", "category": "secret", "key": 7}]
            text, broken = json.dumps(document).encode(), 2
        self.path.write_bytes(module.compression_of(self.path).compress(text))
        return broken


class SqliteStore(FileStore):
    def spoil(self) -> int:
        with sqlite3.connect(self.path) as db:
            insert = "INSERT INTO facts (user_id, category, key, value, confidence) VALUES (?, ?, ?, ?, ?)"
            db.execute(insert, ("eve", "work", "blob", b"secret", 1.0))
            db.execute(insert, ("eve", "work", "number", "fine", "secret"))
            db.execute(
                "INSERT INTO facts (user_id, category, key, value) VALUES ('eve', 'work', 'x', CAST(x'736563726574ff' AS TEXT))"
            )
        db.close()
        return 3


class DynamoStore(Store):
    def __init__(self, name: str, endpoint: str, folder: Path, shape: str) -> None:
        table = f"chat-{uuid.uuid4().hex[:12]}"
        layout = MAPPING.layout_for("dynamodb", None, shape)
        super().__init__(name, address_of(table, endpoint), folder, layout)
        self.client = client_of(endpoint)

    def spoil(self) -> int:
        hash_name = self.layout.key[0]
        fact = {hash_name: "eve", "user_id": "eve", "category": "work", "key": "boss"}
        item = {name: {"S": value} for name, value in fact.items()}
        range_name = self.layout.key[1]
        self._put(item | {range_name: {"S": "FACT#work#boss"}, "value": {"B": b"secret"}})
        self._put(item | {range_name: {"S": "FACT#work#home"}, "confidence": {"S": "secret"}})
        return 2

    def _put(self, item: dict[str, Any]) -> None:
        self.client.put_item(TableName=self.address.name, Item=item)

    def items(self) -> list[dict[str, Any]]:
        return items_of(self.client, self.address.name)

    def footprint(self) -> object:
        try:
            table = self.client.describe_table(TableName=self.address.name)["Table"]
        except self.client.exceptions.ResourceNotFoundException:
            return None
        indexes = [index["KeySchema"] for index in table.get("GlobalSecondaryIndexes") or []]
        return table["KeySchema"], indexes, self.items()

    def under_another_key(self, row: Row) -> Row:
        kind = self.layout.kinds[row.kind]
        if not kind.has_free_key:
            return row
        prefix = kind.keys[1].free.render(kind.kind, row.record)  # type: ignore[union-attr]
        return Row(
            row.kind,
            row.record,
            Origin("dynamodb", self.layout.id, {self.layout.key[1]: f"{prefix}{next(_numbers)}_20250101_000000"}),
        )

    def close(self) -> None:
        super().close()
        if self.footprint() is not None:
            self.client.delete_table(TableName=self.address.name)
        self.client.close()


TABLES = {
    "moto": ("PK/SK+GSI1",),
    "dynamodb_local": ("user_id/SK", "session_id/SK+GSI1", "PK/SK"),
    "dynalite": ("session_id/timestamp",),
}
"""Which shapes are claimed on which server: each shape somewhere, and in the long profile the two that have a form of their own on each."""

if os.environ.get("MIGRATOR_LONG") == "1":
    TABLES |= {
        "moto": ("user_id/SK", "session_id/SK+GSI1", *TABLES["moto"]),
        "dynalite": ("user_id/SK", *TABLES["dynalite"]),
    }

FILES = {
    "jsonl": JsonStore,
    "jsonl.gz": JsonStore,
    "jsonl.zst": JsonStore,
    "json": JsonStore,
    "json.gz": JsonStore,
    "db": SqliteStore,
}
"""As addresses that end in it are recognised."""

NAMES = [
    "memory",
    *(f"file.{suffix}" for suffix in FILES),
    *(f"{server} {shape}" for server, shapes in TABLES.items() for shape in shapes),
]
KEYED = [name for name in NAMES if not name.startswith("file.json")]
"""Those that hold records one by one, where a JSON file is compared and replaced whole."""


def make(name: str, request: pytest.FixtureRequest, folder: Path) -> Store:
    """A fresh store of that name; skipped, by the server's fixture, where its server is missing."""
    if name == "memory":
        return MemoryStore(name, f"memory:{uuid.uuid4().hex}", folder)
    form, _, rest = name.partition(" ")
    if rest:
        return DynamoStore(name, request.getfixturevalue(f"{form}_endpoint"), folder, rest)
    suffix = form.removeprefix("file.")
    if suffix.endswith(".zst"):
        needed("zstandard")
    place = folder / "store"
    place.mkdir()
    return FILES[suffix](name, str(place / f"chat.{suffix}"), folder)


# Reading a store -------------------------------------------------------------------------------------------------------


def pages_of(source: Source, wanted: int = 4) -> Iterator[Page]:
    for partition in source.partitions(KINDS, wanted):
        yield from source.pages(partition, None)


def rows_of(source: Source, wanted: int = 4) -> list[Row]:
    return [row for page in pages_of(source, wanted) for row in page.rows]


def rest_of(source: Source, partition: Partition, cursor: Any) -> list[Row]:
    return [row for page in source.pages(partition, cursor) for row in page.rows]


def fetched(reader: Reader, rows: Sequence[Row]) -> dict[tuple[str, tuple[Any, ...]], Row]:
    """What a reader holds where rows would go, by kind and identity."""
    return {
        (row.kind, reader.layout.kinds[row.kind].kind.identity_of(row.record)): held
        for row, held in zip(rows, reader.fetch(rows), strict=True)
        if held is not None
    }


# Records ---------------------------------------------------------------------------------------------------------------


def record_of(kind: str, number: int = 0, **more: Any) -> Row:
    """A whole record, as LuminoraCore writes them; each number makes another identity."""
    made = {
        "user_id": f"ana{number % 5}",
        "session_id": f"session_{number:012x}_1741000000",
        "created_at": f"2025-03-01T10:20:{number % 60:02}.123456",
        "updated_at": f"2025-03-02T10:20:{number % 60:02}",
    }
    own: dict[str, dict[str, Any]] = {
        "affinity": {
            "personality_name": f"Dr. Luna {number}",
            "affinity_points": number,
            "current_level": "friend",
            "total_interactions": 12,
            "positive_interactions": 7,
        },
        "fact": {"category": "work", "key": f"boss_{number}", "value": "María José", "confidence": 0.9},
        "episode": {
            "episode_type": "milestone",
            "title": f"First {number}",
            "summary": "…",
            "importance": 7.5,
            "sentiment": "good",
        },
        "mood": {"mood_type": "happy", "intensity": 0.25, "context": f"talk {number}"},
        "memory": {"memory_key": f"sentiment_{number}", "memory_value": '{"score": 1.0}'},
        "session": {"personality_name": "Dr. Luna", "last_activity": made["updated_at"], "ttl": 1_772_000_000 + number},
    }
    return Row(kind, made | own[kind] | more)


def records(count: int) -> list[Row]:
    """Of every kind so many."""
    return [record_of(kind, number) for number in range(count) for kind in KINDS]
