"""The steps of a cutover, the terms on which they are taken, and the certificate of what was done and proved.

Knows the steps' names, order and words, and what is remembered of each. Leaves taking them to `cutting_over`, and showing them to `console`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from migrator.errors import ConfigError
from migrator.report import EXIT_CODES
from migrator.run import now_words

FORMAT = 1
"""The version of the certificate. A tool does not go on with what another format wrote."""


@dataclass(frozen=True)
class Step:
    """One step: its name, what is done, why that is safe, and what is asked before it."""

    name: str
    doing: str
    safe: str
    question: str


_STORY = (
    Step(
        "plan",
        "reads and compares everything, as it would be copied",
        "nothing is written",
        "read everything and plan?",
    ),
    Step(
        "copy",
        "copies every record into the sink",
        "the source is only read; the application goes on with it",
        "copy now?",
    ),
    Step(
        "catch-up",
        "copies what has come since, until little is left",
        "the sink is not in use yet: the source wins, and what is replaced is kept",
        "catch up now?",
    ),
    Step(
        "delete",
        "looks for what has been deleted in the source since",
        "it is deleted only with --delete-extra, kept in a file first, and only as it was when it was compared",
        "look for deletions now?",
    ),
    Step(
        "stop",
        "looks twice whether anything is still written to the source",
        "the source is only read",
        "STOP THE WRITERS NOW: whatever writes to the source. Are they stopped?",
    ),
    Step(
        "final",
        "copies and deletes what is left, and compares both stores record by record",
        "nothing is written to the source meanwhile; that is looked at again before it begins",
        "make the final pass?",
    ),
    Step(
        "proof",
        "asks both stores what the application would ask",
        "both are only read",
        "prove it as the application sees it?",
    ),
    Step(
        "switch",
        "says how the application is told to use the sink, if the source has not moved",
        "nothing is changed; the source stays as it is, the way back",
        "see how to switch?",
    ),
    Step(
        "tail",
        "looks for what has come to the source since the final pass, and brings it",
        "what the sink holds is left as it is (--existing keep)",
        "Has the switch been made, and is the application running on the sink?",
    ),
)
STEPS = {step.name: step for step in _STORY}
"""By name, in their order."""


@dataclass(frozen=True)
class Terms:
    """What a cutover may do, and when it is content.

    until: the last step that needs no asking, None for none. delete_extra: delete in the sink what is gone from the source; False: leave it
    there and go on; None: name it, and do not go on to the switch with it. max_delete: more than so many at once are refused. small: a pass that
    writes fewer records ends the catch-up. quiet_for: seconds between two looks at a source whose writers are stopped.
    """

    until: str | None = None
    delete_extra: bool | None = None
    max_delete: int = 0
    small: int = 100
    quiet_for: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError for terms that there are not."""
        if self.until is not None and self.until not in STEPS:
            raise ConfigError(f'until: there is no step "{self.until}"; there are {", ".join(STEPS)}')
        if min(self.max_delete, self.small, self.quiet_for) < 0:
            raise ConfigError("max_delete, small and quiet_for cannot be less than 0")
        if self.max_delete and not self.delete_extra:
            raise ConfigError(
                "--max-delete says how many records may be deleted, and --delete-extra that they may: give both"
            )

    def takes(self, step: str) -> bool:
        """Whether a step needs no asking; the plan never does."""
        names = list(STEPS)
        return names.index(step) <= names.index(self.until or names[0])


@dataclass
class Certificate:
    """What a cutover has done and proved, and what it remembers to go on: `report.json` of its folder.

    steps: by name, with the moment it was `finished` and its figures; a step that is missing is still to be done. passes: every run, with its id.
    digests: both sides' at the end of the final pass, by kind. losses: what the plan foretold, and what it came to. deleted: records
    in `deleted_file`, and so deleted from the sink. goes_on: the command for the next step. way_back: commands, for after the switch. Times are ISO 8601 in UTC.
    """

    source: str
    sink: str
    source_at: str
    sink_at: str
    mapping: str
    mapping_sha256: str
    tool_version: str
    kinds: list[str]
    started: str
    format: int = FORMAT
    sink_was_empty: bool | None = None
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    passes: list[dict[str, Any]] = field(default_factory=list)
    digests: dict[str, dict[str, Any]] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    deleted: int = 0
    deleted_file: str | None = None
    replaced_files: list[str] = field(default_factory=list)
    switch: dict[str, str] | None = None
    way_back: list[str] = field(default_factory=list)
    outcome: str = "failed"
    exit_code: int = 1
    error: str | None = None
    goes_on: str | None = None
    finished: str = ""
    state: str = ""

    def to_plain(self) -> dict[str, Any]:
        """The certificate as JSON."""
        return asdict(self)

    def end(self, outcome: str, error: str | None = None, exit_code: int | None = None) -> None:
        self.outcome, self.error = outcome, error
        self.exit_code = EXIT_CODES[outcome] if exit_code is None else exit_code
        self.finished = now_words()
