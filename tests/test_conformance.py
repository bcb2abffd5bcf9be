"""What every store promises (adapters/base.py), asked of each of them alike."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import stores
from migrator.adapters import base
from migrator.adapters.base import Reader, Sink
from migrator.errors import ConfigError, MigratorError
from migrator.model import Existing, Origin, Reject, Row, Snapshot
from migrator.values import canonical
from stores import KINDS, MAPPING, Store, fetched, pages_of, record_of, records, rest_of, rows_of

SLICE = "0000-000000"


@pytest.fixture(params=stores.NAMES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = stores.make(request.param, request, tmp_path)
    yield store
    store.close()


@pytest.fixture(params=stores.KEYED)
def keyed_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that holds records one by one; the others are compared and replaced whole."""
    store = stores.make(request.param, request, tmp_path)
    yield store
    store.close()


@pytest.fixture(params=[name for name in stores.NAMES if name not in stores.KEYED])
def whole_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A file that is staged part by part and appears whole."""
    store = stores.make(request.param, request, tmp_path)
    yield store
    store.close()


@pytest.fixture
def small_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of seven rows, and partitions of as few: what a large store has."""
    for module in [each for name, each in sys.modules.items() if name.startswith("migrator.adapters.")]:
        for name in ("PAGE_ROWS", "_PARTITION_ROWS", "_PARTITION_BYTES"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 7)


def held_by(store: Store) -> list[bytes]:
    return store.values(rows_of(store.source()))


# What is written is read back ------------------------------------------------------------------------------------------


def test_every_kind_is_read_back(store: Store) -> None:
    rows = records(3)
    flushed = store.write(rows, Existing.EMPTY)
    assert (flushed.held, flushed.rejects) == ([], [])
    assert held_by(store) == store.values(rows)


def test_what_was_written_is_recognised(store: Store) -> None:
    store.write(records(1))
    shape = store.adapter.describe(store.address)
    assert shape is not None and MAPPING.layout_for(store.address.store, shape).id == store.layout.id


TEXTS = [
    "", " ", "\x00", "a\x00b", "\x01\x1f\x7f", "\r\n", "\n", "\t", "\u2028\u2029\x85", "\ufeff", "ñandú", "🦜👩‍👩‍👧", "العربية", "日本",
    "e\u0301", "\U0010ffff", "\ufffe", '{"$bytes": "AA=="}', '{"a": 1.0}', "[]", "null", "true", "None", "NaN", "1e5", "0042", "-0",
    "1.0", "9007199254740993", '"quoted"', "\\", "\\u0041", "'; DROP TABLE facts; --", "%s", "#", "a#b", "EPISODE#", "x" * 100_000,
    "🦜" * 50_000,
]  # fmt: skip


def test_any_text_is_read_back(store: Store) -> None:
    rows = [record_of("fact", n, value=text, session_id=text or None) for n, text in enumerate(TEXTS)]
    rows += [record_of("memory", n, memory_value=text) for n, text in enumerate(TEXTS)]
    reader = store.reader()
    assert [found for row in rows if isinstance(found := reader.fit(row), Reject)] == []
    assert store.write(rows).rejects == []
    assert held_by(store) == store.values(rows)


def test_any_text_in_an_identity_keeps_records_apart(store: Store) -> None:
    words = [text for text in TEXTS if 0 < len(text) < 100]
    rows = [record_of("fact", user_id="ana", category="c", key=text) for text in words]
    rows += [
        record_of("memory", user_id=text, memory_key="k") for text in words if "#" not in text
    ]  # no separator in a composite key
    rows += [record_of("mood", user_id="ana", context=text) for text in ["", *words]]
    rows += [record_of("mood", user_id="ana", context=None)]
    reader = store.reader()
    assert [found for row in rows if isinstance(found := reader.fit(row), Reject)] == []
    assert store.write(rows).rejects == []
    assert held_by(store) == store.values(rows)


NUMBERS = [
    0, 1, -1, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 0.1, 0.30000000000000004, 1.0, 2.5, -7.25, 1e15, 1e-7, 1e22,
    1.7976931348623157e308, 5e-324, 2**63, 10**37, 10**38, 10**400, Decimal("0.1234567890123456789"), float("nan"), float("inf"),
]  # fmt: skip


