"""The physical limit: what a stub takes or gives when nothing is encoded, signed or parsed. It is the stub's ceiling, too.

As in `naive`, each function gets ready and returns what is measured, which returns how many items went through.
"""

import json
import selectors
import socket
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from naive import Run

_BATCH = 25


def write(items: str, endpoint: str, count: int, sockets: int) -> Run:
    """Batches of 25 items as ready bytes, unsigned, one request in flight on each socket."""
    requests = _requests(items, 8)
    connections = [_connected(endpoint) for _ in range(sockets)]
    waiting = selectors.DefaultSelector()
    for connection in connections:
        waiting.register(connection, selectors.EVENT_READ)

    def run() -> int:
        batches = -(-count // _BATCH)
        sent = answered = 0
        for connection in connections:
            connection.sendall(requests[sent % len(requests)])
            sent += 1
        while answered < sent:
            for key, _ in waiting.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if not connection.recv(65536).endswith(b"}"):
                    continue
                answered += 1
                if sent < batches:
                    connection.sendall(requests[sent % len(requests)])
                    sent += 1
        return sent * _BATCH

    return run


def scan(endpoint: str, count: int) -> Run:
    """Pages of 1 MB of one segment after another, fetched and not looked into."""
    connection = _connected(endpoint)
    of = max(1, count // 1000)  # small enough that each is one page, whatever its items weigh
    room = bytearray(4 << 20)

    def run() -> int:
        for segment in range(of):
            connection.sendall(
                _request("Scan", b'{"TableName":"bench","Segment":%d,"TotalSegments":%d}' % (segment, of))
            )
            got = connection.recv_into(room)
            head, length = bytes(room[:1000]).partition(b"\r\n\r\n")[0], 0
            for line in head.splitlines():
                if line.startswith(b"Content-Length:"):
                    length = int(line[15:])
            left = len(head) + 4 + length - got
            while left:
                left -= connection.recv_into(room, min(left, len(room)))
        return count

    return run


def _requests(items: str, several: int) -> list[bytes]:
    with Path(items).open() as file:
        held = [line.rsplit("\t", 1)[1].rstrip("\n") for line in islice(file, several * _BATCH)]
    made = []
    for start in range(0, len(held), _BATCH):
        puts = ",".join(f'{{"PutRequest":{{"Item":{item}}}}}' for item in held[start : start + _BATCH])
        made.append(_request("BatchWriteItem", f'{{"RequestItems":{{"bench":[{puts}]}}}}'.encode()))
    return made


def _request(operation: str, body: bytes) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: stub\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _connected(endpoint: str) -> socket.socket:
    url = urlsplit(endpoint)
    connection = socket.create_connection((url.hostname, url.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def told(endpoint: str, forget: bool = False) -> dict[str, int]:
    """What the stub has counted since it was last told to forget."""
    with _connected(endpoint) as connection:
        connection.sendall(b"GET /forget HTTP/1.1\r\n\r\n" if forget else b"GET / HTTP/1.1\r\n\r\n")
        answer = connection.recv(65536)
    counted: dict[str, int] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return counted
