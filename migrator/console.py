"""What a person sees: progress, the plan, tables, differences, and the same as one JSON object.

People's output goes to stdout, progress and trouble to stderr. Text that comes from data is shown harmless: control characters
never reach the terminal. Knows reports and looks; leaves what happens to `commands`, and how lines fit a terminal to `screen`.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrator.errors import ConfigError
from migrator.model import Finding, counted
from migrator.report import Report
from migrator.screen import (
    columns,
    echo,
    harmless,
    harmless_json,
    is_terminal,
    labelled,
    n,
    progress,
    size,
    some,
    table,
)
from migrator.values import to_json

if TYPE_CHECKING:
    from migrator.certificate import Certificate
    from migrator.checkpoint import JobStatus
    from migrator.examination import Diagnosis, Examination
    from migrator.initial import NewStore
    from migrator.inspection import Inspection
    from migrator.mapping import Mapping

_SHOWN = 20


class Console:
    """Shows what a command tells it. With `as_json` stdout is left to the one JSON object.

    quiet: only trouble, and the line in which all ends. verbose: also what each step does and how long it took, on stderr.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self._line: Any = None

    def say(self, words: str) -> None:
        if not self.quiet:
            self._tell(harmless(words))

    def plan(self, lines: list[tuple[str, str]]) -> None:
        if self.quiet:
            return
        width = max(len(name) for name, _ in lines)
        for name, words in lines:
            labelled(name, harmless(words), width, err=self.as_json)

    @contextmanager
    def progress(self, doing: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if self.quiet:
            yield lambda records: None
            return
        done, began = 0, time.monotonic()
        with progress(doing, total) as (move, line):

            def tick(records: int) -> None:
                nonlocal done
                done += records
                move(records)

            self._line = line
            try:
                yield tick
            finally:
                self._line = None
        if self.verbose:
            self._tell(f"{doing}: {counted(done)} in {time.monotonic() - began:,.1f} s")

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        if not self.verbose:
            yield
            return
        self._tell(f"{doing} …")
        began = time.monotonic()
        yield
        self._tell(f"{doing}: {time.monotonic() - began:,.1f} s")

    def _tell(self, words: str) -> None:
        """A line on stderr, and not behind the progress that is there."""
        if self._line is not None:
            self._line.clear(nolock=True)  # a signal may say something while the line is being written
        echo(words, err=True)

    # reports

    def report(self, report: Report) -> None:
        if self.as_json:
            self._object(report.to_plain())
            return
        if self.quiet:
            for words in _end_words(report):
                echo(harmless(words))
            return
        if report.kinds:
            echo()
            echo(table(*_accounting(report)))
        for line in _verdict(report):
            echo(harmless(line))

    def certificate(self, found: Certificate) -> None:
        if self.as_json:
            self._object(found.to_plain())
            return
        if found.digests:
            columns = ("source_count", "sink_count", "missing", "mismatched", "extra")
            rows = [[name, *(n(kind[c] or 0) for c in columns), kind["digest"]] for name, kind in found.digests.items()]
            heads = ["kind", "in source", "in sink", "missing", "differing", "only in sink", "digest"]
            echo()
            echo(table(heads, rows, text=(0, 6)))
        if found.deleted_file:
            echo(f"deleted from the sink, and kept: {found.deleted_file} ({n(found.deleted)})")
        for name, count in found.losses.get("final", {}).get("rejected", {}).items():
            echo(
                f"accepted: {n(count)} {harmless(name)} that could not travel: {found.losses['final']['rejects_file']}"
            )
        if found.error:
            echo(harmless(found.error))
        done = ", ".join(found.steps) or "nothing"
        echo("done: all steps" if found.outcome == "done" else f"done so far: {done}")
        for command in found.way_back:
            echo(f"the way back: {harmless(command)}")
        if found.goes_on:
            echo(f"to go on: {harmless(found.goes_on)}")
        echo(f"certificate: {found.state}/report.json")

    def failure(self, message: str, outcome: str, exit_code: int, report: Report | Certificate | None = None) -> None:
        """An error that ended a command: one or two lines on stderr, and the report where there is one."""
        echo(f"error: {harmless(message)}", err=True)
        if self.as_json:
            plain = {"outcome": outcome, "exit_code": exit_code, "error": message}
            self._object(report.to_plain() if report is not None else plain)
        elif not self.quiet and isinstance(report, Report) and any(kind.tally.read for kind in report.kinds.values()):
            echo()
            echo(table(*_accounting(report)))
            echo(f"report: {report.state}/report.json")

    # other commands

    def inspection(self, found: Inspection) -> None:
        if self.as_json:
            self._object(found.to_plain())
            return
        from migrator import inspection_view

        if not self.quiet:
            inspection_view.show(found)
        echo(inspection_view.summary(found))

    def agrees(self, question: str, flag: str) -> bool:
        """Ask whoever sits there. Raises ConfigError where nobody does, naming the flag that answers."""
        if not self.is_attended:
            raise ConfigError(f"nobody is there to be asked: {question} Say {flag}")
        return self.asks(question)

    @property
    def is_attended(self) -> bool:
        """Whether somebody sits there who can be asked."""
        return is_terminal(sys.stderr) and sys.stdin is not None and sys.stdin.isatty()

    def asks(self, question: str) -> bool:
        """Ask whoever sits there: yes or no."""
        try:
            return click.confirm(harmless(question), err=True)
        except click.Abort:  # Ctrl-C, or the end of what was typed
            raise KeyboardInterrupt from None

    def made(self, new: NewStore) -> None:
        if self.as_json:
            self._object(
                {"made": True, "address": new.address.text, "whereabouts": new.whereabouts, "layout": new.layout.id}
            )
            return
        echo(f"made: {harmless(new.address.text)}")

    def examination(self, found: Examination) -> None:
        if self.as_json:
            self._object(found.to_plain())
            return
        what = "what is configured" if found.advice else "what is named here"
        well, ill = f"{what} keeps what the chat saves", f"{what} does not keep what the chat saves"
        if self.quiet:
            echo(well if found.is_well else ill)
            return
        self._findings("configuration", found.configuration)
        shown = [each for each in found.diagnoses if each.by != "nobody"]
        if len(found.diagnoses) > 1:
            echo(table(*_diagnoses(found.diagnoses), text=(0, 1, 2, 3, 4, 5)))
            echo()
        for each in shown:
            self._findings(f"{each.store} {each.address} ({each.by})" if each.address else each.store, each.findings)
        if found.advice is not None:
            echo(f"the best store that works now: {harmless(found.advice.address)}")
            for name, line in (
                ("variables", found.advice.environment),
                ("file", found.advice.config),
                ("Python", found.advice.python),
            ):
                if line:
                    echo(f"  {name:<9}  {harmless(line)}")
        echo(well if found.is_well else ill)

    def _findings(self, title: str, findings: Sequence[Finding]) -> None:
        if not findings:
            return
        echo(harmless(title))
        width = max(len(each.what) for each in findings)
        for each in findings:
            labelled(f"  {_MARKS[each.verdict]} {each.what}", harmless(each.seen), width + 7)
            if each.mend:
                labelled("", f"→ {harmless(each.mend)}", width + 7 if columns(sys.stdout) >= 80 else 2)
        echo()

    def status(self, root: Path, jobs: Sequence[JobStatus]) -> None:
        if self.as_json:
            plain = [
                {
                    "state": str(job.path),
                    "status": job.state,
                    "command": job.checkpoint.describes.get("command") if job.checkpoint else None,
                    "source": job.checkpoint.describes.get("source") if job.checkpoint else None,
                    "sink": job.checkpoint.describes.get("sink") if job.checkpoint else None,
                    "started": job.checkpoint.started if job.checkpoint else None,
                    "snapshot_bytes": job.snapshot_bytes,
                }
                for job in jobs
            ]
            self._object({"root": str(root), "jobs": plain})
            return
        echo(f"jobs in {root}" + ("" if jobs else ": none"))
        for job in jobs:
            echo()
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.changed))
            echo(f"{job.state:<12} {when}  {job.path.name}")
            if job.checkpoint is not None:
                describes = job.checkpoint.describes
                read = sum(tally.read for tally in job.checkpoint.tallies.values())
                done = sum(progress.done for progress in job.checkpoint.progress)
                echo(f"  {harmless(str(describes.get('source')))} → {harmless(str(describes.get('sink')))}")
                echo(f"  {counted(read)} read, {done} of {counted(len(job.checkpoint.progress), 'partition')} done")
            if job.snapshot_bytes:
                echo(f"  a snapshot of the source remains: {size(job.snapshot_bytes)} in {job.path / 'scratch'}")

    def mappings(self, known: Sequence[Mapping]) -> None:
        if self.as_json:
            self._object({"mappings": [_mapping_plain(each) for each in known]})
            return
        echo(table(["name", "what it describes"], [[each.name, each.title] for each in known], text=(0, 1)))

    def mapping(self, found: Mapping) -> None:
        if self.as_json:
            self._object(_mapping_plain(found))
            return
        echo(f"{found.name}: {harmless(found.title)}")
        echo(f"file {found.path}, sha256 {found.sha256[:16]}…\n")
        rows = [
            [kind.name, ", ".join(kind.identity), ", ".join(f.name for f in kind.fields if f.name not in kind.identity)]
            for kind in found.kinds.values()
        ]
        echo(table(["kind", "identity", "other fields"], rows, text=(0, 1, 2)))
        echo("\nlayouts")
        for layout in found.layouts.values():
            made = " (new stores get this one)" if layout.id in found.created.values() else ""
            echo(f"  {layout.id}: {layout.store}, {', '.join(layout.kinds)}{made}")

    def sound(self, found: Mapping) -> None:
        """That a mapping has been checked, and nothing is wrong with it."""
        if self.as_json:
            self._object({"path": found.path, "name": found.name, "sound": True})
            return
        kinds, layouts = counted(len(found.kinds), "kind"), counted(len(found.layouts), "layout")
        echo(f"{found.path}: {found.name} is sound: {kinds}, {layouts}")

    def _object(self, plain: dict[str, Any]) -> None:
        echo(harmless_json(to_json(plain, indent=True).decode()), folded=False)


