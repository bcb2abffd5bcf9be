"""Records as lines and entries of JSON text, and back.

Knows what a line of JSON Lines is, and what an entry of a map. Leaves files to `source` and `sink`, and where a value ends to `text`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from migrator.adapters.jsonfile.text import parsed
from migrator.errors import RecordError
from migrator.kind_layout import KindLayout
from migrator.layout import Layout
from migrator.model import FOREIGN, UNKNOWN_KIND, Alike, Foreign, Origin, Record, Reject, Row, some_names
from migrator.plain import Pattern, Signature
from migrator.values import AROUND, Value, is_too_deep, to_json, to_plain_json

ALL = ("line",)  # of what was too large to be kept
WANTED = 'a line is {"kind": …, "record": {…}}'


def to_line(layout: Layout, is_document: bool, row: Row) -> bytes:
    """The text of a row. ValueError where JSON cannot hold it, RecordError where the layout cannot."""
    held = layout.write(row)
    if layout.map:
        return to_entry(layout.map, held)
    if is_document:
        return to_json(held)
    if row.kind == FOREIGN:
        ghost = {"ghost": True} if row.origin else {}
        return to_json({"kind": UNKNOWN_KIND, "record": held, "foreign": True, **ghost, "place": row.place}) + b"\n"
    line: Record = {"kind": row.kind, "record": held}
    if row.origin is not None:
        line["origin"] = row.origin.to_plain()
    return to_json(line) + b"\n"


class PlainLines:
    """What `to_line` makes of plain rows, in few steps."""

    def __init__(self, layout: Layout, is_document: bool) -> None:
        self._layout, self._is_document = layout, is_document
        self._patterns: dict[tuple[str, Signature], Pattern | None] = {}

    def of(self, row: Row) -> bytes | None:
        """The text of a row that has its texts, and that `Layout.fit` leaves as it is; None where it must be made the general way."""
        if row.texts is None or row.signature is None or row.origin is not None:
            return None
        pattern = self._known(row.kind, row.signature)
        return pattern.fill(row.texts) if pattern is not None else None

    def makes(self, kind: str, signature: Signature) -> bool:
        """Whether names and types tell the text of a row."""
        return self._known(kind, signature) is not None

    def of_all(self, rows: Alike) -> list[bytes] | None:
        """The texts of rows that have theirs, in the same way."""
        pattern = self._known(rows.kind, rows.signature)
        return pattern.fill_all(rows.texts, len(rows)) if pattern is not None and rows.texts is not None else None

    def longest(self, rows: Alike) -> float:
        """Bytes that none of these texts goes beyond; infinite where there are none."""
        pattern = self._known(rows.kind, rows.signature)
        return pattern.longest(rows.texts) if pattern is not None and rows.texts is not None else math.inf

    def _known(self, kind: str, signature: Signature) -> Pattern | None:
        known = kind, signature
        if known not in self._patterns:
            self._patterns[known] = self._pattern(kind, signature)
        return self._patterns[known]

    def _pattern(self, kind: str, signature: Signature) -> Pattern | None:
        recipe = self._layout.recipe(kind, signature.names)
        if recipe is None or self._layout.map:
            return None
        fields = {name: source for name, source in recipe.items() if isinstance(source, str)}
        if len(fields) < len(recipe):
            return None
        held = signature.object(fields.items())
        return Pattern(held if self._is_document else (b'{"kind":', to_json(kind), b',"record":', *held, b"}\n"))


def from_line(layout: Layout, line: bytes, place: str) -> Row | Foreign | Reject:
    """And back. Raises Broken if the line is no JSON."""
    try:
        held = parsed(line)
    except RecordError as exc:
        held = _deep(line)
        if held is None:
            return Reject(UNKNOWN_KIND, place, str(exc), as_text(line))
    if not is_line(held):
        return Reject(UNKNOWN_KIND, place, WANTED, held if isinstance(held, dict) else {"value": held})
    record, origin = held["record"], held.get("origin")
    kind = held["kind"] if held["kind"] in layout.kinds else UNKNOWN_KIND  # a name that is shown is the mapping's
    if held.get("omitted"):
        return _not_whole(kind, held, place)
    if held.get("foreign") is True:
        return Foreign(str(held.get("place", place)), held.get("ghost") is True, record)
    if origin is not None:
        try:
            origin = Origin.from_plain(origin)
        except ValueError as exc:
            return Reject(kind, place, str(exc), record)
    return layout.read(record, place, held["kind"], origin)


def _deep(line: bytes) -> Value:
    """A line that is nested too deep, though nothing in its record is; else None."""
    with suppress(RecordError):
        held = parsed(line, around=AROUND)
        if is_line(held) and not is_too_deep(line, held["record"], 1) and not is_too_deep(line, held.get("origin"), 2):
            return held
    return None


def to_entry(mapped: KindLayout, held: Record) -> bytes:
    """The text of an entry of a map, as Python's `json.dump` indents it."""
    name, value = mapped.map
    if not isinstance(held.get(name), str):
        raise RecordError(f"{name} is no text, and the document is a map of it")
    if held[name] in mapped.excepted:
        raise RecordError(f'{name} is "{held[name]}", a name by which the document would not be taken for a map')
    if value not in held:
        raise RecordError(f"{value} is absent, and the document is a map to it")
    try:
        return to_plain_json({held[name]: held[value]})[2:-2]  # without the braces on lines of their own
    except ValueError as exc:
        raise RecordError(f"{value} {exc}") from exc


def from_entry(mapped: KindLayout, text: bytes) -> Record:
    """And back."""
    return dict(zip(mapped.map, *parsed(b"{%b}" % text, plain=True, around=1).items(), strict=True))


def entries_in(file: BinaryIO) -> Iterator[bytes]:
    """The entries of a part: whatever is in one is indented deeper than its name."""
    entry: list[bytes] = []
    for line in file:
        if entry and line.startswith(b'  "'):
            yield b"".join(entry)
            entry = []
        entry.append(line)
    if entry:
        yield b"".join(entry)


def _not_whole(kind: str, held: Record, place: str) -> Reject:
    """A line of a rejects file whose record was too large to be kept in it."""
    names = tuple(str(name) for name in held["omitted"]) if isinstance(held["omitted"], list) else ALL
    reason = f"is not whole: {some_names(names)} was too large to be kept here; take it from the store it came from"
    return Reject(kind, place, reason, held["record"], omitted=names)


def is_line(held: Value) -> bool:
    return type(held) is dict and type(held.get("kind")) is str and type(held.get("record")) is dict


def as_text(text: bytes) -> Record:
    """What a reject holds of a text that is no record: all of it."""
    try:
        return {"line": text.decode().rstrip("\r\n")}
    except UnicodeDecodeError:
        return {"line": text}
