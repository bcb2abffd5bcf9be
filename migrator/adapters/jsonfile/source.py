"""Reads JSON files: as a source of one moment, and what is staged of a file that is written.

A file is known by its Stamp: one that changes while it is read stops the run. Leaves a line or an entry to `rows`, the parts to `parts`, where
a JSON value ends and what it is to `text`, compression to `packing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from migrator.adapters.base import (
    PAGE_BYTES,
    PAGE_ROWS,
    Reader,
    Setting,
    is_full,
    rejected,
    too_large,
)
from migrator.adapters.jsonfile.errors import sorted_errors
from migrator.adapters.jsonfile.parts import Part, parts_in
from migrator.adapters.jsonfile.rows import ALL, PlainLines, as_text, entries_in, from_entry, from_line, to_line
from migrator.adapters.jsonfile.text import Broken, Entries, Found, Proof, Scanner, parsed
from migrator.adapters.packing import (
    CHUNK,
    PLAIN,
    compression_of,
    go_to,
    line_at,
    line_from,
    next_line,
    opened,
)
from migrator.errors import ConfigError, RecordError, StoreError
from migrator.kind_layout import KindLayout
from migrator.layout import Reading
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Address,
    Alike,
    Cursor,
    Foreign,
    Holdings,
    Page,
    Partition,
    Record,
    Reject,
    Row,
    Snapshot,
    Weight,
    counted,
)
from migrator.values import AROUND, Value, canonical

_PARTITION_BYTES = 4 << 20  # a smaller file is not worth a second worker
_ALIKE_ROWS = 100  # that are read together: a page may end behind them
_ALIKE_BYTES = PAGE_BYTES // 4
_Any = TypeVar("_Any")
_Item = tuple[Row | Alike | Foreign | Reject, Cursor, int]
"""What was read, the cursor behind it, and its size in bytes. No more than _ALIKE_ROWS rows are alike."""


_proofs: WeakValueDictionary[tuple[str, Stamp, int], Proof] = WeakValueDictionary()
"""Of maps that have been read through in this process, by what they are and the size of a record that is too large. Gone with the reader who did."""


def is_document(address: Address) -> bool:
    return address.store == "json"


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a file is known to be the same."""

    inode: int
    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> Stamp | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        return Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _goes_with(item: Row | Alike | Foreign | Reject, page: Page) -> bool:
    """Whether an item may be on a page: what is alike has room on it, and rows are of one sort, for else they would not stay in their order."""
    if isinstance(item, Alike):
        return page.count + len(page.rejects) + len(item) <= PAGE_ROWS and page.count == sum(map(len, page.alike))
    return not (page.alike and isinstance(item, Row))


