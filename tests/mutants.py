"""Mutation testing by hand: makes one small mistake at a time in a module, and asks whether any test notices.

    python tests/mutants.py checkpoint               all mistakes in migrator/checkpoint.py
    python tests/mutants.py engine --only copy_slice those in functions of that name
    python tests/mutants.py --jobs 2                 all modules, two mistakes at once

One process imports everything and runs the module's tests once, to learn which lines each of them runs. For each mistake it forks: the fork puts
the mistake into the code that is already imported, runs the tests that run that line, quickest first, and ends with the first that fails. Processes
that a test starts see the mistake too, in a copy of the package. Prints what survived and is not explained in README.md; ends with 1 if there is any.

No part of the normal suite. Needs fork, so Linux or macOS.
"""

import argparse
import ast
import importlib
import inspect
import os
import select
import signal
import sys
import tempfile
import time
import types
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pytest
from _pytest.runner import runtestprotocol

from mutations import Mutant, mutants, watched

TESTS = Path(__file__).parent
ROOT = TESTS.parent
EXPLAINED = (TESTS / "README.md").read_text("utf-8")

MODULES: dict[str, list[str]] = {
    "checkpoint": ["test_checkpoint.py"],
    "proof": ["test_proof.py"],
    "verification": ["test_verification.py", "test_proof_app.py::test_a_differing_affinity_a_forgotten_user_and_one_more_fact_are_named"],
    "engine": ["test_engine.py"],
    "crew": ["test_engine.py"],
    "digest": ["test_digest.py"],
    "adapters.dynamodb.sink": [
        "test_dynamodb_sink.py", "test_dynamodb_parts.py",
        *(f"test_dynamodb.py::test_{name}" for name in (
            "the_first_error_is_told_and_ends_the_waiting_of_the_others", "requests_are_bounded_in_bytes", "one_bad_item_is_rejected_alone",
            "a_lost_answer_is_no_lost_record", "prepare_makes_the_table_only_if_it_may")),
        *(f"test_fast.py::test_{name}" for name in (
            "it_begins_with_few_at_once_and_takes_more_as_they_are_answered", "a_page_is_on_its_way_before_the_next_is_asked_for",
            "what_is_under_way_has_come_to_its_end_when_the_next_slice_begins",
            "what_is_under_way_is_bounded_in_bytes", "only_what_is_left_goes_once_more_and_by_boto3", "after_enough_batches_it_is_begun",
            "boto3_takes_over_where", "where_it_is_imported_already_it_is_begun_at_once_and_once",
            "where_it_is_asked_for_it_is_imported_for_the_first_batch", "nothing_is_left_open", "a_small_job_does_not_pay_for_the_import")),
        *(f"test_oversize.py::test_{name}" for name in (
            "what_is_replaced_leaves_no_part_behind", "newer_replaces_what_is_older_and_leaves_no_part", "keep_and_refuse_leave_a_record_in_parts_as_it_is",
            "only_what_is_marked_is_put_in_parts_and_a_record_lies_before_them", "a_sink_that_meets_another_record_takes_its_own_parts_away_again",
            "a_record_with_the_key_of_a_part_is_rejected_in_every_way")),
    ],
}  # fmt: skip
"""By name of a module the tests that should notice a mistake in it: quick ones."""

IN_PROCESSES = "test_engine.py::test_a_worker_process"
"""Tests, by the beginning of their names, of what runs in processes of its own: no test of this process runs those lines."""

SERVERS = {"moto", "dynalite", "moto_endpoint", "dynalite_endpoint"}
"""What is left out: moto lives in a thread, which no fork has; one real server is enough."""


# A mistake in what is already imported ---------------------------------------------------------------------------------


def transplant(module: types.ModuleType, tree: ast.Module) -> None:
    """Put other code into a module in place, so that whoever imported names from it has it as well."""
    fresh = types.ModuleType(module.__name__)
    fresh.__file__ = module.__file__
    vars(fresh)["__watch__"] = vars(module).get("__watch__")  # for what is made while the module is imported
    exec(compile(tree, str(module.__file__), "exec"), vars(fresh))
    for name, new in vars(fresh).items():
        old = vars(module).get(name)
        if inspect.isclass(new) and new.__module__ == module.__name__:
            for attribute, value in vars(new).items():
                held = vars(old).get(attribute)
                if not _swapped(held, value, old) and _is_plain(value) and held != value:
                    setattr(old, attribute, value)
        elif not _swapped(old, new) and _is_plain(new) and not name.startswith("__") and new != old:
            for each in [each for each in sys.modules.values() if isinstance(each, types.ModuleType)]:
                if vars(each).get(name) == old and each.__name__.partition(".")[0] == "migrator":
                    setattr(each, name, new)


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | tuple | frozenset) or is_dataclass(type(value))


