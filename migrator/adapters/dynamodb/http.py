"""HTTP as DynamoDB speaks it, and no more of it: who a URL's server is, a request's bytes, and the answers that bytes make.

An answer has a length and comes whole; whatever is not so is an error. Knows no DynamoDB; leaves connections to `connections`, which are many at
once, and to `transport`, where one waits for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

UNPACKED = {"accept-encoding": "identity"}
"""For every request: the answer is to come as it is."""

_HEAD = 1 << 16  # bytes of headers that are waited for
_FIRST_LINE = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)(?: .*)?")
_USUAL = {"http": 80, "https": 443}


class Server(NamedTuple):
    """`path`: with what is asked for behind a question mark. `named`: as the header Host says it."""

    is_tls: bool
    host: str
    port: int
    path: str
    named: str


class Answer(NamedTuple):
    """`headers` are by lower-case names."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether its connection ends behind it."""
        return self.headers.get(b"connection", b"").lower() == b"close"


class Inbox:
    """What comes over a connection: one answer after the other, each before the next is asked for."""

    def __init__(self) -> None:
        self._received = b""
        self._wanted = 0  # bytes that a whole answer has, once its head has come
        self._id: bytes | None = None  # of the request that was answered last

    @property
    def is_empty(self) -> bool:
        return not self._received

    def take(self, data: bytes) -> Answer | None:
        """The answer, if it is whole with this. Raises ValueError for what is none of DynamoDB's, for more than one, and for the last one once more."""
        received = self._received = self._received + data if self._received else data
        if not self._wanted:
            end = received.find(b"\r\n\r\n")
            if end < 0 and len(received) < _HEAD:
                return None
            self._status, self._headers, length = _head(received[: max(end, 0)])
            self._begins, self._wanted = end + 4, end + 4 + length
        if len(received) < self._wanted:
            return None
        if len(received) > self._wanted:
            raise ValueError("more came than an answer")
        self._received, self._wanted = b"", 0
        last, self._id = self._id, self._headers.get(b"x-amzn-requestid")
        if last is not None and self._id == last:
            raise ValueError("an answer to the request before")
        return Answer(self._status, self._headers, received[self._begins :])


def server_of(url: str) -> Server:
    parts = urlsplit(url)
    host = parts.hostname or ""
    named = f"[{host}]" if ":" in host else host
    usual = _USUAL.get(parts.scheme)
    port = parts.port or usual or 80
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return Server(parts.scheme == "https", host, port, path, named if port == usual else f"{named}:{port}")


def lines_of(headers: Mapping[str, str | bytes]) -> bytes:
    """Headers as they stand in a request. Raises ValueError for one that is not ASCII."""
    lines = [
        f"{name}: {value.decode('ascii') if isinstance(value, bytes) else value}\r\n" for name, value in headers.items()
    ]
    return "".join(lines).encode("ascii")


def request_of(path: str, lines: bytes, body: bytes) -> bytes:
    """A request with these headers and no others. Raises ValueError for a path that is not ASCII."""
    return b"POST %b HTTP/1.1\r\n%b\r\n%b" % (path.encode("ascii"), lines, body)


def _head(text: bytes) -> tuple[int, dict[bytes, bytes], int]:
    """Status, headers and length of an answer that begins so. Raises ValueError for one that is not as DynamoDB's are."""
    first, *lines = text.split(b"\r\n")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        named = name.lower()
        if named in headers and named == b"content-length":
            raise ValueError("an answer with two lengths")
        headers[named] = value.strip()
    status, length = _FIRST_LINE.fullmatch(first), headers.get(b"content-length", b"")
    if not status or not length.isdigit() or b"transfer-encoding" in headers:
        raise ValueError("an answer that is not DynamoDB's")
    return int(status[1]), headers, int(length)
