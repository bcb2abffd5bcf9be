"""LuminoraCore's 1.0 session blobs: opaque JSON that moves as it is, between LuminoraCore's own file and stores of ours.

What LuminoraCore itself would write is told by `as_luminoracore`, and where its classes are there, by them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import sqlite3
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import migrator
from conftest import needed
from migrator import Options, Report, plain
from migrator.adapters.base import PAGE_ROWS, Setting
from migrator.adapters.jsonfile import text as json_text
from migrator.adapters.jsonfile.adapter import ADAPTER
from migrator.errors import ConfigError, StoreError
from migrator.mapping_file import load_mapping, recognise
from migrator.model import Address, Existing, Page, Row, Shape
from migrator.values import DEEPEST, canonical, from_json
from stores import DATA
from tables import client_of
from test_cli import run

MAPPING = load_mapping("luminoracore-v1.0")
BLOB = "session_blob"
SAMPLE = DATA / "sessions.json"
SESSIONS: dict[str, Any] = json.loads(SAMPLE.read_text("utf-8"))

Move = Callable[..., Report]


def as_luminoracore(sessions: dict[str, Any]) -> bytes:
    """The file that JSONFileStorage writes of them."""
    return json.dumps(sessions, indent=2, ensure_ascii=False).encode()


@pytest.fixture
def move(tmp_path: Path) -> Move:
    def migrate(source: object, sink: object, **more: Any) -> Report:
        return migrator.migrate(str(source), str(sink), Options(state=str(tmp_path / "states"), create=True, **more))

    return migrate


def counts(report: Report) -> tuple[str, str | None, int, int]:
    tally = report.kinds[BLOB].tally
    return report.outcome, report.proven, tally.written, tally.unchanged


def written(count: int) -> tuple[str, str | None, int, int]:
    return "done", "digest", count, 0


def nothing(count: int) -> tuple[str, str | None, int, int]:
    return "done", "digest", 0, count


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


Table = tuple[str, Any]


@pytest.fixture
def table(dynamodb_endpoint: str) -> Iterator[Table]:
    """The address of a table that is not there yet, and a client for it."""
    name = f"blobs-{uuid.uuid4().hex[:12]}"
    client = client_of(dynamodb_endpoint)
    yield f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_endpoint}", client
    if name in client.list_tables()["TableNames"]:
        client.delete_table(TableName=name)
    client.close()


def name_of(table: Table) -> str:
    return table[0].split("//")[1].split("?")[0]


# From LuminoraCore's file and back ---------------------------------------------------------------------------------------


def test_the_sample_is_what_luminoracore_writes() -> None:
    assert as_luminoracore(SESSIONS) == SAMPLE.read_bytes() and len(SESSIONS) > 5


@pytest.mark.parametrize(
    "way", ["chat.db", "chat.jsonl", "chat.jsonl.gz", "chat.jsonl.zst", "chat.json.gz", "chat.json.zst"]
)
def test_the_sample_goes_anywhere_and_comes_back_byte_for_byte(way: str, move: Move, tmp_path: Path) -> None:
    if way.endswith(".zst"):
        needed("zstandard")
    between, back = tmp_path / way, tmp_path / "back.json"
    for source, sink in ((SAMPLE, between), (between, back)):
        report = move(source, sink)
        assert counts(report) == written(len(SESSIONS)) and report.mapping == "luminoracore-v1.0"
        held = sink.read_bytes()
        assert counts(move(source, sink)) == nothing(len(SESSIONS)) and sink.read_bytes() == held
        verified = migrator.verify(str(source), str(sink), Options(state=str(tmp_path / "states")))
        assert (verified.outcome, verified.proven) == ("done", "digest")
    assert back.read_bytes() == SAMPLE.read_bytes()
    if way.endswith("json.gz"):
        assert gzip.decompress(between.read_bytes()) == SAMPLE.read_bytes()


def test_the_sample_goes_into_a_table_and_back(table: Table, move: Move, tmp_path: Path) -> None:
    address, client = table
    dry = move(SAMPLE, address, dry_run=True)
    assert dry.exit_code == 0 and dry.kinds[BLOB].tally.written == len(SESSIONS)
    assert counts(move(SAMPLE, address)) == written(len(SESSIONS))
    schema = client.describe_table(TableName=name_of(table))["Table"]["KeySchema"]
    assert schema == [{"AttributeName": "session_id", "KeyType": "HASH"}]
    items = client.scan(TableName=name_of(table))["Items"]
    assert {item["session_id"]["S"]: json.loads(item["session_data"]["S"]) for item in items} == SESSIONS
    assert {frozenset(item) for item in items} == {frozenset({"session_id", "session_data"})}
    assert counts(move(SAMPLE, address)) == nothing(len(SESSIONS))
    for back in ("back.json", "back.jsonl.gz", "back.db"):
        assert counts(move(address, tmp_path / back)) == written(len(SESSIONS))
        assert counts(move(tmp_path / back, address)) == nothing(len(SESSIONS))
    assert json.loads((tmp_path / "back.json").read_bytes()) == SESSIONS
    assert migrator.inspect(address).layout == "session_id"


def test_a_table_that_holds_a_part_gets_the_rest_and_keeps_what_differs(
    moto_endpoint: str, move: Move, tmp_path: Path
) -> None:
    address = f"dynamodb://blobs-{uuid.uuid4().hex[:12]}?region=eu-west-1&endpoint={moto_endpoint}"
    first, second = {"a": {"n": 1}, "b": [1.0]}, {"a": {"n": 2}, "b": [1], "c": "new"}
    assert counts(move(put(tmp_path / "first.json", as_luminoracore(first)), address)) == written(2)
    report = move(put(tmp_path / "second.json", as_luminoracore(second)), address)
    tally = report.kinds[BLOB].tally
    assert (report.exit_code, tally.written, tally.unchanged, tally.differing) == (4, 1, 1, 1)
    assert counts(move(tmp_path / "second.json", address, existing="replace"))[:2] == ("done", "digest")
    assert counts(move(address, tmp_path / "back.jsonl")) == written(3)


def test_blobs_over_400_kb_are_rejected_by_size_and_the_others_travel(table: Table, move: Move, tmp_path: Path) -> None:
    """H26."""
    source = put(
        tmp_path / "chat.json", as_luminoracore({"small": {}, "large": {"messages": "ü" * 210_000}, "last": []})
    )
    report = move(source, table[0], on_reject="continue")
    assert (report.exit_code, report.rejected, report.kinds[BLOB].tally.written) == (3, 1, 2)
    (reject,) = map(json.loads, Path(report.rejects_file or "").read_text("utf-8").splitlines())
    assert reject["place"] == "large" and "DynamoDB allows 409,600 (most of it in session_data)" in reject["reason"]


# LuminoraCore's own class ------------------------------------------------------------------------------------------------


def test_luminoracore_reads_what_we_write_and_goes_on(luminoracore: ModuleType, move: Move, tmp_path: Path) -> None:
    module: Any = luminoracore.storage("storage")
    move(SAMPLE, tmp_path / "chat.db")
    move(tmp_path / "chat.db", tmp_path / "sessions.json")

    class Config:
        storage_type, connection_string = "json", str(tmp_path / "sessions.json")

    async def live() -> None:
        storage = module.JSONFileStorage(Config)
        assert await storage.list_sessions() == list(SESSIONS)
        for session_id, blob in SESSIONS.items():
            assert await storage.load_session(session_id) == blob
        await storage.save_session("new", {"messages": ["¿qué? 🦜", 1e16, 2**70, [], {}]})

    asyncio.run(live())
    theirs = (tmp_path / "sessions.json").read_bytes()
    assert len(json.loads(theirs)) == len(SESSIONS) + 1
    for expected in (1, 0):
        report = move(tmp_path / "sessions.json", tmp_path / "chat.db")
        assert counts(report) == ("done", "digest", expected, len(SESSIONS) + 1 - expected)
    move(tmp_path / "chat.db", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == theirs


# Opaque ------------------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["$bytes", "$set", "$$set", "session_data"]
)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES
)
BLOBS = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(sessions=st.dictionaries(NAMES, BLOBS, min_size=1, max_size=5))
def test_any_json_survives_byte_for_byte(sessions: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """H50: a blob is an object, the compact format's array (fact sheet 7), anything; what looks like a tag of ours is none."""
    folder = tmp_path_factory.mktemp("blobs")
    options = Options(state=str(folder / "states"), mapping="luminoracore-v1.0", proof="rows")
    stores = [put(folder / "a.json", as_luminoracore(sessions)), folder / "b.db", folder / "c.jsonl", folder / "d.json"]
    for source, sink in pairwise(stores):
        assert migrator.migrate(str(source), str(sink), options).exit_code == 0
    assert stores[-1].read_bytes() == stores[0].read_bytes()
    shutil.rmtree(folder)


