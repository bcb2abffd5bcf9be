"""What a mapping promises: it is checked whole before a store is opened, and what passed never fails but for one record."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from migrator import mapping_check as module
from migrator.binding import reading, shape_of, words_of
from migrator.errors import ConfigError, RecordError
from migrator.layout import Layout
from migrator.mapping import Mapping
from migrator.mapping_file import load_mapping, recognise, shipped
from migrator.model import Kind, Record, Row, Shape
from migrator.values import canonical, of_decimal

LUMINORACORE = load_mapping("luminoracore-v1.1")

CHAT = """\
name = "chat"

[kinds.message]
identity = ["channel", "sent_at"]
newest = "edited_at"
expires = "ttl"

[kinds.message.fields]
channel = "text"
sent_at = "timestamp"
body = "text"
tags = "json"
edited_at = "timestamp"
ttl = { type = "integer", null = "absent" }

[kinds.note]
identity = ["id"]

[kinds.note.fields]
id = "text"

[layouts.sqlite]
store = "sql"

[layouts.sqlite.message]
collection = ["messages", "chat_messages"]
surrogate = ["number"]
unique = true

[layouts.sqlite.message.columns]
number = "INTEGER PRIMARY KEY"
channel = "TEXT"
sent_at = "TEXT"
body = "TEXT"
tags_json = "TEXT"
edited_at = "TEXT"
ttl = "INTEGER"

[layouts.sqlite.message.fields]
tags = { attribute = "tags_json", as = "json" }

[layouts.sqlite.note]
collection = "notes"

[layouts.json]
store = "json"
message = { collection = "messages" }
note = { collection = "notes" }

[layouts.table]
store = "dynamodb"
create = true
key = ["PK", "SK"]
index = ["GSI1", "GSI1PK", "GSI1SK"]
ghosts = [["seen"]]

[layouts.table.message]
key = ["{channel}", ["MESSAGE#{sent_at:stamp}#{digest}", "MESSAGE#{digest}"]]
free = "MESSAGE#"
index = ["USER#{channel}", "{sent_at}"]
marks = ["channel", "sent_at"]
extra = ["TTL"]

[layouts.table.note]
key = ["{id}", "NOTE#{id}"]
index = ["NOTE", "{id}"]
marks = ["id"]

[layouts.other]
like = "table"
key = ["channel", "SK"]

