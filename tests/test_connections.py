"""The connections that batches go by when many go at once: what is not an answer as DynamoDB gives it is an error, never an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.adapters.dynamodb.connections import Connections
from migrator.adapters.dynamodb.http import Answer

WHOLE = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nx-amz-crc32: 5\r\n\r\n{}"
Work = Callable[[Connections], Awaitable[object]]


class Scripted(asyncio.Protocol):
    """A server that answers each request with what it was given, in pieces, and counts its connections."""

    def __init__(self, served: Served) -> None:
        self.served, self.received = served, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.served.connections += 1

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, behind, body = self.received.partition(b"\r\n\r\n")
        if behind and len(body) == int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self.served.requests.append(self.received)
            self.received = b""
            asyncio.get_running_loop().create_task(self.answer())

    async def answer(self) -> None:
        for piece in self.served.pieces:
            if piece is None:
                self.transport.close()
            else:
                self.transport.write(piece)
                await asyncio.sleep(0)


class Served:
    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces, self.connections, self.requests = pieces, 0, list[bytes]()

    def run(self, work: Work, seconds: float = 30) -> object:
        async def both() -> object:
            server = await asyncio.get_running_loop().create_server(lambda: Scripted(self), "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            connections = Connections(asyncio.get_running_loop(), f"http://127.0.0.1:{port}/", None, 5, seconds)
            try:
                return await work(connections)
            finally:
                connections.close()
                server.close()

        return asyncio.run(both())


async def twice(connections: Connections) -> list[Answer]:
    return [await connections.post(b"a: b\r\n", body) for body in (b"one", b"two")]


@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=4))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes_and_its_connection_is_kept(cuts: list[int]) -> None:
    borders = [0, *sorted({*cuts}), len(WHOLE)]
    served = Served(*(WHOLE[start:end] for start, end in pairwise(borders)))
    answers = served.run(twice)
    assert answers == [Answer(200, {b"server": b"x", b"content-length": b"2", b"x-amz-crc32": b"5"}, b"{}")] * 2
    assert served.connections == 1
    assert served.requests[0] == (b"POST / HTTP/1.1\r\na: b\r\ncontent-length: 3\r\n\r\none")


@pytest.mark.parametrize(
    "said",
    [
        (b"",),
        (WHOLE[:10],),
        (WHOLE[:-1],),
        (WHOLE + b"more", b"x"),
        (WHOLE.replace(b"Content-Length: 2\r\n", b""), b"x"),
        (WHOLE.replace(b"2\r\nx", b"2\r\nContent-Length: 2\r\nx"), b"x"),
        (WHOLE.replace(b"2\r\nx", b"2\r\nTransfer-Encoding: chunked\r\nx"), b"x"),
        (WHOLE.replace(b"Length: 2", b"Length: -2"), b"x"),
        (WHOLE.replace(b"HTTP/1.1 200", b"HTTP/1.1 100"), b"x"),
        (WHOLE.replace(b"HTTP/1.1", b"HTTP/2"), b"x"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", b"x"),
        (b"x" * (1 << 17), b"x"),
    ],
    ids=lambda said: said[0][:60],
)  # fmt: skip
def test_what_is_no_whole_answer_is_an_error_and_ends_its_connection(said: tuple[bytes, ...]) -> None:
    served = Served(*said, None)

    async def work(connections: Connections) -> object:
        for _ in range(2):
            with pytest.raises((OSError, ValueError)):
                await connections.post(b"", b"one")
        return connections.all

    assert served.run(work) == set()
    assert served.connections == 2


def test_what_comes_behind_a_whole_answer_is_nobodys() -> None:
    async def work(connections: Connections) -> object:
        with suppress(ValueError):  # where it comes in one piece with the answer
            await connections.post(b"", b"one")
        while connections.all:
            await asyncio.sleep(0.001)
        return connections.idle

    assert Served(WHOLE, WHOLE).run(work) == []


def test_the_answer_to_the_request_before_is_none_to_the_next() -> None:
    """As a proxy may send it that repeats itself; DynamoDB numbers the requests that it answers."""
    numbered = WHOLE.replace(b"Server: x", b"x-amzn-RequestId: A")

    async def work(connections: Connections) -> object:
        first = await connections.post(b"", b"one")
        with pytest.raises(ValueError, match="the request before"):
            await connections.post(b"", b"two")
        return first.status, connections.idle, (await connections.post(b"", b"three")).status

    served = Served(numbered)
    assert (served.run(work), served.connections) == ((200, [], 200), 2)


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_was_said() -> None:
    async def work(connections: Connections) -> None:
        with pytest.raises(TimeoutError):
            await connections.post(b"", b"one")

    served = Served()
    served.run(work, 0.05)
    assert len(served.requests) == 1


def test_a_connection_that_its_server_ends_is_not_used_again() -> None:
    async def work(connections: Connections) -> object:
        answers = []
        for _ in range(3):
            answers.append((await connections.post(b"", b"one")).status)
            while connections.idle:
                await asyncio.sleep(0.001)
        return answers

    served = Served(WHOLE, None)
    assert served.run(work) == [200] * 3
    assert served.connections == 3


def test_a_server_that_says_close_is_believed() -> None:
    async def work(connections: Connections) -> object:
        return [(await connections.post(b"", b"one")).status, connections.idle]

    assert Served(WHOLE.replace(b"Server: x", b"Connection: Close")).run(work) == [200, []]


def test_many_requests_at_once_have_a_connection_each_and_keep_them() -> None:
    async def work(connections: Connections) -> object:
        for _ in range(3):
            answers = await asyncio.gather(*[connections.post(b"", b"one") for _ in range(5)])
            assert [answer.status for answer in answers] == [200] * 5
        return len(connections.idle)

    served = Served(WHOLE)
    assert (served.run(work), served.connections) == (5, 5)


def test_an_https_address_is_never_spoken_to_in_the_clear() -> None:
    """Whatever the server says: without a certificate nothing is sent."""

    async def work(connections: Connections) -> None:
        secure = Connections(asyncio.get_running_loop(), f"https://127.0.0.1:{connections._server.port}/", None, 5, 5)
        with pytest.raises(OSError):
            await secure.post(b"", b"one")

    served = Served(WHOLE, None)
    with suppress(ValueError):
        served.run(work)
    assert served.requests == []
