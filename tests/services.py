"""Starts servers for the tests, each on a free loopback port, and stops them again.

Knows processes and ports; scripts/services knows how each server is started. conftest.py makes fixtures of these.
"""

import importlib.machinery
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
LUMINORACORE = ROOT.parent / "shared" / "luminoracore-sdk"
_SCRIPT = ROOT / "scripts" / "services"


def load_by_path(name: str, path: Path) -> ModuleType:
    """The module in that file, whatever the file's suffix."""
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


_services = load_by_path("migrator_services", _SCRIPT)


def lack_of(server: str) -> str | None:
    """Why that server cannot start here, or None."""
    lack: str | None = _services.SERVICES[server].lacks()
    return lack


def servers() -> list[str]:
    return list(_services.SERVICES)


@contextmanager
def running(server: str, folder: Path) -> Iterator[int]:
    """Run it in that folder until the block ends; yields its port. Raises with its output if it does not come up."""
    log = folder / f"{server}.log"
    for _ in range(3):  # a port that was free may be taken by the time the server asks for it
        port = _free_port()
        with log.open("wb") as output:
            command = [sys.executable, str(_SCRIPT), "start", server, "--port", str(port), "--with-parent"]
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            if _answers(port, process):
                yield port
                return
        finally:
            _stop(process)
    raise RuntimeError(f"{server} does not come up:\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def moto() -> Iterator[int]:
    """Run moto's server in a thread of this process until the block ends; yields its port."""
    from moto.server import ThreadedMotoServer

    import moto_server  # noqa: F401  # mends it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request takes longer than some of them
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    _motos.add(port)
    try:
        yield port
    finally:
        _motos.remove(port)
        server.stop()


_motos: set[int] = set()


def empty_moto() -> None:
    """Forget all tables of moto's: they would stay in this process, a gigabyte of them at the end of a run."""
    for port in _motos:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=60).close()


def clean_environment() -> dict[str, str | None]:
    """What makes tests meet no account, profile, proxy or setting of whoever runs them; None is a variable to unset."""
    ours = {name: None for name in os.environ if name.startswith(("AWS_", "LUMINORA_", "MIGRATOR_CONFIG"))}
    return ours | {
        "XDG_CONFIG_HOME": str(ROOT / "no-settings-of-a-user"),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "MIGRATOR_FAST": "0",  # tests say which way to a table they mean, whatever is installed
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int, process: subprocess.Popen[bytes], within: float = 60) -> bool:
    """Whether this very process listens there: one that ended lost the port to another."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            time.sleep(0.2)
            return process.poll() is None
        if process.poll() is not None:
            return False
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
