"""Which of several records with one identity travels: the newest; the others lose and are kept apart.

An index on disk, made once before the copy, so that the answer does not depend on the order of slices or the number of
workers, and so that its size does not depend on memory. Knows rows and places; leaves where they come from to the source.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from migrator.errors import StoreError
from migrator.files import private
from migrator.model import Kind, Row, identity_key
from migrator.values import Value, digest_bytes, is_number

Rank = int | float | str | None


class Duplicates:
    """The places of the losers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = (
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            if path.exists()
            else None
        )
        if self._db is not None and not self._db.execute("SELECT 1 FROM losers LIMIT 1").fetchone():
            self.close()  # there are none, and nobody need ask page by page

    @staticmethod
    def note(path: Path, rows: Iterable[Row], kinds: Mapping[str, Kind], apart: Callable[[Row], bytes]) -> None:
        """Write down of some of the rows what `build` needs of them."""
        with _seen(path) as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO seen VALUES (?, ?, ?)", _entries(rows, kinds, apart))
            db.execute("COMMIT")

    @staticmethod
    def build(
        path: Path,
        rows: Iterable[Row],
        kinds: Mapping[str, Kind],
        apart: Callable[[Row], bytes],
        notes: Iterable[Path] = (),
    ) -> int:
        """Make the index from rows among which every repeated identity is found, and from what was noted of others; the number of losers.

        `apart` is what tells a row from others of its identity in the sink: those that it can hold side by side are no duplicates (H3).
        """
        path.unlink(missing_ok=True)
        aside = path.with_name(path.name + ".tmp")
        with _seen(aside) as db:
            for each in notes:
                db.execute("ATTACH ? AS noted", (str(each),))
                db.execute("INSERT INTO seen SELECT * FROM noted.seen")
                db.execute("DETACH noted")
            db.execute("CREATE TABLE losers (place TEXT PRIMARY KEY) WITHOUT ROWID")
            db.execute("BEGIN")
            db.executemany("INSERT INTO seen VALUES (?, ?, ?)", _entries(rows, kinds, apart))
            db.execute(
                "INSERT INTO losers SELECT place FROM (SELECT place, row_number() OVER"
                " (PARTITION BY identity ORDER BY rank DESC, place DESC) AS turn FROM (SELECT DISTINCT * FROM seen)) WHERE turn > 1"
            )
            (count,) = db.execute("SELECT count(*) FROM losers").fetchone()
            db.execute("DROP TABLE seen")
            db.execute("COMMIT")
        aside.replace(path)
        return int(count)

    @staticmethod
    def some(path: Path, count: int) -> list[str]:
        """The places of a few losers."""
        with closing(sqlite3.connect(path)) as db:
            return [place for (place,) in db.execute("SELECT place FROM losers LIMIT ?", (count,))]

    @property
    def are_none(self) -> bool:
        return self._db is None

    def losers(self, rows: Sequence[Row]) -> set[str]:
        """The places, among those of `rows`, whose record loses."""
        if self._db is None or not rows:
            return set()
        found: set[str] = set()
        for start in range(0, len(rows), 500):
            places = [row.place for row in rows[start : start + 500]]
            marks = ",".join("?" * len(places))
            found.update(
                place for (place,) in self._db.execute(f"SELECT place FROM losers WHERE place IN ({marks})", places)
            )
        return found

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


@contextmanager
def _seen(path: Path) -> Iterator[sqlite3.Connection]:
    """A new file for identities, ranks and places, while the block lasts. Raises StoreError if the disk will not have it."""
    private(path).close()  # keys hold people's names
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE seen (identity BLOB, rank, place TEXT)")
        yield db
    except sqlite3.OperationalError as exc:
        raise StoreError(f"{path}: {exc}; make room there, or choose another folder with --state") from exc
    finally:
        db.close()


def _entries(
    rows: Iterable[Row], kinds: Mapping[str, Kind], apart: Callable[[Row], bytes]
) -> Iterator[tuple[bytes, Rank, str]]:
    for row in rows:
        kind = kinds[row.kind]
        try:
            key = identity_key(row.kind, kind.identity_of(row.record)) + apart(row)
        except ValueError:
            continue  # a lone surrogate: the record will be rejected, and cannot meet another
        yield digest_bytes(key), rank(row.record.get(kind.newest) if kind.newest else None), row.place


def rank(value: Value) -> Rank:
    """What SQLite sorts as the value is meant: NULL is the oldest, then numbers, then text that is no time, then times (naive ones as they are)."""
    if is_number(value):
        if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            return value
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return "1" + value.encode("utf-8", "replace").decode()  # a lone surrogate: SQLite would refuse it
    return f"2{moment.isoformat(sep='T', timespec='microseconds')}"
