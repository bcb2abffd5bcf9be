"""What a person may write for a store, and what they are told where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.config import resolve
from migrator.errors import ConfigError
from migrator.model import Address


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ana")


def configured(**sections: Any) -> None:
    Path("luminora_config.json").write_text(json.dumps({"storage": {"type": "sqlite_flexible", **sections}}))


def refusal(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(text, environ or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "scheme", "path"),
    [
        ("sqlite:///chat.db", "sqlite", "{here}/chat.db"),
        ("sqlite:///data/chat.db", "sqlite", "{here}/data/chat.db"),
        ("sqlite:////data/chat.db", "sqlite", "/data/chat.db"),
        ("SQLite:////data/chat.db", "sqlite", "/data/chat.db"),
        ("sqlite:///my%20chat%3F.db", "sqlite", "{here}/my chat?.db"),
        ("sqlite:///100%.db", "sqlite", "{here}/100%.db"),
        ("sqlite:///~/chat", "sqlite", "/home/ana/chat"),
        ("sqlite:///chat.db?", "sqlite", "{here}/chat.db"),
        ("chat.db", "sqlite", "{here}/chat.db"),
        ("./a b/chat.SQLite", "sqlite", "{here}/a b/chat.SQLite"),
        ("/data/chat.sqlite3", "sqlite", "/data/chat.sqlite3"),
        ("~/chat.db", "sqlite", "/home/ana/chat.db"),
        ("./~.db", "sqlite", "{here}/~.db"),
        ("what?%20.db", "sqlite", "{here}/what?%20.db"),
        ("json:chat.json", "json", "{here}/chat.json"),
        ("json:/data/chat", "json", "/data/chat"),
        ("json:///data/chat", "json", "/data/chat"),
        ("json:my%20chat", "json", "{here}/my%20chat"),
        ("chat.json", "json", "{here}/chat.json"),
        ("chat.json.gz", "json", "{here}/chat.json.gz"),
        ("jsonl:facts.jsonl.gz", "jsonl", "{here}/facts.jsonl.gz"),
        ("facts.jsonl.zst", "jsonl", "{here}/facts.jsonl.zst"),
        ("facts.ndjson", "jsonl", "{here}/facts.ndjson"),
    ],
)
def test_a_file_is_found_by_url_or_by_suffix(text: str, scheme: str, path: str, tmp_path: Path) -> None:
    address = resolve(text, {})
    assert (address.scheme, address.name) == (scheme, path.format(here=tmp_path))
    assert address.store == {"sqlite": "sql"}.get(scheme, scheme)


@pytest.mark.parametrize(
    ("text", "table", "options"),
    [
        ("dynamodb://luminoracore-sessions", "luminoracore-sessions", {}),
        ("dynamodb://a.b_c-1?region=eu-west-1", "a.b_c-1", {"region": "eu-west-1"}),
        ("DYNAMODB://Chat?endpoint=http://localhost:8000", "Chat", {"endpoint": "http://localhost:8000"}),
        (
            "dynamodb://chat?endpoint=http%3A%2F%2F127.0.0.1%3A8000&profile=my%20own",
            "chat",
            {"endpoint": "http://127.0.0.1:8000", "profile": "my own"},
        ),
        ("dynamodb:chat", "chat", {}),
    ],
)
def test_a_table_is_found_by_url(text: str, table: str, options: dict[str, str]) -> None:
    address = resolve(text, {})
    assert (address.scheme, address.store, address.name, address.options) == ("dynamodb", "dynamodb", table, options)


def test_a_store_in_memory_has_a_name() -> None:
    assert resolve("memory:a", {}) == resolve("memory://a", {}) == Address("memory", "memory", "memory:a", "a")


FILES = st.text(
    st.characters(min_codepoint=33, exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=9
)


@given(FILES, st.sampled_from([".db", ".json", ".jsonl.gz"]))
def test_an_address_as_it_is_shown_means_the_same_store(name: str, suffix: str) -> None:
    address = resolve(f"./{name}{suffix}", {})
    assert resolve(address.text, {}) == address


@pytest.mark.parametrize(
    "text",
    [
        "dynamodb://chat?endpoint=http://localhost:8000&region=x&profile=a%26b%3D",
        "dynamodb://chat?endpoint=http://[::1]:8000",
        "memory:a",
    ],
)
def test_a_table_as_it_is_shown_means_the_same_table(text: str) -> None:
    assert resolve(resolve(text, {}).text, {}) == resolve(text, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty address. Addresses look like sqlite:///chat.db"),
        ("  \t", "an empty address"),
        ("chat\0.db", "a control character"),
        ("chat\n.db", "a control character"),
        ("chat\udcff.db", "bytes in it that are not UTF-8"),
        ("sqlite:///chat%00.db", "a control character"),
        ("chat", '"chat" is no address. Addresses look like'),
        ("sqlit", '"sqlit" is no address (did you mean "sqlite"?)'),
        ("chat.txt", '"chat.txt" is no address'),
        ("~nobody-of-this-name/chat.db", "no such user; write the path out"),
        ("sqlite://chat.db", "written with three slashes, sqlite:///chat.db"),
        ("sqlite:chat.db", "written with three slashes, sqlite:///chat.db"),
        ("sqlite:/data/chat.db", "(four for an absolute path)"),
        ("sqlite:", "written with three slashes, sqlite:///chat.db"),
        ("sqlite:///", "the name of a file is missing"),
        ("sqlite:///data/", "the name of a file is missing"),
        ("sqlite:///:memory:", "a SQLite database in memory"),
        ("sqlite:///chat.db?mode=ro", "has no option but ?tz=ZONE; use sqlite:///chat.db"),
        ("json:", "the name of a file is missing"),
        ("json://chat.json", "written without slashes, json:chat.json"),
        ("jsonl://", "written without slashes, jsonl:chat.jsonl"),
        ("sqllite:///chat.db", 'unknown scheme "sqllite:" (did you mean "sqlite"?)'),
        ("dynamo://chat", 'unknown scheme "dynamo:" (did you mean "dynamodb"?)'),
        ("sqlite+aiosqlite:///chat.db", 'unknown scheme "sqlite+aiosqlite:"'),
        ("s3://bucket/chat.json", 'unknown scheme "s3:". Addresses look like'),
        ("C:\\chat.db", 'unknown scheme "c:"'),
        ("postgresql://localhost/chat", "no adapter for it yet; it knows sqlite, json"),
        ("postgresql+psycopg://localhost/chat", "no adapter for it yet"),
        ("redis", "no adapter for it yet"),
        ("mongodb", "no adapter for it yet"),
        ("memory", '"memory" needs a name: memory:NAME'),
        ("dynamodb://", "is no DynamoDB table name"),
        ("dynamodb://ab", '"ab" is no DynamoDB table name (3 to 255'),
        ("dynamodb://my/table", '"my/table" is no DynamoDB table name'),
        ("dynamodb://my%20table", '"my table" is no DynamoDB table name'),
        ("dynamodb://chat#x", "is no DynamoDB table name"),
        ("dynamodb://[chat", "a DynamoDB address looks like dynamodb://table"),
        ("dynamodb://chat?regoin=x", 'unknown option "regoin" (did you mean "region"?)'),
        ("dynamodb://chat?key=x", 'unknown option "key"; there are region, endpoint, profile and tz'),
        ("dynamodb://chat?region=", 'the option "region" is empty'),
        ("dynamodb://chat?endpoint=localhost:8000", "an endpoint looks like http://localhost:8000"),
        ("dynamodb://chat?endpoint=http://", "an endpoint looks like http://localhost:8000"),
        ("dynamodb://chat?endpoint=http://[x", "an endpoint looks like http://localhost:8000"),
    ],
)
def test_a_wrong_address_is_told_in_one_line_with_the_right_spelling(text: str, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ana:hunter2@host/db",
        "postgres://ana:hunter2@host/db",
        "redis://:hunter2@host",
        "mongodb+srv://ana:hunter2@host/db",
        "mssql://ana:hunter2@host/db",
        "sqlite://ana:hunter2@host/chat.db",
        "sqlite://ana:hun/hunter2@host/chat.db",
        "sqlite:///chat.db?key=hunter2",
        "sqlite://chat.db?key=hunter2",
        "json://ana:hunter2@host/chat.json",
        "dynamodb://AKIA1:hunter2@chat",
        "dynamodb://AKIA1:hun/hunter2@chat",
        "dynamodb://AKIA1:hunter2",
        "dynamodb://chat?aws_secret_access_key=hunter2",
        "dynamodb://chat?endpoint=http://ana:hunter2@host:8000",
        "dynamodb://chat?endpoint=http://ana:hun/hunter2@host:8000",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    assert "hunter2" not in refusal(text)


# Bare words --------------------------------------------------------------------------------------------------------------


def test_a_bare_word_is_explained_by_luminoracores_own_configuration(tmp_path: Path) -> None:
    configured(sqlite={"database_path": "lumi.db"}, dynamodb={"table_name": "chat", "region": "eu-west-1"})
    assert resolve("sqlite", {}).name == str(tmp_path / "lumi.db")
    assert resolve("dynamodb", {}) == resolve("dynamodb://chat?region=eu-west-1", {})


def test_a_bare_word_is_explained_by_the_environment(tmp_path: Path) -> None:
    environ = {
        "LUMINORA_SQLITE_PATH": "/data/lumi.db",
        "LUMINORA_DYNAMODB_TABLE": "chat",
        "LUMINORA_DYNAMODB_REGION": "x",
    }
    assert resolve("sqlite", environ).name == "/data/lumi.db"
    assert resolve("dynamodb", environ) == resolve("dynamodb://chat?region=x", {})
    del environ["LUMINORA_DYNAMODB_REGION"]
    assert resolve("dynamodb", environ) == resolve("dynamodb://chat", {})


def test_a_configuration_in_another_folder_is_found_where_it_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "luminora_config.json").write_text(
        '{"storage": {"sqlite": {"database_path": "/data/lumi.db"}}}'
    )
    assert resolve("sqlite", {}, tmp_path / "there").name == "/data/lumi.db"


@pytest.mark.parametrize(
    "held", [{"sqlite": {"database_path": None}}, {"sqlite": None}, {}, {"sqlite": {"database_path": ""}}]
)
def test_nulls_of_storage_init_say_nothing(held: dict[str, Any]) -> None:
    """Fact sheet 8.3: `luminoracore storage init` writes null for every value."""
    configured(**held)
    words = refusal("sqlite", {"LUMINORA_SQLITE_PATH": ""})
    assert '"sqlite" has no address: neither LUMINORA_SQLITE_PATH nor luminora_config.json' in words
    assert words.endswith("Write it out: sqlite:///FILE")
    assert resolve("sqlite", {"LUMINORA_SQLITE_PATH": "/data/a.db"}).name == "/data/a.db"


def test_a_bare_word_that_nobody_explains_lists_what_is_here() -> None:
    """LuminoraCore's built-in guesses (./luminora.db, luminora-sessions) are never used."""
    for name in ("luminora.db", "b.sqlite", "c.json", "luminora_config.jsonl"):
        Path(name).touch()
    configured()
    assert refusal("sqlite").endswith("Write it out: sqlite:///FILE (in this folder: b.sqlite, luminora.db)")
    assert refusal("json").endswith("Write it out: json:FILE (in this folder: c.json)")
    assert refusal("dynamodb").endswith("Write it out: dynamodb://TABLE?region=REGION")
    assert "LUMINORA_DYNAMODB_TABLE" in refusal("dynamodb")


