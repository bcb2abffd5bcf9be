"""Cutovers with a death built in, each a process of its own that is forked here: what takes long, the imports, is done once.

A line of JSON on stdin is one command line, `{"at": step, "nth": n, "env": {...}, "args": [...]}`: it ends itself by SIGKILL at the n-th fsync or rename
within that step of the cutover (0: never), as `killed.py` says. The answer is a line on stdout: `{"code": its exit code, negative for a signal,
"steps": the cutover's step at each fsync or rename, "err": its stderr}`.
"""

import functools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed  # small pages, small slices
from migrator import cli, cutting_over, mapping_file

assert killed.base.PAGE_ROWS == 25
mapping_file.load_mapping = functools.cache(mapping_file.load_mapping)
for shipped in mapping_file.shipped():
    mapping_file.load_mapping(shipped)  # once for all children

_now = [""]


def _named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def begun(*args: Any) -> Any:
        _now[0] = name
        return call(*args)

    return begun


def _deadly(call: Callable[..., Any], at: str, nth: int, seen: Path) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        with seen.open("a") as file:
            file.write(f"{_now[0]}\n")
        if nth and _now[0] == at and seen.read_text().splitlines().count(at) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return counted


def _run(order: dict[str, Any], seen: Path, err: Path) -> None:
    """In the child: the command line, with the death built in."""
    os.environ |= order["env"]
    for stream, number in ((err, 2), (Path(os.devnull), 1)):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    for name in cutting_over.STEPS:
        attribute = f"_{name.replace('-', '_')}"
        setattr(cutting_over._Cutover, attribute, _named(name, getattr(cutting_over._Cutover, attribute)))
    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "replace")):
        setattr(owner, name, _deadly(getattr(owner, name), order["at"], order["nth"], seen))
    cli.main(order["args"])


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        seen, err = Path(folder) / "seen", Path(folder) / "err"
        child = os.fork()
        if not child:
            code = 70
            try:
                _run(order, seen, err)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        steps = seen.read_text().splitlines() if seen.exists() else []
        return {"code": code, "steps": steps, "err": err.read_text()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
