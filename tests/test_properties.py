"""Properties over generated data: what arrives from any store in any other, and what goes there and back through every codec.

Pairs of stores are given whole batches of awkward records (`awkward.py`): each record arrives equal or is rejected with a reason, there is no
third thing. tests/README.md says how many are generated in either profile.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import awkward
import migrator
from awkward import LONG, SECRET, as_noted, examples, meaning, without_nulls
from migrator import Options, Report
from migrator.adapters import adapter_for, memory
from migrator.adapters.base import Setting
from migrator.config import resolve
from migrator.layout import Layout
from migrator.mapping import Mapping
from migrator.mapping_file import load_mapping
from migrator.model import Record, Row
from migrator.values import from_json

# Pairs of stores -------------------------------------------------------------------------------------------------------

SIX, BLOBS = "luminoracore-v1.1", "luminoracore-v1.0"
MAPPINGS = {name: load_mapping(name) for name in (SIX, BLOBS)}
FORMS = {
    SIX: ["memory", "chat.jsonl", "chat.json", "chat.db", "moto session_id/SK+GSI1", "dynamodb_local user_id/SK"],
    BLOBS: ["memory", "chat.json", "chat.db", "dynamodb_local session_id"],
}
if LONG:
    FORMS[SIX] += ["chat.jsonl.gz", "chat.jsonl.zst", "moto user_id/SK", "dynamodb_local PK/SK+GSI1"]
    FORMS[BLOBS] += ["chat.jsonl", "chat.json.gz", "moto session_id"]
BATCH = 150

Held = Counter[Any]
"""Records by kind and meaning, and how many there are of each."""


@dataclass(frozen=True)
class Place:
    """An empty store of some form, for the kinds of a mapping. `endpoint` is its server's, where it has one."""

    mapping: Mapping
    form: str
    address: str
    folder: Path
    endpoint: str = ""

    @property
    def shape(self) -> str | None:
        """How a table is named by the words of its shape; a mapping that has only one needs none."""
        words = self.form.partition(" ")[2]
        return words if "/" in words else None

    @property
    def layout(self) -> Layout:
        return self.mapping.layout_for(resolve(self.address).store, None, self.shape)

    @property
    def tells_null(self) -> bool:
        """Whether NULL and absent are two things here: not in a table of SQL, nor for a field that is read from two attributes."""
        layout = self.layout
        return not layout.absent_is_null and not any(
            place.otherwise for kind in layout.kinds.values() for place in kind.places
        )

    def rows(self) -> list[Row]:
        address = resolve(self.address)
        kinds = self.mapping.kind_names()
        scratch = self.folder / f"read-{uuid.uuid4().hex}"
        scratch.mkdir(mode=0o700)
        with closing(adapter_for(address.store).source(address, Setting(self.layout, kinds, scratch))) as source:
            source.snapshot()
            pages = [page for part in source.partitions(kinds, 1) for page in source.pages(part, None)]
        assert not any(page.rejects or page.foreign for page in pages)
        return [row for page in pages for row in page.rows]

    def remove(self) -> None:
        address = resolve(self.address)
        if address.store == "memory":
            memory.forget(address.name)
        elif self.endpoint:
            with closing(boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=self.endpoint)) as client:
                client.delete_table(TableName=address.name)


Make = Callable[[Mapping, str], Place]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes places of any form; what is outside of the test's folder is removed when the test ends."""
    made: list[Place] = []

    def place(mapping: Mapping, form: str) -> Place:
        server, _, shape = form.partition(" ")
        name, endpoint = f"p{uuid.uuid4().hex[:12]}", ""
        folder = tmp_path / name
        folder.mkdir()
        if shape:
            endpoint = str(request.getfixturevalue(f"{server}_endpoint"))
            address = f"dynamodb://{name}?region=eu-west-1&endpoint={endpoint}"
        else:
            address = f"memory:{name}" if form == "memory" else str(folder / form)
        made.append(Place(mapping, form, address, folder, endpoint))
        return made[-1]

    yield place
    for each in made:
        each.remove()


def held_in_memory(place: Place, rows: Iterable[Row]) -> Place:
    """What a Python caller could have put there, also what no store could hold."""
    held = memory.store(resolve(place.address).name)
    for row in rows:
        held.rows[held.end] = Row(row.kind, row.record, place=f"{held.end:09}")
    held.version += 1
    return place


def moved(source: Place, sink: Place) -> Report:
    options = Options(
        on_reject="continue",
        create=True,
        workers=1,
        state=str(sink.folder / "state"),
        mapping=source.mapping.name,
        table_shape=sink.shape,
    )
    return migrator.migrate(source.address, sink.address, options)


def counted(records: Iterable[tuple[str, Record]], tells_null: bool) -> Held:
    return Counter(
        meaning([kind, as_noted(record if tells_null else without_nulls(record))]) for kind, record in records
    )


def rejects_of(report: Report) -> list[dict[str, Any]]:
    lines = Path(report.rejects_file).read_bytes().splitlines() if report.rejects_file else []
    return [from_json(line) for line in lines]


def arrives_or_is_rejected(source: Place, sink: Place, rows: list[Row]) -> Report:
    """Migrate, and look for each of the rows: in the sink, or in the rejects file."""
    report = moved(source, sink)
    rejects = rejects_of(report)
    assert (report.outcome, report.exit_code) == (("rejects", 3) if rejects else ("done", 0))
    assert (report.closes, report.proven, report.foreign) == (True, "digest", 0)
    assert report.rejected == len(rejects)
    for reason in {each["reason"] for each in rejects}:
        assert reason and SECRET not in reason and len(reason) < 300
    tells_null = source.tells_null and sink.tells_null
    wanted = counted(((row.kind, row.record) for row in rows), tells_null)
    arrived = [(row.kind, row.record) for row in sink.rows()]
    found = counted([*arrived, *((each["kind"], each["record"]) for each in rejects)], tells_null)
    assert (wanted - found, found - wanted) == (Counter(), Counter())
    return report


@pytest.mark.parametrize(("name", "first"), [(name, form) for name, forms in FORMS.items() for form in forms])
@settings(examples(1, 20), phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_record_arrives_equal_or_is_rejected_from_every_store_in_every_other(
    make: Make, name: str, first: str, seed: int
) -> None:
    """A migration for each pair; the batch goes from memory into the first store, and on from there. Doing it again writes nothing."""
    mapping = MAPPINGS[name]
    rows = awkward.rows(Random(f"{name} {first} {seed}"), mapping, BATCH)
    start, source = held_in_memory(make(mapping, "memory"), rows), make(mapping, first)
    report = arrives_or_is_rejected(start, source, rows)
    again = moved(start, source)
    assert sum(kind.tally.written for kind in again.kinds.values()) == 0
    assert again.rejected == report.rejected
    arrived = source.rows()
    assert len(arrived) > BATCH / 2
    for form in FORMS[name]:
        arrives_or_is_rejected(source, make(mapping, form), arrived)
