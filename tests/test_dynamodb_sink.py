"""What the DynamoDB writer does while others write too: between its reading and its writing, between its request and the answer.

The endpoint is `test_dynamodb.Stub`, which keeps conditions here as the service does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import endpoint
from migrator.adapters.base import Flushed, Setting
from migrator.adapters.dynamodb import sink as dynamodb_sink
from migrator.adapters.dynamodb.pace import Pace
from migrator.adapters.dynamodb.sink import BATCH_ITEMS, PENDING, DynamoDBSink
from migrator.adapters.dynamodb.values import item_size, to_item
from migrator.errors import ConfigError, StoreError, TransientStoreError
from migrator.mapping_file import load_mapping
from migrator.model import Alike, Existing, Origin, Row, Traits
from migrator.plain import Signature
from test_dynamodb import KINDS, NEW, Stub, VirtualTime, at, episode, fact, keyed, put_rows, refusal


class Conditions(Stub):
    """Evaluates the conditions that the writer uses; `takes` may change the table just before."""

    def __init__(self) -> None:
        super().__init__()
        self.tells = True
        """Whether it says, with a condition that does not hold, what is there."""
        self.slow = ""
        """A word in a request that makes it come late, behind those that were sent after it."""
        self.hasty = ""
        """A word in a request that is answered when a slow one is under way, not before."""

    def _refused(self, request: dict[str, Any], held: Any) -> Any:
        condition = request.get("ConditionExpression", "")
        names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
        if condition == "attribute_not_exists(#hash)":
            holds = held is None and names == {"#hash": "user_id"}
        else:
            wanted = [each.split(" = ") for each in condition.split(" AND ")] if condition else []
            holds = all((held or {}).get(names[mark]) == values[value] for mark, value in wanted)
        if holds:
            return None
        status, body = refusal("ConditionalCheckFailedException", "The conditional request failed")
        says = self.tells and held is not None and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
        return status, body | ({"Item": held} if says else {})

    def PutItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        item = request["Item"]
        if "bad" in item:
            return refusal("ValidationException", "the item is bad")
        refused = self._refused(request, self.items.get((item["user_id"]["S"], item["SK"]["S"])))
        if refused is None:
            self.put(item)
        return refused or (200, {})

    def GetItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        assert request["ConsistentRead"]
        held = self.items.get((request["Key"]["user_id"]["S"], request["Key"]["SK"]["S"]))
        return 200, {"Item": held} if held else {}

    def DeleteItem(self, request: dict[str, Any]) -> Any:  # noqa: N802
        key = request["Key"]["user_id"]["S"], request["Key"]["SK"]["S"]
        refused = self._refused(request, self.items.get(key))
        if refused is None:
            del self.items[key]
        return refused or (200, {})

    def values(self) -> list[str]:
        return sorted(item["value"]["S"] for item in self.items.values())


@pytest.fixture
def table() -> Iterator[Conditions]:
    stub, is_under_way = Conditions(), threading.Event()

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        if stub.slow and stub.slow in body.decode():
            is_under_way.set()
            time.sleep(0.3)
        if stub.hasty and stub.hasty in body.decode():
            is_under_way.wait(30)
        status, told = stub.answer(operation, json.loads(body))
        return status, json.dumps(told).encode()

    with endpoint.answering(answer) as stub.endpoint:
        yield stub


@pytest.fixture(params=["boto3", "fast"])
def sink(
    table: Conditions, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DynamoDBSink]:
    """A sink in the midst of a slice, for whom waiting takes no time."""
    monkeypatch.setenv("MIGRATOR_FAST", str(int(request.param == "fast")))
    sink = DynamoDBSink(at(table.endpoint), Setting(NEW, KINDS, tmp_path), VirtualTime().pace())
    sink.begin("0000")
    yield sink
    sink.close()


def item(row: Row) -> dict[str, Any]:
    return to_item(NEW.write(row))


def before(table: Conditions, operation: str, change: Callable[[], Any], times: int = 1) -> None:
    """Do something just before the first requests of that operation."""
    left = [times]

    def changing(asked: str, request: dict[str, Any]) -> Any:
        if asked == operation and left[0]:
            left[0] -= 1
            return change()
        return None

    table.before = changing


def lost(table: Conditions, operation: str) -> None:
    """Lose the first answer to that operation."""
    left = [1]

    def losing(asked: str, request: dict[str, Any]) -> Any:
        if asked == operation and left[0]:
            left[0] -= 1
            raise endpoint.Dropped

    table.after = losing


def swapped(sink: DynamoDBSink, *pairs: tuple[Row, Row]) -> Any:
    sink.swap(pairs)
    flushed = sink.flush()
    assert flushed.rejects == []
    return [(row.record["value"], there.record["value"]) for row, there in flushed.held]


# Putting over what was compared ----------------------------------------------------------------------------------------


OURS, THEIRS, LATER = fact("k", "ours"), fact("k", "theirs"), fact("k", "later")


def test_what_is_still_as_it_was_is_put_over(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    assert swapped(sink, (OURS, THEIRS)) == []
    assert table.values() == ["ours"]
    (request,) = (request for operation, request in table.requests if operation == "PutItem")
    held = item(THEIRS)
    assert sorted(request["ExpressionAttributeNames"].values()) == sorted(held)
    assert len(request["ExpressionAttributeValues"]) == len(held)


def test_what_has_changed_since_stays_and_is_given_back(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(LATER))
    assert swapped(sink, (OURS, THEIRS)) == [("ours", "later")]
    assert (table.values(), table.count("PutItem")) == (["later"], 0)


@pytest.mark.parametrize("tells", [True, False])
def test_what_changes_between_reading_and_writing_stays_and_is_given_back(
    tells: bool, table: Conditions, sink: DynamoDBSink
) -> None:
    table.tells = tells
    table.put(item(THEIRS))
    before(table, "PutItem", lambda: table.put(item(LATER)))
    assert swapped(sink, (OURS, THEIRS)) == [("ours", "later")]
    assert table.values() == ["later"]


def test_what_has_gone_is_written_anew(table: Conditions, sink: DynamoDBSink) -> None:
    assert swapped(sink, (OURS, THEIRS)) == []
    assert table.values() == ["ours"]


def test_what_goes_between_reading_and_writing_is_written_anew(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    before(table, "PutItem", table.items.clear)
    assert swapped(sink, (OURS, THEIRS)) == []
    assert table.values() == ["ours"]


def test_where_another_came_in_the_place_of_what_has_gone_it_stays(table: Conditions, sink: DynamoDBSink) -> None:
    before(table, "PutItem", lambda: table.put(item(LATER)))
    assert swapped(sink, (OURS, THEIRS)) == [("ours", "later")]
    assert table.values() == ["later"]


@pytest.mark.parametrize("tells", [True, False])
def test_a_lost_answer_to_putting_over_is_no_obstacle(tells: bool, table: Conditions, sink: DynamoDBSink) -> None:
    table.tells = tells
    table.put(item(THEIRS))
    lost(table, "PutItem")
    assert swapped(sink, (OURS, THEIRS)) == []
    assert (table.values(), table.count("PutItem")) == (["ours"], 2)


def test_a_row_that_cannot_be_put_over_is_rejected_alone(table: Conditions, sink: DynamoDBSink) -> None:
    bad, unfit = fact("bad", bad=True), fact("unfit", more=float("inf"))
    for each in (THEIRS, fact("bad", "v"), fact("unfit", "v")):
        table.put(item(each))
    sink.swap([(bad, fact("bad", "v")), (unfit, fact("unfit", "v")), (OURS, THEIRS)])
    flushed = sink.flush()
    assert flushed.held == []
    reasons = {reject.held["key"]: reject.reason for reject in flushed.rejects}
    assert reasons.keys() == {"bad", "unfit"}
    assert reasons["bad"] == "DynamoDB refuses it: the item is bad"
    assert table.values() == ["ours", "v", "v"]


def test_a_row_may_come_a_second_time_after_what_was_there_has_changed(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    sink.upsert([fact("other", "v")], Existing.REFUSE)
    sink.swap([(OURS, THEIRS)])
    sink.swap([(fact("k", "again"), OURS)])
    assert (sink.flush().held, table.values()) == ([], ["again", "v"])


def test_what_was_written_in_the_same_slice_is_put_over_behind_it(table: Conditions, sink: DynamoDBSink) -> None:
    table.slow = "first"
    sink.upsert([fact("k", "first")], Existing.EMPTY)
    assert swapped(sink, (fact("k", "second"), fact("k", "first"))) == []
    assert table.values() == ["second"]


# Deleting what was compared --------------------------------------------------------------------------------------------


def removed(sink: DynamoDBSink, *rows: Row) -> list[Any]:
    sink.remove(rows)
    return [(row.record["value"], there.record["value"]) for row, there in sink.flush().held]


def test_what_is_still_as_it_was_is_deleted_and_nothing_else(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    table.put(item(fact("other", "v")))
    assert removed(sink, THEIRS, fact("gone", "v")) == []
    assert (table.values(), table.count("DeleteItem")) == (["v"], 1)


def test_what_has_changed_since_is_not_deleted_and_given_back(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(LATER))
    assert removed(sink, THEIRS) == [("theirs", "later")]
    assert (table.values(), table.count("DeleteItem")) == (["later"], 0)


def test_what_changes_between_reading_and_deleting_is_not_deleted(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    before(table, "DeleteItem", lambda: table.put(item(LATER)))
    assert removed(sink, THEIRS) == [("theirs", "later")]
    assert table.values() == ["later"]


def test_what_goes_between_reading_and_deleting_has_gone(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    before(table, "DeleteItem", table.items.clear)
    assert removed(sink, THEIRS) == []
    assert table.items == {}


def test_what_was_written_in_the_same_slice_is_deleted_behind_it(table: Conditions, sink: DynamoDBSink) -> None:
    table.slow = "PutRequest"
    sink.upsert([OURS], Existing.EMPTY)
    assert removed(sink, OURS) == []
    assert table.items == {}


# Putting where nothing is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", [True, False])
def test_what_is_there_is_given_back_also_by_a_server_that_does_not_tell(
    tells: bool, table: Conditions, sink: DynamoDBSink
) -> None:
    table.tells = tells
    table.put(item(THEIRS))
    sink.upsert([OURS, fact("other", "v")], Existing.REFUSE)
    flushed = sink.flush()
    assert [(row.record["value"], there.record["value"]) for row, there in flushed.held] == [("ours", "theirs")]
    assert (table.values(), table.count("GetItem")) == (["theirs", "v"], int(not tells))


def test_what_comes_and_goes_is_met_by_putting_once_more(table: Conditions, sink: DynamoDBSink) -> None:
    table.tells = False
    taken = refusal("ConditionalCheckFailedException")
    before(table, "PutItem", lambda: taken, times=4)
    sink.upsert([OURS], Existing.REFUSE)
    assert (sink.flush().held, table.values(), table.count("PutItem")) == ([], ["ours"], 5)
    sink.begin("0001")
    before(table, "PutItem", lambda: taken, times=5)
    sink.upsert([fact("other")], Existing.REFUSE)
    with pytest.raises(TransientStoreError, match="comes and goes"):
        sink.flush()


# Batches ---------------------------------------------------------------------------------------------------------------


def sizes(table: Conditions) -> list[int]:
    """How many items each batch had, in the order of sending."""
    return [len(r["RequestItems"]["chat"]) for operation, r in table.requests if operation == "BatchWriteItem"]


def users_of(table: Conditions) -> list[set[str]]:
    """Whose items each batch had."""
    return [
        {each["PutRequest"]["Item"]["user_id"]["S"] for each in request["RequestItems"]["chat"]}
        for operation, request in table.requests
        if operation == "BatchWriteItem"
    ]


@pytest.mark.parametrize(
    ("count", "batches"), [(0, []), (1, [1]), (24, [24]), (25, [25]), (26, [1, 25]), (51, [1, 25, 25])]
)
def test_batches_are_full_and_the_rest_goes_with_the_flush(
    count: int, batches: list[int], table: Conditions, sink: DynamoDBSink
) -> None:
    assert BATCH_ITEMS == 25
    sink.upsert([fact(n) for n in range(count)], Existing.EMPTY)
    sink.flush()
    assert (sorted(sizes(table)), len(table.items)) == (batches, count)


def test_a_slice_that_comes_row_by_row_is_sent_in_full_batches(table: Conditions, sink: DynamoDBSink) -> None:
    for n in range(30):
        sink.upsert([fact(n)], Existing.EMPTY)
    sink.flush()
    assert sorted(sizes(table)) == [5, 25]


def test_a_batch_has_no_more_bytes_than_it_may(
    table: Conditions, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = item_size(item(fact(10)))
    for most, batches in ((3 * one, [1, 3, 3, 3]), (3 * one - 1, [2, 2, 2, 2, 2])):
        monkeypatch.setattr(dynamodb_sink, "BATCH_BYTES", most)
        table.requests.clear()
        sink.begin("0000")
        sink.upsert([fact(10 + n) for n in range(10)], Existing.EMPTY)
        sink.flush()
        assert sorted(sizes(table)) == batches


def test_a_batch_takes_no_more_units_than_may_be_taken_at_once(
    table: Conditions, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, batches in ((3, [1, 3, 3, 3]), (2.5, [2, 2, 2, 2, 2])):
        monkeypatch.setattr(type(sink._table.writes), "burst", most)
        table.requests.clear()
        sink.begin("0000")
        sink.upsert([fact(n) for n in range(10)], Existing.EMPTY)
        sink.flush()
        assert sorted(sizes(table)) == batches


def test_what_replaces_its_own_in_a_batch_counts_once(
    table: Conditions, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sink._table.writes), "burst", 3)
    monkeypatch.setattr(dynamodb_sink, "BATCH_BYTES", 3 * item_size(item(fact(10))))
    for n in (10, 11, 11, 11, 11, 12):
        sink.upsert([fact(n)], Existing.EMPTY)
    sink.flush()
    assert (sizes(table), len(table.items)) == ([3], 3)
    sink.begin("0001")
    table.requests.clear()
    for n in (10, 11, 12, 13, 14, 15, 16):  # each batch counts from nothing
        sink.upsert([fact(n)], Existing.EMPTY)
    sink.flush()
    assert sorted(sizes(table)) == [1, 3, 3]


def test_neighbours_in_a_source_are_spread_over_the_batches(table: Conditions, sink: DynamoDBSink) -> None:
    rows = [fact(n, user=f"user-{n // 25:02}") for n in range(200)]
    sink.upsert(rows, Existing.EMPTY)
    sink.flush()
    assert len(users_of(table)) == 8
    assert all(len(each) > 3 for each in users_of(table))


def test_a_batch_is_sent_under_the_words_it_came_with(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    sink.upsert([fact("a")], Existing.EMPTY)
    sink.upsert([fact("b")], Existing.EMPTY)
    sink.upsert([OURS], Existing.REFUSE)
    sink.upsert([fact("c")], Existing.EMPTY)
    flushed = sink.flush()
    assert (len(flushed.held), sorted(sizes(table)), table.count("PutItem")) == (1, [1, 2], 1)
    assert table.values() == ["theirs", "v", "v", "v"]


def test_the_last_of_one_identity_is_what_stays_whatever_was_sent(table: Conditions, sink: DynamoDBSink) -> None:
    """The first is on its way, slowly, when the second comes: they do not overtake each other."""
    table.slow = "first"
    sink.upsert([fact("k", "first"), *(fact(n) for n in range(24))], Existing.EMPTY)
    sink.upsert([fact("another")], Existing.EMPTY)
    sink.upsert([fact("k", "second")], Existing.EMPTY)
    sink.flush()
    assert table.items["ana", "FACT#work#k"]["value"] == {"S": "second"}


def test_another_identity_under_the_same_key_is_rejected_and_not_sent(table: Conditions, sink: DynamoDBSink) -> None:
    first, second = keyed(episode("one"), "EPISODE#x"), keyed(episode("two"), "EPISODE#x")
    sink.upsert([first, second, fact("k")], Existing.EMPTY)
    flushed = sink.flush()
    ((reject,), held) = flushed.rejects, flushed.held
    assert (reject.held["title"] in ("one", "two"), held, len(table.items)) == (True, [], 2)
    assert "another identity, has the same key" in reject.reason
    assert {first.record["title"], second.record["title"]} - {reject.held["title"]} == {
        each["title"]["S"] for each in table.items.values() if "title" in each
    }


def test_what_cannot_be_an_item_is_rejected_with_the_reason_and_the_others_go(
    table: Conditions, sink: DynamoDBSink
) -> None:
    sink.upsert([fact("inf", more=float("inf")), fact("\ud800"), fact("good")], Existing.EMPTY)
    flushed = sink.flush()
    assert (len(flushed.rejects), len(table.items)) == (2, 1)
    assert all(reject.reason and "dynamodb refuses" not in reject.reason.lower() for reject in flushed.rejects)


def test_one_bad_item_in_the_last_batch_is_rejected_alone(table: Conditions, sink: DynamoDBSink) -> None:
    sink.upsert([fact("bad", bad=True)], Existing.EMPTY)
    flushed = sink.flush()
    assert [reject.reason for reject in flushed.rejects] == ["DynamoDB refuses it: one item is bad"]
    assert set(sizes(table)) == {1}


def test_what_is_told_comes_once(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    sink.upsert([OURS, fact("bad", bad=True)], Existing.REFUSE)
    flushed = sink.flush()
    assert (len(flushed.held), len(flushed.rejects)) == (1, 1)
    again = sink.flush()
    assert (again.held, again.rejects) == ([], [])


@pytest.mark.parametrize("way", ["upsert", "swap", "remove"])
def test_no_more_requests_wait_than_there_is_room_for(
    way: str, table: Conditions, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb_sink, "BATCH_ITEMS", 1)
    go_on, waiting = threading.Event(), list[int]()
    table.before = lambda operation, request: go_on.wait(30) and None
    submit = sink._table.pool.submit

    def counting(*given: Any) -> Any:
        waiting.append(len(sink._slice.pending))
        if len(waiting) == PENDING:
            go_on.set()
        return submit(*given)

    monkeypatch.setattr(sink._table.pool, "submit", counting)
    rows = [fact(n) for n in range(3 * PENDING)]
    if way == "upsert":
        sink.upsert(rows, Existing.REFUSE)
    elif way == "swap":
        sink.swap((row, row) for row in rows)
    else:
        sink.remove(rows)
    sink.flush()
    assert (len(waiting), max(waiting)) == (3 * PENDING, PENDING - 1)


# Rows that are alike ---------------------------------------------------------------------------------------------------


def alike(sink: DynamoDBSink, rows: list[Row]) -> Alike:
    """The same as columns, fitted."""
    signature = Signature.of(rows[0].record)
    assert signature is not None
    kept = Alike(rows[0].kind, signature, [*zip(*[row.record.values() for row in rows])], str)
    kept.texts = signature.all_texts(kept.columns)
    reader = sink.reader()
    assert reader.fits_alike(kept) and reader.fit_alike(kept)
    reader.close()
    return kept


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that nobody has looked at row by row."""
    sizes, init = list[int](), dynamodb_sink._PutsAlike.__init__

    def counting(self: Any, rows: Alike, numbers: range, stock: Any) -> None:
        sizes.append(len(numbers))
        init(self, rows, numbers, stock)

    monkeypatch.setattr(dynamodb_sink._PutsAlike, "__init__", counting)
    return sizes


