"""Records of plain values, as JSON text in few steps.

Nearly all records of a kind have the same names, and values of the same few types: a Signature. What is written of such a record, its identity, a
line of a file, an item, is a text in which only the values change: a Pattern. The texts of the values are made once and fill each pattern. Many
records of one signature are filled in together, column by column, which costs a fraction of it. A record with a value that one must look at more
closely has no texts and goes the general way (`values`), which says what is written, and gives the same bytes. Knows no kinds, layouts or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, ClassVar, Final

import orjson

from migrator.values import Value, canonical_head, canonical_text, is_unicode

Texts = list[bytes]
"""The JSON texts of a record's values, strings without their quotes, at the numbers that its `Signature` gives them."""

Columns = Sequence[Sequence[Value]]
"""Of many records of one signature, the values of each field, in the order of its names. Of their texts: of each number, as lists of bytes."""

Order = list[int | None]
"""Numbers of texts; None for NULL."""

Piece = bytes | int
"""Of a pattern: what always stands there, or the number of a text."""

_NULL: Final = type(None)
_PLAIN: Final = frozenset((str, _NULL, bool, int, float))
_SAID: Final = _PLAIN | {dict}
_SAID_OF_NULL: Final = b"null"
_EXACT: Final = 1 << 53  # every integer up to here is a float of the same value
_MET: Final = 4_096  # signatures are remembered; a store with more has no columns