EXACT = """{
  "z": {
    "past 64 bits": 123456789012345678901234567890,
    "38 digits": 0.12345678901234567890123456789012345678,
    "beyond a float": 1E+400,
    "floats": [
      1e+16,
      1e-07,
      -0.0,
      2.0,
      0.30000000000000004
    ],
    "$bytes": "AA==",
    "tag": {
      "$bytes": "no base64"
    },
    "empty": [
      {},
      []
    ],
    "ü\\u0001\x7f": "\\"\\\\/\\b\\f\\n\\r\\t\u2028"
  },
  "a": [
    "u1",
    null,
    0,
    [
      "t"
    ]
  ],
  "null": null,
  "": "text",
  "facts of a kind": 7
}"""


@pytest.mark.parametrize("way", ["chat.db", "chat.jsonl.gz", "chat.json.gz"])
def test_numbers_keep_every_digit_and_sessions_their_order(way: str, move: Move, tmp_path: Path) -> None:
    source = put(tmp_path / "exact.json", EXACT)
    assert counts(move(source, tmp_path / way)) == written(5)
    assert counts(move(tmp_path / way, tmp_path / "back.json")) == written(5)
    assert (tmp_path / "back.json").read_text("utf-8") == EXACT


def test_a_document_of_settings_is_no_map_unless_somebody_says_so(move: Move, tmp_path: Path) -> None:
    source = put(tmp_path / "settings.json", '{"name": "x", "version": "1.0"}')
    with pytest.raises(ConfigError, match="no mapping fits"):
        migrator.migrate(str(source), str(tmp_path / "x.jsonl"), Options(state=str(tmp_path / "states")))
    options = Options(state=str(tmp_path / "states"), mapping="luminoracore-v1.0")
    assert migrator.migrate(str(source), str(tmp_path / "x.jsonl"), options).outcome == "done"


