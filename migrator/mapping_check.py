"""Checks a mapping whole and compiles its layouts; the format is taught in mappings/README.md.

Everything that could go wrong for the mapping's own sake goes wrong here, before a store is opened: a ConfigError names the file, the table
and the reason. Knows what the tables of the TOML format mean; leaves finding and extending files to `mapping_file`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, cast, get_args

from migrator.choice import User
from migrator.errors import ConfigError
from migrator.keys import Key, Slot, Template
from migrator.kind_layout import KindLayout, Request
from migrator.layout import Layout
from migrator.mapping import Mapping
from migrator.model import Asked, Field, FieldType, Kind
from migrator.places import Form, Place

_FIELD_TYPES = get_args(FieldType)
_FORMS = get_args(Form)
_STORES = ("sql", "json", "dynamodb")
_SLOT = re.compile(r"\{([a-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

_TOP = {"name", "title", "extends", "user", "kinds", "layouts"}
_USER = {"field", "session", "shared"}
_KIND = {"identity", "newest", "expires", "fields", "asked"}
_ASKED = {"by", "gives", "recent", "figure", "apart"}
_REQUEST_KEYED = ("get", "query", "index")
_REQUEST_FIELDS = ("filled", "present", "numbers", "text")
_REQUEST = {*_REQUEST_KEYED, *_REQUEST_FIELDS, "defaults"}
_FIELD = {"type", "null"}
_LAYOUT = {"store", "like", "create", "key", "index", "ghosts", "also", "several_keys", "unread", "unread_later"}
_KEYED = ("key", "index", "ghosts", "also", "several_keys", "unread", "unread_later")
_KIND_KEYED = ("key", "index", "free", "marks", "extra", "index_wins", "opaque")
_KIND_JSON = ("map", "except")
_KIND_SQL = ("columns", "unique", "surrogate")
_KIND_LAYOUT = {"collection", "fields", "parsed", "request", *_KIND_KEYED, *_KIND_JSON, *_KIND_SQL}
_A_KEYED_STORE = "a keyed store (dynamodb)"
_PLACE = {"attribute", "as", "otherwise"}

_WORDS = 320
"""Characters of a reason that are shown."""


def _cut(words: str) -> str:
    """What is to be read, with its beginning and its end, where a name in a mapping is a page long."""
    return words if len(words) <= _WORDS else f"{words[: _WORDS // 2]} … {words[-_WORDS // 2 :]}"


class Checker:
    """Turns resolved TOML into a Mapping; every complaint names the file and the table it is about."""

    def __init__(self, path: str) -> None:
        self.path = path

    def fail(self, where: str, reason: str) -> ConfigError:
        where, reason = _cut(where), _cut(reason)
        return ConfigError(f"{self.path}: [{where}]: {reason}" if where else f"{self.path}: {reason}")

    def mapping(self, data: dict[str, Any]) -> Mapping:
        self.known(data, _TOP, "")
        self.printable(data, "")
        name = self.text(data, "name", "")
        kinds_data = self.table(data, "kinds", "")
        if not kinds_data:
            raise self.fail("kinds", "no kind is described")
        kinds = {kind: self.kind(kind, body) for kind, body in kinds_data.items()}
        layouts_data = self.table(data, "layouts", "")
        if not layouts_data:
            raise self.fail("layouts", "no layout is described")
        layouts, created = {}, {}
        for layout, body in layouts_data.items():
            spec = self.like(layout, layouts_data, ())
            layouts[layout] = self.layout(layout, spec, kinds)
            sort = layouts[layout].store
            if body.get("create", "like" not in body and sort not in created):
                created[sort] = layout
        resolved = json.dumps(data, sort_keys=True, default=str).encode()
        digest = hashlib.sha256(resolved).hexdigest()
        user = self.user(data, kinds) if "user" in data else None
        return Mapping(name, str(data.get("title", "")), self.path, digest, kinds, layouts, created, user)

    def printable(self, body: Any, where: str) -> None:
        """No name and no text of a mapping has a control character in it: no store could be asked for it."""
        inside = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
        for name, value in inside:
            for text in (name, value):
                if isinstance(text, str) and any(unicodedata.category(letter) == "Cc" for letter in text):
                    raise self.fail(where, f"a control character in {text!r}")
            self.printable(value, f"{where}.{name}" if where else str(name))

    def user(self, data: dict[str, Any], kinds: dict[str, Kind]) -> User:
        """How one user's records are told."""
        body = self.table(data, "user", "")
        self.known(body, _USER, "user")
        names = {each.name for kind in kinds.values() for each in kind.fields}
        field = self.text(body, "field", "user")
        session = self.text(body, "session", "user") if "session" in body else ""
        for each in (field, session):
            if each and each not in names:
                raise self.fail("user", f'no kind has a field "{each}"{self.near(each, names)}')
        return User(field, session, self.some(body, "shared", "user"))

    def like(self, name: str, layouts: dict[str, Any], seen: tuple[str, ...]) -> dict[str, Any]:
        where = f"layouts.{name}"
        body = layouts.get(name)
        if not isinstance(body, dict):
            raise self.fail(where, "a table is wanted")
        base = body.get("like")
        if base is None:
            return body
        if not isinstance(base, str) or base not in layouts:
            raise self.fail(where, f'like: no layout "{base}"')
        if base in seen or base == name:
            raise self.fail(where, "like goes in a circle")
        whole = merged(self.like(base, layouts, (*seen, name)), body)
        whole.pop("like")
        return whole

    # kinds

    def kind(self, name: str, body: Any) -> Kind:
        where = f"kinds.{name}"
        if not isinstance(body, dict):
            raise self.fail(where, "a table is wanted")
        if not _NAME.fullmatch(name):
            raise self.fail(where, "a kind is named by small letters, digits and _")
        if name in _LAYOUT:
            raise self.fail(where, f'a kind cannot be named "{name}": in a layout that is a setting')
        self.known(body, _KIND, where)
        fields_data = self.table(body, "fields", where)
        fields = tuple(self.field(each, spec, f"{where}.fields") for each, spec in fields_data.items())
        names = {each.name for each in fields}
        identity = self.texts(body, "identity", where)
        for each in identity:
            if each not in names:
                raise self.fail(where, f'identity: no field "{each}"{self.near(each, names)}')
        if len(set(identity)) != len(identity):
            raise self.fail(where, "identity: a field is named twice")
        newest = body.get("newest")
        if newest is not None and not (isinstance(newest, str) and newest in names):
            raise self.fail(where, f'newest: no field "{newest}"')
        expires = body.get("expires")
        if expires is not None and not isinstance(expires, str):
            raise self.fail(where, "expires: the name of a field is wanted")
        if any(each.name == expires and each.type not in ("integer", "float") for each in fields):
            raise self.fail(where, f"expires: {expires} holds no epoch seconds; a number is wanted")
        asked = self.asked(self.table(body, "asked", where), fields, f"{where}.asked") if "asked" in body else None
        return Kind(name, fields, tuple(identity), newest, expires, asked)

    def asked(self, spec: dict[str, Any], fields: tuple[Field, ...], where: str) -> Asked:
        self.known(spec, _ASKED, where)
        names = {each.name for each in fields}
        by, gives = self.texts(spec, "by", where), self.some(spec, "gives", where)
        recent = spec.get("recent", [])
        if recent != [] and not (
            isinstance(recent, list) and [type(each) for each in recent] == [str, int] and recent[1] > 0
        ):
            raise self.fail(where, "recent: a time field and a number of days are wanted")
        figure = self.text(spec, "figure", where) if "figure" in spec else None
        apart = self.table(spec, "apart", where) if "apart" in spec else {}
        for word, told in apart.items():
            if not isinstance(told, dict) or not told:
                raise self.fail(where, f"apart: {word}: fields with their values are wanted")
        for what, given in (
            ("by", by),
            ("gives", gives),
            ("recent", recent[:1]),
            ("figure", [figure] if figure else []),
        ):
            self.all_fields(given, names, where, what)
        for word, told in apart.items():
            self.all_fields(told, names, where, f"apart: {word}")
        return Asked(tuple(by), gives, (recent[0], recent[1]) if recent else None, figure, apart)

    def all_fields(self, given: Iterable[str], names: set[str], where: str, what: str) -> None:
        for each in given:
            if each not in names:
                raise self.fail(where, f'{what}: no field "{each}"{self.near(each, names)}')

    def field(self, name: str, spec: Any, where: str) -> Field:
        if isinstance(spec, str):
            spec = {"type": spec}
        if not isinstance(spec, dict):
            raise self.fail(where, f"{name}: a type in quotes is wanted")
        self.known(spec, _FIELD, f"{where}.{name}")
        kind = spec.get("type")
        if kind not in _FIELD_TYPES:
            raise self.fail(where, f'{name}: unknown type "{kind}"; the types are {", ".join(_FIELD_TYPES)}')
        null = spec.get("null", "keep")
        if null not in ("keep", "absent"):
            raise self.fail(where, f'{name}: null is "keep" or "absent"')
        return Field(name, cast(FieldType, kind), null)

    # layouts

    def layout(self, name: str, body: dict[str, Any], kinds: dict[str, Kind]) -> Layout:
        where = f"layouts.{name}"
        store = self.text(body, "store", where)
        if store not in _STORES:
            raise self.fail(where, f'unknown store "{store}"; the stores are {", ".join(_STORES)}')
        self.truth(body, "create", where)
        keyed = store == "dynamodb"
        if not keyed:
            self.unwanted(body, _KEYED, _A_KEYED_STORE, where)
        key = tuple(self.texts(body, "key", where)) if keyed else ()
        if keyed and (len(key) > 2 or len(set(key)) < len(key)):
            raise self.fail(where, "key: one or two attribute names are wanted, the hash and the range")
        index = tuple(self.texts(body, "index", where)) if "index" in body else None
        if index is not None and (len(index) != 3 or index[1] == index[2]):
            raise self.fail(
                where, "index: three names are wanted: the index, its hash attribute and its range attribute"
            )
        compiled = {}
        for each, spec in body.items():
            if each in _LAYOUT:
                continue
            if each not in kinds:
                raise self.fail(
                    where, f'"{each}" is neither a setting nor a kind{self.near(each, _LAYOUT | set(kinds))}'
                )
            compiled[each] = self.kind_layout(kinds[each], spec, f"{where}.{each}", store, key, index)
        if not compiled:
            raise self.fail(where, "no kind is described")
        ghosts = body.get("ghosts", [])
        if not isinstance(ghosts, list) or not all(
            isinstance(g, list) and all(isinstance(a, str) for a in g) for g in ghosts
        ):
            raise self.fail(where, "ghosts: an array of arrays of attribute names is wanted")
        also = self.also(body, where, len(key) + (2 if index is not None else 0))
        layout = Layout(
            name,
            store,
            compiled,
            key,
            index,
            tuple(frozenset(each) for each in ghosts),
            absent_is_null=store == "sql",
            keeps_unknown=store != "sql",
            also=also[: len(key)],
            also_index=also[len(key) :],
            several_keys=self.truth(body, "several_keys", where),
            unread=self.reasons(body, "unread", compiled, where),
            unread_later=self.reasons(body, "unread_later", compiled, where),
        )
        if layout.map and len(compiled) > 1:
            raise self.fail(
                where, f"map: a document that is a map of {layout.map.kind.name} has no place for other kinds"
            )
        self.distinct(layout, where)
        return layout

    def also(self, body: dict[str, Any], where: str, count: int) -> tuple[frozenset[str], ...]:
        """Other names of the hash and range attributes of key and index: arrays of names, "*" for any."""
        given = body.get("also")
        if given is None:
            return ()
        if (
            not isinstance(given, list)
            or len(given) != count
            or not all(
                isinstance(names, list) and names and all(isinstance(n, str) and n for n in names) for names in given
            )
        ):
            raise self.fail(
                where,
                f'also: {count} arrays of names are wanted, "*" for any: of the hash, of the range, and so for the index',
            )
        return tuple(frozenset(names) for names in given)

    def reasons(self, body: dict[str, Any], name: str, kinds: dict[str, KindLayout], where: str) -> dict[str, str]:
        given = self.table(body, name, where) if name in body else {}
        for kind, why in given.items():
            if kind not in kinds:
                raise self.fail(f"{where}.{name}", f'no kind "{kind}" in this layout{self.near(kind, set(kinds))}')
            if not isinstance(why, str):
                raise self.fail(f"{where}.{name}", f"{kind}: a reason in quotes is wanted")
        return given

    def kind_layout(
        self, kind: Kind, spec: Any, where: str, store: str, key: tuple[str, ...], index: tuple[str, ...] | None
    ) -> KindLayout:
        if not isinstance(spec, dict):
            raise self.fail(where, "a table is wanted")
        self.known(spec, _KIND_LAYOUT, where)
        if store != "dynamodb":
            self.unwanted(spec, _KIND_KEYED, _A_KEYED_STORE, where)
        if store != "json":
            self.unwanted(spec, _KIND_JSON, "a JSON document", where)
        if store != "sql":
            self.unwanted(spec, _KIND_SQL, "an SQL table", where)
        places = self.places(kind, spec, where, store)
        keys: tuple[Key, ...] = ()
        index_keys: tuple[Key, ...] = ()
        name = spec.get("collection")
        collections = (name,) if isinstance(name, str) and name else self.some(spec, "collection", where)
        if store == "dynamodb":
            keys = self.keys(kind, spec, "key", key, where)
            if index is not None:
                index_keys = self.keys(kind, spec, "index", index[1:], where, optional=True)
            elif "index" in spec:
                raise self.fail(where, "index: the layout names no index")
            self.covers_identity(kind, keys, where)
            if not spec.get("marks"):
                raise self.fail(where, "marks: name the attributes by which an item of this kind is told")
        elif "map" in spec:
            if collections:
                raise self.fail(where, "collection: a document that is a map has none")
        else:
            if not collections:
                raise self.fail(where, "collection: the name of its table or collection is missing")
            self.unwanted(spec, ("except",), "a map", where)
        layout = KindLayout(
            kind,
            places,
            collections,
            keys,
            index_keys,
            marks=self.some(spec, "marks", where),
            extra=self.some(spec, "extra", where, or_none=True),
            surrogate=self.some(spec, "surrogate", where, or_none=True),
            columns=self.columns(spec, places, where) if "columns" in spec else {},
            unique=self.truth(spec, "unique", where),
            index_wins=self.truth(spec, "index_wins", where),
            parsed=self.parsed(kind, spec, where),
            map=self.map(kind, spec, places, where) if "map" in spec else (),
            excepted=self.some(spec, "except", where, or_none=True),
            request=self.request(kind, spec, keys, f"{where}.request", store),
        )
        if "opaque" in spec:
            layout = replace(layout, opaque=self.opaque(layout, spec, where))
        self.no_clash(layout, where)
        return layout

    def columns(self, spec: dict[str, Any], places: tuple[Place, ...], where: str) -> dict[str, str]:
        columns = self.table(spec, "columns", where)
        for column, sql in columns.items():
            if not isinstance(sql, str):
                raise self.fail(f"{where}.columns", f"{column}: an SQL type in quotes is wanted")
        for place in places if columns else ():
            if place.attribute not in columns:
                raise self.fail(
                    f"{where}.columns", f"no column {place.attribute}, where the field {place.field.name} lives"
                )
        return columns

    def opaque(self, layout: KindLayout, spec: dict[str, Any], where: str) -> tuple[str, ...]:
        """The attributes that may be compressed or split: they hold text, and nobody but migrator has to understand them."""
        kind, places = layout.kind, {place.field.name: place for place in layout.places}
        given = self.texts(spec, "opaque", where)
        self.all_fields(given, set(places), where, "opaque")
        asked = kind.asked
        read = (
            {*asked.by, *(asked.gives or places), *(name for told in asked.apart.values() for name in told)}
            if asked
            else set()
        )
        keyed = {slot.name for key in layout.keys + layout.index for each in key.templates for slot in each.slots}
        keyed |= {key.attribute for key in layout.keys + layout.index}
        for name in given:
            place = places[name]
            if name in read or (asked is not None and name in (asked.figure, *(asked.recent or ())[:1])):
                raise self.fail(
                    where, f"opaque: the application reads {name} of a {kind.name}, and would not understand it"
                )
            if name in kind.identity or name == kind.newest or name == kind.expires:
                raise self.fail(where, f"opaque: {name} tells which record it is, or its time, and must stay as it is")
            if name in keyed or place.attribute in keyed or place.otherwise:
                raise self.fail(where, f"opaque: {name} is in a key or has two places, and must stay as it is")
            if (place.field.type, place.form) not in (("text", "native"), ("json", "json")):
                raise self.fail(where, f'opaque: {name} must be text, or json stored as text (as = "json")')
        return tuple(places[name].attribute for name in given)

    def map(self, kind: Kind, spec: dict[str, Any], places: tuple[Place, ...], where: str) -> tuple[str, ...]:
        names = self.texts(spec, "map", where)
        by_field = {place.field.name: place for place in places}
        if len(names) != 2 or set(names) != by_field.keys():
            raise self.fail(
                where,
                f"map: two fields are wanted, that of the name and that of the value, and {kind.name} has no others",
            )
        named = by_field[names[0]]
        if kind.identity != (names[0],) or named.field.type != "text" or named.form != "native":
            raise self.fail(where, f"map: {names[0]} is a name in a JSON object: it must be the identity, and text")
        return tuple(by_field[name].attribute for name in names)

    def request(
        self, kind: Kind, body: dict[str, Any], keys: tuple[Key, ...], where: str, store: str
    ) -> Request | None:
        """How the application asks; where nothing is said, for the one record by the key that the layout makes."""
        if kind.asked is None or store == "json":
            if "request" in body:
                why = (
                    "no application reads a file of ours" if store == "json" else f"kinds.{kind.name}.asked is missing"
                )
                raise self.fail(where, why)
            return None
        spec = self.table(body, "request", where) if "request" in body else {}
        self.known(spec, _REQUEST, where)
        names = {each.name for each in kind.fields}
        filled, present, numbers, text = lists = [self.some(spec, each, where) for each in _REQUEST_FIELDS]
        defaults = self.table(spec, "defaults", where) if "defaults" in spec else {}
        for what, given in zip((*_REQUEST_FIELDS, "defaults"), (*lists, defaults), strict=True):
            self.all_fields(given, names, where, what)
        made = Request(filled=filled, present=present, numbers=numbers, text=text, defaults=defaults)
        if store != "dynamodb":
            self.unwanted(spec, _REQUEST_KEYED, _A_KEYED_STORE, where)
            return made
        query = self.asking(spec["query"], kind, where, "query", len(keys)) if "query" in spec else ()
        index = self.asking([spec["index"]], kind, where, "index", 1)[0] if "index" in spec else None
        gets = spec.get("get", [])
        if not isinstance(gets, list):
            raise self.fail(where, "get: an array of keys is wanted, each an array of templates")
        get = tuple(self.asking(each, kind, where, "get", len(keys)) for each in gets)
        if not (get or query):
            if not kind.is_asked_for_one:
                raise self.fail(
                    where, f"query: the application asks for several {kind.name} records; say under which key they lie"
                )
            get = (self.asking([key.templates[0].text for key in keys], kind, where, "get", len(keys)),)
        return replace(made, get=get, query=query, index=index)

    def asking(self, texts: Any, kind: Kind, where: str, what: str, count: int) -> tuple[Template, ...]:
        """Templates of what the application names: made of the fields it asks by."""
        assert kind.asked is not None
        if not isinstance(texts, list) or len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise self.fail(
                where, f"{what}: {count} templates are wanted" if count > 1 else f"{what}: a template is wanted"
            )
        made = tuple(self.template(text, kind, where, what, True) for text in texts)
        for slot in (slot for template in made for slot in template.slots):
            if slot.form != "value" or slot.name not in kind.asked.by:
                raise self.fail(where, f"{what}: {slot.name} is not among the fields that the application asks by")
        return made

    def parsed(self, kind: Kind, spec: dict[str, Any], where: str) -> tuple[str, ...]:
        names = self.some(spec, "parsed", where)
        fields = {each.name for each in kind.fields if each.type == "text"}
        for name in names:
            if name not in fields:
                raise self.fail(where, f'parsed: no text field "{name}"{self.near(name, fields)}')
        return names

    def places(self, kind: Kind, spec: dict[str, Any], where: str, store: str) -> tuple[Place, ...]:
        given = self.table(spec, "fields", where) if "fields" in spec else {}
        names = {each.name for each in kind.fields}
        for each in given:
            if each not in names:
                raise self.fail(f"{where}.fields", f'no field "{each}" in the kind {kind.name}{self.near(each, names)}')
        places = []
        for spot in kind.fields:
            body = given.get(spot.name, {})
            if isinstance(body, str):
                body = {"attribute": body}
            if not isinstance(body, dict):
                raise self.fail(f"{where}.fields", f"{spot.name}: the name of an attribute is wanted")
            self.known(body, _PLACE, f"{where}.fields.{spot.name}")
            form = body.get("as", "number" if store == "sql" and spot.type == "boolean" else "native")
            if form not in _FORMS:
                raise self.fail(
                    f"{where}.fields", f'{spot.name}: as: unknown form "{form}"; the forms are {", ".join(_FORMS)}'
                )
            if form == "date" and spot.type != "timestamp":
                raise self.fail(f"{where}.fields", f"{spot.name}: only a timestamp can be stored as a date")
            if form == "number" and spot.type in ("json", "timestamp"):
                raise self.fail(f"{where}.fields", f"{spot.name}: a {spot.type} cannot be stored as a number")
            if form == "text" and spot.type == "json":
                raise self.fail(f"{where}.fields", f'{spot.name}: JSON is stored as text by as = "json"')
            otherwise = body.get("otherwise")
            attribute = body.get("attribute", spot.name)
            if not isinstance(attribute, str) or not isinstance(otherwise, str | None) or "" in (attribute, otherwise):
                raise self.fail(f"{where}.fields", f"{spot.name}: attribute and otherwise are names in quotes")
            places.append(Place(spot, attribute, cast(Form, form), otherwise))
        return tuple(places)

    def keys(
        self,
        kind: Kind,
        spec: dict[str, Any],
        what: str,
        attributes: tuple[str, ...],
        where: str,
        optional: bool = False,
    ) -> tuple[Key, ...]:
        given = spec.get(what)
        if not isinstance(given, list) or len(given) != len(attributes):
            raise self.fail(where, f"{what}: a template each is wanted for {' and '.join(attributes)}")
        free = spec.get("free") if what == "key" else None
        keys = []
        for attribute, templates in zip(attributes, given, strict=True):
            texts = [templates] if isinstance(templates, str) else templates
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise self.fail(where, f"{what}: {attribute} wants a template or an array of them")
            compiled = tuple(self.template(text, kind, where, what, optional) for text in texts)
            keys.append(Key(attribute, compiled, None, optional))
        if free is not None:
            if not isinstance(free, str):
                raise self.fail(where, "free: a template is wanted")
            if len(keys) == 1:
                raise self.fail(where, "free: only a range attribute is read by a prefix, and the key has none")
            prefix = self.template(free, kind, where, "free", True)
            if any(slot.form != "value" for slot in prefix.slots):
                raise self.fail(where, "free: only fields as they are")
            if not all(template.text.startswith(free) for template in keys[-1].templates):
                raise self.fail(where, f'free: not every template of {keys[-1].attribute} starts with "{free}"')
            keys[-1] = replace(keys[-1], free=prefix)
        return tuple(keys)

    def template(self, text: str, kind: Kind, where: str, what: str, loose: bool) -> Template:
        names = {each.name for each in kind.fields}
        parts: list[str | Slot] = []
        end = 0
        for match in _SLOT.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            name, form = match.group(1), match.group(2)
            if name == "digest" and form is None:
                parts.append(Slot("digest", "digest"))
            elif name not in names:
                raise self.fail(
                    where, f'{what}: "{text}" names no field of {kind.name}: {name}{self.near(name, names)}'
                )
            elif form not in (None, "stamp"):
                raise self.fail(where, f'{what}: "{text}": unknown form "{form}"; there is {{field:stamp}}')
            else:
                parts.append(Slot(name, "stamp" if form else "value"))
            end = match.end()
        if end < len(text):
            parts.append(text[end:])
        if any("{" in part or "}" in part for part in parts if isinstance(part, str)):
            raise self.fail(where, f'{what}: "{text}": a brace that belongs to no {{field}}')
        template = Template(text, tuple(parts))
        if not parts:
            raise self.fail(where, f"{what}: an empty template")
        if not loose and not template.is_digested:
            for left, right in pairwise(parts):
                if isinstance(left, Slot) and isinstance(right, Slot):
                    raise self.fail(where, f'{what}: "{text}": two fields without a separator between them')
        return template

    def covers_identity(self, kind: Kind, keys: tuple[Key, ...], where: str) -> None:
        for key in keys:
            heads = [template.head for template in key.templates]
            for position, template in enumerate(key.templates):
                others = heads[:position]
                if (
                    others
                    and not template.is_digested
                    and any(h.startswith(template.head) or template.head.startswith(h) for h in others)
                ):
                    raise self.fail(
                        where,
                        f'key: "{template.text}" could meet another template of {key.attribute}; end it with {{digest}}',
                    )
        for templates in product(*(key.templates for key in keys)):  # each key falls back on its own
            if any(template.is_digested for template in templates):
                continue
            slots = {slot.name for template in templates for slot in template.slots if slot.form == "value"}
            missing = [name for name in kind.identity if name not in slots]
            if missing:
                raise self.fail(
                    where,
                    f"key: the identity field {missing[0]} is in no template, so two records could fall on one key",
                )

    def no_clash(self, layout: KindLayout, where: str) -> None:
        seen: dict[str, Place] = {}
        made: dict[str, list[str]] = {}
        for place in layout.places:
            if place.attribute in seen:
                raise self.fail(
                    where,
                    f"fields: {seen[place.attribute].field.name} and {place.field.name} live in one attribute, {place.attribute}",
                )
            seen[place.attribute] = place
        for key in layout.keys + layout.index:
            texts = [template.text for template in key.templates]
            if (there := seen.get(key.attribute)) is not None:
                lives = f"key: the field {there.field.name} lives in the key attribute {key.attribute}"
                if texts != [f"{{{there.field.name}}}"]:
                    raise self.fail(where, f"{lives}, whose template is another")
                if there.form != "text" and (there.form != "native" or there.field.type not in ("text", "timestamp")):
                    raise self.fail(where, f"{lives}, which holds its text: it cannot be stored in another form")
            if made.setdefault(key.attribute, texts) != texts:
                raise self.fail(where, f"index: {key.attribute} is a key attribute too, with another template")
        for attribute in layout.extra + layout.surrogate:
            if attribute in seen or attribute in made:
                raise self.fail(where, f"{attribute} is a field or a key and cannot be the store's own too")
        for mark in layout.marks:
            if mark not in layout.attributes:
                raise self.fail(where, f"marks: no field lives in {mark}, so no item would ever be told by it")

    def distinct(self, layout: Layout, where: str) -> None:
        """No two kinds on one collection, on one key, or told by marks that both have."""
        kinds = list(layout.kinds.items())
        for position, (name, kind) in enumerate(kinds):
            for other_name, other in kinds[position + 1 :]:
                shared = set(kind.collections) & set(other.collections)
                if shared:
                    raise self.fail(where, f"{name} and {other_name} share the collection {shared.pop()}")
                if layout.store != "dynamodb":
                    continue
                if all(_could_meet(left, right) for left, right in zip(kind.keys, other.keys, strict=True)):
                    raise self.fail(
                        where,
                        f"{name} and {other_name} could fall on one key; give their templates different beginnings",
                    )
                if set(kind.marks) <= other.attributes:
                    raise self.fail(
                        where, f"{other_name}: an item of it would be taken for a {name}; choose other marks"
                    )

    # small things

    def known(self, body: dict[str, Any], allowed: set[str], where: str) -> None:
        for name in body:
            if name not in allowed:
                raise self.fail(where, f'unknown setting "{name}"{self.near(name, allowed)}')

    def unwanted(self, body: dict[str, Any], names: Iterable[str], owner: str, where: str) -> None:
        """Settings that only something else can have are none of this."""
        for name in names:
            if name in body:
                raise self.fail(where, f"{name}: only {owner} has one")

    def near(self, name: str, allowed: Iterable[str]) -> str:
        close = difflib.get_close_matches(name, sorted(allowed), 1)
        return f' (did you mean "{close[0]}"?)' if close else ""

    def table(self, body: dict[str, Any], name: str, where: str) -> dict[str, Any]:
        value = body.get(name)
        if not isinstance(value, dict):
            raise self.fail(where, f"the table {name} is missing" if value is None else f"{name}: a table is wanted")
        return value

    def truth(self, body: dict[str, Any], name: str, where: str) -> bool:
        value = body.get(name, False)
        if not isinstance(value, bool):
            raise self.fail(where, f"{name}: true or false is wanted")
        return value

    def text(self, body: dict[str, Any], name: str, where: str) -> str:
        value = body.get(name)
        if not isinstance(value, str) or not value:
            raise self.fail(where, f"{name} is missing" if value is None else f"{name}: text in quotes is wanted")
        return value

    def texts(self, body: dict[str, Any], name: str, where: str) -> list[str]:
        value = body.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            raise self.fail(where, f"{name}: an array of names is wanted")
        return value

    def some(self, body: dict[str, Any], name: str, where: str, or_none: bool = False) -> tuple[str, ...]:
        """Names that need not be given. `or_none`: an empty array says so, too."""
        if name not in body or (or_none and body[name] == []):
            return ()
        return tuple(self.texts(body, name, where))


def _could_meet(left: Key, right: Key) -> bool:
    return any(a.head.startswith(b.head) or b.head.startswith(a.head) for a in left.templates for b in right.templates)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, table by table. A value `false` takes a kind, a layout or a text away."""
    out = dict(base)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(out.get(name), dict):
            out[name] = merged(out[name], value)
        elif value is False and isinstance(out.get(name), dict | str):
            del out[name]
        else:
            out[name] = value
    return out
