"""Why a store does not keep what a chat saves: each store that LuminoraCore can be configured for, examined rung by rung.

Reads LuminoraCore's configuration through `luminoracore`, lets each adapter examine its own store, and looks at what the store holds. Stores
whose adapter is still to come are examined as far as somebody answers. Writes nothing but a probe that was asked for, which it takes away
again. Leaves the table on the screen to `console`.
"""

from __future__ import annotations

import difflib
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from migrator.adapters import adapter_for
from migrator.adapters.base import Reader, Setting, Source
from migrator.adapters.mending import another_table
from migrator.binding import reading
from migrator.config import resolve
from migrator.engine import WANTED_PARTITIONS
from migrator.errors import ConfigError, MigratorError
from migrator.luminoracore import (
    FILE,
    TYPE_VARIABLE,
    Advice,
    Configuration,
    SortOfStore,
    StorageType,
    advice,
    configuration,
)
from migrator.mapping_file import load_mapping
from migrator.model import Address, Finding, counted
from migrator.plan import DEFAULT_MAPPING, Store, look_at
from migrator.probe import leftovers, probe
from migrator.run import Show
from migrator.settings import FILE as SETTINGS
from migrator.settings import Settings, load_settings

LOOK_SECONDS = 2.0
"""So long a store is read to say what it holds; a larger one is said to hold at least that."""

SILENT_DAYS = 3
"""A store whose newest record is older is one that the chat may no longer write to."""

_PACKAGES = {"dynamodb": "boto3", "postgresql": "asyncpg", "mongodb": "motor", "redis": "redis"}
"""What LuminoraCore's storage classes import (fact sheet 8.2)."""

_TYPES = {"sqlite": "sqlite_flexible", "dynamodb": "dynamodb_flexible", "redis": "redis_flexible", "mongodb": "mongodb_flexible"}  # fmt: skip
_BELOW = {"package", "address", "region", "credentials", "endpoint", "folder", "file", "port", "lock"}
"""Rungs without which a store is not even reached."""

_ADAPTED = ("sqlite", "dynamodb", "json")
_IN_CODE = re.compile(r"""storage_type\s*=\s*["'](dynamodb\w*|sqlite)["']""")
_V10 = ("memory", "json", "file", "redis", "postgres", "mongodb")


@dataclass
class Diagnosis:
    """What was found of one store.

    store: LuminoraCore's word for its sort. by: who says where it is. is_active: LuminoraCore would start with it. records: how many were
    counted in LOOK_SECONDS, None where nobody looked; `is_all` if there are no more. newest: the stored text of the latest time.
    """

    store: str
    address: str
    by: str
    is_active: bool = False
    findings: list[Finding] = field(default_factory=list)
    records: int | None = None
    is_all: bool = True
    newest: str | None = None

    @property
    def is_reached(self) -> bool:
        return not any(each.verdict == "fault" and each.what in _BELOW for each in self.findings)

    @property
    def is_usable(self) -> bool:
        return not any(each.verdict == "fault" for each in self.findings)

    @property
    def persists(self) -> bool:
        return self.store not in ("in_memory", "memory")

    def to_plain(self) -> dict[str, Any]:
        plain = asdict(self)
        return plain | {"reached": self.is_reached, "usable": self.is_usable, "persists": self.persists}


@dataclass
class Examination:
    """What `doctor` found: of the configuration, of each store, and what to do. `is_well`: what is configured keeps what the chat saves."""

    configuration: list[Finding] = field(default_factory=list)
    diagnoses: list[Diagnosis] = field(default_factory=list)
    advice: Advice | None = None

    @property
    def is_well(self) -> bool:
        active = [each for each in self.diagnoses if each.is_active] or self.diagnoses
        fine = all(each.is_usable and each.persists for each in active)
        return bool(active) and fine and not any(each.verdict == "fault" for each in self.configuration)

    def to_plain(self) -> dict[str, Any]:
        return {
            "well": self.is_well,
            "configuration": [asdict(each) for each in self.configuration],
            "stores": [each.to_plain() for each in self.diagnoses],
            "advice": asdict(self.advice) if self.advice else None,
        }