# Words -----------------------------------------------------------------------------------------------------------------

_COLUMNS = {
    "migrate": ("read", "written", "unchanged", "kept", "differing", "duplicates", "filtered", "rejected"),
    "dry-run": ("read", "written", "unchanged", "kept", "differing", "duplicates", "filtered", "rejected"),
    "verify": ("read", "duplicates", "rejected"),
}
_ALWAYS = {"read", "written", "unchanged", "rejected"}


_MARKS = {"well": "ok  ", "note": "note", "fault": "BAD "}


def _diagnoses(diagnoses: Sequence[Diagnosis]) -> tuple[list[str], list[list[str]]]:
    """One line a store, for who looks at nothing else."""
    heads = ["store", "configured", "reached", "usable", "holds", "persists"]
    rows = []
    for each in diagnoses:
        nobody = each.by == "nobody"
        held = "" if each.records is None else ("" if each.is_all else ">") + n(each.records)
        rows.append(
            [
                each.store,
                "-" if nobody else "in use" if each.is_active else "yes",
                "-" if nobody else _yes(each.is_reached),
                "-" if nobody else _yes(each.is_usable),
                held + (f", {each.newest[:16]}" if each.newest else ""),
                "-" if nobody else _yes(each.persists),
            ]
        )
    return heads, rows


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "NO"


