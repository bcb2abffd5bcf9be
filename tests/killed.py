"""A command line with a death built in: it ends itself by a signal at the n-th step of a sort.

A *step* is a place where the world outside the process is about to change, or just has:

    write, sqlite, truncate    a file's write, SQLite's own writes to its files and journals; a death leaves half of it
    fsync, rename, link, unlink, mkdir
    send, sent                 a write request to DynamoDB before it leaves, and when its answer has come

Instead of a death the disk may be full from that step on, and stay so until the process ends.

An order says which command line, and which death. Steps are counted in each process by itself. `KILLED_ORDER` in the environment takes the order
to the worker processes, which import the main module again, and so this one.
"""

import ctypes
import ctypes.util
import errno
import functools
import io
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import migrator.adapters.base as base

base.PAGE_ROWS = int(os.environ.get("KILLED_PAGE", "25"))  # before the adapters read it: little data makes many slices

import migrator.adapters.dynamodb.adapter as dynamodb  # noqa: E402
import migrator.adapters.dynamodb.sink as dynamodb_sink  # noqa: E402
import migrator.adapters.jsonfile.adapter as jsonfile  # noqa: E402
import migrator.adapters.jsonfile.source as json_source  # noqa: E402
import migrator.adapters.sql.adapter as sql  # noqa: E402
import migrator.adapters.sql.source as sql_source  # noqa: E402
import migrator.cutting_over as cutting_over  # noqa: E402
import migrator.engine as engine  # noqa: E402
import migrator.migration as migration  # noqa: E402
from migrator.certificate import STEPS  # noqa: E402

engine.SLICE_PAGES = 1
for adapter in (dynamodb.ADAPTER, jsonfile.ADAPTER, sql.ADAPTER):
    adapter.traits = replace(adapter.traits, stretch=1)
sql_source._PARTITION_ROWS = base.PAGE_ROWS
json_source._PARTITION_BYTES = 400 * base.PAGE_ROWS
migration.SLICE_ROWS = base.PAGE_ROWS
dynamodb_sink.BATCH_PARTS = int(os.environ.get("KILLED_PARTS", dynamodb_sink.BATCH_PARTS))  # sent at once

ROOM = ("write", "sqlite", "fsync", "mkdir", "link")
"""What a full disk refuses."""
_WRITES = ("PutItem", "BatchWriteItem", "DeleteItem", "CreateTable")


@dataclass(frozen=True)
class Order:
    """`args`: the command line; `seen`: a file that gets a line for each step and each slice.

    `nth`: the step at which it dies (0: never), among those of `sorts` (empty: all), of the cutover's step `at` (empty: anywhere).
    `full`: it does not die there: from that step on there is no room on the disk. `whom`: `one` process, or its whole `group`. `where`: in the `coordinator`, or in one `worker`, the first to come so far.
    """

    args: list[str]
    seen: str
    nth: int = 0
    sorts: list[str] = field(default_factory=list)
    at: str = ""
    full: bool = False
    whom: str = "one"
    where: str = "coordinator"
    number: int = signal.SIGKILL
    processes: bool = False


