"""What an item of one table is as a row: read, made whole from its parts, and looked up by key.

Knows how a text in parts is fetched, and what to make of a part whose record is not there. Leaves forms and keys of parts to
`oversize`, how a request gets through to `requests`. Knows no scan, no slice and no writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from migrator.adapters.base import Setting
from migrator.adapters.dynamodb.oversize import PART, PART_BYTES, Oversize
from migrator.adapters.dynamodb.plain import PlainItems, Stored
from migrator.adapters.dynamodb.requests import Table
from migrator.adapters.dynamodb.values import Item, from_item, item_size, to_item, write_units
from migrator.adapters.dynamodb.wire import item_json, key_json
from migrator.errors import RecordError
from migrator.layout import Layout
from migrator.model import UNKNOWN_KIND, Foreign, Record, Reject, Row
from migrator.values import canonical

FETCH_KEYS = 100

_PARTS = 16  # parts in a request: an answer holds 16 MB
_LOOKS = 3  # a record that changes more often than that while its parts are read is given up


class Items:
    """The items of a table under a layout. Safe to use from several threads."""

    def __init__(self, table: Table, setting: Setting) -> None:
        self.table, self.layout = table, setting.layout
        self.oversize = Oversize(setting.layout, setting.oversize, setting.record_bytes)
        self.plain = PlainItems(setting.layout)

    def stored(self, row: Row) -> Stored:
        """Raises RecordError if there is no item for it, or none that a table takes."""
        packed = self.oversize.pack(row.kind, to_item(self.layout.write(row)))
        size = self.oversize.check(row.kind, packed)
        key = key_json(packed.item, self.layout.key)
        return Stored(item_json(packed.item), key, size, write_units(packed.item, size, self.layout.index), packed)

    def fetch(self, keys: list[Item], each: float | None = None) -> Iterator[Item]:
        """What lies under these keys, consistently read, in any order. Raises NoTable where there is none.

        each: the read units that one takes, where it is known to be large.
        """
        reads, start = self.table.reads, 0
        while start < len(keys):
            if each is None:
                end = start + reads.fitting("batch_get_item", FETCH_KEYS)
            else:
                end = start + max(1, int(min(_PARTS, reads.burst / each)))
            some, start = keys[start:end], end
            request = {self.table.name: {"Keys": some, "ConsistentRead": True}}
            units = None if each is None else each * len(some)
            for answer in self.table.batches("batch_get_item", request, units=units):
                yield from answer["Responses"].get(self.table.name, ())

    def read_all(self, items: list[Item]) -> Iterator[tuple[Item, Row | Foreign | Reject, int]]:
        """What these items stand for, in their order, each with the bytes it takes. Parts belong to their records and are left out.

        A part that no record has any more comes as a ghost: a run that was ended by force has left it.
        """
        if not self.oversize.is_used:
            for item in items:
                plain = self.plain.row(item) if type(item) is dict else None
                yield item, plain or read_item(self.layout, item), 0
            return
        broken = [not _is_item(item) for item in items]
        ghosts = self._ghosts([item for item, is_broken in zip(items, broken) if not is_broken])
        for item, is_broken in zip(items, broken):
            if is_broken:
                yield item, read_item(self.layout, item), 0
                continue
            if self.oversize.is_part(item):
                place = place_of(only(self.layout.key, item))
                if place in ghosts:
                    yield item, Foreign(place, True, _held(item)), item_size(item)
                continue
            found = self.read(item)
            if found is not None:
                yield item, found, sum(parts.size for parts in self.oversize.parts_of(item).values())

    def read(self, item: Item) -> Row | Foreign | Reject | None:
        """The row that an item stands for, its parts fetched; None if it has gone while they were."""
        try:
            whole = self._whole(item)
        except RecordError as exc:
            place = place_of(only(self.layout.key, item))
            return Reject(self.layout.kind_of(item) or UNKNOWN_KIND, place, str(exc), _held(item))
        return read_item(self.layout, whole) if whole is not None else None

    def held(self, wanted: Row, item: Item) -> Row:
        """What is held at a row's place, as a row, whatever it is: an item of no kind comes as the kind wanted, with all its attributes."""
        found = self.read(item)
        if isinstance(found, Row):
            return found
        return Row(wanted.kind, found.held if found else _held(item), None, place_of(only(self.layout.key, item)))

    def _whole(self, item: Item) -> Item | None:
        """Raises RecordError if a part is missing or changed, and the record is still the one that has it."""
        for _ in range(_LOOKS):
            self.oversize.must_fit(item)
            try:
                return self.oversize.whole(item, self._texts(item))
            except RecordError:
                if not self.oversize.parts_of(item):
                    raise
                now = next(self.fetch([only(self.layout.key, item)]), None)
                if now == item:
                    raise
                if now is None:
                    return None
                item = now
        raise RecordError("it changes faster than its parts can be read; run again")

    def _texts(self, item: Item) -> dict[str, list[str | None]]:
        """The texts of the parts that a head names, by digest; None for one that is not there, or is none."""
        texts: dict[str, list[str | None]] = {}
        for parts in self.oversize.parts_of(item).values():
            keys = self.oversize.keys_of(item, parts)
            places = [place_of(key) for key in keys]
            found = {
                place_of(only(self.layout.key, part)): part.get(PART, {}).get("S")
                for part in self.fetch(keys, PART_BYTES / 4096)
            }
            texts[parts.sha256] = [found.get(place) for place in places]
        return texts

    def _ghosts(self, items: list[Item]) -> set[str]:
        """The places of those parts among these items that no record has. Records that are not among them are looked up."""
        parts: dict[str, list[Item]] = {}
        for item in items:
            if self.oversize.is_part(item):
                parts.setdefault(place_of(self.oversize.key_of_whole(item)), []).append(item)
        if not parts:
            return set()
        heads = {place: item for item in items if (place := place_of(only(self.layout.key, item))) in parts}
        unseen = [self.oversize.key_of_whole(some[0]) for place, some in parts.items() if place not in heads]
        possible = [key for key in unseen if all(text["S"] for text in key.values())]  # no record has an empty key
        heads |= {place_of(only(self.layout.key, item)): item for item in self.fetch(possible)}
        return {
            place_of(only(self.layout.key, part))
            for place, some in parts.items()
            for part in some
            if place not in heads or not self.oversize.has_part(heads[place], part)
        }

    def keys_of_parts(self, item: Item) -> list[Item]:
        """The keys of all parts that an item names; none where it promises more than a record may be."""
        named = self.oversize.parts_of(item).values()
        return [
            key
            for parts in named
            if parts.size <= self.oversize.record_bytes
            for key in self.oversize.keys_of(item, parts)
        ]


