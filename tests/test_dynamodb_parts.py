"""What the DynamoDB writer asks for when a record is in parts, and what it leaves noted for the next attempt.

The endpoint is a table of LuminoraCore's 1.0 blobs. What real servers hold in the end says `test_oversize.py`, with kills before each write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import endpoint
from migrator.adapters.base import PARTS_FOLDER, Flushed, Setting
from migrator.adapters.dynamodb.oversize import PART_BYTES
from migrator.adapters.dynamodb.sink import BATCH_ITEMS, DynamoDBSink
from migrator.errors import StoreError
from migrator.layout import PART_MARK
from migrator.mapping_file import load_mapping
from migrator.model import Existing, Row
from test_dynamodb import Stub, VirtualTime, at, refusal

LAYOUT = load_mapping("luminoracore-v1.0").layouts["session_id"]


class Blobs(Stub):
    """A table with the key session_id."""

    def put(self, item: dict[str, Any]) -> None:
        self.items[item["session_id"]["S"], ""] = item

    def BatchWriteItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        asked = request["RequestItems"]["chat"]
        if not 0 < len(asked) <= 25:
            return refusal("ValidationException", "between 1 and 25")
        for each in asked:
            if "PutRequest" in each:
                self.put(each["PutRequest"]["Item"])
            else:
                self.items.pop((each["DeleteRequest"]["Key"]["session_id"]["S"], ""), None)
        return 200, {"UnprocessedItems": {}}

    def PutItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        self.put(request["Item"])
        return 200, {}

    def GetItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        held = self.items.get((request["Key"]["session_id"]["S"], ""))
        return 200, {"Item": held} if held else {}

    def DescribeTable(self, request: dict[str, Any]) -> Any:  # noqa: N802
        schema = [{"AttributeName": "session_id", "KeyType": "HASH"}]
        types = [{"AttributeName": "session_id", "AttributeType": "S"}]
        return 200, {
            "Table": {
                "TableName": "chat",
                "KeySchema": schema,
                "AttributeDefinitions": types,
                "TableStatus": "ACTIVE",
                "ItemCount": 0,
            }
        }

    def BatchGetItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        keys = [(key["session_id"]["S"], "") for key in request["RequestItems"]["chat"]["Keys"]]
        return 200, {
            "Responses": {"chat": [self.items[key] for key in keys if key in self.items]},
            "UnprocessedKeys": {},
        }

    @property
    def heads(self) -> list[str]:
        return sorted(name for name, _ in self.items if PART_MARK not in name)

    @property
    def parts(self) -> int:
        return len(self.items) - len(self.heads)

    def batches(self) -> list[list[str]]:
        """The keys of what each batch put or deleted, in the order of sending."""
        asked = [each["RequestItems"]["chat"] for operation, each in self.requests if operation == "BatchWriteItem"]
        return [
            [each["PutRequest"]["Item"]["session_id"]["S"] if "PutRequest" in each else "deleted" for each in batch]
            for batch in asked
        ]


@pytest.fixture
def table() -> Iterator[Blobs]:
    stub = Blobs()

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        status, told = stub.answer(operation, json.loads(body))
        return status, json.dumps(told).encode()

    with endpoint.answering(answer) as stub.endpoint:
        yield stub


@pytest.fixture(autouse=True, params=["boto3", "fast"])
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATOR_FAST", str(int(request.param == "fast")))


@pytest.fixture
def sink(table: Blobs, tmp_path: Path) -> Iterator[DynamoDBSink]:
    sink = opened(table, tmp_path)
    sink.begin("0000")
    yield sink
    sink.close()


def opened(table: Blobs, scratch: Path) -> DynamoDBSink:
    setting = Setting(LAYOUT, ("session_blob",), scratch, oversize="split")
    return DynamoDBSink(at(table.endpoint), setting, VirtualTime().pace())


def blob(name: str, parts: int = 0) -> Row:
    """A record in so many parts, or in one item."""
    size = (parts - 1) * PART_BYTES + PART_BYTES // 2 if parts > 1 else PART_BYTES + 20_000 if parts else 10
    return Row("session_blob", {"session_id": name, "session_data": (name[-1] * size)})


def notes(scratch: Path) -> list[str]:
    return sorted(path.name for path in (scratch / PARTS_FOLDER).glob("*"))


def fail_at_heads(table: Blobs) -> None:
    """Whatever holds a record itself is refused; parts go through."""

    def answer(operation: str, request: dict[str, Any]) -> Any:
        asked = request.get("RequestItems", {}).get("chat", []) if operation == "BatchWriteItem" else []
        names = [each["PutRequest"]["Item"]["session_id"]["S"] for each in asked if "PutRequest" in each]
        return refusal("AccessDeniedException") if any(PART_MARK not in name for name in names) else None

    table.before = answer


def test_parts_come_before_their_record_and_a_record_alone_in_its_batch(table: Blobs, sink: DynamoDBSink) -> None:
    sink.upsert([blob("a"), blob("b", 3), blob("c"), blob("d")], Existing.EMPTY)
    assert sink.flush() == Flushed()
    assert (table.heads, table.parts) == (["a", "b", "c", "d"], 3)
    ways = [["part" if PART_MARK in name else name for name in batch] for batch in table.batches()]
    assert ways.index(["b"]) > max(turn for turn, batch in enumerate(ways) if "part" in batch)
    assert sorted(name for batch in ways for name in batch if name not in ("b", "part")) == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("burst", "most"),
    [
        (10 * PART_BYTES / 1024, 5),
        (2.5 * PART_BYTES / 1024, 2),
        ((2 * PART_BYTES - 1) / 1024, 1),
        (PART_BYTES / 1024, 1),
        (1.0, 1),
    ],
)
def test_so_many_parts_go_at_once_as_bytes_and_units_let(
    burst: float, most: int, table: Blobs, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sink._table.writes), "burst", burst)
    sink.upsert([blob("long", 7)], Existing.EMPTY)
    sink.flush()
    sizes = [len(batch) for batch in table.batches() if PART_MARK in batch[0]]
    assert (max(sizes), sum(sizes)) == (most, 7)


def test_parts_whose_record_was_not_written_are_taken_away_by_the_next_attempt(
    table: Blobs, sink: DynamoDBSink, tmp_path: Path
) -> None:
    fail_at_heads(table)
    sink.upsert([blob("x", 30)], Existing.EMPTY)
    with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
        sink.flush()
    assert (table.heads, table.parts > BATCH_ITEMS, notes(tmp_path)) == ([], True, ["0000.jsonl"])
    table.before = lambda operation, request: None
    again = opened(table, tmp_path)
    again.prepare(["session_blob"], create=False)
    assert (table.items, notes(tmp_path)) == ({}, [])
    again.close()


def test_parts_of_a_slice_are_looked_after_when_it_ends(table: Blobs, sink: DynamoDBSink, tmp_path: Path) -> None:
    sink.upsert([blob("x", 2)], Existing.EMPTY)
    sink.flush()
    assert (table.heads, table.parts, notes(tmp_path)) == (["x"], 2, [])
    sink.begin("0001")
    count = len(table.requests)
    sink.flush()
    assert len(table.requests) == count


@pytest.mark.parametrize("existing", [Existing.EMPTY, Existing.REPLACE])
def test_only_who_replaces_asks_what_was_there_and_its_parts_go(
    existing: Existing, table: Blobs, sink: DynamoDBSink
) -> None:
    sink.upsert([blob("x", 4), blob("y")], Existing.EMPTY)
    sink.flush()
    sink.begin("0001")
    table.requests.clear()
    sink.upsert([Row("session_blob", {"session_id": "x", "session_data": "short"}), blob("z")], existing)
    sink.flush()
    asked = table.count("BatchGetItem")
    assert (asked > 0, table.heads) == (existing is Existing.REPLACE, ["x", "y", "z"])
    assert table.parts == (0 if existing is Existing.REPLACE else 4)


@pytest.mark.parametrize("_by", ["fast"], indirect=True)
def test_what_is_in_one_item_goes_the_fast_way_where_there_is_one(
    table: Blobs, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast: list[int] = []
    sink.upsert([blob("first")], Existing.EMPTY)
    sink.flush()
    assert sink._lane is not None
    send = sink._lane.send
    monkeypatch.setattr(sink._lane, "send", lambda puts, *more: fast.append(len(puts)) or send(puts, *more))
    for number, (rows, existing) in enumerate(
        [
            ([blob("a"), blob("b")], Existing.EMPTY),
            ([blob("c", 2)], Existing.EMPTY),
            ([blob("a"), blob("b"), blob("d")], Existing.REPLACE),
        ]
    ):
        sink.begin(f"{number:04}")
        sink.upsert(rows, existing)
        sink.flush()
    assert fast == [2]


def test_a_table_without_texts_that_could_be_in_parts_is_replaced_the_fast_way(
    table: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = load_mapping("luminoracore-v1.1").layouts["user_id/SK"]
    assert not layout.has_opaque
    sink = DynamoDBSink(at(table.endpoint), Setting(layout, ("fact",), tmp_path), VirtualTime().pace())
    monkeypatch.setattr(Blobs, "put", lambda self, item: self.items.update({(item["SK"]["S"], ""): item}))
    sink.begin("0000")
    fields = {"user_id": "ana", "session_id": None, "category": "work", "key": "k", "value": "v"}
    sink.upsert([Row("fact", fields)], Existing.REPLACE)
    sink.flush()
    assert (table.count("BatchWriteItem"), table.count("BatchGetItem"), len(table.items)) == (1, 0, 1)
    assert (sink._table._pool is None) == (sink._lane is not None)
    sink.close()
