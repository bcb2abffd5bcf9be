"""What goes to a table and comes from it as bytes is what boto3 itself would send and read, and boto3 takes over where its events do not come."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import pytest
from boto3.dynamodb.types import TypeDeserializer
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

import endpoint
from migrator.adapters.dynamodb.client import _Models
from migrator.adapters.dynamodb.values import from_item, to_item
from migrator.adapters.dynamodb.wire import NoAnswer, Puts, Wire, _with_bytes, body_of, item_json
from tables import create
from test_values import TEXTS

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4) | st.sampled_from(
    ["B", "BS", "M", "S"]
)
PLAIN = st.none() | st.booleans() | TEXTS | st.binary(max_size=5) | st.integers(-(10**37), 10**37)
SETS = st.frozensets(TEXTS, min_size=1, max_size=3) | st.frozensets(st.binary(max_size=3), min_size=1, max_size=3)
VALUES = st.recursive(
    PLAIN | SETS, lambda held: st.lists(held, max_size=3) | st.dictionaries(NAMES, held, max_size=3), max_leaves=8
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_an_item_in_a_body_is_the_item_in_an_answer(attributes: dict[str, Any]) -> None:
    item = to_item(attributes)
    sent = json.loads(body_of("chat", Puts([item_json(item)]), None))["RequestItems"]["chat"][0]
    assert _with_bytes(sent["PutRequest"]["Item"]) == item
    assert from_item(_with_bytes(sent["PutRequest"]["Item"])) == attributes


def client_of(url: str) -> Any:
    """As ours are: what is sent is made by us, and need not be validated."""
    return boto3.client(
        "dynamodb", region_name="eu-west-1", endpoint_url=url, config=Config(parameter_validation=False)
    )


def items_of_many_types() -> list[dict[str, Any]]:
    values = {
        "text": 'añ"\\\n\u2028😀',
        "number": 12345678901234567890123456789,
        "fraction": 0.1,
        "bytes": b"\x00\xff",
        "several": frozenset({b"a", b"b"}),
        "texts": frozenset({"a", "ñ"}),
        "deep": {"B": [b"x", {"BS": None, "S": True}]},
        "nothing": None,
    }
    return [to_item({"user_id": f"u{n}", "SK": f"FACT#{n}", **values}) for n in range(25)]


@pytest.fixture
def table(dynamodb_endpoint: str) -> Iterator[tuple[Any, str]]:
    client = client_of(dynamodb_endpoint)
    name = f"wire-{uuid.uuid4().hex[:12]}"
    create(
        client,
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("user_id", "SK")],
    )
    yield client, name
    client.close()


def written(client: Any, name: str) -> list[Any]:
    """By a client of boto3's own, in its own types."""
    read = boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=client.meta.endpoint_url)
    plain = TypeDeserializer()
    items = read.scan(TableName=name)["Items"]
    read.close()
    found = [{attribute: plain.deserialize(value) for attribute, value in item.items()} for item in items]
    return sorted(found, key=by_range)


def by_range(item: dict[str, Any]) -> str:
    return str(item["SK"])


@pytest.mark.parametrize("missing", ["", "provide-client-params", "before-call", "before-parse"])
def test_a_batch_is_written_and_read_as_boto3_would(missing: str, table: tuple[Any, str]) -> None:
    client, name = table
    wire = Wire(client, lambda request: None)
    events = client.meta.events
    if missing == "before-parse":
        events.unregister("before-parse.dynamodb", wire._read)
    elif missing:
        events.unregister(f"{missing}.dynamodb.BatchWriteItem", wire._take)
        events.unregister(f"{missing}.dynamodb.BatchWriteItem", wire._give)
    items = items_of_many_types()
    puts = Puts(item_json(item) for item in items)
    answer = wire.ask("batch_write_item", {"RequestItems": {name: puts}})
    assert not answer["UnprocessedItems"]
    assert puts.is_sent == (missing not in ("provide-client-params", "before-call"))
    plain = TypeDeserializer()
    expected = [{attribute: plain.deserialize(value) for attribute, value in item.items()} for item in items]
    assert written(client, name) == sorted(expected, key=by_range)
    read = wire.ask("scan", {"TableName": name})
    assert sorted(map(from_item, read["Items"]), key=by_range) == sorted(map(from_item, items), key=by_range)
    assert read["Count"] == 25 and read["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_what_is_left_unprocessed_comes_back_as_what_was_sent() -> None:
    items = items_of_many_types()

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        left = {table: puts[:3] for table, puts in json.loads(body)["RequestItems"].items()}
        return 200, json.dumps({"UnprocessedItems": left}).encode()

    with endpoint.answering(answer) as url:
        client = client_of(url)
        left = Wire(client, lambda request: None).ask(
            "batch_write_item", {"RequestItems": {"t": Puts(item_json(item) for item in items)}}
        )
        assert [each["PutRequest"]["Item"] for each in left["UnprocessedItems"]["t"]] == items[:3]
        client.close()


@pytest.mark.parametrize("more", [{}, {"ReturnConsumedCapacity": "TOTAL"}])
def test_the_body_is_what_boto3_sends_byte_for_byte_but_for_spaces(more: dict[str, str]) -> None:
    bodies: list[Any] = []

    def answer(operation: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        bodies.append((json.loads(body), headers["X-Amz-Target"], headers["Content-Type"]))
        return 200, b'{"UnprocessedItems":{}}'

    items = items_of_many_types()[:2]
    with endpoint.answering(answer) as url:
        client = client_of(url)
        puts = Puts(item_json(item) for item in items)
        Wire(client, lambda request: None).ask("batch_write_item", {"RequestItems": {"chat": puts}, **more})
        other = boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=url)
        other.batch_write_item(RequestItems={"chat": [{"PutRequest": {"Item": item}} for item in items]}, **more)
        client.close()
        other.close()
    assert bodies[0] == bodies[1]
    assert bodies[0][0]["RequestItems"]["chat"][0]["PutRequest"]["Item"]["bytes"] == {"B": "AP8="}


def test_what_is_none_of_dynamodbs_is_no_answer() -> None:
    for said in (b"<html>", b"", b"[]", b'{"Items":', b'{"error": "no"}'):
        with endpoint.answering(lambda *_, said=said: (200, said)) as url:  # type: ignore[misc]
            client = client_of(url)
            with pytest.raises(NoAnswer):
                Wire(client, lambda request: None).ask("scan", {"TableName": "chat"})
            client.close()


def test_what_botocore_knows_is_read_as_botocore_reads_it(tmp_path: Path) -> None:
    """Each file of each kind that a client of DynamoDB's or one that assumes a role asks for, in its order; and of a user's own the same error."""
    theirs, ours = botocore.loaders.Loader(), botocore.loaders.Loader(file_loader=_Models())
    names = ["endpoints", "partitions", "sdk-default-configuration", "_retry"]
    for service in ("dynamodb", "sts", "sso"):
        for kind in ("service-2", "endpoint-rule-set-1", "paginators-1"):
            names.append(f"{service}/{theirs.determine_latest_version(service, kind)}/{kind}")
    for name in names:
        assert json.dumps(ours.load_data(name)) == json.dumps(theirs.load_data(name))
    for reader in (botocore.loaders.JSONFileLoader(), _Models()):
        assert reader.load_file(str(tmp_path / "none")) is None
        (tmp_path / "broken.json").write_text('{"a": ')
        with pytest.raises(json.JSONDecodeError):
            reader.load_file(str(tmp_path / "broken"))
        (tmp_path / "odd.json").write_text('{"a": NaN}')
        assert math.isnan(reader.load_file(str(tmp_path / "odd"))["a"])
