"""The state folder of a job: checkpoint, locks, notes (rejects, duplicates, differences), report.

Everything is written aside, fsynced and renamed, so that a file is whole or absent; folders are 0700 and files 0600, for
notes hold people's records. Knows the shape and version of the checkpoint; leaves what it means to `engine`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import platformdirs
from filelock import FileLock, Timeout

from migrator.adapters.base import PARTS_FOLDER
from migrator.digest import Digest
from migrator.errors import ConfigError, LockedError, StoreError
from migrator.files import private, put_whole, sync
from migrator.model import Cursor, Partition, Reject, Row, Snapshot, Tally, shortened
from migrator.users import Users
from migrator.values import Value, from_json, to_json

FORMAT = 2
"""The version of the checkpoint. A tool does not resume what another format wrote."""

_TAIL = 1 << 16  # bytes that are looked through at a time for the end of the last line
NOTES = ("rejects", "duplicates", "differing", "users")
"""What a slice may leave beside its result: one file of JSON Lines a slice, joined at the end as NAME.jsonl."""


@dataclass
class Progress:
    """How far one partition is: the cursor behind its last finished slice."""

    partition: Partition
    cursor: Cursor = None
    slices: int = 0
    done: bool = False


@dataclass
class Checkpoint:
    """What a job remembers. `sink_at` is where exactly the sink is (the same name may be another account's table). `phase` goes copying → verifying → publishing → finished; a finished one is history."""

    fingerprint: str
    describes: dict[str, Any]
    started: str
    phase: str = "copying"
    outcome: str | None = None
    snapshot: Snapshot | None = None
    sink_at: str = ""
    sink_was_empty: bool = True
    repeated: int = 0
    ids: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    proven: str = "none"
    foreign: int = 0
    ghosts: int = 0
    accepted: int = 0
    due: int = 0
    retyped: dict[str, int] = field(default_factory=dict)
    foreign_seen: list[str] = field(default_factory=list)

    def is_unfinished(self) -> bool:
        return self.phase != "finished"

    def to_plain(self) -> dict[str, Any]:
        """As `asdict` has it, but for what is plain already: of every save most of the time went into copying digests."""
        return vars(self) | {
            "snapshot": asdict(self.snapshot) if self.snapshot else None,
            "progress": [_named(each) | {"partition": _named(each.partition)} for each in self.progress],
            "tallies": {kind: _named(tally) for kind, tally in self.tallies.items()},
            "digests": {kind: digest.to_plain() for kind, digest in self.digests.items()},
        }

    @staticmethod
    def from_plain(plain: Any) -> Checkpoint:
        """Raises ValueError if `plain` is not what `to_plain` makes."""
        made: Checkpoint = made_of(Checkpoint, plain)
        return made


def _named(held: Progress | Partition | Tally) -> dict[str, Any]:
    """Its fields, by name."""
    return {name: getattr(held, name) for name in held.__dataclass_fields__}


def made_of(wanted: Any, plain: Any) -> Any:
    """The value of that type, such as a dataclass with others in it, that `asdict` made `plain` of. Raises ValueError if it did not."""
    inside = get_args(wanted)
    if wanted is Any or type(plain) is wanted:
        return plain
    if wanted is Digest:
        return Digest.from_plain(plain)
    if isinstance(wanted, UnionType):
        return None if plain is None else made_of(inside[0], plain)
    if get_origin(wanted) is list and type(plain) is list:
        return [made_of(inside[0], each) for each in plain]
    if get_origin(wanted) is dict and type(plain) is dict:
        return {name: made_of(inside[1], each) for name, each in plain.items()}
    if isinstance(wanted, type) and is_dataclass(wanted) and type(plain) is dict:
        types = get_type_hints(wanted)
        if plain.keys() <= types.keys():
            with suppress(TypeError):  # one that has no default is missing
                return wanted(**{name: made_of(types[name], each) for name, each in plain.items()})
    raise ValueError(f"no {wanted}")


# Writing ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _sorted_errors(path: Path) -> Iterator[None]:
    """What the system and SQLite say of a file of ours, as StoreError with the next step."""
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        words = exc.strerror if isinstance(exc, OSError) else exc
        raise StoreError(
            f"{path}: cannot be written: {words}. Free the disk or choose another folder (--state), then run again"
        ) from exc


def write_whole(path: Path, data: bytes) -> None:
    """`put_whole`; raises StoreError if the disk will not have it."""
    with _sorted_errors(path):
        put_whole(path, data)


# The folder ------------------------------------------------------------------------------------------------------------


STATE_VARIABLE = "MIGRATOR_STATE"


def state_root(given: str | None = None) -> Path:
    """Where the folders of all jobs are: `given`, else MIGRATOR_STATE, else the user's state folder."""
    chosen = given or os.environ.get(STATE_VARIABLE)
    return Path(chosen).expanduser().resolve() if chosen else Path(platformdirs.user_state_dir("migrator"))


def fingerprint(describes: dict[str, Any]) -> str:
    """The name of a job: equal for the same addresses, mapping, layouts, kinds and choices."""
    return hashlib.sha256(to_json(dict(sorted(describes.items())))).hexdigest()[:16]


class State:
    """One job's folder."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.path = root / name
        self._locks: list[FileLock] = []

    def make(self) -> None:
        try:
            self.path.parent.parent.mkdir(parents=True, exist_ok=True)
            self.path.parent.mkdir(exist_ok=True, mode=0o700)
            self.path.mkdir(exist_ok=True, mode=0o700)
            for each in ("locks", "scratch", *NOTES):
                (self.path / each).mkdir(exist_ok=True, mode=0o700)
        except OSError as exc:
            raise ConfigError(
                f"{self.path}: the state folder cannot be made: {exc.strerror}. Name another with --state DIR"
            ) from exc

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    def empty_scratch(self) -> None:
        """Drop the snapshot and whatever else a run needed while it lasted, but for what a sink still has to take away."""
        for each in self.scratch.glob("*"):
            if each.name != PARTS_FOLDER or not any(each.iterdir()):
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        self.duplicates.unlink(missing_ok=True)
        self.make()

    @property
    def duplicates(self) -> Path:
        """The index of losers, for as long as a job lasts."""
        return self.path / "duplicates.sqlite"

    # locks

    def lock(self, sink_file: str | None = None) -> None:
        """Take the job for this process, and the sink if it is a local file. Then wait until no worker of a dead run is left.

        Raises LockedError if another run has them.
        """
        self._take(self.path / "locks" / "job.lock", f"this job is running already (state folder {self.path})")
        if sink_file is not None:
            folder = Path(platformdirs.user_state_dir("migrator")) / "locks"
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.is_dir():
                name = hashlib.sha256(sink_file.encode()).hexdigest()[:16]
                self._take(folder / f"{name}.lock", f"another run is writing {sink_file}")
        for worker in (self.path / "locks").glob("worker-*.lock"):
            lock = FileLock(worker, mode=0o600)
            try:
                lock.acquire(timeout=30)
            except Timeout as exc:
                raise LockedError(
                    f"a worker of an earlier run is still writing ({worker.name}); wait for it, or end that process"
                ) from exc
            lock.release()
            worker.unlink(missing_ok=True)
        for path in (self.replaced_file, self.deleted_file):
            _drop_half_a_line(path)

    def _take(self, path: Path, why: str) -> None:
        lock = FileLock(path, mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            self.unlock()
            raise LockedError(f"{why}: wait for it to end, or look at `migrator status`") from exc
        except OSError as exc:
            raise ConfigError(
                f"{path}: cannot be locked: {exc.strerror}. Name another state folder with --state DIR"
            ) from exc
        self._locks.append(lock)

    def hold_worker_lock(self) -> FileLock:
        """For a worker process: a lock that its death releases, however it dies."""
        lock = FileLock(self.path / "locks" / f"worker-{os.getpid()}.lock", mode=0o600)
        lock.acquire(timeout=0)
        return lock

    def unlock(self) -> None:
        for worker in (self.path / "locks").glob("worker-*.lock"):
            worker.unlink(missing_ok=True)
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    def is_locked(self) -> bool:
        """Whether a run holds the job now; found out without disturbing it."""
        path = self.path / "locks" / "job.lock"
        if not path.exists():
            return False
        lock = FileLock(path, mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False

    # checkpoint

    @property
    def checkpoint_file(self) -> Path:
        return self.path / "checkpoint.json"

    def save(self, checkpoint: Checkpoint) -> None:
        body = to_json(checkpoint.to_plain())
        head = to_json({"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest()})
        write_whole(self.checkpoint_file, head + b"\n" + body + b"\n")

    def load(self) -> Checkpoint | None:
        """The checkpoint, None if there is none. Raises ConfigError if it is damaged or another format's."""
        try:
            data = self.checkpoint_file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ConfigError(
                f"{self.checkpoint_file}: cannot be read: {exc.strerror}; change its mode, or name another state folder with --state DIR"
            ) from exc
        anew = "Nothing was touched; --restart begins the job anew"
        try:
            head_line, body, rest = data.split(b"\n")
            head = from_json(head_line)
            whole = rest == b"" and head["sha256"] == hashlib.sha256(body).hexdigest()
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"{self.checkpoint_file}: the checkpoint is damaged. {anew}") from exc
        if head.get("format") != FORMAT:
            other = shortened(str(head.get("format")))
            raise ConfigError(
                f"{self.checkpoint_file}: written by another version of migrator (format {other}). {anew}"
            )
        if not whole:
            raise ConfigError(f"{self.checkpoint_file}: the checkpoint is damaged (its checksum does not fit). {anew}")
        try:
            checkpoint = Checkpoint.from_plain(from_json(body))
        except ValueError as exc:
            raise ConfigError(
                f"{self.checkpoint_file}: the checkpoint says what this version does not. {anew}"
            ) from exc
        if checkpoint.fingerprint != self.name:
            raise ConfigError(
                f"{self.checkpoint_file}: the checkpoint is of another job ({shortened(checkpoint.fingerprint)}). {anew}"
            )
        return checkpoint

    def clear(self) -> None:
        """Forget an earlier run of this job, but for its report and for what it replaced: that is nowhere else."""
        with _sorted_errors(self.path):
            self.checkpoint_file.unlink(missing_ok=True)
            for name in NOTES:
                (self.path / f"{name}.jsonl").unlink(missing_ok=True)
                for part in (self.path / name).iterdir():
                    part.unlink()
            (self.path / "differences.jsonl").unlink(missing_ok=True)
        if self.replaced_file.exists():
            self.put_by(self.replaced_file, "replaced.jsonl")

    def put_by(self, path: Path, name: str) -> Path:
        """Keep a file of a finished run under a name that no other run takes: its time before the suffix."""
        stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y%m%dT%H%M%S%fZ")
        stem, dot, suffix = name.partition(".")
        kept = self.path / f"{stem}-{stamp}{dot}{suffix}"
        with _sorted_errors(kept):
            path.replace(kept)
        return kept

    # notes

    def note(self, name: str, slice_name: str, lines: Iterable[dict[str, Value]]) -> None:
        """Leave what a slice has to say, in place of what the same slice said before."""
        path = self.path / name / f"{slice_name}.jsonl"
        data = b"".join(_line(line) for line in lines)
        if data:
            write_whole(path, data)
        else:
            with _sorted_errors(path):
                path.unlink(missing_ok=True)

    def note_left_behind(self, slice_name: str, rejects: Iterable[Reject], duplicates: Iterable[Row]) -> None:
        """Leave the records of a slice that did not travel, each with its place and the rejects with their reason."""
        self.note("rejects", slice_name, (reject.to_plain() for reject in rejects))
        self.note("duplicates", slice_name, (row.to_plain() | {"place": row.place} for row in duplicates))

    def join_notes(self, name: str) -> Path | None:
        """One file of all slices' notes, in the order of the plan; None if there are none."""
        parts = sorted((self.path / name).glob("*.jsonl"))
        if not parts:
            return None
        path = self.path / f"{name}.jsonl"
        aside = path.with_name(path.name + ".tmp")
        with _sorted_errors(path):
            with private(aside) as out:
                for part in parts:
                    out.write(part.read_bytes())
                sync(out)
            aside.replace(path)
        return path

    def heaviest(self, page: int, most: int) -> tuple[int, list[tuple[str, int]]]:
        """From the slices' notes: how many users have more than a page of bytes, and the heaviest of all."""
        path = self.scratch / "users.sqlite"
        with _sorted_errors(path), closing(Users(path)) as users:
            for part in (self.path / "users").glob("*.jsonl"):
                for line in part.read_bytes().splitlines():
                    noted = from_json(line)
                    users.add(noted["user"], 0, noted["bytes"], noted["bytes"])
            return users.over(page), [(user, size) for user, _, size in users.heaviest(most)]

    @property
    def replaced_file(self) -> Path:
        return self.path / "replaced.jsonl"

    @property
    def deleted_file(self) -> Path:
        return self.path / "deleted.jsonl"

    def append_replaced(self, lines: Iterable[dict[str, Value]]) -> None:
        """Keep records that are about to be replaced: on disk before the write, and never taken back by a repeat."""
        _append(self.replaced_file, lines, "Nothing was replaced")

    def append_deleted(self, lines: Iterable[dict[str, Value]]) -> None:
        """Keep records that are about to be deleted, in the same way."""
        _append(self.deleted_file, lines, "They were not deleted")

    def drop_repeats_of_replaced(self) -> Path | None:
        """At the end: each replaced record once, though its slice may have been done again."""
        return self._drop_repeats(self.replaced_file)

    def drop_repeats_of_deleted(self) -> Path | None:
        """The same of what was deleted, by this run and those before."""
        return self._drop_repeats(self.deleted_file)

    def _drop_repeats(self, path: Path) -> Path | None:
        if not path.exists():
            return None
        aside, index = path.with_name(path.name + ".tmp"), self.scratch / f"{path.stem}.sqlite"
        with _sorted_errors(path):
            self._copy_once(path, aside, index)
            aside.replace(path)
        return path

    @staticmethod
    def _copy_once(path: Path, aside: Path, index: Path) -> None:
        index.unlink(missing_ok=True)
        with (
            closing(sqlite3.connect(index, isolation_level=None)) as seen,
            path.open("rb") as lines,
            private(aside) as out,
        ):
            seen.execute("PRAGMA journal_mode = OFF")
            seen.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
            seen.execute("BEGIN")
            for line in lines:
                once = seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (hashlib.sha256(line).digest(),)).rowcount
                if once and line.endswith(b"\n"):
                    out.write(line)
            sync(out)
        index.unlink()

    def write_report(self, report: dict[str, Any]) -> None:
        write_whole(self.path / "report.json", to_json(report, indent=True) + b"\n")


