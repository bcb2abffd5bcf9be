"""LuminoraCore's own configuration: what `luminora_config.json` and the LUMINORA_* variables say, and what LuminoraCore makes of it.

Plain data out of fact sheet 8; never a password's value. `advice` is the way back: the lines that configure a store. Leaves addresses to `config`, and what to do about it to whoever asks.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.errors import ConfigError
from migrator.model import Address

FILE = "luminora_config.json"
TYPE_VARIABLE = "LUMINORA_STORAGE_TYPE"
SET = "set"
"""What is shown of a password that somebody has set."""


@dataclass(frozen=True)
class Told:
    """A value, and who told it: the name of a variable, or `FILE: key.of.the.file`. Of a password the value is the word "set"."""

    value: str
    by: str


@dataclass(frozen=True)
class Item:
    """One thing that can be configured of a sort of store.

    `told` is empty if nobody says it, and has two if file and variable both do. `is_null`: the file holds null, as `storage init`
    writes it. `default` is what LuminoraCore takes if nobody says it; None for nothing.
    """

    key: str
    variable: str | None
    default: str | None
    is_secret: bool = False
    is_null: bool = False
    told: tuple[Told, ...] = ()


@dataclass(frozen=True)
class SortOfStore:
    """What is configured of one sort of store. `words` says what LuminoraCore can do with it, where that is not simply use it."""

    name: str
    items: Mapping[str, Item]
    words: str = ""

    @property
    def is_told(self) -> bool:
        """Whether anybody says anything of it."""
        return any(item.told for item in self.items.values())


@dataclass(frozen=True)
class StorageType:
    """Which sort of store somebody asked for, and what LuminoraCore makes of that: a sort of store, or None if it refuses."""

    told: Told
    becomes: str | None
    words: str


@dataclass(frozen=True)
class Configuration:
    """All that LuminoraCore is told. `file` is None where there is no luminora_config.json.

    `types`: by the file, if it is there, and by the variable, or for want of it by LuminoraCore's own default. `unread`: variables that
    are set, that LuminoraCore's documents name, and that none of its code reads.
    """

    file: Path | None
    types: tuple[StorageType, ...]
    stores: Mapping[str, SortOfStore]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """A store, and the lines that make LuminoraCore use it: variables, `luminora_config.json`, Python."""

    store: str
    address: str
    environment: str
    config: str
    python: str


@dataclass(frozen=True)
class _Sort:
    """Section of the file, beginning of the variables, and by key: the variable's end and the default (fact sheet 8.3, 8.4)."""

    section: str = ""
    begins: str = ""
    keys: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    words: str = ""


def _in_file_only(ending: str, *names: str) -> dict[str, tuple[None, None]]:
    return {f"{name}_{ending}": (None, None) for name in names}


_KINDS = ("facts", "affinity", "episodes", "moods", "memories")
_SORTS = {
    "in_memory": _Sort(words="conversations live in the process and end with it"),
    "sqlite": _Sort(
        "sqlite",
        "LUMINORA_SQLITE_",
        {
            "database_path": ("PATH", "./luminora.db"),
            "facts_table": ("FACTS_TABLE", None),
            "affinity_table": ("AFFINITY_TABLE", None),
            **_in_file_only("table", "episodes", "moods", "memories"),
        },
    ),
    "dynamodb": _Sort(
        "dynamodb",
        "LUMINORA_DYNAMODB_",
        {
            "table_name": ("TABLE", "luminora-sessions"),
            "region": ("REGION", "eu-west-1"),
            "hash_key": ("HASH_KEY", None),
            "range_key": ("RANGE_KEY", None),
        },
    ),
    "postgresql": _Sort(
        "postgresql",
        "LUMINORA_POSTGRES_",
        {
            "host": ("HOST", "localhost"),
            "port": ("PORT", "5432"),
            "database": ("DATABASE", "luminora"),
            "schema": ("SCHEMA", "public"),
            "username": ("USERNAME", "postgres"),
            "password": ("PASSWORD", None),
            **_in_file_only("table", *_KINDS),
        },
        "LuminoraCore's configuration always fails here (TypeError: there is no argument username)",
    ),
    "mysql": _Sort(words="LuminoraCore has no class for it"),
    "mongodb": _Sort(
        "mongodb",
        "LUMINORA_MONGODB_",
        {
            "host": ("HOST", "localhost"),
            "port": ("PORT", "27017"),
            "database": ("DATABASE", "luminora"),
            "username": ("USERNAME", None),
            "password": ("PASSWORD", None),
            **_in_file_only("collection", *_KINDS),
        },
    ),
    "redis": _Sort(
        "redis",
        "LUMINORA_REDIS_",
        {
            "host": ("HOST", "localhost"),
            "port": ("PORT", "6379"),
            "db": ("DB", "0"),
            "key_prefix": ("KEY_PREFIX", "luminora"),
            **_in_file_only("key_pattern", "affinity", "fact", "episode", "mood", "memory"),
        },
    ),
    "json": _Sort(words="version 1.0 alone, told in the application's code (StorageConfig.connection_string), else ./sessions.json"),
}  # fmt: skip
_SECRET = ("password",)
_NUMBERS = ("port", "db")

_TYPES = {
    "in_memory": "in_memory",
    "sqlite_flexible": "sqlite",
    "postgresql_flexible": None,
    "redis_flexible": "redis",
    "mongodb_flexible": "mongodb",
    "dynamodb_flexible": "dynamodb",
}
"""The types that LuminoraCore accepts (fact sheet 8.3), and what becomes of them: with PostgreSQL it always fails."""

