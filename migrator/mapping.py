"""What a checked mapping is: the kinds of a schema, and which of its layouts a store has.

A mapping names the kinds of a schema, their fields and identities, and how each sort of store holds them. Knows how a store's shape is told
from the names in it; leaves reading the file to `mapping_file`, checking it to `mapping_check`, reading and writing items to `layout`.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, replace

from migrator.binding import Fit, bind, shape_of
from migrator.choice import User
from migrator.errors import ConfigError
from migrator.kind_layout import KindLayout
from migrator.layout import Layout
from migrator.model import Kind, Shape
from migrator.places import Place


@dataclass(frozen=True)
class Mapping:
    """A checked mapping. `sha256` is of its resolved content, so that a comment changes nothing and a key template does."""

    name: str
    title: str
    path: str
    sha256: str
    kinds: MappingType[str, Kind]
    layouts: MappingType[str, Layout]
    created: MappingType[str, str]  # sort of store → name of the layout that new stores get
    user: User | None = None

    def kind_names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    def layout_for(self, store: str, shape: Shape | None, table_shape: str | None = None) -> Layout:
        """The layout of a store: the one its shape fits, or the one that a new store gets (`table_shape` names another).

        Raises ConfigError, with what was found and what would fit.
        """
        if store == "memory":
            return self._plain("memory")
        if shape is not None:
            fitting = self._fitting(shape, is_asked_for=shape.store == "json")  # which mapping is settled
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                names = " and ".join(layout.id for layout in fitting)
                raise ConfigError(
                    f"{shape.words}: two layouts of {self.name} fit, {names}; give a mapping that has only one (--mapping FILE)"
                )
            raise ConfigError(
                f"{shape.words}: no layout of the mapping {self.name} fits{self.misses(shape)}; it has {self._known(store)}. "
                "Choose another mapping (--mapping, see `migrator mappings list`), or describe this store in a mapping of your own"
            )
        if table_shape is not None:
            wanted = shape_of(table_shape)
            fitting = self._fitting(wanted, is_asked_for=True) if wanted is not None else []
            if not fitting:
                raise ConfigError(
                    f'no table shape "{table_shape}" in {self.name}: there is {self._known(store)}; choose one with --table-shape'
                )
            return fitting[0]
        sort = "json" if store == "jsonl" else store
        if sort not in self.created:
            raise ConfigError(
                f"the mapping {self.name} has no layout for {store} stores; choose another store, or another mapping with --mapping"
            )
        return _as_form(self.layouts[self.created[sort]], store)

    def fits(self, shape: Shape) -> bool:
        return bool(self._fitting(shape))

    def misses(self, shape: Shape) -> str:
        """What keeps tables of the right name from fitting, in words; of a JSON file, what it holds instead."""
        if shape.store in ("json", "jsonl"):
            held = [*shape.tables, *(f"{key} (no array)" for entry in shape.sample for key in entry)]
            return f" (it holds {', '.join(held[:3])}{', …' if len(held) > 3 else ''})" if held else ""
        lacking = {
            f"{table} has no column {next(iter(sorted(needed - columns)))}"
            for layout in self.layouts.values()
            if layout.store == shape.store == "sql"
            for kind in layout.kinds.values()
            for table in kind.collections
            if (columns := set(shape.tables.get(table, ())))
            and (needed := {place.attribute for place in kind.places}) - columns
        }
        return f" ({', '.join(sorted(lacking)[:3])})" if lacking else ""

    def _known(self, store: str) -> str:
        sort = "json" if store == "jsonl" else store
        return (
            ", ".join(layout.id for layout in self.layouts.values() if layout.store == sort)
            or f"none for {store} stores"
        )

    def _fitting(self, shape: Shape, is_asked_for: bool = False) -> list[Layout]:
        """The layouts that fit best."""
        bound = [fit for layout in self.layouts.values() if (fit := _bind(layout, shape, is_asked_for)) is not None]
        best = min((rank for rank, _ in bound), default=None)
        return [layout for rank, layout in bound if rank == best]

    def _plain(self, store: str) -> Layout:
        kinds = {
            name: KindLayout(kind, tuple(Place(each, each.name) for each in kind.fields), collections=(name,))
            for name, kind in self.kinds.items()
        }
        return Layout(store, store, kinds, keeps_origins=True)


def _as_form(layout: Layout, store: str) -> Layout:
    """A JSON layout as one document, or as JSON Lines: only lines have room for an origin, and a map has none for unknown fields."""
    if layout.store != "json":
        return layout
    if store == "json":
        return replace(layout, keeps_unknown=layout.map is None)
    kinds = {name: replace(kind, map=()) for name, kind in layout.kinds.items()}
    return replace(layout, store=store, kinds=kinds, keeps_origins=True)


def _bind(layout: Layout, shape: Shape, is_asked_for: bool) -> tuple[Fit, Layout] | None:
    """The layout as this store has it (its own names), and how well it fits; None if the store is of another shape."""
    if shape.store == "dynamodb" and layout.store == "dynamodb":
        return bind(layout, shape, is_asked_for)
    if shape.store in ("json", "jsonl") and layout.store == "json":
        form, names = _as_form(layout, shape.store), set(shape.tables)
        if form.map:
            names |= {name for entry in shape.sample for name in entry}
            values = [value for entry in shape.sample for value in entry.values()]
            if (
                values
                and not is_asked_for
                and not any(value is None or isinstance(value, dict | list) for value in values)
            ):
                return None  # some other program's settings
            return ((), form) if names and names.isdisjoint(form.map.excepted) else None
        ours = set(layout.kinds) if shape.store == "jsonl" else {kind.collections[0] for kind in layout.kinds.values()}
        return ((), form) if names & ours else None
    if shape.store == "sql" and layout.store == "sql":
        found = {name: _table_of(kind, shape) for name, kind in layout.kinds.items()}
        if not any(found.values()):
            return None
        kinds = {n: replace(k, collections=(table,)) if (table := found[n]) else k for n, k in layout.kinds.items()}
        return (), replace(layout, kinds=kinds)
    return None


def _table_of(kind: KindLayout, shape: Shape) -> str | None:
    """The kind's table: the first of its names under which every field has its column (Core's tables share the names, fact sheet B11)."""
    needed = {place.attribute for place in kind.places}
    return next((name for name in kind.collections if needed <= set(shape.tables.get(name, ()))), None)
