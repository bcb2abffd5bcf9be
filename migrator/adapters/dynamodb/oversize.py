"""Records that are larger than an item may be: one compressed text, or a head with parts in items of their own; and back.

Only texts of fields that the mapping calls opaque are touched, the largest first, and only where the item is over the limit. A head holds, in the
place of such a text, how many parts there are, how many bytes, and their digest, which is in the parts' keys too: parts of an old and a new text
never lie under one key, and are never taken for each other. Pure: knows items and the layout's keys, and leaves requests to `items` and
the sink.

What is compressed is a gzip stream without name or time. Its bytes are those of the zlib that is installed; the text in it is the same everywhere.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from migrator.adapters.base import too_large
from migrator.adapters.dynamodb.values import ITEM_BYTES, Item, check_item, item_size
from migrator.errors import RecordError
from migrator.layout import PART_MARK, Layout

PART_BYTES = 384 << 10
"""Of UTF-8 in a part, at the most: the rest of the 400 KB is for the longest key. A character is never cut."""

PART = "part"
"""The attribute of a part that holds its text, beside its key."""

_GZIP = b"\x1f\x8b\x08"  # no JSON text begins so
_SHA256 = re.compile("[0-9a-f]{64}")
_HEAD = {"parts", "bytes", "sha256"}
_MEND = "bring it back from a backup, or write the record anew (--existing replace)"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a head says of one text that is in parts: how many, how many bytes together, and the digest of those."""

    sha256: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Packed:
    """An item that is small enough, if anything helps, with what was taken out of it: texts by their digest."""

    item: Item
    texts: dict[str, bytes] = field(default_factory=dict)
    is_compressed: bool = False

    @property
    def form(self) -> str:
        return "split" if self.texts else "compressed" if self.is_compressed else ""


class Oversize:
    """The rule of one table: `way` says what is done when writing; reading understands every form."""

    def __init__(self, layout: Layout, way: str, record_bytes: int) -> None:
        self.layout, self.way, self.record_bytes = layout, way, record_bytes
        self.is_used = layout.has_opaque

    # writing

    def pack(self, kind: str, item: Item) -> Packed:
        """The item as it is stored. Raises RecordError if its key is too long for the parts that it needs."""
        packed = Packed(item)
        spec = self.layout.kinds.get(kind)
        if spec is None or self.way == "reject" or item_size(item) <= ITEM_BYTES:
            return packed
        texts = {name: item[name]["S"].encode() for name in spec.opaque if "S" in item.get(name, {})}
        for name in sorted(texts, key=lambda name: (-len(texts[name]), name)):
            packed = (
                self._compressed(packed, name, texts[name])
                if self.way == "compress"
                else self._split(packed, name, texts[name])
            )
            if item_size(packed.item) <= ITEM_BYTES:
                break
        if packed.texts:
            if spec.request is not None and spec.request.query:
                raise RecordError(
                    "its item is too large, and parts would lie where the application reads; --oversize compress may be enough"
                )
            check_item(next(self.parts(packed)), self.layout.key, None)
        return packed

    def _compressed(self, packed: Packed, name: str, text: bytes) -> Packed:
        return replace(packed, item={**packed.item, name: {"B": compress(text)}}, is_compressed=True)

    def _split(self, packed: Packed, name: str, text: bytes) -> Packed:
        sha256 = hashlib.sha256(text).hexdigest()
        count = sum(1 for _ in _cuts(text))
        head = {"parts": {"N": str(count)}, "bytes": {"N": str(len(text))}, "sha256": {"S": sha256}}
        return replace(packed, item={**packed.item, name: {"M": head}}, texts={**packed.texts, sha256: text})

    def check(self, kind: str, packed: Packed) -> int:
        """The item's bytes. Raises RecordError, with the option that would help, if an item is over a limit, or its key is that of a part."""
        if self.is_part(packed.item):
            raise RecordError(f'its key holds "{PART_MARK}", by which parts of records are told')
        try:
            return check_item(packed.item, self.layout.key, self.layout.index)
        except RecordError as exc:
            spec = self.layout.kinds.get(kind)
            if spec is None or item_size(packed.item) <= ITEM_BYTES:
                raise
            if not spec.opaque:
                raise
            can_split = spec.request is None or not spec.request.query
            if self.way == "reject":
                hint = "--oversize compress" + (" or split" if can_split else "") + " may store it"
            elif self.way == "compress":
                hint = "so it is compressed" + ("; --oversize split stores it in parts" if can_split else "")
            else:
                hint = f"and only {', '.join(spec.opaque)} may be in parts"
            raise RecordError(f"{exc}; {hint}") from exc

    def parts(self, packed: Packed) -> Iterator[Item]:
        """The items of the parts, one at a time: up to 32 MiB of text is cut only as it is sent."""
        key = _plain_key(self.layout, packed.item)
        for sha256, text in packed.texts.items():
            for number, cut in enumerate(_cuts(text), 1):
                yield {**_key_item(self.layout.part_key(key, sha256, number)), PART: {"S": cut.decode()}}

    def sizes(self, packed: Packed) -> list[int]:
        """The bytes of each item: of the head, and of each part."""
        return [item_size(packed.item), *map(item_size, self.parts(packed))]

    # reading

    def form_of(self, item: Item) -> str:
        """Whether an item holds a text that is in parts (`split`) or one that is `compressed`; empty for neither."""
        if self.parts_of(item):
            return "split"
        return "compressed" if any(_is_compressed(item[name]) for name in self._opaque(item)) else ""

    def is_part(self, item: Item) -> bool:
        return self.is_used and self.layout.is_part(_plain_key(self.layout, item))

    def key_of_whole(self, part: Item) -> Item:
        return _key_item(self.layout.key_of_whole(_plain_key(self.layout, part)))

    def parts_of(self, item: Item) -> dict[str, Parts]:
        """The texts of an item that are in parts, by attribute."""
        found = {name: _parts(item[name]) for name in self._opaque(item)}
        return {name: parts for name, parts in found.items() if parts is not None}

    def keys_of(self, item: Item, parts: Parts) -> list[Item]:
        """The keys of a text's parts, in their order."""
        key = _plain_key(self.layout, item)
        return [_key_item(self.layout.part_key(key, parts.sha256, number + 1)) for number in range(parts.count)]

    def has_part(self, head: Item, part: Item) -> bool:
        """Whether a record has an item as its part."""
        key = _plain_key(self.layout, part)
        last = key[self.layout.key[-1]].rpartition("#")[2]
        number = int(last) if last.isdecimal() else 0
        whole = _plain_key(self.layout, head)
        return any(
            1 <= number <= parts.count and self.layout.part_key(whole, parts.sha256, number) == key
            for parts in self.parts_of(head).values()
        )

    def must_fit(self, item: Item) -> None:
        """Raises RecordError if what a head promises is larger than a record may be: before any part is read."""
        size = item_size(item) + sum(parts.size for parts in self.parts_of(item).values())
        if size > self.record_bytes:
            raise RecordError(too_large(size, self.record_bytes))

    def whole(self, item: Item, texts: Mapping[str, list[str | None]]) -> Item:
        """The item as it was before `pack`, from the parts' texts by digest, None for one that is not there.

        Raises RecordError, naming the field and what is wrong.
        """
        whole = dict(item)
        for name in self._opaque(item):
            parts = _parts(item[name])
            if parts is not None:
                whole[name] = {"S": _joined(name, parts, texts[parts.sha256])}
            elif _is_compressed(item[name]):
                whole[name] = {"S": _text(name, decompress(name, item[name]["B"], self.record_bytes))}
        return whole

    def _opaque(self, item: Item) -> list[str]:
        kind = self.layout.kind_of(item) if self.is_used else None
        return [name for name in self.layout.kinds[kind].opaque if name in item] if kind is not None else []


