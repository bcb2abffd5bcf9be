"""What `migrator inspect` says of a store, and what it never says; how words fit the screen."""

import fcntl
import json
import os
import pty
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator import screen, users
from migrator.cli import main
from migrator.errors import ConfigError
from migrator.inspection import Inspection
from migrator.secret_signs import hidden, is_secret_name, secrets_in
from migrator.users import Users
from stores import MAPPING, record_of
from tables import client_of

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    shutil.copy(DATA / "chat.db", tmp_path / "chat.db")


def run(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line in this process."""
    capfd.readouterr()
    code: Any = 0
    try:
        main(list(args))
    except SystemExit as ended:
        code = ended.code or 0
    seen = capfd.readouterr()
    return code, seen.out, seen.err


def lines_file(rows: Iterable[dict[str, Any]], name: str = "x.jsonl") -> Path:
    """A JSON Lines file of these records, each with its kind."""
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fact(number: int = 0, **more: Any) -> dict[str, Any]:
    return record_of("fact", number, **more).to_plain()


def everything_said(found: Inspection, capfd: pytest.CaptureFixture[str], *args: str) -> str:
    """All that a person, a script or a Python caller is given."""
    return "".join([*run(capfd, "inspect", *args)[1:], *run(capfd, "inspect", *args, "--json")[1:], repr(found)])


# Users ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chat.db", "chat.json", "chat.jsonl.gz"])
def test_the_ten_heaviest_users_are_those_of_the_records_in_every_store(name: str) -> None:
    if name != "chat.db":
        migrator.migrate("chat.db", name)
    records: Counter[str] = Counter()
    with sqlite3.connect("chat.db") as db:
        for table in ("facts", "affinity", "episodes", "moods", "memories", "sessions"):
            records.update(user for (user,) in db.execute(f"SELECT user_id FROM {table}"))
    db.close()
    found = migrator.inspect(name).users
    assert found is not None and found.count == len(records) and found.over_a_page == 0
    assert len(found.heaviest) == 10
    assert [each["records"] for each in found.heaviest] == [records[each["user"]] for each in found.heaviest]
    sizes = [each["bytes"] for each in found.heaviest]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0


def test_more_users_than_memory_holds_are_counted_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_HELD", 3)
    counted = Users(tmp_path / "u")
    for turn in range(4):
        for number in range(11):
            counted.add(f"u{number}", 1, number, 10 * number)
            assert len(counted._held) <= 3
        counted.add("a\ud800", 1, turn, 0)
    assert counted.count() == 12
    assert counted.over(4 * 80) == 2  # u9 and u10
    assert counted.heaviest(2) == [("u10", 4, 40), ("u9", 4, 36)]
    assert ("a\ud800", 4, 6) in counted.heaviest(12)
    counted.close()
    assert not (tmp_path / "u").exists()


def test_a_user_with_more_than_a_page_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """H27: of a table LuminoraCore reads one page of 1 MB."""
    path = lines_file([fact(number, user_id="ana", value="v" * 200_000) for number in range(6)] + [fact(7)])
    found = migrator.inspect(path)
    assert found.users is not None and (found.users.count, found.users.over_a_page) == (2, 1)
    assert "1 user with more than 1 MB" in run(capfd, "inspect", str(path))[1]


# Sizes and limits -------------------------------------------------------------------------------------------------------


def test_every_record_is_in_the_histogram_at_its_size() -> None:
    path = lines_file(fact(number, value="v" * size) for number, size in enumerate([0, 10, 900, 901, 5_000]))
    kind = migrator.inspect(path).kinds["fact"]
    assert sum(kind.sizes.values()) == kind.count == 5
    assert kind.sizes == {"128": 2, "1024": 2, "4096": 1}


def test_bars_are_blocks_or_ascii_where_the_terminal_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    assert screen.bars([8, 0, 1, 4]) == "@ .="
    Ascii.encoding = "utf-8"
    assert screen.bars([8, 0, 1, 4]) == "█ ▁▄"


def test_what_a_terminal_cannot_write_is_no_traceback() -> None:
    lines_file([fact(user_id="кира")])
    for encoding in ("ascii", "latin-1"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-m", "migrator", "inspect", "x.jsonl"], capture_output=True, env=environment, check=True)  # fmt: skip
        assert rb"\u043a" in done.stdout and not done.stderr


def test_records_near_a_limit_of_dynamodb_are_named_and_those_over_it(capfd: pytest.CaptureFixture[str]) -> None:
    """H26: 400 KB an item, 2,048 bytes for a hash and 1,024 for a range."""
    path = lines_file(
        [
            fact(0),
            fact(1, value="v" * 330_000),
            fact(2, value="v" * 500_000),
            fact(3, key="k" * 900),
            fact(4, user_id="é" * 850),
        ]
    )
    near = migrator.inspect(path).kinds["fact"].near
    assert {name: named.count for name, named in near.items()} == {
        "item: 409,600 bytes": 1,
        "no table can hold it": 1,
        "key SK: 1,024 bytes": 1,
        "key user_id: 2,048 bytes": 1,
    }
    assert "key=boss_1: 330," in near["item: 409,600 bytes"].some[0]
    (over,) = near["no table can hold it"].some
    assert over.startswith("fact user_id=ana2 category=work key=boss_2: its item takes 500,1")
    out = run(capfd, "inspect", str(path))[1]
    assert "1 fact: item: 409,600 bytes" in out and "vvv" not in out
    assert out.rstrip().endswith("4 near a limit")


def test_what_no_table_can_hold_is_told_with_the_reason() -> None:
    """H24: an empty key; and text that no store of ours can write does not stop the look."""
    path = lines_file([fact(0, user_id=""), fact(1)])
    with path.open("a") as file:
        file.write(json.dumps(fact(2, value="\ud800")) + "\n")
    found = migrator.inspect(path, sample=5)
    kind = found.kinds["fact"]
    assert kind.count == 2 and sum(each.rejected for each in found.kinds.values()) == 1
    assert kind.near["no table can hold it"].some[0].endswith("the key attribute user_id is empty")


def test_a_store_that_no_table_could_take_is_not_measured_as_one(tmp_path: Path) -> None:
    """A mapping of one's own, without [user] and without a layout for DynamoDB."""
    Path("own.toml").write_text(
        'name = "notes"\ntitle = "Notes"\n[kinds.note]\nidentity = ["id"]\nfields = { id = "text", words = "text" }\n'
        '[layouts.lite]\nstore = "sql"\ncreate = true\n[layouts.lite.note]\ncollection = "notes"\n'
    )
    with sqlite3.connect("notes.db") as db:
        db.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, words TEXT)")
        db.execute("INSERT INTO notes VALUES ('1', 'one')")
    db.close()
    found = migrator.inspect("notes.db", "own.toml", sample=1)
    assert found.users is None and found.measured_as == "" and found.kinds["note"].near == {}
    assert found.kinds["note"].sample == [{"identity": "note id=1"}]


