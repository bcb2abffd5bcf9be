"""A compiled layout: how the records of each kind live in one store, as functions both ways.

`Layout.read` takes the attributes of one item (a row's columns, a DynamoDB item, a JSON object) and gives a Row, a Foreign or a
Reject; `Layout.write` is its inverse: `write(read(item)) == item`, because what the templates and codecs would not make again is kept as
the row's origin. Knows what is not there, what is unknown and what no template makes; no store and no TOML. Leaves one
key to `keys`, one value to `places`; what a layout holds of each kind is a `KindLayout`. `mapping` makes layouts, adapters use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from operator import itemgetter

from migrator.errors import RecordError
from migrator.keys import Template
from migrator.kind_layout import KindLayout
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Alike,
    Foreign,
    Identity,
    Origin,
    Record,
    Reject,
    Row,
    shortened,
    some_names,
)
from migrator.places import Place, decode, encode, is_same
from migrator.plain import Columns, Signature
from migrator.values import Value, written_plain

PART_MARK = "~migrator-part#"
"""In the last attribute of a key: the item is a part of the record whose key stands before it (`Layout.part_key`)."""


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

    def reading(self, kind: str, names: tuple[str, ...]) -> Reading:
        """What `read` makes of the rows of a table with these columns."""
        return Reading(self, self._compiled[kind], names)  # type: ignore[attr-defined]

    def recipe(self, kind: str, names: tuple[str, ...]) -> dict[str, str | Template] | None:
        """Of what `write` makes each attribute of a record with these fields and no origin: the field whose value it holds as it is, or a template.

        None where names do not tell, or `fit` would change the record. A template that cannot be rendered is left to `write`.
        """
        compiled: _Compiled | None = self._compiled.get(kind)  # type: ignore[attr-defined]
        return compiled.recipe(names) if compiled is not None else None

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


class Reading:
    """What a layout reads from the rows of a table of one kind, which has these columns."""

    def __init__(self, layout: Layout, compiled: _Compiled, names: tuple[str, ...]) -> None:
        self._layout, self._compiled, self._names = layout, compiled, names
        self._kind = compiled.kind.name
        self._ways: dict[tuple[type, ...], _Way] = {}

    def row(self, values: tuple[Value, ...], types: tuple[type, ...], place: str) -> Row | Foreign | Reject:
        """A row with values of these types."""
        way = self._ways.get(types)
        if way is not None:
            row = Row(self._kind, way.made(values, decode), None, place)
            row.signature = way.signature
            return row
        found = self._layout.read(dict(zip(self._names, values)), place, self._kind)
        way = self._compiled.way(self._names, types)
        if way is not None:
            self._ways[types] = way
        return found

    def alike(
        self, columns: Columns, types: tuple[type, ...], place_of: Callable[[int], str], *, read_plain: bool = False
    ) -> Alike | None:
        """Many rows, each with values of these types; None where each must be read by itself. `read_plain`: as `Signature.known`."""
        if types not in self._ways:
            self.row(tuple([column[0] for column in columns]), types, "")
        way = self._ways.get(types)
        if way is None:
            return None
        signature = way.signature
        if signature is None and read_plain:
            picked_types = types if way.pick is None else way.pick((*types, type(None)))
            signature = Signature.known(way.names, picked_types, read_plain=True)
        if signature is None:
            return None
        picked = columns if way.pick is None else way.pick((*columns, [None] * len(columns[0])))
        return Alike(self._kind, signature, picked, place_of)


_SIGNATURES = 1_000  # of a kind are remembered; a store that has more has no columns, and is read with more care


@dataclass(frozen=True, slots=True)
class _Way:
    """How one dict becomes another where all that matters are names, and types where they count: its names, which values go there, and codecs."""

    is_way: bool
    names: tuple[str, ...] = ()
    pick: Callable[[tuple[Value, ...]], tuple[Value, ...]] | None = None  # None: all values, as they come
    coded: tuple[tuple[str, Place], ...] = ()
    signature: Signature | None = None  # of what is made, where codecs leave most values as they are

    @staticmethod
    def of(one: Record, sources: list[str], names: tuple[str, ...], coded: list[tuple[str, Place]]) -> _Way:
        """`sources` are the names in `one` of what becomes `names`; what is not there becomes None."""
        if len(sources) < 2:
            return _NO_WAY  # itemgetter would give no tuple
        places = {name: number for number, name in enumerate(one)}
        numbers = [places.get(source, len(one)) for source in sources]
        return _Way(True, names, itemgetter(*numbers) if numbers != [*range(len(one))] else None, tuple(coded))

    def made(self, values: Iterable[Value], codec: Callable[[Place, Value], Value]) -> Record:
        """From the values of one the other."""
        other = dict(zip(self.names, values if self.pick is None else self.pick((*values, None))))
        for name, spot in self.coded:
            other[name] = codec(spot, other[name])
        return other

    def is_signed(self, record: Record) -> bool:
        """Whether a record that was made so has the signature of the others: a codec may have made another type of a value."""
        return not self.coded or all(type(record[name]) is int for name, _ in self.coded)


_NO_WAY = _Way(False)


def _needs_a_look(spot: Place, value: Value) -> bool:
    """Whether a value of this type is a field's as it is, or only some are."""
    return spot.form != "native" or (spot.field.type == "float" and type(value) is int)


