"""Items of plain records, both ways in few steps: the layout knows by the names of fields and attributes how one is made of the other.

What is unusual about one, a key that is long or not the record's own, a size over the limit, is left to `items`, which says what an item
is: both give the same. Items that are alike are made together, and cut out of the JSON of a page as texts, by an expression made of the names and
types that were met before. Knows DynamoDB's JSON. Leaves texts to `plain`, sizes to `values`, and what an attribute means to the layout.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from operator import add
from typing import Any, NamedTuple, overload

import orjson

from migrator.adapters.dynamodb.oversize import Packed
from migrator.adapters.dynamodb.values import ITEM_BYTES, RANGE_BYTES, Item, item_size, number_size
from migrator.adapters.dynamodb.wire import Unread, read_items
from migrator.keys import Slot, Template
from migrator.layout import PART_MARK, Layout
from migrator.model import Alike, Record, Row
from migrator.plain import Pattern, Piece, Signature, Texts, of_numbers, picker
from migrator.values import number

_SORTS = {"text": "S", "timestamp": "S", "integer": "N", "float": "N", "json": "SN"}
"""By the type of a field, the types of attributes that hold its values as they are."""

_MAX64 = 1 << 63
_ANY = rb'[^"\\\x00-\x1f]*+'
_WANTED = b"(%b)" % _ANY
_CUTTERS = 16  # decoders that look for their items in the text of a page
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


class Stock(Sequence[Stored]):
    """Rows as a table stores them, all without anything beside the item: what `Stored` has of each, part by part."""

    __slots__ = ("jsons", "keys", "sizes", "units")

    def __init__(self, jsons: list[bytes], keys: list[bytes], sizes: list[int], units: list[int]) -> None:
        self.jsons, self.keys, self.sizes, self.units = jsons, keys, sizes, units

    def __len__(self) -> int:
        return len(self.jsons)

    @overload
    def __getitem__(self, number: int) -> Stored: ...

    @overload
    def __getitem__(self, number: slice) -> Stock: ...

    def __getitem__(self, number: int | slice) -> Stored | Stock:
        parts: Any = [part[number] for part in (self.jsons, self.keys, self.sizes, self.units)]
        return Stock(*parts) if isinstance(number, slice) else Stored(*parts)


class PlainItems:
    """The items of a table under a layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._encoders: dict[tuple[str, Signature], _Encoder | None] = {}
        self._decoders: dict[tuple[str, ...], _Decoder | None] = {}
        self._cutters: list[_Decoder] = []

    def of(self, row: Row) -> Stored | None:
        """The item of a row that has its texts; None where it must be made the general way."""
        if row.texts is None or row.signature is None or row.origin is not None:
            return None
        encoder = self._encoder(row.kind, row.signature)
        return encoder.item(row.record, row.texts) if encoder is not None else None

    def makes(self, kind: str, signature: Signature) -> bool:
        """Whether names and types tell how an item is made."""
        return self._encoder(kind, signature) is not None

    def of_all(self, rows: Alike) -> Stock | None:
        """The items of rows that have their texts; None where any of them must be made the general way."""
        encoder = self._encoder(rows.kind, rows.signature)
        return encoder.items(rows) if encoder is not None else None

    def are_small(self, rows: Alike) -> bool:
        """Whether `of_all` would make items, told without making them; False too where only making them tells."""
        encoder = self._encoder(rows.kind, rows.signature)
        return encoder is not None and encoder.are_small(rows)

    def _encoder(self, kind: str, signature: Signature) -> _Encoder | None:
        known = kind, signature
        try:
            return self._encoders[known]
        except KeyError:
            encoder = self._encoders[known] = _encoder(self._layout, *known)
            return encoder

    def row(self, item: Item) -> Row | None:
        """The row that a plain item stands for, which lies where its record belongs; None where it must be read the general way."""
        decoder = self._decoder(tuple(item), item)
        return decoder.row(item) if decoder is not None else None

    def rows(self, items: Sequence[Item]) -> tuple[list[Alike], list[Item]]:
        """The same of many items, those that are alike together, and the items that are left, of which one or the other may be plain."""
        if not isinstance(items, Unread):
            return self._rows(items)
        found: list[Alike] = []
        text = items.text
        for decoder in self._cutters if _is_utf8(text) else ():
            alike, text = decoder.cut(text)
            found += alike
            if text == b"[]":
                return found, []
        more, left = self._rows(read_items(text))
        return found + more, left

    def lie_right(self, items: Sequence[Item], kinds: Container[str]) -> bool:
        """Whether all these items are of these kinds and lie where their records belong, as far as their keys alone tell."""
        if not isinstance(items, Unread):
            return False
        left = items.total
        for decoder in self._cutters:
            if left and decoder.kind in kinds:
                found = decoder.lying_right(items.text)
                if found is None:
                    return False
                left -= found
        return not left

    def _rows(self, items: Iterable[Item]) -> tuple[list[Alike], list[Item]]:
        by_names: dict[tuple[str, ...], list[Item]] = {}
        left: list[Item] = []
        for item in items:
            if type(item) is dict:
                by_names.setdefault(tuple(item), []).append(item)
            else:
                left.append(item)
        found: list[Alike] = []
        for names, some in by_names.items():
            decoder = self._decoder(names, some[0])
            alike = decoder.rows(some) if decoder is not None else None
            if decoder is None or alike is None:
                left += some
                continue
            found += alike
            if decoder not in self._cutters and len(self._cutters) < _CUTTERS:
                self._cutters.append(decoder)
        return found, left

    def _decoder(self, names: tuple[str, ...], item: Item) -> _Decoder | None:
        try:
            return self._decoders[names]
        except KeyError:
            if len(self._decoders) == _DECODERS:
                return None
            decoder = self._decoders[names] = _decoder(self._layout, item)
            return decoder