# What LuminoraCore does not find ---------------------------------------------------------------------------------------


def test_what_luminoracore_does_not_find_is_named_with_the_reason(
    moto_endpoint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """L4, and a record under a key that is not the one looked for; a ghost (L5)."""
    table, item = f"chat-{uuid.uuid4().hex}", lambda **fields: {name: {"S": text} for name, text in fields.items()}
    address = f"dynamodb://{table}?region=eu-west-1&endpoint={moto_endpoint}"
    lines_file([fact(0), fact(1), record_of("session", 5).to_plain()])
    migrator.migrate("x.jsonl", address, migrator.Options(create=True))
    client = client_of(moto_endpoint)
    strayed = item(
        user_id="ana9", SK="FACT#elsewhere", category="work", key="boss", value="secret thing", created_at="2025-03-01"
    )
    client.put_item(TableName=table, Item=strayed | {"confidence": {"N": "1"}})
    client.put_item(TableName=table, Item=item(user_id="session_9", SK="SESSION#9", last_activity="2025", updated_at="2025"))  # fmt: skip
    found = migrator.inspect(address)
    assert found.kinds["session"].unfound == 1 and found.kinds["fact"].unfound == 1 and found.ghosts == 1
    ((why, named),) = found.kinds["session"].unfound_why.items()
    assert "(L4)" in why and named.count == 1 and named.some[0].startswith("session session_id=session_")
    assert {why: (named.count, named.some) for why, named in found.kinds["fact"].unfound_why.items()} == {
        "its key attribute SK is not the one that is looked for": (1, ["fact user_id=ana9 category=work key=boss"])
    }
    assert found.measured_as == "user_id/SK"
    out = run(capfd, "inspect", address)[1]
    assert "fact 2 of 3" in out and "1 ghosts: items that LuminoraCore leaves by mistake (L5)" in out
    assert "secret thing" not in out


def test_reasons_name_no_more_than_a_few_and_count_the_rest(moto_endpoint: str) -> None:
    table = f"chat-{uuid.uuid4().hex}"
    address = f"dynamodb://{table}?region=eu-west-1&endpoint={moto_endpoint}"
    migrator.migrate("chat.db", address, migrator.Options(create=True, kinds=("session",)))
    kind = migrator.inspect(address).kinds["session"]
    ((_, named),) = kind.unfound_why.items()
    assert named.count == kind.unfound == kind.count == 30 and len(named.some) == 5


# Secrets ----------------------------------------------------------------------------------------------------------------

KEY = "sk-proj-" + "a1B2" * 8


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"value": {"provider_config": {"api_key": "anything-9"}}}, ("value.provider_config.api_key", "by its name")),
        ({"value": json.dumps({"apiKey": "anything-9"})}, ("value.apiKey", "by its name")),
        ({"value": [{"db_password": "hunter2"}]}, ("value[].db_password", "by its name")),
        ({"value": f"my key is {KEY}, keep it"}, ("value", "begins as sk-…")),
        ({"value": "AKIA" + "ABCD" * 4}, ("value", "begins as AKIA…")),
        ({"value": "ghp_" + "a" * 36}, ("value", "begins as gh._…")),
        ({"value": "postgres://bob:hunter2@db.example/chat"}, ("value", "holds a password in a URL")),
        ({"value": "-----BEGIN RSA PRIVATE KEY-----\nabc"}, ("value", "holds a private key")),
        ({"value": {KEY: KEY}}, ("value.*", "begins as sk-…")),
        ({"key": "password", "value": "hunter2"}, ("value", "as key says")),
        ({"Authorization": f"Bearer {'x1' * 12}"}, ("Authorization", "by its name")),
    ],
)  # fmt: skip
def test_a_secret_is_told_by_its_place_and_its_sign(record: dict[str, Any], told: tuple[str, str]) -> None:
    assert list(secrets_in(record, frozenset({"key"}))) == [told]


