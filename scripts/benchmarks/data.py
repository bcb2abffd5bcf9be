"""What is moved: the same facts and session blobs on every machine, made once and kept in a folder.

Facts take about 350 bytes as a row of LuminoraCore's table, a hundred to a user; blobs are LuminoraCore 1.0's, opaque JSON. DynamoDB's items
are made by migrator's own layouts, so that what a stub holds is what migrator would have written. A file that is there is whole.
"""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import naive

_VERSION = 1  # of what is made here: another one is another name

_WORDS = [
    "the",
    "ferry",
    "leaves",
    "at",
    "ten",
    "from",
    "old",
    "harbour",
    "and",
    "María",
    "prefers",
    "tea",
    "without",
    "sugar",
    "in",
    "winter",
    "but",
    "coffee",
    "on",
    "Sundays;",
    "she",
    "asked",
    "about",
    "naïve",
    "questions,",
    "café",
    "hours",
    "–",
    "“until",
    "22:00”",
    "–",
    "her",
    "brother's",
    "bicycle,",
    "rain,",
    "trains",
    "to",
    "Málaga,",
    "a",
    "dog",
]
_CATEGORIES = ("preferences", "personal_info", "conversation_history", "work", "places")


@dataclass(frozen=True)
class Data:
    """Files in a folder, each made when it is first asked for."""

    folder: Path
    say: Callable[[str], None]

    def facts_db(self, count: int) -> Path:
        return self._made(
            f"facts-{count}.db", lambda path: _database(path, naive.FACTS, naive.INSERT_FACT, _facts(count))
        )

    def facts_copy_db(self, count: int) -> Path:
        return self._made(f"facts-{count}-copy.db", lambda path: path.write_bytes(self.facts_db(count).read_bytes()))

    def facts_jsonl(self, count: int) -> Path:
        return self._made(f"facts-{count}.jsonl", lambda path: self._migrated(self.facts_db(count), path))

    def facts_jsonl_gz(self, count: int) -> Path:
        return self._made(f"facts-{count}.jsonl.gz", lambda path: self._migrated(self.facts_db(count), path))

    def facts_items(self, count: int) -> Path:
        return self._made(
            f"facts-{count}.items", lambda path: _items(self.facts_db(count), path, "luminoracore-v1.1", "user_id/SK")
        )

    def blobs_db(self, count: int, size: int) -> Path:
        rows = ((name, json.dumps(blob, ensure_ascii=False)) for name, blob in _blobs(count, size))
        return self._made(
            f"blobs-{count}-of-{size}.db", lambda path: _database(path, naive.BLOBS, naive.INSERT_BLOB, rows)
        )

    def blobs_items(self, count: int, size: int) -> Path:
        return self._made(
            f"blobs-{count}-of-{size}.items",
            lambda path: _items(self.blobs_db(count, size), path, "luminoracore-v1.0", "session_id"),
        )

    def json_map(self, bytes_: int, size: int) -> Path:
        """One JSON object of sessions, about `bytes_` long, as LuminoraCore 1.0 writes it: two blanks to a level."""
        return self._made(f"map-{bytes_}-of-{size}.json", lambda path: _json_map(path, bytes_, size))

    def json_map_db(self, bytes_: int, size: int) -> Path:
        return self._made(f"map-{bytes_}-of-{size}.db", lambda path: self._migrated(self.json_map(bytes_, size), path))

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.folder / f"v{_VERSION}-{name}"
        if not path.exists():
            self.say(f"making {path.name}")
            aside = path.with_name(f"aside-{path.name}")
            aside.unlink(missing_ok=True)
            make(aside)
            aside.rename(path)
        return path

    def _migrated(self, source: Path, sink: Path) -> None:
        import migrator

        state = self.folder / "making"
        migrator.migrate(source, sink, migrator.Options(state=str(state), proof="none"))
        shutil.rmtree(state)


def _facts(count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(7)
    for number in range(count):
        user, which = divmod(number, 100)
        day = f"2026-{1 + user % 12:02}-{1 + which % 28:02}T{which % 24:02}:{number % 60:02}"
        value = " ".join(chance.choices(_WORDS, k=chance.randint(14, 40)))
        session = f"{chance.getrandbits(32):08x}-8a52-4f0e-9f0b-{user:012x}"
        category = _CATEGORIES[which % len(_CATEGORIES)]
        seconds = f":{chance.randint(0, 59):02}.{chance.randint(1, 999999):06}"
        yield (
            f"user-{user:07}",
            session,
            category,
            f"key-{which:03}",
            value,
            chance.randint(1, 1000) / 1000,
            day + seconds,
            day + seconds,
        )


def _blobs(count: int, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sessions of about `size` bytes as JSON: a personality, and as many messages as it takes."""
    chance = random.Random(11)
    for number in range(count):
        name = f"{chance.getrandbits(32):08x}-8a52-4f0e-9f0b-{number:012x}"
        blob: dict[str, Any] = {
            "personality": {
                "name": "harbor_guide",
                "system_prompt": "Speak briefly.",
                "metadata": {"version": number % 7},
            },
            "conversation": {"session_id": name, "messages": [], "metadata": {}},
            "created_at": "2026-01-03 17:20:40.004415",
            "last_activity": f"2026-01-04 {number % 24:02}:22:42.900118",
        }
        left = size - 330
        while left > 0:
            words = " ".join(chance.choices(_WORDS, k=min(60, 1 + left // 8)))
            usage = {"total_tokens": chance.randint(9, 999), "cost": chance.randint(1, 99999) / 100000}
            role = "assistant" if len(blob["conversation"]["messages"]) % 2 else "user"
            message = {"role": role, "content": words, "timestamp": "2026-01-03 17:20:41.118204", "metadata": usage}
            blob["conversation"]["messages"].append(message)
            left -= len(json.dumps(message))
        yield name, blob


def _database(path: Path, table: str, insert: str, rows: Iterator[tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute(table)
        db.executemany(insert, rows)


def _json_map(path: Path, bytes_: int, size: int) -> None:
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for name, blob in _blobs(bytes_, size):
            text = json.dumps(blob, ensure_ascii=False, indent=2).replace("\n", "\n  ")
            written += file.write(f'{"," if written else "{"}\n  "{name}": {text}')
            if written >= bytes_:
                break
        file.write("\n}")


def _items(source: Path, path: Path, mapping: str, layout_id: str) -> None:
    """The lines that the stub loads: hash, range, size and the item as DynamoDB JSON."""
    import migrator
    from migrator.adapters.dynamodb.values import item_size, to_item

    layout = migrator.load_mapping(mapping).layouts[layout_id]
    with path.open("w", encoding="utf-8") as file, migrator.open_store(source, mapping) as store:
        for partition in store.partitions(list(layout.kinds), 1):
            for page in store.pages(partition, None):
                for row in page.rows:
                    item = to_item(layout.write(layout.fit(row, "keep")))
                    key = [item[name]["S"] for name in layout.key]
                    text = json.dumps(item, ensure_ascii=False, separators=(",", ":"))
                    file.write("\t".join([*key, *[""] * (2 - len(key)), str(item_size(item)), text]) + "\n")
