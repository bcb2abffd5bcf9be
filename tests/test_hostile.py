"""Data, files and answers from somebody who means no good, or from a broken disk: what is read is right or refused, in our words.

Fuzzes the JSON reader, the loaders of mappings and checkpoints, and the pages of a table; tries names that a path, a format or a terminal would
take for more than a name; and looks through everything that runs leave behind for what must not be there.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import awkward
import endpoint
import migrator
import mutated
from accepting import description
from awkward import as_noted, examples, meaning
from migrator import ConfigError
from migrator.adapters.base import Setting
from migrator.adapters.dynamodb.source import DynamoDBSource, read_item
from migrator.adapters.jsonfile import text as json_text
from migrator.adapters.jsonfile.adapter import ADAPTER as FILES
from migrator.adapters.jsonfile.skimming import Skimmer
from migrator.adapters.jsonfile.text import Broken, Entries, Found, Proof, Scanner, parsed
from migrator.checkpoint import FORMAT, Checkpoint, Progress, State, jobs
from migrator.config import resolve
from migrator.digest import Digest
from migrator.errors import MigratorError, RecordError
from migrator.mapping_file import load_mapping
from migrator.model import Foreign, Partition, Reject, Row, Snapshot, Tally
from migrator.values import canonical, to_json
from stores import DATA
from test_cli import Said, run
from test_dynamodb import VirtualTime

MAPPING = load_mapping("luminoracore-v1.1")
KINDS = MAPPING.kind_names()
SEEDS = st.integers(0, 2**64)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))


def says(error: MigratorError, *words: str) -> None:
    """An error of ours, that fits two lines."""
    assert all(each in str(error) for each in words) and len(str(error)) < 600, error


# The JSON reader -------------------------------------------------------------------------------------------------------


def spelled(random: Random, value: Any) -> bytes:
    """A JSON text of a value in one of the ways that programs write it."""
    plain = _jsonable(value)
    spaces = random.choice([None, None, 1, "\t"])
    marks = random.choice([None, (",", ":"), (" , ", " : ")])
    return json.dumps(
        plain, ensure_ascii=random.random() < 0.5, indent=spaces, separators=marks, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"k{name}": _jsonable(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_jsonable(held) for held in value]
    if isinstance(value, float) and value not in (value, float("inf"), float("-inf")):
        return None
    if value is None or isinstance(value, bool | str | int):
        return value
    return value if isinstance(value, float) and abs(value) < 1e400 and value == value else str(value)


def damaged(random: Random, text: bytes) -> bytes:
    """With a byte flipped, taken away or put in, cut off, or a part of it there twice."""
    if not text:
        return text
    at, other = random.randrange(len(text)), random.randrange(len(text))
    low, high = min(at, other), max(at, other)
    return random.choice([
        text[:at] + bytes([text[at] ^ 1 << random.randrange(8)]) + text[at + 1 :],
        text[:at] + text[at + 1 :],
        text[:at] + random.choice([b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\x00", b"\xff", b"\\ud800", b"NaN", b"1e999", b"-", b" "]) + text[at:],
        text[:at],
        text[:high] + text[low:],
    ])  # fmt: skip


class Twice(ValueError):
    """A key is there twice."""


def measured(text: bytes) -> Any:
    """What the standard library makes of a text, strictly: every digit kept, no key twice, no NaN."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(found)) < len(found):
            raise Twice
        return dict(found)

    def refused(name: str) -> Any:
        raise Twice

    return json.loads(
        text.decode(), object_pairs_hook=pairs, parse_constant=refused, parse_float=Decimal, parse_int=lambda x: int(x)
    )


@examples(500, 40_000)
@given(SEEDS)
def test_a_text_is_read_as_the_standard_library_reads_it_or_refused_for_a_reason_that_it_has_too(seed: int) -> None:
    random = Random(seed)
    text = spelled(random, awkward.json_value(random))
    if random.random() < 0.7:
        text = damaged(random, text)
    wanted: Any
    try:
        wanted = measured(text)
        fault = None
    except (ValueError, RecursionError, ArithmeticError) as exc:
        wanted, fault = None, exc
    try:
        found = parsed(text, plain=True)
    except (Broken, RecordError) as exc:
        refused = exc
    else:
        assert fault is None
        assert meaning(found) == meaning(wanted)
        return
    if isinstance(refused, Broken):
        assert isinstance(fault, json.JSONDecodeError | UnicodeDecodeError) and 0 <= refused.offset <= len(text)
    else:
        assert fault or as_noted(wanted) != wanted or "deep" in str(refused) or "number" in str(refused)


