"""LuminoraCore's storages as objects of this process, told by their attributes: where they keep records, or a copy of those they hold in memory.

Knows the objects of fact sheet 1.2, 1.3, 2.11 and 8.2; imports nothing of LuminoraCore and changes nothing in them. Leaves the copy's way into a
store to `rescuing`. What each field becomes is a table in mappings/README.md, "LuminoraCore in memory".
"""

from __future__ import annotations

import json
import numbers
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from urllib.parse import quote, urlencode

from migrator.errors import ConfigError, RecordError, StoreError
from migrator.mapping import Mapping
from migrator.mapping_file import load_mapping
from migrator.model import Field, Kind, Record, Reject, Row, counted, identity_key
from migrator.values import Value

Held = dict[str, Any]
"""A record as a storage holds it: its own names, and whatever values."""

SPARE = {"session": ("status", "provider_config"), "affinity": ("last_interaction",)}
"""By kind, fields that LuminoraCore's own stores do not hold (fact sheet 2.2): they may stay behind where the sink has no place for them either."""

_SUPPORTED = (
    "InMemoryStorage and InMemoryStorageV11 of LuminoraCore's SDK, InMemoryStorage of its Core, FlexibleSQLiteStorageV11, "
    "FlexibleDynamoDBStorageV11, JSONFileStorage, and what holds one of them as storage, _storage or base_storage"
)
_HOLDERS = ("storage", "_storage", "base_storage")
_DEPTH = 8  # an object that answers every name with another such object is no storage
_TRIES = 50
_IN_MEMORY = {"_affinity", "_facts", "_episodes", "_moods", "_snapshots", "_sessions"}
_IN_CORE = {"facts", "episodes", "affinities"}
_TABLES = {
    "fact": "facts_table",
    "affinity": "affinity_table",
    "episode": "episodes_table",
    "mood": "moods_table",
    "memory": "memories_table",
    "session": "sessions_table",
}


@dataclass
class Copy:
    """What a storage held at one moment; nothing in it is shared with the storage.

    name: the storage's class. notes: what was filled in, written as text or not read, in words. looks_like_json: how many fact values are text that
    reads as JSON; no_text: how many are no text.
    """

    name: str
    mapping: Mapping
    rows: list[Row] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looks_like_json: int = 0
    no_text: int = 0


@dataclass(frozen=True)
class Elsewhere:
    """A store outside of the process that a storage stands for. `tables`: by kind, the tables it uses."""

    address: str
    tables: dict[str, str] = field(default_factory=dict)


def look_into(storage: object) -> Copy | Elsewhere:
    """A copy of what a storage holds in memory, or the address of the store it writes to. Follows objects that hold a storage.

    The copy is made without giving way to an event loop, so that coroutines of the loop it is called in see it as one moment. Other threads may write
    meanwhile: each record is whole, and the copy begins anew where a dict has changed under it.
    Raises ConfigError for an object of another sort, StoreError if other threads never let it finish.
    """
    found = _innermost(storage)
    name = type(found).__name__
    elsewhere = _elsewhere(found)
    if elsewhere is not None:
        return elsewhere
    for _ in range(_TRIES):
        try:
            copier = _copier(found)
            copier.take_all()
        except RuntimeError as exc:
            if "during iteration" not in str(exc):
                raise
        else:
            return copier.copy
    raise StoreError(
        f"{name}: other threads write into it faster than it can be copied. Call again, or hold them up for that moment"
    )


def _innermost(storage: object) -> object:
    looked_at: list[object] = []
    at: object | None = storage
    while at is not None and len(looked_at) < _DEPTH and not any(at is each for each in looked_at):
        if _is_known(at):
            return at
        looked_at.append(at)
        at = next((held for name in _HOLDERS if (held := getattr(at, name, None)) is not None), None)
    names = ", which holds ".join(type(each).__name__ for each in looked_at)
    raise ConfigError(
        f"{names}: no storage that can be rescued from. There are {_SUPPORTED}. For any other store: migrator.migrate and its address"
    )


def _is_known(storage: object) -> bool:
    return _elsewhere(storage) is not None or _is_v11(storage) or _is_core(storage) or _is_v10(storage)


def _is_v11(storage: object) -> bool:
    return _has_dicts(storage, "_facts", "_affinity")


def _is_core(storage: object) -> bool:
    data = getattr(storage, "data", None)
    return isinstance(data, dict) and isinstance(data.get("facts"), dict) and isinstance(data.get("affinities"), dict)


def _is_v10(storage: object) -> bool:
    return _has_dicts(storage, "_sessions") and callable(getattr(storage, "load_session", None))


def _has_dicts(storage: object, *names: str) -> bool:
    return all(isinstance(getattr(storage, name, None), dict) for name in names)


