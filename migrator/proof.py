"""Proves that the sink holds what the source held: digests, and names for whatever differs.

First both sides' digests; where they differ both are read once more, and only the rows of bad buckets are kept, in a
temporary file, to name what is missing, differing and extra. Reads only: it is handed a Source and a Reader. Leaves
reports and exit codes to `commands`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from migrator.digest import BUCKETS, Digest
from migrator.layout import Layout
from migrator.model import Origin, Partition, Row, Tally
from migrator.pair import Expected, Pair
from migrator.values import AROUND, Value, from_json, to_json

WANTED_PARTITIONS = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """One record that is missing, differing or extra in the sink; `fields` are the names of what differs.

    `place` is where an extra one lives. `is_double`: the record that should be there is there as well, under another key.
    """

    kind: str
    what: str
    identity: str
    fields: tuple[str, ...] = ()
    place: str = ""
    is_double: bool = False

    def to_plain(self) -> dict[str, Value]:
        plain: dict[str, Value] = {"what": self.what, "kind": self.kind, "identity": self.identity}
        if self.fields:
            plain["fields"] = list(self.fields)
        if self.place:
            plain |= {"place": self.place, "double": self.is_double}
        return plain


@dataclass(slots=True)
class KindProof:
    """What was found for one kind. Counts are exact; `digest` is equal, differs or not compared. `is_read`: the sink was read for it."""

    source: Digest = field(default_factory=Digest)
    sink: Digest = field(default_factory=Digest)
    missing: int = 0
    mismatched: int = 0
    extra: int = 0
    digest: str = "not compared"
    is_read: bool = False

    @property
    def is_bad(self) -> bool:
        """Something that should be in the sink is not there, or not so."""
        return self.missing > 0 or self.mismatched > 0

    def to_plain(self) -> dict[str, Value]:
        plain = {name: getattr(self, name) for name in ("missing", "mismatched", "extra", "digest", "is_read")}
        return plain | {"source": self.source.to_plain(), "sink": self.sink.to_plain()}

    @staticmethod
    def from_plain(plain: dict[str, Value]) -> KindProof:
        digests = {name: Digest.from_plain(plain[name]) for name in ("source", "sink")}
        return KindProof(**{**plain, **digests})


@dataclass(slots=True)
class Seen:
    """What reading one side gave: digests and accounting by kind, how many records could not be read, and foreign items."""

    digests: dict[str, Digest] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    unreadable_seen: list[str] = field(default_factory=list)
    foreign: int = 0
    ghosts: int = 0
    accepted: int = 0
    foreign_seen: list[str] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        for kind, digest in other.digests.items():
            self.digests.setdefault(kind, Digest()).add(digest)
        for kind, count in other.unreadable.items():
            self.unreadable[kind] = self.unreadable.get(kind, 0) + count
        self.unreadable_seen = (self.unreadable_seen + other.unreadable_seen)[:20]


def read_source(pair: Pair, tick: Callable[[int], None], leave: Callable[[str, Expected], None]) -> Seen:
    """Digests of what of the source should be in the sink; the accounting counts those rows as read only.

    `leave` takes what of a page should not be there (rejects, duplicates), with a name for the page; names sort in order of reading.
    """
    seen = Seen()
    count = 0
    for partition in pair.source.partitions(list(pair.kinds), WANTED_PARTITIONS):
        for page in pair.source.pages(partition, None):
            rows = page.count
            expected = pair.expected(page)
            count += 1
            if expected.rejects or expected.duplicates:
                leave(f"{count:010}", expected)
            for kind, digest in expected.digests.items():
                seen.digests.setdefault(kind, Digest()).add(digest)
            for kind, tally in expected.tallies.items():
                seen.tallies.setdefault(kind, Tally()).add(tally)
            seen.foreign += len(expected.foreign)
            seen.ghosts += expected.ghosts
            seen.accepted += expected.accepted
            seen.foreign_seen = (seen.foreign_seen + expected.foreign)[:20]
            tick(rows)
    return seen


def read_sink(pair: Pair, partitions: Iterable[Partition], tick: Callable[[int], None]) -> Seen:
    """Digests of what the sink holds of the kinds asked for, in these partitions of `pair.reader`."""
    seen = Seen()
    for partition in partitions:
        for page in pair.reader.pages(partition, None):
            rows = page.count
            pair.note_held(seen.digests, page)
            for reject in page.rejects:
                seen.unreadable[reject.kind] = seen.unreadable.get(reject.kind, 0) + 1
            seen.unreadable_seen = (seen.unreadable_seen + [f"{r.place}: {r.reason}" for r in page.rejects])[:20]
            tick(rows)
    return seen


def compare(kinds: Iterable[str], source: dict[str, Digest], sink: dict[str, Digest]) -> dict[str, KindProof]:
    """Both sides' digests held against each other, kind by kind."""
    proofs = {}
    for kind in kinds:
        proof = KindProof(source.get(kind, Digest()), sink.get(kind, Digest()))
        equal = proof.source.count == proof.sink.count and not proof.source.bad_buckets(proof.sink)
        proof.digest = "equal" if equal else "differs"
        proofs[kind] = proof
    return proofs


