"""What an adapter is: the interface between the engine and one sort of store.

How to add an adapter
---------------------
1. Write `adapters/NAME.py`, or a folder of modules with `adapter` on top, in the order of its neighbours: Adapter, Source, Reader, Sink, values (`_to_x` / `_from_x` side by side),
   errors (one context manager that sorts the driver's exceptions). End it with `ADAPTER = ...` and name it in `adapters/__init__`.
   What grows into an idea of its own (the requests, the values, the statements) gets a file beside it, which knows no Source and no Sink.
2. Import the driver inside the module only: nobody pays for a store that is not used.
3. Speak attributes, not fields: every item goes through `layout.read` on the way in and `layout.write` on the way out.
4. Add the store to tests/stores.py: the conformance suite is the definition of done.

An adapter imports neither another adapter nor the engine, and counts, retries and reports nothing: it says what happened, or raises
`ConfigError` (nothing was touched), `TransientStoreError` (the same call may succeed later) or `StoreError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from migrator.errors import RecordError, StoreError
from migrator.layout import Layout
from migrator.model import (
    Address,
    Alike,
    Cursor,
    Existing,
    Finding,
    Foreign,
    Found,
    Holdings,
    Page,
    Partition,
    Rates,
    Record,
    Reject,
    Row,
    Shape,
    Snapshot,
    Traits,
    Weight,
)
from migrator.values import canonical

PAGE_ROWS = 1_000
"""Rows in a page at the most: the engine cuts slices at page borders."""

PAGE_BYTES = 1 << 20
"""A page ends behind the row that brings it to this size."""

RECORD_BYTES = 32 << 20
"""A record larger than this is rejected with its size."""

PARTS_FOLDER = "parts"
"""In the scratch folder: what a sink still has to take away, whatever becomes of the job. All else there lasts as long as the job."""


@dataclass(frozen=True)
class Setting:
    """What a store is opened with.

    kinds: those asked for. scratch: a private folder of the run (0700) for snapshots and staged parts. unknown_fields: `keep` or `drop`.
    foreign: patterns of keys whose foreign items may stay behind. expired: `reject` or `write` records that the store's time-to-live would
    delete at once. oversize: `reject`, `compress` or `split` records that a table takes only so. record_bytes: larger records are rejected.
    snapshot_limit: seconds that a snapshot may hold the application's writers up. read_rate, write_rate: units a second that a store with units may
    be asked for; None for what the adapter finds right.
    say: takes words for people about something slow ("taking a snapshot of chat.db, 1.0 GB").
    """

    layout: Layout
    kinds: tuple[str, ...]
    scratch: Path
    unknown_fields: str = "keep"
    foreign: tuple[str, ...] = ()
    expired: str = "reject"
    oversize: str = "reject"
    record_bytes: int = RECORD_BYTES
    snapshot_limit: float = 3.0
    read_rate: float | None = None
    write_rate: float | None = None
    say: Callable[[str], None] = field(default=lambda words: None, compare=False)


def is_full(page: Page, size: int) -> bool:
    """Whether a page of so many bytes ends here."""
    return page.count + len(page.rejects) + len(page.foreign) >= PAGE_ROWS or size >= PAGE_BYTES


def is_as_it_was(before: Row, now: Row) -> bool:
    """Whether what a store holds is still what it held."""
    return _held(before) == _held(now)


def _held(row: Row) -> bytes:
    return canonical([row.kind, row.record, row.origin.to_plain() if row.origin else None])


def rejected(row: Row, reason: str) -> Reject:
    """A row that cannot travel, with all it holds."""
    return Reject(row.kind, row.place, reason, row.record, row.origin)


def too_large(size: int, limit: int) -> str:
    return f"takes {size:,} bytes; the limit for a record is {limit:,}"


class Source(ABC):
    """A store as it is read. Nothing here writes to it, ever."""

    loses: frozenset[str] = frozenset()
    """What this store cannot tell apart or hold: "absent" (from NULL), "origins"."""

    holds_foreign = False
    """Whether the store keeps items that no kind describes as they are: they travel from one such store to another."""

    repeats_by_part = True
    """Whether `repeated` may be asked partition by partition, so that several workers can."""

    notes: tuple[str, ...] = ()
    """What was changed or left behind before this source had it, in words: told with what the sink cannot hold."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.layout = setting.layout

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Hold the store still, where it can be: what is read afterwards is of one moment. Called once, by the coordinator, before the plan.

        Raises ConfigError, with the ways out, where that would disturb the application.
        """

    def is_still(self, snapshot: Snapshot) -> bool:
        """Whether what `snapshot` held can still be read as it was, so that a job may go on with it."""
        return True

    @abstractmethod
    def partitions(self, kinds: Sequence[str], wanted: int) -> list[Partition]:
        """About `wanted` parts, together exactly the kinds asked for, each record in one. Few for a small store; none for an empty one."""

    @abstractmethod
    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        """The pages of a partition behind a cursor (None: from its start). Going on behind a page's cursor gives exactly the rest.

        A page has at most PAGE_ROWS rows and about PAGE_BYTES; it may be empty of rows. Rows of kinds not asked for may come too. Broken
        items come as rejects, items of no kind as foreign: one never stops the others.
        """

    @abstractmethod
    def holds(self, kinds: Sequence[str]) -> Holdings:
        """Whether any record of these kinds is there, found out cheaply."""

    def size_hint(self) -> int | None:
        """About how many records there are, for progress only; None where the store does not tell for nothing."""
        return None

    def rates(self) -> Rates | None:
        """How fast the store is read and written; None, the default, where it has no units to count that in."""
        return None

    def share(self, part: float) -> None:
        """Take this part of the rates from now on, for others at work have the rest; 0: that work has ended. Does nothing where there are none."""

    def repeated(self, kinds: Sequence[str], partition: Partition | None = None) -> Iterator[Row]:
        """Rows among which every two that share an identity are found; a superset will do. Empty where the store guarantees identities.

        `partition`: what this one adds to that, where `repeats_by_part`. This default reads everything once more.
        """
        doubtful = {kind for kind in kinds if kind in self.layout.kinds and not self.guarantees(kind)}
        if not doubtful:
            return
        for each in [partition] if partition is not None else self.partitions(sorted(doubtful), 1):
            for page in self.pages(each, None):
                yield from (row for row in page.rows if row.kind in doubtful)

    def guarantees(self, kind: str) -> bool:
        """True if the store cannot hold two records of this kind with one identity."""
        return self.layout.guarantees(kind)

    def ask(self, kind: str, wanted: Sequence[Record]) -> list[Found]:
        """What the application finds of a kind when it asks for each of these, in their order; each holds values for the fields it asks by.

        As the application does it (`KindLayout.request`): one page where it reads one page, an index where it looks into one.
        Only for stores that an application reads; the plan refuses others.
        """
        raise StoreError("no application reads this store")

    def close(self) -> None:
        """Give connections and files back. Calling it twice is harmless."""


class Reader(Source):
    """A store as a run looks at the place it would write to: readable, comparable, and impossible to write.

    It works for a store that does not exist yet: that one is empty.
    """

    @abstractmethod
    def fetch(self, rows: Sequence[Row]) -> list[Row | None]:
        """What the store holds where each of these rows would go, in their order; None where it holds nothing.

        Of kinds with derived keys the record is looked for by identity, under whatever key it has. Never called where `Traits.whole`.
        """

    def apart(self, row: Row) -> bytes:
        """What tells a row from others of its identity in this store, which holds them all; empty where an identity has one place (H3)."""
        return b""

    def fit(self, row: Row) -> Row | Reject:
        """The row as the store would give it back, or why it cannot travel: limits, types, keys. What it says holds for `upsert`."""
        try:
            fitted = self.layout.fit(row, self.setting.unknown_fields)
            self.layout.write(fitted)
        except RecordError as exc:
            return rejected(row, str(exc))
        return fitted

    def fits_alike(self, rows: Alike) -> bool:
        """Whether such rows, by their kind and signature, can be fitted all at once. This default leaves each to `fit`."""
        return False

    def fit_alike(self, rows: Alike) -> bool:
        """Fit rows that have their texts, where each of them would be given back as it is: True if they are, and are encoded.

        The store deletes none of what is fitted so (`remaining`). Asked where `fits_alike`.
        """
        return False

    def would_fit_alike(self, rows: Alike) -> bool:
        """What `fit_alike` would say, for whoever only compares: nothing need be encoded. This default asks it."""
        return self.fit_alike(rows)

    def remaining(self, row: Row) -> float | None:
        """Seconds until the store itself deletes a row; None where it deletes nothing, or not this one."""
        return None

    def takes(self, foreign: Foreign) -> bool:
        """Whether a foreign item can be held as it is. Asked where `holds_foreign`."""
        return True

    def weigh(self, row: Row) -> Weight:
        """What a row that fits takes there. Default: nothing is known."""
        return Weight(0)


@dataclass(slots=True)
class Flushed:
    """What became of the rows since `begin`, or since the last `flush` of the slice: those in neither list are stored.

    held: rows that were not written, each with what the sink holds in their place. rejects: rows that the store refused one by one.
    """

    held: list[tuple[Row, Row]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class Sink(ABC):
    """A store as it is written."""

    traits = Traits()

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.layout = setting.layout

    @abstractmethod
    def prepare(self, kinds: Sequence[str], create: bool) -> None:
        """Make what is missing (tables, staging folders), if `create` allows. Called by the coordinator once a run, before any slice; twice is harmless.

        Raises ConfigError, with the next step, if something is missing that it may not make.
        """

    def discard(self) -> None:
        """Forget what an earlier run of the same job staged: this one begins anew. Called before `prepare`. Most sinks stage nothing."""

    @abstractmethod
    def begin(self, slice_name: str) -> None:
        """What follows until `flush` belongs to this slice. Done again, it replaces what the slice left.

        `slice_name` starts with its partition's number and counts on: file sinks join their parts in the order of names.
        """

    @abstractmethod
    def upsert(self, rows: Iterable[Row], existing: Existing) -> None:
        """Store each record whole; `existing` says what becomes of one whose place is taken.

        The rows have been through `fit`. Identities within one slice are distinct. Calling again with the same rows changes nothing. May
        return before they are stored. Raises TransientStoreError if the same slice may succeed later; part of it may be stored.
        """

    def upsert_alike(self, rows: Alike) -> None:
        """The same for rows that `fit_alike` has fitted, into a sink that was empty."""
        self.upsert(rows, Existing.EMPTY)

    def swap(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        """Store each row over what is there, if that still is as it was when the two were compared; else `flush` gives what is there now.

        Decided by the store in the same write. Nothing there any more counts as no obstacle. Never called where `Traits.whole`.
        """
        raise StoreError("records are not replaced one by one here")

    def remove(self, rows: Iterable[Row]) -> None:
        """Delete each row, if what is there still is as it was when it was read; else `flush` gives what is there now.

        Decided by the store in the same write. Nothing there any more is as good as deleted. Never called where `Traits.whole`.
        """
        raise StoreError("records are not deleted one by one here")

    def hasten(self) -> bool:
        """No more rows come before `flush`: whether the store is at work now, so that there is time for something else meanwhile."""
        return False

    @abstractmethod
    def flush(self) -> Flushed:
        """Wait until all rows since `begin` are durable, and say which were not written: each once, however often it is called."""

    @abstractmethod
    def reader(self) -> Reader:
        """The same store for reading: what is durable, staged or not, with consistent reads where the store has them."""

    def share(self, part: float) -> None:
        """As `Source.share`, for reading and writing. It holds for `reader` as well."""

    def publish(self) -> None:
        """Once, at the end: a file sink joins its parts and renames. Twice is the same as once. Others do nothing."""

    def close(self) -> None:
        """Give connections and files back. What was not flushed may be lost. Calling it twice is harmless."""


class Adapter(Protocol):
    """What every adapter module has as ADAPTER."""

    traits: Traits

    def describe(self, address: Address) -> Shape | None:
        """What is there, read only; None if nothing is. Raises ConfigError where it is no store of this sort or cannot be asked."""

    def check(self, layout: Layout) -> None:
        """Raises ConfigError if no store of this sort could hold what the layout says (a column's type). Touches nothing."""

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        """Why a store does not keep what the application saves, rung by rung, up to the first that does not hold the next. Writes nothing.

        layout: the one that a new store of the sort gets, for the names that the application looks for. Raises nothing for a store's faults.
        """

    def whereabouts(self, address: Address) -> str:
        """Where exactly that is, for people: the absolute path, or the table's ARN, endpoint and profile. Never a secret."""

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> Source:
        """Open for reading. With `snapshot`, as a worker or a resumed run: the one taken before, of the same state folder."""

    def reader(self, address: Address, setting: Setting) -> Reader:
        """Open what may not be there yet, for comparing. Never writes."""

    def sink(self, address: Address, setting: Setting) -> Sink:
        """Open for writing. Touches nothing until `prepare`."""
