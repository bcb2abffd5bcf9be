"""The story of a run, told with memory and JSON Lines, and with DynamoDB where keys matter: accounting, what is left as it is, what is named."""

import gc
import json
import os
import signal
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

import migrator
import proxy
from migrator import Options, commands, engine, migration
from migrator.adapters import memory
from migrator.adapters.base import Flushed
from migrator.adapters.sql.source import SqlSource
from migrator.checkpoint import Checkpoint
from migrator.engine import _Slice
from migrator.errors import AccountError, ConfigError, Interrupted, StoreError
from migrator.mapping_file import load_mapping
from migrator.model import Existing, Page, Reject
from migrator.pair import Pair
from migrator.values import to_json
from tables import client_of

KINDS = load_mapping("luminoracore-v1.1").kinds
DATA = Path(__file__).parent / "data"


pytestmark = pytest.mark.usefixtures("own_states")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of twenty records, so that little data makes many."""
    monkeypatch.setattr(memory, "PAGE_ROWS", 10)


def fact(user: str, key: str, value: str | None = "v", **more: Any) -> dict[str, Any]:
    stamp = "2026-01-02T03:04:05.678901"
    plain = {"user_id": user, "session_id": "s", "category": "c", "key": key, "value": value, "confidence": 0.5}
    return plain | {"created_at": stamp, "updated_at": stamp} | more


def episode(user: str, title: str, **more: Any) -> dict[str, Any]:
    stamp = "2026-01-02T03:04:05.678901"
    plain = {"user_id": user, "session_id": "s", "episode_type": "t", "title": title, "summary": "x", "importance": 1.5}
    return plain | {"sentiment": "good", "created_at": stamp, "updated_at": stamp} | more


def fill(name: str, kind: str, *records: dict[str, Any]) -> None:
    for record in records:
        memory.store(name).append(kind, record, KINDS[kind].identity_of(record))


def records_of(name: str) -> list[dict[str, Any]]:
    return [row.record for row in memory.store(name).rows.values()]


def lines_of(path: str | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# Accounting ------------------------------------------------------------------------------------------------------------


def test_every_record_is_accounted_for(names: tuple[str, str], tmp_path: Path) -> None:
    source, _ = names
    fill(
        source,
        "fact",
        *(fact("u", f"k{n}") for n in range(12)),
        fact("u", "k3", "newer", updated_at="2027-01-01T00:00:00"),
    )
    fill(source, "fact", fact("u", "broken") | {"confidence": "much"})
    fill(source, "episode", episode("u", "one"))
    report = migrator.migrate(f"memory:{source}", str(tmp_path / "x.jsonl"), Options(on_reject="continue"))
    tally = report.kinds["fact"].tally
    assert (tally.read, tally.written, tally.duplicates, tally.rejected) == (14, 12, 1, 1)
    assert report.closes
    assert (report.outcome, report.exit_code, report.proven) == ("rejects", 3, "digest")
    assert [line["reason"] for line in lines_of(report.rejects_file)] == [
        "confidence holds text, the mapping says float"
    ]
    assert [line["record"]["value"] for line in lines_of(report.duplicates_file)] == ["v"]


def _loses_a_row(pair: Pair, page: Page) -> Any:
    page.rows = page.rows[1:]
    return _EXPECTED(pair, page)


def _forgets_to_count(pair: Pair, page: Page) -> Any:
    out = _EXPECTED(pair, page)
    out.rows = out.rows[1:]
    return out


def _rejects(times: int) -> Any:
    def flush(sink: memory.MemorySink) -> Flushed:
        return Flushed(rejects=times * [Reject("fact", "0", "refused", next(iter(sink.held.rows.values())).record)])

    return flush


_EXPECTED = Pair.expected
BROKEN: dict[str, tuple[Any, str, Any, str]] = {
    "a row is lost on its way": (Pair, "expected", _loses_a_row, r"12 records came, and 11 were counted as read"),
    "a row is read and not written": (Pair, "expected", _forgets_to_count, r"fact: 12 read, 11 written"),
    "more are rejected than were sent": (memory.MemorySink, "flush", _rejects(13), r"12 read, -1 written, 13 rejected"),
    "a refusal is not taken back": (_Slice, "_unsend", lambda *_: None, r"fact: 12 read, 12 written, 1 rejected"),
    "a digest is not of what is there": (Pair, "note", lambda *_: None, r"12 written; 0 in the digest"),
}
"""Where the account is broken on purpose, how, and what is said."""


@pytest.mark.parametrize("where", BROKEN)
def test_a_slice_whose_accounting_does_not_close_ends_the_run_as_a_bug_and_is_not_remembered(
    where: str, names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(12)))
    owner, name, broken, words = BROKEN[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        if name == "_unsend":
            patch.setattr(memory.MemorySink, "flush", _rejects(1))
        with pytest.raises(AccountError, match=words):
            migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(proof="none"))
    (path,) = (tmp_path / "state").glob("*/report.json")
    report = json.loads(path.read_text())
    assert (report["outcome"], report["exit_code"]) == ("bug", 70)
    again = migrator.migrate(f"memory:{source}", f"memory:{sink}")
    assert (again.outcome, again.resumed, again.kinds["fact"].tally.written) == ("done", True, 12)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("how", ["finished", "interrupted", "failed", "stopped at a reject"])
def test_however_a_run_ends_it_is_a_bug_if_the_sum_does_not_close(
    how: str, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a run that was asked to stop, or that failed for a store's sake: what it says to have done must be so."""
    source, sink = names
    fill(source, "fact", fact("u", "broken") | {"confidence": "much"}, *(fact("u", f"k{n}") for n in range(110)))
    remembered = engine.remember

    def miscounts(checkpoint: Checkpoint, result: engine.SliceResult) -> None:
        remembered(checkpoint, result)
        checkpoint.tallies["fact"].written -= 1

    def ends(self: memory.MemorySink, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and how == "interrupted":
            os.kill(os.getpid(), signal.SIGTERM)
        if len(calls) == 2 and how == "failed":
            raise migrator.StoreError("the store is gone")
        return begin(self, *args)

    calls: list[int] = []
    begin = memory.MemorySink.begin
    monkeypatch.setattr(engine, "remember", miscounts)
    monkeypatch.setattr(memory.MemorySink, "begin", ends)
    on_reject: Any = "stop" if how == "stopped at a reject" else "continue"
    with pytest.raises(AccountError, match="the accounting does not close: fact: ") as ended:
        migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1, on_reject=on_reject))
    cause = {"interrupted": migrator.Interrupted, "failed": migrator.StoreError}.get(how, type(None))
    assert isinstance(ended.value.__context__, cause)


