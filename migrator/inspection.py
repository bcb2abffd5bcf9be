"""What one store holds: layout and why, counts, sizes, oldest and newest record, ghosts, expired. Reads only."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from migrator.adapters.base import Setting
from migrator.binding import reading
from migrator.engine import WANTED_PARTITIONS
from migrator.mapping import Mapping
from migrator.model import Reject, Row
from migrator.plan import Store, look_at, unread_tables
from migrator.run import Show
from migrator.values import to_json


@dataclass
class KindInspection:
    """What a store holds of one kind. Times are the stored text; bytes are of the record as JSON."""

    count: int = 0
    rejected: int = 0
    bytes: int = 0
    largest: int = 0
    oldest: str | None = None
    newest: str | None = None
    expired: int = 0
    unfound: int = 0
    """Of a table's records those that lie where LuminoraCore does not look."""


@dataclass
class Inspection:
    """What `inspect` found. `named_by`: who explained a name or a bare word; empty for an address that is written out."""

    address: str
    whereabouts: str
    words: str
    mapping: str
    layout: str
    why: str
    has_keys: bool
    named_by: str = ""
    unread_later: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, KindInspection] = field(default_factory=dict)
    ghosts: int = 0
    foreign: int = 0
    foreign_seen: list[str] = field(default_factory=list)
    unread_tables: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def look_through(address: str, mapping: str | None, show: Show) -> Inspection:
    """Read the whole store. Raises ConfigError if there is none, or no mapping fits it."""
    began = time.monotonic()
    store, found = look_at(address, mapping)
    assert store.shape is not None
    inspection = Inspection(
        store.address.text,
        store.whereabouts,
        store.shape.words,
        found.name,
        store.layout.id,
        _why(store),
        bool(store.shape.key),
        store.address.named_by,
        reading(store.layout, found.kind_names())[1],
    )
    inspection.unread_tables = unread_tables(store)
    now = time.time()
    with tempfile.TemporaryDirectory(prefix="migrator-") as folder:
        setting = Setting(store.layout, found.kind_names(), Path(folder), say=show.say)
        # A look needs no snapshot: a file is read as it is, page by page, and a table eventually consistent, at half the price.
        opened = store.adapter.reader(store.address, setting) if store.local_file else None
        source = opened or store.adapter.source(store.address, setting)
        try:
            with show.progress("reading", source.size_hint()) as tick:
                for partition in source.partitions(list(store.layout.kinds), WANTED_PARTITIONS):
                    for page in source.pages(partition, None):
                        for row in page.rows:
                            kind = inspection.kinds.setdefault(row.kind, KindInspection())
                            _look_at_row(kind, row, found, now)
                            kind.unfound += bool(store.layout.key) and not store.layout.is_found(row)
                        for reject in page.rejects:
                            _look_at_reject(inspection, reject)
                        inspection.ghosts += sum(each.ghost for each in page.foreign)
                        strangers = [each.place for each in page.foreign if not each.ghost]
                        inspection.foreign += len(strangers)
                        inspection.foreign_seen = (inspection.foreign_seen + strangers)[:20]
                        tick(len(page.rows))
        finally:
            source.close()
    inspection.seconds = round(time.monotonic() - began, 3)
    return inspection


def _why(store: Store) -> str:
    shape = store.shape
    assert shape is not None
    if shape.key:
        index = (
            f", first index {shape.index[0]} ({'/'.join(filter(None, shape.index[1:]))})"
            if shape.index
            else ", no index"
        )
        return f"its key is {'/'.join(shape.key)}{index}"
    if store.address.store == "json" and store.layout.map:
        return f"it is a map of {' to '.join(store.layout.map.map)}"
    held = [
        name
        for kind in store.layout.kinds.values()
        for name in (*kind.collections, kind.kind.name)
        if name in shape.tables
    ]
    return f"it holds {', '.join(dict.fromkeys(held))}" if held else "it holds nothing that would tell"


def _look_at_row(kind: KindInspection, row: Row, mapping: Mapping, now: float) -> None:
    size = len(to_json(row.record))
    spec = mapping.kinds[row.kind]
    kind.count += 1
    kind.bytes += size
    kind.largest = max(kind.largest, size)
    stamp = row.record.get(spec.newest) if spec.newest else None
    if isinstance(stamp, str):
        kind.oldest = min(kind.oldest or stamp, stamp)
        kind.newest = max(kind.newest or stamp, stamp)
    if spec.expires:
        until = row.record.get(spec.expires, row.origin.extra.get(spec.expires) if row.origin else None)
        kind.expired += isinstance(until, int | float) and until < now


def _look_at_reject(inspection: Inspection, reject: Reject) -> None:
    inspection.kinds.setdefault(reject.kind, KindInspection()).rejected += 1
    if len(inspection.rejects) < 20:
        inspection.rejects.append(f"{reject.place}: {reject.reason}")
