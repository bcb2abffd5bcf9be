"""Measures migrator against the naive script and the physical limit, interleaved in one run, and prints the table of goals.

Makes its data once (--data keeps it), starts its own endpoints on loopback, and speaks to nobody else. Each run of a method is a process of its
own; the clock starts after its imports, but for whole commands. Ratios are medians of the ratios within each round: only they mean anything on
a machine that others use as well. A client that is one process has one core, the endpoint another; with two processes and two cores they share.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import limits
import measuring
import stub
from cases import CASES, FAST, GROWTH, Case, Goal, Made, Method, Sizes
from data import Data
from measuring import Took

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("boto3", "botocore", "urllib3", "orjson", "xxhash", *FAST)
_MB = 1_000_000


class Failed(Exception):
    """A method that did not end as it should; the words say why."""


class Bench:
    """One run of it all: where its data is, which cores are whose, and what every command meets."""

    def __init__(self, folder: Path, sizes: Sizes, rounds: int) -> None:
        self.folder, self.sizes, self.rounds = folder, sizes, rounds
        self.data = Data(folder, _say)
        self.cores = sorted(os.sched_getaffinity(0))
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LUMINORA_", "MIGRATOR_"))
        }
        self.environment = kept | {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "XDG_CONFIG_HOME": str(folder / "no-settings"),
        }

    def measure(self, case: Case) -> dict[str, Any]:
        """Run a case's methods in turn, so many rounds; what each took, by its name, and whatever failed."""
        made = case.make(self.data, self.sizes)
        runs: dict[str, list[dict[str, Any]]] = {method.name: [] for method in made.methods}
        failed: dict[str, str] = {}
        with self._endpoint(made) as endpoint:
            for number in range(self.rounds):
                for method in made.methods:
                    if method.name in failed:
                        continue
                    _say(f"{case.title}: round {number + 1} of {self.rounds}, {method.name}")
                    try:
                        runs[method.name].append(self._run(method, endpoint))
                    except Failed as exc:
                        failed[method.name] = str(exc)
                        _say(f"{method.name} failed: {exc}")
        return {"title": case.title, "methods": _summed(made, runs, failed)}

    def profile(self, case: Case) -> Iterator[tuple[str, str]]:
        """For each of our methods that are one process: its name, and where its CPU goes."""
        made = case.make(self.data, self.sizes)
        with self._endpoint(made) as endpoint:
            for method in made.methods:
                if method.call.startswith("ours.") and method.cores == 1:
                    with tempfile.TemporaryDirectory(dir=self.folder, prefix="run-") as name:
                        if endpoint:
                            limits.told(endpoint, forget=True)
                        try:
                            told = self._in_child(method, self._words(endpoint, name), Path(name), profile=True).stdout
                        except Failed as exc:
                            told = f"failed: {exc}"
                    yield method.name, told

    @contextmanager
    def _endpoint(self, made: Made) -> Iterator[str]:
        if made.endpoint is None:
            yield ""
            return
        told, program = made.endpoint, stub.compiled(self.folder)
        with stub.running(program, told.key, told.items, told.delay_us, told.hidden, self.cores[-1]) as endpoint:
            yield endpoint

    def _words(self, endpoint: str, folder: str) -> dict[str, str]:
        return {"{endpoint}": endpoint, "{folder}": folder, "{python}": sys.executable}

    def _run(self, method: Method, endpoint: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="run-") as name:
            folder = Path(name)
            words = self._words(endpoint, name)
            if endpoint:
                limits.told(endpoint, forget=True)
            took = self._whole(method, words, folder) if method.command else self._child(method, words, folder)
            run: dict[str, Any] = asdict(took)
            if endpoint:
                run["endpoint"] = limits.told(endpoint)
                if method.writes and run["endpoint"]["items"] != took.items:
                    raise Failed(f"it says {took.items:,} items, and {run['endpoint']['items']:,} came to the endpoint")
            if method.note:
                run["share"] = float(Path(_filled(method.note, words)).read_text()) / took.cpu
            return run

    def _child(self, method: Method, words: dict[str, str], folder: Path) -> Took:
        ended = self._in_child(method, words, folder)
        clock = json.loads(ended.stdout.splitlines()[-1])
        return Took(clock["items"], clock["wall"], clock["cpu"], ended.pss, ended.rss)

    def _in_child(self, method: Method, words: dict[str, str], folder: Path, profile: bool = False) -> measuring.Ended:
        cores = self._cores(method)
        args = [_filled(each, words) for each in method.args]
        told = {"cores": cores, "without": method.without, "args": args, "options": method.options, "profile": profile}
        child = str(Path(__file__).with_name("child.py"))
        ended = measuring.run([sys.executable, child, method.call, json.dumps(told)], self.environment, cores, folder)
        if ended.code:
            raise Failed(_last_words(ended))
        return ended

    def _whole(self, method: Method, words: dict[str, str], folder: Path) -> Took:
        command = [_filled(word, words) for word in method.command]
        ended = measuring.run(command, self.environment, self._cores(method), folder)
        if ended.code:
            raise Failed(_last_words(ended))
        return Took(method.items, ended.wall, ended.cpu, ended.pss, ended.rss)

    def _cores(self, method: Method) -> tuple[int, ...]:
        """One process keeps away from the stub's core, the last; more take what there is, and share if they must."""
        others = self.cores[:-1] or self.cores
        return tuple(others[: method.cores] if method.cores <= len(others) else self.cores[: max(method.cores, 1)])


