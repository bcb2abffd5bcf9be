"""Plain records give the same texts in few steps as the general way gives them: bytes, keys, sizes, units, and what it refuses."""

import math
import pickle
from dataclasses import replace

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from migrator import load_mapping, plain
from migrator.adapters.dynamodb.items import read_item
from migrator.adapters.dynamodb.plain import PlainItems
from migrator.adapters.dynamodb.values import check_item, from_item, to_item, write_units
from migrator.adapters.dynamodb.wire import Unread, item_json, key_json
from migrator.adapters.jsonfile.rows import PlainLines, to_line
from migrator.errors import RecordError
from migrator.mapping import _as_form
from migrator.model import Alike, Page, Row, identity_line
from migrator.plain import Pattern, Signature, identity_lines
from migrator.values import canonical_record, to_json, written

TEXTS = st.text(st.characters(exclude_categories=()) | st.sampled_from('"\\,#:{}%\n\x00é–😀'), max_size=12)
NUMBERS = (
    st.integers() | st.integers(-10, 10) | st.floats() | st.sampled_from((0.0, -0.0, 1.0, 1e-4, 1e15, -2.5, 2.0**53))
)
VALUES = TEXTS | NUMBERS | st.none() | st.booleans()
RECORDS = st.dictionaries(TEXTS | st.sampled_from(("user_id", "$bytes", "%s")), VALUES, max_size=6)
LAYOUTS = [each for each in load_mapping("luminoracore-v1.1").layouts.values() if each.store == "dynamodb"]
KINDS = sorted(LAYOUTS[0].kinds)


@pytest.fixture(scope="module", autouse=True)
def _every_signature_is_remembered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "_MET", 1 << 30)
        yield


@given(RECORDS, st.booleans())
def test_a_plain_record_has_the_canonical_bytes_that_every_other_way_gives_it(record, null):
    signature = Signature.of(record)
    found = signature.texts(record, null=null) if signature else (None, None)
    if found[0] is not None:
        assert found[0] == canonical_record(record if null else {n: v for n, v in record.items() if v is not None})


@given(RECORDS)
def test_a_pattern_filled_with_texts_is_the_json_of_the_record(record):
    signature = Signature.of(record)
    found = signature.texts(record) if signature else (None, None)
    if found[0] is not None:
        assert Pattern(signature.object((name, name) for name in record)).fill(found[1]) == to_json(record)


def test_ordinary_records_are_plain():
    for value in ("text", 'a "quote", a \\ and a\nline', "ñ–😀", None, True, 7, -(2**53), 0.5, 1.0, -0.0, 123456.789):
        record = {"user_id": "ana", "value": value}
        assert Signature.of(record).texts(record)[0] is not None, value


@pytest.mark.parametrize("value", [[], {}, b"x", frozenset({"a"})])
def test_a_value_of_another_type_has_no_signature(value):
    assert Signature.of({"user_id": "ana", "value": value}) is None


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), 1e300, 1e-9, 2**53 + 1, 1e15])
def test_a_value_that_needs_a_closer_look_has_no_texts(value):
    record = {"user_id": "ana", "value": value}
    assert Signature.of(record).texts(record) == (None, None)


@pytest.mark.parametrize("name", ["", "$bytes", "$x"])
def test_a_name_that_may_be_a_tag_or_is_none_has_no_signature(name):
    """DynamoDB takes no empty name."""
    assert Signature.of({"user_id": "ana", name: "x"}) is None


def test_records_of_the_same_names_and_types_share_one_signature_also_when_it_has_travelled():
    one, other = Signature.of({"a": "x", "b": 1}), Signature.of({"a": "y", "b": 2})
    assert one is other is pickle.loads(pickle.dumps(one))
    assert one is not Signature.of({"a": "x", "b": 1.0})