@pytest.mark.usefixtures("small_pages")
def test_rejects_stop_the_run_and_it_goes_on_behind_them(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "broken") | {"confidence": "much"}, *(fact("u", f"k{n}") for n in range(110)))
    first = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
    assert (first.outcome, first.kinds["fact"].tally.rejected) == ("rejects", 1)
    assert first.kinds["fact"].tally.read < 111
    second = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
    assert second.resumed
    assert (second.outcome, second.kinds["fact"].tally.written, second.kinds["fact"].tally.rejected) == (
        "rejects",
        110,
        1,
    )
    assert len(records_of(sink)) == 110


def test_kinds_that_were_not_asked_for_are_left_out(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "k"))
    fill(source, "episode", episode("u", "one"))
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(kinds=("fact",)))
    assert report.outcome == "done"
    assert report.kinds["episode"].tally.filtered == 1
    assert len(records_of(sink)) == 1


def test_an_empty_source_is_refused_unless_it_is_meant(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact")
    memory.store(source)
    fill(source, "episode", episode("u", "one"))
    with pytest.raises(migrator.ConfigError, match="--allow-empty") as refused:
        migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(kinds=("fact",)))
    assert refused.value.report.exit_code == 2
    assert (
        migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(kinds=("fact",), allow_empty=True)).outcome
        == "done"
    )


