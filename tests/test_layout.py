"""What layouts promise: an item read and written again is the same item, and distinct records never fall on one key."""

from __future__ import annotations

import functools
import gzip
import json
import math
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from migrator.errors import RecordError
from migrator.keys import Key, Slot, Template
from migrator.kind_layout import KindLayout
from migrator.layout import Layout
from migrator.mapping_file import load_mapping
from migrator.model import Field, Foreign, Kind, Origin, Record, Reject, Row
from migrator.places import Form, Place, decode, encode
from migrator.values import Value, canonical, from_json, number, of_decimal, to_json

MAPPING = load_mapping("luminoracore-v1.1")
TABLES = [layout for layout in MAPPING.layouts.values() if layout.store == "dynamodb"]
PLAIN, INDEXED = MAPPING.layouts["user_id/SK"], MAPPING.layouts["session_id/SK+GSI1"]
LAYOUTS = [
    *MAPPING.layouts.values(),
    MAPPING.layout_for("jsonl", None),
    MAPPING.layout_for("memory", None),
]
DATA = Path(__file__).parent / "data"
MOMENT = "2026-11-22T09:15:18.676315"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
WORDS = TEXTS | st.sampled_from(["a", "a#b", "#", "_", "mood", "FACT#a#b", MOMENT, "2026-11-22", "ünï 🦜"])
NUMBERS = st.integers(-(10**20), 10**20) | st.decimals(allow_nan=False, allow_infinity=False, places=5).map(of_decimal)
TYPED: dict[str, st.SearchStrategy[Any]] = {
    "text": WORDS,
    "timestamp": st.datetimes(min_value=datetime(1000, 1, 1)).map(datetime.isoformat) | WORDS,
    "integer": NUMBERS,
    "float": NUMBERS,
    "boolean": st.booleans(),
    "json": st.recursive(
        st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=3) | st.frozensets(TEXTS, max_size=2),
        lambda held: st.lists(held, max_size=2) | st.dictionaries(TEXTS, held, max_size=2),
        max_leaves=5,
    ),
}


# Made once: a strategy that is made for each draw is checked for each.
_COIN, _OF_TEN, _OF_FIVE = st.booleans(), st.integers(0, 9), st.integers(0, 4)
_NULLABLE = {sort: st.none() | values for sort, values in TYPED.items()}
_UNKNOWN = st.dictionaries(st.sampled_from(["mood", "x", "GSI2PK", "Ünï"]), TYPED["json"], max_size=2)
_TTL = st.integers(0, 2**40)


@st.composite
def records(draw: st.DrawFn, kind: Kind) -> Record:
    """Any record of a kind: fields absent, NULL, or of their type, and sometimes unknown ones."""
    record: Record = {}
    for field in kind.fields:
        choice = draw(_OF_TEN)
        if choice == 0 and field.name not in kind.identity:
            continue
        record[field.name] = None if choice == 1 else draw(TYPED[field.type])
    return record | draw(_UNKNOWN)


_strategies: dict[tuple[Any, int], Any] = {}


def once(strategy: Any, of: object) -> Any:
    """What a strategy makes of something that lives as long as the module."""
    return _strategies.setdefault((strategy, id(of)), strategy(of))


