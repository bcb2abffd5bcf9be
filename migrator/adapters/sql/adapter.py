"""SQL databases, SQLite so far: what is there, and who reads, writes and examines them."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from migrator.adapters.base import Reader, Setting, Sink, Source
from migrator.adapters.sql import ladder as sqlite_ladder
from migrator.adapters.sql import snapshot as files
from migrator.adapters.sql.dialect import DIALECTS
from migrator.adapters.sql.errors import sorted_errors
from migrator.adapters.sql.sink import TRAITS, SqlSink
from migrator.adapters.sql.source import SqlReader, SqlSource
from migrator.errors import ConfigError, StoreError, TransientStoreError
from migrator.layout import Layout
from migrator.model import (
    Address,
    Finding,
    Shape,
    Snapshot,
)


class SqlAdapter:
    """SQL databases, by the scheme of the address."""

    traits = TRAITS

    def describe(self, address: Address) -> Shape | None:
        path, words = Path(address.name), f"SQLite file {address.name}"
        if not path.exists():
            return None
        _must_be_readable(path)
        try:
            with (
                tempfile.TemporaryDirectory() as scratch,
                sorted_errors(words),
                closing(files.look(path, Path(scratch)).connection) as connection,
            ):
                return Shape("sql", words, DIALECTS[address.scheme]().tables(connection))
        except TransientStoreError:
            raise
        except StoreError as exc:
            raise ConfigError(f"{exc}. Nothing was touched") from exc

    def check(self, layout: Layout) -> None:
        for name, kind in layout.kinds.items():
            for dialect in dict.fromkeys(DIALECTS.values()):
                where = f"[layouts.{layout.id}.{name}]"
                try:
                    table, _ = dialect().create(kind)
                except sqlite3.Error as exc:
                    raise ConfigError(f"{where}: the table cannot be made: {exc}; mend the mapping there") from exc
                if table.misfit:
                    raise ConfigError(
                        f"{where}: no record could be kept in such a table: {table.misfit}; mend the mapping there"
                    )

    def ladder(self, address: Address, layout: Layout) -> Iterator[Finding]:
        return sqlite_ladder.ladder(address, layout)

    def whereabouts(self, address: Address) -> str:
        return str(Path(address.name).absolute())

    def source(self, address: Address, setting: Setting, snapshot: Snapshot | None = None) -> Source:
        return SqlSource(address, setting, snapshot)

    def reader(self, address: Address, setting: Setting) -> Reader:
        return SqlReader(address, setting)

    def sink(self, address: Address, setting: Setting) -> Sink:
        return SqlSink(address, setting)


def _must_be_readable(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}, not a SQLite file: name the file itself"
        )
    try:
        is_sqlite = files.looks_like_sqlite(path)
    except OSError as exc:
        raise ConfigError(
            f"{path} may not be read by this user ({exc.strerror}): change its permissions, or run as its owner"
        ) from exc
    if not is_sqlite:
        raise ConfigError(f"{path} is not a SQLite database, or is encrypted: name another file, or decrypt it first")


ADAPTER = SqlAdapter()
