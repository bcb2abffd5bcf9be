"""A compiled layout: how the records of each kind live in one store, as functions both ways.

`Layout.read` takes the attributes of one item (a row's columns, a DynamoDB item, a JSON object) and gives a Row, a Foreign or a
Reject; `Layout.write` is its inverse: `write(read(item)) == item`, because what the templates and codecs would not make again is kept as
the row's origin. Knows no store and no TOML: `mapping` makes layouts, adapters use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from operator import itemgetter
from typing import Literal

from migrator.errors import RecordError
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Field,
    FieldType,
    Foreign,
    Identity,
    Kind,
    Origin,
    Record,
    Reject,
    Row,
    identity_key,
    shortened,
    some_names,
)
from migrator.values import Value, from_json, is_number, number, short_digest, to_json

Form = Literal["native", "text", "number", "json", "date"]
"""How a store holds a field: as its own type, or as text, a number, JSON text, or the store's date type."""

PART_MARK = "~migrator-part#"
"""In the last attribute of a key: the item is a part of the record whose key stands before it (`Layout.part_key`)."""

_MAX64 = 1 << 63
_PLAIN = (str, int, float, Decimal, bool)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a key template: a field's value, its `stamp` (`%Y%m%d_%H%M%S`, fact sheet 2.0) or the identity's digest."""

    name: str
    form: Literal["value", "stamp", "digest"] = "value"


@dataclass(frozen=True)
class Template:
    """Text with slots, that makes one key or index attribute of a record.

    Distinct identities give distinct keys: a separator is refused in every component but the last, unless the
    identity's digest is in the template.
    """

    text: str
    parts: tuple[str | Slot, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(part for part in self.parts if isinstance(part, Slot))

    @cached_property
    def _of_texts(self) -> tuple[str, tuple[tuple[str, str], ...]] | None:
        """How it is made of values that are texts: the format, and of each slot its field and the separator that it may not hold."""
        if any(slot.form != "value" for slot in self.slots):
            return None
        behind = [part[:1] if isinstance(part, str) else "" for part in (*self.parts[1:], "")]
        slots = [(part.name, mark) for part, mark in zip(self.parts, behind, strict=True) if isinstance(part, Slot)]
        slots[-1:] = [(name, "") for name, _ in slots[-1:]]
        return "".join(p.replace("%", "%%") if isinstance(p, str) else "%s" for p in self.parts), tuple(slots)

    @property
    def head(self) -> str:
        """The literal text that every key of this template starts with."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    @cached_property
    def is_digested(self) -> bool:
        return any(slot.form == "digest" for slot in self.slots)

    def render(self, kind: Kind, record: Record) -> str:
        """Raises RecordError, naming the field, where a component is missing or holds the separator behind it."""
        if self._of_texts is not None:
            form, slots = self._of_texts
            texts = [record.get(name) for name, _ in slots]
            for text, (_, mark) in zip(texts, slots):
                if type(text) is not str or (mark and mark in text):
                    break
            else:
                return form % tuple(texts)
        last = self.slots[-1] if self.slots else None
        out: list[str] = []
        for index, part in enumerate(self.parts):
            if isinstance(part, str):
                out.append(part)
                continue
            if part.form == "digest":
                out.append(_digest(kind, record))
                continue
            value = record.get(part.name)
            text = _stamp(part.name, value) if part.form == "stamp" else _component(part.name, value)
            follows = self.parts[index + 1] if index + 1 < len(self.parts) else ""
            if (
                part is not last
                and not self.is_digested
                and isinstance(follows, str)
                and follows
                and follows[0] in text
            ):
                raise RecordError(
                    f'{part.name} holds "{follows[0]}", the separator of the key {self.text}: '
                    "two identities could meet on one key"
                )
            out.append(text)
        return "".join(out)

    def fill(self, values: Record) -> str:
        """The text for these values, whatever they hold: as the application asks, which looks out for no separator."""
        return "".join(part if isinstance(part, str) else str(values.get(part.name)) for part in self.parts)