def examine(
    addresses: tuple[str, ...], environ: Mapping[str, str], folder: Path, show: Show, is_probed: bool = False
) -> Examination:
    """The stores named, or without any all that LuminoraCore can be configured for. Raises nothing for what is wrong with them.

    `is_probed`: each that is named, or the one that LuminoraCore would start with, is written to, read and deleted from.
    """
    if addresses:
        found = Examination()
        for number, text in enumerate(addresses, 1):  # by number: an address that is refused may hold a password
            with show.step(f"examining store {number} of {len(addresses)}"):
                found.diagnoses.append(_named(text, is_probed))
        return found
    found = Examination()
    try:
        told = configuration(environ, folder)
    except ConfigError as exc:
        path = shlex.quote(str(folder / FILE))
        mend = f"chmod u+r {path}" if isinstance(exc.__cause__, PermissionError) else f"mv {path} {path}.broken"
        found.configuration.append(Finding(FILE, "fault", str(exc), mend))
        told = configuration(environ, None)
    active = told.types[0]
    settings = Settings()
    try:
        settings = load_settings(environ, folder)
    except ConfigError as exc:  # the chat does not read it, but every other command of ours stops there
        found.configuration.append(
            Finding(SETTINGS, "note", str(exc), "mend it as it says, or MIGRATOR_CONFIG=/dev/null")
        )
    found.configuration += [*_of_the_types(told), *_of_what_disagrees(told, folder)]
    found.configuration += [*_of_the_rest(told, active), *_of_the_code(folder)]
    for name, sort in told.stores.items():
        with show.step(f"examining {name}"):
            diagnosis = _configured(name, sort, name == active.becomes, environ, folder, is_probed)
        if diagnosis is not None:
            found.diagnoses.append(diagnosis)
    with show.step("looking for the best store that works"):
        found.advice = _advice(found.diagnoses, folder)
    for name in settings.stores:  # looked at, and never advised: one may be a backup
        with show.step(f"examining {name}"):
            diagnosis = _named(name, is_probed=False)
            diagnosis.store, diagnosis.by = name, settings.place("stores", name)
            found.diagnoses.append(diagnosis)
    return found


# The configuration -----------------------------------------------------------------------------------------------------


def _of_the_types(told: Configuration) -> Iterator[Finding]:
    """Whether LuminoraCore starts with the sort of store that somebody meant."""
    for each in told.types[:1]:
        what, words = "storage type", f"{each.told.value} ({each.told.by})"
        if each.becomes == "in_memory":
            yield Finding(
                what,
                "fault",
                f"{words}: {each.words or 'conversations live in the process and end with it'}",
                _export(each.told.value),
            )
        elif each.becomes is None:
            yield Finding(
                what,
                "fault",
                f"{words}: {each.words}",
                _export(each.told.value) if "LUMINORA" in each.told.by else _in_file(each.told.value),
            )
        else:
            yield Finding(what, "well", f"{words}, so LuminoraCore starts with {each.becomes}")


def _of_what_disagrees(told: Configuration, folder: Path) -> Iterator[Finding]:
    """File and variable, where they say different things of the store in use: which of them counts, only the application's code tells."""
    active, *others = told.types
    pairs = [
        ("storage type", active.told, other.told)
        for other in others
        if other.told.by == TYPE_VARIABLE and active.becomes not in (None, other.becomes)
    ]
    sort = told.stores.get(active.becomes or "")
    for item in sort.items.values() if sort else ():
        if len(item.told) == 2:
            values = {str(folder / each.value) if item.key == "database_path" else each.value for each in item.told}
            pairs += [(item.key, *item.told)] if len(values) == 2 else []
    for what, file, variable in pairs:
        seen = f"{file.by} says {file.value} and {variable.by} says {variable.value}: the chat may be kept in either"
        yield Finding(what, "fault", seen, f"unset {variable.by}")


def _export(asked: str) -> str:
    return f"export LUMINORA_STORAGE_TYPE={_meant(asked)}"


def _in_file(asked: str) -> str:
    return f'"type": "{_meant(asked)}" in luminora_config.json'


def _meant(asked: str) -> str:
    """The type that somebody meant and LuminoraCore can use; SQLite when in doubt."""
    near = difflib.get_close_matches(asked.lower(), _TYPES, 1, 0.5)
    return _TYPES[near[0]] if near else _TYPES["sqlite"]


