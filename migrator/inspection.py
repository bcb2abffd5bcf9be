"""What one store holds: layout and why, counts, sizes, users, what is near a limit, what LuminoraCore does not find, secrets. Reads only.

Values of records are looked at and never kept, but for those of a sample that somebody asked to see. Memory is bounded at any size of the store.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from migrator.adapters.base import RECORD_BYTES, Setting
from migrator.adapters.dynamodb.oversize import Oversize
from migrator.adapters.dynamodb.values import HASH_BYTES, ITEM_BYTES, RANGE_BYTES, to_item
from migrator.binding import reading
from migrator.engine import WANTED_PARTITIONS
from migrator.errors import ConfigError, RecordError
from migrator.layout import Layout
from migrator.mapping import Mapping
from migrator.model import Kind, Page, Reject, Row, counted, identity_key, identity_words, shortened
from migrator.plan import Store, look_at, rate_words, unread_tables
from migrator.report import PAGE
from migrator.run import Show
from migrator.secret_signs import HIDDEN, hidden, is_secret_name, secrets_in
from migrator.users import Users
from migrator.values import Value, digest16, to_json

NEAR = 0.8
"""From this part of a limit on a record is near it."""

_NAMED = 5  # identities that are told of each finding
_LISTED = 20  # foreign items and rejects that are told of all
_PATHS = 50  # places of secrets that are told of each kind; what is beyond is counted together
_SHOWN = 1_000  # characters of a sampled value


@dataclass
class Named:
    """Some records with something in common: how many, and the identities of the first few."""

    count: int = 0
    some: list[str] = field(default_factory=list)

    def add(self, words: str) -> None:
        self.count += 1
        if len(self.some) < _NAMED:
            self.some.append(words)


@dataclass
class KindInspection:
    """What a store holds of one kind. Times are the stored text; bytes are of the record as JSON.

    sizes: by a power of two, as text, how many records take so many bytes or more, and fewer than the next. unfound: of a table's records those
    that lie where LuminoraCore does not look; unfound_why: by reason. near: by limit, the records that come near it or pass it, as items of a
    table. forms: of a table's records, how many are `compressed` or `split`. secrets: by path and sign, how many. sample: identities, and with values the fields.
    """

    count: int = 0
    rejected: int = 0
    bytes: int = 0
    largest: int = 0
    oldest: str | None = None
    newest: str | None = None
    expired: int = 0
    unfound: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    unfound_why: dict[str, Named] = field(default_factory=dict)
    near: dict[str, Named] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, int] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class UserInspection:
    """Whose records there are, by the ids under which they lie. heaviest: the ten with the most bytes, each with `user`, `records` and `bytes`.

    over_a_page: users whose records take more as items of a table than LuminoraCore is given at once (fact sheet H27).
    """

    count: int = 0
    over_a_page: int = 0
    heaviest: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Inspection:
    """What `inspect` found. `named_by`: who explained a name or a bare word; empty for an address that is written out.

    users: None where the mapping does not say whose a record is. measured_as: the layout of the table by which items are weighed, the store's
    own or the one that the mapping would make; empty where it has none.
    """

    address: str
    whereabouts: str
    words: str
    mapping: str
    layout: str
    why: str
    has_keys: bool
    named_by: str = ""
    unread_later: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, KindInspection] = field(default_factory=dict)
    users: UserInspection | None = None
    measured_as: str = ""
    ghosts: int = 0
    foreign: int = 0
    foreign_seen: list[str] = field(default_factory=list)
    foreign_secrets: dict[str, int] = field(default_factory=dict)
    unread_tables: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def look_through(
    address: str,
    mapping: str | None,
    show: Show,
    sample: int = 0,
    show_values: bool = False,
    read_rate: float | None = None,
) -> Inspection:
    """Read the whole store; `sample` identities of each kind, the same in every run, and with `show_values` their fields.

    Raises ConfigError if there is none, or no mapping fits it.
    """
    began = time.monotonic()
    with show.step("looking at the store"):
        store, found = look_at(address, mapping)
    assert store.shape is not None
    inspection = Inspection(
        store.address.text,
        store.whereabouts,
        store.shape.words,
        found.name,
        store.layout.id,
        _why(store),
        bool(store.shape.key),
        store.address.named_by,
        reading(store.layout, found.kind_names())[1],
    )
    inspection.unread_tables = unread_tables(store)
    with tempfile.TemporaryDirectory(prefix="migrator-") as folder, closing(Users(Path(folder) / "users")) as users:
        setting = Setting(store.layout, found.kind_names(), Path(folder), read_rate=read_rate, say=show.say)
        # A look needs no snapshot: a file is read as it is, page by page, and a table eventually consistent, at half the price.
        opened = store.adapter.reader(store.address, setting) if store.local_file else None
        source = opened or store.adapter.source(store.address, setting)
        for _, words in rate_words(source.rates(), None, None):
            show.say(words)
        look = _Look(inspection, store, found, users, sample, show_values)
        try:
            with show.progress("reading", source.size_hint()) as tick:
                for partition in source.partitions(list(store.layout.kinds), WANTED_PARTITIONS):
                    for page in source.pages(partition, None):
                        look.at_page(page)
                        tick(len(page.rows))
        finally:
            source.close()
        with show.step("counting users"):
            look.end()
    inspection.seconds = round(time.monotonic() - began, 3)
    return inspection


def _why(store: Store) -> str:
    shape = store.shape
    assert shape is not None
    if shape.key:
        index = (
            f", first index {shape.index[0]} ({'/'.join(filter(None, shape.index[1:]))})"
            if shape.index
            else ", no index"
        )
        return f"its key is {'/'.join(shape.key)}{index}"
    if store.address.store == "json" and store.layout.map:
        return f"it is a map of {' to '.join(store.layout.map.map)}"
    held = [
        name
        for kind in store.layout.kinds.values()
        for name in (*kind.collections, kind.kind.name)
        if name in shape.tables
    ]
    return f"it holds {', '.join(dict.fromkeys(held))}" if held else "it holds nothing that would tell"


class _Look:
    """One reading of a store, page by page, into an Inspection."""

    def __init__(
        self, into: Inspection, store: Store, mapping: Mapping, users: Users, sample: int, show_values: bool
    ) -> None:
        self.into, self.mapping, self.layout, self.users = into, mapping, store.layout, users
        self.owner = mapping.user.field if mapping.user is not None else None
        self.scale = _scale(mapping, store.layout)
        into.measured_as = self.scale.layout.id if self.scale is not None else ""
        self.samples = {name: _Sample(kind, sample, show_values) for name, kind in mapping.kinds.items()}
        self.names = {name: frozenset(kind.identity) for name, kind in mapping.kinds.items()}
        self.now = time.time()

    def at_page(self, page: Page) -> None:
        into = self.into
        for row in page.rows:
            self._at_row(row)
        for reject in page.rejects:
            self._at_reject(reject)
        for (kind, form), count in page.forms.items():
            forms = self._of(kind).forms
            forms[form] = forms.get(form, 0) + count
        for each in page.foreign:
            _note_secrets(into.foreign_secrets, each.held, frozenset())
            into.ghosts += each.ghost
        foreign = [each.place for each in page.foreign if not each.ghost]
        into.foreign += len(foreign)
        into.foreign_seen = (into.foreign_seen + foreign)[:_LISTED]

    def _of(self, kind: str) -> KindInspection:
        return self.into.kinds.setdefault(kind, KindInspection())

    def end(self) -> None:
        for name, kind in self.into.kinds.items():
            if name in self.samples:
                kind.sample = self.samples[name].taken()
        if self.owner is not None:
            heaviest = [
                {"user": hidden(user), "records": n, "bytes": size} for user, n, size in self.users.heaviest(10)
            ]
            self.into.users = UserInspection(self.users.count(), self.users.over(PAGE), heaviest)

    def _at_row(self, row: Row) -> None:
        kind, spec = self._of(row.kind), self.mapping.kinds[row.kind]
        size = len(to_json(row.record))
        kind.count += 1
        kind.bytes += size
        kind.largest = max(kind.largest, size)
        floor = str(1 << size.bit_length() - 1)
        kind.sizes[floor] = kind.sizes.get(floor, 0) + 1
        stamp = row.record.get(spec.newest) if spec.newest else None
        if isinstance(stamp, str):
            kind.oldest = min(kind.oldest or stamp, stamp)
            kind.newest = max(kind.newest or stamp, stamp)
        if spec.expires:
            until = row.record.get(spec.expires, row.origin.extra.get(spec.expires) if row.origin else None)
            kind.expired += isinstance(until, int | float) and until < self.now
        if self.into.has_keys and (why := self.layout.why_unfound(row)):
            kind.unfound += 1
            kind.unfound_why.setdefault(why, Named()).add(_words(spec, row))
        answer = self._weighed(kind, spec, row) or size
        owner = row.record.get(self.owner) if self.owner is not None else None
        if isinstance(owner, str):
            self.users.add(owner, 1, size, answer)
        _note_secrets(kind.secrets, row.record, self.names[row.kind])
        self.samples[row.kind].offer(row)

    def _weighed(self, kind: KindInspection, spec: Kind, row: Row) -> int:
        """The bytes of the row as an item of a table, and a note where it is near a limit; 0 where no table can hold it."""
        if self.scale is None:
            return 0
        try:
            size, limited = self.scale.weigh(row)
        except RecordError as exc:
            kind.near.setdefault("no table can hold it", Named()).add(f"{_words(spec, row)}: {exc}")
            return 0
        for name, taken, limit in limited:
            if taken > limit * NEAR:
                near = kind.near.setdefault(f"{name}: {limit:,} bytes", Named())
                near.add(f"{_words(spec, row)}: {counted(taken, 'byte')}")
        return size

    def _at_reject(self, reject: Reject) -> None:
        kind = self._of(reject.kind)
        kind.rejected += 1
        _note_secrets(kind.secrets, reject.held, self.names.get(reject.kind, frozenset()))
        if len(self.into.rejects) < _LISTED:
            self.into.rejects.append(f"{shortened(reject.place)}: {reject.reason}")


class _Scale:
    """Weighs rows as items of a table, by DynamoDB's own arithmetic."""

    def __init__(self, layout: Layout, is_own: bool) -> None:
        self.layout, self.is_own = layout, is_own
        self.oversize = Oversize(layout, "split" if is_own else "reject", RECORD_BYTES)

    def weigh(self, row: Row) -> tuple[int, list[tuple[str, int, int]]]:
        """The bytes of the item with its parts, and name, bytes and limit of what is limited. Raises RecordError where there is no such item."""
        item = to_item(self.layout.write(row if self.is_own else self.layout.fit(row)))
        packed = self.oversize.pack(row.kind, item)
        self.oversize.check(row.kind, packed)
        sizes = self.oversize.sizes(packed)
        limited = [("item", sizes[0], ITEM_BYTES)]
        limited += [
            (f"key {name}", len(item[name]["S"].encode()), limit)
            for name, limit in zip(self.layout.key, (HASH_BYTES, RANGE_BYTES))
        ]
        return sum(sizes), limited