def _component(name: str, value: Value) -> str:
    if value is None:
        raise RecordError(f"{name} is NULL, and the key is made of it")
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RecordError(f"{name} is neither text nor an integer, and the key is made of it")


def _digest(kind: Kind, record: Record) -> str:
    try:
        return short_digest(identity_key(kind.name, kind.identity_of(record)))
    except ValueError as exc:
        raise RecordError(f"a field of its identity {exc}") from exc


def _stamp(name: str, value: Value) -> str:
    try:
        return datetime.fromisoformat(value).strftime("%Y%m%d_%H%M%S")
    except (TypeError, ValueError) as exc:
        raise RecordError(f"{name} is no ISO time, and the key is made of it") from exc


@dataclass(frozen=True, slots=True)
class Key:
    """One attribute of the store's key or index, with the templates that make it: the first that can be rendered counts."""

    attribute: str
    templates: tuple[Template, ...]
    free: Template | None = None  # any value under this prefix is right: the application reads by it
    optional: bool = False  # an index attribute: a record without one is only missing in the index

    def render(self, kind: Kind, record: Record) -> str:
        problem = RecordError(f"no template for {self.attribute}")
        for template in self.templates:
            try:
                return template.render(kind, record)
            except RecordError as exc:
                problem = exc  # the last one asks for the least
        raise problem

    def is_right(self, kind: Kind, record: Record, value: Value) -> bool:
        """Whether a value that differs from what `render` makes is right all the same: it is under the prefix by which the application reads."""
        if self.free is None or not isinstance(value, str):
            return False
        try:
            return value.startswith(self.free.render(kind, record))
        except RecordError:
            return False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field lives in an item: the attribute's name, its form, and the attribute it is read from where that one is not there.

    head: what starts with it was written over the field by mistake. behind: where the value is then, an attribute and what stands before it
    there; None if it is nowhere.
    """

    field: Field
    attribute: str
    form: Form = "native"
    otherwise: str | None = None
    head: str = ""
    behind: tuple[str, str] | None = None

    @property
    def says_null(self) -> bool:
        """A JSON value as JSON text: its null is text too, and the store's own NULL is another thing."""
        return self.form == self.field.type == "json"


@dataclass(frozen=True, slots=True)
class Request:
    """How the application asks one sort of store for a kind (`Asked` says by what), and what it makes of the items it finds.

    Of keyed stores: get is the keys of the one record, tried in turn; query the hash and the beginning of the range of a user's records; index the
    hash in the first index, which is asked instead where the table has one. An item is skipped where a field of `filled` is empty or not there,
    one of `present` not there, one of `numbers` no number. `text` are fields that are given as text whatever they are, objects and lists as JSON
    written anew; `defaults` what an absent field is given as.
    """

    get: tuple[tuple[Template, ...], ...] = ()
    query: tuple[Template, ...] = ()
    index: Template | None = None
    filled: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    defaults: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindLayout:
    """How one kind lives in a store.

    collections: names of its table or collection, the first is made. columns: SQL types by column, for making it. unique: the table
    we make is unique over the identity by a constraint (the application's own). surrogate: columns that are no fields and never
    travel. marks: attributes by which an item is told to be of this kind. extra: attributes that belong to the origin. index_wins: where an
    index attribute is a field too, the application writes the index's value. parsed: fields whose text the application reads as JSON where it is
    some, from this store. request: how the application asks for the kind here.
    map: the document is an object, and each of its entries a record: the attributes that hold an entry's name and its value. excepted:
    names of which none is in such a document. opaque: attributes of a table that hold text and that no application reads, the only ones that
    may be stored compressed or in parts.
    """

    kind: Kind
    places: tuple[Place, ...]
    collections: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    index: tuple[Key, ...] = ()
    marks: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    surrogate: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    unique: bool = False
    index_wins: bool = False
    parsed: tuple[str, ...] = ()
    map: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()
    request: Request | None = None
    opaque: tuple[str, ...] = ()

    @property
    def by_index(self) -> bool:
        """Whether the application looks for it in the index, where there is one."""
        return self.request is not None and self.request.index is not None

    @property
    def attributes(self) -> frozenset[str]:
        """Every attribute that the layout itself knows of an item of this kind."""
        keys = (key.attribute for key in self.keys + self.index)
        places = {name for place in self.places for name in (place.attribute, place.otherwise) if name is not None}
        return frozenset(places | set(keys) | set(self.extra) | set(self.surrogate))

    @property
    def has_free_key(self) -> bool:
        return any(key.free for key in self.keys)

    @property
    def guarantees_identity(self) -> bool:
        """True if two items of the store cannot share an identity: the key holds nothing but identity fields, as they are."""
        slots = [slot for key in self.keys for template in key.templates for slot in template.slots]
        return bool(self.keys) and all(slot.form == "value" and slot.name in self.kind.identity for slot in slots)