def test_any_formatting_is_read(move: Move, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text in enumerate(
        (json.dumps(SESSIONS), json.dumps(SESSIONS, separators=(",", ":")) + " \r\n", json.dumps(SESSIONS, indent="\t"))
    ):
        monkeypatch.setattr(json_text, "_CHUNK", 7 + 1000 * number)
        assert counts(move(put(tmp_path / f"{number}.json", text), tmp_path / "chat.db"))[2:] == (
            (len(SESSIONS), 0) if number == 0 else (0, len(SESSIONS))
        )
    assert counts(move(tmp_path / "chat.db", tmp_path / "back.json")) == written(len(SESSIONS))
    assert (tmp_path / "back.json").read_bytes() == SAMPLE.read_bytes()


def test_what_a_map_cannot_hold_is_rejected(move: Move, tmp_path: Path) -> None:
    lines = [
        {"session_id": "fine", "session_data": {"n": 1}},
        {"session_id": "bytes", "session_data": {"$bytes": "AA=="}},
        {"session_id": "infinite", "session_data": [{"$float": "inf"}]},
        {"session_id": "absent"},
        {"session_id": "more", "session_data": 1, "created_at": "2025-03-01"},
        {"session_id": "facts", "session_data": {}},
        {"session_data": {}},
    ]
    text = "".join(json.dumps({"kind": BLOB, "record": line}) + "\n" for line in lines)
    report = move(put(tmp_path / "chat.jsonl", text), tmp_path / "chat.json", on_reject="continue")
    assert (report.exit_code, report.rejected) == (3, 6)
    assert json.loads((tmp_path / "chat.json").read_bytes()) == {"fine": {"n": 1}}
    reasons = [json.loads(line)["reason"] for line in Path(report.rejects_file or "").read_text("utf-8").splitlines()]
    for reason, words in zip(
        reasons,
        (
            "by a tag, $bytes",
            "by a tag, $float",
            "session_data is absent",
            "unknown field created_at",
            '"facts"',
            "session_id is no text",
        ),
        strict=True,
    ):
        assert words in reason


# Broken files ------------------------------------------------------------------------------------------------------------


def test_one_broken_session_is_a_reject_with_its_place_and_the_others_travel(move: Move, tmp_path: Path) -> None:
    """H42, H30."""
    text = (
        '{\n  "good": {},\n  "nan": {"importance": NaN},\n  "inf": [-Infinity],\n  "twice": {"sk": 1, "sk": 2},\n'
        '  "half": "\\ud800",\n  "last": [1]\n}'
    )
    source = put(tmp_path / "chat.json", text)
    report = move(source, tmp_path / "chat.db", on_reject="continue")
    assert (report.exit_code, report.rejected, report.kinds[BLOB].tally.written) == (3, 4, 2)
    rejects = [json.loads(line) for line in Path(report.rejects_file or "").read_text("utf-8").splitlines()]
    for reject, (name, what, begins) in zip(
        rejects,
        [
            ("nan", "holds NaN, which is no JSON number", '{"importance"'),
            ("inf", "holds -Infinity, which is no JSON number", "[-Inf"),
            ("twice", 'the key "sk" is there twice', '{"sk"'),
            ("half", "surrogate", '"\\ud800"'),
        ],
        strict=True,
    ):
        at = text.index(begins)
        where = f"(it begins at byte {at}, line {text.count(chr(10), 0, at) + 1})"
        assert (reject["kind"], reject["place"], reject["record"]["session_id"]) == (BLOB, name, name)
        assert what in reject["reason"] and reject["reason"].endswith(where)
    move(tmp_path / "chat.db", tmp_path / "back.json")
    assert json.loads((tmp_path / "back.json").read_bytes()) == {"good": {}, "last": [1]}
    again = move(report.rejects_file, tmp_path / "other.db", on_reject="continue")
    assert (again.exit_code, again.rejected, again.kinds[BLOB].tally.written) == (3, 4, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "a": {},\n  "a": {}\n}', r'the key "a" is there twice \(byte 18, line 3\)'),
        ('{"a": {}}\n{"b": {}}', r"more follows behind the end.*\(byte 10, line 2\)"),
        ('{"a": {}} x', r"more follows behind the end.*\(byte 10, line 1\)"),
        ('{"a": {"n": [1, 2', r"ends within a value \(byte 17, line 1\)"),
        ('{"a": {},\n "b": {}', r"truncated \(byte 18, line 2\)"),
        ('{"a": {},\n', r"truncated \(byte 10, line 2\)"),
        ('{"a": {"n": tru}}', r"not JSON: .*\(byte 12, line 1\)"),
        ('{"a": {}, "\\ud800": {}}', r"a key holds what cannot be kept.*\(byte 10, line 1\)"),
        ("", "holds nothing"),
        ("[]", r"a document is one object.*\(byte 0, line 1\)"),
        ('\ufeff{"a": {}}', "byte order mark"),
    ],
)
def test_a_broken_file_is_refused_and_never_taken_for_an_empty_one(
    text: str, words: str, move: Move, tmp_path: Path
) -> None:
    """H40: LuminoraCore takes it for empty and overwrites it."""
    source = put(tmp_path / "chat.json", text)
    with pytest.raises(ConfigError, match=words):
        move(source, tmp_path / "chat.db", allow_empty=True)
    assert not (tmp_path / "chat.db").exists() and source.read_text("utf-8") == text


