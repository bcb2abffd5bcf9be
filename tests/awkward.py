"""Awkward records: whatever a store, a codec or a terminal could trip over, from a seed.

`record(random, kind)` is one record of any kind of a mapping, `rows(random, mapping, count)` many with distinct identities. A store is given
many in one run, so a batch comes from one seed, and a failure names the records themselves. `meaning` says what a value is,
independently of the code under test.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import settings

from migrator.mapping import Mapping
from migrator.model import Field, Kind, Record, Row
from migrator.values import of_decimal

LONG = os.environ.get("MIGRATOR_LONG") == "1"


def examples(ci: int = 500, nightly: int = 20_000) -> settings:
    """How many examples a property has, in the short and in the long profile."""
    return settings(max_examples=nightly if LONG else ci)


SECRET = "sk-AWKWARD"
"""In many of the texts: what may be shown of a record must not hold it."""

SCRIPTS = [
    "María José", "Ελλάδα", "кира", "שלום", "مرحبا", "नमस्ते", "ไทย", "한국어", "日本語", "ᚠᚢᚦ", "🦜👩‍👩‍👧", "e\u0301", "é", "ﬁ", "İı", "ß",
    "\u202egnp.exe", "\u200b", "\ufeff", "\u2028\u2029", "\U0010ffff", "\uffff", "\ufdd0", "𝒜",
]  # fmt: skip
CONTROLS = ["\x00", "\x01\x1f", "a\x00b", "\t", "\r\n", "\x1b[2J\x1b]0;title\x07", "\x7f", "\x85\x9b31m", " ", "  a  "]
SEPARATORS = [
    "#", "##", "a#b", "#a", "a#", ":", "::", "_", "/", "\\", "USER#ana", "FACT#c#k", "SESSION#", "EPISODE#", "~", "|", ".", "-", "+",
]  # fmt: skip
FORMATS = [
    "%s",
    "%(x)s",
    "%n",
    "{}",
    "{0}",
    "{user_id}",
    "{{",
    "$1",
    "${HOME}",
    "../../etc/passwd",
    "C:\\x",
    "';--",
    '"',
    "'",
    "`",
    "*",
    "?",
]
LOOKALIKES = [
    "null", "true", "NaN", "Infinity", "0", "007", "1e3", "1.50", "[]", "{}", '{"$bytes": "AA=="}', '"quoted"', "$bytes", "$set", "NULL", "None",
    "2025-03-01", "2025-03-01T10:20:30", "\\u0000", "\\ud800", '":', "\\",
]  # fmt: skip
BROKEN = ["\ud800", "a\udfffb", "\ud83d", "\udc80"]
TIMES = [
    "2025-03-01T10:20:30.123456", "2025-03-01T10:20:30", "2025-03-01T10:20:30+02:00", "2025-03-01T10:20:30Z", "2025-03-01", "0001-01-01T00:00:00",
    "9999-12-31T23:59:59.999999", "20250301T102030", "soon", "1741000000", "2025-02-30T00:00:00", "2025-03-30T02:30:00",
]  # fmt: skip
INTEGERS = [
    0, 1, -1, 7, 100, 2**31, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**37, 10**38 - 1, 10**38, -(10**60),
]  # fmt: skip
FLOATS = [
    0.0, -0.0, 0.1, 0.30000000000000004, 1.0, 1e16, 1e-7, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e-130, 1e-131, 9.9e125, 1e126,
    1e22, 1e23, 123456789.123456789, math.inf, -math.inf, math.nan,
]  # fmt: skip
DECIMALS = [
    "0.12345678901234567890123456789012345678", "1E+400", "1E-400", "12345678901234567890.5", "-0.1000000000000000055511151231257827",
    "0.1", "1E+3", "9.9999999999999999999999999999999999999E+125", "1E-130", "100000000000000000000000000000000000001",
]  # fmt: skip
NAMES = [
    "mention_count", "ünï", "a b", "x.y", "$bytes", "$", "%s", "{}", "", "kind", "record", "origin", "SK", "PK", "TTL", "GSI1PK", "id", "Key", "select",
    "\x1b[1m", "a\nb", "🦜", "x" * 300,
]  # fmt: skip


def text(random: Random) -> str:
    """Any text; one in five hundred is none that Unicode has."""
    turn = random.random()
    if turn < 0.002:
        return random.choice(BROKEN)
    if turn < 0.06:
        return ""
    if turn < 0.16:
        return f"{SECRET} {random.randrange(100)}"
    if turn < 0.20:
        return random.choice("xü🦜\x00") * random.choice([255, 256, 1000, 1024, 2049, 5000])
    if turn < 0.35:
        return "".join(chr(_scalar(random)) for _ in range(random.randrange(1, 9)))
    some = random.choice([SCRIPTS, CONTROLS, SEPARATORS, SEPARATORS, FORMATS, LOOKALIKES])
    return "".join(random.choice(some) for _ in range(random.choice([1, 1, 1, 2, 3])))


def _scalar(random: Random) -> int:
    while True:
        code = random.randrange(random.choice([0x80, 0x800, 0x10000, 0x110000]))
        if not 0xD800 <= code < 0xE000:
            return code


def integer(random: Random) -> Any:
    turn = random.random()
    if turn < 0.5:
        return random.choice(INTEGERS)
    if turn < 0.9:
        return random.randrange(-1000, 1000)
    return random.randrange(-(10 ** random.randrange(1, 45)), 10 ** random.randrange(1, 45))


def number(random: Random) -> Any:
    """An int, a float or a Decimal, as values allow it: a Decimal only where no float is that number."""
    turn = random.random()
    if turn < 0.2:
        return integer(random)
    if turn < 0.6:
        return random.choice(FLOATS)
    if turn < 0.8:
        return random.uniform(-1, 1) * 10.0 ** random.randrange(-140, 140)
    digits = tuple(random.randrange(10) for _ in range(random.randrange(1, 41)))
    exact = Decimal((random.randrange(2), digits, random.randrange(-140, 130)))
    return of_decimal(exact if turn < 0.9 else Decimal(random.choice(DECIMALS)))


def timestamp(random: Random) -> str:
    return random.choice(TIMES) if random.random() < 0.8 else text(random)


def boolean(random: Random) -> bool:
    return random.random() < 0.5


def leaf(random: Random) -> Any:
    turn = random.random()
    if turn < 0.35:
        return text(random)
    if turn < 0.6:
        return number(random)
    if turn < 0.8:
        return random.choice([None, True, False, 0, 1, 0.0, 1.0, [], {}])
    if turn < 0.9:
        return random.randbytes(random.randrange(5))
    return random.choice([
        frozenset({"a", "ü"}), frozenset({1, 2.5}), frozenset({b"", b"\x00"}), frozenset(),
    ])  # fmt: skip


def json_value(random: Random, depth: int = 0) -> Any:
    """Any value: leaves of every type, lists and objects with awkward names, one in fifty as deep as can be."""
    turn = random.random()
    if not depth and turn < 0.02:
        value: Any = leaf(random)
        for _ in range(random.choice([29, 30, 31, 32, 100, 190])):
            value = [value] if random.random() < 0.5 else {random.choice(["a", "$bytes", "#"]): value}
        return value
    if depth > 4 or turn < 0.5:
        return leaf(random)
    if turn < 0.75:
        return [json_value(random, depth + 1) for _ in range(random.randrange(4))]
    return {
        random.choice(NAMES) if random.random() < 0.5 else text(random): json_value(random, depth + 1)
        for _ in range(random.randrange(4))
    }


TYPED: dict[str, Callable[[Random], Any]] = {
    "text": text, "integer": integer, "float": number, "timestamp": timestamp, "json": json_value, "boolean": boolean,
}  # fmt: skip


def value(random: Random, field: Field) -> Any:
    """Of the field's type, or in one case of fifty of any."""
    return json_value(random) if random.random() < 0.02 else TYPED[field.type](random)


