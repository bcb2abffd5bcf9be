"""migrator.toml: where it is looked for, what it may say, what goes before it, and what a person is told where it is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrator
from migrator import ConfigError, Options
from migrator.addresses import WORDS
from migrator.config import resolve
from migrator.options import BUILT_IN, GIVEN
from migrator.settings import load_settings
from test_cli import run

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "ana"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "ana" / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ana" / "state"))
    monkeypatch.delenv("MIGRATOR_STATE", raising=False)
    monkeypatch.delenv("MIGRATOR_CONFIG", raising=False)


def written(text: str, path: str | Path = "migrator.toml") -> Path:
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def users() -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "migrator" / "migrator.toml"


def refusal(ask: Any, *args: Any, **named: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        ask(*args, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


LIVE = '[stores.live]\naddress = "dynamodb://chat?region=eu-west-1"\nzone = "Europe/Madrid"\n'


# Where it is looked for ------------------------------------------------------------------------------------------------


def test_the_working_folders_file_goes_before_the_users_and_is_read_whole() -> None:
    written('[stores.a]\naddress = "theirs.db"\n[stores.b]\naddress = "theirs.db"\n[options]\nworkers = 7', users())
    assert resolve("a").name == str(users().parent / "theirs.db")
    assert Options.from_file().workers == 7
    here = written('[stores.a]\naddress = "mine.db"\n')
    assert (resolve("a").name, resolve("a").named_by) == (str(Path("mine.db").absolute()), f"{here}: stores.a")
    assert f"{here} names a." in refusal(resolve, "b")  # nothing is merged
    assert Options.from_file() == Options()


def test_a_variable_names_the_file_outright(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written('[stores.a]\naddress = "a.db"')
    other = written('[stores.c]\naddress = "c.db"', "etc/own.toml")
    for named in ("etc/own.toml", str(other)):
        monkeypatch.setenv("MIGRATOR_CONFIG", named)
        assert resolve("c").name == str(other.parent / "c.db")
        assert "no address" in refusal(resolve, "a")
    written('[stores.d]\naddress = "d.db"', tmp_path / "ana" / "x.toml")
    monkeypatch.setenv("MIGRATOR_CONFIG", "~/x.toml")
    assert resolve("d").name == str(tmp_path / "ana" / "d.db")
    monkeypatch.setenv("MIGRATOR_CONFIG", "nowhere.toml")
    assert "MIGRATOR_CONFIG: there is no file" in refusal(resolve, "a")
    monkeypatch.setenv("MIGRATOR_CONFIG", os.devnull)
    assert load_settings(os.environ, Path.cwd()).stores == {}
    monkeypatch.setenv("MIGRATOR_CONFIG", "")
    assert resolve("a").name.endswith("a.db")


def test_without_a_file_nothing_is_set() -> None:
    assert load_settings({}, Path.cwd()).path is None
    assert Options.from_file() == Options()


def test_what_is_in_the_place_of_the_file_is_told_and_not_passed_over() -> None:
    written(LIVE, users())
    Path("migrator.toml").mkdir()
    assert re.search(r"work/migrator.toml: cannot be read: Is a directory", refusal(resolve, "live"))
    Path("migrator.toml").rmdir()
    Path("migrator.toml").symlink_to("gone.toml")
    assert "cannot be read: No such file" in refusal(resolve, "live")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told() -> None:
    written(LIVE).chmod(0)
    assert "migrator.toml: cannot be read: Permission denied" in refusal(resolve, "live")


def test_a_read_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = written(LIVE)
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert refusal(resolve, "live").startswith(f"{path}: cannot be read: Permission denied")


def test_an_address_that_is_written_out_asks_no_file() -> None:
    written("this is no TOML")
    assert resolve("chat.db").named_by == resolve("dynamodb://chat").named_by == ""


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"[stores.live\n", "not TOML: .*line 1, column 13"),
        (b"a = 1\na = 2\n", "not TOML: .*line 2, column"),
        (b"a = '\xff'", "not TOML: byte 5 is not UTF-8"),
        (b"a = " + b"[" * 5000, "not TOML: nested too deeply"),
        (b"a = " + b"1" * 5000, "not TOML"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(held: bytes, words: str) -> None:
    Path("migrator.toml").write_bytes(held)
    assert re.search(f"/migrator.toml: {words}", refusal(resolve, "live"))


# Stores by name --------------------------------------------------------------------------------------------------------


def test_a_name_is_the_store_of_the_file_in_its_zone() -> None:
    path = written(LIVE + '[stores.backup]\naddress = "jsonl:/var/backups/chat.jsonl.gz"')
    assert resolve("live") == resolve("dynamodb://chat?region=eu-west-1&tz=Europe/Madrid")
    assert resolve(resolve("live").text) == resolve("live")
    assert resolve("backup").name == "/var/backups/chat.jsonl.gz"
    assert resolve("live").named_by == f"{path}: stores.live"


@pytest.mark.parametrize("address", ["chat.db", "json:chat.json", "dynamodb://chat", "memory:a"])
def test_a_zone_in_the_file_is_that_of_the_address(address: str) -> None:
    written(f'[stores.live]\naddress = "{address}"\nzone = "local"')
    assert resolve("live").options["tz"] == "local"
    assert resolve(resolve("live").text) == resolve("live")


def test_a_name_goes_before_the_bare_word_of_the_same_spelling() -> None:
    environ = {"LUMINORA_SQLITE_PATH": "/data/lumi.db"}
    assert resolve("sqlite", environ).name == "/data/lumi.db"
    written('[stores.sqlite]\naddress = "mine.db"\n[stores.redis]\naddress = "sqlite"')
    assert resolve("sqlite", environ).name == str(Path("mine.db").absolute())
    assert resolve("redis", environ).name == "/data/lumi.db"  # a bare word, and not the name again
    assert resolve("redis", environ).named_by.endswith("migrator.toml: stores.redis by LUMINORA_SQLITE_PATH")


def test_relative_paths_begin_in_the_files_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[stores.a]\naddress = "sqlite:///data/a.db"\n[stores.b]\naddress = "~/b.db"\n[options]\nstate = "jobs"\n'
    there = written(text + 'mapping = "own.toml"', "deep/down/my.toml").parent
    monkeypatch.setenv("MIGRATOR_CONFIG", "deep/down/my.toml")
    assert resolve("a").name == str(there / "data" / "a.db")
    assert resolve("b").name == str(Path("~/b.db").expanduser())
    assert (Options.from_file().state, Options.from_file().mapping) == (str(there / "jobs"), str(there / "own.toml"))
    written('[options]\nmapping = "luminoracore-v1.0"\nstate = "~/jobs"', "deep/down/my.toml")
    assert Options.from_file().mapping == "luminoracore-v1.0"
    assert Options.from_file().state == str(Path("~/jobs").expanduser())


@pytest.mark.parametrize("name", ["live eu", "日本", "a.b", "a/b", "été!", "x" * 300, "[a]", '"', "1", "db", "true"])
def test_a_name_may_be_any_text_that_is_no_address(name: str) -> None:
    written(f'[stores.{json.dumps(name, ensure_ascii=False)}]\naddress = "chat.db"')
    assert resolve(name).name == str(Path("chat.db").absolute())


@pytest.mark.parametrize("name", ["chat.db", "json:a", "a:b", "x.jsonl.gz", "", " ", "a\nb", "--live", "a\u0000b"])
def test_a_name_that_could_be_read_otherwise_is_refused(name: str) -> None:
    written(f'[stores.{json.dumps(name)}]\naddress = "chat.db"')
    assert "migrator.toml: stores: " in refusal(resolve, "live")


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    path = written(LIVE + '[stores.backup]\naddress = "b.jsonl"')
    words = refusal(resolve, "lvie")
    assert words.startswith('"lvie" is no address (did you mean "live"?).')
    assert f"{path} names live, backup." in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[store.live]\naddress = "a.db"', "migrator.toml: unknown key 'store' (did you mean \"stores\"?)"),
        ("[option]\nworkers = 1", "unknown key 'option' (did you mean \"options\"?)"),
        ("verbose = true", "unknown key 'verbose'; there are stores, options"),
        ('[stores.live]\nadress = "a.db"', "stores.live: unknown key 'adress' (did you mean \"address\"?)"),
        ('[stores.live]\naddress = "a.db"\ntz = "UTC"', "stores.live: unknown key 'tz'; there are address, zone"),
        ('[stores.live]\nzone = "UTC"', "stores.live: the address is missing"),
        ('[stores.live]\naddress = " "', "stores.live: the address is missing"),
        ("[stores.live]\naddress = 5", "stores.live.address: text in quotes is wanted"),
        ('[stores.live]\naddress = "a.db"\nzone = 1', "stores.live.zone: text in quotes is wanted"),
        (
            '[stores.live]\naddress = "a.db"\nzone = "Mars"',
            'stores.live.zone: there is no zone "Mars"; zones look like',
        ),
        ('[stores]\nlive = "a.db"', "stores.live: a table is wanted, [stores.live]"),
        ('stores = "a.db"', "stores: a table is wanted, [stores]"),
        ("options = []", "options: a table is wanted, [options]"),
        ('[stores.live]\naddress = "sqlite://a.db"', "stores.live.address: a SQLite file is written with three"),
        ('[stores.live]\naddress = "live"', 'stores.live.address: "live" is no address'),
        ('[stores.live]\naddress = "sqlite"', 'stores.live.address: "sqlite" has no address'),
        ('[stores.live]\naddress = "a\\u0000.db"', "stores.live.address: a text with a control character"),
        ('[stores.live]\naddress = "memory:a?tz=UTC"\nzone = "UTC"', "stores.live.zone: the address says a zone too"),
    ],
)
def test_what_is_wrong_with_a_store_is_told_with_file_and_key(text: str, words: str) -> None:
    path = written(text)
    message = refusal(resolve, "live")
    assert message.startswith(str(path))
    assert words in message


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ana:hunter2@host/db",
        "dynamodb://AKIA1:hunter2@chat",
        "dynamodb://AKIA1:hunter2@${NAME}",
        "dynamodb://chat?aws_secret_access_key=hunter2",
        "sqlite://ana:hunter2@host/chat.db",
    ],
)
def test_a_secret_in_the_file_is_refused_as_on_the_command_line_and_not_repeated(address: str) -> None:
    written(f'[stores.live]\naddress = "{address}"')
    assert "hunter2" not in refusal(resolve, "live", {"NAME": "chat"})


# Variables -------------------------------------------------------------------------------------------------------------


def test_a_variable_is_replaced_by_its_value() -> None:
    written(
        '[stores.live]\naddress = "dynamodb://${TABLE}?region=eu-west-1&profile=${AWS_PROFILE}"\nzone = "${ZONE}"\n'
        '[stores.odd]\naddress = "$${TABLE}-$TABLE-$$.db"\n[options]\non_reject = "${REJECT}"\nforeign = ["${A}#*", "B"]'
    )
    environ = {"TABLE": "chat", "AWS_PROFILE": "prod", "ZONE": "UTC", "REJECT": "continue", "A": "CONFIG"}
    assert resolve("live", environ) == resolve("dynamodb://chat?region=eu-west-1&profile=prod&tz=UTC")
    assert resolve("odd", environ).name == str(Path("${TABLE}-$TABLE-$$.db").absolute())
    options = Options.from_file(environ=environ)
    assert (options.on_reject, options.foreign) == ("continue", ("CONFIG#*", "B"))


@pytest.mark.parametrize("environ", [{}, {"PROFILE": ""}])
def test_a_variable_that_is_not_set_is_named_with_file_and_key(environ: dict[str, str]) -> None:
    path = written('[stores.live]\naddress = "dynamodb://chat?profile=${PROFILE}"\n[stores.a]\naddress = "a.db"')
    assert refusal(resolve, "live", environ).startswith(f"{path}: stores.live.address: the variable PROFILE is not set")
    assert resolve("a", environ).name.endswith("a.db")  # who does not ask for that store needs no variable of it
    path = written('[options]\nstate = "${PROFILE}/jobs"')
    assert refusal(Options.from_file, environ=environ).startswith(f"{path}: options.state: the variable PROFILE is not")


@pytest.mark.parametrize("text", ["${", "${}", "${A B}", "${1A}", "a${X.db", "${é}"])
def test_what_is_no_variable_is_told(text: str) -> None:
    written(f'[stores.live]\naddress = "{text}"')
    assert "stores.live.address: ${ begins the name of a variable" in refusal(resolve, "live")


@pytest.mark.parametrize(
    "text",
    [
        '[stores.live]\naddress = "${SECRET}"',
        '[stores.live]\naddress = "dynamodb://${SECRET}/x"',
        '[stores.live]\naddress = "dynamodb://chat?${SECRET}=1"',
        '[stores.live]\naddress = "${SECRET}://x"',
        '[stores.live]\naddress = "a.db"\nzone = "${SECRET}"',
        '[options]\non_reject = "${SECRET}"',
        '[options]\nworkers = "${SECRET}"',
        '[options]\nallow_empty = ["${SECRET}"]',
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", "HUNTER2 hunter2", "hunter2\nhunter2", "hunter2\udcff"])
def test_the_value_of_a_variable_is_in_no_message(text: str, secret: str) -> None:
    written(text)
    message = refusal(Options.from_file if "options" in text else lambda **kw: resolve("live", **kw), environ={"SECRET": secret})  # fmt: skip
    assert "migrator.toml: " in message
    assert "hunter2" not in message.lower()


# Options ---------------------------------------------------------------------------------------------------------------


def test_every_option_that_is_no_matter_of_one_run_may_have_a_default() -> None:
    written(
        '[options]\nprice = 1\nexisting = "keep"\ncreate = true\non_reject = "continue"\non_duplicate = "stop"\nunknown_fields = "drop"\n'
        'allow_empty = true\nforeign = ["CONFIG#*"]\nexpired = "write"\nkinds = ["fact"]\nproof = "rows"\none_way = true\nworkers = 3\n'
        'mapping = "luminoracore-v1.1"\nstate = "/var/lib/migrator"\ntable_shape = "PK/SK"\nsnapshot_limit = 0.5'
    )
    assert Options.from_file() == Options(
        price=1, existing="keep", create=True, on_reject="continue", on_duplicate="stop", unknown_fields="drop", allow_empty=True,
        foreign=("CONFIG#*",), expired="write", kinds=("fact",), proof="rows", one_way=True, workers=3, mapping="luminoracore-v1.1",
        state="/var/lib/migrator", table_shape="PK/SK", snapshot_limit=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["dry_run = true", "restart = true", 'user = "ana"', 'since = "2026-01-01"', "limit = 5"])  # fmt: skip
def test_what_is_a_matter_of_one_run_has_no_default(text: str) -> None:
    written(f"[options]\n{text}")
    assert f"options.{text.split()[0]}: it is said for each run" in refusal(Options.from_file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('exsting = "keep"', "options: unknown key 'exsting' (did you mean \"existing\"?)"),
        ('on-reject = "stop"', "options: unknown key 'on-reject' (did you mean \"on_reject\"?)"),
        ("processes = true", "options: unknown key 'processes'"),
        ('existing = "maybe"', "options.existing: 'maybe' is not one of 'refuse', 'keep', 'newer', 'replace'."),
        ("existing = true", "options.existing: True is not one of"),
        ('existing = ["keep"]', "options.existing: ['keep'] is not one of"),
        ('proof = "much"', "options.proof: 'much' is not one of 'digest', 'counts', 'rows', 'app', 'none'."),
        ('on_reject = ""', "options.on_reject: '' is not one of 'stop', 'continue'."),
        ('create = "yes"', "options.create: 'yes' is not a valid boolean."),
        ("allow_empty = 1", "options.allow_empty: 1 is not a valid boolean."),
        ('workers = "four"', "options.workers: 'four' is not a valid integer."),
        ("workers = 1.5", "options.workers: 1.5 is not a valid integer."),
        ("workers = true", "options.workers: True is not a valid integer."),
        ("workers = -1", "options.workers: -1 is not in the range x>=0."),
        ("workers = 10000000000000000000000", "options.workers: 10000000000000000000000 is not in the range"),
        ('price = "cheap"', "options.price: 'cheap' is not a valid float."),
        ("price = nan", "options.price: nan is not in the range x>=0."),
        ("snapshot_limit = -0.5", "options.snapshot_limit: -0.5 is not in the range x>=0."),
        ("snapshot_limit = 2026-01-01", "options.snapshot_limit: datetime.date(2026, 1, 1) is not a valid float."),
        ('foreign = "CONFIG#*"', "options.foreign: 'CONFIG#*' is not a tuple of texts (in TOML an array)."),
        ("foreign = [1]", "options.foreign: [1] is not a tuple of texts (in TOML an array)."),
        ('kinds = [["fact"]]', "options.kinds: [['fact']] is not a tuple of texts (in TOML an array)."),
        ('kinds = [""]', "options.kinds: a name is empty"),
        ("mapping = 5", "options.mapping: 5 is not a valid text."),
        ('mapping = ""', "options.mapping: an empty text says nothing"),
        ("state = {}", "options.state: {} is not a valid text."),
        ('state = "a\\u0000"', "options.state: a text with a control character"),
        ("table_shape = false", "options.table_shape: False is not a valid text."),
    ],
)
def test_a_wrong_default_is_told_with_file_and_key_whatever_is_given(text: str, words: str) -> None:
    path = written(f"[options]\n{text}")
    message = refusal(Options.from_file, existing="replace", workers=2)
    assert message.startswith(str(path))
    assert words in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("existing", "maybe"), ("on_reject", "maybe"), ("proof", "much"), ("workers", -1), ("price", -0.5)],
)
def test_a_wrong_value_is_told_in_the_words_of_the_command_line(
    option: str, value: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    said = run(capfd, "migrate", "a.db", "b.db", f"--{option.replace('_', '-')}", str(value))
    click_words = said.err.strip().partition(": ")[2].rpartition("': ")[2]
    path = written(f"[options]\n{option} = {json.dumps(value)}")
    assert refusal(Options.from_file) == f"{path}: options.{option}: {click_words}"
    assert refusal(Options, **{option: value}) == f"{option}: {click_words}"


def test_each_choice_knows_who_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = written('[options]\nworkers = 3\nprice = 1.5\nstate = "jobs"')
    options = Options.from_file(workers=0)
    by = options.told_by
    assert (options.workers, options.price, options.proof) == (0, 1.5, "digest")
    assert (by["workers"], by["price"], by["proof"]) == (GIVEN, f"{path}: options.price", BUILT_IN)
    assert options.defaulted == {"price": f"{path}: options.price", "state": f"{path}: options.state"}
    monkeypatch.setenv("MIGRATOR_STATE", "/var/jobs")  # of this very run, so before the file
    assert Options.from_file().state == "/var/jobs"
    assert Options.from_file().told_by["state"] == "MIGRATOR_STATE"
    assert Options.from_file(state="mine").state == "mine"
    assert Options().defaulted == {}


def test_a_python_caller_has_the_files_stores_and_only_if_asked_its_options() -> None:
    shutil.copy(DATA / "chat.db", "chat.db")
    path = written('[stores.live]\naddress = "chat.db"\n[options]\nkinds = ["fact"]')
    assert len(migrator.migrate("live", "all.jsonl").kinds) > 1
    report = migrator.migrate("live", "facts.jsonl", Options.from_file())
    assert list(report.kinds) == ["fact"]
    assert report.told_by["kinds"] == f"{path}: options.kinds"
    assert migrator.inspect("live").named_by == f"{path}: stores.live"


# On the command line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def chat() -> Path:
    shutil.copy(DATA / "chat.db", "chat.db")
    return written('[stores.live]\naddress = "chat.db"\n[stores.backup]\naddress = "chat.jsonl.gz"\n')


def test_every_command_takes_names(chat: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = run(capfd, "migrate", "live", "backup")
    assert said.code == 0, said.err
    assert re.search(rf"told by +source by {chat}: stores.live; sink by {chat}: stores.backup\n", said.out)
    report = json.loads(run(capfd, "verify", "live", "backup", "--json").out)
    assert report["told_by"] == {"source": f"{chat}: stores.live", "sink": f"{chat}: stores.backup"}
    assert report["source"] == f"sqlite:///{Path('chat.db').absolute()}"
    assert f"told by  store by {chat}: stores.live" in run(capfd, "inspect", "live").out
    assert json.loads(run(capfd, "inspect", "live", "--json").out)["named_by"] == f"{chat}: stores.live"
    job = json.loads(run(capfd, "status", "--json").out)["jobs"][0]
    assert job["sink"] == f"jsonl:{Path('chat.jsonl.gz').absolute()}"
    said = run(capfd, "inspect", "liev")
    assert (said.code, f"{chat} names live, backup" in said.err) == (2, True)


def test_a_job_is_the_same_by_name_and_written_out(chat: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A checkpoint belongs to what is resolved: a name that comes to mean another store begins another job."""
    folders = [
        json.loads(run(capfd, *args, "--json").out)["state"]
        for args in (
            ["migrate", "live", "backup"],
            ["migrate", "chat.db", "chat.jsonl.gz"],
            ["migrate", "live", "sqlite:///other.db"],
        )
    ]
    assert folders[0] == folders[1] != folders[2]
    written('[stores.live]\naddress = "chat.db"\n[stores.backup]\naddress = "other.jsonl.gz"\n')
    assert json.loads(run(capfd, "migrate", "live", "backup", "--json").out)["state"] != folders[0]


