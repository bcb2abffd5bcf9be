"""The connections that boto3's own batches go by: the requests are boto3's, an answer is whole or none, and boto3 sends what cannot be sent here."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.awsrequest import AWSPreparedRequest
from hypothesis import given
from hypothesis import strategies as st

import endpoint
from migrator.adapters.dynamodb import transport as dynamodb_transport
from migrator.adapters.dynamodb.requests import Table
from migrator.adapters.dynamodb.transport import Transport
from migrator.adapters.dynamodb.wire import Puts, Wire, item_json
from migrator.model import Address
from test_connections import WHOLE
from test_wire import items_of_many_types

BODY = b'{"RequestItems":{}}'


class Scripted:
    """A server that answers each request with the next of these pieces; None: the connection ends there."""

    def __init__(self, *answers: tuple[bytes | None, ...]) -> None:
        self.answers, self.connections, self.requests = [*answers], 0, list[bytes]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        received = b""
        with suppress(OSError), connection:
            while data := connection.recv(1 << 16):
                received += data
                if received.endswith(BODY):
                    self.requests.append(received)
                    received = b""
                    for piece in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
                        if piece is None:
                            connection.shutdown(socket.SHUT_RDWR)
                            return
                        connection.sendall(piece)

    def close(self) -> None:
        for each in (self._listening, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


Serve = Callable[..., Scripted]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Scripted] = []

    def begin(*answers: tuple[bytes | None, ...]) -> Scripted:
        made.append(Scripted(*answers))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def no_tls() -> ssl.SSLContext:
    raise AssertionError("nobody asked for https")


def transport(answer_seconds: float = 30) -> Transport:
    return Transport(no_tls, 5, answer_seconds)


def asked(url: str) -> AWSPreparedRequest:
    return AWSPreparedRequest("POST", url, {"X-Amz-Date": b"now", "Content-Length": str(len(BODY))}, BODY, False)


# Answers ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=4))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes_and_its_connection_is_kept(cuts: list[int]) -> None:
    borders = [0, *sorted({*cuts}), len(WHOLE)]
    served, sent = Scripted(tuple(WHOLE[start:end] for start, end in pairwise(borders))), transport()
    for _ in range(2):
        answer = sent.send(asked(served.url))
        assert (answer.status_code, answer.content, answer.headers["X-Amz-CRC32"]) == (200, b"{}", "5")
    assert served.connections == 1
    host = served.url.split("/")[2]
    assert (
        served.requests[0]
        == (
            f"POST / HTTP/1.1\r\nhost: {host}\r\nX-Amz-Date: now\r\nContent-Length: 19\r\naccept-encoding: identity\r\n\r\n"
        ).encode()
        + BODY
    )
    sent.close()
    served.close()


@pytest.mark.parametrize("said", [(), (WHOLE[:10],), (WHOLE[:-1],)], ids=["nothing", "a head begun", "but a byte"])
def test_half_an_answer_is_the_error_that_boto3_has_for_it(said: tuple[bytes, ...], serve: Serve) -> None:
    served, sent = serve((*said, None)), transport()
    with pytest.raises(boto.ConnectionClosedError):
        sent.send(asked(served.url))
    assert (served.connections, len(served.requests)) == (1, 1)
    sent.close()


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_was_said(serve: Serve) -> None:
    served, sent = serve(()), transport(0.05)
    with pytest.raises(boto.ReadTimeoutError):
        sent.send(asked(served.url))
    assert (served.connections, len(served.requests)) == (1, 1)
    sent.close()


@pytest.mark.parametrize(
    "said",
    [
        WHOLE + b"more",
        WHOLE.replace(b"2\r\nx", b"2\r\nTransfer-Encoding: chunked\r\nx"),
        WHOLE.replace(b"HTTP/1.1", b"HTTP/2"),
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
    ids=["more than one", "of no length", "HTTP/2", "ssh"],
)
def test_a_server_that_answers_as_dynamodb_does_not_is_boto3s_from_then_on(said: bytes, serve: Serve) -> None:
    served, sent = serve((said,)), transport()
    assert [sent.send(asked(served.url)) for _ in range(3)] == [None] * 3
    assert len(served.requests) == 1
    sent.close()


# Connections -----------------------------------------------------------------------------------------------------------


def test_what_was_asked_over_a_kept_connection_that_ended_is_asked_once_more_over_another(serve: Serve) -> None:
    served, sent = serve((WHOLE, None), (WHOLE,), (None,), (WHOLE,), (WHOLE[:20], None), (WHOLE,)), transport()
    for connections, requests in ((1, 1), (2, 2), (3, 4)):
        assert sent.send(asked(served.url)).status_code == 200
        assert (served.connections, len(served.requests)) == (connections, requests)
        time.sleep(0.05)  # until the end of the first has come
    with pytest.raises(boto.ConnectionClosedError):  # an answer has begun: it may be the last that comes
        sent.send(asked(served.url))
    assert sent.send(asked(served.url)).status_code == 200
    sent.close()


def test_a_server_that_says_close_is_believed(serve: Serve) -> None:
    served, sent = serve((WHOLE.replace(b"Server: x", b"Connection: Close"),)), transport()
    assert [sent.send(asked(served.url)).status_code for _ in range(2)] == [200] * 2
    assert served.connections == 2
    sent.close()


def test_several_threads_have_a_connection_each_and_keep_them() -> None:
    meeting = threading.Barrier(4)

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        meeting.wait(30)
        return 200, body

    with endpoint.answering(answer) as url, ThreadPoolExecutor(4) as pool:
        sent = transport()
        for _ in range(3):
            answers = [*pool.map(sent.send, [asked(url) for _ in range(4)])]
            assert [each.content for each in answers] == [BODY] * 4
        (way,) = sent._ways.values()
        assert len(way.idle) == 4
        sent.close()
        assert way.idle == []


def test_a_kept_connection_that_another_thread_was_faster_to_take_is_nobodys_loss(serve: Serve) -> None:
    class Taken(list[Any]):
        def __bool__(self) -> bool:
            return True

    served, sent = serve((WHOLE,)), transport()
    assert sent.send(asked(served.url)).status_code == 200
    way = sent._ways[served.url]
    assert way is not None
    sent._ways[served.url] = way._replace(idle=Taken())
    assert sent.send(asked(served.url)).status_code == 200
    assert served.connections == 2
    way.idle[0].close()
    sent.close()


def test_what_cannot_be_reached_is_left_to_boto3(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = transport()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert sent.send(asked(f"http://127.0.0.1:{port}/")) is None
    assert sent.send(asked(f"http://{'a' * 70}.example/")) is None
    served = serve((WHOLE,))
    assert sent.send(asked(served.url.replace("//", "//user:password@"))) is None
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    sent = transport()
    assert sent.send(asked(served.url)) is None
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sent = transport()
    assert sent.send(asked(served.url)).status_code == 200
    assert len(served.requests) == 1
    sent.close()


# By boto3 --------------------------------------------------------------------------------------------------------------


def batch(table: Table) -> dict[str, Any]:
    puts = Puts(item_json(item) for item in items_of_many_types())
    return table.client.wire.ask("batch_write_item", {"RequestItems": {table.name: puts}})


def at(url: str) -> Table:
    return Table(Address("dynamodb", "dynamodb", "dynamodb://chat", "chat", {"region": "eu-west-1", "endpoint": url}))


@pytest.mark.parametrize("event", [True, False])
def test_a_batch_goes_by_it_as_boto3_would_have_sent_it(event: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a new boto3 has no such event any more; what that costs is time."""
    used: list[str] = []
    real = Transport.send
    monkeypatch.setattr(Transport, "send", lambda self, request: used.append(request.url) or real(self, request))
    with endpoint.answering(lambda *_: (200, b'{"UnprocessedItems":{}}')) as url:
        table = at(url)
        if not event:
            name = "before-send.dynamodb.BatchWriteItem"
            table.client.boto.meta.events.unregister(name, table.client.wire._send)
        for _ in range(2):
            told = batch(table)
            assert (told["UnprocessedItems"], told["ResponseMetadata"]["HTTPStatusCode"]) == ({}, 200)
        assert used == [f"{url}/"] * (2 * event)
        table.close()


