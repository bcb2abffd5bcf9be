"""The cutover: a writer inserts, changes and deletes meanwhile; it is killed in every step, and ends as if it had not been. And the way back."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import kills
import migrator
from kills import KILLED, Killer, make_chat, rows
from migrator import Certificate, ConfigError, Options, Terms, cli, commands, mapping_file
from migrator.certificate import STEPS
from migrator.checkpoint import State
from migrator.console import Console
from migrator.cutting_over import MOST_PASSES
from tables import address_of, client_of, texts_of
from test_run import lines_of

LONG = os.environ.get("MIGRATOR_LONG") == "1"
STAMP = "2026-02-03T04:05:06.000001"
AT_ONCE = {"quiet_for": 0.0}


pytestmark = pytest.mark.usefixtures("own_states")


@pytest.fixture(autouse=True)
def _mappings_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cutover is ten runs, and each reads the shipped mappings: a third of its time."""
    monkeypatch.setattr("migrator.mapping_file.load_mapping", _load_mapping)


_load_mapping = functools.cache(mapping_file.load_mapping)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.db"
    make_chat(path, 60, 20)
    return path


def change(path: Path, *statements: str) -> None:
    """As the application does it."""
    with closing(sqlite3.connect(path, timeout=30)) as db, db:
        for statement in statements:
            db.execute(statement)


def add(key: str, value: str = "new", user: str = "user-1") -> str:
    return (
        "INSERT INTO facts (user_id, session_id, category, key, value, confidence, created_at, updated_at) "
        f"VALUES ('{user}', 's', 'c', '{key}', '{value}', 0.5, '{STAMP}', '{STAMP}')"
    )


DELETED = "DELETE FROM facts WHERE key IN ('key-3', 'key-4', 'key-5')"
CHANGED = f"UPDATE facts SET value = 'changed', updated_at = '{STAMP}' WHERE key IN ('key-6', 'key-7')"


def cut(
    source: Path, sink: Path | str, until: str | None = "tail", options: Options | None = None, **terms: Any
) -> Certificate:
    return migrator.cutover(source, sink, options, Terms(until, **AT_ONCE | terms))


