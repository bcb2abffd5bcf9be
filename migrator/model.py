"""The words of migrator as types: what a run moves, and in which pieces.

Plain data that pickles. Knows no store, no mapping file and no JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Literal

from migrator.plain import Columns, Signature, Texts
from migrator.values import Value, canonical, canonical_text

Record = dict[str, Value]
"""One of a kind: field name to value. A field that is not there is absent; None is NULL."""

Identity = tuple[Value, ...]
"""The values of a kind's identity fields, in the mapping's order. An absent field counts as None."""

Cursor = Any
"""Where to go on in a partition: whatever the source made of it, as JSON. None is the start."""

FieldType = Literal["text", "integer", "float", "timestamp", "json", "boolean"]

UNKNOWN_KIND = "?"
"""The kind of a line or row whose kind cannot be told."""

FOREIGN = "foreign"
"""Under this name the account has the items that no kind of the mapping describes, where source and sink can both hold them."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a kind. `null` says what a NULL becomes that comes from a store which cannot say "absent"."""

    name: str
    type: FieldType
    null: Literal["keep", "absent"] = "keep"


@dataclass(frozen=True, slots=True)
class Asked:
    """How the application asks for a kind, whatever the store: by which fields, and which fields of each record it is given (empty: all).

    recent: a time field, and how many days back the application looks. figure: the field by whose number a user's records are told, rather than
    counted. apart: words under which some records are counted, by the values of their fields.
    """

    by: tuple[str, ...]
    gives: tuple[str, ...] = ()
    recent: tuple[str, int] | None = None
    figure: str | None = None
    apart: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What a store gave the application that asked once: items as they are, in the store's own attributes.

    is_cut: there was more behind the one page that it reads. is_late: the store may not say yet what was written a moment ago (an index).
    trouble: why the store gave nothing at all.
    """

    items: list[Record] = field(default_factory=list)
    is_cut: bool = False
    is_late: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of record.

    newest: the field by which the newest of two records with one identity is told. expires: the field, or an attribute of the origin, that holds the
    epoch seconds after which the application counts the record as expired. asked: how the application asks for it, where the mapping says so.
    """

    name: str
    fields: tuple[Field, ...]
    identity: tuple[str, ...]
    newest: str | None = None
    expires: str | None = None
    asked: Asked | None = None

    @property
    def is_asked_for_one(self) -> bool:
        """Whether the application names the very record it wants, and gets that or none."""
        return self.asked is not None and set(self.identity) <= set(self.asked.by)

    def identity_of(self, record: Record) -> Identity:
        return tuple([record.get(name) for name in self.identity])


@dataclass(frozen=True, slots=True)
class Origin:
    """What a store held of a record beyond its fields: a key that differs from the layout's, attributes of the store's own.

    `layout` names the layout for which `set` and `unset` hold: the attributes that its key and index templates would have
    made otherwise. `extra` are attributes that any store of the same sort can hold (DynamoDB's `TTL`).
    """

    store: str
    layout: str
    set: Record = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    extra: Record = field(default_factory=dict)

    def to_plain(self) -> Record:
        plain: Record = {"store": self.store, "layout": self.layout}
        if self.set:
            plain["set"] = self.set
        if self.unset:
            plain["unset"] = list(self.unset)
        if self.extra:
            plain["extra"] = self.extra
        return plain

    @staticmethod
    def from_plain(plain: Any) -> Origin:
        """Raises ValueError if `plain` is not what `to_plain` makes."""
        if (
            not isinstance(plain, dict)
            or not isinstance(plain.get("store"), str)
            or not isinstance(plain.get("layout"), str)
        ):
            raise ValueError('an "origin" needs "store" and "layout"')
        held, unset, extra = plain.get("set", {}), plain.get("unset", []), plain.get("extra", {})
        if not isinstance(held, dict) or not isinstance(unset, list) or not isinstance(extra, dict):
            raise ValueError('an "origin" holds "set" and "extra" as objects, "unset" as an array')
        return Origin(plain["store"], plain["layout"], held, tuple(map(str, unset)), extra)


@dataclass(slots=True)
class Row:
    """A record with its kind, its origin and its place.

    `place` is the physical key in its store as text (a row id, a DynamoDB key, a line number): it breaks ties between
    duplicates and is shown with rejects. It is no part of the record and never travels. `encoded` is what the sink's own reader made of the
    row in `fit`, so that the sink need not make it once more; it means nothing to anybody else. `is_plain`: the source has seen that the record's
    values need no look (`values.written`). `signature` is that of the record, where who made the row knows it, and `texts` those of its values
    while the row is compared and fitted; a row that is made of this one has neither.
    """

    kind: str
    record: Record
    origin: Origin | None = None
    place: str = ""
    encoded: Any = field(default=None, compare=False, repr=False)
    is_plain: bool = field(default=False, compare=False, repr=False)
    signature: Signature | None = field(default=None, init=False, compare=False, repr=False)
    texts: Texts | None = field(default=None, init=False, compare=False, repr=False)

    def drop(self, name: str) -> Value:
        """Take a field out of the record, which then is of another signature: its value, None where there is none."""
        self.signature = None
        return self.record.pop(name, None)

    def to_plain(self) -> Record:
        """The row as a line of JSON Lines, so that what was left behind is a source like any other."""
        plain: Record = {"kind": self.kind, "record": self.record}
        return plain | {"origin": self.origin.to_plain()} if self.origin else plain


