"""Files: JSON Lines and one JSON document, plain or compressed.

JSON Lines hold a record a line, `{"kind": "fact", "record": {...}, "origin": {...}}`; other keys of a line are ignored, so that a
rejects file is a source too. A document is `{"facts": [{...}, ...], ...}`, with the names that the layout gives its collections, or, where
the layout says so, a map `{"id": ..., ...}` of an application's own: each entry is a record, in plain JSON without tags.

Knows what a file is that can be one of ours. Leaves reading to `source`, writing to `sink`, suffixes and compression to `packing`, what a
line or an entry says to `rows`, the look at what is there to `look`, fields to the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from migrator.adapters.base import (
    RECORD_BYTES,
    Setting,
)
from migrator.adapters.jsonfile import ladder as json_ladder
from migrator.adapters.jsonfile.errors import sorted_errors
from migrator.adapters.jsonfile.look import arrays_of, check_beginning, kinds_of
from migrator.adapters.jsonfile.sink import TRAITS, FileSink
from migrator.adapters.jsonfile.source import FileReader, is_document
from migrator.errors import ConfigError
from migrator.layout import Layout
from migrator.model import (
    Address,
    Finding,
    Shape,
    Snapshot,
)


class JsonFile:
    """Files of both forms; `Address.store` says which: `jsonl` or `json`."""

    traits = TRAITS

    def describe(self, address: Address) -> Shape | None:
        path = Path(address.name)
        with sorted_errors(path, ConfigError):
            if not path.exists():
                return None
            if path.is_dir():
                raise ConfigError(f"{path} is a folder: name a file in it")
            if not path.is_file():
                raise ConfigError(f"{path} is no regular file: save what it gives to a file first")
            check_beginning(path, is_document(address))
            tables, sample = arrays_of(path) if is_document(address) else (kinds_of(path), [])
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


def _words(address: Address) -> str:
    return f"{'JSON document' if is_document(address) else 'JSON Lines file'} {address.name}"


ADAPTER = JsonFile()