def _encoder(layout: Layout, kind: str, signature: Signature) -> _Encoder | None:
    """None where names and types do not tell how an item is made."""
    recipe = layout.recipe(kind, signature.names)
    if recipe is None or signature.has_objects or layout.kinds[kind].kind.expires in signature.names:
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

    def are_small(self, rows: Alike) -> bool:
        assert rows.texts is not None
        is_known = self._part_mark is None and self._rest is not None
        return is_known and self._item.longest(rows.texts) <= RANGE_BYTES and self._keeps_apart(rows)

    def _keeps_apart(self, rows: Alike) -> bool:
        """Whether what a key is made of can be told in it again."""
        columns = dict(zip(rows.signature.names, rows.columns))
        if any(mark in "".join(columns[name]) for name, mark in self._separated):  # or where two meet
            return False
        return all(all(columns[name]) for name in self._bare)

    def items(self, rows: Alike) -> Stock | None:
        texts = rows.texts
        assert texts is not None
        if not self._keeps_apart(rows):
            return None
        jsons, keys = self._item.fill_all(texts, len(rows)), self._key.fill_all(texts, len(rows))
        if self._part_mark is not None and any(self._part_mark in key for key in keys):
            return None
        if self._rest is None and self.item(rows[0].record, [column[0] for column in texts]) is None:
            return None
        rest = self._rest
        assert rest is not None
        lengths = [*map(len, jsons)]
        sizes = [length + rest for length in lengths]
        for place in self._numbers:
            sizes = [*map(add, sizes, map(_beyond_its_text, texts[place]))]
        for place in self._booleans:
            sizes = [size + 1 - len(text) for size, text in zip(sizes, texts[place])]
        if b"\\" in b"".join(jsons):
            columns = dict(zip(rows.signature.names, rows.columns))
            for place, name in self._strings:
                sizes = [size + len(v.encode()) - len(t) for size, v, t in zip(sizes, columns[name], texts[place])]
        if max(lengths) > RANGE_BYTES:
            long = [turn for turn, length in enumerate(lengths) if length > RANGE_BYTES]
            if not all(self._has_short_keys(rows[turn].record) for turn in long):
                return None
        if max(sizes) > ITEM_BYTES:
            return None
        each = 2 if self._is_indexed else 1
        units = [-(-size // 1024) * each for size in sizes] if max(sizes) > 1024 else [each] * len(sizes)
        return Stock(jsons, keys, sizes, units)

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
    if any(sorts.get(name) != "S" for name in templates):  # a number in place of a text that we would make
        return None
    return _Decoder(layout, kind, sorts, sources, templates) if len(sorts) == len(item) else None


class _Decoder:
    """Reads the items of one kind with the same names and types. `sources`: of each field, the attribute that holds it; `templates` make the key."""

    def __init__(
        self, layout: Layout, kind: str, sorts: dict[str, str], sources: dict[str, str], templates: dict[str, Template]
    ) -> None:
        self.kind, self._key = kind, layout.key
        self._strings = [name for name, sort in sorts.items() if sort == "S"]
        self._numbers = [name for name, sort in sorts.items() if sort == "N"]
        order = [*self._strings, *self._numbers]
        self._names, self._sources = tuple(sources), sources
        self._pick = picker([order.index(attribute) for attribute in sources.values()])
        self._signatures: dict[tuple[type, ...], Signature | None] = {}
        self._item = _item_expression(sorts, sorts)
        self._fixed = len(orjson.dumps({name: {sort: ""} for name, sort in sorts.items()}))
        self._numbered = [*sorts]
        self._made = []
        for name, template in templates.items():
            form, slots = template.of_texts or ("", ())
            if (form, [sources[field] for field, _ in slots]) != ("%s", [name]):  # else it is what it is made of
                self._made.append((name, form, [field for field, _ in slots], [each for each in slots if each[1]]))
        made = {name: [sources[field] for field in fields] for name, _, fields, _ in self._made}
        telling = {*made, *chain.from_iterable(made.values())}
        self._telling = [name for name in sorts if name in telling]
        self._keyed = _item_expression(sorts, telling)

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
            place = place_text({name: item[name]["S"] for name in self._key})
        except (KeyError, TypeError, ValueError):
            return None  # what a server says that is no item, or an item of other types
        record = dict(zip(self._names, self._pick(values)))
        for name, form, fields, separated in self._made:
            parts = tuple([record[field] for field in fields])
            if any(mark in record[field] for field, mark in separated) or form % parts != item[name]["S"]:
                return None
        row = Row(self.kind, record, None, place)
        types = tuple(map(type, values[len(self._strings) :]))
        if types not in self._signatures:
            self._signatures[types] = Signature.of(record)
        row.signature = self._signatures[types]
        return row

    def rows(self, items: list[Item]) -> list[Alike] | None:
        """What `row` makes of items with the same names; None if it makes nothing of one."""
        try:
            texts = [[item[name]["S"] for item in items] for name in self._strings]
            numbers = [[item[name]["N"] for item in items] for name in self._numbers]
            if sum(map(len, chain.from_iterable(map(dict.values, items)))) != len(items) * len(items[0]):
                return None
            return self._alike(texts, [_numbers(column) for column in numbers])
        except (KeyError, TypeError, ValueError):
            return None

    def cut(self, text: bytes) -> tuple[list[Alike], bytes]:
        """The rows of such items in the JSON of many, which is Unicode, where they need no closer look, and the JSON of the others."""
        found = self._item.findall(text)
        if not found or type(found[0]) is bytes:  # of a single attribute
            return [], text
        alike: list[Alike] = []
        size = 1
        for some in self._by_numbers(found):
            parts = dict(zip(self._numbered, zip(*some)))
            rows = self._cut(parts)
            if rows is None:
                return [], text
            alike.append(rows)
            size += len(some) * (self._fixed + 1) + sum(sum(map(len, part)) for part in parts.values())
        if size == len(text):
            return alike, b"[]"
        ends = [(0, 1), *(each.span() for each in self._item.finditer(text)), (len(text) - 1, 0)]
        gaps = [text[end:start].strip(b", ") for (_, end), (start, _) in pairwise(ends)]
        return alike, b"[%b]" % b",".join(filter(None, gaps))

    def lying_right(self, text: bytes) -> int | None:
        """How many such items are in the JSON of many, if all of them lie where their records belong; nothing else is looked at."""
        if len(self._telling) < 2:
            return None
        found = self._keyed.findall(text)
        parts = dict(zip(self._telling, zip(*found)))
        return len(found) if not found or self._is_as_made(parts) else None

    def _is_as_made(self, parts: Mapping[str, Sequence[bytes]]) -> bool:
        """Whether keys are those that are made of the fields, by the texts of attributes."""
        for name, form, fields, separated in self._made:
            if any(mark.encode() in b"\n".join(parts[self._sources[field]]) for field, mark in separated):
                return False  # there is no line break within a text
            of = form.encode()
            if [of % each for each in zip(*[parts[self._sources[field]] for field in fields])] != [*parts[name]]:
                return False
        return True

    def _by_numbers(self, found: list[tuple[bytes, ...]]) -> Iterable[list[tuple[bytes, ...]]]:
        """Items by the types of their numbers: 1 is an integer, and 0.5 is none."""
        numbers = [self._numbered.index(name) for name in self._numbers]
        points = [b"".join([item[number] for item in found]).count(b".") for number in numbers]
        if all(count in (0, len(found)) for count in points):  # a number has one at the most, or will be none
            return [found]
        groups: dict[tuple[bool, ...], list[tuple[bytes, ...]]] = {}
        for item in found:
            groups.setdefault(tuple([b"." in item[number] for number in numbers]), []).append(item)
        return groups.values()

    def _cut(self, parts: Mapping[str, Sequence[bytes]]) -> Alike | None:
        """Of the texts of each attribute."""
        types = {name: of_numbers([*parts[name]]) for name in self._numbers}
        if None in types.values():
            return None
        lying = {name: parts[name] for name in self._strings}
        texts = {field: parts[attribute] for field, attribute in self._sources.items()}
        if not self._is_as_made(parts):
            return None
        of_fields = tuple([types.get(attribute) or str for attribute in self._sources.values()])
        signature = Signature.known(self._names, of_fields)
        if signature is None:
            return None
        numbered = sorted(texts, key=signature.text)
        columns = [[*texts[field]] for field in numbered]
        place_of = partial(self._place_of_texts, [lying[name] for name in self._key])
        return Alike(self.kind, signature, signature.of_texts(columns), place_of, texts=columns)

    def _place_of_texts(self, keys: list[Sequence[bytes]], number: int) -> str:
        return place_text({name: column[number].decode() for name, column in zip(self._key, keys)})

    def _alike(self, texts: list[list[str]], numbers: list[list[Any]]) -> list[Alike] | None:
        """Of the values of each attribute. Raises TypeError or ValueError for what is no text."""
        if not texts[0]:
            return []
        types = [tuple(map(type, column)) for column in numbers]
        if any(len({*column}) > 1 for column in types):
            return self._by_types(texts, numbers, [*zip(*types)])
        lying = dict(zip(self._strings, texts))
        for name, column in lying.items():
            together = "".join(column)
            if name in self._key:
                together.encode()
        columns = dict(zip(self._names, self._pick([*texts, *numbers])))
        for name, form, fields, separated in self._made:
            if any(mark in value for field, mark in separated for value in columns[field]):
                return None
            if [form % parts for parts in zip(*[columns[field] for field in fields])] != lying[name]:
                return None
        signature = Signature.known(self._names, tuple([type(column[0]) for column in columns.values()]))
        if signature is None:
            return None
        place_of = partial(self._place, [lying[name] for name in self._key])
        return [Alike(self.kind, signature, [*columns.values()], place_of)]

    def _by_types(
        self, texts: list[list[str]], numbers: list[list[Any]], types: list[tuple[type, ...]]
    ) -> list[Alike] | None:
        """The same, where 1 is an integer and 0.5 is none."""
        found: list[Alike] = []
        for some in dict.fromkeys(types):
            which = [number for number, each in enumerate(types) if each == some]
            parts = [[[column[number] for number in which] for column in columns] for columns in (texts, numbers)]
            alike = self._alike(*parts)
            if alike is None:
                return None
            found += alike
        return found

    def _place(self, keys: list[list[str]], number: int) -> str:
        return place_text(dict(zip(self._key, [column[number] for column in keys])))


def _item_expression(sorts: dict[str, str], wanted: Container[str]) -> re.Pattern[bytes]:
    """What finds items that have these attributes of these types, in this order, and the texts of those that are wanted.

    None of their texts has a character that is written as an escape. What is found is an item, for no other object ends so within a list.
    """
    attributes = [
        rb'%b:\{"%b":"%b"\}' % (re.escape(orjson.dumps(name)), sort.encode(), _WANTED if name in wanted else _ANY)
        for name, sort in sorts.items()
    ]
    return re.compile(rb"\{%b\}(?=[],])" % b",".join(attributes))


def _is_utf8(text: bytes) -> bool:
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


@lru_cache(4096)
def _beyond_its_text(text: bytes) -> int:
    """How many bytes more than its text a number takes."""
    return number_size(text.decode()) - len(text)


def _numbers(texts: list[str]) -> list[Any]:
    """What `number` gives of each. Raises ValueError where it does, or gives a number that is no signature's."""
    together = "".join(texts)
    if "e" not in together and "n" not in together:  # as 1e+16 and nan
        floats = [*map(float, texts)]
        if [*map(repr, floats)] == texts:
            return floats
    values = [*map(number, texts)]
    if not all(type(value) is float or (type(value) is int and -_MAX64 <= value < _MAX64) for value in values):
        raise ValueError
    return values


def place_text(key: dict[str, str]) -> str:
    """A key as canonical JSON text. Raises TypeError for a lone surrogate, which only emulators let in."""
    return orjson.dumps(key, option=orjson.OPT_SORT_KEYS).decode()


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
