"""Signs by which a secret inside a record is told (fact sheet H45): the name it is kept under, or the way it begins.

Says where a secret seems to be and by which sign, never what it is. Knows values and names of fields; nothing of kinds or stores. It is a
hint: what has no such name and no such beginning is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from migrator.values import Value, from_json

HIDDEN = "(secret)"
"""What is shown in place of a secret."""

_ALONE = {"password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "credential", "credentials", "authorization"}  # fmt: skip
_BEFORE_KEY = {"api", "access", "private", "secret", "auth", "encryption", "signing", "service", "account"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_KNOWN = [
    (mark, name, re.compile(pattern))
    for mark, name, pattern in (
        ("sk-", "sk-…", r"\bsk-[A-Za-z0-9_-]{16,}"),
        ("sk_", "sk_…", r"\bsk_(?:live|test)_[A-Za-z0-9]{16,}"),
        ("AKIA", "AKIA…", r"\bAKIA[A-Z0-9]{16}\b"),
        ("ASIA", "ASIA…", r"\bASIA[A-Z0-9]{16}\b"),
        ("gh", "gh._…", r"\bgh[pousr]_[A-Za-z0-9]{30,}"),
        ("github_pat_", "github_pat_…", r"\bgithub_pat_[A-Za-z0-9_]{20,}"),
        ("glpat-", "glpat-…", r"\bglpat-[A-Za-z0-9_-]{16,}"),
        ("xox", "xox.-…", r"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
        ("AIza", "AIza…", r"\bAIza[A-Za-z0-9_-]{30,}"),
        ("hf_", "hf_…", r"\bhf_[A-Za-z0-9]{30,}"),
        ("eyJ", "a JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"),
        ("PRIVATE KEY", "a private key", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"),
        ("://", "a password in a URL", r"://[^\s/@:]{1,200}:[^\s/@:]{1,200}@"),
    )
]
_NO_SECRET = re.compile(r"[*x•.\-_ ]*|none|null|true|false|your[-_ ].*|<.*>|\$\{.*\}|\{.*\}", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
_LONGEST = 8 << 20  # characters of a JSON text inside a field that is looked into


def is_secret_name(name: str) -> bool:
    """Whether what is kept under this name is a secret: `api_key`, `apiKey`, `refresh_token`, `db_password`; not `max_tokens`."""
    return _is_secret_name(name[:100])


@lru_cache(4096)  # the same few names in every record
def _is_secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    return words[-1] in _ALONE or (words[-1] == "key" and len(words) > 1 and words[-2] in _BEFORE_KEY)


def hidden(text: str) -> str:
    """The text without what begins as a known secret does."""
    for mark, _, pattern in _KNOWN:
        if mark in text:
            text = pattern.sub(HIDDEN, text)
    return text


def secrets_in(record: dict[str, Value], named: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Where secrets seem to be: the path of the field (`value.config.api_key`, `turns[].text`), and the sign.

    named: the fields whose text may name what the others hold, as a fact's `key` names its `value`. JSON inside a text is looked into. Names in
    a path are those of fields and of JSON keys; a key that is no plain name, and so may itself be data, is written `*`.
    """
    by_name = next((name for name in named if isinstance(word := record.get(name), str) and is_secret_name(word)), "")
    left: list[tuple[str, bool, str, Value]] = [
        (_shown(name), is_secret_name(name), f"as {by_name} says" if by_name and name not in named else "", value)
        for name, value in record.items()
    ]
    while left:
        path, is_named, told, value = left.pop()
        if isinstance(value, str):
            inside = _json_of(value)
            if inside is None:
                if sign := _sign_of(value, is_named, told):
                    yield path, sign
                continue
            value = inside
        if isinstance(value, dict):
            left += [(f"{path}.{_shown(str(k))}", is_secret_name(str(k)), told, v) for k, v in value.items()]
        elif isinstance(value, list):
            left += [(f"{path}[]", is_named, told, v) for v in value]


def _sign_of(text: str, is_named: bool, told: str) -> str:
    """By what a text is told to be a secret; empty if it is none."""
    for mark, name, pattern in _KNOWN:
        if mark in text and pattern.search(text):
            return f"begins as {name}" if name.endswith("…") else f"holds {name}"
    # One word, as keys and passwords are: a sentence about a password is none.
    if (is_named or told) and 4 <= len(text) <= 10_000 and not re.search(r"\s", text.removeprefix("Bearer ")):
        if _NO_SECRET.fullmatch(text):
            return ""
        return "by its name" if is_named else told
    return ""


def _json_of(text: str) -> Value:
    """The object or array that a text spells; None if it spells none."""
    if not text.startswith(("{", "[")) or len(text) > _LONGEST:
        return None
    try:
        found = from_json(text.encode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _shown(name: str) -> str:
    return _shown_short(name) if len(name) <= 40 else "*"


@lru_cache(4096)
def _shown_short(name: str) -> str:
    return name if _NAME.fullmatch(name) and hidden(name) == name else "*"
