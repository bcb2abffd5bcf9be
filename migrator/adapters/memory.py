"""Records in this process's memory: the simplest adapter, for tests and for callers who hold records in Python.

Knows nothing that outlives the process; workers on it are threads. `store(name)` gives the store behind `memory:name`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace

from migrator.adapters.base import PAGE_ROWS, Flushed, Reader, Setting, Sink, Source, is_as_it_was
from migrator.layout import Layout
from migrator.model import (
    Address,
    Cursor,
    Existing,
    Finding,
    Holdings,
    Identity,
    Page,
    Partition,
    Reject,
    Row,
    Shape,
    Snapshot,
    Traits,
    counted,
    identity_key,
)

_TRAITS = Traits(in_process=True)


class MemoryStore:
    """Rows by place, in the order they came. Like a table without a unique index it can hold two records of one identity."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.rows: dict[int, Row] = {}
        self.places: dict[bytes, int] = {}
        self.version = 0

    def append(self, kind: str, record: dict[str, object], identity: Identity) -> None:
        """Hold one more record, whatever is there already."""
        with self.lock:
            self.put(Row(kind, record), identity_key(kind, identity), fresh=True)

    def put(self, row: Row, key: bytes, fresh: bool = False) -> None:
        place = self.end if fresh else self.places.get(key, self.end)
        self.rows[place] = replace(row, place=f"{place:09}")
        self.places.setdefault(key, place)
        self.version += 1

    @property
    def end(self) -> int:
        """The place behind the last: places only grow, and those of what was dropped stay empty."""
        return next(reversed(self.rows), -1) + 1

    def drop(self, key: bytes) -> None:
        del self.rows[self.places.pop(key)]
        self.version += 1


_STORES: dict[str, MemoryStore] = {}


def store(name: str) -> MemoryStore:
    """The store behind `memory:name`; made on first use."""
    return _STORES.setdefault(name, MemoryStore())


def forget(name: str) -> None:
    """Drop a store with all it holds."""
    _STORES.pop(name, None)


class MemorySource(Source):
    def __init__(self, setting: Setting, held: MemoryStore) -> None:
        super().__init__(setting)
        self.held = held

    def snapshot(self) -> Snapshot:
        return Snapshot(f"memory-{self.held.version}", None, "memory, read while the run lasts")

    def partitions(self, kinds: Sequence[str], wanted: int) -> list[Partition]:
        count = self.held.end
        if not count:
            return []
        parts = max(1, min(wanted, count // PAGE_ROWS))
        edges = [count * turn // parts for turn in range(parts + 1)]
        return [Partition(f"{turn:03}", {"from": edges[turn], "to": edges[turn + 1]}) for turn in range(parts)]

    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        start = partition.spec["from"] if after is None else after
        while start < partition.spec["to"]:
            stop = min(start + PAGE_ROWS, partition.spec["to"])
            with self.held.lock:
                found = [deepcopy(self.held.rows[place]) for place in range(start, stop) if place in self.held.rows]
            read = [self.layout.read(row.record, row.place, row.kind, row.origin) for row in found]
            yield Page([r for r in read if isinstance(r, Row)], stop, [r for r in read if isinstance(r, Reject)])
            start = stop

    def holds(self, kinds: Sequence[str]) -> Holdings:
        count = sum(row.kind in kinds for row in self.held.rows.values())
        return Holdings(count > 0, counted(count))

    def size_hint(self) -> int | None:
        return len(self.held.rows)

    def guarantees(self, kind: str) -> bool:
        return False


class MemoryReader(MemorySource, Reader):
    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        return [
            self._at(identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))) for row in rows
        ]

    def _at(self, key: bytes) -> Row | None:
        place = self.held.places.get(key)
        return deepcopy(self.held.rows[place]) if place is not None else None


class MemorySink(Sink):
    traits = _TRAITS

    def __init__(self, setting: Setting, held: MemoryStore) -> None:
        super().__init__(setting)
        self.held = held
        self.flushed = Flushed()

    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        """Nothing is missing."""

    def begin(self, slice_name: str) -> None:
        self.flushed = Flushed()

    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        with self.held.lock:
            for row in rows:
                key = identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))
                if existing is Existing.REFUSE and key in self.held.places:
                    self.flushed.held.append((row, deepcopy(self.held.rows[self.held.places[key]])))
                else:
                    self.held.put(deepcopy(row), key)

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        with self.held.lock:
            for row, before in pairs:
                key = identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))
                place = self.held.places.get(key)
                now = self.held.rows[place] if place is not None else None
                if now is None or is_as_it_was(before, now):
                    self.held.put(deepcopy(row), key)
                else:
                    self.flushed.held.append((row, deepcopy(now)))

    def remove(self, rows: Iterable[Row]) -> None:
        with self.held.lock:
            for row in rows:
                key = identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))
                place = self.held.places.get(key)
                if place is None:
                    continue
                if is_as_it_was(row, self.held.rows[place]):
                    self.held.drop(key)
                else:
                    self.flushed.held.append((row, deepcopy(self.held.rows[place])))

    def flush(self) -> Flushed:
        return self.flushed

    def reader(self) -> Reader:
        return MemoryReader(self.setting, self.held)


class MemoryAdapter:
    traits = _TRAITS

    def describe(self, address: Address) -> Shape | None:
        kinds = {row.kind for row in store(address.name).rows.values()}
        return Shape("memory", f"memory:{address.name}", dict.fromkeys(kinds, ())) if kinds else None

    def check(self, layout: Layout) -> None:
        """Nothing can be wrong that the mapping itself does not tell."""

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        yield Finding(
            "persists", "fault", "it lives in this process, and is gone with it", "take a file: sqlite:///chat.db"
        )

    def whereabouts(self, address: Address) -> str:
        return f"memory of this process: {address.name}"

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> Source:
        return MemorySource(setting, store(address.name))

    def reader(self, address: Address, setting: Setting) -> Reader:
        return MemoryReader(setting, store(address.name))

    def sink(self, address: Address, setting: Setting) -> Sink:
        return MemorySink(setting, store(address.name))


ADAPTER = MemoryAdapter()
