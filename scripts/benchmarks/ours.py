"""migrator, called as a Python caller would. As in `naive`, each function gets ready (imports) and returns what is measured."""

import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from naive import Run


def _import_all() -> Any:
    """What a run imports as it goes, so that the clock does not see it."""
    migrator = import_module("migrator")
    for name in ("commands", "adapters.sql.adapter", "adapters.dynamodb.adapter", "adapters.jsonfile.adapter"):
        import_module(f"migrator.{name}")
    with suppress(ImportError):
        import_module("migrator.adapters.dynamodb.fast")
    return migrator


def migrate(source: str, sink: str, state: str, **options: Any) -> Run:
    migrator = _import_all()

    def run() -> int:
        report = migrator.migrate(source, sink, migrator.Options(state=state, **options))
        _must_be_done(report)
        return sum(kind.tally.read for kind in report.kinds.values())

    return run


def verify(source: str, sink: str, state: str, **options: Any) -> Run:
    migrator = _import_all()

    def run() -> int:
        report = migrator.verify(source, sink, migrator.Options(state=state, **options))
        _must_be_done(report)
        if report.proven != "digest":
            raise AssertionError(f"proven by {report.proven}, not by digest")
        return sum(kind.tally.read for kind in report.kinds.values())

    return run


def read(*addresses: str) -> Run:
    """All records of some stores, read as a run reads them and dropped; they are counted once, for each store holds the same."""
    migrator = _import_all()

    def run() -> int:
        records = 0
        for address in addresses:
            with migrator.open_store(address) as source:
                records = 0
                for partition in source.partitions(list(source.layout.kinds), 16):
                    records += sum(page.count for page in source.pages(partition, None))
        return records

    return run


def migrate_timing_the_digest(source: str, sink: str, state: str, note: str, **options: Any) -> Run:
    """`migrate` on one worker, that leaves in the file `note` how many seconds of CPU went into digests.

    That is `Pair.note`, and what makes a row's canonical bytes before it is fitted, though an item or a line is made of the same texts; and the same of
    rows that are alike.
    """
    run = migrate(source, sink, state, workers=1, **options)
    pair = import_module("migrator.pair").Pair
    inner = {name: getattr(pair, name) for name in ("note", "_plain", "_said", "_note_alike")}
    spent, is_within = [0.0], [False]

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if is_within[0]:
                return function(*args)
            is_within[0], before = True, time.thread_time()
            try:
                return function(*args)
            finally:
                spent[0] += time.thread_time() - before
                is_within[0] = False

        return call

    def timed() -> int:
        for name, function in inner.items():
            setattr(pair, name, of(function))
        try:
            return run()
        finally:
            for name, function in inner.items():
                setattr(pair, name, function)
            Path(note).write_text(repr(spent[0]))

    return timed


def _must_be_done(report: Any) -> None:
    if report.outcome != "done":
        raise AssertionError(f"ended as {report.outcome}: {report.error}")
