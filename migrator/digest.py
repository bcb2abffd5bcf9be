"""What many records are, in a few numbers that add up. Knows bytes; leaves which records they are to `pair`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from migrator.values import digest16, digest_bytes

BUCKETS = 256

_MASK = (1 << 128) - 1


def bucket_of(line: bytes) -> int:
    """The bucket of a record, by the line of its identity (`model.identity_line`)."""
    return digest_bytes(line)[-1]


@dataclass(slots=True)
class Digest:
    """Count, and the sum modulo 2^128 of a 128-bit hash of each record's canonical bytes, kept per bucket of the identity's hash.

    It does not depend on order, adds up over slices, and sees a record that is there twice (XOR would not).
    """

    count: int = 0
    sums: dict[int, int] = field(default_factory=dict)

    def note(self, bucket: int, hashed: int) -> None:
        self.count += 1
        self.sums[bucket] = (self.sums.get(bucket, 0) + hashed) & _MASK

    def note_all(self, lines: Iterable[bytes], said: Sequence[bytes]) -> None:
        """Note many, by the lines of their identities, which tell their buckets, and by their own bytes."""
        sums = [0] * BUCKETS
        for identity, hashed in zip(map(digest_bytes, lines), map(digest16, said), strict=True):
            sums[identity[-1]] += hashed  # as `bucket_of`
        self.add(Digest(len(said), {bucket: value & _MASK for bucket, value in enumerate(sums) if value}))

    def add(self, other: Digest) -> None:
        self.count += other.count
        if not self.sums:
            self.sums = dict(other.sums)
            return
        for bucket, value in other.sums.items():
            self.sums[bucket] = (self.sums.get(bucket, 0) + value) & _MASK

    def subtract(self, other: Digest) -> None:
        """Take back what `add` added."""
        self.count -= other.count
        for bucket, value in other.sums.items():
            self.sums[bucket] = (self.sums.get(bucket, 0) - value) & _MASK

    @property
    def hex(self) -> str:
        return f"{sum(self.sums.values()) & _MASK:032x}"

    def bad_buckets(self, other: Digest) -> set[int]:
        return {b for b in self.sums.keys() | other.sums.keys() if self.sums.get(b, 0) != other.sums.get(b, 0)}

    def to_plain(self) -> dict[str, object]:
        return {"count": self.count, "sums": {str(b): f"{v:x}" for b, v in self.sums.items()}}

    @staticmethod
    def from_plain(plain: Any) -> Digest:
        """Raises ValueError if `plain` is not what `to_plain` makes."""
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            sums = {int(bucket): int(value, 16) for bucket, value in plain["sums"].items()}
            if type(plain["count"]) is int:
                return Digest(plain["count"], sums)
        raise ValueError("no digest")
