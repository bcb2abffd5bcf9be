"""The persistence test: one record of each kind written, the store closed and opened again, each read as the application reads it, all deleted.

What is about to be written is noted on this machine first, so that a probe that was killed half way is found and taken away by the next look at
the same store. Knows what a probe's records are; leaves writing to the sink, and what the application is given to `application`.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import orjson

from migrator.adapters.base import Reader, Setting, Sink
from migrator.application import answers, clock
from migrator.checkpoint import state_root
from migrator.errors import MigratorError
from migrator.files import put_whole
from migrator.mapping import Mapping
from migrator.model import Existing, Field, Finding, Record, Row
from migrator.plan import Store
from migrator.values import Value, short_digest

NOBODY = "migrator-probe"
"""The user of a probe's records, and how every other text of theirs begins."""

_HOUR = 3600


def probe(store: Store, mapping: Mapping) -> Iterator[Finding]:
    """Write, close, open again, read, delete. Whatever goes wrong is a finding; what was written is deleted in any case, or by the next look."""
    if store.traits.whole:
        yield Finding("probe", "note", "not made: a file is written whole, and nothing is written into what is there")
        return
    now = datetime.now(UTC)
    rows = [Row(name, _record(mapping, name, now)) for name in _kinds_of(store)]
    note = _note_of(store)
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    put_whole(note, orjson.dumps([row.to_plain() for row in rows]))
    try:
        yield _probed(store, rows, now)
    except MigratorError as exc:
        yield Finding("probe", "fault", f"it could not be made: {exc}", "mend what it names, and probe again")
    finally:
        try:
            _take_away(store, rows)
            note.unlink()
        except MigratorError as exc:
            yield Finding(
                "probe",
                "fault",
                f"its records could not be deleted: {exc}",
                f"migrator doctor {shlex.quote(store.address.text)}",
            )


def leftovers(store: Store) -> Iterator[Finding]:
    """Takes away what a probe that was killed left in this store, if one did."""
    note = _note_of(store)
    if not note.exists() or store.traits.whole:
        return
    try:
        rows = [Row(plain["kind"], plain["record"]) for plain in orjson.loads(note.read_bytes())]
        count = _take_away(store, rows)
        note.unlink()
    except (MigratorError, ValueError, KeyError, TypeError, OSError) as exc:
        yield Finding(
            "probe",
            "note",
            f"an earlier probe was interrupted, and what it left could not be looked for: {exc}",
            "run doctor again",
        )
        return
    found = f"{count} of its records were there, and are deleted" if count else "nothing of it was there"
    yield Finding("probe", "note", f"an earlier probe was interrupted; {found}")


def _probed(store: Store, rows: list[Row], now: datetime) -> Finding:
    with _Opened(store) as (setting, sink):
        sink.prepare(setting.kinds, create=False)
        with closing(store.adapter.reader(store.address, setting)) as reader:
            fitted = [row for row in map(reader.fit, rows) if isinstance(row, Row)]
        sink.begin("0000")
        sink.upsert(fitted, Existing.REFUSE)
        flushed = sink.flush()
    if len(fitted) < len(rows) or flushed.rejects:
        refused = sorted(
            {row.kind for row in rows} - {row.kind for row in fitted} | {each.kind for each in flushed.rejects}
        )
        return Finding(
            "probe",
            "fault",
            f"the store does not take a record of {', '.join(refused)}",
            f"migrator inspect {shlex.quote(store.address.text)}",
        )
    with _Opened(store) as (setting, _), closing(store.adapter.reader(store.address, setting)) as reader:
        missing = [row.kind for row, held in zip(fitted, reader.fetch(fitted), strict=True) if held is None]
        unseen = [row.kind for row in fitted if row.kind not in missing and not _is_given(store, reader, row, now)]
    if missing:
        seen = f"{', '.join(missing)} written, acknowledged, and gone when the store was opened again"
        return Finding(
            "probe",
            "fault",
            seen,
            "does something else delete there, or is this another store than you think? migrator doctor",
        )
    seen = f"{len(rows)} records written, the store closed and opened again, all there, and deleted"
    if unseen:
        seen += f"; the application's own requests find all but {', '.join(unseen)}"
        lost = [kind for kind in unseen if kind not in store.layout.unread]
        mend = f"migrator inspect {shlex.quote(store.address.text)}" if lost else ""
        return Finding("probe", "fault" if lost else "note", seen, mend)
    return Finding("probe", "well", f"{seen}; the application's own requests find each")


def _is_given(store: Store, reader: Reader, row: Row, now: datetime) -> bool:
    """Whether the application, asking as it does, is given the record."""
    spec = store.layout.kinds[row.kind]
    if spec.kind.asked is None or spec.request is None:
        return True
    by = {name: row.record.get(name) for name in spec.kind.asked.by}
    (found,) = reader.ask(row.kind, [by])
    given = answers(spec, store.address.store, by, found, clock(now, store.address.options.get("tz", ""))).given
    return any(each.identity == spec.kind.identity_of(row.record) for each in given)


def _take_away(store: Store, rows: list[Row]) -> int:
    """Delete the probe's records, as many as are there; how many there were."""
    with _Opened(store) as (setting, sink):
        sink.prepare(setting.kinds, create=False)
        with closing(store.adapter.reader(store.address, setting)) as reader:
            held = [row for row in reader.fetch(rows) if row is not None]
        sink.begin("0000")
        sink.remove(held)
        sink.flush()
    return len(held)


class _Opened:
    """The store opened for writing, with a scratch folder of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> tuple[Setting, Sink]:
        self.scratch = tempfile.TemporaryDirectory(prefix="migrator-")
        setting = Setting(self.store.layout, _kinds_of(self.store), Path(self.scratch.name))
        self.sink = self.store.adapter.sink(self.store.address, setting)
        return setting, self.sink

    def __exit__(self, *error: object) -> None:
        self.sink.close()
        self.scratch.cleanup()


def _kinds_of(store: Store) -> tuple[str, ...]:
    """The kinds that the store has a place for: LuminoraCore makes a missing table when it first needs it, a probe makes none."""
    tables = store.shape.tables if store.shape is not None else {}
    return tuple(name for name, kind in store.layout.kinds.items() if not tables or set(kind.collections) & set(tables))


def _note_of(store: Store) -> Path:
    return state_root() / "probes" / f"{short_digest(store.whereabouts.encode())}.json"


def _record(mapping: Mapping, kind: str, now: datetime) -> Record:
    owner = {mapping.user.field: NOBODY} if mapping.user else {}
    fields = mapping.kinds[kind].fields
    return {field.name: owner.get(field.name) or _value(field, mapping.kinds[kind].expires, now) for field in fields}


def _value(field: Field, expires: str | None, now: datetime) -> Value:
    match field.type:
        case "timestamp":
            return (
                now.astimezone().replace(tzinfo=None).isoformat()
            )  # as LuminoraCore writes it: local, without an offset (H20)
        case "integer":
            return int(now.timestamp()) + _HOUR if field.name == expires else 1
        case "float":
            return 0.5
        case "boolean":
            return True
        case "json":
            return {"probe": True}
    return f"{NOBODY}-{field.name}"
