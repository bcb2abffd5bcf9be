"""The story of a comparison: read both sides, hold them against each other, name what differs. Writes to neither store.

`Verification` is the command; `compare`, `prove` and `ask` are its steps, which a migration takes as well. Leaves digests and differences to
`proof`, the application's view to `application`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from migrator import proof as proofs
from migrator.adapters.base import Reader, Source
from migrator.binding import reading
from migrator.checkpoint import State
from migrator.choice import EVERYTHING, Choice
from migrator.digest import Digest
from migrator.duplicates import Duplicates
from migrator.engine import WANTED_PARTITIONS
from migrator.errors import ConfigError
from migrator.model import FOREIGN, Page, Row, Snapshot
from migrator.options import Options
from migrator.pair import Pair
from migrator.plan import Plan, rate_words, told_words
from migrator.report import Report
from migrator.run import Run, Show, now_words
from migrator.values import to_json


class Verification:
    """One comparison of two stores, which writes to neither."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def go(self) -> None:
        options, show = self.run.options, self.run.show
        if options.proof == "none":
            raise ConfigError(
                "verify proves by digest, counts, rows or app: --proof none leaves nothing to do; choose one of them"
            )
        plan = self.run.planned("verify")
        state = self.run.enter_state(plan, None)
        state.clear()
        report = self.run.report
        setting = replace(plan.setting(plan.source.layout, state.scratch), say=show.say)
        from_store: Source = self.run.opened(plan.source.adapter.source(plan.source.address, setting))
        with show.step("taking a snapshot of the source"):
            snapshot: Snapshot = from_store.snapshot()
        if not from_store.holds(plan.kinds).any and not options.allow_empty:
            raise ConfigError(
                f"{plan.source.address.text} holds no records of {', '.join(plan.kinds)}: is it the store the application writes to? --allow-empty if it is meant"
            )
        report.snapshot = {"id": snapshot.id, "moment": snapshot.moment, "words": snapshot.words}
        reader: Reader = self.run.opened(
            plan.sink.adapter.reader(plan.sink.address, plan.setting(plan.sink.layout, state.scratch))
        )
        with show.step("looking for records that share an identity"):
            Duplicates.build(state.duplicates, from_store.repeated(plan.kinds), plan.mapping.kinds, reader.apart)
        show.plan(
            [
                ("source", f"{plan.source.whereabouts}, layout {plan.source.layout.id}"),
                ("snapshot", snapshot.words),
                ("sink", f"{plan.sink.whereabouts}, layout {plan.sink.layout.id}"),
                ("mapping", f"{plan.mapping.name} ({plan.mapping.path}): {', '.join(plan.kinds)}"),
                *told_words(plan),
                *rate_words(from_store.rates(), reader.rates(), None),
            ]
        )
        if options.proof == "app":
            ask(report, plan, from_store, reader, state, show)
        else:
            compare(report, plan, from_store, reader, options, state, show)
        self.run.join_left_behind()
        if snapshot.moment is None:
            report.snapshot["words"] = f"read between {report.started} and {now_words()}"
        bad = any(kind.proof.is_bad for kind in report.kinds.values())
        extra = any(kind.proof.extra for kind in report.kinds.values()) or bool(report.unreadable)
        if bad or (extra and not options.one_way):
            report.end("differences")
            if bad:
                report.mend = command_words("migrate", plan, "--existing replace")
        elif forgets(report):
            report.end("differences")
        elif report.rejected or report.foreign:
            report.end("rejects")
        else:
            report.end("done")


# The steps ------------------------------------------------------------------------------------------------------------


def prove(
    report: Report,
    pair: Pair,
    ours: dict[str, Digest],
    theirs: proofs.Seen,
    options: Options,
    state: State,
    show: Show,
    may_stay: Callable[[Row, Row], bool] = lambda expected, held: False,
) -> None:
    """Hold both sides against each other, and name what differs; fills in the report's proofs, counts and differences."""
    found = proofs.compare(pair.kinds, ours, theirs.digests)
    report.unreadable, report.unreadable_seen = theirs.unreadable, theirs.unreadable_seen
    for kind, proof in found.items():
        if kind == FOREIGN and not (proof.source.count or proof.sink.count):
            continue  # none there, and nobody asked
        report.kind(kind).proof = proof
        proof.is_read = True
    if options.proof == "counts":
        for proof in found.values():
            short = proof.source.count - proof.sink.count
            proof.missing, proof.extra, proof.digest = max(0, short), max(0, -short), "not compared"
        report.proven = "counts" if not any(proof.missing for proof in found.values()) else "none"
        return
    finder = proofs.DifferenceFinder(pair, state.scratch, all_buckets=options.proof == "rows", may_stay=may_stay)
    with show.progress("comparing rows", None) as tick:
        path = state.path / "differences.jsonl"
        count = 0
        for difference in finder.find(found, tick):
            if difference.what == "extra" and not difference.is_double and report.command != "verify":
                continue  # a migration does not ask what else the sink holds: counted, not named
            count += 1
            if count <= 1000:
                report.differences.append(difference)
            with path.open("ab") as file:
                file.write(to_json(difference.to_plain()) + b"\n")
    if count:
        path.chmod(0o600)
        report.differences_file = str(path)
    is_equal = all(proof.digest == "equal" for proof in found.values())
    report.proven = ("rows" if options.proof == "rows" else "digest") if is_equal else "none"


