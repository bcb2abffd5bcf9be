"""The command line as a person meets it: help, exit codes, messages, what is on which stream."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import migrator
from migrator import Options
from migrator.cli import cli, main, migrate_main
from migrator.console import harmless
from migrator.errors import ConfigError
from migrator.report import EXIT_CODES
from tables import client_of

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    shutil.copy(DATA / "chat.db", tmp_path / "chat.db")


class Said:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def run(capfd: pytest.CaptureFixture[str], *args: str) -> Said:
    """The command line in this process, as `main` ends it."""
    capfd.readouterr()
    code: Any = 0
    try:
        main(list(args))
    except SystemExit as ended:
        code = ended.code or 0
    seen = capfd.readouterr()
    return Said(code, seen.out, seen.err)


# Help ------------------------------------------------------------------------------------------------------------------

DESIGNED = [
    "--dry-run",
    "--price",
    "--existing",
    "--create",
    "--on-reject",
    "--on-duplicate",
    "--unknown-fields",
    "--foreign",
    "--expired",
    "--oversize",
    "--user",
    "--users",
    "--since",
    "--limit",
    "--allow-empty",
    "--kinds",
    "--proof",
    "--workers",
    "--read-rate",
    "--write-rate",
    "--mapping",
    "--state",
    "--restart",
    "--table-shape",
    "--snapshot-limit",
    "--json",
    "--quiet",
    "--verbose",
]


def test_migrate_has_the_designed_options_with_their_defaults() -> None:
    options = {
        name: option for option in cli.commands["migrate"].params for name in option.opts if name.startswith("--")
    }
    assert set(options) == set(DESIGNED)
    ours = Options()
    defaults = {
        "--existing": ours.existing, "--on-duplicate": ours.on_duplicate, "--unknown-fields": ours.unknown_fields, "--proof": ours.proof,
        "--dry-run": ours.dry_run, "--allow-empty": ours.allow_empty, "--price": ours.price, "--snapshot-limit": ours.snapshot_limit,
        "--restart": ours.restart, "--create": ours.create, "--on-reject": ours.on_reject, "--workers": ours.workers,
        "--read-rate": ours.read_rate, "--write-rate": ours.write_rate,
    }  # fmt: skip
    # A flag that nobody gives is False, however click marks that.
    given = {name: options[name].default for name in defaults}
    assert {n: d if isinstance(d, str | int | float | None) else False for n, d in given.items()} == defaults
    choices = {
        name: tuple(option.type.choices) for name, option in options.items() if isinstance(option.type, click.Choice)
    }
    assert choices == {
        "--existing": ("refuse", "keep", "newer", "replace"),
        "--on-reject": ("stop", "continue"),
        "--on-duplicate": ("newest", "stop"),
        "--unknown-fields": ("keep", "drop"),
        "--expired": ("reject", "write"),
        "--oversize": ("reject", "compress", "split"),
        "--proof": ("digest", "counts", "rows", "app", "none"),
    }
    assert "--create" in options and "--no-create" in {
        name for o in cli.commands["migrate"].params for name in o.secondary_opts
    }


def test_verify_can_go_one_way() -> None:
    assert "--one-way" in {name for option in cli.commands["verify"].params for name in option.opts}


def _commands(group: click.Group, *path: str) -> Any:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", list(_commands(cli)), ids=" ".join)
def test_the_example_at_the_end_of_help_works(command: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    text = CliRunner().invoke(cli, [*command, "--help"]).output
    examples = re.findall(r"Example: +migrator (.*)", text)
    assert examples
    Path("migrator.toml").write_text('stores.live.address = "chat.db"\nstores.backup.address = "backup.jsonl.gz"')
    if command == ("verify",):
        run(capfd, "migrate", "chat.db", "chat.jsonl.gz")
    for example in examples:
        if "dynamodb" not in example:
            said = run(capfd, *example.split())
            assert said.code == 0, said.err


def test_help_is_quick_and_loads_no_store(tmp_path: Path) -> None:
    code = "import sys\nfrom migrator.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(sorted(sys.modules), file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    for library in ("boto3", "botocore", "tqdm", "orjson", "sqlite3", "platformdirs"):
        assert f"'{library}'" not in loaded


def test_a_migration_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Whole commands on small stores are counted in tenths of a second, and libraries are most of it."""
    args = [
        "migrate",
        str(Path(__file__).parent / "data" / "chat.db"),
        str(tmp_path / "chat.jsonl"),
        "--state",
        str(tmp_path / "state"),
        "--workers",
        "1",
    ]
    code = f"import sys\nfrom migrator.cli import main\ntry: main({args})\nexcept SystemExit: pass\nprint(*sys.modules, sep=chr(10))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "migrator.engine" in loaded
    own = [f"migrator.{name}" for name in ("application", "certificate", "examination", "inspection", "luminoracore")]
    assert {"boto3", "multiprocessing", "zoneinfo", "tqdm", *own} & set(loaded) == set()