class Signature:
    """Names and types of a record: one object for all the records that share them, in this process."""

    __slots__ = ("_canonical", "_others", "_places", "_strings", "_types", "has_objects", "names")

    _met: ClassVar[dict[tuple[object, ...], Signature | None]] = {}

    def __init__(self, names: tuple[str, ...], types: tuple[type, ...]) -> None:
        self.names, self._types = names, dict(zip(names, types))
        strings = [name for name, kind in self._types.items() if kind is str]
        self.has_objects = dict in types
        self._others = [(name, kind) for name, kind in self._types.items() if kind not in (str, _NULL)]
        self._strings = picker([names.index(name) for name in strings])
        self._places = {name: place for place, name in enumerate([*strings, *(name for name, _ in self._others)])}
        self._canonical: dict[bool, tuple[bytes, Order]] = {}

    @classmethod
    def of(cls, record: dict[str, Value]) -> Signature | None:
        """None where values are of other types, or so many signatures were met that they tell nothing."""
        return cls.known(tuple(record), tuple(map(type, record.values())))

    @classmethod
    def known(cls, names: tuple[str, ...], types: tuple[type, ...], *, read_plain: bool = False) -> Signature | None:
        """That of records with these names and types, if it has one. `read_plain`: whoever read them has seen that their objects do (`values.written`)."""
        key = (read_plain, *names, *types)
        if key in cls._met or len(cls._met) >= _MET:
            return cls._met.get(key)
        # One might be a tag, and one without a letter, or with half of a surrogate, is not taken everywhere.
        taken = _SAID if read_plain else _PLAIN
        is_plain = taken.issuperset(types) and all(name and not name.startswith("$") for name in names)
        is_plain = is_plain and is_unicode("".join(names))
        found = cls._met[key] = cls(names, types) if is_plain else None
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Signature.known, read_plain=self.has_objects), (self.names, tuple(self._types.values()))

    def texts(self, record: dict[str, Value], *, null: bool = True) -> tuple[bytes, Texts] | tuple[None, None]:
        """What `values.canonical_record` makes of a record of this signature, without its NULLs if `null` is False, and its texts.

        None for both if a value needs a closer look: half of a surrogate, a number that is large, tiny or none.
        """
        others: list[bytes] = []
        other: dict[int, bytes] = {}  # what is said of a value, where that is not its text
        for number, (name, kind) in enumerate(self._others, len(self._places) - len(self._others)):
            value = record[name]
            if kind is float:
                if not _is_written_alike(value):
                    return None, None
                others.append(repr(value).encode())
                if value.is_integer():
                    other[number] = b"%d" % value
            elif kind is bool:
                others.append(b"true" if value else b"false")
            elif kind is dict:
                others.append(orjson.dumps(value))
                other[number] = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
            elif -_EXACT <= value <= _EXACT:
                others.append(b"%d" % value)
            else:
                return None, None
        strings = self._strings(tuple(record.values()))
        try:
            is_as_it_is = b"\\" not in orjson.dumps(strings)  # nothing needs an escape
        except TypeError:
            return None, None
        texts = [*(map(str.encode, strings) if is_as_it_is else map(canonical_text, strings)), *others]
        head, order = self._canonical.get(null) or self._of_canonical(null)
        said = [_SAID_OF_NULL if number is None else other.get(number) or texts[number] for number in order]
        return b"\n".join([head, *said]), texts

    def all_texts(self, columns: Columns) -> list[list[bytes]] | None:
        """The texts of many records at once, those of each number together; None if a value of any of them needs a closer look.

        There is at least one record, and one value in it.
        """
        by_name = dict(zip(self.names, columns))
        texts: list[list[bytes]] = []
        for name in self._places:
            made = _TEXTS[self._types[name]](by_name[name])
            if made is None:
                return None
            texts.append(made)
        return texts

    def canonical(
        self, texts: Sequence[list[bytes]], columns: Columns, count: int, *, null: bool = True
    ) -> list[bytes]:
        """The canonical bytes of so many records by their texts, and of objects by the values in their columns."""
        head, order = self._canonical.get(null) or self._of_canonical(null)
        said = []
        for name, column in zip(self._places, texts):
            kind = self._types[name]
            if kind is float:
                column = _by_value(column)
            elif kind is dict:
                column = _of_objects(columns[self.names.index(name)], orjson.OPT_SORT_KEYS)
            said.append(column)
        return [*map(b"\n".join, zip(repeat(head, count), *_in_order(said, order, count)))]

    def identity(self, names: Iterable[str]) -> Order | None:
        """Where the texts of an identity are; None where a number or an object is in it, which count by value."""
        names = list(names)
        if not {int, float, dict}.isdisjoint(map(self.type_of, names)):
            return None
        return [self._places.get(name) for name in names]

    def of_texts(self, texts: Sequence[list[bytes]]) -> Columns:
        """The values of many records by their texts, none of which has a backslash in it: each column when it is asked for."""
        return _Values(self, texts)

    def _values(self, name: str, texts: Sequence[list[bytes]]) -> Sequence[Value]:
        kind = self._types[name]
        column = b"\n".join(texts[self._places[name]]).decode().split("\n")
        return column if kind is str else [*map(kind, column)]

    def _of_canonical(self, null: bool) -> tuple[bytes, Order]:
        texts = sorted(name for name, kind in self._types.items() if kind is str)
        others = sorted(name for name, kind in self._types.items() if kind is not str and (null or kind is not _NULL))
        order = [self._places.get(name) for name in (*texts, *others)]
        made = self._canonical[null] = canonical_head(texts, others), order
        return made

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

    __slots__ = ("_form", "_numbers", "_pick", "fixed")

    def __init__(self, pieces: Iterable[Piece]) -> None:
        pieces = list(pieces)
        self._form = b"".join(b"%b" if isinstance(piece, int) else piece.replace(b"%", b"%%") for piece in pieces)
        self._numbers = [piece for piece in pieces if isinstance(piece, int)]
        self._pick = picker(self._numbers)
        self.fixed = sum(len(piece) for piece in pieces if not isinstance(piece, int))

    def fill(self, texts: Texts) -> bytes:
        return self._form % self._pick(texts)

    def fill_all(self, columns: Sequence[list[bytes]], count: int) -> list[bytes]:
        """The same of so many records, whose texts are given number by number."""
        form = self._form
        if not self._numbers:
            return [form % ()] * count
        return [form % texts for texts in zip(*[columns[number] for number in self._numbers])]

    def longest(self, columns: Sequence[list[bytes]]) -> int:
        """A length that none of them goes beyond."""
        return self.fixed + sum([max(map(len, columns[number])) for number in self._numbers])


