"""Ways of being broken, each made for real: doctor names the cause and the line that mends it, and after that line it is well.

A line of the shell is run in one, an `export` or `unset` becomes the environment, a line for `aws` is done to the endpoint, which is ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import aws
import migrator
from conftest import skip_for
from migrator import commands
from migrator.examination import Diagnosis, Examination
from migrator.model import Finding

DATA = Path(__file__).parent / "data"
Mend = Callable[[str], object]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    for name in list(os.environ):
        if name.startswith(("AWS_", "LUMINORA")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[aws.Cloud]:
    """An endpoint of ours with one good table, and an environment in which LuminoraCore finds it."""
    with aws.running() as running:
        running.table("luminora-sessions", "eu-west-1", ("user_id", "SK"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", running.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-words")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        monkeypatch.setenv("LUMINORA_STORAGE_TYPE", "dynamodb_flexible")
        yield running


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LuminoraCore's own SQLite file, configured."""
    path = tmp_path / "chat.db"
    shutil.copy(DATA / "chat.db", path)
    monkeypatch.setenv("LUMINORA_STORAGE_TYPE", "sqlite_flexible")
    monkeypatch.setenv("LUMINORA_SQLITE_PATH", str(path))
    return path


def of(found: Examination, store: str) -> Diagnosis:
    return next(each for each in found.diagnoses if each.store == store)


def faults(found: Examination) -> list[Finding]:
    active = [finding for each in found.diagnoses if each.is_active for finding in each.findings]
    return [each for each in (*found.configuration, *active) if each.verdict == "fault"]


