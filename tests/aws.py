"""An endpoint that answers as DynamoDB does where something is wrong: with the table, the region, the credentials or what they may do.

with aws.running() as cloud:
    cloud.table("chat", "eu-west-1", ("user_id", "SK"))
    cloud.denied.add("PutItem")
    ... cloud.endpoint ...

It knows tables and no items; whatever would write is refused by its condition, or counted in `written`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import endpoint
from accepting import description

EMPTY: dict[str, Any] = {
    "GetItem": {},
    "Query": {"Items": [], "Count": 0, "ScannedCount": 0},
    "Scan": {"Items": [], "Count": 0, "ScannedCount": 0},
    "BatchWriteItem": {"UnprocessedItems": {}},
    "BatchGetItem": {"Responses": {}, "UnprocessedKeys": {}},
}


@dataclass
class Cloud:
    """What the endpoint says. `faults` are answers by operation ("*": all) that come instead: an error's name; `denied` are operations."""

    endpoint: str = ""
    tables: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    faults: dict[str, str] = field(default_factory=dict)
    time_to_live: dict[str, Any] = field(default_factory=lambda: {"TimeToLiveStatus": "DISABLED"})
    written: list[str] = field(default_factory=list)

    def table(self, name: str, region: str, key: tuple[str, ...], **more: Any) -> dict[str, Any]:
        described: dict[str, Any] = description(name, list(key))["Table"] | more
        described["TableArn"] = f"arn:aws:dynamodb:{region}:123456789012:table/{name}"
        self.tables[region, name] = described
        return described

    def answer(self, operation: str, request: dict[str, Any], region: str) -> tuple[int, dict[str, Any]]:
        fault = self.faults.get(operation) or self.faults.get("*")
        if fault is not None:
            return 400, {"__type": f"com.amazonaws.dynamodb.v20120810#{fault}", "message": "no"}
        if operation in self.denied:
            message = f"User: arn:aws:iam::123456789012:user/bot is not authorized to perform: dynamodb:{operation}"
            return 400, {"__type": "com.amazon.coral.service#AccessDeniedException", "Message": message}
        if operation == "ListTables":
            return 200, {"TableNames": [name for where, name in self.tables if where == region]}
        described = self.tables.get((region, str(request.get("TableName"))))
        if operation == "CreateTable":
            names = tuple(each["AttributeName"] for each in request["KeySchema"])
            return 200, {"TableDescription": self.table(request["TableName"], region, names)}
        if described is None:
            return 400, {"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "no"}
        if operation == "DescribeTable":
            return 200, {"Table": described}
        if operation == "DescribeTimeToLive":
            return 200, {"TimeToLiveDescription": self.time_to_live}
        if operation in ("PutItem", "UpdateItem", "DeleteItem"):
            if "attribute_not_exists" in request.get("ConditionExpression", ""):
                return 400, {
                    "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                    "message": "no",
                }
            self.written.append(operation)
            return 200, {}
        return 200, EMPTY[operation]


@contextmanager
def running() -> Iterator[Cloud]:
    """The endpoint on a free loopback port until the block ends."""
    cloud = Cloud()

    def answer(operation: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        scope = headers["Authorization"].partition("Credential=")[2].split("/")  # key/date/region/service/…
        status, said = cloud.answer(operation, json.loads(body), scope[2])
        return status, json.dumps(said).encode()

    with endpoint.answering(answer) as cloud.endpoint:
        yield cloud