def _accounting(report: Report) -> tuple[list[str], list[list[str]]]:
    """The table of kinds: a column that is zero everywhere is left out, unless it is one that people look for."""
    dry = report.command == "dry-run"
    shown = [
        name
        for name in _COLUMNS[report.command]
        if name in _ALWAYS or any(getattr(kind.tally, name) for kind in report.kinds.values())
    ]
    proofs = (
        []
        if dry
        else [n for n in ("missing", "mismatched", "extra") if any(getattr(k.proof, n) for k in report.kinds.values())]
    )
    compared = not dry and (report.command, report.options.get("proof")) != ("verify", "app")
    heads = ["kind", *(("would write" if dry and name == "written" else name) for name in shown), *proofs]
    if compared:
        heads += ["in sink", "digest"]
    rows = []
    for name, kind in report.kinds.items():
        row = [
            name,
            *(n(getattr(kind.tally, column)) for column in shown),
            *(n(getattr(kind.proof, column)) for column in proofs),
        ]
        if compared:
            row += [n(kind.proof.sink.count) if kind.proof.is_read else "", _digest_words(report, kind)]
        rows.append(row)
    return heads, rows


def _digest_words(report: Report, kind: Any) -> str:
    words = str(kind.proof.digest)
    if words == "equal" and kind.tally.rejected:
        return f"equal but for {n(kind.tally.rejected)} rejected"
    return words


_NOUNS = {"memory": "memories"}
_WORDS = {"missing": "missing", "extra": "extra", "differing": "differing", "retyped": "read as another type"}