def _elsewhere(storage: object) -> Elsewhere | None:
    held = getattr(storage, "__dict__", {})
    if isinstance(held.get("database_path"), str) and isinstance(held.get("facts_table"), str):
        tables = {kind: held[name] for kind, name in _TABLES.items() if isinstance(held.get(name), str)}
        return Elsewhere(f"sqlite:///{quote(held['database_path'], safe='/:')}?tz=local", tables)
    if isinstance(held.get("table_name"), str) and "hash_key_name" in held and "table" in held:
        client = held[
            "table"
        ].meta.client.meta  # the region as boto3 settled it: the object's own is a guess (fact sheet 8.2)
        options = {"region": client.region_name}
        if not client.endpoint_url.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            options["endpoint"] = client.endpoint_url
        return Elsewhere(f"dynamodb://{held['table_name']}?{urlencode(options | {'tz': 'local'})}")
    if "file_path" in held and isinstance(held.get("_data"), dict):
        return Elsewhere(f"json:{held['file_path']}")
    return None


# Copying ---------------------------------------------------------------------------------------------------------------


def _copier(storage: object) -> _Copier:
    name = type(storage).__name__
    if _is_v11(storage):
        return _Copier(name, "luminoracore-v1.1", storage, _of_v11)
    if _is_core(storage):
        return _Copier(name, "luminoracore-v1.1", storage, _of_core)
    return _Copier(name, "luminoracore-v1.0", storage, _of_v10)


class _Copier:
    """One reading of a storage: its records as rows, what cannot be one as rejects, and what is worth saying."""

    def __init__(
        self, name: str, mapping: str, storage: object, read: Callable[[Any], Iterator[tuple[str, str, object]]]
    ) -> None:
        self.copy = Copy(name, load_mapping(mapping))
        self.storage, self.read = storage, read
        self.counts: Counter[str] = Counter()
        self.turned: list[Row] = []
        """Rows whose identity was no text."""

    def take_all(self) -> None:
        for kind, place, held in self.read(self.storage):
            self._take(kind, place, held)
        self._reject_those_that_meet()
        self.copy.notes += [f"{words} ({counted(count)})" for words, count in sorted(self.counts.items())]
        self.copy.notes += [f"not read: {words}" for words in _strange(self.storage)]

    def _take(self, kind: str, place: str, held: object) -> None:
        spec = self.copy.mapping.kinds.get(kind)
        try:
            if spec is None:
                raise RecordError(f"LuminoraCore's stores have no place for a {kind}")
            if not isinstance(held, dict):
                raise RecordError("is no object with fields")
            row = self._row(spec, place, dict(held))
        except RecordError as exc:
            self.copy.rejects.append(Reject(kind, place, str(exc), _as_far_as_json(held)))
        else:
            self.copy.rows.append(row)

    def _row(self, kind: Kind, place: str, held: Held) -> Row:
        if kind.name in _SETTLE:
            for words in _SETTLE[kind.name](held):
                self.counts[f"{kind.name} {words}"] += 1
        types = {each.name: each for each in kind.fields}
        record: Record = {}
        was_text = True
        for name, value in held.items():
            name = str(name)
            spec = types.get(name)
            if (kind.name, name) == ("fact", "value"):
                record[name] = self._fact_value(value)
            elif spec is None:
                record[name] = _json_of(name, value)
            elif spec.type == "json":
                record[name] = _blob_of(name, value)
            else:
                record[name] = _typed(spec, value)
                if spec.type == "text" and type(record[name]) is str and not isinstance(value, str):
                    self.counts[f"{kind.name} {name}: what was no text is written as text"] += 1
                    was_text = was_text and name not in kind.identity
        row = Row(kind.name, record, place=place)
        if not was_text:
            self.turned.append(row)
        return row

    def _fact_value(self, value: object) -> str:
        text = _as_text(value)
        if isinstance(value, str):
            self.copy.looks_like_json += _is_json(text)
        else:
            self.copy.no_text += 1
        return text

    def _reject_those_that_meet(self) -> None:
        """The user 42 and the user "42" are two in memory and one as text (H23): what would meet there stays behind with its reason."""
        if not self.turned:
            return
        turned = {id(row) for row in self.turned}
        taken = {key for row in self.copy.rows if id(row) not in turned and (key := self._key(row)) is not None}
        met = [row for row in self.turned if self._key(row) in taken]
        left = {id(row) for row in met}
        self.copy.rows = [row for row in self.copy.rows if id(row) not in left]
        reason = "a part of its identity is no text, and as text it is that of another record"
        self.copy.rejects += [Reject(row.kind, row.place, reason, row.record) for row in met]

    def _key(self, row: Row) -> bytes | None:
        try:
            return identity_key(row.kind, self.copy.mapping.kinds[row.kind].identity_of(row.record))
        except ValueError:
            return None  # not Unicode: rejected later, by name