_NOT_READ = ("SQLITE_DATABASE_PATH", "POSTGRES_URL", "REDIS_URL", "MONGODB_URL", "DB_PASSWORD", "DYNAMODB_TABLE", "DYNAMODB_TABLE_NAME")  # fmt: skip


def configuration(environ: Mapping[str, str], folder: Path | None) -> Configuration:
    """What LuminoraCore would be told by these variables and by the luminora_config.json of that folder, its working folder; None: by no file.

    Raises ConfigError for a file that is none.
    """
    path = (folder or Path()) / FILE
    storage = _storage(path) if folder is not None and path.is_file() else None
    stores = {name: _sort_of_store(name, sort, path, storage or {}, environ) for name, sort in _SORTS.items()}
    types = [] if storage is None else [_type_of_file(path, storage.get("type"))]
    types.append(_type_of_variable(environ.get(TYPE_VARIABLE)))
    read = {TYPE_VARIABLE} | {item.variable for store in stores.values() for item in store.items.values()}
    unread = [name for name in environ if name in _NOT_READ or (name.startswith("LUMINORA_") and name not in read)]
    return Configuration(path if storage is not None else None, tuple(types), stores, tuple(sorted(unread)))


def _storage(path: Path) -> dict[str, Any]:
    """The one table of the file; one that is no table says nothing."""
    try:
        storage = json.loads(path.read_text("utf-8"))["storage"]
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot be read: {exc.strerror}; give this user the right to, or write the address out"
        ) from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(
            f'{path}: not a LuminoraCore configuration ({{"storage": {{"type": …}}}}): mend it, or write the address out'
        ) from exc
    return storage if isinstance(storage, dict) else {}


def _sort_of_store(
    name: str, sort: _Sort, path: Path, storage: dict[str, Any], environ: Mapping[str, str]
) -> SortOfStore:
    held = storage.get(sort.section)
    section = held if isinstance(held, dict) else {}
    items = {}
    for key, (ending, default) in sort.keys.items():
        variable = f"{sort.begins}{ending}" if ending else None
        told = []
        if text := _text(key, section.get(key)):
            told.append(Told(SET if key in _SECRET else text, f"{path}: storage.{sort.section}.{key}"))
        if variable is not None and environ.get(variable):
            told.append(Told(SET if key in _SECRET else environ[variable], variable))
        # A section that is null as a whole is no better: LuminoraCore asks it for its keys.
        is_null = (section[key] is None) if key in section else (sort.section in storage and held is None)
        items[key] = Item(key, variable, default, key in _SECRET, is_null, tuple(told))
    return SortOfStore(name, items, sort.words)


def _text(key: str, value: Any) -> str:
    """A value of the file as a variable would hold it; empty for null, and for what no variable could hold."""
    if key in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _type_of_file(path: Path, value: Any) -> StorageType:
    told = Told(value if isinstance(value, str) else json.dumps(value), f"{path}: storage.type")
    if not isinstance(value, str) or value not in _TYPES:
        return StorageType(told, None, f"LuminoraCore refuses it; it accepts {', '.join(_TYPES)}")
    return StorageType(told, _TYPES[value], _SORTS["postgresql"].words if _TYPES[value] is None else "")


def _type_of_variable(value: str | None) -> StorageType:
    if not value:
        words = "LuminoraCore takes it if nobody says another: " + _SORTS["in_memory"].words
        return StorageType(Told("in_memory", "LuminoraCore's own default"), "in_memory", words)
    told = Told(value, TYPE_VARIABLE)
    if value not in _TYPES:
        words = f"LuminoraCore does not know the word and silently takes in_memory; it accepts {', '.join(_TYPES)}"
        return StorageType(told, "in_memory", words)
    return StorageType(told, _TYPES[value], _SORTS["postgresql"].words if _TYPES[value] is None else "")


def advice(address: Address) -> Advice | None:
    """How LuminoraCore is told to use a store; None where it cannot (fact sheet 8)."""
    if address.store == "dynamodb":
        table, region = address.name, address.options.get("region", "eu-west-1")
        # LuminoraCore has no argument for an endpoint; boto3 takes it from there (fact sheet 8.2).
        endpoint = address.options.get("endpoint")
        there = f" AWS_ENDPOINT_URL_DYNAMODB={shlex.quote(endpoint)}" if endpoint else ""
        return Advice(
            "dynamodb",
            address.text,
            f"export LUMINORA_STORAGE_TYPE=dynamodb_flexible LUMINORA_DYNAMODB_TABLE={table} LUMINORA_DYNAMODB_REGION={region}{there}",
            f'{{"storage": {{"type": "dynamodb_flexible", "dynamodb": {{"table_name": "{table}", "region": "{region}"}}}}}}',
            f'FlexibleDynamoDBStorageV11(table_name="{table}", region_name="{region}")',
        )
    if address.store == "sql":
        path = json.dumps(address.name, ensure_ascii=False)
        return Advice(
            "sqlite",
            f"sqlite:///{address.name}",
            f"export LUMINORA_STORAGE_TYPE=sqlite_flexible LUMINORA_SQLITE_PATH={shlex.quote(address.name)}",
            f'{{"storage": {{"type": "sqlite_flexible", "sqlite": {{"database_path": {path}}}}}}}',
            f"FlexibleSQLiteStorageV11(database_path={path})",
        )
    return None