def _append(path: Path, lines: Iterable[dict[str, Value]], otherwise: str) -> None:
    """Lines behind those of a file that its owner alone may read, on the disk when it returns."""
    data = b"".join(_line(line) for line in lines)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as exc:
        raise StoreError(
            f"{path}: cannot be written: {exc.strerror}. {otherwise}; free the disk and run again"
        ) from exc


def _drop_half_a_line(path: Path) -> None:
    """What a run that was killed left at the end: the record in it had not been replaced or deleted yet."""
    if not path.exists():
        return
    with _sorted_errors(path), path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _TAIL)
            file.seek(start)
            if (last := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + last + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _line(plain: dict[str, Value]) -> bytes:
    try:
        return to_json(plain) + b"\n"
    except ValueError:
        return to_json(_readable(plain)) + b"\n"


def _readable(value: Value) -> Value:
    """What JSON cannot hold as it is (text with a lone surrogate), tagged as the bytes it came from."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
        return value
    if isinstance(value, dict):
        return {_text_key(k): _readable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_readable(v) for v in value]
    return (
        value
        if isinstance(value, int | float | bytes | frozenset | None) or hasattr(value, "is_finite")
        else repr(value)
    )


def _text_key(name: object) -> str:
    return str(name).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class JobStatus:
    """One job for `status`: what it is, where it stands, and whether a snapshot of a source remains."""

    path: Path
    state: str
    checkpoint: Checkpoint | None
    snapshot_bytes: int
    changed: float


def jobs(root: Path) -> Iterator[JobStatus]:
    """All jobs under a state root, the latest first. A damaged checkpoint is a job too; what only looked (a dry run) is none."""
    folders = [path for path in root.iterdir() if (path / "locks").is_dir()] if root.is_dir() else []
    for path in sorted(folders, key=lambda each: each.stat().st_mtime, reverse=True):
        state = State(root, path.name)
        is_running = state.is_locked()
        if not (is_running or state.checkpoint_file.exists()):
            continue
        try:
            checkpoint = state.load()
            words = "interrupted" if checkpoint is None else (checkpoint.outcome or "interrupted")
        except ConfigError:
            checkpoint, words = None, "damaged"
        held = [file for file in state.scratch.glob("*") if file.is_file()] if state.scratch.is_dir() else []
        changed = (state.checkpoint_file if checkpoint else path).stat().st_mtime
        size = sum(file.stat().st_size for file in held)
        yield JobStatus(path, "running" if is_running else words, checkpoint, size, min(changed, time.time()))
