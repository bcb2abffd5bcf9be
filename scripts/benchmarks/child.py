"""Runs one method in a process of its own and tells what it took: `python child.py MODULE.FUNCTION '{"cores": …, "args": …}'`.

The clock starts when the method has got ready, and stops when it has ended with all processes that it started.
"""

import json
import os
import resource
import sys
import time
from importlib import import_module


def _cpu() -> float:
    """Seconds of CPU, user and system, of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    module, _, function = sys.argv[1].partition(".")
    told = json.loads(sys.argv[2])
    os.sched_setaffinity(0, told["cores"])
    for name in told["without"]:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    run = getattr(import_module(module), function)(*told["args"], **told["options"])
    cpu, start = _cpu(), time.perf_counter()
    items = run()
    wall = time.perf_counter() - start
    print(json.dumps({"items": items, "wall": wall, "cpu": _cpu() - cpu}))


if __name__ == "__main__":
    main()