@dataclass(frozen=True)
class Layout:
    """How a mapping's kinds live in one store. `id` is `key shape` or name, the same in every run and release.

    also, also_index: other names of the key's and the index's attributes that fit too. several_keys: the application writes one record
    under several keys, so that the key guarantees no identity (H3). unread, unread_later: by kind, why the application does not find what is
    written there now, and what it writes itself later. problem: why nothing can be written under this layout.
    """

    id: str
    store: str
    kinds: Mapping[str, KindLayout]
    key: tuple[str, ...] = ()
    index: tuple[str, ...] | None = None
    ghosts: tuple[frozenset[str], ...] = ()
    absent_is_null: bool = False  # a row of a table has every column
    keeps_unknown: bool = True
    keeps_origins: bool = False  # holds any origin as it is (JSON Lines)
    also: tuple[frozenset[str], ...] = ()
    also_index: tuple[frozenset[str], ...] = ()
    several_keys: bool = False
    unread: Mapping[str, str] = field(default_factory=dict)
    unread_later: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    def __post_init__(self) -> None:
        compiled = {name: _Compiled(self, each) for name, each in self.kinds.items()}
        marks = [(name, frozenset(each.marks)) for name, each in self.kinds.items() if each.marks]
        object.__setattr__(self, "_compiled", compiled)
        object.__setattr__(self, "_marks", marks)
        object.__setattr__(self, "_met", {})

    def __reduce__(self) -> tuple[Callable[..., Layout], tuple[object, ...]]:
        return _remake, tuple(getattr(self, each.name) for each in fields(self))

    @property
    def map(self) -> KindLayout | None:
        """The kind whose records are the entries of a document, if the document is such a map."""
        return next((each for each in self.kinds.values() if each.map), None)

    @property
    def has_opaque(self) -> bool:
        """Whether any record may be stored compressed or in parts."""
        return any(each.opaque for each in self.kinds.values())

    # parts -----------------------------------------------------------------------------------------------------------

    def part_key(self, key: Record, sha256: str, number: int) -> Record:
        """The key of a part of the record that has this key: behind the record's own, by the digest of the whole and a number from 1 on.

        Parts of other content have other keys, so that none is ever written over. No record has such a key: `is_part` tells them.
        """
        last = self.key[-1]
        return {**key, last: f"{key[last]}{PART_MARK}{sha256[:32]}#{number:04}"}

    def is_part(self, held: Record, key: tuple[str, ...] = ()) -> bool:
        """Whether an item of a table with that key (default: the layout's own) is a part of a record, or says so."""
        return self.has_opaque and PART_MARK in str(held.get((key or self.key)[-1], ""))

    def key_of_whole(self, part: Record) -> Record:
        """The key of the record that an item says it is a part of."""
        last = self.key[-1]
        return {name: part[name].partition(PART_MARK)[0] if name == last else part[name] for name in self.key}

    # read and write --------------------------------------------------------------------------------------------------

    def read(
        self, held: Record, place: str, kind: str | None = None, origin: Origin | None = None
    ) -> Row | Foreign | Reject:
        """The row that an item stands for. `kind` where the store itself tells it (its table, its tag), else it is recognised.

        `origin` is one that the store kept beside the record. An item of no kind is Foreign; one that breaks its kind's types is a Reject.
        """
        if kind is None:
            kind = self.kind_of(held)
            if kind is None:
                return Foreign(place, self._is_ghost(held, self.key), held)
        compiled: _Compiled | None = self._compiled.get(kind)  # type: ignore[attr-defined]
        if compiled is None:
            return Reject(UNKNOWN_KIND, place, f'no kind "{shortened(kind)}" in this mapping', held)
        try:
            return compiled.read(held, place, origin)
        except RecordError as exc:
            return Reject(kind, place, str(exc), held, origin)

    def write(self, row: Row) -> Record:
        """The attributes of the item that holds `row`. Raises RecordError if there is none, for instance a key cannot be made."""
        if row.kind == FOREIGN:
            return dict(row.record)
        return self._compiled[row.kind].write(row)  # type: ignore[attr-defined,no-any-return]

    def fit(self, row: Row, unknown_fields: str = "keep") -> Row:
        """The row as this layout would give it back: what it cannot hold is left behind, or the record is refused.

        Raises RecordError naming the field: a key that cannot be made, unknown fields that have no place (unless `unknown_fields` is "drop").
        """
        compiled: _Compiled | None = self._compiled.get(row.kind)  # type: ignore[attr-defined]
        if compiled is None:
            raise RecordError(f"the layout {self.id} has no place for {row.kind} records")
        return compiled.fit(row, unknown_fields)

    def identity_of(self, row: Row) -> Identity:
        """What makes a row unique: of a foreign item its place."""
        return (row.place,) if row.kind == FOREIGN else self.kinds[row.kind].kind.identity_of(row.record)

    def settled(self, row: Row, extras: bool = True) -> Row:
        """The row for comparing: what is right in more than one way is left out of its origin.

        That is a key under the right prefix where the suffix is free, a field that was read from the attribute LuminoraCore keeps it in,
        and another spelling of a JSON text. `extras` is False where the other store cannot say which attributes of the store's own belong there.
        """
        if row.origin is None or row.kind not in self.kinds:
            return row
        origin = self._compiled[row.kind].settled(row, extras)  # type: ignore[attr-defined]
        return row if origin is row.origin else replace(row, origin=origin, encoded=None)

    def without_spelling(self, kind: str, origin: Origin) -> Origin | None:
        """An origin of this layout without what says only how a JSON text was spelled."""
        spelled = self._compiled[kind].spelled  # type: ignore[attr-defined]
        if spelled.isdisjoint(origin.set):
            return origin
        left = {name: value for name, value in origin.set.items() if name not in spelled}
        return replace(origin, set=left) if left or origin.unset or origin.extra else None

    def guarantees(self, kind: str) -> bool:
        """True if a store of this layout cannot hold two records of this kind with one identity, each under the key that is made for it."""
        spec = self.kinds[kind]
        return not self.several_keys and len(spec.keys) == len(self.key) and spec.guarantees_identity

    def why_unfound(self, row: Row) -> str:
        """Why the application does not find a row where it lies; empty where it does."""
        spec, origin = self.kinds[row.kind], row.origin
        if row.kind in self.unread:
            return self.unread[row.kind]
        if origin is None:
            return ""
        for key in (*spec.keys, *(spec.index[:1] if spec.by_index else ())):
            place = "key" if key.attribute in self.key else "index"
            if key.attribute in origin.unset:
                return f"it lies in no index: it has no {key.attribute}"
            if key.attribute in origin.set and not key.is_right(spec.kind, row.record, origin.set[key.attribute]):
                return f"its {place} attribute {key.attribute} is not the one that is looked for"
        return ""

    def is_misplaced(self, row: Row) -> bool:
        """Whether a row lies under another key than the one that is made for it."""
        return row.origin is not None and not row.origin.set.keys().isdisjoint(self.key)

    def recognises(self, held: Record, key: tuple[str, ...]) -> bool:
        """Whether an item of a table with that key is of a kind of ours, a part of one, or a ghost of the application's."""
        return self.is_part(held, key) or self.kind_of(held) is not None or self._is_ghost(held, key)

    def kind_of(self, held: Mapping[str, object]) -> str | None:
        """The kind of an item, told by the names of its attributes."""
        met: dict[tuple[str, ...], str | None] = self._met  # type: ignore[attr-defined]
        names = tuple(held)
        if names in met:
            return met[names]
        marks: list[tuple[str, frozenset[str]]] = self._marks  # type: ignore[attr-defined]
        told = next((name for name, wanted in marks if wanted <= held.keys()), None)
        if len(met) < _SIGNATURES:
            met[names] = told
        return told

    def _is_ghost(self, held: Record, key: tuple[str, ...]) -> bool:
        return frozenset(held) - frozenset(key) in self.ghosts