@dataclass(slots=True, eq=False)
class Alike:
    """Rows of one kind, one signature and no origin, as columns: most of what is done with them is done with all, and a row is made when one is asked for.

    `columns` are the records' values, in the order of the signature's names; there is at least one row, and one value in it. `place_of` tells that of a
    row by its number. `encoded` are those of the rows, once they are fitted, and `texts` those of the columns, as `Row` has them.
    """

    kind: str
    signature: Signature
    columns: Columns
    place_of: Callable[[int], str]
    encoded: Sequence[Any] | None = None
    texts: Sequence[list[bytes]] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        places = [self.place_of(number) for number in range(len(self))]
        return Alike, (self.kind, self.signature, [*self.columns], places.__getitem__)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, number: int) -> Row:
        return self._row(number, [column[number] for column in self.columns])

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self)), zip(*self.columns))

    def halves(self) -> list[Alike]:
        """The first half of them and the others, neither of them fitted."""
        half = len(self) // 2
        found = []
        for part in (slice(0, half), slice(half, None)):
            place_of = partial(self._place_behind, part.start)
            texts = None if self.texts is None else [column[part] for column in self.texts]
            columns = [column[part] for column in self.columns]
            found.append(Alike(self.kind, self.signature, columns, place_of, texts=texts))
        return found

    def _place_behind(self, start: int, number: int) -> str:
        return self.place_of(start + number)

    def _row(self, number: int, values: Iterable[Value]) -> Row:
        row = Row(self.kind, dict(zip(self.signature.names, values)), None, self.place_of(number))
        row.signature, row.is_plain = self.signature, self.signature.has_objects
        row.encoded = self.encoded[number] if self.encoded is not None else None
        return row


@dataclass(frozen=True, slots=True)
class Foreign:
    """An item that no kind of the mapping describes; a ghost is one that LuminoraCore leaves by mistake (fact sheet L5).

    `place` is its key in the store it comes from; it stays with the item, for it is all that tells one from another.
    """

    place: str
    ghost: bool = False
    held: Record = field(default_factory=dict)

    def as_row(self) -> Row:
        return Row(FOREIGN, self.held, Origin("", "", extra={"ghost": True}) if self.ghost else None, self.place)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot travel. `reason` names fields, never values; `held` is what the source held, as far as it can be read.

    `omitted` names what was too large to be kept in `held`: the record is whole only in its store.
    """

    kind: str
    place: str
    reason: str
    held: Record = field(default_factory=dict)
    origin: Origin | None = None
    omitted: tuple[str, ...] = ()

    def to_plain(self) -> Record:
        """The reject as a line of JSON Lines, with its place and its reason beside the record."""
        plain = Row(self.kind, self.held, self.origin).to_plain() | {"place": self.place, "reason": self.reason}
        return plain | {"omitted": list(self.omitted)} if self.omitted else plain


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a source that can be read on its own. `spec` is the adapter's, as JSON. Sequential: one iterator, from the start."""

    id: str
    spec: dict[str, Any] = field(default_factory=dict)
    sequential: bool = False


@dataclass(slots=True)
class Page:
    """Some rows of a partition and the cursor behind them. Reading on from `cursor` gives exactly the rest.

    alike: rows that are kept as columns until somebody asks for `rows`, among which they come last. forms: of the rows, by kind and form
    (`compressed`, `split`), how many the store holds in another form than others.
    """

    _rows: list[Row]
    cursor: Cursor
    rejects: list[Reject] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)
    forms: Counter[tuple[str, str]] = field(default_factory=Counter)
    alike: list[Alike] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        if self.alike:
            for each in self.alike:
                self._rows += each
            self.alike = []
        return self._rows

    @rows.setter
    def rows(self, rows: list[Row]) -> None:
        self._rows, self.alike = rows, []

    @property
    def count(self) -> int:
        """How many rows there are; none is made to be counted."""
        return len(self._rows) + (sum(map(len, self.alike)) if self.alike else 0)

    def add(self, found: Row | Alike | Foreign | Reject) -> None:
        if isinstance(found, Row):
            self._rows.append(found)
        elif isinstance(found, Alike):
            self.alike.append(found)
        elif isinstance(found, Reject):
            self.rejects.append(found)
        else:
            self.foreign.append(found)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The one moment of a source that a run copies. `moment` is ISO 8601 in UTC, None where the store cannot hold still."""

    id: str
    moment: str | None
    words: str
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What became of the records of one kind. `read` equals the sum of the others, or the run has failed."""

    read: int = 0
    written: int = 0
    unchanged: int = 0
    kept: int = 0
    differing: int = 0
    duplicates: int = 0
    filtered: int = 0
    rejected: int = 0

    def add(self, other: Tally) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def closes(self) -> bool:
        read, *parts = (getattr(self, name) for name in self.__slots__)
        return bool(read == sum(parts)) and min(read, *parts) >= 0

    @property
    def words(self) -> str:
        """The figures that are not 0."""
        return ", ".join(f"{count} {name}" for name in self.__slots__ if (count := getattr(self, name)))


