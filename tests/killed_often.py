"""Many command lines with a death built in, each a process of its own that is forked here: what takes long, the imports, is done once.

A line of JSON on stdin is one command, `{"step": n, "args": [...]}`: it ends itself by SIGKILL at its n-th fsync or rename (0: never), as `killed.py`
says. The answer is a line on stdout: `{"code": its exit code, negative for a signal, "at": the cutover's step at each fsync or rename, "err": ...}`.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed
from migrator import cli, cutting_over

_at = [""]


def _named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def begun(*args: Any) -> Any:
        _at[0] = name
        return call(*args)

    return begun


def _noted(call: Callable[..., Any], at: Path) -> Callable[..., Any]:
    def noted(*args: Any, **options: Any) -> Any:
        with at.open("a") as file:
            file.write(f"{_at[0]}\n")
        return call(*args, **options)

    return noted


def _run(step: int, args: list[str], at: Path, err: Path) -> None:
    """In the child: the command line, with the death built in."""
    for stream, number in ((err, 2), (Path(os.devnull), 1)):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    for name in cutting_over.STEPS:
        attribute = f"_{name.replace('-', '_')}"
        step_of = getattr(cutting_over._Cutover, attribute)
        setattr(cutting_over._Cutover, attribute, _named(name, step_of))
    os.fsync = _noted(killed._deadly(os.fsync, step, "one"), at)
    os.replace = _noted(killed._deadly(os.replace, step, "one"), at)
    Path.replace = _noted(killed._deadly(Path.replace, step, "one"), at)  # type: ignore[method-assign]
    cli.main(args)


for line in sys.stdin:
    order = json.loads(line)
    with tempfile.TemporaryDirectory() as folder:
        at, err = Path(folder) / "at", Path(folder) / "err"
        child = os.fork()
        if not child:
            code = 70
            try:
                _run(order["step"], order["args"], at, err)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        names = at.read_text().splitlines() if at.exists() else []
        answer = {"code": code, "at": names, "err": err.read_text() if err.exists() else ""}
    print(json.dumps(answer), flush=True)
