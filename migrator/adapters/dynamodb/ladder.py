"""Why a DynamoDB table does not work, from the bottom up: region, credentials, the endpoint, the table, its keys, what is allowed.

Writes nothing: whether a write is allowed is asked with a condition that never holds. Knows what LuminoraCore asks of a table (fact sheet
2.10, 4.3, 8.2); leaves which of its kinds it finds under which keys to the layout.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from migrator.adapters.dynamodb.errors import (
    Denied,
    Expired,
    NoCredentials,
    NoProfile,
    NoRegion,
    NoTable,
    NotLetIn,
    Refused,
    Taken,
    Unreachable,
)
from migrator.adapters.dynamodb.requests import Table, shape_words
from migrator.adapters.mending import another_table
from migrator.errors import ConfigError, StoreError
from migrator.model import Address, Finding

PATIENCE = 2.0  # seconds: a person waits
_GUESSES = (
    "eu-west-1",
    "us-east-1",
)  # the region LuminoraCore takes if nobody says one, and the one of its examples (fact sheet 8.4, 8.5)
_NEVER = "attribute_exists(#hash) AND attribute_not_exists(#hash)"
_NOBODY = "migrator doctor: nobody"


def ladder(address: Address) -> Iterator[Finding]:
    """The rungs up to the first that does not hold what is above it."""
    try:
        table = Table(address, PATIENCE)
    except NoRegion:
        yield _no_region()
        return
    except NoCredentials:
        yield _none()
        return
    except NoProfile:
        yield Finding(
            "credentials",
            "fault",
            f"there is no AWS profile {address.options.get('profile') or os.environ.get('AWS_PROFILE', '')}",
            "aws configure list-profiles",
        )
        return
    except ConfigError as exc:
        yield Finding("address", "fault", str(exc), "mend the address or the AWS_* variable that it names")
        return
    with closing(table):
        yield Finding("region", "well", table.region)
        yield from _from_the_door(table, address)


def _none() -> Finding:
    line = "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."
    return Finding("credentials", "fault", "none could be had (variables, profile, role)", line)


def _no_region() -> Finding:
    """Fact sheet 8.2: AWS_REGION alone is not read by boto3."""
    wanted = os.environ.get("AWS_REGION")
    seen = f"none: AWS_REGION={wanted} alone is not read by boto3" if wanted else "none is configured"
    return Finding("region", "fault", seen, f"export AWS_DEFAULT_REGION={wanted or _GUESSES[0]}")


def _silent(table: Table) -> Finding:
    """Nobody answers. A region that is spelt wrong has no address; one that is merely new has, so only silence makes it a fault."""
    seen = f"nothing answers at {table.endpoint}"
    if _is_local(table):
        return Finding("endpoint", "fault", seen, "unset AWS_ENDPOINT_URL_DYNAMODB AWS_ENDPOINT_URL")
    known = table.client.known_regions()
    if table.region in known:
        return Finding("endpoint", "fault", seen, "check the network and the proxy")
    (near,) = difflib.get_close_matches(table.region, known, 1) or _GUESSES[:1]
    seen = f"boto3 knows no region {table.region}, and {seen}"
    return Finding("region", "fault", seen, f"export LUMINORA_DYNAMODB_REGION={near}")


def _from_the_door(table: Table, address: Address) -> Iterator[Finding]:
    try:
        described = table.describe()
    except NoCredentials:
        yield _none()
        return
    except Expired:
        yield Finding("credentials", "fault", f"they have expired (profile {table.client.profile})", "aws sso login")
        return
    except NotLetIn as exc:
        seen = f"AWS does not accept them: {_code(exc)} (from {table.client.credentials()}, profile {table.client.profile})"
        yield Finding("credentials", "fault", seen, "aws sts get-caller-identity")
        return
    except Denied as exc:
        yield Finding("credentials", "well", f"from {table.client.credentials()}")
        yield _denied([exc.action], table, f"arn:aws:dynamodb:{table.region}:*:table/{table.name}")
        return
    except StoreError as exc:
        if isinstance(exc.__cause__, Unreachable):
            yield _silent(table)
        else:
            yield Finding("endpoint", "fault", str(exc), "run again; if it stays so, ask whoever runs the endpoint")
        return
    yield Finding("credentials", "well", f"from {table.client.credentials()}")
    yield Finding("endpoint", "well", table.endpoint)
    if described is None:
        yield _missing(table, address)
        return
    yield from _of_the_table(table, address, described)


def _of_the_table(table: Table, address: Address, described: dict[str, Any]) -> Iterator[Finding]:
    status = described.get("TableStatus", "ACTIVE")
    if status not in ("ACTIVE", "UPDATING"):
        wait = "table-exists" if status == "CREATING" else "table-not-exists"
        line = f"aws dynamodb wait {wait} --table-name {table.name} --region {table.region}"
        yield Finding("table", "fault", f"it is {status}", line)
        return
    yield Finding("table", "well", str(described.get("TableArn", table.name)))
    faults = [*_key_faults(table, address, described), *_index_faults(table, described)]
    yield from faults
    if not faults:
        yield Finding("keys", "well", _words(described))
    keys = [each["AttributeName"] for each in described["KeySchema"]]
    if len(keys) == 2:
        yield from _permissions(table, described)
    yield from _time_to_live(table)


def _key_faults(table: Table, address: Address, described: dict[str, Any]) -> Iterator[Finding]:
    """Key schemas in which LuminoraCore cannot work at all."""
    other = another_table(replace(address, options=address.options | {"region": table.region}))
    keys = {each["KeyType"]: each["AttributeName"] for each in described["KeySchema"]}
    types = {each["AttributeName"]: each["AttributeType"] for each in described["AttributeDefinitions"]}
    if "RANGE" not in keys:
        yield Finding(
            "keys", "fault", f"only a hash, {keys['HASH']}: every call of LuminoraCore fails without a range key", other
        )
    for name in keys.values():
        if types.get(name) != "S":
            yield Finding("keys", "fault", f"{name} has type {types.get(name)}: LuminoraCore writes text (S)", other)
    if keys.get("RANGE") in ("created_at", "updated_at"):
        seen = (
            f"the range is {keys['RANGE']}, which LuminoraCore overwrites with a time: nothing it saves is found again"
        )
        yield Finding("keys", "fault", seen, other)


def _index_faults(table: Table, described: dict[str, Any]) -> Iterator[Finding]:
    """LuminoraCore takes the first index, whatever it is, and reads episodes and moods there."""
    for index in (described.get("GlobalSecondaryIndexes") or [])[:1]:
        name = index["IndexName"]
        drop = f"""aws dynamodb update-table --region {table.region} --table-name {table.name} --global-secondary-index-updates '[{{"Delete": {{"IndexName": "{name}"}}}}]'"""
        if len(index["KeySchema"]) < 2:
            seen = f"{name} has no range key: LuminoraCore saves no fact, affinity, episode, mood or memory"
            yield Finding("index", "fault", seen, drop)
        projected = index.get("Projection", {}).get("ProjectionType", "ALL")
        if projected != "ALL":
            seen = f"{name} projects {projected}: episodes and moods are read there, and lack their fields"
            yield Finding("index", "fault", seen, drop)


def _permissions(table: Table, described: dict[str, Any]) -> Iterator[Finding]:
    """What LuminoraCore does with a table, asked one by one; the answer matters only in that it is no refusal."""
    hashed, ranged = (
        next(each["AttributeName"] for each in described["KeySchema"] if each["KeyType"] == role)
        for role in ("HASH", "RANGE")
    )
    key = {hashed: {"S": _NOBODY}, ranged: {"S": _NOBODY}}
    never = {"ConditionExpression": _NEVER, "ExpressionAttributeNames": {"#hash": hashed}}
    look = {
        "KeyConditionExpression": "#hash = :nobody",
        "ExpressionAttributeNames": {"#hash": hashed},
        "ExpressionAttributeValues": {":nobody": {"S": _NOBODY}},
        "Limit": 1,
    }
    asked: list[tuple[str, dict[str, Any]]] = [
        ("get_item", {"Key": key}),
        ("query", look),
        ("scan", {"Limit": 1}),
        ("put_item", {"Item": key, **never}),
        ("update_item", {"Key": key, "UpdateExpression": "SET last_activity = :now", **never, "ExpressionAttributeValues": {":now": {"S": ""}}}),
        ("delete_item", {"Key": key, **never}),
    ]  # fmt: skip
    indexes = described.get("GlobalSecondaryIndexes") or []
    if indexes and len(indexes[0]["KeySchema"]) == 2:
        over = next(each["AttributeName"] for each in indexes[0]["KeySchema"] if each["KeyType"] == "HASH")
        asked.append(
            ("query", {**look, "IndexName": indexes[0]["IndexName"], "ExpressionAttributeNames": {"#hash": over}})
        )
    denied, odd = [], []
    for operation, request in asked:
        try:
            table.call(operation, TableName=table.name, **request)
        except Denied as exc:
            denied.append(exc.action)
        except (Taken, Refused):
            continue
        except StoreError as exc:
            odd.append(str(exc))
    if denied:
        yield _denied(denied, table, str(described.get("TableArn", "*")))
    elif odd:
        yield Finding("permission", "note", f"could not be found out: {odd[0]}", "run again")
    else:
        yield Finding("permission", "well", "read, write, change, delete")


def _denied(actions: list[str], table: Table, arn: str) -> Finding:
    """The statement that a policy lacks, in one line."""
    wanted = sorted(set(actions))
    statement = {"Effect": "Allow", "Action": wanted, "Resource": [arn, f"{arn}/index/*"]}
    return Finding(
        "permission", "fault", f"no permission for {', '.join(wanted)}", f"allow in the policy: {json.dumps(statement)}"
    )


def _time_to_live(table: Table) -> Iterator[Finding]:
    try:
        told = table.call("describe_time_to_live", TableName=table.name)["TimeToLiveDescription"]
    except Denied as exc:
        seen = f"no permission for {exc.action}: whether the table deletes records by itself is not known"
        yield Finding("time-to-live", "note", seen, f"allow {exc.action} in the policy")
        return
    except StoreError:
        yield Finding("time-to-live", "well", "the server knows none")
        return
    if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING"):
        name = told.get("AttributeName", "TTL")
        line = f"aws dynamodb update-time-to-live --region {table.region} --table-name {table.name} --time-to-live-specification Enabled=false,AttributeName={name}"
        days = "LuminoraCore gives sessions and moods 30 days, the rest 365"
        yield Finding("time-to-live", "note", f"on, by {name}: the table deletes records by itself ({days})", line)
    else:
        yield Finding("time-to-live", "well", "off")


def _missing(table: Table, address: Address) -> Finding:
    """Not there: it may be in another region, or under another name."""
    seen = f"there is no table {table.name} in {table.region}"
    for region in dict.fromkeys(
        filter(None, (os.environ.get("AWS_DEFAULT_REGION"), os.environ.get("AWS_REGION"), *_GUESSES))
    ):
        if region != table.region and _is_in(address, region):
            return Finding("table", "fault", f"{seen}; it is in {region}", f"export LUMINORA_DYNAMODB_REGION={region}")
    try:
        names = table.call("list_tables", Limit=100)["TableNames"]
    except (StoreError, KeyError):
        names = []
    near = difflib.get_close_matches(table.name, names, 1)
    if near:
        return Finding("table", "fault", f"{seen}; there is {near[0]}", f"export LUMINORA_DYNAMODB_TABLE={near[0]}")
    return Finding("table", "fault", seen, f"migrator init {shlex.quote(address.text)}")


def _is_in(address: Address, region: str) -> bool:
    other = replace(address, options=address.options | {"region": region})
    try:
        with closing(Table(other, PATIENCE)) as table:
            return table.describe() is not None
    except (ConfigError, StoreError, NoTable):
        return False


def _is_local(table: Table) -> bool:
    return "amazonaws." not in table.endpoint


def _code(error: StoreError) -> str:
    """The service's own name for the refusal, which says more to whoever searches for it than our words."""
    return error.code if isinstance(error, NotLetIn) else type(error).__name__


def _words(described: dict[str, Any]) -> str:
    names = tuple(each["AttributeName"] for each in described["KeySchema"])
    indexes = described.get("GlobalSecondaryIndexes") or []
    index = (indexes[0]["IndexName"], *(each["AttributeName"] for each in indexes[0]["KeySchema"])) if indexes else None
    return shape_words(names, index)
