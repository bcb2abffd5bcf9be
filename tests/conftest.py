"""Fixtures that every test may ask for: servers as endpoints, LuminoraCore's own classes. The header says what is missing.

Servers are started by services.py, once for each pytest process, when the first test asks.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import hypothesis
import pytest

import kills
import proxy
import services
from migrator.adapters import memory
from migrator.adapters.dynamodb.client import client_of
from migrator.model import Address

# A machine that others use as well is slow at times: that says nothing of the strategy. `ci` tries the same examples in every run, `nightly` new ones.
_SHARED: dict[str, Any] = {"suppress_health_check": [hypothesis.HealthCheck.too_slow], "deadline": None}
hypothesis.settings.register_profile("ci", derandomize=True, **_SHARED)
hypothesis.settings.register_profile("nightly", max_examples=2_000, print_blob=True, **_SHARED)
hypothesis.settings.load_profile("nightly" if os.environ.get("MIGRATOR_LONG") == "1" else "ci")

IN_CI = os.environ.get("CI") == "true"


def skip_for(lack: str) -> NoReturn:
    """What a test needs is not here. In CI that is an error: a skipped test is no proof."""
    if IN_CI:
        pytest.fail(f"{lack}; in CI it must be there")
    pytest.skip(lack, allow_module_level=True)


def needed(package: str) -> ModuleType:
    """A package that migrator does without, and a test does not."""
    try:
        return import_module(package)
    except ImportError:
        skip_for(f"{package} is not installed")


def pytest_report_header() -> list[str]:
    absent = {server: services.lack_of(server) for server in services.servers()}
    if not services.LUMINORACORE.is_dir():
        absent["luminoracore"] = "no folder ../shared/luminoracore-sdk"
    here = ["moto", *(server for server in services.servers() if not absent[server])]
    skipped = [f"{name} ({why})" for name, why in absent.items() if why]
    return [f"servers: {', '.join(here)}", f"not run: {', '.join(skipped) or 'nothing'}"]


@pytest.fixture(scope="session", autouse=True)
def _nobodys_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.clean_environment().items():
            if value is None:
                patch.delenv(name)
            else:
                patch.setenv(name, value)
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_tables_of_another_module() -> Iterator[None]:
    yield
    services.empty_moto()


def _endpoint(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if lack := services.lack_of(server):
        skip_for(f"{server}: {lack}")
    with (
        services.running(server, tmp_path_factory.mktemp(server)) as port,
        _client_at(f"http://127.0.0.1:{port}") as endpoint,
    ):
        yield endpoint


@contextmanager
def _client_at(endpoint: str) -> Iterator[str]:
    """Whoever opens a table there in an environment as the tests have it finds a client that is made: to make one takes longer than many a test."""
    held = [
        client_of(Address("dynamodb", "dynamodb", endpoint, "t", options | {"endpoint": endpoint}))
        for options in ({}, {"region": "eu-west-1"})
    ]
    yield endpoint
    held.clear()


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    with services.moto() as port, _client_at(f"http://127.0.0.1:{port}") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def dynamodb_local_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _endpoint("dynamodb-local", tmp_path_factory)


@pytest.fixture(scope="session")
def dynalite_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _endpoint("dynalite", tmp_path_factory)


@pytest.fixture(scope="session", params=["moto", "dynamodb_local", "dynalite"])
def dynamodb_endpoint(request: pytest.FixtureRequest) -> str:
    """Each server that speaks DynamoDB, in turn. Tables stay until the module or the run ends: name yours so that none meets another."""
    return str(request.getfixturevalue(f"{request.param}_endpoint"))


@pytest.fixture(scope="module")
def killer() -> Iterator[kills.Killer]:
    """Starts command lines with a death built in; their pages and slices are small."""
    with kills.killing(kills.PAGE) as killer:
        yield killer


@pytest.fixture(scope="module")
def between(moto_endpoint: str) -> Iterator[proxy.Proxy]:
    """Stands before moto, and counts."""
    with proxy.before(moto_endpoint) as between:
        yield between


@pytest.fixture
def own_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State folders of this test's own: the jobs', and that of locks by a sink's name."""
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Two memory stores that nobody else has."""
    pair = f"{request.node.name}-a", f"{request.node.name}-b"
    for name in pair:
        memory.forget(name)
    yield pair
    for name in pair:
        memory.forget(name)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1 and its key, signed by itself."""
    if shutil.which("openssl") is None:
        skip_for("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=own",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path) + ".crt"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture(scope="session")
def luminoracore() -> ModuleType:
    """LuminoraCore's loader: `luminoracore.storage("sqlite_flexible")` is its module session/storage_sqlite_flexible.py."""
    if not services.LUMINORACORE.is_dir():
        pytest.skip("luminoracore: no folder ../shared/luminoracore-sdk")
    return services.load_by_path("luminoracore_load", services.LUMINORACORE / "load.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many kills there were, from the tests that recorded theirs as [points, resumes]."""
    reports = [report for report in terminalreporter.stats.get("passed", []) if report.when == "call"]
    kills = [value for report in reports for name, value in report.user_properties if name == "kills"]
    if kills:
        points, resumes = (sum(each) for each in zip(*kills, strict=True))
        terminalreporter.write_line(f"kills: {points} points in {len(kills)} tests, {resumes} resumed to a clean end")
