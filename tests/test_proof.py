"""What a proof finds: whatever is missing, differing, extra or there twice is counted and named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrator.adapters import memory
from migrator.adapters.base import Setting
from migrator.digest import Digest
from migrator.duplicates import Duplicates
from migrator.model import Cursor, Foreign, Origin, Page, Partition, Reject, Row, Tally
from migrator.pair import Pair
from migrator.proof import (
    WANTED_PARTITIONS,
    Difference,
    DifferenceFinder,
    KindProof,
    Seen,
    compare,
    fidelity,
    read_sink,
    read_source,
)
from stores import MAPPING, record_of

LAYOUT = MAPPING.layout_for("memory", None)
KINDS = {name: LAYOUT.kinds[name].kind for name in MAPPING.kind_names()}
TABLE = MAPPING.layouts["user_id/SK"]


class Sides:
    """Two stores in memory, as a comparison has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stores = memory.MemoryStore(), memory.MemoryStore()
        self.ticks: list[int] = []
        setting = Setting(LAYOUT, tuple(KINDS), folder)
        self.source: Any = memory.MemorySource(setting, self.stores[0])
        self.reader: Any = memory.MemoryReader(setting, self.stores[1])

    def fill(self, ours: list[Row], theirs: list[Row]) -> Sides:
        for store, rows in zip(self.stores, (ours, theirs), strict=True):
            for row in rows:
                store.rows[store.end] = Row(row.kind, row.record, row.origin, f"place {store.end}")
        return self

    @property
    def pair(self) -> Pair:
        return Pair(self.source, self.reader, KINDS, Duplicates(self.folder / "duplicates.sqlite"))

    def digests(self) -> dict[str, KindProof]:
        pair = self.pair
        ours = read_source(pair, lambda count: None, lambda page, left: None)
        theirs = read_sink(pair, self.reader.partitions(list(KINDS), 1), lambda count: None)
        return compare(KINDS, ours.digests, theirs.digests)

    def found(self, **options: Any) -> tuple[dict[str, KindProof], list[Difference]]:
        proofs = self.digests()
        return proofs, list(DifferenceFinder(self.pair, self.folder, **options).find(proofs, self.ticks.append))


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def fact(number: int, **more: Any) -> Row:
    return record_of("fact", number, **more)


def words(number: int) -> str:
    return f"fact user_id=ana{number % 5} category=work key=boss_{number}"


def counts(proof: KindProof) -> tuple[int, int, int, str]:
    return proof.missing, proof.mismatched, proof.extra, proof.digest


# Naming what differs ---------------------------------------------------------------------------------------------------


def test_what_is_missing_differing_and_extra_is_counted_and_named(sides: Sides) -> None:
    sides.fill(
        [fact(1), fact(2), fact(3), fact(4), record_of("mood", 1)],
        [fact(1), fact(2, value="other", confidence=0.1), fact(4), fact(5), fact(6), record_of("mood", 1)],
    )
    proofs, differences = sides.found()
    assert sorted(differences, key=lambda each: each.identity[-1]) == [
        Difference("fact", "differing", words(2), ("confidence", "value")),
        Difference("fact", "missing", words(3)),
        Difference("fact", "extra", words(5), place="place 3"),
        Difference("fact", "extra", words(6), place="place 4"),
    ]
    assert counts(proofs["fact"]) == (1, 1, 2, "differs")
    assert counts(proofs["mood"]) == counts(proofs["episode"]) == (0, 0, 0, "equal")
    assert [proofs["fact"].is_bad, proofs["mood"].is_bad] == [True, False]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("ab", "ab", []),
        ("ab", "ba", []),
        ("ab", "b", ["missing"]),
        ("ab", "bc", ["differing"]),
        ("ab", "cb", ["differing"]),
        ("ab", "c", ["differing", "missing"]),
        ("ab", "cd", ["differing", "differing"]),
        ("aa", "a", ["missing"]),
        ("a", "aa", ["double"]),
        ("a", "ba", ["double"]),
        ("a", "bc", ["differing", "double"]),
        ("", "aa", ["extra", "extra"]),
    ],
)
def test_records_that_share_an_identity_are_held_against_each_other_one_by_one(
    ours: str, theirs: str, expected: list[str], sides: Sides
) -> None:
    sides.fill([fact(1, value=each) for each in ours], [fact(1, value=each) for each in theirs])
    proofs, differences = sides.found()
    assert ["double" if each.is_double else each.what for each in differences] == expected
    missing, differing = expected.count("missing"), expected.count("differing")
    digest = "differs" if missing or differing else "equal"
    assert counts(proofs["fact"]) == (missing, differing, len(expected) - missing - differing, digest)
    assert {each.identity for each in differences} <= {words(1)}


