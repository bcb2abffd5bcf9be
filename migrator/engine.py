"""Moves the data: slices, the workers that copy them, and the loop that remembers what is done.

A slice is read, upserted, made durable, and only then remembered; there is no other way data moves. `copy_slice` is a plain
picklable call that may run twice without harm, so that one piece of code serves threads, processes and any other
`concurrent.futures.Executor`. Knows nothing of mapping files or people: `migration` makes the job and tells the story.
"""

from __future__ import annotations

import pickle
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from migrator.adapters import adapter_for
from migrator.adapters.base import PAGE_ROWS, Reader, Setting, Sink, Source
from migrator.checkpoint import Checkpoint, Progress, State
from migrator.choice import EVERYTHING, Choice
from migrator.crew import Crew, Stop
from migrator.digest import Digest
from migrator.duplicates import Duplicates
from migrator.errors import AccountError, StoreError, TransientStoreError
from migrator.layout import Layout
from migrator.model import (
    FOREIGN,
    Address,
    Cursor,
    Existing,
    Kind,
    Page,
    Partition,
    Reject,
    Row,
    Snapshot,
    Tally,
)
from migrator.pair import Expected, Pair
from migrator.proof import Seen, read_sink
from migrator.values import Value

T = TypeVar("T")

SLICE_PAGES = 2
SLICE_ROWS = SLICE_PAGES * PAGE_ROWS
"""The most records of one slice, and so what one worker does again after a kill; times the sink's `Traits.stretch`."""

WANTED_PARTITIONS = 16
"""Asked of every source, whatever the number of workers: partitions are planned once and frozen in the checkpoint."""

_TRIES = 5
_SWAPS = 10  # a record that changes more often than that while it is replaced makes the slice be done again
_NAMED = 20  # foreign items whose place is kept for the report


@dataclass(frozen=True)
class Job:
    """All a worker needs to know; plain and picklable."""

    id: str
    source: Address
    sink: Address
    source_layout: Layout
    sink_layout: Layout
    kinds: tuple[str, ...]
    state_root: str
    state_name: str
    snapshot: Snapshot | None
    existing: Existing
    sink_was_empty: bool
    dry: bool
    setting: dict[str, Value] = field(default_factory=dict)
    choice: Choice = EVERYTHING
    limit: int | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """It goes with every slice: so it is packed once, and a worker that has it already need not unpack it."""
        return _unpacked, (self._packed,)

    @cached_property
    def _packed(self) -> bytes:
        return pickle.dumps(tuple(getattr(self, each.name) for each in fields(self)), pickle.HIGHEST_PROTOCOL)

    @property
    def state(self) -> State:
        return State(Path(self.state_root), self.state_name)

    def settings(self, layout: Layout) -> Setting:
        return Setting(layout, self.kinds, self.state.scratch, **self.setting)

    @property
    def kind_map(self) -> dict[str, Kind]:
        return {name: self.sink_layout.kinds[name].kind for name in self.kinds}


@lru_cache(1)
def _unpacked(packed: bytes) -> Job:
    return Job(*pickle.loads(packed))


@dataclass
class Weights:
    """What a dry run learns of one kind's records in the sink: bytes, write units, the largest record, how many are not stored as they are."""

    bytes: int = 0
    units: float = 0.0
    largest: int = 0
    largest_identity: str = ""
    compressed: int = 0
    split: int = 0

    def add(self, other: Weights) -> None:
        self.bytes += other.bytes
        self.units += other.units
        self.compressed += other.compressed
        self.split += other.split
        if other.largest > self.largest:
            self.largest, self.largest_identity = other.largest, other.largest_identity


@dataclass
class SliceResult:
    """What a slice did: counts taken where the sink has acknowledged, the digest of what should be there, the cursor behind it."""

    turn: int
    number: int
    cursor: Cursor
    done: bool
    tallies: dict[str, Tally] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    foreign: int = 0
    ghosts: int = 0
    accepted: int = 0
    due: int = 0
    retyped: dict[str, int] = field(default_factory=dict)
    foreign_seen: list[str] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        return sum(tally.rejected for tally in self.tallies.values())

    @property
    def read(self) -> int:
        return sum(tally.read for tally in self.tallies.values())


