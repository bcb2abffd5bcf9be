"""DynamoDB tables as boto3 alone sees them: what tests hold our adapter to."""

import json
from typing import Any

import boto3


def client_of(endpoint: str) -> Any:
    return boto3.client("dynamodb", region_name="eu-west-1", endpoint_url=endpoint)


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