def do(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person does who pastes the line."""
    if line.startswith("export "):
        for name, value in re.findall(r"(\w+)=('[^']*'|\S+)", line):
            text = value.strip("'")
            monkeypatch.setenv(name, os.environ[text[1:]] if text.startswith("$") else text)
    elif line.startswith("unset "):
        for name in line.split()[1:]:
            monkeypatch.delenv(name, raising=False)
    else:
        line = re.sub(r"\bmigrator ", f"{sys.executable} -m migrator ", line)
        subprocess.run(
            line if "init" not in line or "--yes" in line else f"{line} --yes",
            shell=True,
            check=True,
            capture_output=True,
        )


# DynamoDB --------------------------------------------------------------------------------------------------------------


def test_a_good_table_is_well_and_nothing_is_written(cloud: aws.Cloud) -> None:
    found = commands.doctor()
    assert faults(found) == []
    assert found.is_well
    assert cloud.written == []
    table = of(found, "dynamodb")
    assert (table.is_active, table.is_reached, table.is_usable, table.persists) == (True, True, True, True)
    assert found.advice is not None
    assert "LUMINORA_DYNAMODB_TABLE=luminora-sessions" in found.advice.environment


INDEX = {"IndexName": "GSI1", "KeySchema": [{"AttributeName": "GSI1PK", "KeyType": "HASH"}, {"AttributeName": "GSI1SK", "KeyType": "RANGE"}], "Projection": {"ProjectionType": "ALL"}}  # fmt: skip


def _gone(cloud: aws.Cloud, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.delenv(name)


def _moved(cloud: aws.Cloud, name: str, region: str) -> None:
    described = cloud.tables.pop(("eu-west-1", "luminora-sessions"))
    cloud.tables[region, name] = described


def _change(cloud: aws.Cloud, **more: Any) -> None:
    cloud.tables["eu-west-1", "luminora-sessions"] |= more


def _keyed(cloud: aws.Cloud, *key: str, **types: str) -> None:
    described = cloud.table("luminora-sessions", "eu-west-1", key)
    for each in described["AttributeDefinitions"]:
        each["AttributeType"] = types.get(each["AttributeName"], "S")


# What is broken; which rung, and words of what was seen; words of the line; what the line for `aws`, a policy or a person does to the endpoint.
BROKEN: list[tuple[str, Callable[[aws.Cloud, pytest.MonkeyPatch], object], str, str, str, Callable[[aws.Cloud, pytest.MonkeyPatch], object] | None]] = [
    ("no credentials", lambda c, m: _gone(c, m, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "credentials", "none could be had", "^export AWS_ACCESS_KEY_ID=", None),
    ("half of the credentials", lambda c, m: _gone(c, m, "AWS_SECRET_ACCESS_KEY"), "credentials", "none could be had", "^export AWS_ACCESS_KEY_ID=", None),
    ("wrong credentials", lambda c, m: c.faults.update({"*": "UnrecognizedClientException"}), "credentials", "UnrecognizedClientException", "^aws sts get-caller-identity", lambda c, m: c.faults.clear()),
    ("a wrong secret", lambda c, m: c.faults.update({"*": "InvalidSignatureException"}), "credentials", "InvalidSignatureException", "^aws sts", lambda c, m: c.faults.clear()),
    ("expired credentials", lambda c, m: c.faults.update({"*": "ExpiredTokenException"}), "credentials", "expired", "^aws sso login", lambda c, m: c.faults.clear()),
    ("a profile that is not there", lambda c, m: m.setenv("AWS_PROFILE", "prod"), "credentials", "no AWS profile prod", "^aws configure list-profiles", lambda c, m: m.delenv("AWS_PROFILE")),
    ("another region", lambda c, m: _moved(c, "luminora-sessions", "us-east-1"), "table", "it is in us-east-1", "^export LUMINORA_DYNAMODB_REGION=us-east-1$", None),
    ("another name", lambda c, m: _moved(c, "luminora-session", "eu-west-1"), "table", "there is luminora-session", "^export LUMINORA_DYNAMODB_TABLE=luminora-session$", None),
    ("no table", lambda c, m: c.tables.clear(), "table", "there is no table luminora-sessions in eu-west-1", "^migrator init ", None),
    ("a table being made", lambda c, m: _change(c, TableStatus="CREATING"), "table", "CREATING", "^aws dynamodb wait table-exists", lambda c, m: _change(c, TableStatus="ACTIVE")),
    ("a table being deleted", lambda c, m: _change(c, TableStatus="DELETING"), "table", "DELETING", "^aws dynamodb wait table-not-exists", lambda c, m: _change(c, TableStatus="ACTIVE")),
    ("no permission to describe", lambda c, m: c.denied.add("DescribeTable"), "permission", "dynamodb:DescribeTable", '"dynamodb:DescribeTable"', lambda c, m: c.denied.clear()),
    ("no permission to write", lambda c, m: c.denied.update(("PutItem", "DeleteItem")), "permission", "dynamodb:DeleteItem, dynamodb:PutItem", '"dynamodb:PutItem"', lambda c, m: c.denied.clear()),
    ("no permission to query", lambda c, m: c.denied.add("Query"), "permission", "dynamodb:Query", "table/luminora-sessions/index", lambda c, m: c.denied.clear()),
    ("no permission to update", lambda c, m: c.denied.add("UpdateItem"), "permission", "dynamodb:UpdateItem", '"Allow"', lambda c, m: c.denied.clear()),
    ("only a hash key", lambda c, m: _keyed(c, "session_id"), "keys", "only a hash, session_id", "^migrator init ", lambda c, m: _keyed(c, "user_id", "SK")),
    ("a number as key", lambda c, m: _keyed(c, "user_id", "SK", SK="N"), "keys", "SK has type N", "^migrator init ", lambda c, m: _keyed(c, "user_id", "SK")),
    ("id/created_at", lambda c, m: _keyed(c, "id", "created_at"), "keys", "created_at, which LuminoraCore overwrites", "^migrator init ", lambda c, m: _keyed(c, "user_id", "SK")),
    ("session_id/timestamp (L3)", lambda c, m: _keyed(c, "session_id", "timestamp"), "layout", "does not find again what it writes of .*fact", "^migrator init .*-2.* --yes && export LUMINORA_DYNAMODB_TABLE=luminora-sessions-2$", lambda c, m: _keyed(c, "user_id", "SK")),
    ("PK/SK (L1, B9)", lambda c, m: _keyed(c, "PK", "SK"), "layout", "does not find again what it writes of .*fact", "^migrator init ", lambda c, m: _keyed(c, "user_id", "SK")),
    ("an index without a range key", lambda c, m: _change(c, GlobalSecondaryIndexes=[INDEX | {"KeySchema": INDEX["KeySchema"][:1]}]), "index", "GSI1 has no range key", '"Delete": {"IndexName": "GSI1"}', lambda c, m: _change(c, GlobalSecondaryIndexes=[])),
    ("an index that lacks fields", lambda c, m: _change(c, GlobalSecondaryIndexes=[INDEX | {"Projection": {"ProjectionType": "KEYS_ONLY"}}]), "index", "GSI1 projects KEYS_ONLY", "Delete", lambda c, m: _change(c, GlobalSecondaryIndexes=[])),
    ("another hash key in the configuration", lambda c, m: m.setenv("LUMINORA_DYNAMODB_HASH_KEY", "PK"), "keys", "LUMINORA_DYNAMODB_HASH_KEY says PK, and the table has user_id", "^unset LUMINORA_DYNAMODB_HASH_KEY$", None),
    ("nobody at the endpoint", lambda c, m: m.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{_free_port()}"), "endpoint", "nothing answers at http://127.0.0.1", "^unset AWS_ENDPOINT_URL_DYNAMODB", lambda c, m: m.setenv("AWS_ENDPOINT_URL_DYNAMODB", c.endpoint)),
]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "breaking", "rung", "seen", "line", "mending"), BROKEN, ids=[each[0] for each in BROKEN]
)
def test_a_broken_table_is_named_with_the_line_that_mends_it(
    name: str,
    breaking: Any,
    rung: str,
    seen: str,
    line: str,
    mending: Any,
    cloud: aws.Cloud,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaking(cloud, monkeypatch)
    began = time.monotonic()
    found = commands.doctor()
    (fault, *_) = faults(found)
    assert not found.is_well
    assert fault.what == rung
    assert re.search(seen, fault.seen), fault
    assert re.search(line, fault.mend), fault
    assert "very-secret-words" not in json.dumps(found.to_plain())
    assert cloud.written == []
    assert time.monotonic() - began < 30
    if mending is not None:
        mending(cloud, monkeypatch)
    else:
        do(
            fault.mend.replace(
                "AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...", "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b"
            ),
            monkeypatch,
        )
    assert faults(commands.doctor()) == []
    assert commands.doctor().is_well


def test_no_region_names_the_variable_that_counts(cloud: aws.Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact sheet 8.2: AWS_REGION alone is not enough. A table that is named here has no region of LuminoraCore's."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    (fault,) = of(commands.doctor("dynamodb://luminora-sessions"), "dynamodb").findings
    assert (fault.what, fault.mend) == ("region", "export AWS_DEFAULT_REGION=eu-west-1")
    assert "AWS_REGION=eu-west-1 alone is not read" in fault.seen
    do(fault.mend, monkeypatch)
    assert commands.doctor("dynamodb://luminora-sessions").is_well


def test_a_region_that_is_spelt_wrong_is_named(cloud: aws.Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoint has no address, so that it looks like a network that is down."""
    monkeypatch.delenv("AWS_ENDPOINT_URL_DYNAMODB")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{_free_port()}")
    monkeypatch.setenv("LUMINORA_DYNAMODB_REGION", "eu-west1")
    fault = faults(commands.doctor())[0]
    assert (fault.what, fault.mend) == ("region", "export LUMINORA_DYNAMODB_REGION=eu-west-1")
    assert fault.seen.startswith("boto3 knows no region eu-west1, and nothing answers at https://dynamodb.eu-west1.")
    do(fault.mend, monkeypatch)
    fault = faults(commands.doctor())[0]
    assert (fault.what, fault.mend) == ("endpoint", "check the network and the proxy")
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", cloud.endpoint)
    assert commands.doctor().is_well


def test_time_to_live_is_told(cloud: aws.Cloud) -> None:
    cloud.time_to_live = {"TimeToLiveStatus": "ENABLED", "AttributeName": "TTL"}
    found = commands.doctor()
    (note,) = [each for each in of(found, "dynamodb").findings if each.what == "time-to-live"]
    assert (note.verdict, "30 days" in note.seen) == ("note", True)
    assert note.mend.startswith("aws dynamodb update-time-to-live")
    cloud.time_to_live = {"TimeToLiveStatus": "DISABLED"}
    (off,) = [each for each in of(commands.doctor(), "dynamodb").findings if each.what == "time-to-live"]
    assert (off.verdict, off.seen) == ("well", "off")


def test_a_real_table_is_well(dynamodb_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.examination.LOOK_SECONDS", 60)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    name = f"doctor-{os.getpid()}-{tmp_path.name[:40]}"
    address = f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_endpoint}"
    assert not commands.doctor(address).is_well
    commands.init(address).make()
    found = commands.doctor(address)
    assert found.is_well, found.to_plain()
    looked = {each.what for each in found.diagnoses[0].findings}
    assert looked >= {"region", "credentials", "endpoint", "table", "keys", "permission", "layout", "records"}
    migrator.migrate(DATA / "chat.db", address)
    filled = commands.doctor(address).diagnoses[0]
    assert (filled.records, filled.is_all) == (581, True)
    assert filled.newest is not None


# SQLite ----------------------------------------------------------------------------------------------------------------


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _corrupt(path: Path) -> None:
    """A page in the middle of the file holds something else."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(data)


def _core(path: Path) -> None:
    """B11: what Core's migration 001 makes, as far as names go."""
    path.unlink()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "CREATE TABLE user_facts (id TEXT PRIMARY KEY, user_id TEXT, category TEXT, fact_key TEXT, fact_value TEXT)"
        )
        db.execute("CREATE TABLE episodes (id TEXT PRIMARY KEY, user_id TEXT, timestamp TIMESTAMP NOT NULL)")