@pytest.mark.parametrize(
    ("proof", "proven"), [("digest", "digest"), ("rows", "rows"), ("counts", "counts"), ("none", "none")]
)
def test_a_run_says_what_it_has_proven(names: tuple[str, str], proof: Any, proven: str) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "k"))
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(proof=proof))
    assert (report.outcome, report.proven) == ("done", proven)


# What is left behind ---------------------------------------------------------------------------------------------------


def odd_source(name: str) -> None:
    """Three facts that travel, one that cannot, one that lost against a newer one."""
    fill(name, "fact", *(fact("u", f"k{n}") for n in range(3)), fact("u", "broken") | {"confidence": "much"})
    fill(name, "fact", fact("u", "k2", "newer", updated_at="2027-01-01T00:00:00"))


def test_every_command_names_what_it_left_behind(names: tuple[str, str], tmp_path: Path) -> None:
    """Also a run that only compares: the sink is a file that is there already, or nothing is written at all."""
    source, _ = names
    odd_source(source)
    goes_on, path = Options(on_reject="continue"), tmp_path / "x.jsonl"
    reports = [
        migrator.migrate(f"memory:{source}", path, goes_on),
        migrator.migrate(f"memory:{source}", path, goes_on),
        migrator.migrate(f"memory:{source}", path, Options(dry_run=True)),
        migrator.verify(f"memory:{source}", path),
    ]
    for report in reports:
        assert (report.outcome, report.exit_code) == ("rejects", 3)
        assert [line["place"] for line in lines_of(report.rejects_file)] == ["000000003"]
        assert [line["record"]["value"] for line in lines_of(report.duplicates_file)] == ["v"]


def test_a_reject_that_is_not_whole_is_no_source(names: tuple[str, str], tmp_path: Path) -> None:
    """What was too large to be kept in a rejects file must not come back as NULL."""
    source, sink = names
    fill(source, "fact", fact("u", "k"))
    chat = tmp_path / "chat.db"
    migrator.migrate(f"memory:{source}", chat)
    with sqlite3.connect(chat) as db:
        db.execute(
            "INSERT INTO facts (user_id, category, key, value) VALUES ('u', 'c', 'huge', ?)", ("x" * 34_000_000,)
        )
    db.close()
    report = migrator.migrate(chat, tmp_path / "x.jsonl", Options(on_reject="continue"))
    (line,) = lines_of(report.rejects_file)
    assert ("34,000" in line["reason"], line["omitted"], line["record"]["key"]) == (True, ["value"], "huge")
    again = migrator.migrate(str(report.rejects_file), f"memory:{sink}", Options(on_reject="continue"))
    assert (again.outcome, again.kinds["fact"].tally.rejected, records_of(sink)) == ("rejects", 1, [])
    assert "value was too large" in lines_of(again.rejects_file)[0]["reason"]


def scratch_files(tmp_path: Path) -> list[str]:
    jobs = [job for job in (tmp_path / "state").iterdir() if job.is_dir()]
    return [p.name for job in jobs for p in (job / "scratch").iterdir()] + [
        p.name for job in jobs for p in job.glob("*.sqlite")
    ]


def test_a_snapshot_remains_only_as_long_as_a_run_could_go_on_with_it(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = names
    odd_source(source)
    chat = tmp_path / "chat.db"
    migrator.migrate(f"memory:{source}", chat, Options(on_reject="continue"))
    fill(sink, "fact", fact("u", "k1", "other"))
    assert migrator.migrate(chat, f"memory:{sink}").outcome == "differences"
    assert scratch_files(tmp_path) == []
    with pytest.raises(migrator.ConfigError, match="mkdir"):
        migrator.migrate(chat, tmp_path / "no" / "folder" / "x.jsonl")
    with sqlite3.connect(chat) as db:
        db.execute("DROP INDEX migrator_identity_episodes")
        db.execute(
            "INSERT INTO episodes (user_id, episode_type, title) VALUES ('u', 't', 'twice'), ('u', 't', 'twice')"
        )
    db.close()
    with pytest.raises(migrator.ConfigError, match="newest"):
        migrator.migrate(chat, tmp_path / "y.jsonl", Options(on_duplicate="stop"))
    assert scratch_files(tmp_path) == []
    monkeypatch.setattr(memory.MemorySink, "flush", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        migrator.migrate(chat, f"memory:{sink}")
    assert "snapshot.db" in scratch_files(tmp_path)


def test_a_job_that_ended_stays_listed_when_it_is_refused_later(names: tuple[str, str], tmp_path: Path) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "k"))
    chat = tmp_path / "chat.db"
    migrator.migrate(f"memory:{source}", chat)
    migrator.migrate(chat, f"memory:{sink}")
    before = {job.path: job.state for job in commands.status(None)[1]}
    with sqlite3.connect(chat) as db:
        db.execute("DELETE FROM facts")
    db.close()
    with pytest.raises(migrator.ConfigError, match="--allow-empty"):
        migrator.migrate(chat, f"memory:{sink}")
    assert {job.path: job.state for job in commands.status(None)[1]} == before