def encode_or_null(spot: Place, value: Value, is_plain: bool = False) -> Value:
    """`encode` of what may be NULL."""
    return None if value is None and not spot.says_null else encode(spot, value, is_plain)


_encode_plain = partial(encode_or_null, is_plain=True)


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
        self.texts = tuple(p for p in spec.places if p.form == "json")
        self.codes_json = all(p.form == "json" and not p.otherwise and not p.head for p in self.coded)
        self.said = frozenset(p.field.name for p in self.texts)
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
        if known is not None and known.is_way:
            row = Row(self.kind.name, known.made(held.values(), decode), origin, place)
            if known.is_signed(row.record):
                row.signature = known.signature
        else:
            row = Row(self.kind.name, self._record(held), origin, place)
            if known is None and len(self._reads) < _SIGNATURES:
                self._reads[signature] = self._way_of_reading(held, row.record)
        is_spelled = False
        if self.texts and origin is None:
            row.is_plain, is_spelled = self._is_plain(held, row.record)
        if self.watched or self.spec.extra:
            row.origin = self._origin(row, held, is_spelled)
        return row

    def way(self, names: tuple[str, ...], types: tuple[type, ...]) -> _Way | None:
        """How a row of a table becomes a record where names and types alone tell, and it can have no origin; known once such a row has been read."""
        way = self._reads.get((*names, *types), _NO_WAY)
        return way if way.is_way and not (way.coded or self.watched or self.spec.extra) else None

    def recipe(self, names: tuple[str, ...]) -> dict[str, str | Template] | None:
        unknown = [name for name in names if name not in self.fields]
        if self.coded or self.layout.absent_is_null or not self.known.isdisjoint(unknown):
            return None
        if (unknown and not self.layout.keeps_unknown) or len({p.attribute for p in self.spec.places}) < len(
            self.spec.places
        ):
            return None
        recipe: dict[str, str | Template] = {
            p.attribute: p.field.name for p in self.spec.places if p.field.name in names
        }
        recipe |= {name: name for name in unknown}
        recipe |= {key.attribute: key.templates[0] for key in self.templated}
        return recipe if not self.spec.marks or self.layout.kind_of(recipe) == self.kind.name else None

    def _is_plain(self, held: Record, record: Record) -> tuple[bool, bool]:
        """Whether all values of a record are texts, or were read from JSON texts and read plain; and whether these are spelled as we would."""
        is_spelled = len(record) > 1
        if not is_spelled or not all(type(v) is str or v is None or name in self.said for name, v in record.items()):
            return False, False
        for spot in self.texts:
            text, value = held.get(spot.attribute), record.get(spot.field.name)
            if type(text) is not str or '"$' in text:  # a tag may stand for what orjson writes as null
                return False, False
            said = written_plain(value)
            if said is None:
                return False, False
            is_spelled = is_spelled and said == text.encode()
        return True, is_spelled

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
        way = _Way.of(held, sources, tuple(record), coded)
        is_native = all(spot.form == "native" and type(record[name]) is int for name, spot in coded)
        return replace(way, signature=Signature.of(record)) if is_native else way

    def _unknown_name(self, attribute: str) -> str:
        if attribute in self.fields:
            raise RecordError(f'the attribute "{attribute}" has the name of a field that lives elsewhere')
        return attribute

    def _origin(self, row: Row, held: Record, is_spelled: bool) -> Origin | None:
        if self._is_as_made(row, held, is_spelled):
            return None
        made = self._templates(row.record)
        for spot in self.coded:
            value = row.record.get(spot.field.name)
            if value is not None or (spot.says_null and spot.field.name in row.record):
                with suppress(RecordError):
                    made[spot.attribute] = encode(spot, value, row.is_plain)
            elif spot.otherwise or spot.field.name in row.record or self.layout.absent_is_null:
                made[spot.attribute] = None
        differs = {a: held[a] for a in self.watched if a in held and not (a in made and is_same(made[a], held[a]))}
        unset = tuple(a for a in self.watched if a in made and a not in held)
        extra = {a: held[a] for a in self.spec.extra if a in held}
        if not (differs or unset or extra):
            return None
        return Origin(self.layout.store, self.layout.id, differs, unset, extra)

    def _is_as_made(self, row: Row, held: Record, is_spelled: bool) -> bool:
        """Whether all that could need an origin is as `write` would make it, where that is soon told.

        That is where only keys are made, and JSON texts that are known to be spelled as they would be.
        """
        if (self.coded and not (is_spelled and self.codes_json)) or self.olds or not self.of_store.isdisjoint(held):
            return False
        for key in self.templated:
            try:
                if held.get(key.attribute) != key.render(self.kind, row.record):
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
                codec = _encode_plain if row.is_plain else encode_or_null
                held = known.made(record.values(), codec) if known.is_way else self._attributes(record, given)
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
                held[spot.attribute] = encode_or_null(spot, value)
            elif self.layout.absent_is_null or spot.otherwise:
                held[spot.attribute] = None  # else the field would be read from the other attribute
        for name in [name for name in record if name not in self.fields]:
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
        return Row(row.kind, record, origin, row.place, is_plain=row.is_plain)

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
