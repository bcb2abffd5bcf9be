"""The command line with a death built in: `killed.py STEP WHOM ARGS...` ends itself by SIGKILL at the STEP-th fsync or rename (0: never).

WHOM is `one` (this process alone) or `group`. Pages are small, so that little data makes many slices, and worker processes are used for any
size. What the coordinator wrote is on the disk by then; what it was about to write is not. Prints nothing of its own; the last step of a run that
lives is left in the file named by KILLED_STEPS.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import migrator.adapters.base as base

base.PAGE_ROWS = 25  # before the adapters read it

import migrator.adapters.sql_source as sql_source  # noqa: E402
import migrator.cli as cli  # noqa: E402
import migrator.engine as engine  # noqa: E402
import migrator.migration as migration  # noqa: E402

engine.SLICE_PAGES = 1
sql_source._PARTITION_ROWS = 25
migration.SMALL = 0

_step = 0


def _deadly(call: Callable[..., Any], last: int, whom: str) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        global _step
        _step += 1
        if _step == last:
            os.killpg(0, signal.SIGKILL) if whom == "group" else os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return counted


if __name__ == "__main__":
    last, whom, *args = sys.argv[1:]
    os.fsync = _deadly(os.fsync, int(last), whom)
    os.replace = _deadly(os.replace, int(last), whom)
    Path.replace = _deadly(Path.replace, int(last), whom)  # type: ignore[method-assign]
    try:
        cli.main(args)
    finally:
        if "KILLED_STEPS" in os.environ:
            Path(os.environ["KILLED_STEPS"]).write_text(str(_step))