class JsonReader(Reader):
    """What a file and its staged parts have in common."""

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(setting)
        self.address = address
        self.is_document = is_document(address)
        self.loses = frozenset({"origins"}) if self.is_document else frozenset()
        self.holds_foreign = not self.is_document
        self._plain = PlainLines(self.layout, self.is_document)

    def guarantees(self, kind: str) -> bool:
        return False

    def holds(self, kinds: Sequence[str]) -> Holdings:
        for partition in self.partitions(kinds, 1):
            for page in self.pages(partition, None):
                if page.rejects or (page.foreign and FOREIGN in kinds) or any(row.kind in kinds for row in page.rows):
                    hint = self.size_hint()
                    return Holdings(True, f"~{counted(hint)}" if hint else "holds records")
        return Holdings(False, "no records of these kinds")

    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        raise StoreError(f"{self.address.text}: a file is compared as a whole; nothing can be looked up in it")

    def apart(self, row: Row) -> bytes:
        """Lines have room for every key that a record had (H3); a document has not."""
        return b"" if self.is_document or row.origin is None else canonical([row.origin.layout, row.origin.set])

    def fit(self, row: Row) -> Row | Reject:
        try:
            line = self._plain.of(row)
            fitted = row if line is not None else self.layout.fit(row, self.setting.unknown_fields)
            if line is None:
                line = to_line(self.layout, self.is_document, fitted)
            if len(line) > self.setting.record_bytes:
                raise RecordError(too_large(len(line), self.setting.record_bytes))
            fitted.encoded = line
        except (RecordError, ValueError, RecursionError) as exc:
            return rejected(row, str(exc))
        return fitted

    def fits_alike(self, rows: Alike) -> bool:
        return self._plain.makes(rows.kind, rows.signature)

    def fit_alike(self, rows: Alike) -> bool:
        lines = self._plain.of_all(rows)
        if lines is None or max(map(len, lines)) > self.setting.record_bytes:
            return False
        rows.encoded = lines
        return True

    def would_fit_alike(self, rows: Alike) -> bool:
        return self._plain.longest(rows) <= self.setting.record_bytes or self.fit_alike(rows)

    def weigh(self, row: Row) -> Weight:
        return Weight(len(row.encoded or to_line(self.layout, self.is_document, row)) + 1)

    def _paged(self, items: Iterator[_Item]) -> Iterator[Page]:
        """Pages of items; the file must be the same before and behind each."""
        self._check()
        page, size = Page([], None), 0
        for item, cursor, taken in self._sorted(items):
            if page.cursor is not None and not _goes_with(item, page):
                self._check()
                yield page
                self._check()
                page, size = Page([], None), 0
            page.add(item)
            page.cursor, size = cursor, size + taken
            if is_full(page, size):
                self._check()
                yield page
                self._check()
                page, size = Page([], None), 0
        self._check()
        if page.cursor is not None:
            yield page

    def _sorted(self, items: Iterator[_Any]) -> Iterator[_Any]:
        try:
            with sorted_errors(Path(self.address.name)):
                yield from items
        except StoreError:
            self._check()  # a file that its application rewrites meanwhile looks broken, and is not
            raise

    def _check(self) -> Stamp | None:
        """Raises StoreError if what is read has changed meanwhile."""
        return None


