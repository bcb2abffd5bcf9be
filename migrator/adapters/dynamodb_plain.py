"""Items of plain records, both ways in few steps: the layout knows by the names of fields and attributes how one is made of the other.

What is unusual about one, a key that is long or not the record's own, a size over the limit, is left to `dynamodb_items`, which says what an item
is: both give the same. Knows DynamoDB's JSON. Leaves texts to `plain`, sizes to `dynamodb_values`, and what an attribute means to the layout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from migrator.adapters.dynamodb_oversize import Packed
from migrator.adapters.dynamodb_values import ITEM_BYTES, RANGE_BYTES, Item, item_size, number_size
from migrator.keys import Slot, Template
from migrator.layout import PART_MARK, Layout
from migrator.model import Record, Row
from migrator.plain import Pattern, Piece, Signature, Texts, picker
from migrator.values import number

_SORTS = {"text": "S", "timestamp": "S", "integer": "N", "float": "N", "json": "SN"}
"""By the type of a field, the types of attributes that hold its values as they are."""

_MAX64 = 1 << 63
_DECODERS = 1_000  # are remembered; a table with more has no columns


class Stored(NamedTuple):
    """A row as a table stores it: the item's JSON, that of the values of its key one behind the other, its bytes, and the units that it takes to write it.

    whole: the item itself with what was taken out of it, where that has been made.
    """

    json: bytes
    key: bytes
    size: int
    units: int
    whole: Packed | None = None

    @property
    def packed(self) -> Packed:
        return self.whole or Packed(orjson.loads(self.json))

    @property
    def texts(self) -> dict[str, bytes]:
        """What is stored beside the item, by digest."""
        return self.whole.texts if self.whole is not None else {}


class PlainItems:
    """The items of a table under a layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._encoders: dict[tuple[str, Signature], _Encoder | None] = {}
        self._decoders: dict[tuple[str, ...], _Decoder | None] = {}

    def of(self, row: Row) -> Stored | None:
        """The item of a row that has its texts; None where it must be made the general way."""
        if row.texts is None or row.signature is None or row.origin is not None:
            return None
        known = row.kind, row.signature
        try:
            encoder = self._encoders[known]
        except KeyError:
            encoder = self._encoders[known] = _encoder(self._layout, *known)
        return encoder.item(row.record, row.texts) if encoder is not None else None

    def row(self, item: Item) -> Row | None:
        """The row that a plain item stands for, which lies where its record belongs; None where it must be read the general way."""
        names = tuple(item)
        try:
            decoder = self._decoders[names]
        except KeyError:
            if len(self._decoders) == _DECODERS:
                return None
            decoder = self._decoders[names] = _decoder(self._layout, item)
        return decoder.row(item) if decoder is not None else None


def _encoder(layout: Layout, kind: str, signature: Signature) -> _Encoder | None:
    """None where names and types do not tell how an item is made."""
    recipe = layout.recipe(kind, signature.names)
    if recipe is None or layout.kinds[kind].kind.expires in signature.names:
        return None
    named = *layout.key, *(layout.index or ())[1:]
    for name, source in recipe.items():
        if isinstance(source, str) and name in named:
            recipe[name] = Template("", (Slot(source),))
    templates = [source for source in recipe.values() if isinstance(source, Template)]
    slots = [slot for template in templates for slot in template.slots]
    if not recipe.keys() >= {*layout.key} or any(
        slot.form != "value" or signature.type_of(slot.name) is not str for slot in slots
    ):
        return None
    return _Encoder(layout, signature, recipe, templates)