@pytest.mark.parametrize(
    "record",
    [
        {"value": "I forgot my password again"},
        {"password": "I told nobody"},
        {"api_key": ""}, {"api_key": "********"}, {"api_key": "${OPENAI_API_KEY}"}, {"api_key": "your-api-key"}, {"api_key": None},
        {"max_tokens": "4096", "key": "boss", "total_tokens": 1234},
        {"value": "sk-short and https://example.com/a@b"},
        {"value": "{not json", "key": "monkey"},
    ],
)  # fmt: skip
def test_what_is_no_secret_is_not_called_one(record: dict[str, Any]) -> None:
    assert list(secrets_in(record, frozenset({"key"}))) == []


def test_names_of_secrets_are_told_in_every_spelling() -> None:
    wanted = [
        "api_key",
        "apiKey",
        "API-KEY",
        "OPENAI_API_KEY",
        "aws_secret_access_key",
        "refresh_token",
        "DbPassword",
        "client.secret",
    ]
    assert [name for name in wanted if not is_secret_name(name)] == []
    assert [name for name in ("key", "memory_key", "tokens", "tokenizer", "monkey", "passage", "") if is_secret_name(name)] == []  # fmt: skip


def test_no_part_of_a_secret_is_ever_said(capfd: pytest.CaptureFixture[str]) -> None:
    """H45, wherever it lies: in a value, in a key of JSON, in what makes the record unique, in a user's id, in a broken record."""
    lines_file(
        [
            fact(0, value=json.dumps({"provider_config": {"api_key": KEY}})),
            fact(1, value=json.dumps({KEY: {"deep": KEY}})),
            fact(2, key=KEY),
            fact(3, user_id=f"ana {KEY}"),
            fact(4, value=KEY, confidence="not a number"),
        ]
    )
    found = migrator.inspect("x.jsonl", sample=10)
    kind = found.kinds["fact"]
    assert kind.count == 4 and kind.rejected == 1 and sum(kind.secrets.values()) == 5
    assert kind.secrets["value.provider_config.api_key (begins as sk-…)"] == 1
    said = everything_said(found, capfd, "x.jsonl", "--sample", "10")
    assert "a1B2" not in said and "sk-proj" not in said
    assert "what looks like a secret" in said and "key=(secret)" in said
    assert "ana (secret)" in hidden(f"ana {KEY}")