def test_a_number_is_refused_or_read_back_by_value(store: Store) -> None:
    rows = [record_of("fact", n, confidence=number) for n, number in enumerate(NUMBERS)]
    rows += [record_of("affinity", n, affinity_points=number) for n, number in enumerate(NUMBERS)]
    reader = store.reader()
    fitted = [found for row in rows if isinstance(found := reader.fit(row), Row)]
    refused = [found for row in rows if isinstance(found := reader.fit(row), Reject)]
    assert all("confidence" in reject.reason or "affinity_points" in reject.reason for reject in refused)
    assert {0, 2**53 + 1, 2**63 - 1} <= {row.record["affinity_points"] for row in fitted if row.kind == "affinity"}
    assert {0.1, 0.30000000000000004, 1e-7} <= {row.record["confidence"] for row in fitted if row.kind == "fact"}
    assert store.write(fitted).rejects == []
    assert held_by(store) == store.values(fitted)


def test_null_and_absent_are_read_back_as_far_as_the_store_tells_them_apart(store: Store) -> None:
    rows = [record_of(kind, n) for kind in KINDS for n in range(2)]
    optional = {name for row in rows for name in row.record} - {
        "user_id",
        "personality_name",
        "ttl",
        "last_activity",
        "created_at",
    }
    for row, name in product(list(rows), sorted(optional)):
        kind = MAPPING.kinds[row.kind]
        if name not in kind.identity and name in row.record and row.kind != "session":
            record = {**row.record, **{part: f"{row.record[part]} {name}" for part in kind.identity[-1:]}}
            rows.append(Row(row.kind, {**record, name: None}))
            rows.append(
                Row(row.kind, {n: v for n, v in record.items() if n != name} | {kind.identity[0]: f"{name} absent"})
            )
    reader = store.reader()
    fitted = [reader.fit(row) for row in rows]
    taken = [found for found in fitted if isinstance(found, Row)]
    # A store may need an attribute to tell the kind by; everything else may be NULL and may lack.
    assert all(isinstance(found, Row) or "no " in found.reason for found in fitted)
    assert len(taken) > len(rows) * 0.8
    assert store.write(taken).rejects == []
    assert held_by(store) == store.values(taken)


def test_unknown_fields_are_kept_or_refused_by_name(store: Store) -> None:
    row = record_of("fact", mention_count=3, tags=["a", "ñ"], nested={"deep": [None, 1.5, {"x": True}]})
    found = store.reader().fit(row)
    if store.layout.keeps_unknown:
        assert isinstance(found, Row)
        store.write([found])
        assert held_by(store) == store.values([row])
    else:
        assert isinstance(found, Reject) and all(name in found.reason for name in ("mention_count", "tags", "nested"))


def test_unknown_fields_can_be_left_behind(store: Store) -> None:
    found = store.reader(unknown_fields="drop").fit(record_of("fact", mention_count=3))
    assert isinstance(found, Row)
    store.write([found])
    assert held_by(store) in (store.values([record_of("fact")]), store.values([record_of("fact", mention_count=3)]))


def test_many_records_of_one_slice_are_all_read_back(store: Store) -> None:
    rows = records(40)
    store.write(rows, Existing.EMPTY)
    assert held_by(store) == store.values(rows)


# Fit ---------------------------------------------------------------------------------------------------------------------

_text = st.text(max_size=12) | st.sampled_from(["", "\x00", "a#b", "\ud800", "2025-03-01T00:00:00"])
_any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | _text | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=4,
)
_record = st.fixed_dictionaries(
    {"category": _text | st.none(), "key": _text | st.none(), "value": _text | st.none()},
    optional={
        "session_id": _text | st.none(),
        "confidence": st.floats() | st.integers() | st.decimals() | st.none(),
        "created_at": _text | st.none(),
        "mention_count": _any_value,
        "SK": _text,
        "id": _any_value,
    },
)
_episode = st.fixed_dictionaries(
    {"episode_type": _text | st.none(), "title": _text | st.none(), "created_at": _text | st.none()},
    optional={"importance": st.floats() | st.integers() | st.none(), "summary": _text | st.none()},
)
_rows = st.lists(
    st.builds(lambda record: Row("fact", record), _record) | st.builds(lambda record: Row("episode", record), _episode),
    max_size=8,
)


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=_rows, unknown_fields=st.sampled_from(["keep", "drop"]))
def test_what_fits_is_held_as_fit_says_and_nothing_else_is_needed(
    store: Store, readers: dict[str, Reader], sink: Sink, rows: list[Row], unknown_fields: str
) -> None:
    reader = readers[unknown_fields]
    user = f"user-{next(_users)}"
    distinct = _one_of_each_identity(Row(row.kind, row.record | {"user_id": user}) for row in rows)
    found = [reader.fit(row) for row in distinct if _is_unicode(row)]
    assert all(each.reason for each in found if isinstance(each, Reject))
    fitted = [each for each in found if isinstance(each, Row)]
    sink.begin(SLICE)
    sink.upsert(fitted, Existing.REPLACE)
    flushed = sink.flush()
    assert (flushed.held, flushed.rejects) == ([], [])
    written = sink.reader() if store.adapter.traits.whole else reader
    held = [row for row in rows_of(written) if row.record.get("user_id") == user]
    assert store.values(held) == store.values(fitted)


