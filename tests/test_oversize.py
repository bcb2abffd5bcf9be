"""Records larger than an item of DynamoDB may be: rejected, compressed or in parts, and back as they were.

On each server that speaks DynamoDB, with LuminoraCore's 1.0 blobs and with a kind of a mapping of our own, whose table has a range and an index.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kills
import migrator
from migrator import Options, Report
from migrator.adapters.base import PAGE_BYTES, RECORD_BYTES, Setting
from migrator.adapters.dynamodb import oversize
from migrator.adapters.dynamodb.adapter import ADAPTER
from migrator.adapters.dynamodb.oversize import Oversize
from migrator.adapters.dynamodb.values import ITEM_BYTES, Item, item_size
from migrator.config import resolve
from migrator.errors import ConfigError, RecordError
from migrator.layout import PART_MARK
from migrator.mapping_file import load_mapping
from migrator.model import Existing, Reject, Row
from tables import address_of, client_of, items_of
from test_cli import run

BLOB, V1 = "session_blob", "luminoracore-v1.0"
LAYOUT = load_mapping(V1).layout_for("dynamodb", None)

Move = Callable[..., Report]

LONG = pytest.mark.skipif(os.environ.get("MIGRATOR_LONG") != "1", reason="long profile: scripts/test --long")


class Table:
    """A table that is not there yet, its address, and what lies in it."""

    def __init__(self, endpoint: str) -> None:
        self.name = f"oversize-{uuid.uuid4().hex[:12]}"
        self.address = address_of(self.name, endpoint)
        self.client = client_of(endpoint)

    def items(self) -> list[Item]:
        return items_of(self.client, self.name)

    def parts(self) -> list[Item]:
        return [item for item in self.items() if "part" in item]

    def key_of(self, item: Item) -> Item:
        return {name: item[name] for name in ("session_id", "channel", "SK") if name in item}

    def heads(self) -> dict[str, Item]:
        return {item["session_id"]["S"]: item for item in self.items() if "part" not in item}

    def drop(self) -> None:
        if self.name in self.client.list_tables()["TableNames"]:
            self.client.delete_table(TableName=self.name)
        self.client.close()


@pytest.fixture(params=["dynamodb_local", pytest.param("dynalite", marks=LONG), pytest.param("moto", marks=LONG)])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    table = Table(request.getfixturevalue(f"{request.param}_endpoint"))
    yield table
    table.drop()


@pytest.fixture
def local_table(dynamodb_local_endpoint: str) -> Iterator[Table]:
    table = Table(dynamodb_local_endpoint)
    yield table
    table.drop()


@pytest.fixture
def move(tmp_path: Path) -> Move:
    def migrate(source: object, sink: object, **more: Any) -> Report:
        given = {"mapping": V1, "create": True, "state": str(tmp_path / "states")} | more
        return migrator.migrate(str(source), str(sink), Options(**given))

    return migrate


def chat(path: Path, sessions: dict[str, Any]) -> Path:
    """LuminoraCore's own file."""
    path.write_bytes(json.dumps(sessions, indent=2, ensure_ascii=False).encode())
    return path


def noise(size: int, seed: int = 7) -> str:
    """Text in which nothing repeats, so that it cannot be compressed to less than three quarters."""
    return "".join(
        random.Random(seed).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", k=size)
    )


def ended(report: Report) -> tuple[str, str | None, int]:
    return report.outcome, report.proven, report.kinds[BLOB].tally.written


def reasons(report: Report) -> list[str]:
    text = Path(report.rejects_file or "").read_text("utf-8")
    return [json.loads(line)["reason"] for line in text.splitlines()]


def sizes_of(item_bytes: int) -> str:
    """A blob whose item, under the id "s", takes so many bytes."""
    return "x" * (item_bytes - len("session_id" + "s" + "session_data" + '""'))


SESSIONS = {
    "small": {"messages": ["hello"]},
    "history": {"messages": [{"role": "user", "content": f"message {n} ¿qué? 🦜"} for n in range(9_000)]},
    "letters": "aé€🦜" * 45_000,
    "noise": {"one MB": noise(1 << 20)},
}


