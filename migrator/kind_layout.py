"""What a mapping says of one kind in one store: its collections, keys and places, and how the application asks for it.

Holds it and does nothing with it: `mapping_check` makes it of TOML, `layout` reads and writes by it, `application` asks as it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from migrator.keys import Key, Template
from migrator.model import Kind
from migrator.places import Place
from migrator.values import Value


@dataclass(frozen=True, slots=True)
class Request:
    """How the application asks one sort of store for a kind (`Asked` says by what), and what it makes of the items it finds.

    Of keyed stores: get is the keys of the one record, tried in turn; query the hash and the beginning of the range of a user's records; index the
    hash in the first index, which is asked instead where the table has one. An item is skipped where a field of `filled` is empty or not there,
    one of `present` not there, one of `numbers` no number. `text` are fields that are given as text whatever they are, objects and lists as JSON
    written anew; `defaults` what an absent field is given as.
    """

    get: tuple[tuple[Template, ...], ...] = ()
    query: tuple[Template, ...] = ()
    index: Template | None = None
    filled: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    defaults: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindLayout:
    """How one kind lives in a store.

    collections: names of its table or collection, the first is made. columns: SQL types by column, for making it. unique: the table
    we make is unique over the identity by a constraint (the application's own). surrogate: columns that are no fields and never
    travel. marks: attributes by which an item is told to be of this kind. extra: attributes that belong to the origin. index_wins: where an
    index attribute is a field too, the application writes the index's value. parsed: fields whose text the application reads as JSON where it is
    some, from this store. request: how the application asks for the kind here.
    map: the document is an object, and each of its entries a record: the attributes that hold an entry's name and its value. excepted:
    names of which none is in such a document. opaque: attributes of a table that hold text and that no application reads, the only ones that
    may be stored compressed or in parts.
    """

    kind: Kind
    places: tuple[Place, ...]
    collections: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    index: tuple[Key, ...] = ()
    marks: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    surrogate: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    unique: bool = False
    index_wins: bool = False
    parsed: tuple[str, ...] = ()
    map: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()
    request: Request | None = None
    opaque: tuple[str, ...] = ()

    @property
    def by_index(self) -> bool:
        """Whether the application looks for it in the index, where there is one."""
        return self.request is not None and self.request.index is not None

    @property
    def attributes(self) -> frozenset[str]:
        """Every attribute that the layout itself knows of an item of this kind."""
        keys = (key.attribute for key in self.keys + self.index)
        places = {name for place in self.places for name in (place.attribute, place.otherwise) if name is not None}
        return frozenset(places | set(keys) | set(self.extra) | set(self.surrogate))

    @property
    def has_free_key(self) -> bool:
        return any(key.free for key in self.keys)

    @property
    def guarantees_identity(self) -> bool:
        """True if two items of the store cannot share an identity: the key holds nothing but identity fields, as they are."""
        slots = [slot for key in self.keys for template in key.templates for slot in template.slots]
        return bool(self.keys) and all(slot.form == "value" and slot.name in self.kind.identity for slot in slots)
