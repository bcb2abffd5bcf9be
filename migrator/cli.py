"""The command line: parses, calls one function of `commands`, shows what it says, and ends with the right code.

Nothing is imported here that `--help` does not need.
"""

from __future__ import annotations

import atexit
import gc
import io
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


_EPILOG = "Exit codes: 0 done; 1 a store failed, run again to resume; 2 refused, nothing touched; 3 rejects; 4 differences; 5 locked; 130/143 interrupted; 70 a bug."
_DOCTOR_EPILOG = "Exit codes: 0 what is configured keeps what the chat saves; 1 it does not; 2 usage; 70 a bug."

STEPS = ("plan", "copy", "catch-up", "delete", "stop", "final", "proof", "switch", "tail")
"""Of a cutover: `certificate.STEPS`, which is not imported for `--help`."""

_OPTIONS: dict[str, list[Callable[[Any], Any]]] = {
    "common": [
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
        click.option("--mapping", metavar="NAME|FILE", help="The mapping; recognised from the source if left out."),
    ],
    "reading": [
        click.option("--read-rate", type=click.FloatRange(min=0, min_open=True), default=None, metavar="UNITS", help="Read units a second, of each DynamoDB table, by all workers together.  [default: a quarter of a provisioned table, no limit on demand]"),
    ],
    "writing": [
        click.option("--write-rate", type=click.FloatRange(min=0, min_open=True), default=None, metavar="UNITS", help="Write units a second, of the DynamoDB table that is written, by all workers together.  [default: as for reading]"),
    ],
    "words": [
        click.option("-q", "--quiet", is_flag=True, help="Only errors, and the line in which all ends."),
        click.option("-v", "--verbose", is_flag=True, help="Also what each step does and how long it takes, on stderr."),
    ],
    "two stores": [
        click.option("--kinds", metavar="A,B", help="Only these kinds, separated by commas."),
        click.option("--on-duplicate", type=click.Choice(["newest", "stop"]), default="newest", show_default=True, help="Of records with one identity: the newest travels, or refuse."),
        click.option("--unknown-fields", type=click.Choice(["keep", "drop"]), default="keep", show_default=True, help="Fields the mapping does not know: kept where the sink can, else the record is rejected; or left behind."),
        click.option("--expired", type=click.Choice(["reject", "write"]), default="reject", show_default=True, help="Records that the sink's time-to-live would delete at once."),
        click.option("--oversize", type=click.Choice(["reject", "compress", "split"]), default="reject", show_default=True, help="Records over DynamoDB's 400 KB an item, in fields that no application reads: rejected, compressed, or stored in parts."),
        click.option("--foreign", multiple=True, metavar="PATTERN", help="Items of no kind whose key matches may stay behind (CONFIG#*); may be given again."),
        click.option("--allow-empty/--no-allow-empty", default=False, help="Go on though the source holds nothing."),
        click.option("--state", metavar="DIR", help="Where jobs keep checkpoints, rejects and reports  [default: $MIGRATOR_STATE, else the user's state folder]"),
        click.option("--snapshot-limit", type=click.FloatRange(min=0), default=3.0, show_default=True, metavar="SECONDS", help="How long a snapshot may hold the application's writers up."),
    ],
}  # fmt: skip


def _with(*groups: str) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for group in reversed(groups):
            for option in reversed(_OPTIONS[group]):
                command = option(command)
        return command

    return add


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="migrator")
def cli() -> None:
    """Moves chat sessions and memories between stores: checkpointed, idempotent, verified.

    A store is a file (chat.db, chat.json, chat.jsonl.gz), an address (sqlite:///chat.db, "dynamodb://table?region=eu-west-1"), a name from
    migrator.toml, or a bare word (sqlite, dynamodb) that LuminoraCore's own configuration explains. migrator.toml, in the working folder or the
    user's, may also hold defaults of options.
    """


