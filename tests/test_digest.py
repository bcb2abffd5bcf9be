"""What many records are in a few numbers: whatever the order, the slices, and whoever adds them up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.digest import BUCKETS, Digest, bucket_of
from migrator.values import digest16, digest_bytes

RECORDS = st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=30)
"""Lines of identities, and the records' own bytes."""
WHOLE = 1 << 128


def noted(records: list[tuple[bytes, bytes]]) -> Digest:
    """One by one."""
    digest = Digest()
    for line, said in records:
        digest.note(bucket_of(line), digest16(said))
    return digest


def sums(digest: Digest) -> dict[int, int]:
    return {bucket: value for bucket, value in digest.sums.items() if value}


@given(RECORDS)
def test_a_digest_counts_and_sums_by_bucket(records: list[tuple[bytes, bytes]]) -> None:
    digest, expected = noted(records), dict[int, int]()
    for line, said in records:
        bucket = digest_bytes(line)[15]
        expected[bucket] = (expected.get(bucket, 0) + digest16(said)) % WHOLE
    assert (digest.count, digest.sums) == (len(records), expected)
    assert digest.hex == f"{sum(map(digest16, (said for _, said in records))) % WHOLE:032x}"
    assert all(0 <= bucket < BUCKETS == 256 for bucket in digest.sums)


@given(RECORDS, st.randoms(), st.integers(0, 30))
def test_neither_order_nor_slices_nor_how_many_at_once_matter(
    records: list[tuple[bytes, bytes]], chance: Any, cut: int
) -> None:
    whole, shuffled = noted(records), [*records]
    chance.shuffle(shuffled)
    parts = [Digest(), Digest()]
    for digest, some in zip(parts, (shuffled[:cut], shuffled[cut:])):
        digest.note_all((line for line, _ in some), [said for _, said in some])
    added = Digest()
    for digest in parts:
        added.add(digest)
    assert (added.count, sums(added)) == (whole.count, sums(whole))
    assert added.bad_buckets(whole) == set()
    added.subtract(parts[0])
    assert (added.count, sums(added)) == (parts[1].count, sums(parts[1]))


@given(RECORDS, st.tuples(st.binary(max_size=6), st.binary(max_size=6)))
def test_one_record_more_is_seen_in_its_bucket_from_either_side(
    records: list[tuple[bytes, bytes]], more: tuple[bytes, bytes]
) -> None:
    fewer, many = noted(records), noted([*records, more])
    assert fewer.bad_buckets(many) == many.bad_buckets(fewer) == {bucket_of(more[0])}


def test_nothing_is_not_one() -> None:
    """Where one side has no bucket its sum is nothing."""
    assert Digest(1, {3: 1}).bad_buckets(Digest()) == Digest().bad_buckets(Digest(1, {3: 1})) == {3}
    assert Digest(1, {3: 0}).bad_buckets(Digest()) == Digest().bad_buckets(Digest(1, {3: 0})) == set()


def test_sums_stay_below_their_modulus() -> None:
    digest = Digest(1, {7: WHOLE - 1})
    digest.note(7, 5)
    digest.add(Digest(2, {7: WHOLE - 3, 8: 9}))
    assert (digest.count, digest.sums) == (4, {7: 1, 8: 9})
    digest.subtract(Digest(3, {7: 2, 9: 1}))
    assert (digest.count, digest.sums) == (1, {7: WHOLE - 1, 8: 9, 9: WHOLE - 1})
    assert digest.hex == f"{(WHOLE - 1 + 9 + WHOLE - 1) % WHOLE:032x}"


def test_an_added_digest_is_a_copy() -> None:
    first, second = Digest(), Digest(1, {1: 2})
    first.add(second)
    first.note(1, 5)
    assert second == Digest(1, {1: 2})


def test_as_many_lines_as_records() -> None:
    with pytest.raises(ValueError, match="zip"):
        Digest().note_all([b"a"], [b"a", b"b"])


@given(RECORDS)
def test_a_digest_goes_to_text_and_back(records: list[tuple[bytes, bytes]]) -> None:
    digest = noted(records)
    assert Digest.from_plain(digest.to_plain()) == digest


@pytest.mark.parametrize(
    "plain",
    [
        None, 1, [], {}, {"count": 1}, {"count": "1", "sums": {}}, {"count": True, "sums": {}}, {"count": 1, "sums": []},
        {"count": 1, "sums": {"x": "f"}}, {"count": 1, "sums": {"1": "x"}}, {"count": 1, "sums": {"1": 15}},
    ],
)  # fmt: skip
def test_what_is_no_digest_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match="no digest"):
        Digest.from_plain(plain)
