"""The parts of a file while it is written: one for each slice, and of a document for each kind in it, whole under its name or absent.

Knows their names, their order, and what stands between two records and two parts. Leaves what a record's text is to `rows`, the folder and the
moment of joining to `sink`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from migrator.adapters.base import (
    PAGE_BYTES,
)
from migrator.adapters.packing import (
    Compression,
)
from migrator.files import private, sync
from migrator.layout import Layout

BETWEEN_RECORDS = b",\n    "  # in a document; the line breaks are what a reader of its parts goes by
BETWEEN_ENTRIES = b",\n"  # in a map; there a reader goes by what begins in the third column


@dataclass(frozen=True, slots=True)
class Part:
    """The records of one slice; in a document, of one kind of it. Parts are joined by their rank."""

    rank: tuple[str, int]
    kind: str
    path: Path


def parts_in(staging: Path, layout: Layout) -> list[Part]:
    order = {kind: number for number, kind in enumerate([*layout.kinds, "all"])}
    parts = []
    for path in staging.glob("*.part"):
        slice_name, kind, _ = path.name.rsplit(".", 2)
        parts.append(Part((slice_name, order[kind]), kind, path))
    return sorted(parts, key=lambda part: part.rank)


def joined(parts: Sequence[Part], first: bytes, between: bytes) -> Iterator[bytes | Path]:
    for number, part in enumerate(parts):
        yield between if number else first
        yield part.path


class PartFile:
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

    def add_all(self, texts: Sequence[bytes]) -> None:
        """A page of them, one behind the other."""
        self.add(self._between.join(texts))

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