[layouts.other.note.fields]
id = { attribute = "note_id", otherwise = "id" }
"""


def write(folder: Path, text: str, name: str = "chat.toml") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def edited(*edits: tuple[str, str]) -> str:
    text = CHAT
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


# The shipped one and a good one -----------------------------------------------------------------------------------------


def test_every_shipped_mapping_loads() -> None:
    assert "luminoracore-v1.1" in shipped()
    for name in shipped():
        assert load_mapping(name).name == name


def test_the_shipped_mapping_knows_six_kinds_and_makes_tables_that_stay_readable() -> None:
    """A new table gets the keys under which LuminoraCore finds what it writes afterwards."""
    assert LUMINORACORE.kind_names() == ("affinity", "fact", "episode", "mood", "memory", "session")
    assert LUMINORACORE.layout_for("dynamodb", None).id == "user_id/SK"
    assert LUMINORACORE.layout_for("dynamodb", None).index is None
    assert LUMINORACORE.layout_for("dynamodb", None, "session_id/SK+GSI1").index == ("GSI1", "GSI1PK", "GSI1SK")
    assert LUMINORACORE.layout_for("jsonl", None).keeps_origins
    assert not LUMINORACORE.layout_for("json", None).keeps_origins
    assert all(set(layout.kinds) == set(LUMINORACORE.kinds) for layout in LUMINORACORE.layouts.values())


def test_a_mapping_of_ones_own_loads(tmp_path: Path) -> None:
    chat = load_mapping(write(tmp_path, CHAT))
    assert (chat.name, chat.created) == ("chat", {"sql": "sqlite", "json": "json", "dynamodb": "table"})
    assert chat.layouts["other"].key == ("channel", "SK") and chat.layouts["other"].store == "dynamodb"
    assert chat.layouts["other"].kinds["note"].places[0].otherwise == "id"
    assert chat.layouts["table"].kinds["note"].places[0].otherwise is None


def test_the_example_in_the_readme_loads(tmp_path: Path) -> None:
    readme = Path(__file__).parents[1] / "mappings" / "README.md"
    blocks = re.findall(r"```toml\n(.*?)```", readme.read_text("utf-8"), re.S)
    chat, user, layouts, tables, asking, ours_text = blocks[:6]
    whole = f"{chat}\n{layouts}".replace('extends = "luminoracore-v1.1"', "")
    assert load_mapping(write(tmp_path, whole, "chat.toml")).kind_names() == ("message",)
    more = load_mapping(write(tmp_path, f'extends = "chat.toml"\nname = "more"\n{tables}', "more.toml"))
    assert more.layouts["channel/SK"].several_keys
    asked = load_mapping(write(tmp_path, f'extends = "chat.toml"\nname = "asked"\n{asking}', "asked.toml"))
    request = asked.layouts["channel/SK"].kinds["message"].request
    assert request is not None and [template.text for template in request.query] == ["{channel}", "MESSAGE#"]
    ours = load_mapping(write(tmp_path, ours_text + user))
    assert ours.user == LUMINORACORE.user
    assert ours.name == "our-luminora" and ours.kind_names() == LUMINORACORE.kind_names()


def test_a_comment_changes_nothing_and_a_template_does(tmp_path: Path) -> None:
    once = load_mapping(write(tmp_path, CHAT)).sha256
    assert load_mapping(write(tmp_path, "# new\n" + CHAT, "b.toml")).sha256 == once
    assert load_mapping(write(tmp_path, edited(('"NOTE#{id}"', '"NOTES#{id}"')))).sha256 != once


# What the checker knows ---------------------------------------------------------------------------------------------------

FIELDS = "[kinds.message.fields]\n"
SQL, SQL_NOTE = "[layouts.sqlite.message]\n", "[layouts.sqlite.note]\n"
OTHER_NOTE = "[layouts.other.note.fields]"
PLACES = "[layouts.sqlite.message.fields]\n"
TABLE, MESSAGE, NOTE = "[layouts.table]\n", "[layouts.table.message]\n", "[layouts.table.note]\n"
RANGE = '["MESSAGE#{sent_at:stamp}#{digest}", "MESSAGE#{digest}"]'
JSON_NOTE = 'note = { collection = "notes" }'
WITH_BODY = ('[kinds.note.fields]\nid = "text"\n', '[kinds.note.fields]\nid = "text"\nbody = "json"\n')
IN_ASKED, IN_REQUEST = "[kinds.message.asked]: ", "[layouts.table.message.request]: "


def asking(asked: str = "", request: str = 'query = ["{channel}", "MESSAGE#"]') -> list[tuple[str, str]]:
    """With how the application asks for messages, and how it asks the table."""
    by = "" if asked.startswith("by") else 'by = ["channel"]\n'
    return [
        (FIELDS, f"[kinds.message.asked]\n{by}{asked}\n{FIELDS}"),
        (NOTE, f"[layouts.table.message.request]\n{request}\n{NOTE}"),
    ]


def opaque(field: str) -> tuple[str, str]:
    return 'extra = ["TTL"]', f'extra = ["TTL"]\nopaque = ["{field}"]'


IN_TABLE, IN_MESSAGE, IN_NOTE = "[layouts.table]: ", "[layouts.table.message]: ", "[layouts.table.note]: "

WRONG: list[tuple[str, list[tuple[str, str]], str]] = [
    # the whole
    ("setting", [('name = "chat"', 'name = "chat"\ntitel = "x"')], ': unknown setting "titel" (did you mean "title"?)'),
    ("no name", [('name = "chat"', "")], ": name is missing"),
    ("name of a number", [('name = "chat"', "name = 5")], ": name: text in quotes is wanted"),
    ("no kinds", [(CHAT, 'name = "chat"')], ": the table kinds is missing"),
    ("kinds no table", [(CHAT, 'name = "chat"\nkinds = 5')], ": kinds: a table is wanted"),
    ("kinds empty", [(CHAT, 'name = "chat"\n[kinds]\n[layouts]')], "[kinds]: no kind is described"),
    ("no layouts", [(CHAT[CHAT.index("[layouts.sqlite]") :], "")], ": the table layouts is missing"),
    ("layouts empty", [(CHAT[CHAT.index("[layouts.sqlite]") :], "[layouts]")], "[layouts]: no layout is described"),
    ("layout no table", [("[layouts.json]", "[layouts]\nx = 5\n[layouts.json]")], "[layouts.x]: a table is wanted"),
    # kinds
    ("kind no table", [("[kinds.note]", "[kinds]\nx = 5\n[kinds.note]")], "[kinds.x]: a table is wanted"),
    ("kind in capitals", [("[kinds.note]", "[kinds.Memo]\n[kinds.note]")], "[kinds.Memo]: a kind is named by small"),
    ("kind named as a setting", [("[kinds.note]", "[kinds.index]\n[kinds.note]")], '[kinds.index]: a kind cannot be named "index"'),
    ("setting of a kind", [("newest =", "newst =")], '[kinds.message]: unknown setting "newst" (did you mean "newest"?)'),
    ("no fields", [("[kinds.note.fields]\n", "[kinds.note.felds]\n")], '[kinds.note]: unknown setting "felds"'),
    ("fields missing", [('[kinds.note.fields]\nid = "text"', "")], "[kinds.note]: the table fields is missing"),
    ("no identity", [('identity = ["id"]', "")], "[kinds.note]: identity: an array of names is wanted"),
    ("empty identity", [('["id"]', "[]")], "[kinds.note]: identity: an array of names is wanted"),
    ("identity of a text", [('["id"]', '"id"')], "[kinds.note]: identity: an array of names is wanted"),
    ("identity unknown", [('["id"]', '["idd"]')], '[kinds.note]: identity: no field "idd" (did you mean "id"?)'),
    ("identity twice", [('["id"]', '["id", "id"]')], "[kinds.note]: identity: a field is named twice"),
    ("newest unknown", [('newest = "edited_at"', 'newest = "edited"')], '[kinds.message]: newest: no field "edited"'),
    ("newest a list", [('newest = "edited_at"', 'newest = ["ttl"]')], "[kinds.message]: newest: no field"),
    ("expires a text", [('expires = "ttl"', 'expires = "body"')], "[kinds.message]: expires: body holds no epoch seconds; a number is wanted"),
    ("a control character", [('name = "chat"', 'name = "ch\\u0007at"')], "a control character in"),
    ("expires a number", [('expires = "ttl"', "expires = 5")], "[kinds.message]: expires: the name of a field is wanted"),
    # fields
    ("type unknown", [('body = "text"', 'body = "txt"')], '[kinds.message.fields]: body: unknown type "txt"; the types are text, integer'),
    ("type missing", [('body = "text"', "body = {}")], '[kinds.message.fields]: body: unknown type "None"'),
    ("type a list", [('body = "text"', 'body = { type = ["text"] }')], "[kinds.message.fields]: body: unknown type"),
    ("field a number", [('body = "text"', "body = 5")], "[kinds.message.fields]: body: a type in quotes is wanted"),
    ("field setting", [('null = "absent"', 'nul = "absent"')], '[kinds.message.fields.ttl]: unknown setting "nul" (did you mean "null"?)'),
    ("null unknown", [('null = "absent"', 'null = "drop"')], '[kinds.message.fields]: ttl: null is "keep" or "absent"'),
    # layouts
    ("store unknown", [('store = "sql"', 'store = "sqlite"')], '[layouts.sqlite]: unknown store "sqlite"; the stores are sql, json, dynamodb'),
    ("store a list", [('store = "sql"', 'store = ["sql"]')], "[layouts.sqlite]: store: text in quotes is wanted"),
    ("store missing", [('store = "sql"', "")], '[layouts.sqlite]: store is missing'),
    ("store a page", [('store = "sql"', f'store = "{"x" * 5_000}"')], 'x …'),
    ("layout's name a page", [('[layouts.sqlite]\nstore = "sql"', f'[layouts.{"x" * 5_000}]\nstore = 1')], 'x …'),
    ("create a text", [("create = true", 'create = "yes"')], IN_TABLE + "create: true or false is wanted"),
    ("key in json", [('store = "json"', 'store = "json"\nkey = ["a", "b"]')], "[layouts.json]: key: only a keyed store"),
    ("index in sql", [('store = "sql"', 'store = "sql"\nindex = ["a", "b", "c"]')], "[layouts.sqlite]: index: only a keyed store"),
    ("key missing", [('key = ["PK", "SK"]', "")], IN_TABLE + "key: an array of names is wanted"),
    ("key of three", [('["PK", "SK"]', '["PK", "SK", "ZK"]')], IN_TABLE + "key: one or two attribute names are wanted"),
    ("key of one, templates of two", [('["PK", "SK"]', '["PK"]')], IN_MESSAGE + "key: a template each is wanted for PK"),
    ("key twice the same", [('["PK", "SK"]', '["PK", "PK"]')], IN_TABLE + "key: one or two attribute names are wanted"),
    ("index of two", [('["GSI1", "GSI1PK", "GSI1SK"]', '["GSI1", "GSI1PK"]')], IN_TABLE + "index: three names are wanted"),
    ("user of no field", [('name = "chat"', 'name = "chat"\nuser = { field = "chanel", session = "id" }')], '[user]: no kind has a field "chanel" (did you mean "channel"?)'),
    ("parsed no text", [(SQL, SQL + 'parsed = ["ttl"]\n')], '[layouts.sqlite.message]: parsed: no text field "ttl"'),
    ("also of one", [(TABLE, TABLE + 'also = [["x"]]\n')], IN_TABLE + "also: 4 arrays of names are wanted"),
    ("also of text", [(TABLE, TABLE + 'also = ["x", "y", "z", "w"]\n')], IN_TABLE + "also: 4 arrays of names are wanted"),
    ("unread of no kind", [(TABLE, TABLE + 'unread = { massage = "x" }\n')], '[layouts.table.unread]: no kind "massage" in this layout (did you mean "message"?)'),
    ("unread for nothing", [(TABLE, TABLE + 'unread_later = { message = 5 }\n')], "[layouts.table.unread_later]: message: a reason in quotes is wanted"),
    ("ghosts of text", [('[["seen"]]', '["seen"]')], IN_TABLE + "ghosts: an array of arrays of attribute names"),
    ("layout of an unknown kind", [(NOTE, "[layouts.table.nota]\n")], IN_TABLE + '"nota" is neither a setting nor a kind (did you mean "note"?)'),
    ("layout of no kind", [("[layouts.json]", '[layouts.empty]\nstore = "json"\n[layouts.json]')], "[layouts.empty]: no kind is described"),
    ("like unknown", [('like = "table"', 'like = "tabel"')], '[layouts.other]: like: no layout "tabel"'),
    ("like a list", [('like = "table"', 'like = ["table"]')], "[layouts.other]: like: no layout"),
    ("like itself", [('like = "table"', 'like = "other"')], "[layouts.other]: like goes in a circle"),
    ("like in a circle", [(TABLE, TABLE + 'like = "other"\n')], "like goes in a circle"),
    # a kind in a layout
    ("kind layout no table", [('note = { collection = "notes" }', "note = 5")], "[layouts.json.note]: a table is wanted"),
    ("kind layout setting", [("surrogate =", "surogate =")], '[layouts.sqlite.message]: unknown setting "surogate"'),
    ("index without an index", [('index = ["GSI1", "GSI1PK", "GSI1SK"]', "")], IN_MESSAGE + "index: the layout names no index"),
    ("no marks", [('marks = ["id"]', "")], IN_NOTE + "marks: name the attributes"),
    ("marks of text", [('marks = ["id"]', 'marks = "id"')], IN_NOTE + "marks: an array of names is wanted"),
    ("a mark that is nowhere", [('marks = ["id"]', 'marks = ["ide"]')], IN_NOTE + "marks: no field lives in ide"),
    ("marks in sql", [(SQL_NOTE, SQL_NOTE + 'marks = ["id"]\n')], "[layouts.sqlite.note]: marks: only a keyed store"),
    ("extra in json", [('collection = "notes" }', 'collection = "notes", extra = ["TTL"] }')], "[layouts.json.note]: extra: only a keyed"),
    ("no collection", [('note = { collection = "notes" }', "note = {}")], "[layouts.json.note]: collection: the name of its table"),
    ("a map with a collection", [(JSON_NOTE, 'note = { collection = "notes", map = ["id", "x"] }')], "[layouts.json.note]: collection: a document that"),
    ("except without a map", [(JSON_NOTE, 'note = { collection = "notes", except = ["x"] }')], "[layouts.json.note]: except: only a map"),
    ("a map of one", [(JSON_NOTE, 'note = { map = ["id"] }')], "[layouts.json.note]: map: two fields are wanted"),
    ("a map of an unknown field", [(JSON_NOTE, 'note = { map = ["id", "x"] }')], "[layouts.json.note]: map: two fields are wanted"),
    ("a map in sql", [(SQL_NOTE, SQL_NOTE + 'map = ["id", "x"]\n')], "[layouts.sqlite.note]: map: only a JSON document"),
    ("a map by no identity", [WITH_BODY, (JSON_NOTE, 'note = { map = ["body", "id"] }')], "[layouts.json.note]: map: body is a name in a JSON"),
    ("a map with other kinds", [WITH_BODY, (JSON_NOTE, 'note = { map = ["id", "body"] }')], "[layouts.json]: map: a document that is a map of note"),
    ("empty collection", [('note = { collection = "notes" }', 'note = { collection = "" }')], "[layouts.json.note]: collection: an array"),
    ("unique in json", [('collection = "notes" }', 'collection = "notes", unique = true }')], "[layouts.json.note]: unique: only an SQL"),
    ("columns no table", [(SQL_NOTE, SQL_NOTE + "columns = 5\n")], "[layouts.sqlite.note]: columns: a table is wanted"),
    ("column of a number", [('body = "TEXT"', "body = 5")], "[layouts.sqlite.message.columns]: body: an SQL type in quotes"),
    ("no column", [('body = "TEXT"', "")], "[layouts.sqlite.message.columns]: no column body, where the field body lives"),
    ("unique a text", [("unique = true", 'unique = "yes"')], "[layouts.sqlite.message]: unique: true or false is wanted"),
    ("surrogate is a field", [('["number"]', '["body"]')], "[layouts.sqlite.message]: body is a field or a key and cannot"),
    ("extra is a key", [('extra = ["TTL"]', 'extra = ["SK"]')], IN_MESSAGE + "SK is a field or a key and cannot"),
    # places
    ("place of no field", [("tags = { attribute", "tag = { attribute")], '[layouts.sqlite.message.fields]: no field "tag" in the kind message (did you mean "tags"?)'),
    ("place of a number", [(PLACES, PLACES + "body = 5\n")], "[layouts.sqlite.message.fields]: body: the name of an attribute"),
    ("place setting", [('as = "json"', 'was = "json"')], '[layouts.sqlite.message.fields.tags]: unknown setting "was"'),
    ("form unknown", [('as = "json"', 'as = "xml"')], '[layouts.sqlite.message.fields]: tags: as: unknown form "xml"; the forms are native'),
    ("date of a text", [(PLACES, PLACES + 'body = { as = "date" }\n')], "body: only a timestamp can be stored as a date"),
    ("number of a time", [(PLACES, PLACES + 'sent_at = { as = "number" }\n')], "sent_at: a timestamp cannot be stored as a number"),
    ("text of json", [('as = "json"', 'as = "text"')], 'tags: JSON is stored as text by as = "json"'),
    ("attribute empty", [('attribute = "tags_json"', 'attribute = ""')], "tags: attribute and otherwise are names in quotes"),
    ("otherwise empty", [('otherwise = "id"', 'otherwise = ""')], "id: attribute and otherwise are names in quotes"),
    ("attribute a number", [('attribute = "tags_json"', "attribute = 5")], "tags: attribute and otherwise are names in quotes"),
    ("two fields in one", [(PLACES, PLACES + 'ttl = "body"\n')], "[layouts.sqlite.message]: fields: body and ttl live in one attribute, body"),
    # keys
    ("no key", [('key = ["{id}", "NOTE#{id}"]', "")], IN_NOTE + "key: a template each is wanted for PK and SK"),
    ("key of one template", [('["{id}", "NOTE#{id}"]', '["{id}"]')], IN_NOTE + "key: a template each is wanted for PK and SK"),
    ("template a number", [('["{id}", "NOTE#{id}"]', '["{id}", 5]')], IN_NOTE + "key: SK wants a template or an array of them"),
    ("template empty", [('["{id}", "NOTE#{id}"]', '["{id}", ""]')], IN_NOTE + "key: an empty template"),
    ("no templates", [('["{id}", "NOTE#{id}"]', '["{id}", []]')], IN_NOTE + "key: SK wants a template or an array of them"),
    ("template of no field", [('"NOTE#{id}"', '"NOTE#{idd}"')], IN_NOTE + 'key: "NOTE#{idd}" names no field of note: idd (did you mean "id"?)'),
    ("template form", [('"NOTE#{id}"', '"NOTE#{id:hex}"')], IN_NOTE + 'key: "NOTE#{id:hex}": unknown form "hex"; there is {field:stamp}'),
    ("template brace", [('"NOTE#{id}"', '"NOTE#{id}}"')], IN_NOTE + 'key: "NOTE#{id}}": a brace that belongs to no {field}'),
    ("no separator", [('"NOTE#{id}"', '"NOTE#{id}{id}"')], IN_NOTE + 'key: "NOTE#{id}{id}": two fields without a separator'),
    ("free a number", [('free = "MESSAGE#"', "free = 5")], IN_MESSAGE + "free: a template is wanted"),
    ("free of a digest", [('free = "MESSAGE#"', 'free = "MESSAGE#{digest}"')], IN_MESSAGE + "free: only fields as they are"),
    ("free without a range", [('["PK", "SK"]', '["PK"]'), ('["{channel}", ' + RANGE, '["{channel}#{sent_at}"')], IN_MESSAGE + "free: only a range attribute"),
    ("free of another", [('free = "MESSAGE#"', 'free = "NOTES#"')], IN_MESSAGE + 'free: not every template of SK starts with "NOTES#"'),
    ("identity not in the key", [(RANGE, '"MESSAGE#x"'), ('free = "MESSAGE#"', "")], IN_MESSAGE + "key: the identity field sent_at is in no template"),
    ("identity only as a stamp", [(RANGE, '"MESSAGE#{sent_at:stamp}"')], IN_MESSAGE + "key: the identity field sent_at is in no template"),
    (
        "identity not in every alternative",
        [('"{channel}", ' + RANGE, '["C#{channel}", "S#x"], "MESSAGE#{sent_at}"')],
        IN_MESSAGE + "key: the identity field channel is in no template",
    ),
    (
        "identity not in a mixture of alternatives",
        [
            ('"{channel}", ' + RANGE, '["C#{channel}", "S#{sent_at}"], ["MESSAGE#{sent_at}", "MESSAGE_{channel}"]'),
            ('free = "MESSAGE#"', ""),
        ],
        IN_MESSAGE + "key: the identity field sent_at is in no template",
    ),
    (
        "alternatives that meet",
        [(RANGE, '["MESSAGE#{sent_at}", "MESSAGE#{channel}#{sent_at}"]')],
        IN_MESSAGE + 'key: "MESSAGE#{channel}#{sent_at}" could meet another template of SK; end it with {digest}',
    ),
    ("field in another's key", [('key = ["channel", "SK"]', 'key = ["body", "SK"]')], "[layouts.other.message]: key: the field body lives in the key attribute body"),
    ("JSON in a key", [(OTHER_NOTE, f'[layouts.other.message.fields]\nchannel = {{ as = "json" }}\n\n{OTHER_NOTE}')], "[layouts.other.message]: key: the field channel lives in the key attribute channel, which holds its text"),
    ("a number in a key", [('sent_at = "timestamp"', 'sent_at = "integer"'), ('"{channel}", ["MESSAGE#{sent_at:stamp}#{digest}", "MESSAGE#{digest}"]', '"{channel}", "{sent_at}"'), ('free = "MESSAGE#"', ""), ('key = ["PK", "SK"]', 'key = ["PK", "sent_at"]')], IN_MESSAGE + "key: the field sent_at lives in the key attribute sent_at, which holds its text"),
    ("index on a key", [('"GSI1PK", "GSI1SK"]', '"SK", "GSI1SK"]')], IN_MESSAGE + "index: SK is a key attribute too"),
    # how the application asks
    ("asked by no field", asking('by = ["chanel"]'), IN_ASKED + 'by: no field "chanel" (did you mean "channel"?)'),
    ("asked setting", asking("how = 1"), IN_ASKED + 'unknown setting "how"'),
    ("recent of text", asking('recent = ["sent_at", "30"]'), IN_ASKED + "recent: a time field and a number of days are wanted"),
    ("recent of no days", asking('recent = ["sent_at", 0]'), IN_ASKED + "recent: a time field and a number of days are wanted"),
    ("recent of nothing", asking("recent = 0"), IN_ASKED + "recent: a time field and a number of days are wanted"),
    ("recent of no field", asking('recent = ["sent", 30]'), IN_ASKED + 'recent: no field "sent"'),
    ("figure of no field", asking('figure = "starz"'), IN_ASKED + 'figure: no field "starz"'),
    ("apart of nothing", asking("apart = { turn = 1 }"), IN_ASKED + "apart: turn: fields with their values are wanted"),
    ("apart of no field", asking('apart = { turn = { bodi = "x" } }'), IN_ASKED + 'apart: turn: no field "bodi" (did you mean "body"?)'),
    ("request of a kind that is not asked for", asking()[1:], IN_REQUEST + "kinds.message.asked is missing"),
    ("request in json", [(JSON_NOTE, JSON_NOTE[:-1] + ", request = {} }")], "[layouts.json.note.request]: no application reads a file"),
    ("request setting", asking(request="qwery = []"), IN_REQUEST + 'unknown setting "qwery" (did you mean "query"?)'),
    ("no query for several", asking(request=""), IN_REQUEST + "query: the application asks for several message records"),
    ("query of one", asking(request='query = ["{channel}"]'), IN_REQUEST + "query: 2 templates are wanted"),
    ("query by more", asking(request='query = ["{channel}", "MESSAGE#{sent_at}"]'), IN_REQUEST + "query: sent_at is not among the fields"),
    ("get a text", asking(request='get = "{channel}"'), IN_REQUEST + "get: an array of keys is wanted"),
    ("index a number", asking(request="index = 5"), IN_REQUEST + "index: a template is wanted"),
    ("numbers of no field", asking(request='numbers = ["starz"]'), IN_REQUEST + 'numbers: no field "starz"'),
    ("index of a database", [*asking(), (SQL_NOTE, f'[layouts.sqlite.message.request]\nindex = "{{channel}}"\n{SQL_NOTE}')], "[layouts.sqlite.message.request]: index: only a keyed store"),
    # what may be compressed or split
    ("opaque what is asked by", [*asking(), opaque("channel")], IN_MESSAGE + "opaque: the application reads channel of a message"),
    ("opaque identity", [opaque("sent_at")], IN_MESSAGE + "opaque: sent_at tells which record it is"),
    ("opaque time", [opaque("edited_at")], IN_MESSAGE + "opaque: edited_at tells which record it is, or its time"),
    ("opaque key", [('["USER#{channel}", "{sent_at}"]', '["USER#{channel}", "{body}"]'), opaque("body")], IN_MESSAGE + "opaque: body is in a key or has two places"),
    ("opaque object", [opaque("tags")], IN_MESSAGE + "opaque: tags must be text, or json stored as text"),
    ("opaque and unknown", [opaque("bodies")], IN_MESSAGE + 'opaque: no field "bodies"'),
    # two kinds
    ("one collection", [('collection = "notes"', 'collection = "chat_messages"')], "[layouts.sqlite]: message and note share the collection chat_messages"),
    ("one key", [('"NOTE#{id}"', '"MESSAGE#{id}"')], IN_TABLE + "message and note could fall on one key"),
("one beginning", [('"NOTE#{id}"', '"M{id}"')], IN_TABLE + "message and note could fall on one key"),
    ("one mark", [('marks = ["channel", "sent_at"]', 'marks = ["SK"]')], IN_TABLE + "note: an item of it would be taken for a message"),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "words"), [pytest.param(edits, words, id=name) for name, edits, words in WRONG])
def test_a_wrong_mapping_is_refused_with_file_table_and_reason(edits: list[Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path, edited(*edits))
    with pytest.raises(ConfigError) as caught:
        load_mapping(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(path) + 700


def test_every_complaint_of_the_checker_has_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[int] = set()
    complain = module.Checker.fail

    def fail(self: Any, where: str, reason: str) -> ConfigError:
        reached.add(sys._getframe(1).f_lineno)
        return complain(self, where, reason)

    monkeypatch.setattr(module.Checker, "fail", fail)
    for _, edits, _ in WRONG:
        with pytest.raises(ConfigError):
            load_mapping(write(tmp_path, edited(*edits)))
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fail"
    ]
    assert len(calls) > 50
    assert [c.lineno for c in calls if not reached & set(range(c.lineno, (c.end_lineno or 0) + 1))] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("luminoracore-v1.2", 'no mapping "luminoracore-v1.2": .*did you mean "luminoracore-v1.1"'),
        ("zzz", 'no mapping "zzz": .*shipped mappings: .*luminoracore-v1.1'),
        ("", 'no mapping ""'),
        (".", 'no mapping "."'),
        ("a\0b", "no mapping"),
        ("x" * 5000, "no mapping"),
    ],
)
def test_a_mapping_that_is_not_there_is_told_with_what_is(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_mapping(name)


def test_a_file_that_is_no_toml_is_told_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"chat\.toml: not TOML: .*line 1"):
        load_mapping(write(tmp_path, "name = \n"))
    (tmp_path / "chat.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"chat\.toml: cannot be read"):
        load_mapping(str(tmp_path / "chat.toml"))


# A file that extends another ---------------------------------------------------------------------------------------------


def ours(tmp_path: Path, text: str) -> Mapping:
    return load_mapping(write(tmp_path, 'name = "ours"\nextends = "luminoracore-v1.1"\n' + text, "ours.toml"))


def test_a_file_may_rename_a_table_and_a_field_of_a_shipped_mapping(tmp_path: Path) -> None:
    """H50."""
    mapping = ours(
        tmp_path, '[layouts.sqlite.fact]\ncollection = ["bot_facts"]\n[layouts.json.fact.fields]\nvalue = "text"\n'
    )
    assert mapping.layouts["sqlite"].kinds["fact"].collections == ("bot_facts",)
    row = Row("fact", {"user_id": "ana", "category": "c", "key": "k", "value": "v"})
    assert mapping.layouts["json"].write(row)["text"] == "v"
    assert LUMINORACORE.layouts["json"].write(row)["value"] == "v"
    assert mapping.layouts["user_id/SK"].kinds == LUMINORACORE.layouts["user_id/SK"].kinds
    assert mapping.sha256 != LUMINORACORE.sha256


def test_a_file_may_add_a_kind(tmp_path: Path) -> None:
    mapping = ours(
        tmp_path,
        '[kinds.note]\nidentity = ["id"]\nfields = { id = "text" }\n[layouts.json]\nnote = { collection = "notes" }\n',
    )
    assert mapping.kind_names() == (*LUMINORACORE.kind_names(), "note")
    assert "note" in mapping.layouts["json"].kinds and "note" not in mapping.layouts["sqlite"].kinds


def test_a_file_may_take_a_kind_or_a_layout_away(tmp_path: Path) -> None:
    mapping = ours(tmp_path, '[kinds]\nmood = false\n[layouts]\n"PK/SK+index" = false\n[layouts.json]\nfact = false\n')
    assert set(mapping.kind_names()) == set(LUMINORACORE.kind_names()) - {"mood"}
    assert set(mapping.layouts) == set(LUMINORACORE.layouts) - {"PK/SK+index"}
    assert all("mood" not in layout.kinds for layout in mapping.layouts.values())
    assert "fact" not in mapping.layouts["json"].kinds and "fact" in mapping.layouts["sqlite"].kinds


def test_a_file_extends_one_beside_it_that_extends_another(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, 'extends = "luminoracore-v1.1"\nname = "b"\n[kinds]\nmood = false\n', "b.toml")
    path = write(tmp_path / "deep", 'extends = "../b.toml"\nname = "c"\n', "c.toml")
    assert load_mapping(path).name == "c" and "mood" not in load_mapping(path).kinds


@pytest.mark.parametrize("base", ["a.toml", "./a.toml", "b.toml"])
def test_a_circle_is_told(base: str, tmp_path: Path) -> None:
    write(tmp_path, f'extends = "{base}"', "a.toml")
    write(tmp_path, 'extends = "a.toml"', "b.toml")
    with pytest.raises(ConfigError, match=r"extends: .*\.toml → .* goes in a circle"):
        load_mapping(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('extends = "none.toml"', r"ours\.toml: extends: no mapping .*none\.toml"),
        ('extends = "luminoracore-v1.0x"', r"ours\.toml: extends: no mapping"),
        ("extends = 5", r"ours\.toml: extends: the name of a mapping in quotes is wanted"),
        ('extends = "luminoracore-v1.1"\nkinds = 5', r"ours\.toml: kinds: a table is wanted"),
        ('extends = "luminoracore-v1.1"\n[kinds]\nmod = false', r"ours\.toml: \[kinds\.mod\]: a table is wanted"),
    ],
)
def test_what_cannot_be_extended_is_told_with_the_file_that_asks(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_mapping(write(tmp_path, line, "ours.toml"))


# Recognising -----------------------------------------------------------------------------------------------------------

FACTS = {"facts": ("id", *(each.name for each in LUMINORACORE.kinds["fact"].fields), "note")}
FACT = {"user_id": "ana", "SK": "FACT#c#k", "category": "c", "key": "k"}
GHOST = {"user_id": "ana", "SK": "SESSION#s", "last_activity": "2026", "updated_at": "2026"}
GSI1 = ("GSI1", "GSI1PK", "GSI1SK")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (Shape("sql", "chat.db", FACTS), "sqlite"),
        (Shape("sql", "chat.db", {"other": ("a",), "user_facts": FACTS["facts"]}), "sqlite"),
        (Shape("json", "chat.json", {"facts": (), "moods": ()}), "json"),
        (Shape("json", "chat.json", {"facts": (), "x": ()}), "json"),
        (Shape("jsonl", "chat.jsonl", {"fact": ()}), "json"),
        (Shape("jsonl", "chat.jsonl", {"letter": (), "fact": ()}), "json"),
        (Shape("dynamodb", "table t", key=("user_id", "SK")), "user_id/SK"),
        (Shape("dynamodb", "table t", key=("user_id", "SK"), sample=({"x": 1}, FACT)), "user_id/SK"),
        (Shape("dynamodb", "table t", key=("user_id", "SK"), sample=(GHOST,)), "user_id/SK"),
        (Shape("dynamodb", "table t", key=("session_id", "SK"), index=GSI1), "session_id/SK+GSI1"),
    ],
)
def test_the_layout_is_told_from_what_a_store_holds(shape: Shape, layout: str) -> None:
    assert LUMINORACORE.layout_for(shape.store, shape).id == layout
    assert recognise(shape, [LUMINORACORE]) is LUMINORACORE


@pytest.mark.parametrize(
    "shape",
    [
        Shape("sql", "chat.db: tables a, b", {"facts": ("id", "text"), "b": ("category",)}),
        Shape("json", "chat.json: names x", {"x": ()}),
        Shape("json", "chat.json: no array", sample=({"facts": {"a": 1}},)),
        Shape("json", "chat.json: empty", {}),
        Shape("jsonl", "chat.jsonl: names facts", {"facts": ()}),
        Shape("dynamodb", "table t: who/when", key=("who", "when")),
        Shape("dynamodb", "table t: who/when", key=("who", "when"), index=GSI1),
        Shape("dynamodb", "table t: of others", key=("who", "when"), sample=({"who": "a", "when": "b"},)),
        Shape("dynamodb", "table t: of others", key=("user_id", "SK"), sample=({"user_id": "a", "SK": "b"},)),
    ],
)
def test_what_no_layout_fits_is_told_with_what_was_found_and_what_would_fit(shape: Shape) -> None:
    with pytest.raises(ConfigError) as caught:
        LUMINORACORE.layout_for(shape.store, shape)
    assert str(caught.value).startswith(f"{shape.words}: no layout of the mapping luminoracore-v1.1 fits")
    assert "; it has " in str(caught.value) and "--mapping" in str(caught.value)
    with pytest.raises(ConfigError, match=r"no mapping fits: luminoracore-v1\.1.*\. Name one with --mapping"):
        recognise(shape, [LUMINORACORE])


def test_a_table_of_another_schema_under_the_same_name_is_told_by_the_column_it_lacks() -> None:
    """H7, B11: a v1.0 table of sessions is no v1.1 one."""
    blobs = Shape("sql", "chat.db", {"sessions": ("session_id", "session_data", "created_at", "updated_at")})
    with pytest.raises(ConfigError, match=r"fits \(sessions has no column last_activity\)"):
        LUMINORACORE.layout_for("sql", blobs)
    with pytest.raises(ConfigError, match=r"luminoracore-v1\.1 \(sessions has no column last_activity\)"):
        recognise(blobs, [LUMINORACORE])


def test_a_table_is_looked_for_in_the_order_of_luminoracore() -> None:
    """H8."""
    both = Shape("sql", "chat.db", {"user_facts": FACTS["facts"]} | FACTS)
    found = LUMINORACORE.layout_for("sql", both).kinds
    assert found["fact"].collections == ("facts",)
    assert found["mood"].collections[0] == "moods"
    half = Shape("sql", "chat.db", {"facts": ("id", "text"), "user_facts": FACTS["facts"]})
    assert LUMINORACORE.layout_for("sql", half).kinds["fact"].collections == ("user_facts",)


def test_two_mappings_that_fit_are_both_named_with_the_way_to_choose(tmp_path: Path) -> None:
    other = ours(tmp_path, "")
    with pytest.raises(
        ConfigError, match=r"chat\.db: two mappings fit, luminoracore-v1\.1 and ours; choose with --mapping"
    ):
        recognise(Shape("sql", "chat.db", FACTS), [LUMINORACORE, other])


def test_two_layouts_that_fit_are_both_named(tmp_path: Path) -> None:
    chat = load_mapping(write(tmp_path, edited(('key = ["channel", "SK"]\n', ""))))
    with pytest.raises(ConfigError, match=r"table t: two layouts of chat fit, table and other; .*--mapping FILE"):
        chat.layout_for("dynamodb", Shape("dynamodb", "table t", key=("PK", "SK"), index=GSI1))


def test_a_table_shape_that_is_not_there_is_told_with_what_is() -> None:
    for wrong in ("sqlite", "user_id/SK+", "a/b/c"):
        with pytest.raises(
            ConfigError, match=f'no table shape "{re.escape(wrong)}" .*: there is user_id/SK, user_id/SK\\+GSI1'
        ):
            LUMINORACORE.layout_for("dynamodb", None, wrong)


def test_a_mapping_without_a_layout_for_a_store_says_so(tmp_path: Path) -> None:
    mapping = ours(tmp_path, "[layouts]\njson = false\n")
    with pytest.raises(ConfigError, match="the mapping ours has no layout for jsonl stores"):
        mapping.layout_for("jsonl", None)
    with pytest.raises(ConfigError, match="it has none for json stores"):
        mapping.layout_for("json", Shape("json", "chat.json", {"facts": ()}))


# Whatever loads can be used ----------------------------------------------------------------------------------------------

TYPES = ("text", "integer", "float", "timestamp", "json", "boolean")
NAMES = ["a", "b", "c", "d"]
ATOMS = st.sampled_from(["", "a", "a#", "#b", "K#", "_", "2026-11-22T09:15:18", "2026-11-22"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=3
)
NUMBERS = st.integers(-3, 10**20) | st.decimals(-9, 9, places=2).map(of_decimal)
ANY = st.none() | st.booleans() | NUMBERS | ATOMS | st.binary(max_size=2) | st.lists(st.integers(0, 2), max_size=2)
VALUES: dict[str, Any] = {"text": ATOMS, "timestamp": ATOMS, "boolean": st.booleans(), "json": ANY}


FORMS = {
    "text": ["text", "json", "number"],
    "integer": ["text", "json", "number"],
    "float": ["text", "json", "number"],
    "timestamp": ["text", "json", "date"],
    "boolean": ["text", "json", "number"],
    "json": ["json"],
}


@st.composite
def ranges(draw: st.DrawFn, head: str, identity: list[str]) -> list[str]:
    """Templates of a range key, that cover the identity or do not."""
    names = identity + draw(st.lists(st.sampled_from([*identity, "digest", f"{identity[0]}:stamp"]), max_size=2))
    names = draw(st.permutations(names)) if draw(st.booleans()) else names
    first = head + draw(st.sampled_from(["#", "#", "_", "::"])).join(f"{{{name}}}" for name in names)
    first += draw(st.sampled_from(["", "", "#end"]))
    return [first, *draw(st.sampled_from([[], [head + "{digest}"], [head + "~{digest}_"]]))]


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """TOML of a mapping with two kinds in three stores; most of them load."""
    text = 'name = "generated"\n'
    index = draw(st.booleans())
    for store in ("sql", "json", "dynamodb"):
        text += f'[layouts.{store}]\nstore = "{store}"\n'
    text += 'key = ["PK", "SK"]\n' + ('index = ["G", "GP", "GS"]\n' if index else "")
    for kind, head in [("one", "K#"), ("two", "L#")]:
        names = draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]
        identity = names[: draw(st.integers(1, len(names)))]
        types = {name: draw(st.sampled_from(TYPES)) for name in names}
        text += f"[kinds.{kind}]\nidentity = {json.dumps(identity)}\n[kinds.{kind}.fields]\n"
        text += "".join(f'{name} = "{field_type}"\n' for name, field_type in types.items())
        hashed = f"{{{identity[0]}}}"
        for store in ("sql", "json", "dynamodb"):
            places = ""
            for name, field_type in types.items():
                told = store == "dynamodb" and name == identity[0]  # by an attribute that the other kind has not
                if told or draw(st.integers(0, 2)) == 0:
                    form = draw(st.sampled_from(["native", *FORMS[field_type]]))
                    attribute = f"{kind}_{name}" if told else draw(st.sampled_from([name, f"{kind}_{name}"]))
                    old = draw(
                        st.sampled_from(["", f', otherwise = "old_{name}"', ', otherwise = "PK"', ', otherwise = "a"'])
                    )
                    places += f'{name} = {{ attribute = "{attribute}", as = "{form}"{old} }}\n'
            text += f'[layouts.{store}.{kind}]\ncollection = "{kind}s"\n'
            if store == "dynamodb":
                text += f"key = {json.dumps([hashed, draw(ranges(head, identity))])}\n"
                text += (
                    f'marks = ["{kind}_{identity[0]}"]\nextra = {json.dumps(draw(st.sampled_from([[], ["TTL"]])))}\n'
                )
                text += f"index = {json.dumps(['U#' + hashed, draw(ranges('', identity))])}\n" if index else ""
            text += f"[layouts.{store}.{kind}.fields]\n{places}" if places else ""
    return text


def record_of(draw: Any, kind: Kind) -> Record:
    """Of ten fields one is NULL and one is absent."""
    choices = [(each, draw(st.integers(0, 9))) for each in kind.fields]
    return {
        each.name: draw(VALUES.get(each.type, NUMBERS)) if choice else None for each, choice in choices if choice < 9
    }


def used(layout: Layout, kind: Kind, record: Record) -> Record | None:
    """The item that holds a record, read again and found equal; None if the record was refused."""
    try:
        row = layout.fit(Row(kind.name, record))
        held = layout.write(row)
    except RecordError:
        return None
    back = layout.read(held, "place", None if layout.store == "dynamodb" else kind.name)
    assert isinstance(back, Row), back
    found, wanted = back.record, row.record
    if layout.absent_is_null:
        found, wanted = ({k: v for k, v in each.items() if v is not None} for each in (found, wanted))
    if not any(place.form == "date" for place in layout.kinds[kind.name].places):  # a date spells its time in one way
        assert (back.kind, canonical(found)) == (kind.name, canonical(wanted))
    assert layout.write(back) == held
    return held


@settings(max_examples=150)
@given(body=bodies(), data=st.data())
def test_a_mapping_that_loads_refuses_single_records_at_most(body: str, data: st.DataObject) -> None:
    """And keeps distinct identities apart, whatever its templates say (H2)."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mapping = load_mapping(write(Path(folder), body))
        except ConfigError:
            reject()
    taken: dict[tuple[Any, Any], tuple[str, bytes]] = {}
    for _ in range(6):
        kind = mapping.kinds[data.draw(st.sampled_from(mapping.kind_names()))]
        record = record_of(data.draw, kind)
        for layout in mapping.layouts.values():
            held = used(layout, kind, record) if kind.name in layout.kinds else None
            if held is not None and layout.store == "dynamodb":
                identity = kind.name, canonical(list(kind.identity_of(record)))
                assert taken.setdefault((held["PK"], held["SK"]), identity) == identity


