"""Each command needs the permissions that the README lists for it, all of them and no other."""

from __future__ import annotations

import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import migrator
import proxy
from migrator import Options, commands
from tables import client_of

DATA = Path(__file__).parent / "data"
README = Path(__file__).parent.parent / "README.md"


def listed() -> dict[str, set[str]]:
    """The table of the README: by command its actions, without the service's name."""
    rows = re.findall(r"^\| `([^|]*)` \| (`dynamodb:[^|]*) \|$", README.read_text("utf-8"), re.M)
    return {command: set(re.findall(r"dynamodb:(\w+)", actions)) for command, actions in rows}


@pytest.fixture
def between(dynamodb_local_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[proxy.Proxy]:
    """AWS's DynamoDB Local behind a door that lets only some actions pass."""
    monkeypatch.setenv("MIGRATOR_STATE", str(tmp_path / "state"))
    with proxy.before(dynamodb_local_endpoint) as running:
        yield running


class Place:
    """A table behind the door, a chat in a file, and the ways to bring one to the other."""

    def __init__(self, between: proxy.Proxy, folder: Path) -> None:
        self.between, self.folder = between, folder
        self.name = f"permissions-{uuid.uuid4().hex[:12]}"
        self.address = f"dynamodb://{self.name}?region=eu-west-1&endpoint={between.endpoint}"
        self.file = folder / "chat.db"
        shutil.copy(DATA / "chat.db", self.file)

    def filled(self) -> None:
        migrator.migrate(self.file, self.address, Options(create=True))

    def changed(self) -> None:
        with closing(sqlite3.connect(self.file)) as db, db:
            db.execute("UPDATE facts SET value = 'another', updated_at = '2027-01-01T00:00:00' WHERE id % 50 = 0")

    def odd(self) -> None:
        """A fact under two keys, and a line that carries a time-to-live."""
        client = client_of(self.between.endpoint)
        item = next(each for each in client.scan(TableName=self.name)["Items"] if each["SK"]["S"].startswith("FACT#"))
        client.put_item(
            TableName=self.name, Item=item | {"SK": {"S": item["SK"]["S"] + "_old"}, "TTL": {"N": "4102444800"}}
        )


def _into(place: Place) -> None:
    migrator.migrate(place.file, place.address)
    place.changed()
    assert migrator.migrate(place.file, place.address).outcome == "differences"
    assert migrator.migrate(place.file, place.address, Options(existing="replace")).outcome == "done"
    lines = place.folder / "ttl.jsonl"
    lines.write_text(
        '{"kind": "fact", "record": {"user_id": "ana", "category": "c", "key": "k", "value": "v", "confidence": 1, "created_at": "2026-01-01", "updated_at": "2026-01-01"},'
        ' "origin": {"store": "dynamodb", "layout": "user_id/SK", "extra": {"TTL": 4102444800}}}\n'
    )
    assert migrator.migrate(lines, place.address, Options()).outcome == "done"


def _made(place: Place) -> None:
    commands.init(place.address).make()


def _from(place: Place) -> None:
    assert migrator.migrate(place.address, place.folder / "back.jsonl").outcome == "done"
    assert migrator.migrate(place.address, place.folder / "back.db").outcome == "done"


def _verified(place: Place) -> None:
    place.changed()
    assert migrator.verify(place.file, place.address).outcome == "differences"
    assert migrator.migrate(place.file, place.address, Options(dry_run=True)).outcome == "differences"


def _as_the_application(place: Place) -> None:
    assert migrator.verify(place.file, place.address, Options(proof="app")).outcome == "done"


def _inspected(place: Place) -> None:
    assert sum(kind.count for kind in migrator.inspect(place.address).kinds.values()) > 0


def _examined(place: Place) -> None:
    assert all(each.verdict != "fault" for each in commands.doctor(place.address).diagnoses[0].findings)


def _probed(place: Place) -> None:
    assert all(each.verdict != "fault" for each in commands.doctor(place.address, probe=True).diagnoses[0].findings)


COMMANDS: list[tuple[str, Callable[[Place], None], Callable[[Place], None]]] = [
    ("migrate TABLE FILE", lambda place: (place.filled(), place.odd())[0], _from),
    ("migrate FILE TABLE", lambda place: _made(place), _into),
    ("init TABLE", lambda place: None, _made),
    ("verify FILE TABLE", Place.filled, _verified),
    ("verify --proof app", Place.filled, _as_the_application),
    ("inspect TABLE", Place.filled, _inspected),
    ("doctor TABLE", Place.filled, _examined),
    ("doctor TABLE --probe", Place.filled, _probed),
]


@pytest.mark.parametrize(("command", "before", "run"), COMMANDS, ids=[each[0] for each in COMMANDS])
def test_a_command_needs_what_the_readme_lists_and_nothing_else(
    command: str, before: Callable[[Place], None], run: Callable[[Place], None], between: proxy.Proxy, tmp_path: Path
) -> None:
    place = Place(between, tmp_path)
    before(place)
    between.operations.clear()
    between.asked.clear()
    between.allowed = listed()[command]
    try:
        run(place)
    finally:
        between.allowed = None
    assert not [name for name in between.operations if name.startswith("refused")]
    assert between.asked == listed()[command]


def test_the_readme_lists_every_command() -> None:
    assert listed().keys() == {command for command, _, _ in COMMANDS}