class Death:
    """Counts the steps of this process, and ends it at the one that was ordered."""

    def __init__(self, order: Order, in_worker: bool) -> None:
        self.order = order
        self.is_here = (order.where == "worker") == in_worker
        self.within = ""  # of a cutover
        self._count = itertools.count(1)
        self._seen = os.open(order.seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write, self._lock = os.write, threading.Lock()

    def note(self, *words: str) -> None:
        self._write(self._seen, (" ".join(words) + "\n").encode())

    def step(self, sort: str, torn: Callable[[], Any] = lambda: None) -> None:
        """One step; if it is the last, `torn` is what is left of it."""
        order = self.order
        if not self.is_here or (order.sorts and sort not in order.sorts):
            return
        with self._lock:
            self.note("step", sort, self.within or "-")
            if order.at and order.at != self.within:
                return
            count = next(self._count)
            if order.full and order.nth and count >= order.nth:
                if sort in ROOM:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return
            if count != order.nth or not self._is_the_first():
                return
            if order.number == signal.SIGKILL:
                torn()
            os.killpg(0, order.number) if order.whom == "group" else os.kill(os.getpid(), order.number)

    def _is_the_first(self) -> bool:
        """One worker dies, not each as it comes so far."""
        if self.order.where == "coordinator":
            return True
        try:
            os.close(os.open(f"{self.order.seen}.died", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def lie_in_wait(order: Order, in_worker: bool = False) -> None:
    """From here on this process dies as ordered, and its workers do."""
    os.environ["KILLED_ORDER"] = json.dumps(asdict(order))
    migration.SMALL = 0 if order.processes else 1 << 60
    death = Death(order, in_worker)
    for owner, name, sort in (
        (os, "fsync", "fsync"),
        (os, "replace", "rename"),
        (os, "link", "link"),
        (os, "unlink", "unlink"),
        (os, "mkdir", "mkdir"),
        (os, "rmdir", "unlink"),
        (os, "truncate", "truncate"),
        (os, "ftruncate", "truncate"),
    ):
        setattr(owner, name, _before(death, sort, getattr(owner, name)))
    _watch_files(death)
    if order.number == signal.SIGKILL:  # Python acts on other signals when SQLite has returned
        _watch_sqlite(death)
    _watch_requests(death)
    _watch_slices(death)
    for name in STEPS:
        attribute = f"_{name.replace('-', '_')}"
        setattr(cutting_over._Cutover, attribute, _within(death, name, getattr(cutting_over._Cutover, attribute)))


def _before(death: Death, sort: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def stepping(*args: Any, **options: Any) -> Any:
        death.step(sort)
        return call(*args, **options)

    return stepping


def _within(death: Death, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def begun(*args: Any) -> Any:
        death.within = name
        return call(*args)

    return begun


def _watch_slices(death: Death) -> None:
    copy = engine._Slice.copy

    def noted(self: Any, *args: Any) -> Any:
        death.note("slice", self.name)
        return copy(self, *args)

    engine._Slice.copy = noted  # type: ignore[method-assign]


def _watch_files(death: Death) -> None:
    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            death.step("write", lambda: io.FileIO.write(self, bytes(data)[: len(data) // 2]))
            return io.FileIO.write(self, data)

    fdopen, write_text = os.fdopen, Path.write_text

    def opened(descriptor: int, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if mode not in ("wb", "ab"):
            return fdopen(descriptor, mode, buffering, *args, **options)
        raw = Raw(descriptor, mode)
        return raw if buffering == 0 else io.BufferedWriter(raw)

    def texted(self: Path, text: str, *args: Any, **options: Any) -> int:
        death.step("write", lambda: write_text(self, text[: len(text) // 2], *args, **options))
        return write_text(self, text, *args, **options)

    os.fdopen = opened
    Path.write_text = texted  # type: ignore[method-assign]


def _watch_requests(death: Death) -> None:
    import botocore.httpsession

    send = botocore.httpsession.URLLib3Session.send

    def watched(self: Any, request: Any) -> Any:
        target = request.headers.get("X-Amz-Target", b"")
        operation = (target if isinstance(target, str) else target.decode()).rpartition(".")[2]
        if operation not in _WRITES:
            return send(self, request)
        death.step("send")
        answer = send(self, request)
        death.step("sent")
        return answer

    botocore.httpsession.URLLib3Session.send = watched

    from migrator.adapters.dynamodb.transport import _Connection

    by_ours = _Connection.ask

    def watched_here(self: Any, request: bytes) -> Any:
        death.step("send")
        answer = by_ours(self, request)
        death.step("sent")
        return answer

    _Connection.ask = watched_here  # type: ignore[method-assign]
    if os.environ.get("MIGRATOR_FAST") != "1":
        return
    from migrator.adapters.dynamodb.fast import Lane

    ask = Lane._ask

    def watched_too(self: Any, body: bytes) -> Any:
        death.step("send")
        asked = ask(self, body)
        asked.add_done_callback(lambda _: death.step("sent"))  # before anybody else hears of it
        return asked

    Lane._ask = watched_too  # type: ignore[method-assign]


# SQLite's own writes ---------------------------------------------------------------------------------------------------


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, https://www.sqlite.org/c3ref/vfs.html: what is before the three calls that we make does not matter."""

    _fields_ = [
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("path_size", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        *((f"call{n}", ctypes.c_void_p) for n in range(13)),
        ("set_call", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
        ("get_call", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)),
    ]


_prototype = functools.partial(ctypes.CFUNCTYPE, use_errno=True)
_PWRITE = _prototype(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_longlong)
_WRITE = _prototype(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_TRUNCATE = _prototype(ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
_UNLINK = _prototype(ctypes.c_int, ctypes.c_char_p)
_kept: list[Any] = []


def sqlite_library() -> Any:
    """The library that Python's sqlite3 uses, or None where it cannot be reached (built in, another system)."""
    import sqlite3

    name = ctypes.util.find_library("sqlite3")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.sqlite3_libversion.restype = ctypes.c_char_p
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    is_the_same = library.sqlite3_libversion().decode() == sqlite3.sqlite_version and name in _loaded()
    return library if is_the_same else None


def _loaded() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""


def _watch_sqlite(death: Death) -> None:
    """Counts in between SQLite and the system: its VFS lets a test put a call of its own in the place of one of the system's."""
    library = sqlite_library()
    if library is None:
        return
    vfs = library.sqlite3_vfs_find(None)
    if not vfs or vfs.contents.version < 3:
        return
    calls = {b"pwrite64": _PWRITE, b"pwrite": _PWRITE, b"write": _WRITE, b"ftruncate": _TRUNCATE, b"unlink": _UNLINK}
    for name, prototype in calls.items():
        address = vfs.contents.get_call(ctypes.addressof(vfs.contents), name)
        if not address:
            continue
        real = prototype(address)

        def stepping(first: Any, *rest: Any, real: Any = real, prototype: Any = prototype) -> int:
            try:
                if prototype in (_PWRITE, _WRITE):
                    data, size, *offset = rest
                    death.step("sqlite", lambda: real(first, data, size // 2, *offset))
                else:
                    death.step("truncate" if prototype is _TRUNCATE else "unlink")
            except OSError as exc:
                ctypes.set_errno(exc.errno)
                return -1
            return int(real(first, *rest))

        ours = prototype(stepping)
        _kept.extend((ours, real))
        vfs.contents.set_call(ctypes.addressof(vfs.contents), name, ctypes.cast(ours, ctypes.c_void_p))


if "KILLED_ORDER" in os.environ:
    lie_in_wait(Order(**json.loads(os.environ["KILLED_ORDER"])), in_worker=True)

if __name__ == "__main__":
    import migrator.cli

    lie_in_wait(Order(**json.loads(sys.argv[1])))
    migrator.cli.main(list(json.loads(sys.argv[1])["args"]))
