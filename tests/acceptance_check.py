"""Compares a chat.db with another, or with a DynamoDB table of shape user_id/SK; exit 1 on any difference. Not a line of migrator is used.

usage: acceptance_check.py chat.db other.db | acceptance_check.py chat.db table endpoint"""

import sqlite3
import sys
from collections import Counter
from decimal import Decimal

import boto3

KEYS = {"affinity": "AFFINITY#{personality_name}#affinity", "facts": "FACT#{category}#{key}", "moods": "MOOD#mood#"}
KEYS |= {"episodes": "EPISODE#{episode_type}#", "memories": "MEMORY#memory#{memory_key}"}
KEYS |= {"sessions": "SESSION#{session_id}"}


def from_sqlite(path, value):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for table, cursor in [(table, db.execute(f"SELECT * FROM {table}")) for table in KEYS]:
        for row in [zip(next(zip(*cursor.description)), row) for row in cursor]:
            yield table, frozenset((n, value(v)) for n, v in row if n != "id" and value(v) is not None)


def from_dynamodb(table, endpoint):
    for page in boto3.client("dynamodb", endpoint_url=endpoint).get_paginator("scan").paginate(TableName=table):
        for item in page["Items"]:
            row = {n: Decimal(v["N"]) if "N" in v else v["S"] for n, v in item.items() if "NULL" not in v}
            key, ttl = row.pop("SK"), row.pop("TTL", None)
            name, right = next((n, k.format(**row)) for n, k in KEYS.items() if key.startswith(k.partition("{")[0]))
            assert key == right or (right[-1] == "#" and key.startswith(right)), f"not where it is looked for: {key}"
            yield name, frozenset((row | ({"ttl": ttl} if name == "sessions" else {})).items())


exact = len(sys.argv) == 3  # types and NULLs count; in DynamoDB numbers go by value, and NULL may be absent
value = (lambda v: (type(v), v)) if exact else (lambda v: Decimal(repr(v)) if type(v) in (int, float) else v)
here, there = Counter(from_sqlite(sys.argv[1], value)), sys.argv[2:]
there = Counter(from_sqlite(*there, value) if exact else from_dynamodb(*there))
print(f"{here.total()} rows, {(here - there).total()} of them not there, and {(there - here).total()} there not here")
sys.exit(here != there)
