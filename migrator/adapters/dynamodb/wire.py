"""Items on their way through boto3: the JSON that it would make of them, and the JSON that it would parse, are made and read here, several times as fast.

A batch's body is put into boto3's own request, and the items of an answer are taken out before it parses them, by its events
(`provide-client-params` and `before-call`, which are documented, `before-send` and `before-parse`, which are not). Credentials, endpoints, signatures
and what is an error stay boto3's. Where an event does not come any more, boto3 makes or sends the request, or parses the answer, itself: slower,
and the same. Leaves connections to `transport`.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, overload

import orjson

from migrator.adapters.dynamodb.signing import Pattern
from migrator.errors import TransientStoreError

_READING = ("Scan", "Query", "BatchGetItem")
_BODY = "body of migrator"  # our name in the context of a request


class Puts(list[bytes]):
    """The items that a batch puts, as `item_json` makes them; `is_sent` once they have gone into a body that was made here."""

    is_sent = False

    def plain(self) -> list[dict[str, Any]]:
        """The same for boto3 to write."""
        return [{"PutRequest": {"Item": _with_bytes(orjson.loads(item))}} for item in self]


class Unread(Sequence[dict[str, Any]]):
    """The items of a page of a scan, so many, as they stand in the answer until somebody asks for one."""

    def __init__(self, text: bytes, total: int) -> None:
        self.text, self.total = text, total

    @cached_property
    def _items(self) -> list[dict[str, Any]]:
        return read_items(self.text)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, number: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, number: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, number: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._items[number]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._items)


def read_items(text: bytes) -> list[dict[str, Any]]:
    """Raises TransientStoreError for what is no JSON: it was damaged on its way."""
    try:
        items: list[dict[str, Any]] = orjson.loads(text)
    except ValueError as exc:
        raise TransientStoreError("DynamoDB's answer is damaged; run again") from exc
    return _with_bytes(items) if b'"B' in text else items


class Wire:
    """One client of boto3's, that sends batches as we write them and gives the items of its answers as they are in the answer's JSON."""

    def __init__(self, client: Any, send: Callable[[Any], Any]) -> None:
        """`send`: the answer to a prepared request that may be sent twice, None where boto3 has to send it."""
        self._client = client
        self._is_plain = False
        self._transport = send
        self._given = threading.local()
        events = client.meta.events
        events.register("provide-client-params.dynamodb.BatchWriteItem", self._take)
        events.register("before-call.dynamodb.BatchWriteItem", self._give)
        events.register("before-send.dynamodb.BatchWriteItem", self._send)
        events.register("before-parse.dynamodb", self._read)

    def ask(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, and boto3's own exceptions."""
        call = getattr(self._client, operation)
        if self._is_plain:
            return self._plainly(call, request)
        puts = [each for each in request.get("RequestItems", {}).values() if isinstance(each, Puts)]
        answer: dict[str, Any]
        try:
            answer = call(**request)
        except Exception:
            if all(each.is_sent for each in puts):
                raise
        else:
            if all(each.is_sent for each in puts):
                return answer
        self._is_plain = True  # an event did not come: what was sent held no items
        return self._plainly(call, request)

    def _plainly(self, call: Any, request: dict[str, Any]) -> dict[str, Any]:
        if "RequestItems" in request:
            items = {
                table: each.plain() if isinstance(each, Puts) else each
                for table, each in request["RequestItems"].items()
            }
            request = request | {"RequestItems": items}
        answer: dict[str, Any] = call(**request)
        return answer

    def pattern(self, table: str) -> Pattern | None:
        """A request to write a batch, of no item, as boto3 makes and signs it: it is not sent. None where there is no event to see it by.

        Raises what boto3 raises while it makes one.
        """
        me, seen = threading.get_ident(), list[Pattern]()

        def see(request: Any, **_: Any) -> None:
            if threading.get_ident() == me:
                headers = {
                    name: value.decode() if type(value) is bytes else value for name, value in request.headers.items()
                }
                seen.append(Pattern(request.method, request.url, headers, request.body))
                raise _NotSent

        events = self._client.meta.events
        events.register("before-send.dynamodb.BatchWriteItem", see)
        try:
            with suppress(_NotSent):
                self._client.batch_write_item(RequestItems={table: []})
        finally:
            events.unregister("before-send.dynamodb.BatchWriteItem", see)
        return seen[0] if seen else None

    def _take(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any] | None:
        requests = params["RequestItems"]
        if self._is_plain or len(requests) != 1:
            return None
        ((table, puts),) = requests.items()
        if not isinstance(puts, Puts):
            return None
        context[_BODY] = table, puts, params.get("ReturnConsumedCapacity")
        return params | {"RequestItems": {table: []}}

    def _give(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        if _BODY in context:
            table, puts, capacity = context[_BODY]
            params["body"] = self._given.body = body_of(table, puts, capacity)
            puts.is_sent = True

    def _send(self, request: Any, **_: Any) -> Any:
        return self._transport(request) if request.body is getattr(self._given, "body", None) else None

    def _read(
        self,
        operation_model: Any,
        response_dict: dict[str, Any],
        customized_response_dict: dict[str, Any],
        **_: Any,
    ) -> None:
        """Raises NoAnswer for half an answer, or a page of a proxy between. Of an error the status says enough."""
        body, is_error = response_dict["body"], response_dict["status_code"] >= 300
        told: Any = None
        with suppress(ValueError):
            told = _page(body) if operation_model.name == "Scan" and not is_error else orjson.loads(body)
        is_dynamodbs = type(told) is dict and (
            not told or not told.keys().isdisjoint(operation_model.output_shape.members)
        )
        if not is_dynamodbs:
            if not is_error:
                raise NoAnswer
            if type(told) is not dict:
                response_dict["body"] = b""  # botocore stumbles over some
        elif not is_error and operation_model.name in _READING:
            is_small = type(told.get("Items")) is Unread  # what there is beside them
            customized_response_dict.update(_with_bytes(told) if is_small or b'"B' in body else told)
            response_dict["body"] = b"{}"


def _page(body: bytes) -> Any:
    """An answer, but for its items, which stay `Unread`. Raises ValueError for what is no JSON."""
    begin = body.find(b'"Items":[') + 8
    end = len(body) - 1 if body.endswith(b"}]}") else body.rfind(b'}],"') + 2
    if 8 <= begin < end:
        told = _parsed(body[:begin] + b"[]" + body[end:])  # cut within a text it would be no JSON
        if type(told) is dict and told.get("Items") == [] and type(told.get("Count")) is int:
            return told | {"Items": Unread(body[begin:end], told["Count"])}
    return orjson.loads(body)


def _parsed(text: bytes) -> Any:
    with suppress(ValueError):
        return orjson.loads(text)


class NoAnswer(Exception):
    """What came is none of DynamoDB's; botocore would take it for an answer without content: a write that was acknowledged."""


class _NotSent(Exception):
    """It was only to be seen."""


def body_of(table: str, puts: Puts, capacity: str | None) -> bytes:
    """The whole request; `capacity` is its ReturnConsumedCapacity, if it has one."""
    items = b",".join([b'{"PutRequest":{"Item":%b}}' % item for item in puts])
    wanted = b',"ReturnConsumedCapacity":%b' % orjson.dumps(capacity) if capacity else b""
    return b'{"RequestItems":{%b:[%b]}%b}' % (orjson.dumps(table), items, wanted)


def item_json(item: dict[str, Any]) -> bytes:
    """An item as it stands in a request."""
    return orjson.dumps(item, default=_base64)


def key_json(item: dict[str, Any], names: tuple[str, ...]) -> bytes:
    """The values of an item's key, one behind the other: the same for the same key."""
    return b"".join([item_json(item[name]) for name in names])


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError


def _with_bytes(held: Any) -> Any:
    """Attributes of bytes among whatever an answer holds: their base64 as bytes."""
    if type(held) is list:
        return [_with_bytes(each) for each in held]
    if type(held) is not dict:
        return held
    if len(held) == 1:
        ((sort, inner),) = held.items()
        if sort == "B" and type(inner) is str:
            return {"B": base64.b64decode(inner)}
        if sort == "BS" and type(inner) is list:
            return {"BS": [base64.b64decode(each) for each in inner]}
    return {name: _with_bytes(inner) for name, inner in held.items()}