def _swapped(old: Any, new: Any, owner: type | None = None) -> bool:
    """Whether both are functions; the old one does then what the new one does."""
    if isinstance(new, property):
        return _swapped(old.fget, new.fget)
    old, new = (inspect.unwrap(getattr(each, "__func__", each)) for each in (old, new))
    if not isinstance(new, types.FunctionType) or not isinstance(old, types.FunctionType):
        return False
    names = old.__code__.co_freevars
    if owner is not None and names != new.__code__.co_freevars:  # a super() has gone
        cells = dict(zip(names, old.__closure__ or (), strict=True))
        closure = tuple(cells[name] for name in new.__code__.co_freevars)
        setattr(
            owner,
            old.__name__,
            types.FunctionType(new.__code__, old.__globals__, old.__name__, new.__defaults__, closure),
        )
        return True
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    return True


@contextmanager
def overlay(module: types.ModuleType, source: str) -> Iterator[Path]:
    """A folder with a copy of the package that has the mistake, for processes that a test starts."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "mappings").symlink_to(ROOT / "mappings")
        for path in (ROOT / "migrator").rglob("*.py"):
            link = here / path.relative_to(ROOT)
            link.parent.mkdir(parents=True, exist_ok=True)
            if str(path) == module.__file__:
                link.write_text(source)
            else:
                link.symlink_to(path)
        yield here


# Which test runs which line --------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What the first run told: for each test its seconds, and for each line the tests that run it."""

    seconds: dict[pytest.Item, float] = field(default_factory=dict)
    tests: dict[int, set[pytest.Item]] = field(default_factory=lambda: defaultdict(set))


# The run ---------------------------------------------------------------------------------------------------------------


