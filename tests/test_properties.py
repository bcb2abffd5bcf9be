"""Properties over generated data: what arrives from any store in any other, and what goes there and back through every codec.

Pairs of stores are given whole batches of awkward records (`awkward.py`): each record arrives equal or is rejected with a reason, there is no
third thing. tests/README.md says how many are generated in either profile.
"""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import awkward
import migrator
import mutated
from awkward import LONG, SECRET, as_noted, examples, meaning, without_nulls
from migrator import Options, Report
from migrator.adapters import adapter_for, memory
from migrator.adapters.base import Setting
from migrator.adapters.dynamodb.values import check_item, from_attribute, from_item, item_size, to_attribute, to_item
from migrator.adapters.jsonfile.rows import from_line, to_line
from migrator.adapters.jsonfile.text import parsed
from migrator.checkpoint import Checkpoint, Progress, State
from migrator.commands import check_mapping
from migrator.config import resolve
from migrator.digest import BUCKETS, Digest
from migrator.duplicates import Duplicates
from migrator.errors import ConfigError, RecordError
from migrator.layout import Layout
from migrator.mapping import Mapping
from migrator.mapping_file import load_mapping
from migrator.model import Origin, Partition, Record, Reject, Row, Snapshot, Tally
from migrator.pair import Pair
from migrator.values import canonical, from_json, to_json, to_plain_json
from tables import client_of

# Pairs of stores -------------------------------------------------------------------------------------------------------

SIX, BLOBS = "luminoracore-v1.1", "luminoracore-v1.0"
MAPPINGS = {name: load_mapping(name) for name in (SIX, BLOBS)}
FORMS = {
    SIX: ["memory", "chat.jsonl", "chat.json", "chat.db", "dynamodb_local session_id/SK+GSI1"],
    BLOBS: ["memory", "chat.json", "chat.db", "dynamodb_local session_id"],
}
if LONG:
    FORMS[SIX] += [
        "chat.jsonl.gz",
        "chat.jsonl.zst",
        "moto user_id/SK",
        "dynamodb_local user_id/SK",
        "dynamodb_local PK/SK+GSI1",
    ]
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
            with closing(client_of(self.endpoint)) as client:
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
    assert len(arrived) > BATCH / 4  # or the pairs that follow would prove little
    for form in FORMS[name]:
        arrives_or_is_rejected(source, make(mapping, form), arrived)


# Digests ---------------------------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**64)
DIGESTS = st.builds(
    Digest, st.integers(0, 2**40), st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(0, 2**128 - 1), max_size=4)
)


def pair_of(mapping: Mapping) -> Pair:
    """Nothing on either side: what is asked is only which bytes a row has."""
    kinds = mapping.kind_names()
    setting = Setting(mapping.layout_for("memory", None), kinds, Path("nowhere"))
    held = memory.MemoryStore()
    return Pair(
        memory.MemorySource(setting, held),
        memory.MemoryReader(setting, held),
        dict(mapping.kinds),
        Duplicates(Path("no such index")),
    )


def digest_of(pair: Pair, rows: list[Row]) -> dict[str, Digest]:
    digests: dict[str, Digest] = {}
    pair.note(digests, rows)
    return digests


def is_unicode(row: Row) -> bool:
    return as_noted(row.record) == row.record