@functools.cache
def _one_of(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


@st.composite
def items(draw: st.DrawFn, layout: Layout) -> tuple[str, Record]:
    """Any item that a table could hold of a kind: its key right or not, its index attributes right, wrong or missing."""
    name = draw(_one_of(tuple(sorted(layout.kinds))))
    spec = layout.kinds[name]
    item: Record = {}
    for spot in spec.places:
        if spot.attribute in spec.marks or draw(_OF_FIVE):
            item[spot.attribute] = draw(_NULLABLE[spot.field.type])
    for key in spec.keys + spec.index:
        try:
            made = key.render(spec.kind, item | {"user_id": item.get("user_id", "ana")})
        except RecordError:
            made = draw(WORDS)
        item[key.attribute] = made if draw(_COIN) else draw(WORDS)
        if key.optional and draw(_COIN):
            del item[key.attribute]
    if draw(_COIN):
        item["TTL"] = draw(_TTL)
    return name, item | draw(_UNKNOWN)


def read(layout: Layout, item: Record, kind: str | None = None) -> Row:
    row = layout.read(item, "place", kind)
    assert isinstance(row, Row), row
    return row


def native(attribute: dict[str, Any]) -> Value:
    ((sort, held),) = attribute.items()
    return number(held) if sort == "N" else None if sort == "NULL" else held


def sample_items() -> list[Any]:
    """The tables that LuminoraCore wrote, each with its layout."""
    shapes = {"user_id-SK": "user_id/SK", "session_id-SK-gsi1": "session_id/SK+GSI1"}
    shapes |= {"session_id-timestamp": "session_id/timestamp", "PK-SK-gsi1": "PK/SK+GSI1"}
    return [
        pytest.param(DATA / f"dynamodb-{name}.json.gz", MAPPING.layout_for("dynamodb", None, shape), id=name)
        for name, shape in shapes.items()
    ]


def items_of(path: Path) -> list[Record]:
    held = json.loads(gzip.decompress(path.read_bytes()))["Items"]
    return [{name: native(each) for name, each in item.items()} for item in held]


# There and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", TABLES, ids=lambda layout: layout.id)
@given(data=st.data())
def test_an_item_read_and_written_is_the_same_item(layout: Layout, data: st.DataObject) -> None:
    kind, item = data.draw(once(items, layout))
    row = layout.read(item, "place")
    assert isinstance(row, Row), row
    assert row.kind == kind
    assert canonical(layout.write(row)) == canonical(item)


@pytest.mark.parametrize("layout", TABLES, ids=lambda layout: layout.id)
@given(data=st.data())
def test_an_item_travels_through_json_lines_and_is_the_same_item(layout: Layout, data: st.DataObject) -> None:
    _, item = data.draw(once(items, layout))
    row = MAPPING.layout_for("jsonl", None).fit(read(layout, item))
    origin = Origin.from_plain(from_json(to_json(row.origin.to_plain()))) if row.origin else None
    again = Row(row.kind, from_json(to_json(row.record)), origin)
    assert canonical(layout.write(layout.fit(again))) == canonical(item)


@pytest.mark.parametrize(("path", "layout"), sample_items())
def test_the_sample_tables_are_read_and_written_back_equal(path: Path, layout: Layout) -> None:
    held = items_of(path)
    assert {read(layout, item).kind for item in held} == set(MAPPING.kind_names())
    for item in held:
        assert layout.write(read(layout, item)) == item


@pytest.mark.parametrize(("path", "layout"), [each for each in sample_items() if "session_id" in str(each.id)])
def test_the_session_id_of_a_sample_item_is_the_one_in_its_key(path: Path, layout: Layout) -> None:
    """H53: on such a table LuminoraCore itself puts the session id, or the user id, into the hash."""
    held = items_of(path)
    assert any(item["session_id"] != item["user_id"] for item in held)
    assert all(read(layout, item).record["session_id"] == item["session_id"] for item in held)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
@given(data=st.data())
def test_what_fits_comes_back_as_it_was_fitted(layout: Layout, data: st.DataObject) -> None:
    kind = MAPPING.kinds[data.draw(_one_of(tuple(MAPPING.kind_names())))]
    row = Row(kind.name, data.draw(once(records, kind)))
    try:
        fitted = layout.fit(row, "drop")
        held = layout.write(fitted)
    except RecordError:
        return
    assert layout.fit(fitted) == fitted
    back = layout.settled(read(layout, held, None if layout.store == "dynamodb" else kind.name))
    wanted = {k: v for k, v in fitted.record.items() if v is not None or not layout.absent_is_null}
    found = {k: v for k, v in back.record.items() if v is not None or not layout.absent_is_null}
    assert (back.kind, canonical(found), back.origin) == (kind.name, canonical(wanted), None)


@given(st.data())
def test_a_record_keeps_its_fields_on_every_way_between_the_two_tables(data: st.DataObject) -> None:
    _, item = data.draw(once(items, INDEXED))
    row = read(INDEXED, item)
    try:
        there = PLAIN.write(PLAIN.fit(row))
    except RecordError:
        return  # H2, H24: a key cannot be made of it
    back = INDEXED.write(INDEXED.fit(read(PLAIN, there)))
    assert canonical(read(INDEXED, back).record) == canonical(row.record)
    assert read(INDEXED, back).origin in (None, Origin("dynamodb", INDEXED.id, extra={"TTL": item.get("TTL")}))


def test_a_row_of_a_table_has_every_column_and_no_unknown_null() -> None:
    sqlite = MAPPING.layouts["sqlite"]
    held = sqlite.write(Row("fact", {"user_id": "ana", "category": "c", "key": "k"}))
    assert held["confidence"] is None and held["value"] is None
    row = read(sqlite, held | {"id": 7, "note": None, "mark": "x"}, "fact")
    assert row.record["mark"] == "x" and "note" not in row.record and "id" not in row.record
    assert row.record["value"] is None and "confidence" not in row.record  # LuminoraCore skips a NULL confidence


def test_an_item_with_a_key_of_its_own_keeps_it() -> None:
    """H1: keys that LuminoraCore made of whole seconds are found again under the same key."""
    item = {"user_id": "ana", "SK": "EPISODE#a#a_20261122_091518", "episode_type": "a", "title": "t"}
    row = read(PLAIN, item | {"created_at": MOMENT, "TTL": 5})
    assert row.origin == Origin("dynamodb", PLAIN.id, {"SK": item["SK"]}, extra={"TTL": 5})
    assert PLAIN.settled(row).origin == Origin("dynamodb", PLAIN.id, extra={"TTL": 5})
    assert PLAIN.settled(row, extras=False).origin is None
    assert INDEXED.fit(row).origin == Origin("dynamodb", INDEXED.id, extra={"TTL": 5})
    assert MAPPING.layouts["json"].fit(row).origin is None


def test_a_key_outside_its_free_prefix_is_a_difference() -> None:
    row = read(
        PLAIN, {"user_id": "ana", "SK": "EPISODE#b#b_2", "episode_type": "a", "title": "t", "created_at": MOMENT}
    )
    settled = PLAIN.settled(row)
    assert settled.origin is not None and settled.origin.set == {"SK": "EPISODE#b#b_2"}


def test_a_wrong_or_missing_index_attribute_is_a_difference() -> None:
    fact = {
        "session_id": "ana",
        "SK": "FACT#c#k",
        "user_id": "ana",
        "category": "c",
        "key": "k",
        "GSI1SK": "CATEGORY#d",
    }
    settled = INDEXED.settled(read(INDEXED, fact))
    assert settled.origin == Origin("dynamodb", INDEXED.id, {"GSI1SK": "CATEGORY#d"}, ("GSI1PK",))


def test_a_record_without_an_index_attribute_is_only_missing_in_the_index() -> None:
    record = {"session_id": "s", "personality_name": "luna", "last_activity": MOMENT}
    assert "GSI1PK" not in INDEXED.write(Row("session", record))


def test_the_own_session_id_lives_beside_a_hash_of_that_name() -> None:
    fact = {"user_id": "ana", "category": "c", "key": "k"}
    for record, held in [(fact | {"session_id": "s1"}, "s1"), (fact | {"session_id": None}, None), (fact, None)]:
        row = INDEXED.fit(Row("fact", record))
        item = INDEXED.write(row)
        assert (item["session_id"], item["origin_session_id"]) == ("ana", held)
        assert read(INDEXED, item) == Row("fact", row.record, None, "place")
    from_luminoracore = {"session_id": "s2", "SK": "FACT#c#k", **fact, "GSI1PK": "USER#ana", "GSI1SK": "CATEGORY#c"}
    row = read(INDEXED, from_luminoracore)
    assert row.record["session_id"] == "s2"
    assert INDEXED.write(row) == from_luminoracore


# Which kind --------------------------------------------------------------------------------------------------------------


def test_items_of_no_kind_are_foreign_and_those_left_by_mistake_are_ghosts() -> None:
    """Fact sheet L5."""
    ghost = {"user_id": "ana", "SK": "SESSION#s", "last_activity": MOMENT, "updated_at": MOMENT}
    assert PLAIN.read(ghost, "g") == Foreign("g", True, ghost)
    other = {"user_id": "ana", "SK": "x"}
    assert PLAIN.read(other, "o") == Foreign("o", False, other)


def test_a_kind_that_the_mapping_does_not_know_is_a_reject() -> None:
    assert LAYOUTS[-1].read({"a": 1}, "7", "message") == Reject("?", "7", 'no kind "message" in this mapping', {"a": 1})
    with pytest.raises(RecordError, match="no place for message records"):
        PLAIN.fit(Row("message", {}))


def test_an_attribute_that_is_named_like_a_field_elsewhere_is_a_reject() -> None:
    item = {"user_id": "ana", "SK": "SESSION#s", "personality_name": "p", "last_activity": MOMENT, "TTL": 1, "ttl": 2}
    found = PLAIN.read(item, "7")
    assert isinstance(found, Reject) and '"ttl"' in found.reason and found.held == item


@pytest.mark.parametrize(
    ("kind", "record", "words"),
    [
        ("affinity", {"user_id": "ana", "personality_name": "p"}, "not be taken for a affinity: no affinity_points"),
        (
            "memory",
            {"user_id": "ana", "memory_key": "k", "category": "c", "key": "k"},
            "attributes are those of a fact",
        ),
        (
            "memory",
            {"user_id": "ana", "memory_key": "k", "SK": "x"},
            '"SK" has the name of an attribute that the layout',
        ),
        ("fact", {"user_id": "ana", "category": "a#b", "key": "k"}, "category holds"),
        ("fact", {"user_id": None, "category": "a", "key": "k"}, "user_id is NULL"),
        ("fact", {"category": "a", "key": "k"}, "user_id is NULL"),
        ("fact", {"user_id": b"x", "category": "a", "key": "k"}, "user_id is neither text nor an integer"),
        ("episode", {"user_id": "ana", "episode_type": "a", "title": "\ud800"}, "not Unicode"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(kind: str, record: Record, words: str) -> None:
    """H2, H30, and a record that would be taken for another kind, or for none."""
    with pytest.raises(RecordError, match=words):
        PLAIN.write(PLAIN.fit(Row(kind, record)))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("confidence", "high", "confidence holds text, the mapping says float"),
        ("confidence", True, "confidence holds a boolean, the mapping says float"),
        ("value", 5, "value holds a number, the mapping says text"),
        ("value", b"x", "value holds bytes, the mapping says text"),
        ("value", [1], "value holds a list, the mapping says text"),
        ("created_at", {"a": 1}, "created_at holds an object, the mapping says timestamp"),
        ("created_at", frozenset(["a"]), "created_at holds a set, the mapping says timestamp"),
    ],
)
def test_a_value_of_another_type_rejects_its_record_by_field_and_not_by_value(
    field: str, value: Any, words: str
) -> None:
    item = {"user_id": "ana", "SK": "FACT#c#k", "category": "c", "key": "k", field: value}
    assert PLAIN.read(item, "7") == Reject("fact", "7", words, item)


def test_a_surrogate_rejects_nothing_but_its_record() -> None:
    """H30: reading must not fail, whatever kind the record is of."""
    item = {"user_id": "ana", "SK": "EPISODE#a#1", "episode_type": "a", "title": "\ud800", "created_at": MOMENT}
    assert read(PLAIN, item).record["title"] == "\ud800"


# Keys --------------------------------------------------------------------------------------------------------------------


PARTS = st.sampled_from(["a", "b", "#", "a#", "#a", "a#b", "_", "a_b", "", MOMENT, "2026-11-22T09:15:18", "affinity"])
ABSENT_OR_PARTS = PARTS | st.none()


@pytest.mark.parametrize("layout", TABLES, ids=lambda layout: layout.id)
@given(data=st.data())
def test_distinct_identities_have_distinct_keys(layout: Layout, data: st.DataObject) -> None:
    """H1, H2."""
    keys: dict[tuple[Value, ...], tuple[str, bytes]] = {}
    for _ in range(8):
        name = data.draw(_one_of(tuple(MAPPING.kind_names())))
        kind = MAPPING.kinds[name]
        record = {each: data.draw(ABSENT_OR_PARTS) for each in kind.identity} | {"user_id": data.draw(PARTS)}
        try:
            key = tuple(key.render(kind, record) for key in layout.kinds[name].keys)
        except RecordError:
            continue
        identity = (name, canonical(list(kind.identity_of(record))))
        assert keys.setdefault(key, identity) == identity


KIND = Kind("k", (Field("a", "text"), Field("b", "text")), ("a", "b"))


def template(text: str) -> Template:
    parts = [part for part in re.split(r"(\{\w+\})", text) if part]
    slots = {"{a}": Slot("a"), "{b}": Slot("b"), "{digest}": Slot("digest", "digest")}
    return Template(text, tuple(slots.get(part, part) for part in parts))


COMPONENTS = st.tuples(*[st.text(st.sampled_from("ab#:_"), max_size=4)] * 2)


@pytest.mark.parametrize("text", ["{a}#{b}", "X#{a}#{b}", "{b}::{a}", "{a}_{b}_end", "{a}##{b}", "{a}#{a}#{b}"])
@given(one=COMPONENTS, other=COMPONENTS)
def test_a_template_keeps_two_components_apart(text: str, one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    try:
        keys = [template(text).render(KIND, {"a": a, "b": b}) for a, b in (one, other)]
    except RecordError:
        return  # a separator, see below
    assert keys[0] != keys[1]


def test_a_separator_is_refused_in_every_component_but_the_last() -> None:
    """H2."""
    compiled = template("{a}#{b}")
    assert compiled.render(KIND, {"a": "x", "b": "y#z"}) == "x#y#z"
    with pytest.raises(RecordError, match=r'a holds "#", the separator of the key \{a\}#\{b\}'):
        compiled.render(KIND, {"a": "x#y", "b": "z"})


def test_a_digest_tells_apart_what_a_separator_cannot() -> None:
    """H1: as many keys as identities, whatever second they share; NULL is a value like others, and 2.0 is 2."""
    compiled = template("{a}#{digest}")
    values = ["x", "x#", "#", "", None, 1, "1"]
    records = [{"a": "p#q", "b": value} for value in values]
    assert len({compiled.render(KIND, each) for each in records}) == len(values)
    assert compiled.render(KIND, {"a": "p", "b": 2}) == compiled.render(KIND, {"a": "p", "b": 2.0})
    assert compiled.render(KIND, {"a": "p"}) == compiled.render(KIND, {"a": "p", "b": None})


@pytest.mark.parametrize(
    ("created_at", "key"),
    [
        (MOMENT, "EPISODE#a#a_20261122_091518_{digest}"),
        ("2026-11-22 09:15:18", "EPISODE#a#a_20261122_091518_{digest}"),
        ("2026-11-22T09:15:18+02:00", "EPISODE#a#a_20261122_091518_{digest}"),
        ("2026-11-22", "EPISODE#a#a_20261122_000000_{digest}"),
        (None, "EPISODE#a#a_{digest}"),
        ("yesterday", "EPISODE#a#a_{digest}"),
        ("", "EPISODE#a#a_{digest}"),
    ],
)
def test_an_episode_without_a_time_has_a_key_too(created_at: str | None, key: str) -> None:
    record = {"user_id": "ana", "episode_type": "a", "title": "t", "created_at": created_at}
    digest = PLAIN.write(Row("episode", record))["SK"][-16:]
    assert PLAIN.write(Row("episode", record))["SK"] == key.format(digest=digest)
    assert PLAIN.write(Row("episode", record | {"title": "u"}))["SK"][-16:] != digest


# What a layout cannot hold ------------------------------------------------------------------------------------------------


def test_unknown_fields_are_kept_dropped_or_rejected() -> None:
    row = Row("fact", {"user_id": "ana", "category": "c", "key": "k", "mood": "x", "b": 1})
    sqlite = MAPPING.layouts["sqlite"]
    assert PLAIN.fit(row) is row
    with pytest.raises(RecordError, match=r"unknown field b, mood: .*--unknown-fields drop"):
        sqlite.fit(row)
    assert sqlite.fit(row, "drop").record == {"user_id": "ana", "category": "c", "key": "k"}
    assert row.record["mood"] == "x"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_a_layout_pickles(layout: Layout) -> None:
    again = pickle.loads(pickle.dumps(layout))
    assert again == layout
    kind = next(iter(layout.kinds))
    record = dict.fromkeys(layout.kinds[kind].kind.identity, "x") | {"affinity_points": 1}
    assert again.write(Row(kind, record)) == layout.write(Row(kind, record))


def test_guaranteed_identities_are_told_from_derived_keys() -> None:
    """H3: in a table whose hash is not what its key says, one identity could live under several keys."""
    told = {name: PLAIN.kinds[name].guarantees_identity for name in PLAIN.kinds}
    assert told == {"affinity": True, "fact": True, "memory": True, "session": False, "episode": False, "mood": False}
    assert {name for name in PLAIN.kinds if PLAIN.kinds[name].has_free_key} == {"episode", "mood"}


# Codecs --------------------------------------------------------------------------------------------------------------------

FORMS: list[tuple[Form, str]] = [
    ("native", "text"), ("native", "timestamp"), ("native", "integer"), ("native", "float"), ("native", "boolean"),
    ("native", "json"), ("text", "text"), ("text", "timestamp"), ("text", "integer"), ("text", "float"), ("text", "boolean"),
    ("number", "integer"), ("number", "float"), ("number", "boolean"), ("number", "text"),
    ("json", "text"), ("json", "timestamp"), ("json", "integer"), ("json", "float"), ("json", "boolean"), ("json", "json"),
    ("date", "timestamp"),
]  # fmt: skip


@functools.cache
def values_of(form: Form, field_type: str) -> st.SearchStrategy[Any]:
    if form == "date":
        zones = st.none() | st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes)))
        return st.datetimes(timezones=zones).map(datetime.isoformat)
    if form == "number" and field_type == "text":
        return NUMBERS.map(str)
    return TYPED[field_type]


