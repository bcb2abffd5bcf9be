"""One run with two stores from outside: what it shows, the report and the state folder it has, and an end that is always reported.

Leaves the story itself to `migration` and `verification`, and what a person sees to whoever is behind Show.
"""

from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from migrator.adapters.base import Sink, Source
from migrator.checkpoint import State, state_root
from migrator.crew import Crew, collect_rarely
from migrator.duplicates import Duplicates
from migrator.errors import MigratorError
from migrator.options import Options
from migrator.plan import Plan, make_plan
from migrator.report import Report, of_our_disk, outcome_of

VERSION = "0.1.0"
"""Of migrator. What is installed says the same, and takes longer to ask."""


class Show(Protocol):
    """Where a command tells what it is doing."""

    def say(self, words: str) -> None:
        """Something worth knowing now, that is no result."""

    def plan(self, lines: list[tuple[str, str]]) -> None:
        """What is going to happen: pairs of a name and words."""

    def progress(self, doing: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """Something long; calling what it gives adds records to what is done."""

    def step(self, doing: str) -> AbstractContextManager[None]:
        """Something that is worth knowing only to who wants to know what takes how long."""


class Silent:
    """Shows nothing."""

    def say(self, words: str) -> None:
        """Nothing."""

    def plan(self, lines: list[tuple[str, str]]) -> None:
        """Nothing."""

    def progress(self, doing: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda records: None)

    def step(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()


class Run:
    """What every command with two stores shares: the report, the state folder, and an end that is always reported."""

    def __init__(self, command: str, source: str, sink: str, options: Options, show: Show) -> None:
        self.options, self.show = options, show
        self.began = time.monotonic()
        self.report = Report(
            uuid.uuid4().hex,
            VERSION,
            command,
            options.to_plain(),
            started=now_words(),
            source=_safe(source),
            sink=_safe(sink),
        )
        self.texts = (source, sink)
        self.state: State | None = None
        self.is_resumable = False
        """Whether a later run could go on with what this one leaves in the scratch folder, a snapshot above all."""
        self._open: list[Source | Sink | Duplicates | Crew] = []

    def __enter__(self) -> Run:
        self._collect_as_before = collect_rarely()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._collect_as_before()
        for each in self._open:
            each.close()
        report, cause = self.report, error
        error = of_our_disk(error, self.state.path if self.state else None) or error
        if error is not None:
            outcome, code = outcome_of(error)
            report.end(outcome, str(error) or type(error).__name__, code)
            if isinstance(error, MigratorError):
                error.report = report
        report.finished, report.seconds = now_words(), round(time.monotonic() - self.began, 3)
        if self.state is not None:
            try:
                if not self.is_resumable:
                    self.state.empty_scratch()
                self.state.write_report(report.to_plain())
                if report.outcome == "bug" and error is not None:
                    (self.state.path / "bug.txt").write_text("".join(traceback.format_exception(error)))
            except (MigratorError, OSError) as exc:
                self.show.say(f"the report could not be written: {exc}")
            self.state.unlock()
        if error is not cause:
            assert error is not None
            raise error from cause

    def planned(self, command: str) -> Plan:
        with self.show.step("looking at both stores"):
            plan = make_plan(*self.texts, self.options, command)
        report = self.report
        report.source, report.sink = plan.source.address.text, plan.sink.address.text
        report.told_by = plan.told_by
        report.mapping, report.mapping_sha256 = plan.mapping.name, plan.mapping.sha256
        return plan

    def enter_state(self, plan: Plan, sink_file: str | None) -> State:
        state = State(state_root(self.options.state), plan.fingerprint)
        state.make()
        state.lock(sink_file)
        self.state = state
        self.report.state = str(state.path)
        return state

    def join_left_behind(self) -> None:
        """The files of what did not travel, and their names in the report."""
        assert self.state is not None
        self.report.rejects_file = text_of(self.state.join_notes("rejects"))
        self.report.duplicates_file = text_of(self.state.join_notes("duplicates"))

    def opened(self, store: Any) -> Any:
        """Note a store to be closed at the end."""
        self._open.append(store)
        return store


def _safe(text: str) -> str:
    """What a person typed, without what could be a password in it."""
    scheme, mark, rest = text.partition("://")
    if mark and "@" in rest:
        return f"{scheme}://…@{rest.rpartition('@')[2]}"
    return text


def text_of(path: Path | None) -> str | None:
    """A path as text, for a report."""
    return str(path) if path is not None else None


def now_words() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