def record(random: Random, kind: Kind) -> Record:
    """A field in twenty is NULL, one in fourteen is not there (of the identity's hardly any); a record in ten has fields that nobody knows."""
    made: Record = {}
    for field in kind.fields:
        turn = random.random() * (6 if field.name in kind.identity else 1)
        if turn < 0.05:
            made[field.name] = None
        elif turn > 0.12:
            made[field.name] = value(random, field)
    if random.random() < 0.1:
        for _ in range(random.randrange(1, 3)):
            made.setdefault(random.choice(NAMES), json_value(random))
    return made


def rows(random: Random, mapping: Mapping, count: int) -> list[Row]:
    """So many rows of all kinds, no two with one identity. Some share all but a part of it, or its text across its parts."""
    found: dict[Any, Row] = {}
    kinds = list(mapping.kinds.values())
    while len(found) < count:
        kind = random.choice(kinds)
        made = record(random, kind)
        if found and random.random() < 0.2:
            near = random.choice(list(found.values()))
            shared = [name for name in kind.identity if name in near.record]
            made |= {name: near.record[name] for name in random.sample(shared, random.randrange(len(shared) + 1))}
        identity = kind.name, meaning(list(kind.identity_of(made)))
        found.setdefault(identity, Row(kind.name, made))
    return list(found.values())


# What a value is -------------------------------------------------------------------------------------------------------


def meaning(value: Any) -> Any:
    """A value in a form where == means "the same value", and which can be a key; numbers by value, a float's its shortest decimal text.

    A number is no fraction: that of 1e999999999 has a thousand million digits.
    """
    if value is None or isinstance(value, bool | str | bytes):
        return type(value).__name__, value
    if isinstance(value, float) and not math.isfinite(value):
        return "float", repr(value)
    if isinstance(value, int | float | Decimal):
        return "number", Decimal(repr(value) if isinstance(value, float) else value)
    if isinstance(value, frozenset):
        return "set", frozenset(map(meaning, value))
    if isinstance(value, list):
        return "list", tuple(map(meaning, value))
    return "object", frozenset((name, meaning(held)) for name, held in value.items())


def without_nulls(record: Record) -> Record:
    return {name: held for name, held in record.items() if held is not None}


def as_noted(value: Any) -> Any:
    """What a file of rejects has of a value: text that is not Unicode as the bytes it would be."""
    if isinstance(value, str):
        return value if _is_unicode(value) else value.encode("utf-8", "surrogatepass")
    if isinstance(value, list):
        return [as_noted(each) for each in value]
    if isinstance(value, dict):
        names = (name if _is_unicode(name) else name.encode("utf-8", "backslashreplace").decode() for name in value)
        return dict(zip(names, map(as_noted, value.values()), strict=True))
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, held in value.items():
            yield name
            yield from texts_in(held)
    elif isinstance(value, list | frozenset):
        for held in value:
            yield from texts_in(held)
