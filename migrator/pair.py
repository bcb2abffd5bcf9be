"""A source and a sink's reader side by side: which rows of the source should be in the sink, and when two rows are the same.

Copying, verifying and the dry run ask the same questions here, so that they cannot give different answers. Knows rows,
layouts and what either store loses; leaves slices, writing and naming of differences to `engine` and `proof`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain

from migrator.adapters.base import Reader, Source
from migrator.choice import EVERYTHING, Choice
from migrator.digest import Digest, bucket_of
from migrator.duplicates import Duplicates
from migrator.layout import Layout
from migrator.model import (
    FOREIGN,
    UNKNOWN_KIND,
    Alike,
    Foreign,
    Kind,
    Origin,
    Page,
    Record,
    Reject,
    Row,
    Tally,
    identity_key,
    identity_line,
    identity_words,
)
from migrator.plain import Signature, identity_lines
from migrator.values import Value, canonical, canonical_record, digest16, digest_bytes, from_json

READ_STORES = ("sql", "dynamodb")
"""Stores that applications read; files of ours only travel."""

DUE_SECONDS = 30 * 24 * 3600
"""Rows that the sink deletes within so many seconds are counted and told."""


_FEW = 32  # rows that are not worth halving


@dataclass(slots=True)
class Expected:
    """What of a page should be in the sink, as the sink would give it back, and what became of the rest.

    `digests` are those of `rows` and of `alike`, which are rows that are kept as columns, fitted. `due`: rows that the sink's time-to-live deletes within DUE_SECONDS. Of foreign items that stay behind: the places of those that nobody
    expected, and how many are ghosts or were accepted by a pattern.
    """

    rows: list[Row] = field(default_factory=list)
    alike: list[Alike] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    duplicates: list[Row] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    ghosts: int = 0
    accepted: int = 0
    due: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)

    @property
    def all_rows(self) -> list[Row]:
        return [*self.rows, *chain.from_iterable(self.alike)]

    def tally(self, kind: str) -> Tally:
        found = self.tallies.get(kind)
        if found is None:
            found = self.tallies[kind] = Tally()
        return found


def carries_foreign(source: Source, reader: Reader, kinds: Iterable[str]) -> bool:
    """Whether foreign items travel: both stores can hold them, and everything was asked for."""
    return source.holds_foreign and reader.holds_foreign and _is_everything(kinds, source)


def _is_everything(kinds: Iterable[str], source: Source) -> bool:
    return set(kinds) >= source.layout.kinds.keys()


class Pair:
    """Both stores of a run, opened. `kinds` are those asked for, and `foreign` where such items travel. `encodes`: what is expected will be written."""

    def __init__(
        self,
        source: Source,
        reader: Reader,
        kinds: dict[str, Kind],
        duplicates: Duplicates,
        choice: Choice = EVERYTHING,
        encodes: bool = True,
    ) -> None:
        self.source = source
        self._fits = reader.fit_alike if encodes else reader.would_fit_alike
        self.choice = choice
        self.reader = reader
        self.is_everything = _is_everything(kinds, source) and not choice.is_partial
        self.carries_foreign = carries_foreign(source, reader, kinds) and self.is_everything
        self.kinds = kinds | ({FOREIGN: Kind(FOREIGN, (), ("key",))} if self.carries_foreign else {})
        self.duplicates = duplicates
        self.loses = source.loses | reader.loses
        self._drop_null = "absent" in self.loses
        # The source cannot say which attributes of the store's own belong to a record: those of the sink are no difference.
        self._extras = "origins" not in source.loses

    def expected(self, page: Page) -> Expected:
        """Rows fitted to the sink; rows of other kinds filtered, losers of duplicates apart, rejects with their reasons."""
        out = Expected(rejects=list(page.rejects))
        for reject in page.rejects:
            self._count_reject(out, reject.kind)
        if self.duplicates.are_none and not self.choice.is_partial:
            waiting, page.alike = deque(page.alike), []
            while waiting:
                rows = waiting.popleft()
                if rows.kind in self.kinds and not self.reader.fits_alike(rows):
                    page.alike.append(rows)
                elif not self._expect_alike(out, rows):
                    if len(rows) > _FEW:  # mostly it is one that must be looked at
                        waiting.extendleft(reversed(rows.halves()))
                    else:
                        page.alike.append(rows)
        losers = self.duplicates.losers(page.rows)
        of = ""
        for row in page.rows:
            if row.kind != of:
                of, tally, kind = row.kind, out.tally(row.kind), self.kinds.get(row.kind)
            tally.read += 1
            if kind is None or (self.choice.is_partial and not self.choice.asks_for(kind, row.record)):
                tally.filtered += 1
            elif losers and row.place in losers:
                tally.duplicates += 1
                out.duplicates.append(row)
            else:
                fitted = self._fit(row, out.digests)
                if isinstance(fitted, Reject):
                    tally.rejected += 1
                    out.rejects.append(fitted)
                else:
                    out.rows.append(fitted)
                    left = self.reader.remaining(fitted)
                    out.due += left is not None and left < DUE_SECONDS
        if self.is_everything:  # who asks for some records does not ask for what is none
            for item in page.foreign:
                self._expect_foreign(out, item)
        return out

    def _expect_alike(self, out: Expected, rows: Alike) -> bool:
        """Expect them all at once; False where they must be looked at one by one."""
        if rows.kind not in self.kinds:
            out.tally(rows.kind).filtered += len(rows)
        else:
            rows.texts = rows.texts or rows.signature.all_texts(rows.columns)  # what is written is made of them, too
            said = self._said(rows) if rows.texts is not None else None
            if said is None or not self._fits(rows):
                return False
            self._note_alike(out.digests, rows, said)
            out.alike.append(rows)
        out.tally(rows.kind).read += len(rows)
        return True

    def _expect_foreign(self, out: Expected, item: Foreign) -> None:
        if self.carries_foreign and self.reader.takes(item):
            out.tally(FOREIGN).read += 1
            out.rows.append(item.as_row())
            self.note(out.digests, out.rows[-1:])
        elif item.ghost:
            out.ghosts += 1
        elif any(_is_meant(pattern, item.place) for pattern in self.reader.setting.foreign):
            out.accepted += 1
        else:
            out.foreign.append(item.place)

    def note_held(self, digests: dict[str, Digest], page: Page) -> None:
        """Add what of a page of the sink is compared to the digest of its kind."""
        for rows in page.alike:
            if rows.kind not in self.kinds:
                continue
            said = self._said(rows)
            if said is None:
                self.note(digests, rows)
            else:
                self._note_alike(digests, rows, said)
        page.alike = []
        several: dict[tuple[str, Signature | None], list[Row]] = {}
        for row in self.held(page):
            several.setdefault((row.kind, row.signature if row.origin is None else None), []).append(row)
        for (kind, signature), some in several.items():
            self._note_several(digests, kind, signature, some)

    def _note_several(
        self, digests: dict[str, Digest], kind: str, signature: Signature | None, rows: list[Row]
    ) -> None:
        """Note rows of one kind, without origin where they have a signature: as columns, if they are many."""
        alike = None
        if len(rows) > _FEW and signature is not None and signature.names:
            columns = [*zip(*[row.record.values() for row in rows])]
            alike = Alike(kind, signature, columns, lambda number: rows[number].place)
        said = None if alike is None else self._said(alike)
        if alike is None or said is None:
            self.note(digests, rows)
        else:
            self._note_alike(digests, alike, said)

    def held(self, page: Page) -> list[Row]:
        """The rows of a page of the sink that are compared."""
        rows = [row for row in page.rows if row.kind in self.kinds]
        return rows + [item.as_row() for item in page.foreign] if self.carries_foreign else rows

    def _fit(self, row: Row, digests: dict[str, Digest]) -> Row | Reject:
        """The row as the sink would give it back, noted; or why it cannot travel."""
        whole = self._plain(row)
        fitted = self.reader.fit(row)
        if isinstance(fitted, Reject):
            return fitted
        try:
            self.note(digests, (fitted,), whole if fitted is row else None)
        except ValueError as exc:
            return Reject(row.kind, row.place, str(exc), row.record, row.origin)
        return fitted

    def _plain(self, row: Row) -> bytes | None:
        """What `_bytes` gives of a row whose values are plain, which then has its texts; None of any other."""
        if row.signature is None or row.origin is not None:
            return None
        whole, row.texts = row.signature.texts(row.record, null=not self._drop_null)
        return whole

    def _count_reject(self, out: Expected, kind: str) -> None:
        tally = out.tally(kind if kind in self.kinds else UNKNOWN_KIND)
        tally.read += 1
        tally.rejected += 1

    def is_retyped(self, row: Row) -> bool:
        """Whether the application reads some field as another type from the sink than from the source."""
        if row.kind == FOREIGN:
            return False
        return any(
            _is_json(row.record.get(name)) for name in retyped_fields(self.source.layout, self.reader.layout, row.kind)
        )

    # comparing

    def is_newer(self, ours: Row, theirs: Row) -> bool:
        """Whether the source's row is newer than the sink's."""
        return self.choice.is_newer(self.kinds[ours.kind], ours.record, theirs.record)

    def same(self, expected: Row, held: Row) -> bool:
        """Whether the sink's row is the expected one, at the lower fidelity of the two stores."""
        return self._bytes(expected) == self._bytes(held)

    def bucket(self, row: Row) -> int:
        return bucket_of(self._line(row))

    def key(self, row: Row) -> bytes:
        return identity_key(row.kind, self.reader.layout.identity_of(row))

    def _line(self, row: Row) -> bytes:
        return identity_line(self.reader.layout.identity_of(row))

    def words(self, row: Row) -> str:
        """A row's identity for people."""
        return identity_words(self.kinds[row.kind], self.reader.layout.identity_of(row))

    def note(self, digests: dict[str, Digest], rows: Iterable[Row], whole: bytes | None = None) -> None:
        """Add rows, of either store, to the digest of their kind. `whole`: what `_plain` has given of a single row, whose texts are not wanted any more."""
        for row in rows:
            kind, said = row.kind, whole or self._plain(row)
            if said is None:
                said = self._bytes(row)
            row.texts = None
            bucket, digest = self.bucket(row), digests.get(kind)
            if digest is None:
                digest = digests[kind] = Digest()
            digest.note(bucket, digest16(said))

    def _said(self, rows: Alike) -> list[bytes] | None:
        """What `_bytes` gives of each, which then have their texts; None where each must be looked at by itself."""
        if rows.texts is None:
            rows.texts = rows.signature.all_texts(rows.columns)
        if rows.texts is None:
            return None
        return rows.signature.canonical(rows.texts, rows.columns, len(rows), null=not self._drop_null)

    def _note_alike(self, digests: dict[str, Digest], rows: Alike, said: list[bytes]) -> None:
        order = rows.signature.identity(self.reader.layout.kinds[rows.kind].kind.identity)
        assert rows.texts is not None
        lines = identity_lines(order, rows.texts, len(rows)) if order is not None else map(self._line, rows)
        rows.texts = None
        digests.setdefault(rows.kind, Digest()).note_all(lines, said)

    def fingerprint(self, row: Row) -> bytes:
        return digest_bytes(self._bytes(row))

    def _bytes(self, row: Row) -> bytes:
        record: Record = row.record
        if row.kind == FOREIGN:
            return canonical(record)
        if self._drop_null and None in record.values():
            record = {name: value for name, value in record.items() if value is not None}
        origin = self._settled(row)
        if origin is None:
            return canonical_record(record, is_plain=row.is_plain)
        return canonical([record, origin.to_plain()])

    def _settled(self, row: Row) -> Origin | None:
        """What counts of a row's origin when it is compared."""
        origin = self.reader.layout.settled(row, self._extras).origin if row.origin is not None else None
        if origin is not None and origin.layout == self.source.layout.id and row.kind in self.source.layout.kinds:
            return self.source.layout.without_spelling(row.kind, origin)
        return origin

    def differing_fields(self, expected: Row, held: Row) -> list[str]:
        """The names of fields and of key or index attributes in which two rows differ."""
        names = [
            name
            for name in sorted(expected.record.keys() | held.record.keys())
            if canonical(expected.record.get(name)) != canonical(held.record.get(name))
            or (not self._drop_null and (name in expected.record) != (name in held.record))
        ]
        settled = [self._settled(row) for row in (expected, held)]
        attributes: set[str] = set()
        sets = [origin.set | origin.extra if origin else {} for origin in settled]
        attributes |= {
            a for a in sets[0].keys() | sets[1].keys() if canonical(sets[0].get(a)) != canonical(sets[1].get(a))
        }
        unset = [set(origin.unset) if origin else set() for origin in settled]
        return names + sorted(attributes | (unset[0] ^ unset[1]))


def retyped_fields(source: Layout, sink: Layout, kind: str) -> set[str]:
    """Fields of a kind that the application parses from one of two stores and takes as text from the other."""
    if source.store not in READ_STORES or sink.store not in READ_STORES or kind not in source.kinds:
        return set()
    return set(source.kinds[kind].parsed) ^ set(sink.kinds[kind].parsed)


def _is_json(value: Value) -> bool:
    """Whether a text is JSON, as Python's own reader takes it, that stands for anything but itself."""
    try:
        return isinstance(value, str) and json.loads(value) != value
    except (ValueError, RecursionError):
        return False


def _is_meant(pattern: str, place: str) -> bool:
    """Whether a pattern of the shell's kind fits a place: the whole of it, or one attribute of its key."""
    try:
        parts = from_json(place.encode())
    except ValueError:
        parts = None
    texts = [place, *(str(part) for part in parts.values())] if isinstance(parts, dict) else [place]
    return any(fnmatchcase(text, pattern) for text in texts)