class _Encoder:
    """Makes the items of one kind and signature; `recipe` as `Layout.recipe` gives it, `templates` those in it, whose fields are all text."""

    def __init__(
        self, layout: Layout, signature: Signature, recipe: dict[str, str | Template], templates: list[Template]
    ) -> None:
        item: list[Piece] = []
        for name, source in recipe.items():
            item += b"," if item else b"{", orjson.dumps(name), b":", *_attribute(signature, source)
        self._item = Pattern([*item, b"}"])
        keys = [_attribute(signature, recipe[name]) for name in layout.key]
        self._key = Pattern([piece for key in keys for piece in key])
        fields = {signature.text(name): name for name in signature.names if signature.type_of(name) is not type(None)}
        numbers = [(piece, fields[piece]) for piece in item if isinstance(piece, int)]
        self._strings = [(n, name) for n, name in numbers if signature.type_of(name) is str]
        self._numbers = [n for n, name in numbers if signature.type_of(name) in (int, float)]
        self._booleans = [n for n, name in numbers if signature.type_of(name) is bool]
        self._separated = [(name, mark) for each in templates for name, mark in (each.of_texts or ("", ()))[1] if mark]
        self._bare = [slot.name for each in templates if each.slots == each.parts for slot in each.slots]
        self._templates = templates
        self._part_mark = PART_MARK.encode() if layout.has_opaque else None
        self._is_indexed = layout.index is not None and all(name in recipe for name in layout.index[1:] if name)
        self._rest: int | None = None  # what an item takes beside its texts, less what is in the JSON beside them

    def item(self, record: Record, texts: Texts) -> Stored | None:
        for name, mark in self._separated:
            if mark in record[name]:
                return None
        for name in self._bare:
            if not record[name]:
                return None
        json, key = self._item.fill(texts), self._key.fill(texts)
        if len(json) > RANGE_BYTES and not self._has_short_keys(record):
            return None
        if self._part_mark is not None and self._part_mark in key:
            return None
        size = len(json)
        for place in self._numbers:
            size += number_size(texts[place].decode()) - len(texts[place])
        for place in self._booleans:
            size += 1 - len(texts[place])
        if b"\\" in json:
            size += sum(len(record[name].encode()) - len(texts[number]) for number, name in self._strings)
        if self._rest is None:
            self._rest = item_size(orjson.loads(json)) - size
        size += self._rest
        if size > ITEM_BYTES:
            return None
        return Stored(json, key, size, -(-size // 1024) * (2 if self._is_indexed else 1))

    def _has_short_keys(self, record: Record) -> bool:
        return all(len(template.fill(record).encode()) <= RANGE_BYTES for template in self._templates)


def _decoder(layout: Layout, item: Item) -> _Decoder | None:
    """For items with the names of this one and values of the same types. None where those do not tell what such an item stands for."""
    kind = layout.kind_of(item)
    if kind is None:
        return None
    spec = layout.kinds[kind]
    sources = {place.field.name: place.attribute for place in spec.places if place.attribute in item}
    sources |= {name: name for name in item if name not in spec.attributes}
    recipe = layout.recipe(kind, tuple(sources))
    if recipe is None or recipe.keys() != item.keys():
        return None
    templates = {name: source for name, source in recipe.items() if isinstance(source, Template)}
    if not {*layout.key} <= templates.keys() or any(template.of_texts is None for template in templates.values()):
        return None
    if not {slot.name for template in templates.values() for slot in template.slots} <= sources.keys():
        return None
    wanted = {place.attribute: _SORTS.get(place.field.type, "") for place in spec.places}
    sorts = {name: next(iter(attribute), "") for name, attribute in item.items() if type(attribute) is dict}
    if any(sort not in wanted.get(name, "SN") or not sort for name, sort in sorts.items()):
        return None
    return _Decoder(layout, kind, sorts, sources, templates) if len(sorts) == len(item) else None


class _Decoder:
    """Reads the items of one kind with the same names and types. `sources`: of each field, the attribute that holds it; `templates` make the key."""

    def __init__(
        self, layout: Layout, kind: str, sorts: dict[str, str], sources: dict[str, str], templates: dict[str, Template]
    ) -> None:
        self._kind, self._key = kind, layout.key
        self._strings = [name for name, sort in sorts.items() if sort == "S"]
        self._numbers = [name for name, sort in sorts.items() if sort == "N"]
        order = [*self._strings, *self._numbers]
        self._names = tuple(sources)
        self._pick = picker([order.index(attribute) for attribute in sources.values()])
        self._signatures: dict[tuple[type, ...], Signature | None] = {}
        self._made = []
        for name, template in templates.items():
            form, slots = template.of_texts or ("", ())
            if (form, [sources[field] for field, _ in slots]) != ("%s", [name]):  # else it is what it is made of
                self._made.append((name, form, [field for field, _ in slots], [each for each in slots if each[1]]))

    def row(self, item: Item) -> Row | None:
        try:
            values: list[Any] = [item[name]["S"] for name in self._strings]
            "".join(values)
            for name in self._numbers:
                value = number(item[name]["N"])
                if type(value) is not float and not (type(value) is int and -_MAX64 <= value < _MAX64):
                    return None
                values.append(value)
            if sum(map(len, item.values())) != len(item):
                return None
            place = orjson.dumps({name: item[name]["S"] for name in self._key}, option=orjson.OPT_SORT_KEYS).decode()
        except (KeyError, TypeError, ValueError):
            return None  # what a server says that is no item, or an item of other types
        record = dict(zip(self._names, self._pick(values)))
        for name, form, fields, separated in self._made:
            parts = tuple([record[field] for field in fields])
            if any(mark in record[field] for field, mark in separated) or form % parts != item[name]["S"]:
                return None
        row = Row(self._kind, record, None, place)
        types = tuple(map(type, values[len(self._strings) :]))
        if types not in self._signatures:
            self._signatures[types] = Signature.of(record)
        row.signature = self._signatures[types]
        return row


def _attribute(signature: Signature, source: str | Template) -> tuple[Piece, ...]:
    """A value as DynamoDB's JSON."""
    if isinstance(source, Template):
        parts = [
            signature.text(part.name) if isinstance(part, Slot) else orjson.dumps(part)[1:-1] for part in source.parts
        ]
        return b'{"S":"', *parts, b'"}'
    kind = signature.type_of(source)
    if kind is type(None):
        return (b'{"NULL":true}',)
    if kind is bool:
        return b'{"BOOL":', signature.text(source), b"}"
    return b'{"S":"' if kind is str else b'{"N":"', signature.text(source), b'"}'