def slice_name(turn: int, number: int) -> str:
    """Names sort in plan order: partition, then slice."""
    return f"{turn:04}-{number:06}"


# One slice -------------------------------------------------------------------------------------------------------------


def copy_slice(
    job: Job,
    turn: int,
    partition: Partition,
    after: Cursor,
    number: int,
    careful: bool,
    most: int | None = None,
    part: float = 1.0,
    then: tuple[Partition, Cursor] | None = None,
) -> SliceResult:
    """Copy one slice of a partition: from behind `after`, at most SLICE_PAGES pages (times the sink's `Traits.stretch`), and at most `most` records.

    May run twice without harm. `careful`: it may have run before in a sink that was empty then; it is written conditionally, and a record that
    is there already and equal counts as written. A passing failure is met by doing the slice again, a few times. `part`: of the stores' rates.
    `then`: where this worker will most likely go on, if not in this partition; what is there is read while the sink still has something to do.
    """
    stores = _opened(job)
    with stores.sharing(part):
        for attempt in range(1, _TRIES + 1):
            try:
                return _Slice(job, stores, turn, partition, number, careful or attempt > 1).copy(after, most, then)
            except TransientStoreError as exc:
                if attempt == _TRIES:
                    raise StoreError(f"{exc} (tried {_TRIES} times)") from exc
                time.sleep(random.uniform(0, min(30.0, 0.5 * 2**attempt)))
    raise AssertionError("unreachable")


