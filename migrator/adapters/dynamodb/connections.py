"""Requests over a few connections that are kept, many under way at once, on an event loop.

One request after the other on each connection, with a body. Whatever is no answer is an error, and ends its connection: who asks has another way
(`fast`). Leaves to `http` what an answer is. Knows no DynamoDB.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from functools import partial

from migrator.adapters.dynamodb.http import Answer, Inbox, request_of, server_of


class Connections:
    """Those to one URL, on one loop. `tls`: what of a server's certificate is believed, by default what the system believes.

    `connect_seconds`, `answer_seconds`: how long each is waited for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: str,
        tls: ssl.SSLContext | None,
        connect_seconds: float,
        answer_seconds: float,
    ) -> None:
        self._server = server_of(url)
        self._tls = (tls or True) if self._server.is_tls else None
        self._loop = loop
        self._connect_seconds, self._answer_seconds = connect_seconds, answer_seconds
        self.opening = 0
        """How many are being opened."""
        self.idle: list[_Connection] = []
        self.all: set[_Connection] = set()
        self._watch: asyncio.TimerHandle | None = None

    def post(self, lines: bytes, body: bytes) -> asyncio.Future[Answer]:
        """The answer, once it has come. The request is sent at once where a connection is idle, else when one more is open.

        `lines`: all its headers but the body's length. It raises OSError (TimeoutError) where no answer comes, ValueError for one that is not as they are.
        """
        request = request_of(self._server.path, b"%bcontent-length: %d\r\n" % (lines, len(body)), body)
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return self._ask(connection, request)
        return self._loop.create_task(self._by_another(request))

    async def _by_another(self, request: bytes) -> Answer:
        self.opening += 1
        try:
            async with asyncio.timeout(self._connect_seconds):
                made = partial(_Connection, self)
                _, connection = await self._loop.create_connection(
                    made, self._server.host, self._server.port, ssl=self._tls
                )
        finally:
            self.opening -= 1
        self.all.add(connection)
        return await self._ask(connection, request)

    def _ask(self, connection: _Connection, request: bytes) -> asyncio.Future[Answer]:
        if self._watch is None:
            self._look_for_late_ones()
        return connection.ask(request, self._loop.create_future(), self._loop.time() + self._answer_seconds)

    def _look_for_late_ones(self) -> None:
        now = self._loop.time()
        for connection in [each for each in self.all if each.until <= now]:
            connection.fail(TimeoutError("no answer in time"))
        self._watch = self._loop.call_later(self._answer_seconds / 8, self._look_for_late_ones)

    def cancel(self) -> None:
        """Nobody waits for an answer any more."""
        for connection in self.all:
            connection.cancel()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for connection in [*self.all]:
            connection.close()


class _Connection(asyncio.Protocol):
    """One of them, for one request at a time."""

    def __init__(self, owner: Connections) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._asked: asyncio.Future[Answer] | None = None
        self.until = math.inf
        """When, by the loop's clock, the answer is late."""
        self._inbox = Inbox()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, asked: asyncio.Future[Answer], until: float) -> asyncio.Future[Answer]:
        if self._transport is None or not self.is_open:
            asked.set_exception(ConnectionResetError("the connection has ended"))
        else:
            self._asked, self.until = asked, until
            self._transport.write(request)
        return asked

    def fail(self, error: Exception) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
        self._asked, self.until = None, math.inf
        self.close()

    def cancel(self) -> None:
        if self._asked is not None:
            self._asked.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # as the loop calls them

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(error or ConnectionResetError("the connection has ended"))
        self._transport = None
        self._owner.all.discard(self)
        if self in self._owner.idle:
            self._owner.idle.remove(self)

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._inbox.take(data)
            if answer is None:
                return
            if self._asked is None or self._asked.done():
                raise ValueError("nobody has asked")
        except ValueError as exc:
            self.fail(exc)
            return
        asked, self._asked, self.until = self._asked, None, math.inf
        if answer.is_last:
            self.close()
        else:
            self._owner.idle.append(self)
        asked.set_result(answer)