def test_two_that_disagree_are_both_named(tmp_path: Path) -> None:
    configured(sqlite={"database_path": "/data/a.db"}, dynamodb={"table_name": "chat", "region": "eu-west-1"})
    words = refusal("sqlite", {"LUMINORA_SQLITE_PATH": "/data/b.db"})
    assert (
        words
        == f"sqlite: {tmp_path}/luminora_config.json: storage.sqlite.database_path says /data/a.db and LUMINORA_SQLITE_PATH says /data/b.db. Write the address out"
    )
    assert resolve("sqlite", {"LUMINORA_SQLITE_PATH": "/data/a.db"}).name == "/data/a.db"
    assert "dynamodb region" in refusal("dynamodb", {"LUMINORA_DYNAMODB_REGION": "us-east-1"})


@pytest.mark.parametrize("held", ["", "{", "[]", "{}", "5", '{"storage"', "\ufeff{}"])
def test_a_configuration_that_is_none_is_named(held: str) -> None:
    Path("luminora_config.json").write_text(held, "utf-8")
    assert "luminora_config.json: not a LuminoraCore configuration" in refusal(
        "sqlite", {"LUMINORA_SQLITE_PATH": "a.db"}
    )


@pytest.mark.parametrize("held", ['{"storage": null}', '{"storage": []}', '{"storage": {"sqlite": [1]}}'])
def test_a_configuration_that_says_nothing_of_a_store_says_nothing(held: str) -> None:
    Path("luminora_config.json").write_text(held)
    assert "has no address" in refusal("sqlite")


def test_what_is_configured_must_be_an_address_too() -> None:
    configured(sqlite={"database_path": ":memory:"}, dynamodb={"table_name": "a b"})
    assert "a SQLite database in memory" in refusal("sqlite")
    assert "is no DynamoDB table name" in refusal("dynamodb")


@given(
    st.text(max_size=30)
    | st.from_regex(r"(sqlite|json|jsonl|dynamodb|memory|x):/{0,4}[a-z@:?#%\[\]/=&.~]{0,20}", fullmatch=True)
)
def test_whatever_is_written_is_an_address_or_refused(text: str) -> None:
    try:
        address = resolve(text, {})
    except ConfigError as exc:
        assert "\n" not in str(exc)  # noqa: PT017
    else:
        assert address.text
