"""What the SQL adapter promises beyond the conformance suite: snapshots, locks, odd values, tables made by others."""

import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrator
from conftest import needed
from migrator.adapters.base import Reader, Setting, Sink, Source
from migrator.adapters.dynamodb.plain import PlainItems
from migrator.adapters.memory import MemoryReader, MemoryStore
from migrator.adapters.sql import adapter as sql
from migrator.adapters.sql import dialect as sql_dialect
from migrator.adapters.sql import snapshot as sqlite_snapshot
from migrator.adapters.sql import source as sql_source
from migrator.adapters.sql.rows import Rows
from migrator.adapters.sql.source import SqlReader
from migrator.duplicates import Duplicates
from migrator.errors import ConfigError, StoreError, TransientStoreError
from migrator.kind_layout import KindLayout
from migrator.layout import Layout
from migrator.mapping_file import load_mapping
from migrator.model import Address, Alike, Existing, Reject, Row
from migrator.pair import Pair
from stores import fetched

ADAPTER = sql.ADAPTER
MAPPING = load_mapping("luminoracore-v1.1")
KINDS = MAPPING.kind_names()
SAMPLE = Path(__file__).parent / "data" / "chat.db"
TIME = "2025-11-03T17:20:41.118204"


# Help ------------------------------------------------------------------------------------------------------------------


def address(path: Path) -> Address:
    return Address("sqlite", "sql", f"sqlite:///{path}", str(path))


def setting(path: Path, **options: Any) -> Setting:
    shape = ADAPTER.describe(address(path))
    layout = options.pop("layout", None) or MAPPING.layout_for("sql", shape if shape and shape.tables else None)
    return Setting(layout, options.pop("kinds", KINDS), path.parent / "state", **options)


def source(path: Path, **options: Any) -> Source:
    opened = ADAPTER.source(address(path), setting(path, **options))
    opened.snapshot()
    return opened


def reader(path: Path, **options: Any) -> Reader:
    return ADAPTER.reader(address(path), setting(path, **options))


def sink(path: Path, **options: Any) -> Sink:
    opened = ADAPTER.sink(address(path), setting(path, **options))
    opened.prepare(KINDS, True)
    opened.begin("0")
    return opened


def read(store: Source, kinds: tuple[str, ...] = KINDS, wanted: int = 1) -> tuple[list[Row], list[Reject]]:
    pages = [page for part in store.partitions(kinds, wanted) for page in store.pages(part, None)]
    return [row for page in pages for row in page.rows], [reject for page in pages for reject in page.rejects]


def records(rows: list[Row]) -> list[tuple[str, dict[str, Any]]]:
    return [(row.kind, row.record) for row in rows]


def fact(key: str, **fields: Any) -> Row:
    record = {"user_id": "ana", "session_id": None, "category": "work", "key": key, "value": "v", "confidence": 0.5}
    return Row("fact", record | {"created_at": TIME, "updated_at": TIME} | fields)


def mood(context: str | None, **fields: Any) -> Row:
    record = {"user_id": "ana", "session_id": None, "mood_type": "calm", "intensity": 0.5, "context": context}
    return Row("mood", record | {"created_at": None, "updated_at": TIME} | fields)


def database(path: Path, script: str = "", mode: str = "delete", facts: int = 0) -> Path:
    """A file of LuminoraCore's own tables."""
    schema = sqlite3.connect(SAMPLE).execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.executescript(";".join(statement for (statement,) in schema if statement) + ";" + script)
        add_facts(connection, range(facts))
        connection.commit()
    return path


def add_facts(connection: sqlite3.Connection, numbers: range) -> None:
    connection.executemany(
        "INSERT INTO facts (user_id, category, key, value) VALUES ('ana', 'work', ?, ?)",
        [(f"k{n:06}", "x" * 50) for n in numbers],
    )


def state(folder: Path) -> dict[str, bytes]:
    return {
        each.name: each.read_bytes() for each in folder.iterdir() if each.is_file() and not each.name.endswith("-shm")
    }


