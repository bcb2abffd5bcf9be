"""When requests to one table may be sent: who is in trouble pauses, and one alone tries again.

Knows time and turns. Leaves how fast a table may be asked to `governor`, and what trouble is to `errors`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from migrator.adapters.dynamodb.errors import GivenUp
from migrator.errors import TransientStoreError

PAUSE_BASE, PAUSE_CAP = 0.05, 20.0  # seconds
PATIENCE = 300.0  # seconds without any progress after which a call gives up


class Pace:
    """When requests may be sent. After one that brought nothing all threads pause together and one alone tries again.

    Exponential backoff with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/);
    whatever gets through ends it.
    """

    def __init__(
        self,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.clock, self.wait = clock, wait
        self._patience, self._jitter = patience, jitter
        self._lock, self._moved = threading.Lock(), threading.Condition()
        # A queue, for a plain lock would go to the thread that just failed again and again.
        self._queue: deque[object] = deque()
        self._failures = 0
        self._until = 0.0  # nothing is sent before
        self._progress = float("-inf")

    @property
    def is_clear(self) -> bool:
        """Whether nobody pauses."""
        return not self._failures

    @contextmanager
    def turn(self, stop: threading.Event) -> Iterator[None]:
        """One request may be sent inside. Raises TransientStoreError if `stop` is set meanwhile."""
        if not self._failures:
            unless(stop)
            yield
            return
        me = object()
        with self._moved:
            self._queue.append(me)
        try:
            with self._moved:
                while self._queue[0] is not me:
                    self._moved.wait(0.5)
                    unless(stop)
            while self._failures and (pause := self._until - self.clock()) > 0:
                self.rest(stop, pause)
            unless(stop)
            yield
        finally:
            with self._moved:
                self._queue.remove(me)
                self._moved.notify_all()

    def rest(self, stop: threading.Event, seconds: float | None = None) -> None:
        """Hold only this thread up: by default the shortest pause, for a batch of which a part got through."""
        self.wait(stop, self._jitter() * PAUSE_BASE if seconds is None else seconds)
        unless(stop)

    def progress(self) -> None:
        with self._lock:
            self._failures = 0
            self._progress = self.clock()

    def trouble(self, error: TransientStoreError, begun: float) -> None:
        """A request brought nothing. Raises GivenUp once nothing has got through for too long since `begun`."""
        with self._lock:
            now = self.clock()
            waited = now - max(begun, self._progress)
            if waited > self._patience:
                raise GivenUp(f"{error}; nothing got through for {waited:.0f} s: run again when it does") from error
            if self._failures and now < self._until:
                return  # sent before the pause began
            self._until = now + self._jitter() * min(PAUSE_CAP, PAUSE_BASE * 2 ** min(self._failures, 16))
            self._failures += 1


def unless(stop: threading.Event) -> None:
    if stop.is_set():
        raise TransientStoreError("the slice was given up")