def test_what_is_extra_proves_nothing_against_a_kind(sides: Sides) -> None:
    sides.fill([fact(1)], [fact(1), fact(2)])
    assert sides.digests()["fact"].digest == "differs"
    proofs, differences = sides.found()
    assert ([each.what for each in differences], counts(proofs["fact"])) == (["extra"], (0, 0, 1, "equal"))
    assert not proofs["fact"].is_bad


def test_what_was_counted_before_is_counted_anew(sides: Sides) -> None:
    sides.fill([fact(1), fact(2)], [fact(1, value="other")])
    proofs = sides.digests()
    for _ in range(2):
        list(DifferenceFinder(sides.pair, sides.folder).find(proofs, lambda count: None))
        assert counts(proofs["fact"]) == (1, 1, 0, "differs")


def test_where_both_digests_are_equal_nothing_is_read_again(sides: Sides) -> None:
    sides.fill([fact(1)], [fact(1)])
    proofs, differences = sides.found()
    assert (differences, sides.ticks, counts(proofs["fact"])) == ([], [], (0, 0, 0, "equal"))


def test_all_rows_are_compared_if_it_is_asked_for(sides: Sides) -> None:
    sides.fill([fact(n) for n in range(10)], [fact(n) for n in range(10)])
    proofs, differences = sides.found(all_buckets=True)
    assert (differences, sides.ticks) == ([], [10, 10])
    assert {proof.digest for proof in proofs.values()} == {"equal"}
    (sides.stores[1].rows.pop(3),)
    proofs = {kind: KindProof(digest="equal") for kind in KINDS}
    finder = DifferenceFinder(sides.pair, sides.folder, all_buckets=True)
    assert [each.what for each in finder.find(proofs, lambda count: None)] == ["missing"]
    assert proofs["fact"].digest == "differs"


def test_only_rows_that_may_differ_are_kept(sides: Sides) -> None:
    """Of 300 facts one differs: those of its bucket alone are held against each other."""
    sides.fill([fact(n) for n in range(300)], [fact(n, value="other" if n == 7 else "María José") for n in range(300)])
    pair, packed = sides.pair, []
    whole = pair.fingerprint
    pair.fingerprint = lambda row: packed.append(row) or whole(row)  # type: ignore[method-assign,func-returns-value]
    (difference,) = DifferenceFinder(pair, sides.folder).find(sides.digests(), lambda count: None)
    assert difference.identity == words(7)
    assert 2 <= len(packed) < 40
    assert {pair.bucket(row) for row in packed} == {pair.bucket(fact(7))}


def test_what_may_stay_is_no_difference(sides: Sides) -> None:
    asked: list[tuple[Any, Any]] = []

    def may_stay(expected: Row, held: Row) -> bool:
        asked.append((expected.record["value"], held.record["value"]))
        return held.record["value"] == "kept"

    sides.fill([fact(1), fact(2), fact(3)], [fact(1, value="kept"), fact(2, value="other")])
    proofs, differences = sides.found(may_stay=may_stay)
    assert sorted((each.what, each.identity) for each in differences) == [
        ("differing", words(2)),
        ("missing", words(3)),
    ]
    assert counts(proofs["fact"]) == (1, 1, 0, "differs")
    assert sorted(asked) == [("María José", "kept"), ("María José", "other")]
    sides.stores[0].rows.popitem()
    sides.stores[1].rows.popitem()
    sides.stores[0].rows.popitem()
    assert counts(sides.found(may_stay=may_stay)[0]["fact"]) == (0, 0, 0, "equal")