def test_a_job_that_only_compared_says_how_many_records_it_read(names: tuple[str, str], tmp_path: Path) -> None:
    source, _ = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(5)))
    for _ in range(2):
        migrator.migrate(f"memory:{source}", tmp_path / "x.jsonl")
        (job,) = commands.status(None)[1]
        assert job.checkpoint is not None
        assert job.checkpoint.tallies["fact"].read == 5


@pytest.mark.usefixtures("small_pages")
def test_a_stop_at_rejects_says_what_was_not_read_and_how_to_go_on(names: tuple[str, str], tmp_path: Path) -> None:
    source, _ = names
    fill(source, "fact", fact("u", "broken") | {"confidence": "much"}, *(fact("u", f"k{n}") for n in range(110)))
    stopped = migrator.migrate(f"memory:{source}", tmp_path / "x.jsonl", Options(workers=1))
    assert not (tmp_path / "x.jsonl").exists()
    for words in (
        "stopped at 1 reject",
        "not read to the end",
        "published",
        "run again",
        "--on-reject continue",
        "--restart",
    ):
        assert words in (stopped.error or "")
    assert migrator.migrate(f"memory:{source}", tmp_path / "x.jsonl").error is None


def test_a_sink_that_went_with_what_was_written_is_told_at_once(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "broken") | {"confidence": "much"}, *(fact("u", f"k{n}") for n in range(3000)))
    migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
    memory.forget(sink)
    with pytest.raises(migrator.ConfigError, match=r"had been written.*--restart"):
        migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))


def test_a_large_float_comes_back_from_a_store_that_knows_none(names: tuple[str, str], tmp_path: Path) -> None:
    source, _ = names
    fill(
        source,
        "fact",
        *(fact("u", f"k{n}", confidence=value) for n, value in enumerate((1e19, -(2.0**63), 1e300, 0.1))),
    )
    steps = [f"memory:{source}", *(str(tmp_path / name) for name in ("a.db", "b.jsonl", "c.db", "d.json", "e.db"))]
    for at, to in pairwise(steps):
        assert migrator.migrate(at, to).outcome == "done"
    with sqlite3.connect(tmp_path / "e.db") as db:
        assert db.execute("SELECT confidence FROM facts ORDER BY key").fetchall() == [
            (1e19,),
            (-(2.0**63),),
            (1e300,),
            (0.1,),
        ]


def test_a_long_identity_is_shown_by_its_beginning(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "episode", episode("u", "a confession " * 5000))
    fill(sink, "episode", episode("u", "a confession " * 5000, summary="other"))
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}")
    assert report.differences[0].identity.endswith(
        "title=a confession a confession a confession a… (65,000 characters)"
    )
    assert len(json.dumps(report.to_plain())) < 10_000


# What is there ---------------------------------------------------------------------------------------------------------