@settings(examples(150, 20_000), suppress_health_check=list(HealthCheck))
@given(seed=SEEDS, chunk=st.integers(1, 40))
def test_the_values_of_a_document_are_found_in_chunks_of_any_size(seed: int, chunk: int) -> None:
    """Against the standard library: the same values in the same order, each exactly as it is written; or broken for both."""
    random = Random(seed)
    document = {
        f"{awkward.text(random)}{number}": _jsonable(awkward.json_value(random))
        for number in range(random.randrange(4))
    }
    text = spelled(random, document)
    if random.random() < 0.5:
        text = damaged(random, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_CHUNK", chunk)
        scanner = Scanner(io.BytesIO(text), 1 << 20)
        try:
            found = [(each.key, each.position, parsed(each.text or b"", plain=True)) for each in scanner.items()]
        except (Broken, RecordError):
            found = None
    try:
        whole = measured(text)
        assert isinstance(whole, dict)
        wanted = [
            each
            for key, held in whole.items()
            for each in (
                [(key, place, one) for place, one in enumerate(held)] if isinstance(held, list) else [(key, None, held)]
            )
        ]
    except (ValueError, AssertionError, RecursionError, ArithmeticError):  # the last: an exponent that no number has
        assert found is None
        return
    if found is not None:  # else half a surrogate, or a number that nobody can hold
        assert meaning([list(each) for each in found]) == meaning([list(each) for each in wanted])
    else:
        assert as_noted(whole) != whole or b"e" in text.lower()


@settings(examples(200, 20_000), suppress_health_check=list(HealthCheck))
@given(seed=SEEDS, chunk=st.integers(1, 600), damage=st.booleans(), skims=st.booleans())
def test_entries_that_are_read_many_at_once_are_those_that_are_read_one_by_one(
    seed: int, chunk: int, damage: bool, skims: bool
) -> None:
    """The same names, values and faults, to the byte; and what is said to be plain is written as if every value had been looked at.

    So it is where a text was proven first, which finds the same fault, with msgspec and without.
    """
    random = Random(seed)
    document = {
        f"{awkward.text(random)}{number % 5}": {"text": "x", "held": _jsonable(awkward.json_value(random))}
        for number in range(random.randrange(8))
    }
    text = json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "replace")
    if random.random() < 0.3:  # a name that is there twice, perhaps far away
        text = text[:-2] + b',\n  "x": {},\n  "0": {},\n  "x": {}\n}'
    if damage:
        text = damaged(random, text)

    def read(how: Callable[[Scanner], Iterable[Found | Entries]]) -> tuple[list[Any], Any]:
        found: list[Any] = []
        try:
            for each in how(Scanner(io.BytesIO(text), 1 << 20)):
                if isinstance(each, Entries):
                    found += [(key, meaning(held)) for key, held in each.values.items()]
                    if each.is_plain:
                        assert canonical(each.values, is_plain=True) == canonical(each.values)
                        assert to_json(each.values, is_plain=True) == to_json(each.values)
                else:
                    try:
                        found.append((each.key, meaning(parsed(each.text or b"", plain=True))))
                    except Broken as exc:
                        raise Broken(each.offset + exc.offset, exc.reason) from exc
                    except RecordError as exc:
                        found.append((each.key, str(exc)))
        except Broken as exc:
            return found, (exc.offset, exc.reason)
        return found, None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_CHUNK", chunk)
        if not skims:
            patch.setattr(json_text, "Skimmer", None)
        found, fault = read(lambda scanner: scanner.items(whole=True))
        assert read(Scanner.entries) == (found, fault)
        proof = Proof()
        assert read(lambda scanner: scanner.prove(proof))[1] == fault
        patch.setattr(json_text, "_CHUNK", random.randint(1, 600))
        assert fault or read(lambda scanner: scanner.entries(proof)) == (found, None)


@settings(examples(300, 20_000))
@given(seed=SEEDS, damage=st.booleans())
def test_names_that_are_told_without_their_values_are_those_that_the_standard_library_reads(
    seed: int, damage: bool
) -> None:
    """H40: and where they are told, the text is JSON, to the last byte."""
    random = Random(seed)
    document = {awkward.text(random): _jsonable(awkward.json_value(random)) for _ in range(random.randrange(5))}
    text = spelled(random, document).strip()[1:-1]
    text += b"," * bool(text and random.random() < 0.3) + text * (text[-1:] == b",")
    if damage:
        text = damaged(random, text)
    names = Skimmer().names(text)
    if names is None:
        return
    pairs: list[tuple[str, Any]] = []
    # Of what is within a value only whether it is JSON counts.
    json.loads(b"{%b}" % text, object_pairs_hook=lambda found: pairs.__setitem__(slice(None), found))
    assert names == [name for name, _ in pairs]


