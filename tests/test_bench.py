"""scripts/bench runs: it makes its data, counts what it sent, and prints the table of goals. No figure is looked at here: they need a quiet machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import skip_for

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(600)  # a dozen processes, started one after the other


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What it printed and what it wrote, for a case that writes to DynamoDB and one of whole, verified commands."""
    if sys.platform != "linux":
        pytest.skip("scripts/bench needs Linux")
    if shutil.which("cc") is None:
        skip_for("scripts/bench needs a C compiler, cc")
    folder = tmp_path_factory.mktemp("bench")
    command = [str(ROOT / "scripts" / "bench"), "--quick", "--rounds", "1", "--case", "write-facts", "--case", "job"]
    command += ["--data", str(folder / "data"), "--json", str(folder / "bench.json")]
    environment = {**os.environ, "MIGRATOR_PYTHON": sys.executable}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout, json.loads((folder / "bench.json").read_text())


def test_it_prints_each_method_and_the_table_of_goals(bench: tuple[str, dict[str, Any]]) -> None:
    printed, told = bench
    for case in told["cases"].values():
        for method in case["methods"]:
            assert f"| {method['name']}" in printed
    table = printed[printed.index("| case ") :]
    assert [goal["title"] for goal in told["goals"] if goal["title"] not in table] == []
    assert {goal["judged"] for goal in told["goals"]} <= {"missed", "must", "stretch"}
    assert "the endpoint's ceiling is" in printed
    assert "NOT at full size" in printed


def test_the_endpoint_counts_what_each_method_says_it_sent(bench: tuple[str, dict[str, Any]]) -> None:
    methods = [method for case in bench[1]["cases"].values() for method in case["methods"]]
    assert len(methods) == 9
    for method in methods:
        assert len(method["runs"]) == 1
        for run in method["runs"]:
            assert run["endpoint"]["items"] == run["items"] > 0
            assert run["endpoint"]["other"] == 0, "the endpoint was asked for something that it does not know"


def test_a_command_that_proves_reads_back_what_it_wrote(bench: tuple[str, dict[str, Any]]) -> None:
    job = {method["name"]: method["runs"] for method in bench[1]["cases"]["job"]["methods"]}
    assert all(run["endpoint"]["listed"] >= run["items"] for run in job["ours, proven"])
    assert all(run["endpoint"]["listed"] == 0 for run in job["naive"])


def test_every_run_has_a_time_cpu_and_memory(bench: tuple[str, dict[str, Any]]) -> None:
    runs = [run for case in bench[1]["cases"].values() for method in case["methods"] for run in method["runs"]]
    assert all(run[name] > 0 for run in runs for name in ("wall", "cpu", "pss", "rss"))
