"""What a run has to say when it ends: the accounting, what was proven, and how it ended.

The same facts as JSON (`report.json`, `--json`) and as an object for Python callers. Knows outcomes and their exit codes; leaves
how a person sees them to `console`.
"""

from __future__ import annotations

import errno
import math
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.errors import AccountError, ConfigError, Interrupted, LockedError, MigratorError, StoreError
from migrator.model import Rates, Tally
from migrator.proof import Difference, KindProof

EXIT_CODES = {
    "done": 0,
    "failed": 1,
    "refused": 2,
    "rejects": 3,
    "differences": 4,
    "locked": 5,
    "bug": 70,
    "interrupted": 130,
}
"""How each outcome ends the process; SIGTERM makes it 143."""

PAGE = 1 << 20
"""Bytes that one Query of DynamoDB gives, and all that LuminoraCore lists of one user's facts (fact sheet H27)."""

WRITE_RATE = 4_000
"""Write units a second that a new on-demand table takes at once (AWS documentation, "on-demand initial throughput")."""


def outcome_of(error: BaseException) -> tuple[str, int]:
    """The outcome and the exit code of a run that ended with an error: the one table."""
    match error:
        case LockedError():
            outcome = "locked"
        case ConfigError():
            outcome = "refused"
        case Interrupted():
            return "interrupted", 128 + error.signal_number
        case KeyboardInterrupt():
            outcome = "interrupted"
        case MigratorError():
            outcome = "failed"
        case _:
            outcome = "bug"
    return outcome, EXIT_CODES[outcome]


def of_our_disk(error: BaseException | None, state: Path | None) -> StoreError | None:
    """The error as one of the disk, if it is: adapters sort what their stores say, so that what comes unsorted is of the state folder `state`, or of a temporary one."""
    match error:
        case OSError(errno=number) if number in _NO_ROOM:
            words = f"{state or error.filename or 'the disk'}: {error.strerror}"
        case sqlite3.Error() if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _SQLITE_NO_ROOM:
            words = f"{state or 'the disk'}: {error}"
        case FileNotFoundError(filename=None):  # what tempfile says where it cannot write
            return StoreError(f"{error.strerror}: free the disk, or name another folder in TMPDIR, then run again")
        case _:
            return None
    return StoreError(f"{words}. Free the disk or choose another folder (--state), then run again")


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_SQLITE_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


@dataclass
class KindReport:
    """The accounting of one kind, and what verification found of it. Counts are records."""

    tally: Tally = field(default_factory=Tally)
    proof: KindProof = field(default_factory=KindProof)

    def to_plain(self) -> dict[str, Any]:
        tally, proof = self.tally, self.proof
        return {
            "read": tally.read,
            "written": tally.written,
            "unchanged": tally.unchanged,
            "kept": tally.kept,
            "differing": tally.differing,
            "filtered": tally.filtered,
            "rejected": tally.rejected,
            "duplicates": tally.duplicates,
            "source_count": proof.source.count,
            "sink_count": proof.sink.count if proof.is_read else None,
            "missing": proof.missing,
            "mismatched": proof.mismatched,
            "extra": proof.extra,
            "digest": proof.digest,
            "source_digest": proof.source.hex,
            "sink_digest": proof.sink.hex,
        }


@dataclass
class Report:
    """What a run did and proved. `outcome` and `exit_code` say how it ended; `error` why, where it did not end well.

    `foreign`: items that stayed behind and that nobody expected; `ghosts` and `accepted` (by --foreign) stayed behind too. `due`:
    records that the sink's time-to-live deletes within 30 days. `unread`: by kind, why the application does not find what is written (`now`), or what it writes there itself afterwards (`later`).
    `told_by`: of source, sink and options that the command line did not say itself, the file and key, or the variable, that did.
    `application`: what `--proof app` found, see `application.Comparison.to_plain`.
    Times are ISO 8601 in UTC. Addresses are as resolved and hold no secret.
    """

    run_id: str
    tool_version: str
    command: str
    options: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    sink: str = ""
    told_by: dict[str, str] = field(default_factory=dict)
    mapping: str = ""
    mapping_sha256: str = ""
    outcome: str = "failed"
    exit_code: int = 1
    error: str | None = None
    proven: str = "none"
    fidelity: list[str] = field(default_factory=list)
    snapshot: dict[str, Any] | None = None
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    state: str = ""
    rejects_file: str | None = None
    duplicates_file: str | None = None
    replaced_file: str | None = None
    differences_file: str | None = None
    deleted: int = 0
    deleted_file: str | None = None
    foreign: int = 0
    foreign_seen: list[str] = field(default_factory=list)
    ghosts: int = 0
    accepted: int = 0
    due: int = 0
    narrowed: list[str] = field(default_factory=list)
    unread: dict[str, dict[str, str]] = field(default_factory=dict)
    resumed: bool = False
    kinds: dict[str, KindReport] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    unreadable_seen: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    estimate: dict[str, Any] | None = None
    application: dict[str, Any] | None = None
    mend: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """The report as JSON."""
        plain = {name: value for name, value in vars(self).items() if name not in ("kinds", "differences")}
        plain["kinds"] = {name: kind.to_plain() for name, kind in self.kinds.items()}
        plain["differences"] = [each.to_plain() for each in self.differences]
        return plain

    def kind(self, name: str) -> KindReport:
        return self.kinds.setdefault(name, KindReport())

    def take_in(self, tallies: dict[str, Tally]) -> None:
        """Add what was read to the accounting."""
        for name, tally in tallies.items():
            self.kind(name).tally.add(tally)

    @property
    def rejected(self) -> int:
        return sum(kind.tally.rejected for kind in self.kinds.values())

    @property
    def closes(self) -> bool:
        """Whether every record that was read is accounted for."""
        return all(kind.tally.closes for kind in self.kinds.values())

    def must_close(self) -> None:
        """Raises AccountError unless every record that was read is accounted for, of each kind."""
        open_ones = [f"{name}: {kind.tally.words}" for name, kind in self.kinds.items() if not kind.tally.closes]
        if open_ones:
            raise AccountError(f"the accounting does not close: {'; '.join(open_ones)}")

    def end(self, outcome: str, error: str | None = None, exit_code: int | None = None) -> None:
        self.outcome, self.error = outcome, error
        self.exit_code = EXIT_CODES[outcome] if exit_code is None else exit_code


def estimate(kinds: dict[str, dict[str, Any]], price: float, rates: Rates | None = None) -> dict[str, Any]:
    """From the weights of each kind: sizes, write units, time and price of what a dry run would write.

    `price` is US dollars a million write units; a strongly consistent read unit (4 KB, for the verification) costs a fifth of a write
    unit at AWS's on-demand prices. `rates` are the sink's; without a limit of writing it is WRITE_RATE, without one of reading the time
    that reading takes is left out.
    """
    write_rate = WRITE_RATE if rates is None or rates.write == math.inf else rates.write
    read_rate = rates.read if rates is not None and rates.read != math.inf else None
    units = sum(each["units"] for each in kinds.values())
    size = sum(each["bytes"] for each in kinds.values())
    reads = size / 4096
    return {
        "kinds": kinds,
        "bytes": size,
        "write_units": units,
        "read_units": round(reads, 1),
        "seconds": round(units / write_rate, 1),
        "write_rate": write_rate,
        "read_seconds": round(reads / read_rate, 1) if read_rate else None,
        "read_rate": read_rate,
        "price_per_million": price,
        "price": round(units * price / 1e6 + reads * price / 5 / 1e6, 6),
    }
