"""From two addresses and a person's choices to a job that can be run: what is there, which mapping and layouts fit, what is lost.

Opens stores only to look at them. Nothing is written here, and every refusal is a ConfigError with the next step.
"""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.adapters import adapter_for
from migrator.adapters.base import Adapter, Setting
from migrator.binding import reading
from migrator.checkpoint import fingerprint
from migrator.choice import EVERYTHING, Choice, moment
from migrator.config import resolve
from migrator.errors import ConfigError
from migrator.layout import Layout
from migrator.mapping import Mapping
from migrator.mapping_file import load_mapping, recognise
from migrator.model import Address, Kind, Rates, Shape, Traits, counted
from migrator.options import Options
from migrator.pair import READ_STORES, retyped_fields

DEFAULT_MAPPING = "luminoracore-v1.1"


@dataclass(frozen=True)
class Store:
    """One end of a run: where it is, what is there (`shape` is None for nothing yet), and the layout it has or will get."""

    address: Address
    adapter: Adapter
    shape: Shape | None
    layout: Layout
    whereabouts: str

    @property
    def traits(self) -> Traits:
        return self.adapter.traits

    @property
    def local_file(self) -> str | None:
        return (
            self.address.name
            if self.address.store in ("sql", "json", "jsonl") and Path(self.address.name).is_absolute()
            else None
        )


@dataclass(frozen=True)
class Plan:
    """Two stores, one mapping, the kinds asked for. `describes` is what the job's fingerprint is made of."""

    source: Store
    sink: Store
    mapping: Mapping
    kinds: tuple[str, ...]
    options: Options
    command: str
    choice: Choice = EVERYTHING
    describes: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.describes)

    @property
    def kind_map(self) -> dict[str, Kind]:
        return {name: self.mapping.kinds[name] for name in self.kinds}

    @property
    def told_by(self) -> dict[str, str]:
        """Who named source and sink, where they are not written out, and who made the choices that nobody gave."""
        named = {"source": self.source.address.named_by, "sink": self.sink.address.named_by}
        return {name: by for name, by in named.items() if by} | self.options.defaulted

    def setting(self, layout: Layout, scratch: Path) -> Setting:
        return Setting(layout, self.kinds, scratch, **self.setting_options)

    @property
    def setting_options(self) -> dict[str, Any]:
        names = ("unknown_fields", "snapshot_limit", "foreign", "expired", "oversize", "read_rate", "write_rate")
        return {name: getattr(self.options, name) for name in names}


def look_at(text: str, mapping_name: str | None = None) -> tuple[Store, Mapping]:
    """A store that is there, with the mapping and layout it is recognised by."""
    address = resolve(text)
    adapter = adapter_for(address.store)
    shape = adapter.describe(address)
    if shape is None:
        raise ConfigError(
            f"{address.text}: there is nothing here ({adapter.whereabouts(address)}), and nothing is made to be read: check the spelling"
        )
    held = shape if shape.tells else None  # nothing tells the layout of an empty file
    if mapping_name is not None:
        mapping = load_mapping(mapping_name)
    elif held is None:
        mapping = load_mapping(DEFAULT_MAPPING)  # whether empty will do is asked later
    elif address.store == "memory":
        mapping = _by_kinds(held)
    else:
        mapping = recognise(held)
    layout = mapping.layout_for(address.store, held)
    return Store(address, adapter, shape, layout, adapter.whereabouts(address)), mapping


def _by_kinds(shape: Shape) -> Mapping:
    mapping = load_mapping(DEFAULT_MAPPING)
    strange = set(shape.tables) - set(mapping.kinds)
    if strange:
        raise ConfigError(
            f"{shape.words}: kinds that the mapping {mapping.name} does not have: {', '.join(sorted(strange))}; give one with --mapping"
        )
    return mapping


