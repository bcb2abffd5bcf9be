"""Requests over a few connections that are kept, on an event loop: HTTP as DynamoDB speaks it, and no more of it.

One request after the other on each connection, with a body; an answer has a length and comes whole. Whatever is not so is an error, and ends its
connection: who asks has another way (`fast`). Knows no DynamoDB.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

_HEAD = 1 << 16  # bytes of headers that are waited for
_FIRST_LINE = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)(?: .*)?")


class Answer(NamedTuple):
    """`headers` are by lower-case names."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connections:
    """Those to one URL. `tls`: what of a server's certificate is believed, by default what the system believes.

    `connect_seconds`, `answer_seconds`: how long each is waited for.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None, connect_seconds: float, answer_seconds: float) -> None:
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if is_tls else 80)
        self._tls = (tls or True) if is_tls else None
        self._path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        self._connect_seconds, self._answer_seconds = connect_seconds, answer_seconds
        self.opening = 0
        """How many are being opened."""
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def post(self, headers: dict[str, str], body: bytes) -> Answer:
        """Raises OSError (TimeoutError) where no answer comes, ValueError for one that is not as they are."""
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"POST {self._path} HTTP/1.1\r\n{''.join(lines)}accept-encoding: identity\r\ncontent-length: {len(body)}\r\n\r\n"
        connection = self._idle.pop() if self._idle else await self._opened()
        answer = await connection.ask(head.encode("ascii") + body, self._answer_seconds)
        if connection.is_open:
            self._idle.append(connection)
        return answer

    async def _opened(self) -> _Connection:
        loop = asyncio.get_running_loop()
        self.opening += 1
        try:
            async with asyncio.timeout(self._connect_seconds):
                made = partial(_Connection, self._gone)
                _, connection = await loop.create_connection(made, self._host, self._port, ssl=self._tls)
        finally:
            self.opening -= 1
        self._all.add(connection)
        return connection

    def _gone(self, connection: _Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        for connection in [*self._all]:
            connection.close()


class _Connection(asyncio.Protocol):
    """One of them, for one request at a time; it tells `gone` when it is over."""

    def __init__(self, gone: Callable[[_Connection], None]) -> None:
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._asked: asyncio.Future[Answer] | None = None
        self._received = b""
        self._wanted = 0  # bytes that a whole answer has, once its head has come

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, seconds: float) -> Answer:
        if self._transport is None or not self.is_open:
            raise ConnectionResetError("the connection has ended")
        loop = asyncio.get_running_loop()
        self._asked = loop.create_future()
        late = loop.call_later(seconds, self._fail, TimeoutError("no answer in time"))
        self._transport.write(request)
        try:
            return await self._asked
        finally:
            late.cancel()
            if not self._asked.done() or self._asked.cancelled():
                self.close()  # who asked has given up: what comes is nobody's
            self._asked = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
        self.close()

    # as the loop calls them

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the connection has ended"))
        self._transport = None
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data if self._received else data
        if not self._wanted:
            end = received.find(b"\r\n\r\n")
            if end < 0 and len(received) < _HEAD:
                return
            try:
                self._status, self._headers, length = _head(received[: max(end, 0)])
            except ValueError as exc:
                self._fail(exc)
                return
            self._begins, self._wanted = end + 4, end + 4 + length
        if len(received) < self._wanted:
            return
        if len(received) > self._wanted or self._asked is None or self._asked.done():
            self._fail(ValueError("more came than an answer"))
            return
        answer = Answer(self._status, self._headers, received[self._begins :])
        self._received, self._wanted = b"", 0
        if self._headers.get(b"connection", b"").lower() == b"close":
            self.close()
        self._asked.set_result(answer)


def _head(text: bytes) -> tuple[int, dict[bytes, bytes], int]:
    """Status, headers and length of an answer that begins so. Raises ValueError for one that is not as DynamoDB's are."""
    first, *lines = text.split(b"\r\n")
    named = [line.partition(b":") for line in lines]
    headers = {name.lower(): value.strip() for name, _, value in named}
    status, length = _FIRST_LINE.fullmatch(first), headers.get(b"content-length", b"")
    lengths = sum(name.lower() in (b"content-length", b"transfer-encoding") for name, _, _ in named)
    if not status or not length.isdigit() or lengths != 1:
        raise ValueError("an answer that is not DynamoDB's")
    return int(status[1]), headers, int(length)