class Laboratory:
    """A plugin of pytest: instead of running the tests it holds every mutant against them."""

    def __init__(self, module: str, only: str, jobs: int, out: TextIO, logged: TextIO) -> None:
        self.module_name, self.only, self.jobs, self.out, self.logged = module, only, jobs, out, logged
        self.killed, self.survivors = Counter[str](), list[Mutant]()
        self.left = 0

    def say(self, words: str) -> None:
        print(words, file=self.out, flush=True)

    def log(self, *words: object) -> None:
        print(*words, sep="\t", file=self.logged, flush=True)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        def needs(item: Any) -> set[str]:
            given = item.callspec.params.values() if hasattr(item, "callspec") else ()
            return {*item.fixturenames, *(each for each in given if isinstance(each, str))}

        items[:] = [item for item in items if not SERVERS & needs(item)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.module = importlib.import_module(self.module_name)
        self.items = session.items
        source = Path(str(self.module.__file__)).read_text("utf-8")
        known = self._learn(source)
        began = time.monotonic()
        flying: dict[int, tuple[int, Mutant, list[bytes]]] = {}
        for mutant in chain(
            [None], mutants(source, self.module_name.rpartition(".")[2])
        ):  # None: without any mistake all is well, or nothing is proven
            if mutant is not None and self.only not in mutant.where:
                continue
            while len(flying) >= (self.jobs if mutant else 1):
                self._land(flying)
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reader)
                self._in_fork(mutant, known, writer)
            os.close(writer)
            flying[reader] = (pid, mutant, [])  # type: ignore[assignment]
            if mutant is None:
                self._land(flying)
        while flying:
            self._land(flying)
        self._tell(time.monotonic() - began)
        return True

    def _learn(self, source: str) -> Known:
        known, lines = Known(), set[int]()
        vars(self.module)["__watch__"] = lambda line: lines.add(line)
        transplant(self.module, watched(source, "__watch__"))
        for number, item in enumerate(self.items):
            began = time.monotonic()
            lines.clear()
            reports = runtestprotocol(item, log=False, nextitem=self.items[(number + 1) % len(self.items)])
            if any(report.failed for report in reports):
                self.say(f"left out, for it fails without any mistake: {item.nodeid}")
            elif all(report.passed for report in reports):
                known.seconds[item] = time.monotonic() - began
                self.log("takes", f"{known.seconds[item]:.2f}", item.nodeid)
                for line in lines:
                    known.tests[line].add(item)
        transplant(self.module, ast.parse(source))
        self.say(f"{self.module_name}: {len(known.seconds)} tests, {sum(known.seconds.values()):.0f} seconds")
        return known

    def _chosen(self, mutant: Mutant | None, known: Known) -> list[pytest.Item]:
        """The tests to ask, quickest first. What runs at import may matter to all; what no test runs here, to tests of processes."""
        if mutant is None or mutant.statement is None:
            found = set(known.seconds) if mutant else set[pytest.Item]().union(*known.tests.values())
        else:
            found = known.tests.get(mutant.statement, set())
        found = found or {item for item in known.seconds if IN_PROCESSES in item.nodeid}
        return sorted(found, key=lambda item: known.seconds[item] / (1 + self.killed[item.nodeid]))

    def _in_fork(self, mutant: Mutant | None, known: Known, writer: int) -> None:
        """Never returns: what kills the mutant goes through the pipe, and nothing if it survives."""
        end = os._exit  # a test that fails may leave another in its place
        os.setsid()
        told = b"?the driver failed"
        try:
            if mutant is None:
                told = self._first_failure(self._chosen(mutant, known), known, writer)
            else:
                with overlay(self.module, ast.unparse(mutant.tree)) as folder:
                    sys.path.insert(0, str(folder))
                    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', ROOT)}"
                    try:
                        transplant(self.module, mutant.tree)
                    except Exception as exc:
                        told = f"!import {exc!r}".encode()
                    else:
                        told = self._first_failure(self._chosen(mutant, known), known, writer)
        except BaseException as exc:
            told = b"?" + repr(exc).encode()
        finally:
            os.write(writer, told)
            end(0)

    def _first_failure(self, items: list[pytest.Item], known: Known, writer: int) -> bytes:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a test that hangs ends its process
        for number, item in enumerate(items):
            os.write(writer, f"\n{item.nodeid} ".encode())
            signal.alarm(int(20 + 10 * known.seconds[item]))
            try:
                reports = runtestprotocol(item, log=False, nextitem=items[(number + 1) % len(items)])
            except (KeyboardInterrupt, SystemExit) as exc:  # a signal that nobody listened for
                return f"!{exc!r}".encode()
            for report in reports:
                if report.failed:
                    crash = getattr(report.longrepr, "reprcrash", None)
                    return f"!{crash.message if crash else report.longrepr}".replace("\n", " ")[:200].encode()
        return b"\n"

    def _land(self, flying: dict[int, tuple[int, Mutant, list[bytes]]]) -> None:
        """Wait for some forks, and note what became of those that have ended."""
        for reader in select.select(list(flying), [], [])[0]:
            pid, mutant, said = flying[reader]
            data = os.read(reader, 1 << 16)
            if data:
                said.append(data)
                continue
            os.close(reader)
            del flying[reader]
            _, status = os.waitpid(pid, 0)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what its tests started
            self._note(mutant, b"".join(said).decode(errors="replace"), status)

    def _note(self, mutant: Mutant | None, said: str, status: int) -> None:
        last = said.rpartition("\n")[2]
        if last.startswith("?"):
            raise RuntimeError(f"{mutant}: {last}")
        is_killed = bool(last)
        if mutant is None:
            if is_killed:
                raise RuntimeError(f"without any mistake: {last}")
            return
        by = last.partition(" ")[0]
        if is_killed:
            self.killed[by] += 1
            kind = "time" if os.WIFSIGNALED(status) else "fail"
            self.log(kind, mutant.line, mutant, last)
        else:
            self.survivors.append(mutant)
            self.log("lives", mutant.line, mutant)
            if str(mutant) not in EXPLAINED:
                self.say(f"survives: line {mutant.line}: {mutant}")

    def _tell(self, seconds: float) -> None:
        killed = sum(self.killed.values())
        explained = sum(str(mutant) in EXPLAINED for mutant in self.survivors)
        total, self.left = killed + len(self.survivors), len(self.survivors) - explained
        self.say(
            f"{self.module_name}: {killed} of {total} killed, {len(self.survivors)} survive, {explained} of them explained, {seconds:.0f} seconds"
        )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("modules", nargs="*", help="of " + ", ".join(MODULES))
    arguments.add_argument("--only", default="", help="only in functions whose name has this in it")
    arguments.add_argument("--tests", nargs="+", help="other tests than those of the list in this file")
    arguments.add_argument("--jobs", type=int, default=1, help="how many mistakes are tried at once")
    arguments.add_argument("--log", type=Path, default=os.devnull, help="a file for what killed each")
    given = arguments.parse_args()
    out, left = os.fdopen(os.dup(1), "w"), 0
    with given.log.open("a") as logged, tempfile.TemporaryDirectory() as folder:
        for name in given.modules or MODULES:
            laboratory = Laboratory(f"migrator.{name}", given.only, given.jobs, out, logged)
            paths = [str(TESTS / file) for file in given.tests or MODULES[name]]
            options = [
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:timeout",
                "-p",
                "no:xdist",
                "-o",
                "addopts=",
                "--rootdir",
                str(ROOT),
            ]
            # A folder of its own: pytest's own is cleared by whoever else runs tests.
            code = pytest.main([*paths, *options, "--basetemp", f"{folder}/{name}"], plugins=[laboratory])
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                return int(code)
            left += laboratory.left
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
