"""SIGKILL at every step at which something is made durable; resumed with other workers, the sink is that of a clean run.

The enumeration over fsyncs and renames is of the coordinator, with threads (its workers' steps are its own then) and with spawned processes.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

import proxy

KILLED = Path(__file__).parent / "killed.py"
LONG = os.environ.get("MIGRATOR_LONG") == "1"
FACTS, EPISODES = 90, 35


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chat.db of facts and episodes, some of which are there twice."""
    path = tmp_path_factory.mktemp("chat") / "chat.db"
    make_chat(path, FACTS, EPISODES)
    return path


def make_chat(path: Path, facts: int, episodes: int = 0, value: str = "v") -> None:
    """LuminoraCore's tables for facts and episodes, filled."""
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE facts (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, category TEXT NOT NULL,"
            " key TEXT NOT NULL, value TEXT, confidence REAL DEFAULT 1.0, created_at TEXT, updated_at TEXT, UNIQUE(user_id, category, key))"
        )
        db.execute(
            "CREATE TABLE episodes (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, episode_type TEXT NOT NULL,"
            " title TEXT NOT NULL, summary TEXT, importance REAL DEFAULT 0.0, sentiment TEXT, created_at TEXT, updated_at TEXT)"
        )
        stamp = "2026-01-02T03:04:05.678901"
        db.executemany(
            "INSERT INTO facts (user_id, session_id, category, key, value, confidence, created_at, updated_at) VALUES (?, ?, 'c', ?, ?, 0.9, ?, ?)",
            ((f"user-{n % 97}", f"s{n % 7}", f"key-{n}", f"{value} {n}", stamp, stamp) for n in range(facts)),
        )
        db.executemany(
            "INSERT INTO episodes (user_id, session_id, episode_type, title, summary, importance, sentiment, created_at, updated_at)"
            " VALUES (?, 's', 't', ?, 'x', 5.5, 'good', ?, ?)",
            ((f"user-{n % 5}", f"title {n}", stamp, stamp) for n in range(episodes)),
        )


def run(step: int, whom: str, folder: Path, *args: str, steps: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MIGRATOR_STATE": str(folder / "state"), "XDG_STATE_HOME": str(folder / "user")}
    if steps is not None:
        environment["KILLED_STEPS"] = str(steps)
    command = [sys.executable, str(KILLED), str(step), whom, *args]
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        cwd=folder,
        check=False,
    )


