"""What the application would remember of each user, from either store: its own requests, asked of both, and their answers side by side.

`answers` makes of the items that a store gives what the application is given: what it skips, fills in and reads as another type is data of the
mapping (`Kind.asked`, `KindLayout.request`). `People` knows whose records the source holds and by which names they are asked for; `Comparison`
asks both stores and names what is no longer found, found anew, differing, or read as another type. Reads only. How a request is sent is the
adapter's; what a run makes of the result is left to `verification` and `migration`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from migrator.adapters.base import Source
from migrator.choice import User, zone_of
from migrator.errors import RecordError
from migrator.files import private
from migrator.kind_layout import KindLayout, Request
from migrator.model import Asked, Found, Identity, Kind, Record, Reject, Row, identity_words
from migrator.places import Place, decode
from migrator.values import Value, canonical, digest16, from_json, is_number, to_json

TOGETHER = 16
"""Requests of one kind that are sent together: a page of answers each, from both stores, is all that is held at once."""

PATIENCE = 5.0
"""Seconds of a run for asking once more where an index may be behind (fact sheet H48)."""

SHOWN, NAMED = 100, 1000
"""Users, and differences, that the report holds; all are in its file."""


# Answers ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """One record as the application is given it; `stored` is what the store holds of the same fields, for telling why two differ."""

    identity: Identity
    given: Record
    stored: Record


@dataclass(slots=True)
class Answers:
    """What one request gave, and the identities of what the application skips, with the reason."""

    given: list[Answer] = field(default_factory=list)
    skipped: dict[bytes, str] = field(default_factory=dict)
    is_cut: bool = False
    trouble: str = ""


def answers(spec: KindLayout, store: str, by: Record, found: Found, now: datetime) -> Answers:
    """What the application makes of the items that a store gave it. `now` is its clock: naive local time, as it writes it."""
    out = Answers(is_cut=found.is_cut, trouble=found.trouble)
    asked, request = spec.kind.asked, spec.request
    assert asked is not None
    assert request is not None
    places = {place.field.name: place for place in spec.places}
    names = asked.gives or tuple(places)
    for item in found.items:
        stored = {name: value for name, place in places.items() if (value := _stored(place, item)) is not None}
        identity = tuple(by[name] if name in by else stored.get(name) for name in spec.kind.identity)
        absent = {name for name, place in places.items() if place.attribute not in item and place.otherwise not in item}
        why = _skipped(request, stored, absent, asked, store, now)
        given: Record = {}
        for name in names if why is None else ():
            try:
                given[name] = _given(spec, request, name, stored.get(name), name in absent)
            except (TypeError, ValueError):
                why = f"{name} cannot be given as the application gives it"
        if why is None:
            out.given.append(Answer(identity, given, {name: stored.get(name) for name in names}))
        else:
            out.skipped[_key(identity)] = why
    if spec.kind.is_asked_for_one:
        del out.given[1:]
    return out


def _stored(place: Place, item: Record) -> Value:
    """A field as the application finds it: nothing is mended of what it finds."""
    value = item[place.attribute] if place.attribute in item else item.get(place.otherwise or "")
    if place.form == "native" or value is None:
        return value
    try:
        return decode(place, value)
    except RecordError:
        return value


def _skipped(request: Request, stored: Record, absent: set[str], asked: Asked, store: str, now: datetime) -> str | None:
    for name in request.filled:
        if not stored.get(name):
            return f"{name} is empty"
    for name in request.present:
        if name in absent:
            return f"{name} is not there"
    for name in request.numbers:
        value = request.defaults.get(name) if name in absent else stored.get(name)
        if not _is_float(value):
            return f"{name} is no number"
    if asked.recent is not None:
        name, days = asked.recent
        if _is_old(stored.get(name), now - timedelta(days=days), store):
            return f"{name} is more than {days} days ago"
    return None


def _is_old(value: Value, since: datetime, store: str) -> bool:
    """A database compares the text, and finds no NULL; LuminoraCore on DynamoDB compares times, and gives what is none (fact sheet 4.2, 4.3, H20)."""
    if store == "sql":
        return value is None or (not isinstance(value, bytes) and str(value) < since.isoformat())
    try:
        return bool(value) and datetime.fromisoformat(value.replace("Z", "+00:00")) < since
    except (AttributeError, TypeError, ValueError):
        return False


def _given(spec: KindLayout, request: Request, name: str, value: Value, is_absent: bool) -> Value:
    """Raises TypeError or ValueError for what the application cannot give: it skips the record."""
    if is_absent and name in request.defaults:
        return request.defaults[name]
    if name in request.numbers:
        return float(value)
    if name in request.text:
        return _as_text(value)
    if name in spec.parsed and isinstance(value, str | bytes):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _is_float(value: Value) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _as_text(value: Value) -> str:
    """Always text, as `get_facts` gives it from DynamoDB (fact sheet 2.4): objects and lists as JSON written anew."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return json.dumps(parsed, ensure_ascii=False) if isinstance(parsed, dict | list) else value
    if isinstance(value, dict | list):
        if _holds_number(value):
            raise TypeError("numbers in it are Decimals to the application, and json.dumps takes none")
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        value = Decimal(repr(value))  # which every number of DynamoDB is to the application
    return "" if value is None else str(value)