@pytest.mark.parametrize("end", ['  "0": {}\n}', '  "x": {}\n} {}', '  "x": {"n": [', ""])
def test_what_breaks_behind_what_is_looked_at_is_found_before_the_first_write(
    end: str, move: Move, tmp_path: Path
) -> None:
    """H40."""
    text = "{\n" + "".join(f'  "{n}": {{}},\n' for n in range(3000)) + end
    with pytest.raises((ConfigError, StoreError), match=r"\(byte \d{5}, line 300\d\)"):
        move(put(tmp_path / "chat.json", text), tmp_path / "chat.db", allow_empty=True)
    assert not (tmp_path / "chat.db").exists()


def test_an_empty_map_is_an_empty_source(move: Move, tmp_path: Path) -> None:
    """H40, H52: empty is refused unless it is meant."""
    source = put(tmp_path / "chat.json", "{}")
    with pytest.raises(ConfigError, match="allow-empty"):
        move(source, tmp_path / "back.json", mapping="luminoracore-v1.0")
    report = move(source, tmp_path / "back.json", mapping="luminoracore-v1.0", allow_empty=True)
    assert report.exit_code == 0 and (tmp_path / "back.json").read_bytes() == as_luminoracore({})


def test_a_file_that_luminoracore_saves_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """H41."""
    path = put(tmp_path / "chat.json", as_luminoracore({"theirs": {}}))
    sink = ADAPTER.sink(address_of(path), setting(tmp_path))
    sink.prepare([BLOB], create=True)
    sink.begin("0000-000000")
    sink.upsert([Row(BLOB, {"session_id": "ours", "session_data": {}})], Existing.REPLACE)
    sink.flush()
    put(path, as_luminoracore({"theirs": {}, "new": {}}))
    with pytest.raises(StoreError, match="somebody changed it since this run began"):
        sink.publish()
    assert json.loads(path.read_bytes()) == {"theirs": {}, "new": {}}