@pytest.mark.parametrize(
    "text",
    [
        b'"a": "\xff"', b'"a": "\xc0\x80"', b'"\xed\xa0\x80": 1', b'"a": "\\ud800"', b'"a": NaN', b'"a": 01', b'"a": 1} {', b'"a": 1}, "b": {"c": 2',
        b'"a": tru', b'"a": 1,', b'"a" 1', b"a: 1", b'"a": "\n"', b'"a": [1 2]', b"\xef\xbb\xbf" b'"a": 1', b'"a": "' + b"x" * 20_000 + b'\xe2\x80"',
    ],
)  # fmt: skip
def test_entries_that_are_none_have_no_names(text: bytes) -> None:
    assert Skimmer().names(text) is None


def test_characters_on_the_border_of_two_pieces_are_whole() -> None:
    for ahead in range(16_370, 16_390):
        assert Skimmer().names(b'"a": "%b\xf0\x9f\xa6\x9c"' % (b"x" * ahead)) == ["a"]


def test_an_older_msgspec_that_does_not_tell_names_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    skimmer = Skimmer()
    monkeypatch.setattr(skimmer, "_decode", msgspec.json.Decoder(dict[str, msgspec.Raw]).decode)
    assert skimmer.names(b'"a": 1') is None


def test_a_text_that_is_not_the_one_that_was_proven_is_read_with_care() -> None:
    texts = [json.dumps({f"s{n}": {"text": word * 90} for n in range(50)}, indent=2).encode() for word in ("a", "bc")]
    proof = Proof()
    list(Scanner(io.BytesIO(texts[0]), 1 << 20).prove(proof))
    again = list(Scanner(io.BytesIO(texts[1]), 1 << 20).entries(proof))
    values = [
        held
        for each in again
        for held in (each.values.values() if isinstance(each, Entries) else [json.loads(each.text)])
    ]
    assert values == [{"text": "bc" * 90}] * 50


def test_most_entries_of_a_map_as_python_indents_it_are_read_many_at_once() -> None:
    document = {f"s{number}": {"text": "é" * 300, "number": number} for number in range(3_000)}
    text = json.dumps(document, indent=2, ensure_ascii=False).encode()
    found = list(Scanner(io.BytesIO(text), 1 << 20).entries())
    assert sum(len(each.values) for each in found if isinstance(each, Entries)) > 2_900