# Tables under other names ------------------------------------------------------------------------------------------------

FIVE = {"affinity", "fact", "episode", "mood", "memory"}


@pytest.mark.parametrize(
    ("words", "now", "later"),
    [
        ("user_id/SK", {"session"}, {"session"}),
        ("user_id/data_type+GSI1", {"session"}, {"session"}),
        ("user_id/SK+ix(session_id/created_at)", {"episode", "mood", "session"}, {"episode", "mood", "session"}),
        ("session_id/SK", set(), FIVE),
        ("session_id/timestamp", set(), FIVE),
        ("session_id/SK+GSI1", set(), {"affinity", "fact", "memory"}),
        ("session_id/SK+ix(user_id/created_at)", {"episode", "mood"}, FIVE),
        ("session_id/SK+ix(user_id/updated_at)", {"episode", "mood"}, FIVE),
        ("PK/SK", set(), {"fact", "episode", "mood", "session"}),
        ("partition_key/sort_key", set(), {"fact", "episode", "mood", "session"}),
        ("PK/SK+GSI1", set(), {"fact", "session"}),
        ("PK/SK+ix(gsi1pk/gsi1sk)", set(), {"fact", "session"}),
        ("pk/sk", {"session"}, {"session"}),
        ("id/SK", {"session"}, {"session"}),
        ("pk/sk+ix(gsi_pk/gsi_sk)", {"session"}, {"episode", "mood", "session"}),
    ],
)
def test_what_luminoracore_does_not_find_is_known_for_every_shape(words: str, now: set[str], later: set[str]) -> None:
    """The tables of fact sheet 4.3, each for what we write there, and for what LuminoraCore saves itself with a session id (L1-L4)."""
    layout = LUMINORACORE.layout_for("dynamodb", shape_of(words))
    assert (layout.id, layout.key) == (words, tuple(words.partition("+")[0].split("/")))
    assert tuple(map(set, reading(layout, LUMINORACORE.kind_names()))) == (now, later)
    assert words_of(layout.key, layout.index) == words
    assert layout.problem == ""