@cli.command(epilog=_EPILOG)
@click.argument("source")
@click.argument("sink")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Read and map everything, write nothing: what would be written, sizes, time and price.",
)
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    default=0.625,
    show_default=True,
    metavar="USD",
    help="US dollars a million write units, for the dry run.",
)
@click.option(
    "--existing",
    type=click.Choice(["refuse", "keep", "newer", "replace"]),
    default="refuse",
    show_default=True,
    help="A record that is there and differs: leave it and end with 4; leave it and go on; replace it if the source's is newer; replace it. What is replaced is kept in a file.",
)
@click.option(
    "--create/--no-create", default=None, help="Make the sink if it is not there.  [default: files yes, tables no]"
)
@click.option(
    "--on-reject",
    type=click.Choice(["stop", "continue"]),
    default=None,
    help="When a record cannot travel: stop behind its slice, or go on.  [default: stop; continue in a dry run]",
)
@click.option(
    "--proof",
    type=click.Choice(["digest", "counts", "rows", "app", "none"]),
    default="digest",
    show_default=True,
    help="How the end is proven; less than digest is said to be not proven; app: digest, and what the application remembers of each user.",
)
@click.option(
    "--users",
    type=click.IntRange(min=1),
    metavar="N",
    help="For --proof app: so many users, always the same.  [default: all]",
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, metavar="N", help="How many workers.  [default: cores]"
)
@click.option("--user", metavar="ID", help="Only this user's records, and those of the user's sessions.")
@click.option("--since", metavar="TIME", help="Only what was changed since; needs the source's zone (?tz=).")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only so many records; never called complete.")
@click.option("--restart", is_flag=True, help="Begin anew, whatever the checkpoint says.")
@click.option("--table-shape", metavar="LAYOUT", help="The shape of a table to be made.  [default: user_id/SK]")
@_with("writing", "reading", "two stores", "common", "words")
def migrate(source: str, sink: str, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Copy every record of SOURCE into SINK, resumable and proven. Safe to run again.

    \b
    Example:  migrator migrate chat.db chat.jsonl.gz
    Example:  migrator migrate sqlite:///chat.db "dynamodb://chat?region=eu-west-1" --create
    Example:  migrator migrate chat.db "dynamodb://chat?region=eu-west-1" --write-rate 200 --read-rate 400
    Example:  migrator migrate live backup
    Example:  migrator migrate sessions.json "dynamodb://sessions?region=eu-west-1" --create --oversize split
    """
    from migrator import commands

    console = _console(as_json, quiet, verbose)
    report = commands.migrate(source, sink, _options(options), console)
    console.report(report)
    sys.exit(report.exit_code)


@cli.command(epilog=_EPILOG)
@click.argument("source")
@click.argument("sink")
@click.option(
    "--proof",
    type=click.Choice(["digest", "counts", "rows", "app"]),
    default="digest",
    show_default=True,
    help="What is compared; app: what the application remembers of each user, asked as it asks.",
)
@click.option(
    "--users",
    type=click.IntRange(min=1),
    metavar="N",
    help="For --proof app: so many users, always the same.  [default: all]",
)
@click.option("--one-way/--no-one-way", default=False, help="What is only in the sink is no difference.")
@_with("reading", "two stores", "common", "words")
def verify(source: str, sink: str, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Compare SINK with SOURCE and write to neither: what is missing, differing and extra, by name.

    \b
    Example:  migrator verify chat.db chat.jsonl.gz
    Example:  migrator verify chat.db "dynamodb://chat?region=eu-west-1" --proof app --users 20
    """
    from migrator import commands

    console = _console(as_json, quiet, verbose)
    report = commands.verify(source, sink, _options(options), console)
    console.report(report)
    sys.exit(report.exit_code)


@cli.command(epilog=_EPILOG)
@click.argument("source")
@click.argument("sink")
@click.option("--yes-until", "until", type=click.Choice(STEPS), help="Take the steps up to this one without asking.")
@click.option(
    "--delete-extra/--keep-extra",
    default=None,
    help="What is gone from the source since it was copied: delete it in the sink, if that was empty at first; or leave it.  [default: name it, and end the final step with 4]",
)
@click.option(
    "--max-delete",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="More than so many at once are refused, and nothing is deleted.",
)
@click.option(
    "--small",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="A pass that writes fewer records ends the catch-up.",
)
@click.option(
    "--quiet-for",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long nothing may have been written to the source, the writers being stopped.",
)
@click.option(
    "--existing",
    type=click.Choice(["refuse", "replace"]),
    default="refuse",
    show_default=True,
    help="Of a sink that holds other records when the cutover begins: refuse it, or replace them (they are kept in a file).",
)
@click.option(
    "--create/--no-create", default=None, help="Make the sink if it is not there.  [default: files yes, tables no]"
)
@click.option(
    "--on-reject",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="When records cannot travel: do not go on, or accept the loss.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, metavar="N", help="How many workers.  [default: cores]"
)
@click.option("--restart", is_flag=True, help="Begin anew, whatever has been done.")
@click.option("--table-shape", metavar="LAYOUT", help="The shape of a table to be made.  [default: user_id/SK]")
@_with("writing", "reading", "two stores", "common")
def cutover(
    source: str,
    sink: str,
    until: str | None,
    delete_extra: bool | None,
    max_delete: int,
    small: int,
    quiet_for: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Change from SOURCE to SINK, step by step: plan, copy, catch-up, delete, stop, final, proof, switch, tail.

    Each step says what it does and why that is safe, and asks; the same command goes on behind the last step that was done, also after a kill.
    The application goes on with SOURCE until you are told to stop it. Where nobody can be asked it ends behind --yes-until, with the command
    that goes on.

    \b
    Example:  migrator cutover chat.db new.db --yes-until tail --quiet-for 1
    Example:  migrator cutover chat.db "dynamodb://chat?region=eu-west-1" --create --delete-extra --max-delete 50
    """
    from migrator.certificate import Terms
    from migrator.console import Console
    from migrator.cutting_over import cutover as change

    console = Console(as_json)
    terms = Terms(until, delete_extra, max_delete, small, quiet_for)
    agree = console.asks if console.is_attended else None
    certificate = change(source, sink, _options(options), terms, agree, console)
    console.certificate(certificate)
    sys.exit(certificate.exit_code)


@cli.command(epilog=_EPILOG)
@click.argument("store")
@click.option(
    "--sample",
    type=click.IntRange(min=0, max=1000),
    default=0,
    show_default=True,
    metavar="N",
    help="Name N records of each kind, spread over all of them, the same ones each time.",
)
@click.option(
    "--show-values", is_flag=True, help="Show the fields of the sample too, people's words and secrets included."
)
@_with("reading", "common", "words")
def inspect(
    store: str,
    sample: int,
    show_values: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    mapping: str | None,
    read_rate: float | None,
) -> None:
    """Say what STORE holds: layout and why, counts, sizes, users, oldest and newest record, expired, ghosts, what is near a limit, what
    LuminoraCore does not find and why, and where secrets lie. No value is shown unless asked for.

    \b
    Example:  migrator inspect chat.db
    Example:  migrator inspect chat.db --sample 3
    """
    from migrator import commands

    if show_values and not sample:
        raise click.UsageError("--show-values shows the fields of a sample; say how many records too, --sample N")
    console = _console(as_json, quiet, verbose)
    options = _options({"mapping": mapping, "read_rate": read_rate})
    found = commands.inspect(
        store, options.mapping, console, sample=sample, show_values=show_values, read_rate=options.read_rate
    )
    console.inspection(found)


@cli.command(epilog=_EPILOG)
@click.argument("store")
@click.option("--yes", is_flag=True, help="Make it without asking.")
@click.option("--table-shape", metavar="LAYOUT", help="The shape of a DynamoDB table.  [default: user_id/SK]")
@_with("common")
def init(store: str, yes: bool, table_shape: str | None, mapping: str | None, as_json: bool) -> None:
    """Make STORE as LuminoraCore can read it: a SQLite file with its tables, a DynamoDB table, a JSON file. Says first what it would make, and asks.

    \b
    Example:  migrator init new.db --yes
    """
    from migrator import commands
    from migrator.console import Console

    console = Console(as_json)
    new = commands.init(store, mapping, table_shape)
    console.plan(new.lines)
    if not yes and not console.agrees("make it?", "--yes"):
        sys.exit(2)
    new.make()
    console.made(new)


@cli.command(epilog=_DOCTOR_EPILOG)
@click.argument("stores", nargs=-1, metavar="[STORE]...")
@click.option(
    "--probe", is_flag=True, help="The persistence test: write a record of each kind, close, open again, read, delete."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@_with("words")
def doctor(stores: tuple[str, ...], probe: bool, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Say why a store does not keep what the chat saves, and the one line that mends it. Writes nothing without --probe.

    Without STORE: every store that LuminoraCore can be configured for, by luminora_config.json and the LUMINORA_* and AWS_* variables, and the best
    one that works now.

    \b
    Example:  migrator doctor chat.db
    Example:  migrator doctor chat.db --probe
    """
    from migrator import commands

    console = _console(as_json, quiet, verbose)
    found = commands.doctor(*stores, probe=probe, show=console)
    console.examination(found)
    sys.exit(0 if found.is_well else 1)


@cli.command()
@click.option(
    "--state", metavar="DIR", help="Where jobs are kept  [default: $MIGRATOR_STATE, else the user's state folder]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def status(state: str | None, as_json: bool) -> None:
    """List jobs: done, running, interrupted or failed, and snapshots that remain.

    \b
    Example:  migrator status
    """
    from migrator import commands
    from migrator.console import Console

    Console(as_json).status(*commands.status(_options({"state": state}).state))


@cli.group()
def mappings() -> None:
    """The mappings: which kinds there are, and how each store holds them."""


@mappings.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def mappings_list(as_json: bool) -> None:
    """List the mappings that come with migrator.

    \b
    Example:  migrator mappings list
    """
    from migrator import commands
    from migrator.console import Console

    Console(as_json).mappings(commands.mappings())


@mappings.command("show")
@click.argument("mapping")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def mappings_show(mapping: str, as_json: bool) -> None:
    """Show the kinds and layouts of MAPPING, a name or a file.

    \b
    Example:  migrator mappings show luminoracore-v1.1
    """
    from migrator.console import Console
    from migrator.mapping_file import load_mapping

    Console(as_json).mapping(load_mapping(mapping))


@mappings.command("check")
@click.argument("mapping")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def mappings_check(mapping: str, as_json: bool) -> None:
    """Check MAPPING, a name or a file, whole; the first thing that is wrong is told with file, table and reason.

    \b
    Example:  migrator mappings check luminoracore-v1.1
    """
    from migrator import commands
    from migrator.console import Console

    Console(as_json).sound(commands.check_mapping(mapping))


def _console(as_json: bool, quiet: bool, verbose: bool) -> Any:
    from migrator.console import Console

    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose are opposites: leave one out")
    return Console(as_json, quiet, verbose)


def _options(values: dict[str, Any]) -> Any:
    """What the command line says, and for what it leaves out the defaults of the settings file."""
    from migrator.options import Options

    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = {name: value for name, value in values.items() if context.get_parameter_source(name) is not default}
    if "kinds" in given:
        given["kinds"] = tuple(each.strip() for each in given["kinds"].split(","))
    return Options.from_file(values, **given, processes=True)


def main(args: list[str] | None = None, prog: str = "migrator", command: click.Command = cli) -> None:
    """Run the command line and end the process with its exit code; no error of a person's ends in a traceback."""
    args = sys.argv[1:] if args is None else args
    atexit.register(
        gc.freeze
    )  # all that was imported would be looked through for garbage once more, which takes a tenth of a second
    try:
        command.main(args, prog_name=prog, standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.exceptions.Abort:
        sys.exit(_fail(KeyboardInterrupt(), args))
    except click.ClickException as exc:
        sys.exit(_misused(exc, args))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (Exception, KeyboardInterrupt) as exc:
        sys.exit(_fail(exc, args))


def _misused(error: click.ClickException, args: list[str]) -> int:
    """Usage, in click's words; a script that asked for an object gets one."""
    from migrator.console import Console
    from migrator.screen import echo

    if "--json" not in args:
        said = io.StringIO()
        error.show(said)
        echo(said.getvalue().rstrip("\n"), err=True, folded=False)
        return 2

    Console(as_json=True).failure(error.format_message(), "refused", 2)
    return 2


def _fail(error: BaseException, args: list[str]) -> int:
    import errno

    from migrator.console import Console
    from migrator.errors import AccountError, StoreError
    from migrator.report import of_our_disk, outcome_of

    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO):
        error = StoreError(f"the output cannot be written: {error.strerror}")  # click's own, of help
    error = of_our_disk(error, None) or error
    outcome, code = outcome_of(error)
    report = getattr(error, "report", None)
    match outcome:
        case "interrupted":
            words = "interrupted; everything up to the last slice is saved: run the same command again to resume"
        case "bug":
            import traceback

            from migrator.screen import echo

            echo(traceback.format_exc().rstrip("\n"), err=True, folded=False)
            what = str(error) if isinstance(error, AccountError) else type(error).__name__  # others may quote a value
            words = f"a bug of migrator: {what}. What is saved stays saved; please report it with the lines above"
        case _:
            words = str(error)
    quiet = not {"-q", "--quiet"}.isdisjoint(args)
    Console("--json" in args, quiet).failure(words, outcome, code, report)
    return code


def migrate_main() -> None:
    """`migrate`, a second name for `migrator migrate`."""
    main(prog="migrate", command=migrate)
