"""Who does the work of a run, how it is told to stop, and how it lives: threads or processes, signals, the collector of garbage.

Knows nothing of stores and slices: `engine` submits what is to be done and waits for it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from migrator.checkpoint import State
from migrator.errors import Interrupted

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")

_YOUNG = 20_000
"""Objects that come before garbage is looked for."""


class Crew:
    """The workers of a run, by numbers from 0: threads, or spawned processes that die with the coordinator.

    A worker does one thing after the other, with the stores that it has open; of an executor that was given, whichever worker is free. A worker
    process watches a pipe to the coordinator and ends at once when that closes (on Linux the kernel kills it, too), holds a lock that a resumed run
    waits for, and leaves Ctrl-C to the coordinator.
    """

    def __init__(self, workers: int, processes: bool, state: State, executor: Executor | None = None) -> None:
        self.workers = workers
        self._at_work: set[Future[Any]] = set()
        self._ours: Connection | None = None
        self._executors: list[Executor]
        self._is_given = executor is not None
        if executor is not None:
            self._executors = [executor] * workers
        elif processes and workers > 1:
            import multiprocessing  # most runs have one worker, and it takes long
            from concurrent.futures import ProcessPoolExecutor

            context = multiprocessing.get_context("spawn")
            theirs, self._ours = context.Pipe(duplex=False)
            started_with = theirs, str(state.path.parent), state.name, os.getpid()
            self._executors = [
                ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker, initargs=started_with)
                for _ in range(workers)
            ]
            with _deaf_to_ctrl_c():
                for each in self._executors:
                    each.submit(int)  # starts it
        else:
            self._executors = [ThreadPoolExecutor(1, "migrator") for _ in range(workers)]

    @property
    def are_processes(self) -> bool:
        return self._ours is not None

    def submit(self, worker: int, call: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """As an executor's, to that worker; whatever is submitted is ended before the crew is."""
        future = self._executors[worker].submit(call, *arguments)
        self._at_work.add(future)
        future.add_done_callback(self._at_work.discard)
        return future

    def end_at_once(self) -> None:
        """End worker processes now, whatever they do."""
        if self._ours is not None:
            self._ours.close()

    def close(self) -> None:
        """Wait for what is at work, and let the workers go.

        Processes are ended at once, as they have nothing more to do and would take a tenth of a second to say goodbye.
        """
        wait(tuple(self._at_work))
        if not self._is_given:
            self.end_at_once()
            for each in self._executors:
                each.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started inside never hear it, not even before they have come to ignore it: they would leave tracebacks."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # or it would be started within, and unblock what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_held: list[Any] = []
"""In a worker process: the lock that says that it lives."""


def _start_worker(pipe: Connection, state_root: str, state_name: str, coordinator: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _held.append(State(Path(state_root), state_name).hold_worker_lock())
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    collect_rarely()
    if os.getppid() != coordinator:
        os._exit(1)


def _end_with(pipe: Connection) -> None:
    with suppress(EOFError, OSError):
        pipe.recv_bytes()
    os._exit(1)


class Stop:
    """Ctrl-C and SIGTERM: the first lets the slices in flight finish, the second ends at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.on_first: Callable[[], None] = lambda: None
        self.on_second: Callable[[], None] = lambda: None

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, _frame: object) -> None:
        if self.signal_number is not None:
            self.on_second()
            os._exit(128 + number)
        self.signal_number = number
        self.on_first()

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted("stopped by a signal", self.signal_number)


class _Garbage:
    """How often Python looks for cyclic garbage, while runs are under way in any thread of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._before = gc.get_threshold()

    def begin(self) -> None:
        with self._lock:
            if not self._runs:
                self._before = gc.get_threshold()
                if 0 < self._before[0] < _YOUNG:
                    gc.set_threshold(_YOUNG, *self._before[1:])
            self._runs += 1

    def end(self) -> None:
        with self._lock:
            self._runs -= 1
            if not self._runs:
                gc.set_threshold(*self._before)


_garbage = _Garbage()


def collect_rarely() -> Callable[[], None]:
    """Look for cyclic garbage less often: records hold no cycles, and to look at them all the time takes a tenth of a run. What it gives ends that.

    What somebody has set by choice stays. The last of several runs at once puts back what the first has found.
    """
    _garbage.begin()
    return _garbage.end