def test_a_key_attribute_that_is_a_field_is_read_and_never_written() -> None:
    """DGUIDE's id/created_at: the creation time lies in the range key, and two records of one moment on one key (fact sheet 2.10)."""
    item = FACT | {"id": "ana", "created_at": "2025-01-01T00:00:00"}
    layout = LUMINORACORE.layout_for("dynamodb", Shape("dynamodb", "t", key=("id", "created_at"), sample=(item,)))
    found = layout.read(item, "")
    assert isinstance(found, Row)
    assert (found.record["created_at"], layout.write(found)) == ("2025-01-01T00:00:00", item)
    assert "created_at is a field" in layout.problem
    with pytest.raises(ConfigError, match="no layout"):
        LUMINORACORE.layout_for("dynamodb", Shape("dynamodb", "t", key=("id", "created_at")))


def test_an_index_that_lies_over_fields_is_read_through() -> None:
    """H49: in a session the index's values win over user_id and created_at; what comes back to such a table is what was there."""
    layout = LUMINORACORE.layout_for("dynamodb", shape_of("session_id/SK+ix(user_id/created_at)"))
    item = {
        "session_id": "s1", "SK": "SESSION#s1", "user_id": "USER#ana", "created_at": "SESSION#s1", "personality_name": "p",
        "last_activity": "2025-01-01T00:00:00", "updated_at": "2025-01-01T00:00:00", "TTL": 1,
    }  # fmt: skip
    found = layout.read(item, "")
    assert isinstance(found, Row)
    assert found.record["user_id"] == "ana" and "created_at" not in found.record
    assert layout.write(layout.fit(found)) == item
    fact = layout.read(FACT | {"session_id": "USER#x", "SK": "FACT#c#k", "user_id": "USER#x"}, "")
    assert isinstance(fact, Row) and fact.record["user_id"] == "USER#x"


def test_of_two_forms_the_one_that_names_the_hash_is_meant() -> None:
    for key, names in {("session_id", "foo"): "session_id", ("PK", "foo"): "PK", ("foo", "SK"): "foo"}.items():
        layout = LUMINORACORE.layout_for("dynamodb", Shape("dynamodb", "t", key=key, sample=(FACT,)))
        assert layout.id == "/".join(key)
        assert layout.several_keys == (names != "foo")
