"""The state folder: what is saved comes back, what is damaged is refused, locks exclude, and all of it is its owner's alone."""

import hashlib
import json
import os
import re
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from filelock import FileLock

from migrator import checkpoint as checkpoints
from migrator.adapters.base import PARTS_FOLDER
from migrator.checkpoint import FORMAT, NOTES, Checkpoint, Progress, State, fingerprint, jobs, state_root, write_whole
from migrator.digest import Digest
from migrator.errors import ConfigError, LockedError, StoreError
from migrator.model import Origin, Partition, Reject, Row, Snapshot, Tally
from migrator.values import to_json

JOB = "a" * 16


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    state = State(tmp_path / "state", JOB)
    state.make()
    yield state
    state.unlock()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was made durable, in order: inode and size at that moment."""
    noted: list[tuple[int, int]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        noted.append(identity(os.fstat(descriptor)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return noted


def identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_size


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def full_checkpoint() -> Checkpoint:
    """One in which no field has its default."""
    return Checkpoint(
        JOB,
        {"source": "sqlite:///chat.db"},
        "2026-01-01T00:00:00.000Z",
        phase="verifying",
        outcome="rejects",
        snapshot=Snapshot("id", "2026-01-01T00:00:00.000Z", "a copy"),
        sink_at="arn:aws:dynamodb:eu-west-1:1:table/chat",
        sink_was_empty=False,
        repeated=1,
        ids=["ana"],
        progress=[Progress(Partition("p", {"from": 1}), {"after": [1, "k"]}, 3, True), Progress(Partition("q", {}))],
        tallies={"fact": Tally(read=2, written=1, rejected=1)},
        digests={"fact": Digest(1, {7: 255})},
        weights={"fact": {"bytes": 5}},
        proofs={"fact": {"missing": 1}},
        proven="digest",
        foreign=2,
        ghosts=3,
        accepted=4,
        due=5,
        retyped={"fact": 1},
        foreign_seen=["X"],
    )


# The checkpoint --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_saved(state: State) -> None:
    for saved in (full_checkpoint(), Checkpoint(JOB, {}, "now")):
        state.save(saved)
        assert state.load() == saved
    assert mode(state.checkpoint_file) == 0o600


def test_a_new_checkpoint_has_copied_counted_and_proven_nothing() -> None:
    assert Checkpoint(JOB, {}, "now").to_plain() == {
        "fingerprint": JOB, "describes": {}, "started": "now", "phase": "copying", "outcome": None, "snapshot": None, "sink_at": "",
        "sink_was_empty": True, "repeated": 0, "ids": [], "progress": [], "tallies": {}, "digests": {}, "weights": {}, "proofs": {},
        "proven": "none", "foreign": 0, "ghosts": 0, "accepted": 0, "due": 0, "retyped": {}, "foreign_seen": [],
    }  # fmt: skip
    fresh = Progress(Partition("p", {}))
    assert (fresh.cursor, fresh.slices, fresh.done) == (None, 0, False)


def test_only_a_finished_checkpoint_is_history() -> None:
    made = Checkpoint(JOB, {}, "now")
    for made.phase in ("copying", "verifying", "publishing"):
        assert made.is_unfinished()
    made.phase = "finished"
    assert not made.is_unfinished()


def test_where_nothing_was_saved_there_is_no_checkpoint(state: State) -> None:
    assert state.load() is None


def test_a_checkpoint_that_is_not_whole_is_refused(state: State) -> None:
    state.save(full_checkpoint())
    whole = state.checkpoint_file.read_bytes()
    head, body, _ = whole.split(b"\n")
    damaged = [
        *(whole[:size] for size in range(len(whole))),
        whole + b"x",
        whole + b"\n",
        b"[1]\n" + body + b"\n",
        b"1\n" + body + b"\n",
        b'{"format":2}\n' + body + b"\n",
        head + b"\n" + body.replace(b'"foreign":2', b'"foreign":3') + b"\n",
    ]
    for data in damaged:
        write_whole(state.checkpoint_file, data)
        with pytest.raises(ConfigError, match=r"is damaged.*--restart"):
            state.load()


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_none(state: State) -> None:
    state.checkpoint_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        state.load()


def test_a_checkpoint_of_another_job_or_version_is_refused(state: State) -> None:
    state.save(Checkpoint("b" * 16, {}, "now"))
    with pytest.raises(ConfigError, match=r"is of another job \(bbbbbbbbbbbbbbbb\).*--restart"):
        state.load()
    state.save(full_checkpoint())
    text = state.checkpoint_file.read_bytes()
    write_whole(state.checkpoint_file, text.replace(b'"format":2', b'"format":99'))
    with pytest.raises(ConfigError, match=r"another version of migrator \(format 99\).*--restart"):
        state.load()


def test_what_cannot_be_written_stays_as_it_was_and_names_the_next_step(state: State) -> None:
    state.checkpoint_file.mkdir()
    (state.checkpoint_file / "within").touch()
    with pytest.raises(StoreError, match=r"checkpoint\.json: cannot be written: .*--state"):
        state.save(full_checkpoint())
    assert [path.name for path in state.path.glob("checkpoint*")] == ["checkpoint.json"]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("foreign",), "2"),
        (("foreign",), 2.0),
        (("foreign",), {}),
        (("foreign",), True),
        (("unheard_of",), 1),
        (("outcome",), 1),
        (("ids",), ["a", 1]),
        (("ids",), {"a": 1}),
        (("tallies",), ["fact"]),
        (("tallies", "fact"), 1),
        (("tallies", "fact", "read"), "2"),
        (("digests", "fact"), 1),
        (("digests", "fact"), {"count": 1}),
        (("digests", "fact", "count"), "2"),
        (("digests", "fact", "count"), True),
        (("digests", "fact", "sums"), ["7"]),
        (("digests", "fact", "sums"), {"seven": "ff"}),
        (("digests", "fact", "sums", "7"), "xyz"),
        (("digests", "fact", "sums", "7"), 255),
        (("snapshot", "words"), None),
        (("progress", 0, "partition"), {}),
        (("progress", 0, "slices"), None),
    ],
)
def test_a_checkpoint_that_says_something_else_is_refused(path: tuple[Any, ...], wrong: Any, state: State) -> None:
    plain: Any = full_checkpoint().to_plain()
    inner = plain
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    with pytest.raises(ValueError, match="no "):
        Checkpoint.from_plain(plain)
    body = to_json(plain)
    head = to_json({"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest()})
    write_whole(state.checkpoint_file, head + b"\n" + body + b"\n")
    with pytest.raises(ConfigError, match=r"says what this version does not.*--restart"):
        state.load()


def test_a_checkpoint_of_before_a_field_was_added_is_read() -> None:
    plain = full_checkpoint().to_plain()
    del plain["retyped"]
    assert Checkpoint.from_plain(plain) == replace(full_checkpoint(), retyped={})
    del plain["started"]
    with pytest.raises(ValueError, match="no "):
        Checkpoint.from_plain(plain)


def test_a_job_is_named_by_what_it_is_whatever_the_order() -> None:
    name = fingerprint({"source": "a", "sink": "b"})
    assert re.fullmatch("[0-9a-f]{16}", name)
    assert name == fingerprint({"sink": "b", "source": "a"})
    assert name != fingerprint({"sink": "a", "source": "b"})


# The folder ------------------------------------------------------------------------------------------------------------


def test_the_folder_of_all_jobs_is_the_one_given_then_that_of_the_environment_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "variable"))
    assert state_root("~/given") == tmp_path.resolve() / "given"
    assert state_root() == (tmp_path / "variable").resolve()
    monkeypatch.delenv("MIGRATOR_STATE")
    assert state_root() == Path(platformdirs.user_state_dir("migrator"))


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    state = State(tmp_path / "so" / "far" / "away", JOB)
    umask = os.umask(0)
    try:
        for _ in range(2):
            state.make()
    finally:
        os.umask(umask)
    made = [state.path.parent, state.path, *(state.path / name for name in ("locks", "scratch", *NOTES))]
    assert {mode(path) for path in made} == {0o700}
    assert sorted(path.name for path in state.path.iterdir()) == sorted(("locks", "scratch", *NOTES))


def test_a_folder_that_cannot_be_made_asks_for_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"state folder cannot be made: .*--state"):
        State(tmp_path / "file", JOB).make()


def test_what_a_run_needed_while_it_lasted_is_dropped_and_the_rest_stays(state: State) -> None:
    (state.scratch / "snapshot").mkdir()
    (state.scratch / "snapshot" / "chat.db").write_text("copy")
    state.duplicates.write_text("index")
    state.save(full_checkpoint())
    for _ in range(2):
        state.empty_scratch()
        state.scratch.rmdir()
        state.empty_scratch()
        assert list(state.scratch.iterdir()) == []
    assert (state.duplicates.exists(), state.load()) == (False, full_checkpoint())


def test_what_a_sink_still_has_to_take_away_stays(state: State) -> None:
    parts = state.scratch / PARTS_FOLDER
    for _ in range(2):
        parts.mkdir(exist_ok=True)
        state.empty_scratch()
        assert not parts.exists()
    parts.mkdir()
    (parts / "0000-000000").write_text("noted")
    (state.scratch / "snapshot.db").write_text("copy")
    state.empty_scratch()
    assert [path.relative_to(state.scratch).as_posix() for path in state.scratch.rglob("*")] == [
        PARTS_FOLDER,
        f"{PARTS_FOLDER}/0000-000000",
    ]


@pytest.mark.parametrize(
    "act",
    [
        lambda state: state.clear(),
        lambda state: state.note("rejects", "s", []),
        lambda state: state.join_notes("rejects"),
        lambda state: state.heaviest(1, 1),
        lambda state: state.drop_repeats_of_replaced(),
        lambda state: state.put_by(state.replaced_file, "kept/x.jsonl"),
    ],
)
def test_what_the_system_refuses_is_told_with_the_next_step(act: Callable[[State], Any], state: State) -> None:
    state.note("rejects", "other", [{"n": 1}])
    state.append_replaced([{"n": 1}])
    for path in (
        state.checkpoint_file,
        state.path / "rejects" / "s.jsonl",
        state.path / "rejects.jsonl.tmp",
        state.scratch / "users.sqlite",
        state.scratch / "replaced.sqlite",
    ):
        path.mkdir()
    with pytest.raises(StoreError, match=r"cannot be written: .*--state"):
        act(state)


def test_a_database_that_the_disk_will_not_have_is_told_with_the_next_step(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.append_replaced([{"n": 1}])
    monkeypatch.setattr(
        sqlite3, "connect", lambda *_, **__: (_ for _ in ()).throw(sqlite3.OperationalError("disk is full"))
    )
    for act in (lambda: state.heaviest(1, 1), state.drop_repeats_of_replaced):
        with pytest.raises(StoreError, match=r"cannot be written: disk is full\. .*--state"):
            act()


# Locks -----------------------------------------------------------------------------------------------------------------


def test_a_job_is_taken_once_and_free_again_when_it_ends(state: State) -> None:
    other = State(state.path.parent, state.name)
    assert not other.is_locked()
    state.lock()
    assert other.is_locked()
    assert other.is_locked()
    with pytest.raises(LockedError, match="this job is running already"):
        other.lock()
    state.unlock()
    assert not other.is_locked()
    other.lock()
    assert state.is_locked()
    other.unlock()


def test_asking_for_a_lock_lets_it_go_again(state: State) -> None:
    state.lock()
    state.unlock()
    assert not state.is_locked()
    State(state.path.parent, state.name).lock()


def test_two_jobs_do_not_write_one_file_at_once(state: State, tmp_path: Path) -> None:
    other = State(tmp_path / "state", "b" * 16)
    other.make()
    state.lock("/data/chat.db")
    with pytest.raises(LockedError, match=r"another run is writing /data/chat\.db"):
        other.lock("/data/chat.db")
    assert not other.is_locked()  # what it had taken already is free again
    other.lock("/data/other.db")
    other.unlock()
    state.unlock()
    other.lock("/data/chat.db")
    other.unlock()


def test_locks_are_their_owners_alone(state: State) -> None:
    umask = os.umask(0)
    try:
        state.lock("/data/chat.db")
        worker = state.hold_worker_lock()
        assert state.is_locked()
    finally:
        os.umask(umask)
    users = Path(platformdirs.user_state_dir("migrator")) / "locks"
    found = [*(state.path / "locks").iterdir(), *users.iterdir()]
    assert (len(found), {mode(path) for path in found}, mode(users)) == (3, {0o600}, 0o700)
    assert [re.fullmatch(r"[0-9a-f]{16}\.lock", path.name) is not None for path in users.iterdir()] == [True]
    worker.release()


def test_a_run_waits_for_the_workers_of_a_dead_one(state: State) -> None:
    file, ended = state.path / "locks" / f"worker-{os.getpid()}.lock", threading.Event()
    holds, may_end = threading.Event(), threading.Event()

    def work() -> None:
        worker = State(state.path.parent, state.name).hold_worker_lock()
        holds.set()
        may_end.wait(30)
        ended.set()
        worker.release()

    worker = threading.Thread(target=work)
    worker.start()
    assert holds.wait(30) and file.exists()
    timer = threading.Timer(0.2, may_end.set)
    timer.start()
    state.lock()
    assert ended.is_set() and not file.exists()
    worker.join()
    timer.join()


def test_what_is_taken_is_refused_without_waiting(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Noting(FileLock):
        def acquire(self, timeout: Any = None, **options: Any) -> Any:
            waited.append(timeout)
            return super().acquire(timeout=0, **options)

    monkeypatch.setattr(checkpoints, "FileLock", Noting)
    state.lock()
    other = State(state.path.parent, state.name)
    assert other.is_locked()
    with pytest.raises(LockedError):
        other.lock()
    worker = state.hold_worker_lock()
    with pytest.raises(TimeoutError):
        other.hold_worker_lock()
    assert set(waited) == {0}
    worker.release()


def test_a_worker_that_goes_on_writing_is_not_written_beside(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(FileLock):
        def acquire(self, timeout: Any = None, **options: Any) -> Any:
            return super().acquire(timeout=min(timeout, 0.01), **options)

    worker = State(state.path.parent, state.name).hold_worker_lock()
    monkeypatch.setattr(checkpoints, "FileLock", Impatient)
    with pytest.raises(LockedError, match=rf"worker-{os.getpid()}\.lock"):
        state.lock()
    assert (state.path / "locks" / f"worker-{os.getpid()}.lock").exists()
    worker.release()


def test_the_end_leaves_no_locks_of_workers(state: State) -> None:
    state.lock()
    state.hold_worker_lock().release()
    (state.path / "locks" / "worker-1.lock").touch()
    state.unlock()
    assert list((state.path / "locks").glob("worker-*")) == []
    state.unlock()


def test_a_lock_that_cannot_be_made_asks_for_another_folder(state: State) -> None:
    assert not State(state.path.parent, "c" * 16).is_locked()
    (state.path / "locks" / "job.lock").mkdir()
    assert not state.is_locked()
    with pytest.raises(ConfigError, match=r"job\.lock: cannot be locked: .*--state"):
        state.lock()


def test_where_no_folder_for_locks_of_files_can_be_made_the_job_runs_without(state: State, tmp_path: Path) -> None:
    (tmp_path / "user").touch()
    state.lock("/data/chat.db")
    assert state.is_locked()


# Notes -----------------------------------------------------------------------------------------------------------------


def test_a_repeated_slice_replaces_what_it_said(state: State) -> None:
    state.note("rejects", "0000-000002", [])
    state.note("rejects", "0000-000001", [{"n": 1}, {"n": 2}])
    state.note("rejects", "0000-000001", [{"n": 3}])
    state.note("rejects", "0000-000000", [{"n": 0}])
    path = state.join_notes("rejects")
    assert path == state.path / "rejects.jsonl"
    assert path.read_bytes() == b'{"n":0}\n{"n":3}\n'
    assert mode(path) == mode(state.path / "rejects" / "0000-000001.jsonl") == 0o600
    state.note("rejects", "0000-000001", [])
    state.note("rejects", "0000-000000", [])
    assert list((state.path / "rejects").iterdir()) == []
    assert state.join_notes("rejects") is None


def test_notes_are_joined_in_the_order_of_the_plan(state: State) -> None:
    """Whatever a folder lists first: the newest, the oldest, or by a hash."""
    for n in (5, 0, 7, 2, 9, 1, 8, 3, 6, 4):
        state.note("rejects", f"0000-00000{n}", [{"n": n}])
    path = state.join_notes("rejects")
    assert path is not None and [json.loads(line)["n"] for line in path.read_text().splitlines()] == list(range(10))


def test_joined_notes_are_on_the_disk_before_they_have_their_name(state: State, synced: list[tuple[int, int]]) -> None:
    state.note("rejects", "0000-000000", [{"n": 0}])
    synced.clear()
    path = state.join_notes("rejects")
    assert path is not None
    assert identity(path.stat()) in synced
    assert [each.name for each in state.path.glob("rejects*")].count("rejects.jsonl.tmp") == 0


def test_what_did_not_travel_is_left_whole_with_its_place(state: State) -> None:
    origin = Origin("dynamodb", "user_id/SK", {"SK": "FACT#1"})
    state.note_left_behind(
        "s", [Reject("fact", "7", "too large", {"key": "k"}, origin)], [Row("fact", {"key": "k"}, origin, "8")]
    )
    (rejected,) = (state.path / "rejects" / "s.jsonl").read_text().splitlines()
    (duplicate,) = (state.path / "duplicates" / "s.jsonl").read_text().splitlines()
    assert json.loads(rejected)["reason"] == "too large"
    assert json.loads(rejected)["place"] == "7"
    plain = {"store": "dynamodb", "layout": "user_id/SK", "set": {"SK": "FACT#1"}}
    assert json.loads(duplicate) == {"kind": "fact", "record": {"key": "k"}, "origin": plain, "place": "8"}


def test_the_heaviest_users_are_added_up_over_all_slices(state: State) -> None:
    state.note("users", "0000-000000", [{"user": "ana", "bytes": 600}, {"user": "bo", "bytes": 1000}])
    state.note("users", "0001-000000", [{"user": "ana", "bytes": 500}, {"user": "cy", "bytes": 10}])
    assert state.heaviest(1000, 2) == (1, [("ana", 1100), ("bo", 1000)])
    assert list(state.scratch.iterdir()) == []


def test_a_new_run_forgets_the_last_but_for_its_report_and_what_it_replaced(state: State) -> None:
    state.save(full_checkpoint())
    state.write_report({"outcome": "done"})
    for name in NOTES:
        state.note(name, "0000-000000", [{"n": 0}])
        state.join_notes(name)
    (state.path / "differences.jsonl").write_text("{}\n")
    state.append_replaced([{"n": 1}])
    os.utime(state.replaced_file, (1_772_000_000.25, 1_772_000_000.25))
    for _ in range(2):
        state.clear()
        files = sorted(path.relative_to(state.path).as_posix() for path in state.path.rglob("*") if path.is_file())
        assert files == ["replaced-20260225T061320250000Z.jsonl", "report.json"]
    assert (state.path / files[0]).read_bytes() == b'{"n":1}\n'
    assert json.loads((state.path / "report.json").read_text()) == {"outcome": "done"}


def test_a_file_that_is_put_by_says_under_which_name(state: State) -> None:
    state.append_deleted([{"n": 1}])
    os.utime(state.deleted_file, (1_772_000_000, 1_772_000_000))
    kept = state.put_by(state.deleted_file, "deleted.jsonl.gz")
    assert kept == state.path / "deleted-20260225T061320000000Z.jsonl.gz"
    assert (kept.read_bytes(), state.deleted_file.exists()) == (b'{"n":1}\n', False)


def test_a_report_is_whole_and_its_owners_alone(state: State) -> None:
    state.write_report({"a": 1, "b": {"c": 2}})
    text = (state.path / "report.json").read_text()
    assert json.loads(text) == {"a": 1, "b": {"c": 2}}
    assert text.endswith("}\n") and len(text.splitlines()) > 3
    assert mode(state.path / "report.json") == 0o600


# What is replaced or deleted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_what_goes_is_kept_behind_what_went_before_and_on_the_disk_at_once(
    what: str, state: State, synced: list[tuple[int, int]]
) -> None:
    append, drop_repeats = getattr(state, f"append_{what}"), getattr(state, f"drop_repeats_of_{what}")
    path = state.path / f"{what}.jsonl"
    assert drop_repeats() is None
    umask = os.umask(0)
    try:
        append([{"n": 2}, {"n": 1}])
    finally:
        os.umask(umask)
    assert (mode(path), synced) == (0o600, [identity(path.stat())])
    append([{"n": 1}, {"n": 3}])
    assert path.read_bytes() == b'{"n":2}\n{"n":1}\n{"n":1}\n{"n":3}\n'
    with path.open("ab") as file:
        file.write(b'{"n":4')  # what a kill left of a line
    synced.clear()
    assert drop_repeats() == path
    assert path.read_bytes() == b'{"n":2}\n{"n":1}\n{"n":3}\n'
    assert (mode(path), synced) == (0o600, [identity(path.stat())])
    assert list(state.scratch.iterdir()) == []
    assert list(state.path.glob("*.tmp")) == []


def test_repeats_are_dropped_after_a_kill_in_the_middle_of_dropping_them(state: State) -> None:
    state.append_replaced([{"n": 1}, {"n": 1}])
    (state.scratch / "replaced.sqlite").write_bytes(b"half an index")
    (state.path / "replaced.jsonl.tmp").write_bytes(b"half a file, longer than the whole one")
    assert state.drop_repeats_of_replaced() == state.replaced_file
    assert state.replaced_file.read_bytes() == b'{"n":1}\n'


@pytest.mark.parametrize(
    ("what", "words"), [("replaced", "Nothing was replaced"), ("deleted", "They were not deleted")]
)
def test_where_it_cannot_be_kept_nothing_goes(what: str, words: str, state: State) -> None:
    (state.path / f"{what}.jsonl").mkdir()
    with pytest.raises(StoreError, match=rf"{what}\.jsonl: cannot be written: .*{words}"):
        getattr(state, f"append_{what}")([{"n": 1}])


def test_what_json_cannot_hold_is_kept_as_what_it_came_from(state: State) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "something odd"

    odd = {"text\udcff": "a\udcff", "list": ["\udcff", 1, 2.5, None, True, b"x", "plain"], "exact": Decimal("1e-999")}
    state.append_replaced([odd | {"set": frozenset(["a"]), "odd": Odd()}])
    (line,) = state.replaced_file.read_text().splitlines()
    assert json.loads(line) == {
        "text\\udcff": {"$bytes": "Ye2zvw=="},
        "list": [{"$bytes": "7bO/"}, 1, 2.5, None, True, {"$bytes": "eA=="}, "plain"],
        "exact": 0,
        "set": {"$set": ["a"]},
        "odd": "something odd",
    }
    assert '"exact":1E-999' in line


# All jobs --------------------------------------------------------------------------------------------------------------


def test_every_job_is_listed_with_where_it_stands_the_latest_first(tmp_path: Path) -> None:
    root = tmp_path / "state"
    assert list(jobs(root)) == []
    made = {name: State(root, name * 16) for name in "abcdef"}
    for state in made.values():
        state.make()
    made["a"].save(Checkpoint("a" * 16, {}, "now", phase="finished", outcome="done"))
    made["b"].save(Checkpoint("b" * 16, {}, "now"))
    made["c"].checkpoint_file.write_text("damaged")
    made["d"].lock()  # running, and nothing saved yet; "e" only looked
    (made["b"].scratch / "snapshot").write_bytes(b"12345")
    (made["b"].scratch / "more").write_bytes(b"678")
    (made["b"].scratch / "folder").mkdir()
    made["f"].save(Checkpoint("f" * 16, {}, "now"))
    made["f"].scratch.rmdir()
    (root / "no job").mkdir()
    (root / "a file").touch()
    for age, name in enumerate("bcdaf"):
        os.utime(made[name].path, (1e9 - age, 1e9 - age))
        if made[name].checkpoint_file.exists():
            os.utime(made[name].checkpoint_file, (2e9 + age, 2e9 + age) if name == "a" else (5e8, 5e8))
    now = time.time()
    found = list(jobs(root))
    made["d"].unlock()
    assert [(each.path.name[0], each.state, each.snapshot_bytes) for each in found] == [
        ("b", "interrupted", 8),
        ("c", "damaged", 0),
        ("d", "running", 0),
        ("a", "done", 0),
        ("f", "interrupted", 0),
    ]
    assert [each.checkpoint is not None for each in found] == [True, False, False, True, True]
    assert [each.changed for each in found if each.path.name[0] != "a"] == [5e8, 1e9 - 1, 1e9 - 2, 5e8]
    assert now <= found[3].changed <= time.time()  # the clock was set back: nothing has changed in the future


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_end_lets_go_of_every_file(state: State) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        state.lock("/data/chat.db")
        state.is_locked()
        state.unlock()
        state.append_replaced([{"n": 1}])
        state.drop_repeats_of_replaced()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The last: what is looked through at a time begins with the end of the line before.
@pytest.mark.parametrize("half", [b'{"n":', b'{"n":2}', b"x" * 200_000, b"x" * ((1 << 16) - 1)])
def test_half_a_line_that_a_killed_run_left_is_dropped_with_the_next_lock(half: bytes, state: State) -> None:
    """Its record had not been replaced yet; with another line behind it, neither could be read."""
    for append, path in ((state.append_replaced, state.replaced_file), (state.append_deleted, state.deleted_file)):
        append([{"n": 1}])
        with path.open("ab") as file:
            file.write(half)
    state.lock()
    state.unlock()
    for append, path in ((state.append_replaced, state.replaced_file), (state.append_deleted, state.deleted_file)):
        append([{"n": 3}])
        assert path.read_bytes() == b'{"n":1}\n{"n":3}\n'


def test_a_file_of_half_a_line_becomes_empty(state: State) -> None:
    state.replaced_file.write_bytes(b'{"n":')
    state.lock()
    state.unlock()
    assert state.replaced_file.read_bytes() == b""