_users = count()


@pytest.fixture
def readers(store: Store) -> dict[str, Reader]:
    return {choice: store.reader(unknown_fields=choice) for choice in ("keep", "drop")}


@pytest.fixture
def sink(store: Store) -> Sink:
    return store.prepared()


def _is_unicode(row: Row) -> bool:
    """A lone surrogate is refused before any store is asked."""
    try:
        return bool(canonical(row.record))
    except ValueError:
        return False


def _one_of_each_identity(rows: Iterable[Row]) -> list[Row]:
    return list({(row.kind, repr(MAPPING.kinds[row.kind].identity_of(row.record))): row for row in rows}.values())


def test_what_cannot_travel_is_refused_for_itself_with_a_reason_that_holds_no_value(store: Store) -> None:
    reader = store.reader()
    secret = "sk-secret"
    for row in (
        record_of("fact", value=f"{secret}\ud800"),
        record_of("fact", key=f"{secret}\ud800"),
        Row("fact", {"value": secret}),
        record_of("memory", user_id=None, memory_value=secret),
        record_of("affinity", affinity_points=Decimal("1e-200"), current_level=secret),
        Row("riddle", {"user_id": secret}),
    ):
        found = (
            reader.fit(row)
            if row.kind in store.layout.kinds or store.address.store != "sql"
            else _fit_unknown(reader, row)
        )
        if isinstance(found, Reject):
            assert found.reason and secret not in found.reason and found.kind == row.kind and found.held == row.record


def _fit_unknown(reader: Any, row: Row) -> Any:
    try:
        return reader.fit(row)
    except KeyError:
        return None  # a kind that the plan would not have let in


# Slices ------------------------------------------------------------------------------------------------------------------


def test_upserting_twice_changes_nothing(store: Store) -> None:
    rows = records(4)
    sink = store.prepared()
    for _ in range(2):
        sink.begin(SLICE)
        sink.upsert(rows, Existing.REPLACE)
        flushed = sink.flush()
        assert (flushed.held, flushed.rejects) == ([], [])
    assert store.values(rows_of(sink.reader())) == store.values(rows)


def test_a_slice_may_come_in_several_calls(store: Store) -> None:
    rows = records(4)
    sink = store.prepared()
    sink.begin(SLICE)
    for start in range(0, len(rows), 5):
        sink.upsert(iter(rows[start : start + 5]), Existing.EMPTY)
    sink.flush()
    assert store.values(rows_of(sink.reader())) == store.values(rows)


def test_a_slice_of_nothing_leaves_nothing(store: Store) -> None:
    sink = store.prepared()
    sink.begin(SLICE)
    sink.upsert([], Existing.EMPTY)
    flushed = sink.flush()
    assert (flushed.held, flushed.rejects, rows_of(sink.reader())) == ([], [], [])
    sink.publish()
    assert held_by(store) == []


@pytest.mark.parametrize("flushed_before", [False, True])
def test_beginning_a_slice_again_replaces_what_it_left(store: Store, flushed_before: bool) -> None:
    rows = records(6)
    older = [Row(row.kind, row.record | {"updated_at": "2024-01-01T00:00:00"}) for row in rows]
    sink = store.prepared()
    sink.begin(SLICE)
    sink.upsert(older, Existing.EMPTY)
    if flushed_before:
        sink.flush()
    sink.begin(SLICE)
    sink.upsert(rows, Existing.REPLACE)
    flushed = sink.flush()
    assert (flushed.held, flushed.rejects) == ([], [])
    assert store.values(rows_of(sink.reader())) == store.values(rows)


