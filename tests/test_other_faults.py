"""What else goes wrong: a full disk, checkpoints that are damaged or of something else, two at once, and a source that moves while it is read.

Kills are in `test_kill.py`; what an endpoint may do, in the tests of DynamoDB.
"""

import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import kills
import migrator
import proxy
from kills import Killer
from migrator import Options
from migrator.adapters.dynamodb import adapter as dynamodb
from migrator.adapters.jsonfile import adapter as jsonfile
from migrator.adapters.sql import adapter as sql
from migrator.adapters.sql import sink as sql_sink
from migrator.adapters.sql import snapshot as sqlite_snapshot
from migrator.checkpoint import FORMAT, Checkpoint, State
from tables import address_of, client_of
from test_kill import CREWS, LONG, Bench, point

FULL = [("db", "db", "refuse"), ("db", "jsonl.gz", "refuse"), ("jsonl", "json", "refuse"), ("dynamodb", "db", "refuse")]
FULL += [
    ("db", "dynamodb", "refuse"),
    ("db", "db", "replace"),
    ("db", "dynamodb", "replace"),
    ("db", "json", "replace"),
]


pytestmark = pytest.mark.usefixtures("own_states")


# A full disk -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _little_data_makes_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    for adapter in (dynamodb.ADAPTER, jsonfile.ADAPTER, sql.ADAPTER):
        monkeypatch.setattr(adapter, "traits", replace(adapter.traits, stretch=1))


