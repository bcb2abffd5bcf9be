"""`doctor --probe`: what is written is there after closing and opening again, and nothing of it stays, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import commands, probe
from migrator.model import Finding
from tables import client_of

DATA = Path(__file__).parent / "data"
Held = Callable[[], list[Any]]


@pytest.fixture(autouse=True)
def _state(own_states: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.examination.LOOK_SECONDS", 0.1)


@pytest.fixture(params=["sqlite", "dynamodb_local", "dynalite", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Held]]:
    """A store with a chat in it, and all that it holds."""
    if request.param == "sqlite":
        path = tmp_path / "chat.db"
        shutil.copy(DATA / "chat.db", path)
        yield str(path), lambda: _rows(path)
        return
    endpoint = request.getfixturevalue(f"{request.param}_endpoint")
    client = client_of(endpoint)
    name = f"probe-{os.getpid()}-{tmp_path.name}"[:100]
    address = f"dynamodb://{name}?region=eu-west-1&endpoint={endpoint}"
    migrator.migrate(DATA / "chat.db", address, migrator.Options(create=True, kinds=("mood",)))
    yield address, lambda: sorted(client.scan(TableName=name, ConsistentRead=True)["Items"], key=repr)
    client.delete_table(TableName=name)


def _rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        tables = ("facts", "affinity", "episodes", "moods", "memories", "sessions")
        return [row for table in tables for row in db.execute(f"SELECT * FROM {table}")]


def probed(address: str) -> list[Finding]:
    return [each for each in commands.doctor(address, probe=True).diagnoses[0].findings if each.what == "probe"]


def test_a_probe_proves_persistence_and_leaves_nothing(store: tuple[str, Held]) -> None:
    address, held = store
    before = held()
    (found,) = probed(address)
    # LuminoraCore looks for no session in a table whose hash is the user (fact sheet 4.3).
    assert found.verdict == ("note" if address.startswith("dynamodb") else "well"), found
    assert found.seen.startswith("6 records written, the store closed and opened again, all there, and deleted")
    assert held() == before
    assert [each for each in commands.doctor(address).diagnoses[0].findings if each.what == "probe"] == []


def test_a_store_that_forgets_is_caught(store: tuple[str, Held], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is acknowledged and not there afterwards is exactly what the persistence test is for."""
    from migrator.adapters.dynamodb.sink import DynamoDBSink
    from migrator.adapters.sql.sink import SqlSink

    address, held = store
    before = held()
    for sink in (SqlSink, DynamoDBSink):
        monkeypatch.setattr(sink, "upsert", lambda self, rows, existing: None)
    (found,) = probed(address)
    assert (found.verdict, "gone when the store was opened again" in found.seen) == ("fault", True)
    assert held() == before


@pytest.mark.parametrize(("step", "left"), [("_probed", 0), ("_is_given", 6), ("_take_away", 6)])
def test_what_a_killed_probe_left_is_taken_away_by_the_next_look(step: str, left: int, store: tuple[str, Held]) -> None:
    address, held = store
    before = held()
    code = (
        "import os, signal, sys; from migrator import commands, probe\n"
        f"probe.{step} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "commands.doctor(sys.argv[1], probe=True)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, address], capture_output=True, text=True, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(held()) == len(before) + left
    (found,) = [each for each in commands.doctor(address).diagnoses[0].findings if each.what == "probe"]
    assert found.seen == "an earlier probe was interrupted" + (
        f"; {left} of its records were there, and are deleted" if left else "; nothing of it was there"
    )
    assert held() == before
    assert [each for each in commands.doctor(address).diagnoses[0].findings if each.what == "probe"] == []


def test_a_probe_that_fails_half_way_takes_its_records_away(
    store: tuple[str, Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, held = store
    before = held()

    def broken(*args: object) -> bool:
        raise migrator.StoreError("the network is gone")

    monkeypatch.setattr(probe, "_is_given", broken)
    (found,) = probed(address)
    assert (found.verdict, found.seen) == ("fault", "it could not be made: the network is gone")
    assert held() == before


def test_a_file_that_is_written_whole_is_not_probed(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text('{"s": {"messages": []}}')
    (found,) = probed(str(path))
    assert (found.verdict, path.read_text()) == ("note", '{"s": {"messages": []}}')