class _Slice:
    def __init__(self, job: Job, stores: _Stores, turn: int, partition: Partition, number: int, careful: bool) -> None:
        self.job, self.stores, self.partition = job, stores, partition
        self.name = slice_name(turn, number)
        # A part of a file sink replaces the part that the same slice left before: nothing else can be in its place.
        self.careful = careful and job.existing is Existing.EMPTY and not stores.is_whole
        self.result = SliceResult(turn, number, None, False)
        self.rejects: list[Reject] = []
        self.duplicates: list[Row] = []
        self.differing: list[tuple[Row, Row]] = []
        self.came = 0
        self.sent: dict[str, int] = {}
        self.users: dict[str, int] = {}

    def copy(self, after: Cursor, most: int | None, then: tuple[Partition, Cursor] | None) -> SliceResult:
        sink, result = self.stores.sink, self.result
        result.cursor = after
        if sink is not None:
            sink.begin(self.name)
        for count, ready in enumerate(self.stores.pages(self.partition, after, most), 1):
            self.came += ready.came
            self._take(ready.expected)
            result.cursor = ready.cursor
            if count == self.stores.slice_pages:
                break
        else:
            result.done = True
        if sink is not None:
            if sink.hasten() and most is None and (then is not None or not result.done):
                self.stores.read_ahead(*(then or (self.partition, result.cursor)))
            self._flush(sink)
        for kind, count in self.sent.items():
            self._tally(kind).written += count
        self._must_close()
        self._leave_notes()
        return result

    def _must_close(self) -> None:
        """Raises AccountError unless all that came is counted as read, and of each kind what was read is accounted for, and the digest is of what is there.

        A slice that does not close is never remembered, so that no sum of slices can hide it.
        """
        tallies, digests = self.result.tallies, self.result.digests
        if (counted := sum(tally.read for kind, tally in tallies.items() if kind != FOREIGN)) != self.came:
            raise AccountError(f"slice {self.name}: {self.came} records came, and {counted} were counted as read")
        for kind, tally in tallies.items():
            noted = digests[kind].count if kind in digests else 0
            there = tally.written + tally.unchanged + tally.kept + tally.differing
            if not tally.closes or noted != there:
                raise AccountError(f"slice {self.name} does not close: {kind}: {tally.words}; {noted} in the digest")

    def _take(self, expected: Expected) -> None:
        for kind, tally in expected.tallies.items():
            self._tally(kind).add(tally)
        self.rejects += expected.rejects
        self.duplicates += expected.duplicates
        self._see(expected)
        for kind, digest in expected.digests.items():
            self.result.digests.setdefault(kind, Digest()).add(digest)
        missing, replacing = self._settle(self._by_row(expected))
        sending = [*missing, *(row for row, _ in replacing)]
        for kind, count in Counter([row.kind for row in sending]).items():
            self.sent[kind] = self.sent.get(kind, 0) + count
        for row in sending if self.job.dry else ():
            self._weigh(row)
            self.result.retyped[row.kind] = self.result.retyped.get(row.kind, 0) + self.stores.pair.is_retyped(row)
        if self.stores.sink is not None:
            plain = self.job.existing is Existing.EMPTY and not self.careful
            self.stores.sink.upsert(missing, Existing.EMPTY if plain else Existing.REFUSE)
            if replacing:
                self.stores.sink.swap(replacing)

    def _by_row(self, expected: Expected) -> list[Row]:
        """The rows that are looked at one by one. Into a sink that was empty those that are alike go together."""
        if self.stores.sink is None or self.careful or self.job.existing is not Existing.EMPTY:
            return expected.all_rows
        for rows in expected.alike:
            self.sent[rows.kind] = self.sent.get(rows.kind, 0) + len(rows)
            self.stores.sink.upsert_alike(rows)
        return expected.rows

    def _settle(self, rows: list[Row]) -> tuple[list[Row], list[tuple[Row, Row]]]:
        """Rows to write where nothing is, and rows to write over what is there. In an empty sink all are of the first sort."""
        if self.job.existing is Existing.EMPTY and not self.careful:
            return rows, []
        if self.job.sink_was_empty and self.job.existing in (Existing.KEEP, Existing.NEWER) and not self.job.dry:
            return rows, []  # the sink tells what has come meanwhile
        missing, replacing = [], []
        for row, there in zip(rows, self.stores.reader.fetch(rows), strict=True):
            if there is None or (self.careful and self._is_apart(row, there)):
                missing.append(row)
            elif self._meets(row, there):
                replacing.append((_under_its_key(row, there, self.job.sink_layout), there))
        self._keep_replaced([there for _, there in replacing])
        return missing, replacing

    def _is_apart(self, row: Row, there: Row) -> bool:
        """Whether what was found is another of the same identity that this run has brought, in a store that holds them all (H3)."""
        return self.stores.reader.apart(row) != self.stores.reader.apart(there)

    def _meets(self, row: Row, there: Row) -> bool:
        """Count a row whose place is taken; True if it is to be written all the same."""
        tally = self._tally(row.kind)
        if self.stores.pair.same(row, there):
            if self.careful:
                tally.written += 1
            else:
                tally.unchanged += 1
            return False
        existing = self.job.existing
        if existing is Existing.REPLACE or (existing is Existing.NEWER and self.stores.pair.is_newer(row, there)):
            return True
        if existing in (Existing.KEEP, Existing.NEWER):
            tally.kept += 1
            return False
        tally.differing += 1
        self.differing.append((row, there))
        return False

    def _flush(self, sink: Sink) -> None:
        """Wait for the sink, and settle what it would not write; again where replacing met a record that has just changed."""
        for _ in range(_SWAPS):
            flushed = sink.flush()
            for reject in flushed.rejects:
                self._unsend(reject.kind)
                self._tally(reject.kind).rejected += 1
                self.rejects.append(reject)
                self._unnote(reject)
            replacing = []
            for row, there in flushed.held:
                self._unsend(row.kind)
                if self._meets(row, there):
                    replacing.append((_under_its_key(row, there, self.job.sink_layout), there))
            if not replacing:
                return
            self._keep_replaced([there for _, there in replacing])
            for row, _ in replacing:
                self.sent[row.kind] = self.sent.get(row.kind, 0) + 1
            sink.swap(replacing)
        raise TransientStoreError("records in the sink change faster than they can be replaced")

    def _unsend(self, kind: str) -> None:
        self.sent[kind] -= 1

    def _unnote(self, reject: Reject) -> None:
        digest, row = self.result.digests[reject.kind], Row(reject.kind, reject.held, reject.origin)
        only: dict[str, Digest] = {}
        self.stores.pair.note(only, [row])
        digest.subtract(only[reject.kind])

    def _keep_replaced(self, rows: list[Row]) -> None:
        if rows and not self.job.dry:
            self.stores.state.append_replaced(row.to_plain() for row in rows)

    def _weigh(self, row: Row) -> None:
        weight = self.stores.reader.weigh(row)
        words = self.stores.pair.words(row) if weight.bytes else ""
        user = self.job.choice.user
        owner = row.record.get(user.field) if user is not None else None
        if isinstance(owner, str):
            self.users[owner] = self.users.get(owner, 0) + weight.bytes
        self.result.weights.setdefault(row.kind, Weights()).add(
            Weights(
                weight.bytes,
                weight.units,
                weight.bytes,
                words,
                weight.form == "compressed",
                weight.form == "split",
            )
        )

    def _see(self, expected: Expected) -> None:
        result = self.result
        result.foreign += len(expected.foreign)
        result.ghosts += expected.ghosts
        result.accepted += expected.accepted
        result.due += expected.due
        result.foreign_seen = (result.foreign_seen + expected.foreign)[:_NAMED]

    def _leave_notes(self) -> None:
        state, pair = self.stores.state, self.stores.pair
        state.note_left_behind(self.name, self.rejects, self.duplicates)
        state.note("users", self.name, ({"user": user, "bytes": size} for user, size in self.users.items()))
        state.note(
            "differing",
            self.name,
            (
                {
                    "what": "differing",
                    "kind": row.kind,
                    "identity": pair.words(row),
                    "fields": list(pair.differing_fields(row, there)),
                }
                for row, there in self.differing
            ),
        )

    def _tally(self, kind: str) -> Tally:
        return self.result.tallies.setdefault(kind, Tally())