def test_migrate_is_a_second_name(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["migrate", "chat.db", "x.jsonl"])
    with pytest.raises(SystemExit) as ended:
        migrate_main()
    assert ended.value.code == 0
    assert Path("x.jsonl").exists()


# What is said, and where -----------------------------------------------------------------------------------------------


def test_json_is_one_object_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    said = run(capfd, "migrate", "chat.db", "x.jsonl", "--json")
    report = json.loads(said.out)
    assert {
        "run_id", "tool_version", "command", "outcome", "exit_code", "options", "source", "sink", "mapping", "mapping_sha256", "proven", "snapshot",
        "started", "finished", "seconds", "state", "rejects_file", "foreign", "narrowed", "kinds",
    } <= set(report)  # fmt: skip
    assert {
        "read", "written", "unchanged", "kept", "differing", "filtered", "rejected", "duplicates", "source_count", "sink_count", "missing", "extra",
        "digest", "source_digest", "sink_digest",
    } <= set(report["kinds"]["fact"])  # fmt: skip
    assert {"id", "moment", "words"} <= set(report["snapshot"])
    assert json.loads((Path(report["state"]) / "report.json").read_text()) == report
    assert report["kinds"]["fact"]["source_digest"] == report["kinds"]["fact"]["sink_digest"] != "0" * 32
    for command in (["verify", "chat.db", "x.jsonl"], ["inspect", "chat.db"], ["status"], ["mappings", "list"]):
        json.loads(run(capfd, *command, "--json").out)


def test_a_failure_has_its_report_in_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    said = run(capfd, "migrate", "nowhere.db", "x.jsonl", "--json")
    report = json.loads(said.out)
    assert (said.code, report["exit_code"], report["outcome"]) == (2, 2, "refused")
    assert "nowhere.db" in report["error"]


