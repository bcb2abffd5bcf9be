"""Rescue from memory: what a running chat holds in LuminoraCore's in-memory storage goes into a store, by the ordinary migration.

Knows how a copy becomes a source, and what is the right default where the source is a process that lives on. Leaves LuminoraCore's objects to
`storage_objects` and the run itself to `commands.migrate`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

from migrator.adapters import adapter_for, memory
from migrator.commands import Location, migrate
from migrator.config import resolve
from migrator.errors import ConfigError, MigratorError
from migrator.mapping import Mapping
from migrator.model import counted
from migrator.options import Options
from migrator.pair import READ_STORES
from migrator.plan import Plan, look_at, make_plan
from migrator.report import Report
from migrator.run import Show
from migrator.storage_objects import SPARE, Copy, Elsewhere, look_into

_taken: dict[str, object] = {}
"""The names of the copies that this process is writing just now."""


def rescue(storage: object, sink: Location, options: Options | None = None, show: Show | None = None) -> Report:
    """Copy what LuminoraCore's `storage` holds in memory into `sink`, verified; the storage is not changed and may be in use meanwhile.

        migrator.rescue(storage, "sqlite:///./data/luminoracore.db")

    `storage` is told by its attributes: InMemoryStorage (1.0), InMemoryStorageV11, Core's InMemoryStorage, a Flexible storage over SQLite or
    DynamoDB, a JSONFileStorage, or an object that holds one. mappings/README.md has a table of what each field becomes. What was filled in or left
    behind is in the report's `narrowed`; a record that cannot travel (a snapshot, for one) is in its `rejects_file` with the reason, and does not
    stop the rest unless `options` say so.

    Without `options` a record that the sink holds gives way to a newer one (existing="newer"); a time without an offset is this machine's, in the
    sink too unless its address says `?tz=`. 1.0 blobs have no time of their own, and a sink that is one file is compared whole: what differs there
    stays (existing="refuse"). With `options`, their `existing` holds.

    A copy in memory cannot be resumed: call again, with what has come since. The folder of a file sink is made if it is missing. Works under a
    running event loop and blocks it until all is written and verified; `rescue_async` blocks it only while the copy is taken. Signals remain the
    application's: one that comes meanwhile does not stop the rescue.
    Raises ConfigError (an object of another sort, nothing in it; nothing was touched), LockedError, StoreError; with the `report` where a run had begun.
    """
    rest = _copied(storage, sink, options, show)
    with ThreadPoolExecutor(1, "migrator-rescue") as alone:  # not the main thread, which signals are for
        return alone.submit(rest).result()


async def rescue_async(
    storage: object, sink: Location, options: Options | None = None, show: Show | None = None
) -> Report:
    """`rescue` for coroutines: the copy is taken before anything is awaited, all else is done in a thread while the loop goes on.

    A task that is cancelled waits no more; the thread goes on to the end.
    """
    return await asyncio.to_thread(_copied(storage, sink, options, show))


def _copied(storage: object, sink: Location, options: Options | None, show: Show | None) -> Callable[[], Report]:
    """The copy is taken when this returns; what is left to do needs the storage no more."""
    held = look_into(storage)
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(held, Elsewhere):
        return lambda: _migrate_store(held, sink, options, show)
    if not held.rows and not held.rejects:
        raise ConfigError(
            f"{held.name} holds no records: is it the storage that the application writes to? Options(allow_empty=True) if it is meant"
        )
    return lambda: _migrate_copy(held, moment, sink, options, show)


def _migrate_store(held: Elsewhere, sink: Location, options: Options | None, show: Show | None) -> Report:
    store, mapping = look_at(held.address, options.mapping if options else None)
    asked = options is not None and options.mapping is not None
    for kind, table in held.tables.items():
        ours = store.layout.kinds[kind].collections if kind in store.layout.kinds else ()
        if table not in ours and not asked:
            raise ConfigError(
                f'{held.address}: the storage keeps {kind} records in the table "{table}", which the mapping {mapping.name} does not read: '
                "give one that names it, Options(mapping=FILE)"
            )
    text, options = _settled(sink, options, mapping)
    return migrate(held.address, text, options, show)


def _migrate_copy(held: Copy, moment: str, sink: Location, options: Options | None, show: Show | None) -> Report:
    text, options = _settled(sink, options, held.mapping)
    options = replace(options, restart=True, mapping=options.mapping or held.mapping.name)
    with _as_store(held, moment) as name:
        source = f"memory:{name}" + "?tz=local" * _has_times(held.mapping)
        with suppress(MigratorError):  # a plan that is refused is refused again below, with a report
            _make_room(held, make_plan(source, text, options, "migrate"))
        memory.store(name).notes = tuple(held.notes)
        return migrate(source, text, options, show)


@contextmanager
def _as_store(held: Copy, moment: str) -> Iterator[str]:
    """The copy as a store in memory, by a name that is its own while it is written, and the same for the next copy."""
    ours = object()
    names = (held.name if turn == 1 else f"{held.name}-{turn}" for turn in count(1))
    name = next(each for each in names if _taken.setdefault(each, ours) is ours)
    try:
        store = memory.store(name)
        for row in held.rows:
            store.append(row.kind, row.record, (), row.place)
        for reject in held.rejects:
            store.refuse(reject)
        store.moment = moment
        yield name
    finally:
        memory.forget(name)
        del _taken[name]


def _settled(sink: Location, options: Options | None, mapping: Mapping) -> tuple[str, Options]:
    """The sink's address and the options as a rescue takes them. Makes the folder of a sink that is a file."""
    text = os.fspath(sink) if isinstance(sink, os.PathLike) else str(sink)
    address = resolve(text)
    if options is None:
        comparable = _has_times(mapping) and not adapter_for(address.store).traits.whole
        existing: Literal["newer", "refuse"] = "newer" if comparable else "refuse"
        options = Options(existing=existing)
    options = replace(options, on_reject=options.on_reject or "continue")
    if address.store in ("sql", "json", "jsonl") and not options.dry_run:
        folder = Path(address.name).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"{folder}: this folder cannot be made ({exc.strerror}); choose another place") from exc
    if options.existing == "newer" and "tz" not in address.options:
        text = f"{address.text}{'&' if '?' in address.text else '?'}tz=local"
    return text, options


def _has_times(mapping: Mapping) -> bool:
    return any(kind.newest for kind in mapping.kinds.values())


def _make_room(held: Copy, plan: Plan) -> None:
    """Leave behind the spare fields for which this sink has no place, and say so; say too what LuminoraCore will read from it as another type."""
    for kind, names in SPARE.items():
        rows = [row for row in held.rows if row.kind == kind]
        for name in names:
            if not _has_place(plan, kind, name):
                left = sum(row.drop(name) is not None for row in rows)
                if left:
                    held.notes.append(f"{kind} {name} stays behind: this sink has no place for it ({counted(left)})")
    layout = plan.sink.layout
    if layout.store in READ_STORES and "fact" in layout.kinds:
        parsed = "value" in layout.kinds["fact"].parsed
        number = held.looks_like_json if parsed else held.no_text
        words = "text that is JSON is read as JSON" if parsed else "what is no text is read as its JSON text"
        if number:
            held.notes.append(f"fact value: {words} by the application from this sink ({counted(number)})")


def _has_place(plan: Plan, kind: str, name: str) -> bool:
    layout, shape = plan.sink.layout, plan.sink.shape
    if layout.keeps_unknown or kind not in layout.kinds:
        return True
    return shape is not None and name in shape.tables.get(layout.kinds[kind].collections[0], ())