def test_where_too_many_signatures_were_met_only_those_are_known(monkeypatch):
    """What is kept by signature elsewhere, an encoder, a pattern, would else grow with every record."""
    monkeypatch.setattr(Signature, "_met", {})
    monkeypatch.setattr(plain, "_MET", 2)
    first, second = ({name: "x"} for name in ("a", "b"))
    known = Signature.of(first), Signature.of(second)
    assert None not in known
    assert Signature.of({"c": "x"}) is None
    assert (Signature.of(first), Signature.of(second)) == known


def test_a_row_that_is_made_of_another_has_none_of_its_texts():
    row = Row("fact", {"a": "x"})
    row.signature = Signature.of(row.record)
    row.texts = row.signature.texts(row.record)[1]
    other = replace(row, record={"a": 1})
    assert (other.signature, other.texts) == (None, None)


def test_a_row_that_has_lost_a_field_has_lost_its_signature():
    row = Row("fact", {"a": "x", "b": "y"})
    row.signature = Signature.of(row.record)
    assert (row.drop("a"), row.drop("a"), row.signature, row.record) == ("x", None, None, {"b": "y"})


# Many at once


@st.composite
def alike(draw):
    """Records of one signature."""
    of = {
        str: TEXTS,
        int: st.integers(),
        float: st.floats() | st.sampled_from((0.0, -0.0, 1.0)),
        bool: st.booleans(),
        type(None): st.none(),
    }
    ordinary = {
        str: st.text('ab"\\\\,é', max_size=4),
        int: st.integers(-9, 9),
        float: st.floats(0.001, 9).map(lambda each: round(each, 1)),
    }
    columns = {}
    count = draw(st.integers(1, 5))
    names = st.lists(TEXTS | st.sampled_from(("user_id", "%s")), min_size=1, max_size=5, unique=True)
    for name in draw(names):
        kind = draw(st.sampled_from((str, str, int, float, bool, type(None))))
        values = draw(st.sampled_from((of, ordinary, ordinary, ordinary))).get(kind, of[kind])
        columns[name] = draw(st.lists(values, min_size=count, max_size=count))
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def as_columns(records):
    return [*zip(*[record.values() for record in records])]


@pytest.mark.parametrize("name", ["", "$set", "\ud800", "a\udfff"])
def test_a_name_that_is_not_taken_everywhere_has_no_signature(name):
    assert Signature.of({"value": "x", name: "y"}) is None


@given(alike(), st.lists(TEXTS | st.sampled_from(("user_id", "a", "b", "%s")), min_size=1, max_size=3))
def test_plain_identities_have_the_lines_that_every_other_way_gives_them(records, identity):
    signature = Signature.of(records[0])
    texts = signature.all_texts(as_columns(records)) if signature is not None else None
    if texts is None:
        return
    order = signature.identity(identity)
    types = {type(records[0].get(name)) for name in identity}
    assert (order is None) == (not types <= {str, bool, type(None)})
    if order is not None:
        lines = [identity_line([record.get(name) for name in identity]) for record in records]
        assert identity_lines(order, texts, len(records)) == lines


@given(alike(), st.booleans())
def test_many_records_at_once_have_the_bytes_and_the_texts_that_each_has_alone(records, null):
    signature = Signature.of(records[0])
    if signature is None:
        return
    alone = [signature.texts(record, null=null) for record in records]
    texts = signature.all_texts(as_columns(records))
    whole = signature.canonical(texts, as_columns(records), len(records), null=null) if texts is not None else None
    assert (whole is None) == any(said is None for said, _ in alone)
    if whole is not None:
        assert whole == [said for said, _ in alone]
        assert [[column[turn] for column in texts] for turn in range(len(records))] == [said for _, said in alone]