def test_places_of_secrets_are_counted_together_where_there_are_too_many_to_name() -> None:
    lines_file([fact(0, value=json.dumps({f"field_{number}": {"token": "abcd1234"} for number in range(400)}))])
    secrets = migrator.inspect("x.jsonl").kinds["fact"].secrets
    assert sum(secrets.values()) == 400 and len(secrets) == 51 and secrets["other fields"] == 350


def test_secrets_of_the_sample_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    """LuminoraCore keeps a provider's key in the facts of a session (fact sheet 2.12)."""
    out = run(capfd, "inspect", "chat.db")[1]
    assert "30 fact: value.provider_config.api_key (begins as sk-…)" in out
    assert "sk-EXAMPLE" not in out


def test_a_key_in_a_session_of_1_0_is_told_by_its_path(capfd: pytest.CaptureFixture[str]) -> None:
    found = migrator.inspect(DATA / "sessions.json")
    (kind,) = found.kinds.values()
    assert kind.count > 0 and found.users is None
    assert any(path.startswith("session_data.") and "api_key" in path for path in kind.secrets)
    assert "sk-EXAMPLE" not in everything_said(found, capfd, str(DATA / "sessions.json"))


# A sample ---------------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_in_every_run_and_every_store() -> None:
    migrator.migrate("chat.db", "chat.jsonl")
    samples = [
        {name: kind.sample for name, kind in migrator.inspect(store, sample=4).kinds.items()}
        for store in ("chat.db", "chat.db", "chat.jsonl")
    ]
    assert samples[0] == samples[1] == samples[2]
    assert set(samples[0]) == set(MAPPING.kinds) and all(len(sample) == 4 for sample in samples[0].values())
    named = {json.dumps(each) for sample in samples[0].values() for each in sample}
    assert len(named) == 24
    fewer = migrator.inspect("chat.db", sample=2).kinds["fact"].sample
    assert fewer == samples[0]["fact"][:2]


def test_values_are_shown_only_when_asked_for_and_then_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    lines_file([fact(0, value="a\x1b[31mprivate\x07", extra={"more": ["private"]}), fact(1, value="p" * 5_000)])
    without = everything_said(migrator.inspect("x.jsonl", sample=3), capfd, "x.jsonl", "--sample", "3")
    assert "private" not in without and "ppp" not in without and "key=boss_0" in without
    out = run(capfd, "inspect", "x.jsonl", "--sample", "3", "--show-values")[1]
    assert r"value: \"a\u001b[31mprivate\u0007\"".replace('\\"', '"') in out and "\x1b" not in out and "\x07" not in out
    assert "… (5,000 characters)" in out and "p" * 1_001 not in out
    plain = json.loads(run(capfd, "inspect", "x.jsonl", "--sample", "3", "--show-values", "--json")[1])
    fields = {each["identity"]: each["fields"] for each in plain["kinds"]["fact"]["sample"]}
    assert fields["fact user_id=ana0 category=work key=boss_0"]["value"] == "a\x1b[31mprivate\x07"


def test_values_of_nothing_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, *["inspect", "chat.db", "--show-values"])
    assert code == 2 and "--sample N" in err


def test_json_holds_all_that_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(run(capfd, "inspect", "chat.db", "--json", "--sample", "1")[1])
    assert plain["users"]["count"] == 60 and len(plain["users"]["heaviest"]) == 10
    assert plain["kinds"]["fact"]["secrets"] and sum(plain["kinds"]["fact"]["sizes"].values()) == 354
    assert plain["measured_as"] == "user_id/SK" and "fields" not in plain["kinds"]["fact"]["sample"][0]


# Words on the screen ---------------------------------------------------------------------------------------------------


