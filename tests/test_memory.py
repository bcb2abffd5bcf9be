"""Peak memory of whole commands with two workers: the proportional set size (PSS) of the process tree, against the promised 256 MiB.

The long profile takes the sizes of the promise (a million facts, a JSON map of 500 MB); the short one only what starts worker processes at all.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kills import make_chat
from tables import client_of

LONG = os.environ.get("MIGRATOR_LONG") == "1"
FACTS = 1_000_000 if LONG else 20_500
MAP_BYTES = 500_000_000 if LONG else 8_000_000
IN_A_TABLE = 100_000 if LONG else 1_000
PROMISED = 256 * 2**20
ACCEPTING = Path(__file__).parent / "accepting.py"


def peak_of(folder: Path, *args: str) -> int:
    """Run migrator with two workers to its end; the largest PSS of it and its children, in bytes, looked at ten times a second."""
    environment = os.environ | {"MIGRATOR_STATE": str(folder / "state")}
    if args[0] == "migrate":
        args = (*args, "--workers", "2")
    with subprocess.Popen(
        [sys.executable, "-m", "migrator", *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    ) as process:
        said: list[str] = []
        assert process.stdout is not None
        listening = threading.Thread(target=lambda: said.append(process.stdout.read()))  # type: ignore[union-attr]
        listening.start()
        root, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            peak = max(peak, _tree(root))
            listening.join(0.1)
        listening.join()
    assert process.returncode == 0, said
    print(f"{args[0]} {args[1]} -> {args[2]}: {peak / 2**20:.0f} MiB")
    return peak


def _tree(root: psutil.Process) -> int:
    total = 0
    for process in [root, *_children(root)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


@contextmanager
def accepting(*table: str) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, str(ACCEPTING), *table], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield f"dynamodb://{table[0]}?endpoint=http://127.0.0.1:{int(server.stdout.readline())}&region=eu-west-1"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON Lines of many facts, made from SQLite by us; its making is measured too."""
    folder = tmp_path_factory.mktemp("lines")
    make_chat(folder / "chat.db", FACTS)
    assert peak_of(folder, "migrate", "chat.db", "facts.jsonl") < PROMISED
    return folder / "facts.jsonl"


def test_many_facts_from_json_lines_to_sqlite(lines: Path, tmp_path: Path) -> None:
    assert peak_of(tmp_path, "migrate", str(lines), "back.db") < PROMISED


def test_many_facts_from_json_lines_to_dynamodb(lines: Path, tmp_path: Path) -> None:
    with accepting("chat", "user_id", "SK") as address:
        assert peak_of(tmp_path, "migrate", str(lines), address, "--proof", "none") < PROMISED


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of sessions as LuminoraCore 1.0 saves it: one object of many megabytes."""
    path = tmp_path_factory.mktemp("blobs") / "sessions.json"
    turn = {"role": "user", "content": "¿Te acuerdas? " + "x" * 300, "timestamp": 1.5}
    blob = {"personality": "ana", "messages": [turn] * 50, "context": {}}
    one = json.dumps(blob, indent=2)
    with path.open("w") as file:
        file.write("{\n")
        for number in range(MAP_BYTES // len(one)):
            file.write(f'{"," * (number > 0)}"session-{number}": {one}\n')
        file.write("}")
    return path


def test_a_large_map_of_sessions_to_sqlite(blobs: Path, tmp_path: Path) -> None:
    assert peak_of(tmp_path, "migrate", str(blobs), "sessions.db") < PROMISED


def test_a_large_map_of_sessions_to_dynamodb(blobs: Path, tmp_path: Path) -> None:
    with accepting("blobs", "session_id") as address:
        assert peak_of(tmp_path, "migrate", str(blobs), address, "--proof", "none") < PROMISED


def test_verifying_a_table(dynamodb_local_endpoint: str, tmp_path: Path) -> None:
    make_chat(tmp_path / "chat.db", IN_A_TABLE)
    name = f"memory-{os.getpid()}"
    address = f"dynamodb://{name}?endpoint={dynamodb_local_endpoint}&region=eu-west-1"
    assert peak_of(tmp_path, "migrate", "chat.db", address, "--create") < PROMISED
    assert peak_of(tmp_path, "verify", "chat.db", address) < PROMISED
    client_of(dynamodb_local_endpoint).delete_table(TableName=name)
