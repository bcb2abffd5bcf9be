"""The story of a deletion: what the sink holds and the source does not, named, and, if asked to, deleted from the sink.

Only for sinks that hold nothing but what came from the source: whoever asks knows that. Each record is on disk before it goes, and goes only if
it still is as it was when the two stores were compared; the source is read, and never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from migrator import proof as proofs
from migrator.adapters.base import Reader, Sink, Source
from migrator.duplicates import Duplicates
from migrator.engine import WANTED_PARTITIONS, slice_name
from migrator.errors import ConfigError
from migrator.files import private
from migrator.model import Reject, Row, counted
from migrator.pair import Expected, Pair
from migrator.plan import Plan
from migrator.run import Run, text_of
from migrator.values import to_json

_BATCH = 100


class Deletion:
    """One comparison, and the deletion of what is extra: at the most `most` records; None: they are named and left."""

    def __init__(self, run: Run, most: int | None) -> None:
        self.run, self.most = run, most
        self.safe: set[bytes] = set()  # identities of records that the source holds and that cannot travel
        self.unknown: set[str] = set()  # kinds of which the source holds records whose identity cannot be read

    def go(self) -> None:
        """Fills in the report: extra records that remain (by kind), `deleted`, and the files of both.

        Raises ConfigError, and deletes nothing, if more than `most` would go.
        """
        run, show, report = self.run, self.run.show, self.run.report
        plan = self.plan = run.planned("delete")
        if plan.sink.traits.whole:
            raise ConfigError(
                f"{plan.sink.address.text}: records are not deleted one by one here; it is replaced whole"
            )
        state = self.state = run.enter_state(plan, plan.sink.local_file)
        state.clear()
        state.empty_scratch()
        setting = replace(plan.setting(plan.source.layout, state.scratch), say=show.say)
        source: Source = run.opened(plan.source.adapter.source(plan.source.address, setting))
        snapshot = source.snapshot()
        report.snapshot = {"id": snapshot.id, "moment": snapshot.moment, "words": snapshot.words}
        if not source.holds(plan.kinds).any and not run.options.allow_empty:
            raise ConfigError(
                f"{plan.source.address.text} holds no records: nothing was deleted. --allow-empty if it is meant"
            )
        reader: Reader = run.opened(
            plan.sink.adapter.reader(plan.sink.address, plan.setting(plan.sink.layout, state.scratch))
        )
        found = self._find(plan, source, reader)
        if self.most is not None and found > self.most:
            raise ConfigError(
                f"{counted(found)} of {plan.sink.address.text} not in {plan.source.address.text} any more, and --max-delete is {self.most:,}: "
                f"nothing was deleted. They are named in {report.differences_file}; if they may go: --max-delete {found}"
            )
        if self.most is not None and found:
            self._delete(plan, found)
        report.deleted_file = text_of(state.drop_repeats_of_deleted())
        report.end("differences" if any(kind.proof.extra for kind in report.kinds.values()) else "done")

    def _find(self, plan: Plan, source: Source, reader: Reader) -> int:
        """Name what is extra, and keep in the scratch folder what may be deleted; how many that are."""
        state, show, report = self.state, self.run.show, self.run.report
        Duplicates.build(state.duplicates, source.repeated(plan.kinds), plan.mapping.kinds, reader.apart)
        duplicates = Duplicates(state.duplicates)
        pair = Pair(source, reader, plan.kind_map, duplicates)
        count = 0
        try:
            with show.progress("reading the source", source.size_hint()) as tick:
                ours = proofs.read_source(pair, tick, lambda _, expected: self._spare(pair, expected))
            with show.progress("reading the sink", reader.size_hint()) as tick:
                theirs = proofs.read_sink(pair, reader.partitions(plan.kinds, WANTED_PARTITIONS), tick)
            found = proofs.compare(pair.kinds, ours.digests, theirs.digests)
            names = state.path / "differences.jsonl"
            with self._spool.open("wb") as spool, private(names) as out, show.progress("comparing rows", None) as tick:

                def take(row: Row) -> None:
                    nonlocal count
                    if row.kind not in self.unknown and pair.key(row) not in self.safe:
                        spool.write(proofs.packed(row) + b"\n")
                        count += 1

                for difference in proofs.DifferenceFinder(pair, state.scratch, take_extra=take).find(found, tick):
                    if difference.what == "extra":
                        out.write(to_json(difference.to_plain()) + b"\n")
        finally:
            duplicates.close()
        for kind, proof in found.items():
            report.kind(kind).proof = proof
        report.differences_file = str(names) if any(proof.extra for proof in found.values()) else None
        return count

    def _spare(self, pair: Pair, expected: Expected) -> None:
        """What the source holds and cannot be compared is no reason to delete what the sink holds of it."""
        for reject in expected.rejects:
            key = _identity(pair, reject)
            if key is None:
                self.unknown |= {reject.kind} if reject.kind in pair.kinds else pair.kinds.keys()
            else:
                self.safe.add(key)

    @property
    def _spool(self) -> Path:
        return self.state.scratch / "extras.jsonl"

    def _delete(self, plan: Plan, count: int) -> None:
        report, state = self.run.report, self.state
        sink: Sink = self.run.opened(
            plan.sink.adapter.sink(plan.sink.address, plan.setting(plan.sink.layout, state.scratch))
        )
        sink.prepare(plan.kinds, create=False)
        with self._spool.open("rb") as spool, self.run.show.progress("deleting", count) as tick:
            rows = map(proofs.unpacked, spool)
            for number, batch in enumerate(_batches(rows)):
                state.append_deleted(row.to_plain() for row in batch)
                sink.begin(slice_name(0, number))
                sink.remove(batch)
                stayed = {(row.kind, row.place) for row, _ in sink.flush().held}
                for row in batch:
                    if (row.kind, row.place) not in stayed:
                        report.deleted += 1
                        report.kind(row.kind).proof.extra -= 1
                tick(len(batch))


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _identity(pair: Pair, reject: Reject) -> bytes | None:
    """The identity of a record that cannot travel; None where it cannot be told for certain."""
    kind = pair.kinds.get(reject.kind)
    if kind is None or not all(isinstance(reject.held.get(name), str) for name in kind.identity):
        return None
    try:
        return pair.key(Row(reject.kind, reject.held, reject.origin))
    except (KeyError, TypeError, ValueError):
        return None
