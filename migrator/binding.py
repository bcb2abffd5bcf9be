"""Fits a table layout to a table: the same templates under the attribute names that this table has.

A mapping describes a few forms of table (whose key is the user, whose key is the session, …) with the names that a new table gets; an
application's own table may call its key and index attributes otherwise. Knows layouts and shapes; leaves the TOML to `mapping`, and asking the
store to its adapter.
"""

from __future__ import annotations

import re
from dataclasses import replace

from migrator.keys import Key, Template
from migrator.layout import Layout
from migrator.model import Shape
from migrator.places import Place

ANY = "*"
"""Among the names that a layout accepts: every other name too, where the table's own items tell that the layout fits."""

Fit = tuple[int, ...]
"""How well a layout fits, the smallest best: for each attribute 0 (its very name), 1 (a name it accepts) or 2 (any name)."""

_SHAPE = re.compile(r"([^/+()]+)/([^/+()]+)(?:\+([A-Za-z0-9_.-]+)(?:\(([^/()]+)(?:/([^/()]+))?\))?)?")


def bind(layout: Layout, shape: Shape, is_asked_for: bool = False) -> tuple[Fit, Layout] | None:
    """The layout with the table's names, and how well it fits; None if it does not. `is_asked_for`: by a person, so that any name will do."""
    if len(shape.key) != len(layout.key) or (shape.index is None) != (layout.index is None):
        return None
    fit = _fit(layout, shape)
    if fit is None:
        return None
    told = any(layout.recognises(item, shape.key) for item in shape.sample)
    if not is_asked_for and not told and (shape.sample or 2 in fit[: len(shape.key)]):
        return None
    return fit, layout if (shape.key, shape.index) == (layout.key, layout.index) else _renamed(layout, shape)


def shape_of(words: str) -> Shape | None:
    """What a person writes for the shape of a table: `hash/range`, `hash/range+INDEX` or `hash/range+INDEX(hash/range)`."""
    match = _SHAPE.fullmatch(words)
    if match is None:
        return None
    hashed, ranged, index, index_hash, index_range = match.groups()
    named = (index, index_hash or f"{index}PK", (index_range or "") if index_hash else f"{index}SK") if index else None
    return Shape("dynamodb", words, key=(hashed, ranged), index=named)


def words_of(key: tuple[str, ...], index: tuple[str, ...] | None) -> str:
    """And back."""
    words = "/".join(key)
    if index is None:
        return words
    name, hashed, ranged = index
    if (hashed, ranged) == (f"{name}PK", f"{name}SK"):
        return f"{words}+{name}"
    return f"{words}+{name}({'/'.join(filter(None, (hashed, ranged)))})"


def _fit(layout: Layout, shape: Shape) -> Fit | None:
    ours, theirs, also = [*layout.key], [*shape.key], [*layout.also]
    if layout.index is not None and shape.index is not None:
        ours, theirs, also = [*ours, *layout.index[1:]], [*theirs, *shape.index[1:]], [*also, *layout.also_index]
    fit = []
    for position, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        names = also[position] if layout.also else frozenset()
        if our == their:
            fit.append(0)
        elif their in names or not their:  # an index without a range attribute
            fit.append(1)
        elif ANY in names:
            fit.append(2)
        else:
            return None
    return tuple(fit)


def _renamed(layout: Layout, shape: Shape) -> Layout:
    names = dict(zip(layout.key, shape.key, strict=True))
    indexed: dict[str, str] = {}
    if layout.index is not None and shape.index is not None:
        indexed = dict(zip(layout.index[1:], shape.index[1:], strict=True))
    kinds, unread, problem = {}, dict(layout.unread), ""
    for name, spec in layout.kinds.items():
        fields = {place.attribute: place.field.name for place in spec.places}
        keys = tuple(_key(key, names) for key in spec.keys)
        kept = tuple(key for key in keys if key is not None and not _is_overwritten(key, fields))
        if len(kept) < len(keys):
            problem = f"its key attribute {' or '.join(a for a in shape.key if a in fields)} is a field of {name}: two records would meet on one key"
        index = tuple(key for each in spec.index if (key := _key(each, indexed)) is not None)
        lost = tuple(key for key in index if _is_overwritten(key, fields))
        if lost and spec.by_index:
            unread[name] = (
                f"it is looked for in the index under {lost[0].templates[0].text}, and {lost[0].attribute} is a field"
            )
        places = tuple(_mended(place, lost, kept) for place in spec.places) if spec.index_wins else spec.places
        kinds[name] = replace(spec, keys=kept, index=tuple(k for k in index if k not in lost), places=places)
    return replace(
        layout, id=words_of(shape.key, shape.index), kinds=kinds, key=shape.key, index=shape.index, unread=unread, problem=problem
    )  # fmt: skip


def _key(key: Key, names: dict[str, str]) -> Key | None:
    """The key under its attribute's name; None where the table has no such attribute."""
    name = names[key.attribute]
    return replace(key, attribute=name) if name else None


def _is_overwritten(key: Key, fields: dict[str, str]) -> bool:
    """Whether a field lives in the attribute, so that the application's own value of it comes to lie there."""
    field = fields.get(key.attribute)
    return field is not None and [template.text for template in key.templates] != [f"{{{field}}}"]


def _mended(place: Place, lost: tuple[Key, ...], kept: tuple[Key, ...]) -> Place:
    """The application writes its index value over this field (H49): what starts like one has the field's value behind its head, or the key has it."""
    for key in lost:
        template = key.templates[0]
        if key.attribute == place.attribute and template.head:
            if _is_of(template, place):
                return replace(place, head=template.head, behind=(key.attribute, template.head))
            holding = [each for each in kept if _is_of(each.templates[0], place)]
            behind = (holding[0].attribute, holding[0].templates[0].head) if holding else None
            return replace(place, head=template.head, behind=behind)
    return place


def _is_of(template: Template, place: Place) -> bool:
    """Whether a template is a beginning and this field's value."""
    return template.parts[-1:] == template.slots and [(s.name, s.form) for s in template.slots] == [
        (place.field.name, "value")
    ]


def reading(layout: Layout, kinds: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Which kinds the application does not find in such a store, and why: those that are written there now, and those it writes itself later."""
    later = {**layout.unread, **layout.unread_later}
    return {k: layout.unread[k] for k in kinds if k in layout.unread}, {k: later[k] for k in kinds if k in later}