def test_a_differing_record_stays_as_it_is(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(5)))
    fill(sink, "fact", fact("u", "k1", "other"), fact("u", "k2"), fact("u", "mine"))
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}")
    tally = report.kinds["fact"].tally
    assert (tally.written, tally.unchanged, tally.differing) == (3, 1, 1)
    assert (report.outcome, report.exit_code) == ("differences", 4)
    assert [(each.what, each.fields) for each in report.differences] == [("differing", ("value",))]
    assert "key=k1" in report.differences[0].identity
    assert {r["key"]: r["value"] for r in records_of(sink)}["k1"] == "other"
    assert report.kinds["fact"].proof.extra == 1


def test_replace_mends_it_and_keeps_what_was_there(names: tuple[str, str]) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "k0"), fact("u", "k1"))
    fill(sink, "fact", fact("u", "k1", "other"))
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(existing="replace"))
    assert (report.outcome, report.proven) == ("done", "digest")
    assert {r["key"]: r["value"] for r in records_of(sink)} == {"k0": "v", "k1": "v"}
    assert [line["record"]["value"] for line in lines_of(report.replaced_file)] == ["other"]


def test_a_record_that_comes_meanwhile_is_not_overwritten(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared first, and decided by the store in the same write."""
    source, sink = names
    fill(source, "fact", fact("u", "k0"), fact("u", "k1"))
    fill(sink, "fact", fact("u", "k0"))
    upsert = memory.MemorySink.upsert

    def late(self: memory.MemorySink, rows: Any, existing: Existing) -> None:
        if len(records_of(sink)) == 1:
            fill(sink, "fact", fact("u", "k1", "the application's"))
        upsert(self, rows, existing)

    monkeypatch.setattr(memory.MemorySink, "upsert", late)
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}")
    assert (report.kinds["fact"].tally.differing, report.outcome) == (1, "differences")
    assert {r["key"]: r["value"] for r in records_of(sink)}["k1"] == "the application's"


def test_a_file_is_compared_whole_and_left_or_replaced_whole(names: tuple[str, str], tmp_path: Path) -> None:
    source, _ = names
    fill(source, "fact", fact("u", "k0"), fact("u", "k1"))
    path = tmp_path / "x.jsonl"
    assert migrator.migrate(f"memory:{source}", str(path)).outcome == "done"
    before = path.read_bytes()
    again = migrator.migrate(f"memory:{source}", str(path))
    assert (again.outcome, again.kinds["fact"].tally.unchanged) == ("done", 2)
    fill(source, "fact", fact("u", "k2"))
    refused = migrator.migrate(f"memory:{source}", str(path))
    assert (refused.outcome, refused.exit_code) == ("differences", 4)
    assert path.read_bytes() == before
    replaced = migrator.migrate(f"memory:{source}", str(path), Options(existing="replace"))
    assert (replaced.outcome, replaced.kinds["fact"].tally.written) == ("done", 3)
    assert Path(replaced.replaced_file or "").read_bytes() == before


def test_source_and_sink_must_be_two_stores(tmp_path: Path, names: tuple[str, str]) -> None:
    fill(names[0], "fact", fact("u", "k"))
    path = tmp_path / "x.jsonl"
    migrator.migrate(f"memory:{names[0]}", str(path))
    (tmp_path / "y.jsonl").symlink_to(path)
    for other in (path, tmp_path / "y.jsonl"):
        with pytest.raises(migrator.ConfigError, match="one store"):
            migrator.migrate(str(path), str(other))


# Resuming --------------------------------------------------------------------------------------------------------------


class Dies(Exception):
    """What a kill looks like from inside: nothing is tidied up by the engine but what an exception lets it."""


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("method", ["begin", "upsert", "flush"])
def test_a_sink_that_fails_at_any_call_ends_as_a_clean_run(
    names: tuple[str, str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n:05}") for n in range(120)))
    fill(source, "episode", *(episode("u", f"t{n:05}") for n in range(10)))
    real = getattr(memory.MemorySink, method)
    for turn in range(1, 100):
        memory.forget(sink)
        calls = [0]

        def failing(self: memory.MemorySink, *args: Any, calls: list[int] = calls, turn: int = turn) -> Any:
            calls[0] += 1
            if calls[0] == turn:
                raise Dies
            return real(self, *args)

        monkeypatch.setattr(memory.MemorySink, method, failing)
        try:
            migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=2, restart=True))
        except Dies:
            pass
        else:
            break
        monkeypatch.setattr(memory.MemorySink, method, real)
        report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
        assert report.resumed
        assert (report.outcome, report.proven) == ("done", "digest")
        assert {k: report.kinds[k].tally.written for k in ("fact", "episode")} == {"fact": 120, "episode": 10}
        assert len(records_of(sink)) == 130
    assert turn > 2


@pytest.mark.usefixtures("small_pages")
def test_a_slice_that_was_in_flight_does_not_overwrite_the_application(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = names
    fill(source, "fact", *(fact("u", f"k{n:05}") for n in range(90)))
    flush, calls = memory.MemorySink.flush, [0]

    def failing(self: memory.MemorySink) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise Dies
        return flush(self)

    monkeypatch.setattr(memory.MemorySink, "flush", failing)
    with pytest.raises(Dies):
        migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
    memory.store(sink).rows[len(records_of(sink)) - 1].record["value"] = "the application's"
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
    tally = report.kinds["fact"].tally
    assert (report.outcome, tally.written, tally.differing) == ("differences", 89, 1)
    assert [r["value"] for r in records_of(sink)].count("the application's") == 1


@pytest.mark.usefixtures("small_pages")
def test_a_damaged_checkpoint_is_refused_and_restart_begins_anew(names: tuple[str, str], tmp_path: Path) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "broken") | {"confidence": "much"}, *(fact("u", f"k{n}") for n in range(60)))
    migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(workers=1))
    (path,) = (tmp_path / "state").glob("*/checkpoint.json")
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        with pytest.raises(migrator.ConfigError, match="--restart") as refused:
            migrator.migrate(f"memory:{source}", f"memory:{sink}")
        assert refused.value.report.exit_code == 2
    report = migrator.migrate(f"memory:{source}", f"memory:{sink}", Options(restart=True, on_reject="continue"))
    assert not report.resumed
    assert report.kinds["fact"].tally.unchanged > 0


def test_two_runs_at_once_are_one_too_many(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "k"))
    entered, leave = threading.Event(), threading.Event()
    flush = memory.MemorySink.flush

    def slow(self: memory.MemorySink) -> Any:
        entered.set()
        leave.wait(30)
        return flush(self)

    monkeypatch.setattr(memory.MemorySink, "flush", slow)
    first = threading.Thread(target=migrator.migrate, args=(f"memory:{source}", f"memory:{sink}"))
    first.start()
    try:
        assert entered.wait(30)
        with pytest.raises(migrator.LockedError) as refused:
            migrator.migrate(f"memory:{source}", f"memory:{sink}")
        assert refused.value.report.exit_code == 5
    finally:
        leave.set()
        first.join()


# DynamoDB: keys, and no right to write ---------------------------------------------------------------------------------


@pytest.fixture
def table(dynamodb_endpoint: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A name for a table, its address, and a boto3 client."""
    client = client_of(dynamodb_endpoint)
    name = f"run-{uuid.uuid4().hex[:12]}"
    yield name, f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_endpoint}", client
    if name in client.list_tables()["TableNames"]:
        client.delete_table(TableName=name)


