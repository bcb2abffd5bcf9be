"""`migrator init`: what is made is what LuminoraCore can use, and what is there stays as it is."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from migrator import commands
from migrator.errors import ConfigError
from tables import client_of
from test_application import on_table
from test_cli import run

pytestmark = pytest.mark.usefixtures("_here")


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_luminoracore_uses_a_new_file_as_its_own(luminoracore: Any, tmp_path: Path) -> None:
    commands.init("new.db").make()
    storage = luminoracore.storage("sqlite_flexible").FlexibleSQLiteStorageV11(str(tmp_path / "new.db"))

    async def live() -> None:
        assert await storage.save_fact("ana", "work", "boss", "Zoë")
        assert await storage.save_affinity("ana", "Dr. Luna", 7, "friend")
        assert [fact["value"] for fact in await storage.get_facts("ana")] == ["Zoë"]

    asyncio.run(live())
    with closing(sqlite3.connect("new.db")) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names >= {"facts", "affinity", "episodes", "moods", "memories", "sessions"}
    assert (tmp_path / "new.db").stat().st_mode & 0o77 == 0


def test_luminoracore_uses_a_new_table_as_its_own(
    luminoracore: Any, dynamodb_local_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"init-{uuid.uuid4().hex[:12]}"
    commands.init(f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_local_endpoint}").make()
    client = client_of(dynamodb_local_endpoint)
    described = client.describe_table(TableName=name)["Table"]
    assert [each["AttributeName"] for each in described["KeySchema"]] == ["user_id", "SK"]
    assert "GlobalSecondaryIndexes" not in described
    assert client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED"
    storage = on_table(luminoracore, name, dynamodb_local_endpoint, monkeypatch)

    async def live() -> None:
        assert await storage.save_fact("ana", "work", "boss", "Zoë", session_id="s1")
        assert [fact["value"] for fact in await storage.get_facts("ana")] == ["Zoë"]

    asyncio.run(live())
    client.delete_table(TableName=name)


def test_a_json_file_is_an_empty_map_of_sessions() -> None:
    commands.init("sessions.json").make()
    assert json.loads(Path("sessions.json").read_text()) == {}
    commands.init("lines.jsonl").make()
    assert Path("lines.jsonl").read_bytes() == b""


def test_what_is_there_stays_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    Path("chat.db").write_bytes(b"anything")
    said = run(capfd, "init", "chat.db", "--yes")
    assert (said.code, "is there already" in said.err) == (2, True)
    assert Path("chat.db").read_bytes() == b"anything"
    with pytest.raises(ConfigError, match="mkdir -p"):
        commands.init("no/folder/new.db")
    with pytest.raises(ConfigError, match="only a DynamoDB table has a shape"):
        commands.init("new.db", table_shape="user_id/SK")


def test_nothing_is_made_without_a_yes(capfd: pytest.CaptureFixture[str]) -> None:
    said = run(capfd, "init", "new.db")
    assert (said.code, "--yes" in said.err) == (2, True)
    assert "tables   affinity, facts, episodes, moods, memories, sessions" in said.out
    assert not Path("new.db").exists()
    made = run(capfd, "init", "new.db", "--yes", "--json")
    assert (made.code, json.loads(made.out)["made"]) == (0, True)
