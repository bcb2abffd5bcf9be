"""Where a field lives in an item, and its value on both sides of that border: `encode` and `decode`.

Knows the forms in which stores hold fields, and the types of the mapping. Leaves names, and what is not there, to `layout`; values of a store's own
types to its adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from migrator.errors import RecordError
from migrator.model import Field, FieldType
from migrator.values import Value, from_json, is_number, number, to_json

Form = Literal["native", "text", "number", "json", "date"]
"""How a store holds a field: as its own type, or as text, a number, JSON text, or the store's date type."""

_MAX64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field lives in an item: the attribute's name, its form, and the attribute it is read from where that one is not there.

    head: what starts with it was written over the field by mistake. behind: where the value is then, an attribute and what stands before it
    there; None if it is nowhere.
    """

    field: Field
    attribute: str
    form: Form = "native"
    otherwise: str | None = None
    head: str = ""
    behind: tuple[str, str] | None = None

    @property
    def says_null(self) -> bool:
        """A JSON value as JSON text: its null is text too, and the store's own NULL is another thing."""
        return self.form == self.field.type == "json"


# Values cross the border in pairs --------------------------------------------------------------------------------------


def encode(spot: Place, value: Value, is_plain: bool = False) -> Value:
    """A field's value as the store holds it. `value` is None only where the place says it. `is_plain`: as `Row.is_plain`."""
    match spot.form:
        case "json":
            return json_text(spot.field.name, value, is_plain).decode()
        case "text" if is_number(value):
            return _number_text(spot.field.name, value)
        case "text" if isinstance(value, bool):
            return "true" if value else "false"
        case "number":
            return int(value) if isinstance(value, bool) else _exact_number(spot.field.name, value)
        case "date":
            try:
                return datetime.fromisoformat(value)
            except (TypeError, ValueError) as exc:
                raise RecordError(f"{spot.field.name} is no ISO time") from exc
    return value


def decode(spot: Place, value: Value) -> Value:
    """And back. Raises RecordError, naming the field, if what the store holds is not of the field's type."""
    field_type = spot.field.type
    match spot.form:
        case "json":
            value = _from_json_text(spot.field.name, value)
        case "text" if field_type in ("integer", "float") and isinstance(value, str):
            value = _number_of(spot.field.name, value)
        case "text" if field_type == "boolean":
            value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
        case "number" if field_type == "boolean":
            value = {0: False, 1: True}.get(value, value) if is_number(value) else value
        case "number" if field_type in ("text", "timestamp") and is_number(value):
            value = str(value)
        case "date" if isinstance(value, datetime):
            value = value.isoformat()
    if field_type == "float" and type(value) is int and not -_MAX64 <= value < _MAX64:
        near = float(value) if abs(value) < 1 << 1023 else math.inf
        value = (
            near if math.isfinite(near) and Decimal(repr(near)) == value else value
        )  # DynamoDB and JSON write 1e19 without a point
    if not _IS[field_type](value):
        raise RecordError(f"{spot.field.name} holds {_sort_of(value)}, the mapping says {field_type}")
    return value


def _number_of(name: str, value: Value) -> Value:
    if is_number(value):
        return value
    try:
        return number(value)
    except (TypeError, ValueError) as exc:
        raise RecordError(f"{name} is no number") from exc


def _number_text(name: str, value: Value) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{name} is not finite, and is stored as text")
    return str(value)


def _exact_number(name: str, value: Value) -> Value:
    """A text only where the number gives the same text again: not 007."""
    made = _number_of(name, value)
    if isinstance(value, str) and str(made) != value:
        raise RecordError(f"{name} is no plain number, and is stored as one")
    return made


def json_text(name: str, value: Value, is_plain: bool) -> bytes:
    """JSON text of a field's value, in UTF-8. RecordError, naming the field, if there is none."""
    try:
        return to_json(value, is_plain=is_plain)
    except ValueError as exc:
        raise RecordError(f"{name} {exc}") from exc


def _from_json_text(name: str, value: Value) -> Value:
    if not isinstance(value, str | bytes):
        raise RecordError(f"{name} holds no JSON text")
    try:
        return from_json(value.encode() if isinstance(value, str) else value)
    except (TypeError, ValueError) as exc:
        raise RecordError(f"{name} holds no JSON text") from exc


_IS: dict[FieldType, Callable[[Value], bool]] = {
    "text": lambda v: type(v) is str,
    "timestamp": lambda v: type(v) is str,
    "integer": is_number,
    "float": is_number,
    "boolean": lambda v: type(v) is bool,
    "json": lambda v: True,
}


def is_same(made: Value, held: Value) -> bool:
    return bool(made == held) and isinstance(made, bool) == isinstance(held, bool)


def _sort_of(value: Value) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if is_number(value):
        return "a number"
    names: dict[type, str] = {str: "text", bytes: "bytes", list: "a list", dict: "an object", frozenset: "a set"}
    return names.get(type(value), type(value).__name__)