def test_verify_names_exactly_what_differs_in_a_table(names: tuple[str, str], table: Any) -> None:
    source, _ = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(40)))
    name, address, client = table
    assert migrator.migrate(f"memory:{source}", address, Options(create=True)).outcome == "done"

    def key(n: int) -> dict[str, Any]:
        return {"user_id": {"S": "u"}, "SK": {"S": f"FACT#c#k{n}"}}

    item = {n: client.get_item(TableName=name, Key=key(n))["Item"] for n in (1, 2, 3)}
    client.put_item(TableName=name, Item=item[1] | {"value": {"S": "changed"}})
    client.delete_item(TableName=name, Key=key(2))
    client.delete_item(TableName=name, Key=key(3))
    client.put_item(TableName=name, Item=item[3] | {"SK": {"S": "FACT#elsewhere"}})
    client.put_item(TableName=name, Item=item[1] | key(99) | {"key": {"S": "k99"}})
    report = migrator.verify(f"memory:{source}", address)
    found = {(each.what, each.identity.rpartition("=")[2], each.fields) for each in report.differences}
    assert found == {
        ("differing", "k1", ("value",)),
        ("missing", "k2", ()),
        ("differing", "k3", ("SK",)),
        ("extra", "k99", ()),
    }
    assert (report.outcome, report.exit_code) == ("differences", 4)

    again = migrator.migrate(f"memory:{source}", address)
    assert (again.exit_code, again.kinds["fact"].tally.differing) == (4, 1)
    assert client.get_item(TableName=name, Key=key(1))["Item"]["value"] == {"S": "changed"}
    mended = migrator.migrate(f"memory:{source}", address, Options(existing="replace"))
    assert [line["record"]["value"] for line in lines_of(mended.replaced_file)] == ["changed"]
    # The right one was written beside the one under another key: not a failure, but told by its place.
    (double,) = mended.differences
    assert (double.what, double.is_double, "FACT#elsewhere" in double.place) == ("extra", True, True)
    assert client.get_item(TableName=name, Key=key(1))["Item"] == item[1]