def _filled(word: Any, words: dict[str, str]) -> Any:
    for name, value in words.items():
        word = word.replace(name, value) if isinstance(word, str) else word
    return word


def _last_words(ended: measuring.Ended) -> str:
    lines = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
    return f"exit code {ended.code}: {lines[-1] if lines else 'without a word'}"


# Figures ---------------------------------------------------------------------------------------------------------------


def _speed(run: dict[str, Any], measure: str) -> float:
    return float(run["items"] / max(run[measure], 1e-9))


def _ratios(runs: list[dict[str, Any]], base: list[dict[str, Any]], measure: str) -> list[float]:
    return [_speed(run, measure) / _speed(other, measure) for run, other in zip(runs, base)]


def _summed(made: Made, runs: dict[str, list[dict[str, Any]]], failed: dict[str, str]) -> list[dict[str, Any]]:
    first, summed = made.methods[0].name, []
    for method in made.methods:
        mine, base = runs[method.name], runs[method.against or first]
        told: dict[str, Any] = {"name": method.name, "runs": mine}
        if method.name in failed:
            told["failed"] = failed[method.name]
        if mine:
            told |= {
                "items": mine[0]["items"],
                "items_per_second": median(_speed(run, "wall") for run in mine),
                "items_per_cpu_second": median(_speed(run, "cpu") for run in mine),
                "pss": max(run["pss"] for run in mine),
                "rss": max(run["rss"] for run in mine),
            }
            if "share" in mine[0]:
                told["share"] = median(run["share"] for run in mine)
        if mine and base:
            walls = _ratios(mine, base, "wall")
            told |= {
                "against": method.against or first,
                "x_wall": median(walls),
                "x_wall_range": [min(walls), max(walls)],
                "x_cpu": median(_ratios(mine, base, "cpu")),
            }
        summed.append(told)
    return summed


def _ceiling(case: dict[str, Any]) -> str:
    """Whether the stub is what was measured: the fastest of ours against what it answers when nothing is encoded or parsed."""
    tops = [each for each in case["methods"] if each["name"].startswith("limit") and each["runs"]]
    ours = [each for each in case["methods"] if each["name"].startswith("ours") and each["runs"]]
    if not tops or not ours:
        return ""
    top, best = (max(each, key=lambda method: method["items_per_second"])["items_per_second"] for each in (tops, ours))
    words = f"the endpoint's ceiling is {top:,.0f} items/s; the fastest of ours takes {best / top:.1%} of it"
    return words + ("" if best < top / 3 else ": TOO MUCH, it is the endpoint that is measured")


def _reached(goal: Goal, case: dict[str, Any]) -> float | None:
    """What was reached, or None where it was not measured."""
    found = {method["name"]: method for method in case["methods"] if method["runs"]}
    if goal.method not in found or (goal.against and goal.against not in found):
        return None
    mine = found[goal.method]
    if goal.measure == "memory":
        return float(mine["rss"]) / (found[goal.against]["rss"] if goal.against else _MB)
    if goal.measure == "share":
        return float(mine["share"]) * 100
    return median(_ratios(mine["runs"], found[goal.against]["runs"], goal.measure))


def _judged(goal: Goal, reached: float | None) -> str:
    if reached is None:
        return "not measured"
    for words, bound in (("stretch", goal.stretch), ("must", goal.must)):
        if reached <= bound if goal.at_most else reached >= bound:
            return words
    return "missed"


# What is printed -------------------------------------------------------------------------------------------------------


def _table(head: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def row(cells: list[str]) -> str:
        first, *others = (cell.ljust(w) if not n else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths)))
        return f"| {' | '.join([first, *others])} |"

    rule = "|" + "|".join("-" * (w + 2) if not n else "-" * (w + 1) + ":" for n, w in enumerate(widths)) + "|"
    return "\n".join([row(head), rule, *map(row, lines)])