def _under_its_key(row: Row, there: Row, layout: Layout) -> Row:
    """A row of a kind with derived keys keeps the key that the record has in the sink."""
    if (
        there.origin is None
        or row.kind not in layout.kinds
        or not layout.kinds[row.kind].has_free_key
        or there.origin.layout != layout.id
    ):
        return row
    origin = replace(there.origin, extra=row.origin.extra if row.origin else {})
    return replace(row, origin=origin, encoded=None)


# Opened stores, once a worker ------------------------------------------------------------------------------------------


class _Ready(NamedTuple):
    """A page that was read: the cursor behind it, how many records came with it, and what of them should be in the sink."""

    cursor: Cursor
    came: int
    expected: Expected


@dataclass
class _Open:
    """A partition that waits for its next slice: where that begins, the page that is ready, if one is, and what brings the others."""

    cursor: Cursor
    rest: Iterator[Page]
    ready: _Ready | None = None


class _Stores:
    """Both stores as one worker has them open, with the iterators that wait for their partition's next slice."""

    def __init__(self, job: Job) -> None:
        self.state = job.state
        source_setting, sink_setting = job.settings(job.source_layout), job.settings(job.sink_layout)
        adapter = adapter_for(job.sink.store)
        self.source: Source = adapter_for(job.source.store).source(job.source, source_setting, job.snapshot)
        self.sink: Sink | None = None if job.dry else adapter.sink(job.sink, sink_setting)
        self.reader: Reader = adapter.reader(job.sink, sink_setting) if self.sink is None else self.sink.reader()
        self.is_whole = adapter.traits.whole
        self.slice_pages = SLICE_PAGES * adapter.traits.stretch
        self.duplicates = Duplicates(self.state.duplicates)
        self.pair = Pair(self.source, self.reader, job.kind_map, self.duplicates, job.choice)
        self._open: dict[str, _Open] = {}

    def pages(self, partition: Partition, after: Cursor, most: int | None = None) -> Iterator[_Ready]:
        """What is behind `after`, page by page, going on with what is open there; `most` records."""
        at = self._opened(partition, after)
        while True:
            ready, at.ready = at.ready or self._next(at, most), None
            if ready is None:
                self._open.pop(partition.id, None)
                return
            if most is not None:
                most -= ready.came
            at.cursor = ready.cursor
            self._open[partition.id] = at
            yield ready

    def read_ahead(self, partition: Partition, after: Cursor) -> None:
        """Have a page ready there. What is wrong with it shows when it is wanted."""
        at = self._opened(partition, after)
        with suppress(Exception):
            at.ready = at.ready or self._next(at)
            self._open[partition.id] = at

    def _opened(self, partition: Partition, after: Cursor) -> _Open:
        """The partition as it is open there, or anew; until it is put back, nobody else goes on with it."""
        at = self._open.pop(partition.id, None)
        return at if at is not None and at.cursor == after else _Open(after, iter(self.source.pages(partition, after)))

    def _next(self, at: _Open, most: int | None = None) -> _Ready | None:
        page = next(at.rest, None)
        if page is None:
            return None
        if most is not None:
            page.rows = page.rows[: max(0, most)]
        came = page.count + len(page.rejects)
        return _Ready(page.cursor, came, self.pair.expected(page))

    @contextmanager
    def sharing(self, part: float) -> Iterator[None]:
        """While the block lasts, take this part of what both stores may be asked for."""
        both = (self.source, self.sink or self.reader)
        try:
            for store in both:
                store.share(part)
            yield
        finally:
            for store in both:
                store.share(0)

    def close(self) -> None:
        self._open.clear()
        for store in (self.source, self.reader, self.sink, self.duplicates):
            if store is not None:
                store.close()


