"""What a source held at one moment: of each record its kind, a digest of its identity and one of all it holds. No values.

Two of them tell what has come, changed or gone between two moments, however large the store. Knows sources and SQLite; leaves what follows from
it to whoever looks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from migrator.adapters.base import Source
from migrator.files import private, sync_folder
from migrator.model import FOREIGN, UNKNOWN_KIND, Page, Record
from migrator.values import canonical, digest_bytes

_NEW = "SELECT kind, count(*) FROM (SELECT kind, identity, sum FROM now.held EXCEPT SELECT kind, identity, sum FROM main.held) GROUP BY kind"
_GONE = "SELECT kind, count(*) FROM (SELECT kind, identity FROM main.held EXCEPT SELECT kind, identity FROM now.held) GROUP BY kind"


@dataclass(frozen=True)
class Moved:
    """What lies between two moments, by kind: how many records are new or otherwise, and how many are gone."""

    arrived: dict[str, int]
    gone: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.arrived or self.gone)

    @property
    def words(self) -> str:
        """For people: `3 fact new or changed, 1 episode gone`."""
        arrived = [f"{count:,} {kind} new or changed" for kind, count in self.arrived.items()]
        return ", ".join(arrived + [f"{count:,} {kind} gone" for kind, count in self.gone.items()]) or "nothing"


class Ledger:
    """What a source held, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(
        self,
        source: Source,
        kinds: tuple[str, ...],
        tick: Callable[[int], None],
        since: Ledger | None = None,
        take: Callable[[Record], None] = lambda plain: None,
    ) -> None:
        """Write down what the source holds now; the file is whole or what it was. `take` is given each record that `since` did not hold so."""
        aside = self.path.with_name(self.path.name + ".tmp")
        private(aside).close()  # digests of short identities could be guessed
        with closing(sqlite3.connect(aside, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute(
                "CREATE TABLE held (kind TEXT, identity BLOB, sum BLOB, PRIMARY KEY (kind, identity, sum)) WITHOUT ROWID"
            )
            if since is not None:
                db.execute("ATTACH ? AS before", (str(since.path),))
            db.execute("BEGIN")
            for partition in source.partitions(list(kinds), 1):
                for page in source.pages(partition, None):
                    for kind, identity, whole, plain in _entries(page, kinds, source):
                        entry = (kind, _sum(identity), _sum(whole))
                        db.execute("INSERT OR IGNORE INTO held VALUES (?, ?, ?)", entry)
                        asked = "SELECT 1 FROM before.held WHERE kind = ? AND identity = ? AND sum = ?"
                        if since is not None and db.execute(asked, entry).fetchone() is None:
                            take(plain)
                    tick(len(page.rows))
            db.execute("COMMIT")
        aside.replace(self.path)
        sync_folder(self.path.parent)

    def until(self, now: Ledger) -> Moved:
        """What lies between this moment and another."""
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("ATTACH ? AS now", (str(now.path),))
            return Moved(dict(db.execute(_NEW)), dict(db.execute(_GONE)))


def _entries(page: Page, kinds: tuple[str, ...], source: Source) -> Iterator[tuple[str, object, object, Record]]:
    """Of each record of a page: kind, identity, all of it, and a line of JSON Lines. What cannot be read is known by its place."""
    for row in page.rows:
        if row.kind in kinds:
            plain = row.to_plain()
            yield row.kind, list(source.layout.identity_of(row)), plain, plain
    for reject in page.rejects:
        plain = reject.to_plain()
        yield reject.kind, reject.place, plain, plain
    for item in page.foreign:
        plain = {"kind": UNKNOWN_KIND, "record": item.held, "foreign": True, "place": item.place}
        yield FOREIGN, item.place, plain, plain | ({"ghost": True} if item.ghost else {})


def _sum(value: object) -> bytes:
    try:
        data = canonical(value)
    except (TypeError, ValueError):  # a lone surrogate, and whatever else no store could be sent
        data = repr(value).encode("utf-8", "backslashreplace")
    return digest_bytes(data)