@st.composite
def alike_with_objects(draw):
    """Records of one signature, of which one field at least holds objects that read plain, each with its names in an order of its own."""
    count = draw(st.integers(1, 5))
    leaves = st.text(max_size=5) | st.integers(-9, 9) | st.none() | st.booleans() | st.sampled_from((0.5, 1e-5, -2.25))
    inner = st.recursive(leaves, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some))
    of = {
        dict: st.dictionaries(st.text(max_size=3), inner, max_size=4),
        str: TEXTS,
        float: st.floats(),
        int: st.integers(-9, 9),
    }
    columns = {}
    for name in draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)):
        kind = draw(st.sampled_from((str, int, float))) if columns else dict
        columns[name] = draw(st.lists(of[kind], min_size=count, max_size=count))
    columns = {name: columns[name] for name in draw(st.permutations([*columns]))}
    records = [dict(zip(columns, values)) for values in zip(*columns.values())]
    objects = [value for record in records for value in record.values() if type(value) is dict]
    assume(all(written(value)[1] for value in objects))
    return records


@given(alike_with_objects(), st.booleans())
def test_objects_that_read_plain_are_written_in_their_order_and_compared_in_that_of_names(records, null):
    assert Signature.of(records[0]) is None  # nobody has vouched for them
    names, types = tuple(records[0]), tuple(map(type, records[0].values()))
    signature = Signature.known(names, types, read_plain=True)
    assert signature is Signature.known(names, types, read_plain=True) and signature.has_objects
    assert pickle.loads(pickle.dumps(signature)) is signature
    alone = [signature.texts(record, null=null) for record in records]
    texts = signature.all_texts(as_columns(records))
    assert (texts is None) == any(said is None for said, _ in alone)
    if texts is not None:
        whole = signature.canonical(texts, as_columns(records), len(records), null=null)
        assert whole == [said for said, _ in alone] == [canonical_record(record) for record in records]
        assert [[column[turn] for column in texts] for turn in range(len(records))] == [said for _, said in alone]
        form = Pattern(signature.object((name, name) for name in names))
        assert form.fill_all(texts, len(records)) == [to_json(record) for record in records]
        rows = [*Alike("fact", signature, as_columns(records), str)]
        assert all(row.is_plain for row in rows)
    for name, kind in zip(names, types):
        assert (signature.identity([name]) is None) == (kind is not str)


@given(st.lists(st.sampled_from((0.0, -0.0, 1.0, -1.0, 10.0, -10.0, 100.5, -0.05, 0.25, 1e14, -20.0)), min_size=1))
def test_floats_that_are_whole_count_as_whole_numbers_wherever_they_stand(column):
    signature = Signature.of({"x": column[0]})
    texts = signature.all_texts([column])
    assert signature.canonical(texts, [column], len(column)) == [canonical_record({"x": value}) for value in column]


@given(alike(), st.lists(st.integers(0, 4), max_size=6))
def test_a_pattern_is_filled_for_many_as_for_each(records, numbers):
    signature = Signature.of(records[0])
    texts = signature.all_texts(as_columns(records)) if signature else None
    if texts:
        pattern = Pattern([b"%", *(number % len(texts) for number in numbers), b"}"])
        each = [[column[turn] for column in texts] for turn in range(len(records))]
        assert pattern.fill_all(texts, len(records)) == [pattern.fill(said) for said in each]


@given(alike())
def test_rows_that_are_kept_as_columns_are_those_rows(records):
    signature = Signature.of(records[0])
    if signature is not None:
        kept = Alike("fact", signature, as_columns(records), str)
        assert [*kept] == [kept[turn] for turn in range(len(kept))]
        assert [*kept] == [Row("fact", record, None, str(turn)) for turn, record in enumerate(records)]
        assert {row.signature for row in kept} == {signature}
        if len(kept) > 1:
            assert [row for half in kept.halves() for row in half] == [*kept]
        page = Page([Row("mood", {})], None, alike=[kept])
        assert (page.count, len(page.rows), page.alike) == (1 + len(records), 1 + len(records), [])


