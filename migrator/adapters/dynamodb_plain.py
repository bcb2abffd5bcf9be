"""Items of plain records: their JSON, bytes and units, of which the layout knows by the names of the fields how they are made.

What is unusual about one, a key that is long or cannot be made, a size over the limit, is left to `dynamodb_items`, which says what an item is: both
give the same. Knows DynamoDB's JSON. Leaves texts to `plain`, sizes to `dynamodb_values`, and what an attribute means to the layout.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from migrator.adapters.dynamodb_values import ITEM_BYTES, RANGE_BYTES, item_size, number_size
from migrator.keys import Slot, Template
from migrator.layout import PART_MARK, Layout
from migrator.model import Record, Row
from migrator.plain import Pattern, Piece, Signature, Texts


class PlainItem(NamedTuple):
    """An item's JSON, that of the values of its key one behind the other, its bytes, and the units that it takes to write it."""

    json: bytes
    key: bytes
    size: int
    units: int


class PlainItems:
    """The items of a table under a layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._encoders: dict[tuple[str, Signature], _Encoder | None] = {}

    def of(self, row: Row) -> PlainItem | None:
        """The item of a row that has its texts; None where it must be made the general way."""
        if row.texts is None or row.signature is None or row.origin is not None:
            return None
        known = row.kind, row.signature
        try:
            encoder = self._encoders[known]
        except KeyError:
            encoder = self._encoders[known] = _encoder(self._layout, *known)
        return encoder.item(row.record, row.texts) if encoder is not None else None


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
        self._bare = [each.slots[0].name for each in templates if each.slots == each.parts and len(each.slots) == 1]
        self._templates = templates
        self._part_mark = PART_MARK.encode() if layout.has_opaque else None
        self._is_indexed = layout.index is not None and all(name in recipe for name in layout.index[1:] if name)
        self._rest: int | None = None  # what an item takes beside its texts, less what is in the JSON beside them

    def item(self, record: Record, texts: Texts) -> PlainItem | None:
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
        for number in self._numbers:
            size += number_size(texts[number].decode()) - len(texts[number])
        for number in self._booleans:
            size += 1 - len(texts[number])
        if b"\\" in json:
            size += sum(len(record[name].encode()) - len(texts[number]) for number, name in self._strings)
        if self._rest is None:
            self._rest = item_size(orjson.loads(json)) - size
        size += self._rest
        if size > ITEM_BYTES:
            return None
        return PlainItem(json, key, size, -(-size // 1024) * (2 if self._is_indexed else 1))

    def _has_short_keys(self, record: Record) -> bool:
        return all(len(template.fill(record).encode()) <= RANGE_BYTES for template in self._templates)


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
