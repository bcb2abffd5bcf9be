"""What LuminoraCore is told by its file and its variables, and what it makes of that (fact sheet 8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrator.config import resolve
from migrator.errors import ConfigError
from migrator.luminoracore import Told, advice, configuration


def configured(folder: Path, **storage: Any) -> Path:
    path = folder / "luminora_config.json"
    path.write_text(json.dumps({"storage": storage}))
    return path


def test_every_sort_of_store_that_luminoracore_names_is_there(tmp_path: Path) -> None:
    found = configuration({}, tmp_path)
    assert found.file is None
    assert list(found.stores) == ["in_memory", "sqlite", "dynamodb", "postgresql", "mysql", "mongodb", "redis", "json"]
    assert not any(store.is_told for store in found.stores.values())
    assert found.unread == ()


def test_what_nobody_says_is_luminoracores_own_default(tmp_path: Path) -> None:
    """Fact sheet 8.4; migrator itself never uses them."""
    defaults = {
        name: {item.key: item.default for item in store.items.values() if item.default is not None}
        for name, store in configuration({}, tmp_path).stores.items()
    }
    assert defaults == {
        "in_memory": {},
        "sqlite": {"database_path": "./luminora.db"},
        "dynamodb": {"table_name": "luminora-sessions", "region": "eu-west-1"},
        "postgresql": {"host": "localhost", "port": "5432", "database": "luminora", "schema": "public", "username": "postgres"},
        "mysql": {},
        "mongodb": {"host": "localhost", "port": "27017", "database": "luminora"},
        "redis": {"host": "localhost", "port": "6379", "db": "0", "key_prefix": "luminora"},
        "json": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "sort", "key"),
    [
        ("LUMINORA_SQLITE_PATH", "sqlite", "database_path"),
        ("LUMINORA_SQLITE_FACTS_TABLE", "sqlite", "facts_table"),
        ("LUMINORA_SQLITE_AFFINITY_TABLE", "sqlite", "affinity_table"),
        *(
            (f"LUMINORA_DYNAMODB_{end}", "dynamodb", key)
            for end, key in [
                ("TABLE", "table_name"),
                ("REGION", "region"),
                ("HASH_KEY", "hash_key"),
                ("RANGE_KEY", "range_key"),
            ]
        ),
        *(
            (f"LUMINORA_POSTGRES_{key.upper()}", "postgresql", key)
            for key in ("host", "port", "database", "schema", "username")
        ),
        *((f"LUMINORA_REDIS_{key.upper()}", "redis", key) for key in ("host", "port", "db", "key_prefix")),
        *((f"LUMINORA_MONGODB_{key.upper()}", "mongodb", key) for key in ("host", "port", "database", "username")),
    ],
)
def test_each_variable_that_luminoracore_reads_is_known(variable: str, sort: str, key: str, tmp_path: Path) -> None:
    found = configuration({variable: "said"}, tmp_path)
    assert found.stores[sort].items[key].told == (Told("said", variable),)
    assert [name for name, store in found.stores.items() if store.is_told] == [sort]
    assert found.unread == ()


def test_file_and_variable_are_both_told(tmp_path: Path) -> None:
    path = configured(tmp_path, type="redis_flexible", redis={"host": "cache", "port": 6380, "db": None, "odd": 1})
    found = configuration({"LUMINORA_REDIS_HOST": "other"}, tmp_path)
    items = found.stores["redis"].items
    assert found.file == path
    assert items["host"].told == (Told("cache", f"{path}: storage.redis.host"), Told("other", "LUMINORA_REDIS_HOST"))
    assert items["port"].told == (Told("6380", f"{path}: storage.redis.port"),)
    assert (items["db"].told, items["db"].is_null, items["port"].is_null) == ((), True, False)


def test_of_a_password_only_that_it_is_set_is_known(tmp_path: Path) -> None:
    configured(tmp_path, type="mongodb_flexible", mongodb={"password": "hunter2"}, postgresql={"password": "hunter2"})
    found = configuration({"LUMINORA_POSTGRES_PASSWORD": "hunter2", "LUMINORA_MONGODB_PASSWORD": "hunter2"}, tmp_path)
    assert "hunter2" not in repr(found)
    for sort in ("mongodb", "postgresql"):
        password = found.stores[sort].items["password"]
        assert (password.is_secret, [told.value for told in password.told]) == (True, ["set", "set"])
    assert configuration({}, tmp_path / "elsewhere").stores["mongodb"].items["password"].told == ()


@pytest.mark.parametrize("word", ["postgres", "sqlite", "redis", "dynamodb", "SQLITE_FLEXIBLE", "in_memory_flexible"])
def test_a_word_of_the_variable_that_luminoracore_does_not_know_is_silently_memory(word: str, tmp_path: Path) -> None:
    """Fact sheet 8.4: the conversations are gone with the process, and nobody was told."""
    (found,) = configuration({"LUMINORA_STORAGE_TYPE": word}, tmp_path).types
    assert (found.told, found.becomes) == (Told(word, "LUMINORA_STORAGE_TYPE"), "in_memory")
    assert "silently takes in_memory" in found.words


@pytest.mark.parametrize("word", ["in_memory_flexible", "sqlite", "postgres", None, 5])
def test_a_word_of_the_file_that_luminoracore_does_not_know_is_refused(word: Any, tmp_path: Path) -> None:
    """Fact sheet 8.3: `storage init` itself writes in_memory_flexible, and the install guide "sqlite"."""
    path = configured(tmp_path, type=word)
    found = configuration({}, tmp_path).types[0]
    assert (found.told.by, found.becomes) == (f"{path}: storage.type", None)
    assert "LuminoraCore refuses it; it accepts in_memory, sqlite_flexible" in found.words


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("in_memory", "in_memory"),
        ("sqlite_flexible", "sqlite"),
        ("dynamodb_flexible", "dynamodb"),
        ("redis_flexible", "redis"),
        ("mongodb_flexible", "mongodb"),
        ("postgresql_flexible", None),
    ],
)
def test_a_type_that_luminoracore_knows_is_that_store(word: str, becomes: str | None, tmp_path: Path) -> None:
    configured(tmp_path, type=word)
    types = configuration({"LUMINORA_STORAGE_TYPE": word}, tmp_path).types
    assert [(each.told.value, each.becomes) for each in types] == [(word, becomes)] * 2
    assert all(("TypeError" in each.words) is (becomes is None) for each in types)


def test_without_a_type_it_is_memory_by_luminoracores_own_default(tmp_path: Path) -> None:
    (found,) = configuration({"LUMINORA_STORAGE_TYPE": ""}, tmp_path).types
    assert (found.told, found.becomes) == (Told("in_memory", "LuminoraCore's own default"), "in_memory")


def test_variables_that_only_the_documents_name_are_said_to_be_unread(tmp_path: Path) -> None:
    environ = {
        "DYNAMODB_TABLE_NAME": "chat",
        "REDIS_URL": "x",
        "LUMINORA_CACHE": "1",
        "LUMINORA_REDIS_DB": "1",
        "HOME": "/",
    }
    assert configuration(environ, tmp_path).unread == ("DYNAMODB_TABLE_NAME", "LUMINORA_CACHE", "REDIS_URL")


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "luminora_config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="not a LuminoraCore configuration"):
        configuration({}, tmp_path)


def test_a_table_at_an_endpoint_is_advised_with_it() -> None:
    """Without it the application would look for the table at AWS."""
    found = advice(resolve("dynamodb://chat?region=eu-west-1&endpoint=http://localhost:8000"))
    assert found is not None
    assert found.environment.endswith(" AWS_ENDPOINT_URL_DYNAMODB=http://localhost:8000")
    found = advice(resolve("dynamodb://chat?region=eu-west-1"))
    assert found is not None
    assert "ENDPOINT" not in found.environment