def kept_alike(rows):
    """Rows with the signature of the first, and the others, which have another or none."""
    signature = Signature.of(rows[0].record) if rows else None
    same = [row for row in rows if signature and row.record and Signature.of(row.record) is signature]
    if not same:
        return None
    kept = Alike(same[0].kind, signature, as_columns([row.record for row in same]), lambda turn: same[turn].place)
    kept.texts = signature.all_texts(kept.columns)
    return kept if kept.texts is not None else None


# Items


@st.composite
def rows(draw):
    """Rows as a mapping has them, most of them plain, with keys of all sorts and now and then a field that no layout knows."""
    name = draw(st.sampled_from(KINDS))
    kind = LAYOUTS[0].kinds[name].kind
    of = {"text": TEXTS, "timestamp": TEXTS, "integer": st.integers(), "boolean": st.booleans(), "float": NUMBERS}
    ordinary = {
        "text": st.text('ab#~é"\\', min_size=1, max_size=4),
        "integer": st.integers(0, 9),
        "float": st.floats(0.001, 1),
    }
    record = {}
    for field in kind.fields:
        values = draw(st.sampled_from((ordinary, ordinary, ordinary, of))).get(
            field.type, st.just("2026-01-02T03:04:05")
        )
        if draw(st.integers(0, 9)):
            record[field.name] = draw(values | st.none() if draw(st.booleans()) else values)
    if draw(st.booleans()):
        record[draw(st.sampled_from(("favourite", "")) | TEXTS)] = draw(VALUES)
    if draw(st.integers(0, 9)) == 0:
        record["value"] = draw(st.sampled_from(("x" * 1_100, "é" * 300_000, '"' * 410_000, "~migrator-part#")))
    return Row(name, record)


@given(rows(), st.sampled_from(LAYOUTS))
def test_a_plain_item_is_the_item_that_every_other_way_makes_to_the_byte_of_its_size_and_its_units(row, layout):
    row.signature = Signature.of(row.record)
    found = row.signature.texts(row.record) if row.signature else (None, None)
    row.texts = found[1]
    made = PlainItems(layout).of(row)
    if made is None:
        return
    assert layout.fit(row) is row
    item = to_item(layout.write(row))
    size = check_item(item, layout.key, layout.index)
    assert orjson.loads(made.json) == orjson.loads(item_json(item)) == item
    assert made.key == key_json(item, layout.key)
    assert (made.size, made.units) == (size, write_units(item, size, layout.index))


@given(st.lists(rows(), min_size=1, max_size=4), st.sampled_from(LAYOUTS))
def test_the_items_of_many_rows_are_those_of_each(several, layout):
    kept = kept_alike([row for row in several if row.kind == several[0].kind])
    if kept is None:
        return
    items = PlainItems(layout)
    each = [*kept]
    for turn, row in enumerate(each):
        row.texts = [column[turn] for column in kept.texts]
    alone = [items.of(row) for row in each]
    made = PlainItems(layout).of_all(kept)
    assert (made is None) == (None in alone)
    if made is not None:
        assert [*made] == alone
        assert [*made[::2]] == alone[::2]
    assert made is not None or not items.are_small(kept)


@st.composite
def items(draw, layout):
    """Items of rows, as they are or with something that is not as it should be."""
    try:
        item = to_item(layout.write(draw(rows())))
    except RecordError:
        item = {}
    item = orjson.loads(item_json(item))
    broken = st.sampled_from(
        (
            {"S": 5},
            {"N": "x"},
            {"N": "1e400"},
            {"S": "a", "N": "1"},
            {},
            {"BOOL": True},
            {"L": []},
            {"S": ""},
            {"N": "7"},
            "S",
            5,
        )
    )
    names = st.sampled_from(sorted(item) or ["user_id"])
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        match draw(st.integers(0, 2)):
            case 0:
                item[draw(names)] = draw(broken)
            case 1:
                item.pop(draw(names), None)
            case 2:
                item[draw(names)] = {"S": draw(TEXTS)}
    return item


