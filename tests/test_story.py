"""The story from start to end: a chat that forgets is rescued while it runs, restarted on SQLite, cut over to DynamoDB, and brought back.

A back end's storage failed at start and fell back to memory without a word. Everything here is done by LuminoraCore's own classes and our
commands, in the order of the README.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import migrator
from migrator import Options, Terms, cli, commands
from tables import client_of
from test_application import on_table
from test_rescue import USERS, answers, chat, sessions, sqlite


@contextmanager
def living(storage: Any, users: list[str]) -> Iterator[list[int]]:
    """The chat goes on in a thread until the block ends: messages come, and things that were said are forgotten again."""
    is_over, said = threading.Event(), [0]

    async def live() -> None:
        while not is_over.is_set():
            said[0] += 1
            user = users[said[0] % len(users)]
            turn = json.dumps(
                {
                    "user_message": f"m{said[0]}",
                    "assistant_response": "Sí",
                    "personality_name": "Dr. Luna",
                    "timestamp": datetime.now().isoformat(),
                }
            )
            await storage.save_fact(f"session_{user}", "conversation_history", f"turn_{said[0]:06}", turn)
            await storage.save_affinity(f"session_{user}", "Dr. Luna", said[0], "friend")
            await storage.save_fact(user, "health", f"note {said[0]}", f"value {said[0]}")
            if said[0] > 5:
                former = users[(said[0] - 5) % len(users)]
                assert await storage.delete_fact(former, "health", f"note {said[0] - 5}")
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        yield said
    finally:
        is_over.set()
        thread.join()


def test_a_chat_that_forgets_is_helped_from_the_first_minute_to_the_last(
    luminoracore: ModuleType, dynamodb_local_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    # 1. Why does it forget? Its configuration names a type that LuminoraCore does not know.
    monkeypatch.setenv("LUMINORA_STORAGE_TYPE", "dynamodb")
    found = commands.doctor()
    assert not found.is_well
    assert "silently takes in_memory" in found.configuration[0].seen

    # 2. What is in memory is saved while messages come in, and once more as the last thing before the restart.
    memory = luminoracore.storage("v1_1").InMemoryStorageV11()
    asyncio.run(chat(memory, USERS, 2))
    path = tmp_path / "data" / "luminoracore.db"
    with living(_without_deleting(memory), USERS):
        assert migrator.rescue(memory, f"sqlite:///{path}").proven == "digest"
    assert migrator.rescue(memory, f"sqlite:///{path}").outcome == "done"
    told, known = asyncio.run(answers(memory, USERS, False)), asyncio.run(sessions(memory, USERS))

    # 3. Restarted on SQLite, as doctor says, it remembers all.
    monkeypatch.setenv("LUMINORA_STORAGE_TYPE", "sqlite_flexible")
    monkeypatch.setenv("LUMINORA_SQLITE_PATH", str(path))
    assert commands.doctor(probe=True).is_well
    file = sqlite(luminoracore, path)
    assert asyncio.run(answers(file, USERS, True)) == told
    assert asyncio.run(sessions(file, USERS)) == known

    # 4. The day of DynamoDB: most is brought over while the chat goes on, writing and deleting.
    name = f"story-{uuid.uuid4().hex[:12]}"
    table = f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_local_endpoint}"
    options = Options(create=True)
    with living(file, USERS) as said:
        for step in ("copy", "catch-up", "delete"):
            terms = Terms(step, delete_extra=True, max_delete=500, quiet_for=0)
            assert migrator.cutover(path, table, options, terms).outcome == "waiting"
    assert said[0] > 20
    # The writers are stopped; the rest is brought, proven, and shown as the application sees it.
    terms = Terms("tail", delete_extra=True, max_delete=500, quiet_for=0.1)
    certificate = migrator.cutover(path, table, options, terms)
    assert (certificate.outcome, certificate.steps["final"]["proven"], certificate.steps["proof"]["proven"]) == (
        "done",
        "digest",
        "app",
    )
    assert certificate.deleted > 0
    assert certificate.switch is not None
    assert f"LUMINORA_DYNAMODB_TABLE={name}" in certificate.switch["environment"]

    # 5. On DynamoDB it remembers the same; what was deleted has not come back.
    there = on_table(luminoracore, name, dynamodb_local_endpoint, monkeypatch)
    before = asyncio.run(_facts(file))
    after = asyncio.run(_facts(there))
    assert before.keys() == after.keys()
    assert {key: str(value) for key, value in after.items() if key[1] == "health"} == {
        key: str(value) for key, value in before.items() if key[1] == "health"
    }
    shown = migrator.verify(path, table, Options(proof="app"))
    assert (shown.outcome, shown.proven) == ("done", "app")

    # 6. The way back, as the certificate says it: what was said on DynamoDB is in the file again.
    asyncio.run(_goes_on(there))
    (command,) = certificate.way_back
    words = shlex.split(command)
    assert words[:2] == ["migrator", "migrate"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:])
    assert ended.value.code == 0
    back = asyncio.run(_facts(sqlite(luminoracore, path)))
    assert back.keys() == asyncio.run(_facts(there)).keys()
    assert back["user-7", "health", "on DynamoDB"] == "yes"
    client = client_of(dynamodb_local_endpoint)
    client.delete_table(TableName=name)


def _without_deleting(memory: Any) -> Any:
    """In memory nothing is forgotten one by one: LuminoraCore 1.1 has no such call there that says whether it did."""

    class Keeping:
        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        async def delete_fact(self, *key: str) -> bool:
            return True

    return Keeping()


async def _facts(storage: Any) -> dict[tuple[str, str, str], Any]:
    owners = [owner for user in USERS for owner in (user, f"session_{user}")]
    return {(owner, f["category"], f["key"]): f["value"] for owner in owners for f in await storage.get_facts(owner)}


async def _goes_on(storage: Any) -> None:
    await storage.save_fact("user-7", "health", "on DynamoDB", "yes")
    await storage.save_fact("user-8", "personal_info", "name", "María of DynamoDB")
    await storage.save_affinity("user-9", "Dr. Luna", 77, "friend")