def _case_table(case: dict[str, Any]) -> str:
    head = ["method", "items", "items/s", "items/CPU-s", "x wall", "(from–to)", "x per CPU-s", "PSS MB", "RSS MB"]
    lines = []
    for method in case["methods"]:
        speeds, ratios, memory = ["–"] * 3, ["–"] * 3, ["–"] * 2
        if method["runs"]:
            speeds = [f"{method[which]:,.0f}" for which in ("items", "items_per_second", "items_per_cpu_second")]
            memory = [f"{method[which] / _MB:.0f}" for which in ("pss", "rss")]
        if "x_wall" in method:
            low, high = method["x_wall_range"]
            ratios = [f"{method['x_wall']:.2f}", f"{low:.2f}–{high:.2f}", f"{method['x_cpu']:.2f}"]
        lines.append([method["name"], *speeds, *ratios, *memory])
    return _table(head, lines)


def _goal_table(goals: list[dict[str, Any]]) -> str:
    lines = []
    for goal in goals:
        unit = "x" if goal["against"] else {"memory": " MB", "share": " %"}[goal["measure"]]
        must, stretch = (f"{goal[name]:g}{unit}" for name in ("must", "stretch"))
        reached = "–" if goal["reached"] is None else f"{goal['reached']:.{0 if unit == ' MB' else 2}f}{unit}"
        lines.append([goal["title"], must, stretch, reached, goal["judged"]])
    return _table(["case", "must", "stretch", "reached", ""], lines)


def _machine() -> dict[str, Any]:
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "fast": all(find_spec(name) is not None for name in FAST),
        "commit": commit,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine_words(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    fast = (
        "the fast extra is installed" if machine["fast"] else "the fast extra is NOT installed (pip install '.[fast]')"
    )
    place = (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory'] / 2**30:.0f} GiB, Linux {machine['kernel']}"
    )
    busy = f"\nOTHERS USE THIS MACHINE (load {machine['load']:.1f}): read ratios only" if machine["load"] > 0.5 else ""
    return f"{place}, Python {machine['python']}; {packages}; {fast}; commit {machine['commit'] or 'unknown'}{busy}"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _asked() -> argparse.Namespace:
    listed = "\n".join(f"  {name:12} {case.title}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        epilog=f"cases:\n{listed}\n\nexample:\n  scripts/bench --case write-facts --case job --json now.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each method runs: 5, with --quick 2")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="so many times the data, such as 0.1")
    parser.add_argument("--quick", action="store_true", help="a five-hundredth of the data, to see that all of it runs")
    parser.add_argument(
        "--growth", action="store_true", help="10 thousand to 10 million records, too: slow, 4 GB of disk"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where the data is made and kept; else a temporary folder"
    )
    parser.add_argument(
        "--profile", action="store_true", help="instead: where the CPU of ours goes, one run each (it slows all down)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run and figure there, too")
    asked = parser.parse_args()
    if (asked.rounds is not None and asked.rounds < 1) or asked.scale <= 0:
        parser.error("--rounds and --scale are more than nothing")
    return asked


def main() -> int:
    if sys.platform != "linux":
        raise SystemExit("scripts/bench: needs Linux (epoll, affinity, /proc); run it there, or in a container")
    asked = _asked()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running, and no folder
    sizes = Sizes().scaled(0.002 if asked.quick else asked.scale)
    rounds = asked.rounds or (2 if asked.quick else 5)
    chosen = {name: CASES[name] for name in asked.case or ([] if asked.growth else CASES)}
    if asked.growth:
        chosen["growth"] = GROWTH
    os.environ["MIGRATOR_CONFIG"] = os.devnull
    machine = _machine()
    print(_machine_words(machine), flush=True)
    with ExitStack() as stack:
        if asked.data:
            asked.data.mkdir(parents=True, exist_ok=True)
        folder = asked.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="migrator-bench-")))
        bench = Bench(folder.resolve(), sizes, rounds)
        told: dict[str, Any] = {}
        if asked.profile:
            for name, case in chosen.items():
                for method, profile in bench.profile(case):
                    print(f"\n{name}: {method}: {profile}", flush=True)
            return 0
        for name, case in chosen.items():
            told[name] = bench.measure(case)
            told[name]["ceiling"] = _ceiling(told[name])
            print(f"\n{name}: {case.title}\n\n{_case_table(told[name])}", flush=True)
            if told[name]["ceiling"]:
                print(told[name]["ceiling"])
            for method in told[name]["methods"]:
                if "failed" in method:
                    print(f"{method['name']} failed: {method['failed']}")
    goals = []
    for name, case in chosen.items():
        for goal in case.goals:
            reached = _reached(goal, told[name])
            goals.append({"case": name, **asdict(goal), "reached": reached, "judged": _judged(goal, reached)})
    print(f"\ngoals, {rounds} rounds{'' if sizes == Sizes() else ', NOT at full size'}\n\n{_goal_table(goals)}")
    if asked.json:
        whole = {"machine": machine, "rounds": rounds, "sizes": asdict(sizes), "cases": told, "goals": goals}
        asked.json.write_text(json.dumps(whole, indent=1))
    return 1 if any("failed" in method for case in told.values() for method in case["methods"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