class DifferenceFinder:
    """Names what differs: both sides' rows of bad buckets, in a temporary file, held against each other by identity."""

    def __init__(
        self,
        pair: Pair,
        scratch: Path,
        all_buckets: bool = False,
        may_stay: Callable[[Row, Row], bool] = lambda expected, held: False,
        take_extra: Callable[[Row], None] = lambda held: None,
    ) -> None:
        """`may_stay`: whether what the sink holds in place of an expected row is right as well. `take_extra` is given each extra row as it is held."""
        self.pair, self.reader, self.may_stay, self.take_extra = pair, pair.reader, may_stay, take_extra
        self.all_buckets = all_buckets
        self.path = scratch / "compare.sqlite"

    def find(self, proofs: dict[str, KindProof], tick: Callable[[int], None]) -> Iterator[Difference]:
        """Fill in the counts of each kind that differs, and yield its differences, kinds in order.

        A kind in which nothing is missing or mismatched comes out "equal": what is extra proves nothing against it.
        """
        bad = {
            kind: set(range(BUCKETS)) if self.all_buckets else proof.source.bad_buckets(proof.sink)
            for kind, proof in proofs.items()
            if self.all_buckets or proof.digest == "differs"
        }
        if not bad:
            return
        self.path.unlink(missing_ok=True)
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            db.execute("CREATE TABLE held (kind TEXT, identity BLOB, side INTEGER, sum BLOB, row BLOB)")
            db.execute("BEGIN")
            insert = "INSERT INTO held VALUES (?, ?, ?, ?, ?)"
            for side, rows in ((0, self._expected(tick)), (1, self._held(tick))):
                db.executemany(insert, self._entries(rows, side, bad))
            db.execute("CREATE INDEX by_identity ON held (kind, identity, side)")
            db.execute("COMMIT")
            for kind in bad:
                proofs[kind].missing = proofs[kind].mismatched = proofs[kind].extra = 0
                for difference in self._differences(db, kind):
                    _count(proofs[kind], difference)
                    yield difference
                proofs[kind].digest = "differs" if proofs[kind].missing or proofs[kind].mismatched else "equal"
        finally:
            db.close()
            self.path.unlink(missing_ok=True)

    def _expected(self, tick: Callable[[int], None]) -> Iterator[Row]:
        for partition in self.pair.source.partitions(list(self.pair.kinds), WANTED_PARTITIONS):
            for page in self.pair.source.pages(partition, None):
                rows = page.count
                yield from self.pair.expected(page).all_rows
                tick(rows)

    def _held(self, tick: Callable[[int], None]) -> Iterator[Row]:
        for partition in self.reader.partitions(list(self.pair.kinds), WANTED_PARTITIONS):
            for page in self.reader.pages(partition, None):
                yield from self.pair.held(page)
                tick(len(page.rows))

    def _entries(self, rows: Iterable[Row], side: int, bad: dict[str, set[int]]) -> Iterator[tuple[object, ...]]:
        for row in rows:
            if row.kind in bad and self.pair.bucket(row) in bad[row.kind]:
                yield row.kind, self.pair.key(row), side, self.pair.fingerprint(row), packed(row)

    def _differences(self, db: sqlite3.Connection, kind: str) -> Iterator[Difference]:
        query = "SELECT identity, side, sum, row FROM held WHERE kind = ? ORDER BY identity, side, rowid"
        group: list[tuple[bytes, int, bytes, bytes]] = []
        for entry in db.execute(query, (kind,)):
            if group and entry[0] != group[0][0]:
                yield from self._judge(kind, group)
                group = []
            group.append(entry)
        if group:
            yield from self._judge(kind, group)

    def _judge(self, kind: str, group: list[tuple[bytes, int, bytes, bytes]]) -> Iterator[Difference]:
        wanted = [entry for entry in group if entry[1] == 0]
        held = [entry for entry in group if entry[1] == 1]
        words = self.pair.words(unpacked(group[0][3]))
        left = []  # what should be there, and is not there as it should be
        for entry in wanted:
            match = next((each for each in held if each[2] == entry[2]), None)
            if match is not None:
                held.remove(match)
            else:
                left.append(entry)
        for entry in left:
            if held:
                expected, there = unpacked(entry[3]), unpacked(held.pop(0)[3])
                if not self.may_stay(expected, there):
                    names = self.pair.differing_fields(expected, there)
                    yield Difference(kind, "differing", words, tuple(names))
            else:
                yield Difference(kind, "missing", words)
        for entry in held:
            extra = unpacked(entry[3])
            self.take_extra(extra)
            yield Difference(kind, "extra", words, place=extra.place, is_double=bool(wanted))


def _count(proof: KindProof, difference: Difference) -> None:
    match difference.what:
        case "missing":
            proof.missing += 1
        case "differing":
            proof.mismatched += 1
        case "extra":
            proof.extra += 1


def packed(row: Row) -> bytes:
    """A row with its place, as a line without its end."""
    return to_json(row.to_plain() | {"place": row.place})


def unpacked(data: bytes) -> Row:
    """And back."""
    plain = from_json(data, around=AROUND)
    origin = Origin.from_plain(plain["origin"]) if "origin" in plain else None
    return Row(plain["kind"], plain["record"], origin, plain["place"])


def fidelity(source: Layout, sink: Layout, loses: frozenset[str]) -> list[str]:
    """What the comparison does not see because one of the stores cannot hold it, in words for the report."""
    words = []
    if "absent" in loses:
        words.append("NULL and absent are one")
    if "origins" in loses and any(kind.keys for kind in (*source.kinds.values(), *sink.kinds.values())):
        words.append("physical keys and time-to-live of DynamoDB items do not travel")
    return words
