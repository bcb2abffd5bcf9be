"""From an address that is written out, a URL or a path, to where a store is.

Knows spellings alone: which schemes, suffixes and options there are, and that no secret is among them. Names and bare words, which
somebody's configuration explains, are left to `config`. Opens no store.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from migrator.choice import zone_of
from migrator.errors import ConfigError
from migrator.model import Address
from migrator.values import is_unicode

_SUFFIXES = {
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PACKED = (".gz", ".zst")
_STORES = {"sqlite": "sql", "json": "json", "jsonl": "jsonl", "dynamodb": "dynamodb", "memory": "memory"}
_KNOWN = ", ".join(name for name in _STORES if name != "memory")
_OPTIONS = {"dynamodb": {"region", "endpoint", "profile", "tz"}}
_LATER = ("postgresql", "postgres", "mysql", "mariadb", "mongodb", "redis")
WORDS = (*_STORES, *_LATER)
"""Sorts of stores as bare words."""

SPELLINGS = (
    "sqlite:///chat.db (relative), sqlite:////data/chat.db (absolute), dynamodb://table?region=eu-west-1, json:chat.json, jsonl:chat.jsonl.gz, "
    "or a path that ends in .db, .sqlite, .json or .jsonl"
)


def is_written_out(text: str) -> bool:
    """Whether a text is a URL or a path with a known suffix, right or wrong; else it may be a name or a bare word."""
    return _scheme_of(text) is not None or scheme_by_suffix(text) is not None


def parse(text: str, folder: Path | None = None) -> Address:
    """The address that is written out in a text. Raises ConfigError with the right spelling.

    A relative path begins in `folder`, the working folder by default.
    """
    refuse_control(text)
    folder = Path.cwd() if folder is None else folder
    scheme = _scheme_of(text)
    if scheme is not None:
        return _from_url(scheme, text, folder)
    scheme = scheme_by_suffix(text)
    if scheme is not None:
        return file_at(scheme, text, folder)
    raise ConfigError(f"{no_address(text)}. Addresses look like {SPELLINGS}")


def no_address(text: str, others: Iterable[str] = ()) -> str:
    """That a text is no address, with the nearest bare word, or the nearest of `others`."""
    return f'"{text}" is no address{near(text, [*others, *WORDS])}'


def near(text: str, known: Iterable[str]) -> str:
    """The nearest of what is known, as a question to put behind a message; empty if nothing is near."""
    close = difflib.get_close_matches(text, list(known), 1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def table_at(table: str, region: str = "") -> Address:
    """A DynamoDB table by its name. Raises ConfigError if it cannot be one."""
    return _dynamodb(f"dynamodb://{quote(table, safe='')}" + (f"?{urlencode({'region': region})}" if region else ""))


def in_zone(address: Address, zone: str) -> Address:
    """The same store, whose times without an offset are meant in that zone. Raises ConfigError if there is no such zone."""
    zone_of(zone)
    mark = "&" if address.store == "dynamodb" and "?" in address.text else "?"
    return replace(address, text=f"{address.text}{mark}tz={zone}", options=address.options | {"tz": zone})


def refuse_control(text: str, what: str = "an address") -> None:
    """Raises ConfigError for a control character, and for bytes that are no text."""
    if not is_unicode(text):
        raise ConfigError(f"{what} with bytes in it that are not UTF-8; give the file a name that is text")
    if _CONTROL.search(text):
        raise ConfigError(f"{what} with a control character in it (NUL, a line end); write it without")


def _scheme_of(text: str) -> str | None:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    if match is None or (len(match.group(1)) == 1 and os.name == "nt"):
        return None
    return match.group(1).lower()


def scheme_by_suffix(text: str) -> str | None:
    """The scheme of a path with a known suffix."""
    name = text.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return next((scheme for suffix, scheme in _SUFFIXES.items() if name.endswith(suffix)), None)


def refuse_later(scheme: str) -> None:
    """Raises ConfigError for a sort of store that has no adapter yet."""
    base = scheme.split("+")[0]
    if base in _LATER:
        raise ConfigError(f"{base}: this version of migrator has no adapter for it yet; it knows {_KNOWN}")


def _from_url(scheme: str, text: str, folder: Path) -> Address:
    refuse_later(scheme)
    if scheme not in _STORES:
        raise ConfigError(f'unknown scheme "{scheme}:"{near(scheme, _STORES)}. Addresses look like {SPELLINGS}')
    rest = text[len(scheme) + 1 :]
    if scheme == "memory":
        name, zone = _zone_of(rest.removeprefix("//"))
        return Address(scheme, "memory", f"memory:{rest.removeprefix('//')}", name, zone)
    if scheme == "dynamodb":
        return _dynamodb(text)
    if scheme == "sqlite":
        if not rest.startswith("///"):
            name = rest.lstrip("/").rpartition("@")[2].partition("?")[0] or "chat.db"  # without what could be a secret
            raise ConfigError(
                f"a SQLite file is written with three slashes, sqlite:///{name} (four for an absolute path)"
            )
        path, zone = _zone_of(rest[3:].removesuffix("?"))
        if "?" in path:
            name = path.partition("?")[0]
            raise ConfigError(
                f"a SQLite address has no option but ?tz=ZONE; use sqlite:///{name} (a ? that belongs to the file's name is written %3F)"
            )
        return file_at(scheme, unquote(path), folder, zone)
    if rest.startswith("//") and not rest.startswith("///"):
        name = rest.lstrip("/").rpartition("@")[2] or f"chat.{scheme}"
        raise ConfigError(
            f"a file is written without slashes, {scheme}:{name} ({scheme}:/data/{Path(name).name} for an absolute path)"
        )
    rest, zone = _zone_of(rest)
    return file_at(scheme, re.sub("^/+", "/", rest), folder, zone)


def _zone_of(text: str) -> tuple[str, dict[str, str]]:
    """A path without the zone that may stand behind it, `?tz=Europe/Madrid`."""
    path, mark, zone = text.rpartition("?tz=")
    if not mark:
        return text, {}
    zone = unquote(zone)
    zone_of(zone)
    return path, {"tz": zone}


def file_at(scheme: str, path: str, folder: Path, options: dict[str, str] | None = None) -> Address:
    """The store in a file; a relative path begins in `folder`. Raises ConfigError if it cannot be one."""
    if not path or path.endswith("/"):
        raise ConfigError(f"{scheme}: the name of a file is missing. Addresses look like {SPELLINGS}")
    if path == ":memory:":
        raise ConfigError("a SQLite database in memory holds nothing that another process could read; name a file")
    refuse_control(path)
    try:
        absolute = str((Path(path).expanduser() if path.startswith("~") else folder / path).absolute())
    except RuntimeError as exc:
        raise ConfigError(f"{path}: no such user; write the path out") from exc
    if not is_unicode(absolute):
        raise ConfigError(f"{path}: its folder has a name that is not UTF-8; go by another name, such as a link")
    try:
        Path(absolute).resolve()
        Path(absolute).exists()
    except (RuntimeError, OSError) as exc:
        shown = path if len(path) < 100 else f"{path[:40]}…"
        raise ConfigError(
            f"{shown}: its symbolic links go in a circle, or its name is too long; name the file itself"
        ) from exc
    quoted = absolute.replace("%", "%25").replace("?", "%3F")
    text = f"sqlite:///{quoted}" if scheme == "sqlite" else f"{scheme}:{absolute}"
    options = options or {}
    return Address(
        scheme, _STORES[scheme], text + "".join(f"?tz={zone}" for zone in options.values()), absolute, options
    )


def _dynamodb(text: str) -> Address:
    try:
        parts = urlsplit(text)
    except ValueError as exc:
        raise ConfigError(f"a DynamoDB address looks like dynamodb://table?region=eu-west-1 ({exc})") from exc
    if "@" in text.partition("?")[0]:
        raise ConfigError(
            "a DynamoDB address holds no credentials: use a profile (?profile=NAME), the AWS_* variables or a role"
        )
    table = unquote(parts.netloc) + unquote(parts.path)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", table) or parts.fragment:
        shown = "what you wrote" if ":" in table else f'"{table}"'  # KEY:SECRET is not repeated
        raise ConfigError(
            f"{shown} is no DynamoDB table name (3 to 255 letters, digits, _ . -). An address looks like dynamodb://table?region=eu-west-1"
        )
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS["dynamodb"]:
            raise ConfigError(
                f'dynamodb://{table}: unknown option "{name}"{near(name, _OPTIONS["dynamodb"])}; there are region, endpoint, profile and tz'
            )
        if not value:
            raise ConfigError(f'dynamodb://{table}: the option "{name}" is empty; give it a value, or leave it out')
        options[name] = value
    if "tz" in options:
        zone_of(options["tz"])
    endpoint = options.get("endpoint")
    if endpoint is not None:
        try:
            split = urlsplit(endpoint)
            _ = split.port  # ValueError for one that is none
        except ValueError as exc:
            raise ConfigError(f"dynamodb://{table}: an endpoint looks like http://localhost:8000") from exc
        if "@" in endpoint:
            raise ConfigError(
                f"dynamodb://{table}: an endpoint holds no credentials; use a profile (?profile=NAME), the AWS_* variables or a role"
            )
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ConfigError(f"dynamodb://{table}: an endpoint looks like http://localhost:8000")
    shown = f"dynamodb://{table}" + (f"?{urlencode(options, safe=':/[]')}" if options else "")
    return Address("dynamodb", "dynamodb", shown, table, options)