@pytest.mark.parametrize("explicit", [["--proof", "digest"], ["--proof", "rows"]])
def test_what_the_command_line_says_goes_before_the_file_even_if_it_is_the_built_in_default(
    explicit: list[str], chat: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written(chat.read_text() + '[options]\nproof = "counts"\nkinds = ["fact"]\nforeign = ["A#*"]\nallow_empty = true')
    report = json.loads(run(capfd, "migrate", "live", "backup", "--json").out)
    assert (report["proven"], list(report["kinds"])) == ("counts", ["fact"])
    assert set(report["told_by"]) == {"source", "sink", "proof", "kinds", "foreign", "allow_empty"}
    given = [*explicit, "--kinds", "mood", "--foreign", "B#*", "--no-allow-empty"]
    report = json.loads(run(capfd, "migrate", "live", "two.db", *given, "--json").out)
    assert (report["proven"], list(report["kinds"])) == (explicit[1], ["mood"])
    assert (report["options"]["foreign"], report["options"]["allow_empty"]) == (["B#*"], False)
    assert set(report["told_by"]) == {"source"}


def test_a_default_holds_for_the_commands_that_have_the_option(chat: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """--existing and --table-shape are migrate's: verify, and a sink that is no table, must not stumble over them."""
    stores = chat.read_text()
    written(stores + '[options]\ntable_shape = "PK/SK"\none_way = true\nstate = "jobs"')
    assert run(capfd, "migrate", "live", "backup").code == 0
    with sqlite3.connect("chat.db") as db:
        db.execute("DELETE FROM moods WHERE id = 1")
    assert run(capfd, "verify", "live", "backup").code == 0
    assert run(capfd, "verify", "live", "backup", "--no-one-way").code == 4
    assert run(capfd, "migrate", "live", "backup", "--table-shape", "PK/SK").code == 2
    assert f"jobs in {Path('jobs').absolute()}" in run(capfd, "status").out
    written(stores + '[options]\nexisting = "newer"')
    assert run(capfd, "verify", "live", "backup", "--one-way").code == 0
    assert migrator.verify("live", "backup", Options.from_file(one_way=True)).outcome == "done"


def test_the_files_mapping_holds_for_inspect_too(chat: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written(chat.read_text() + '[options]\nmapping = "own.toml"')
    written('extends = "luminoracore-v1.1"\nname = "my-own"\n', "own.toml")
    assert json.loads(run(capfd, "inspect", "live", "--json").out)["mapping"] == "my-own"
    assert json.loads(run(capfd, "migrate", "live", "backup", "--json").out)["mapping"] == "my-own"


@pytest.mark.parametrize("command", [["migrate", "a.db", "b.db"], ["verify", "a.db", "b.db"], ["inspect", "a.db"], ["status"]])  # fmt: skip
def test_a_broken_file_is_one_message(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    path = written("[options]\nworkers = 'four'")
    said = run(capfd, *command)
    assert (said.code, said.out) == (2, "")
    assert said.err == f"error: {path}: options.workers: 'four' is not a valid integer.\n"
    said = run(capfd, *command, "--json")
    assert json.loads(said.out)["outcome"] == "refused"


# Whatever is written ---------------------------------------------------------------------------------------------------

WORDS_OF_TOML = st.sampled_from(
    ["address", "zone", "stores", "options", "live", "workers", "state", "kinds", "foreign", "existing", "mapping", "create", "price"]
)  # fmt: skip
TEXTS = st.sampled_from(["a.db", "sqlite", "${HOME}", "${", "$${", "UTC", "keep", "", "~/x", "~nobody-there/x", "dynamodb://${A}"])  # fmt: skip
VALUES = st.recursive(
    TEXTS | st.text(max_size=8) | st.integers() | st.floats() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS_OF_TOML | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{_quoted(key)} = {_toml(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case str():
            return _quoted(value)
    return repr(value)


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(c):08X}" for c in text if not 0xD800 <= ord(c) < 0xE000) + '"'


def _settings_or_refused(text: str) -> None:
    path = Path("migrator.toml")
    path.write_text(text, "utf-8")
    environ = {"HOME": "/home/ana", "A": "chat"}
    for ask in (lambda: Options.from_file(environ=environ), lambda: [resolve(name, environ) for name in load_settings(environ, Path.cwd()).stores]):  # fmt: skip
        try:
            ask()
        except ConfigError as exc:
            assert str(path) in str(exc)  # noqa: PT017
            assert "\n" not in str(exc)  # noqa: PT017


@given(st.dictionaries(WORDS_OF_TOML, VALUES, max_size=3))
def test_whatever_toml_is_written_is_settings_or_refused(data: dict[str, Any]) -> None:
    text = "\n".join(f"{_quoted(key)} = {_toml(value)}" for key, value in data.items())
    tomllib.loads(text)
    _settings_or_refused(text)


@given(
    st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=6), TEXTS | st.text(max_size=12), max_size=2),
    st.dictionaries(WORDS_OF_TOML, VALUES, max_size=2),
)
def test_whatever_store_and_option_is_written_is_one_or_refused(
    stores: dict[str, str], options: dict[str, Any]
) -> None:
    _settings_or_refused(_toml_tables(stores, options))


def _toml_tables(stores: dict[str, str], options: dict[str, Any]) -> str:
    lines = [f"[stores.{_quoted(name)}]\naddress = {_quoted(address)}" for name, address in stores.items()]
    return "\n".join([*lines, "[options]", *(f"{_quoted(name)} = {_toml(value)}" for name, value in options.items())])


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_bytes_there_are_is_settings_or_refused(data: bytes) -> None:
    Path("migrator.toml").write_bytes(data)
    try:
        load_settings({}, Path.cwd())
    except ConfigError as exc:
        assert "migrator.toml" in str(exc)  # noqa: PT017


def test_the_readmes_example_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = re.findall(r"## Configuration.*?```toml\n(.*?)```", readme, re.DOTALL)
    written(example)
    monkeypatch.setenv("AWS_PROFILE", "prod")
    assert resolve("live").options == {"region": "eu-west-1", "profile": "prod", "tz": "Europe/Madrid"}
    assert resolve("backup").name == "/var/backups/chat.jsonl.gz"
    assert Options.from_file().foreign == ("CONFIG#*",)