def read_item(layout: Layout, item: Item) -> Row | Foreign | Reject:
    """The row that one item by itself stands for."""
    try:
        held = from_item(item)
    except ValueError:
        return Reject(UNKNOWN_KIND, _place_of_any(layout, item), "holds a value that is none of DynamoDB's", {})
    return layout.read(held, place_of(only(layout.key, item)))


def _place_of_any(layout: Layout, item: Any) -> str:
    """The key of an item that is broken, as far as it has one."""
    with suppress(ValueError, AttributeError, TypeError):
        return place_of(only(layout.key, item))
    return "an item without a key"


def only(names: tuple[str, ...], held: dict[str, Any]) -> dict[str, Any]:
    return {name: held[name] for name in names if name in held}


def place_of(key: Item) -> str:
    """A key as canonical JSON text, for people and for the order of duplicates."""
    plain = {name: held for name, attribute in key.items() for held in attribute.values()}
    try:
        return canonical(plain).decode()
    except ValueError:
        return json.dumps(plain, sort_keys=True)  # a lone surrogate, which only emulators let in


def _is_item(item: Any) -> bool:
    try:
        from_item(item)
    except ValueError:
        return False
    return True


def _held(item: Item) -> Record:
    """As far as it can be read."""
    try:
        return from_item(item)
    except ValueError:
        return {}