def compare(
    report: Report,
    plan: Plan,
    source: Source,
    reader: Reader,
    options: Options,
    state: State,
    show: Show,
    choice: Choice = EVERYTHING,
) -> None:
    """Read both sides and compare them; nothing is written but the state folder."""
    duplicates = Duplicates(state.duplicates)
    pair = Pair(source, reader, plan.kind_map, duplicates, choice, encodes=False)
    report.fidelity = proofs.fidelity(plan.source.layout, plan.sink.layout, pair.loses)
    try:
        with show.progress("reading the source", source.size_hint()) as tick:
            ours = proofs.read_source(
                pair, tick, lambda page, left: state.note_left_behind(page, left.rejects, left.duplicates)
            )
        with show.progress("reading the sink", reader.size_hint()) as tick:
            theirs = proofs.read_sink(pair, reader.partitions(plan.kinds, WANTED_PARTITIONS), tick)
        for kind in plan.kinds:
            report.kind(kind)
        for kind, tally in ours.tallies.items():
            report.kind(kind).tally = tally
        report.foreign, report.foreign_seen = ours.foreign, ours.foreign_seen
        report.ghosts, report.accepted = ours.ghosts, ours.accepted
        prove(report, pair, ours.digests, theirs, options, state, show)
    finally:
        duplicates.close()


def ask(
    report: Report,
    plan: Plan,
    source: Source,
    reader: Reader,
    state: State,
    show: Show,
    choice: Choice = EVERYTHING,
) -> None:
    """Ask both stores for every user, or some, as the application does, and hold the answers against each other (`report.application`).

    Users are those of the source, which is read once for it. Verifying, it is all that is done, and fills in the report's accounting.
    """
    from migrator.application import Comparison, Known, People, clock  # few ask for it

    alone, options, user = report.command == "verify", plan.options, plan.mapping.user
    assert user is not None
    duplicates = Duplicates(state.duplicates)
    pair = Pair(source, reader, plan.kind_map, duplicates, choice)
    people = People(state.scratch / "people.sqlite", plan.kind_map, user)
    try:
        with show.progress("looking for users", source.size_hint()) as tick:
            for number, page in enumerate(_pages(source, plan.kinds)):
                rows = page.count
                expected = pair.expected(page)
                people.note(expected.all_rows)
                people.leave(expected.rejects)
                if alone:
                    report.take_in(expected.tallies)
                    state.note_left_behind(f"{number:010}", expected.rejects, expected.duplicates)
                tick(rows)
        now = datetime.now(UTC)
        clocks = (clock(now, plan.choice.source_zone), clock(now, plan.choice.sink_zone))
        known = Known(
            reading(plan.sink.layout, plan.kinds)[0],
            reading(plan.source.layout, plan.kinds)[1],
            extra=not alone or options.one_way,
            differing=not alone and options.existing in ("keep", "newer"),
        )
        comparison = Comparison(source, reader, people, known, state.path / "application.jsonl", clocks)
        with show.progress("asking as the application does", options.users or comparison.users) as tick:
            comparison.run(options.users, user.shared if choice.ids else (), tick)
        report.application = comparison.to_plain()
    finally:
        people.close()
        duplicates.close()
    if alone:
        whole = comparison.asked == comparison.users
        report.proven = "app" if whole and not comparison.unexpected else "none"


def forgets(report: Report) -> bool:
    """Whether the application remembers something otherwise that nothing foretold."""
    return report.application is not None and report.application["unexpected"] > 0


def _pages(source: Source, kinds: tuple[str, ...]) -> Iterator[Page]:
    for partition in source.partitions(list(kinds), WANTED_PARTITIONS):
        yield from source.pages(partition, None)


def command_words(name: str, plan: Plan, extra: str = "") -> str:
    """A command for a person to run next, on the same two stores; of memory, which no command line reaches, words."""
    if plan.source.traits.in_process or plan.sink.traits.in_process:
        return f"the same call again, {extra}".removesuffix(", ")
    words = ["migrator", name, plan.source.address.text, plan.sink.address.text]
    if plan.options.kinds:
        words += ["--kinds", ",".join(plan.options.kinds)]
    if plan.options.mapping:
        words += ["--mapping", plan.options.mapping]
    if plan.options.oversize != "reject":
        words += ["--oversize", plan.options.oversize]
    return f"{shlex.join(words)} {extra}".rstrip()
