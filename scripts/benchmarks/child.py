"""Runs one method in a process of its own and tells what it took: `python child.py MODULE.FUNCTION '{"cores": …, "args": …}'`.

The clock starts when the method has got ready, and stops when it has ended with all processes that it started. With `"profile": true` it
prints instead which functions its threads spent their CPU in.
"""

import cProfile
import json
import os
import pstats
import resource
import sys
import threading
import time
from importlib import import_module

from naive import Run

_SHOWN = 25  # functions of a profile


def _cpu() -> float:
    """Seconds of CPU, user and system, of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _profile(run: Run) -> None:
    """Profile all threads by the CPU that each of them takes, so that waiting for one another is nothing."""
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profile = cProfile.Profile(time.thread_time)
        try:
            profile.enable()
        except ValueError:
            return  # from Python 3.12 on the first one sees all threads
        profiles.append(profile)

    threading.setprofile(begin)  # called in each new thread, for which it then makes way
    begin()
    before = _cpu()
    items = run()
    cpu = _cpu() - before
    profiles[0].disable()
    whole = pstats.Stats(profiles[0])
    for profile in profiles[1:]:
        whole.add(profile)
    print(f"{items:,} items, {cpu:.2f} s of CPU, of which the profile itself takes the larger part")
    whole.strip_dirs().sort_stats("tottime").print_stats(_SHOWN)


def main() -> None:
    module, _, function = sys.argv[1].partition(".")
    told = json.loads(sys.argv[2])
    os.sched_setaffinity(0, told["cores"])
    for name in told["without"]:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    run = getattr(import_module(module), function)(*told["args"], **told["options"])
    if told.get("profile"):
        _profile(run)
        return
    cpu, start = _cpu(), time.perf_counter()
    items = run()
    wall = time.perf_counter() - start
    print(json.dumps({"items": items, "wall": wall, "cpu": _cpu() - cpu}))


if __name__ == "__main__":
    main()