def identity_lines(order: Order, columns: Sequence[list[bytes]], count: int) -> list[bytes]:
    """What `model.identity_line` makes of so many records, by their texts; `order` as `Signature.identity` gives it."""
    return [*map(b"\n".join, zip(*_in_order(columns, order, count)))]


def _in_order(columns: Sequence[list[bytes]], order: Order, count: int) -> list[Iterable[bytes]]:
    return [repeat(_SAID_OF_NULL, count) if number is None else columns[number] for number in order]


def picker(numbers: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """`itemgetter`, which gives no tuple of one or none."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return lambda values: tuple([values[number] for number in numbers])


class _Values(Sequence[Sequence[Value]]):
    """Columns of texts and numbers."""

    def __init__(self, signature: Signature, texts: Sequence[list[bytes]]) -> None:
        self._signature, self._texts = signature, texts
        self._made: dict[int, Sequence[Value]] = {}

    def __len__(self) -> int:
        return len(self._signature.names)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError
        if number not in self._made:
            self._made[number] = self._signature._values(self._signature.names[number], self._texts)
        return self._made[number]


# The texts of a column; None if any value needs a closer look. What orjson writes of all is cut at once.


def _of_strings(column: Sequence[str]) -> list[bytes] | None:
    try:
        if b"\\" not in orjson.dumps(column):
            return [*map(str.encode, column)]
        text = orjson.dumps(column, option=orjson.OPT_INDENT_2)  # within a string there is no line break as it is
    except TypeError:
        return None
    return text[5:-3].split(b'",\n  "')


def _of_floats(column: Sequence[float]) -> list[bytes] | None:
    if not (min(column) >= 1e-4 and max(column) < 1e15) and not all(map(_is_written_alike, column)):
        return None
    text = orjson.dumps(column)[1:-1]
    return None if b"n" in text else text.split(b",")  # null: NaN is neither less nor more


def _of_integers(column: Sequence[int]) -> list[bytes] | None:
    return None if min(column) < -_EXACT or max(column) > _EXACT else orjson.dumps(column)[1:-1].split(b",")


def _of_objects(column: Sequence[dict[str, Value]], option: int = 0) -> list[bytes]:
    return [orjson.dumps(value, option=option) for value in column]


def _of_booleans(column: Sequence[bool]) -> list[bytes]:
    return [b"true" if value else b"false" for value in column]


_TEXTS: Final[dict[type, Callable[[Any], list[bytes] | None]]] = {
    str: _of_strings, float: _of_floats, int: _of_integers, bool: _of_booleans, dict: _of_objects,
}  # fmt: skip


def _by_value(texts: list[bytes]) -> list[bytes]:
    """Of floats: 2.0 as 2, and -0.0 as 0."""
    column = b"\n".join(texts) + b"\n"
    if b".0\n" not in column:
        return texts
    return column.replace(b"-0.0\n", b"0\n").replace(b".0\n", b"\n")[:-1].split(b"\n")


def of_numbers(texts: list[bytes]) -> type | None:
    """Whether these are the texts of floats or of integers, each as it would be written here; None for others, or where some are this and some that."""
    column = b",".join(texts).decode("ascii", "replace").split(",")
    for kind, make in _MADE.items():
        with suppress(ValueError):
            made = make([*map(kind, column)])
            if made == texts:
                return kind
    return None


_MADE: Final[dict[type, Callable[[Any], list[bytes] | None]]] = {float: _of_floats, int: _of_integers}


def _is_written_alike(value: float) -> bool:
    """Whether orjson and Python write the same text of a float, which is a number."""
    return 1e-4 <= value < 1e15 or -1e15 < value <= -1e-4 or value == 0