_open = threading.local()


def _opened(job: Job) -> _Stores:
    held: dict[str, _Stores] = _open.__dict__.setdefault("stores", {})
    if job.id not in held:
        held[job.id] = _Stores(job)
    return held[job.id]


def let_go(job: Job) -> None:
    """Close the stores that this thread has open for a job, if any: it outlives the run, and workers do not."""
    stores: _Stores | None = _open.__dict__.get("stores", {}).pop(job.id, None)
    if stores is not None:
        stores.close()


def get_ready(*stores: str) -> None:
    """What a worker does while there is nothing else to do: import what it will need for such stores."""
    for store in stores:
        adapter_for(store)


def note_repeated(job: Job, partition: Partition, part: float = 1.0) -> Path:
    """Note what one partition of the source adds to the rows that may share an identity; the file where that is."""
    stores = _opened(job)
    path = stores.state.scratch / f"repeated-{partition.id.replace('/', '-')}.sqlite"
    with stores.sharing(part):
        rows = stores.source.repeated(job.kinds, partition)
        Duplicates.note(path, rows, job.kind_map, stores.reader.apart)
    return path


def read_sink_partition(job: Job, partition: Partition, part: float = 1.0) -> Seen:
    """What one partition of the sink holds, for verifying on many workers; `part` is of the stores' rates."""
    stores = _opened(job)
    with stores.sharing(part):
        return read_sink(stores.pair, [partition], lambda records: None)


def by_partition(
    call: Callable[[Job, Partition, float], T], job: Job, partitions: list[Partition], crew: Crew
) -> Iterator[T]:
    """What a call gives of each partition, in whatever order they come: at most `crew.workers` at once, which share the stores' rates."""
    waiting, idle = deque(partitions), [*range(crew.workers)]
    flying: dict[Future[T], int] = {}
    try:
        while waiting or flying:
            while waiting and idle:
                part, worker = part_of_rate(crew.workers, len(waiting) + len(flying)), idle.pop(0)
                flying[crew.submit(worker, call, job, waiting.popleft(), part)] = worker
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            idle += [flying.pop(future) for future in finished]
            yield from (future.result() for future in finished)
    finally:
        wait(flying)


def part_of_rate(workers: int, left: int) -> float:
    """The part of a store's rate for what is submitted next, while `left` partitions are under way or wait, that one included.

    `left` never grows, so that those under way have no more than this each, and all together never more than the whole.
    """
    return 1 / min(workers, left)


class _Turns:
    """Which partitions wait, and who goes on with each: the worker that has it open, if that is free; those that have waited longest come first."""

    def __init__(self, waiting: Iterable[int]) -> None:
        self.waiting = deque(waiting)
        self._of: dict[int, int] = {}  # which worker has it open, or is going to

    def take(self, idle: list[int]) -> tuple[int, int]:
        """A worker of these, and what it does next; neither waits any longer. Some of both must be there."""
        ready = ((self._of.get(turn, idle[0]), turn) for turn in self.waiting)
        stolen = idle[0], self.waiting[0]
        worker, turn = next((each for each in ready if each[0] in idle), stolen)
        idle.remove(worker)
        self.waiting.remove(turn)
        self._of[turn] = worker
        return worker, turn

    def following(self, worker: int) -> int | None:
        """What that worker will most likely do next; it waits on, and is its own from now on. None if all that wait are others'."""
        following = next((turn for turn in self.waiting if self._of.get(turn, worker) == worker), None)
        if following is not None:
            self._of[following] = worker
        return following


