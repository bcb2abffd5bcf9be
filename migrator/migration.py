"""The story of a migration or a dry run, in the order in which it happens: look, plan, hold still, copy, prove, publish, report.

Knows when a thing is done and what is saved by then; leaves moving data to `engine`, comparing to `verification`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from migrator import proof as proofs
from migrator.adapters.base import Reader, Sink, Source
from migrator.binding import reading
from migrator.checkpoint import Checkpoint, Progress
from migrator.choice import Choice
from migrator.crew import Crew, Stop
from migrator.digest import Digest
from migrator.duplicates import Duplicates
from migrator.engine import (
    SLICE_ROWS,
    WANTED_PARTITIONS,
    Job,
    SliceResult,
    a_worker_died,
    by_partition,
    copy,
    get_ready,
    let_go,
    note_repeated,
    read_sink_partition,
)
from migrator.errors import ConfigError, StoreError
from migrator.model import FOREIGN, Existing, Row, Tally, counted
from migrator.pair import Pair, carries_foreign
from migrator.plan import (
    keeps_keys,
    must_take_files,
    narrowed,
    oversize_words,
    rate_words,
    reading_words,
    told_words,
    unread_tables,
)
from migrator.report import PAGE, estimate
from migrator.run import Run, now_words, text_of
from migrator.verification import ask, command_words, compare, forgets, prove

SMALL = 20_000
"""Below so many records, starting worker processes costs more than they save."""

_AN_HOUR = 3600

_RULES = {
    "refuse": "refuse: what is there stays as it is",
    "keep": "keep: what is there stays as it is, decided by the store in the same write",
    "newer": "newer: what is there stays unless the source's is newer, decided by the store in the same write; what is replaced is kept in replaced.jsonl",
    "replace": "replace: what is replaced is kept in replaced.jsonl",
}


class Migration:
    """One migration or dry run, step by step."""

    def __init__(self, run: Run, executor: Executor | None) -> None:
        self.run, self.executor = run, executor
        self.options, self.show, self.report = run.options, run.show, run.report
        self.dry = run.options.dry_run
        self._crew: Crew | None = None

    def go(self) -> None:
        plan = self.plan = self.run.planned("dry-run" if self.dry else "migrate")
        self._refuse_missing_sink()
        self.state = self.run.enter_state(plan, None if self.dry else plan.sink.local_file)
        checkpoint = self._earlier()
        source = self._open_source(checkpoint)
        reader = self.run.opened(
            plan.sink.adapter.reader(plan.sink.address, plan.setting(plan.sink.layout, self.state.scratch))
        )
        if self.checkpoint is None:
            self._begin(source, reader)
        else:
            self._refuse_lost_sink(reader)
        checkpoint = self.checkpoint
        assert checkpoint is not None
        self._tell_plan(source, reader)
        if not self.report.resumed:
            self.state.clear()
        self._copy_and_prove(source, reader, checkpoint)

    # before anything is written

    def _refuse_missing_sink(self) -> None:
        store, create = self.plan.sink, self.options.create
        remote = store.local_file is None and store.address.store != "memory"
        if store.shape is not None or self.dry:
            return
        if create is False or (remote and not create):
            raise ConfigError(
                f"{store.address.text}: there is nothing here ({store.whereabouts}). Check the spelling, or have it made: --create"
            )
        if store.local_file is not None:
            must_take_files(Path(store.local_file).resolve().parent)  # asked now: a snapshot may take minutes

    def _refuse_lost_sink(self, reader: Reader) -> None:
        """What the checkpoint says was written must not have gone with the sink: going on would leave half of it."""
        checkpoint, sink = self.checkpoint, self.plan.sink
        assert checkpoint is not None
        written = sum(tally.written for tally in checkpoint.tallies.values())
        if written and not sink.traits.whole and not reader.holds((*self.plan.kinds, FOREIGN)).any:
            raise ConfigError(
                f"{sink.address.text}: {counted(written)} had been written when this job was interrupted, and the sink is empty now. "
                "Bring it back, or begin anew with --restart"
            )

    def _earlier(self) -> Checkpoint | None:
        """The checkpoint to go on with, if there is one. A finished one stays as history until a new job has really begun."""
        state = self.state
        if self.options.restart:
            state.clear()  # before its snapshot and what it staged: an unfinished checkpoint without them would be taken up again
        self.run.is_resumable = state.checkpoint_file.exists()  # by another version of migrator, if this one refuses it
        checkpoint = None if self.dry else state.load()
        if checkpoint is not None and not checkpoint.is_unfinished():
            checkpoint = None
        if checkpoint is not None and checkpoint.sink_at != self.plan.sink.whereabouts:
            if self.plan.sink.shape is None:
                raise ConfigError(
                    f"the interrupted job wrote to {checkpoint.sink_at}, and there is nothing at {self.plan.sink.address.text} now. "
                    "Bring it back, or begin anew with --restart"
                )
            raise ConfigError(
                f"the interrupted job wrote to {checkpoint.sink_at}, and the sink is now {self.plan.sink.whereabouts}. "
                "Use the same account and endpoint to resume, or begin anew with --restart"
            )
        if checkpoint is None:
            state.empty_scratch()
        self.checkpoint = checkpoint
        self.run.is_resumable = checkpoint is not None
        return checkpoint

    def _open_source(self, checkpoint: Checkpoint | None) -> Source:
        plan, store = self.plan, self.plan.source
        setting = replace(plan.setting(store.layout, self.state.scratch), say=self.show.say)
        if checkpoint is not None:
            assert checkpoint.snapshot is not None
            source: Source = store.adapter.source(store.address, setting, checkpoint.snapshot)
            if (still := source.is_still(checkpoint.snapshot)) and self.state.duplicates.exists():
                self._tell_resumed(checkpoint)
                self.snapshot = checkpoint.snapshot
                self.run.opened(source)
                return source
            source.close()
            why = "what was noted of duplicates is gone" if still else "the source has changed"
            self.show.say(f"{why} since the checkpoint in {self.state.path}: the job starts anew")
            self.state.clear()
            self.state.empty_scratch()
            self.checkpoint, self.run.is_resumable = None, False
        else:
            self.show.say(f"no checkpoint in {self.state.path}: a new job")
        source = self.run.opened(store.adapter.source(store.address, setting))
        self._hire_early(source)
        with self.show.step("taking a snapshot of the source"):
            self.snapshot = source.snapshot()
        return source

    def _tell_resumed(self, checkpoint: Checkpoint) -> None:
        done = sum(progress.done for progress in checkpoint.progress)
        read = sum(tally.read for tally in checkpoint.tallies.values())
        self.report.resumed = True
        self.show.say(
            f"resuming from {self.state.checkpoint_file}: {counted(read)} read, {done} of {counted(len(checkpoint.progress), 'partition')} done"
        )
        moment = checkpoint.snapshot.moment if checkpoint.snapshot else None
        if moment and (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() > _AN_HOUR:
            again = command_words("migrate", self.plan, "--existing replace")
            self.show.say(
                f"the snapshot of the source is of {moment}, more than an hour old. To catch up when this run has ended: {again}"
            )

    def _begin(self, source: Source, reader: Reader) -> None:
        plan, state = self.plan, self.state
        if not source.holds(plan.kinds).any and not self.options.allow_empty:
            of = (
                f" of {', '.join(plan.kinds)}"
                if plan.source.shape is not None and plan.source.shape.tells
                else ", of any mapping"
            )
            raise ConfigError(
                f"{plan.source.address.text} holds no records{of}: is it the store the application writes to? "
                "A chat that fell back to memory leaves an empty one behind. --allow-empty if it is meant"
            )
        checkpoint = Checkpoint(state.name, plan.describes, self.report.started, snapshot=self.snapshot)
        compared = (*plan.kinds, FOREIGN) if carries_foreign(source, reader, plan.kinds) else plan.kinds
        checkpoint.sink_was_empty = not reader.holds(compared).any
        checkpoint.progress = [Progress(each) for each in source.partitions(plan.kinds, WANTED_PARTITIONS)]
        if plan.source.address.store == "dynamodb":
            self.show.say("the table is read once more, for records that lie under two keys (half a unit for 4 KB)")
        with self.show.step("looking for records that share an identity"):
            notes = self._noted_by_workers(source, checkpoint)
            rows = source.repeated(plan.kinds) if notes is None else ()
            losers = Duplicates.build(state.duplicates, rows, plan.mapping.kinds, reader.apart, notes or ())
            for note in notes or ():
                note.unlink()
        checkpoint.repeated = losers
        if losers and self.options.on_duplicate == "stop":
            some = ", ".join(Duplicates.some(state.duplicates, 3))
            raise ConfigError(
                f"{counted(losers)} of the source share an identity with a newer one, at {some}{', …' if losers > 3 else ''} "
                "(--on-duplicate newest takes the newest along and keeps the others in a file)"
            )
        if self.options.user is not None:
            checkpoint.ids = self._ids_of_user(source)
        self.checkpoint = checkpoint

    def _noted_by_workers(self, source: Source, checkpoint: Checkpoint) -> list[Path] | None:
        """What several workers note of rows that may share an identity, where they can read them; else None."""
        workers, processes = self._workers(checkpoint, source.size_hint())
        if not (processes and source.repeats_by_part):
            return None
        job = replace(self._job(Existing.REFUSE, False, self.plan.choice), id=f"{self.report.run_id}-look", dry=True)
        partitions = [progress.partition for progress in checkpoint.progress]
        crew = self._hired(workers, processes)
        with Stop().listening() as stop:
            stop.on_first = crew.end_at_once  # nothing is lost with it
            try:
                return [*by_partition(note_repeated, job, partitions, crew)]
            except BrokenExecutor as exc:
                stop.check()
                raise a_worker_died() from exc

    def _ids_of_user(self, source: Source) -> list[str]:
        """The user's id, and those of the user's sessions, under which the conversation lies (fact sheet 2.12): one reading of the source."""
        choice = self.plan.choice
        ids, found, near = {choice.person}, False, ""
        with self.show.progress("looking for the user's sessions", source.size_hint()) as tick:
            for partition in source.partitions(list(self.plan.source.layout.kinds), 1):
                for page in source.pages(partition, None):
                    for row in page.rows:
                        ids |= choice.sessions_of(row.record)
                        owner = choice.owner_of(row.record)
                        found = found or owner == choice.person
                        if owner.casefold() == choice.person.casefold():
                            near = owner
                    tick(len(page.rows))
        if not found and not self.options.allow_empty:
            hint = f'; there is "{near}"' if near else ""
            raise ConfigError(
                f'no record of {self.plan.source.address.text} is of the user "{choice.person}"{hint}. --allow-empty if none is meant'
            )
        return sorted(ids)

    def _tell_plan(self, source: Source, reader: Reader) -> None:
        plan, checkpoint = self.plan, self.checkpoint
        assert checkpoint is not None
        self.report.narrowed = [*source.notes, *narrowed(plan, source.loses, reader.loses)]
        self.report.snapshot = {"id": self.snapshot.id, "moment": self.snapshot.moment, "words": self.snapshot.words}
        hint = source.size_hint()
        self.workers, self.processes = self._workers(checkpoint, hint)
        self.hint = hint
        self.rates = reader.rates()
        sink_words = "will be created" if plan.sink.shape is None else reader.holds(plan.kinds).words
        if checkpoint.sink_was_empty and self.options.existing not in ("keep", "newer"):
            empty = "was empty when the job began" if self.report.resumed else "is empty"
            rule = f"the sink {empty}; plain writes: let nothing else write there until this run ends"
        elif plan.sink.traits.whole:
            rule = f"{self.options.existing}: the file is compared whole"
        else:
            rule = _RULES[self.options.existing]
        many = f"{self.workers} worker{'s' if self.workers > 1 else ''}{' (processes)' if self.processes else ''}"
        kept = keeps_keys(plan.source.layout, plan.sink.layout)
        lines = [
            (
                "source",
                f"{plan.source.whereabouts}, layout {plan.source.layout.id}"
                + (f", ~{counted(hint)}" if hint is not None else ""),
            ),
            ("snapshot", self.snapshot.words),
            ("sink", f"{plan.sink.whereabouts}, layout {plan.sink.layout.id}, {sink_words}"),
            *reading_words(plan.sink.layout, plan.kinds, kept),
            *oversize_words(plan),
            ("mapping", f"{plan.mapping.name} ({plan.mapping.path}): {', '.join(plan.kinds)}"),
            *told_words(plan),
        ]
        lines += rate_words(source.rates(), self.rates, None if self.dry else hint or 0)
        now, later = reading(plan.sink.layout, plan.kinds)
        self.report.unread = {"now": later if kept else now, "later": later}
        if checkpoint.repeated:
            lines.append(
                (
                    "duplicates",
                    f"{counted(checkpoint.repeated)} with the identity of a newer one, left behind in a file",
                )
            )
        if checkpoint.ids:
            lines.append(("user", f"{self.plan.choice.person}: records of {', '.join(checkpoint.ids)}"))
        if self.options.since:
            lines.append(("since", f"{self.options.since}; what was changed before is left out"))
        if self.options.limit:
            lines.append(("limit", f"{counted(self.options.limit)}: not complete, and not proven"))
        lines += [("narrowed", words) for words in self.report.narrowed]
        if unread := unread_tables(plan.source):
            lines.append(("not read", f"tables that no layout names: {', '.join(unread)}"))
        if self.dry:
            lines.append(("dry run", "everything is read and compared, nothing is written"))
        else:
            lines.append(("existing", rule))
            lines.append(
                (
                    "kill bound",
                    f"{many}: a kill costs at most one slice each, {self.workers * SLICE_ROWS * plan.sink.traits.stretch:,} records to do again",
                )
            )
        self.show.plan(lines)

    def _workers(self, checkpoint: Checkpoint, hint: int | None) -> tuple[int, bool]:
        """How many, and whether they are processes."""
        partitions = [progress.partition for progress in checkpoint.progress]
        if any(partition.sequential for partition in partitions):
            return 1, False
        workers = max(1, min(self._most_workers(), len(partitions)))
        return workers, self._are_processes(workers, hint)

    def _most_workers(self) -> int:
        may_be_several = (self.plan.sink.traits.parallel or self.dry) and not self.options.limit
        return self.options.worker_count if may_be_several else 1

    def _are_processes(self, workers: int, hint: int | None) -> bool:
        alone = self.plan.source.traits.in_process or self.plan.sink.traits.in_process
        return self.options.processes and not alone and workers > 1 and (hint is None or hint >= SMALL)

    def _hire_early(self, source: Source) -> None:
        """Start worker processes where the job will most likely have some: they get ready while a snapshot is taken."""
        most, hint = self._most_workers(), source.size_hint()
        if hint is not None and self.executor is None and self._are_processes(most, hint):
            self._hired(most, True)

    def _hired(self, workers: int, processes: bool) -> Crew:
        """The workers of this run: those that were hired before, where they are such and enough."""
        crew, stores = self._crew, (self.plan.source.address.store, self.plan.sink.address.store)
        if crew is not None:
            if crew.are_processes == processes and crew.workers >= workers:
                return crew
            crew.close()
        hired = self._crew = Crew(workers, processes, self.state, self.executor)
        self.run.opened(hired)
        for worker in range(workers) if hired.are_processes else ():
            hired.submit(worker, get_ready, *stores)
        return hired

    # writing

    def _copy_and_prove(self, source: Source, reader: Reader, checkpoint: Checkpoint) -> None:
        plan, state = self.plan, self.state
        whole_there = plan.sink.traits.whole and not checkpoint.sink_was_empty
        if whole_there and (self.dry or self.options.existing == "refuse"):
            self._compare_whole(source, reader, checkpoint)
            return
        existing = Existing(self.options.existing)
        if plan.sink.traits.whole or (checkpoint.sink_was_empty and existing not in (Existing.KEEP, Existing.NEWER)):
            existing = Existing.EMPTY
        self.choice = replace(plan.choice, ids=tuple(checkpoint.ids))
        job = self._job(existing, checkpoint.sink_was_empty, self.choice)
        sink: Sink | None = None
        if not self.dry:
            sink = self.run.opened(
                plan.sink.adapter.sink(plan.sink.address, plan.setting(plan.sink.layout, state.scratch))
            )
            if not self.report.resumed:
                sink.discard()
            with self.show.step("making the sink ready"):
                sink.prepare(plan.kinds, self.options.create is not False)
            checkpoint.sink_at = plan.sink.adapter.whereabouts(plan.sink.address)
            self.run.is_resumable = (
                True  # from here on: an interruption must not take away what the checkpoint goes on with
            )
            try:
                state.save(checkpoint)
            except StoreError:
                self.run.is_resumable = state.checkpoint_file.exists()
                raise
        with Stop().listening() as stop:
            crew = self._hired(self.workers, self.processes)
            stop.on_first = lambda: self.show.say(
                "stopping: the slices in flight are finished and saved (again: stop at once)"
            )
            stop.on_second = crew.end_at_once
            ended = False
            try:
                self._copy(job, checkpoint, crew, stop)
                if not self.dry and all(progress.done for progress in checkpoint.progress):
                    assert sink is not None
                    self._prove(job, source, sink, checkpoint, crew, stop)
                ended = True
            finally:
                crew.close()
                let_go(job)
                self._account(checkpoint)
                try:
                    self._gather(checkpoint)
                except StoreError as exc:
                    if ended:
                        raise
                    self.show.say(str(exc))  # why the run ends is something else
        self._end(checkpoint)

    def _job(self, existing: Existing, sink_was_empty: bool, choice: Choice) -> Job:
        plan, state = self.plan, self.state
        return Job(
            f"{state.name}-{self.report.run_id}",
            plan.source.address,
            plan.sink.address,
            plan.source.layout,
            plan.sink.layout,
            plan.kinds,
            str(state.path.parent),
            state.name,
            self.snapshot,
            existing,
            sink_was_empty,
            self.dry,
            plan.setting_options,
            choice,
            self.options.limit,
        )

    def _copy(self, job: Job, checkpoint: Checkpoint, crew: Crew, stop: Stop) -> None:
        stop_on_reject = (self.options.on_reject or ("continue" if self.dry else "stop")) == "stop"
        if checkpoint.phase != "copying":
            return
        with self.show.progress("reading" if self.dry else "copying", self.hint) as tick:
            tick(sum(tally.read for tally in checkpoint.tallies.values()))
            copy(job, checkpoint, crew, stop, self.report.resumed, stop_on_reject, lambda result: _tick(tick, result))

    def _prove(self, job: Job, source: Source, sink: Sink, checkpoint: Checkpoint, crew: Crew, stop: Stop) -> None:
        """Verify, then publish; what was proven is remembered, so that a run killed while publishing need not prove it again."""
        state, whole = self.state, self.plan.sink.traits.whole
        if checkpoint.phase == "copying":
            checkpoint.phase = "verifying"
            state.save(checkpoint)
        if checkpoint.phase == "verifying":
            self._verify(job, source, sink, checkpoint, crew, stop)
            checkpoint.proofs = {name: kind.proof.to_plain() for name, kind in self.report.kinds.items()}
            checkpoint.proven = self.report.proven
            if whole and any(kind.proof.is_bad for kind in self.report.kinds.values()):
                sink.discard()  # what was staged is not what the source held: it is not published
            else:
                checkpoint.phase = "publishing"
                state.save(checkpoint)
        if checkpoint.phase == "publishing":
            for name, plain in checkpoint.proofs.items():
                self.report.kind(name).proof = proofs.KindProof.from_plain(plain)
            self.report.proven = checkpoint.proven
            sink.publish()
            if self.options.proof == "app":
                ask(self.report, self.plan, source, sink.reader(), state, self.show, self.choice)
        checkpoint.phase = "finished"

    def _verify(self, job: Job, source: Source, sink: Sink, checkpoint: Checkpoint, crew: Crew, stop: Stop) -> None:
        options, report = self.options, self.report
        ours = deepcopy(checkpoint.digests)
        for kind in self.plan.kinds:
            report.kind(kind).proof.source = ours.get(kind, Digest())
        if options.proof == "none" or options.limit:
            report.proven = "none"
            return
        reader = sink.reader()
        theirs = self._read_sink(job, reader, crew, stop)
        duplicates = Duplicates(self.state.duplicates)
        pair = Pair(source, reader, self.plan.kind_map, duplicates, self.choice)
        report.fidelity = proofs.fidelity(self.plan.source.layout, self.plan.sink.layout, pair.loses)
        try:
            prove(report, pair, ours, theirs, options, self.state, self.show, self._may_stay(pair))
        finally:
            duplicates.close()
        for kind in report.kinds:
            proof, tally = report.kind(kind).proof, checkpoint.tallies.get(kind, Tally())
            proof.mismatched = max(0, proof.mismatched - tally.differing)
            if tally.differing or tally.kept:
                proof.digest = "not compared" if not (proof.missing or proof.mismatched) else "differs"
        if any(tally.kept for tally in checkpoint.tallies.values()) and report.proven == "digest":
            report.proven = "rows"  # what was kept was looked for one by one

    def _may_stay(self, pair: Pair) -> Callable[[Row, Row], bool]:
        """Whether a record that differs in the sink is right there all the same: it was kept, or has become newer since."""
        match self.options.existing:
            case "keep":
                return lambda expected, held: True
            case "newer":
                return lambda expected, held: not pair.is_newer(expected, held)
        return lambda expected, held: False

    def _read_sink(self, job: Job, reader: Reader, crew: Crew, stop: Stop) -> proofs.Seen:
        seen = proofs.Seen()
        partitions = reader.partitions(self.plan.kinds, WANTED_PARTITIONS)
        with self.show.progress("verifying", self.hint) as tick:
            if any(partition.sequential for partition in partitions) or crew.workers == 1:
                results: Iterator[proofs.Seen] = (read_sink_partition(job, partition) for partition in partitions)
            else:
                results = by_partition(read_sink_partition, job, partitions, crew)
            for result in results:
                stop.check()
                seen.add(result)
                tick(sum(digest.count for digest in result.digests.values()))
        return seen

    # the end

    def _compare_whole(self, source: Source, reader: Reader, checkpoint: Checkpoint) -> None:
        """A sink that is one file and holds records: all equal is fine, anything else is left as it is."""
        report, plan = self.report, self.plan
        compare(
            report,
            plan,
            source,
            reader,
            self.options,
            self.state,
            self.show,
            replace(plan.choice, ids=tuple(checkpoint.ids)),
        )
        checkpoint.phase = "finished"
        for kind in report.kinds.values():
            differing = kind.proof.mismatched + kind.proof.missing
            kind.tally.unchanged = kind.proof.source.count - differing
            kind.tally.differing = differing
            kind.proof.mismatched = 0
        checkpoint.tallies = {name: kind.tally for name, kind in report.kinds.items()}
        self.run.join_left_behind()
        report.must_close()
        if any(kind.proof.digest != "equal" or kind.proof.extra for kind in report.kinds.values()):
            report.end("differences")
            report.error = (
                f"{plan.sink.address.text} holds other records: nothing was written. "
                "Choose a new name for the sink, or --existing replace (the old file is kept)"
            )
            report.mend = command_words("migrate", plan, "--existing replace")
        else:
            self._decide(checkpoint)
        self._finish(checkpoint)

    def _account(self, checkpoint: Checkpoint) -> None:
        """Put what the slices counted into the report, however the run ends. Raises AccountError if it does not close."""
        report = self.report
        for kind in self.plan.kinds:
            report.kind(kind)
        for kind, tally in checkpoint.tallies.items():
            report.kind(kind).tally = tally
        report.foreign, report.foreign_seen = checkpoint.foreign, checkpoint.foreign_seen
        report.ghosts, report.accepted, report.due = checkpoint.ghosts, checkpoint.accepted, checkpoint.due
        report.must_close()

    def _gather(self, checkpoint: Checkpoint) -> None:
        """The files of what slices left beside their results, whole, and named in the report."""
        report, state = self.report, self.state
        self.run.join_left_behind()
        differing = state.join_notes("differing")
        report.differences_file = report.differences_file or text_of(differing)
        report.replaced_file = text_of(state.drop_repeats_of_replaced()) if not self.dry else None
        if checkpoint.weights:
            over, heaviest = state.heaviest(PAGE, 10)
            report.estimate = estimate(checkpoint.weights, self.options.price, self.rates) | {
                "users_over_a_page": over if self.plan.sink.address.store == "dynamodb" else 0,
                "heaviest_users": [{"user": user, "bytes": size} for user, size in heaviest],
                "retyped": {kind: count for kind, count in checkpoint.retyped.items() if count},
            }

    def _end(self, checkpoint: Checkpoint) -> None:
        self._decide(checkpoint)
        self._finish(checkpoint)

    def _decide(self, checkpoint: Checkpoint) -> None:
        """How the run ended, worst first."""
        report = self.report
        differing = sum(kind.tally.differing for kind in report.kinds.values())
        if differing or any(kind.proof.is_bad for kind in report.kinds.values()):
            report.end("differences")
            report.mend = command_words("migrate", self.plan, "--existing replace")
        elif forgets(report):
            report.end("differences")
        elif report.rejected or report.foreign:
            report.end("rejects")
        else:
            report.end("done")
        if differing:
            report.error = f"{counted(differing)} in the sink differing from the source, left as they are"
        left = sum(not progress.done for progress in checkpoint.progress)
        if left and checkpoint.phase == "copying":
            report.error = (
                f"stopped at {counted(report.rejected, 'reject')}: {left} of {counted(len(checkpoint.progress), 'partition')} not read to the end, "
                f"nothing is proven{' or published' * self.plan.sink.traits.whole} yet. Look into the rejects, then run again: "
                "it goes on behind them (--on-reject continue: without stopping). Mended records are read with --restart"
            )

    def _finish(self, checkpoint: Checkpoint) -> None:
        state, report = self.state, self.report
        checkpoint.outcome = report.outcome
        if report.snapshot is not None and self.snapshot.moment is None:
            report.snapshot["words"] = f"read between {checkpoint.started} and {now_words()}"
        if self.dry:
            return
        if checkpoint.phase == "finished":
            for replaced in state.scratch.glob("replaced-*"):
                report.replaced_file = str(state.put_by(replaced, replaced.name))
        state.save(checkpoint)
        if checkpoint.phase == "finished":
            self.run.is_resumable = False  # only now: the next run is a new job, and takes a snapshot of its own


def _tick(tick: Callable[[int], None], result: SliceResult) -> None:
    tick(result.read)