class FileReader(JsonReader):
    """A file, at one moment: inode, size and time are checked all along. One that is not there is empty."""

    def __init__(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> None:
        super().__init__(address, setting)
        self.path = Path(address.name)
        self._held = Stamp(**snapshot.spec) if snapshot else None
        self._proof: Proof | None = None
        self._known = (0, 1)  # an offset and its line: looking a line number up goes on from here
        self._kind_of = {each.collections[0]: name for name, each in self.layout.kinds.items() if each.collections}

    def snapshot(self) -> Snapshot:
        with sorted_errors(self.path):
            self._held = stamp = Stamp.of(self.path)
        if stamp is None:
            raise ConfigError(f"{self.path}: no such file; check the path")
        moment = datetime.fromtimestamp(stamp.mtime_ns // 10**9, UTC).isoformat()
        words = f"{self.path.name}, last written {moment}, {stamp.size:,} bytes"
        return Snapshot(f"{stamp.inode}-{stamp.size}-{stamp.mtime_ns}", moment, words, asdict(stamp))

    def is_still(self, snapshot: Snapshot) -> bool:
        with sorted_errors(self.path):
            return Stamp.of(self.path) == Stamp(**snapshot.spec)

    def guarantees(self, kind: str) -> bool:
        """A map with a name twice is no map: reading it says so, and where. In other forms an identity may be there twice."""
        mapped = self.layout.map
        return mapped is not None and mapped.kind.name == kind and mapped.kind.identity == mapped.map[:1]

    def repeated(self, kinds: Sequence[str], partition: Partition | None = None) -> Iterator[Row]:
        """As `Source`; a map is read through all the same: what is broken in it must be found before the first write (H40)."""
        if not any(map(self.guarantees, kinds)):
            yield from super().repeated(kinds, partition)
            return
        stamp, proof = self._check(), Proof()
        for found in self._sorted(self._proving(proof)):
            self._from_item(found)
        if self._check() is not None and stamp is not None:
            self._proof = _proofs[str(self.path), stamp, self.setting.record_bytes] = proof

    def partitions(self, kinds: Sequence[str], wanted: int) -> list[Partition]:
        stamp = self._check()
        if stamp is None or not stamp.size:
            return []
        if self.is_document or compression_of(self.path) is not PLAIN:
            return [Partition("0000", {"start": 0, "end": None}, sequential=True)]
        parts = max(1, min(wanted, stamp.size // _PARTITION_BYTES))
        borders = [stamp.size * part // parts for part in range(parts + 1)]
        return [Partition(f"{n:04}", {"start": borders[n], "end": borders[n + 1]}) for n in range(parts)]

    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        return self._paged(self._items(after) if self.is_document else self._lines(partition, after))

    def size_hint(self) -> int | None:
        if self.is_document or compression_of(self.path) is not PLAIN or not (stamp := self._check()):
            return None
        with sorted_errors(self.path), self.path.open("rb") as file:
            beginning = file.read(CHUNK)
        return stamp.size * beginning.count(b"\n") // len(beginning) if beginning else 0

    def _lines(self, partition: Partition, after: Cursor) -> Iterator[_Item]:
        """The lines that start in the partition. Cursors are offsets in the (decompressed) text."""
        end, limit = partition.spec["end"], self.setting.record_bytes
        with opened(self.path) as file:
            at = began = line_from(file, partition.spec["start"]) if after is None else go_to(file, after)
            number = -1  # of lines since `began`
            while end is None or at < end:
                line, size = next_line(file, limit)
                if not size:
                    return
                start, at, number = at, at + size, number + 1
                place = f"byte {start}"
                if line is None:
                    place += f", line {self._line_at(began) + number}"
                    yield Reject(UNKNOWN_KIND, place, too_large(size, limit), omitted=ALL), at, 0
                elif not line.isspace():
                    try:
                        item = from_line(self.layout, line, place)
                    except Broken as exc:
                        item = Reject(
                            UNKNOWN_KIND,
                            place,
                            f"not JSON from byte {start + exc.offset} on: {exc.reason}",
                            as_text(line),
                        )
                    if isinstance(item, Reject):
                        item = replace(item, place=f"{place}, line {self._line_at(began) + number}")
                    yield item, at, size

    def _proving(self, proof: Proof) -> Iterator[Found]:
        with opened(self.path) as file:
            yield from Scanner(file, self.setting.record_bytes).prove(proof)

    def _items(self, after: Cursor) -> Iterator[_Item]:
        """The records of a document. A cursor is the number of those before it."""
        first = after or 0
        with opened(self.path) as file:
            scanner = Scanner(file, self.setting.record_bytes)
            if self.layout.map is not None:
                yield from self._entries(self.layout.map, scanner, first)
                return
            for number, found in enumerate(scanner.items(), 1):
                if number > first:
                    yield self._from_item(found), number, len(found.text or b"")

    def _entries(self, mapped: KindLayout, scanner: Scanner, first: int) -> Iterator[_Item]:
        """The records of a map that are behind the `first`, in their order; objects that read plain, several together."""
        reading = self.layout.reading(mapped.kind.name, mapped.map)
        waiting: list[tuple[str, Value]] = []
        number = size = 0  # of records so far, and the bytes of those that wait
        for found in scanner.entries(self._known_proof()):
            entries = [*found.values.items()] if isinstance(found, Entries) else []
            count = len(entries) or 1
            entries = entries[max(0, first - number) :]
            behind, number = number, number + count
            if number <= first:
                continue
            if isinstance(found, Entries) and found.is_plain and all(type(held) is dict for _, held in entries):
                waiting += entries
                size += found.size * len(entries) // count
                if len(waiting) < _ALIKE_ROWS and size < _ALIKE_BYTES:
                    continue
                behind, entries = number, []
            yield from self._together(reading, waiting, behind, size)
            waiting, size = [], 0
            if isinstance(found, Found):
                yield self._from_item(found), number, len(found.text or b"")
            else:
                yield from self._apart(reading, entries, number, found.size // count)
        yield from self._together(reading, waiting, number, size)

    def _together(self, reading: Reading, entries: list[tuple[str, Value]], number: int, size: int) -> Iterator[_Item]:
        """Objects that read plain, up to record `number`."""
        first = number - len(entries)
        for start in range(0, len(entries), _ALIKE_ROWS):
            some = entries[start : start + _ALIKE_ROWS]
            names, values = zip(*some)
            end, share = first + start + len(some), size * len(some) // len(entries)
            alike = reading.alike((names, values), (str, dict), names.__getitem__, read_plain=True)
            if alike is not None:
                yield alike, end, share
                continue
            for row, cursor, each in self._apart(reading, some, end, share // len(some)):
                if isinstance(row, Row):
                    row.is_plain = True
                yield row, cursor, each

    def _apart(self, reading: Reading, entries: list[tuple[str, Value]], number: int, share: int) -> Iterator[_Item]:
        """Each by itself, up to record `number`; of so many bytes."""
        for cursor, (name, held) in enumerate(entries, number - len(entries) + 1):
            yield reading.row((name, held), (str, type(held)), name), cursor, share

    def _known_proof(self) -> Proof | None:
        if self._held is None:
            return None
        return _proofs.get((str(self.path), self._held, self.setting.record_bytes))

    def _from_item(self, found: Found) -> Row | Foreign | Reject:
        mapped = self.layout.map
        kind = mapped.kind.name if mapped else self._kind_of.get(found.key, UNKNOWN_KIND)
        place = f"{found.key}[{found.position}]" if found.position is not None else found.key
        named: Record = {mapped.map[0]: found.key} if mapped else {}
        if found.text is None:
            return Reject(kind, place, too_large(found.size, self.setting.record_bytes), named, omitted=ALL)
        try:
            held = parsed(found.text, plain=mapped is not None, around=int(mapped is None and found.text[:1] == b"{"))
        except Broken as exc:
            raise Broken(found.offset + exc.offset, exc.reason) from exc
        except RecordError as exc:
            where = f"it begins at byte {found.offset}, line {self._line_at(found.offset)}"
            return Reject(kind, place, f"{exc} ({where})", named | as_text(found.text))
        if mapped:
            return self.layout.read(named | {mapped.map[1]: held}, place, kind)
        if kind == UNKNOWN_KIND:
            return Foreign(place, held=held if isinstance(held, dict) else {"value": held})
        if found.position is None:
            return Reject(kind, place, f'"{found.key}" is no array of records', {"value": held})
        if not isinstance(held, dict):
            return Reject(kind, place, "a record is an object of fields", {"value": held})
        return self.layout.read(held, place, kind)

    def _line_at(self, offset: int) -> int:
        self._known = line_at(self.path, offset, self._known)
        return self._known[1]

    def _check(self) -> Stamp | None:
        with sorted_errors(self.path):
            now = Stamp.of(self.path)
        if self._held is None:
            self._held = now
        elif now != self._held:
            raise StoreError(f"{self.path}: changed while being read; run again with --restart")
        return now


class StagedReader(JsonReader):
    """The parts that are staged for a file: what it will hold."""

    def __init__(self, address: Address, setting: Setting, staging: Path) -> None:
        super().__init__(address, setting)
        self.staging = staging

    def snapshot(self) -> Snapshot:
        return Snapshot("staged", None, f"what is staged for {self.address.name}")

    def partitions(self, kinds: Sequence[str], wanted: int) -> list[Partition]:
        parts = parts_in(self.staging, self.layout)
        groups = max(1, min(wanted, len(parts)))
        borders = [len(parts) * group // groups for group in range(groups + 1)]
        return [
            Partition(f"{n:04}", {"from": list(parts[first].rank), "to": list(parts[last - 1].rank)})
            for n, (first, last) in enumerate(pairwise(borders))
            if first < last
        ]

    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        return self._paged(self._staged(partition.spec, after))

    def _staged(self, spec: dict[str, Any], after: Cursor) -> Iterator[_Item]:
        """A cursor is a part and the number of its lines, or entries, that were read."""
        first, done = (tuple(after["part"]), after["line"]) if after else (tuple(spec["from"]), 0)
        for part in parts_in(self.staging, self.layout):
            if not first <= part.rank <= tuple(spec["to"]):
                continue
            with opened(part.path, compression_of(Path(self.address.name))) as file:
                for number, line in enumerate(entries_in(file) if self.layout.map else file, 1):
                    if part.rank > first or number > done:
                        place = f"{part.path.name} line {number}"
                        yield self._from_staged(part, line, place), {"part": list(part.rank), "line": number}, len(line)

    def _from_staged(self, part: Part, line: bytes, place: str) -> Row | Foreign | Reject:
        if not self.is_document:
            return from_line(self.layout, line, place)
        text = line.strip().removesuffix(b",")
        return self.layout.read(
            from_entry(self.layout.map, text) if self.layout.map else parsed(text, around=AROUND), place, part.kind
        )