def _remake(*parts: object) -> Layout:
    return Layout(*parts)  # type: ignore[arg-type]


_SIGNATURES = 1_000  # of a kind are remembered; a store that has more has no columns, and is read with more care


@dataclass(frozen=True, slots=True)
class _Way:
    """How one dict becomes another where all that matters are names, and types where they count: its names, which values go there, and codecs."""

    is_way: bool
    names: tuple[str, ...] = ()
    pick: Callable[[tuple[Value, ...]], tuple[Value, ...]] | None = None  # None: all values, as they come
    coded: tuple[tuple[str, Place], ...] = ()

    @staticmethod
    def of(one: Record, sources: list[str], names: tuple[str, ...], coded: list[tuple[str, Place]]) -> _Way:
        """`sources` are the names in `one` of what becomes `names`; what is not there becomes None."""
        if len(sources) < 2:
            return _NO_WAY  # itemgetter would give no tuple
        places = {name: number for number, name in enumerate(one)}
        numbers = [places.get(source, len(one)) for source in sources]
        return _Way(True, names, itemgetter(*numbers) if numbers != [*range(len(one))] else None, tuple(coded))

    def made(self, one: Record, codec: Callable[[Place, Value], Value]) -> Record:
        values: Iterable[Value] = one.values()
        other = dict(zip(self.names, values if self.pick is None else self.pick((*values, None))))
        for name, spot in self.coded:
            other[name] = codec(spot, other[name])
        return other