@examples()
@given(SEEDS)
def test_digests_add_up_in_any_order_and_any_slicing_and_tell_every_change(seed: int) -> None:
    random = Random(seed)
    mapping = MAPPINGS[random.choice([SIX, SIX, BLOBS])]
    pair = pair_of(mapping)
    rows = [row for row in awkward.rows(random, mapping, 8) if is_unicode(row)]
    whole = digest_of(pair, rows)
    shuffled = random.sample(rows, len(rows))
    sliced: dict[str, Digest] = {}
    while shuffled:
        taken = [shuffled.pop() for _ in range(random.randrange(1, len(shuffled) + 1))]
        for kind, digest in digest_of(pair, taken).items():
            sliced.setdefault(kind, Digest()).add(Digest.from_plain(from_json(to_json(digest.to_plain()))))
    assert sliced == whole
    if not rows:
        return
    index = random.randrange(len(rows))
    row, others = rows[index], rows[:index] + rows[index + 1 :]
    name, other = random.choice(list(row.record) or ["x"]), awkward.json_value(random)
    changed = Row(row.kind, row.record | {name: other})
    wrong = [others, [*rows, row], [*rows, row, row]]
    if is_unicode(changed) and meaning(changed.record) != meaning(row.record):
        wrong.append([*others, changed])
    for each in wrong:
        assert digest_of(pair, each).get(row.kind, Digest()).bad_buckets(whole[row.kind])


@examples()
@given(DIGESTS, DIGESTS)
def test_what_was_added_to_a_digest_can_be_taken_back(one: Digest, other: Digest) -> None:
    both = Digest.from_plain(one.to_plain())
    both.add(other)
    assert both.count == one.count + other.count
    assert int(both.hex, 16) == (int(one.hex, 16) + int(other.hex, 16)) % 2**128
    both.subtract(other)
    assert both.count == one.count and not both.bad_buckets(one) and both.hex == one.hex


def told(error: Exception, of: str = "") -> None:
    """What a person reads of it: something, and nothing of a value. Names may hold anything; the screen shows them harmless."""
    words = str(error)
    assert words and of in words and SECRET not in words and len(words) < 500


# Codecs ----------------------------------------------------------------------------------------------------------------

PLAIN = SEEDS.map(lambda seed: awkward.json_value(Random(seed))).filter(lambda value: as_noted(value) == value)


@examples()
@given(SEEDS)
def test_any_value_comes_back_from_json_text_or_is_refused(seed: int) -> None:
    value = awkward.json_value(Random(seed))
    try:
        text = to_json(value)
    except ValueError:
        assert as_noted(value) != value  # a lone surrogate and nothing else
        with pytest.raises(ValueError, match="Unicode"):
            canonical(value)
        return
    assert meaning(from_json(text)) == meaning(parsed(text)) == meaning(value)
    assert canonical(parsed(text)) == canonical(value)
    try:
        plain = to_plain_json(value)
    except ValueError:
        return  # only a tag could say it
    assert meaning(parsed(plain, plain=True)) == meaning(value)


@examples()
@given(SEEDS)
def test_any_value_comes_back_from_an_attribute_or_is_refused(seed: int) -> None:
    value = awkward.json_value(Random(seed))
    try:
        attribute = to_attribute(value)
    except ValueError as exc:
        told(exc)
        return
    assert meaning(from_attribute(attribute)) == meaning(value)
    assert item_size({"x": attribute}) > 0


ORIGINS = st.builds(
    Origin,
    st.sampled_from(["dynamodb", "sql", ""]),
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=5), PLAIN, max_size=2),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=5), PLAIN, max_size=2),
)


@examples()
@given(SEEDS, st.none() | ORIGINS, st.text(max_size=9))
def test_a_row_comes_back_from_its_line_with_its_origin(seed: int, origin: Origin | None, place: str) -> None:
    """A line of JSON Lines, and what a run leaves behind of a reject or a duplicate: a source like any other."""
    random = Random(seed)
    kind = MAPPINGS[SIX].kinds[random.choice(list(MAPPINGS[SIX].kinds))]
    row = Row(kind.name, awkward.record(random, kind), origin, place)
    layout = MAPPINGS[SIX].layout_for("jsonl", None)
    if not is_unicode(row):
        return
    line = to_line(layout, False, row)
    noted = to_json(Reject(row.kind, place, "a reason", row.record, origin).to_plain())
    for text in (line, noted):
        back = from_line(layout, text, place)
        if isinstance(back, Reject):  # a value of another type than the field's
            assert "the mapping says" in back.reason
        else:
            assert isinstance(back, Row)
        held = back.record if isinstance(back, Row) else back.held
        assert (back.kind, meaning(held), back.place) == (row.kind, meaning(row.record), place)
        plain = [each.to_plain() if each else None for each in (back.origin, origin)]
        assert meaning_of(plain[0]) == meaning_of(plain[1])


