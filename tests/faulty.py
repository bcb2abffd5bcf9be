"""A proxy before a DynamoDB endpoint that follows a script of faults.

with faulty.before(endpoint, [Fault("error", on=("BatchWriteItem",), after=2, times=3)]) as between:
    ... between.endpoint ...
    between.befallen      # what befell which operation, in the order in which it did

By hand, before DynamoDB Local or moto, with a script that has a name below (SCRIPTS) or a file:

    python tests/faulty.py --upstream http://127.0.0.1:8000 --script throttled-for-a-minute [--port 8001]

A script is a list of faults; a file holds it as JSON: [{"what": "error", "status": 503, "on": ["Scan"], "times": 2}, {"what": "cut", "landed": true}].
A request is befallen by the first fault that is for it and whose turn it is. Which that is, each fault says by

    on        operations; none: all that the fault can befall
    after     so many of them are let through first
    times     so many are befallen then; null: all (default 1)
    seconds   all that come within so many seconds of the first that is befallen, instead of `times`

and what becomes of it by `what`:

    error          an error: `code` (default ProvisionedThroughputExceededException), `status` (400)
    cut            the connection is closed
    silent         no answer ever comes
    garbage        the answer is 200 and a page of HTML
    slow           the answer comes after `delay` seconds (0.5)
    torn           the answer is half of one; with the length of the half, or with `honest` false the length of the whole
    unprocessed    of a batch, if it has so many, the first `left` items or keys come back unprocessed (25)
    short-page     a page of a Scan or Query ends after `left` items, and is read on behind them
    repeated-page  instead of the next page of a Scan or Query the one before comes once more
    table-deleted  the table is deleted, then the request passed on

With `landed` true, an error, cut, silence and garbage come after the request was passed on and has been done; else it never arrives.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import endpoint
import proxy

BATCHES = ("BatchWriteItem", "BatchGetItem")
PAGES = ("Scan", "Query")
THROTTLED = "ProvisionedThroughputExceededException"
_PAGE = b"<html><body>Please log in to this network.</body></html>"


@dataclass(frozen=True)
class Fault:
    """One fault of a script, as the top of this file says."""

    what: str
    on: tuple[str, ...] = ()
    after: int = 0
    times: int | None = 1
    seconds: float | None = None
    landed: bool = False
    code: str = THROTTLED
    status: int = 400
    left: int = 25
    delay: float = 0.5
    honest: bool = True

    def can_befall(self, operation: str) -> bool:
        return operation in (self.on or _FOR.get(self.what, (operation,)))


_FOR = {"unprocessed": BATCHES, "short-page": PAGES, "repeated-page": PAGES}


def _error(code: str, status: int = 400, **more: Any) -> Fault:
    return Fault("error", code=code, status=status, **more)


SCRIPTS: dict[str, list[Fault]] = {
    **{f"unprocessed-{left}": [Fault("unprocessed", ("BatchWriteItem",), left=left)] for left in range(26)},
    "unprocessed-any": [Fault("unprocessed", ("BatchWriteItem",), left=left) for left in range(26)],
    "unprocessed-keys": [Fault("unprocessed", ("BatchGetItem",), left=7, times=2)],
    "throttled": [_error(THROTTLED, times=5)],
    "throttled-for-a-minute": [_error(THROTTLED, on=("BatchWriteItem", "PutItem", *PAGES, "BatchGetItem"), seconds=60)],
    "500": [_error("InternalServerError", 500, times=2)],
    "500-landed": [_error("InternalServerError", 500, landed=True)],
    "503": [_error("ServiceUnavailable", 503, times=2)],
    "cut": [Fault("cut", times=2)],
    "cut-landed": [Fault("cut", landed=True)],
    "silent": [Fault("silent")],
    "silent-landed": [Fault("silent", landed=True)],
    "slow": [Fault("slow", times=3)],
    "garbage": [Fault("garbage")],
    "garbage-landed": [Fault("garbage", landed=True)],
    "torn": [Fault("torn")],
    "torn-wrong-length": [Fault("torn", honest=False)],
    "short-pages": [Fault("short-page", left=3, times=None)],
    "repeated-page": [Fault("repeated-page")],
    "expired": [_error("ExpiredTokenException", times=None)],
    "table-deleted": [Fault("table-deleted")],
}  # fmt: skip


# What becomes of a request ---------------------------------------------------------------------------------------------


@dataclass
class Script:
    """Faults, how far each has come, and what befell. It is a proxy's fate."""

    faults: list[Fault] = field(default_factory=list)
    befallen: list[tuple[str, str]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    on_fault: Callable[[Fault, str], None] = lambda fault, operation: None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, bytes] = {}  # by the request for it, the last page and the place behind it
        self.follow(self.faults)

    def follow(self, faults: Sequence[Fault]) -> None:
        """Another script from now on, from its beginning; none: all goes well."""
        with self._lock:
            self.faults = list(faults)
            self._seen = [0] * len(self.faults)
            self._begun: list[float | None] = [None] * len(self.faults)

    def __call__(self, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        fault = self._next(operation, body)
        if fault is None:
            return self._sent(operation, body, send)
        self.on_fault(fault, operation)
        return getattr(self, "_" + fault.what.replace("-", "_"))(fault, operation, body, send)  # type: ignore[no-any-return]

    def _next(self, operation: str, body: bytes) -> Fault | None:
        now = time.monotonic()
        with self._lock:
            for number, fault in enumerate(self.faults):
                if not fault.can_befall(operation):
                    continue
                if not self._fits(fault, operation, body):
                    continue
                self._seen[number] += 1
                turn = self._seen[number] - fault.after
                begun = self._begun[number]
                if turn < 1:
                    continue
                if fault.seconds is not None:
                    if begun is not None and now > begun + fault.seconds:
                        continue
                elif fault.times is not None and turn > fault.times:
                    continue
                if begun is None:
                    self._begun[number] = now
                self.befallen.append((fault.what, operation))
                self.moments.append(now)
                return fault
        return None

    def _sent(self, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        status, said = send(operation, body)
        if status == 200 and operation in PAGES:
            with self._lock:
                self._pages[_without_start(operation, body)] = said
        return status, said

    def _fits(self, fault: Fault, operation: str, body: bytes) -> bool:
        """Whether this very request can be befallen: some faults need more than an operation."""
        if fault.what == "repeated-page":
            return self._before(operation, body) is not None
        if fault.what == "unprocessed":
            (asked,) = json.loads(body)["RequestItems"].values()
            return len(asked if operation == "BatchWriteItem" else asked["Keys"]) >= fault.left
        return True

    def _before(self, operation: str, body: bytes) -> bytes | None:
        """The page behind which this request asks for the next."""
        start = json.loads(body).get("ExclusiveStartKey")
        page = self._pages.get(_without_start(operation, body))
        return page if start and page is not None and json.loads(page).get("LastEvaluatedKey") == start else None

    def _perhaps(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> None:
        if fault.landed:
            self._sent(operation, body, send)

    def _error(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        self._perhaps(fault, operation, body, send)
        told = {"__type": f"com.amazonaws.dynamodb.v20120810#{fault.code}", "message": "as the script says"}
        return fault.status, json.dumps(told).encode()

    def _cut(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        self._perhaps(fault, operation, body, send)
        raise endpoint.Dropped

    def _silent(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        self._perhaps(fault, operation, body, send)
        self.ended.wait()
        raise endpoint.Dropped

    def _garbage(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        self._perhaps(fault, operation, body, send)
        return 200, _PAGE

    def _slow(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        self.ended.wait(fault.delay)
        return self._sent(operation, body, send)

    def _torn(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        status, said = self._sent(operation, body, send)
        half = said[: len(said) // 2]
        if not fault.honest:
            raise endpoint.Dropped(half, len(said))
        return status, half

    def _unprocessed(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        request = json.loads(body)
        ((table, asked),) = request["RequestItems"].items()
        puts = operation == "BatchWriteItem"
        each = asked if puts else asked["Keys"]
        left, rest = each[: fault.left], each[fault.left :]

        def with_these(some: list[Any]) -> dict[str, Any]:
            return {table: some if puts else asked | {"Keys": some}}

        answer: dict[str, Any] = {} if puts else {"Responses": {}}
        if rest:
            status, said = self._sent(operation, json.dumps({"RequestItems": with_these(rest)}).encode(), send)
            if status != 200:
                return status, said
            answer = json.loads(said)
        name = "UnprocessedItems" if puts else "UnprocessedKeys"
        return 200, json.dumps(answer | {name: with_these(left) if left else {}}).encode()

    def _short_page(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        """As the service ends a page at 1 MB: with fewer items than there are, and the key of the last."""
        request = json.loads(body)
        limit = min(fault.left, request.get("Limit", fault.left))
        return self._sent(operation, json.dumps(request | {"Limit": limit}).encode(), send)

    def _repeated_page(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        page = self._before(operation, body)
        assert page is not None
        return 200, page

    def _table_deleted(self, fault: Fault, operation: str, body: bytes, send: proxy.Send) -> tuple[int, bytes]:
        request = json.loads(body)
        (table,) = request["RequestItems"] if "RequestItems" in request else [request["TableName"]]
        send("DeleteTable", json.dumps({"TableName": table}).encode())
        return send(operation, body)


def _without_start(operation: str, body: bytes) -> str:
    request = json.loads(body)
    return json.dumps([operation, {name: request[name] for name in sorted(request) if name != "ExclusiveStartKey"}])


class Between:
    """A proxy and the script that it follows."""

    def __init__(self, running: proxy.Proxy, script: Script) -> None:
        self.proxy, self.script = running, script
        self.endpoint = running.endpoint
        self.follow = script.follow

    @property
    def befallen(self) -> list[tuple[str, str]]:
        return self.script.befallen


@contextmanager
def before(upstream: str, faults: Sequence[Fault] = (), port: int = 0) -> Iterator[Between]:
    """Run it on a loopback port (0: a free one) until the block ends."""
    script = Script(list(faults))
    with proxy.before(upstream, script, port) as running:
        try:
            yield Between(running, script)
        finally:
            script.ended.set()  # who waits for an answer that never comes


def read(text: str) -> list[Fault]:
    """A script by its name, or from a file of JSON. Raises ValueError where it is none."""
    if text in SCRIPTS:
        return SCRIPTS[text]
    try:
        faults = [replace(Fault(**each), on=tuple(each.get("on", ()))) for each in json.loads(Path(text).read_text())]
    except (OSError, TypeError, ValueError) as exc:
        raise ValueError(
            f"{text}: no script of faults ({exc}); a file of JSON, or one of {', '.join(SCRIPTS)}"
        ) from exc
    for fault in faults:
        if not hasattr(Script, "_" + fault.what.replace("-", "_")):
            raise ValueError(f"{text}: there is no fault {fault.what!r}; see the top of tests/faulty.py")
    return faults


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, metavar="URL", help="the endpoint to stand before")
    parser.add_argument("--script", required=True, metavar="FILE|NAME", help=f"one of {', '.join(SCRIPTS)}, or a file")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="default: a free one")
    given = parser.parse_args()
    try:
        faults = read(given.script)
    except ValueError as exc:
        parser.error(str(exc))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background deaf to it
    with before(given.upstream, faults, given.port) as between:
        between.script.on_fault = lambda fault, operation: print(f"{fault.what}: {operation}", file=sys.stderr)
        print(between.endpoint, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            counted = ", ".join(f"{n} {name}" for name, n in sorted(between.proxy.requests.items()))
            print(f"{len(between.befallen)} befallen of {counted or 'no request'}", file=sys.stderr)


if __name__ == "__main__":
    main()
