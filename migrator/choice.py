"""Which records of the source are asked for, and which of two is the newer: `--user`, `--since`, `--existing newer`.

Plain data that pickles; knows kinds, records and the zones in which a store's naive times are meant. Leaves reading to others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from migrator.errors import ConfigError
from migrator.model import Kind, Record
from migrator.values import Value

LOCAL = "local"
"""As a zone: that of this machine."""


@dataclass(frozen=True)
class User:
    """How a mapping tells whose a record is: the field with the user's id, the one with ids of sessions (or none), and the ids of everybody."""

    field: str
    session: str
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What is asked for. `ids`: the user and the user's sessions; empty for everybody. `since`: the moment behind which records are asked for.

    Zones are IANA names, `local`, or empty where nobody has said one: times without an offset cannot be compared then.
    """

    source_zone: str = ""
    sink_zone: str = ""
    since: datetime | None = None
    person: str = ""
    user: User | None = None
    ids: tuple[str, ...] = field(default=())

    @property
    def is_partial(self) -> bool:
        """Whether records of some people or times only are asked for."""
        return self.since is not None or bool(self.ids)

    def asks_for(self, kind: Kind, record: Record) -> bool:
        """Whether a record of the source is asked for. One whose time cannot be told is."""
        if self.since is not None:
            at = moment(record.get(kind.newest), self.source_zone) if kind.newest else None
            if at is not None and at < self.since:
                return False
        return not self.ids or self._is_theirs(kind, record)

    def _is_theirs(self, kind: Kind, record: Record) -> bool:
        assert self.user is not None
        owner = record.get(self.user.field)
        if owner in self.ids:
            return True
        if owner not in self.user.shared:
            return False
        name = re.compile(rf"(?:^|_){re.escape(self.person)}(?:_|$)")
        return any(isinstance(part, str) and name.search(part) for part in kind.identity_of(record))

    def owner_of(self, record: Record) -> str:
        """The user a record names; empty where it names none."""
        assert self.user is not None
        owner = record.get(self.user.field)
        return owner if isinstance(owner, str) else ""

    def sessions_of(self, record: Record) -> set[str]:
        """The ids under which a record says that this person's records lie."""
        assert self.user is not None
        session = record.get(self.user.session)
        return {session} if record.get(self.user.field) == self.person and isinstance(session, str) else set()

    def is_newer(self, kind: Kind, ours: Record, theirs: Record) -> bool:
        """Whether the source's record is newer than the sink's. What has no time of its own is never newer than what has one."""
        if kind.newest is None:
            return False
        here, there = moment(ours.get(kind.newest), self.source_zone), moment(theirs.get(kind.newest), self.sink_zone)
        return here is not None and (there is None or here > there)


EVERYTHING = Choice()


def moment(value: Value, zone: str) -> datetime | None:
    """The moment that a stored time stands for; None if it is none, or names no offset and nobody has said its zone."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            if not zone:
                return None
            at = at.astimezone() if zone == LOCAL else at.replace(tzinfo=zone_of(zone))
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def zone_of(name: str) -> tzinfo | None:
    """The zone of that name, None for this machine's own. Raises ConfigError if there is none."""
    if name == LOCAL:
        return None
    try:
        from zoneinfo import ZoneInfo

        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as exc:  # a ZoneInfoNotFoundError is a KeyError
        raise ConfigError(
            f'tz: there is no zone "{name}"; zones look like Europe/Madrid or UTC, or local for this machine\'s own'
        ) from exc