# Told apart --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (Shape("json", "f", sample=({"s1": {"messages": []}},)), "luminoracore-v1.0"),
        (Shape("json", "f", {"s1": ()}), "luminoracore-v1.0"),
        (Shape("json", "f", {"facts": (), "s1": ()}), "luminoracore-v1.1"),
        (Shape("jsonl", "f", {BLOB: ()}), "luminoracore-v1.0"),
        (Shape("jsonl", "f", {"session": ()}), "luminoracore-v1.1"),
        (Shape("dynamodb", "t", key=("session_id",)), "luminoracore-v1.0"),
        (
            Shape("dynamodb", "t", key=("session_id",), sample=({"session_id": "a", "session_data": "{}"},)),
            "luminoracore-v1.0",
        ),
        (Shape("dynamodb", "t", key=("user_id", "SK")), "luminoracore-v1.1"),
        (Shape("sql", "f", {"session_blobs": ("session_id", "session_data")}), "luminoracore-v1.0"),
    ],
)
def test_which_generation_a_store_holds_is_seen(shape: Shape, name: str) -> None:
    assert recognise(shape).name == name


@pytest.mark.parametrize(
    "shape",
    [
        Shape("json", "f", sample=({"facts": {"a": 1}},)),
        Shape("dynamodb", "t", key=("user_id",)),
        Shape("dynamodb", "t", key=("session_id",), sample=({"session_id": "a", "other": 1},)),
        Shape("sql", "f", {"sessions": ("session_id", "session_data", "created_at", "updated_at")}),
    ],
)
def test_what_is_neither_generation_is_told(shape: Shape) -> None:
    """H7: a v1.0 table of sessions, as LuminoraCore has it in PostgreSQL, is none of ours."""
    with pytest.raises(ConfigError, match=r"no mapping fits: luminoracore-v1\.0.*luminoracore-v1\.1"):
        recognise(shape)


def test_both_generations_live_in_one_database_apart(move: Move, tmp_path: Path) -> None:
    """H7."""
    chat = tmp_path / "chat.db"
    shutil.copy(DATA / "chat.db", chat)
    assert counts(move(SAMPLE, chat)) == written(len(SESSIONS))
    with closing(sqlite3.connect(chat)) as db:
        assert db.execute("SELECT count(*) FROM session_blobs").fetchone() == (len(SESSIONS),)
        assert dict(db.execute("SELECT session_id, session_data FROM session_blobs")).keys() == SESSIONS.keys()
    with pytest.raises(
        ConfigError, match=r"two mappings fit, luminoracore-v1\.0 and luminoracore-v1\.1; choose with --mapping"
    ):
        move(chat, tmp_path / "back.json")
    assert counts(move(chat, tmp_path / "back.json", mapping="luminoracore-v1.0")) == written(len(SESSIONS))
    assert (tmp_path / "back.json").read_bytes() == SAMPLE.read_bytes()
    newer = move(chat, tmp_path / "kinds.db", mapping="luminoracore-v1.1")
    assert newer.exit_code == 0 and BLOB not in newer.kinds
    assert move(DATA / "chat.db", chat).exit_code == 0  # into the file of both: the source says which


def test_one_generation_is_never_written_into_the_others_store(move: Move, moto_endpoint: str, tmp_path: Path) -> None:
    """H7."""
    address = f"dynamodb://blobs-{uuid.uuid4().hex[:12]}?region=eu-west-1&endpoint={moto_endpoint}"
    kinds = DATA / "chat.db"
    move(SAMPLE, address)
    with pytest.raises(ConfigError, match=r"session_id without a range.*no layout of the mapping luminoracore-v1\.1"):
        move(kinds, address)
    with pytest.raises(ConfigError, match=r"no layout of the mapping luminoracore-v1\.1"):
        move(kinds, shutil.copy(SAMPLE, tmp_path / "sessions.json"))
    for name in ("kinds.json", "kinds.jsonl"):
        move(kinds, tmp_path / name)
        with pytest.raises(ConfigError, match=r"no layout of the mapping luminoracore-v1\.0"):
            move(SAMPLE, tmp_path / name)


# Private, and in bounded memory --------------------------------------------------------------------------------------------