@pytest.mark.parametrize(("form", "field_type"), FORMS)
@given(data=st.data())
def test_a_value_comes_back_from_every_form(form: Form, field_type: Any, data: st.DataObject) -> None:
    spot = Place(Field("f", field_type), "f", form)
    value = data.draw(values_of(form, field_type))
    assert canonical(decode(spot, encode(spot, value))) == canonical(value)


def one_field(form: Form, field_type: Any, **more: Any) -> Layout:
    kind = Kind("k", (Field("id", "text"), Field("f", field_type)), ("id",))
    places = (Place(kind.fields[0], "id"), Place(kind.fields[1], "f", form, **more))
    keys = (Key("id", (Template("{id}", (Slot("id"),)),)),)
    return Layout("t", "dynamodb", {"k": KindLayout(kind, places, keys=keys, marks=("id",))}, ("id",))


@pytest.mark.parametrize(
    ("form", "field_type", "held"),
    [
        ("text", "integer", "007"),
        ("text", "float", "1.50"),
        ("text", "float", "1e3"),
        ("text", "integer", 5),
        ("text", "boolean", True),
        ("number", "boolean", True),
        ("number", "text", "007"),
        ("number", "text", "abc"),
        ("number", "text", Decimal("12345678901234567890.10")),
        ("json", "json", '{"b": 1,  "a": [2.50]}'),
        ("json", "json", "null"),
        ("json", "json", None),
        ("json", "text", '"\\u0041"'),
        ("date", "timestamp", "2026-11-22 09:15:18"),
        ("date", "timestamp", "yesterday"),
        ("date", "timestamp", datetime(2026, 11, 22, 9, 15, 18, 676315)),
        ("date", "timestamp", datetime(2026, 11, 22, 9, 15, tzinfo=UTC)),
    ],
)
def test_another_spelling_of_a_value_is_written_back_as_it_was(form: Form, field_type: str, held: Value) -> None:
    """The stored text must survive (H21): what the codec would spell otherwise is kept as the row's origin."""
    layout = one_field(form, field_type)
    written = layout.write(read(layout, {"id": "x", "f": held}))
    assert written == {"id": "x", "f": held} and type(written["f"]) is type(held)


