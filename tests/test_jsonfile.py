"""What files promise: every form and compression, every cursor, every kill, and nothing lost without a word."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import needed
from migrator.adapters import base, packing
from migrator.adapters.base import PAGE_BYTES, PAGE_ROWS, Setting, Source
from migrator.adapters.jsonfile import sink as json_sink
from migrator.adapters.jsonfile import source as json_source
from migrator.adapters.jsonfile import text as json_text
from migrator.adapters.jsonfile.adapter import ADAPTER
from migrator.errors import ConfigError, StoreError
from migrator.mapping_file import load_mapping
from migrator.model import Address, Existing, Foreign, Origin, Page, Partition, Reject, Row, Snapshot
from migrator.values import canonical, to_json

MAPPING = load_mapping("luminoracore-v1.1")
KINDS = MAPPING.kind_names()
FORMS = ["jsonl", "json"]
NAMES = [f"chat.{form}{packed}" for form in FORMS for packed in ("", ".gz", ".zst")]


def address_of(path: Path) -> Address:
    store = "jsonl" if ".jsonl" in path.name else "json"
    return Address(store, store, str(path), str(path))


def setting_of(path: Path, scratch: Path | None = None, **more: Any) -> Setting:
    scratch = scratch or path.parent / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    return Setting(MAPPING.layout_for(address_of(path).store, None), KINDS, scratch, **more)


def source_of(path: Path, snapshot: Snapshot | None = None, **more: Any) -> Any:
    return ADAPTER.source(address_of(path), setting_of(path, **more), snapshot)


def sink_of(path: Path, **more: Any) -> Any:
    return ADAPTER.sink(address_of(path), setting_of(path, **more))


def fact(number: int, **more: Any) -> Row:
    fields = {"user_id": f"ana{number % 7}", "category": "work", "key": f"k{number:05}", "value": "ünï 🦜 \r\n"}
    return Row("fact", fields | more)


def affinity(number: int) -> Row:
    return Row("affinity", {"user_id": f"ana{number}", "personality_name": "Dr. Luna", "affinity_points": number})


def stage(sink: Any, rows: list[Row], each: int = 3) -> None:
    for number, start in enumerate(range(0, len(rows), each)):
        sink.begin(f"0000-{number:06}")
        sink.upsert(rows[start : start + each], Existing.EMPTY)
        assert sink.flush().held == []


def write(path: Path, rows: list[Row], each: int = 3) -> Path:
    """As a job of its own: nothing is remembered of an earlier one."""
    sink = sink_of(path)
    sink.discard()
    sink.prepare(KINDS, create=True)
    stage(sink, rows, each)
    sink.publish()
    return path


def pages_of(source: Source, wanted: int = 1) -> list[Page]:
    return [page for part in source.partitions(KINDS, wanted) for page in source.pages(part, None)]


def rows_of(source: Source, wanted: int = 1) -> list[Row]:
    rows = [row for page in pages_of(source, wanted) for row in page.rows]
    return [Row(row.kind, row.record, row.origin) for row in rows]


def rejects_of(source: Source) -> list[Reject]:
    return [reject for page in pages_of(source) for reject in page.rejects]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def by_key(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.kind, repr(row.record)))


def packed(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return needed("zstandard").ZstdCompressor().compress(data) if name.endswith(".zst") else data


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PAGE_ROWS", 4)


# Round trips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    rows = [fact(n) for n in range(10)] + [affinity(n) for n in range(5)]
    path = write(tmp_path / name, rows)
    assert by_key(rows_of(source_of(path))) == by_key(rows)
    assert by_key(rows_of(sink_of(path).reader())) == by_key(rows)
    assert names_in(tmp_path) == sorted([name, "scratch"])


@pytest.mark.parametrize("writer", [gzip, packing._gzip])
def test_isal_and_the_standard_library_read_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any
) -> None:
    rows = [fact(n) for n in range(10)]
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_gzip", writer)
        path = write(tmp_path / "a.jsonl.gz", rows)
    monkeypatch.setattr(packing, "_gzip", gzip)
    assert rows_of(source_of(path)) == rows
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 10


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_make_a_valid_empty_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [])
    assert rows_of(source_of(path)) == []
    assert ADAPTER.describe(address_of(path)) is not None
    if name.endswith(".gz"):
        gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_rows_make_the_same_bytes(tmp_path: Path, name: str) -> None:
    first = write(tmp_path / name, [fact(n) for n in range(10)]).read_bytes()
    again = tmp_path / "again"
    again.mkdir()
    assert write(again / name, [fact(n) for n in range(10)]).read_bytes() == first


def test_a_document_has_a_record_a_line_and_kinds_in_the_layouts_order(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.json", [Row("fact", {"key": "b"}), affinity(1), Row("fact", {"key": "c"})], each=1)
    assert path.read_text() == (
        "{\n"
        '  "affinity": [\n'
        '    {"user_id":"ana1","personality_name":"Dr. Luna","affinity_points":1}\n'
        "  ],\n"
        '  "facts": [\n    {"key":"b"},\n    {"key":"c"}\n  ],\n'
        '  "episodes": [],\n  "moods": [],\n  "memories": [],\n  "sessions": []\n'
        "}\n"
    )
    assert [*json.loads(path.read_text())] == ["affinity", "facts", "episodes", "moods", "memories", "sessions"]


def test_json_lines_keep_origins_and_documents_say_that_they_do_not(tmp_path: Path) -> None:
    row = fact(1)
    row.origin = Origin("dynamodb", "user_id/SK", {"SK": "FACT#odd"}, ("GSI1SK",), {"TTL": 2**70})
    assert rows_of(source_of(write(tmp_path / "a.jsonl", [row]))) == [row]
    document = sink_of(tmp_path / "a.json").reader()
    assert document.loses == {"origins"} and document.fit(row).origin is None
    assert source_of(tmp_path / "a.jsonl").loses == frozenset()


EXACT = [
    2**64, -(2**63) - 1, 12345678901234567890123456789012345678, Decimal("1234567890123456789.0123456789012345678"),
    Decimal("1e400"), 0.1, 1e22, True, None, b"\xff\x00", frozenset({"a", "b"}), frozenset({1, Decimal("1e400")}),
    {"$bytes": "eA=="}, {"$$set": [1]}, [1, {"deep": [2**70, b"x"]}], float("inf"), '":', "\\", ':"a":', " : ",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_value_survives_to_the_last_digit(tmp_path: Path, name: str) -> None:
    rows = [fact(n, more=value) for n, value in enumerate(EXACT)]
    read = rows_of(source_of(write(tmp_path / name, rows)))
    assert [row.record["more"] for row in read] == EXACT
    assert [type(row.record["more"]) for row in read] == [type(value) for value in EXACT]
    assert [row.record["more"] for row in rows_of(sink_of(tmp_path / name).reader())] == EXACT


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False) | st.binary(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20), st.booleans())  # fmt: skip
def test_a_text_has_a_repeated_key_only_if_it_has(value: Any, spaced: bool) -> None:
    text = to_json({"value": value, "more": [value]})
    if spaced:
        text = json.dumps(json.loads(text), indent=1).encode()
    assert canonical(json_text.parsed(text)) == canonical({"value": value, "more": [value]})


# Places to go on from --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_going_on_behind_any_page_gives_exactly_the_rest(tmp_path: Path, name: str, staged: bool) -> None:
    rows = [fact(n) for n in range(19)] + [affinity(n) for n in range(4)]
    if staged:
        sink = sink_of(tmp_path / name)
        sink.prepare(KINDS, create=True)
        stage(sink, rows)
        source = sink.reader()
    else:
        source = source_of(write(tmp_path / name, rows))
    for wanted in (1, 3):
        for part in source.partitions(KINDS, wanted):
            pages = list(source.pages(part, None))
            for number, page in enumerate(pages):
                cursor = json.loads(json.dumps(page.cursor))
                assert list(source.pages(part, cursor)) == pages[number + 1 :]
        assert by_key(rows_of(source, wanted)) == by_key(rows)


LINES = st.lists(
    st.one_of(st.just(b""), st.just(b"  \t"), st.text("aü🦜\u2028", max_size=9).map(lambda s: json_line(s))),
    max_size=12,
)


def json_line(text: str) -> bytes:
    return json.dumps({"kind": "fact", "record": {"value": text}}, ensure_ascii=False).encode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.integers(1, 40))
def test_byte_ranges_cover_every_line_once(
    tmp_path: Path, lines: list[bytes], end: bytes, ends: bool, wanted: int
) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(end.join(lines) + (end if ends else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_source, "_PARTITION_BYTES", 1)
        source = source_of(path)
        parts = source.partitions(KINDS, wanted)
        rows = rows_of(source, wanted)
    assert [json_line(row.record["value"]) for row in rows] == [line for line in lines if line.strip()]
    size = path.stat().st_size
    assert len(parts) == min(wanted, size)
    # ... and so does any other cut, through the middle of a character or of CR LF.
    for cut in range(size + 1):
        halves = [Partition("0", {"start": 0, "end": cut}), Partition("1", {"start": cut, "end": size})]
        read = [row.place for half in halves for page in source.pages(half, None) for row in page.rows]
        assert len(read) == len(rows) == len(set(read))


def test_a_small_file_is_one_partition_and_an_empty_one_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [fact(n) for n in range(100)])
    assert len(source_of(path).partitions(KINDS, 8)) == 1
    assert source_of(path).size_hint() in range(90, 111)
    path.write_bytes(b"")
    assert source_of(path).partitions(KINDS, 8) == [] and source_of(path).size_hint() == 0
    assert [part.sequential for part in source_of(write(tmp_path / "a.json", [])).partitions(KINDS, 8)] == [True]


def test_a_page_ends_by_rows_and_by_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [fact(n) for n in range(2_500)], each=1000)
    assert [len(page.rows) for page in pages_of(source_of(path))] == [PAGE_ROWS, PAGE_ROWS, 500]
    path = write(tmp_path / "b.jsonl", [fact(n, value="x" * (PAGE_BYTES // 2)) for n in range(5)])
    assert [len(page.rows) for page in pages_of(source_of(path))] == [2, 2, 1]


# Other people's files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"kind": "fact", "record": {"a": 1}', "not JSON from byte 79 on"),
        (b'{"kind": "fact", "record": {"a": "\xff"}}', "not JSON from byte 77 on: not UTF-8"),
        (b'{"kind": "fact", "record": {"confidence": NaN}}', "holds NaN"),
        (b'{"kind": "fact", "record": {"confidence": -Infinity}}', "holds -Infinity"),
        (b'{"kind": "fact", "kind": "mood", "record": {}}', 'the key "kind" is there twice'),
        (b'{"kind": "fact", "record": {"key": 1, "key" : 1}}', 'the key "key" is there twice'),
        (b'{"kind": "fact", "record": {"x": {"a\\\\":1,"b":1,"b":2}}}', 'the key "b" is there twice'),
        (b'{"kind": "fact", "record": {"value": "\\ud800"}}', "surrogate"),
        (b'{"kind": "fact", "record": {"value": "\\ud800", "n": 12345678901234567890}}', "surrogate"),
        (b'{"kind": "fact", "record": {"n": 1e99999999999999999999}}', "cannot be kept"),
        (b'{"kind": "fact", "record": {"n": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "nested too deep"),
        (b'{"kind": "fact", "record": {"n": ' + b"[" * 201 + b"]" * 201 + b"}}", "nested too deep"),
        (
            b'{"kind": "fact", "record": {}, "origin": {"set": {"n": ' + b"[" * 201 + b"]" * 201 + b"}}}",
            "nested too deep",
        ),
        (b'{"kind": "fact", "x": ' + b"[" * 203 + b"]" * 203 + b"}", "nested too deep"),
        (b'{"kind": "fact", "record": {"n": {"$bytes": "?"}}}', "damaged"),
        (b'{"record": {}}', '"kind"'),
        (b'{"kind": "fact"}', '"record"'),
        (b'{"kind": 7, "record": {}}', '"kind"'),
        (b"[1]", '"kind"'),
        (b'{"kind": "fact", "record": {}, "origin": 7}', '"origin" needs'),
        (b'{"kind": "letter", "record": {}}', 'no kind "letter"'),
        (b'{"kind": "fact", "record": {"value": 7}}', "value holds a number"),
    ],
)
def test_a_broken_line_is_rejected_and_the_others_are_kept(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "chat.jsonl"
    good = b'{"kind": "fact", "record": {"value": "a"}}\n'
    path.write_bytes(good + line + b"\n" + good)
    source = source_of(path)
    assert len(rows_of(source)) == 2
    (reject,) = rejects_of(source)
    assert reject.place == f"byte {len(good)}, line 2"
    assert re.search(reason, reject.reason), reject.reason
    assert reject.held or b'"record": {}' in line  # what was there is not lost


def test_a_rejected_line_is_found_by_its_number_in_every_partition_and_packing(tmp_path: Path) -> None:
    lines = b"".join(b"{%d\n" % n if n % 3 == 0 else b'{"kind":"fact","record":{}}\n' for n in range(1, 40))
    for name in ("a.jsonl", "a.jsonl.gz"):
        path = tmp_path / name
        path.write_bytes(packed(name, lines))
        source = source_of(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_source, "_PARTITION_BYTES", 1)
            patch.setattr(base, "PAGE_ROWS", 5)
            parts = source.partitions(KINDS, 6)
            resumed = [
                page for part in parts for cursor in [first_cursor(source, part)] for page in source.pages(part, cursor)
            ]
            rejects = [reject for part in parts for page in source.pages(part, None) for reject in page.rejects]
        found = {reject.place.split("line ")[1] for reject in rejects}
        assert found == {str(n) for n in range(3, 40, 3)}
        assert {reject.reason for page in resumed for reject in page.rejects} <= {reject.reason for reject in rejects}
        assert {reject.place for page in resumed for reject in page.rejects} <= {reject.place for reject in rejects}


def first_cursor(source: Source, part: Partition) -> Any:
    return next(page.cursor for page in source.pages(part, None))


def test_a_truncated_last_line_is_rejected_and_a_whole_one_without_its_end_is_not(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(b'{"kind":"fact","record":{}}\n{"kind":"fact","record":{}}')
    assert len(rows_of(source_of(path))) == 2 and not rejects_of(source_of(path))
    path.write_bytes(b'{"kind":"fact","record":{}}\n{"kind":"fact","rec')
    assert len(rows_of(source_of(path))) == 1 and len(rejects_of(source_of(path))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_record_over_the_limit_is_rejected_with_its_size(tmp_path: Path, name: str) -> None:
    rows = [fact(1), fact(2, value="x\\" * 600_000), fact(3), fact(4, value=["{"] * 50_000)]
    path = write(tmp_path / name, [row for row in rows if row.kind == "fact"])
    source = source_of(path, record_bytes=1000)
    assert [row.record["key"] for row in rows_of(source)] == ["k00001", "k00003"]
    assert [reject.reason.split()[1] > "1" for reject in rejects_of(source)] == [True, True]
    assert "the limit for a record is 1,000" in rejects_of(source)[0].reason


def test_rejects_and_foreign_lines_are_sources_too(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    path.write_bytes(
        b'{"kind":"fact","record":{"value":"a"},"reason":"too large","place":"row 7"}\n'
        b'{"kind":"?","foreign":true,"ghost":true,"record":{"user_id":"ana"}}\n'
        b'{"kind":"?","record":{"line":"{oops"},"reason":"not JSON"}\n'
    )
    (page,) = pages_of(source_of(path))
    assert [row.record for row in page.rows] == [{"value": "a"}]
    assert page.foreign == [Foreign("byte 76", True, {"user_id": "ana"})]
    assert [reject.held for reject in page.rejects] == [{"line": "{oops"}]
    assert set(ADAPTER.describe(address_of(path)).tables) == {"fact"}


DOCUMENT = b'{"facts": [{"key": "a"}, {"key": "b"}], "moods": []}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DOCUMENT[:-1], "truncated"),
        (DOCUMENT[:30], "within a value"),
        (DOCUMENT[:11], "truncated"),
        (DOCUMENT + b" x", r"more follows .*byte 53, line 1"),
        (DOCUMENT.replace(b"}, {", b"},\n {", 1).replace(b'"b"', b"b"), r"byte 34, line 2"),
        (DOCUMENT.replace(b"}, {", b"} {"), ", or ] is wanted"),
        (DOCUMENT.replace(b"moods", b"facts"), '"facts" is there twice'),
        (DOCUMENT.replace(b":", b"", 1), ": is wanted"),
        (DOCUMENT.replace(b'"b"}', b'"b"]'), "not JSON"),
        (DOCUMENT.replace(b"[]", b"["), "truncated|wanted"),
        (DOCUMENT.replace(b"[]", b"[,]"), "wanted"),
        (b'[{"key": "a"}]', "a document is one object"),
        (b"   ", "truncated"),
        (b"nothing", "a document is one object"),
    ],
)
@pytest.mark.parametrize("name", ["chat.json", "chat.json.gz", "chat.json.zst"])
def test_a_broken_document_is_an_error_and_never_no_sessions(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(packed(name, data))
    with pytest.raises(ConfigError, match=reason):
        ADAPTER.describe(address_of(path))
    with pytest.raises(StoreError, match=r"not JSON: .*byte \d+, line \d"):
        rows_of(source_of(path))


def test_in_a_document_a_record_is_rejected_for_its_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_bytes(
        b'{"facts": [{"key": "a"}, {"confidence": NaN}, {"key": 1, "key": 2}, {"key": "\\ud800"}, 7, "x", {"key": 7}],\n'
        b' "letters": [{"to": "ana"}, 7], "version": 1.0}'
    )
    (page,) = pages_of(source_of(path))
    assert [row.place for row in page.rows] == ["facts[0]"]
    assert [reject.place for reject in page.rejects] == [f"facts[{n}]" for n in range(1, 7)]
    assert [each.held for each in page.foreign] == [{"to": "ana"}, {"value": 7}, {"value": 1.0}]
    path.write_bytes(b'{"facts": {"key": "a"}}')
    ((reject,),) = [page.rejects for page in pages_of(source_of(path))]
    assert (reject.kind, reject.reason, reject.held) == (
        "fact",
        '"facts" is no array of records',
        {"value": {"key": "a"}},
    )


def test_a_document_is_read_right_whatever_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.json"
    value = {
        "facts": [{"value": 'a"\\{[ü🦜', "n": [[1.5], {"x": "]}"}]}, {"value": "\\"}, {"key": ""}],
        "moods": [],
        "n": 17,
    }
    for text in (
        json.dumps(value),
        json.dumps(value, indent=3, ensure_ascii=False),
        json.dumps(value, separators=(",", ":")),
    ):
        path.write_text(text)
        for chunk in (2, 3, 5, 7, 64):
            monkeypatch.setattr(json_text, "_CHUNK", chunk)
            (page,) = pages_of(source_of(path))
            assert [row.record for row in page.rows] == value["facts"]
            assert [each.held for each in page.foreign] == [{"value": 17}]


# Describe --------------------------------------------------------------------------------------------------------------


def described(path: Path, data: bytes) -> set[str]:
    path.write_bytes(packed(path.name, data))
    shape = ADAPTER.describe(address_of(path))
    assert shape is not None and str(path) in shape.words and ADAPTER.whereabouts(address_of(path)) == str(path)
    return set(shape.tables)


def test_a_shape_names_the_kinds_or_the_keys(tmp_path: Path) -> None:
    assert ADAPTER.describe(address_of(tmp_path / "none.json")) is None
    assert described(tmp_path / "a.jsonl", b"") == set()
    assert described(tmp_path / "b.jsonl.gz", b'{oops\n{"kind":"fact","record":{}}\n') == {"fact"}
    assert described(tmp_path / "a.json", DOCUMENT) == {"facts", "moods"}
    assert described(tmp_path / "b.json.zst", b" {} ") == set()
    sessions = json.dumps({f"session-{n}": {"messages": []} for n in range(99)}).encode()
    assert described(tmp_path / "c.json", sessions) == set()
    shape = ADAPTER.describe(address_of(tmp_path / "c.json"))
    assert shape is not None and {"session-7": {"messages": []}} in shape.sample
    assert MAPPING.fits(ADAPTER.describe(address_of(tmp_path / "a.json")))
    assert not MAPPING.fits(ADAPTER.describe(address_of(tmp_path / "c.json")))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.json", b"", "holds nothing"),
        ("a.json.gz", b"", "holds nothing"),
        ("a.jsonl.zst", b"", "holds nothing"),
        ("a.json", b"\xef\xbb\xbf{}", "byte order mark"),
        ("a.jsonl.gz", gzip.compress("{}".encode("utf-16"), mtime=0), "byte order mark"),
        ("a.json", gzip.compress(b"{}", mtime=0), "is gzip data: name it a.json.gz"),
        ("a.json.gz", b"{}", "is not gzip data"),
        ("a.jsonl.zst", gzip.compress(b"{}", mtime=0), "is not zstd data"),
        ("a.json.gz", gzip.compress(DOCUMENT * 99, mtime=0)[:-20], "truncated"),
        ("a.jsonl", DOCUMENT, r"no JSON Lines of records.*line 1.*named .json"),
        ("a.jsonl", b"\n{oops\n", "byte 2, line 2"),
        ("a.json", b'{"kind": "fact", "record": {}}\n{"kind": "fact", "record": {}}\n', "named .jsonl"),
        ("a.json", b"[" * (9 << 20), "a document is one object"),
    ],
)
def test_what_is_no_store_is_told_with_the_next_step(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=reason):
        ADAPTER.describe(address_of(path))


def test_a_long_document_that_is_truncated_is_told_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = b'{"key": "%s"}' % (b"x" * 1000)
    path.write_bytes(b'{"facts": [' + b",\n".join([record] * 12_000) + b",")
    with pytest.raises(ConfigError, match="truncated"):
        ADAPTER.describe(address_of(path))


def test_folders_pipes_and_missing_files_are_no_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name, reason in (("folder.json", "is a folder"), ("pipe.json", "no regular file")):
        with pytest.raises(ConfigError, match=reason):
            ADAPTER.describe(address_of(tmp_path / name))
    with pytest.raises(ConfigError, match="no such file"):
        source_of(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b"{}")
    monkeypatch.setattr(Path, "open", raise_oserror(13))
    with pytest.raises(ConfigError, match="no permission"):
        ADAPTER.describe(address_of(tmp_path / "a.json"))


def test_zstd_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    path = tmp_path / "a.jsonl.zst"
    with pytest.raises(ConfigError, match=r"migrator.zstd"):
        sink_of(path).prepare(KINDS, create=True)
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(ConfigError, match=r"migrator.zstd"):
        ADAPTER.describe(address_of(path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_damaged_and_truncated_compression_is_a_store_error(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [fact(n, value=os.urandom(200).hex()) for n in range(500)])
    whole = path.read_bytes()
    for data in (whole[:-30], whole[: len(whole) // 2], whole[:5000] + b"\xff" * 99 + whole[5099:]):
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"truncated|damaged"):
            rows_of(source_of(path))


# One moment ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("name", NAMES)
def test_a_source_that_changes_is_refused_at_the_next_page(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [fact(n) for n in range(20)])
    source = source_of(path)
    snapshot = source.snapshot()
    (part,) = source.partitions(KINDS, 1)
    pages = source.pages(part, None)
    next(pages)
    os.utime(path, ns=(1, 1))
    with pytest.raises(StoreError, match=r"changed while being read; run again with --restart"):
        next(pages)
    assert not source.is_still(snapshot) and source_of(path).is_still(source_of(path).snapshot())
    worker = source_of(path, snapshot)
    with pytest.raises(StoreError, match="changed"):
        list(worker.pages(part, None))
    path.unlink()
    assert not worker.is_still(snapshot)
    with pytest.raises(StoreError, match="changed"):
        worker.partitions(KINDS, 1)


def test_a_snapshot_is_the_files_own_time_in_utc(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [fact(1)])
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    snapshot = source_of(path).snapshot()
    assert snapshot.moment == "2023-11-14T22:13:20+00:00" and json.loads(json.dumps(snapshot.spec)) == snapshot.spec
    assert len(rows_of(source_of(path, snapshot))) == 1
    assert not source_of(path).guarantees("fact")


def test_a_file_that_is_rewritten_meanwhile_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.json", [fact(n) for n in range(30)])
    opened = json_source.opened

    def opened_too_late(*args: Any) -> Any:
        os.truncate(path, 50)
        return opened(*args)

    monkeypatch.setattr(json_source, "opened", opened_too_late)
    with pytest.raises(StoreError, match="changed while being read"):
        rows_of(source_of(path))
    monkeypatch.setattr(json_source, "opened", opened)
    with pytest.raises(StoreError, match="not JSON"):
        rows_of(source_of(path))


# The sink --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_slice_done_again_replaces_its_part(tmp_path: Path, form: str) -> None:
    sink = sink_of(tmp_path / f"a.{form}")
    sink.prepare(KINDS, create=True)
    stage(sink, [fact(n) for n in range(9)] + [affinity(n) for n in range(9)], each=6)
    again = sink_of(tmp_path / f"a.{form}")
    again.prepare(KINDS, create=True)
    again.begin("0000-000001")
    again.upsert([fact(77)], Existing.EMPTY)
    again.begin("0000-000001")
    again.upsert([fact(6)], Existing.EMPTY)
    again.flush()
    expected = [fact(n) for n in range(7)] + [affinity(n) for n in range(3, 9)]
    assert by_key(rows_of(again.reader(), 5)) == by_key(expected)
    again.publish()
    assert by_key(rows_of(source_of(tmp_path / f"a.{form}"))) == by_key(expected)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_seen_of_a_slice_before_it_is_flushed(tmp_path: Path, form: str) -> None:
    sink = sink_of(tmp_path / f"a.{form}")
    sink.prepare(KINDS, create=True)
    sink.begin("0000-000000")
    sink.upsert([fact(1)], Existing.EMPTY)
    assert rows_of(sink.reader()) == [] and not (tmp_path / f"a.{form}").exists()
    sink.close()
    sink.close()
    assert names_in(sink.staging) == []


def test_parts_are_joined_in_the_order_of_slices_whoever_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink_of(path).prepare(KINDS, create=True)
    for number in (3, 1, 0, 2):
        worker = sink_of(path)
        worker.begin(f"0000-{number:06}")
        worker.upsert([fact(number)], Existing.REPLACE)
        worker.flush()
    sink_of(path).publish()
    assert rows_of(source_of(path)) == [fact(n) for n in range(4)]


def test_a_new_file_is_private_and_a_replaced_one_keeps_its_mode(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [fact(1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sink = sink_of(path)
    path.chmod(0o640)
    sink.discard()
    sink.prepare(KINDS, create=True)
    assert stat.S_IMODE(sink.staging.stat().st_mode) == 0o700
    stage(sink, [fact(2)])
    assert {stat.S_IMODE(part.stat().st_mode) for part in sink.staging.iterdir()} == {0o600}
    sink.publish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    old = tmp_path / "scratch" / "replaced-a.jsonl"
    assert json.loads(old.read_bytes())["record"] == fact(1).record


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write(tmp_path / "link.jsonl", [fact(1)])
    assert (tmp_path / "link.jsonl").is_symlink() and (tmp_path / "real.jsonl").is_file()


def test_prepare_refuses_what_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"mkdir -p '.*/none'"):
        sink_of(tmp_path / "none" / "a.jsonl", scratch=tmp_path / "scratch").prepare(KINDS, create=True)
    with pytest.raises(ConfigError, match="--create"):
        sink_of(tmp_path / "a.jsonl").prepare(KINDS, create=False)
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        sink_of(tmp_path / "b.jsonl").prepare(KINDS, create=True)
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ConfigError, match="no permission"):
        sink_of(tmp_path / "a.jsonl").prepare(KINDS, create=True)


def test_parts_of_another_job_are_not_published(tmp_path: Path) -> None:
    sink = sink_of(tmp_path / "a.jsonl")
    sink.prepare(KINDS, create=True)
    stage(sink, [fact(1), fact(2)])
    (tmp_path / "scratch" / "sink-file.json").unlink()  # the job starts anew
    write(tmp_path / "a.jsonl", [fact(3)])
    assert rows_of(source_of(tmp_path / "a.jsonl")) == [fact(3)]


def test_parts_that_are_gone_are_no_empty_file(tmp_path: Path) -> None:
    sink = sink_of(tmp_path / "a.jsonl")
    sink.prepare(KINDS, create=True)
    sink.staging.rmdir()
    for call in (sink.publish, lambda: sink.prepare(KINDS, True), lambda: sink.begin("0000-000000")):
        with pytest.raises(StoreError, match="staged parts are gone"):
            call()
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("change", [b"new", b"", None])
def test_publish_refuses_a_sink_file_that_somebody_changed(tmp_path: Path, change: bytes | None) -> None:
    path = tmp_path / "a.jsonl"
    if change is not None:
        path.write_bytes(b'{"kind":"fact","record":{}}\n')
    sink = sink_of(path)
    sink.prepare(KINDS, create=True)
    stage(sink, [fact(1)])
    path.write_bytes(change or b"theirs")
    sink.prepare(KINDS, create=True)  # a resumed run does not take the change for what was there
    with pytest.raises(StoreError, match="somebody changed it"):
        sink.publish()
    assert path.read_bytes() == (change or b"theirs")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


STEPS: list[tuple[Any, str]] = [
    (Path, "replace"), (Path, "unlink"), (os, "link"), (os, "fsync"), (os, "fchmod"), (json_sink.shutil, "rmtree"),
    (json_sink.shutil, "copyfileobj"),
]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz"])
def test_killed_at_any_step_of_publish_the_next_one_ends_it(
    tmp_path: Path, name: str, existed: bool, when: str
) -> None:
    rows = [fact(n) for n in range(4)]
    kills = 0
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / name
        if existed:
            path.write_bytes(packed(name, b'{"kind":"fact","record":{}}\n'))
        old = path.read_bytes() if existed else None
        sink = sink_of(path)
        sink.prepare(KINDS, create=True)
        stage(sink, rows)
        with pytest.MonkeyPatch.context() as patch:
            countdown = itertools.count(-number)
            for owner, step in STEPS:
                patch.setattr(owner, step, killing(getattr(owner, step), countdown, when))
            try:
                sink.publish()
                was_killed = False
            except Killed:
                was_killed = True
        if path.exists() and path.read_bytes() != old:
            assert rows_of(source_of(path)) == rows  # whole or absent
        resumed = sink_of(path)
        resumed.prepare(KINDS, create=True)
        assert rows_of(resumed.reader()) == rows
        resumed.publish()
        resumed.publish()
        assert rows_of(source_of(path)) == rows
        assert names_in(folder) == sorted([name, "scratch"])
        if old is not None:
            assert (folder / "scratch" / f"replaced-{name}").read_bytes() == old
        if not was_killed:
            break
        kills += 1
    assert kills >= 8


def killing(step: Callable[..., Any], countdown: Iterator[int], when: str) -> Callable[..., Any]:
    def run(*args: Any, **more: Any) -> Any:
        is_now = next(countdown) == 0
        if is_now and when == "before":
            raise Killed
        result = step(*args, **more)
        if is_now:
            raise Killed
        return result

    return run


def raise_oserror(number: int) -> Callable[..., Any]:
    def fail(*args: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_full_disk_says_so_and_a_resumed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = sink_of(tmp_path / "a.jsonl")
    sink.prepare(KINDS, create=True)
    sink.begin("0000-000000")
    sink.upsert([fact(1)], Existing.EMPTY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raise_oserror(28))
        with pytest.raises(StoreError, match=r"disk is full; free space"):
            sink.flush()
    sink.begin("0000-000000")
    sink.upsert([fact(1)], Existing.EMPTY)
    sink.flush()
    monkeypatch.setattr(os, "link", raise_oserror(18))  # the scratch folder on another file system
    sink.publish()
    assert rows_of(source_of(tmp_path / "a.jsonl")) == [fact(1)]


def test_an_old_file_is_kept_by_copy_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"old")
    monkeypatch.setattr(os, "link", raise_oserror(18))
    write(tmp_path / "a.jsonl", [fact(1)])
    kept = tmp_path / "scratch" / "replaced-a.jsonl"
    assert kept.read_bytes() == b"old" and stat.S_IMODE(kept.stat().st_mode) == 0o600


# The sink, looked at ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_takes_a_missing_file_for_an_empty_store(tmp_path: Path, name: str) -> None:
    reader = ADAPTER.reader(address_of(tmp_path / name), setting_of(tmp_path / name))
    assert rows_of(reader) == [] and not reader.holds(KINDS).any and names_in(tmp_path) == ["scratch"]
    write(tmp_path / name, [fact(1)])
    reader = ADAPTER.reader(address_of(tmp_path / name), setting_of(tmp_path / name))
    assert reader.holds(KINDS).any and not reader.holds(["mood"]).any
    with pytest.raises(StoreError, match="as a whole"):
        reader.fetch([fact(1)])


@pytest.mark.parametrize("form", FORMS)
def test_what_json_cannot_hold_does_not_fit(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    reader = ADAPTER.reader(address_of(path), setting_of(path, record_bytes=500))
    assert reader.fit(fact(1)) == fact(1) and 60 < reader.weigh(fact(1)).bytes < 200
    assert "surrogate" in reader.fit(fact(1, value="\ud800")).reason
    assert "the limit for a record is 500" in reader.fit(fact(1, value="x" * 600)).reason
    assert "no place for letter" in reader.fit(Row("letter", {})).reason


# Size ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst", "a.jsonl", "a.jsonl.zst"])
def test_fifty_megabytes_are_read_in_the_memory_of_a_few_pages(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    value = os.urandom(2_500).hex()
    document = b'{"facts":[' + b",".join(to_json({"key": str(n), "value": value}) for n in range(10_000)) + b"]}"
    lines = (to_json({"kind": "fact", "record": {"key": str(n), "value": value}}) + b"\n" for n in range(10_000))
    path.write_bytes(packed(name, document if ".jsonl" not in name else b"".join(lines)))
    del document
    source = source_of(path)
    (part, *more) = source.partitions(KINDS, 1)
    assert not more
    tracemalloc.start()
    try:
        count = sum(len(page.rows) for page in source.pages(part, None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 10_000 and peak < 30 << 20


def test_one_value_of_fifty_megabytes_is_passed_without_being_held(tmp_path: Path) -> None:
    huge = b'{"key":"a\\"' + b"x" * (50 << 20) + b'"}'
    for name, data in (
        ("a.json", b'{"facts":[' + huge + b',{"key":"b"}]}'),
        ("a.jsonl", huge + b'\n{"kind":"fact","record":{}}'),
    ):
        (tmp_path / name).write_bytes(data)
        source = source_of(tmp_path / name, record_bytes=1 << 20)
        tracemalloc.start()
        try:
            (page,) = pages_of(source)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(page.rows) == 1 and "52,428," in page.rejects[0].reason and peak < 16 << 20


@pytest.mark.parametrize("junk", [1, 4, 5, 18, 40])
def test_what_stands_behind_the_end_of_a_compressed_file_is_not_taken_for_a_missing_end_alone(
    junk: int, tmp_path: Path
) -> None:
    path = tmp_path / "chat.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"kind": "fact", "record": {}}\n') + b"j" * junk)
    with pytest.raises(StoreError, match=r"something stands behind its end|is damaged"):
        pages_of(source_of(path))
