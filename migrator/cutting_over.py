"""One guided change from a store to another, step by step: plan, copy, catch up, delete, stop, final, proof, switch, tail; and the way back.

Calls the commands that exist, in their order, and remembers after each step that it is done, in the certificate itself: killed anywhere, the same
command goes on behind the last step that was done. Nothing moves here but through those commands. Until the switch the source wins, behind it
nothing that the sink holds is replaced or deleted any more. Leaves the words of the steps and what is remembered to `certificate`, who is asked and
what a person sees to `console`.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from migrator import commands
from migrator.adapters.base import Reader, Source
from migrator.addresses import in_zone
from migrator.certificate import FORMAT, STEPS, Certificate, Step, Terms
from migrator.checkpoint import State, fingerprint, made_of, state_root, write_whole
from migrator.deletion import Deletion
from migrator.errors import ConfigError, MigratorError
from migrator.files import private, sync
from migrator.ledger import Ledger, Moved
from migrator.luminoracore import advice
from migrator.model import FOREIGN, Record, counted
from migrator.options import Options
from migrator.pair import READ_STORES
from migrator.plan import Plan, make_plan, must_take_files
from migrator.report import Report, outcome_of
from migrator.run import VERSION, Run, Show, Silent, now_words
from migrator.values import from_json, to_json

MOST_PASSES = 5
"""So often the catch-up is tried; what it cannot catch up with, the final pass does while nothing is written."""

Agree = Callable[[str], bool]
"""Asks whoever sits there: a question, and whether the answer was yes."""


def cutover(
    source: commands.Location,
    sink: commands.Location,
    options: Options | None = None,
    terms: Terms | None = None,
    agree: Agree | None = None,
    show: Show | None = None,
) -> Certificate:
    """Change from `source` to `sink`, step by step; the same call goes on behind the last step that was done.

    Steps up to `terms.until` are taken; before each of the others `agree` is asked, and where there is nobody to ask, or the answer is no, the
    cutover ends with the outcome `waiting`. Raises ConfigError, LockedError, StoreError and Interrupted as `migrate` does, each with the
    certificate as its `report`. Rejects and differences raise nothing: they are the `outcome`.
    """
    return _Cutover(str(source), str(sink), options or Options(), terms or Terms(), agree, show or Silent()).go()


class _Ends(Exception):
    """A step that has told the certificate how it ended, and is not done."""


class _Cutover:
    def __init__(self, source: str, sink: str, options: Options, terms: Terms, agree: Agree | None, show: Show) -> None:
        if options.existing not in ("refuse", "replace"):
            raise ConfigError("cutover: until the switch the source wins; --existing is refuse or replace here")
        for name in ("user", "since", "limit"):
            if getattr(options, name) is not None:
                raise ConfigError(f"cutover: a store is changed for all it holds; leave {name} out")
        self.texts, self.options, self.terms, self.agree, self.show = (source, sink), options, terms, agree, show
        # A pass is of both stores as they are; how it begins and what is proven is each step's own.
        self.passing = replace(
            options, dry_run=False, existing="replace", on_reject="continue", proof="none", restart=False, users=None
        )

    def go(self) -> Certificate:
        plan = self.plan = make_plan(*self.texts, self.passing, "cutover")
        names = {
            "source": plan.source.address.text,
            "source_at": plan.source.whereabouts,
            "sink": plan.sink.address.text,
        }
        state = self.state = State(
            state_root(self.options.state), f"cutover-{fingerprint(names | {'kinds': list(plan.kinds)})}"
        )
        state.make()
        state.lock()
        try:
            self.certificate = self._earlier()
            state.empty_scratch()
            try:
                self._go_on()
            except _Ends:
                pass
            except BaseException as exc:
                outcome, code = outcome_of(exc)
                self.certificate.end(outcome, str(exc) or type(exc).__name__, code)
                if isinstance(exc, MigratorError):
                    exc.report = self.certificate
                raise
            finally:
                state.empty_scratch()
                self._save()
        finally:
            state.unlock()
        return self.certificate

    # what is remembered

    def _earlier(self) -> Certificate:
        """The certificate to go on with, or a new one."""
        path, plan = self.state.path / "report.json", self.plan
        found: Certificate | None = None
        if self.options.restart and path.exists():
            self.state.put_by(path, "report.json")
        elif path.exists():
            try:
                found = made_of(Certificate, from_json(path.read_bytes()))
            except (OSError, ValueError) as exc:
                raise ConfigError(f"{path}: it cannot be read; --restart begins the cutover anew") from exc
            if found.format != FORMAT:
                raise ConfigError(f"{path}: written by another version of migrator; --restart begins the cutover anew")
        if found is not None:
            self.show.say(f"going on from {path}: {', '.join(found.steps) or 'nothing'} done")
            found.error = found.goes_on = None
            return found
        self.show.say(f"a new cutover, remembered in {path}")
        return Certificate(
            plan.source.address.text,
            plan.sink.address.text,
            plan.source.whereabouts,
            plan.sink.whereabouts,
            plan.mapping.name,
            plan.mapping.sha256,
            VERSION,
            list(plan.kinds),
            now_words(),
            state=str(self.state.path),
        )

    def _save(self) -> None:
        write_whole(self.state.path / "report.json", to_json(self.certificate.to_plain(), indent=True) + b"\n")

    @property
    def _ledger(self) -> Ledger:
        """What the source held when it was last found quiet; behind the switch, when its tail was last brought."""
        return Ledger(self.state.path / "source.sqlite")

    # the story

    def _go_on(self) -> None:
        done = self.certificate.steps
        if all(name in done for name in STEPS):
            del done["tail"]  # what arrives later is looked for as often as somebody asks
        for number, step in enumerate(STEPS.values(), 1):
            if step.name in done:
                continue
            self.show.plan(
                [(f"step {number} of {len(STEPS)}", f"{step.name}: {step.doing}"), ("why it is safe", step.safe)]
            )
            if not self._may(step):
                self.certificate.end("waiting", exit_code=0)
                self.certificate.goes_on = self._command(step.name)
                return
            figures = getattr(self, f"_{step.name.replace('-', '_')}")()
            done[step.name] = {"finished": now_words(), **figures}
            self._save()
        self.certificate.goes_on = None
        left = done["tail"].get("left_as_the_sink_holds_them", 0)
        if left:
            self.certificate.end(
                "differences",
                f"{counted(left)} changed at the source behind the final pass, and left as the sink holds them. To take those that are newer: "
                + self._taking_newer(str(done["tail"]["arrived_file"])),
            )
        else:
            self.certificate.end("done")

    def _taking_newer(self, path: str) -> str:
        sink = self.plan.sink.address
        there = sink if "tz" in sink.options else in_zone(sink, "local")
        return shlex.join(["migrator", "migrate", f"jsonl:{path}?tz=local", there.text, "--existing", "newer"])

    def _may(self, step: Step) -> bool:
        return self.terms.takes(step.name) or (self.agree is not None and self.agree(step.question))

    def _plan(self) -> dict[str, Any]:
        sink = self.plan.sink
        if sink.layout.store in ("json", "jsonl") and not sink.layout.map:
            raise ConfigError(
                f"cutover: no application keeps its records in {sink.address.text}; that is a copy: migrator migrate makes it"
            )
        if sink.local_file is not None and sink.shape is None:
            must_take_files(Path(sink.local_file).resolve().parent)
        empty = self._sink_is_empty()
        report = commands.migrate(
            *self.texts, replace(self.passing, dry_run=True, existing=self.options.existing), self.show
        )
        self._note("plan", report)
        self.certificate.losses = {"foretold": _losses(report)}
        if report.outcome == "differences":
            self._end(
                report,
                f"{report.error or 'the sink holds other records'}. Until the switch the source wins: "
                "--existing replace writes over them, and keeps them in a file",
            )
        self._refuse_rejects(report)
        return {"sink_was_empty": empty, "estimate": report.estimate, "narrowed": report.narrowed}

    def _copy(self) -> dict[str, Any]:
        certificate = self.certificate
        if certificate.sink_was_empty is None:
            empty = self._sink_is_empty()
            if certificate.steps["plan"]["sink_was_empty"] and not empty:
                del certificate.steps["plan"]
                raise ConfigError(
                    f"{certificate.sink} was empty when the plan was made, and is not any more: look at it, then run again for a new plan"
                )
            certificate.sink_was_empty = empty
            self._save()  # before the first write: afterwards nobody could tell
        report = self._pass("copy", restart=self.options.restart)
        certificate.sink_at = self.plan.sink.adapter.whereabouts(self.plan.sink.address)
        return _counts(report)

    def _catch_up(self) -> dict[str, Any]:
        if self.plan.sink.traits.whole:
            self.show.say("a file is replaced whole, once, in the final pass: there is nothing to catch up with before")
            return {"written": []}
        written: list[int] = []
        while not written or (written[-1] >= self.terms.small and len(written) < MOST_PASSES):
            written.append(_counts(self._pass("catch-up"))["written"])
        if written[-1] >= self.terms.small:
            self.show.say(
                f"{counted(written[-1])} were written in the last of {len(written)} passes: "
                "the source is written to as fast as it is copied; the final pass brings the rest"
            )
        return {"written": written}

    def _delete(self) -> dict[str, Any]:
        report = self._extras("delete")
        left = _extra(report) if report else 0
        if left and self.certificate.sink_was_empty and self.terms.delete_extra is None:
            assert report is not None
            self.show.say(f"{counted(left)} of the sink not in the source any more: {report.differences_file}")
        deleted = report.deleted if report else 0
        self.show.say(f"delete: {deleted:,} deleted, {left:,} left that only the sink holds")
        return {"deleted": deleted, "left": left}

    def _stop(self) -> dict[str, Any]:
        while True:
            self._fill(self._ledger)
            self.show.say(f"the source has been looked at; once more in {self.terms.quiet_for:g} seconds")
            time.sleep(self.terms.quiet_for)
            moved = self._moved()
            if not moved:
                return {"quiet_for": self.terms.quiet_for}
            words = f"the source is still written to: {moved.words}"
            if self.agree is None:
                raise ConfigError(f"{words}. Stop whatever writes to {self.certificate.source}, then run again")
            self.show.say(words)
            if not self.agree(STEPS["stop"].question):
                self._wait("stop")

    def _final(self) -> dict[str, Any]:
        certificate = self.certificate
        self._must_be_quiet("stop")
        passed = self._pass(
            "final", restart=True
        )  # anew: a snapshot that an interrupted one left is of an earlier moment
        self._refuse_rejects(passed)
        report = self._extras("final")
        leaves = not certificate.sink_was_empty or self.terms.delete_extra is False
        left = _extra(report) if report else 0
        if left and not leaves:
            assert report is not None
            kept = " They could not be deleted" if self.terms.delete_extra else ""
            self._end(
                report,
                f"{counted(left)} of the sink not in the source any more, and would come back with the switch.{kept} "
                f"({report.differences_file}). --delete-extra --max-delete {left} deletes them, --keep-extra leaves them",
            )
        proven = commands.verify(*self.texts, replace(self.passing, proof="digest", one_way=leaves), self.show)
        self._note("final", proven)
        certificate.digests = {
            name: {each: kind.to_plain()[each] for each in _DIGESTS} for name, kind in proven.kinds.items()
        }
        certificate.losses |= {"final": _losses(proven) | {"extra_left": left}}
        if proven.outcome == "differences":
            self._end(
                proven, f"the stores differ after the final pass: {proven.differences_file}. Run again: it is repeated"
            )
        self._refuse_rejects(proven)
        return _counts(passed) | {"proven": proven.proven, "extra_left": left, "moment": _moment(proven)} | (
            {"deleted": report.deleted} if report else {}
        )  # fmt: skip

    def _proof(self) -> dict[str, Any]:
        plan = self.plan
        read = all(store.address.store in READ_STORES for store in (plan.source, plan.sink))
        if not read or plan.mapping.user is None or not any(plan.mapping.kinds[kind].asked for kind in plan.kinds):
            self.show.say(
                "no application reads both stores, or the mapping does not say how: the digests are the proof"
            )
            return {"proven": "digest"}
        self._must_be_quiet("final")
        report = commands.verify(*self.texts, replace(self.passing, proof="app", one_way=True), self.show)
        self._note("proof", report)
        if report.outcome == "differences":
            found = report.application or {}
            self._end(
                report,
                f"the application would remember {counted(found.get('unexpected', 0), 'user')} otherwise than was foretold: "
                f"{report.state}/application.jsonl. Mend the source, then run again",
            )
        application = {k: v for k, v in (report.application or {}).items() if isinstance(v, int | str)}
        return {"proven": report.proven, "application": application}

    def _switch(self) -> dict[str, Any]:
        self._must_be_quiet("final")
        certificate = self.certificate
        found = advice(self.plan.sink.address)
        certificate.switch = asdict(found) if found else None
        certificate.way_back = self._way_back()
        lines = [("the sink", certificate.sink_at)]
        if found:
            lines += [("variables", found.environment), ("file", found.config), ("Python", found.python)]
        self.show.plan(
            [
                *lines,
                *(
                    ("way back", f"{command} (what is deleted in the sink after the switch comes back with it)")
                    for command in certificate.way_back
                ),
            ]
        )
        return {}

    def _tail(self) -> dict[str, Any]:
        state, plan = self.state, self.plan
        aside, path = Ledger(state.path / "tail.sqlite"), state.path / "arrived.jsonl"
        if path.exists():
            state.put_by(path, "arrived.jsonl")
        with private(path) as out:
            self._fill(aside, self._ledger, lambda plain: _write(out, plain))
            sync(out)
        moved = self._ledger.until(aside)
        count = sum(moved.arrived.values())
        if not count:
            path.unlink()
        figures: dict[str, Any] = {"arrived": moved.arrived, "gone": moved.gone}
        if moved:
            self.show.say(f"at the source since the final pass: {moved.words}")
        else:
            self.show.say("nothing has come to the source since the final pass")
        if count:
            figures["arrived_file"] = str(path)
            figures |= self._bring(path, count, plan)
        aside.path.replace(self._ledger.path)  # from here on only what comes later is brought
        return figures

    # parts of steps

    def _bring(self, path: Path, count: int, plan: Plan) -> dict[str, Any]:
        """Into a sink that is in use: what is there stays."""
        if plan.sink.traits.whole:
            self.show.say(f"{path} holds it; a file that is replaced whole is not filled up")
            return {}
        if not self.terms.takes("tail") and not (
            self.agree and self.agree(f"{counted(count)} in {path}: bring those that the sink does not hold?")
        ):
            self._wait("tail")
        options = replace(self.passing, existing="keep", mapping=plan.options.mapping or plan.mapping.name, kinds=())
        report = commands.migrate(path, self.texts[1], options, self.show)
        self._note("tail", report)
        counts = _counts(report)
        self.show.say(f"tail: {counted(counts['written'])} brought")
        if counts["kept"]:
            self.show.say(
                f"{counted(counts['kept'])} changed at the source since, and left as the sink holds them; they are in {path}"
            )
        if counts["rejected"]:
            self.show.say(f"{counted(counts['rejected'])} of it cannot travel: {report.rejects_file}")
        names = {"written": "brought", "kept": "left_as_the_sink_holds_them", "rejected": "rejected"}
        return {words: counts[name] for name, words in names.items()}

    def _pass(self, step: str, restart: bool = False) -> Report:
        """One copy of the source as it is now over the sink, which nobody uses yet."""
        report = commands.migrate(*self.texts, replace(self.passing, restart=restart), self.show)
        self._note(step, report)
        counts = _counts(report)
        words = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "written")
        self.show.say(f"{step}: {words}")
        # A job's folder puts by what earlier passes replaced: the names of now are those that stay.
        self.certificate.replaced_files = sorted(map(str, Path(report.state).glob("replaced*.jsonl")))
        return report

    def _extras(self, step: str) -> Report | None:
        """What the sink holds and the source does not: deleted if that was asked for and the sink holds only what was copied."""
        if self.plan.sink.traits.whole:
            return None
        asked = self.terms.delete_extra and self.certificate.sink_was_empty
        if self.terms.delete_extra and not asked:
            self.show.say("the sink held records before the cutover began: what only the sink holds is named and left")
        with Run("delete", *self.texts, self.passing, self.show) as run:
            Deletion(run, self.terms.max_delete if asked else None).go()
        report = run.report
        self._note(step, report)
        if report.deleted_file:  # also of a run that was killed between keeping a record and counting it
            with Path(report.deleted_file).open("rb") as lines:
                self.certificate.deleted, self.certificate.deleted_file = sum(1 for _ in lines), report.deleted_file
            self._save()
        return report

    def _must_be_quiet(self, since: str) -> None:
        """Raises ConfigError, and takes back all that was done since the writers were stopped, if the source has moved."""
        moved = self._moved()
        if moved:
            for name in ("stop", "final", "proof"):
                self.certificate.steps.pop(name, None)
            raise ConfigError(
                f"the source has been written to since the step {since}: {moved.words}. Stop the writers, then run again: it goes on at the step stop"
            )

    def _moved(self) -> Moved:
        now = Ledger(self.state.scratch / "now.sqlite")
        self._fill(now)
        moved = self._ledger.until(now)
        now.path.unlink()
        return moved

    def _fill(
        self, ledger: Ledger, since: Ledger | None = None, take: Callable[[Record], None] = lambda plain: None
    ) -> None:
        with self._opened_source() as source, self.show.progress("reading the source", source.size_hint()) as tick:
            ledger.fill(source, self.plan.kinds, tick, since, take)

    @contextmanager
    def _opened_source(self) -> Iterator[Source]:
        store = self.plan.source
        with tempfile.TemporaryDirectory(dir=self.state.scratch) as folder:
            setting = replace(self.plan.setting(store.layout, Path(folder)), say=self.show.say)
            source = store.adapter.source(store.address, setting)
            try:
                source.snapshot()
                yield source
            finally:
                source.close()

    def _sink_is_empty(self) -> bool:
        store = self.plan.sink
        with tempfile.TemporaryDirectory(dir=self.state.scratch) as folder:
            reader: Reader = store.adapter.reader(store.address, self.plan.setting(store.layout, Path(folder)))
            try:
                return not reader.holds((*self.plan.kinds, FOREIGN)).any
            finally:
                reader.close()

    # words and ends

    def _refuse_rejects(self, report: Report) -> None:
        """What cannot travel is accepted by a person, or the cutover does not go on."""
        if report.rejected and self.options.on_reject != "continue":
            self._end(
                report,
                f"{counted(report.rejected)} cannot travel: {report.rejects_file}. Mend them, or accept the loss with --on-reject continue",
                "rejects",
            )
        if report.foreign:
            self._end(
                report,
                f"{counted(report.foreign, 'foreign item')} would stay behind; those that may are named with --foreign PATTERN",
                "rejects",
            )

    def _end(self, report: Report, words: str, outcome: str = "differences") -> None:
        self.certificate.goes_on = None  # the words say what is to be decided first
        self.certificate.end(outcome, words)
        raise _Ends

    def _wait(self, step: str) -> None:
        self.certificate.end("waiting", exit_code=0)
        self.certificate.goes_on = self._command(step)
        raise _Ends

    def _note(self, step: str, report: Report) -> None:
        self.certificate.passes.append(
            {
                "step": step,
                "command": report.command,
                "run_id": report.run_id,
                "started": report.started,
                "finished": report.finished,
                "snapshot": report.snapshot,
                "outcome": report.outcome,
                "proven": report.proven,
                "deleted": report.deleted,
                "state": report.state,
                **_counts(report),
            }
        )
        self._save()

    def _command(self, step: str) -> str:
        """The command that goes on, without asking before `step`."""
        options, terms = self.options, self.terms
        if self.plan.source.traits.in_process or self.plan.sink.traits.in_process:
            return f'the same call again, with Terms(until="{step}")'
        words = ["migrator", "cutover", *self.texts]
        for name in ("mapping", "state", "existing", "on_reject", "table_shape", "oversize", "read_rate", "write_rate"):
            value = getattr(options, name)
            if value is not None and value != getattr(_BUILT_IN, name):
                words += [f"--{name.replace('_', '-')}", str(value)]
        if options.create is not None:
            words.append("--create" if options.create else "--no-create")
        if options.kinds:
            words += ["--kinds", ",".join(options.kinds)]
        for pattern in options.foreign:
            words += ["--foreign", pattern]
        if terms.delete_extra is not None:
            words.append("--delete-extra" if terms.delete_extra else "--keep-extra")
        if terms.max_delete:
            words += ["--max-delete", str(terms.max_delete)]
        return shlex.join([*words, "--yes-until", step])

    def _way_back(self) -> list[str]:
        """For after the switch: what the application writes in the sink goes back over what the source held."""
        stores = (self.plan.sink, self.plan.source)
        if any(store.traits.in_process for store in stores):
            return []
        if self.plan.source.traits.whole:
            name = Path(self.plan.source.address.name)
            back = self.plan.source.address.text.replace(name.name, f"back-{name.name}")
            return [shlex.join(["migrator", "migrate", self.plan.sink.address.text, back])]
        zoned = [
            store.address if "tz" in store.address.options else in_zone(store.address, "local") for store in stores
        ]
        return [shlex.join(["migrator", "migrate", *(each.text for each in zoned), "--existing", "newer"])]


_BUILT_IN = Options()
_DIGESTS = ("source_count", "source_digest", "sink_count", "sink_digest", "digest", "missing", "mismatched", "extra")


def _write(out: Any, plain: Record) -> None:
    out.write(to_json(plain) + b"\n")


def _counts(report: Report) -> dict[str, int]:
    """Records over all kinds."""
    names = ("read", "written", "unchanged", "kept", "differing", "duplicates", "rejected")
    return {name: sum(getattr(kind.tally, name) for kind in report.kinds.values()) for name in names}


def _extra(report: Report) -> int:
    return sum(kind.proof.extra for kind in report.kinds.values())


def _moment(report: Report) -> str:
    snapshot = report.snapshot or {}
    return str(snapshot.get("moment") or snapshot.get("words", ""))


def _losses(report: Report) -> dict[str, Any]:
    """What does not arrive, or not as it was."""
    return {
        "rejected": {name: kind.tally.rejected for name, kind in report.kinds.items() if kind.tally.rejected},
        "duplicates": {name: kind.tally.duplicates for name, kind in report.kinds.items() if kind.tally.duplicates},
        "foreign": report.foreign,
        "ghosts": report.ghosts,
        "accepted": report.accepted,
        "narrowed": report.narrowed,
        "unread": report.unread,
        "rejects_file": report.rejects_file,
        "duplicates_file": report.duplicates_file,
    }