# The limit -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reject", "compress", "split"])
@pytest.mark.parametrize("endpoint", ["dynamodb_local", "dynalite"])
def test_an_item_of_400_kb_is_stored_as_it_is_and_one_of_a_byte_more_as_was_asked(
    endpoint: str, way: str, move: Move, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Not on moto, which refuses more than 405,000 bytes."""
    table = Table(request.getfixturevalue(f"{endpoint}_endpoint"))
    request.addfinalizer(table.drop)
    chat(tmp_path / "fits.json", {"s": sizes_of(ITEM_BYTES)})
    assert ended(move(tmp_path / "fits.json", table.address, oversize=way)) == ("done", "digest", 1)
    (item,) = table.items()
    assert item_size(item) == ITEM_BYTES and "S" in item["session_data"]

    chat(tmp_path / "over.json", {"s": sizes_of(ITEM_BYTES + 1)})
    report = move(tmp_path / "over.json", table.address, oversize=way, existing="replace")
    if way == "reject":
        (reason,) = reasons(report)
        assert report.exit_code == 3 and table.items() == [item]
        assert f"takes {ITEM_BYTES + 1:,} bytes" in reason and "--oversize compress or split may store it" in reason
        return
    assert ended(report) == ("done", "digest", 1)
    text = json.dumps(sizes_of(ITEM_BYTES + 1)).encode()
    data = table.heads()["s"]["session_data"]
    if way == "compress":
        assert not table.parts() and gzip.decompress(data["B"]) == text
    else:
        assert data["M"]["bytes"]["N"] == str(len(text)) and data["M"]["parts"]["N"] == "2"
        assert "".join(part["part"]["S"] for part in table.parts()).encode() == text


@pytest.mark.parametrize("source", ["chat.json", "chat.db"])
def test_long_histories_go_into_a_table_and_come_back_as_they_were(
    source: str, table: Table, move: Move, tmp_path: Path
) -> None:
    chat(tmp_path / "chat.json", SESSIONS)
    if source == "chat.db":
        move(tmp_path / "chat.json", tmp_path / "chat.db")
    report = move(tmp_path / source, table.address, oversize="split")
    assert ended(report) == ("done", "digest", len(SESSIONS))
    assert max(item_size(item) for item in table.items()) <= ITEM_BYTES and len(table.parts()) > 6
    verified = migrator.verify(
        str(tmp_path / source),
        table.address,
        Options(state=str(tmp_path / "states"), mapping=V1, oversize="split", proof="rows"),
    )
    assert (verified.outcome, verified.proven) == ("done", "rows")
    again = move(tmp_path / source, table.address, oversize="split")
    assert again.kinds[BLOB].tally.unchanged == len(SESSIONS)
    for back in ("back.json", "back.db"):
        report = move(table.address, tmp_path / back)
        assert ended(report) == ("done", "digest", len(SESSIONS))
    assert json.loads((tmp_path / "back.json").read_bytes()) == SESSIONS
    if source == "chat.db":
        assert _texts(tmp_path / "back.db") == _texts(tmp_path / "chat.db")


def _texts(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(db.execute("SELECT session_id, session_data FROM session_blobs"))


def test_what_is_compressed_comes_back_and_what_cannot_be_says_what_would_help(
    table: Table, move: Move, tmp_path: Path
) -> None:
    chat(tmp_path / "chat.json", SESSIONS)
    report = move(tmp_path / "chat.json", table.address, oversize="compress", on_reject="continue")
    assert (report.exit_code, report.rejected, report.kinds[BLOB].tally.written) == (3, 1, 3)
    (reason,) = reasons(report)
    assert (
        "bytes, DynamoDB allows 409,600 (most of it in session_data); so it is compressed; --oversize split" in reason
    )
    assert {name: next(iter(item["session_data"])) for name, item in table.heads().items()} == {
        "small": "S",
        "history": "B",
        "letters": "B",
    }
    assert not table.parts()
    assert move(table.address, tmp_path / "back.json").outcome == "done"
    assert json.loads((tmp_path / "back.json").read_bytes()) == {
        n: SESSIONS[n] for n in ("small", "history", "letters")
    }
    # And one form instead of another is no difference.
    assert move(tmp_path / "chat.json", table.address, oversize="split").kinds[BLOB].tally.unchanged == 3


@pytest.mark.parametrize("mebibytes", [5, pytest.param(32, marks=LONG)])
def test_the_largest_record_that_travels_at_all_travels_in_parts(
    mebibytes: int, local_table: Table, move: Move, tmp_path: Path
) -> None:
    source = chat(tmp_path / "chat.json", {"long": (noise(1 << 20) * mebibytes)[:-1000]})
    assert ended(move(source, local_table.address, oversize="split")) == ("done", "digest", 1)
    assert len(local_table.parts()) == -(-(mebibytes << 20) // oversize.PART_BYTES)
    assert ended(move(local_table.address, tmp_path / "back.json")) == ("done", "digest", 1)
    assert (tmp_path / "back.json").read_bytes() == source.read_bytes()


# Killed ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def part_by_part() -> Iterator[kills.Killer]:
    """Parts are sent one at a time, so that a death comes between any two."""
    with kills.killing(100, KILLED_PARTS="1") as killer:
        yield killer


def killed_at(killer: kills.Killer, step: int, source: Path, address: str, states: Path, *more: str) -> bool:
    """Whether it was killed before its write number `step`; else it has ended by itself."""
    args = ("migrate", str(source), address, "--state", str(states), *more)
    args += ("--mapping", V1, "--oversize", "split", "--workers", "1", "--create")
    ended = killer.run(source.parent, *args, nth=step, sorts=["send"])
    assert ended.code in (0, kills.KILLED), ended.err
    return ended.code != 0


@pytest.mark.parametrize(
    "before", [pytest.param("nothing", marks=LONG), "other parts", pytest.param("small", marks=LONG)]
)
def test_killed_before_any_write_and_resumed_it_ends_as_if_it_had_not_been(
    before: str, part_by_part: kills.Killer, dynamodb_local_endpoint: str, tmp_path: Path
) -> None:
    # Written in this order, that of their keys' digests: a batch before the record in parts, and one behind it.
    new = chat(tmp_path / "new.json", {"short": {"n": 1}, "huge": noise(900_000), "small": []})
    held = noise(500_000, 8) if before == "other parts" else "not so huge"
    old = chat(tmp_path / "old.json", {"short": {"n": 0}, "huge": held})
    options = Options(
        mapping=V1, oversize="split", create=True, existing="replace" if before != "nothing" else "refuse"
    )
    clean: list[Item] = []
    for step in range(30):
        table = Table(dynamodb_local_endpoint)
        try:
            states = tmp_path / f"states-{step}"
            if before != "nothing":
                migrator.migrate(
                    str(old), table.address, Options(mapping=V1, oversize="split", create=True, state=str(states))
                )
            more = ("--existing", options.existing)
            if not killed_at(part_by_part, step, new, table.address, states, *more):
                clean = clean or table.items()
                assert table.items() == clean
                if step:
                    break
                continue
            # Whoever reads now finds whole records, the old or the new.
            is_begun = (
                step > 1 or before != "nothing"
            )  # not when the first of all writes, to make the table, is what it died before
            if is_begun:
                state = Options(state=str(tmp_path / f"back-{step}"), allow_empty=True)
                back = migrator.migrate(table.address, str(tmp_path / f"back-{step}.jsonl"), state)
                assert back.rejected == 0
            resumed = migrator.migrate(
                str(new),
                table.address,
                Options(**{**options.to_plain(), "kinds": (), "foreign": (), "state": str(states)}),
            )
            assert (resumed.outcome, resumed.proven, resumed.resumed) == ("done", "digest", is_begun)
            assert table.items() == clean
        finally:
            table.drop()
    assert step > 6  # three parts, their head, and what lies before and behind it


# By hand ---------------------------------------------------------------------------------------------------------------


def _delete_part(table: Table, part: Item) -> str:
    table.client.delete_item(TableName=table.name, Key=table.key_of(part))
    return "part 2 of 3 of session_data is missing"


def _change_part(table: Table, part: Item) -> str:
    data = part["part"]["S"]
    table.client.put_item(TableName=table.name, Item={**part, "part": {"S": data[:-1] + "?"}})
    return "the parts of session_data have been changed"


def _cut_part(table: Table, part: Item) -> str:
    table.client.put_item(TableName=table.name, Item={**part, "part": {"S": part["part"]["S"][:-9]}})
    return "the parts of session_data have been changed"


def _empty_part(table: Table, part: Item) -> str:
    table.client.put_item(TableName=table.name, Item=table.key_of(part))
    return "part 2 of 3 of session_data is missing"


def _promise_too_much(table: Table, part: Item) -> str:
    head = dict(table.heads()["long"])
    size = 40 << 20
    count = -(-size // oversize.PART_BYTES)
    more = {**head["session_data"]["M"], "bytes": {"N": str(size)}, "parts": {"N": str(count)}}
    table.client.put_item(TableName=table.name, Item={**head, "session_data": {"M": more}})
    return "bytes; the limit for a record is 33,554,432"


@pytest.mark.parametrize("spoil", [_delete_part, _change_part, _cut_part, _empty_part, _promise_too_much])
def test_a_part_that_is_missing_or_wrong_is_named_and_mended(
    spoil: Callable[[Table, Item], str], table: Table, move: Move, tmp_path: Path
) -> None:
    source = chat(tmp_path / "chat.json", {"a": 1, "long": noise(900_000), "z": 2})
    move(source, table.address, oversize="split")
    clean = table.items()
    (part,) = [each for each in table.parts() if each["session_id"]["S"].endswith("#0002")]
    reason = spoil(table, part)

    options = Options(state=str(tmp_path / "states"), mapping=V1, oversize="split")
    verified = migrator.verify(str(source), table.address, options)
    assert verified.exit_code == 4 and verified.kinds[BLOB].proof.missing == 1
    (words,) = verified.unreadable_seen
    assert words.startswith('{"session_id":"long"}: ') and reason in words

    back = move(table.address, tmp_path / "back.json", on_reject="continue")
    assert (back.exit_code, back.rejected, back.kinds[BLOB].tally.written) == (3, 1, 2)
    (why,) = reasons(back)
    assert reason in why and ("--existing replace" in why or "limit" in why)
    inspected = migrator.inspect(table.address)
    assert inspected.kinds[BLOB].rejected == 1 and reason in inspected.rejects[0]

    assert move(source, table.address, oversize="split").exit_code == 4  # nothing is overwritten unless asked
    mended = move(source, table.address, oversize="split", existing="replace")
    assert ended(mended) == ("done", "digest", 1)
    assert table.items() == clean


def test_a_compressed_text_that_is_cut_is_named(local_table: Table, move: Move, tmp_path: Path) -> None:
    source = chat(tmp_path / "chat.json", {"long": "ab" * 300_000})
    move(source, local_table.address, oversize="compress")
    (item,) = local_table.items()
    data = item["session_data"]["B"]
    for bad in (data[:-1], data + b"x", data[:40] + b"!" + data[41:]):
        local_table.client.put_item(TableName=local_table.name, Item={**item, "session_data": {"B": bad}})
        report = move(local_table.address, tmp_path / "back.json", on_reject="continue", existing="replace")
        assert report.exit_code == 3 and "session_data is compressed and damaged" in reasons(report)[0]


def test_a_part_without_a_record_is_a_ghost_and_no_record(table: Table, move: Move, tmp_path: Path) -> None:
    source = chat(tmp_path / "chat.json", {"a": 1, "long": noise(900_000)})
    move(source, table.address, oversize="split")
    head = table.heads()["long"]
    stranger = {"session_id": {"S": f"gone{PART_MARK}{'0' * 32}#0001"}, "part": {"S": "xyz"}}
    older = {"session_id": {"S": f"long{PART_MARK}{'0' * 32}#0001"}, "part": {"S": "xyz"}}
    nameless = {"session_id": {"S": PART_MARK}}
    for ghost in (stranger, older, nameless):
        table.client.put_item(TableName=table.name, Item=ghost)
    found = migrator.inspect(table.address)
    assert (found.ghosts, found.foreign, found.kinds[BLOB].count) == (3, 0, 2)
    back = move(table.address, tmp_path / "back.json")
    assert (back.outcome, back.ghosts) == ("done", 3)
    options = Options(state=str(tmp_path / "states"), mapping=V1, oversize="split")
    assert migrator.verify(str(source), table.address, options).outcome == "done"
    table.client.delete_item(TableName=table.name, Key=table.key_of(head))
    assert migrator.inspect(table.address).ghosts == 6


def test_a_record_with_the_key_of_a_part_is_rejected_in_every_way(
    local_table: Table, move: Move, tmp_path: Path
) -> None:
    """Promise 6: two records, or a record and a part, never fall on one key."""
    name = f"long{PART_MARK}{'0' * 32}#0001"
    source = chat(tmp_path / "chat.json", {"long": 1, name: 2})
    for way in ("reject", "compress", "split"):
        report = move(source, local_table.address, oversize=way, on_reject="continue")
        assert report.rejected == 1 and PART_MARK in reasons(report)[0]


# Written again ---------------------------------------------------------------------------------------------------------


def test_what_is_replaced_leaves_no_part_behind(table: Table, move: Move, tmp_path: Path) -> None:
    texts = [noise(900_000), noise(500_000, 8), "short", noise(2_000_000, 9), noise(2_000_000, 9) + "!", [1]]
    for number, text in enumerate(texts):
        source = chat(tmp_path / f"{number}.json", {"a": 1, "long": text})
        report = move(source, table.address, oversize="split", existing="replace")
        assert (report.outcome, report.proven) == ("done", "digest")
        named = {part["session_id"]["S"].partition("#")[2][:32] for part in table.parts()}
        data = table.heads()["long"]["session_data"]
        assert named == ({data["M"]["sha256"]["S"][:32]} if "M" in data else set())
        if number:
            replaced = [json.loads(line) for line in Path(report.replaced_file or "").read_text("utf-8").splitlines()]
            assert [each["record"]["session_data"] for each in replaced] == [texts[number - 1]]
    assert migrator.inspect(table.address).ghosts == 0


def test_keep_and_refuse_leave_a_record_in_parts_as_it_is(table: Table, move: Move, tmp_path: Path) -> None:
    move(chat(tmp_path / "old.json", {"long": noise(900_000), "kept": 1}), table.address, oversize="split")
    before = table.items()
    new = chat(tmp_path / "new.json", {"long": noise(700_000, 8), "kept": noise(700_000, 9), "new": noise(500_000, 3)})
    refused = move(new, table.address, oversize="split")
    assert (refused.exit_code, refused.kinds[BLOB].tally.differing, refused.kinds[BLOB].tally.written) == (4, 2, 1)
    kept = move(new, table.address, oversize="split", existing="keep")
    assert (kept.exit_code, kept.kinds[BLOB].tally.kept, kept.kinds[BLOB].tally.unchanged) == (0, 2, 1)
    assert [item for item in table.items() if not item["session_id"]["S"].startswith("new")] == before
    assert len(table.parts()) == 3 + 2


def _row(name: str, text: str) -> Row:
    return Row(BLOB, {"session_id": name, "session_data": text})


def test_a_sink_that_meets_another_record_takes_its_own_parts_away_again(table: Table, tmp_path: Path) -> None:
    setting = Setting(LAYOUT, (BLOB,), tmp_path, oversize="split")
    theirs, ours = _row("s", noise(500_000)), _row("s", noise(900_000, 8))
    with closing(ADAPTER.sink(resolve(table.address), setting)) as sink:
        sink.prepare((BLOB,), create=True)

        def written(existing: Existing, *rows: Row) -> list[tuple[Row, Row]]:
            sink.begin("0000-000000")
            sink.upsert(rows, existing)
            flushed = sink.flush()
            assert not flushed.rejects
            return flushed.held

        assert written(Existing.EMPTY, theirs) == []
        before = table.items()
        ((_, held),) = written(Existing.REFUSE, ours)
        assert held.record == theirs.record and table.items() == before
        ((_, held),) = written(Existing.REFUSE, theirs)
        assert held.record == theirs.record and table.items() == before

        sink.begin("0000-000001")  # compared with what is there no more
        sink.swap([(ours, _row("s", "long ago"))])
        ((_, held),) = sink.flush().held
        assert held.record == theirs.record and table.items() == before

        sink.begin("0000-000002")
        sink.swap([(ours, held)])
        assert sink.flush().held == [] and len(table.parts()) == 3

        assert written(Existing.REPLACE, theirs) == [] and table.items() == before
        small = _row("s", "small")
        assert written(Existing.REPLACE, small) == [] and not table.parts()
        assert written(Existing.REPLACE, small, ours) == [] and len(table.parts()) == 3

        reader = sink.reader()
        assert [row and row.record for row in reader.fetch([small, _row("other", "x")])] == [ours.record, None]
        sink.begin("0000-000003")
        sink.remove([ours])
        assert sink.flush().held == [] and table.items() == []
        reader.close()


# A table with a range and an index, and a time by which one record is newer ----------------------------------------------

MAPPING = """
name = "notes"

[kinds.note]
identity = ["channel", "id"]
newest = "edited_at"

[kinds.note.fields]
channel = "text"
id = "text"
edited_at = "timestamp"
body = "text"
more = "json"
stars = "json"

[layouts.json]
store = "json"
note = { collection = "notes" }

[layouts."channel/SK"]
store = "dynamodb"
key = ["channel", "SK"]
index = ["GSI1", "GSI1PK", "GSI1SK"]

[layouts."channel/SK".note]
key = ["{channel}", "NOTE#{id}"]
index = ["ALL#{channel}", "{edited_at}"]
marks = ["id", "channel"]
fields = { more = { as = "json" } }
opaque = ["body", "more"]
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.toml"
    path.write_text(MAPPING)
    return path


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({"kind": "note", "record": record}) + "\n" for record in records))
    return path