def _of_the_rest(told: Configuration, active: StorageType) -> Iterator[Finding]:
    sort = told.stores.get(active.becomes or "")
    for item in sort.items.values() if sort else ():
        if item.is_null and not item.told and item.default is not None and sort is not None:
            seen = f"storage.{sort.name}.{item.key} is null, as `luminoracore storage init` writes it"
            yield Finding(FILE, "fault", seen, f'"{item.key}": "{item.default}" in luminora_config.json')
    for name in told.unread:
        known = [item.variable for each in told.stores.values() for item in each.items.values() if item.variable]
        near = difflib.get_close_matches(name if name.startswith("LUMINORA_") else f"LUMINORA_{name}", known, 1)
        if near or not name.startswith("LUMINORA_"):
            yield Finding(
                "environment",
                "note",
                f"{name} is set, and no code of LuminoraCore reads it",
                f"export {near[0]}=${name}" if near else f"unset {name}",
            )


def _of_the_code(folder: Path) -> Iterator[Finding]:
    """A StorageConfig that names what version 1.0 does not have: its factory raises, and who catches that is left with memory (8.1)."""
    for path in sorted(folder.glob("*.py"))[:200]:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for match in _IN_CODE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            seen = f"{path.name}:{line} asks StorageConfig for {match[1]}, which LuminoraCore 1.0 does not have (it has {', '.join(_V10)})"
            storage = (
                "FlexibleSQLiteStorageV11(database_path=...)"
                if match[1] == "sqlite"
                else "FlexibleDynamoDBStorageV11(table_name=...)"
            )
            yield Finding("code", "fault", seen, f"storage = {storage}")


# Stores ----------------------------------------------------------------------------------------------------------------


def _named(text: str, is_probed: bool) -> Diagnosis:
    try:
        address = resolve(text)
    except ConfigError as exc:
        return Diagnosis(
            text, text, "named here", findings=[Finding("address", "fault", str(exc), "write the address as it says")]
        )
    diagnosis = Diagnosis({"sql": address.scheme}.get(address.store, address.store), address.text, "named here")
    _examine(diagnosis, address, is_probed)
    return diagnosis


def _configured(
    name: str, sort: SortOfStore, is_active: bool, environ: Mapping[str, str], folder: Path, is_probed: bool
) -> Diagnosis | None:
    """What is configured, or would be by LuminoraCore's own default if this sort of store is the one it starts with."""
    if name in ("in_memory", "mysql", "json"):
        return _without_address(name, sort, is_active, folder)
    default = {
        "sqlite": (folder / "luminora.db").exists(),
        "dynamodb": any(each.startswith("AWS_") for each in environ),
    }
    if not (sort.is_told or is_active or default.get(name)):
        return Diagnosis(name, "", "nobody", findings=[Finding("address", "note", "not configured")])
    values = {key: item.told[0].value if item.told else item.default for key, item in sort.items.items()}
    by = next((item.told[0].by for item in sort.items.values() if item.told), "LuminoraCore's own default")
    if name not in _ADAPTED:
        diagnosis = Diagnosis(name, f"{values['host']}:{values['port']}", by, is_active)
        diagnosis.findings += _elsewhere(name, str(values["host"]), str(values["port"]))
        return diagnosis
    text = (
        f"sqlite:///{str(values['database_path']).replace('%', '%25').replace('?', '%3F')}"  # there it is a path, and no address
        if name == "sqlite"
        else f"dynamodb://{values['table_name']}?region={values['region']}"
    )
    diagnosis = Diagnosis(name, text, by, is_active)
    if values.get("database_path") == ":memory:":
        seen = '":memory:" opens a new, empty database at every call of LuminoraCore (B10)'
        diagnosis.findings.append(Finding("file", "fault", seen, "export LUMINORA_SQLITE_PATH=./luminora.db"))
        return diagnosis
    try:
        address = resolve(text)
    except ConfigError as exc:
        diagnosis.findings.append(Finding("address", "fault", str(exc), f"correct {by}"))
        return diagnosis
    diagnosis.address = address.text
    _examine(diagnosis, address, is_probed and is_active, sort)
    return diagnosis


def _without_address(name: str, sort: SortOfStore, is_active: bool, folder: Path) -> Diagnosis | None:
    if name == "json" and (path := folder / "sessions.json").exists():
        diagnosis = Diagnosis(name, f"json:{path.absolute()}", "LuminoraCore's own default")
        _examine(diagnosis, resolve(str(path)))
        return diagnosis
    if name == "in_memory":
        line = "migrator.rescue(storage, 'sqlite:///luminora.db') in the running process, and export LUMINORA_STORAGE_TYPE=sqlite_flexible"
        finding = Finding("persists", "fault" if is_active else "note", sort.words, line)
        return Diagnosis(name, "", "storage type" if is_active else "nobody", is_active, [finding])
    return Diagnosis(name, "", "nobody", findings=[Finding("address", "note", sort.words or "not configured")])