def _strange(storage: object) -> Iterator[str]:
    """What a storage holds beside the records that are looked for, in words."""
    held = getattr(storage, "__dict__", {})
    for name, value in held.items():
        if name not in _IN_MEMORY | {"data"} and isinstance(value, dict | list) and value:
            yield f"{name}, {counted(len(value), 'entry') if len(value) == 1 else f'{len(value):,} entries'}"
    if _is_core(storage):
        yield from (f"data[{name!r}]" for name, value in held["data"].items() if name not in _IN_CORE and value)


# The shapes: kind, place and record of whatever a storage holds -------------------------------------------------------------


def _items(held: object) -> list[tuple[Any, Any]]:
    """The entries of a dict as they are now: one step for the interpreter, so that a writer in another thread cannot come between."""
    return list(held.items()) if isinstance(held, dict) else []


def _of_v10(storage: Any) -> Iterator[tuple[str, str, object]]:
    for session_id, blob in _items(storage._sessions):
        yield "session_blob", f"_sessions[{session_id!r}]", {"session_id": session_id, "session_data": blob}


def _of_v11(storage: Any) -> Iterator[tuple[str, str, object]]:
    for kind, name in (
        ("affinity", "_affinity"),
        ("mood", "_moods"),
        ("session", "_sessions"),
        ("snapshot", "_snapshots"),
    ):
        for key, held in _items(getattr(storage, name, None)):
            yield kind, f"{name}[{key!r}]", held
    for kind, name in (("fact", "_facts"), ("episode", "_episodes")):
        for user, records in _items(getattr(storage, name, None)):
            for turn, held in enumerate(list(records)):
                yield kind, f"{name}[{user!r}][{turn}]", held


def _of_core(storage: Any) -> Iterator[tuple[str, str, object]]:
    data = storage.data
    for kind, name in (("fact", "facts"), ("affinity", "affinities")):
        for user, records in _items(data.get(name)):
            for key, held in _items(records):
                yield kind, f"data[{name!r}][{user!r}][{key!r}]", _without_id(user, held)
    for user, records in _items(data.get("episodes")):
        for turn, held in enumerate(list(records)):
            yield "episode", f"data['episodes'][{user!r}][{turn}]", _without_id(user, held)


def _without_id(user: object, held: object) -> object:
    """Core counts its records within the process; such an id means nothing elsewhere, and empty metadata are none."""
    if not isinstance(held, dict):
        return held
    return {"user_id": user} | {
        name: value for name, value in _items(held) if name != "id" and not (name == "metadata" and value == {})
    }


# What the fields become: each gives words for what was not there and is filled in ---------------------------------------------------


def _settle_fact(held: Held) -> Iterator[str]:
    yield from _fill(held, "confidence", 1.0)


def _settle_affinity(held: Held) -> Iterator[str]:
    for theirs, ours in (
        ("points", "affinity_points"),
        ("level", "current_level"),
        ("interaction_count", "total_interactions"),
    ):
        _rename(held, theirs, ours)
    if held.get("updated_at") is None and held.get("last_interaction") is not None:
        held["updated_at"] = held.pop("last_interaction")
    for name in ("total_interactions", "positive_interactions"):
        yield from _fill(held, name, 0)


def _settle_episode(held: Held) -> Iterator[str]:
    _rename(held, "timestamp", "created_at")
    if held.get("created_at") == held.get("timestamp"):
        held.pop("timestamp", None)
    _rename(held, "timestamp", "updated_at")
    return iter(())


def _settle_mood(held: Held) -> Iterator[str]:
    """A mood is made anew by each save, so that the time of its last change is the time it was made."""
    if _is_number(
        held.get("current_mood")
    ):  # saved as the Flexible classes take it: user_id, mood_type, intensity, context (2.11)
        if not isinstance(held.get("mood_intensity"), str):
            raise RecordError("current_mood holds a number, and mood_intensity no text: which is which cannot be told")
        shifted = {
            "user_id": "session_id",
            "mood_type": "user_id",
            "intensity": "current_mood",
            "context": "mood_intensity",
        }
        moved = {ours: held.get(theirs) for ours, theirs in shifted.items()}
        rest = {name: value for name, value in held.items() if name not in shifted.values()}
        held.clear()
        held |= rest | moved
        yield "was saved with its values shifted by one; they are put right"
    _rename(held, "current_mood", "mood_type")
    _rename(held, "mood_intensity", "intensity")
    if "created_at" not in held and "updated_at" in held:
        held["created_at"] = held["updated_at"]