def _remembered(found: dict[str, Any], width: int) -> Iterator[str]:
    """What `--proof app` found: a line for each user, those that differ first, and the totals. Of any width: 0."""
    people = found["people"][:_SHOWN]
    left = min(max((len(harmless(each["user"])) for each in people), default=0), 30)
    fold = textwrap.TextWrapper(
        width, subsequent_indent=" " * (left + 4), break_long_words=False, break_on_hyphens=False
    )
    if people:
        yield "what the application remembers of each user:"
    for each in people:
        told = [_word_told(word, sides["source"], sides["sink"]) for word, sides in each["remembers"].items()]
        line = f"  {harmless(each['user']):<{left}}  {', '.join([*told, _changes_words(each)])}"
        yield from fold.wrap(line) if width else [line]
    if found["asked"] > len(people):
        yield f"  … and {found['asked'] - len(people):,} more"
    named = [each for each in found["differences"] if not each["known"]]
    for each in named[:_SHOWN]:
        fields = f" ({', '.join(each['fields'])})" if "fields" in each else ""
        yield f"{each['what']}: {each['identity']}{fields}" + (f": {each['why']}" if "why" in each else "")
    for words, count in found["retyped"].items():
        yield f"{n(count)} read as another type: {words}"
    for words, count in found["why"].items():
        yield f"{n(count)} {words}"
    parts = [
        f"{n(found[name])} {words}"
        for name, words in (("same", "the same"), ("foretold", "as foretold"), ("otherwise", "otherwise"))
        if found[name] or name == "same"
    ]
    yield f"{n(found['asked'])} of {counted(found['users'], 'user')} asked for: {', '.join(parts)}"
    if found["same"] < found["asked"]:
        yield f"what the application remembers otherwise, by name: {found['file']}"


def _word_told(word: str, source: Any, sink: Any) -> str:
    """`14 facts`, `14 → 12 facts`, `affinity 45`."""
    if isinstance(source, list) or isinstance(sink, list):
        was, now = (_figures(side) for side in (source, sink))
        return f"{word} {was}" if was == now else f"{word} {was} → {now}"
    noun = word if (source, sink) == (1, 1) else _NOUNS.get(word, f"{word}s")
    return f"{n(source)} {noun}" if source == sink else f"{n(source)} → {n(sink)} {noun}"


def _figures(side: Any) -> str:
    return "/".join(f"{each:,}" for each in side[:3]) + "/…" * (len(side) > 3) if isinstance(side, list) else "none"


def _changes_words(person: dict[str, Any]) -> str:
    parts = [f"{n(person[what])} {words}" for what, words in _WORDS.items() if person[what]]
    if not parts:
        return "same"
    return ", ".join(parts) if person["unexpected"] else f"as foretold ({', '.join(parts)})"


def _verdict(report: Report) -> Iterator[str]:
    """How it ended, where the details are, and the next step."""
    if report.application is not None:
        yield from _remembered(report.application, min(columns(sys.stdout), 100) if is_terminal(sys.stdout) else 0)
    if report.estimate is not None:
        yield from _estimate_lines(report.estimate)
    if report.error:
        yield report.error
    for difference in report.differences[:_SHOWN]:
        fields = f" ({', '.join(difference.fields)})" if difference.fields else ""
        yield f"{difference.what}: {difference.identity}{fields}" + (
            f" at {difference.place}" if difference.place else ""
        )
    if any(difference.is_double for difference in report.differences):
        yield "what is extra beside a record of the same identity is there twice for the application: delete it in the sink"
    if len(report.differences) > _SHOWN:
        yield f"… and more: {report.differences_file}"
    elif report.differences_file:
        yield f"differences: {report.differences_file}"
    if report.rejects_file:
        yield f"{n(report.rejected)} rejected: {report.rejects_file}"
    if report.duplicates_file:
        yield f"duplicates left behind: {report.duplicates_file}"
    if report.replaced_file:
        yield f"what was replaced: {report.replaced_file}"
    if report.foreign:
        yield f"{counted(report.foreign, 'foreign item')} stayed behind, which no kind of the mapping describes: {some(report.foreign_seen)}"
    if report.due:
        yield f"{counted(report.due)} that the sink's time-to-live deletes within 30 days"
    if report.accepted:
        yield f"{counted(report.accepted, 'foreign item')} stayed behind, as --foreign says"
    if report.ghosts:
        yield f"{n(report.ghosts)} ghosts, items that LuminoraCore leaves by mistake, stayed behind"
    if report.unreadable:
        yield f"unreadable in the sink: {', '.join(f'{n(count)} {kind}' for kind, count in report.unreadable.items())}"
        yield from (f"  {each}" for each in report.unreadable_seen)
    yield _proof_words(report)
    if report.mend:
        yield f"to make the sink as the source is now, over what is newer in it too: {report.mend}"
    if report.state:
        yield f"report: {report.state}/report.json"