def _holds_number(value: Value) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_number, value.values() if isinstance(value, dict) else value))
    return is_number(value)


# People ----------------------------------------------------------------------------------------------------------------


class People:
    """Whose records there are, and by which names each is asked for: on disk, for there may be millions.

    A user's sessions are the user's: turns and growing affinity lie under the session's id (fact sheet 2.12). Each id belongs to one user.
    """

    def __init__(self, path: Path, kinds: Mapping[str, Kind], user: User) -> None:
        path.unlink(missing_ok=True)
        private(path).close()
        self.kinds = {name: kind for name, kind in kinds.items() if kind.asked is not None}
        self.user, self.path = user, path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.create_function(
            "rank", 1, lambda text: f"{digest16(text.encode('utf-8', 'replace')):032x}", deterministic=True
        )
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE owner (id TEXT PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE claim (session TEXT, owner TEXT, PRIMARY KEY (session, owner)) WITHOUT ROWID",
            "CREATE TABLE name (owner TEXT, kind TEXT, by TEXT, PRIMARY KEY (owner, kind, by)) WITHOUT ROWID",
            "CREATE TABLE stays (identity BLOB PRIMARY KEY) WITHOUT ROWID",
            "BEGIN",
        ):
            self._db.execute(statement)

    def note(self, rows: Iterable[Row]) -> None:
        """Take in records of the source that should be in the sink."""
        owners, claims, names = [], [], []
        for row in rows:
            kind = self.kinds.get(row.kind)
            owner = row.record.get(self.user.field)
            if kind is None or kind.asked is None or not isinstance(owner, str):
                continue
            owners.append((owner,))
            session = row.record.get(self.user.session)
            if isinstance(session, str) and session != owner and owner not in self.user.shared:
                claims.append((session, owner))
            if not self._is_listed(kind):
                by = [row.record.get(name) for name in kind.asked.by]
                if None not in by:
                    names.append((owner, row.kind, to_json(by).decode()))
        for table, marks, lines in (("owner", "?", owners), ("claim", "?, ?", claims), ("name", "?, ?, ?", names)):
            self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", lines)

    def leave(self, rejects: Iterable[Reject]) -> None:
        """Take in what could not travel: that the application does not find it in the sink is known."""
        for reject in rejects:
            if reject.kind in self.kinds:
                identity = self.kinds[reject.kind].identity_of(reject.held)
                self._db.execute("INSERT OR IGNORE INTO stays VALUES (?)", (_key((reject.kind, *identity)),))

    def settle(self) -> int:
        """After all have been noted: whose ids are whose. How many users there are."""
        for statement in (
            "COMMIT",
            "CREATE TEMP TABLE first AS SELECT session, min(owner) AS owner FROM claim JOIN owner ON owner.id = session GROUP BY session",
            "CREATE UNIQUE INDEX temp.first_session ON first (session)",
            "CREATE TEMP TABLE person AS SELECT id, coalesce((SELECT owner FROM first WHERE session = id"
            " AND owner NOT IN (SELECT session FROM first)), id) AS person FROM owner",
            "CREATE INDEX temp.person_person ON person (person)",
        ):
            self._db.execute(statement)
        (count,) = self._db.execute("SELECT count(DISTINCT person) FROM person").fetchone()
        return int(count)

    def some(self, limit: int | None, without: Sequence[str] = ()) -> list[str] | Iterator[str]:
        """The users in order; or so many of them, always the same ones: those with the smallest hash."""
        marks = ",".join("?" * len(without))
        query = f"SELECT DISTINCT person FROM person WHERE person NOT IN ({marks})"
        if limit is not None:
            found = self._db.execute(f"{query} ORDER BY rank(person) LIMIT ?", (*without, limit))
            return sorted(person for (person,) in found)
        return (person for (person,) in self._db.execute(f"{query} ORDER BY person", tuple(without)))

    def asks(self, person: str) -> Iterator[tuple[str, Record]]:
        """Every request that the application has for a user: kind, and what it asks by."""
        for (owner,) in self._db.execute("SELECT id FROM person WHERE person = ? ORDER BY id", (person,)).fetchall():
            for name, kind in self.kinds.items():
                if self._is_listed(kind):
                    yield name, {self.user.field: owner}
            for name, by in self._db.execute(
                "SELECT kind, by FROM name WHERE owner = ? ORDER BY kind, by", (owner,)
            ).fetchall():
                asked = self.kinds[name].asked
                assert asked is not None
                yield name, dict(zip(asked.by, from_json(by.encode()), strict=True))

    def stays(self, kind: str, identity: Identity) -> bool:
        """Whether a record was one that could not travel."""
        return (
            self._db.execute("SELECT 1 FROM stays WHERE identity = ?", (_key((kind, *identity)),)).fetchone()
            is not None
        )

    def close(self) -> None:
        self._db.close()
        self.path.unlink(missing_ok=True)

    def _is_listed(self, kind: Kind) -> bool:
        return kind.asked is not None and kind.asked.by == (self.user.field,)