def _examine(diagnosis: Diagnosis, address: Address, is_probed: bool = False, sort: SortOfStore | None = None) -> None:
    """The adapter's ladder, the layout, and what is there. `sort`: what else is configured of the store."""
    adapter = adapter_for(address.store)
    layout = load_mapping(DEFAULT_MAPPING).layout_for(address.store, None)
    diagnosis.findings += _package(diagnosis.store)
    diagnosis.findings += adapter.ladder(address, layout)
    if address.store == "jsonl":
        mend = f"migrator migrate {shlex.quote(address.text)} luminora.db"
        diagnosis.findings.append(
            Finding("application", "fault", "LuminoraCore keeps nothing in JSON Lines: this is a copy", mend)
        )
        return
    if not diagnosis.is_reached or any(
        each.what in ("table", "file") and each.verdict != "well" for each in diagnosis.findings
    ):
        if is_probed:
            mend = f"migrator init {shlex.quote(address.text)} --yes"
            diagnosis.findings.append(
                Finding("probe", "fault", "not made: there is nothing yet that could be probed", mend)
            )
        return
    try:
        store, mapping = look_at(address.text)
    except MigratorError as exc:
        diagnosis.findings.append(
            Finding(
                "layout",
                "fault" if diagnosis.is_usable else "note",
                str(exc),
                f"migrator inspect {shlex.quote(address.text)}",
            )
        )
        return
    diagnosis.findings += _what_is_found(store)
    diagnosis.findings += _of_the_key_names(sort, store)
    diagnosis.findings += leftovers(store)
    if is_probed and diagnosis.is_usable:
        diagnosis.findings += probe(store, mapping)
    try:
        _look_through(diagnosis, store)
    except MigratorError as exc:
        diagnosis.findings.append(
            Finding("records", "fault", str(exc), f"migrator inspect {shlex.quote(address.text)}")
        )
        return
    diagnosis.findings += _of_the_newest(diagnosis)


def _package(store: str) -> Iterator[Finding]:
    package = _PACKAGES.get(store)
    if package is not None and find_spec(package) is None:
        yield Finding(
            "package",
            "fault",
            f"LuminoraCore needs {package} for it, and this Python has none",
            f"pip install {package}",
        )


def _what_is_found(store: Store) -> Iterator[Finding]:
    """Kinds that LuminoraCore writes and does not find again in such a table (fact sheet 4.3: L1 to L4, B9)."""
    if store.address.store != "dynamodb":
        return
    _, later = reading(store.layout, tuple(store.layout.kinds))
    losing = sorted(kind for kind in later if kind != "session")
    if store.layout.problem:
        later, losing = {"": store.layout.problem}, [""]
    if losing:
        seen = f"LuminoraCore does not find again what it writes of {', '.join(losing)}: {later[losing[0]]}"
        is_filled = store.shape is not None and bool(store.shape.sample)
        yield Finding("layout", "fault", seen, another_table(store.address, is_filled))
    elif later:
        yield Finding("layout", "note", f"{store.layout.id}: all is found again but {', '.join(later)}")
    else:
        yield Finding("layout", "well", f"{store.layout.id}: LuminoraCore finds again what it writes")


def _of_the_key_names(sort: SortOfStore | None, store: Store) -> Iterator[Finding]:
    """LuminoraCore takes the names it is told before those that the table has (fact sheet 2.10): a wrong one, and every call fails."""
    if sort is None or store.shape is None:
        return
    for key, actual in zip(("hash_key", "range_key"), store.shape.key, strict=False):
        item = sort.items.get(key)
        if item is not None and item.told and item.told[0].value != actual:
            told = item.told[0]
            mend = f"unset {told.by}" if told.by == item.variable else f'"{key}": "{actual}" in luminora_config.json'
            yield Finding(
                "keys", "fault", f"{told.by} says {told.value}, and the table has {actual}: every call fails", mend
            )


