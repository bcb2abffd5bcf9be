"""What values promise: nothing is rounded, equal values have equal bytes, different values different ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from decimal import Decimal
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from awkward import meaning
from migrator.values import (
    by_value,
    canonical,
    canonical_record,
    digest16,
    digest_bytes,
    from_json,
    number,
    of_decimal,
    to_json,
    untag,
    written,
    written_plain,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = TEXTS | st.sampled_from(["$bytes", "$set", "$float", "$n", "$$bytes", "$", "$$", "kind"])
INTEGERS = (
    st.integers() | st.integers(-(10**60), 10**60) | st.sampled_from([2**53, 2**53 + 1, 2**63, -(2**63) - 1, 2**64])
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.builds(
    lambda sign, digits, exponent: of_decimal(Decimal((sign, digits, exponent))),
    st.integers(0, 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=38).map(tuple),
    st.integers(-420, 420),
)
NUMBERS = INTEGERS | FLOATS | DECIMALS
BYTES = st.binary(max_size=6)
SETS = (
    st.frozensets(TEXTS, max_size=4)
    | st.frozensets(st.integers(-9, 9) | FLOATS, max_size=4)
    | st.frozensets(BYTES, max_size=4)
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | BYTES | SETS | st.sampled_from([math.inf, -math.inf, math.nan])
VALUES = st.recursive(
    LEAVES, lambda held: st.lists(held, max_size=4) | st.dictionaries(KEYS, held, max_size=4), max_leaves=12
)


@given(VALUES)
@example({"$bytes": "AA=="})
@example({"$$set": [1]})
@example([{"$": {"$n": "1e20"}}])
@example(Decimal("1E+400"))
@example(-0.0)
def test_json_text_gives_the_same_value_again(value: Any) -> None:
    again = from_json(to_json(value))
    assert meaning(again) == meaning(value)
    assert canonical(again) == canonical(value)
    assert meaning(from_json(to_json(value, indent=True))) == meaning(value)


@given(VALUES, VALUES)
@example(2, 2.0)
@example(2, Decimal("2.00"))
@example(True, 1)
@example("1", 1)
@example(None, "null")
@example(-0.0, 0)
@example(0.1, Decimal("0.1"))
@example(10**20, {"$n": "1e20"})
@example(b"\x00", {"$bytes": "AA=="})
@example(math.inf, {"$float": "inf"})
@example(frozenset([1]), {"$set": [1]})
@example(frozenset([1]), [1])
@example({"$n": 1}, {"$$n": 1})
@example(10**400, Decimal("1E+400"))
@example(2**53, 2**53 + 1)
@example(0.30000000000000004, 0.3)
def test_values_have_equal_bytes_exactly_if_they_are_equal(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (meaning(one) == meaning(other))


@given(st.lists(VALUES, min_size=2, max_size=4))
def test_a_changed_part_changes_the_bytes_of_the_whole(parts: list[Any]) -> None:
    whole = {"fields": parts}
    for position, part in enumerate(parts):
        other = {"fields": [*parts[:position], [part], *parts[position + 1 :]]}
        assert canonical(other) != canonical(whole)


@given(st.dictionaries(KEYS, LEAVES, max_size=6))
def test_the_order_of_fields_does_not_matter(value: dict[str, Any]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


FIELDS = st.dictionaries(KEYS, LEAVES | VALUES, max_size=4)


@given(FIELDS, FIELDS, st.randoms())
@example({"a": "1"}, {"a": 1}, Random(0))
@example({"a": "null"}, {"a": None}, Random(0))
@example({"a": "x", "b": "y"}, {"a": "x\ny", "b": ""}, Random(0))
@example({"a": "x"}, {"a": "x", "b": None}, Random(0))
@example({"$n": 1}, {"$$n": 1}, Random(0))
@example({"a": 2.0}, {"a": Decimal(2)}, Random(0))
def test_records_have_equal_bytes_exactly_if_they_are_equal(one: Any, other: Any, chance: Random) -> None:
    assert (canonical_record(one) == canonical_record(other)) == (canonical(one) == canonical(other))
    for name, value in one.items():
        changed = one | {name: [value]}
        assert canonical_record(changed) != canonical_record(one)
        assert canonical_record(one) != canonical_record({n: v for n, v in one.items() if n != name})
    shuffled = [*one.items()]
    chance.shuffle(shuffled)
    assert canonical_record(dict(shuffled)) == canonical_record(one)


def test_the_bytes_of_a_record_stay_as_they_are() -> None:
    """A checkpoint keeps digests of them: whoever changes these changes its format."""
    record = {"b": 'x\n"', "c": None, "a": "é", "n": 1.0, "o": {"z": 1, "y": True}, "d": Decimal("0.1"), "s": b"\x00"}
    lines = [b'[["a","b"],["c","d","n","o","s"]]', "é".encode(), b'x\\n\\"', b"null", b"0.1", b"1", b'{"y":true,"z":1}']
    assert canonical_record(record) == b"\n".join([*lines, b'{"$bytes":"AA=="}'])


@given(NUMBERS)
def test_every_spelling_of_a_number_has_the_same_bytes(value: Any) -> None:
    exact = Decimal(repr(value) if isinstance(value, float) else value)
    spellings = [exact, of_decimal(exact), number(str(exact))]
    for digits in range(3):
        sign, figures, exponent = exact.as_tuple()
        spellings.append(Decimal((sign, figures + (0,) * digits, int(exponent) - digits)))
    assert {canonical(each) for each in spellings} == {canonical(value)}
    assert by_value(of_decimal(exact)) == by_value(value)


@given(VALUES)
@example({"a": [{"b": 2.0}]})
@example([1e16, 1e-7, 2**53, 123456789012345.6])
@example({"a": {"$b": 1}})
@example(-0.0)
def test_what_reads_plain_is_written_as_if_every_value_had_been_looked_at(value: Any) -> None:
    read = from_json(to_json(value), plain=True)
    try:
        text, is_plain = written(read)
    except TypeError:
        return  # a number that orjson has no form for
    assert (text, written(read, indent=True)) == (
        orjson.dumps(read),
        (orjson.dumps(read, option=orjson.OPT_INDENT_2), is_plain),
    )
    if is_plain:
        assert written_plain(read) == text
        assert canonical(read, is_plain=True) == canonical(read)
        assert to_json(read, is_plain=True) == to_json(read)


@pytest.mark.parametrize("value", [2.0, [-0.0], {"a": 1e16}, 1e300, 2**53, -(2**60), {"$x": 1}, {"a": {"$bytes": ""}}])
def test_what_must_be_looked_at_does_not_read_plain(value: Any) -> None:
    assert not written(value)[1]


def test_a_record_as_chats_have_it_reads_plain() -> None:
    record = {
        "at": "2026-01-03 17:20:40.004415",
        "cost": 0.65507,
        "id": "73cf256d-8e12-4f0e-9f0b-000000000000",
        "n": None,
        "of": [7, "é", True],
    }
    assert written(record)[1] and written(record, indent=True)[1]


@pytest.mark.parametrize("text", [b"1e16", b"[1.5e300, 1]", b'{"a":1e17}', b"[1e21,\n2]"])
def test_a_large_number_is_seen_as_older_releases_of_orjson_write_it(text: bytes) -> None:
    """Without a plus; what is part of an id is none."""
    code = "import orjson; old = orjson.dumps; orjson.dumps = lambda value, **more: old(value, **more).replace(b'e+', b'e'); from migrator import values; "
    code += f"print(values.written({text.decode()})[1], values.written('73cf256d-8e12-4f0e-9f0b')[1])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False True\n"
    )


@given(NUMBERS)
def test_a_number_comes_back_exactly_from_its_text(value: Any) -> None:
    assert meaning(number(str(value))) == meaning(value)


@given(DECIMALS)
def test_a_decimal_stands_only_where_no_float_or_int_will_do(value: Any) -> None:
    if isinstance(value, Decimal):
        near = float(value)
        assert not math.isfinite(near) or Decimal(repr(near)) != value


@given(st.integers(-(10**38) + 1, 10**38 - 1), st.integers(-130, 88))
def test_numbers_of_dynamodb_survive_digit_for_digit(digits: int, exponent: int) -> None:
    """38 digits, H13 and H14."""
    text = f"{digits}E{exponent}"
    assert meaning(from_json(to_json(number(text)))) == ("number", Decimal(text))


JSON_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@given(st.lists(JSON_NUMBERS, min_size=1, max_size=4))
@example(["123456789012345.6"])
@example(["0.1234567890123456789"])
@example(["1e400"])
def test_no_json_number_is_rounded(texts: list[str]) -> None:
    parsed = from_json(f"[{','.join(texts)}]".encode())
    assert [meaning(each) for each in parsed] == [("number", Decimal(text)) for text in texts]


NO_NUMBERS = [
    "",
    " ",
    "1 ",
    " 1",
    "1_0",
    "١٢",
    "0x1",
    "1e",
    "e1",
    ".",
    "--1",
    "+-1",
    "nan",
    "inf",
    "1,5",
    "1e5.0",
    "1.2.3",
]


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1e999999999999999999999", "1e-999999999999999999999"])
def test_what_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        number(text)


@pytest.mark.parametrize("value", [10**5000, -(10**5000), Decimal(10**5000)], ids=["int", "negative", "Decimal"])
def test_a_number_may_have_more_digits_than_python_reads(value: Any) -> None:
    assert canonical(from_json(to_json(value))) == canonical(value)


@pytest.mark.parametrize("value", ["\ud800", {"a": ["\udfff"]}, {"\ud800": 1}, {"$\ud800": 1}, frozenset(["\ud800"])])
def test_a_lone_surrogate_is_refused(value: Any) -> None:
    """H30."""
    for write in (
        canonical,
        to_json,
        lambda each: canonical_record({"a": each}),
        lambda each: canonical_record({"\ud800": 1}),
    ):
        with pytest.raises(ValueError, match="not Unicode"):
            write(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: 2}, "a key that is not text"),
        ({1: 2, 3: 4}, "a key that is not text"),
        ({"a": {1, 2}}, "a value of type set"),
        ((1, 2), "a value of type tuple"),
        (object(), "a value of type object"),
    ],
)
def test_what_no_record_can_hold_is_refused_by_its_right_name(value: Any, words: str) -> None:
    """H17, H22."""
    for write in (canonical, to_json):
        with pytest.raises(ValueError, match=words):
            write(value)


@pytest.mark.parametrize("record", [{1: 2}, {1: "a"}, {1: 2, "a": 3}, {1: "a", "b": "c"}])
def test_a_record_whose_names_are_not_text_has_no_bytes(record: Any) -> None:
    with pytest.raises(ValueError, match="a key that is not text"):
        canonical_record(record)


@pytest.mark.parametrize("levels", [300, 100_000])
def test_what_is_nested_too_deeply_is_refused(levels: int) -> None:
    value: Any = []
    for _ in range(levels):
        value = [value]
    for write in (canonical, to_json):
        with pytest.raises(ValueError, match="nested too deeply"):
            write(value)
    with pytest.raises(ValueError):
        from_json(b"[" * 100_000 + b"1234567890123456789" + b"]" * 100_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, b'{"$float":"nan"}'),
        (math.inf, b'{"$float":"inf"}'),
        (-math.inf, b'{"$float":"-inf"}'),
        (Decimal("NaN"), b'{"$float":"nan"}'),
        (Decimal("-Infinity"), b'{"$float":"-inf"}'),
        (b"\x00\xff", b'{"$bytes":"AP8="}'),
        (frozenset(["b", "a"]), b'{"$set":["a","b"]}'),
        ({"$bytes": "x"}, b'{"$$bytes":"x"}'),
        ({"$bytes": "x", "y": 1}, b'{"$bytes":"x","y":1}'),
        (12345678901234567890123, b"12345678901234567890123"),
        (number("0.12345678901234567890123"), b"0.12345678901234567890123"),
    ],
)
def test_json_text_is_what_the_format_says(value: Any, text: bytes) -> None:
    assert to_json(value) == text
    assert canonical(from_json(text)) == canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"$bytes": "%"}',
        '{"$bytes": 5}',
        '{"$float": "x"}',
        '{"$float": []}',
        '{"$set": "ab"}',
        '{"$set": {"a": 1}}',
        '{"$set": [[1]]}',
        '{"$set": 1}',
        '[{"a": {"$set": [{}]}}]',
    ],
)
def test_a_damaged_tag_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r'damaged "\$'):
        from_json(text.encode())
    with pytest.raises(ValueError, match=r'damaged "\$'):
        untag(json.loads(text))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"NaN", b"[1234567890123456789, Infinity]", b"\xff", b'"\xff 1234567890123456789"']
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    """H42: a bare NaN is not JSON."""
    with pytest.raises(ValueError):
        from_json(text)


def test_other_objects_with_a_dollar_stay_as_they_are() -> None:
    value = {"$oid": "5f"}
    assert from_json(b'{"$oid": "5f"}') == value
    assert from_json(to_json(value)) == value


@given(st.binary())
def test_a_digest_is_the_same_as_a_number_and_as_bytes(data: bytes) -> None:
    assert digest_bytes(data) == digest16(data).to_bytes(16, "big")