_NO_WAY = _Way(False)


def _needs_a_look(spot: Place, value: Value) -> bool:
    """Whether a value of this type is a field's as it is, or only some are."""
    return spot.form != "native" or (spot.field.type == "float" and type(value) is int)


def _encode_but_null(spot: Place, value: Value) -> Value:
    return None if value is None and not spot.says_null else encode(spot, value)


class _Compiled:
    """One kind's codecs, with what can be known beforehand worked out once, and the rest when it is met first."""

    def __init__(self, layout: Layout, spec: KindLayout) -> None:
        self.layout, self.spec = layout, spec
        self._reads: dict[tuple[object, ...], _Way] = {}
        self._writes: dict[tuple[str, ...], _Way] = {}
        self._fitting: set[tuple[str, ...]] = set()
        self.kind = spec.kind
        self.known = spec.attributes
        self.fields = frozenset(place.field.name for place in spec.places)
        self.templated = spec.keys + spec.index
        # Attributes that `write` makes but a record's fields alone do not tell: only they can need an origin.
        self.fallbacks = frozenset(p.attribute for p in spec.places if p.otherwise)
        self.coded = tuple(p for p in spec.places if p.otherwise or p.form != "native" or p.head)
        made = {p.attribute for p in spec.places} | {key.attribute for key in self.templated}
        self.spelled = frozenset(p.attribute for p in spec.places if p.form == "json")
        self.olds = {p.otherwise: p.attribute for p in spec.places if p.otherwise and p.otherwise not in made}
        watched = {p.attribute for p in self.coded} | {key.attribute for key in self.templated}
        self.of_store = frozenset(spec.extra)
        self.watched = tuple(sorted(watched | self.olds.keys()))
        self.absent_nulls = (
            frozenset(p.field.name for p in spec.places if p.field.null == "absent")
            if layout.absent_is_null
            else frozenset()
        )

    def read(self, held: Record, place: str, origin: Origin | None) -> Row:
        signature = (*held, *map(type, held.values()))
        known = self._reads.get(signature)
        if known is None:
            record = self._record(held)
            if len(self._reads) < _SIGNATURES:
                self._reads[signature] = self._way_of_reading(held, record)
        else:
            record = known.made(held, decode) if known.is_way else self._record(held)
        row = Row(self.kind.name, record, origin, place)
        if self.watched or self.spec.extra:
            row.origin = self._origin(row, held)
        return row

    def _record(self, held: Record) -> Record:
        record: Record = {}
        for spot in self.spec.places:
            name = spot.field.name
            if spot.attribute in held:
                value = held[spot.attribute]
            elif spot.otherwise is not None and spot.otherwise in held:
                value = held[spot.otherwise]
            else:
                continue
            if spot.head and isinstance(value, str) and value.startswith(spot.head):
                attribute, head = spot.behind or ("", "")
                there = held.get(attribute)
                if isinstance(there, str) and there.startswith(head):
                    record[name] = there.removeprefix(head)
            elif value is None:
                if name not in self.absent_nulls and not (spot.says_null and self.layout.absent_is_null):
                    record[name] = None
            else:
                record[name] = decode(spot, value)
        for name, value in held.items():
            if name not in self.known and not (value is None and self.layout.absent_is_null):
                record[self._unknown_name(name)] = value
        return record

    def _way_of_reading(self, held: Record, record: Record) -> _Way:
        """How what has the names and types of this item becomes a record; none if that cannot be known without its values."""
        if any(p.otherwise or p.head for p in self.spec.places):
            return _NO_WAY
        spots = {p.field.name: p for p in self.spec.places if p.attribute in held}
        sources = [spots[name].attribute if name in spots else name for name in record]
        coded = [
            (name, spots[name])
            for name, source in zip(record, sources)
            if name in spots and held[source] is not None and _needs_a_look(spots[name], held[source])
        ]
        return _Way.of(held, sources, tuple(record), coded)

    def _unknown_name(self, attribute: str) -> str:
        if attribute in self.fields:
            raise RecordError(f'the attribute "{attribute}" has the name of a field that lives elsewhere')
        return attribute

    def _origin(self, row: Row, held: Record) -> Origin | None:
        if self._is_as_made(row.record, held):
            return None
        made = self._templates(row.record)
        for spot in self.coded:
            value = row.record.get(spot.field.name)
            if value is not None or (spot.says_null and spot.field.name in row.record):
                with suppress(RecordError):
                    made[spot.attribute] = encode(spot, value)
            elif spot.otherwise or spot.field.name in row.record or self.layout.absent_is_null:
                made[spot.attribute] = None
        differs = {a: held[a] for a in self.watched if a in held and not (a in made and _is_same(made[a], held[a]))}
        unset = tuple(a for a in self.watched if a in made and a not in held)
        extra = {a: held[a] for a in self.spec.extra if a in held}
        if not (differs or unset or extra):
            return None
        return Origin(self.layout.store, self.layout.id, differs, unset, extra)

    def _is_as_made(self, record: Record, held: Record) -> bool:
        """Whether all that could need an origin is as `write` would make it, where that is soon told: where only keys are made."""
        if self.coded or self.olds or not self.of_store.isdisjoint(held):
            return False
        for key in self.templated:
            try:
                if held.get(key.attribute) != key.render(self.kind, record):
                    return False
            except RecordError:
                return False
        return True

    def _templates(self, record: Record) -> Record:
        made: Record = {}
        for key in self.templated:
            try:
                made[key.attribute] = key.render(self.kind, record)
            except RecordError:
                continue
        return made

    def write(self, row: Row) -> Record:
        record, origin = row.record, row.origin
        given = origin.set if origin is not None and origin.layout == self.layout.id else {}
        if given:
            held = self._attributes(record, given)
        else:
            signature = tuple(record)
            known = self._writes.get(signature)
            if known is None:
                held = self._attributes(record, given)
                if len(self._writes) < _SIGNATURES:
                    self._writes[signature] = self._way_of_writing(record, held)
            else:
                held = known.made(record, _encode_but_null) if known.is_way else self._attributes(record, given)
        for key in self.templated:
            if key.attribute in given:
                continue
            try:
                held[key.attribute] = key.render(self.kind, record)
            except RecordError:
                if not key.optional and not (origin and key.attribute in origin.unset):
                    raise
        if origin is not None:
            if origin.layout == self.layout.id:
                held.update(origin.set)
                for attribute in origin.unset:
                    held.pop(attribute, None)
            if origin.store == self.layout.store:
                held.update({a: v for a, v in origin.extra.items() if a in self.spec.extra})
        if self.spec.marks:
            self._is_told(held)
        return held

    def _attributes(self, record: Record, given: Mapping[str, Value]) -> Record:
        held: Record = {}
        for spot in self.spec.places:
            if spot.attribute in given:
                continue
            if spot.field.name in record:
                value = record[spot.field.name]
                held[spot.attribute] = None if value is None and not spot.says_null else encode(spot, value)
            elif self.layout.absent_is_null or spot.otherwise:
                held[spot.attribute] = None  # else the field would be read from the other attribute
        for name in record.keys() - self.fields:
            if name in self.known:
                raise RecordError(
                    f'the field "{name}" has the name of an attribute that the layout {self.layout.id} makes itself'
                )
            held[name] = record[name]
        return held

    def _way_of_writing(self, record: Record, held: Record) -> _Way:
        """How what has the fields of this record becomes attributes."""
        spots = {p.attribute: p for p in self.spec.places}
        if len(spots) < len(self.spec.places):
            return _NO_WAY
        sources = [spots[name].field.name if name in spots else name for name in held]
        coded = [
            (name, spots[name])
            for name, source in zip(held, sources)
            if name in spots and source in record and spots[name].form != "native"
        ]
        return _Way.of(record, sources, tuple(held), coded)

    def _is_told(self, held: Record) -> None:
        """What is written must be read again as a record of this kind."""
        told = self.layout.kind_of(held)
        if told == self.kind.name:
            return
        missing = [f"no {mark}" for mark in self.spec.marks if mark not in held]
        why = " and ".join(missing) or f"its attributes are those of a {told}"
        raise RecordError(f"its item would not be taken for a {self.kind.name}: {why}")

    def fit(self, row: Row, unknown_fields: str) -> Row:
        record = row.record
        if row.origin is None and (signature := tuple(record)) in self._fitting:
            return row
        unknown = record.keys() - self.fields
        if unknown and not self.layout.keeps_unknown:
            if unknown_fields != "drop":
                raise RecordError(
                    f"unknown field {some_names(unknown)}: the sink has no place for it (--unknown-fields drop leaves it behind)"
                )
            record = {name: value for name, value in record.items() if name in self.fields}
        unsaid = [p.field.name for p in self.spec.places if p.otherwise and p.field.name not in record]
        if unsaid:
            record = record | dict.fromkeys(unsaid)
        origin = self._fit_origin(row.origin)
        if record is row.record and origin is row.origin:
            if origin is None and len(self._fitting) < _SIGNATURES:
                self._fitting.add(signature)
            return row
        return Row(row.kind, record, origin, row.place)

    def _fit_origin(self, origin: Origin | None) -> Origin | None:
        if origin is None or self.layout.keeps_origins:
            return origin
        if origin.store != self.layout.store:
            return None
        extra = {a: v for a, v in origin.extra.items() if a in self.spec.extra}
        if origin.layout == self.layout.id:
            return origin if extra == origin.extra else replace(origin, extra=extra)
        return Origin(self.layout.store, self.layout.id, extra=extra) if extra else None

    def settled(self, row: Row, extras: bool) -> Origin | None:
        origin = row.origin
        assert origin is not None
        extra = origin.extra if extras else {}
        if origin.layout != self.layout.id:
            return replace(origin, extra=extra) if origin.set or origin.unset or extra else None
        unset = tuple(a for a in origin.unset if a not in self.fallbacks)
        differs = {
            a: v for a, v in origin.set.items() if self.olds.get(a) not in origin.unset and a not in self.spelled
        }
        for key in self.spec.keys:
            if key.attribute in differs and key.is_right(self.kind, row.record, differs[key.attribute]):
                del differs[key.attribute]
        if not (differs or unset or extra):
            return None
        return replace(origin, set=differs, unset=unset, extra=extra)