def test_an_extra_row_is_given_as_it_is_held(sides: Sides) -> None:
    extra: list[Row] = []
    held = [fact(1), Row("fact", fact(2).record, Origin("memory", "elsewhere", extra={"TTL": 5}))]
    sides.fill([], held)
    sides.found(take_extra=extra.append)
    expected = [Row(row.kind, row.record, row.origin, f"place {n}") for n, row in enumerate(held)]
    assert sorted(extra, key=lambda row: row.place) == expected


def test_both_sides_are_read_once_more_and_told_page_by_page(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAGE_ROWS", 2)
    sides.fill([fact(n) for n in range(5)], [fact(n) for n in range(4)])
    sides.found()
    assert sides.ticks == [2, 2, 1, 2, 2]


def test_a_comparison_leaves_nothing_behind_also_if_it_is_left(sides: Sides) -> None:
    (sides.folder / "compare.sqlite").write_bytes(b"what a kill left")
    sides.fill([fact(n) for n in range(5)], [])
    assert len(sides.found()[1]) == 5
    finding = DifferenceFinder(sides.pair, sides.folder).find(sides.digests(), lambda count: None)
    next(finding)
    assert (sides.folder / "compare.sqlite").exists()
    finding.close()  # type: ignore[attr-defined]
    assert list(sides.folder.iterdir()) == []


# Reading both sides ----------------------------------------------------------------------------------------------------


class Paged(memory.MemorySource):
    """A source in two partitions that gives the pages it was made of."""

    def __init__(self, setting: Setting, pages: list[Page]) -> None:
        super().__init__(setting, memory.MemoryStore())
        self.given, self.wanted = pages, 0

    def partitions(self, kinds: Any, wanted: int) -> list[Partition]:
        self.wanted = wanted
        return [Partition("0", {"pages": self.given[:1]}), Partition("1", {"pages": self.given[1:]})]

    def pages(self, partition: Partition, after: Cursor) -> Iterator[Page]:
        assert after is None
        yield from partition.spec["pages"]


def test_reading_the_source_says_what_should_be_there_and_what_became_of_the_rest(sides: Sides) -> None:
    losing = Row("fact", fact(1, value="older").record, place="loser")
    many = [Foreign(f"foreign {n}") for n in range(15)]
    sides.source = Paged(
        Setting(LAYOUT, tuple(KINDS), sides.folder),
        [
            Page([fact(1), losing], None, foreign=[*many, Foreign("g", ghost=True), Foreign("meant-1")]),
            Page([record_of("mood", 1)], None, foreign=many),
            Page([fact(2)], None, [Reject("fact", "7", "broken"), Reject("?", "8", "no kind")]),
        ],
    )
    sides.reader.setting = Setting(LAYOUT, tuple(KINDS), sides.folder, foreign=("meant-*",))
    newest = Row("fact", fact(1).record, place="winner")
    Duplicates.build(sides.folder / "duplicates.sqlite", [losing, newest], KINDS, lambda row: b"")
    ticks: list[int] = []
    left: list[tuple[str, list[str], list[str]]] = []
    seen = read_source(
        sides.pair,
        ticks.append,
        lambda page, gone: left.append((page, [r.place for r in gone.rejects], [r.place for r in gone.duplicates])),
    )
    assert seen.tallies == {
        "fact": Tally(read=4, duplicates=1, rejected=1),
        "mood": Tally(read=1),
        "?": Tally(read=1, rejected=1),
    }
    assert {kind: digest.count for kind, digest in seen.digests.items()} == {"fact": 2, "mood": 1}
    assert left == [("0000000001", [], ["loser"]), ("0000000003", ["7", "8"], [])]
    assert (ticks, sides.source.wanted) == ([2, 1, 1], WANTED_PARTITIONS)
    assert (seen.foreign, seen.ghosts, seen.accepted) == (30, 1, 1)
    assert seen.foreign_seen == [each.place for each in [*many, *many]][:20]


def test_reading_the_sink_says_what_is_there_and_what_cannot_be_read(sides: Sides) -> None:
    reject = Reject("fact", "place", "value holds a number")
    pages = [
        Page([fact(1), Row("fact", fact(2).record)], None, [reject] * 15),
        Page([record_of("mood", 1)], None, [reject] * 10 + [Reject("mood", "m", "broken")]),
    ]
    sides.reader.pages = lambda partition, after: iter(pages)
    ticks: list[int] = []
    seen = read_sink(sides.pair, [Partition("0")], ticks.append)
    assert {kind: digest.count for kind, digest in seen.digests.items()} == {"fact": 2, "mood": 1}
    assert (ticks, seen.unreadable) == ([2, 1], {"fact": 25, "mood": 1})
    assert seen.unreadable_seen == ["place: value holds a number"] * 20
    (sides.reader.pages, pages[:]) = (lambda partition, after: iter(pages), [Page([], None, [reject])])
    twice = read_sink(sides.pair, [Partition("0"), Partition("1")], ticks.append)
    assert twice.unreadable_seen == ["place: value holds a number"] * 2


def test_what_parts_of_a_store_held_adds_up(sides: Sides) -> None:
    pair = sides.pair

    def part(number: int, *seen: str) -> Seen:
        made = Seen(unreadable={"fact": number}, unreadable_seen=list(seen))
        pair.note(made.digests, [fact(number)])
        return made

    total = Seen()
    total.add(part(1, *"abc"))
    total.add(part(2, *"defghijklmnopqrstuvwxyz"))
    both: dict[str, Digest] = {}
    pair.note(both, [fact(1), fact(2)])
    assert (total.digests, total.unreadable) == (both, {"fact": 3})
    assert total.unreadable_seen == list("abcdefghijklmnopqrst")


# Digests held against each other ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "digest"),
    [
        (Digest(1, {3: 7}), Digest(1, {3: 7}), "equal"),
        (Digest(1, {3: 7}), Digest(1, {3: 8}), "differs"),
        (Digest(1, {3: 7}), Digest(1, {4: 7}), "differs"),
        (Digest(1, {3: 7}), Digest(2, {3: 7}), "differs"),
        (Digest(), Digest(), "equal"),
    ],
)
def test_kinds_are_equal_by_count_and_every_bucket(ours: Digest, theirs: Digest, digest: str) -> None:
    proofs = compare(["fact", "mood"], {"fact": ours}, {"fact": theirs})
    assert {kind: proof.digest for kind, proof in proofs.items()} == {"fact": digest, "mood": "equal"}
    assert (proofs["fact"].source, proofs["fact"].sink) == (ours, theirs)


