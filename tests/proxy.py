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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import endpoint

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
def before(upstream: str) -> Iterator[Proxy]:
    """Run a proxy on a free loopback port until the block ends."""
    proxy = Proxy(upstream)
    split = urlsplit(upstream)
    local = threading.local()

    def answer(operation: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if proxy.allowed is not None and operation not in proxy.allowed:
            return refused(operation, f"is not authorized to perform: dynamodb:{operation}")
        if proxy.refuse_writes and operation in WRITES:
            return refused(operation, "no writes here")
        proxy.asked.add(operation)
        status, said = ask(body, headers)
        if status == 200:
            proxy.took(operation, json.loads(body), json.loads(said))
        return status, said

    def refused(operation: str, why: str) -> tuple[int, bytes]:
        proxy.operations[f"refused {operation}"] += 1
        return 400, json.dumps({"__type": "com.amazon#AccessDeniedException", "message": why}).encode()

    def ask(body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        passed = {name: text for name, text in headers.items() if name.lower() not in ("connection", "accept-encoding")}
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

    with endpoint.answering(answer) as proxy.endpoint:
        yield proxy
