"""A DynamoDB endpoint that accepts every write and keeps nothing: `accepting.py TABLE HASH [RANGE]` prints its port and serves until stdin ends.

What a run costs its own process can be measured against it, for the endpoint costs next to nothing. Reads find an empty table.
"""

import asyncio
import json
import sys
from typing import Any

ANSWERS: dict[str, Any] = {
    "BatchWriteItem": {"UnprocessedItems": {}},
    "PutItem": {},
    "Query": {"Items": [], "Count": 0, "ScannedCount": 0},
    "Scan": {"Items": [], "Count": 0, "ScannedCount": 0},
    "DescribeTimeToLive": {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}},
}


def description(name: str, keys: list[str]) -> dict[str, Any]:
    """What DescribeTable says of a table on demand with these key attributes, all text."""
    return {
        "Table": {
            "TableName": name,
            "TableStatus": "ACTIVE",
            "TableArn": f"arn:aws:dynamodb:eu-west-1:000000000000:table/{name}",
            "KeySchema": [
                {"AttributeName": key, "KeyType": role} for key, role in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in keys],
            "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
            "ProvisionedThroughput": {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0},
            "ItemCount": 0,
            "TableSizeBytes": 0,
        }
    }


async def serve(name: str, keys: list[str]) -> None:
    answers = {
        operation: _response(json.dumps(answer).encode())
        for operation, answer in (ANSWERS | {"DescribeTable": description(name, keys)}).items()
    }
    unknown = _response(b'{"__type": "UnknownOperationException"}', 400)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if line)
                lower = {key.lower(): value for key, value in headers.items()}
                await reader.readexactly(int(lower["content-length"]))
                writer.write(answers.get(lower.get("x-amz-target", "").rpartition(".")[2], unknown))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def _response(body: bytes, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