@pytest.mark.parametrize(
    "args",
    [
        ["migrate", "chat.db"],
        ["migrate", "chat.db", "x.jsonl", "--existing", "maybe"],
        ["inspect", "nowhere.db"],
        ["mappings", "check", "nowhere"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
def test_whatever_goes_wrong_a_script_gets_an_object(args: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    said = run(capfd, *args, "--json")
    report = json.loads(said.out)
    assert (said.code, report["exit_code"], report["outcome"]) == (2, 2, "refused")
    assert report["error"]


def test_output_that_cannot_be_written_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    program = Path(sys.executable).parent / "migrator"
    for command in ("inspect chat.db", "migrate chat.db x.jsonl", "mappings list --json", "--help", "migrate --help"):
        ended = subprocess.run(
            f"{program} {command} > /dev/full", shell=True, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, "No space left" in ended.stderr, "Traceback" in ended.stderr) == (1, True, False)
    for stream in ("2>/dev/full", ">&-"):
        assert subprocess.run(f"{program} inspect chat.db {stream}", shell=True, check=False).returncode == 0


def test_tables_that_nothing_is_read_from_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect("chat.db") as db:
        db.execute("CREATE TABLE notes (id INTEGER)")
    said = run(capfd, "migrate", "chat.db", "x.jsonl")
    assert (said.code, "tables that no layout names: notes" in said.out) == (0, True)


def test_progress_and_trouble_are_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    said = run(capfd, "migrate", "chat.db", "x.jsonl")
    assert "no checkpoint in" in said.err.splitlines()[0]
    assert "equal" in said.out
    assert "source" in said.out


def test_nothing_on_the_screen_holds_a_value(capfd: pytest.CaptureFixture[str]) -> None:
    """Identities and field names only: not even where records differ or are rejected (H45: the sample holds API keys)."""
    run(capfd, "migrate", "chat.db", "other.db")
    with sqlite3.connect("other.db") as db:
        db.execute("UPDATE facts SET value = 'the-changed-value' WHERE category = 'session_metadata'")
        db.execute("UPDATE facts SET confidence = 'not-a-number-xyz' WHERE id = 7")
    for command in ("migrate", "verify"):
        said = run(capfd, command, "chat.db", "other.db")
        assert said.code == 4
        for secret in ("the-changed-value", "not-a-number-xyz", "sk-EXAMPLE", "api_key"):
            assert secret not in said.out + said.err
    for report in Path("state").glob("*/report.json"):
        assert "sk-EXAMPLE" not in report.read_text()
        assert "the-changed-value" not in report.read_text()


def test_state_is_readable_by_its_owner_alone(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "migrate", "chat.db", "x.jsonl")
    assert Path("state").stat().st_mode & 0o077 == 0
    for path in Path("state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert Path("x.jsonl").stat().st_mode & 0o077 == 0


def test_a_terminal_that_was_closed_stops_nothing(tmp_path: Path) -> None:
    command = f"{Path(sys.executable).parent / 'migrator'} migrate chat.db x.jsonl"
    for closed in ("2>&-", ">&-", ">&- 2>&- <&-"):
        Path("x.jsonl").unlink(missing_ok=True)
        assert subprocess.run(f"{command} {closed}", shell=True, check=False).returncode == 0
        assert Path("x.jsonl").exists()


def test_the_work_goes_on_when_nobody_reads_on() -> None:
    command = f"{Path(sys.executable).parent / 'migrator'} migrate chat.db x.jsonl"
    ended = subprocess.run(
        f"bash -c 'set -o pipefail; {command} | true'", shell=True, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, Path("x.jsonl").exists()) == (0, True), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"existing": "mine"},
        {"proof": "much"},
        {"on_reject": "maybe"},
        {"kinds": "fact"},
        {"kinds": ("",)},
        {"workers": -3},
        {"price": float("nan")},
    ],
)
def test_a_choice_that_there_is_not_is_refused_in_python_too(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(**wrong)


def test_python_callers_may_name_a_store_by_its_path() -> None:
    assert migrator.migrate(Path("chat.db"), Path("x.jsonl")).outcome == "done"
    assert migrator.verify(Path("chat.db"), "x.jsonl").outcome == "done"
    assert migrator.inspect(Path("x.jsonl")).kinds["fact"].count > 0
    with pytest.raises(ConfigError, match="text or a path"):
        migrator.migrate(7, "x.jsonl")  # type: ignore[arg-type]
    assert {"migrate", "verify", "Options"} <= set(dir(migrator))
    assert all(getattr(migrator, name) for name in migrator.__all__)


def test_a_circle_of_links_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    Path("loop.db").symlink_to("loop.db")
    for args in (["migrate", "chat.db", "loop.db"], ["migrate", "loop.db", "x.jsonl"]):
        said = run(capfd, *args)
        assert (said.code, "circle" in said.err) == (2, True)


def test_text_from_data_is_shown_harmless() -> None:
    assert harmless("a\x1b[31mb\r\n\x00é\ud800") == "a\\x1b[31mb\\r\\n\\x00é\\ud800"


def test_output_into_a_pipe_that_closes_is_no_traceback(tmp_path: Path) -> None:
    command = f"{Path(sys.executable).parent / 'migrator'} mappings show luminoracore-v1.1"
    ended = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr


# Bad input: one message with the next step, the right code, nothing changed -----------------------------------------------


def _tree() -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in Path.cwd().iterdir()
        if path.is_file() and not path.name.startswith("luminora")
    }


def _not_a_database() -> None:
    Path("odd.db").write_bytes(b"this is no database at all, only words" * 100)


def _empty_file() -> None:
    Path("empty.db").write_bytes(b"")


def _empty_tables() -> None:
    with sqlite3.connect("chat.db") as db:
        for table in ("facts", "affinity", "episodes", "moods", "memories", "sessions"):
            db.execute(f"DELETE FROM {table}")


def _other_tables() -> None:
    with sqlite3.connect("shop.db") as db:
        db.execute("CREATE TABLE orders (id INTEGER)")
        db.execute("INSERT INTO orders VALUES (1)")


def _broken_json() -> None:
    Path("odd.json").write_text('{"facts": [{"user_id": ')


def _wrong_shape() -> None:
    Path("odd.json").write_text('{"facts": {"a": 1}}')


def _nothing_at_all() -> None:
    Path("odd.json").write_text("{}")


def _wrong_column() -> None:
    Path("odd.toml").write_text(
        'extends = "luminoracore-v1.1"\nname = "odd"\n[layouts.sqlite.fact.columns]\nvalue = "TEXT NOT NUL("\n'
    )


def _column_of_nobody() -> None:
    Path("odd.toml").write_text(
        'extends = "luminoracore-v1.1"\nname = "odd"\n[layouts.sqlite.fact.columns]\nextra = "TEXT NOT NULL"\n'
    )


@pytest.mark.parametrize(
    ("before", "args", "words"),
    [
        (None, ["migrate", "nowhere.db", "x.jsonl"], "there is nothing here"),
        (None, ["migrate", "chat.db", "no/folder/x.jsonl"], "mkdir"),
        (None, ["migrate", "oracle://x", "x.jsonl"], "unknown scheme"),
        (None, ["migrate", "sqlite://chat.db", "x.jsonl"], "sqlite:///chat.db"),
        (None, ["migrate", "postgresql://u:pw@h/d", "x.jsonl"], "no adapter for it yet"),
        (_empty_file, ["migrate", "empty.db", "x.jsonl"], "--allow-empty"),
        (_empty_tables, ["migrate", "chat.db", "x.jsonl"], "--allow-empty"),
        (_not_a_database, ["migrate", "odd.db", "x.jsonl"], "not a SQLite database"),
        (_other_tables, ["migrate", "shop.db", "x.jsonl"], "no mapping fits"),
        (_broken_json, ["migrate", "odd.json", "x.db"], "byte|truncated|not JSON"),
        (None, ["migrate", "sqlite", "x.jsonl"], "LUMINORA_SQLITE_PATH"),
        (None, ["migrate", "chat.db", "dynamodb"], "LUMINORA_DYNAMODB_TABLE"),
        (None, ["migrate", "chat.db", "chat.db"], "one store"),
        (None, ["migrate", "chat.db", "x.jsonl", "--kinds", "facts"], "no kind"),
        (None, ["migrate", "chat.db", "x.jsonl", "--kinds", ""], "kinds: a name is empty"),
        (None, ["migrate", "sqlite:///what?.db", "x.jsonl"], "%3F"),
        (None, ["migrate", "chat.db", "x.jsonl", "--table-shape", "user_id/SK"], "--table-shape: only a DynamoDB table"),
        (None, ["migrate", "chat.db", "dynamodb://abcd?endpoint=http://localhost:notaport"], "an endpoint looks like"),
        (None, ["inspect", "dynamodb://abcd?endpoint=http://localhost:99999"], "an endpoint looks like"),
        (None, ["inspect", "n" * 300 + ".db"], "name is too long"),
        (None, ["migrate", "chat.db", "odd\udcff.jsonl"], "not UTF-8"),
        (None, ["migrate", "chat.db", "x.jsonl", "--user", "odd\udcff"], "user: .* is not a valid text"),
        (_wrong_shape, ["migrate", "odd.json", "x.db"], "no mapping fits.*facts .no array."),
        (_wrong_column, ["mappings", "check", "odd.toml"], r"layouts.sqlite.fact.*cannot be made"),
        (_wrong_column, ["migrate", "chat.db", "x.db", "--mapping", "odd.toml"], r"odd.toml: .layouts.sqlite.fact.*cannot be made"),
        (_column_of_nobody, ["mappings", "check", "odd.toml"], r"layouts.sqlite.fact.*its column extra must be given"),
        (_column_of_nobody, ["migrate", "chat.db", "x.db", "--mapping", "odd.toml"], r"layouts.sqlite.fact.*its column extra must be given"),
        (None, ["inspect", "sqlite:///chat.db?mode=ro"], r"no option but .tz=ZONE"),
        (_nothing_at_all, ["migrate", "odd.json", "x.db"], "holds no records, of any mapping"),
        (None, ["migrate", "chat.db", "x.jsonl", "--user", "nobody"], "no record of .* is of the user"),
        (None, ["migrate", "chat.db", "x.jsonl", "--mapping", "luminoracore"], "no mapping"),
        (None, ["migrate", "chat.db", "x.jsonl", "--no-create"], "--create"),
        (None, ["migrate", "chat.db"], "Missing argument"),
        (None, ["migrate", "chat.db", "x.jsonl", "--existing", "maybe"], "refuse"),
        (None, ["verify", "chat.db", "x.jsonl"], "nothing to compare"),
        (None, ["inspect", "nowhere.db"], "there is nothing here"),
        (None, ["mappings", "check", "nowhere.toml"], "no mapping"),
        (None, ["migrate", "chat.db", "dynamodb://table?region=eu-west-1&endpoint=http://127.0.0.1:9", "--create"], "127.0.0.1:9|endpoint"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_changes_nothing(
    before: Any, args: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if before is not None:
        before()
    there = _tree()
    said = run(capfd, *args)
    assert said.code == 2, said.err
    assert re.search(words, said.err), said.err
    assert "Traceback" not in said.err
    assert len([line for line in said.err.splitlines() if line.lower().startswith("error")]) == 1
    assert ":pw" not in said.err
    assert _tree() == there


@pytest.mark.parametrize(
    ("unset", "words"),
    [
        (["AWS_DEFAULT_REGION", "AWS_REGION"], "AWS_DEFAULT_REGION"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "credentials"),
    ],
)
def test_what_aws_lacks_is_named(
    unset: list[str], words: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, moto_endpoint: str
) -> None:
    for name in unset:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    said = run(capfd, "migrate", "chat.db", f"dynamodb://table?endpoint={moto_endpoint}", "--create")
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.err


def test_a_table_is_not_made_by_a_typing_error(capfd: pytest.CaptureFixture[str], dynamodb_endpoint: str) -> None:
    said = run(capfd, "migrate", "chat.db", f"dynamodb://chta?region=eu-west-1&endpoint={dynamodb_endpoint}")
    assert said.code == 2
    assert "--create" in said.err


def test_a_table_with_the_wrong_keys_is_refused(capfd: pytest.CaptureFixture[str], dynamodb_endpoint: str) -> None:

    client = client_of(dynamodb_endpoint)
    name = "wrong-keys"
    if name not in client.list_tables()["TableNames"]:
        client.create_table(
            TableName=name, BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "who", "KeyType": "HASH"}, {"AttributeName": "when", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": "who", "AttributeType": "S"}, {"AttributeName": "when", "AttributeType": "S"}],
        )  # fmt: skip
    said = run(capfd, "migrate", "chat.db", f"dynamodb://{name}?region=eu-west-1&endpoint={dynamodb_endpoint}")
    assert said.code == 2
    assert "who/when" in said.err
    assert "user_id/SK" in said.err


def test_source_and_sink_swapped_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "migrate", "chat.db", "copy.db")
    with sqlite3.connect("chat.db") as db:
        db.execute("UPDATE facts SET value = 'newer' WHERE id = 7")
        db.execute("DELETE FROM moods WHERE id = 1")

    def held() -> list[Any]:
        with sqlite3.connect("chat.db") as db:
            return db.execute("SELECT * FROM facts ORDER BY id").fetchall()

    before = held()
    said = run(capfd, "migrate", "copy.db", "chat.db")
    assert said.code == 4
    assert held() == before


# Exit codes ------------------------------------------------------------------------------------------------------------


def test_the_readme_and_help_list_the_exit_codes() -> None:
    readme = (ROOT / "README.md").read_text()
    for outcome, code in EXIT_CODES.items():
        assert re.search(rf"\| {code}(,| \|)", readme), outcome
        assert str(code) in (cli.epilog or "")


def test_every_test_that_the_readme_names_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for path, name in re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", readme):
        text = (ROOT / path).read_text()
        assert not name or f"def {name}(" in text, f"{path}::{name}"


def test_an_interruption_before_anything_is_written_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("migrator.run.make_plan", interrupted)
    said = run(capfd, "migrate", "chat.db", "x.jsonl")
    assert (said.code, "interrupted" in said.err, "run the same command again" in said.err) == (130, True, True)


def test_a_bug_of_ours_is_said_to_be_one(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.engine.copy_slice", lambda *_: 1 / 0)
    said = run(capfd, "migrate", "chat.db", "x.jsonl")
    assert said.code == 70
    assert "a bug of migrator" in said.err


def test_an_account_that_does_not_close_is_said_with_its_figures(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("note", "_note_alike"):
        monkeypatch.setattr(f"migrator.pair.Pair.{name}", lambda *_: None)
    said = run(capfd, "migrate", "chat.db", "x.jsonl", "--workers", "1")  # else another kind may be the first
    assert said.code == 70
    last = [line for line in said.err.splitlines() if "a bug of migrator" in line][-1]
    assert (
        "does not close: affinity: 60 read, 60 written; 0 in the digest. What is saved stays saved; please report"
        in last
    )


def test_status_tells_jobs_apart(capfd: pytest.CaptureFixture[str]) -> None:
    assert "none" in run(capfd, "status").out
    run(capfd, "migrate", "chat.db", "x.jsonl")
    with sqlite3.connect("chat.db") as db:
        db.execute("UPDATE facts SET confidence = 'much' WHERE id = 7")
    run(capfd, "migrate", "chat.db", "y.jsonl")
    jobs = {
        job["sink"].rpartition("/")[2]: job["status"] for job in json.loads(run(capfd, "status", "--json").out)["jobs"]
    }
    assert jobs == {"x.jsonl": "done", "y.jsonl": "rejects"}
    assert "x.jsonl" in run(capfd, "status").out


def test_a_database_that_is_made_is_its_owners_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """It holds people's chats; one that was there keeps its mode."""
    run(capfd, "migrate", "chat.db", "new.db")
    assert Path("new.db").stat().st_mode & 0o777 == 0o600
    Path("new.db").chmod(0o644)
    run(capfd, "migrate", "chat.db", "new.db")
    assert Path("new.db").stat().st_mode & 0o777 == 0o644
