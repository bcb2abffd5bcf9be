"""What is measured: for each case its data, its endpoint, the methods that are held against each other, and the goals that they decide.

A method's words may hold `{endpoint}` (the stub's), `{folder}` (made anew for each run) and `{python}`. The first method of a case is the one
that the others are held against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data import Data

FACT_KEY, BLOB_KEY = ("user_id", "SK"), ("session_id",)
FAST = ("apsw", "isal", "msgspec")
"""What the `fast` extra brings, and a method without it does not see."""

_TABLE = "dynamodb://bench?region=eu-west-1&endpoint={endpoint}"
_STATE = "{folder}/state"
_UNPROVEN: dict[str, Any] = {"proof": "none", "snapshot_limit": 600.0}


@dataclass(frozen=True)
class Method:
    """One way to do a case's work. `call` is a function of `naive`, `limits` or `ours`; a whole command has `command` instead.

    `cores`: how many the client may use beside the stub. `writes`: what it says it moved is what the stub must have counted.
    """

    name: str
    call: str = ""
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    items: int = 0  # of a whole command, which does not tell
    cores: int = 1
    without: tuple[str, ...] = ()
    writes: bool = False
    note: str = ""  # a file that the method leaves, with seconds of CPU that were spent on something: `share` goals
    against: str = ""  # another than the first method to be held against


@dataclass(frozen=True)
class Endpoint:
    """The stub of a case: its key, the items it holds, whether only after the first write; `delay_us` comes on top of each answer."""

    key: tuple[str, ...] = FACT_KEY
    items: Path | None = None
    hidden: bool = False
    delay_us: int = 0


@dataclass(frozen=True)
class Goal:
    """`measure` of `method` against that of `against`: records a second of wall clock or of CPU, or peak memory. Without `against` MB or %."""

    title: str
    method: str
    against: str
    measure: Literal["wall", "cpu", "memory", "share"]
    must: float
    stretch: float

    @property
    def at_most(self) -> bool:
        return self.measure in ("memory", "share")


@dataclass(frozen=True)
class Made:
    """A case whose data is there."""

    methods: tuple[Method, ...]
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Case:
    title: str
    make: Callable[[Data, Sizes], Made]
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """How many of each are moved. What the naive script needs minutes for it does with fewer: a steady state is a steady state."""

    facts: int = 1_000_000
    naive_facts: int = 40_000
    blobs: int = 10_000
    naive_blobs: int = 2_000
    blob: int = 20_000
    small_blob: int = 570
    map_bytes: int = 500_000_000
    verified_facts: int = 300_000
    verified_map_bytes: int = 100_000_000
    job: int = 1_000
    growth: tuple[int, ...] = (100_000, 10_000, 1_000_000, 10_000_000)
    batches: int = 1_000_000  # items of the limit, which is quick

    def scaled(self, by: float) -> Sizes:
        def of(number: int) -> int:
            return max(100, round(number * by))

        return Sizes(
            of(self.facts), of(self.naive_facts), of(self.blobs), of(self.naive_blobs), self.blob, self.small_blob,
            of(self.map_bytes), of(self.verified_facts), of(self.verified_map_bytes), self.job,
            tuple(map(of, self.growth)), of(self.batches),
        )  # fmt: skip


def _ours(name: str, source: object, sink: str, workers: int, **more: Any) -> Method:
    """A migration by the library call. One worker is one process; two are two, and what starts them is in the time."""
    options = _UNPROVEN | {"workers": workers, "processes": workers > 1} | more.pop("options", {})
    return Method(name, "ours.migrate", (str(source), sink, _STATE), options, cores=workers, **more)


# DynamoDB, written -----------------------------------------------------------------------------------------------------


def _limits(items: Path, count: int) -> tuple[Method, Method]:
    return (
        Method("limit, 1 socket", "limits.write", (str(items), "{endpoint}", count, 1), writes=True),
        Method("limit, 8 sockets", "limits.write", (str(items), "{endpoint}", count, 8), writes=True),
    )


def _write_facts(data: Data, sizes: Sizes) -> Made:
    db = data.facts_db(sizes.facts)
    naive = Method("naive", "naive.sqlite_to_dynamodb", (str(db), "{endpoint}", "fact", sizes.naive_facts), writes=True)
    ours = (
        _ours("ours, boto3 only", db, _TABLE, 1, without=FAST, writes=True),
        _ours("ours", db, _TABLE, 1, writes=True),
        _ours("ours, 2 processes", db, _TABLE, 2, writes=True),
    )
    return Made((naive, *ours, *_limits(data.facts_items(1_000), sizes.batches)), Endpoint())


def _delayed(data: Data, sizes: Sizes) -> Made:
    db = data.facts_db(sizes.facts)
    few = sizes.naive_facts // 2
    naive = Method("naive", "naive.sqlite_to_dynamodb", (str(db), "{endpoint}", "fact", few), writes=True)
    ours = (
        _ours("ours, boto3 only", db, _TABLE, 1, without=FAST, writes=True),
        _ours("ours", db, _TABLE, 1, writes=True),
        _ours("ours, 2 processes", db, _TABLE, 2, writes=True),
    )
    return Made((naive, *ours), Endpoint(delay_us=5_000))


def _write_blobs(data: Data, sizes: Sizes) -> Made:
    db = data.blobs_db(sizes.blobs, sizes.blob)
    naive = Method("naive", "naive.sqlite_to_dynamodb", (str(db), "{endpoint}", "blob", sizes.naive_blobs), writes=True)
    ours = (
        _ours("ours, boto3 only", db, _TABLE, 1, without=FAST, writes=True),
        _ours("ours", db, _TABLE, 1, writes=True),
        _ours("ours, 2 processes", db, _TABLE, 2, writes=True),
    )
    limits = _limits(data.blobs_items(1_000, sizes.blob), sizes.batches // 20)
    return Made((naive, *ours, *limits), Endpoint(BLOB_KEY))


def _write_jsonl(data: Data, sizes: Sizes) -> Made:
    path = data.facts_jsonl(sizes.facts)
    naive = Method("naive", "naive.jsonl_to_dynamodb", (str(path), "{endpoint}", sizes.naive_facts), writes=True)
    ours = (
        _ours("ours, boto3 only", path, _TABLE, 1, without=FAST, writes=True),
        _ours("ours", path, _TABLE, 1, writes=True),
        _ours("ours, 2 processes", path, _TABLE, 2, writes=True),
    )
    return Made((naive, *ours), Endpoint())


def _workers(data: Data, sizes: Sizes) -> Made:
    db = data.facts_db(sizes.facts)
    one, two = (_ours(name, db, _TABLE, n, writes=True) for name, n in (("one worker", 1), ("two workers", 2)))
    return Made((one, two), Endpoint())


def _job(data: Data, sizes: Sizes) -> Made:
    """Whole commands, from nothing to the exit code; ours verified as it is by default, and once without."""
    db, items = str(data.facts_db(sizes.job)), data.facts_items(sizes.job)
    here = Path(__file__).parent
    naive = ("{python}", str(here / "naive.py"), "sqlite_to_dynamodb", db, "{endpoint}")
    ours = ("{python}", "-m", "migrator", "migrate", db, _TABLE, "--state", _STATE)
    return Made(
        (
            Method("naive", command=naive, items=sizes.job, writes=True),
            Method("ours, proven", command=ours, items=sizes.job, writes=True),
            Method("ours, not proven", command=(*ours, "--proof", "none"), items=sizes.job, writes=True),
        ),
        Endpoint(items=items, hidden=True),
    )


def _growth(data: Data, sizes: Sizes) -> Made:
    methods = (_ours(f"ours, {count:,} facts", data.facts_db(count), _TABLE, 1, writes=True) for count in sizes.growth)
    return Made(tuple(methods), Endpoint())


# DynamoDB, read --------------------------------------------------------------------------------------------------------


def _read_facts(data: Data, sizes: Sizes) -> Made:
    out = "{folder}/out.jsonl.gz"
    ours = (
        _ours("ours, without the fast extra", _TABLE, out, 1, without=FAST),
        _ours("ours", _TABLE, out, 1),
        _ours("ours, 2 processes", _TABLE, out, 2),
    )
    naive = Method("naive", "naive.dynamodb_to_jsonl_gz", ("{endpoint}", "{folder}/naive.jsonl.gz", sizes.naive_facts))
    limit = Method("limit: fetched, not parsed", "limits.scan", ("{endpoint}", sizes.facts))
    return Made((naive, *ours, limit), Endpoint(items=data.facts_items(sizes.facts)))


# Files -----------------------------------------------------------------------------------------------------------------


def _json_map(size: Callable[[Sizes], int]) -> Callable[[Data, Sizes], Made]:
    def make(data: Data, sizes: Sizes) -> Made:
        path = data.json_map(sizes.map_bytes, size(sizes))
        naive = Method("naive", "naive.json_to_sqlite", (str(path), "{folder}/naive.db"))
        return Made((naive, _ours("ours", path, "{folder}/out.db", 1)))

    return make


def _sqlite(data: Data, sizes: Sizes) -> Made:
    db = data.facts_db(sizes.facts)
    return Made(
        (
            Method("raw executemany", "naive.ready_tuples_to_sqlite", (str(db), "{folder}/raw.db")),
            Method("naive", "naive.sqlite_to_sqlite", (str(db), "{folder}/naive.db")),
            _ours("ours", db, "{folder}/out.db", 1),
        )
    )


# Comparing -------------------------------------------------------------------------------------------------------------

_PAIRS = ("SQLite, DynamoDB", "DynamoDB, JSON Lines.gz", "JSON map, SQLite", "SQLite, SQLite")


def _verify(data: Data, sizes: Sizes) -> Made:
    facts, map_bytes = sizes.verified_facts, sizes.verified_map_bytes
    db = str(data.facts_db(facts))
    stores = (
        (db, _TABLE),
        (_TABLE, str(data.facts_jsonl_gz(facts))),
        (str(data.json_map(map_bytes, sizes.small_blob)), str(data.json_map_db(map_bytes, sizes.small_blob))),
        (db, str(data.facts_copy_db(facts))),
    )
    methods = []
    for words, pair in zip(_PAIRS, stores, strict=True):
        options = {"workers": 1, "snapshot_limit": 600.0}
        methods.append(Method(f"read {words}", "ours.read", pair, against=f"read {words}"))
        methods.append(Method(f"verify {words}", "ours.verify", (*pair, _STATE), options, against=f"read {words}"))
    return Made(tuple(methods), Endpoint(items=data.facts_items(facts)))


def _dry_run(data: Data, sizes: Sizes) -> Made:
    db = str(data.facts_db(sizes.verified_facts))
    return Made(
        (
            Method("reading", "ours.read", (db,)),
            _ours("migrate", db, _TABLE, 1, writes=True),
            _ours("dry run", db, _TABLE, 1, options={"dry_run": True}),
        ),
        Endpoint(),
    )


def _digest(data: Data, sizes: Sizes) -> Made:
    db, note = str(data.facts_db(sizes.verified_facts)), "{folder}/note"
    facts = Method(
        "facts, proven", "ours.migrate_timing_the_digest", (db, _TABLE, _STATE, note), {"snapshot_limit": 600.0},
        writes=True, note=note,
    )  # fmt: skip
    return Made((facts,), Endpoint(items=data.facts_items(sizes.verified_facts), hidden=True))


CASES = {
    "write-facts": Case(
        "SQLite → DynamoDB, facts of 350 bytes",
        _write_facts,
        (
            Goal("SQLite → DynamoDB, boto3 only, one process", "ours, boto3 only", "naive", "wall", 4, 5),
            Goal("SQLite → DynamoDB with the fast extra, per CPU second", "ours", "naive", "cpu", 11, 20),
            Goal("the same, two processes against the naive one, wall", "ours, 2 processes", "naive", "wall", 20, 35),
        ),
    ),
    "delayed": Case(
        "SQLite → DynamoDB, facts, answers delayed 5 ms",
        _delayed,
        (Goal("SQLite → DynamoDB, answers delayed 5 ms, one process, wall", "ours", "naive", "wall", 35, 55),),
    ),
    "write-blobs": Case("SQLite → DynamoDB, session blobs of 20 KB", _write_blobs),
    "write-jsonl": Case("JSON Lines → DynamoDB, facts", _write_jsonl),
    "read-facts": Case(
        "DynamoDB → JSON Lines.gz, facts",
        _read_facts,
        (
            Goal("DynamoDB → JSON Lines.gz, per CPU second", "ours", "naive", "cpu", 5.5, 7),
            Goal("DynamoDB → JSON Lines.gz, two processes, wall", "ours, 2 processes", "naive", "wall", 10, 14),
        ),
    ),
    "json-small": Case(
        "JSON map of 500 MB → SQLite, small values",
        _json_map(lambda sizes: sizes.small_blob),
        (
            Goal("500 MB JSON map → SQLite, small values", "ours", "naive", "wall", 1.15, 1.7),
            Goal("the same, MB resident", "ours", "", "memory", 200, 100),
        ),
    ),
    "json-large": Case(
        "JSON map of 500 MB → SQLite, values of 20 KB",
        _json_map(lambda sizes: sizes.blob),
        (
            Goal("500 MB JSON map → SQLite, values of 20 KB", "ours", "naive", "wall", 2, 2.7),
            Goal("the same, MB resident", "ours", "", "memory", 200, 100),
        ),
    ),
    "sqlite": Case(
        "SQLite → SQLite, facts",
        _sqlite,
        (
            Goal(
                "SQLite → SQLite, against raw executemany of ready tuples", "ours", "raw executemany", "wall", 0.6, 0.9
            ),
        ),
    ),
    "digest": Case(
        "The digest's share of a run's CPU",
        _digest,
        (Goal("digest, % of a run's CPU", "facts, proven", "", "share", 8, 4),),
    ),
    "verify": Case(
        "verify against only reading both stores",
        _verify,
        tuple(
            Goal(f"verify {words}, against only reading", f"verify {words}", f"read {words}", "wall", 0.8, 0.95)
            for words in _PAIRS
        ),
    ),
    "dry-run": Case("SQLite → DynamoDB, dry run, facts", _dry_run),
    "workers": Case(
        "SQLite → DynamoDB, one worker and two, 1,000,000 facts",
        _workers,
        (Goal("two workers against one, 1,000,000 facts", "two workers", "one worker", "wall", 1.6, 1.8),),
    ),
    "job": Case(
        "A job of 1,000 facts, SQLite → DynamoDB, whole commands",
        _job,
        (Goal("a job of 1,000 records, whole command", "ours, proven", "naive", "wall", 1, 2),),
    ),
}

_SMALL, _LARGE = "ours, 100,000 facts", "ours, 10,000,000 facts"

GROWTH = Case(
    "SQLite → DynamoDB by size, facts",
    _growth,
    (
        Goal("records a second at 10 million against 100 thousand", _LARGE, _SMALL, "wall", 0.9, 1),
        Goal("memory at 10 million against 100 thousand", _LARGE, _SMALL, "memory", 1.1, 1.02),
    ),
)
"""Only where it is asked for: it takes long, and 4 GB of disk."""