def _folder_gone(path: Path) -> None:
    os.environ["LUMINORA_SQLITE_PATH"] = str(path.parent / "data" / "deep" / "chat.db")


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES: list[tuple[str, Callable[[Path], object], str, str, str]] = [
    ("no folder", _folder_gone, "folder", "there is no folder", "^mkdir -p "),
    ("a folder in its place", _a_folder, "file", "is a folder", "^export LUMINORA_SQLITE_PATH=.*luminora.db"),
    ("not a database", lambda p: _write(p, b"once upon a time " * 100), "file", "not a SQLite database", "^mv "),
    ("encrypted", lambda p: _write(p, os.urandom(8192)), "file", "not a SQLite database", "^mv "),
    ("truncated", lambda p: _write(p, p.read_bytes()[: 4096 * 3]), "whole", "corrupt", r"\.recover"),
    ("corrupt in the middle", _corrupt, "whole", "corrupt", r"\.recover"),
    ("Core's tables (B11)", _core, "tables", "takes user_facts for its fact table, and it has no column", "^export LUMINORA_SQLITE_PATH="),
    ("in memory (B10)", lambda p: os.environ.__setitem__("LUMINORA_SQLITE_PATH", ":memory:"), "file", "new, empty database at every call", "^export LUMINORA_SQLITE_PATH="),
]  # fmt: skip