def test_verify_and_dry_run_need_no_right_to_write(names: tuple[str, str], table: Any) -> None:
    source, _ = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(30)))
    fill(source, "episode", *(episode("u", f"t{n}") for n in range(5)))
    name, address, client = table
    migrator.migrate(f"memory:{source}", address, Options(create=True))
    client.delete_item(TableName=name, Key={"user_id": {"S": "u"}, "SK": {"S": "FACT#c#k7"}})
    endpoint = address.rpartition("endpoint=")[2]

    def seen(address: str) -> Any:
        verified = migrator.verify(f"memory:{source}", address).to_plain()
        dry = migrator.migrate(f"memory:{source}", address, Options(dry_run=True)).to_plain()
        return [(each["kinds"], each["differences"], each["outcome"], each["estimate"]) for each in (verified, dry)]

    with proxy.before(endpoint) as between:
        open_for_all = seen(address)
        between.refuse_writes = True
        assert seen(address.replace(endpoint, between.endpoint)) == open_for_all
        assert not any(operation in proxy.WRITES for operation in between.operations)
        assert not any(operation.startswith("refused") for operation in between.operations)
    assert open_for_all[1][0]["fact"]["written"] == 1
    assert open_for_all[1][0]["fact"]["unchanged"] == 29


def test_a_dry_run_works_before_there_is_a_table(names: tuple[str, str], table: Any) -> None:
    source, _ = names
    fill(source, "fact", *(fact("u", f"k{n}") for n in range(30)), fact("u", "k" * 1020))
    report = migrator.migrate(f"memory:{source}", table[1], Options(dry_run=True))
    assert (report.kinds["fact"].tally.written, report.kinds["fact"].tally.rejected) == (30, 1)
    assert report.estimate is not None
    assert report.estimate["write_units"] == 30
    assert table[0] not in table[2].list_tables()["TableNames"]


def test_episodes_keep_the_keys_they_have_in_the_table(names: tuple[str, str], table: Any) -> None:
    """LuminoraCore's own key is of the second of saving; ours is derived: the same episode must not be there twice."""
    source, _ = names
    fill(source, "episode", episode("u", "one"), episode("u", "two"))
    name, address, client = table
    migrator.migrate(f"memory:{source}", address, Options(create=True))
    (item, *_) = client.scan(TableName=name)["Items"]
    client.delete_item(TableName=name, Key={k: item[k] for k in ("user_id", "SK")})
    client.put_item(TableName=name, Item=item | {"SK": {"S": "EPISODE#t#t_20260102_030405"}})
    again = migrator.migrate(f"memory:{source}", address)
    assert (again.outcome, again.kinds["episode"].tally.unchanged) == ("done", 2)
    memory.store(source).rows[0].record["summary"] = "another"
    memory.store(source).rows[1].record["summary"] = "another"
    replaced = migrator.migrate(f"memory:{source}", address, Options(existing="replace"))
    assert (replaced.outcome, replaced.kinds["episode"].tally.written) == ("done", 2)
    items = client.scan(TableName=name)["Items"]
    assert len(items) == 2
    assert "EPISODE#t#t_20260102_030405" in {each["SK"]["S"] for each in items}
    assert {each["summary"]["S"] for each in items} == {"another"}


