"""Reads and writes files: JSON Lines and one JSON document, plain or compressed.

JSON Lines hold a record a line, `{"kind": "fact", "record": {...}, "origin": {...}}`; other keys of a line are ignored, so that a
rejects file is a source too. A document is `{"facts": [{...}, ...], ...}`, with the names that the layout gives its collections, or, where
the layout says so, a map `{"id": ..., ...}` of an application's own: each entry is a record, in plain JSON without tags.

A file that is written is whole or absent: each slice is a part of its own in a staging folder beside it, `publish` joins the parts and
renames. Parts are compressed one by one, for gzip members and zstd frames that follow each other are one valid file. What the sink file
was before the run, and what it was published as, is remembered in the run's scratch folder until `discard`.

Knows files, parts and the two forms. Leaves suffixes and compression to `packing`, what a line or an entry says to `json_rows`, the look at
what is there to `json_look`, where a JSON value ends and what it is to `json_text`, numbers and tags to `values`, fields to the layout.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import orjson

from migrator.adapters import json_ladder
from migrator.adapters.base import (
    PAGE_BYTES,
    RECORD_BYTES,
    Flushed,
    Reader,
    Setting,
    Sink,
    is_full,
    rejected,
    too_large,
)
from migrator.adapters.json_look import arrays_of, check_beginning, kinds_of
from migrator.adapters.json_rows import ALL, PlainLines, as_text, entries_in, from_entry, from_line, to_line
from migrator.adapters.json_text import Broken, Entries, Found, Scanner, parsed
from migrator.adapters.packing import (
    CHUNK,
    DAMAGED,
    PLAIN,
    Compression,
    compression_of,
    go_to,
    line_at,
    line_from,
    next_line,
    opened,
)
from migrator.errors import ConfigError, MigratorError, RecordError, StoreError
from migrator.files import private, put_whole, sync, sync_folder
from migrator.layout import Layout
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Address,
    Cursor,
    Existing,
    Finding,
    Foreign,
    Holdings,
    Page,
    Partition,
    Record,
    Reject,
    Row,
    Shape,
    Snapshot,
    Traits,
    Weight,
    counted,
)
from migrator.values import canonical, short_digest, to_json

TRAITS = Traits(parallel=True, whole=True)

_PARTITION_BYTES = 4 << 20  # a smaller file is not worth a second worker
_BETWEEN_RECORDS = b",\n    "  # in a document; the line breaks are what a reader of its parts goes by
_BETWEEN_ENTRIES = b",\n"  # in a map; there a reader goes by what begins in the third column

_Any = TypeVar("_Any")
_Item = tuple[Row | Foreign | Reject, Cursor, int]
"""What was read, the cursor behind it, and its size in bytes."""


class JsonFile:
    """Files of both forms; `Address.store` says which: `jsonl` or `json`."""

    traits = TRAITS

    def describe(self, address: Address) -> Shape | None:
        path = Path(address.name)
        with _sorted_errors(path, ConfigError):
            if not path.exists():
                return None
            if path.is_dir():
                raise ConfigError(f"{path} is a folder: name a file in it")
            if not path.is_file():
                raise ConfigError(f"{path} is no regular file: save what it gives to a file first")
            check_beginning(path, _is_document(address))
            tables, sample = arrays_of(path) if _is_document(address) else (kinds_of(path), [])
        return Shape(address.store, _words(address), dict.fromkeys(tables, ()), sample=tuple(sample))

    def check(self, layout: Layout) -> None:
        """Nothing can be wrong that the mapping itself does not tell."""

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        return json_ladder.ladder(address, RECORD_BYTES)

    def whereabouts(self, address: Address) -> str:
        return str(Path(address.name).absolute())

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> FileReader:
        if snapshot is None and not Path(address.name).exists():
            raise ConfigError(f"{address.name}: no such file; check the path")
        return FileReader(address, setting, snapshot)

    def reader(self, address: Address, setting: Setting) -> FileReader:
        return FileReader(address, setting)

    def sink(self, address: Address, setting: Setting) -> FileSink:
        return FileSink(address, setting)


def _is_document(address: Address) -> bool:
    return address.store == "json"


def _words(address: Address) -> str:
    return f"{'JSON document' if _is_document(address) else 'JSON Lines file'} {address.name}"


# Read ------------------------------------------------------------------------------------------------------------------


class JsonReader(Reader):
    """What a file and its staged parts have in common."""

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(setting)
        self.address = address
        self.is_document = _is_document(address)
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

    def weigh(self, row: Row) -> Weight:
        return Weight(len(row.encoded or to_line(self.layout, self.is_document, row)) + 1)

    def _paged(self, items: Iterator[_Item]) -> Iterator[Page]:
        """Pages of items; the file must be the same before and behind each."""
        self._check()
        page, size = Page([], None), 0
        for item, cursor, taken in self._sorted(items):
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
            with _sorted_errors(Path(self.address.name)):
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
        self._known = (0, 1)  # an offset and its line: looking a line number up goes on from here
        self._kind_of = {each.collections[0]: name for name, each in self.layout.kinds.items() if each.collections}

    def snapshot(self) -> Snapshot:
        with _sorted_errors(self.path):
            self._held = stamp = Stamp.of(self.path)
        if stamp is None:
            raise ConfigError(f"{self.path}: no such file; check the path")
        moment = datetime.fromtimestamp(stamp.mtime_ns // 10**9, UTC).isoformat()
        words = f"{self.path.name}, last written {moment}, {stamp.size:,} bytes"
        return Snapshot(f"{stamp.inode}-{stamp.size}-{stamp.mtime_ns}", moment, words, asdict(stamp))

    def is_still(self, snapshot: Snapshot) -> bool:
        with _sorted_errors(self.path):
            return Stamp.of(self.path) == Stamp(**snapshot.spec)

    def guarantees(self, kind: str) -> bool:
        """A map with a name twice is no map: reading it says so, and where. In other forms an identity may be there twice."""
        mapped = self.layout.map
        return mapped is not None and mapped.kind.name == kind and mapped.kind.identity == mapped.map[:1]

    def repeated(self, kinds: Sequence[str]) -> Iterator[Row]:
        """As `Source`; a map is read through all the same: what is broken in it must be found before the first write (H40)."""
        if not any(map(self.guarantees, kinds)):
            yield from super().repeated(kinds)
            return
        self._check()
        for found in self._sorted(self._found()):
            if isinstance(found, Found):
                self._from_item(found)
        self._check()

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
        with _sorted_errors(self.path), self.path.open("rb") as file:
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

    def _found(self) -> Iterator[Found | Entries]:
        with opened(self.path) as file:
            scanner = Scanner(file, self.setting.record_bytes)
            yield from scanner.items() if self.layout.map is None else scanner.entries()

    def _items(self, after: Cursor) -> Iterator[_Item]:
        """The records of a document. A cursor is the number of those before it."""
        number, first = 0, after or 0
        for found in self._found():
            if isinstance(found, Entries):
                if number + len(found.values) > first:
                    yield from self._from_entries(found, number, first)
                number += len(found.values)
            else:
                number += 1
                if number > first:
                    yield self._from_item(found), number, len(found.text or b"")

    def _from_entries(self, found: Entries, number: int, first: int) -> Iterator[_Item]:
        """Those of many entries, of which `number` are before them, that are behind the `first`."""
        mapped = self.layout.map
        assert mapped is not None
        read, kind, (name, value), is_plain = self.layout.read, mapped.kind.name, mapped.map, found.is_plain
        share = len(found.text) // len(found.values)
        for cursor, (key, held) in enumerate(found.values.items(), number + 1):
            if cursor > first:
                row = read({name: key, value: held}, key, kind)
                if is_plain and isinstance(row, Row):
                    row.is_plain = True
                yield row, cursor, share

    def _from_item(self, found: Found) -> Row | Foreign | Reject:
        mapped = self.layout.map
        kind = mapped.kind.name if mapped else self._kind_of.get(found.key, UNKNOWN_KIND)
        place = f"{found.key}[{found.position}]" if found.position is not None else found.key
        named: Record = {mapped.map[0]: found.key} if mapped else {}
        if found.text is None:
            return Reject(kind, place, too_large(found.size, self.setting.record_bytes), named, omitted=ALL)
        try:
            held = parsed(found.text, plain=mapped is not None)
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
        with _sorted_errors(self.path):
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
        parts = _parts(self.staging, self.layout)
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
        for part in _parts(self.staging, self.layout):
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
            from_entry(self.layout.map, text) if self.layout.map else parsed(text), place, part.kind
        )


# Write -----------------------------------------------------------------------------------------------------------------


class FileSink(Sink):
    """A file that is written aside, part by part, and appears whole when it is published."""

    traits = TRAITS

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(setting)
        self.address = address
        self.path = Path(os.path.realpath(address.name))  # a link stays a link: what it points to is replaced
        self.is_document = _is_document(address)
        run = short_digest(os.fsencode(os.path.realpath(setting.scratch)))[:8]
        self.staging = self.path.parent / f".{self.path.name}.migrator-{run}"
        self.joined = self.staging / "joined"
        self._memory = setting.scratch / "sink-file.json"
        self._slice = ""
        self._open: dict[str, _PartFile] = {}

    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        folder = self.path.parent
        with _sorted_errors(self.path, ConfigError):
            if self.path.is_dir():
                raise ConfigError(f"{self.path} is a folder: name a file in it")
            if not folder.is_dir():
                raise ConfigError(f"{self.path}: there is no folder {folder}; make it first: mkdir -p '{folder}'")
            if not create and not self.path.exists():
                raise ConfigError(f"{self.path}: no such file; --create makes it")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(f"{folder}: no permission to write there; choose another place or change its mode")
            compression_of(self.path).compress(b"")
        with _sorted_errors(self.path):
            memory = self._recall()
            if memory is None:
                self.discard()  # parts without a memory are of a job that was started anew
                self.staging.mkdir(mode=0o700)
                self.setting.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._remember(_Memory(Stamp.of(self.path)))
            elif not self._is_published(memory):
                self._check_staging()

    def discard(self) -> None:
        with _sorted_errors(self.path):
            self._memory.unlink(missing_ok=True)
            shutil.rmtree(self.staging, ignore_errors=True)

    def begin(self, slice_name: str) -> None:
        self.close()
        self._check_staging()
        self._slice = slice_name

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        if existing is Existing.REFUSE:
            raise StoreError(f"{self.path}: a file is compared as a whole; single records cannot be refused")
        with _sorted_errors(self.path):
            for row in rows:
                line = row.encoded or to_line(self.layout, self.is_document, row)
                self._part(row.kind if self.is_document else "all").add(line)

    def flush(self) -> Flushed:
        with _sorted_errors(self.path):
            for part in self._open.values():
                part.finish()
            for name in {*self.layout.kinds, "all"} - self._open.keys():
                self._path_of(name).unlink(missing_ok=True)
            self._open = {}
            sync_folder(self.staging)
        return Flushed()

    def reader(self) -> JsonReader:
        if self.staging.is_dir():
            return StagedReader(self.address, self.setting, self.staging)
        return FileReader(self.address, self.setting)

    def publish(self) -> None:
        with _sorted_errors(self.path):
            memory = self._recall()
            if memory is None:
                raise StoreError(f"{self.path}: nothing was prepared to be published")
            if not self._is_published(memory):
                self._check_staging()
                self._check_sink(memory)
                self._join()
                self._keep_replaced()
                self._remember(_Memory(memory.before, Stamp.of(self.joined)))
                self._check_sink(memory)
                self.joined.replace(self.path)
            sync_folder(self.path.parent)
            shutil.rmtree(self.staging, ignore_errors=True)

    def close(self) -> None:
        for part in self._open.values():
            part.abandon()
        self._open = {}

    # parts

    def _part(self, name: str) -> _PartFile:
        if name not in self._open:
            between = _BETWEEN_ENTRIES if self.layout.map else _BETWEEN_RECORDS if self.is_document else b""
            self._open[name] = _PartFile(self._path_of(name), compression_of(self.path), between)
        return self._open[name]

    def _path_of(self, name: str) -> Path:
        return self.staging / f"{self._slice}.{name}.part"

    def _join(self) -> None:
        compress = compression_of(self.path).compress
        with private(self.joined) as out:
            pieces = self._map() if self.layout.map else self._document() if self.is_document else self._lines()
            for piece in pieces:
                if isinstance(piece, bytes):
                    out.write(compress(piece))
                else:
                    with piece.open("rb") as part:
                        shutil.copyfileobj(part, out, CHUNK)
            if not out.tell():
                out.write(compress(b""))  # a compressed file of no bytes would be no valid one
            with suppress(FileNotFoundError):
                os.fchmod(out.fileno(), self.path.stat().st_mode & 0o777)
            sync(out)

    def _lines(self) -> Iterator[bytes | Path]:
        yield from (part.path for part in _parts(self.staging, self.layout))

    def _map(self) -> Iterator[bytes | Path]:
        parts = _parts(self.staging, self.layout)
        yield b"{"
        yield from _joined(parts, b"\n", _BETWEEN_ENTRIES)
        yield b"\n}" if parts else b"}"

    def _document(self) -> Iterator[bytes | Path]:
        parts = _parts(self.staging, self.layout)
        filled = {part.kind for part in parts}
        kinds = [name for name in self.layout.kinds if name in self.setting.kinds or name in filled]
        yield b"{\n"
        for kind in kinds:
            yield b"  %s: [" % to_json(self.layout.kinds[kind].collections[0])
            yield from _joined([part for part in parts if part.kind == kind], b"\n    ", _BETWEEN_RECORDS)
            yield b"%s]%s\n" % (b"\n  " if kind in filled else b"", b"," if kind != kinds[-1] else b"")
        yield b"}\n"

    # what is remembered of the sink file

    def _recall(self) -> _Memory | None:
        try:
            plain = orjson.loads(self._memory.read_bytes())
            before, published = plain["before"], plain["published"]
            return _Memory(Stamp(**before) if before else None, Stamp(**published) if published else None)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as exc:
            raise StoreError(f"{self._memory}: damaged; run again with --restart") from exc

    def _remember(self, memory: _Memory) -> None:
        put_whole(self._memory, orjson.dumps(memory))

    def _is_published(self, memory: _Memory) -> bool:
        """True if the joined file, once made, is gone from the staging folder, and so is the old file from its place."""
        return bool(memory.published) and not self.joined.exists() and Stamp.of(self.path) != memory.before

    def _check_sink(self, memory: _Memory) -> None:
        if Stamp.of(self.path) != memory.before:
            raise StoreError(
                f"{self.path}: somebody changed it since this run began, and it was left as it is; "
                "run again with --restart, or write to a new name"
            )

    def _check_staging(self) -> None:
        if not self.staging.is_dir():
            raise StoreError(f"{self.path}: its staged parts are gone ({self.staging}); run again with --restart")

    def _keep_replaced(self) -> None:
        kept = self.setting.scratch / f"replaced-{self.path.name}"
        kept.unlink(missing_ok=True)
        if not self.path.exists():
            return
        try:
            os.link(self.path, kept)
        except OSError:  # another file system, or one without links
            with self.path.open("rb") as old, private(kept) as out:
                shutil.copyfileobj(old, out, CHUNK)
                sync(out)
        sync_folder(kept.parent)


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


@dataclass(frozen=True, slots=True)
class _Memory:
    """The sink file before the run (None: there was none), and the one made to replace it."""

    before: Stamp | None
    published: Stamp | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """The records of one slice; in a document, of one kind of it. Parts are joined by their rank."""

    rank: tuple[str, int]
    kind: str
    path: Path


def _parts(staging: Path, layout: Layout) -> list[Part]:
    order = {kind: number for number, kind in enumerate([*layout.kinds, "all"])}
    parts = []
    for path in staging.glob("*.part"):
        slice_name, kind, _ = path.name.rsplit(".", 2)
        parts.append(Part((slice_name, order[kind]), kind, path))
    return sorted(parts, key=lambda part: part.rank)


def _joined(parts: Sequence[Part], first: bytes, between: bytes) -> Iterator[bytes | Path]:
    for number, part in enumerate(parts):
        yield between if number else first
        yield part.path


class _PartFile:
    """A part while it is written: whole under its name, or absent."""

    def __init__(self, path: Path, compression: Compression, between: bytes) -> None:
        self._path, self._aside = path, path.with_name(f"{path.name}.tmp")
        self._compress, self._between = compression.compress, between
        self._pending: list[bytes] = []
        self._size = 0
        self._is_empty = True
        self._file = private(self._aside)

    def add(self, text: bytes) -> None:
        if not self._is_empty:
            self._pending.append(self._between)
        self._is_empty = False
        self._pending.append(text)
        self._size += len(text)
        if self._size >= PAGE_BYTES:
            self._pour()

    def finish(self) -> None:
        self._pour()
        sync(self._file)
        self._file.close()
        self._aside.replace(self._path)

    def abandon(self) -> None:
        self._aside.unlink(missing_ok=True)
        with suppress(OSError):  # the disk is full: what was not written is not wanted either
            self._file.close()

    def _pour(self) -> None:
        if self._pending:
            self._file.write(self._compress(b"".join(self._pending)))
            self._pending, self._size = [], 0


# Errors ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _sorted_errors(path: Path, kind: type[MigratorError] = StoreError) -> Iterator[None]:
    """What the system, the decompressors and the scanner say, as `kind`, with the next step."""
    try:
        yield
    except Broken as exc:
        with _sorted_errors(path, kind):
            line = line_at(path, exc.offset)[1]
        raise kind(
            f"{path}: not JSON: {exc.reason} (byte {exc.offset}, line {line}); mend the file or take an older copy"
        ) from exc
    except EOFError as exc:
        raise kind(f"{path}: truncated: the compressed data ends too early; take a whole copy of it") from exc
    except DAMAGED as exc:
        raise kind(f"{path}: its compressed data is damaged ({exc}); take another copy of it") from exc
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{path}: the disk is full; free space there and run again to resume") from exc
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise kind(
                f"{exc.filename or path}: no permission ({exc.strerror}); change its mode or run as its owner"
            ) from exc
        raise kind(f"{path}: {exc.strerror or exc}; mend that and run again") from exc


ADAPTER = JsonFile()