def meaning_of(plain: Any) -> Any:
    return meaning(from_json(to_json(plain)))


@examples(50, 2_000)
@given(seed=SEEDS)
def test_what_is_left_behind_is_noted_as_it_was_also_where_json_cannot_hold_it(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ten rejects an example: text that is not Unicode is kept as the bytes it would be."""
    random = Random(seed)
    mapping = MAPPINGS[SIX]
    held = [row.record | {"half": f"a{random.choice(awkward.BROKEN)}"} for row in awkward.rows(random, mapping, 10)]
    folder = tmp_path_factory.mktemp("notes")
    state = State(folder, "job")
    state.make()
    state.note("rejects", "0000-000001", [Reject("fact", "7", "a reason", each).to_plain() for each in held])
    joined = state.join_notes("rejects")
    assert joined is not None
    lines = [from_json(line) for line in joined.read_bytes().splitlines()]
    assert [meaning(line["record"]) for line in lines] == [meaning(as_noted(each)) for each in held]
    shutil.rmtree(folder)


CURSORS = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.binary(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
CHECKPOINTS = st.builds(
    Checkpoint,
    fingerprint=st.just("job"),
    describes=st.dictionaries(TEXTS, CURSORS, max_size=3),
    started=TEXTS,
    phase=st.sampled_from(["copying", "verifying", "publishing", "finished"]),
    outcome=st.none() | TEXTS,
    snapshot=st.none()
    | st.builds(Snapshot, TEXTS, st.none() | TEXTS, TEXTS, st.dictionaries(TEXTS, CURSORS, max_size=2)),
    sink_at=TEXTS,
    sink_was_empty=st.booleans(),
    ids=st.lists(TEXTS, max_size=2),
    progress=st.lists(
        st.builds(
            Progress,
            st.builds(Partition, TEXTS, st.dictionaries(TEXTS, CURSORS, max_size=2), st.booleans()),
            CURSORS,
            COUNTS,
            st.booleans(),
        ),
        max_size=3,
    ),
    tallies=st.dictionaries(TEXTS, st.builds(Tally, *[COUNTS] * 8), max_size=2),
    digests=st.dictionaries(TEXTS, DIGESTS, max_size=2),
    foreign_seen=st.lists(TEXTS, max_size=3),
)


@examples(200)
@given(CHECKPOINTS)
def test_a_checkpoint_comes_back_from_its_text(checkpoint: Checkpoint) -> None:
    assert Checkpoint.from_plain(from_json(to_json(checkpoint.to_plain()))) == checkpoint


@examples(50, 2_000)
@given(checkpoint=CHECKPOINTS)
def test_a_checkpoint_comes_back_from_its_file(
    checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("states")
    state = State(folder, "job")
    state.make()
    state.save(checkpoint)
    assert State(folder, "job").load() == checkpoint
    shutil.rmtree(folder)


# Keys ------------------------------------------------------------------------------------------------------------------

TABLES = [layout for mapping in MAPPINGS.values() for layout in mapping.layouts.values() if layout.store == "dynamodb"]


@examples(200, 20_000)
@given(SEEDS)
def test_no_two_awkward_identities_meet_on_one_key_of_any_table(seed: int) -> None:
    """Twelve records an example, many of which share all but a part of their identity; every table of both mappings."""
    random = Random(seed)
    for name, mapping in MAPPINGS.items():
        rows = awkward.rows(random, mapping, 12 if name == SIX else 3)
        for layout in (each for each in TABLES if each.kinds.keys() <= mapping.kinds.keys()):
            seen: dict[Any, Row] = {}
            for row in rows:
                try:
                    held = layout.write(layout.fit(row))
                except RecordError:
                    continue
                assert seen.setdefault(tuple(held[name] for name in layout.key), row) is row


# Mappings --------------------------------------------------------------------------------------------------------------


def mapping_of(random: Random, folder: Path) -> Mapping | None:
    """A shipped mapping with one to four changes, if it loads: a file of its own, or what another extends it by."""
    name = random.choice([SIX, SIX, BLOBS])
    whole = mutated.shipped(name)
    if random.random() < 0.3:
        whole = mutated.mutate(random, {"name": "ours", "extends": name, "layouts": whole["layouts"]}, 1)
    text = mutated.toml(mutated.mutate(random, whole, random.choice([1, 1, 2, 4])))
    path = folder / "mutated.toml"
    path.write_text(text, "utf-8")
    try:
        return load_mapping(str(path))
    except ConfigError as exc:
        told(exc, of="mutated.toml")
        return None


def used(layout: Layout, row: Row) -> None:
    """The record is refused, or read again as it was fitted."""
    try:
        fitted = layout.fit(row)
        held = layout.write(fitted)
        if layout.store == "dynamodb":
            item = to_item(held)
            check_item(item, layout.key, layout.index)
            held = from_item(item)
    except RecordError as exc:
        told(exc)
        return
    back = layout.read(held, "place", None if layout.store == "dynamodb" else row.kind)
    assert isinstance(back, Row), back
    spoken = [each if not layout.absent_is_null else without_nulls(each) for each in (back.record, fitted.record)]
    if not any(place.form == "date" for place in layout.kinds[row.kind].places):
        assert (back.kind, meaning(spoken[0])) == (row.kind, meaning(spoken[1]))


@examples(120, 20_000)
@given(seed=SEEDS)
def test_a_shipped_mapping_that_was_changed_is_refused_or_reads_what_it_writes(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = Random(seed)
    folder = tmp_path_factory.mktemp("mutated")
    mapping = mapping_of(random, folder)
    shutil.rmtree(folder)
    if mapping is None:
        return
    plain = mapping.layout_for("memory", None)
    for made in awkward.rows(random, mapping, 4):
        row = plain.read(made.record, "place", made.kind)
        if isinstance(row, Row) and is_unicode(row):  # what a source or the engine refuses never meets a layout
            for layout in mapping.layouts.values():
                if row.kind in layout.kinds:
                    used(layout, row)


@settings(examples(8, 1_000), suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(seed=SEEDS)
def test_what_a_changed_mapping_lets_in_is_written_and_read_by_every_store(
    seed: int, moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Only mappings that `mappings check` finds sound; thirty records an example and store."""
    random = Random(seed)
    folder = tmp_path_factory.mktemp("mutated")
    mapping = None
    while mapping is None:
        mapping = mapping_of(random, folder)
        try:
            check_mapping(str(folder / "mutated.toml")) if mapping else None
        except ConfigError:
            mapping = None
    rows = awkward.rows(random, mapping, 30)
    start = held_in_memory(Place(mapping, "memory", f"memory:{folder}", folder), rows)
    try:
        for form, sort in [("chat.jsonl", "json"), ("chat.json", "json"), ("chat.db", "sql"), ("moto", "dynamodb")]:
            layout = mapping.layouts.get(mapping.created.get(sort, ""))
            if layout is None or layout.problem or layout.kinds.keys() != mapping.kinds.keys():
                continue  # the plan says what has no place there
            sink = (
                folder / form
                if form != "moto"
                else f"dynamodb://m{uuid.uuid4().hex}?region=eu-west-1&endpoint={moto_endpoint}"
            )
            options = Options(
                on_reject="continue", create=True, workers=1, state=str(folder / f"state-{form}"), mapping=mapping.path
            )
            report = migrator.migrate(start.address, str(sink), options)
            assert (report.closes, report.proven, report.exit_code in (0, 3)) == (True, "digest", True)
            assert sum(kind.tally.read for kind in report.kinds.values()) == 30
    finally:
        start.remove()
        shutil.rmtree(folder)
