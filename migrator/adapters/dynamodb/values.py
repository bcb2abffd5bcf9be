"""Values as DynamoDB's attributes and back, and what an item may be: sizes, digits, depth, keys.

Pure: knows the service's types, limits and arithmetic, and neither boto3 nor a table. Leaves what an attribute means to the layout.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

from migrator.errors import RecordError
from migrator.model import Record, shortened
from migrator.values import Value, is_number, number

AttributeValue = dict[str, Any]
Item = dict[str, AttributeValue]

ITEM_BYTES = 409_600
HASH_BYTES, RANGE_BYTES = 2048, 1024
DIGITS = 38
DEPTH = 31  # lists and maps inside each other: the item itself is the first of the service's 32 levels


# Values cross the border in pairs --------------------------------------------------------------------------------------


def to_attribute(value: Value, depth: int = 0) -> AttributeValue:
    """Raises ValueError, without the value, if DynamoDB has nothing for it."""
    if isinstance(value, str):
        return {"S": _text(value)}
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if is_number(value):
        return {"N": _number_text(value)}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, frozenset):
        return _to_set(value)
    if depth == DEPTH:
        raise ValueError(f"is nested deeper than DynamoDB allows ({DEPTH} lists or objects)")
    if isinstance(value, list):
        return {"L": [to_attribute(each, depth + 1) for each in value]}
    if isinstance(value, dict):
        return {"M": {_name(name): to_attribute(each, depth + 1) for name, each in value.items()}}
    raise ValueError(f"holds a {type(value).__name__}")


def from_attribute(attribute: Any) -> Value:
    """And back. Raises ValueError for what is no attribute, or a number that is none: a server may say anything."""
    if type(attribute) is not dict or len(attribute) != 1:
        raise ValueError("an attribute that is none of DynamoDB's")
    ((sort, held),) = attribute.items()
    says_so: bool = type(held) is _HELD.get(sort)
    if says_so:
        match sort:
            case "S" | "BOOL" | "B":
                return held
            case "N":
                return number(held)
            case "NULL":
                return None
            case "L":
                return [from_attribute(each) for each in held]
            case "M":
                return from_item(held)
            case "SS" | "NS" | "BS" if all(type(each) is _HELD[sort[0]] for each in held):
                return frozenset(map(number, held) if sort == "NS" else held)
    raise ValueError("an attribute that is none of DynamoDB's")


_HELD = {
    "S": str, "N": str, "B": bytes, "BOOL": bool, "NULL": bool, "L": list, "M": dict, "SS": list, "NS": list, "BS": list,
}  # fmt: skip
"""By the name of a type, what boto3 gives of it."""


def _to_set(value: frozenset[Value]) -> AttributeValue:
    if not value:
        raise ValueError("is an empty set, and DynamoDB holds none")
    if all(isinstance(each, str) for each in value):
        return {"SS": sorted(map(_text, value))}
    if all(map(is_number, value)):
        return {"NS": sorted(map(_number_text, value))}
    if all(isinstance(each, bytes) for each in value):
        return {"BS": sorted(value)}
    raise ValueError("is a set of several types")


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds text that is not Unicode (a lone surrogate)") from None
    return value


def _name(name: str) -> str:
    if not name:
        raise ValueError("holds an empty name, and DynamoDB takes none")
    return _text(name)


def _number_text(value: Value) -> str:
    """The shortest decimal text, as LuminoraCore writes it (`Decimal(str(x))`)."""
    if type(value) is int and -(10**DIGITS) < value < 10**DIGITS:
        return str(value)
    if type(value) is float and (1e-130 <= abs(value) < 1e126 or not value):
        return repr(value)
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        raise ValueError("is not a finite number")
    if exact:
        digits, _ = _significant(exact)
        if len(digits) > DIGITS:
            raise ValueError(f"has {len(digits)} significant digits, DynamoDB holds {DIGITS}")
        if not -130 <= exact.adjusted() <= 125:
            raise ValueError("is outside of DynamoDB's numbers (1e-130 to 9.99e125)")
    return repr(value) if isinstance(value, float) else str(exact)


def _significant(exact: Decimal) -> tuple[str, int]:
    """The digits of a number without zeros around them, and the exponent of the last."""
    _, digits, exponent = exact.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    return stripped, int(exponent) + len(text) - len(stripped)


def to_item(attributes: Record) -> Item:
    """Raises RecordError, naming the attribute, if DynamoDB cannot hold one."""
    item: Item = {}
    for name, value in attributes.items():
        if type(value) is str and name and value.isascii() and name.isascii():  # nearly all
            item[name] = {"S": value}
            continue
        try:
            item[_name(name)] = to_attribute(value)
        except ValueError as exc:
            raise RecordError(f"{shortened(name)} {exc}" if name.isprintable() and name else f"a field {exc}") from exc
    return item


def from_item(item: Any) -> Record:
    """Raises ValueError for what is no item."""
    if type(item) is not dict:
        raise ValueError("an item that is none of DynamoDB's")
    return {
        name: held
        if type(attribute) is dict and type(held := attribute.get("S")) is str and len(attribute) == 1  # nearly all
        else from_attribute(attribute)
        for name, attribute in item.items()
    }


# Limits and sizes ------------------------------------------------------------------------------------------------------


def item_size(item: Item) -> int:
    """The bytes an item counts: names and values, by the service's arithmetic.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html says "approximately" of numbers;
    here they are as DynamoDB Local counts them: a byte, and one for each pair of digits, pairs aligned at the decimal point, and
    one for a minus; 0 is one byte.
    """
    return sum([name_size(name) + _value_size(attribute) for name, attribute in item.items()])


@lru_cache(4096)
def name_size(name: str) -> int:
    return len(name.encode())


def _value_size(attribute: AttributeValue) -> int:
    ((sort, held),) = attribute.items()
    if sort == "S":
        return len(held) if held.isascii() else len(held.encode())
    match sort:
        case "N":
            return number_size(held)
        case "B":
            return len(held)
        case "L":
            return 3 + sum(1 + _value_size(each) for each in held)
        case "M":
            return 3 + len(held) + item_size(held)
        case "SS":
            return sum(len(each.encode()) for each in held)
        case "NS":
            return sum(map(number_size, held))
        case "BS":
            return sum(map(len, held))
    return 1  # NULL, BOOL


@lru_cache(4096)
def number_size(text: str) -> int:
    if "e" in text or "E" in text or not text.isascii():
        exact = Decimal(text)
        digits, exponent = _significant(exact) if exact else ("", 0)
    else:
        whole, _, fraction = text.lstrip("-+").partition(".")
        fraction = fraction.rstrip("0")
        digits, exponent = (whole + fraction).lstrip("0"), -len(fraction)
        if not fraction:
            digits, exponent = digits.rstrip("0"), len(digits) - len(digits.rstrip("0"))
    return 1 + (len(digits) + exponent % 2 + 1) // 2 + text.startswith("-") if digits else 1


def write_units(item: Item, size: int, index: tuple[str, ...] | None) -> int:
    """The capacity that putting an item of so many bytes takes: a unit for each KB begun, and as many for an index that holds it whole."""
    is_indexed = index is not None and all(name in item for name in index[1:] if name)
    return -(-size // 1024) * (2 if is_indexed else 1)


def check_item(item: Item, key: tuple[str, ...], index: tuple[str, ...] | None) -> int:
    """The item's bytes. Raises RecordError if they are over the limit or its keys are none."""
    limits = HASH_BYTES, RANGE_BYTES
    for name, limit in (*zip(key, limits), *zip((index or ())[1:], limits)):
        attribute = item.get(name)
        if attribute is None and name not in key:
            continue  # the item is only missing in the index
        text = (attribute or {}).get("S")
        if not isinstance(text, str):
            raise RecordError(f"the key attribute {name} is not text")
        if not text:
            raise RecordError(f"the key attribute {name} is empty")
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise RecordError(f"the key attribute {name} takes {len(text.encode()):,} bytes, DynamoDB allows {limit:,}")
    size = item_size(item)
    if size > ITEM_BYTES:
        largest = max(item, key=lambda name: _value_size(item[name]))
        raise RecordError(
            f"its item takes {size:,} bytes, DynamoDB allows {ITEM_BYTES:,} (most of it in {shortened(largest)})"
        )
    return size