def must_take_files(folder: Path) -> None:
    """Raises ConfigError, with the line that makes it or the reason, for a folder in which no file could be made."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; make it first: mkdir -p {shlex.quote(str(folder))}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: no permission to write there; choose another place or change its mode")


def must_be_makable(mapping: Mapping, layout: Layout, adapter: Adapter) -> None:
    """Raises ConfigError, with the mapping's file, if no store of the adapter's sort could hold what the layout says."""
    try:
        adapter.check(layout)
    except ConfigError as exc:
        raise ConfigError(f"{mapping.path}: {exc}") from exc


def make_plan(source: str, sink: str, options: Options, command: str) -> Plan:
    """Look at both ends and make a plan of them. Raises ConfigError; nothing is touched."""
    from_store, mapping = look_at(source, options.mapping)
    address = resolve(sink)
    if _place_of(address) == _place_of(from_store.address) or _same_file(from_store, address):
        raise ConfigError(f"source and sink are one store, {address.text}: name another sink")
    if options.table_shape is not None and options.is_given("table_shape") and address.store != "dynamodb":
        raise ConfigError("--table-shape: only a DynamoDB table has a shape; leave it out")
    adapter = adapter_for(address.store)
    shape = adapter.describe(address)
    if shape is None and command == "verify":
        raise ConfigError(
            f"{address.text}: there is nothing here ({adapter.whereabouts(address)}), and so nothing to compare with: check the spelling"
        )
    held = shape if shape is not None and shape.tells else None
    if held is not None and options.table_shape is not None and held.key:
        layout = mapping.layout_for(address.store, held)
        if layout.id != options.table_shape and options.is_given("table_shape"):
            raise ConfigError(
                f"{address.text}: the table is there and has the shape {layout.id}, not {options.table_shape}; leave --table-shape out"
            )
    elif held is not None and address.store == "sql" and not mapping.fits(held):
        layout = mapping.layout_for("sql", None)  # other tables are no obstacle: ours are made beside them
    else:
        table_shape = options.table_shape if address.store == "dynamodb" else None
        layout = mapping.layout_for(address.store, held, table_shape)
    if layout.problem and command != "verify":
        raise ConfigError(
            f"{address.text}: nothing can be written into this table: {layout.problem}. Choose another table"
        )
    for one, its in ((from_store.adapter, from_store.layout), (adapter, layout)):
        must_be_makable(mapping, its, one)
    if options.oversize != "reject" and options.is_given("oversize"):
        _refuse_oversize(address, layout, mapping, options)
    to_store = Store(address, adapter, shape, layout, adapter.whereabouts(address))
    kinds = _kinds_of(mapping, from_store.layout, layout, options)
    describes = {
        "command": command,
        "source": from_store.address.text,
        "source_at": from_store.whereabouts,
        "sink": address.text,
        "mapping": mapping.sha256,
        "layouts": [from_store.layout.id, layout.id],
        "kinds": list(kinds),
        "existing": options.existing,
        "user": options.user,
        "since": options.since,
        "limit": options.limit,
        "on_duplicate": options.on_duplicate,
        "unknown_fields": options.unknown_fields,
        "expired": options.expired,
        "oversize": options.oversize,
    }
    choice = _choice(from_store.address, address, mapping, options, command)
    if options.proof == "app":
        _refuse_to_ask(from_store, to_store, mapping, kinds, options)
    elif options.users is not None:
        raise ConfigError("--users: only --proof app asks for users; give both, or leave --users out")
    if command != "verify" and options.existing in ("keep", "newer") and adapter.traits.whole:
        raise ConfigError(
            f"--existing {options.existing}: {address.text} is compared and replaced whole; choose a store of single records"
        )
    return Plan(from_store, to_store, mapping, kinds, options, command, choice, describes)


def _refuse_oversize(address: Address, layout: Layout, mapping: Mapping, options: Options) -> None:
    """Raises ConfigError where no record could be stored so."""
    if address.store != "dynamodb":
        raise ConfigError(
            f"--oversize {options.oversize}: only an item of DynamoDB has a limit of 400 KB; leave it out"
        )
    if not layout.has_opaque:
        raise ConfigError(
            f"--oversize {options.oversize}: an application reads every field that {mapping.name} keeps in this table, so that none may be stored "
            "in another form; leave it out, or mark fields of your own as opaque in a mapping (mappings/README.md)"
        )


def _choice(source: Address, sink: Address, mapping: Mapping, options: Options, command: str) -> Choice:
    zones = source.options.get("tz", ""), sink.options.get("tz", "")
    say = "say in which zone the times without an offset are meant, ?tz=Europe/Madrid behind the address, or ?tz=local"
    if options.existing == "newer" and command != "verify" and "" in zones:
        raise ConfigError(f"--existing newer compares times of two stores: {say}, for both")
    since = None
    if options.since is not None:
        if not zones[0]:
            raise ConfigError(f"--since compares times of the source: {say}")
        since = moment(options.since, zones[0])
        if since is None:
            raise ConfigError(
                f'--since: "{options.since}" is no time; times look like 2026-01-31 or 2026-01-31T18:00:00+01:00'
            )
    if options.user is not None and mapping.user is None:
        raise ConfigError(
            f"--user: the mapping {mapping.name} does not say whose a record is; leave --user out, or add [user] to the mapping (mappings/README.md)"
        )
    return Choice(*zones, since, options.user or "", mapping.user)


def _refuse_to_ask(source: Store, sink: Store, mapping: Mapping, kinds: tuple[str, ...], options: Options) -> None:
    for store in (source, sink):
        if store.address.store not in READ_STORES:
            raise ConfigError(
                f"--proof app: no application reads {store.address.text}, so that there is nothing to ask it; use --proof digest or rows"
            )
    if mapping.user is None or not any(mapping.kinds[kind].asked for kind in kinds):
        raise ConfigError(
            f"--proof app: the mapping {mapping.name} does not say whose a record is ([user]) and how the application asks for it "
            "([kinds.X.asked]); see mappings/README.md"
        )
    for name in ("since", "limit"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--proof app: the application asks for everything of a user; leave --{name} out")


def _place_of(address: Address) -> tuple[str, str, dict[str, str]]:
    return address.store, address.name, {name: value for name, value in address.options.items() if name != "tz"}


def _same_file(store: Store, address: Address) -> bool:
    if store.local_file is None or address.store not in ("sql", "json", "jsonl"):
        return False
    try:
        return Path(store.local_file).samefile(address.name)
    except OSError:
        return store.local_file == address.name


def _kinds_of(mapping: Mapping, source: Layout, sink: Layout, options: Options) -> tuple[str, ...]:
    for name in options.kinds:
        if name not in mapping.kinds:
            raise ConfigError(f'--kinds: no kind "{name}" in {mapping.name}; choose among {", ".join(mapping.kinds)}')
    wanted = [name for name in mapping.kinds if name in source.kinds and (not options.kinds or name in options.kinds)]
    homeless = [name for name in wanted if name not in sink.kinds]
    if homeless:
        raise ConfigError(
            f"the layout {sink.id} of the sink has no place for {', '.join(homeless)}; leave them out with --kinds"
        )
    if not wanted:
        raise ConfigError(
            "no kind is left to move: the source has none of those that --kinds names; name others, or leave it out"
        )
    return tuple(wanted)


def told_words(plan: Plan) -> list[tuple[str, str]]:
    """What the command line did not say itself, and who did, for the plan; no line if it said everything."""
    return [("told by", "; ".join(f"{name} by {by}" for name, by in plan.told_by.items()))] if plan.told_by else []


def keeps_keys(source: Layout, sink: Layout) -> bool:
    """Whether what the application wrote into a table lies under its own keys in the sink: between two tables of one shape, and from JSON Lines."""
    return sink.store == "dynamodb" and (source.id == sink.id or source.store == "jsonl")


def reading_words(layout: Layout, kinds: tuple[str, ...], keeps_keys: bool = False) -> list[tuple[str, str]]:
    """What the application finds of each kind in such a store: now, and of what it writes there itself later. Of tables only.

    `keeps_keys`: what is there now lies under the keys that the application itself gave it.
    """
    if layout.store != "dynamodb":
        return []
    lines = []
    now, later = reading(layout, kinds)
    for name, unread in (("readable now", later if keeps_keys else now), ("after its next write", later)):
        found = [kind for kind in kinds if kind not in unread]
        reasons: dict[str, list[str]] = {}
        for kind, why in unread.items():
            reasons.setdefault(why, []).append(kind)
        words = [", ".join(found) or "nothing", *(f"not {', '.join(k)}: {why}" for why, k in reasons.items())]
        lines.append((name, "; ".join(words)))
    return lines


def oversize_words(plan: Plan) -> list[tuple[str, str]]:
    """What becomes of records that are too large for an item, for the plan; no line where they are rejected."""
    if plan.options.oversize == "reject" or not plan.sink.layout.has_opaque:
        return []
    specs = {name: plan.sink.layout.kinds[name].opaque for name in plan.kinds}
    fields = "; ".join(f"{name} {', '.join(opaque)}" for name, opaque in specs.items() if opaque)
    how = {"compress": "compressed", "split": "in parts, items of their own behind the record's key"}[
        plan.options.oversize
    ]
    return [("oversize", f"over 400 KB {how}: {fields}. No application reads such a record there, only migrator")]


def rate_words(source: Rates | None, sink: Rates | None, records: int | None) -> list[tuple[str, str]]:
    """How fast both stores are asked, and how long that takes at the least; no line for a store without units.

    records: about how many are written, 0 if nobody can tell; None if nothing is written.
    """
    lines = []
    if sink is not None and records is not None:
        takes = f": {counted(records)} take {_time_words(records * sink.each / sink.write)} or more" if records else ""
        lines.append(("write rate", _rate_words("write", sink.write, sink.write_words, takes)))
    for name, rates in (("source", source), ("sink", sink)):
        if rates is not None and (rates.read != math.inf or name == "source"):
            # Half a unit for 4 KB of a source; a sink is read consistently, at a whole one.
            units = (rates.bytes or 0) / (8192 if name == "source" else 4096)
            takes = f": reading it once takes {_time_words(units / rates.read)}" if units else ""
            lines.append((f"{name} reads", _rate_words("read", rates.read, rates.read_words, takes)))
    return lines


def _rate_words(direction: str, rate: float, by: str, takes: str) -> str:
    if rate == math.inf:
        return f"{by} (--{direction}-rate)"
    return f"{rate:,.10g} {direction} units a second, {by} (--{direction}-rate){takes}"


def _time_words(seconds: float) -> str:
    for least, unit in ((2 * 3600, "hours"), (120, "minutes")):
        if seconds >= least:
            return f"about {seconds * 2 / least:,.1f} {unit}"
    return f"about {seconds:,.0f} s"


def unread_tables(store: Store) -> list[str]:
    """Tables of an SQL database that hold no kind of the mapping."""
    if store.shape is None or store.address.store != "sql":
        return []
    named = {name for kind in store.layout.kinds.values() for name in kind.collections if len(kind.collections) == 1}
    return sorted(set(store.shape.tables) - named)


def narrowed(plan: Plan, loses_source: frozenset[str], loses_sink: frozenset[str]) -> list[str]:
    """What will not be in the sink though the source may hold it, in words; told before the first write."""
    words = []
    if (
        "origins" in loses_sink
        and "origins" not in loses_source
        and any(kind.keys for kind in plan.source.layout.kinds.values())
    ):
        extras = sorted({name for kind in plan.source.layout.kinds.values() for name in kind.extra})
        words.append(f"physical keys{' and ' + ', '.join(extras) if extras else ''} of the source's items stay behind")
    if "absent" not in loses_source:
        if "absent" in loses_sink:
            words.append("a field that is absent becomes NULL")
        else:
            kinds = [plan.sink.layout.kinds[name] for name in plan.kinds]
            moved = sorted({place.field.name for kind in kinds for place in kind.places if place.otherwise})
            if moved:
                words.append(f"where {', '.join(moved)} is absent it becomes NULL")
    for kind in plan.kinds:
        for name in sorted(retyped_fields(plan.source.layout, plan.sink.layout, kind)):
            here = "the source" if name in plan.source.layout.kinds[kind].parsed else "the sink"
            words.append(
                f"{kind} {name}: from {here} the application reads it as JSON where it is some, from the other store as text"
            )
    numbers = ("integer", "float", "json")
    if plan.sink.address.store == "dynamodb" and any(
        place.form in ("native", "number") and place.field.type in numbers
        for name in plan.kinds
        for place in plan.sink.layout.kinds[name].places
    ):
        words.append("-0.0 becomes 0")
    return words