def test_headers_are_those_that_boto3_sends_itself() -> None:
    heard: list[dict[str, str]] = []

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        heard.append({name.lower(): value for name, value in headers.items()})
        return 200, b'{"UnprocessedItems":{}}'

    with endpoint.answering(answer) as url:
        table = at(url)
        batch(table)
        events = table.client.boto.meta.events
        events.unregister("before-send.dynamodb.BatchWriteItem", table.client.wire._send)
        batch(table)
        table.close()
    ours, boto3s = heard
    of_one = {"amz-sdk-invocation-id", "authorization", "x-amz-date"}
    assert ours.keys() == boto3s.keys()
    assert {name: ours[name] for name in ours.keys() - of_one} == {name: boto3s[name] for name in ours.keys() - of_one}


@pytest.mark.parametrize("said", [400, 500])
def test_an_error_is_boto3s_as_ever(said: int) -> None:
    words = b'{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slowly"}'
    with endpoint.answering(lambda *_: (said, words)) as url:
        table = at(url)
        with pytest.raises(boto.ClientError, match="slowly") as caught:
            batch(table)
        assert caught.value.response["Error"]["Code"] == "ThrottlingException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == said
        table.close()


def test_only_batches_that_were_written_here_go_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition that holds once would not hold for the second of two requests."""
    used: list[str] = []
    monkeypatch.setattr(Transport, "send", lambda self, request: used.append(request.url))
    with endpoint.answering(lambda *_: (200, b"{}")) as url:
        table = at(url)
        wire: Wire = table.client.wire
        batch(table)
        assert len(used) == 1
        (item, *_) = items_of_many_types()
        wire.ask("put_item", {"TableName": "chat", "Item": item})
        wire.ask("batch_write_item", {"RequestItems": {"chat": [{"PutRequest": {"Item": item}}]}})
        assert wire.pattern("chat") is not None
        assert len(used) == 1
        table.close()


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_the_certificates_that_boto3_trusts_are_trusted(
    variable: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    opened: list[bool] = []
    real = dynamodb_transport._Connection.__init__
    monkeypatch.setattr(
        dynamodb_transport._Connection,
        "__init__",
        lambda self, server, tls, *seconds: opened.append(tls is not None) or real(self, server, tls, *seconds),
    )
    heard: list[bytes] = []
    with endpoint.answering(
        lambda _, body, __: (heard.append(body) or 200, b'{"UnprocessedItems":{}}'), tls=tls
    ) as url:
        monkeypatch.setenv(variable, f"{certificate}.crt")
        table = at(url)
        assert [batch(table)["UnprocessedItems"] for _ in range(2)] == [{}] * 2
        assert (opened, len(heard)) == ([True], 2)
        table.close()
        monkeypatch.delenv(variable)
        table = at(url)
        with pytest.raises(boto.SSLError):
            batch(table)
        monkeypatch.setenv(variable, "no such file")
        other = at(url)
        with pytest.raises(boto.SSLError, match="No such file"):
            batch(other)
        assert len(heard) == 2
        other.close()
        table.close()


@pytest.mark.filterwarnings("error")
def test_connections_are_closed_with_the_client(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    real = socket.create_connection
    with endpoint.answering(lambda *_: (200, b'{"UnprocessedItems":{}}')) as url:
        table = at(url)
        monkeypatch.setattr(
            dynamodb_transport.socket, "create_connection", lambda *of: opened.append(real(*of)) or opened[-1]
        )
        batch(table)
        assert [each.fileno() >= 0 for each in opened] == [True]
        table.close()
        del table
        assert [each.fileno() for each in opened] == [-1]