@given(st.sampled_from(LAYOUTS).flatmap(lambda layout: st.tuples(st.just(layout), st.lists(items(layout), max_size=4))))
def test_the_row_of_a_plain_item_is_the_row_that_every_other_way_reads(given):
    layout, several = given
    items = PlainItems(layout)
    for item in (*several, *several):
        row = items.row(item)
        if row is not None:
            other = read_item(layout, item)
            assert (row, row.place) == (other, other.place)
            assert [*map(type, row.record.values())] == [*map(type, other.record.values())]
            assert list(row.record) == list(other.record)
            assert row.signature is Signature.of(row.record)


def by_place(rows):
    return sorted(rows, key=lambda row: (row.place, row.kind, to_json(row.record)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_a_number_where_a_key_or_an_index_has_a_text_is_read_as_every_other_way_reads_it(layout):
    fields = {"user_id": "ana", "session_id": "s1", "category": "work", "key": "boss", "value": "v", "confidence": 0.5}
    item = to_item(layout.write(Row("fact", fields)))
    for name in item.keys() - {*layout.key}:
        for several in (
            [item | {name: {"N": "7"}}],
            [item, item | {name: {"N": "7"}}],
            [item | {name: {"N": "7"}}, item],
        ):
            items = PlainItems(layout)
            for page in (several, unread(several)):
                found, left = items.rows(page)
                rows = [row for each in found for row in each]
                others = [one for one in several if one not in left]
                assert by_place(rows) == by_place([read_item(layout, one) for one in others])
            for one in several:
                row = items.row(one)
                assert row is None or (row, row.place) == ((other := read_item(layout, one)), other.place)


def unread(several):
    """A page as its answer has it; half of a surrogate comes in none."""
    try:
        return Unread(b"[%b]" % b",".join(map(item_json, several)), len(several))
    except TypeError:
        return several


@given(
    st.sampled_from(LAYOUTS).flatmap(lambda layout: st.tuples(st.just(layout), st.lists(items(layout), max_size=6))),
    st.booleans(),
)
def test_of_a_page_of_items_those_that_are_alike_are_the_rows_of_each(given, is_text):
    """The same page again is read by what was learnt of it."""
    layout, several = given
    items = PlainItems(layout)
    page = unread(several) if is_text else several
    for _ in range(3):
        found, left = items.rows(page)
        assert sum(map(len, found)) + len(left) == len(several)
        rows = [row for each in found for row in each]
        others = [item for item in several if item not in left]
        assert by_place(rows) == by_place([read_item(layout, item) for item in others])
        for each in found:
            assert {*map(type, each)} == {Row}
            assert all(Signature.of(row.record) is each.signature is row.signature for row in each)


def ordinary_items(count):
    layout = load_mapping("luminoracore-v1.1").layouts["user_id/SK"]
    for turn in range(count):
        record = {
            "user_id": "ana",
            "category": "work",
            "key": f"k{turn}",
            "value": "é",
            "confidence": 1 if turn % 3 else 0.5,
        }
        yield layout, to_item(layout.write(Row("fact", record)))
        memory = {"user_id": "ana", "memory_key": f"m{turn}", "memory_value": "x"}
        yield layout, to_item(layout.write(Row("memory", memory)))


@pytest.mark.parametrize("is_text", [True, False])
def test_the_items_of_an_ordinary_page_are_alike_whatever_kinds_are_mixed_in_it(is_text):
    several = [item for _, item in ordinary_items(30)]
    layout = next(layout for layout, _ in ordinary_items(1))
    items = PlainItems(layout)
    for _ in range(2):
        found, left = items.rows(Unread(b"[%b]" % b",".join(map(item_json, several)), 60) if is_text else several)
        assert (left, sum(map(len, found)), {each.kind for each in found}) == ([], 60, {"fact", "memory"})


def test_an_ordinary_item_is_plain_and_one_under_another_key_is_not():
    layout = load_mapping("luminoracore-v1.1").layouts["user_id/SK"]
    record = {
        "user_id": "ana",
        "session_id": "s1",
        "category": "work",
        "key": "boss",
        "value": "Ana",
        "confidence": 0.5,
    }
    item = orjson.loads(item_json(to_item(layout.write(Row("fact", record)))))
    items = PlainItems(layout)
    assert items.row(item).record == record
    assert items.row(item | {"SK": {"S": "FACT#work#other"}}) is None
    assert items.row(item | {"confidence": {"S": "much"}}) is None


@given(rows(), st.booleans())
def test_the_line_of_a_plain_row_is_the_line_that_every_other_way_makes(row, is_document):
    layout = _as_form(load_mapping("luminoracore-v1.1").layouts["json"], "json" if is_document else "jsonl")
    row.signature = Signature.of(row.record)
    found = row.signature.texts(row.record) if row.signature else (None, None)
    row.texts = found[1]
    line = PlainLines(layout, is_document).of(row)
    if found[0] is not None:
        assert line == to_line(layout, is_document, layout.fit(row))


@given(st.lists(rows(), min_size=1, max_size=4), st.booleans())
def test_the_lines_of_many_rows_are_those_of_each(several, is_document):
    kept = kept_alike([row for row in several if row.kind == several[0].kind])
    if kept is None:
        return
    layout = _as_form(load_mapping("luminoracore-v1.1").layouts["json"], "json" if is_document else "jsonl")
    lines = PlainLines(layout, is_document).of_all(kept)
    longest = PlainLines(layout, is_document).longest(kept)
    if lines is not None:
        assert lines == [to_line(layout, is_document, layout.fit(row)) for row in kept]
        assert max(map(len, lines)) <= longest < 2_000_000
    else:
        assert longest == math.inf


def test_of_ordinary_facts_it_is_told_without_making_them_that_they_fit_until_one_is_long():
    fields = {"user_id": "ana", "session_id": "s1", "category": "work", "confidence": 0.5}
    records = [fields | {"key": f"k{turn}", "value": "é" * (turn + 1)} for turn in range(40)]
    layouts = [layout for layout in LAYOUTS if layout.recipe("fact", tuple(records[0])) is not None]
    assert len(layouts) == 6
    for layout in layouts:
        items = PlainItems(layout)
        kept = kept_alike([Row("fact", record) for record in records])
        assert not items.are_small(kept)  # what is not in the texts is not known yet
        assert items.of_all(kept) is not None
        assert items.are_small(kept)
        for change in ({"value": "é" * 600}, {"key": ""}, {"user_id": "a#b", "category": "#", "key": "#"}):
            other = kept_alike([Row("fact", record) for record in (*records, records[0] | change)])
            assert items.are_small(other) is False or items.of_all(other) is not None
        assert not items.are_small(kept_alike([Row("fact", records[0] | {"value": "é" * 600})]))


def test_an_ordinary_fact_is_a_plain_item_in_every_table():
    record = {
        "user_id": "ana",
        "session_id": "s1",
        "category": "work",
        "key": "boss",
        "value": 'says "no"',
        "confidence": 1.0,
    }
    for layout in LAYOUTS:
        row = Row("fact", record)
        row.signature = Signature.of(record)
        row.texts = row.signature.texts(record)[1]
        made = PlainItems(layout).of(row)
        if layout.recipe("fact", tuple(record)) is not None:
            assert from_item(orjson.loads(made.json)) == layout.write(row)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_an_item_without_an_attribute_is_read_as_every_other_way_reads_it(layout):
    for kind, spec in layout.kinds.items():
        held = {
            field.name: 1 if field.type in ("integer", "float") else "2026-01-02T03:04:05" for field in spec.kind.fields
        }
        item = to_item(layout.write(Row(kind, held)))
        for name in item.keys() - {*layout.key}:
            other = {attribute: value for attribute, value in item.items() if attribute != name}
            found = PlainItems(layout).row(other)
            assert found is None or found == read_item(layout, other)
