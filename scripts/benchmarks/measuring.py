"""Runs a command once and measures it from outside: time, CPU seconds of it and of its children, peak memory of the whole tree."""

import ctypes
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.1  # seconds between two looks at the memory


@dataclass(frozen=True)
class Took:
    """One run. Seconds, and bytes at their peak: proportional set size (shared pages divided among those who share) and resident set size.

    `items` is what the method says it moved; `wall` and `cpu` are its own clock's, or of a whole command from its start to its end.
    """

    items: int
    wall: float
    cpu: float
    pss: int
    rss: int


@dataclass(frozen=True)
class Ended:
    """A command that has ended: what it printed, and what the whole of it took."""

    code: int
    stdout: str
    stderr: str
    wall: float
    cpu: float
    pss: int
    rss: int


def run(command: list[str], environment: dict[str, str], cores: tuple[int, ...], folder: Path) -> Ended:
    """Run a command on these cores, in that folder."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            preexec_fn=lambda: _ready(cores),
        )
        peak = _Peak(process.pid)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            peak.end()
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    # The kernel's own peak is of the largest single process, but misses nothing.
    rss = max(peak.rss, used.ru_maxrss * 1024)
    cpu = used.ru_utime + used.ru_stime
    return Ended(process.returncode, texts[0], texts[1], wall, cpu, peak.pss or rss, rss)


def _ready(cores: tuple[int, ...]) -> None:
    """In the new process: keep to these cores, and end with whoever started it, also when that is killed."""
    os.sched_setaffinity(0, cores)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class _Peak:
    """Looks at the memory of a process and all below it, again and again, until it is told to end."""

    def __init__(self, pid: int) -> None:
        self.pss = self.rss = 0
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            pss = rss = 0
            for pid in _tree(self._pid):
                with suppress(OSError, LookupError):  # it has ended meanwhile
                    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
                    sizes = dict(line.split(":", 1) for line in told.splitlines()[1:])
                    pss += int(sizes["Pss"].split()[0]) * 1024
                    rss += int(sizes["Rss"].split()[0]) * 1024
            self.pss, self.rss = max(self.pss, pss), max(self.rss, rss)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))
