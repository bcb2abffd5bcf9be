"""A proxy before a DynamoDB endpoint: passes requests on, counts them, and may refuse, delay or cut them.

with proxy.before(endpoint) as between:
    ... between.endpoint ...
    between.written        # items written and acknowledged, by (table, key text), with how often
"""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

WRITES = {"PutItem", "BatchWriteItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "CreateTable", "UpdateTable"}


@dataclass
class Proxy:
    """`on_write(operation, request, count)` is called when a write was acknowledged by the endpoint, before its answer goes back."""

    upstream: str
    endpoint: str = ""
    refuse_writes: bool = False
    allowed: set[str] | None = None  # operations; None: all
    operations: Counter[str] = field(default_factory=Counter)
    asked: set[str] = field(default_factory=set)  # operations that went through, whatever the answer
    items: Counter[str] = field(default_factory=Counter)
    last_write: float = 0.0
    on_write: Callable[[int], None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def acknowledged(self) -> int:
        return sum(self.items.values())

    def took(self, operation: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
        with self.lock:
            self.operations[operation] += 1
            if operation not in WRITES:
                return
            self.last_write = time.monotonic()
            for key in _written(operation, request, answer):
                self.items[key] += 1
            count = self.acknowledged
        if self.on_write is not None:
            self.on_write(count)


def _written(operation: str, request: dict[str, Any], answer: dict[str, Any]) -> Iterator[str]:
    if operation == "PutItem":
        yield json.dumps(request["Item"], sort_keys=True)
    if operation == "BatchWriteItem":
        for table, puts in request["RequestItems"].items():
            left = [json.dumps(each, sort_keys=True) for each in answer.get("UnprocessedItems", {}).get(table, [])]
            for put in puts:
                if json.dumps(put, sort_keys=True) not in left:
                    yield json.dumps(put["PutRequest"]["Item"], sort_keys=True)


@contextmanager
def before(endpoint: str) -> Iterator[Proxy]:
    """Run a proxy on a free loopback port until the block ends."""
    proxy = Proxy(endpoint)
    split = urlsplit(endpoint)
    local = threading.local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            if proxy.allowed is not None and operation not in proxy.allowed:
                proxy.operations[f"refused {operation}"] += 1
                denied = f"is not authorized to perform: dynamodb:{operation}"
                return self._answer(
                    400, json.dumps({"__type": "com.amazon#AccessDeniedException", "message": denied}).encode()
                )
            if proxy.refuse_writes and operation in WRITES:
                proxy.operations[f"refused {operation}"] += 1
                return self._answer(
                    400,
                    json.dumps({"__type": "com.amazon#AccessDeniedException", "message": "no writes here"}).encode(),
                )
            proxy.asked.add(operation)
            status, answer = self._ask(body)
            if status == 200:
                proxy.took(operation, json.loads(body), json.loads(answer))
            return self._answer(status, answer)

        def _ask(self, body: bytes) -> tuple[int, bytes]:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("connection", "accept-encoding")
            }
            for attempt in range(2):
                if not hasattr(local, "connection"):
                    local.connection = http.client.HTTPConnection(split.hostname, split.port, timeout=60)
                try:
                    local.connection.request("POST", "/", body, headers)
                    response = local.connection.getresponse()
                    return response.status, response.read()
                except (OSError, http.client.HTTPException):
                    local.connection.close()
                    del local.connection
                    if attempt:
                        raise
            raise AssertionError

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