class Existing(StrEnum):
    """What becomes of a record where the sink holds one of the same identity."""

    EMPTY = "empty"  # the sink was empty: nothing is there, plain writes will do
    REFUSE = "refuse"  # write only where nothing is, decided by the store in the same write
    REPLACE = "replace"  # write whole, whatever is there
    KEEP = "keep"  # what is there stays: a sink that is in use is filled up
    NEWER = "newer"  # what is there stays, unless the source's record is newer


@dataclass(frozen=True, slots=True)
class Traits:
    """What the engine must know of a sink, or of the store behind a source.

    parallel: several workers may write at once. whole: the store is one file that is compared and replaced whole.
    in_process: the store lives in this process, so that workers are threads. stretch: how many times as long a slice is as elsewhere, where it takes
    much to make one durable.
    """

    parallel: bool = True
    whole: bool = False
    in_process: bool = False
    stretch: int = 1


@dataclass(frozen=True, slots=True)
class Weight:
    """What one row takes in a store: bytes by the store's own arithmetic, and write units with its indexes (0 where there are none).

    form: `compressed` or `split` where it is too large to be stored as it is.
    """

    bytes: int
    units: float = 0.0
    form: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a store is read and written, in its own units a second; infinite where nothing limits it. The words say who decided so.

    bytes: about how much it holds; None where it does not tell for nothing. each: the least units that a record takes to write.
    """

    read: float
    write: float
    read_words: str
    write_words: str
    bytes: int | None = None
    each: float = 1.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """Whether a store holds any record of the kinds asked for, and how many as far as it tells for nothing ("~526 items")."""

    any: bool
    words: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One rung of the ladder by which a store is examined: what was looked at, what was seen, and the line that mends it.

    verdict: `well`; `note`, which people should know; `fault`, with which the store does not keep the application's data.
    mend: a command, a line of configuration or, where neither can, what to do; empty where nothing is to be mended.
    """

    what: str
    verdict: Literal["well", "note", "fault"]
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a store looks like, for recognising the mapping and the layout that fit.

    tables: column names by table (SQL) or collections (JSON). key: names of the hash and, if it has one, the range attribute, index:
    names of the first index, its hash and its range attribute (DynamoDB). sample: a few items as they are, or entries of a document that are no arrays.
    words: for people. keeps: what whoever opens the store next need not make anew; it means nothing to anybody but the adapter.
    """

    store: str
    words: str
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    index: tuple[str, ...] | None = None
    sample: tuple[Record, ...] = ()
    keeps: Any = field(default=None, compare=False, repr=False)

    @property
    def tells(self) -> bool:
        """Whether anything is there that a layout could be recognised by."""
        return bool(self.tables or self.key or self.sample)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is. `text` is shown to people and holds no secret; `options` are the URL's own (region, endpoint, profile).

    `named_by`: the file and key, or the variable, that explained a name or a bare word; empty for an address that is written out.
    """

    scheme: str
    store: str
    text: str
    name: str
    options: dict[str, str] = field(default_factory=dict)
    named_by: str = field(default="", compare=False)


def counted(count: int, noun: str = "record") -> str:
    """A number with its noun, for people: `1 record`, `2,000 records`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def identity_line(identity: Sequence[Value]) -> bytes:
    """Bytes that are equal for equal identities of one kind, and for few others: what a bucket is told by. ValueError for a lone surrogate."""
    return b"\n".join([canonical_text(value) if type(value) is str else canonical(value) for value in identity])


def identity_key(kind: str, identity: Sequence[Value]) -> bytes:
    """Bytes that are equal exactly for equal identities of one kind (numbers by value). ValueError for a lone surrogate."""
    return canonical([kind, *identity], is_plain=_TEXTS.issuperset(map(type, identity)))


_TEXTS = {str, type(None)}
_WORDS = 80
"""Characters of a text from data that are shown: a mood's context is part of its identity, and may be a letter."""


def shortened(text: str) -> str:
    """A text from data for people: a long one by its beginning and its length."""
    return text if len(text) <= _WORDS else f"{text[: _WORDS // 2]}… ({len(text):,} characters)"


def some_names(names: Iterable[str]) -> str:
    """Names from data for people: the first five in their order, each `shortened`."""
    found = sorted(names)
    return ", ".join([*map(shortened, found[:5]), *(["…"] if len(found) > 5 else [])])


def identity_words(kind: Kind, identity: Sequence[Value]) -> str:
    """An identity for people: `fact user_id=ana category=work key=boss`. A long part is shown by its beginning and its length."""
    return " ".join(
        [kind.name, *(f"{name}={_part_words(part)}" for name, part in zip(kind.identity, identity, strict=True))]
    )


def _part_words(part: Value) -> str:
    return shortened("NULL" if part is None else str(part))
