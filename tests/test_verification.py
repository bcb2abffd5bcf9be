"""The story of a comparison: how it ends and what its report says, told with memory, JSON Lines and SQLite; and that it writes to neither store."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import migrator
from migrator import Options, commands
from migrator.adapters import memory
from migrator.adapters.sql.source import SqlReader
from migrator.mapping_file import load_mapping
from migrator.model import Reject, Traits
from migrator.run import Silent
from migrator.verification import command_words
from stores import DATA
from test_run import episode, fact, fill, lines_of

MAPPING = load_mapping("luminoracore-v1.1")
CHAT = DATA / "chat.db"

pytestmark = pytest.mark.usefixtures("own_states")


def verify(names: tuple[str, str], **options: Any) -> migrator.Report:
    return migrator.verify(*(f"memory:{name}" for name in names), Options(**options))


def equal_sides(names: tuple[str, str], *more: dict[str, Any]) -> None:
    for name in names:
        fill(name, "fact", fact("u", "k1"), fact("u", "k2"), *more)


def leave_behind(name: str) -> None:
    """Into a store like those of `equal_sides`: a fact that cannot travel, and an older one of an identity that is there."""
    broken = fact("u", "broken") | {"confidence": "much"}
    fill(name, "fact", broken, fact("u", "k2", "older", updated_at="2020-01-01"))


class Telling(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.moved: dict[str, tuple[int | None, int]] = {}

    def plan(self, lines: list[tuple[str, str]]) -> None:
        self.lines = dict(lines)

    def progress(self, doing: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        @contextmanager
        def bar() -> Iterator[Callable[[int], None]]:
            self.moved[doing] = (total, 0)

            def tick(records: int) -> None:
                self.moved[doing] = (total, self.moved[doing][1] + records)

            yield tick

        return bar()


# How it ends -----------------------------------------------------------------------------------------------------------


def test_two_equal_stores_are_proven_equal_kind_by_kind(names: tuple[str, str]) -> None:
    equal_sides(names)
    report = verify(names)
    assert (report.command, report.outcome, report.exit_code, report.proven) == ("verify", "done", 0, "digest")
    assert list(report.kinds) == list(MAPPING.kind_names())
    assert {kind.proof.digest for kind in report.kinds.values()} == {"equal"}
    assert all(kind.proof.is_read for kind in report.kinds.values())
    assert (report.kinds["fact"].tally.read, report.kinds["fact"].proof.sink.count) == (2, 2)
    assert (report.mend, report.differences, report.differences_file, report.application) == (None, [], None, None)
    assert verify(names, proof="rows").proven == "rows"


def test_nothing_is_encoded_that_is_only_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(CHAT, tmp_path / "copy.db")
    monkeypatch.setattr(SqlReader, "fit_alike", lambda *_: pytest.fail("encoded"))
    report = migrator.verify(str(CHAT), str(tmp_path / "copy.db"), Options())
    assert (report.exit_code, report.proven) == (0, "digest")


def test_what_is_missing_or_differing_ends_with_the_line_that_mends_it(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[0], "fact", fact("u", "k3"))
    report = verify(names, one_way=True)
    assert (report.outcome, report.exit_code, report.proven) == ("differences", 4, "none")
    assert report.mend == "the same call again, --existing replace"
    assert [(each.kind, each.what, each.identity) for each in report.differences] == [
        ("fact", "missing", "fact user_id=u category=c key=k3")
    ]
    assert [kind.proof.missing for kind in report.kinds.values() if kind.proof.digest == "differs"] == [1]


def test_fields_that_differ_are_named(names: tuple[str, str]) -> None:
    for name, value in zip(names, ("ours", "theirs"), strict=True):
        fill(name, "fact", fact("u", "k", value))
    report = verify(names)
    assert [(each.what, each.fields) for each in report.differences] == [("differing", ("value",))]
    assert (report.outcome, report.kinds["fact"].proof.mismatched) == ("differences", 1)


def test_what_only_the_sink_holds_is_a_difference_unless_one_way_is_asked_for(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[1], "fact", fact("u", "k3"))
    report = verify(names)
    assert (report.outcome, report.proven, report.mend) == ("differences", "digest", None)
    assert [each.what for each in report.differences] == ["extra"]
    assert verify(names, one_way=True).outcome == "done"


def test_what_cannot_be_read_in_the_sink_is_a_difference(names: tuple[str, str]) -> None:
    equal_sides(names)
    memory.store(names[1]).refuse(Reject("fact", "7", "value holds a number"))
    report = verify(names)
    assert (report.outcome, report.unreadable) == ("differences", {"fact": 1})
    assert report.unreadable_seen == ["7: value holds a number"]
    assert verify(names, one_way=True).outcome == "done"


def test_what_could_not_travel_ends_with_rejects_and_is_named(names: tuple[str, str]) -> None:
    equal_sides(names)
    leave_behind(names[0])
    report = verify(names)
    assert (report.outcome, report.exit_code, report.proven, report.rejected) == ("rejects", 3, "digest", 1)
    tally = report.kinds["fact"].tally
    assert (tally.read, tally.rejected, tally.duplicates, tally.written) == (4, 1, 1, 0)
    assert [line["record"]["key"] for line in lines_of(report.rejects_file)] == ["broken"]
    assert [line["record"]["value"] for line in lines_of(report.duplicates_file)] == ["older"]


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[str, str, int], Path]:
    """Makes a JSON Lines file with one fact and so many foreign items, and a ghost if there are any."""

    def make(name: str, value: str, count: int) -> Path:
        lines = [{"kind": "fact", "record": fact("u", "k", value)}]
        lines += [{"kind": "?", "foreign": True, "record": {"PK": f"CONFIG#{n}"}} for n in range(count)]
        lines += [{"kind": "?", "foreign": True, "ghost": True, "record": {"PK": "GHOST"}}] * (count > 0)
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return make


def test_foreign_items_that_stay_behind_are_counted_and_named(
    names: tuple[str, str], foreign: Callable[[str, str, int], Path]
) -> None:
    fill(names[1], "fact", fact("u", "k"))
    source = foreign("x.jsonl", "v", 3)
    report = migrator.verify(source, f"memory:{names[1]}")
    assert (report.outcome, report.foreign, report.ghosts, report.accepted) == ("rejects", 3, 1, 0)
    assert len(report.foreign_seen) == 3
    assert report.proven == "digest"
    meant = migrator.verify(source, f"memory:{names[1]}", Options(foreign=("*",)))
    assert (meant.outcome, meant.foreign, meant.ghosts, meant.accepted, meant.foreign_seen) == ("done", 0, 1, 3, [])


def test_foreign_items_are_compared_where_both_stores_hold_them(foreign: Callable[[str, str, int], Path]) -> None:
    report = migrator.verify(foreign("x.jsonl", "v", 3), foreign("y.jsonl", "v", 3))
    assert (report.outcome, report.kinds["foreign"].proof.source.count) == ("done", 4)
    short = migrator.verify(foreign("x.jsonl", "v", 3), foreign("y.jsonl", "v", 2))
    assert (short.outcome, short.kinds["foreign"].proof.missing) == ("differences", 1)
    longer = migrator.verify(foreign("x.jsonl", "v", 0), foreign("y.jsonl", "v", 2))
    assert (longer.outcome, longer.kinds["foreign"].proof.extra) == ("differences", 3)
    none = migrator.verify(foreign("x.jsonl", "v", 2), foreign("y.jsonl", "v", 0))
    assert (none.outcome, none.kinds["foreign"].proof.missing) == ("differences", 3)


def test_a_kind_of_foreign_items_is_not_shown_where_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"kind": "fact", "record": fact("u", "k")}) + "\n")
    shutil.copy(path, tmp_path / "y.jsonl")
    report = migrator.verify(path, tmp_path / "y.jsonl")
    assert (report.outcome, set(report.kinds)) == ("done", set(MAPPING.kind_names()))


# What is asked for -----------------------------------------------------------------------------------------------------


def test_a_comparison_that_proves_nothing_is_refused(names: tuple[str, str]) -> None:
    equal_sides(names)
    with pytest.raises(migrator.ConfigError, match="--proof none leaves nothing to do"):
        verify(names, proof="none")


def test_an_empty_source_is_not_proven_equal_unless_it_is_meant(names: tuple[str, str]) -> None:
    for name in names:
        fill(name, "episode", episode("u", "one"))
    with pytest.raises(migrator.ConfigError, match=r"-a holds no records of .*(fact, mood|mood, fact).*--allow-empty"):
        verify(names, kinds=("fact", "mood"))
    assert verify(names, kinds=("fact", "mood"), allow_empty=True).outcome == "done"


def test_kinds_that_were_not_asked_for_are_filtered(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[0], "episode", episode("u", "one"))
    report = verify(names, kinds=("fact",))
    assert (report.outcome, report.kinds["episode"].tally.filtered) == ("done", 1)


def test_counts_alone_are_compared_and_said_to_be_no_digest(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[0], "fact", fact("u", "k3", "ours"))
    fill(names[1], "fact", fact("u", "k3", "theirs"))
    report = verify(names, proof="counts")
    assert (report.outcome, report.proven, report.kinds["fact"].proof.digest) == ("done", "counts", "not compared")
    assert (report.kinds["fact"].proof.missing, report.kinds["fact"].proof.extra) == (0, 0)
    fill(names[0], "fact", fact("u", "k4"), fact("u", "k5"))
    short = verify(names, proof="counts")
    assert (short.outcome, short.proven) == ("differences", "none")
    assert (short.kinds["fact"].proof.missing, short.kinds["fact"].proof.extra) == (2, 0)
    assert short.mend is not None
    fill(names[1], "fact", *(fact("u", f"x{n}") for n in range(5)))
    longer = verify(names, proof="counts")
    assert (longer.outcome, longer.proven, longer.mend) == ("differences", "counts", None)
    assert (longer.kinds["fact"].proof.missing, longer.kinds["fact"].proof.extra) == (0, 3)
    assert longer.differences_file is None


def test_every_difference_is_in_a_file_and_the_first_thousand_in_the_report(names: tuple[str, str]) -> None:
    fill(names[0], "fact", *(fact("u", f"k{n}") for n in range(1001)))
    fill(names[1], "mood")
    memory.store(names[1]).refuse(Reject("mood", "0", "broken"))
    report = verify(names)
    lines = lines_of(report.differences_file)
    assert (len(report.differences), len(lines)) == (1000, 1001)
    assert [each.to_plain() for each in report.differences] == lines[:1000]
    assert stat.S_IMODE(Path(str(report.differences_file)).stat().st_mode) == 0o600
    again = verify(names)
    assert len(lines_of(again.differences_file)) == 1001


def test_one_difference_is_in_a_file_too(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[0], "fact", fact("u", "k3"))
    assert [line["what"] for line in lines_of(verify(names).differences_file)] == ["missing"]


def test_one_kind_that_differs_proves_nothing_of_the_whole(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[0], "episode", episode("u", "one"))
    for proof in ("digest", "rows"):
        report = verify(names, proof=proof)
        assert (report.proven, report.kinds["fact"].proof.digest) == ("none", "equal")


def test_a_migration_counts_what_else_the_sink_holds_and_does_not_name_it(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[1], "fact", fact("u", "k3"))
    fill(names[0], "fact", fact("u", "k4"))
    report = migrator.migrate(f"memory:{names[0]}", f"memory:{names[1]}")
    assert (report.outcome, report.kinds["fact"].proof.extra) == ("done", 1)
    assert (report.differences, report.differences_file) == ([], None)


def test_a_migration_names_what_its_sink_has_lost(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fill(names[0], "fact", fact("u", "k1"), fact("u", "k2"))
    flush = memory.MemorySink.flush

    def forgetful(sink: memory.MemorySink) -> Any:
        sink.held.rows.popitem()
        return flush(sink)

    monkeypatch.setattr(memory.MemorySink, "flush", forgetful)
    report = migrator.migrate(f"memory:{names[0]}", f"memory:{names[1]}")
    assert (report.outcome, [each.what for each in report.differences]) == ("differences", ["missing"])


def test_a_migration_names_what_the_sink_holds_twice(names: tuple[str, str]) -> None:
    equal_sides(names)
    fill(names[1], "fact", fact("u", "k1"))
    report = migrator.migrate(f"memory:{names[0]}", f"memory:{names[1]}")
    assert [(each.what, each.is_double) for each in report.differences] == [("extra", True)]


# What is told ----------------------------------------------------------------------------------------------------------


def test_the_plan_and_the_report_name_both_stores_and_the_moment(names: tuple[str, str]) -> None:
    equal_sides(names)
    show = Telling()
    report = commands.verify(*(f"memory:{name}" for name in names), Options(), show)
    assert list(show.lines) == ["source", "snapshot", "sink", "mapping"]
    assert names[0] in show.lines["source"] and names[1] in show.lines["sink"]
    assert report.snapshot is not None
    assert (report.snapshot["id"], report.snapshot["moment"]) == ("memory-2", None)
    assert report.snapshot["words"].startswith(f"read between {report.started} and 20")
    assert {each: moved for each, moved in show.moved.items() if "comparing" not in each} == {
        "reading the source": (2, 2),
        "reading the sink": (2, 2),
    }
    assert show.moved["comparing rows"] == (None, 0)
    commands.verify(*(f"memory:{name}" for name in names), Options(proof="rows"), show)
    assert show.moved["comparing rows"] == (None, 4)
    memory.store(names[0]).moment = "2026-01-01T00:00:00Z"
    held = verify(names).snapshot
    assert held is not None
    assert (held["moment"], held["words"]) == ("2026-01-01T00:00:00Z", "a copy of 2026-01-01T00:00:00Z")


def test_what_the_comparison_cannot_see_is_in_the_report(names: tuple[str, str], tmp_path: Path) -> None:
    migrator.migrate(CHAT, tmp_path / "copy.jsonl")
    assert migrator.verify(CHAT, tmp_path / "copy.jsonl").fidelity == ["NULL and absent are one"]
    equal_sides(names)
    assert verify(names).fidelity == []


def test_what_lives_in_this_process_is_mended_by_the_same_call(names: tuple[str, str], tmp_path: Path) -> None:
    fill(names[0], "fact", fact("u", "k1"), fact("u", "k2"))
    fill(names[1], "fact", fact("u", "k1"))
    migrator.migrate(f"memory:{names[0]}", tmp_path / "x.jsonl")
    migrator.migrate(f"memory:{names[1]}", tmp_path / "y.jsonl")
    for source, sink in ((f"memory:{names[0]}", tmp_path / "y.jsonl"), (tmp_path / "x.jsonl", f"memory:{names[1]}")):
        assert migrator.verify(source, sink).mend == "the same call again, --existing replace"


def test_the_command_that_mends_can_be_typed(tmp_path: Path) -> None:
    shutil.copy(CHAT, copy := tmp_path / "my copy.db")
    with closing(sqlite3.connect(copy)) as db, db:
        db.execute("DELETE FROM facts WHERE id = 1")
    plain = migrator.verify(CHAT, copy)
    assert plain.mend == f"migrator migrate sqlite:///{CHAT} 'sqlite:///{copy}' --existing replace"
    chosen = migrator.verify(CHAT, copy, Options(kinds=("fact", "mood"), mapping="luminoracore-v1.1"))
    assert chosen.mend == (
        f"migrator migrate sqlite:///{CHAT} 'sqlite:///{copy}' --kinds fact,mood --mapping luminoracore-v1.1 --existing replace"
    )


def test_the_command_that_mends_says_how_large_records_are_stored() -> None:
    side = SimpleNamespace(traits=Traits(), address=SimpleNamespace(text="x"))
    plan: Any = SimpleNamespace(source=side, sink=side, options=Options(oversize="split"))
    assert command_words("verify", plan) == "migrator verify x x --oversize split"


def test_a_comparison_leaves_neither_files_open_nor_anything_beside_its_report(
    names: tuple[str, str], tmp_path: Path
) -> None:
    equal_sides(names, fact("u", "k1", "older", updated_at="2020-01-01"))
    fill(names[0], "fact", fact("u", "k9"))
    verify(names)
    (job,) = (path for path in (tmp_path / "state").iterdir() if path.is_dir())
    files = {path.relative_to(job).as_posix() for path in job.rglob("*") if path.is_file()}
    assert files == {
        "differences.jsonl",
        "duplicates.jsonl",
        "duplicates/0000000001.jsonl",
        "locks/job.lock",
        "report.json",
    }
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    verify(names)
    assert before == (len(list(Path("/proc/self/fd").iterdir())) if before else 0)
    assert all(not each.rows or each.version for each in (memory.store(name) for name in names))


def test_a_comparison_forgets_the_one_before(names: tuple[str, str]) -> None:
    equal_sides(names)
    leave_behind(names[0])
    assert verify(names).rejects_file is not None
    store = memory.store(names[0])
    for place in [place for place, row in store.rows.items() if place > 1]:
        del store.rows[place]
    report = verify(names)
    assert (report.outcome, report.rejects_file, report.duplicates_file) == ("done", None, None)


# As the application sees it ---------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(CHAT, tmp_path / "copy.db")
    return tmp_path / "copy.db"


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


A_FACT = "(SELECT min(id) FROM facts)"
ANOTHER = "INSERT INTO facts (user_id, category, key, value, created_at, updated_at) SELECT user_id, category, 'new', value, created_at, updated_at FROM facts WHERE id = "


def test_every_user_is_asked_for_and_told_the_same(copy: Path) -> None:
    show = Telling()
    report = commands.verify(CHAT, copy, Options(proof="app"), show)
    assert (report.outcome, report.proven) == ("done", "app")
    assert report.application is not None
    users = report.application["users"]
    assert (report.application["asked"], report.application["unexpected"]) == (users, 0)
    with closing(sqlite3.connect(CHAT)) as db:
        facts = db.execute("SELECT count(*) FROM facts").fetchone()[0]
    assert report.kinds["fact"].tally.read == facts
    assert report.kinds["fact"].proof.digest == "not compared"
    looked, asked = show.moved["looking for users"], show.moved["asking as the application does"]
    assert (Path(report.state) / "application.jsonl").is_file()
    assert looked[1] == sum(kind.tally.read for kind in report.kinds.values())
    assert asked[0] == users
    some = Telling()
    assert commands.verify(CHAT, copy, Options(proof="app", users=3), some).proven == "none"
    assert some.moved["asking as the application does"][0] == 3


def test_what_the_application_remembers_otherwise_is_a_difference(copy: Path) -> None:
    change(copy, f"UPDATE facts SET value = 'other' WHERE id = {A_FACT}")
    report = migrator.verify(CHAT, copy, Options(proof="app"))
    assert (report.outcome, report.proven, report.mend) == ("differences", "none", None)
    assert report.application is not None
    assert (report.application["unexpected"], report.application["kinds"]["fact"]["differing"]) == (1, 1)


def test_what_the_application_is_given_beyond_is_a_difference_unless_one_way(copy: Path) -> None:
    change(copy, f"{ANOTHER}{A_FACT}")
    assert migrator.verify(CHAT, copy, Options(proof="app")).outcome == "differences"
    one_way = migrator.verify(CHAT, copy, Options(proof="app", one_way=True))
    assert (one_way.outcome, one_way.proven) == ("done", "app")


def test_keeping_what_is_there_is_no_excuse_in_a_comparison(copy: Path) -> None:
    change(copy, f"UPDATE facts SET value = 'other' WHERE id = {A_FACT}")
    for existing in ("keep", "newer"):
        report = migrator.verify(CHAT, copy, Options(proof="app", existing=existing))  # type: ignore[arg-type]
        assert report.outcome == "differences"


@pytest.mark.parametrize(("existing", "outcome"), [("keep", "done"), ("newer", "done"), ("refuse", "differences")])
def test_a_migration_that_keeps_what_is_there_expects_the_application_to_be_told_that(
    existing: Any, outcome: str, copy: Path
) -> None:
    change(copy, f"UPDATE facts SET value = 'other' WHERE id = {A_FACT}")
    change(copy, f"{ANOTHER}{A_FACT}")
    addresses = (f"sqlite:///{path}?tz=UTC" for path in (CHAT, copy))
    report = migrator.migrate(*addresses, Options(proof="app", existing=existing))
    assert report.application is not None
    assert (report.outcome, report.application["unexpected"]) == (outcome, int(outcome == "differences"))
    assert report.proven == ("rows" if outcome == "done" else "none")
    assert sum(kind.tally.read for kind in report.kinds.values()) == sum(
        kind.proof.source.count for kind in report.kinds.values()
    )


def test_what_the_application_cannot_be_given_is_left_behind_in_files(copy: Path, tmp_path: Path) -> None:
    shutil.copy(CHAT, source := tmp_path / "source.db")
    change(source, f"UPDATE facts SET value = x'00ff' WHERE id = {A_FACT}")
    change(copy, f"DELETE FROM facts WHERE id = {A_FACT}")
    report = migrator.verify(source, copy, Options(proof="app"))
    assert (report.outcome, report.rejected, report.kinds["fact"].tally.rejected) == ("rejects", 1, 1)
    assert [line["kind"] for line in lines_of(report.rejects_file)] == ["fact"]


def test_what_is_everybodys_is_asked_for_with_everybody_and_not_with_one(copy: Path, tmp_path: Path) -> None:
    """LuminoraCore keeps what is everybody's under the user "global"."""
    with closing(sqlite3.connect(copy)) as db:
        (user,) = db.execute(f"SELECT user_id FROM facts WHERE id = {A_FACT}").fetchone()
    change(copy, f"UPDATE facts SET user_id = 'global', key = 'likes_{user}' WHERE id = {A_FACT}")
    asked = []
    for name, one in (("all.db", None), ("one.db", user)):
        report = migrator.migrate(copy, tmp_path / name, Options(proof="app", user=one))
        assert (report.outcome, report.application is not None) == ("done", True)
        asked.append({each["user"] for each in (report.application or {})["people"]})
    assert {"global", user} < asked[0]
    assert asked[1] == {user}
