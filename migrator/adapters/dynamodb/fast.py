"""Batches on their way to one table, many at once, on the thread that makes them.

Comes with the extra `fast`. The event loop runs only while its thread has nothing better to do: what goes out and what comes back
waits in the kernel's buffers meanwhile, and no second thread takes turns with the first. Mends nothing: whatever is no answer that all is stored is
given back, and goes the ordinary way, by boto3 in a thread (`Table.batches`), which waits, repeats, and says what is the matter. So both ways have
one pace, one governor and one set of errors. Leaves connections to `connections`, signatures to `signing`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from migrator.adapters.dynamodb import client as dynamodb_client
from migrator.adapters.dynamodb.client import Direct
from migrator.adapters.dynamodb.connections import Connections
from migrator.adapters.dynamodb.governor import Permit
from migrator.adapters.dynamodb.http import Answer
from migrator.adapters.dynamodb.requests import Table
from migrator.adapters.dynamodb.values import Item
from migrator.adapters.dynamodb.wire import Puts, body_of

CONNECTIONS = 64  # requests under way at once: all of a page, so that nobody waits for answers while the next is made
FIRST = 4  # so many at first, and after trouble; each that is answered makes room for one more
BYTES = 8 << 20  # of bodies under way, or one
PORTION = 4  # batches that are made before the loop runs
STEPS = 8  # of the loop while a connection is being opened; what is not open after them has to wait for the network
ODD = 8  # answers that were none, after which all goes by boto3: what is between may always be so
STALE = 1.0  # seconds without a step of the loop, after which connections may have ended unheard

_WRITE = "batch_write_item"
_decoded = msgspec.json.Decoder(dict[str, Any]).decode

Done = Callable[[list[Item] | None], None]
"""Told of each batch once: those of its items that are not stored; None where that is not known."""


def opened(table: Table) -> Lane | None:
    """None where boto3 has to do it: in a thread that runs an event loop already, or where `Table.direct` is none."""
    direct = None if _is_in_loop() else table.client.direct(table.name)
    return Lane(table, direct) if direct is not None else None


class Lane:
    """The batches of one thread."""

    def __init__(self, table: Table, direct: Direct) -> None:
        self._table, self._direct = table, direct
        self._loop = asyncio.new_event_loop()
        seconds = dynamodb_client.CONNECT_SECONDS, dynamodb_client.ANSWER_SECONDS
        self._connections = Connections(self._loop, direct.url, direct.tls, *seconds)
        self.close = weakref.finalize(self, _close, self._loop, self._connections)
        self._under_way: dict[asyncio.Future[Answer], int] = {}
        self._bytes, self._room = 0, FIRST
        self._odd = 0  # answers that were none
        self._waiting = 0  # batches made since the loop ran
        self._most = -1
        self._ran = self._loop.time()
        self._error: BaseException | None = None

    def send(self, puts: Puts, units: float, done: Done) -> bool:
        """Send a batch that takes so many units, once there is room for it; False if it would have to wait for better times, or for good."""
        if self._odd >= ODD:
            return False
        if self._loop.time() - self._ran > STALE:
            self._step()  # to hear which connections have ended since
        while len(self._under_way) >= self._room or self._bytes >= BYTES:
            self.wait(max(0, len(self._under_way) - PORTION))
        permit = self._table.leave(_WRITE, units)
        if permit is None:
            return False
        body = body_of(self._table.name, puts, "TOTAL")
        try:
            asked = self._ask(body)
        except Exception:
            self._room = FIRST
            done(None)  # no credentials, or what nobody foresaw: boto3 takes over
            return True
        self._under_way[asked] = len(body)
        self._bytes += len(body)
        asked.add_done_callback(partial(self._heard, puts, permit, done))
        self._waiting += 1
        if self._waiting >= PORTION:
            self.turn()
        return True

    @property
    def is_busy(self) -> bool:
        """Whether a batch is under way."""
        return bool(self._under_way)

    def turn(self) -> None:
        """Let go what is made, and hear what has come."""
        for _ in range(STEPS):
            if self._under_way:
                self._step()
            if not self._connections.opening:
                break

    def _step(self) -> None:
        self._loop.call_soon(self._loop.stop)
        self._run(-1)

    def wait(self, most: int = 0) -> None:
        """Until no more than so many batches are under way."""
        while len(self._under_way) > most:
            self._run(most)

    def _run(self, most: int) -> None:
        self._most, self._waiting = most, 0
        self._loop.run_forever()
        self._ran = self._loop.time()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _ask(self, body: bytes) -> asyncio.Future[Answer]:
        return self._connections.post(self._direct.signer.lines(body, self._direct.credentials()), body)

    def _heard(self, puts: Puts, permit: Permit, done: Done, asked: asyncio.Future[Answer]) -> None:
        self._bytes -= self._under_way.pop(asked)
        if not asked.cancelled():
            try:
                left = self._left(puts, permit, asked)
                self._room = FIRST if left is None else min(self._room + 1, CONNECTIONS)
                done(left)
            except Exception as exc:
                self._error = self._error or exc
        if len(self._under_way) <= self._most or self._error is not None:
            self._loop.stop()

    def _left(self, puts: Puts, permit: Permit, asked: asyncio.Future[Answer]) -> list[Item] | None:
        """What of a batch is not stored; None where that is not known."""
        try:
            status, answer = _told(asked.result())
            if status != 200:
                self._table.lost(_WRITE, permit, status, str(answer.get("__type")).rpartition("#")[2])
            elif self._table.took(_WRITE, {"RequestItems": {self._table.name: puts}}, permit, answer):
                return _unprocessed(answer, self._table.name)
        except (OSError, ValueError) as exc:
            self._odd += isinstance(exc, ValueError)
            self._table.lost(_WRITE, permit, 0, "")
        except Exception:
            return None  # an answer that nobody foresaw: boto3 takes over
        return None


def _told(answer: Answer) -> tuple[int, dict[str, Any]]:
    """Status and content of an answer. Raises ValueError for one that is not DynamoDB's, or not whole."""
    crc32 = answer.headers.get(b"x-amz-crc32")
    if crc32 is not None and int(crc32) != zlib.crc32(answer.body):
        raise ValueError
    return answer.status, _decoded(answer.body)


def _unprocessed(answer: dict[str, Any], table: str) -> list[Item] | None:
    left = answer["UnprocessedItems"]
    return [each["PutRequest"]["Item"] for each in left[table]] if left else []


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _close(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Also for a lane that nobody has closed, wherever it is collected: within another loop, too."""
    if _is_in_loop():
        thread = threading.Thread(target=_close, args=(loop, connections))
        thread.start()
        thread.join()
        return
    connections.cancel()
    under_way = asyncio.all_tasks(loop)
    for task in under_way:
        task.cancel()
    loop.run_until_complete(_end(connections, under_way))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def _end(connections: Connections, under_way: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*under_way, return_exceptions=True)
    connections.close()
    for _ in range(3):
        await asyncio.sleep(0)  # transports close a step later