def _settle_session(held: Held) -> Iterator[str]:
    if "updated_at" not in held and "last_activity" in held:
        held["updated_at"] = held["last_activity"]
    ttl = _epoch(held.get("expires_at")) if "ttl" not in held else None
    if ttl is not None:
        held["ttl"] = ttl
        del held["expires_at"]
    return iter(())


_SETTLE: dict[str, Callable[[Held], Iterator[str]]] = {
    "fact": _settle_fact,
    "affinity": _settle_affinity,
    "episode": _settle_episode,
    "mood": _settle_mood,
    "session": _settle_session,
}


def _rename(held: Held, theirs: str, ours: str) -> None:
    if theirs in held and ours not in held:
        held[ours] = held.pop(theirs)


def _fill(held: Held, name: str, value: Value) -> Iterator[str]:
    """What LuminoraCore's own stores put where a caller gives none (fact sheet 2.1), and count on when they read."""
    if held.get(name) is None:
        held[name] = value
        yield f"{name}: {value} where none was given, as in LuminoraCore's own stores"


def _epoch(expires: object) -> int | None:
    """The epoch seconds of a time, as LuminoraCore cuts them; None where it is none, or names an hour that the local clock skips or repeats."""
    try:
        at = expires if isinstance(expires, datetime) else datetime.fromisoformat(expires)  # type: ignore[arg-type]
        first, second = (at.replace(fold=fold).timestamp() for fold in (0, 1))
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return int(first) if first == second else None


# Values ------------------------------------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def _typed(spec: Field, value: object) -> Value:
    """A field's value: a time as ISO text, a number in a text field as its text (as a TEXT column takes it), any other as it is."""
    if spec.type == "timestamp" and isinstance(value, date):
        return value.isoformat()
    plain = _json_of(spec.name, value)
    if spec.type == "text" and _is_number(plain):
        return str(plain)
    return plain


def _json_of(name: str, value: object) -> Value:
    """The same as plain values, without a reference to what it came from. Raises RecordError, naming the field."""
    if value is None or type(value) in (str, int, float, bool, Decimal):
        return value
    try:
        return json.loads(json.dumps(value, default=_plain))
    except (TypeError, ValueError, RecursionError) as exc:
        raise RecordError(f"{name} {_why(exc)}") from exc


def _blob_of(name: str, value: object) -> Value:
    """A blob of 1.0 as LuminoraCore's own JSONFileStorage writes it, and would read it again (fact sheet 1.3)."""
    try:
        return json.loads(json.dumps(_as_json_storage(value)))
    except (TypeError, ValueError, RecursionError) as exc:
        raise RecordError(f"{name} {_why(exc)}") from exc


def _as_json_storage(value: object) -> object:
    if isinstance(value, dict):
        return {name: _as_json_storage(each) for name, each in _items(value)}
    if isinstance(value, list | tuple):
        return [_as_json_storage(each) for each in list(value)]
    if hasattr(value, "__dict__"):
        return _as_json_storage(vars(value))
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _plain(value: object) -> object:
    """For what JSON does not know: an enum's value, a number of another library as a number, an object's attributes, else its text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return dict(_items(vars(value))) if hasattr(value, "__dict__") else str(value)


def _why(exc: Exception) -> str:
    if isinstance(exc, RecursionError) or "ircular" in str(exc):
        return "is nested too deeply, or holds itself"
    return "holds an object with a key that is not text" if "key" in str(exc) else "has no JSON form"


def _as_text(value: object) -> str:
    """A fact's value as LuminoraCore writes it: text as it is, any other value as JSON text (fact sheet 2.4, the DynamoDB column)."""
    if isinstance(value, str):
        return str.__str__(value)
    if not isinstance(value, dict | list | tuple | int | float | Enum | None) and not hasattr(value, "__dict__"):
        return str(value)
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as exc:
        raise RecordError(f"value {_why(exc)}") from exc


def _is_json(text: str) -> bool:
    try:
        return bool(json.loads(text) != text)
    except (ValueError, RecursionError):
        return False


def _as_far_as_json(held: object) -> Record:
    """For the rejects file: each field that has a plain form, of a blob each part; the others by the names of their types."""
    parts = _items(held) if isinstance(held, dict) else [("held", held)]
    return {str(name): _part(str(name), value) for name, value in parts}


def _part(name: str, value: object) -> Value:
    plain = _blob_of if name == "session_data" else _json_of
    try:
        return plain(name, value)
    except RecordError:
        if name != "session_data" or not isinstance(value, dict):
            return f"({type(value).__name__}, no plain form)"
    parts: Record = {}
    for each, held in _items(value):
        parts[str(each)] = f"({type(held).__name__}, no plain form)"
        with suppress(RecordError):
            parts[str(each)] = _blob_of(name, held)
    return parts