def _scale(mapping: Mapping, layout: Layout) -> _Scale | None:
    """For a table its own layout; for other stores that of the table that the mapping would make, if it makes any."""
    if layout.key:
        return _Scale(layout, is_own=True)
    try:
        return _Scale(mapping.layout_for("dynamodb", None), is_own=False)
    except ConfigError:
        return None


class _Sample:
    """Some records of one kind, spread over all of them and the same in every run: those whose identities have the lowest digests."""

    def __init__(self, kind: Kind, size: int, show_values: bool) -> None:
        self.kind, self.size, self.show_values = kind, size, show_values
        self._lowest: list[tuple[int, int, dict[str, Any]]] = []
        self._offered = 0

    def offer(self, row: Row) -> None:
        if not self.size:
            return
        self._offered += 1
        digest = -_digest(self.kind, row)
        if len(self._lowest) < self.size:
            heapq.heappush(self._lowest, (digest, self._offered, self._seen(row)))
        elif digest > self._lowest[0][0]:
            heapq.heapreplace(self._lowest, (digest, self._offered, self._seen(row)))

    def taken(self) -> list[dict[str, Any]]:
        return [seen for _, _, seen in sorted(self._lowest, key=lambda each: (-each[0], each[1]))]

    def _seen(self, row: Row) -> dict[str, Any]:
        seen: dict[str, Any] = {"identity": _words(self.kind, row)}
        if self.show_values:
            seen["fields"] = {name: _shortened(value) for name, value in row.record.items()}
        return seen


def _digest(kind: Kind, row: Row) -> int:
    try:
        return digest16(identity_key(kind.name, kind.identity_of(row.record)))
    except ValueError:  # a lone surrogate
        return digest16(row.place.encode("utf-8", "surrogatepass"))


def _shortened(value: Value) -> Value:
    """A value that is long only by its beginning, as text."""
    text = value if isinstance(value, str) else to_json(value).decode()
    return value if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


def _words(kind: Kind, row: Row) -> str:
    """The identity for people, without what seems to be a secret."""
    parts = kind.identity_of(row.record)
    safe = [
        HIDDEN if is_secret_name(name) and part is not None else hidden(part) if isinstance(part, str) else part
        for name, part in zip(kind.identity, parts, strict=True)
    ]
    return identity_words(kind, safe)


def _note_secrets(into: dict[str, int], record: dict[str, Value], named: frozenset[str]) -> None:
    for path, sign in secrets_in(record, named):
        place = f"{path} ({sign})"
        if place not in into and len(into) >= _PATHS:
            place = "other fields"
        into[place] = into.get(place, 0) + 1