def keys(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {key for (key,) in db.execute("SELECT key FROM facts")}


# The steps -------------------------------------------------------------------------------------------------------------


def test_what_comes_changes_and_goes_meanwhile_comes_changes_and_goes_in_the_sink(chat: Path, tmp_path: Path) -> None:
    sink = tmp_path / "new.db"
    assert cut(chat, sink, "copy").outcome == "waiting"
    change(chat, add("more"), CHANGED, DELETED)
    found = cut(chat, sink, delete_extra=True, max_delete=3)
    assert (found.outcome, found.exit_code, list(found.steps)) == ("done", 0, list(STEPS))
    assert rows(sink) == rows(chat)
    assert found.deleted == 3
    assert {line["record"]["key"] for line in lines_of(found.deleted_file)} == {"key-3", "key-4", "key-5"}
    assert Path(str(found.deleted_file)).stat().st_mode & 0o777 == 0o600
    assert [line["record"]["value"] for path in found.replaced_files for line in lines_of(path)] == ["v 6", "v 7"]
    assert found.steps["catch-up"]["written"] == [3]  # one new, two changed
    migrated = migrator.verify(chat, sink)
    assert (migrated.outcome, migrated.proven) == ("done", "digest")


def test_the_certificate_says_what_was_done_and_proven(chat: Path, tmp_path: Path) -> None:
    found = cut(chat, tmp_path / "new.db")
    plain = json.loads((Path(found.state) / "report.json").read_text())
    assert plain == found.to_plain()
    assert [each["step"] for each in found.passes] == [
        "plan",
        "copy",
        "catch-up",
        "delete",
        "final",
        "final",
        "final",
        "proof",
    ]
    assert len({each["run_id"] for each in found.passes}) == len(found.passes)
    for kind in ("fact", "episode"):
        digests = found.digests[kind]
        assert digests["source_digest"] == digests["sink_digest"] and digests["digest"] == "equal"
    assert (found.digests["fact"]["sink_count"], found.mapping, len(found.mapping_sha256)) == (
        60,
        "luminoracore-v1.1",
        64,
    )
    assert (found.steps["final"]["proven"], found.steps["proof"]["proven"]) == ("digest", "app")
    assert str(tmp_path / "new.db") in found.switch["environment"]  # type: ignore[index]
    assert (Path(found.state) / "report.json").stat().st_mode & 0o777 == 0o600


def test_where_nobody_can_be_asked_it_ends_with_the_command_that_goes_on(chat: Path, tmp_path: Path) -> None:
    sink = tmp_path / "new.db"
    for until, following in ((None, "copy"), ("copy", "catch-up"), ("switch", "tail")):
        found = cut(chat, sink, until)
        assert (found.outcome, found.exit_code) == ("waiting", 0)
        assert str(found.goes_on).endswith(f"--yes-until {following}")
        assert sink.exists() == (until is not None)


def test_the_command_that_goes_on_is_one(chat: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    terms = Terms("plan", delete_extra=True, max_delete=7)
    found = migrator.cutover(chat, tmp_path / "new.db", Options(kinds=("fact",), on_reject="continue"), terms)
    words = shlex.split(str(found.goes_on))
    with pytest.raises(SystemExit) as ended:
        cli.main([*words[1:], "--json"])
    went_on = json.loads(capfd.readouterr().out)
    assert (ended.value.code, list(went_on["steps"]), went_on["state"]) == (0, ["plan", "copy"], found.state)
    assert went_on["goes_on"].endswith("--kinds fact --delete-extra --max-delete 7 --yes-until catch-up")


def test_each_step_is_asked_for_and_no_means_not_yet(chat: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def agree(question: str) -> bool:
        asked.append(question)
        return len(asked) < 4

    found = migrator.cutover(chat, tmp_path / "new.db", None, Terms(**AT_ONCE), agree)
    assert (found.outcome, list(found.steps)) == ("waiting", ["plan", "copy", "catch-up", "delete"])
    assert "STOP THE WRITERS" in asked[-1]


def test_an_interruption_at_a_question_is_one_and_what_was_done_stays_done(chat: Path, tmp_path: Path) -> None:
    def agree(question: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrator.cutover(chat, tmp_path / "new.db", None, Terms("copy", **AT_ONCE), agree)
    found = cut(chat, tmp_path / "new.db", "copy")
    assert (found.outcome, list(found.steps), len(found.passes)) == ("waiting", ["plan", "copy"], 2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Terms("later"), "no step"),
        (lambda: Terms(max_delete=3), "--delete-extra"),
        (lambda: Terms(quiet_for=-1.0), "less than 0"),
        (lambda: migrator.cutover("chat.db", "new.db", Options(existing="keep")), "refuse or replace"),
        (lambda: migrator.cutover("chat.db", "new.db", Options(user="ana")), "leave user out"),
    ],
)
def test_what_a_cutover_cannot_mean_is_refused(wrong: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wrong()


def test_the_command_line_knows_the_steps() -> None:
    assert tuple(STEPS) == cli.STEPS


def test_catching_up_ends_after_a_few_passes_when_the_source_never_rests(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, count = commands.migrate, [0]

    def and_more(*args: Any) -> Any:
        count[0] += 1
        change(chat, add(f"more-{count[0]}"))
        return copied(*args)

    monkeypatch.setattr(commands, "migrate", and_more)
    found = cut(chat, tmp_path / "new.db", "catch-up", small=1)
    assert found.steps["catch-up"]["written"] == [1] * MOST_PASSES


# What is deleted, and what is not --------------------------------------------------------------------------------------


def test_more_deletions_than_allowed_are_refused_and_nothing_is_deleted(chat: Path, tmp_path: Path) -> None:
    sink = tmp_path / "new.db"
    cut(chat, sink, "catch-up")
    change(chat, DELETED)
    with pytest.raises(ConfigError, match=r"3 records of .* --max-delete is 2") as refused:
        cut(chat, sink, delete_extra=True, max_delete=2)
    assert len(keys(sink)) == 60
    assert refused.value.report.exit_code == 2 and "delete" not in refused.value.report.steps
    names = str(refused.value).split("named in ")[1].split(";")[0]
    assert {line["identity"].split("key=")[1] for line in lines_of(names)} == {"key-3", "key-4", "key-5"}
    assert cut(chat, sink, delete_extra=True, max_delete=3).outcome == "done"
    assert rows(sink) == rows(chat)


def test_what_was_deleted_in_the_source_does_not_come_back_unnoticed(chat: Path, tmp_path: Path) -> None:
    """By default nothing is deleted, and the cutover does not go on to the switch with it."""
    sink = tmp_path / "new.db"
    cut(chat, sink, "copy")
    change(chat, DELETED)
    found = cut(chat, sink)
    assert (found.outcome, found.exit_code, list(found.steps)[-1]) == ("differences", 4, "stop")
    assert "--delete-extra --max-delete 3" in str(found.error)
    left = cut(chat, sink, delete_extra=False)
    assert (left.outcome, left.losses["final"]["extra_left"], len(keys(sink))) == ("done", 3, 60)


def test_a_sink_that_held_something_keeps_what_only_it_holds(chat: Path, tmp_path: Path) -> None:
    sink, other = tmp_path / "new.db", tmp_path / "other.db"
    make_chat(other, 0)
    change(other, add("own"))
    migrator.migrate(other, sink)
    cut(chat, sink, "copy")
    change(chat, DELETED)
    found = cut(chat, sink, delete_extra=True, max_delete=9)
    assert (found.outcome, found.deleted, found.sink_was_empty) == ("done", 0, False)
    assert keys(sink) - keys(chat) == {"own", "key-3", "key-4", "key-5"}


def test_a_sink_that_holds_other_records_is_overwritten_only_if_asked(chat: Path, tmp_path: Path) -> None:
    sink = tmp_path / "new.db"
    migrator.migrate(chat, sink)
    change(sink, CHANGED)
    found = cut(chat, sink)
    assert (found.outcome, found.exit_code, found.steps) == ("differences", 4, {})
    assert "--existing replace" in str(found.error)
    assert rows(sink) != rows(chat)
    assert cut(chat, sink, options=Options(existing="replace")).outcome == "done"
    assert rows(sink) == rows(chat)


def test_a_record_that_cannot_travel_any_more_is_not_deleted(chat: Path, tmp_path: Path) -> None:
    """It is in the source still: what the sink holds of it is all there is there."""
    sink = tmp_path / "new.db"
    cut(chat, sink, "catch-up")
    change(chat, "UPDATE facts SET confidence = 'much' WHERE key = 'key-9'", DELETED)
    found = cut(chat, sink, delete_extra=True, max_delete=9)
    assert (found.outcome, found.exit_code) == ("rejects", 3)
    assert "key-9" in keys(sink)


def test_a_source_that_has_become_empty_deletes_nothing(chat: Path, tmp_path: Path) -> None:
    sink = tmp_path / "new.db"
    cut(chat, sink, "catch-up")
    change(chat, "DELETE FROM facts", "DELETE FROM episodes")
    with pytest.raises(ConfigError, match="holds no records"):
        cut(chat, sink, delete_extra=True, max_delete=1000)
    assert len(keys(sink)) == 60


def test_what_cannot_travel_is_accepted_by_a_person_or_the_cutover_ends(chat: Path, tmp_path: Path) -> None:
    change(chat, "UPDATE facts SET confidence = 'much' WHERE key = 'key-9'")
    found = cut(chat, tmp_path / "new.db")
    assert (found.outcome, found.exit_code, found.steps) == ("rejects", 3, {})
    accepted = cut(chat, tmp_path / "new.db", options=Options(on_reject="continue"))
    assert (accepted.outcome, accepted.exit_code) == ("done", 0)
    for moment in ("foretold", "final"):
        assert accepted.losses[moment]["rejected"] == {"fact": 1}
    assert lines_of(accepted.losses["final"]["rejects_file"])[0]["reason"]


# A source that moves ---------------------------------------------------------------------------------------------------


def test_a_source_that_is_written_to_is_not_quiet(chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, slept = tmp_path / "new.db", []

    def writers(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) < 3:
            change(chat, add(f"late-{len(slept)}"), f"DELETE FROM facts WHERE key = 'key-{len(slept)}'")

    monkeypatch.setattr("migrator.cutting_over.time.sleep", writers)
    with pytest.raises(ConfigError, match="still written to: 1 fact new or changed, 1 fact gone"):
        cut(chat, sink, quiet_for=7.0)
    asked: list[str] = []

    def agree(question: str) -> bool:
        asked.append(question)
        return True

    terms = Terms("delete", delete_extra=True, max_delete=9, quiet_for=7.0)
    found = migrator.cutover(chat, sink, None, terms, agree)
    assert (found.outcome, slept) == ("done", [7.0] * 3)
    assert (
        sum("STOP THE WRITERS" in question for question in asked) == 2
    )  # before it, and after a look that found something
    assert rows(sink) == rows(chat)


@pytest.mark.parametrize("last", ["stop", "proof"])
def test_a_source_that_moves_after_the_writers_were_stopped_takes_the_cutover_back(
    last: str, chat: Path, tmp_path: Path
) -> None:
    sink = tmp_path / "new.db"
    cut(chat, sink, last)
    change(chat, add("late"))
    with pytest.raises(ConfigError, match="1 fact new or changed") as moved:
        cut(chat, sink)
    assert list(moved.value.report.steps) == ["plan", "copy", "catch-up", "delete"]
    found = cut(chat, sink)
    assert found.outcome == "done" and rows(sink) == rows(chat)


def test_two_cutovers_at_once_are_refused(chat: Path, tmp_path: Path) -> None:
    found = cut(chat, tmp_path / "new.db", "plan")
    held = State(Path(found.state).parent, Path(found.state).name)
    held.lock()
    try:
        with pytest.raises(migrator.LockedError):
            cut(chat, tmp_path / "new.db")
    finally:
        held.unlock()
    assert cut(chat, tmp_path / "new.db").outcome == "done"


# Behind the switch -----------------------------------------------------------------------------------------------------


def test_each_step_that_changes_the_sink_says_how_many(
    chat: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = tmp_path / "new.db"
    terms: dict[str, Any] = {"delete_extra": True, "max_delete": 5}

    def said(until: str) -> str:
        migrator.cutover(chat, sink, None, Terms(until, **AT_ONCE | terms), show=Console())
        return capfd.readouterr().err

    said("catch-up")
    change(chat, "DELETE FROM facts WHERE key = 'key-1'")
    assert "delete: 1 deleted, 0 left that only the sink holds\n" in said("switch")
    change(chat, add("late"))
    assert "tail: 1 record brought\n" in said("tail")


def test_the_tail_brings_what_arrived_and_never_writes_over_the_application(chat: Path, tmp_path: Path) -> None:
    """What the application has deleted or changed in the sink since the switch stays deleted and changed."""
    sink = tmp_path / "new.db"
    cut(chat, sink, "switch")
    change(
        sink,
        "DELETE FROM facts WHERE key = 'key-8'",
        "UPDATE facts SET value = 'by the application' WHERE key = 'key-6'",
    )
    change(chat, add("late"), CHANGED, "DELETE FROM facts WHERE key = 'key-1'")
    found = cut(chat, sink)
    assert (found.outcome, found.exit_code) == ("differences", 4)  # two are left behind, and the last word says so
    assert re.search(
        r"2 records changed at the source .* migrator migrate .*arrived.jsonl.* --existing newer", str(found.error)
    )
    tail = found.steps["tail"]
    assert (tail["arrived"], tail["gone"], tail["brought"], tail["left_as_the_sink_holds_them"]) == (
        {"fact": 3},
        {"fact": 1},
        1,
        2,
    )
    assert keys(sink) == {f"key-{n}" for n in range(60)} - {"key-8"} | {"late"}
    with closing(sqlite3.connect(sink)) as db:
        assert db.execute("SELECT value FROM facts WHERE key = 'key-6'").fetchone() == ("by the application",)
    change(sink, "DELETE FROM facts WHERE key = 'late'")
    again = cut(chat, sink)  # a finished cutover looks once more, for what has come since
    assert (again.outcome, again.steps["tail"]["arrived"], "late" in keys(sink)) == ("done", {}, False)


def test_beginning_anew_behind_the_switch_overwrites_nothing(chat: Path, tmp_path: Path) -> None:
    sink = tmp_path / "new.db"
    cut(chat, sink)
    change(sink, CHANGED)
    before = rows(sink)
    assert cut(chat, sink, options=Options(restart=True)).exit_code == 4
    assert rows(sink) == before


def test_a_copy_is_no_store_that_an_application_could_be_cut_over_to(chat: Path, tmp_path: Path) -> None:
    for name in ("new.jsonl", "new.json"):
        with pytest.raises(ConfigError, match=r"no application keeps its records in .* migrator migrate makes it"):
            cut(chat, tmp_path / name, "plan")
    with pytest.raises(ConfigError, match="mkdir -p"):
        cut(chat, tmp_path / "no" / "folder" / "new.db", "plan")


# Killed ----------------------------------------------------------------------------------------------------------------

DURABLE = ["fsync", "rename"]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with kills.killing(25) as killer:
        yield killer


@pytest.mark.timeout(7200 if LONG else 300)
def test_killed_in_each_of_its_steps_and_resumed_it_ends_as_if_it_had_not_been(
    killer: Killer, dynamodb_local_endpoint: str, tmp_path: Path
) -> None:
    """The source changes behind the copy: what came is there, what was changed is changed, and what was deleted has not come back.

    One cutover is killed once in each step, and resumed each time: at the places of its durable writes, from the first to the one that
    remembers the step as done.
    """
    client = client_of(dynamodb_local_endpoint)

    def trial(name: str, places: dict[str, int]) -> tuple[list[str], list[str]]:
        folder, table = tmp_path / name, f"killed-{uuid.uuid4().hex[:12]}"
        folder.mkdir()
        make_chat(folder / "chat.db", 60, 20)
        address = address_of(table, dynamodb_local_endpoint)
        terms = ("--create", "--delete-extra", "--max-delete", "3", "--quiet-for", "0", "--workers", "1")
        args, steps = ("cutover", str(folder / "chat.db"), address, *terms, "--yes-until"), []
        for until, within in (("catch-up", list(STEPS)[:3]), ("tail", list(STEPS)[3:])):
            for step in within:
                if step in places:
                    found = killer.run(folder, *args, until, nth=places[step], at=step, sorts=DURABLE)
                    assert found.code == KILLED, (step, places[step], found)
            found = killer.run(folder, *args, until, sorts=DURABLE)
            assert found.code == 0, (places, found.err)
            steps += [within for _, within in found.steps]
            if until == "catch-up":
                change(folder / "chat.db", add("more"), CHANGED, DELETED)
        (path,) = (folder / "state").glob("cutover-*/report.json")
        certificate = json.loads(path.read_text())
        assert (certificate["outcome"], list(certificate["steps"]), certificate["sink_was_empty"]) == (
            "done",
            list(STEPS),
            True,
        )
        assert certificate["deleted"] == 3
        assert sorted(line["record"]["key"] for line in lines_of(certificate["deleted_file"])) == [
            "key-3",
            "key-4",
            "key-5",
        ]
        items = texts_of(client, table)
        client.delete_table(TableName=table)
        return items, steps

    clean, steps = trial("clean", {})
    assert len(clean) == 60 + 20 + 1 - 3 and sum("changed" in item for item in clean) == 2
    counts = {step: steps.count(step) for step in STEPS}
    assert min(counts.values()) >= 3
    most = max(counts.values())
    for n in range(1, most + 1) if LONG else (most // 2,):
        places = {step: max(1, min(n, count) if LONG else n * count // most) for step, count in counts.items()}
        assert trial(f"{n}", places)[0] == clean, places
    client.close()
