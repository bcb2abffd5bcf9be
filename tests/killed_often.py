"""Command lines with a death built in, each a process of its own that is forked here: what takes long, the imports, is done once.

A line of JSON on stdin is one order (see `killed.Order`) with `env`, the variables, and `cwd`. The answer is a line on stdout: `{"code": its exit
code, negative for a signal, "steps": [[sort, step of a cutover], ...], "slices": the names of those that were begun, "out", "err", "ended": when,
by the clock of time.monotonic}`.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import killed  # small pages, small slices
import migrator.adapters.sql.sink
import migrator.console  # noqa: F401
from migrator import addresses, cli, mapping_file
from migrator.adapters.dynamodb import client as dynamodb_client


def _warm() -> None:
    """What every child needs and none changes, once for all."""
    for shipped in mapping_file.shipped():
        mapping_file.load_mapping(shipped)
    killed.sqlite_library()


_clients: dict[str, dynamodb_client.Client] = {}


def _expect(args: list[str]) -> None:
    """Have the clients for a command line's tables made before it is forked: to make one takes longer than the whole run."""
    for text in args:
        if text.startswith("dynamodb://"):
            address = addresses.parse(text)
            _clients[json.dumps(address.options, sort_keys=True)] = dynamodb_client.client_of(address)


def _run(order: dict[str, Any], death: killed.Order, files: dict[int, Path]) -> None:
    """In the child: the command line, with the death built in."""
    os.setpgid(0, 0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # PR_SET_PDEATHSIG (Linux): nothing outlives a test run that is ended
    os.environ |= order["env"]
    os.chdir(order["cwd"])
    for number, path in files.items():
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    killed.lie_in_wait(death)
    cli.main(death.args)


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    _expect(order["args"])
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen"
        files = {1: Path(folder) / "out", 2: Path(folder) / "err"}
        made = dict(dynamodb_client._clients)  # they have not asked anybody anything yet
        ours = {name: value for name, value in order.items() if name not in ("env", "cwd")}
        child = os.fork()
        if not child:
            code = 70
            dynamodb_client._clients.update(made)
            try:
                _run(order, killed.Order(seen=str(seen), **ours), files)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended = time.monotonic()
        lines = [line.split() for line in seen.read_text().splitlines()] if seen.exists() else []
        return {
            "code": code,
            "steps": [line[1:] for line in lines if line[0] == "step"],
            "slices": [line[1] for line in lines if line[0] == "slice"],
            "out": files[1].read_text() if files[1].exists() else "",
            "err": files[2].read_text() if files[2].exists() else "",
            "ended": ended,
        }


if __name__ == "__main__":
    _warm()
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
