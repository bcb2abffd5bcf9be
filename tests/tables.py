"""DynamoDB tables as boto3 alone sees them: what tests hold our adapter to."""

import json
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import boto3


@cache
def client_of(endpoint: str) -> Any:
    """One for each server: to make it takes longer than most that is asked of it. Closed, it goes on with new connections."""
    return boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=endpoint)


def create(client: Any, **described: Any) -> None:
    """Make a table and wait until it takes items: a server under load needs a moment."""
    client.create_table(**described)
    while client.describe_table(TableName=described["TableName"])["Table"]["TableStatus"] != "ACTIVE":
        time.sleep(0.01)


def fill(client: Any, table: str, items: Sequence[dict[str, Any]]) -> None:
    """Put items with distinct keys."""
    for start in range(0, len(items), 25):
        puts = [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]
        assert not client.batch_write_item(RequestItems={table: puts})["UnprocessedItems"]


def address_of(table: str, endpoint: str) -> str:
    """The table's address for migrator."""
    return f"dynamodb://{table}?region=eu-west-1&endpoint={endpoint}"


def items_of(client: Any, table: str) -> list[dict[str, Any]]:
    """Everything that lies in it, in an order that depends on nothing but the items."""
    pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return sorted((item for page in pages for item in page["Items"]), key=_text)


def texts_of(client: Any, table: str) -> list[str]:
    """The same as JSON, for comparing."""
    return [_text(item) for item in items_of(client, table)]


def _text(item: dict[str, Any]) -> str:
    return json.dumps(item, sort_keys=True, default=repr)
