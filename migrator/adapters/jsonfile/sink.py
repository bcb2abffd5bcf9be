"""Writes one JSON file: whole or absent.

Each slice is a part of its own in a staging folder beside the file; `publish` joins the parts and renames. Parts are compressed one by one, for gzip
members and zstd frames that follow each other are one valid file. What the sink file was before the run, and what it was published as, is remembered in
the run's scratch folder until `discard`. Leaves one part to `parts`, a record's text to `rows`, compression to `packing`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from migrator.adapters.base import (
    Flushed,
    Setting,
    Sink,
)
from migrator.adapters.jsonfile.errors import sorted_errors
from migrator.adapters.jsonfile.parts import BETWEEN_ENTRIES, BETWEEN_RECORDS, PartFile, joined, parts_in
from migrator.adapters.jsonfile.rows import to_line
from migrator.adapters.jsonfile.source import FileReader, JsonReader, StagedReader, Stamp, is_document
from migrator.adapters.packing import (
    CHUNK,
    compression_of,
)
from migrator.errors import ConfigError, StoreError
from migrator.files import private, put_whole, sync, sync_folder
from migrator.model import (
    Address,
    Alike,
    Existing,
    Row,
    Traits,
)
from migrator.values import short_digest, to_json

TRAITS = Traits(parallel=True, whole=True, stretch=5)


@dataclass(frozen=True, slots=True)
class _Memory:
    """The sink file before the run (None: there was none), and the one made to replace it."""

    before: Stamp | None
    published: Stamp | None = None


class FileSink(Sink):
    """A file that is written aside, part by part, and appears whole when it is published."""

    traits = TRAITS

    def __init__(self, address: Address, setting: Setting) -> None:
        super().__init__(setting)
        self.address = address
        self.path = Path(os.path.realpath(address.name))  # a link stays a link: what it points to is replaced
        self.is_document = is_document(address)
        run = short_digest(os.fsencode(os.path.realpath(setting.scratch)))[:8]
        self.staging = self.path.parent / f".{self.path.name}.migrator-{run}"
        self.joined = self.staging / "joined"
        self._memory = setting.scratch / "sink-file.json"
        self._slice = ""
        self._open: dict[str, PartFile] = {}

    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        folder = self.path.parent
        with sorted_errors(self.path, ConfigError):
            if self.path.is_dir():
                raise ConfigError(f"{self.path} is a folder: name a file in it")
            if not folder.is_dir():
                raise ConfigError(f"{self.path}: there is no folder {folder}; make it first: mkdir -p '{folder}'")
            if not create and not self.path.exists():
                raise ConfigError(f"{self.path}: no such file; --create makes it")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(f"{folder}: no permission to write there; choose another place or change its mode")
            compression_of(self.path).compress(b"")
        with sorted_errors(self.path):
            memory = self._recall()
            if memory is None:
                self.discard()  # parts without a memory are of a job that was started anew
                self.staging.mkdir(mode=0o700)
                self.setting.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._remember(_Memory(Stamp.of(self.path)))
            elif not self._is_published(memory):
                self._check_staging()

    def discard(self) -> None:
        with sorted_errors(self.path):
            self._memory.unlink(missing_ok=True)
            shutil.rmtree(self.staging, ignore_errors=True)

    def begin(self, slice_name: str) -> None:
        self.close()
        self._check_staging()
        self._slice = slice_name

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        if existing is Existing.REFUSE:
            raise StoreError(f"{self.path}: a file is compared as a whole; single records cannot be refused")
        with sorted_errors(self.path):
            for row in rows:
                line = row.encoded or to_line(self.layout, self.is_document, row)
                self._part(row.kind if self.is_document else "all").add(line)

    def upsert_alike(self, rows: Alike) -> None:
        with sorted_errors(self.path):
            self._part(rows.kind if self.is_document else "all").add_all(rows.encoded or [])

    def flush(self) -> Flushed:
        with sorted_errors(self.path):
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
        with sorted_errors(self.path):
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

    def _part(self, name: str) -> PartFile:
        if name not in self._open:
            between = BETWEEN_ENTRIES if self.layout.map else BETWEEN_RECORDS if self.is_document else b""
            self._open[name] = PartFile(self._path_of(name), compression_of(self.path), between)
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
        yield from (part.path for part in parts_in(self.staging, self.layout))

    def _map(self) -> Iterator[bytes | Path]:
        parts = parts_in(self.staging, self.layout)
        yield b"{"
        yield from joined(parts, b"\n", BETWEEN_ENTRIES)
        yield b"\n}" if parts else b"}"

    def _document(self) -> Iterator[bytes | Path]:
        parts = parts_in(self.staging, self.layout)
        filled = {part.kind for part in parts}
        kinds = [name for name in self.layout.kinds if name in self.setting.kinds or name in filled]
        yield b"{\n"
        for kind in kinds:
            yield b"  %s: [" % to_json(self.layout.kinds[kind].collections[0])
            yield from joined([part for part in parts if part.kind == kind], b"\n    ", BETWEEN_RECORDS)
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
