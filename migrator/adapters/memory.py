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
        self.rows: dict[int, Row | Reject] = {}
        self.places: dict[bytes, int] = {}
        self.version = 0
        self.moment: str | None = None
        """When it was filled for good, ISO 8601 in UTC; None while it may change."""
        self.notes: tuple[str, ...] = ()
        """What was changed or left behind when it was filled, in words."""

    def append(self, kind: str, record: dict[str, object], identity: Identity, place: str = "") -> None:
        """Hold one more record, whatever is there already. `place`: where it comes from, for people."""
        with self.lock:
            self.put(Row(kind, record, place=place), identity_key(kind, identity), fresh=True)

    def refuse(self, reject: Reject) -> None:
        """Hold what whoever fills the store has refused: a run reads it as a reject."""
        with self.lock:
            self.rows[self.end] = reject
            self.version += 1

    def put(self, row: Row, key: bytes, fresh: bool = False) -> None:
        place = self.end if fresh else self.places.get(key, self.end)
        self.rows[place] = replace(
            row, place=f"{place:09} {row.place}".rstrip() if fresh else f"{place:09}", encoded=None
        )
        self.places.setdefault(key, place)
        self.version += 1

    @property
    def end(self) -> int:
        """The place behind the last: places only grow, and those of what was dropped stay empty."""
        return next(reversed(self.rows), -1) + 1

    def drop(self, key: bytes) -> None:
        del self.rows[self.places.pop(key)]
        self.version += 1

    def at(self, key: bytes) -> Row | None:
        """The row of that identity, the first of several."""
        place = self.places.get(key)
        found = self.rows[place] if place is not None else None
        return found if isinstance(found, Row) else None


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
        self.notes = held.notes

    def snapshot(self) -> Snapshot:
        moment = self.held.moment
        words = f"a copy of {moment}" if moment else "memory, read while the run lasts"
        return Snapshot(f"memory-{self.held.version}", moment, words)

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
            read = [
                each if isinstance(each, Reject) else self.layout.read(each.record, each.place, each.kind, each.origin)
                for each in found
            ]
            yield Page([r for r in read if isinstance(r, Row)], stop, [r for r in read if isinstance(r, Reject)])
            start = stop

    def holds(self, kinds: Sequence[str]) -> Holdings:
        count = sum(isinstance(each, Row) and each.kind in kinds for each in self.held.rows.values())
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
        return deepcopy(self.held.at(key))


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
                now = self.held.at(key)
                if existing is Existing.REFUSE and now is not None:
                    self.flushed.held.append((row, deepcopy(now)))
                else:
                    self.held.put(deepcopy(row), key)

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        with self.held.lock:
            for row, before in pairs:
                key = identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))
                now = self.held.at(key)
                if now is None or is_as_it_was(before, now):
                    self.held.put(deepcopy(row), key)
                else:
                    self.flushed.held.append((row, deepcopy(now)))

    def remove(self, rows: Iterable[Row]) -> None:
        with self.held.lock:
            for row in rows:
                key = identity_key(row.kind, self.layout.kinds[row.kind].kind.identity_of(row.record))
                now = self.held.at(key)
                if now is None:
                    continue
                if is_as_it_was(row, now):
                    self.held.drop(key)
                else:
                    self.flushed.held.append((row, deepcopy(now)))

    def flush(self) -> Flushed:
        flushed, self.flushed = self.flushed, Flushed()
        return flushed

    def reader(self) -> Reader:
        return MemoryReader(self.setting, self.held)


class MemoryAdapter:
    traits = _TRAITS

    def describe(self, address: Address) -> Shape | None:
        held = store(address.name).rows.values()
        kinds = {each.kind for each in held if isinstance(each, Row)}
        return Shape("memory", f"memory:{address.name}", dict.fromkeys(kinds, ())) if held else None

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
