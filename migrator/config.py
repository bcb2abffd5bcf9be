"""From what a person writes to where a store is: URLs, paths, and bare words that LuminoraCore's own configuration explains.

Knows address spellings, `luminora_config.json` and the LUMINORA_* variables (fact sheet 8). Opens no store. LuminoraCore's
built-in guesses are never used: what nobody configured is asked for, with the candidates listed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from migrator.choice import zone_of
from migrator.errors import ConfigError
from migrator.model import Address

CONFIG_FILE = "luminora_config.json"

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
_SPELLINGS = (
    "sqlite:///chat.db (relative), sqlite:////data/chat.db (absolute), dynamodb://table?region=eu-west-1, json:chat.json, jsonl:chat.jsonl.gz, "
    "or a path that ends in .db, .sqlite, .json or .jsonl"
)


def resolve(text: str, environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Address:
    """The address a person means. Raises ConfigError with the right spelling.

    `environ` and `folder` (where luminora_config.json is looked for) are the process's own by default.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    if not text.strip():
        raise ConfigError(f"an empty address. Addresses look like {_SPELLINGS}")
    _refuse_control(text)
    scheme = _scheme_of(text)
    if scheme is not None:
        return _from_url(scheme, text)
    if text in _STORES or text in _LATER:
        return _from_word(text, environ, folder)
    scheme = _by_suffix(text)
    if scheme is not None:
        return _file(scheme, text)
    near = difflib.get_close_matches(text, [*_STORES, *_LATER], 1)
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    raise ConfigError(f'"{text}" is no address{hint}. Addresses look like {_SPELLINGS}')


def _refuse_control(text: str) -> None:
    if _CONTROL.search(text):
        raise ConfigError("an address with a control character in it (NUL, a line end); write it without")


def _scheme_of(text: str) -> str | None:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    if match is None or (len(match.group(1)) == 1 and os.name == "nt"):
        return None
    return match.group(1).lower()


def _by_suffix(text: str) -> str | None:
    name = text.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return next((scheme for suffix, scheme in _SUFFIXES.items() if name.endswith(suffix)), None)


def _from_url(scheme: str, text: str) -> Address:
    base = scheme.split("+")[0]
    if base in _LATER:
        raise ConfigError(f"{base}: this version of migrator has no adapter for it yet; it knows {_KNOWN}")
    if scheme not in _STORES:
        near = difflib.get_close_matches(scheme, _STORES, 1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise ConfigError(f'unknown scheme "{scheme}:"{hint}. Addresses look like {_SPELLINGS}')
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
                f"a SQLite address has no options; use sqlite:///{name} (a ? that belongs to the file's name is written %3F)"
            )
        return _file(scheme, unquote(path), zone)
    if rest.startswith("//") and not rest.startswith("///"):
        name = rest.lstrip("/").rpartition("@")[2] or f"chat.{scheme}"
        raise ConfigError(
            f"a file is written without slashes, {scheme}:{name} ({scheme}:/data/{Path(name).name} for an absolute path)"
        )
    rest, zone = _zone_of(rest)
    return _file(scheme, re.sub("^/+", "/", rest), zone)


def _zone_of(text: str) -> tuple[str, dict[str, str]]:
    """A path without the zone that may stand behind it, `?tz=Europe/Madrid`."""
    path, mark, zone = text.rpartition("?tz=")
    if not mark:
        return text, {}
    zone = unquote(zone)
    zone_of(zone)
    return path, {"tz": zone}


