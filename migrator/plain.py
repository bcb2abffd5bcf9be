"""Records of plain values, as JSON text in few steps.

Nearly all records of a kind have the same names, and values of the same few types: a Signature. What is written of such a record, its identity, a
line of a file, an item, is a text in which only the values change: a Pattern. The texts of the values are made once and fill each pattern. A record
with a value that one must look at more closely has no texts and goes the general way (`values`), which says what is written, and gives the same
bytes. Knows no kinds, layouts or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, ClassVar, Final

import orjson

from migrator.values import Value

Texts = list[bytes]
"""The JSON texts of a record's values, strings without their quotes, at the numbers that its `Signature` gives them."""

Piece = bytes | int
"""Of a pattern: what always stands there, or the number of a text."""

_NULL: Final = type(None)
_PLAIN: Final = frozenset((str, _NULL, bool, int, float))
_EXACT: Final = 1 << 53  # every integer up to here is a float of the same value
_MET: Final = 4_096  # signatures are remembered; a store with more has no columns


class Signature:
    """Names and types of a record: one object for all the records that share them, in this process."""

    __slots__ = ("_has_null", "_others", "_places", "_strings", "_types", "names")

    _met: ClassVar[dict[tuple[object, ...], Signature | None]] = {}

    def __init__(self, names: tuple[str, ...], types: tuple[type, ...]) -> None:
        self.names, self._types = names, dict(zip(names, types))
        strings = [name for name, kind in self._types.items() if kind is str]
        self._has_null = _NULL in types
        self._others = [(name, kind) for name, kind in self._types.items() if kind in (bool, int, float)]
        self._strings = picker([names.index(name) for name in strings])
        self._places = {name: place for place, name in enumerate([*strings, *(name for name, _ in self._others)])}

    @classmethod
    def of(cls, record: dict[str, Value]) -> Signature | None:
        """None where values are of other types, or so many signatures were met that they tell nothing."""
        return cls._known(tuple(record), tuple(map(type, record.values())))

    @classmethod
    def _known(cls, names: tuple[str, ...], types: tuple[type, ...]) -> Signature | None:
        key = (*names, *types)
        if key in cls._met or len(cls._met) >= _MET:
            return cls._met.get(key)
        # One might be a tag, and one without a letter is not taken everywhere.
        is_plain = _PLAIN.issuperset(types) and all(name and not name.startswith("$") for name in names)
        found = cls._met[key] = cls(names, types) if is_plain else None
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature._known, (self.names, tuple(self._types.values()))

    def texts(self, record: dict[str, Value], *, null: bool = True) -> tuple[bytes, Texts] | tuple[None, None]:
        """What `values.canonical` makes of a record of this signature, without its NULLs if `null` is False, and its texts.

        None for both if a value needs a closer look: half of a surrogate, a number that is large, tiny or none.
        """
        by_value = record if null or not self._has_null else {n: v for n, v in record.items() if v is not None}
        others = []
        for name, kind in self._others:
            value = record[name]
            if kind is float:
                if not (1e-4 <= value < 1e15 or -1e15 < value <= -1e-4 or value == 0):
                    return None, None  # there orjson and Python write different texts, or it is no number
                others.append(repr(value).encode())
                if value.is_integer():
                    by_value = by_value | {name: int(value)}
            elif kind is bool:
                others.append(b"true" if value else b"false")
            elif -_EXACT <= value <= _EXACT:
                others.append(b"%d" % value)
            else:
                return None, None
        strings = self._strings(tuple(record.values()))
        try:
            whole = orjson.dumps(by_value, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            return None, None
        if b"\\" in whole:
            return whole, [orjson.dumps(each)[1:-1] for each in strings] + others
        return whole, [*map(str.encode, strings), *others]  # nothing needs an escape

    def type_of(self, name: str) -> type:
        """The type of a field's values; that of None where it is absent."""
        return self._types.get(name, _NULL)

    def text(self, name: str) -> int:
        """The number of a field's text. Raises KeyError for one that is absent or always NULL."""
        return self._places[name]

    def value(self, name: str) -> tuple[Piece, ...]:
        """The field as a JSON value; absent is null."""
        kind = self.type_of(name)
        if kind is str:
            return b'"', self.text(name), b'"'
        return (b"null",) if kind is _NULL else (self.text(name),)

    def object(self, fields: Iterable[tuple[str, str]]) -> tuple[Piece, ...]:
        """A JSON object of names with fields, in that order."""
        pieces: list[Piece] = []
        for name, field in fields:
            pieces += b"," if pieces else b"{", orjson.dumps(name), b":", *self.value(field)
        return *(pieces or [b"{"]), b"}"


class Pattern:
    """A text in which values stand. `fixed` is the length of all else in it."""

    __slots__ = ("_form", "_pick", "fixed")

    def __init__(self, pieces: Iterable[Piece]) -> None:
        pieces = list(pieces)
        self._form = b"".join(b"%b" if isinstance(piece, int) else piece.replace(b"%", b"%%") for piece in pieces)
        self._pick = picker([piece for piece in pieces if isinstance(piece, int)])
        self.fixed = sum(len(piece) for piece in pieces if not isinstance(piece, int))

    def fill(self, texts: Texts) -> bytes:
        return self._form % self._pick(texts)


def identity_pattern(kind: str, signature: Signature, identity: Iterable[str]) -> Pattern | None:
    """What `model.identity_key` makes of such a record; None where a number is in it, which counts by value."""
    pieces: list[Piece] = [b"[", orjson.dumps(kind)]
    for name in identity:
        if signature.type_of(name) in (int, float):
            return None
        pieces += b",", *signature.value(name)
    return Pattern([*pieces, b"]"])


def picker(numbers: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """`itemgetter`, which gives no tuple of one or none."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return lambda values: tuple([values[number] for number in numbers])