def _look_through(diagnosis: Diagnosis, store: Store) -> None:
    """Count for a while, and remember the latest time."""
    ends = time.monotonic() + LOOK_SECONDS
    diagnosis.records = 0
    with tempfile.TemporaryDirectory(prefix="migrator-") as scratch:
        setting = Setting(store.layout, tuple(store.layout.kinds), Path(scratch))
        source: Source | Reader = store.adapter.reader(store.address, setting)
        try:
            for partition in source.partitions(list(store.layout.kinds), WANTED_PARTITIONS):
                for page in source.pages(partition, None):
                    diagnosis.records += len(page.rows)
                    for row in page.rows:
                        newest = store.layout.kinds[row.kind].kind.newest
                        stamp = row.record.get(newest) if newest else None
                        if isinstance(stamp, str):
                            diagnosis.newest = max(diagnosis.newest or stamp, stamp)
                    if time.monotonic() > ends:
                        diagnosis.is_all = False
                        return
        finally:
            source.close()


def _of_the_newest(diagnosis: Diagnosis) -> Iterator[Finding]:
    """A store that got nothing for days is one that the chat no longer writes to."""
    if not diagnosis.records:
        seen = "it holds nothing yet" if diagnosis.is_all else "nothing was seen in it so far"
        yield Finding("records", "note", seen)
        return
    held = ("" if diagnosis.is_all else "at least ") + counted(diagnosis.records)
    days = _days_since(diagnosis.newest)
    if days is not None and days >= SILENT_DAYS:
        seen = (
            f"{held}, the newest of {diagnosis.newest}: nothing for {days:,.0f} days; does the chat still write here?"
        )
        yield Finding("records", "note", seen)
    else:
        yield Finding("records", "well", f"{held}, the newest of {diagnosis.newest}" if diagnosis.newest else held)


def _days_since(stamp: str | None) -> float | None:
    """Times without an offset are local ones (fact sheet H20)."""
    try:
        moment = datetime.fromisoformat(stamp or "")
    except ValueError:
        return None
    return (datetime.now(UTC) - moment.astimezone()).total_seconds() / 86_400


def _elsewhere(name: str, host: str, port: str) -> Iterator[Finding]:
    """Stores that we have no adapter for yet: as far as somebody answers, and what LuminoraCore itself makes of them."""
    yield from _package(name)
    start = {"postgresql": "postgresql", "redis": "redis-server", "mongodb": "mongod"}[name]
    try:
        with socket.create_connection((host, int(port)), 1.0):
            yield Finding("port", "well", f"somebody answers at {host}:{port}")
    except (OSError, ValueError, OverflowError) as exc:
        why = getattr(exc, "strerror", None) or str(exc)
        yield Finding("port", "fault", f"nobody answers at {host}:{port}: {why}", f"sudo systemctl start {start}")
        return
    if name == "postgresql":
        seen = "every call of LuminoraCore's PostgreSQL storage fails as it is shipped (B1)"
        yield Finding("application", "fault", seen, f"export LUMINORA_STORAGE_TYPE={_TYPES['sqlite']}")
    elif name == "mongodb":
        yield Finding("application", "note", "LuminoraCore saves no sessions there (B2)")
    yield Finding("records", "note", "not looked at: this version of migrator has no adapter for it yet")


# What to do ------------------------------------------------------------------------------------------------------------


def _advice(diagnoses: list[Diagnosis], folder: Path) -> Advice:
    """The store that is configured if it keeps data, else DynamoDB if that works, else SQLite; never memory."""
    good = [each for each in diagnoses if each.is_usable and each.persists and each.address and each.store in _TYPES]
    order = sorted(good, key=lambda each: (not each.is_active, each.store != "dynamodb", each.store != "sqlite"))
    best = next((each for each in order if each.is_active or each.store in ("dynamodb", "sqlite")), None)
    if best is not None and best.store not in ("sqlite", "dynamodb"):
        return Advice(
            best.store,
            best.address,
            f"export LUMINORA_STORAGE_TYPE={_TYPES[best.store]}",
            f'{{"storage": {{"type": "{_TYPES[best.store]}"}}}}',
            "",
        )
    found = advice(resolve(best.address) if best is not None else resolve(f"sqlite:///{_free_file(folder)}"))
    assert found is not None
    return found


def _free_file(folder: Path) -> str:
    """A file that nothing is in the way of."""
    names = ["luminora.db", *(f"luminora-{n}.db" for n in range(2, 100))]
    return str(
        next((folder / name for name in names if not (folder / name).exists()), folder / "luminora.db").absolute()
    )