# Values cross the border in pairs --------------------------------------------------------------------------------------


def encode(spot: Place, value: Value) -> Value:
    """A field's value as the store holds it. `value` is None only where the place says it."""
    match spot.form:
        case "json":
            return _to_json_text(spot.field.name, value)
        case "text" if is_number(value):
            return _number_text(spot.field.name, value)
        case "text" if isinstance(value, bool):
            return "true" if value else "false"
        case "number":
            return int(value) if isinstance(value, bool) else _exact_number(spot.field.name, value)
        case "date":
            try:
                return datetime.fromisoformat(value)
            except (TypeError, ValueError) as exc:
                raise RecordError(f"{spot.field.name} is no ISO time") from exc
    return value


def decode(spot: Place, value: Value) -> Value:
    """And back. Raises RecordError, naming the field, if what the store holds is not of the field's type."""
    field_type = spot.field.type
    match spot.form:
        case "json":
            value = _from_json_text(spot.field.name, value)
        case "text" if field_type in ("integer", "float") and isinstance(value, str):
            value = _number_of(spot.field.name, value)
        case "text" if field_type == "boolean":
            value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
        case "number" if field_type == "boolean":
            value = {0: False, 1: True}.get(value, value) if is_number(value) else value
        case "number" if field_type in ("text", "timestamp") and is_number(value):
            value = str(value)
        case "date" if isinstance(value, datetime):
            value = value.isoformat()
    if field_type == "float" and type(value) is int and not -_MAX64 <= value < _MAX64:
        near = float(value) if abs(value) < 1 << 1023 else math.inf
        value = (
            near if math.isfinite(near) and Decimal(repr(near)) == value else value
        )  # DynamoDB and JSON write 1e19 without a point
    if not _IS[field_type](value):
        raise RecordError(f"{spot.field.name} holds {_sort_of(value)}, the mapping says {field_type}")
    return value


