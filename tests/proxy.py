"""A proxy before a DynamoDB endpoint: passes requests on, counts them, and may refuse them. What else can befall a request: faulty.py.

with proxy.before(endpoint) as between:
    ... between.endpoint ...
    between.written        # items written and acknowledged, by (table, key text), with how often
"""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import endpoint

WRITES = {"PutItem", "BatchWriteItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "CreateTable", "UpdateTable"}

Send = Callable[[str, bytes], tuple[int, bytes]]
"""Passes an operation with its body on to the endpoint, and counts what was acknowledged."""
Fate = Callable[[str, bytes, Send], tuple[int, bytes]]
"""What becomes of a request: its operation, its body and the way on, to the status and the body of the answer. May raise endpoint.Dropped."""

_OURS = ("connection", "accept-encoding", "content-length", "host", "x-amz-target")  # headers that are not passed on


@dataclass
class Proxy:
    """`on_write(operation, request, count)` is called when a write was acknowledged by the endpoint, before its answer goes back."""

    upstream: str
    endpoint: str = ""
    refuse_writes: bool = False
    allowed: set[str] | None = None  # operations; None: all
    requests: Counter[str] = field(default_factory=Counter)  # operations that were asked for, whatever became of them
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
def before(upstream: str, fate: Fate | None = None, port: int = 0) -> Iterator[Proxy]:
    """Run a proxy on a loopback port (0: a free one) until the block ends. `fate` decides what becomes of each request."""
    proxy = Proxy(upstream)
    split = urlsplit(upstream)
    local = threading.local()

    def answer(operation: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        with proxy.lock:
            proxy.requests[operation] += 1
        if proxy.allowed is not None and operation not in proxy.allowed:
            return refused(operation, f"is not authorized to perform: dynamodb:{operation}")
        if proxy.refuse_writes and operation in WRITES:
            return refused(operation, "no writes here")

        def send(operation: str, body: bytes) -> tuple[int, bytes]:
            proxy.asked.add(operation)
            status, said = ask(operation, body, headers)
            if status == 200:
                proxy.took(operation, json.loads(body), json.loads(said))
            return status, said

        return fate(operation, body, send) if fate is not None else send(operation, body)

    def refused(operation: str, why: str) -> tuple[int, bytes]:
        proxy.operations[f"refused {operation}"] += 1
        return 400, json.dumps({"__type": "com.amazon#AccessDeniedException", "message": why}).encode()

    def ask(operation: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        passed = {name: text for name, text in headers.items() if name.lower() not in _OURS}
        passed["X-Amz-Target"] = f"DynamoDB_20120810.{operation}"
        for attempt in range(2):
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection(split.hostname, split.port, timeout=60)
            try:
                local.connection.request("POST", "/", body, passed)
                response = local.connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                local.connection.close()
                del local.connection
                if attempt:
                    raise
        raise AssertionError

    with endpoint.answering(answer, port) as proxy.endpoint:
        yield proxy