# Comparison ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """What a plan knows beforehand: by kind, why the application does not find it in the sink, or did not in the source.

    extra, differing: whether what is only in the sink, or otherwise there, is all right (it held other records, and they were kept).
    """

    missing: Mapping[str, str]
    found: Mapping[str, str]
    extra: bool = False
    differing: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One record that the application remembers otherwise. what: missing, extra, differing or retyped (stored alike, and read otherwise).

    fields: what differs, with the types where they do (`value: integer → text`). why: the reason, where one is known. is_known: foretold.
    """

    what: str
    kind: str
    identity: str
    fields: tuple[str, ...] = ()
    why: str = ""
    is_known: bool = False

    def to_plain(self) -> dict[str, Value]:
        plain: dict[str, Value] = {
            "what": self.what,
            "kind": self.kind,
            "identity": self.identity,
            "known": self.is_known,
        }
        if self.fields:
            plain["fields"] = list(self.fields)
        return plain | {"why": self.why} if self.why else plain


_WHATS = ("missing", "extra", "differing", "retyped")


@dataclass(slots=True)
class Side:
    """What one store gives of one word (a kind, or records of it that are counted apart): how many, and the numbers it is told by."""

    count: int = 0
    figures: list[Value] = field(default_factory=list)


@dataclass(slots=True)
class Person:
    """One user: what each store remembers by word, and what differs. `unexpected`: differences that nothing foretold."""

    name: str
    words: dict[str, tuple[Side, Side]] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_WHATS, 0))
    unexpected: int = 0

    def to_plain(self, words: Iterable[str]) -> dict[str, Any]:
        """As JSON, the words in this order: what each store remembers is a count, or the numbers it is told by."""
        remembers: dict[str, Any] = {}
        for word in words:
            if word in self.words:
                ours, theirs = (
                    sorted(side.figures, reverse=True) if side.figures else side.count for side in self.words[word]
                )
                remembers[word] = {"source": ours, "sink": theirs}
        return {"user": self.name, "remembers": remembers, **self.changes, "unexpected": self.unexpected}