def test_api_keys_in_blobs_are_never_shown(
    move: Move, moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """H45: neither where records are equal, differ, are rejected, nor where a file is broken."""
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    table = f"dynamodb://blobs-{uuid.uuid4().hex[:12]}?region=eu-west-1&endpoint={moto_endpoint}"
    text = SAMPLE.read_text("utf-8")
    assert "sk-EXAMPLE" in text
    large = {"large": {"api_key": "sk-EXAMPLE" * 50_000}}
    put(tmp_path / "changed.json", as_luminoracore(SESSIONS | large).replace(b"a-real-key", b"the-same-key"))
    put(tmp_path / "broken.json", text[:-40])
    put(tmp_path / "odd.json", text.replace("null", "NaN"))
    shown = 0
    for source, sink in (
        (str(SAMPLE), table),
        ("changed.json", table),
        ("odd.json", "odd.db"),
        ("broken.json", "x.db"),
        (table, "back.json"),
    ):
        for command in (
            ["migrate", "--create", "--on-reject", "continue"],
            ["migrate", "--dry-run", "--json"],
            ["verify"],
        ):
            paths = [str(tmp_path / each) if ":" not in each else each for each in (source, sink)]
            said = run(capfd, *command, *paths)
            shown += len(said.out)
            assert said.code != 70 and "sk-EXAMPLE" not in said.out + said.err
        assert "sk-EXAMPLE" not in run(capfd, "inspect", paths[0]).out
    reports = list((tmp_path / "state").glob("*/report.json"))
    assert shown and len(reports) > 5
    for report in reports:
        assert "sk-EXAMPLE" not in report.read_text("utf-8")


def address_of(path: Path) -> Address:
    return Address("json", "json", str(path), str(path))


def setting(folder: Path, **more: Any) -> Setting:
    scratch = folder / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    return Setting(MAPPING.layout_for("json", None), (BLOB,), scratch, **more)


@pytest.mark.parametrize("name", ["chat.json", "chat.json.gz"])
def test_a_large_map_is_copied_in_bounded_memory(name: str, tmp_path: Path) -> None:
    count, blob = 3000, {"messages": ["x" * 1000] * 4}
    path = tmp_path / name
    with gzip.open(path, "wt", 1) if name.endswith("gz") else path.open("w") as file:
        file.write("{\n")
        file.writelines(f'  "{n:036}": {json.dumps(blob)},\n' for n in range(count))
        file.write(f'  "large": ["{"y" * 2_000_000}"]\n}}')
    source = ADAPTER.source(address_of(path), setting(tmp_path, record_bytes=100_000))
    sink = ADAPTER.sink(address_of(tmp_path / "back.json"), setting(tmp_path))
    source.snapshot()
    sink.prepare([BLOB], create=True)
    seen, large = 0, []
    tracemalloc.start()
    try:
        (part,) = source.partitions([BLOB], 4)
        for number, page in enumerate(source.pages(part, None)):
            sink.begin(f"0000-{number:06}")
            sink.upsert(page.rows, Existing.EMPTY)
            sink.flush()
            seen += len(page.rows)
            large += page.rejects
        assert (
            sum(
                len(page.rows)
                for part in sink.reader().partitions([BLOB], 1)
                for page in sink.reader().pages(part, None)
            )
            == count
        )
        sink.publish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (reject,) = large
    assert seen == count and reject.place == "large" and "the limit for a record is 100,000" in reject.reason
    assert (tmp_path / "back.json").stat().st_size > 12_000_000 and peak < 10_000_000


@pytest.mark.parametrize("fast", [True, False])
def test_sessions_that_are_read_as_columns_are_those_that_are_read_by_themselves(
    fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all come as columns; whatever is among them, they keep their order, no page is too long, and each can be read on from."""
    if not fast:
        monkeypatch.setattr(json_text, "Skimmer", None)
    monkeypatch.setattr(plain, "_MET", 1 << 30)  # whatever other tests have met
    monkeypatch.setattr(json_text, "_CHUNK", 1 << 13)  # one that is odd goes by itself with all that are read in one go
    odd = {7: 2.0, 300: [1], 301: {}, 1450: {"a": 1e300}, 1451: "text", 2200: {"$set": []}, 2999: 10**40, 3001: None}
    sessions = {f"s{n}": odd.get(n, {"n": n, "deep": {"b": [n, "é"], "a": 0.5}}) for n in range(3500)}
    text = as_luminoracore(sessions)
    long = b'  "s1200": {"x": "' + b"y" * 200_000 + b'"},\n'  # indented otherwise, and longer than a record may be
    at = text.index(b'  "s1200"')
    (tmp_path / "chat.json").write_bytes(text[:at] + long + text[text.index(b'  "s1201"') :])
    (tmp_path / "other.json").write_bytes(json.dumps(sessions).encode())

    def pages(name: str, *, after: int | None = None, proven: bool = False) -> list[Page]:
        source = ADAPTER.source(address_of(tmp_path / name), setting(tmp_path, record_bytes=100_000))
        source.snapshot()
        if proven:
            assert [*source.repeated([BLOB])] == []
        (part,) = source.partitions([BLOB], 4)
        return [*source.pages(part, after)]

    wanted = {row.place: row for page in pages("other.json") for row in page.rows if row.place != "s1200"}
    for proven in (True, False):
        found = pages("chat.json", proven=proven)
        assert sum(len(each) for page in found for each in page.alike) > 3_000
        ends = [page.cursor for page in found]
        assert max(page.count + len(page.rejects) for page in found) <= PAGE_ROWS and ends[-1] == 3_500
        assert [reject.place for page in found for reject in page.rejects] == ["s1200"]
        rows = {row.place: row for page in found for row in page.rows}
        assert [*rows] == [name for name in sessions if name != "s1200"]
        assert rows == wanted and all(
            row.is_plain <= (type(odd.get(int(row.place[1:]), {})) is not float) for row in rows.values()
        )
        for number, end in enumerate(ends):
            behind = [row for page in pages("chat.json", after=end, proven=proven) for row in page.rows]
            assert [row.place for row in behind] == [row.place for page in found[number + 1 :] for row in page.rows]
    for after in (1, 50, 99, 100, 101, 1199, 1200, 1201, 3_499):
        behind = pages("chat.json", after=after)
        places = [row.place for page in behind for row in page.rows] + [
            each.place for page in behind for each in page.rejects
        ]
        assert sorted(places) == sorted([*sessions][after:])
        assert [place for place in places if place != "s1200"] == [
            name for name in [*sessions][after:] if name != "s1200"
        ]


def nested(levels: int, inmost: Any, mixed: bool = False) -> Any:
    value = inmost
    for level in range(levels):
        value = {"a": value} if mixed and level % 2 else [value]
    return value


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("way", ["chat.db", "chat.jsonl", "chat.jsonl.gz", "back.json"])
def test_what_is_as_deep_as_may_be_goes_anywhere_and_is_named_where_it_differs(
    way: str, mixed: bool, move: Move, tmp_path: Path
) -> None:
    """What stands around a value in a line, a proof or a note makes it no deeper."""
    deep = {f"d{levels}": nested(levels, 1, mixed) for levels in range(DEEPEST - 3, DEEPEST + 1)}
    (tmp_path / "chat.json").write_bytes(as_luminoracore(deep | {"too deep": nested(DEEPEST + 1, 1), "flat": {}}))
    report = move(tmp_path / "chat.json", tmp_path / way, on_reject="continue", mapping="luminoracore-v1.0")
    assert (report.exit_code, report.rejected) == (3, 1)
    (reject,) = map(json.loads, Path(report.rejects_file).read_text().splitlines())
    assert reject["place"] == "too deep" and "nested too deep" in reject["reason"]
    (tmp_path / "fine.json").write_bytes(as_luminoracore(deep | {"flat": {}}))
    (tmp_path / "other.json").write_bytes(
        as_luminoracore(deep | {"flat": {}, f"d{DEEPEST}": nested(DEEPEST, 2, mixed)})
    )
    for proof in ("digest", "rows"):
        for name, code in (("fine", 0), ("other", 4)):
            options = Options(state=str(tmp_path / "states"), mapping="luminoracore-v1.0", proof=proof)
            found = migrator.verify(str(tmp_path / f"{name}.json"), str(tmp_path / way), options)
            assert found.exit_code == code, (proof, name)
            assert [kind.proof.mismatched for kind in found.kinds.values()] == [code // 4]
    again = move(tmp_path / way, tmp_path / "again.json", mapping="luminoracore-v1.0")
    assert again.exit_code == 0 and json.loads((tmp_path / "again.json").read_bytes()) == deep | {"flat": {}}


def test_sessions_keep_their_order_and_every_name_in_them_in_a_database(move: Move, tmp_path: Path) -> None:
    """As columns too: the text of a session is what it would be if it were written by itself."""
    sessions = {f"s{n}": {"z": n, "a": {"y": "é\n", "b": [n, None, True]}, "m": 0.25} for n in range(2500)}
    (tmp_path / "chat.json").write_bytes(as_luminoracore(sessions))
    report = move(tmp_path / "chat.json", tmp_path / "chat.db")
    assert (report.exit_code, report.proven) == (0, "digest")
    with closing(sqlite3.connect(tmp_path / "chat.db")) as db:
        held = dict(db.execute("SELECT session_id, session_data FROM session_blobs ORDER BY rowid"))
    assert [*held] == [*sessions]
    assert held == {
        name: json.dumps(each, ensure_ascii=False, separators=(",", ":")) for name, each in sessions.items()
    }
    move(tmp_path / "chat.db", tmp_path / "back.json")
    assert (tmp_path / "back.json").read_bytes() == as_luminoracore(sessions)


def test_a_map_can_be_read_on_from_any_session_staged_or_not(tmp_path: Path) -> None:
    sessions = {str(n): {"n": [n, {}]} for n in range(9)}
    sink = ADAPTER.sink(address_of(tmp_path / "chat.json"), setting(tmp_path))
    sink.prepare([BLOB], create=True)
    for start in range(0, 9, 2):
        sink.begin(f"0000-{start:06}")
        rows = [Row(BLOB, {"session_id": s, "session_data": sessions[s]}) for s in [*sessions][start : start + 2]]
        sink.upsert(rows, Existing.EMPTY)
        sink.flush()
    staged = sink.reader()
    (part,) = staged.partitions([BLOB], 1)
    for done in range(10):
        parts_done, rest = divmod(done, 2)
        cursor = (
            {"part": [f"0000-{2 * parts_done:06}", 0], "line": rest}
            if done < 9
            else {"part": ["0000-000008", 0], "line": 1}
        )
        assert [row.record["session_id"] for page in staged.pages(part, cursor) for row in page.rows] == [*sessions][
            done:
        ]
    sink.publish()
    assert (tmp_path / "chat.json").read_bytes() == as_luminoracore(sessions)
    source = ADAPTER.source(address_of(tmp_path / "chat.json"), setting(tmp_path))
    source.snapshot()
    (part,) = source.partitions([BLOB], 4)
    for done in range(10):
        found = {
            row.record["session_id"]: row.record["session_data"]
            for page in source.pages(part, done or None)
            for row in page.rows
        }
        assert found == {name: sessions[name] for name in [*sessions][done:]}


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ('{"a":[1,0.5,null,"x"]}', True),
        ('{"a": [1, 0.5, null, "\\u00e9"]}', True),  # as Python writes it
        ('{"a": {"$float": "inf"}}', False),  # which orjson writes as null
        ('{"a": {"$bytes": "AA=="}}', False),
        ('{"a": {"$set": [1]}}', False),
        ('{"a": 2.0}', False),
        ('{"a": 1e22}', False),
        ('{"a": 12345678901234567890}', False),
        ('{"a": 0.1234567890123456789}', False),
    ],
)
def test_a_session_reads_plain_however_it_is_spelled_unless_a_value_in_it_needs_a_look(
    text: str, is_plain: bool, tmp_path: Path
) -> None:
    """Then it is written and compared without a look at each value, and its text comes back as it was all the same."""
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE session_blobs (session_id TEXT PRIMARY KEY, session_data TEXT)")
        db.execute("INSERT INTO session_blobs VALUES ('s', ?)", (text,))
    options = migrator.Options(state=str(tmp_path / "state"), mapping="luminoracore-v1.0")
    with migrator.open_store(path, "luminoracore-v1.0") as source:
        (part,) = source.partitions([BLOB], 1)
        (row,) = [row for page in source.pages(part, None) for row in page.rows]
    assert row.is_plain is is_plain
    for sink in ("x.jsonl", "y.db"):
        report = migrator.migrate(path, tmp_path / sink, options)
        assert (report.outcome, report.proven) == ("done", "digest")
    report = migrator.migrate(tmp_path / "x.jsonl", tmp_path / "z.db", options)
    assert (report.outcome, report.proven) == ("done", "digest")
    for again in ("y.db", "z.db"):
        with closing(sqlite3.connect(tmp_path / again)) as db:
            ((held,),) = db.execute("SELECT session_data FROM session_blobs").fetchall()
        assert canonical(from_json(held.encode())) == canonical(from_json(text.encode()))