@pytest.mark.parametrize("length", [50_000, 200_000, 400_000])
def test_long_sessions_are_read_at_once_too(length: int) -> None:
    document = {f"s{number}": {"text": "é" * (length // 2), "number": number} for number in range(9)}
    text = json.dumps(document, indent=2, ensure_ascii=False).encode()
    proof = Proof()
    assert len([*Scanner(io.BytesIO(text), 1 << 25).prove(proof)]) == 1  # the last
    assert len([*proof]) >= 2
    assert [each for each in Scanner(io.BytesIO(text), 1 << 25).entries(proof) if isinstance(each, Found)] == []


def fact(key: str, value: str = "v", **more: Any) -> dict[str, Any]:
    return {"user_id": "ana", "category": "c", "key": key, "value": value, "confidence": 0.5} | more


DOCUMENT = json.dumps(
    {"facts": [fact("á", "x\\"), fact("b", '"]}')], "moods": [], "own": {"deep": [1]}}, indent=1
).encode()
LINES = b"".join(to_json({"kind": "fact", "record": fact(key)}) + b"\n" for key in "abc")


def read(path: Path) -> tuple[list[Row], list[Any]] | None:
    """The rows of a file, and what is no row; None if it was refused in our words."""
    address = resolve(str(path))
    try:
        FILES.describe(address)
        source = FILES.source(address, Setting(MAPPING.layout_for(address.store, None), KINDS, path.parent))
        pages = [page for part in source.partitions(KINDS, 1) for page in source.pages(part, None)]
    except MigratorError as exc:
        says(exc, str(path))
        return None
    rows = [row for page in pages for row in page.rows]
    return rows, [each for page in pages for each in (*page.rejects, *page.foreign)]


def keys(rows: list[Row]) -> list[Any]:
    return [row.record.get("key") for row in rows]


@pytest.mark.parametrize("packed", [False, True])
def test_a_document_that_is_cut_anywhere_is_refused_and_never_read_as_a_shorter_one(
    tmp_path: Path, packed: bool
) -> None:
    """H40."""
    path = tmp_path / ("chat.json.gz" if packed else "chat.json")
    text = gzip.compress(DOCUMENT, mtime=0) if packed else DOCUMENT
    for cut in range(len(text)):
        path.write_bytes(text[:cut])
        assert read(path) is None, cut
    path.write_bytes(text)
    assert keys((read(path) or ([], []))[0]) == ["á", "b"]


def test_lines_that_are_cut_anywhere_give_the_whole_ones_and_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    each = len(LINES) // 3
    for cut in range(1, len(LINES) + 1):
        path.write_bytes(LINES[:cut])
        found = read(path)
        whole, rest = divmod(cut + 1, each)  # the last line may lack its end
        if found is None:
            assert whole == 0
        else:
            assert keys(found[0]) == [*"abc"[:whole]]
            assert bool(found[1]) == (rest > 1), cut


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl", "chat.json.gz", "chat.jsonl.gz"])
def test_every_byte_of_a_file_may_be_another_and_nothing_is_lost_without_a_word(tmp_path: Path, name: str) -> None:
    """Each byte flipped in its lowest and its highest bit: other values, a reject, a foreign item or a refusal, and never fewer records.

    gzip's checksum tells every change of the data.
    """
    path = tmp_path / name
    text = DOCUMENT if ".jsonl" not in name else LINES
    clean = rows, others = _written(path, gzip.compress(text, mtime=0) if name.endswith("gz") else text)
    whole = len(rows) + len(others)
    data = path.read_bytes()
    for at in range(len(data)):
        for bit in (1, 128):
            found = _written(path, data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            if found is None:
                continue
            rows, others = found
            if name.endswith("gz"):
                assert found == clean, at
            else:
                assert len(rows) + sum(_weight(each) for each in others) >= whole, (at, bit)


def _weight(other: Any) -> int:
    """How many records one that could not be read may have been: two lines may have become one."""
    return max(1, str(other.held.get("line", "")).count('"record"'))


def _written(path: Path, data: bytes) -> Any:
    path.write_bytes(data)
    return read(path)


def test_a_line_whose_kind_is_not_ours_is_told_under_no_name_of_its_own(tmp_path: Path) -> None:
    """What a kind is called is for the mapping to say: neither a table of ours nor a terminal is told by a file."""
    path = tmp_path / "chat.jsonl"
    evil = "\x1b[2J" * 10_000
    lines = [
        {"kind": evil, "record": {}},
        {"kind": evil, "record": {}, "origin": 7},
        {"kind": evil, "record": {}, "omitted": ["x"]},
        {"kind": evil, "record": {}, "omitted": True},
        {"kind": "fact", "record": fact("a")},
    ]
    path.write_bytes(b"".join(to_json(line) + b"\n" for line in lines))
    found = read(path)
    assert found is not None
    assert {reject.kind for reject in found[1]} == {"?"} and len(found[1]) == 4
    assert all(len(reject.reason) < 200 for reject in found[1])


# Mappings and checkpoints ----------------------------------------------------------------------------------------------

SHIPPED = (DATA.parent.parent / "mappings" / "luminoracore-v1.0.toml").read_bytes()


@settings(examples(200, 20_000), suppress_health_check=list(HealthCheck))
@given(seed=SEEDS, junk=st.binary(max_size=60))
def test_any_bytes_are_a_mapping_or_refused_with_the_name_of_the_file(tmp_path: Path, seed: int, junk: bytes) -> None:
    random = Random(seed)
    data = SHIPPED
    for _ in range(random.randrange(1, 4)):
        data = damaged(random, data) or junk
    path = tmp_path / "mine.toml"
    path.write_bytes(random.choice([data, data, data, junk, data[: random.randrange(len(data) + 1)] + junk]))
    try:
        load_mapping(str(path))
    except ConfigError as exc:
        says(exc, "mine.toml")


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        "job",
        {"command": "migrate", "source": "a", "sink": "b"},
        "2025-03-01",
        snapshot=Snapshot("s", None, "words", {"path": "x"}),
        progress=[Progress(Partition("0", {"start": 0, "end": None}, True), [1], 2, False)],
        tallies={"fact": Tally(read=2, written=2)},
        digests={"fact": Digest(2, {1: 255})},
        weights={"fact": {"bytes": 7}},
        proofs={"fact": {"missing": 0}},
        retyped={"fact": 1},
        ids=["x"],
    )


def sealed(body: bytes) -> bytes:
    """With a checksum that fits: as another version of the tool, or whoever may write there, could leave it."""
    return to_json({"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest()}) + b"\n" + body + b"\n"


@settings(examples(300, 20_000), suppress_health_check=list(HealthCheck))
@given(seed=SEEDS, junk=st.binary(max_size=60))
def test_any_bytes_are_a_checkpoint_or_refused_in_words(tmp_path: Path, seed: int, junk: bytes) -> None:
    """Damaged bytes, and whole ones whose content is another: what loads has every field of its type. `status` lists it all the same."""
    random = Random(seed)
    state = State(tmp_path / "states", "job")
    state.make()
    turn = random.random()
    if turn < 0.3:
        data = damaged(random, sealed(to_json(_checkpoint().to_plain())))
    elif turn < 0.9:
        data = sealed(
            to_json(mutated.mutate(random, json.loads(to_json(_checkpoint().to_plain())), random.randrange(1, 4)))
        )
    else:
        data = sealed(random.choice([junk, b"[]", b"null", b"{}", b"7", b"[" * 5000])) if junk else junk
    state.checkpoint_file.write_bytes(data)
    try:
        loaded = state.load()
    except ConfigError as exc:
        says(exc, "--restart", str(state.checkpoint_file))
    else:
        assert loaded is not None and Checkpoint.from_plain(json.loads(to_json(loaded.to_plain()))) == loaded
        assert all(each.closes in (True, False) for each in loaded.tallies.values())
        assert all(each.slices + 1 and each.partition.id + "" is not None for each in loaded.progress)
    assert len(list(jobs(tmp_path / "states"))) == 1


# Pages of a table ------------------------------------------------------------------------------------------------------

SORTS = ["S", "N", "B", "BOOL", "NULL", "L", "M", "SS", "NS", "BS", "X", ""]


def attribute(random: Random, depth: int = 0) -> Any:
    """What a server could send for an attribute: mostly one, sometimes none, two, or of another type than it says."""
    if random.random() < 0.1:
        return random.choice(
            [{}, {"S": "a", "N": "1"}, None, [], "x", 7, {"X": {}}, {"S": None}, {"N": "1e9999999"}, {"N": "x"}]
        )
    sort = random.choice(SORTS)
    held: Any = random.choice([None, True, 7, "", "1", b"", [], {}, "NaN", "1e400", "\ud800"])
    if random.random() < 0.8:
        match sort:
            case "S":
                held = awkward.text(random)
            case "N":
                held = str(awkward.number(random))
            case "L":
                held = [attribute(random, depth + 1) for _ in range(random.randrange(3))] if depth < 5 else []
            case "M":
                held = (
                    {awkward.text(random): attribute(random, depth + 1) for _ in range(random.randrange(3))}
                    if depth < 5
                    else {}
                )
            case "SS" | "NS":
                held = [str(awkward.number(random)) for _ in range(random.randrange(3))]
    return {sort: held}


def item(random: Random) -> Any:
    """A fact's item, more or less."""
    made: dict[str, Any] = {
        name: {"S": awkward.text(random)} for name in ("user_id", "SK", "category", "key") if random.random() < 0.9
    }
    for _ in range(random.randrange(4)):
        made[random.choice(["value", "confidence", "created_at", "TTL", *awkward.NAMES])] = attribute(random)
    return made


@examples(500, 40_000)
@given(SEEDS)
def test_an_item_of_any_structure_is_a_row_a_foreign_item_or_a_reject(seed: int) -> None:
    random = Random(seed)
    for layout in TABLES:
        found = read_item(layout, item(random))
        assert isinstance(found, Row | Foreign | Reject)
        if isinstance(found, Reject):
            assert found.reason and awkward.SECRET not in found.reason


TABLES = [layout for layout in MAPPING.layouts.values() if layout.store == "dynamodb"]


@pytest.fixture
def answers() -> Iterator[tuple[str, list[bytes]]]:
    """An endpoint that describes a table and gives these bodies, the last for good, for whatever is asked of it."""
    bodies: list[bytes] = []

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        if operation == "DescribeTable":
            return 200, json.dumps(description("chat", ["user_id", "SK"])).encode()
        return 200, bodies.pop(0) if len(bodies) > 1 else bodies[0]

    with endpoint.answering(answer) as where:
        yield where, bodies


@settings(examples(60, 5_000), suppress_health_check=list(HealthCheck))
@given(seed=SEEDS)
def test_a_page_of_any_structure_is_read_or_refused_in_our_words(
    tmp_path: Path, answers: tuple[str, list[bytes]], seed: int
) -> None:
    """Through boto3's own parser, from a server that answers anything; 20 items a page."""
    random = Random(seed)
    where, bodies = answers
    page: Any = {"Items": [item(random) for _ in range(20)], "Count": 20}
    if random.random() < 0.4:
        page = mutated.mutate(random, page, 2)
    if random.random() < 0.1:
        page = {"Items": random.choice([7, True, None, "x", {}, {"user_id": {"S": "a"}}])}
    text = json.dumps(page, default=lambda raw: raw.decode("latin-1")).encode()
    bodies[:] = [damaged(random, text) if random.random() < 0.2 else text, b'{"Items": [], "Count": 0}']
    setting = Setting(MAPPING.layout_for("dynamodb", None), KINDS, tmp_path)
    source = DynamoDBSource(
        resolve(f"dynamodb://chat?region=eu-west-1&endpoint={where}"), setting, VirtualTime().pace()
    )
    try:
        for part in source.partitions(KINDS, 1):
            for found in source.pages(part, None):
                assert all(each.reason for each in found.rejects)
    except MigratorError as exc:
        says(exc, "chat")
    finally:
        source.close()


# Names -----------------------------------------------------------------------------------------------------------------

EVIL = [
    "%s%n", "{}", "{0.__class__}", "-x", "a'b\"c", "$(id)`id`", "%2e%2e%2f", "ünï🦜", "#?&", "..", "\x1b[31m", "a\nb", "\u202ecod", "a\x00b",
]  # fmt: skip
SAFE = [name for name in EVIL if name.isprintable()]


def is_harmless(said: Said) -> bool:
    """Nothing for a terminal to obey: printable characters and line ends."""
    return all(line.isprintable() for line in (said.out + said.err).split("\n"))


def written_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_bytes(
        b"".join(to_json(each if "record" in each else {"kind": "fact", "record": each}) + b"\n" for each in records)
    )
    return path


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_only_a_name(name: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of files, of the state folder, of a user in the data: taken as it is, or refused in words; nothing appears beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    source = written_lines(tmp_path / "source.jsonl", [fact("a", user_id=name), fact("b", user_id="ana")])
    state = folder / f"{name}-state"
    said = run(capfd, "migrate", str(source), str(folder / f"{name}.db"), "--state", str(state), "--user", name)
    assert is_harmless(said) and "Traceback" not in said.err
    made = {each.name for each in folder.iterdir()}
    if name in SAFE or name == "\u202ecod":
        assert (said.code, made) == (0, {f"{name}.db", f"{name}-state"})
        with closing(sqlite3.connect(folder / f"{name}.db")) as db:
            assert db.execute("SELECT user_id FROM facts").fetchall() == [(name,)]
        back = run(
            capfd, "migrate", str(folder / f"{name}.db"), str(folder / f"{name}.jsonl.gz"), "--state", str(state)
        )
        assert back.code == 0 and is_harmless(back)
        assert is_harmless(run(capfd, "status", "--state", str(state)))
    else:
        assert (said.code, made) == (2, set())


@pytest.mark.parametrize("name", EVIL)
def test_what_is_asked_for_by_a_name_that_is_not_there_is_refused_in_words(
    name: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, dynamodb_local_endpoint: str
) -> None:
    """Tables, kinds, mappings, shapes, profiles, options and commands; of every other name in an object (--json)."""
    source = str(written_lines(tmp_path / "source.jsonl", [fact("a")]))
    where = f"region=eu-west-1&endpoint={dynamodb_local_endpoint}"
    table, more = f"dynamodb://chat?{where}", ["--json"] * (EVIL.index(name) % 2)
    for args in (
        ["inspect", f"dynamodb://{name}?{where}"],
        ["migrate", source, "x.db", "--kinds", f"{name},fact"],
        ["inspect", source, "--mapping", name],
        ["mappings", "show", f"./{name}"],
        ["migrate", source, f"{table}", "--table-shape", name],
        ["migrate", source, "x.db", "--since", name],
        ["migrate", source, "x.db", "--existing", name],
        ["migrate", source, f"{name}x"],
        [f"--{name}"],
        [name],
        ["inspect", f"{table}&profile={name}"],
        ["inspect", f"sqlite:///x.db?tz={name}"],
    ):
        said = run(capfd, *args, *more)
        assert said.code in (1, 2) and is_harmless(said), args
        assert said.err + said.out and "Traceback" not in said.err
    assert sorted(each.name for each in tmp_path.iterdir() if each.name not in ("state", "user")) == ["source.jsonl"]


# The terminal ----------------------------------------------------------------------------------------------------------

ESCAPES = "\x1b]0;mine\x07\x1b[2J\x1b[31m\x9b1m\r\x08\x00\u202e\u2028\u200b\n"


def hostile_rows(secret: str = "v") -> list[dict[str, Any]]:
    """Records of several kinds whose every text, and whose unknown names, a terminal would obey."""
    own = {"user_id": f"ana{ESCAPES}", "session_id": ESCAPES, "created_at": ESCAPES, "updated_at": ESCAPES}
    rows: list[dict[str, Any]] = [
        {"kind": "fact", "record": own | {"category": ESCAPES, "key": f"k{n}{ESCAPES}", "value": f"{ESCAPES}{secret}"}}
        for n in range(4)
    ]
    rows += [
        {"kind": "mood", "record": own | {"mood_type": ESCAPES, "context": ESCAPES, "intensity": 1}},
        {"kind": "memory", "record": own | {"memory_key": ESCAPES, "memory_value": secret}},
        {"kind": "fact", "record": own | {"category": "c", "key": "unknown", "value": "v", f"name{ESCAPES}": secret}},
        {"kind": "fact", "record": own | {"category": "c", "key": f"wrong{ESCAPES}", "confidence": secret}},
        {"kind": f"kind{ESCAPES}", "record": own},
        {"kind": f"kind{ESCAPES}", "record": own, "origin": 7},
    ]
    return rows


def test_what_data_says_is_shown_harmless_by_every_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dynamodb_local_endpoint: str
) -> None:
    """In tables, differences, rejects, samples, proofs, foreign items, folders and mappings; and in --json too, which stays what it says."""
    written_lines(tmp_path / "source.jsonl", hostile_rows())
    table = f"dynamodb://hostile-{os.getpid()}?region=eu-west-1&endpoint={dynamodb_local_endpoint}"
    (tmp_path / "own.toml").write_text(
        'name = "mine\u202e"\ntitle = "\u202eevil\u2028"\nextends = "luminoracore-v1.1"\n[kinds.fact.fields]\n"f\u202e" = "text"\n'
    )
    commands = [
        ["migrate", "source.jsonl", "a.db", "--on-reject", "continue", "-v"],
        ["migrate", "a.db", "b.db"],
        ["migrate", "source.jsonl", "c.db", "--dry-run"],
        ["migrate", "source.jsonl", "never.db"],
        ["migrate", "source.jsonl", table, "--create", "--on-reject", "continue"],
        ["migrate", table, "d.db", "--on-reject", "continue"],
        ["SPOIL"],
        ["migrate", "a.db", "b.db"],
        ["migrate", "a.db", "b.db", "--existing", "replace"],
        ["SPOIL"],
        ["verify", "a.db", "b.db"],
        ["verify", "a.db", "b.db", "--proof", "app"],
        ["verify", "a.db", "b.db", "--proof", "rows", "-q"],
        ["inspect", "source.jsonl", "--sample", "5", "--show-values"],
        ["inspect", "a.db", "--sample", "5", "--show-values"],
        ["inspect", table, "--sample", "2"],
        ["doctor", "a.db"],
        ["doctor", table],
        ["cutover", "a.db", "e.db", "--yes-until", "tail", "--quiet-for", "0"],
        ["mappings", "show", "own.toml"],
        ["mappings", "check", "own.toml"],
        ["inspect", "a.db", "--mapping", "own.toml"],
        ["status"],
    ]
    shown = ""
    for args in commands:
        if args == ["SPOIL"]:
            with closing(sqlite3.connect("b.db")) as db, db:
                db.execute("UPDATE facts SET value = 'x' || random()")
                db.execute("DELETE FROM moods")
                db.execute(
                    "INSERT OR IGNORE INTO memories (user_id, memory_key) VALUES (?, ?)", (ESCAPES, f"extra{ESCAPES}")
                )
            continue
        for more in ([], ["--json"]) if args[0] not in ("migrate", "cutover") else ([],):
            said = run(capfd, *args, *more)
            assert is_harmless(said), (args, said.out, said.err)
            assert said.code != 70 and "Traceback" not in said.err, said.err
            if more:
                json.loads(said.out)
            shown += said.out + said.err
    assert shown.count("\\x1b]0;mine\\x07") > 20  # it was there to be shown


# Secrets ---------------------------------------------------------------------------------------------------------------

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAQQHOSTILEQQKEYID",
    "AWS_SECRET_ACCESS_KEY": "hOsTiLe/Secret+AccessKey",
    "AWS_SESSION_TOKEN": "hOsTiLeSessionToken==",
    "LUMINORA_POSTGRES_PASSWORD": "hOsTiLePassword1",
    "LUMINORA_MONGODB_PASSWORD": "hOsTiLePassword2",
}
OTHERS = ["AKIAINTHEADDRESS1", "hOsTiLeInTheAddress"]
KEY = "sk-hOsTiLeInTheData0123456789"


def data_files(path: Path) -> bool:
    """Where the data itself must be: stores, and what a run keeps of records, in folders of their owner's."""
    kept = ("rejects", "duplicates", "replaced", "deleted", "arrived", "scratch")
    return path.suffix in (".db", ".gz", ".db-wal", ".db-shm") or any(part.startswith(kept) for part in path.parts)


def look_through(folder: Path, said: str) -> int:
    """Everything that is left, and everything that was said; the number of files with the data's secret."""
    found = 0
    for secret in [*CREDENTIALS.values(), *OTHERS]:
        assert secret not in said, secret
    assert KEY not in said
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        held = path.read_bytes()
        if held.startswith(b"\x1f\x8b"):
            held = gzip.decompress(held)
        for secret in [*CREDENTIALS.values(), *OTHERS]:
            assert secret.encode() not in held, (path, secret)
        if KEY.encode() in held:
            assert data_files(path.relative_to(folder)) or path.name == "source.jsonl", path
            found += 1
    return found


def test_no_secret_is_left_where_it_must_not_be(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dynamodb_local_endpoint: str
) -> None:
    """Of the store, nowhere; of the data, only with the data. Each command, in runs that end well, with rejects, with differences, and fail."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    name = f"secrets-{os.getpid()}"
    monkeypatch.setenv("LUMINORA_STORAGE_TYPE", "dynamodb_flexible")
    monkeypatch.setenv("LUMINORA_DYNAMODB_TABLE", name)
    monkeypatch.setenv("LUMINORA_DYNAMODB_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamodb_local_endpoint)
    where = "region=eu-west-1&endpoint="
    table = f"dynamodb://{name}?{where}{dynamodb_local_endpoint}"
    config = {"provider_config": {"api_key": KEY}, "deep": [KEY, {KEY: KEY}]}
    rows = [*hostile_rows(KEY), *({"kind": "fact", "record": fact(f"n{n}", json.dumps(config))} for n in range(20))]
    rows += [{"kind": "fact", "record": fact("n1", KEY)}, {"kind": "fact", "record": fact("own", mine=config)}]
    written_lines(tmp_path / "source.jsonl", rows)
    with (tmp_path / "source.jsonl").open("ab") as file:
        file.write(b'{"kind": "fact", "record": {"value": "%b"\n{"%b": 1}\n' % (KEY.encode(), KEY.encode()))
    lax = ["--on-reject", "continue"]
    change = [("UPDATE facts SET value = ? WHERE rowid % 2", (f"{KEY} else",)), ("DELETE FROM moods", ())]
    commands: list[Any] = [
        ["migrate", "source.jsonl", "a.db", *lax, "-v"],
        ["migrate", "source.jsonl", "stopped.db"],
        ["migrate", "source.jsonl", "backup.jsonl.gz", *lax],
        ["migrate", "source.jsonl", table, "--create", *lax],
        ["migrate", "source.jsonl", table, "--dry-run"],
        ["migrate", "a.db", "b.db"],
        change,
        ["migrate", "a.db", "b.db"],
        ["verify", "a.db", "b.db"],
        ["verify", "a.db", table, "--proof", "app"],
        ["migrate", "a.db", "b.db", "--existing", "replace"],
        ["inspect", "a.db", "--sample", "5"],
        ["inspect", table, "--sample", "5"],
        ["inspect", "source.jsonl"],
        ["doctor"],
        ["doctor", "--probe"],
        ["cutover", "a.db", "c.db", "--yes-until", "copy"],
        ["cutover", "a.db", "c.db", "--yes-until", "tail", "--quiet-for", "0"],
        ["init", "new.db", "--yes"],
        ["status"],
        # failing
        ["migrate", "a.db", f"dynamodb://{OTHERS[0]}:{OTHERS[1]}@chat?{where}{dynamodb_local_endpoint}"],
        ["inspect", f"dynamodb://chat?region=eu-west-1&endpoint=http://{OTHERS[0]}:{OTHERS[1]}@127.0.0.1:1"],
        ["migrate", f"postgresql://{OTHERS[0]}:{OTHERS[1]}@localhost/chat", "x.db"],
        ["migrate", f"redis://:{OTHERS[1]}@localhost", "x.db"],
        ["inspect", f"sqlite://{OTHERS[0]}:{OTHERS[1]}@chat.db"],
        ["migrate", "a.db", f"dynamodb://missing-table?{where}{dynamodb_local_endpoint}"],
        ["migrate", "a.db", "no-such-folder/x.db"],
        ["BREAK"],
        ["migrate", "a.db", "x.db"],
        ["inspect", "a.db"],
        ["doctor", "a.db"],
    ]
    told, codes = "", set()
    for number, args in enumerate(commands):
        if args is change:
            with closing(sqlite3.connect("b.db")) as db, db:
                for statement, values in change:
                    db.execute(statement, values)
            continue
        if args == ["BREAK"]:
            whole = (tmp_path / "a.db").read_bytes()
            (tmp_path / "a.db").write_bytes(whole[:5000] + b"\xff" * 3000 + whole[8000:])
            continue
        said = run(capfd, *args, *(["--json"] if number % 3 == 1 else []))
        assert said.code != 70, said.err
        codes.add(said.code)
        told += said.out + said.err
    assert {0, 2, 3, 4} <= codes
    assert look_through(tmp_path, told) > 6


def test_no_secret_is_left_by_a_rescue(luminoracore: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = luminoracore.storage("storage")
    storage = module.InMemoryStorage(module.StorageConfig())
    for n in range(3):
        asyncio.run(storage.save_session(f"s{n}", {"provider_config": {"api_key": KEY}, "n": n}))
    report = migrator.rescue(storage, str(tmp_path / "rescued.db"))
    assert report.outcome == "done"
    seen = capfd.readouterr()
    assert look_through(tmp_path, seen.out + seen.err + json.dumps(report.to_plain(), default=str)) == 1