def put_alike(sink: DynamoDBSink, rows: list[Row]) -> Flushed:
    sink.begin("0000")
    sink.upsert_alike(alike(sink, rows))
    return sink.flush()


@pytest.mark.parametrize(("count", "batches"), [(1, [1]), (24, [24]), (25, [25]), (26, [1, 25]), (60, [10, 25, 25])])
def test_rows_that_are_alike_are_the_items_of_each_in_full_batches(
    count: int, batches: list[int], table: Conditions, sink: DynamoDBSink, together: list[int]
) -> None:
    rows = [fact(n, f"{n}") for n in range(count)]
    assert put_alike(sink, rows) == Flushed()
    assert together == [size for size in batches if size == 25]
    assert sorted(sizes(table)) == batches
    assert {held["SK"]["S"]: held for held in table.items.values()} == {item(row)["SK"]["S"]: item(row) for row in rows}


def test_neighbours_that_are_alike_are_spread_over_the_batches(table: Conditions, sink: DynamoDBSink) -> None:
    put_alike(sink, [fact(n, user=f"user-{n // 25:02}") for n in range(200)])
    assert len(users_of(table)) == 8
    assert all(len(each) > 3 for each in users_of(table))


def test_batches_of_rows_that_are_alike_have_no_more_bytes_than_they_may(
    table: Conditions, sink: DynamoDBSink, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [fact(100 + n) for n in range(60)]
    for less, batches in ((0, [10, 25, 25]), (1, [12, 24, 24])):
        monkeypatch.setattr(dynamodb_sink, "BATCH_BYTES", 25 * item_size(item(rows[0])) - less)
        table.requests.clear()
        table.items.clear()
        put_alike(sink, rows)
        assert (sorted(sizes(table)), len(table.items), together) == (batches, 60, [25, 25])


def test_batches_of_rows_that_are_alike_take_no_more_units_than_may_be_taken_at_once(
    table: Conditions, sink: DynamoDBSink, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, batches in ((25, [10, 25, 25]), (20, [20, 20, 20])):
        monkeypatch.setattr(type(sink._table.writes), "burst", most)
        table.requests.clear()
        table.items.clear()
        put_alike(sink, [fact(n) for n in range(60)])
        assert (sorted(sizes(table)), len(table.items), together) == (batches, 60, [25, 25])


def test_of_rows_that_are_alike_the_last_of_one_identity_is_what_stays_and_no_batch_has_a_key_twice(
    table: Conditions, sink: DynamoDBSink, together: list[int]
) -> None:
    put_alike(sink, [fact("k", "first"), *(fact(n) for n in range(23)), fact("k", "second")])
    assert table.items["ana", "FACT#work#k"]["value"] == {"S": "second"}
    assert (sizes(table), len(table.items), together) == ([24], 24, [])


def test_rows_that_are_alike_do_not_overtake_what_was_sent_before(table: Conditions, sink: DynamoDBSink) -> None:
    table.slow = "first"
    sink.upsert([fact("k", "first"), *(fact(n) for n in range(24))], Existing.EMPTY)
    sink.upsert_alike(alike(sink, [fact("k", "second"), *(fact(100 + n) for n in range(24))]))
    sink.flush()
    assert table.items["ana", "FACT#work#k"]["value"] == {"S": "second"}
    assert len(table.items) == 49


def test_what_comes_behind_rows_that_are_alike_does_not_overtake_them(table: Conditions, sink: DynamoDBSink) -> None:
    """One of the same identity is what stays; one of another, under the same key, is rejected."""
    table.slow = "first"
    sink.upsert_alike(alike(sink, [fact("k", "first"), *(fact(n) for n in range(24))]))
    sink.upsert([fact("k", "second"), keyed(episode("x"), "FACT#work#3")], Existing.EMPTY)
    flushed = sink.flush()
    assert table.items["ana", "FACT#work#k"]["value"] == {"S": "second"}
    assert [reject.held["title"] for reject in flushed.rejects] == ["x"]
    assert len(table.items) == 25


def test_rows_that_are_alike_come_under_words_of_their_own(table: Conditions, sink: DynamoDBSink) -> None:
    table.put(item(THEIRS))
    sink.upsert([OURS], Existing.REFUSE)
    sink.upsert_alike(alike(sink, [fact(n) for n in range(30)]))
    flushed = sink.flush()
    assert (len(flushed.held), sorted(sizes(table)), table.count("PutItem")) == (1, [5, 25], 1)


def test_bad_items_among_rows_that_are_alike_are_rejected_alone(table: Conditions, sink: DynamoDBSink) -> None:
    rows = [fact(n, bad=True) for n in range(30)]
    flushed = put_alike(sink, rows)
    assert sorted(reject.held["key"] for reject in flushed.rejects) == sorted(row.record["key"] for row in rows)
    assert (table.items, min(sizes(table))) == ({}, 1)


def test_of_rows_that_are_alike_one_is_made_when_it_is_asked_for(sink: DynamoDBSink) -> None:
    kept = alike(sink, [fact(n) for n in range(10)])
    puts = dynamodb_sink._PutsAlike(kept, range(0, 10, 2), kept.encoded[0:10:2])  # type: ignore[index,arg-type]
    each = [*puts]
    assert [put.row.record["key"] for put in each] == ["0", "2", "4", "6", "8"]
    assert [put.stored.json for put in each] == [kept.encoded[n].json for n in range(0, 10, 2)]  # type: ignore[index]
    assert (puts[1:3], puts[-1], len(puts)) == (each[1:3], each[-1], 5)


# Failures --------------------------------------------------------------------------------------------------------------


def test_a_slice_that_failed_takes_nothing_more_until_it_is_begun_again(table: Conditions, sink: DynamoDBSink) -> None:
    table.before = lambda operation, request: refusal("AccessDeniedException")
    sink.upsert([fact("k")], Existing.EMPTY)
    with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
        sink.flush()
    table.before = lambda operation, request: None
    table.requests.clear()
    for again in (lambda: sink.upsert([fact(n) for n in range(30)], Existing.EMPTY), sink.flush):
        with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
            again()
    assert table.requests == []
    sink.begin("0000")
    sink.upsert([fact("k")], Existing.EMPTY)
    assert (sink.flush().rejects, len(table.items)) == ([], 1)


def test_nothing_is_under_way_any_more_when_an_error_is_told(
    table: Conditions, sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb_sink, "BATCH_ITEMS", 1)
    table.slow = "late"
    table.hasty = "fatal"
    table.before = lambda operation, request: refusal("AccessDeniedException") if "fatal" in str(request) else None
    for value in ("fatal", "late"):
        sink.upsert([fact(value, value)], Existing.EMPTY)
    with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
        sink.flush()
    assert table.values() == ["late"]


def test_the_first_error_is_told_whoever_is_heard_first(
    table: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for better times when another fails for good ends too, and has nothing to say."""
    monkeypatch.setattr(dynamodb_sink, "BATCH_ITEMS", 1)
    sink = DynamoDBSink(at(table.endpoint), Setting(NEW, KINDS, tmp_path), Pace(jitter=lambda: 1.0))
    throttled = threading.Event()

    def answer(operation: str, request: dict[str, Any]) -> Any:
        if "fatal" not in str(request):
            throttled.set()
            return refusal("ThrottlingException")
        return refusal("AccessDeniedException" if throttled.is_set() else "InternalServerError")

    table.before = answer
    sink.begin("0000")
    for value in ("waits", "fatal"):
        sink.upsert([fact(value, value)], Existing.EMPTY)
    with pytest.raises(StoreError, match="dynamodb:BatchWriteItem"):
        sink.flush()
    sink.close()


def test_a_sink_that_was_closed_says_to_begin_again(table: Conditions, sink: DynamoDBSink) -> None:
    sink.upsert([fact("k")], Existing.EMPTY)
    sink.close()
    with pytest.raises(StoreError, match="begin it again"):
        sink.flush()
    assert table.items == {}


def test_beginning_a_slice_ends_what_the_last_one_had_under_way(table: Conditions, sink: DynamoDBSink) -> None:
    """Nothing of a slice that was given up is written once the next one has begun."""
    table.before = lambda operation, request: refusal("ThrottlingException") if "old" in str(request) else None
    sink.upsert([fact(n, "old") for n in range(25)], Existing.EMPTY)
    sink.upsert([fact("more", "old")], Existing.EMPTY)
    sink.begin("0001")
    count = len(table.requests)
    table.before = lambda operation, request: None
    put_rows(sink, [fact("k", "new")])
    assert (table.values(), len(table.requests)) == (["new"], count + 1)


def test_a_slice_begun_anew_remembers_no_keys_of_the_last(table: Conditions, sink: DynamoDBSink) -> None:
    for title in ("one", "two"):
        flushed = put_rows(sink, [keyed(episode(title), "EPISODE#x")])
        assert flushed.rejects == []
    assert [each["title"]["S"] for each in table.items.values()] == ["two"]


# The table -------------------------------------------------------------------------------------------------------------


def test_a_table_that_is_not_there_is_made_only_if_it_may(table: Conditions, sink: DynamoDBSink) -> None:
    table.before = lambda operation, request: (
        refusal("ResourceNotFoundException") if operation == "DescribeTable" else None
    )
    with pytest.raises(ConfigError, match="there is no such table; --create makes it"):
        sink.prepare(["fact"], create=False)
    table.before = lambda operation, request: None
    sink.prepare(["fact"], create=False)
    sink.prepare(["fact"], create=True)
    assert {operation for operation, _ in table.requests} == {"DescribeTable"}


@pytest.mark.parametrize("shape", ["PK/SK", "session_id/SK+GSI1", "user_id/SK"])
def test_a_table_of_another_shape_is_refused(shape: str, table: Conditions, tmp_path: Path) -> None:
    layout = load_mapping("luminoracore-v1.1").layouts[shape]
    sink = DynamoDBSink(at(table.endpoint), Setting(layout, tuple(layout.kinds), tmp_path))
    if shape == "user_id/SK":
        sink.prepare(["fact"], create=False)
    else:
        with pytest.raises(ConfigError, match=f"user_id.*layout {shape.replace('+', '.')} needs"):
            sink.prepare(["fact"], create=True)
    sink.close()


def test_a_table_with_an_index_that_the_layout_has_not_is_refused(table: Conditions, sink: DynamoDBSink) -> None:
    described = table.DescribeTable({})

    def indexed(operation: str, request: dict[str, Any]) -> Any:
        keys = [{"AttributeName": "GSI1PK", "KeyType": "HASH"}, {"AttributeName": "GSI1SK", "KeyType": "RANGE"}]
        index = {
            "IndexName": "GSI1",
            "KeySchema": keys,
            "IndexStatus": "ACTIVE",
            "Projection": {"ProjectionType": "ALL"},
        }
        return described[0], {"Table": described[1]["Table"] | {"GlobalSecondaryIndexes": [index]}}

    table.before = indexed
    with pytest.raises(ConfigError, match="needs"):
        sink.prepare(["fact"], create=False)


def test_the_reader_keeps_pace_with_the_sink_and_shares_go_to_the_table(
    sink: DynamoDBSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = sink.reader()
    assert (reader._table._write, reader.setting) == (sink._pace, sink.setting)  # type: ignore[attr-defined]
    reader.close()
    parts: list[float] = []
    monkeypatch.setattr(sink._table, "share", parts.append)
    sink.share(0.25)
    assert parts == [0.25]


def test_the_rates_of_a_sink_are_those_of_its_setting(table: Conditions, tmp_path: Path) -> None:
    given = Setting(NEW, tuple(NEW.kinds), tmp_path, read_rate=8.0, write_rate=4.0)
    sink = DynamoDBSink(at(table.endpoint), given)
    other = DynamoDBSink(at(table.endpoint, "other"), Setting(NEW, tuple(NEW.kinds), tmp_path))
    assert sink._table.writes.burst < other._table.writes.burst
    sink.close()
    other.close()


def test_a_table_that_has_gone_is_not_empty_to_the_reader_of_its_sink(table: Conditions, sink: DynamoDBSink) -> None:
    """It was made ready, or nothing would be written."""
    table.before = lambda operation, request: refusal("ResourceNotFoundException")
    reader = sink.reader()
    with pytest.raises((ConfigError, StoreError)):
        reader.holds(["fact"])
    reader.close()


def test_a_sink_that_is_closed_has_no_threads(table: Conditions, sink: DynamoDBSink) -> None:
    sink.upsert([OURS], Existing.REFUSE)
    sink.flush()
    sink.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        sink._table.pool.submit(int)


def test_a_table_takes_many_writers_at_once() -> None:
    assert DynamoDBSink.traits == Traits(parallel=True, whole=False, in_process=False, stretch=2)


def test_an_origin_of_the_row_is_its_key(table: Conditions, sink: DynamoDBSink) -> None:
    sink.upsert(
        [Row("episode", episode("one").record, Origin("dynamodb", NEW.id, {"SK": "EPISODE#mine"}))], Existing.REFUSE
    )
    sink.flush()
    assert list(table.items) == [("ana", "EPISODE#mine")]