def test_a_record_is_swapped_only_if_it_is_as_it_was(keyed_store: Store) -> None:
    """What changed since the two were compared is given back; what has gone is written."""
    keyed_store.write(records(1))
    sink = keyed_store.prepared()
    wanted = [Row(row.kind, row.record | {"updated_at": "2027-01-01T00:00:00"}) for row in records(1)]
    before = [row for row in sink.reader().fetch(wanted) if row is not None]
    under = [Row(new.kind, new.record, old.origin) for new, old in zip(wanted, before, strict=True)]
    changed = Row(before[0].kind, before[0].record | {"updated_at": "2026-06-06T00:00:00"}, before[0].origin)
    keyed_store.write([changed])
    sink.begin(SLICE)
    sink.swap(zip(under, before, strict=True))
    flushed = sink.flush()
    ((row, there),) = flushed.held
    assert flushed.rejects == []
    assert keyed_store.values([row]) == keyed_store.values([under[0]])
    assert keyed_store.values([there]) == keyed_store.values([changed])
    assert held_by(keyed_store) == keyed_store.values([changed, *under[1:]])
    sink.begin(SLICE)
    sink.swap([(row, there), (Row("fact", record_of("fact", 9).record), before[0])])
    assert (sink.flush().held, sink.flush().rejects) == ([], [])
    assert held_by(keyed_store) == keyed_store.values([*under, record_of("fact", 9)])