def note(number: int, body: str, edited: int = 1, **more: Any) -> dict[str, Any]:
    return {"channel": "c", "id": f"{number:03}", "edited_at": f"2026-01-01T00:00:0{edited}", "body": body, **more}


def test_only_what_is_marked_is_put_in_parts_and_a_record_lies_before_them(
    table: Table, notes: Path, move: Move, tmp_path: Path
) -> None:
    """Parts are in no index; the largest text goes first, and what still fits stays."""
    long = [note(1, noise(300_000), more={"n": noise(350_000, 8)}), note(2, noise(700_000), more=noise(600_000, 9))]
    heavy = note(3, "x", stars=noise(410_000))
    source = lines(tmp_path / "notes.jsonl", *long, heavy, note(4, "x"))
    given = {"mapping": str(notes), "oversize": "split"}
    report = move(source, table.address, on_reject="continue", **given)
    assert (report.exit_code, report.rejected, report.kinds["note"].tally.written) == (3, 1, 3)
    assert "(most of it in stars); and only body, more may be in parts" in reasons(report)[0]
    answer = table.client.query(
        TableName=table.name,
        KeyConditionExpression="channel = :c AND begins_with(SK, :n)",
        ExpressionAttributeValues={":c": {"S": "c"}, ":n": {"S": "NOTE#"}},
        Limit=1,
    )
    assert answer["Items"][0]["SK"] == {"S": "NOTE#001"}
    heads = {item["SK"]["S"]: item for item in table.items() if "part" not in item}
    forms = {key: (*item["body"], *item.get("more", {})) for key, item in heads.items()}
    assert forms == {"NOTE#001": ("S", "M"), "NOTE#002": ("M", "M"), "NOTE#004": ("S",)}
    indexed = table.client.scan(TableName=table.name, IndexName="GSI1", Select="COUNT")["Count"]
    assert indexed == 3 and all(part.keys() == {"channel", "SK", "part"} for part in table.parts())
    back = move(table.address, tmp_path / "back.jsonl", mapping=str(notes))
    assert (back.outcome, back.kinds["note"].tally.written) == ("done", 3)
    found = [json.loads(line)["record"] for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    assert sorted(found, key=lambda each: each["id"]) == [*long, note(4, "x")]


def test_newer_replaces_what_is_older_and_leaves_no_part(table: Table, notes: Path, move: Move, tmp_path: Path) -> None:
    given: dict[str, Any] = {"mapping": str(notes), "oversize": "split"}
    old = lines(tmp_path / "old.jsonl", note(1, noise(900_000), 5), note(2, noise(500_000, 8), 5), note(3, "short", 5))
    move(old, table.address, **given)
    changed = [note(1, noise(450_000, 9), 9), note(2, noise(900_000, 10), 1), note(3, noise(800_000, 11), 6)]
    new = lines(tmp_path / "new.jsonl", *changed)
    report = move(f"jsonl:{new}?tz=UTC", f"{table.address}&tz=UTC", existing="newer", **given)
    assert (report.outcome, report.kinds["note"].tally.written, report.kinds["note"].tally.kept) == ("done", 2, 1)
    assert migrator.inspect(table.address, str(notes)).ghosts == 0
    move(table.address, tmp_path / "back.jsonl", mapping=str(notes))
    found = [json.loads(line)["record"] for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    kept = note(2, noise(500_000, 8), 5)
    assert sorted(found, key=lambda each: each["id"]) == [changed[0], kept, changed[2]]


def test_a_key_that_has_no_room_for_its_parts_is_rejected(
    local_table: Table, notes: Path, move: Move, tmp_path: Path
) -> None:
    room = 1024 - len("NOTE#") - len(f"{PART_MARK}{'0' * 32}#0001")
    fits, over = note(1, noise(500_000)) | {"id": "i" * room}, note(2, noise(500_000, 8)) | {"id": "i" * (room + 1)}
    source = lines(tmp_path / "notes.jsonl", fits, over)
    report = move(source, local_table.address, mapping=str(notes), oversize="split", on_reject="continue")
    assert (report.rejected, report.kinds["note"].tally.written) == (1, 1)
    assert "the key attribute SK takes 1,025 bytes, DynamoDB allows 1,024" in reasons(report)[0]


def test_pages_end_by_what_lies_in_parts_and_each_cursor_gives_the_rest(table: Table, tmp_path: Path) -> None:
    setting = Setting(LAYOUT, (BLOB,), tmp_path, oversize="split")
    rows = [_row(f"s{number:02}", noise(450_000 + number, number)) for number in range(12)]
    with closing(ADAPTER.sink(resolve(table.address), setting)) as sink:
        sink.prepare((BLOB,), create=True)
        sink.begin("0000-000000")
        sink.upsert(rows, Existing.EMPTY)
        sink.flush()
    with closing(ADAPTER.source(resolve(table.address), setting)) as source:
        (partition,) = source.partitions((BLOB,), 1)
        pages = list(source.pages(partition, None))
        assert all(len(page.rows) <= 1 + PAGE_BYTES // 450_000 for page in pages)
        names = [row.record["session_id"] for page in pages for row in page.rows]
        assert sorted(names) == [row.record["session_id"] for row in rows]
        assert not any(page.foreign or page.rejects for page in pages)
        for number, page in enumerate(pages):
            rest = [row.record["session_id"] for each in source.pages(partition, page.cursor) for row in each.rows]
            assert rest == [row.record["session_id"] for each in pages[number + 1 :] for row in each.rows]


# What is said ----------------------------------------------------------------------------------------------------------


def test_plan_dry_run_and_inspect_say_what_is_in_another_form(
    local_table: Table, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = str(chat(tmp_path / "chat.json", {"a": 1, "long": noise(900_000), "longer": noise(1_500_000, 8)}))
    given = [
        source,
        local_table.address,
        "--state",
        str(tmp_path / "states"),
        "--create",
        "--mapping",
        V1,
        "--oversize",
        "split",
    ]
    said = run(capfd, "migrate", *given, "--dry-run", "--json")
    assert said.code == 0
    weights = json.loads(said.out)["estimate"]["kinds"][BLOB]
    assert (weights["split"], weights["compressed"]) == (2, 0)
    assert weights["bytes"] > 2_400_000 and 2_400_000 / 1024 < weights["units"] < 2_420_000 / 1024
    said = run(capfd, "migrate", *given, "--dry-run")
    told = " ".join((said.out + said.err).split())
    assert "2 session_blobs over 400 KB, split: no application reads such a record there" in told
    assert "oversize over 400 KB in parts" in told and "readable now nothing; not session_blob" in told
    assert run(capfd, "migrate", *given).code == 0
    said = run(capfd, "inspect", local_table.address)
    assert said.code == 0 and "2 session_blob in parts: too large for one item" in " ".join(said.out.split())
    assert "no table can hold it" not in said.out
    said = run(capfd, "inspect", local_table.address, "--json")
    assert json.loads(said.out)["kinds"][BLOB]["forms"] == {"split": 2}


def test_where_nothing_could_be_stored_so_the_option_is_refused(tmp_path: Path, move: Move) -> None:
    source = chat(tmp_path / "chat.json", {"a": 1})
    with pytest.raises(ConfigError, match="only an item of DynamoDB has a limit"):
        move(source, tmp_path / "chat.db", oversize="split")


def test_where_an_application_reads_every_field_the_option_is_refused(
    dynamodb_local_endpoint: str, tmp_path: Path, move: Move
) -> None:
    line = {"kind": "fact", "record": {"user_id": "ana", "category": "a", "key": "b", "value": "c"}}
    (tmp_path / "facts.jsonl").write_text(json.dumps(line) + "\n")
    table = Table(dynamodb_local_endpoint)
    with pytest.raises(ConfigError, match="an application reads every field"):
        move(tmp_path / "facts.jsonl", table.address, oversize="split", mapping=None)
    table.drop()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('opaque = ["body", "more"]', 'opaque = ["bodies"]'), 'opaque: no field "bodies"'),
        (('opaque = ["body", "more"]', 'opaque = ["id"]'), "id tells which record it is"),
        (('opaque = ["body", "more"]', 'opaque = ["edited_at"]'), "edited_at tells which record it is, or its time"),
        (('opaque = ["body", "more"]', 'opaque = ["stars"]'), 'must be text, or json stored as text (as = "json")'),
        (("{channel}", "NOTE#{id}"), ""),
        (
            (
                "[kinds.note.fields]",
                '[kinds.note.asked]\nby = ["channel", "id"]\ngives = ["body"]\n[kinds.note.fields]',
            ),
            "the application reads body of a note",
        ),
        (
            ("[kinds.note.fields]", '[kinds.note.asked]\nby = ["channel", "id"]\n[kinds.note.fields]'),
            "the application reads body of a note",
        ),
        (
            ('note = { collection = "notes" }', 'note = { collection = "notes", opaque = ["body"] }'),
            "only a keyed store",
        ),
    ],
)
def test_only_texts_that_nobody_reads_can_be_opaque(change: tuple[str, str], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.toml"
    path.write_text(MAPPING.replace(*change) if reason else MAPPING)
    if not reason:
        assert load_mapping(str(path)).layouts["channel/SK"].kinds["note"].opaque == ("body", "more")
        return
    with pytest.raises(ConfigError) as refused:
        load_mapping(str(path))
    assert reason in str(refused.value) and str(path) in str(refused.value)


def test_parts_are_refused_where_they_would_lie_among_what_the_application_asks_for(tmp_path: Path) -> None:
    asked = '[kinds.note.asked]\nby = ["channel"]\ngives = ["stars"]\n[kinds.note.fields]'
    request = '[layouts."channel/SK".note.request]\nquery = ["{channel}", "NOTE#"]\n'
    path = tmp_path / "notes.toml"
    path.write_text(MAPPING.replace("[kinds.note.fields]", asked) + request)
    layout = load_mapping(str(path)).layouts["channel/SK"]
    row = Row("note", note(1, noise(410_000)))
    item = {name: {"S": value} for name, value in layout.write(row).items()}
    with pytest.raises(RecordError, match="parts would lie where the application reads"):
        Oversize(layout, "split", RECORD_BYTES).pack("note", item)
    plain = Oversize(layout, "reject", RECORD_BYTES)
    with pytest.raises(RecordError, match="--oversize compress may store it"):
        plain.check("note", plain.pack("note", item))
    compressed = Oversize(layout, "compress", RECORD_BYTES)
    compressed.check("note", compressed.pack("note", item))


# Any text --------------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.builds(
    lambda part, times: part * times, st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.integers(0, 99)
)


@settings(max_examples=200)
@given(text=TEXTS, part=st.integers(4, 50), limit=st.integers(60, 300), way=st.sampled_from(["compress", "split"]))
def test_any_text_comes_back_whatever_the_sizes(text: str, part: int, limit: int, way: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oversize, "PART_BYTES", part)
        patch.setattr(oversize, "ITEM_BYTES", limit)
        rule = Oversize(LAYOUT, way, RECORD_BYTES)
        item: Item = {"session_id": {"S": "s"}, "session_data": {"S": json.dumps(text, ensure_ascii=False)}}
        packed = rule.pack(BLOB, item)
        assert packed == rule.pack(BLOB, item), "the same item each time"
        assert packed.form == ("" if limit >= item_size(item) else {"compress": "compressed", "split": "split"}[way])
        assert rule.form_of(packed.item) == packed.form
        parts = list(rule.parts(packed))
        assert all(rule.is_part(each) and rule.has_part(packed.item, each) for each in parts)
        held = {each["session_id"]["S"]: each["part"]["S"] for each in parts}
        keys = {p.sha256: rule.keys_of(packed.item, p) for p in rule.parts_of(packed.item).values()}
        texts = {sha: [held.get(key["session_id"]["S"]) for key in some] for sha, some in keys.items()}
        assert rule.whole(packed.item, texts) == item
        for some in texts.values():
            for number, cut in enumerate(some):
                for bad in (None, (cut or "")[1:], "?" + (cut or "")):
                    with pytest.raises(RecordError, match="session_data"):
                        rule.whole(packed.item, {sha: [*some[:number], bad, *some[number + 1 :]] for sha in texts})


@given(text=TEXTS)
def test_what_is_compressed_is_a_gzip_stream_that_says_nothing_of_its_maker(text: str) -> None:
    data = oversize.compress(text.encode())
    assert gzip.decompress(data).decode() == text and data[4:8] == bytes(4) and data[9] == 255
    assert oversize.decompress("x", data, len(text.encode())) == text.encode()
    if text:
        with pytest.raises(RecordError, match="takes more than"):
            oversize.decompress("x", data, len(text.encode()) - 1)


@given(
    head=st.dictionaries(
        st.sampled_from(["parts", "bytes", "sha256", "x"]),
        st.fixed_dictionaries({"N": st.integers(-5, 1 << 70).map(str) | TEXTS}) | st.fixed_dictionaries({"S": TEXTS}),
    )
)
def test_no_head_that_somebody_made_up_is_more_than_a_reject(head: Item) -> None:
    item: Item = {"session_id": {"S": "s"}, "session_data": {"M": head}}
    rule = Oversize(LAYOUT, "reject", RECORD_BYTES)
    if rule.parts_of(item):
        with pytest.raises(RecordError):
            rule.must_fit(item)
    else:
        assert rule.whole(item, {}) == item
        found = LAYOUT.read({"session_id": "s", "session_data": head}, "s")
        assert isinstance(found, Reject)