def killed(script: str, *arguments: object) -> None:
    """Run a script that ends without closing anything, as a process that was killed."""
    code = "import os, sqlite3, sys\n" + textwrap.dedent(script) + "\nos._exit(0)"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that others may look into: pytest's own may not be entered by them."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def no_superuser() -> Iterator[None]:
    """For root every folder is writable: be somebody else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# Looking ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_described_by_its_tables_and_columns(tmp_path: Path) -> None:
    shape = ADAPTER.describe(address(SAMPLE))
    assert shape is not None and shape.words == f"SQLite file {SAMPLE}"
    assert shape.tables["memories"][:3] == ("id", "user_id", "session_id")
    assert ADAPTER.describe(address(tmp_path / "none.db")) is None and not list(tmp_path.iterdir())


def test_an_empty_file_is_a_database_without_tables(tmp_path: Path) -> None:
    (tmp_path / "chat.db").touch()
    shape = ADAPTER.describe(address(tmp_path / "chat.db"))
    assert shape is not None and shape.tables == {}


@pytest.mark.parametrize("data", [b"{}", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_refused_with_the_next_step(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "chat.db").write_bytes(data)
    with pytest.raises(ConfigError, match=r"encrypted|damaged"):
        ADAPTER.describe(address(tmp_path / "chat.db"))
    with pytest.raises(ConfigError, match="folder"):
        ADAPTER.describe(address(tmp_path))


def test_a_file_that_may_not_be_read_is_refused() -> None:
    with public_folder() as folder:
        database(folder / "chat.db").chmod(0o000)
        with no_superuser(), pytest.raises(ConfigError, match="may not be read"):
            ADAPTER.describe(address(folder / "chat.db"))


# Snapshots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["delete", "persist", "wal"])
def test_a_snapshot_leaves_the_file_and_its_folder_as_they_were(tmp_path: Path, mode: str) -> None:
    path = database(tmp_path / "chat.db", mode=mode, facts=10)
    before = state(tmp_path)
    opened = ADAPTER.source(address(path), setting(path))
    snapshot = opened.snapshot()
    assert len(read(opened)[0]) == 10
    assert state(tmp_path) == before
    copy = Path(snapshot.spec["path"])
    assert copy.stat().st_mode & 0o777 == 0o600 and copy.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_snapshot_holds_its_moment_while_the_application_goes_on(tmp_path: Path, mode: str) -> None:
    path = database(tmp_path / "chat.db", mode=mode, facts=10)
    with closing(sqlite3.connect(path)) as application:
        add_facts(application, range(10, 20))
        application.commit()
        opened = ADAPTER.source(address(path), setting(path))
        snapshot = opened.snapshot()
        add_facts(application, range(20, 30))
        application.commit()
        assert len(read(opened)[0]) == 20
        worker = ADAPTER.source(address(path), setting(path), snapshot)
        assert len(read(worker)[0]) == 20


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
def test_nobody_writes_to_a_file_while_its_bytes_are_copied(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a change that the application has begun, and not committed, get into the copy."""
    path, refused, real = database(tmp_path / "chat.db", mode=mode, facts=500), list[str](), sqlite_snapshot._copy_bytes
    monkeypatch.setattr(sqlite_snapshot, "_CHUNK", 4096)
    script = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM facts').connection.commit()"
    )

    def copied(descriptor: int, target: Path, check: Any) -> None:
        def and_try(so_far: int) -> None:
            check(so_far)
            if so_far in (4096, 8 * 4096):
                ended = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
                refused.append(ended.stderr.splitlines()[-1])

        real(descriptor, target, and_try)

    monkeypatch.setattr(sqlite_snapshot, "_copy_bytes", copied)
    with closing(sqlite3.connect(path)) as application:
        add_facts(application, range(500, 600))
        opened = source(path)
        assert len(read(opened)[0]) == 500
        opened.close()
        application.commit()
    assert refused == ["sqlite3.OperationalError: database is locked"] * 2
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert read(source(path))[0] == []


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_snapshot_leaves_no_descriptor_of_the_file_open(mode: str, tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", mode=mode, facts=10)

    def descriptors() -> int:
        found = 0
        for each in os.listdir("/dev/fd"):  # noqa: PTH208
            with suppress(OSError):
                found += os.path.samestat(path.stat(), os.fstat(int(each)))
        return found

    gc.collect()
    before = descriptors()
    source(path).close()
    assert descriptors() == before


def test_in_wal_mode_a_snapshot_is_taken_while_a_writer_holds_the_lock(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", mode="wal", facts=10)
    with closing(sqlite3.connect(path)) as application:
        add_facts(application, range(10, 20))
        assert len(read(source(path, snapshot_limit=1e-9))[0]) == 10


def test_a_snapshot_that_would_hold_writers_up_too_long_is_refused(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=100)
    before = state(tmp_path)
    with pytest.raises(ConfigError, match=r"sqlite3 '.*chat.db' 'PRAGMA journal_mode=WAL;'.*--snapshot-limit"):
        source(path, snapshot_limit=1e-9)
    assert state(tmp_path) == before and not list((tmp_path / "state").iterdir())


def test_a_snapshot_that_takes_longer_than_measured_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = database(tmp_path / "chat.db", facts=1000)
    monkeypatch.setattr(sqlite_snapshot, "_seconds_to_copy", lambda *_: 0.0)
    monkeypatch.setattr(sqlite_snapshot, "_CHUNK", 4096)
    with pytest.raises(ConfigError, match="hold its writers up"):
        source(path, snapshot_limit=1e-9)
    assert not list((tmp_path / "state").iterdir())


def test_without_room_for_a_snapshot_the_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = database(tmp_path / "chat.db")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ConfigError, match="--state"):
        source(path)


def test_a_hot_journal_is_recovered_in_the_copy_only(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=100)
    killed(
        """
        c = sqlite3.connect(sys.argv[1])
        c.execute("PRAGMA cache_size=5")
        c.execute("UPDATE facts SET value = printf('%.4000c', 'y')")
        """,
        path,
    )
    before = state(tmp_path)
    assert before["chat.db-journal"]
    assert {row.record["value"] for row in read(source(path))[0]} == {"x" * 50}
    assert len(read(reader(path))[0]) == 100
    assert state(tmp_path) == before


def test_a_wal_without_its_shm_is_recovered_in_the_copy_only(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", mode="wal", facts=10)
    killed(
        """
        c = sqlite3.connect(sys.argv[1])
        c.execute("INSERT INTO facts (user_id, category, key) VALUES ('ana', 'work', 'last')")
        c.commit()
        """,
        path,
    )
    (tmp_path / "chat.db-shm").unlink()
    before = state(tmp_path)
    assert len(read(source(path))[0]) == 11
    assert len(read(reader(path))[0]) == 11
    assert state(tmp_path) == before and not (tmp_path / "chat.db-shm").exists()


@pytest.mark.parametrize("mode", ["delete", "wal", "wal left behind"])
def test_a_folder_that_may_not_be_written_is_read_all_the_same(mode: str) -> None:
    with public_folder() as folder:
        data, own = folder / "data", folder / "own"
        data.mkdir()
        own.mkdir()
        path = database(data / "chat.db", mode=mode.split()[0], facts=10)
        if mode == "wal left behind":
            killed("sqlite3.connect(sys.argv[1]).execute('DELETE FROM facts WHERE id > 5').connection.commit()", path)
        for each in [*data.iterdir(), data]:
            each.chmod(0o555 if each.is_dir() else 0o444)
        own.chmod(0o777)
        with no_superuser():
            given = replace(setting(path), scratch=own / "state")
            opened = ADAPTER.source(address(path), given)
            opened.snapshot()
            expected = 5 if mode == "wal left behind" else 10
            assert len(read(opened)[0]) == len(read(ADAPTER.reader(address(path), given))[0]) == expected
            with pytest.raises(ConfigError, match="read-only"):
                ADAPTER.sink(address(path), given).prepare(KINDS, True)


def test_a_snapshot_that_is_gone_says_how_to_go_on(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=1)
    snapshot = ADAPTER.source(address(path), setting(path)).snapshot()
    assert ADAPTER.source(address(path), setting(path), snapshot).is_still(snapshot)
    Path(snapshot.spec["path"]).unlink()
    assert not ADAPTER.source(address(path), setting(path), snapshot).is_still(snapshot)
    with pytest.raises(StoreError, match="--restart"):
        read(ADAPTER.source(address(path), setting(path), snapshot))


def test_reading_past_sqlite_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("BEGIN IMMEDIATE")
        assert ADAPTER.describe(address(path)) is not None
        source(path)
        other = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
        assert b"locked" in subprocess.run([sys.executable, "-c", other], capture_output=True).stderr


# Reading ---------------------------------------------------------------------------------------------------------------


def test_pages_go_on_behind_any_cursor_and_partitions_hold_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_source, "_PARTITION_ROWS", 500)
    opened = source(database(tmp_path / "chat.db", "DELETE FROM facts WHERE id % 7 = 0", facts=2500))
    parts = opened.partitions(KINDS, 4)
    assert [part.id for part in parts] == [f"fact/{i:03}" for i in range(4)]
    whole = [row.place for part in parts for page in opened.pages(part, None) for row in page.rows]
    assert whole == [row.place for row in read(opened)[0]] and len(set(whole)) == 2500
    first = next(opened.pages(parts[0], None))
    rest = [row for page in opened.pages(parts[0], first.cursor) for row in page.rows]
    assert [row.place for row in first.rows + rest] == whole[: len(first.rows + rest)]


def test_a_small_table_is_one_partition_and_an_empty_one_is_none(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=10)
    assert [part.id for part in source(path).partitions(KINDS, 8)] == ["fact/000"]
    assert source(database(tmp_path / "none.db")).partitions(KINDS, 8) == []


def test_what_is_not_text_rejects_its_record_and_no_other(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=1200)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE facts SET value = CAST(x'ff41' AS TEXT) WHERE id IN (1, 500, 501, 1200)")
        connection.execute("UPDATE facts SET value = x'ff' WHERE id = 2")
        connection.execute("UPDATE facts SET confidence = 'much' WHERE id = 3")
        connection.commit()
    rows, rejects = read(source(path))
    assert len(rows) == 1194
    assert {reject.place: reject.reason for reject in rejects} == {
        "facts:1": "value is not UTF-8 text",
        "facts:500": "value is not UTF-8 text",
        "facts:501": "value is not UTF-8 text",
        "facts:1200": "value is not UTF-8 text",
        "facts:2": "value holds bytes, the mapping says text",
        "facts:3": "confidence holds text, the mapping says float",
    }
    assert rejects[0].held["value"] == b"\xffA" and rejects[0].held["key"] == "k000000"


def test_pages_of_broken_rows_alone_are_bounded_too(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=1500)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE facts SET value = CAST(x'ff' AS TEXT)")
        connection.commit()
    opened = source(path)
    (part,) = opened.partitions(KINDS, 1)
    assert [len(page.rejects) for page in opened.pages(part, None)] == [1000, 500]


def test_a_record_over_the_limit_is_rejected_with_its_size(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", "", facts=5)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE facts SET value = printf('%.3000000c', 'y') WHERE id IN (2, 5)")
        connection.execute("UPDATE facts SET value = printf('%.700000c', 'y'), session_id = value WHERE id = 3")
        connection.commit()
    rows, rejects = read(source(path, record_bytes=2_000_000))
    assert [row.place for row in rows] == ["facts:1", "facts:3", "facts:4"]
    assert [reject.place for reject in rejects] == ["facts:2", "facts:5"]
    assert rejects[0].reason.startswith("takes 3,000,0") and "value" not in rejects[0].held
    rows, rejects = read(source(path, record_bytes=1_000))
    assert [row.place for row in rows] == ["facts:1", "facts:4"] and len(rejects) == 3


def test_columns_that_the_mapping_does_not_know_are_unknown_fields(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", "ALTER TABLE facts ADD COLUMN tag TEXT", facts=2)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE facts SET tag = 'old' WHERE id = 2")
        connection.commit()
    opened = reader(path)
    assert [row.record.get("tag", "none") for row in read(opened)[0]] == ["none", "old"]
    assert opened.fit(fact("a", tag="new")) == fact("a", tag="new")
    refused = opened.fit(fact("a", other=1))
    assert isinstance(refused, Reject) and "other" in refused.reason
    assert opened.fit(fact("a", other=None)) == fact("a")


def test_a_table_without_row_ids_is_read_by_its_primary_key(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE memories (user_id TEXT, session_id TEXT, memory_key TEXT, memory_value TEXT, created_at TEXT, "
            "updated_at TEXT, PRIMARY KEY (memory_key, user_id)) WITHOUT ROWID"
        )
        many = [(f"u{n % 3}", f"k{n:05}") for n in range(2500)]
        connection.executemany("INSERT INTO memories (user_id, memory_key) VALUES (?, ?)", many)
        connection.commit()
    opened = source(path)
    assert opened.guarantees("memory") and [part.id for part in opened.partitions(KINDS, 4)] == ["memory/000"]
    rows, rejects = read(opened)
    assert [(row.record["user_id"], row.record["memory_key"]) for row in rows] == many and not rejects
    assert rows[0].place == 'memories:["k00000","u0"]'
    target = sink(path)
    target.upsert([replace(rows[0], record=rows[0].record | {"memory_value": "new"})], Existing.REPLACE)
    assert [row.record["memory_value"] for row in read(target.reader())[0]] == ["new"] + [None] * 2499


def test_tables_of_the_core_migration_are_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE user_affinity (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, personality_name TEXT NOT NULL,
                affinity_points INTEGER DEFAULT 0, created_at TIMESTAMP, updated_at TIMESTAMP, UNIQUE (user_id, personality_name));
            CREATE TABLE user_facts (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, session_id TEXT, category TEXT NOT NULL,
                fact_key TEXT NOT NULL, fact_value TEXT NOT NULL, UNIQUE (user_id, category, fact_key));
            CREATE TABLE episodes (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, session_id TEXT, episode_type TEXT NOT NULL,
                title TEXT NOT NULL, summary TEXT NOT NULL, importance REAL NOT NULL, sentiment TEXT NOT NULL, tags TEXT,
                timestamp TIMESTAMP NOT NULL, created_at TIMESTAMP, updated_at TIMESTAMP);
            CREATE TABLE moods (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT,
                mood_type TEXT NOT NULL, intensity REAL DEFAULT 0.0, context TEXT, created_at TEXT, updated_at TEXT);
            INSERT INTO user_affinity (user_id, personality_name) VALUES ('ana', 'guide');
            INSERT INTO episodes VALUES ('e', 'ana', NULL, 'milestone', 't', 's', 1, 'neutral', NULL, 'now', 'now', 'now');
            INSERT INTO moods (user_id, mood_type) VALUES ('ana', 'calm');
        """)
    said: list[str] = []
    rows, rejects = read(source(path, say=said.append))
    assert [row.kind for row in rows] == ["mood"] and not rejects
    assert any("episodes" in words and "timestamp" in words for words in said)
    with pytest.raises(ConfigError, match="timestamp"):
        ADAPTER.sink(address(path), setting(path)).prepare(["episode"], True)
    with pytest.raises(ConfigError, match="timestamp"):
        reader(path).fit(Row("episode", {}))


def test_only_records_that_share_an_identity_are_looked_at_again(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", facts=10)
    with closing(sqlite3.connect(path)) as connection:
        moods = [("calm", None), ("calm", None), ("calm", "sea"), ("glad", "sea"), ("calm", "sea")]
        connection.executemany("INSERT INTO moods (user_id, mood_type, context) VALUES ('ana', ?, ?)", moods)
        connection.commit()
    opened = source(path)
    assert [opened.guarantees(kind) for kind in ("fact", "session", "mood")] == [True, True, False]
    assert [row.place for row in opened.repeated(KINDS)] == ["moods:1", "moods:2", "moods:3", "moods:5"]


def test_an_index_that_leaves_rows_out_or_lets_null_repeat_guarantees_nothing(tmp_path: Path) -> None:
    index = "CREATE UNIQUE INDEX i ON moods (user_id, mood_type, created_at, context)"
    assert not source(database(tmp_path / "null.db", index)).guarantees("mood")
    index = "CREATE UNIQUE INDEX i ON moods (user_id, mood_type) WHERE context IS NULL"
    assert not source(database(tmp_path / "part.db", index)).guarantees("mood")
    index = "CREATE UNIQUE INDEX i ON moods (user_id, mood_type)"
    assert source(database(tmp_path / "less.db", index)).guarantees("mood")


def test_the_sample_goes_there_and_back_unchanged(tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "chat.db")
    rows, rejects = read(source(tmp_path / "chat.db"))
    assert len(rows) == 581 and not rejects
    target = sink(tmp_path / "new.db")
    looking = target.reader()
    assert [looking.fit(row) for row in rows] == rows
    target.upsert(rows, Existing.EMPTY)
    assert target.flush().held == []

    def content(path: Path, table: str) -> list[Any]:
        with closing(sqlite3.connect(path)) as connection:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "id"]
            types = [f"typeof({column})" for column in columns]
            return connection.execute(f"SELECT {', '.join(columns + types)} FROM {table} ORDER BY id").fetchall()

    for table in ("affinity", "facts", "episodes", "moods", "memories", "sessions"):
        assert content(tmp_path / "new.db", table) == content(SAMPLE, table)


# Fitting ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"user_id": None}, "user_id is NULL"),
        ({"confidence": float("nan")}, "NaN"),
        ({"confidence": 2**53 + 1}, "round"),
        ({"confidence": Decimal("0.12345678901234567890123")}, "more digits"),
        ({"confidence": True}, "boolean"),
        ({"value": "\ud800"}, "surrogate"),
        ({"value": b"x"}, "value"),
        ({"value": ["x"]}, "value"),
        ({"value": {"a": 1}}, "value"),
        ({"value": frozenset({"a"})}, "value"),
        ({"value": 7}, "value"),
    ],
)
def test_what_a_column_would_not_give_back_is_rejected_by_the_name_of_its_field(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    for opened in (reader(tmp_path / "none.db"), reader(database(tmp_path / f"{reason[:3]}.db"))):
        refused = opened.fit(fact("a", **fields))
        assert isinstance(refused, Reject) and reason in refused.reason


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "7", float(2**60)])
def test_an_integer_column_refuses_what_it_would_change(tmp_path: Path, value: Any) -> None:
    record = dict.fromkeys(
        ("session_id", "user_id", "personality_name", "created_at", "updated_at", "last_activity"), "x"
    )
    opened = reader(tmp_path / "none.db")
    assert isinstance(opened.fit(Row("session", record | {"ttl": value})), Reject)
    assert isinstance(opened.fit(Row("session", record | {"ttl": 2**63 - 1})), Row)
    assert isinstance(opened.fit(Row("session", record | {"ttl": 43.5})), Row)
    missing = opened.fit(Row("session", {"session_id": "s", "user_id": "u"}))
    assert isinstance(missing, Reject) and "personality_name" in missing.reason


@pytest.mark.parametrize(
    "value", ["", "a\0b", "42", "café", "🜁", " ", "1e5", "x" * 100_000], ids=lambda value: repr(value)[:10]
)
def test_what_fits_comes_back_the_same(tmp_path: Path, value: str) -> None:
    target = sink(tmp_path / "chat.db")
    numbers = [0.1, 1e300, -0.0, 5, 2**53, float("inf"), 1e-320]
    given = [fact(f"{n}", value=value, confidence=number) for n, number in enumerate(numbers)]
    assert [target.reader().fit(row) for row in given] == given
    target.upsert(given, Existing.EMPTY)
    target.flush()
    assert records(read(target.reader())[0]) == records(given)


def test_a_reader_of_what_is_not_there_is_empty_and_makes_nothing(tmp_path: Path) -> None:
    opened = reader(tmp_path / "none.db")
    assert not opened.holds(KINDS).any and opened.partitions(KINDS, 2) == [] and fetched(opened, [fact("a")]) == {}
    assert isinstance(opened.fit(fact("a")), Row) and opened.weigh(fact("a")).bytes > 20
    assert list(tmp_path.iterdir()) == []


def test_a_reader_follows_a_file_that_comes_to_life(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", mode="wal", facts=1)
    opened = reader(path)
    assert opened.holds(KINDS).words == "1 record" and not (tmp_path / "chat.db-shm").exists()
    for numbers in (range(1, 3), range(3, 5)):
        with closing(sqlite3.connect(path)) as application:
            add_facts(application, numbers)
            application.commit()
            assert len(read(opened)[0]) == numbers.stop
        assert len(read(opened)[0]) == numbers.stop


# Writing ---------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_made_only_if_that_is_allowed(tmp_path: Path) -> None:
    for path in (tmp_path / "none.db", database(tmp_path / "some.db", "DROP TABLE moods")):
        before = state(tmp_path)
        target = ADAPTER.sink(address(path), setting(path))
        with pytest.raises(ConfigError, match="--create"):
            target.prepare(KINDS, False)
        target.close()
        assert state(tmp_path) == before
        sink(path).prepare(KINDS, True)
        made, wanted = ADAPTER.describe(address(path)), ADAPTER.describe(address(SAMPLE))
        assert made is not None and wanted is not None and made.tables == wanted.tables
    with pytest.raises(ConfigError, match="folder"):
        sink(tmp_path / "no" / "chat.db")


def test_tables_that_luminoracore_made_are_not_altered(tmp_path: Path) -> None:
    path = database(tmp_path / "chat.db", mode="wal", facts=1)
    target = sink(path)
    target.upsert([mood("sea"), fact("a")], Existing.REPLACE)
    target.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        mine = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        assert connection.execute(mine).fetchall() == sqlite3.connect(SAMPLE).execute(mine).fetchall()


@pytest.fixture(params=["made by us", "made by LuminoraCore", "without any index"])
def any_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "chat.db"
    if request.param == "made by LuminoraCore":
        database(path)
    elif request.param == "without any index":
        columns = MAPPING.layouts["sqlite"].kinds["fact"].columns
        lines = ", ".join(f"{name} {sql_type}" for name, sql_type in columns.items())
        database(path, f"DROP TABLE facts; CREATE TABLE facts ({lines})")
    return path


def test_upserting_twice_keeps_one_row_and_its_id(any_file: Path) -> None:
    given = [fact(f"k{n}") for n in range(700)] + [mood(None), mood(""), mood("sea"), mood("sea", created_at="")]
    ids: list[Any] = []
    for value in ("old", "new"):
        target = sink(any_file)
        target.upsert([replace(row, record=row.record | {"session_id": value}) for row in given], Existing.REPLACE)
        assert target.flush().held == []
        rows = read(target.reader())[0]
        assert len(rows) == len(given) and {row.record["session_id"] for row in rows} == {value}
        ids.append([row.place for row in rows])
        target.close()
    assert ids[0] == ids[1]


def test_what_goes_into_the_columns_is_the_same_whether_the_way_is_known_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(SAMPLE, tmp_path / "chat.db")
    rows = [row for row in read(source(tmp_path / "chat.db"))[0] for _ in range(2)]
    rows += [fact("a", confidence=2**70), fact("b", value="\ud800"), fact("c", own=1), fact("d", confidence=None)] * 2
    looking = sink(tmp_path / "new.db").reader()
    known = [(found, getattr(found, "encoded", None)) for row in rows for found in [looking.fit(replace(row))]]
    monkeypatch.setattr("migrator.adapters.sql.source._SIGNATURES", 0)
    looking = sink(tmp_path / "new.db").reader()
    assert [(found, getattr(found, "encoded", None)) for row in rows for found in [looking.fit(replace(row))]] == known
    assert not looking._ways  # type: ignore[attr-defined]


def test_a_slice_into_a_file_that_the_job_made_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = sink(tmp_path / "chat.db")
    for name in ("lost", "kept"):
        target.begin("1")
        target.upsert([fact(name)], Existing.EMPTY)
        target.upsert([fact(f"{name} too")], Existing.EMPTY)
        assert read(target.reader()) == ([], [])
    target.flush()
    assert [row.record["key"] for row in read(target.reader())[0]] == ["kept", "kept too"]


def test_where_something_is_it_stays_and_is_handed_back(any_file: Path) -> None:
    target = sink(any_file)
    target.upsert([fact("a", value="there"), mood(None)], Existing.EMPTY)
    target.flush()
    target.begin("1")
    target.upsert([fact("a"), fact("b"), mood(None, intensity=0.9), mood("sea")], Existing.REFUSE)
    held = target.flush().held
    assert records([row for row, _ in held]) == records([fact("a"), mood(None, intensity=0.9)])
    assert records([there for _, there in held]) == records([fact("a", value="there"), mood(None)])
    assert len(read(target.reader())[0]) == 4
    found = fetched(target.reader(), [fact("a"), fact("c"), mood(None)])
    assert records(list(found.values())) == records([fact("a", value="there"), mood(None)])
    assert list(found) == [("fact", ("ana", "work", "a")), ("mood", ("ana", "calm", None, None))]


def test_a_record_that_the_application_adds_meanwhile_is_seen(any_file: Path) -> None:
    target, looking = sink(any_file), reader(any_file)
    target.upsert([fact("a")], Existing.REFUSE)
    assert len(fetched(looking, [fact("a"), fact("k000001")])) == 1
    with closing(sqlite3.connect(any_file)) as application:
        add_facts(application, range(2))
        application.execute("DELETE FROM facts WHERE key = 'a'")
        application.commit()
    assert list(fetched(looking, [fact("a"), fact("k000001")])) == [("fact", ("ana", "work", "k000001"))]
    target.flush()
    target.upsert([fact("a"), fact("k000001")], Existing.REFUSE)
    assert [there.record["key"] for _, there in target.flush().held] == ["k000001"]
    assert sorted(row.record["key"] for row in read(looking)[0]) == ["a", "k000000", "k000001"]


def test_a_row_is_written_whole(tmp_path: Path) -> None:
    target = sink(database(tmp_path / "chat.db", "ALTER TABLE facts ADD COLUMN tag TEXT"))
    target.upsert([fact("a", tag="old")], Existing.EMPTY)
    bare = {"user_id": "ana", "category": "work", "key": "a"}
    target.upsert([Row("fact", bare)], Existing.REPLACE)
    with closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        row = connection.execute(
            "SELECT session_id, value, confidence, created_at, updated_at, tag FROM facts"
        ).fetchone()
    assert row == (None,) * 6


def test_a_record_that_the_table_itself_refuses_is_rejected_alone(tmp_path: Path) -> None:
    checked = (
        "CREATE UNIQUE INDEX i ON facts (user_id, key); CREATE TRIGGER t BEFORE INSERT ON facts WHEN new.key = 'bad' "
    )
    path = database(tmp_path / "chat.db", checked + "BEGIN SELECT RAISE(ABORT, 'not this'); END")
    for existing in (Existing.EMPTY, Existing.REFUSE):
        target = sink(path)
        given = [fact("a"), fact("bad"), fact("b"), fact("a", category="hobby")]
        target.upsert(given, existing)
        rejects = target.flush().rejects
        assert [reject.reason.split(": ")[-1] for reject in rejects] == ["not this", "facts.user_id, facts.key"]
        assert len(read(target.reader())[0]) == 2


@pytest.mark.parametrize(
    "declared", ["", "INT", "integer", "TINYINT(2)", "TEXT", "varchar(20)", "clob", "BLOB", "REAL", "Double Precision", "FLOAT", "NUMERIC", "DECIMAL(10,2)", "BOOLEAN", "DATETIME", "JSON"]
)  # fmt: skip
def test_a_column_is_taken_for_what_sqlite_takes_it(declared: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(f"CREATE TABLE t (c {declared})")
        given = ["7", 7, 2.0, "2.5", "a"]
        db.executemany("INSERT INTO t VALUES (?)", [(value,) for value in given])
        held = [value for (value,) in db.execute("SELECT c FROM t")]
    turned = {
        "none": given,
        "text": ["7", "7", "2.0", "2.5", "a"],
        "integer": [7, 7, 2, 2.5, "a"],
        "numeric": [7, 7, 2, 2.5, "a"],
        "real": [7.0, 7.0, 2.0, 2.5, "a"],
    }
    found = sql_dialect._affinity(declared)
    assert list(map(repr, held)) == list(map(repr, turned[found]))


def test_names_that_are_no_plain_words_are_names_all_the_same(tmp_path: Path) -> None:
    """A column called "order", one with a quote in it, one that is another's in capitals: the same goes in and comes out."""
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            'CREATE TABLE facts (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, session_id TEXT, category TEXT NOT NULL, "key" TEXT NOT NULL, '
            'value TEXT, confidence REAL, created_at TEXT, updated_at TEXT, "order" TEXT, "a""b; --" TEXT, UNIQUE(user_id, category, "key"))'
        )
    row = fact("k", order="first", **{'a"b; --': "held"})
    with closing(sink(path)) as opened:
        for _ in range(2):
            opened.upsert([row], Existing.EMPTY)
            assert opened.flush().held == []
    with closing(source(path)) as opened:
        rows, rejects = read(opened)
    assert (len(rows), rejects) == (1, [])
    assert (rows[0].record["order"], rows[0].record['a"b; --']) == ("first", "held")


def test_our_own_index_is_known_again_in_a_file_of_an_older_release(tmp_path: Path) -> None:
    """It quoted only the names that need it."""
    path = tmp_path / "chat.db"
    sink(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX migrator_identity_episodes")
        db.execute(
            "CREATE UNIQUE INDEX migrator_identity_episodes ON episodes (user_id, episode_type, ifnull(created_at, x''), title)"
        )
    with closing(source(path)) as opened:
        assert opened.guarantees("episode")


def test_names_that_differ_in_case_stay_two_records_or_are_refused(tmp_path: Path) -> None:
    columns = MAPPING.layouts["sqlite"].kinds["fact"].columns | {"key": "TEXT NOT NULL COLLATE NOCASE"}
    lines = ", ".join(f"{name} {sql_type}" for name, sql_type in columns.items())
    for unique, refused in (("", 0), (", UNIQUE (user_id, category, key)", 1)):
        path = database(tmp_path / f"{refused}.db", f"DROP TABLE facts; CREATE TABLE facts ({lines}{unique})")
        target = sink(path)
        target.upsert([fact("Name"), fact("name")], Existing.REPLACE)
        assert len(target.flush().rejects) == refused
        assert [row.record["key"] for row in read(target.reader())[0]] == ["Name", "name"][: 2 - refused]


def test_a_table_without_row_ids_and_index_says_which_index_it_needs(tmp_path: Path) -> None:
    columns = MAPPING.layouts["sqlite"].kinds["mood"].columns | {"id": "TEXT PRIMARY KEY"}
    lines = ", ".join(f"{name} {sql_type}" for name, sql_type in columns.items())
    path = database(tmp_path / "chat.db", f"DROP TABLE moods; CREATE TABLE moods ({lines}) WITHOUT ROWID")
    with pytest.raises(ConfigError, match="CREATE INDEX"):
        sink(path)
    with pytest.raises(ConfigError, match="CREATE INDEX"):
        reader(path).fit(mood(None))


def test_a_kind_under_other_column_names_is_written_and_found(tmp_path: Path) -> None:
    base = MAPPING.layouts["sqlite"].kinds["fact"]
    places = tuple(replace(p, attribute="order" if p.field.name == "key" else p.attribute) for p in base.places)
    columns = {"order" if name == "key" else name: sql_type for name, sql_type in base.columns.items()}
    kind: KindLayout = replace(base, collections=('my "facts"',), places=places, columns=columns)
    layout = Layout("mine", "sql", {"fact": kind}, absent_is_null=True, keeps_unknown=False)
    target = ADAPTER.sink(address(tmp_path / "chat.db"), setting(tmp_path / "chat.db", layout=layout, kinds=("fact",)))
    target.prepare(["fact"], True)
    for existing in (Existing.EMPTY, Existing.REFUSE):
        target.upsert([fact("a"), fact("b")], existing)
    assert len(target.flush().held) == 2 and len(fetched(target.reader(), [fact("a"), fact("z")])) == 1


# Locks -----------------------------------------------------------------------------------------------------------------

_APPLICATION = """
import sqlite3, sys, time
path, seconds = sys.argv[1], float(sys.argv[2])
end, worst, done = time.monotonic() + seconds, 0, 0
while time.monotonic() < end:
    began = time.monotonic()
    connection = sqlite3.connect(path, timeout=5)  # as LuminoraCore does: a connection for every call
    connection.execute("INSERT INTO facts (user_id, category, key) VALUES ('app', 'live', ?)", (str(done),))
    connection.commit()
    connection.close()
    worst, done = max(worst, time.monotonic() - began), done + 1
    time.sleep(0.05)
print(worst, done)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_an_application_that_writes_meanwhile_never_finds_the_file_locked(tmp_path: Path, mode: str) -> None:
    path = database(tmp_path / "chat.db", mode=mode)
    target = sink(path)
    application = subprocess.Popen(
        [sys.executable, "-c", _APPLICATION, str(path), "2.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with closing(sqlite3.connect(path)) as connection:
        while not connection.execute("SELECT count(*) FROM facts").fetchone()[0]:
            time.sleep(0.01)
    for start in range(0, 20_000, 1000):
        target.begin(str(start))
        target.upsert([fact(f"k{n:05}") for n in range(start, start + 1000)], Existing.REFUSE)
        assert not target.flush().held
    out, trouble = application.communicate()
    assert application.returncode == 0, trouble
    worst, done = map(float, out.split())
    assert worst < 1.5 and done > 10
    users = [row.record["user_id"] for row in read(target.reader())[0]]
    assert users.count("ana") == 20_000 and users.count("app") == done


def test_a_lock_that_is_held_for_too_long_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_snapshot, "BUSY_SECONDS", 0.1)
    path = database(tmp_path / "chat.db")
    target = sink(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientStoreError, match="lock"):
            target.upsert([fact("a")], Existing.REFUSE)
        application.execute("ROLLBACK")
    target.upsert([fact("a")], Existing.REFUSE)
    assert target.flush().held == [] and len(read(target.reader())[0]) == 1


def test_a_full_disk_stops_the_run_and_keeps_what_was_flushed(tmp_path: Path) -> None:
    target = sink(tmp_path / "chat.db")
    target.upsert([fact("a")], Existing.EMPTY)
    target.flush()
    target._connection().execute("PRAGMA max_page_count=30")  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="make room"):
        target.upsert([fact(f"k{n}", value="x" * 2000) for n in range(100)], Existing.EMPTY)
    assert len(read(target.reader())[0]) == 1


def test_only_a_file_that_this_job_made_gets_long_transactions(tmp_path: Path) -> None:
    made = sink(tmp_path / "chat.db")
    again = ADAPTER.sink(address(tmp_path / "chat.db"), setting(tmp_path / "chat.db"))
    again.prepare(KINDS, True)
    assert made._pace.alone and again._pace.alone  # type: ignore[attr-defined]
    again.discard()
    again.prepare(KINDS, True)
    assert not again._pace.alone  # type: ignore[attr-defined]


def test_a_file_that_took_the_place_of_the_one_we_made_is_not_ours(tmp_path: Path) -> None:
    sink(tmp_path / "chat.db").close()
    shutil.copy(tmp_path / "chat.db", tmp_path / "other.db")
    (tmp_path / "other.db").replace(tmp_path / "chat.db")
    other = sink(tmp_path / "chat.db")
    assert not other._pace.alone  # type: ignore[attr-defined]
    with closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_json_text_goes_into_a_column_as_text_whatever_the_file_is_encoded_in(tmp_path: Path, encoding: str) -> None:
    mapping = load_mapping("luminoracore-v1.0")
    path, blobs = tmp_path / "chat.db", tmp_path / "sessions.json"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA encoding = '{encoding}'")
        db.execute("CREATE TABLE notes (text TEXT)")
    sessions = {f"s{n}": {"text": f"María – 😀 {n}", "none": None} for n in range(5)}
    blobs.write_text(json.dumps(sessions, indent=2, ensure_ascii=False))
    report = migrator.migrate(blobs, path, migrator.Options(state=str(tmp_path / "state"), mapping=mapping.name))
    assert report.proven == "digest"
    with closing(sqlite3.connect(path)) as db:
        held = db.execute("SELECT typeof(session_data), session_id, session_data FROM session_blobs").fetchall()
    assert [(sort, name, json.loads(text)) for sort, name, text in held] == [
        ("text", name, value) for name, value in sessions.items()
    ]


# Rows as columns -------------------------------------------------------------------------------------------------------

CELLS = (
    None, "", "text", 'says "no",', "é\\", "2026-01-02T03:04:05", 1, 0, -5, 2**53 + 1, 0.5, 1.0, -0.0, 1e300, b"\xff", "x" * 11_000,
)  # fmt: skip


def pages_of(path: Path, **options: Any) -> list[tuple[Any, ...]]:
    found = source(path, **options)
    pages = [page for part in found.partitions(KINDS, 1) for page in found.pages(part, None)]
    counts = [page.count for page in pages]
    assert counts == [len(page.rows) for page in pages]
    return [(page.cursor, sorted(map(repr, page.rows)), sorted(map(repr, page.rejects))) for page in pages]


@pytest.mark.parametrize("seed", range(12))
def test_pages_that_are_read_as_columns_are_those_that_are_read_row_by_row(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, path = Random(seed), tmp_path / "chat.db"
    cells = CELLS[: chance.choice([3, 6, 12, len(CELLS)])]
    with closing(sqlite3.connect(database(path))) as db, db:
        for turn in range(chance.choice([0, 1, 99, 100, 101, 300, 1_000, 1_030])):
            odd = chance.choices(cells, k=2) if chance.random() < 0.5 else ["text", 0.5]
            db.execute(
                "INSERT INTO facts (user_id, category, key, value, confidence, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                ("ana", "work", f"k{turn}", *odd, TIME),
            )
        if seed % 4 == 3:
            db.execute("UPDATE facts SET value = cast(x'ff61' AS TEXT) WHERE id % 50 = 7")
    as_columns = pages_of(path)
    monkeypatch.setattr(sqlite_snapshot, "open_fast", lambda _: None)
    assert as_columns == pages_of(path)
    monkeypatch.setattr(Rows, "_page_of_columns", lambda *_: None)
    assert as_columns == pages_of(path)


@pytest.fixture
def asked_fast(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that apsw was given."""
    needed("apsw")
    from migrator.adapters.sql.fast import FastRows

    asked, real = list[str](), FastRows.running
    monkeypatch.setattr(FastRows, "running", lambda self, *args: asked.append(args[0]) or real(self, *args))
    return asked


def test_a_snapshot_is_read_by_apsw_and_a_file_in_use_is_not(asked_fast: list[str], tmp_path: Path) -> None:
    """Two SQLites in one process do not see each other's locks (https://www.sqlite.org/howtocorrupt.html, 2.2.1)."""
    path = database(tmp_path / "chat.db", facts=1_500)
    live = reader(path)
    assert sum(page.count for part in live.partitions(["fact"], 1) for page in live.pages(part, None)) == 1_500
    assert asked_fast == []
    found = source(path)
    assert sum(page.count for part in found.partitions(["fact"], 1) for page in found.pages(part, None)) == 1_500
    assert len(asked_fast) == 3
    found.close()
    live.close()


@pytest.mark.parametrize("trouble", ["at once", "on its way", "not opened", "not installed"])
def test_whatever_is_the_matter_with_apsw_sqlite3_reads_on(
    trouble: str, asked_fast: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apsw

    path, calls = database(tmp_path / "chat.db", facts=2_500), list[int]()
    expected = pages_of(path)
    asked = len(asked_fast)

    def taken(rows: Any, most: int) -> Any:
        calls.append(most)
        if trouble == "at once" or len(calls) > 12:  # in the second page
            raise apsw.CorruptError("database disk image is malformed")
        return islice(rows, most)

    def not_opened(*_: Any, **__: Any) -> Any:
        raise apsw.CantOpenError("unable to open database file")

    if trouble == "not installed":
        monkeypatch.setitem(sys.modules, "migrator.adapters.sql.fast", None)
    elif trouble == "not opened":
        monkeypatch.setattr(apsw, "Connection", not_opened)
    else:
        monkeypatch.setattr("migrator.adapters.sql.fast.islice", taken)
    assert pages_of(path) == expected
    assert len(asked_fast) - asked == {"at once": 1, "on its way": 2}.get(trouble, 0)


@given(
    ids=st.sets(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-5, 40), min_size=1, max_size=40),
    step=st.integers(1, 12),
    dense=st.booleans(),
)
def test_a_partition_ends_where_so_many_rows_end(ids: set[int], step: int, dense: bool) -> None:
    if dense:
        least = min(min(ids), (1 << 63) - 50)
        ids = set(range(least, least + len(ids)))
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO t VALUES (?)", ((each,) for each in ids))
        table = SimpleNamespace(key=("id",), name="t")
        borders = sql_source._borders(db, table, sql_dialect.Sqlite(), len(ids), step)  # type: ignore[arg-type]
    assert borders == [(each,) for each in sorted(ids)[step - 1 :: step]]


def test_a_page_with_a_large_value_is_read_row_by_row_and_holds_no_more_than_it_may(tmp_path: Path) -> None:
    """Columns are of many rows at once: none of them may be large."""
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(database(path))) as db, db:
        insert = "INSERT INTO facts (user_id, category, key, value) VALUES ('ana', 'work', ?, ?)"
        db.executemany(insert, ((f"k{turn}", "x" * 400_000) for turn in range(20)))
    found = source(path)
    pages = [page for part in found.partitions(KINDS, 1) for page in found.pages(part, None)]
    assert [page.count for page in pages] == [3] * 6 + [2]
    assert not any(page.alike for page in pages)


@pytest.mark.parametrize("odd", [(1e-9, "x"), (0.5, "x#y")])
def test_a_record_that_needs_a_closer_look_takes_few_others_with_it(
    odd: tuple[float, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, looked = tmp_path / "chat.db", list[Row]()
    with closing(sqlite3.connect(database(path))) as db, db:
        insert = "INSERT INTO facts (user_id, category, key, confidence, created_at) VALUES ('ana', ?, ?, ?, ?)"
        cells = (odd if turn == 700 else (0.5, "work") for turn in range(1_000))
        db.executemany(insert, ((category, f"k{turn}", much, TIME) for turn, (much, category) in enumerate(cells)))
    (page,) = [page for part in source(path).partitions(["fact"], 1) for page in source(path).pages(part, None)]
    layout = MAPPING.layouts["user_id/SK"]
    items = PlainItems(layout)

    class Table(MemoryReader):
        def fits_alike(self, rows: Alike) -> bool:
            return items.makes(rows.kind, rows.signature)

        def fit_alike(self, rows: Alike) -> bool:
            return items.of_all(rows) is not None

        def fit(self, row: Row) -> Row | Reject:
            looked.append(row)
            return super().fit(row)

    table = Table(replace(setting(path), layout=layout), MemoryStore())
    pair = Pair(source(path), table, dict(MAPPING.kinds), Duplicates(tmp_path / "none"))
    expected = pair.expected(page)
    assert 0 < len(looked) <= 32
    assert sum(map(len, expected.alike)) + len(looked) == expected.tallies["fact"].read == 1_000
    assert {"k700"} <= {row.record["key"] for row in looked}


@pytest.mark.parametrize("seed", range(10))
def test_rows_that_go_into_a_table_as_columns_are_those_that_go_row_by_row(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, path = Random(seed), tmp_path / "chat.db"
    cells = CELLS[: chance.choice([3, 6, 12, len(CELLS)])]
    with closing(sqlite3.connect(database(path))) as db, db:
        for turn in range(chance.choice([1, 150, 1_030])):
            odd = chance.choices(cells, k=3) if chance.random() < 0.3 else ["text", 0.5, None]
            values = ("ana", "work", f"k{turn}", *odd, TIME)
            db.execute(
                "INSERT INTO facts (user_id, category, key, value, confidence, session_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def copied(name: str) -> tuple[Any, ...]:
        options = migrator.Options(state=str(tmp_path / f"state-{name}"), on_reject="continue")
        report = migrator.migrate(path, tmp_path / f"{name}.db", options)
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as db:
            held = db.execute("SELECT * FROM facts").fetchall()
        return report.proven, report.kinds["fact"], sorted(repr(row[1:]) for row in held)

    as_columns = copied("columns")
    assert as_columns[0] == "digest"
    monkeypatch.setattr(SqlReader, "fits_alike", lambda *_: False)
    assert copied("rows") == as_columns


def test_a_row_that_the_table_refuses_among_many_is_rejected_alone(tmp_path: Path) -> None:
    path, made = tmp_path / "chat.db", tmp_path / "new.db"
    with closing(sqlite3.connect(database(path))) as db, db:
        insert = "INSERT INTO facts (user_id, category, key, value) VALUES ('ana', 'work', ?, 'v')"
        db.executemany(insert, ((f"k{turn}",) for turn in range(300)))
    with closing(ADAPTER.sink(address(made), setting(made))) as opened:
        opened.prepare(KINDS, True)
        with closing(sqlite3.connect(made)) as db, db:
            db.execute(
                "CREATE TRIGGER no BEFORE INSERT ON facts WHEN new.key = 'k7' BEGIN SELECT raise(ABORT, 'not this one'); END"
            )
        opened.begin("0")
        reader, found = opened.reader(), source(path)
        for page in (page for part in found.partitions(KINDS, 1) for page in found.pages(part, None)):
            for rows in page.alike:
                assert reader.fits_alike(rows) and reader.fit_alike(rows)
                opened.upsert_alike(rows)
        flushed = opened.flush()
    assert [reject.held["key"] for reject in flushed.rejects] == ["k7"]
    with closing(sqlite3.connect(made)) as db:
        assert db.execute("SELECT count(*) FROM facts").fetchone() == (299,)
