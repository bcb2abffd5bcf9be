"""Mappings that nobody wrote: the shipped ones with a few things changed, taken away or put elsewhere."""

from __future__ import annotations

import copy
import functools
import json
import re
import tomllib
from importlib.resources import files
from random import Random
from typing import Any

NAMES = [
    "user_id",
    "session_id",
    "value",
    "key",
    "SK",
    "PK",
    "a b",
    "ünï",
    "select",
    "1",
    "x-y",
    "id",
    "TTL",
    "fact",
    "%s",
    "created_at",
    "kind",
]
TEXTS = [
    *NAMES, "", "text", "integer", "float", "timestamp", "json", "boolean", "native", "number", "date", "sql", "dynamodb", "keep", "absent", "*",
    "{user_id}", "FACT#{category}#{key}", "{digest}", "USER#{user_id}", "{created_at:stamp}", "X{key}", "{key}{value}", "INTEGER PRIMARY KEY", "BLOB", "REAL",
    "TEXT NOT NULL", "TEXT UNIQUE", "NUMERIC", "TEXT CHECK (0)", "TEXT, x TEXT", "TEXT DEFAULT (", "GENERATED ALWAYS AS (1)", "sqlite_master", "\x1b[31m",
    "a\nb", "x" * 70, '"', "'", "`", "[x]", "--", "%", "../x", "\u202e",
]  # fmt: skip
VALUES: list[Any] = [
    True,
    False,
    0,
    7,
    -1,
    1.5,
    [],
    {},
    [[]],
    [["user_id"]],
    {"attribute": "x"},
    {"as": "json"},
    {"as": "text"},
    {"type": "float"},
]


def shipped(name: str) -> Any:
    """A copy of its own."""
    return copy.deepcopy(_read(name))


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(files("migrator.mappings").joinpath(f"{name}.toml").read_text("utf-8"))


def mutate(random: Random, mapping: dict[str, Any], changes: int) -> dict[str, Any]:
    """`mapping` with so many changes, anywhere in it."""
    for _ in range(changes):
        if not mapping:  # all of it was taken away
            break
        body, place = random.choice(_places(mapping))
        turn = random.random()
        if isinstance(body, list):
            if turn < 0.3:
                del body[place]
            elif turn < 0.5:
                body.insert(place, _another(random, mapping, body[place]))
            elif turn < 0.6:
                random.shuffle(body)
            else:
                body[place] = _another(random, mapping, body[place])
        elif turn < 0.25:
            del body[place]
        elif turn < 0.45:
            body[random.choice(NAMES)] = body.pop(place)
        elif turn < 0.6:
            body[random.choice([*NAMES, *body])] = copy.deepcopy(body[place])
        else:
            body[place] = _another(random, mapping, body[place])
    return mapping


def _places(body: Any) -> list[tuple[Any, Any]]:
    inside = list(body) if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else []
    return [each for place in inside for each in [(body, place), *_places(body[place])]]


def _another(random: Random, mapping: dict[str, Any], value: Any) -> Any:
    """Most times of the same sort: a text, or something from elsewhere in the mapping."""
    turn = random.random()
    if turn < 0.5 and isinstance(value, str):
        return random.choice(TEXTS)
    if turn < 0.8:
        body, place = random.choice(_places(mapping))
        return copy.deepcopy(body[place])
    return copy.deepcopy(random.choice([*VALUES, *TEXTS]))


def toml(mapping: dict[str, Any]) -> str:
    return "".join(f"{_name(name)} = {_inline(value)}\n" for name, value in mapping.items())


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _inline(name)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_name(name)} = {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value).replace("\x7f", "\\u007f")