@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.parametrize(("number", "pair"), list(enumerate(FULL)), ids=["-".join(pair) for pair in FULL])
def test_a_disk_that_is_full_from_any_step_on_is_told_and_with_room_again_the_run_ends_as_a_clean_one(
    number: int,
    pair: tuple[str, str, str],
    killer: Killer,
    between: proxy.Proxy,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Whatever is being written: checkpoint, rejects, snapshot, the index of duplicates, a SQLite or a JSON sink, the report."""
    bench = Bench(killer, between, tmp_path, pair)
    clean = bench.clean()
    steps = len(clean.ended.steps)
    taken = range(1, steps + 1) if LONG else [point(number, part, 4, steps) for part in range(4)]
    for turn, step in enumerate(taken):
        place = bench.place(f"{step}")
        before, crew = between.acknowledged, CREWS[turn % 2]
        full = bench.run(place, crew, nth=step, full=True)
        words = f"{'-'.join(pair)}, full from step {step} of {steps}"
        assert full.code in (1, 2, 3), f"{words}: {full.code} {full.err}"
        assert "Traceback" not in full.err and "bug" not in full.err, f"{words}: {full.err}"
        said = full.err.lower()
        assert "space" in said or "room" in said or "disk" in said, f"{words}: {full.err}"
        if full.code == 3:  # all was done and remembered; what could not be written is the report
            assert "the report could not be written" in full.err, f"{words}: {full.err}"
        again = bench.run(place, CREWS[(turn + 1) % 2])
        clean.is_met_by(place, full, crew, again, between.acknowledged - before, words)
        place.clear()
    record_property("kills", [len(taken), len(taken)])


@pytest.mark.parametrize(
    ("source", "sink", "size"),
    [
        ("chat.db", "out.jsonl", 0),
        ("chat.db", "out.jsonl", 20_000),
        ("chat.jsonl", "out.db", 30_000),
        ("chat.jsonl", "out.json", 30_000),
    ],
    ids=["nothing at all", "the snapshot", "the database", "the document"],
)
def test_a_limit_of_the_system_on_the_size_of_a_file_is_told_and_without_it_the_run_ends_as_a_clean_one(
    source: str, sink: str, size: int, tmp_path: Path
) -> None:
    """The system's own refusal, not one that a test put there: a process may make no file larger than so many bytes."""
    kills.write_db(tmp_path / "chat.db", MANY)
    kills.write_jsonl(tmp_path / "chat.jsonl", MANY)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    first = subprocess.run(
        [sys.executable, "-m", "migrator", "migrate", source, sink, "--workers", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )
    assert first.returncode in (1, 2), f"{first.returncode} {first.stderr}"
    assert "Traceback" not in first.stderr, first.stderr
    assert sink.endswith(".db") or not (tmp_path / sink).exists()
    report = migrator.migrate(tmp_path / source, tmp_path / sink, Options(workers=1))
    assert (report.outcome, report.kinds["fact"].tally.written) == ("done", 200)


MANY: kills.Records = {"facts": [kills.fact(n) for n in range(200)], "episodes": []}


# Checkpoints that are not what they should be --------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of chat.db into out.db that was stopped half way: its checkpoint."""
    kills.make_chat(tmp_path / "chat.db", 60)
    monkeypatch.setattr("migrator.adapters.base.PAGE_ROWS", 10)
    monkeypatch.setattr("migrator.adapters.sql.rows.PAGE_ROWS", 10)
    monkeypatch.setattr("migrator.adapters.sql.rows._ROWS_AT_ONCE", 10)
    monkeypatch.setattr("migrator.engine.SLICE_PAGES", 1)
    begin, calls = sql_sink.SqlSink.begin, [0]

    def stops(self: sql_sink.SqlSink, name: str) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise migrator.StoreError("the power is gone")
        begin(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(sql_sink.SqlSink, "begin", stops)
        with pytest.raises(migrator.StoreError, match="the power is gone"):
            migrator.migrate(tmp_path / "chat.db", tmp_path / "out.db", Options(workers=1))
    (checkpoint,) = (tmp_path / "state").glob("*/checkpoint.json")
    return checkpoint


def go_on(tmp_path: Path, **options: Any) -> migrator.Report:
    return migrator.migrate(tmp_path / "chat.db", tmp_path / "out.db", Options(workers=1, **options))


def test_a_checkpoint_cut_off_at_any_byte_is_refused_with_the_way_out(interrupted: Path, tmp_path: Path) -> None:
    """Whether it is cut or a byte of it has turned: it is never gone on with, and never taken for another job's."""
    whole, state = interrupted.read_bytes(), State(interrupted.parent.parent, interrupted.parent.name)
    for size in range(len(whole)):
        interrupted.write_bytes(whole[:size])
        with pytest.raises(migrator.ConfigError, match=r"damaged.* Nothing was touched; --restart begins the job anew"):
            state.load()
    for at in range(len(whole)):
        interrupted.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(migrator.ConfigError, match=r"Nothing was touched; --restart begins the job anew"):
            state.load()
    interrupted.write_bytes(whole[: len(whole) // 2])
    before = kills.rows(tmp_path / "out.db")
    with pytest.raises(migrator.ConfigError, match="damaged"):
        go_on(tmp_path)
    assert kills.rows(tmp_path / "out.db") == before
    interrupted.write_bytes(whole)
    report = go_on(tmp_path)
    assert (report.resumed, report.outcome, report.kinds["fact"].tally.written) == (True, "done", 60)


@pytest.mark.parametrize("number", [FORMAT - 1, FORMAT + 1, None])
def test_a_checkpoint_of_an_older_or_newer_version_is_refused_and_kept(
    number: int | None, interrupted: Path, tmp_path: Path
) -> None:
    """Also its snapshot: the version that wrote it may still go on with both."""
    head, body = interrupted.read_bytes().split(b"\n", 1)
    plain = json.loads(head) | {"format": number}
    interrupted.write_bytes(json.dumps(plain).encode() + b"\n" + body)
    with pytest.raises(migrator.ConfigError, match=r"another version of migrator.* --restart begins the job anew"):
        go_on(tmp_path)
    assert interrupted.read_bytes().endswith(body) and list(interrupted.parent.glob("scratch/snapshot*"))
    assert go_on(tmp_path, restart=True).outcome in ("done", "differences")


def test_a_checkpoint_of_another_job_is_refused(interrupted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kills.make_chat(other / "chat.db", 5)
    with pytest.raises(migrator.ConfigError, match="mkdir"):
        migrator.migrate(other / "chat.db", other / "no" / "out.db", Options(workers=1))
    migrator.migrate(other / "chat.db", other / "out.db", Options(workers=1))
    (theirs,) = (path for path in (tmp_path / "state").glob("*/checkpoint.json") if path != interrupted)
    theirs.write_bytes(interrupted.read_bytes())
    with pytest.raises(migrator.ConfigError, match="of another job"):
        migrator.migrate(other / "chat.db", other / "out.db", Options(workers=1))


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_was_set_back_or_forward_changes_nothing(
    days: int, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is then of the future, or very old; files are known by what they are, and never by which is newer."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=days)

    for module in ("migration", "run", "checkpoint", "adapters.sql.snapshot"):
        monkeypatch.setattr(f"migrator.{module}.datetime", Clock)
    stamp = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(interrupted, (stamp, stamp))
    report = go_on(tmp_path)
    assert (report.resumed, report.outcome, report.proven) == (True, "done", "digest")
    assert report.kinds["fact"].tally.written == 60
    assert kills.rows(tmp_path / "out.db") == kills.rows(tmp_path / "chat.db")


@pytest.mark.parametrize("source", ["chat.jsonl", "chat.db"])
@pytest.mark.parametrize("when", ["first", "last"])
@pytest.mark.parametrize("how", [KeyboardInterrupt, migrator.StoreError])
def test_an_interruption_beside_a_save_leaves_what_the_checkpoint_goes_on_with(
    how: type[BaseException], when: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of duplicates, the snapshot and the staged parts: without them an older record would travel, or an empty file be published."""
    kills.write_jsonl(tmp_path / "chat.jsonl", kills.SOURCE)
    kills.write_db(tmp_path / "chat.db", kills.SOURCE)
    options, out = Options(workers=1, on_reject="continue"), tmp_path / "out.jsonl"
    clean = migrator.migrate(tmp_path / source, tmp_path / "clean.jsonl", options)
    save, calls = State.save, [0]

    def interrupted(self: State, checkpoint: Checkpoint) -> None:
        calls[0] += 1
        if when == "first":
            save(self, checkpoint)
        if calls[0] == 1 if when == "first" else checkpoint.phase == "finished":
            raise how("the power is gone")
        save(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", interrupted)
        with pytest.raises(how):
            migrator.migrate(tmp_path / source, out, options)
    report = migrator.migrate(tmp_path / source, out, options)
    assert (report.resumed, report.outcome, report.proven) == (True, "rejects", "digest")
    assert report.kinds["episode"].tally == clean.kinds["episode"].tally
    assert out.read_text() == (tmp_path / "clean.jsonl").read_text()


def test_a_job_whose_index_of_duplicates_is_gone_begins_anew(interrupted: Path, tmp_path: Path) -> None:
    (interrupted.parent / "duplicates.sqlite").unlink()
    report = go_on(tmp_path)
    assert (report.resumed, report.outcome) == (False, "done")
    assert (report.kinds["fact"].tally.unchanged, report.kinds["fact"].tally.written) == (10, 50)


# Two at once, and what the dead leave ----------------------------------------------------------------------------------


def test_two_processes_at_once_are_one_too_many_and_the_lock_of_a_dead_one_is_none(
    killer: Killer, tmp_path: Path
) -> None:
    """Another job with the same sink is kept out, too; a lock file that nobody holds is no lock."""
    kills.write_db(tmp_path / "chat.db", kills.SOURCE)
    kills.write_jsonl(tmp_path / "other.jsonl", kills.SOURCE)
    ready, go = tmp_path / "ready", tmp_path / "go"
    os.mkfifo(go)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ready), str(go), "chat.db", "out.db"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        while not ready.exists():
            assert holder.poll() is None
        for source in ("chat.db", "other.jsonl"):
            refused = killer.run(tmp_path, "migrate", source, "out.db", "--on-reject", "continue")
            assert refused.code == 5, refused.err
            assert "wait for it to end" in refused.err
        assert killer.run(tmp_path, "status").out.count("running") == 1
    finally:
        holder.kill()
        holder.wait()
    assert list((tmp_path / "state").glob("*/locks/job.lock"))
    again = killer.run(tmp_path, "migrate", "chat.db", "out.db", "--on-reject", "continue", "--json")
    assert (again.code, again.report["resumed"]) == (3, True), again.err
    assert len(kills.rows(tmp_path / "out.db")) == kills.TRAVELS


HOLDER = """
import sys
from pathlib import Path
from migrator import cli
from migrator.adapters.sql.sink import SqlSink
ready, go, source, sink = sys.argv[1:]
def waits(self, name):
    Path(ready).touch()
    open(go).read()
SqlSink.begin = waits
cli.main(["migrate", source, sink, "--on-reject", "continue", "--workers", "1"])
"""


def test_a_sink_that_another_writer_locks_for_too_long_ends_the_run_and_it_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again a few times, then told with what to do; what was there before is as it was."""
    monkeypatch.setattr(sqlite_snapshot, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr("migrator.engine.time.sleep", lambda seconds: None)
    kills.make_chat(tmp_path / "chat.db", 30)
    kills.make_chat(tmp_path / "out.db", 0, 3)
    prepare = sql_sink.SqlSink.prepare
    with closing(sqlite3.connect(tmp_path / "out.db", isolation_level=None, check_same_thread=False)) as application:

        def prepared(self: sql_sink.SqlSink, *args: Any) -> None:
            prepare(self, *args)
            application.execute("BEGIN IMMEDIATE")

        with monkeypatch.context() as patch:
            patch.setattr(sql_sink.SqlSink, "prepare", prepared)
            with pytest.raises(
                migrator.StoreError, match=r"somebody else holds the lock .*\(tried 5 times\)"
            ) as locked:
                go_on(tmp_path)
        assert (locked.value.report.outcome, locked.value.report.exit_code) == ("failed", 1)
        application.execute("ROLLBACK")
    report = go_on(tmp_path)
    assert (report.resumed, report.outcome, report.kinds["fact"].tally.written) == (True, "done", 30)
    assert len(kills.rows(tmp_path / "out.db")) == 33


# A source that moves while it is read ----------------------------------------------------------------------------------

NEW, CHANGED, GONE = kills.fact(900), kills.fact(7, value="changed"), kills.fact(11)


def change_db(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        marks = ", ".join("?" * len(NEW))
        db.execute(f"INSERT INTO facts ({', '.join(NEW)}) VALUES ({marks})", list(NEW.values()))
        db.execute("UPDATE facts SET value = 'changed' WHERE key = ?", (CHANGED["key"],))
        db.execute("DELETE FROM facts WHERE key = ?", (GONE["key"],))
        db.commit()


def change_jsonl(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    kept = [line.replace('"v 7"', '"changed"') for line in lines if '"key": "k11"' not in line]
    path.write_text("".join(kept) + json.dumps({"kind": "fact", "record": NEW}) + "\n")


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done between the first two slices."""
    monkeypatch.setattr("migrator.engine.SLICE_PAGES", 1)
    for module in ("dynamodb.source", "base"):
        monkeypatch.setattr(f"migrator.adapters.{module}.PAGE_ROWS", 4)

    def arrange(happens: Callable[[], None]) -> None:
        from migrator.engine import _Slice

        copy, calls = _Slice.copy, [0]

        def moved(self: Any, *args: Any) -> Any:
            calls[0] += 1
            if calls[0] == 2:
                happens()
            return copy(self, *args)

        monkeypatch.setattr(_Slice, "copy", moved)

    return arrange


GOOD: kills.Records = {"facts": [kills.fact(n) for n in range(12)], "episodes": [kills.episode(n) for n in range(3)]}


def keys(path: Path) -> dict[str, str]:
    """Each fact's key and value, as a JSON Lines file holds them."""
    facts = [line["record"] for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == "fact"]
    return {record["key"]: record["value"] for record in facts}


def test_a_database_that_changes_while_it_is_read_arrives_as_of_its_snapshot(
    tmp_path: Path, moving: Callable[[Callable[[], None]], None]
) -> None:
    """Proven of that moment, which the report names; `verify` reads the source anew and tells what has changed since."""
    chat, out = tmp_path / "chat.db", tmp_path / "out.jsonl"
    kills.write_db(chat, GOOD)
    moving(lambda: change_db(chat))
    report = migrator.migrate(chat, out, Options(workers=1))
    assert (report.outcome, report.proven) == ("done", "digest")
    assert report.snapshot is not None and report.snapshot["moment"]
    assert keys(out) == {record["key"]: record["value"] for record in GOOD["facts"]}
    assert_told_of(migrator.verify(chat, out))


def assert_told_of(report: migrator.Report) -> None:
    found = {(each.what, each.identity.rpartition("=")[2]) for each in report.differences}
    assert found == {("missing", "k900"), ("differing", "k7"), ("extra", "k11")}
    assert (report.outcome, report.exit_code) == ("differences", 4)


def test_a_file_that_changes_while_it_is_read_stops_the_run_and_the_next_begins_anew(
    tmp_path: Path, moving: Callable[[Callable[[], None]], None]
) -> None:
    chat, out = tmp_path / "chat.jsonl", tmp_path / "out.jsonl"
    kills.write_jsonl(chat, GOOD)
    moving(lambda: change_jsonl(chat))
    with pytest.raises(migrator.StoreError, match="chang"):
        migrator.migrate(chat, out, Options(workers=1))
    assert not out.exists()
    report = migrator.migrate(chat, out, Options(workers=1))
    assert (report.resumed, report.outcome, report.proven) == (False, "done", "digest")
    assert keys(out) == keys(chat)


def test_a_table_that_changes_while_it_is_read_is_read_between_two_moments_and_verify_tells_the_rest(
    tmp_path: Path, moto_endpoint: str, moving: Callable[[Callable[[], None]], None]
) -> None:
    """Each record that was there all the time arrives; of those that moved meanwhile, what was read: nothing else, and nothing half."""
    client, table, out = client_of(moto_endpoint), "moves", tmp_path / "out.jsonl"
    kills.write_table(client, table, GOOD)
    address = address_of(table, moto_endpoint)

    def change() -> None:
        kills.put(client, table, NEW, "FACT#c#k900")
        kills.put(client, table, CHANGED, "FACT#c#k7")
        client.delete_item(TableName=table, Key={"user_id": {"S": GONE["user_id"]}, "SK": {"S": "FACT#c#k11"}})

    moving(change)
    report = migrator.migrate(address, out, Options(workers=1))
    assert report.outcome == "done"
    assert report.snapshot is not None and report.snapshot["moment"] is None
    assert "read between" in report.snapshot["words"]
    arrived = keys(out)
    still = {record["key"]: record["value"] for record in GOOD["facts"] if record["key"] not in ("k7", "k11")}
    assert still.items() <= arrived.items()
    assert set(arrived) - set(still) <= {"k7", "k11", "k900"} and arrived["k7"] in ("v 7", "changed")
    told = migrator.verify(address, out)
    found = {(each.what, each.identity.rpartition("=")[2]) for each in told.differences}
    assert found == {
        *([("missing", "k900")] if "k900" not in arrived else []),
        *([("differing", "k7")] if arrived["k7"] == "v 7" else []),
        *([("extra", "k11")] if "k11" in arrived else []),
    }
    assert told.exit_code == (4 if found else 0)
