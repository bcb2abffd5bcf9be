"""The values a record may hold, as exact JSON text and as canonical bytes.

A value is None, bool, int, float, Decimal, str, bytes, a frozenset (of one of text, number, bytes), a list or a dict
with text keys. A Decimal stands only where no float has that value: `number` decides. Knows nothing of records,
kinds or stores.

JSON has no bytes, sets or infinities: they are tagged, `{"$bytes": base64}`, `{"$set": [...]}`, `{"$float": "inf"}`; a dict
that looks like a tag has its key escaped by one more `$`. What others wrote as JSON, and read again, has no tags: `plain`.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import xxhash

Value = Any

_EXACT = 1 << 53  # every integer up to here is a float of the same value
_MIN64, _MAX64 = -(1 << 63), 1 << 64  # what orjson writes and reads as an integer

# Bytes by what they mean in a number: a digit, an exponent, its sign, a point, what may stand behind it. One search then finds what many would.
_MEANINGS = {b"0123456789": b"0", b"eE": b"e", b"+": b"+", b"-": b"-", b".": b".", b" \t\r\n,]}": b","}
_SHAPE = bytes(
    next((meaning[0] for some, meaning in _MEANINGS.items() if byte in some), ord("x")) for byte in range(256)
)
_LONG_EXPONENT = re.compile(rb"0e[+-]?000+(?:,|\Z)")
_WHOLE = re.compile(rb"\.0(?:[\s,\]}]|\Z)")
_HAS_PLUS = b"+" in orjson.dumps(1e16)  # not so in older releases of orjson
_LARGE = re.compile(rb"[0-9]e\+[0-9]{2}" if _HAS_PLUS else rb"[0-9]e[0-9]{2,3}(?:[\s,\]}]|\Z)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

DEEPEST = 200
"""Levels of nesting that a value may have: orjson writes 254, and a record lies a few levels deep in what is written."""

AROUND = 8
"""Levels that may stand around a value in what is written here: a line, a record, an origin, a tag."""


def number(text: str) -> int | float | Decimal:
    """The number a decimal text stands for: an int, else the float of exactly this shortest text, else a Decimal.

    A float's value is here its shortest decimal text, as in DynamoDB and JSON, not its binary expansion. Raises ValueError if `text` is no finite number.
    """
    if "." in text and "e" not in text:  # nearly all fractions
        try:
            near = float(text)
        except ValueError:
            raise ValueError("not a finite number") from None
        if repr(near) == text:
            return near
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("not a finite number")
    try:
        return int(text)
    except ValueError:  # a fraction, an exponent, or more digits than int() takes
        pass
    try:
        return of_decimal(Decimal(text))
    except ArithmeticError as exc:
        raise ValueError("a number with an exponent that is out of range") from exc


def of_decimal(exact: Decimal) -> int | float | Decimal:
    """The same number as an int or a float where one has this very value, as `number` says; infinities and NaN as floats."""
    if not exact.is_finite():
        return float(exact)
    if exact.as_tuple().exponent >= 0 and exact.adjusted() < 400:  # type: ignore[operator]
        return int(exact)
    near = float(exact)
    if math.isfinite(near) and Decimal(repr(near)) == exact:
        return near
    return exact


def is_unicode(text: str) -> bool:
    """Whether there is no half of a surrogate in a text: so Python holds bytes of a name that are not UTF-8, and JSON may write them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Value) -> bool:
    """True for int, float and Decimal; a bool is no number."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def by_value(value: Value) -> Value:
    """The same value in the one form that equal values share: 2.0 as 2, and what JSON lacks as a tag.

    Numbers are compared by value, since DynamoDB gives 1.0 back as 1.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        return value if -_EXACT <= value <= _EXACT else {"$n": _scientific(Decimal(value))}
    if kind is float:
        if value.is_integer():
            whole = int(value)
            return whole if -_EXACT <= whole <= _EXACT else {"$n": _scientific(Decimal(repr(value)))}
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is dict:
        return _escaped(value if _is_plain(value.values()) else {k: by_value(v) for k, v in value.items()})
    if kind is list:
        return value if _is_plain(value) else [by_value(v) for v in value]
    if kind is Decimal:
        plain = of_decimal(value)
        return by_value(plain) if type(plain) is not Decimal else {"$n": _scientific(plain)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is frozenset:
        return {
            "$set": sorted((by_value(v) for v in value), key=lambda v: orjson.dumps(v, option=orjson.OPT_SORT_KEYS))
        }
    raise ValueError(f"a record cannot hold a value of type {kind.__name__}")


def _is_plain(values: Iterable[Value]) -> bool:
    """Whether all of them are what they stand for in every form that is written: most are, and most records need no copy."""
    for value in values:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            continue
        if kind is float and value % 1 and math.isfinite(value):
            continue
        if kind is not int or not -_EXACT <= value <= _EXACT:
            return False
    return True


def _scientific(exact: Decimal) -> str:
    sign, digits, exponent = exact.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    return f"{'-' if sign else ''}{stripped or '0'}e{int(exponent) + len(text) - len(stripped)}"


def canonical(value: Value, *, is_plain: bool = False) -> bytes:
    """The bytes that stand for a value, the same for equal values on every installation. `is_plain`: `written` has said so.

    Raises ValueError for what no record can hold: text that is not Unicode (a lone surrogate), keys that are not text.
    """
    return _dumped(_itself if is_plain else by_value, value, orjson.OPT_SORT_KEYS)


def canonical_record(record: dict[str, Value], *, is_plain: bool = False) -> bytes:
    """The same of a record: a line with the names of its texts and those of its other fields, and one for each value, in that order.

    A text stands there as in JSON, without its quotes. No line holds the end of one, so that records have the same bytes only if they are equal.
    """
    try:
        "".join(record)
    except TypeError as exc:
        raise ValueError("holds an object with a key that is not text") from exc
    texts = sorted([name for name, value in record.items() if type(value) is str])
    others = sorted(record.keys() - texts)
    said = [canonical_text(record[name]) for name in texts]
    said += [canonical(record[name], is_plain=is_plain) for name in others]
    return b"\n".join([canonical_head(texts, others), *said])


def canonical_head(texts: list[str], others: list[str]) -> bytes:
    """The first line of a record with these names, each sorted."""
    return canonical([texts, others])


def canonical_text(text: str) -> bytes:
    """A text as in JSON, without its quotes. Raises ValueError for half of a surrogate."""
    return _dumped(_itself, text, 0)[1:-1]


digest16: Callable[[bytes], int] = xxhash.xxh3_128_intdigest
"""A 128-bit hash as an integer."""

digest_bytes: Callable[[bytes], bytes] = xxhash.xxh3_128_digest
"""The same as 16 bytes, the first of which count most."""


def short_digest(data: bytes) -> str:
    """A 64-bit hash as 16 hexadecimal characters, for derived keys."""
    return xxhash.xxh3_64_hexdigest(data)


# JSON text -----------------------------------------------------------------------------------------------------------


def to_json(value: Value, *, indent: bool = False, is_plain: bool = False) -> bytes:
    """Exact JSON text of a value: integers and decimals keep every digit. `is_plain` and ValueError as `canonical`."""
    return _dumped(_itself if is_plain else _tagged, value, orjson.OPT_INDENT_2 if indent else 0)


def written(value: Value, *, indent: bool = False) -> tuple[bytes, bool]:
    """What orjson writes of a value that it has read, and whether that reads plain: all in it stands for itself in every form that is written.

    So that nobody need look at each value in it: no key begins as a tag does, no number is whole with a point (2.0) or an exponent, or an integer of
    more than 53 bits. May be False where a text in it looks like that. Raises TypeError and RecursionError for what orjson cannot write.
    """
    option = orjson.OPT_INDENT_2 if indent else 0
    try:
        text = orjson.dumps(value, option=option | orjson.OPT_STRICT_INTEGER)
    except TypeError:
        return orjson.dumps(value, option=option), False
    return text, not ((b"$" in text and b'"$' in text) or _WHOLE.search(text) or _has_large(text))


def _has_large(text: bytes) -> bool:
    """Whether a number has the exponent of a whole one. Nearly no text has a plus in it, which is soon told."""
    if _HAS_PLUS:
        return b"+" in text and b"e+" in text and _LARGE.search(text) is not None
    return _LARGE.search(text) is not None


def written_plain(value: Value) -> bytes | None:
    """What orjson writes of a value that was read from JSON, if it reads plain."""
    with suppress(TypeError, RecursionError):
        text, is_plain = written(value)
        return text if is_plain else None
    return None


def _is_perhaps_rounded(text: bytes) -> bool:
    """Whether orjson might round a number of a JSON text: 16 or more digits in a row, or an exponent of three."""
    shape = text.translate(_SHAPE)
    return b"0" * 16 in shape.replace(b".", b"0") or _LONG_EXPONENT.search(shape) is not None


def _itself(value: Value) -> Value:
    return value


def _dumped(prepare: Callable[[Value], Value], value: Value, option: int) -> bytes:
    try:
        return orjson.dumps(prepare(value), option=option)
    except (TypeError, RecursionError) as exc:
        why = str(exc)
        if "ecursion" in why:
            raise ValueError("is nested too deeply") from exc
        if "key" in why:
            raise ValueError("holds an object with a key that is not text") from exc
        raise ValueError("holds text that is not Unicode (a lone surrogate)") from exc


def from_json(data: bytes, *, plain: bool = False, around: int = 0) -> Value:
    """The value that `to_json` wrote, or that any JSON text stands for, without rounding. ValueError if it is not JSON, or too deep for `around`."""
    try:
        if _is_perhaps_rounded(data):
            parsed = json.loads(data.decode(), parse_float=_fraction, parse_int=number, parse_constant=_no_constant)
        else:
            parsed = orjson.loads(data)
        if is_too_deep(data, parsed, around):
            raise ValueError("is nested too deeply")
        return parsed if plain or b'"$' not in data else _untagged(parsed)
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc


def is_too_deep(text: bytes, parsed: Value, around: int = 0) -> bool:
    """Whether a value, with so many levels around it, is nested deeper than it may be. Few texts have so many brackets that it must be looked at."""
    deepest = DEEPEST + around
    if text.count(b"[") + text.count(b"{") <= deepest:
        return False
    level: list[Value] = [parsed]
    for _ in range(deepest):
        level = [inner for each in level for inner in _inside(each) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inside(value: Value) -> Iterable[Value]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def to_plain_json(value: Value) -> bytes:
    """Exact JSON text as Python's `json` writes it with an indent of 2 and without escapes. ValueError too for what would need a tag."""
    return _dumped(_without_tags, value, orjson.OPT_INDENT_2)


def untag(parsed: Value) -> Value:
    """What a parsed JSON value stands for: its tags as bytes, sets and floats. ValueError for a damaged tag."""
    return _untagged(parsed)


def _fraction(text: str) -> Value:
    """A number with a fraction or an exponent: a float, as orjson has it, wherever one is the same number."""
    exact = number(text)
    near = float(text)
    return near if math.isfinite(near) and Decimal(repr(near)) == exact else exact


def _no_constant(name: str) -> Value:
    raise ValueError(f"{name} is not JSON")


def _tagged(value: Value) -> Value:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        return value if _MIN64 <= value < _MAX64 else orjson.Fragment(str(Decimal(value)))  # str(int) has a limit
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is dict:
        return _escaped(value if _is_plain(value.values()) else {k: _tagged(v) for k, v in value.items()})
    if kind is list:
        return value if _is_plain(value) else [_tagged(v) for v in value]
    if kind is Decimal:
        return orjson.Fragment(str(value)) if value.is_finite() else _tagged(float(value))
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is frozenset:
        return {"$set": [_tagged(v) for v in sorted(value, key=canonical)]}
    raise ValueError(f"a record cannot hold a value of type {kind.__name__}")


def _without_tags(value: Value) -> Value:
    kind = type(value)
    if kind is dict:
        return {k: _without_tags(v) for k, v in value.items()}
    if kind is list:
        return [_without_tags(v) for v in value]
    if kind is float and math.isfinite(value):
        return orjson.Fragment(repr(value))  # 1e+16, where orjson writes 1e16
    said = _tagged(value)
    if type(said) is dict:
        raise ValueError(f"holds what JSON can say only by a tag, {next(iter(said))}")
    return said


def _untagged(value: Value) -> Value:
    if type(value) is list:
        return [_untagged(v) for v in value]
    if type(value) is not dict:
        return value
    if not _is_tag(value):
        return {k: _untagged(v) for k, v in value.items()}
    ((tag, held),) = value.items()
    try:
        if tag == "$bytes":
            return base64.b64decode(held, validate=True)
        if tag == "$float":
            return float(held)
        if tag == "$set":
            if type(held) is not list:
                raise TypeError
            return frozenset(_untagged(v) for v in held)
    except (TypeError, ValueError) as exc:
        raise ValueError(f'a damaged "{tag}"') from exc
    if tag.startswith("$$"):
        return {tag[1:]: _untagged(held)}
    return {tag: _untagged(held)}


def _is_tag(value: dict[str, Value]) -> bool:
    return len(value) == 1 and str(next(iter(value))).startswith("$")


def _escaped(plain: dict[str, Value]) -> dict[str, Value]:
    """An object that looks like a tag must not be taken for one."""
    return {f"${key}": held for key, held in plain.items()} if _is_tag(plain) else plain
