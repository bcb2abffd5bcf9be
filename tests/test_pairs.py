"""Every store into every other and on: what comes back into SQLite is what was there, and doing it again writes nothing.

All through `migrator.migrate`, as a Python caller would. The sample is one that LuminoraCore wrote; the pairs take a few of its
users, with NULLs and awkward text added.
"""

from __future__ import annotations

import runpy
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

import migrator
import stores
from migrator import Options, Report
from stores import DATA, KINDS, DynamoStore, Store

SAMPLE = DATA / "chat.db"
TABLES = ("affinity", "facts", "episodes", "moods", "memories", "sessions")

FORMS = ["memory", "file.jsonl", "file.json", "file.db", "dynamodb_local user_id/SK"]
OTHERS = [name for name in stores.NAMES if name not in FORMS]
# Compression, the shape of a table and the server it is on do not meet each other: each goes with a file and with a table.
PAIRS = [
    *product(FORMS, FORMS),
    *(pair for name in OTHERS for other in ("file.db", FORMS[-1]) for pair in ((name, other), (other, name))),
    *(
        (first, second)
        for first, second in product(OTHERS, OTHERS)
        if first.startswith("dynamodb_local") and second.startswith("dynamodb_local")
    ),
]


def rows_in(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every column but `id`, with the type that SQLite holds it in."""
    found = {}
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        for table in TABLES:
            names = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})") if name != "id"]
            columns = ", ".join(f'typeof("{name}"), "{name}"' for name in names)
            found[table] = sorted(db.execute(f"SELECT {columns} FROM {table}"), key=repr)
    return found


def count_in(path: Path) -> int:
    return sum(map(len, rows_in(path).values()))


def written(report: Report) -> int:
    return sum(kind.tally.written for kind in report.kinds.values())


def unchanged(report: Report) -> int:
    return sum(kind.tally.unchanged for kind in report.kinds.values())


def proven(report: Report) -> bool:
    """Done, and every kind equal by digest."""
    equal = all(kind.proof.digest == "equal" for kind in report.kinds.values()) and set(report.kinds) == set(KINDS)
    return equal and (report.outcome, report.exit_code, report.proven, report.rejected, report.foreign) == (
        "done",
        0,
        "digest",
        0,
        0,
    )


class Mover:
    """Migrates and verifies with a state folder of its own."""

    def __init__(self, state: Path, workers: int = 1) -> None:
        self.state, self.workers = state, workers

    def options(self, sink: str, shape: str | None = None) -> Options:
        return Options(
            state=str(self.state),
            create=True,
            workers=self.workers,
            table_shape=shape if sink.startswith("dynamodb:") else None,
        )

    def move(self, source: str, sink: str, shape: str | None = None) -> Report:
        return migrator.migrate(source, sink, self.options(sink, shape))

    def into(self, source: str, sink: Store) -> Report:
        return self.move(source, sink.address.text, sink.layout.id)

    def verify(self, source: str, sink: str) -> Report:
        return migrator.verify(source, sink, Options(state=str(self.state)))


@pytest.fixture
def mover(tmp_path: Path) -> Mover:
    return Mover(tmp_path / "states")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some users of the sample with their sessions, episodes of one second among them, and some odd records."""
    path = tmp_path_factory.mktemp("few") / "chat.db"
    shutil.copy(SAMPLE, path)
    with closing(sqlite3.connect(path)) as db, db:
        users = ("hana-21", "кира-0")
        theirs = [
            *users,
            *(sid for (sid,) in db.execute("SELECT session_id FROM sessions WHERE user_id IN (?, ?)", users)),
        ]
        for table in TABLES:
            db.execute(f"DELETE FROM {table} WHERE user_id NOT IN ({', '.join('?' * len(theirs))})", theirs)
        fact = "INSERT INTO facts (user_id, session_id, category, key, value, confidence, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        db.execute(fact, ("odd", None, "work", "a#b/c:d 🦜", None, None, None, None))
        db.execute(
            fact, ("odd", "odd", "work", "control", "\x00\x01\r\n\x7f\u2028", 1e-7, "2025-03-01T00:00:00", "yesterday")
        )
        db.execute(fact, ("odd", "", "work", "json", '{"$bytes": "AA==", "n": 1.0}', 1.0, "2025-03-01T00:00:00", ""))
        db.execute(fact, ("odd", "s", "work", "", "x" * 50_000, 0.30000000000000004, "", None))
        db.execute(
            "INSERT INTO moods (user_id, mood_type, created_at) VALUES ('odd', 'calm', NULL), ('odd', 'calm', 'soon')"
        )
        db.execute("INSERT INTO moods (user_id, mood_type, created_at, context) VALUES ('odd', 'calm', NULL, '')")
        db.execute(
            "INSERT INTO episodes (user_id, episode_type, title, created_at) VALUES ('odd', 'a', '', '2025-03-01T00:00:00')"
        )
        db.execute(
            "INSERT INTO memories (user_id, memory_key, memory_value) VALUES ('odd', 'nothing', NULL), ('odd', '#', '')"
        )
        db.execute(
            "INSERT INTO affinity (user_id, personality_name, affinity_points) VALUES ('odd', 'Dr. Luna', 9007199254740993)"
        )
    assert {len(rows) > 0 for rows in rows_in(path).values()} == {True}
    return path


Filled = Callable[[str], Store]


@pytest.fixture(scope="module")
def filled(few: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A store of that name that holds the few; made once, and after all that was read from it unchanged."""
    made: dict[str, tuple[Store, object]] = {}

    def fill(name: str) -> Store:
        if name not in made:
            folder = tmp_path_factory.mktemp("filled")
            store = stores.make(name, request, folder)
            assert proven(Mover(folder / "states").into(str(few), store))
            made[name] = store, store.footprint()
        return made[name][0]

    yield fill
    for store, footprint in made.values():
        assert store.footprint() == footprint
        store.close()


@pytest.mark.parametrize("name", [name for name in stores.NAMES if "/" not in name or name.endswith("user_id/SK")])
def test_the_whole_sample_goes_into_any_store_and_back(
    name: str, request: pytest.FixtureRequest, mover: Mover, tmp_path: Path
) -> None:
    sink, back = stores.make(name, request, tmp_path), tmp_path / "back.db"
    try:
        report = mover.into(str(SAMPLE), sink)
        assert proven(report) and written(report) == count_in(SAMPLE)
        held = sink.footprint()
        again = mover.into(str(SAMPLE), sink)
        assert (
            proven(again) and (written(again), unchanged(again)) == (0, count_in(SAMPLE)) and sink.footprint() == held
        )
        assert proven(mover.move(sink.address.text, str(back)))
        assert rows_in(back) == rows_in(SAMPLE)
        assert checked(SAMPLE, back)
        if isinstance(sink, DynamoStore):
            assert checked(SAMPLE, sink.address.name, sink.address.options["endpoint"])
    finally:
        sink.close()


SCRIPT = DATA.parent / "acceptance_check.py"


def checked(*arguments: object) -> bool:
    """Whether the independent script finds no difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT))
    return not end.value.code