def every(steps: int) -> Iterator[int]:
    """All steps in the long profile; otherwise the first and the last ones and a spread between."""
    if LONG or steps <= 8:
        yield from range(1, steps + 1)
    else:
        yield from sorted({1, steps - 1, steps, *range(3, steps, steps // 3)})


def is_unfinished(folder: Path) -> bool:
    """Whether a job was left behind to go on with."""
    found = [path.read_bytes() for path in (folder / "state").glob("*/checkpoint.json")]
    return any(b'"phase":"finished"' not in text for text in found)


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


def rows(path: Path) -> list[Any]:
    with sqlite3.connect(path) as db:
        facts = "SELECT user_id, session_id, category, key, value, confidence, created_at, updated_at FROM facts"
        episodes = "SELECT user_id, session_id, episode_type, title, summary, importance, sentiment, created_at, updated_at FROM episodes"
        return sorted(db.execute(facts).fetchall()) + sorted(db.execute(episodes).fetchall())


def counts(output: str) -> dict[str, int]:
    kinds = json.loads(output)["kinds"].values()
    return {name: sum(kind[name] for kind in kinds) for name in ("read", "rejected", "duplicates")} | {
        "there": sum(kind["written"] + kind["unchanged"] for kind in kinds)
    }


@pytest.mark.parametrize(("whom", "workers"), [("one", "1"), ("group", "2")])
@pytest.mark.parametrize("sink", ["out.jsonl", "out.json", "out.db"])
def test_a_kill_at_any_step_leaves_what_a_clean_run_does(
    sink: str, whom: str, workers: str, chat: Path, tmp_path: Path
) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    steps = clean / "steps"
    whole = run(0, whom, clean, "migrate", str(chat), sink, "--workers", workers, "--json", steps=steps)
    assert whole.returncode == 0, whole.stderr
    look = rows if sink.endswith(".db") else lines
    assert int(steps.read_text()) > 10
    for step in every(int(steps.read_text())):
        folder = tmp_path / f"{step}"
        folder.mkdir()
        killed = run(step, whom, folder, "migrate", str(chat), sink, "--workers", workers, "--json")
        assert killed.returncode == -signal.SIGKILL, f"step {step}: {killed.stderr}"
        unfinished = is_unfinished(folder)
        if not sink.endswith(".db"):  # whole or absent
            assert not (folder / sink).exists() or look(folder / sink) == look(clean / sink)
        again = run(0, whom, folder, "migrate", str(chat), sink, "--workers", "2" if workers == "1" else "1", "--json")
        assert again.returncode == 0, f"step {step}: {again.stderr}"
        assert look(folder / sink) == look(clean / sink), f"step {step}"
        assert counts(again.stdout) == counts(whole.stdout), f"step {step}"
        assert json.loads(again.stdout)["resumed"] == unfinished, f"step {step}"
        assert sorted(p.name for p in folder.iterdir() if p.name not in ("state", "user")) == [sink], (
            f"step {step}: left over"
        )


@pytest.mark.parametrize("whom", ["one", "group"])
def test_a_kill_at_any_step_loses_nothing_on_the_way_to_dynamodb(
    whom: str, chat: Path, tmp_path: Path, moto_endpoint: str
) -> None:
    client = boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=moto_endpoint)

    def items(table: str) -> list[str]:
        pages = client.get_paginator("scan").paginate(TableName=table)
        return sorted(json.dumps(item, sort_keys=True) for page in pages for item in page["Items"])

    def address(table: str) -> str:
        return f"dynamodb://{table}?region=eu-west-1&endpoint={moto_endpoint}"

    steps = tmp_path / "steps"
    clean = f"clean-{whom}"
    whole = run(
        0, whom, tmp_path, "migrate", str(chat), address(clean), "--create", "--workers", "2", "--json", steps=steps
    )
    assert whole.returncode == 0, whole.stderr
    for step in every(int(steps.read_text())):
        table = f"killed-{whom}-{step}"
        killed = run(step, whom, tmp_path, "migrate", str(chat), address(table), "--create", "--workers", "2", "--json")
        assert killed.returncode == -signal.SIGKILL, f"step {step}: {killed.stderr}"
        unfinished = is_unfinished(tmp_path)
        again = run(0, whom, tmp_path, "migrate", str(chat), address(table), "--create", "--workers", "1", "--json")
        assert json.loads(again.stdout)["resumed"] == unfinished, f"step {step}"
        assert again.returncode == 0, f"step {step}: {again.stderr}"
        assert items(table) == items(clean), f"step {step}"
        assert counts(again.stdout) == counts(whole.stdout), f"step {step}"


def test_workers_die_with_the_coordinator(tmp_path: Path, moto_endpoint: str) -> None:
    """Killed alone in the middle, with worker processes: no write reaches the endpoint later than a second after."""
    make_chat(tmp_path / "chat.db", 3_000)
    with proxy.before(moto_endpoint) as between:
        address = f"dynamodb://workers-die?region=eu-west-1&endpoint={between.endpoint}"
        environment = os.environ | {"MIGRATOR_STATE": str(tmp_path / "state"), "XDG_STATE_HOME": str(tmp_path / "user")}
        command = [sys.executable, str(KILLED), "0", "one", "migrate", "chat.db", address, "--create", "--workers", "2"]
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while between.acknowledged < 300 and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = time.monotonic()
        time.sleep(2)
        assert between.acknowledged < 3_000
        assert between.last_write < killed + 1
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        seen = between.acknowledged
        again = run(0, "one", tmp_path, "migrate", "chat.db", address, "--create", "--workers", "1", "--json")
        assert again.returncode == 0, again.stderr
        assert between.acknowledged - 3_000 <= 2 * 25, (
            f"repeats beyond the bound: {between.acknowledged} acknowledged, {seen} before the kill"
        )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_slices_in_flight_and_the_run_resumes(
    number: int, code: int, tmp_path: Path, moto_endpoint: str
) -> None:
    make_chat(tmp_path / "chat.db", 3_000)
    with proxy.before(moto_endpoint) as between:
        address = f"dynamodb://signal-{code}?region=eu-west-1&endpoint={between.endpoint}"
        environment = os.environ | {"MIGRATOR_STATE": str(tmp_path / "state"), "XDG_STATE_HOME": str(tmp_path / "user")}
        command = [
            sys.executable,
            str(KILLED),
            "0",
            "one",
            "migrate",
            "chat.db",
            address,
            "--create",
            "--workers",
            "2",
            "--json",
        ]
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while between.acknowledged < 300 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(
            number
        )  # Ctrl-C reaches the whole group
        output, trouble = process.communicate(timeout=60)
        assert process.returncode == code, trouble
        assert "Traceback" not in trouble
        assert "run the same command again to resume" in trouble
        report = json.loads(output)
        assert (report["outcome"], report["exit_code"]) == ("interrupted", code)
        assert report["kinds"]["fact"]["written"] == between.acknowledged
        again = run(0, "one", tmp_path, "migrate", "chat.db", address, "--workers", "1", "--json")
        assert again.returncode == 0, again.stderr
        assert between.acknowledged == 3_000
        assert json.loads(again.stdout)["resumed"] is True