def test_while_a_run_lasts_garbage_is_collected_less_often_and_as_before_when_it_ends(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = names
    fill(source, "fact", fact("u", "k"))
    before, seen = gc.get_threshold(), []
    save = engine.copy_slice
    monkeypatch.setattr(engine, "copy_slice", lambda *given: seen.append(gc.get_threshold()) or save(*given))
    migrator.migrate(f"memory:{source}", f"memory:{sink}")
    assert seen[0][0] > before[0]
    assert gc.get_threshold() == before
    gc.set_threshold(0)
    try:
        migrator.migrate(f"memory:{source}", f"memory:{sink}-b")
        assert gc.get_threshold()[0] == seen[-1][0] == 0
    finally:
        gc.set_threshold(*before)
        memory.forget(f"{sink}-b")


# Workers that are there early -----------------------------------------------------------------------------------------


def workers_now() -> int:
    """How many worker processes this process has."""
    return sum("--multiprocessing-fork" in child.cmdline() for child in psutil.Process().children())


def wide_lines(path: Path, count: int) -> Path:
    """Facts of 20 KB, so that few make several partitions."""
    facts = ({"kind": "fact", "record": fact("ana", f"k{n}", "x" * 20_000)} for n in range(count))
    path.write_bytes(b"".join(to_json(each) + b"\n" for each in facts))
    return path


def test_worker_processes_get_ready_while_a_snapshot_is_taken_and_end_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = list[int](), SqlSource.snapshot
    monkeypatch.setattr(SqlSource, "snapshot", lambda self: seen.append(workers_now()) or real(self))
    options = Options(workers=2, processes=True)
    for small in (0, 1 << 40):
        monkeypatch.setattr("migrator.migration.SMALL", small)
        report = migrator.migrate(DATA / "chat.db", tmp_path / f"{small}.jsonl", options)
        assert report.outcome == "done"
        assert workers_now() == 0
    assert seen == [2, 0]
    monkeypatch.setattr("migrator.migration.SMALL", 0)
    empty = tmp_path / "empty.db"
    with closing(sqlite3.connect(DATA / "chat.db")) as db, closing(sqlite3.connect(empty)) as other:
        db.backup(other)
        for (table,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            other.execute(f'DELETE FROM "{table}"')
        other.commit()
    with pytest.raises(ConfigError, match="holds no records"):
        migrator.migrate(empty, tmp_path / "empty.jsonl", options)
    assert seen[2:] == [2]
    assert workers_now() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_workers_look_for_what_shares_an_identity_ends_the_run(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.migration.SMALL", 0)
    path, real = wide_lines(tmp_path / "facts.jsonl", 450), migration.by_partition

    def by_partition(*args: Any) -> Any:
        signal.raise_signal(number)
        return real(*args)

    monkeypatch.setattr(migration, "by_partition", by_partition)
    with pytest.raises(Interrupted) as stopped:
        migrator.migrate(path, tmp_path / "out.jsonl", Options(workers=2, processes=True))
    assert stopped.value.signal_number == number
    assert workers_now() == 0
    monkeypatch.setattr(migration, "by_partition", real)
    assert migrator.migrate(path, tmp_path / "out.jsonl", Options(workers=2, processes=True)).outcome == "done"


def _dies(*_: Any) -> None:
    os._exit(9)


def test_a_worker_that_dies_while_it_looks_for_what_shares_an_identity_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.migration.SMALL", 0)
    path = wide_lines(tmp_path / "facts.jsonl", 450)
    monkeypatch.setattr(migration, "note_repeated", _dies)
    with pytest.raises(StoreError, match="a worker process died"):
        migrator.migrate(path, tmp_path / "out.jsonl", Options(workers=2, processes=True))
    assert workers_now() == 0
