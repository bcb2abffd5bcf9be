"""DynamoDB tables: what is there, and who reads, writes and examines them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from migrator.adapters.base import Reader, Setting, Sink, Source
from migrator.adapters.dynamodb import ladder as dynamodb_ladder
from migrator.adapters.dynamodb.errors import planning
from migrator.adapters.dynamodb.requests import PLAN_PATIENCE, Table
from migrator.adapters.dynamodb.sink import TRAITS, DynamoDBSink
from migrator.adapters.dynamodb.source import DynamoDBReader, DynamoDBSource
from migrator.adapters.dynamodb.values import from_item
from migrator.layout import Layout
from migrator.model import (
    Address,
    Finding,
    Shape,
    Snapshot,
)

_FEW = 100  # items that are enough to tell a table's shape


class DynamoDBAdapter:
    traits = TRAITS

    def describe(self, address: Address) -> Shape | None:
        with planning(), closing(Table(address, PLAN_PATIENCE)) as table:
            described = table.describe()
            if described is None:
                return None
            items = table.call("scan", TableName=table.name, Limit=_FEW)["Items"]
            shape = table.shape(described, tuple(from_item(item) for item in items))
            return replace(shape, keeps=table.client)

    def check(self, layout: Layout) -> None:
        """Nothing can be wrong that the mapping itself does not tell."""

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        return dynamodb_ladder.ladder(address)

    def whereabouts(self, address: Address) -> str:
        """ARN, endpoint and profile, for the plan. Of a table that is not there yet the account is not known: `*`."""
        with planning(), closing(Table(address, PLAN_PATIENCE)) as table:
            described = table.describe()
            meta = table.client.boto.meta
            made = f"arn:{meta.partition}:dynamodb:{meta.region_name}:*:table/{table.name}"
            arn = described.get("TableArn", made) if described else made
            return f"{arn} at {table.endpoint} (profile {table.client.profile})"

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> Source:
        return DynamoDBSource(address, setting)

    def reader(self, address: Address, setting: Setting) -> Reader:
        return DynamoDBReader(address, setting)

    def sink(self, address: Address, setting: Setting) -> Sink:
        return DynamoDBSink(address, setting)


ADAPTER = DynamoDBAdapter()