class Comparison:
    """Asks both stores for every user and holds the answers against each other; `to_plain` is the result for the report."""

    def __init__(
        self, source: Source, sink: Source, people: People, known: Known, path: Path, clocks: tuple[datetime, datetime]
    ) -> None:
        self.source, self.sink, self.people, self.known, self.path, self.clocks = (
            source,
            sink,
            people,
            known,
            path,
            clocks,
        )
        self.users = people.settle()
        self.asked, self.same, self.otherwise, self.unexpected = 0, 0, 0, 0
        self.kinds = {name: {"source": 0, "sink": 0, **dict.fromkeys(_WHATS, 0), "known": 0} for name in people.kinds}
        self.retyped: dict[str, int] = {}
        self.why: dict[str, int] = {}
        self._differing: list[Person] = []
        self._alike: list[Person] = []
        self._changes: tuple[list[Change], list[Change]] = ([], [])  # unexpected, known
        self._patience = PATIENCE

    def run(self, limit: int | None, without: Sequence[str], tick: Callable[[int], None]) -> None:
        """Ask for all users, or for `limit` of them; `without` are ids of everybody, where only one user's records were asked for."""
        people = iter(self.people.some(limit, without))
        with private(self.path) as file:
            while some := [Person(name) for name in islice(people, TOGETHER)]:
                for change in self._ask_for(some):
                    file.write(to_json(change.to_plain()) + b"\n")
                for person in some:
                    self._count(person)
                tick(len(some))

    def to_plain(self) -> dict[str, Any]:
        differing = sorted(self._differing, key=lambda each: (-each.unexpected, each.name))
        return {
            "users": self.users,
            "asked": self.asked,
            "same": self.same,
            "foretold": self.asked - self.same - self.otherwise,
            "otherwise": self.otherwise,
            "unexpected": self.unexpected,
            "clock": self.clocks[0].isoformat(timespec="seconds"),
            "kinds": self.kinds,
            "retyped": self.retyped,
            "why": self.why,
            "people": [each.to_plain(self._words_in_order()) for each in (differing + self._alike)[:SHOWN]],
            "differences": [each.to_plain() for each in [*self._changes[0], *self._changes[1]][:NAMED]],
            "file": str(self.path),
        }

    def _words_in_order(self) -> list[str]:
        """Counts before numbers, each kind with what is counted apart of it."""
        words = []
        for name, kind in sorted(
            self.people.kinds.items(), key=lambda each: bool(each[1].asked and each[1].asked.figure)
        ):
            words += [name, *(kind.asked.apart if kind.asked else ())]
        return words

    def _count(self, person: Person) -> None:
        self.asked += 1
        self.unexpected += person.unexpected
        differs = any(person.changes.values())
        self.same += not differs
        self.otherwise += person.unexpected > 0
        kept = self._differing if differs else self._alike
        if len(kept) < SHOWN:
            kept.append(person)
        elif person.unexpected:  # before those whose differences were foretold
            spare = next((i for i, each in enumerate(kept) if not each.unexpected), None)
            if spare is not None:
                kept[spare] = person

    def _ask_for(self, some: list[Person]) -> Iterator[Change]:
        asks: dict[str, list[tuple[Person, Record]]] = {}
        for person in some:
            for kind, by in self.people.asks(person.name):
                asks.setdefault(kind, []).append((person, by))
        for kind in self.people.kinds:
            of_kind = asks.get(kind, [])
            for start in range(0, len(of_kind), TOGETHER):
                part = of_kind[start : start + TOGETHER]
                sides = self._answers(kind, [by for _, by in part])
                for (person, _), ours, theirs in zip(part, *sides, strict=True):
                    self._remember(person, kind, ours, theirs)
                    for change in self._changes_of(kind, ours, theirs):
                        self._note(person, change)
                        yield change

    def _answers(self, kind: str, wanted: list[Record]) -> tuple[list[Answers], list[Answers]]:
        """Both stores' answers. Where an index may be behind, what differs is asked for once more."""
        sides, is_late = [], False
        for store, now in zip((self.source, self.sink), self.clocks, strict=True):
            found = store.ask(kind, wanted)
            is_late = is_late or any(each.is_late for each in found)
            spec = store.layout.kinds[kind]
            sides.append(
                [answers(spec, store.layout.store, by, each, now) for by, each in zip(wanted, found, strict=True)]
            )
        ours, theirs = sides
        if is_late and self._patience > 0:
            differs = any(
                not c.is_known for a, b in zip(ours, theirs, strict=True) for c in self._changes_of(kind, a, b)
            )
            if differs:
                time.sleep(min(1.0, self._patience))
                self._patience -= 1.0
                return self._answers(kind, wanted)
        return ours, theirs

    def _remember(self, person: Person, kind: str, *both: Answers) -> None:
        asked = self.people.kinds[kind].asked
        assert asked is not None
        for side, name in enumerate(("source", "sink")):
            self.kinds[kind][name] += len(both[side].given)
            for answer in both[side].given:
                word = next(
                    (w for w, told in asked.apart.items() if all(answer.given.get(f) == v for f, v in told.items())),
                    kind,
                )
                told = person.words.setdefault(word, (Side(), Side()))[side]
                told.count += 1
                figure = answer.given.get(asked.figure) if asked.figure else None
                if is_number(figure):
                    told.figures.append(figure)

    def _note(self, person: Person, change: Change) -> None:
        self.kinds[change.kind][change.what] += 1
        person.changes[change.what] += 1
        if change.is_known:
            self.kinds[change.kind]["known"] += 1
        else:
            person.unexpected += 1
        kept = self._changes[change.is_known]
        if len(kept) < NAMED:
            kept.append(change)
        if change.what == "retyped":
            for each in change.fields:
                self.retyped[f"{change.kind} {each}"] = self.retyped.get(f"{change.kind} {each}", 0) + 1
        if change.why:
            words = f"{change.kind} {change.what}: {change.why}"
            self.why[words] = self.why.get(words, 0) + 1

    def _changes_of(self, kind: str, ours: Answers, theirs: Answers) -> Iterator[Change]:
        there: dict[bytes, list[Answer]] = {}
        for answer in theirs.given:
            there.setdefault(_key(answer.identity), []).append(answer)
        left = []
        for answer in ours.given:
            twins = there.get(_key(answer.identity), [])
            if not twins:
                left.append(answer)
                continue
            twin = min(twins, key=lambda each, one=answer: _distance(one, each))  # type: ignore[misc]
            twins.remove(twin)
            yield from self._change(kind, answer, twin)
        for answer in left:
            why = self.known.missing.get(kind, "")
            known = bool(why)
            if not known and self.people.stays(kind, answer.identity):
                why, known = "it could not travel, see the rejects", True
            why = why or theirs.trouble or theirs.skipped.get(_key(answer.identity), "")
            if not why and theirs.is_cut:
                why = "the application reads one page of 1 MB, and there is more"
            yield Change("missing", kind, self._words(kind, answer), why=why, is_known=known)
        for answer in (each for twins in there.values() for each in twins):
            why = ours.skipped.get(_key(answer.identity), "") or self.known.found.get(kind, "")
            known = bool(why) or self.known.extra
            why = why or ours.trouble or ("the source has more than one page" if ours.is_cut else "")
            yield Change("extra", kind, self._words(kind, answer), why=why, is_known=known)

    def _change(self, kind: str, one: Answer, other: Answer) -> Iterator[Change]:
        differs = [
            name
            for name in one.given.keys() | other.given.keys()
            if not _same(one.given.get(name), other.given.get(name))
        ]
        for what, names in (
            ("differing", sorted(n for n in differs if not _same(one.stored.get(n), other.stored.get(n)))),
            ("retyped", sorted(n for n in differs if _same(one.stored.get(n), other.stored.get(n)))),
        ):
            if names:
                fields = tuple(_field_words(name, one.given.get(name), other.given.get(name)) for name in names)
                why = self.known.found.get(kind, "") if what == "differing" else ""
                known = what == "retyped" or bool(why) or self.known.differing
                yield Change(what, kind, self._words(kind, one), fields, why, known)

    def _words(self, kind: str, answer: Answer) -> str:
        return identity_words(self.people.kinds[kind], answer.identity)


def clock(now: datetime, zone: str) -> datetime:
    """A moment on the application's clock, as it writes times: naive, in its zone; where nobody has said one, in this machine's."""
    return now.astimezone(zone_of(zone) if zone else None).replace(tzinfo=None)


def _distance(one: Answer, other: Answer) -> int:
    return sum(not _same(value, other.given.get(name)) for name, value in one.given.items())


def _key(value: Value) -> bytes:
    value = list(value) if isinstance(value, tuple) else value
    try:
        return canonical(value)
    except ValueError:  # a lone surrogate
        return repr(value).encode("utf-8", "backslashreplace")


def _same(one: Value, other: Value) -> bool:
    """Equal by value: a number is a number (DynamoDB's are Decimals to the application, H15), and NULL is what is not there."""
    return _key(one) == _key(other)


def _field_words(name: str, one: Value, other: Value) -> str:
    was, now = _sort(one), _sort(other)
    return f"{name}: {was} → {now}" if was != now else name


def _sort(value: Value) -> str:
    if isinstance(value, bool):
        return "boolean"
    if is_number(value):
        return "number"
    sorts: dict[type, str] = {type(None): "null", str: "text", list: "list", dict: "object", bytes: "bytes"}
    return sorts.get(type(value), type(value).__name__)