def _number_of(name: str, value: Value) -> Value:
    if is_number(value):
        return value
    try:
        return number(value)
    except (TypeError, ValueError) as exc:
        raise RecordError(f"{name} is no number") from exc


def _number_text(name: str, value: Value) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{name} is not finite, and is stored as text")
    return str(value)


def _exact_number(name: str, value: Value) -> Value:
    """A text only where the number gives the same text again: not 007."""
    made = _number_of(name, value)
    if isinstance(value, str) and str(made) != value:
        raise RecordError(f"{name} is no plain number, and is stored as one")
    return made


def _to_json_text(name: str, value: Value) -> str:
    try:
        return to_json(value).decode()
    except ValueError as exc:
        raise RecordError(f"{name} {exc}") from exc


def _from_json_text(name: str, value: Value) -> Value:
    try:
        return from_json(value.encode() if isinstance(value, str) else value)
    except (TypeError, ValueError) as exc:
        raise RecordError(f"{name} holds no JSON text") from exc


_IS: dict[FieldType, Callable[[Value], bool]] = {
    "text": lambda v: type(v) is str,
    "timestamp": lambda v: type(v) is str,
    "integer": is_number,
    "float": is_number,
    "boolean": lambda v: type(v) is bool,
    "json": lambda v: True,
}


def _is_same(made: Value, held: Value) -> bool:
    return bool(made == held) and isinstance(made, bool) == isinstance(held, bool)


def _sort_of(value: Value) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if is_number(value):
        return "a number"
    names: dict[type, str] = {str: "text", bytes: "bytes", list: "a list", dict: "an object", frozenset: "a set"}
    return names.get(type(value), type(value).__name__)