def test_quiet_leaves_errors_and_the_last_line(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {
        ("inspect", "chat.db"): "581 records, 164.8 KB; 30 secrets\n",
        ("migrate", "chat.db", "x.jsonl"): "done, proven by digest",
        ("verify", "chat.db", "x.jsonl"): "done, proven by digest",
        ("doctor", "chat.db"): "what is named here keeps what the chat saves\n",
    }
    for command, words in commands.items():
        _, out, err = run(capfd, *command, "--quiet")
        assert out.startswith(words) and out.count("\n") == 1 and not err
    code, out, err = run(capfd, "inspect", "nowhere.db", "-q")
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1


def test_quiet_still_says_what_to_look_at(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "migrate", "chat.db", "x.jsonl")
    with sqlite3.connect("chat.db") as db:
        db.execute("DELETE FROM facts WHERE key = (SELECT min(key) FROM facts)")
    db.close()
    code, out, _ = run(capfd, "verify", "chat.db", "x.jsonl", "-q")
    assert code == 4 and "report.json" in out and out.splitlines()[-1].startswith("ended with differences")


def test_verbose_says_what_each_step_does_and_how_long_it_took(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {
        ("inspect", "chat.db"): ["looking at the store", "reading", "counting users"],
        ("migrate", "chat.db", "x.jsonl"): ["looking at both stores", "taking a snapshot of the source", "copying"],
        ("verify", "chat.db", "x.jsonl"): ["looking at both stores", "reading the source", "reading the sink"],
        ("doctor", "chat.db"): ["examining store 1 of 1"],
    }
    for command, steps in commands.items():
        if command[0] == "migrate":
            plain_err = run(capfd, "migrate", "chat.db", "y.jsonl")[2]
        else:
            plain_err = run(capfd, *command)[2]
        err = run(capfd, *command, "-v")[2]
        for step in steps:
            assert re.search(rf"^{step}: .*\d\.\d s$", err, re.MULTILINE), (command, step, err)
            assert step + ":" not in plain_err


def test_quiet_and_verbose_are_opposites(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, *["inspect", "chat.db", "-q", "-v"])
    assert code == 2 and "leave one out" in err


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("total", [0, 7, 3_000_000])
def test_progress_says_what_fits_and_nothing_in_part(width: int, total: int) -> None:
    whole = screen.fitted("copying", 1_234_567, total, 100.0, 10_000).split("  ")[0]
    line = screen.fitted("copying", 1_234_567, total, 100.0, width)
    words, _, bar = line.partition("  ")
    assert len(line) <= width and not set(bar) - {"█", "░"}
    assert whole == words or re.match(rf"{re.escape(words)}[ :,]", whole)
    assert words.startswith("copying") and len(words) > 7


def in_terminal(columns: int, *args: str, **environment: str) -> str:
    """All that the command writes to a terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "migrator", *args], stdin=slave, stdout=slave, stderr=slave, close_fds=True,
        env=environ | {"TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(master)
    assert process.wait(60) in (0, 1, 4)
    return seen.decode()


def words_of(text: str) -> set[str]:
    return set(re.sub(r"\d+", "0", text).split())


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder whose name is no longer than a narrow terminal: a path is one word, and stays whole."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as folder:
        shutil.copy("chat.db", folder)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MIGRATOR_STATE", f"{folder}/s")
        yield


COMMANDS = [
    ("inspect", "chat.db", "--sample", "1"),
    ("migrate", "chat.db", "x.jsonl", "--dry-run"),
    ("migrate", "chat.db", "x.db"),
    ("doctor", "chat.db"),
]


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_is_longer_than_the_terminal_and_no_word_is_cut(command: tuple[str, ...]) -> None:
    piped = subprocess.run([sys.executable, "-m", "migrator", *command], capture_output=True, text=True, check=False)
    expected = words_of(piped.stdout + piped.stderr)
    for columns in (80, 40):
        if command[-1] == "x.db":
            Path("x.db").unlink()
        seen = in_terminal(columns, *command, *(("--restart",) if command[-1] == "x.db" else ()))
        assert "\x1b" not in seen
        lines = re.split(r"[\r\n]+", seen)
        long = [line for line in lines if len(line) > columns and len(line.split()) > 1]
        assert not long, long
        assert not [line for line in lines if len(line) > max(columns, 64)]  # one word: a state folder's path
        # What follows the last carriage return of a line has been written over the progress.
        left = [line.rpartition("\r")[2] for line in seen.replace("\r\n", "\n").split("\n")]
        assert words_of("\n".join(left)) == expected


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=str)
def test_no_colour_is_ever_used(environment: dict[str, str]) -> None:
    seen = in_terminal(80, "inspect", "chat.db", **environment)
    assert "\x1b" not in seen and "581 records" in seen
    assert ("reading" in seen) == (environment.get("TERM") != "dumb")  # there progress would be a line every 10 s


def test_in_a_pipe_a_plan_line_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    out = run(capfd, "migrate", "chat.db", "x.jsonl", "--dry-run")[1]
    assert [line for line in out.splitlines() if line.startswith("source ")] and "\r" not in out
    assert all(not line.startswith("        ") for line in out.splitlines())
    assert max(map(len, out.splitlines())) > 80


def test_the_mapping_says_why_when_there_is_none() -> None:
    with pytest.raises(ConfigError, match="check the spelling"):
        migrator.inspect("nowhere.db")