def test_what_is_proven_comes_back_as_it_was_written() -> None:
    proof = KindProof(Digest(1, {3: 7}), Digest(2, {4: 8}), 1, 2, 3, "differs", True)
    assert proof.to_plain() == {
        "missing": 1, "mismatched": 2, "extra": 3, "digest": "differs", "is_read": True,
        "source": {"count": 1, "sums": {"3": "7"}}, "sink": {"count": 2, "sums": {"4": "8"}},
    }  # fmt: skip
    assert KindProof.from_plain(proof.to_plain()) == proof
    fresh = KindProof()
    assert (counts(fresh), fresh.is_read, fresh.is_bad) == ((0, 0, 0, "not compared"), False, False)
    assert [KindProof(missing=1).is_bad, KindProof(mismatched=1).is_bad, KindProof(extra=1).is_bad] == [
        True,
        True,
        False,
    ]


def test_a_difference_is_told_with_what_there_is_to_tell() -> None:
    assert Difference("fact", "missing", "ana/boss").to_plain() == {
        "what": "missing",
        "kind": "fact",
        "identity": "ana/boss",
    }
    assert Difference("fact", "differing", "ana/boss", ("value",)).to_plain()["fields"] == ["value"]
    extra = Difference("fact", "extra", "ana/boss", place="7", is_double=True).to_plain()
    assert extra == {"what": "extra", "kind": "fact", "identity": "ana/boss", "place": "7", "double": True}


def test_what_a_comparison_cannot_see_is_said() -> None:
    null, keys = "NULL and absent are one", "physical keys and time-to-live of DynamoDB items do not travel"
    keyed: Callable[..., Any] = lambda *loses: fidelity(TABLE, LAYOUT, frozenset(loses))  # noqa: E731
    assert (keyed(), keyed("absent"), keyed("origins"), keyed("absent", "origins")) == (
        [],
        [null],
        [keys],
        [null, keys],
    )
    assert fidelity(LAYOUT, TABLE, frozenset(["origins"])) == [keys]
    assert fidelity(LAYOUT, LAYOUT, frozenset(["origins"])) == []