def test_a_record_is_removed_only_if_it_is_as_it_was(keyed_store: Store) -> None:
    """What changed since it was read stays and is given back; what has gone is as good as removed."""
    keyed_store.write(records(2))
    sink = keyed_store.prepared()
    before = [row for row in sink.reader().fetch(records(2)) if row is not None]
    changed = Row(before[0].kind, before[0].record | {"updated_at": "2026-06-06T00:00:00"}, before[0].origin)
    keyed_store.write([changed])
    sink.begin(SLICE)
    sink.remove(before[: len(before) // 2])
    ((row, there),) = sink.flush().held
    assert keyed_store.values([row]) == keyed_store.values([before[0]])
    assert keyed_store.values([there]) == keyed_store.values([changed])
    assert held_by(keyed_store) == keyed_store.values([changed, *before[len(before) // 2 :]])
    sink.begin(SLICE)
    sink.remove([there, *before[1:]])
    assert sink.flush().held == []
    assert held_by(keyed_store) == []
    sink.begin(SLICE)
    sink.upsert(records(1), Existing.REFUSE)
    assert sink.flush().held == []
    assert held_by(keyed_store) == keyed_store.values(records(1))


@pytest.mark.parametrize("flushed_before", [False, True])
def test_a_file_holds_nothing_that_only_the_first_attempt_of_a_slice_held(
    whole_store: Store, flushed_before: bool
) -> None:
    sink = whole_store.prepared()
    sink.begin(SLICE)
    sink.upsert(records(3), Existing.EMPTY)
    if flushed_before:
        sink.flush()
    sink.begin(SLICE)
    sink.upsert([record_of("fact", 1)], Existing.EMPTY)
    sink.flush()
    sink.publish()
    assert held_by(whole_store) == whole_store.values([record_of("fact", 1)])


def test_what_is_staged_for_a_file_is_read_on_from_every_cursor(
    whole_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PAGE_ROWS", 7)
    sink = whole_store.prepared()
    rows = records(5)
    for number in range(3):
        sink.begin(f"0000-{number:06}")
        sink.upsert(rows[number * 10 : number * 10 + 10], Existing.EMPTY)
        sink.flush()
    reader = sink.reader()
    for wanted in (1, 2):
        seen = 0
        for partition in reader.partitions(KINDS, wanted):
            inside = rest_of(reader, partition, None)
            seen += len(inside)
            before = 0
            for page in reader.pages(partition, None):
                before += len(page.rows)
                assert rest_of(reader, partition, page.cursor) == inside[before:]
        assert seen == len(rows)


def test_another_worker_may_do_a_slice_again(store: Store) -> None:
    rows = records(6)
    first = store.prepared()
    first.begin(SLICE)
    first.upsert(rows, Existing.EMPTY)
    first.flush()
    first.close()
    second = store.prepared()
    second.begin(SLICE)
    second.upsert(rows, Existing.REPLACE)
    second.flush()
    second.begin("0000-000001")
    more = [record_of("fact", 99)]
    second.upsert(more, Existing.EMPTY)
    second.flush()
    second.publish()
    assert held_by(store) == store.values(rows + more)


def test_a_published_store_is_read_by_the_same_sink_and_publishing_twice_is_harmless(store: Store) -> None:
    rows = records(2)
    sink = store.prepared()
    sink.begin(SLICE)
    sink.upsert(rows, Existing.EMPTY)
    sink.flush()
    for _ in range(2):
        sink.publish()
        assert store.values(rows_of(sink.reader())) == held_by(store) == store.values(rows)


def test_a_job_that_starts_anew_forgets_what_was_staged(store: Store) -> None:
    sink = store.prepared()
    sink.begin(SLICE)
    sink.upsert([record_of("fact", 1)], Existing.EMPTY)
    sink.flush()
    sink.discard()
    for _ in range(2):
        sink.prepare(KINDS, create=True)
    sink.begin(SLICE)
    sink.upsert([record_of("fact", 2)], Existing.EMPTY)
    sink.flush()
    found = {row.record["key"] for row in rows_of(sink.reader())}
    # What has been written stays where nothing is staged.
    assert found == ({"boss_2"} if store.adapter.traits.whole else {"boss_1", "boss_2"})


# What is there already -------------------------------------------------------------------------------------------------


def test_refuse_gives_what_is_held_and_writes_nothing_there(keyed_store: Store) -> None:
    there = [Row(row.kind, row.record | {"updated_at": "2024-01-01T00:00:00"}) for row in records(2)]
    keyed_store.write(there)
    coming = records(4)
    flushed = keyed_store.write(coming, Existing.REFUSE)
    assert flushed.rejects == []
    assert keyed_store.values(row for row, _ in flushed.held) == keyed_store.values(coming[: len(there)])
    assert keyed_store.values(held for _, held in flushed.held) == keyed_store.values(there)
    identity = [
        (MAPPING.kinds[r.kind].identity_of(r.record), MAPPING.kinds[h.kind].identity_of(h.record))
        for r, h in flushed.held
    ]
    assert all(mine == theirs for mine, theirs in identity)
    assert held_by(keyed_store) == keyed_store.values(there + coming[len(there) :])


def test_what_was_not_written_is_told_once(keyed_store: Store) -> None:
    """Whoever swaps then, and flushes again, hears of that alone."""
    there, here = record_of("fact", 1), record_of("fact", 1, value="another")
    keyed_store.write([there])
    sink = keyed_store.prepared("again")
    sink.begin("0000-000000")
    sink.upsert([here, record_of("fact", 2)], Existing.REFUSE)
    ((_, held),) = sink.flush().held
    sink.swap([(here, held)])
    assert (sink.flush().held, sink.flush().held) == ([], [])
    assert keyed_store.values(rows_of(keyed_store.reader())) == keyed_store.values([here, record_of("fact", 2)])


def test_refuse_twice_writes_once(keyed_store: Store) -> None:
    rows = records(2)
    assert keyed_store.write(rows, Existing.REFUSE).held == []
    again = keyed_store.write(rows, Existing.REFUSE)
    assert keyed_store.values(held for _, held in again.held) == keyed_store.values(rows) == held_by(keyed_store)


def test_replace_leaves_no_old_field_behind(store: Store) -> None:
    old = [record_of("fact", 1, session_id="old"), record_of("affinity", 1, current_level="old")]
    if store.layout.keeps_unknown:
        old[0].record["mention_count"] = 3
    store.write(old)
    new = [Row(row.kind, {n: v for n, v in row.record.items() if v != "old" and n != "mention_count"}) for row in old]
    new = [found for row in new if isinstance(found := store.reader().fit(row), Row)]
    assert not any(value == "old" for row in new for value in row.record.values())
    flushed = store.write(new, Existing.REPLACE)
    assert (flushed.held, flushed.rejects) == ([], [])
    assert held_by(store) == store.values(new)


def test_replace_leaves_other_records_alone(keyed_store: Store) -> None:
    keyed_store.write(records(2))
    keyed_store.write([record_of("fact", 0, value="new")], Existing.REPLACE)
    rows = [row for row in records(2) if (row.kind, row.record.get("key")) != ("fact", "boss_0")]
    assert held_by(keyed_store) == keyed_store.values([*rows, record_of("fact", 0, value="new")])


# Fetch -------------------------------------------------------------------------------------------------------------------


def test_fetch_finds_what_is_held_by_identity(keyed_store: Store) -> None:
    rows = [*records(3), record_of("mood", 7, context=None), record_of("episode", 7, created_at=None)]
    keyed_store.write(rows)
    asked = [Row(row.kind, row.record | {"updated_at": "other"}) for row in rows] + [
        record_of(kind, 50) for kind in KINDS
    ]
    found = fetched(keyed_store.reader(), asked)
    assert keyed_store.values(found.values()) == keyed_store.values(rows)
    for (kind, identity), held in found.items():
        assert held.kind == kind and MAPPING.kinds[kind].identity_of(held.record) == identity


def test_fetch_finds_a_record_whatever_its_key_and_it_keeps_that_key(keyed_store: Store) -> None:
    there = [keyed_store.under_another_key(record_of(kind, n)) for kind in ("episode", "mood") for n in range(3)]
    keyed_store.write(there)
    plain = [Row(row.kind, row.record) for row in there]
    found = fetched(keyed_store.reader(), plain)
    assert len(found) == len(plain)
    assert keyed_store.values(found.values()) == keyed_store.values(there)
    new = [Row(row.kind, row.record | {"updated_at": "2026-01-01T00:00:00"}, row.origin) for row in found.values()]
    keyed_store.write(new, Existing.REPLACE)
    assert held_by(keyed_store) == keyed_store.values(new)


def test_fetch_of_nothing_is_nothing(keyed_store: Store) -> None:
    keyed_store.write([])
    assert fetched(keyed_store.reader(), []) == {}
    assert fetched(keyed_store.reader(), records(1)) == {}


def test_a_reader_sees_what_was_written_since_it_was_opened(keyed_store: Store) -> None:
    reader = keyed_store.reader()
    assert not reader.holds(KINDS).any
    keyed_store.write(records(1))
    assert keyed_store.values(rows_of(reader)) == keyed_store.values(records(1))
    assert keyed_store.values(fetched(reader, records(1)).values()) == keyed_store.values(records(1))


def test_a_store_tells_whether_it_holds_any_of_the_kinds(store: Store) -> None:
    store.write([record_of("mood")])
    for opened in (store.source(), store.reader()):
        assert opened.holds(["mood", "fact"]).any
        assert not opened.holds(["fact"]).any
        assert opened.size_hint() in (None, 0, 1)


def test_a_kind_is_found_behind_many_of_another(store: Store) -> None:
    store.write([*(record_of("fact", number) for number in range(60)), record_of("session", 60)])
    for kind, is_there in (("fact", True), ("session", True), ("mood", False)):
        assert store.reader().holds([kind]).any is is_there


def test_repeated_finds_every_two_of_one_identity_unless_the_store_guarantees_there_are_none(store: Store) -> None:
    store.write(records(2))
    source = store.source()
    doubtful = [kind for kind in KINDS if not source.guarantees(kind)]
    found = list(source.repeated(KINDS))
    assert {row.kind for row in found} <= set(doubtful)
    if source.repeats_by_part:
        by_part = [row for part in source.partitions(KINDS, 4) for row in source.repeated(KINDS, part)]
        assert {(row.kind, row.place) for row in by_part} == {(row.kind, row.place) for row in found}


# Pages and partitions --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
def test_going_on_behind_a_cursor_gives_exactly_the_rest(store: Store) -> None:
    store.write(records(7))
    source = store.source()
    total = 0
    for partition in source.partitions(KINDS, 3):
        pages = list(source.pages(partition, None))
        total += len(pages)
        rows = [row for page in pages for row in page.rows]
        done = 0
        for page in pages:
            done += len(page.rows)
            assert len(page.rows) <= 7
            cursor = json.loads(json.dumps(page.cursor))
            assert rest_of(source, partition, cursor) == rows[done:]
    assert total >= 6


@pytest.mark.usefixtures("small_pages")
def test_partitions_are_disjoint_and_complete(store: Store) -> None:
    rows = records(10)
    store.write(rows)
    source = store.source()
    for wanted in (1, 2, 5, 16):
        partitions = source.partitions(KINDS, wanted)
        assert len({partition.id for partition in partitions}) == len(partitions)
        assert wanted == 1 or len(partitions) > 1 or not store.splits
        found = [row for partition in partitions for row in rest_of(source, partition, None)]
        assert store.values(found) == store.values(rows)
        assert len({row.place for row in found}) == len(rows)
        assert source.partitions(KINDS, wanted) == partitions


@pytest.mark.usefixtures("small_pages")
def test_partitions_cover_the_kinds_asked_for(store: Store) -> None:
    store.write(records(4))
    source = store.source()
    found = [row for part in source.partitions(["fact", "mood"], 3) for row in rest_of(source, part, None)]
    wanted = [row for row in records(4) if row.kind in ("fact", "mood")]
    assert store.values(row for row in found if row.kind in ("fact", "mood")) == store.values(wanted)


@pytest.mark.usefixtures("small_pages")
def test_two_readings_at_once_do_not_meet(store: Store) -> None:
    store.write(records(6))
    source = store.source()
    partitions = source.partitions(KINDS, 2)
    readings = [source.pages(partition, None) for partition in (*partitions, *partitions)]
    found: list[Row] = []
    while readings:
        for reading in list(readings):
            page = next(reading, None)
            if page is None:
                readings.remove(reading)
            else:
                found += page.rows
    assert store.values(found) == store.values(records(6) * 2)


def test_what_a_job_remembers_pickles_and_is_json(store: Store, request: pytest.FixtureRequest) -> None:
    rows = [*records(2), store.under_another_key(record_of("mood", 9))]
    store.write(rows)
    source = store.source()
    snapshot = source.snapshot()
    kept = Snapshot(**json.loads(json.dumps({n: getattr(snapshot, n) for n in ("id", "moment", "words", "spec")})))
    assert kept == snapshot == pickle.loads(pickle.dumps(snapshot))
    for partition in source.partitions(KINDS, 3):
        assert partition == pickle.loads(pickle.dumps(partition))
        assert json.loads(json.dumps(partition.spec)) == partition.spec
        for page in source.pages(partition, None):
            assert page == pickle.loads(pickle.dumps(page))
            assert json.loads(json.dumps(page.cursor)) == page.cursor
    setting = store.setting()
    assert pickle.loads(pickle.dumps((setting.layout, store.address))) == (setting.layout, store.address)


def test_a_worker_reads_what_the_coordinator_held_still(store: Store) -> None:
    store.write(records(2))
    source = store.source()
    snapshot = source.snapshot()
    partitions = source.partitions(KINDS, 3)
    worker = store.source(snapshot=pickle.loads(pickle.dumps(snapshot)))
    assert worker.is_still(snapshot)
    assert store.values(row for part in partitions for row in rest_of(worker, part, None)) == store.values(records(2))


# Nothing there ---------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_nothing_and_is_not_made(store: Store) -> None:
    before = store.footprint()
    assert store.adapter.describe(store.address) is None
    assert store.adapter.whereabouts(store.address)
    reader = store.reader()
    assert not reader.holds(KINDS).any
    assert reader.partitions(KINDS, 4) == []
    assert rows_of(reader) == [] and list(reader.repeated(KINDS)) == []
    assert isinstance(reader.fit(record_of("fact")), Row)
    assert reader.weigh(record_of("fact")).bytes >= 0
    if not store.adapter.traits.whole:
        assert fetched(reader, records(1)) == {}
    sink = store.sink()
    sink.close()
    assert store.footprint() == before
    assert store.adapter.describe(store.address) is None


def test_a_source_that_is_not_there_is_an_error_or_empty_and_is_not_made(store: Store) -> None:
    before = store.footprint()
    with suppress(MigratorError):
        assert rows_of(store.source()) == []
    assert store.footprint() == before


def test_nothing_is_made_that_may_not_be_made(store: Store) -> None:
    if not store.can_lack:
        pytest.skip("there is nothing to make")
    before = store.footprint()
    with pytest.raises(ConfigError, match="create"):
        store.sink().prepare(KINDS, create=False)
    assert store.footprint() == before
    store.write(records(1))
    store.sink("another job").prepare(KINDS, create=False)


# Nothing written by reading --------------------------------------------------------------------------------------------


def test_reading_never_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*records(4), store.under_another_key(record_of("mood", 9))]
    store.write(rows)
    store.spoil()
    before = store.footprint()
    sent: list[str] = []
    call = BaseClient._make_api_call

    def recorded(client: Any, operation: str, request: Any) -> Any:
        sent.append(operation)
        return call(client, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    store.adapter.describe(store.address)
    store.adapter.whereabouts(store.address)
    source, reader = store.source(), store.reader()
    for opened in (source, reader):
        opened.snapshot()
        opened.holds(KINDS)
        opened.size_hint()
        rows_of(opened)
        list(opened.repeated(KINDS))
        opened.guarantees("mood")
    for row in rows:
        reader.fit(row)
        reader.weigh(row)
    if not store.adapter.traits.whole:
        fetched(reader, [*rows, record_of("fact", 77)])
    for opened in (source, reader):
        opened.close()
    monkeypatch.undo()
    assert set(sent) <= {"DescribeTable", "DescribeTimeToLive", "Scan", "Query", "GetItem", "BatchGetItem"}
    assert store.footprint() == before


def test_a_source_or_reader_has_nothing_to_write_with(store: Store) -> None:
    store.write(records(1))
    for opened in (store.source(), store.reader()):
        assert not any(hasattr(opened, name) for name in ("prepare", "begin", "upsert", "flush", "publish", "discard"))


# Broken records --------------------------------------------------------------------------------------------------------


def test_a_broken_record_does_not_stop_the_others(store: Store) -> None:
    rows = records(4)
    store.write(rows)
    broken = store.spoil()
    pages = list(pages_of(store.source()))
    rejects = [reject for page in pages for reject in page.rejects]
    assert store.values(row for page in pages for row in page.rows) == store.values(rows)
    assert len(rejects) == broken
    for reject in rejects:
        assert reject.reason and reject.place and reject.kind in (*KINDS, "?")
        assert "secret" not in reject.reason
        assert "secret" in str(reject.held)


@pytest.mark.usefixtures("small_pages")
def test_the_rest_behind_a_broken_record_is_reached_from_every_cursor(store: Store) -> None:
    store.write(records(4))
    store.spoil()
    source = store.source()
    for partition in source.partitions(KINDS, 2):
        pages = list(source.pages(partition, None))
        for number, page in enumerate(pages, 1):
            rest = list(source.pages(partition, page.cursor))
            assert [row for p in rest for row in p.rows] == [row for p in pages[number:] for row in p.rows]
            assert [r for p in rest for r in p.rejects] == [r for p in pages[number:] for r in p.rejects]


# Origins ---------------------------------------------------------------------------------------------------------------


def test_an_origin_comes_back_where_the_store_can_hold_it(store: Store) -> None:
    row = record_of("fact", 1)
    row.origin = Origin("dynamodb", "user_id/SK", {"SK": "FACT#work#odd"}, (), {"TTL": 1_900_000_000})
    found = store.reader().fit(row)
    assert isinstance(found, Row)
    store.write([found])
    held = rows_of(store.source())
    assert store.values(held) == store.values([found])
    if store.layout.keeps_origins or store.layout.id == "user_id/SK":
        assert held[0].origin == row.origin


# The end -----------------------------------------------------------------------------------------------------------------


def test_closing_twice_is_harmless(store: Store) -> None:
    store.write(records(1))
    sink = store.prepared("last")
    sink.begin(SLICE)
    sink.upsert(records(1), Existing.REPLACE)
    source, reader, written = store.source(), store.reader(), sink.reader()
    rows_of(source), rows_of(reader), rows_of(written)
    for opened in (source, reader, written, sink):
        opened.close()
        opened.close()
    for opened in (store.source(), store.reader(), store.sink()):
        opened.close()  # and of what was never used
        opened.close()


def test_the_same_number_is_the_same_value_whatever_its_form(store: Store) -> None:
    store.write([record_of("fact", 1, confidence=1.0)])
    (held,) = rows_of(store.source())
    assert canonical(held.record["confidence"]) == canonical(1) == canonical(Decimal("1.00"))