@pytest.mark.parametrize(
    ("form", "field_type", "value", "words"),
    [
        ("text", "float", math.inf, "f is not finite"),
        ("text", "float", math.nan, "f is not finite"),
        ("number", "text", "007", "f is no plain number"),
        ("number", "text", "abc", "f is no number"),
        ("number", "text", "1e999999999999999999999", "f is no number"),
        ("date", "timestamp", "yesterday", "f is no ISO time"),
        ("json", "json", "\ud800", "f holds text that is not Unicode"),
    ],
)
def test_a_value_that_a_form_cannot_hold_rejects_its_record(
    form: Form, field_type: str, value: Value, words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        one_field(form, field_type).write(Row("k", {"id": "x", "f": value}))


@pytest.mark.parametrize(
    ("form", "field_type", "held", "words"),
    [
        ("text", "integer", "seven", "f is no number"),
        ("text", "integer", "1_0", "f is no number"),
        ("text", "boolean", "maybe", "f holds text, the mapping says boolean"),
        ("number", "boolean", 2, "f holds a number, the mapping says boolean"),
        ("json", "json", "{", "f holds no JSON text"),
        ("json", "json", b"\xff", "f holds no JSON text"),
        ("json", "json", 5, "f holds no JSON text"),
        ("json", "json", "[" * 100_000, "f holds no JSON text"),
        ("date", "timestamp", 5, "f holds a number, the mapping says timestamp"),
    ],
)
def test_what_a_form_does_not_explain_rejects_its_record(form: Form, field_type: str, held: Value, words: str) -> None:
    found = one_field(form, field_type).read({"id": "x", "f": held}, "7")
    assert isinstance(found, Reject) and found.reason == words


@pytest.mark.parametrize(
    "item", [{"f": 1}, {"old": 1}, {"f": 1, "old": 2}, {"f": None, "old": 2}, {"old": None}, {"f": None}]
)
def test_a_field_that_had_another_name_is_read_from_it_and_left_there(item: Record) -> None:
    layout = one_field("native", "integer", otherwise="old")
    held = {"id": "x"} | item
    row = read(layout, held)
    assert row.record == {"id": "x", "f": item["f"] if "f" in item else item["old"]}
    assert layout.write(row) == held
    if "f" not in item:
        assert layout.settled(row).origin is None  # where it is read from is no difference


# What is remembered of names and types ---------------------------------------------------------------------------------


def test_a_null_in_a_json_text_teaches_nothing_wrong_of_the_next_record() -> None:
    """The first item of some names and types shows how the others are read: by its names and types, never by its values."""
    kind = Kind("note", (Field("id", "text"), Field("about", "json"), Field("weight", "float")), ("id",))
    places = tuple(Place(each, each.name, "json" if each.type == "json" else "native") for each in kind.fields)
    layout = Layout("notes", "file", {"note": KindLayout(kind, places)})
    held = [
        {"id": "1", "about": "null", "weight": 1},
        {"id": "2", "about": '{"a": 1}', "weight": 10**20},
        {"id": "3", "about": "null", "weight": 3},
        {"id": "4", "about": "[]", "weight": 10**20},
    ]
    found = [layout.read(each, "", "note") for each in held]
    assert [row.record for row in found if isinstance(row, Row)] == [
        {"id": "1", "about": None, "weight": 1},
        {"id": "2", "about": {"a": 1}, "weight": 1e20},
        {"id": "3", "about": None, "weight": 3},
        {"id": "4", "about": [], "weight": 1e20},
    ]
    assert [type(row.record["weight"]) for row in found if isinstance(row, Row)] == [int, float, int, float]
    broken = layout.read({"id": "5", "about": "{", "weight": 1}, "", "note")
    assert isinstance(broken, Reject) and "about holds no JSON text" in broken.reason
    for _ in range(3):
        assert [layout.write(row)["about"] for row in found if isinstance(row, Row)] == [
            "null",
            '{"a": 1}',
            "null",
            "[]",
        ]
