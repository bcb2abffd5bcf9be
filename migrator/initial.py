"""Makes a store that LuminoraCore can read: a SQLite file with its tables, a DynamoDB table, a JSON file.

Says first what would be made, and where; makes it only when asked to. Never touches what is there.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from migrator.adapters import adapter_for
from migrator.adapters.base import Adapter, Setting
from migrator.binding import words_of
from migrator.config import resolve
from migrator.errors import ConfigError
from migrator.layout import Layout
from migrator.mapping_file import load_mapping
from migrator.model import Address
from migrator.plan import DEFAULT_MAPPING, must_take_files, reading_words

_OF_JSON = "luminoracore-v1.0"
"""LuminoraCore's own JSON file is a map of 1.0 sessions; it has no other (fact sheet 1.2)."""


@dataclass(frozen=True)
class NewStore:
    """A store that is to be made: where, as what, in words for whoever decides."""

    address: Address
    whereabouts: str
    layout: Layout
    lines: list[tuple[str, str]]

    def make(self) -> None:
        """Raises ConfigError or StoreError if it cannot be made; twice is harmless."""
        with tempfile.TemporaryDirectory(prefix="migrator-") as scratch:
            kinds = tuple(self.layout.kinds)
            sink = adapter_for(self.address.store).sink(self.address, Setting(self.layout, kinds, Path(scratch)))
            try:
                sink.prepare(kinds, create=True)
                sink.publish()
            finally:
                sink.close()


def new_store(text: str, mapping_name: str | None = None, table_shape: str | None = None) -> NewStore:
    """What `make` would make. Raises ConfigError where something is there already, and for a mapping without a layout for it."""
    address = resolve(text)
    adapter = adapter_for(address.store)
    if address.store == "memory":
        raise ConfigError(f"{address.text}: a store in memory is made when it is first used; name a file or a table")
    if table_shape is not None and address.store != "dynamodb":
        raise ConfigError("--table-shape: only a DynamoDB table has a shape; leave it out")
    mapping = load_mapping(mapping_name or (_OF_JSON if address.store == "json" else DEFAULT_MAPPING))
    layout = mapping.layout_for(address.store, None, table_shape)
    whereabouts = adapter.whereabouts(address)
    _refuse_what_is_there(address, adapter, whereabouts)
    if layout.problem:
        raise ConfigError(f"--table-shape {table_shape}: {layout.problem}; choose another shape")
    lines = [("store", whereabouts), ("mapping", f"{mapping.name} ({mapping.path}): {', '.join(layout.kinds)}")]
    if address.store == "dynamodb":
        key = f"{words_of(layout.key, layout.index)}, text; billed by request, time-to-live off"
        lines += [("table", key), *reading_words(layout, tuple(layout.kinds))]
    elif address.store == "sql":
        lines.append(("tables", ", ".join(kind.collections[0] for kind in layout.kinds.values())))
    else:
        lines.append(("file", "an empty map of sessions" if layout.map else "no records"))
    return NewStore(address, whereabouts, layout, lines)


def _refuse_what_is_there(address: Address, adapter: Adapter, whereabouts: str) -> None:
    is_there = Path(address.name).exists() if address.store != "dynamodb" else adapter.describe(address) is not None
    if is_there:
        raise ConfigError(
            f"{address.text} is there already ({whereabouts}), and stays as it is; look at it: migrator inspect"
        )
    if address.store != "dynamodb":
        must_take_files(Path(address.name).resolve().parent)
