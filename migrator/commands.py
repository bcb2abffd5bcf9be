"""One function per command, complete without the command line: what `migrator` can do, a Python caller can do with one call.

Leaves the story of a run to `migration` and `verification`, parsing to `cli` and looks to `console`; all speak through Options, Show and Report.
What only one command needs is imported by it: most runs are migrations.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.adapters import adapter_for
from migrator.adapters.base import Setting, Source
from migrator.checkpoint import JobStatus, jobs, state_root
from migrator.errors import ConfigError
from migrator.mapping import Mapping
from migrator.mapping_file import load_mapping, shipped
from migrator.migration import Migration
from migrator.options import Options
from migrator.plan import look_at, must_be_makable
from migrator.report import Report
from migrator.run import Run, Show, Silent
from migrator.verification import Verification

if TYPE_CHECKING:
    from migrator.examination import Examination
    from migrator.initial import NewStore
    from migrator.inspection import Inspection

Location = str | os.PathLike[str]
"""Where a store is: an address as on the command line, or the path of a file."""


def migrate(
    source: Location,
    sink: Location,
    options: Options | None = None,
    show: Show | None = None,
    executor: Executor | None = None,
) -> Report:
    """Copy every record of `source` into `sink`, checkpointed and verified; resumes what was interrupted. Safe to run again.

    `executor` takes the slices, if one is given; else threads, or with `options.processes` spawned processes.
    Raises ConfigError (nothing was touched), LockedError, StoreError (run again to resume), Interrupted; each carries the `report`. Rejects
    and differences raise nothing: they are the report's `outcome`.
    """
    options = options or Options()
    command = "dry-run" if options.dry_run else "migrate"
    with Run(command, _text(source), _text(sink), options, show or Silent()) as run:
        Migration(run, executor).go()
    return run.report


def verify(source: Location, sink: Location, options: Options | None = None, show: Show | None = None) -> Report:
    """Compare `sink` with `source`, writing to neither; the report names what is missing, differing and extra.

    Raises as `migrate` does. Differences raise nothing: they are the report's `outcome`.
    """
    with Run("verify", _text(source), _text(sink), options or Options(), show or Silent()) as run:
        Verification(run).go()
    return run.report


def inspect(
    address: Location,
    mapping: str | None = None,
    show: Show | None = None,
    *,
    sample: int = 0,
    show_values: bool = False,
    read_rate: float | None = None,
) -> Inspection:
    """Read a whole store and say what it holds; `sample` identities of each kind, and only with `show_values` any values. `read_rate` is
    in capacity units a second, of a DynamoDB table; by default a quarter of what it is provisioned with.

    Raises ConfigError if there is no store, or no mapping fits it.
    """
    from migrator.inspection import look_through

    read_rate = Options(read_rate=read_rate).read_rate
    return look_through(_text(address), mapping, show or Silent(), sample, show_values, read_rate)


def doctor(*addresses: Location, probe: bool = False, show: Show | None = None) -> Examination:
    """Examine stores and say why they do not keep what a chat saves; without addresses all that LuminoraCore can be configured for.

    What is wrong with a store raises nothing: it is a finding, with the line that mends it. With `probe` one record of each kind is written, read
    back after the store was closed and opened again, and deleted: into the stores named, or the one that LuminoraCore would start with.
    """
    from migrator.examination import examine

    return examine(tuple(_text(each) for each in addresses), os.environ, Path.cwd(), show or Silent(), probe)


def init(address: Location, mapping: str | None = None, table_shape: str | None = None) -> NewStore:
    """A store as LuminoraCore can read it, that is to be made: `init("chat.db").make()` makes it.

    Raises ConfigError where something is there already.
    """
    from migrator.initial import new_store

    return new_store(_text(address), mapping, table_shape)


def status(state: str | None = None) -> tuple[Path, list[JobStatus]]:
    """All jobs under a state root, the latest first: where they stand, and which snapshots of sources remain."""
    root = state_root(state)
    return root, list(jobs(root))


def mappings() -> list[Mapping]:
    """The mappings that come with migrator."""
    return [load_mapping(name) for name in shipped()]


def check_mapping(name_or_path: str) -> Mapping:
    """A mapping, checked whole, and that its layouts can be made. Raises ConfigError with file, table and reason."""
    found = load_mapping(name_or_path)
    for layout in found.layouts.values():
        must_be_makable(found, layout, adapter_for(layout.store))
    return found


@contextmanager
def open_store(address: Location, mapping: str | None = None) -> Iterator[Source]:
    """A store for reading, as a context: `with open_store("chat.db") as source: ...` gives its pages by partition."""
    store, found = look_at(_text(address), mapping)
    with tempfile.TemporaryDirectory(prefix="migrator-") as folder:
        source = store.adapter.source(store.address, Setting(store.layout, found.kind_names(), Path(folder)))
        try:
            source.snapshot()
            yield source
        finally:
            source.close()


def _text(location: Location) -> str:
    try:
        return os.fspath(location)
    except TypeError as exc:
        raise ConfigError(f"an address is text or a path, not {type(location).__name__}") from exc