# The loop --------------------------------------------------------------------------------------------------------------


def copy(
    job: Job,
    checkpoint: Checkpoint,
    crew: Crew,
    stop: Stop,
    is_resumed: bool,
    stop_on_reject: bool,
    tick: Callable[[SliceResult], None],
) -> bool:
    """Copy every slice that is not yet remembered; True if all are done, False if rejects stopped it.

    Saves the checkpoint as each slice returns (not in a dry run), and only then submits the next of that partition. At most `crew.workers` slices are
    submitted and unsaved. Raises Interrupted, or what a slice raised, when those in flight have been saved.
    """
    state = job.state
    turns = _Turns(turn for turn, progress in enumerate(checkpoint.progress) if not progress.done)
    waiting, idle = turns.waiting, [*range(crew.workers)]
    perhaps_begun = set(waiting) if is_resumed else set()
    flying: dict[Future[SliceResult], tuple[int, int]] = {}  # whose slice, and who does it
    failure: BaseException | None = None
    rejected = False
    while True:
        while waiting and idle and failure is None and not rejected and stop.signal_number is None:
            most = None if job.limit is None else job.limit - sum(tally.read for tally in checkpoint.tallies.values())
            if most is not None and most <= 0:
                for each in waiting:
                    checkpoint.progress[each].done = True
                waiting.clear()
                break
            part = part_of_rate(crew.workers, len(waiting) + len(flying))
            worker, turn = turns.take(idle)
            at = checkpoint.progress[turn]
            careful = turn in perhaps_begun
            perhaps_begun.discard(turn)
            following = turns.following(worker) if len(waiting) > len(idle) else None
            then = None if following is None else _place(checkpoint.progress[following])
            arguments = (job, turn, at.partition, at.cursor, at.slices, careful, most, part, then)
            flying[crew.submit(worker, copy_slice, *arguments)] = turn, worker
        if not flying:
            break
        finished, _ = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in finished:
            turn, worker = flying.pop(future)
            idle.append(worker)
            try:
                result = future.result()
            except BrokenExecutor:
                stop.check()  # a signal to the whole group ends the workers too
                failure = failure or a_worker_died()
                continue
            except Exception as exc:
                failure = failure or exc
                continue
            remember(checkpoint, result)
            if not result.done:
                waiting.append(turn)
            if not job.dry:
                state.save(checkpoint)
            tick(result)
            rejected = rejected or (stop_on_reject and result.rejected > 0)
    if failure is not None:
        raise failure
    if waiting:
        stop.check()
    return not waiting


def a_worker_died() -> StoreError:
    return StoreError("a worker process died (out of memory, or killed): run the same command again to resume")


def _place(progress: Progress) -> tuple[Partition, Cursor]:
    return progress.partition, progress.cursor


def remember(checkpoint: Checkpoint, result: SliceResult) -> None:
    """Add what a slice did to the checkpoint."""
    at = checkpoint.progress[result.turn]
    at.cursor, at.done, at.slices = result.cursor, result.done, result.number + 1
    for kind, tally in result.tallies.items():
        checkpoint.tallies.setdefault(kind, Tally()).add(tally)
    for kind, digest in result.digests.items():
        checkpoint.digests.setdefault(kind, Digest()).add(digest)
    for kind, weights in result.weights.items():
        summed = Weights(**checkpoint.weights.get(kind, {}))
        summed.add(weights)
        checkpoint.weights[kind] = vars(summed)
    checkpoint.foreign += result.foreign
    checkpoint.ghosts += result.ghosts
    checkpoint.accepted += result.accepted
    checkpoint.due += result.due
    for kind, count in result.retyped.items():
        checkpoint.retyped[kind] = checkpoint.retyped.get(kind, 0) + count
    checkpoint.foreign_seen = (checkpoint.foreign_seen + result.foreign_seen)[:_NAMED]
