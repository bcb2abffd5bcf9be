"""boto3's own requests over connections of ours, as boto3 made and signed them: what it takes for its HTTP is a third of what a batch costs.

`send` answers in the network's place where boto3's event `before-send` asks for that (which is not documented; where it does not come, boto3 sends).
Proxies, endpoints that cannot be reached and answers that are none of DynamoDB's are left to boto3: it knows the way, or says what is the matter.
A request may be sent twice, as where a server ends a connection just then.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.awsrequest import AWSResponse
from botocore.utils import get_environ_proxies

from migrator.adapters.dynamodb.http import UNPACKED, Answer, Inbox, Server, lines_of, request_of, server_of

_PIECE = 1 << 16  # bytes that are received at once


def is_direct(url: str) -> bool:
    """Whether there is no proxy before it, and no password in it."""
    parts = urlsplit(url)
    return not get_environ_proxies(url).get(parts.scheme) and "@" not in parts.netloc


class Transport:
    """The connections of one client. `tls`: what of a server's certificate is believed; it may raise OSError.

    `connect_seconds`, `answer_seconds`: how long each is waited for. Safe to use from several threads.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext], connect_seconds: float, answer_seconds: float) -> None:
        self._tls = tls
        self._connect_seconds, self._answer_seconds = connect_seconds, answer_seconds
        self._ways: dict[str, _Way | None] = {}
        self._is_left_to_boto = False

    def send(self, request: Any) -> AWSResponse | None:
        """The answer to a prepared request; None where boto3 has to send it. Raises what boto3 raises where none comes."""
        if self._is_left_to_boto or (way := self._way(request.url)) is None:
            return None
        try:
            text = way.text(request)
            while True:
                kept = way.kept()
                connection = kept or self._opened(way)
                if connection is None:
                    return None
                try:
                    answer = connection.ask(text)
                except TimeoutError:
                    raise
                except OSError:
                    if kept and connection.is_silent:
                        continue  # it ended since it was last used
                    raise
                if answer.is_last:
                    connection.close()
                else:
                    way.idle.append(connection)
                return _as_boto3s(request.url, answer)
        except TimeoutError as exc:
            raise boto.ReadTimeoutError(endpoint_url=request.url, error=exc) from exc
        except OSError as exc:
            raise boto.ConnectionClosedError(endpoint_url=request.url, request=request, error=exc) from exc
        except ValueError:
            self._is_left_to_boto = True
            return None

    def close(self) -> None:
        for way in filter(None, self._ways.values()):
            while connection := way.kept():
                connection.close()

    def _way(self, url: str) -> _Way | None:
        if url not in self._ways:
            self._ways.setdefault(url, self._found(url))  # of threads that find it at once, one's is kept
        return self._ways[url]

    def _found(self, url: str) -> _Way | None:
        if not is_direct(url):
            return None
        server = server_of(url)
        try:
            return _Way(server, self._tls() if server.is_tls else None, [])
        except OSError:
            return None

    def _opened(self, way: _Way) -> _Connection | None:
        try:
            return _Connection(way.server, way.tls, self._connect_seconds, self._answer_seconds)
        except (OSError, ValueError):  # a name that cannot be one
            return None


class _Way(NamedTuple):
    """To one URL, with the connections that nobody uses just now."""

    server: Server
    tls: ssl.SSLContext | None
    idle: list[_Connection]

    def kept(self) -> _Connection | None:
        """The one that was used last; None where other threads use all of them."""
        try:
            return self.idle.pop()
        except IndexError:
            return None

    def text(self, request: Any) -> bytes:
        lines = lines_of({"host": self.server.named, **request.headers, **UNPACKED})
        return request_of(self.server.path, lines, request.body)


class _Connection:
    """One of them, for one request at a time; closed by whatever is no answer."""

    def __init__(
        self, server: Server, tls: ssl.SSLContext | None, connect_seconds: float, answer_seconds: float
    ) -> None:
        self._socket = socket.create_connection((server.host, server.port), connect_seconds)
        self._inbox = Inbox()
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=server.host)
            self._socket.settimeout(answer_seconds)
        except BaseException:
            self._socket.close()
            raise

    @property
    def is_silent(self) -> bool:
        """Whether nothing of an answer has come yet."""
        return self._inbox.is_empty

    def ask(self, request: bytes) -> Answer:
        try:
            self._socket.sendall(request)
            while True:
                data = self._socket.recv(_PIECE)
                if not data:
                    raise ConnectionResetError("the connection has ended")
                answer = self._inbox.take(data)
                if answer is not None:
                    return answer
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()


class _Body:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


def _as_boto3s(url: str, answer: Answer) -> AWSResponse:
    headers: Any = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers.items()}
    return AWSResponse(url, answer.status, headers, _Body(answer.body))