def _file(scheme: str, path: str, options: dict[str, str] | None = None) -> Address:
    if not path or path.endswith("/"):
        raise ConfigError(f"{scheme}: the name of a file is missing. Addresses look like {_SPELLINGS}")
    if path == ":memory:":
        raise ConfigError("a SQLite database in memory holds nothing that another process could read; name a file")
    _refuse_control(path)
    try:
        absolute = str((Path(path).expanduser() if path.startswith("~") else Path(path)).absolute())
    except RuntimeError as exc:
        raise ConfigError(f"{path}: no such user; write the path out") from exc
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
            near = difflib.get_close_matches(name, _OPTIONS["dynamodb"], 1)
            hint = f' (did you mean "{near[0]}"?)' if near else ""
            raise ConfigError(
                f'dynamodb://{table}: unknown option "{name}"{hint}; there are region, endpoint, profile and tz'
            )
        if not value:
            raise ConfigError(f'dynamodb://{table}: the option "{name}" is empty')
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
            raise ConfigError(f"dynamodb://{table}: an endpoint holds no credentials")
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ConfigError(f"dynamodb://{table}: an endpoint looks like http://localhost:8000")
    shown = f"dynamodb://{table}" + (f"?{urlencode(options, safe=':/')}" if options else "")
    return Address("dynamodb", "dynamodb", shown, table, options)


# Bare words ------------------------------------------------------------------------------------------------------------


def _from_word(word: str, environ: Mapping[str, str], folder: Path) -> Address:
    if word in _LATER:
        raise ConfigError(f"{word}: this version of migrator has no adapter for it yet; it knows {_KNOWN}")
    if word == "sqlite":
        return _one(
            word,
            _said(folder, environ, "sqlite", "database_path", "LUMINORA_SQLITE_PATH"),
            "sqlite:///FILE",
            _candidates(folder, "sqlite"),
        )
    if word == "dynamodb":
        said = _said(folder, environ, "dynamodb", "table_name", "LUMINORA_DYNAMODB_TABLE")
        address = _one(word, said, "dynamodb://TABLE?region=REGION", [])
        regions = _said(folder, environ, "dynamodb", "region", "LUMINORA_DYNAMODB_REGION")
        if not regions:
            return address
        region = _agreed("dynamodb region", regions)
        return _dynamodb(f"{address.text}?region={region}")
    if word in ("json", "jsonl"):
        return _one(word, {}, f"{word}:FILE", _candidates(folder, word))
    raise ConfigError(f'"{word}" needs a name: {word}:NAME')


def _one(word: str, said: dict[str, str], spelling: str, candidates: list[str]) -> Address:
    if not said:
        where = {"sqlite": "LUMINORA_SQLITE_PATH or luminora_config.json (storage.sqlite.database_path)"}
        where["dynamodb"] = "LUMINORA_DYNAMODB_TABLE or luminora_config.json (storage.dynamodb.table_name)"
        asked = (
            f"neither {where[word].replace(' or ', ' nor ')} names one"
            if word in where
            else "nothing configured names one"
        )
        here = f" (in this folder: {', '.join(candidates[:5])})" if candidates else ""
        raise ConfigError(f'"{word}" has no address: {asked}. Write it out: {spelling}{here}')
    value = _agreed(word, said)
    return _dynamodb(f"dynamodb://{value}") if word == "dynamodb" else _file(word, value)


def _agreed(what: str, said: dict[str, str]) -> str:
    if len(set(said.values())) > 1:
        words = " and ".join(f"{where} says {value}" for where, value in said.items())
        raise ConfigError(f"{what}: {words}. Write the address out")
    return next(iter(said.values()))


def _said(folder: Path, environ: Mapping[str, str], section: str, key: str, variable: str) -> dict[str, str]:
    said = {}
    path = folder / CONFIG_FILE
    value = _config_section(path, section).get(key)
    if isinstance(value, str) and value:
        said[CONFIG_FILE] = value
    if environ.get(variable):
        said[variable] = environ[variable]
    return said


def _config_section(path: Path, section: str) -> dict[str, object]:
    """What `luminoracore storage init` wrote for one store; nulls mean nothing (fact sheet 8.3)."""
    if not path.is_file():
        return {}
    try:
        storage = json.loads(path.read_text("utf-8"))["storage"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f'{path}: not a LuminoraCore configuration ({{"storage": {{"type": …}}}}): mend it, or write the address out'
        ) from exc
    held = storage.get(section) if isinstance(storage, dict) else None
    return held if isinstance(held, dict) else {}


def _candidates(folder: Path, scheme: str) -> list[str]:
    try:
        return sorted(
            each.name
            for each in folder.iterdir()
            if each.is_file() and _by_suffix(each.name) == scheme and each.name != CONFIG_FILE
        )
    except OSError:
        return []
