"""How much each user has, for as many users as there are: counted in a temporary file, so that memory stays bounded.

Knows ids and figures. Leaves whose a record is, and what it weighs, to whoever counts.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

_HELD = 20_000  # users in memory before their figures go to the file: about 4 MB

_ADD = (
    "INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET records = records + excluded.records, "
    "bytes = bytes + excluded.bytes, answer = answer + excluded.answer"
)


class Users:
    """Figures of each user: records, their bytes, and the bytes of the answer that a table would give. To be closed."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._held: dict[str, list[int]] = {}
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        # Ids as bytes: SQLite holds no text with a lone surrogate in it.
        self._db.execute("CREATE TABLE users (user BLOB PRIMARY KEY, records INT, bytes INT, answer INT) WITHOUT ROWID")

    def add(self, user: str, records: int, size: int, answer: int) -> None:
        figures = self._held.get(user)
        if figures is None:
            if len(self._held) >= _HELD:
                self._write()
            figures = self._held[user] = [0, 0, 0]
        figures[0] += records
        figures[1] += size
        figures[2] += answer

    def count(self) -> int:
        """How many users there are."""
        return self._number("SELECT count(*) FROM users")

    def over(self, page: int) -> int:
        """How many users have an answer of more than so many bytes."""
        return self._number("SELECT count(*) FROM users WHERE answer > ?", page)

    def heaviest(self, most: int) -> list[tuple[str, int, int]]:
        """The users with the most bytes: id, records, bytes; of equal ones the first by id."""
        self._write()
        found = self._db.execute(
            "SELECT user, records, bytes FROM users ORDER BY bytes DESC, user LIMIT ?", (most,)
        ).fetchall()
        return [(user.decode("utf-8", "surrogatepass"), records, size) for user, records, size in found]

    def close(self) -> None:
        self._db.close()
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._db.execute("BEGIN")
        lines = ((user.encode("utf-8", "surrogatepass"), *figures) for user, figures in self._held.items())
        self._db.executemany(_ADD, lines)
        self._db.execute("COMMIT")
        self._held.clear()

    def _number(self, query: str, *arguments: int) -> int:
        self._write()
        (number,) = self._db.execute(query, arguments).fetchone()
        return int(number)