def test_the_independent_check_runs_alone_and_is_short(few: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(few)]
    assert subprocess.run([*command, str(few)], check=False, capture_output=True).returncode == 0
    assert subprocess.run([*command, str(SAMPLE)], check=False, capture_output=True).returncode == 1
    text = SCRIPT.read_text("utf-8")
    assert len(text.splitlines()) <= 40
    assert {line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))} == {
        "sqlite3", "sys", "collections", "decimal", "boto3",
    }  # fmt: skip


def test_the_independent_check_sees_a_difference(
    dynalite_endpoint: str, few: Path, mover: Mover, tmp_path: Path
) -> None:
    table = f"checked-{uuid.uuid4().hex[:12]}"
    mover.move(str(few), f"dynamodb://{table}?region=eu-west-1&endpoint={dynalite_endpoint}")
    assert checked(few, table, dynalite_endpoint)
    for statement in (
        "UPDATE facts SET value = 'other' WHERE key = 'json'",
        "UPDATE facts SET confidence = confidence + 0.001 WHERE key = 'json'",
        "DELETE FROM moods WHERE id = (SELECT max(id) FROM moods)",
        "INSERT INTO moods SELECT NULL, user_id, session_id, mood_type, intensity, context, created_at, updated_at FROM moods LIMIT 1",
        "UPDATE sessions SET ttl = ttl + 1",
        "UPDATE facts SET session_id = 'other' WHERE session_id IS NULL",
    ):
        changed = tmp_path / "changed.db"
        shutil.copy(few, changed)
        with closing(sqlite3.connect(changed)) as db, db:
            assert db.execute(statement).rowcount
        assert not checked(few, changed)
        assert not checked(changed, table, dynalite_endpoint)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{first}-{second}" for first, second in PAIRS])
def test_any_store_to_any_other(
    first: str, second: str, filled: Filled, few: Path, mover: Mover, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = filled(first)
    sink = stores.make(second, request, tmp_path)
    try:
        report = mover.into(source.address.text, sink)
        assert proven(report) and written(report) == count_in(few)
        held = sink.footprint()
        again = mover.into(source.address.text, sink)
        assert proven(again) and (written(again), unchanged(again)) == (0, count_in(few))
        assert proven(mover.verify(source.address.text, sink.address.text))
        assert sink.footprint() == held
        mover.move(sink.address.text, str(tmp_path / "back.db"))
        assert rows_in(tmp_path / "back.db") == rows_in(few)
    finally:
        sink.close()