def _end_words(report: Report) -> Iterator[str]:
    """For who wants no more than how it ended: what went wrong, where to look, and what is proven."""
    if report.error:
        yield report.error
    if report.outcome != "done" and report.state:
        yield f"report: {report.state}/report.json"
    yield _proof_words(report)


def _proof_words(report: Report) -> str:
    snapshot = report.snapshot or {}
    moment = f", the source as of {snapshot['moment']}" if snapshot.get("moment") else ""
    moment = moment or (f", the source {snapshot['words']}" if snapshot else "")
    fidelity = f" ({'; '.join(report.fidelity)})" if report.fidelity else ""
    if report.command == "dry-run":
        return {
            "done": "dry run: nothing was written",
            "rejects": "dry run: nothing was written; some records cannot travel",
        }.get(report.outcome, "dry run: nothing was written; the sink holds other records")
    limit = report.options.get("limit")
    if limit and report.outcome in ("done", "rejects"):
        return f"ended at the limit of {counted(limit)}: not complete, and not proven{moment}"
    match report.outcome, report.proven:
        case "done", "none" if report.application is not None:
            asked, users = report.application["asked"], report.application["users"]
            return f"done, not proven: {n(asked)} of {counted(users, 'user')} asked for{moment}"
        case "done", "none":
            return "done, not proven"
        case "done", "counts":
            return f"done, not proven: the counts are enough{moment}"
        case "done", "app":
            return f"done, the application remembers every user as before, but for what was foretold{moment}"
        case "done", proof:
            return f"done, proven by {proof}{moment}{fidelity}"
        case "rejects", proof:
            proven = f", the rest proven by {proof}" if proof not in ("none", "counts") else ""
            return f"ended with records that could not travel{proven}{moment}"
        case "differences", _:
            return f"ended with differences{moment}{fidelity}"
    return f"ended: {report.outcome}"


def _estimate_lines(estimate: dict[str, Any]) -> Iterator[str]:
    if not estimate["bytes"]:
        return
    yield f"size in the sink: {size(estimate['bytes'])}"
    for name, kind in estimate["kinds"].items():
        yield f"  largest {name}: {size(kind['largest'])}, {kind['largest_identity']}"
        for form in ("compressed", "split"):
            if kind[form]:
                yield f"  {counted(kind[form], name)} over 400 KB, {form}: no application reads such a record there"
    for kind, count in estimate["retyped"].items():
        yield f"{counted(count, f'{kind}')} that the application will read as another type there"
    if estimate["users_over_a_page"]:
        yield f"{counted(estimate['users_over_a_page'], 'user')} with more than 1 MB: LuminoraCore lists one page of each"
    if estimate["heaviest_users"]:
        users = ", ".join(f"{each['user']} {size(each['bytes'])}" for each in estimate["heaviest_users"])
        yield f"largest users: {users}"
    if estimate["write_units"]:
        yield (
            f"capacity: {estimate['write_units']:,.0f} write units, {estimate['read_units']:,.0f} read units to verify; "
            f"{estimate['seconds']:,.0f} s at {estimate['write_rate']:,.10g} write units a second"
            + (
                f", {estimate['read_seconds']:,.0f} s at {estimate['read_rate']:,.10g} read units"
                if estimate["read_rate"]
                else ""
            )
        )
        yield f"price: about ${estimate['price']:,.4f} at ${estimate['price_per_million']} a million write units (--price)"


def _mapping_plain(found: Mapping) -> dict[str, Any]:
    return {
        "name": found.name,
        "title": found.title,
        "path": found.path,
        "sha256": found.sha256,
        "kinds": {
            k.name: {"identity": list(k.identity), "fields": {f.name: f.type for f in k.fields}}
            for k in found.kinds.values()
        },
        "layouts": {
            layout.id: {"store": layout.store, "kinds": list(layout.kinds)} for layout in found.layouts.values()
        },
    }