# Texts cross in pairs --------------------------------------------------------------------------------------------------


def compress(text: bytes) -> bytes:
    """A gzip stream with nothing in its head that says when, by whom or on which system it was made."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = packer.compress(text) + packer.flush()
    return data[:9] + b"\xff" + data[10:]


def decompress(name: str, data: bytes, most: int) -> bytes:
    """And back. Raises RecordError, naming the field, for a stream that is damaged, cut or longer than `most` when it is unpacked."""
    unpacker = zlib.decompressobj(31)
    try:
        text = unpacker.decompress(data, most + 1)
    except zlib.error as exc:
        raise RecordError(f"{name} is compressed and damaged; {_MEND}") from exc
    if len(text) > most:
        raise RecordError(f"{name} takes more than {most:,} bytes when it is unpacked, the limit for a record")
    if not unpacker.eof or unpacker.unused_data:
        raise RecordError(f"{name} is compressed and damaged; {_MEND}")
    return text


def _joined(name: str, parts: Parts, texts: list[str | None]) -> str:
    missing = [number for number, text in enumerate(texts, 1) if text is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RecordError(f"part {missing[0]} of {parts.count}{more} of {name} is missing; {_MEND}")
    whole = "".join(text for text in texts if text is not None)
    if hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest() != parts.sha256:
        raise RecordError(f"the parts of {name} have been changed: their digest is another; {_MEND}")
    return whole


def _cuts(text: bytes) -> Iterator[bytes]:
    """UTF-8 in pieces of PART_BYTES, or a few bytes less where a character would be cut."""
    start = 0
    while start < len(text):
        end = start + PART_BYTES
        while end < len(text) and text[end] & 0xC0 == 0x80:  # a byte inside of a character
            end -= 1
        yield text[start:end]
        start = end


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise RecordError(f"{name} holds no text; {_MEND}") from exc


def _parts(attribute: dict[str, Any]) -> Parts | None:
    """What a head says of a text in parts; None for anything else."""
    held = attribute.get("M", {})
    try:
        if held.keys() != _HEAD:
            return None
        size, count, sha256 = int(held["bytes"]["N"]), int(held["parts"]["N"]), held["sha256"]["S"]
        if not -(-size // PART_BYTES) <= count <= -(-size // (PART_BYTES - 3)) or not _SHA256.fullmatch(sha256):
            return None
    except (KeyError, TypeError, ValueError):
        return None
    return Parts(sha256, count, size)


def _is_compressed(attribute: dict[str, Any]) -> bool:
    return bytes(attribute.get("B", b"")).startswith(_GZIP)


def _plain_key(layout: Layout, item: Item) -> dict[str, Any]:
    return {name: item.get(name, {}).get("S", "") for name in layout.key}


def _key_item(key: Mapping[str, str]) -> Item:
    return {name: {"S": text} for name, text in key.items()}