@pytest.mark.parametrize(("name", "breaking", "rung", "seen", "line"), FILES, ids=[each[0] for each in FILES])
def test_a_broken_file_is_named_with_the_line_that_mends_it(
    name: str, breaking: Any, rung: str, seen: str, line: str, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "recover" in line and shutil.which("sqlite3") is None:
        skip_for("there is no sqlite3 command here")
    assert commands.doctor().is_well
    breaking(chat)
    before = chat.read_bytes() if chat.is_file() else None
    found = commands.doctor()
    (fault, *_) = faults(found)
    assert (fault.what, found.is_well) == (rung, False)
    assert re.search(seen, fault.seen), fault
    assert re.search(line, fault.mend), fault
    assert (chat.read_bytes() if chat.is_file() else None) == before
    do(fault.mend, monkeypatch)
    if (
        "sqlite3" in fault.mend and not commands.doctor().is_well
    ):  # what is there of it holds nothing: then a copy mends it
        assert chat.read_bytes() == before
        shutil.copy(DATA / "chat.db", chat)
    assert faults(commands.doctor()) == []
    assert commands.doctor().is_well


def test_a_lock_is_named_with_the_process_that_holds_it(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H46: LuminoraCore waits five seconds, and then loses the record."""
    monkeypatch.setattr("migrator.adapters.sql.ladder.LOCK_SECONDS", 0.3)
    code = f"import sqlite3, sys; db = sqlite3.connect({str(chat)!r}, isolation_level=None); db.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (fault,) = faults(commands.doctor())
        assert fault.what == "lock"
        if sys.platform == "linux":
            assert fault.mend.startswith(f"end process {holder.pid} (")
        holder.kill()
    assert commands.doctor().is_well


def _sqlite3(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the real one on the PATH."""
    folder.mkdir()
    (folder / "sqlite3").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sqlite3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_broken_file_is_salvaged_also_by_a_sqlite3_that_cannot_recover(
    chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's writes two lines and ends with an error."""
    real = shutil.which("sqlite3")
    if real is None:
        skip_for("there is no sqlite3 command here")
    _corrupt(chat)
    broken = chat.read_bytes()
    chat.with_name("chat.db.mended").write_bytes(broken)  # what an earlier try has left is not in the way
    script = f"case $2 in .recover) echo 'BEGIN;'; exit 1 ;; *) exec {real} \"$@\" ;; esac"
    _sqlite3(chat.parent / "bin", script, monkeypatch)
    do(faults(commands.doctor())[0].mend, monkeypatch)
    assert faults(commands.doctor()) == []
    assert commands.doctor().is_well
    assert chat.with_name("chat.db.broken").read_bytes() == broken
    with closing(sqlite3.connect(chat)) as db:
        assert db.execute("SELECT count(*) FROM facts").fetchone()[0] > 0


def test_without_a_sqlite3_the_line_says_what_is_wanted(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _corrupt(chat)
    monkeypatch.setenv("PATH", str(chat.parent))
    assert "put a sqlite3 command on the PATH" in faults(commands.doctor())[0].mend


def test_what_a_salvage_reads_nothing_of_stays_where_it_is(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every sqlite3 can recover: an empty file must not take the place of a broken one."""
    _corrupt(chat)
    before = chat.read_bytes()
    _sqlite3(chat.parent / "bin", "exit 1", monkeypatch)
    fault = faults(commands.doctor())[0]
    assert "***" not in fault.seen
    do(fault.mend, monkeypatch)
    assert chat.read_bytes() == before
    assert not commands.doctor().is_well


def test_a_link_is_as_good_as_what_it_leads_to(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, well in (("nowhere/x.db", False), ("chat.db", True)):
        link = chat.parent / "link.db"
        link.unlink(missing_ok=True)
        link.symlink_to(chat.parent / name)
        monkeypatch.setenv("LUMINORA_SQLITE_PATH", str(link))
        assert commands.doctor().is_well == well
    os.mkfifo(chat.parent / "pipe.db")
    monkeypatch.setenv("LUMINORA_SQLITE_PATH", str(chat.parent / "pipe.db"))
    (fault,) = faults(commands.doctor())
    assert "is no regular file" in fault.seen


def test_a_path_of_luminoracore_is_no_address(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = chat.parent / "my e?f 100%.db"
    shutil.copy(chat, odd)
    monkeypatch.setenv("LUMINORA_SQLITE_PATH", str(odd))
    found = commands.doctor()
    assert found.is_well, found.to_plain()
    assert of(found, "sqlite").records == 581


def test_a_copy_is_no_store_of_the_application_and_nothing_cannot_be_probed(chat: Path) -> None:
    migrator.migrate(chat, "copy.jsonl")
    (fault,) = [each for each in commands.doctor("copy.jsonl").diagnoses[0].findings if each.verdict == "fault"]
    assert (fault.what, "this is a copy" in fault.seen) == ("application", True)
    (unprobed,) = [
        each for each in commands.doctor("new.db", probe=True).diagnoses[0].findings if each.verdict == "fault"
    ]
    assert (unprobed.what, unprobed.mend.startswith("migrator init ")) == ("probe", True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_not_be_written_is_named(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (chat, chat.parent):
        broken.chmod(0o500 if broken.is_dir() else 0o400)
        (fault,) = faults(commands.doctor())
        assert "no permission" in fault.seen
        do(fault.mend, monkeypatch)
        assert commands.doctor().is_well


def test_rights_are_asked_of_the_system(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for root, whom no mode stops: the system is asked, and its answer is told."""
    denied = {chat: "file", chat.parent: "folder"}
    for path, rung in denied.items():
        with monkeypatch.context() as patch:
            patch.setattr("os.access", lambda asked, mode, path=path: Path(asked) != path)
            (fault,) = faults(commands.doctor())
        assert (fault.what, fault.mend.split()[0]) == (rung, "chmod")
    assert commands.doctor().is_well


def test_a_store_that_got_nothing_for_days_is_told(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.examination.SILENT_DAYS", 0)
    (note,) = [each for each in of(commands.doctor(), "sqlite").findings if each.what == "records"]
    assert re.search(r"581 records, the newest of 20\S+: nothing for \d+ days", note.seen)


# JSON ------------------------------------------------------------------------------------------------------------------

JSON: list[tuple[str, Callable[[Path], object], str]] = [
    ("truncated (H40)", lambda p: _write(p, p.read_bytes()[:-700]), "not JSON: .*byte .*takes it for no sessions, and writes over it"),
    ("with a byte order mark", lambda p: _write(p, b"\xef\xbb\xbf" + p.read_bytes()), "byte order mark"),
    ("empty", lambda p: _write(p, b""), "not JSON"),
    ("not UTF-8", lambda p: _write(p, p.read_bytes().replace(b'"context"', b'"conte\xff"', 1)), "UTF-8"),
    ("an array", lambda p: _write(p, b"[]"), "not JSON"),
]  # fmt: skip


def test_a_pipe_in_the_place_of_a_file_is_no_reason_to_wait(tmp_path: Path) -> None:
    for name in ("sessions.json", "lines.jsonl", "chat.db"):
        os.mkfifo(tmp_path / name)
        found = commands.doctor(str(tmp_path / name))
        assert any("is no regular file" in each.seen for each in found.diagnoses[0].findings)
        assert not found.is_well


@pytest.mark.parametrize(("name", "breaking", "seen"), JSON, ids=[each[0] for each in JSON])
def test_a_json_file_that_would_be_overwritten_is_named(
    name: str, breaking: Any, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sessions.json"
    path.write_text(
        json.dumps(
            {f"s{n}": {"context": {}, "messages": ["¿qué?"] * 50} for n in range(20)}, indent=2, ensure_ascii=False
        )
    )
    assert commands.doctor(str(path)).is_well
    breaking(path)
    found = commands.doctor(str(path))
    (fault,) = [each for each in found.diagnoses[0].findings if each.verdict == "fault"]
    assert re.search(seen, fault.seen), fault
    held = path.read_bytes()
    do(fault.mend, monkeypatch)
    assert commands.doctor(str(path)).is_well
    assert any(
        each.read_bytes() in (held, held[3:]) for each in tmp_path.iterdir() if each.is_file()
    )  # nothing is lost by it


# Configuration ---------------------------------------------------------------------------------------------------------


def config(**storage: Any) -> None:
    Path("luminora_config.json").write_text(json.dumps({"storage": storage}))


def _nulls() -> None:
    config(type="sqlite_flexible", sqlite={"database_path": None, "facts_table": None})


CONFIGURED: list[tuple[str, Callable[[pytest.MonkeyPatch], object], str, str]] = [
    ("nothing is configured", lambda m: None, "end with it", "^export LUMINORA_STORAGE_TYPE=sqlite_flexible$"),
    ("postgres", lambda m: m.setenv("LUMINORA_STORAGE_TYPE", "postgres"), "silently takes in_memory", "^export LUMINORA_STORAGE_TYPE=sqlite_flexible$"),
    ("sqlite", lambda m: m.setenv("LUMINORA_STORAGE_TYPE", "sqlite"), "silently takes in_memory", "^export LUMINORA_STORAGE_TYPE=sqlite_flexible$"),
    ("in_memory", lambda m: m.setenv("LUMINORA_STORAGE_TYPE", "in_memory"), "end with it", "^export LUMINORA_STORAGE_TYPE=sqlite_flexible$"),
    ("postgresql_flexible", lambda m: m.setenv("LUMINORA_STORAGE_TYPE", "postgresql_flexible"), "always fails", "^export LUMINORA_STORAGE_TYPE=sqlite_flexible$"),
    ("sqlite in the file", lambda m: config(type="sqlite"), "refuses it", '^"type": "sqlite_flexible" in luminora_config.json$'),
    ("dynamodb in the file", lambda m: config(type="dynamodb"), "refuses it", '^"type": "dynamodb_flexible" in luminora_config.json$'),
    ("in_memory_flexible, of storage init", lambda m: config(type="in_memory_flexible"), "refuses it", '^"type": "sqlite_flexible"'),
    ("nulls of storage init", lambda m: _nulls(), "is null, as `luminoracore storage init` writes it", '^"database_path": "./luminora.db" in'),
    ("a section that is null", lambda m: config(type="sqlite_flexible", sqlite=None), "is null, as", '^"database_path": "./luminora.db" in'),
    ("a file that is none", lambda m: Path("luminora_config.json").write_text("{"), "not a LuminoraCore configuration", "^mv .*luminora_config.json.broken"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "breaking", "seen", "line"), CONFIGURED, ids=[each[0] for each in CONFIGURED])
def test_a_configuration_that_means_memory_is_named(
    name: str, breaking: Any, seen: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch)
    found = commands.doctor()
    (fault, *_) = faults(found)
    assert not found.is_well
    assert re.search(seen, fault.seen), fault
    assert re.search(line, fault.mend), fault
    assert found.advice is not None
    assert (found.advice.store, "memory" in found.advice.environment) == ("sqlite", False)
    if "dynamodb" in line:
        return  # the table comes next, and that is told above
    if fault.mend.startswith('"'):
        held = json.loads(Path("luminora_config.json").read_text())
        key, value = re.findall(r'"([^"]+)"', fault.mend)
        held["storage"]["sqlite"] = held["storage"].get("sqlite") or {}
        (held["storage"] if key == "type" else held["storage"]["sqlite"])[key] = value
        Path("luminora_config.json").write_text(json.dumps(held))
    else:
        do(fault.mend, monkeypatch)
    if name == "a file that is none":
        do(faults(commands.doctor())[0].mend, monkeypatch)  # and then nothing is configured
    assert faults(commands.doctor()) == []
    assert commands.doctor().is_well


def test_a_configuration_that_may_not_be_read_is_not_put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    config(type="sqlite_flexible", sqlite={"database_path": "./luminora.db"})
    with monkeypatch.context() as patch:
        read = Path.read_text

        def denied(path: Path, *args: Any, **others: Any) -> str:
            if path.name == "luminora_config.json":
                raise PermissionError(13, "Permission denied")
            return read(path, *args, **others)

        patch.setattr(Path, "read_text", denied)
        fault = commands.doctor().configuration[0]
    assert "Permission denied" in fault.seen
    do(fault.mend, monkeypatch)  # chmod u+r, and the file is where it was
    assert commands.doctor().is_well


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LUMINORA_STORAGE_TYPE", "redis_flexible"),
        ("LUMINORA_STORAGE_TYPE", "sqlite"),
        ("LUMINORA_SQLITE_PATH", "other.db"),
    ],
)
def test_a_variable_that_says_otherwise_than_the_file_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them counts, the application's code decides: neither is taken for granted."""
    config(type="sqlite_flexible", sqlite={"database_path": "luminora.db"})
    monkeypatch.setenv(variable, value)
    found = commands.doctor()
    (fault,) = found.configuration[1:]
    assert (fault.verdict, fault.mend, found.is_well) == ("fault", f"unset {variable}", False)
    assert "luminora_config.json: storage." in fault.seen
    assert f"and {variable} says {value}" in fault.seen
    do(fault.mend, monkeypatch)
    assert commands.doctor().is_well


def test_the_stores_of_migrator_toml_are_looked_at_and_never_advised(
    chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may be last night's copy."""
    monkeypatch.delenv("LUMINORA_SQLITE_PATH")
    Path("old").mkdir()
    chat.rename("old/chat.db")
    config(type="sqlite_flexible", sqlite={"database_path": "./luminora.db"})
    Path("migrator.toml").write_text(
        "[stores.kept]\naddress = 'old/chat.db'\n[stores.nowhere]\naddress = 'gone/x.db'\n"
    )
    found = commands.doctor()
    kept, nowhere = found.diagnoses[-2:]
    assert (kept.store, kept.by.endswith("migrator.toml: stores.kept"), kept.is_usable) == ("kept", True, True)
    assert kept.records and not kept.is_active
    assert (nowhere.store, nowhere.is_usable) == ("nowhere", False)
    assert found.is_well  # the chat is not kept there
    assert found.advice is not None and "old" not in found.advice.address


def test_settings_of_ours_that_cannot_be_read_are_named_and_are_no_fault_of_the_chat(
    chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("migrator.toml").write_text("[stores.live]\naddres = 'chat.db'\n")
    monkeypatch.delenv("MIGRATOR_CONFIG", raising=False)
    found = commands.doctor()
    (note,) = [each for each in found.configuration if each.what == "migrator.toml"]
    assert (note.verdict, found.is_well) == ("note", True)
    assert note.seen.endswith("stores.live: unknown key 'addres' (did you mean \"address\"?)")


def test_one_file_by_two_spellings_is_no_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    config(type="sqlite_flexible", sqlite={"database_path": "luminora.db"})
    advised = commands.doctor().advice
    assert advised is not None
    do(advised.environment, monkeypatch)
    assert os.environ["LUMINORA_SQLITE_PATH"].startswith("/")
    assert commands.doctor().is_well


def test_code_that_asks_version_1_0_for_dynamodb_is_found(chat: Path) -> None:
    """Its factory raises for it, and whoever catches that is left with memory (fact sheet 8.1)."""
    Path("handler.py").write_text('import x\n\nconfig = StorageConfig(\n    storage_type="dynamodb",\n)\n')
    (fault,) = faults(commands.doctor())
    assert (fault.what, fault.mend) == ("code", "storage = FlexibleDynamoDBStorageV11(table_name=...)")
    assert fault.seen.startswith("handler.py:4 asks StorageConfig for dynamodb")
    Path("handler.py").write_text(f'storage = FlexibleSQLiteStorageV11("{chat}")\n')
    assert commands.doctor().is_well


def test_a_variable_that_nobody_reads_is_named(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMODB_TABLE", "chat")
    (note,) = [each for each in commands.doctor().configuration if each.verdict == "note"]
    assert (note.what, note.mend) == ("environment", "export LUMINORA_DYNAMODB_TABLE=$DYNAMODB_TABLE")


def test_what_is_advised_works(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUMINORA_STORAGE_TYPE")
    monkeypatch.delenv("LUMINORA_SQLITE_PATH")
    advice = commands.doctor().advice
    assert advice is not None
    Path("luminora_config.json").write_text(advice.config)
    assert commands.doctor().is_well
    Path("luminora_config.json").unlink()
    do(advice.environment, monkeypatch)
    assert commands.doctor().is_well


# Stores to come --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["redis", "mongodb", "postgresql"])
def test_a_store_to_come_is_looked_at_as_far_as_somebody_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = {"postgresql": "POSTGRES"}.get(name, name.upper())
    monkeypatch.setattr("migrator.examination.find_spec", lambda package: None)
    monkeypatch.setenv(f"LUMINORA_{prefix}_HOST", "127.0.0.1")
    monkeypatch.setenv(f"LUMINORA_{prefix}_PORT", str(_free_port()))
    monkeypatch.setenv(f"LUMINORA_{prefix}_PASSWORD", "very-secret-words")
    found = of(commands.doctor(), name)
    package, port = [each for each in found.findings if each.verdict == "fault"]
    assert package.mend.startswith("pip install ")
    assert (port.what, found.is_reached) == ("port", False)
    assert "nobody answers at 127.0.0.1" in port.seen
    monkeypatch.setattr("migrator.examination.find_spec", lambda package: object())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setenv(f"LUMINORA_{prefix}_PORT", str(listening.getsockname()[1]))
        found = of(commands.doctor(), name)
    assert found.is_reached
    assert found.is_usable == (name != "postgresql")  # B1
    assert "very-secret-words" not in json.dumps(commands.doctor().to_plain())


# The command -----------------------------------------------------------------------------------------------------------


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "migrator", "doctor", *args], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_exit_code_says_whether_what_is_configured_keeps_data(
    chat: Path, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", moto_endpoint)  # there is no table, and that is soon said
    well = run()
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines()[-1] == "what is configured keeps what the chat saves"
    plain = json.loads(run("--json").stdout)
    assert plain["well"] is True
    assert {each["store"] for each in plain["stores"]} == {
        "in_memory",
        "sqlite",
        "dynamodb",
        "postgresql",
        "mysql",
        "mongodb",
        "redis",
        "json",
    }
    monkeypatch.setenv("LUMINORA_STORAGE_TYPE", "postgres")
    broken = run()
    assert broken.returncode == 1
    assert "→ export LUMINORA_STORAGE_TYPE=sqlite_flexible" in broken.stdout
    assert json.loads(run("--json").stdout)["well"] is False
    assert run("no-such-thing").returncode == 1
