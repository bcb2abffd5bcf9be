"""Key templates: how the key and index attributes of a record are made of its fields, and distinct identities kept apart.

Knows what separates the components of a key, stamps and digests. Leaves to `mapping_check` how a template is written, and whether it suits its
kind; to `layout` when a key is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

from migrator.errors import RecordError
from migrator.model import Kind, Record, identity_key
from migrator.values import Value, short_digest


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a key template: a field's value, its `stamp` (`%Y%m%d_%H%M%S`, fact sheet 2.0) or the identity's digest."""

    name: str
    form: Literal["value", "stamp", "digest"] = "value"


@dataclass(frozen=True)
class Template:
    """Text with slots, that makes one key or index attribute of a record.

    Distinct identities give distinct keys: a separator is refused in every component but the last, unless the
    identity's digest is in the template.
    """

    text: str
    parts: tuple[str | Slot, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(part for part in self.parts if isinstance(part, Slot))

    @cached_property
    def of_texts(self) -> tuple[str, tuple[tuple[str, str], ...]] | None:
        """How it is made of values that are texts: the format, and of each slot its field and the separator that it may not hold."""
        if any(slot.form != "value" for slot in self.slots):
            return None
        behind = [part[:1] if isinstance(part, str) else "" for part in (*self.parts[1:], "")]
        slots = [(part.name, mark) for part, mark in zip(self.parts, behind, strict=True) if isinstance(part, Slot)]
        slots[-1:] = [(name, "") for name, _ in slots[-1:]]
        return "".join(p.replace("%", "%%") if isinstance(p, str) else "%s" for p in self.parts), tuple(slots)

    @property
    def head(self) -> str:
        """The literal text that every key of this template starts with."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    @cached_property
    def is_digested(self) -> bool:
        return any(slot.form == "digest" for slot in self.slots)

    def render(self, kind: Kind, record: Record) -> str:
        """Raises RecordError, naming the field, where a component is missing or holds the separator behind it."""
        if self.of_texts is not None:
            form, slots = self.of_texts
            texts = [record.get(name) for name, _ in slots]
            for text, (_, mark) in zip(texts, slots):
                if type(text) is not str or (mark and mark in text):
                    break
            else:
                return form % tuple(texts)
        last = self.slots[-1] if self.slots else None
        out: list[str] = []
        for index, part in enumerate(self.parts):
            if isinstance(part, str):
                out.append(part)
                continue
            if part.form == "digest":
                out.append(_digest(kind, record))
                continue
            value = record.get(part.name)
            text = _stamp(part.name, value) if part.form == "stamp" else _component(part.name, value)
            follows = self.parts[index + 1] if index + 1 < len(self.parts) else ""
            if (
                part is not last
                and not self.is_digested
                and isinstance(follows, str)
                and follows
                and follows[0] in text
            ):
                raise RecordError(
                    f'{part.name} holds "{follows[0]}", the separator of the key {self.text}: '
                    "two identities could meet on one key"
                )
            out.append(text)
        return "".join(out)

    def fill(self, values: Record) -> str:
        """The text for these values, whatever they hold: as the application asks, which looks out for no separator."""
        return "".join(part if isinstance(part, str) else str(values.get(part.name)) for part in self.parts)


def _component(name: str, value: Value) -> str:
    if value is None:
        raise RecordError(f"{name} is NULL, and the key is made of it")
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RecordError(f"{name} is neither text nor an integer, and the key is made of it")


def _digest(kind: Kind, record: Record) -> str:
    try:
        return short_digest(identity_key(kind.name, kind.identity_of(record)))
    except ValueError as exc:
        raise RecordError(f"a field of its identity {exc}") from exc


def _stamp(name: str, value: Value) -> str:
    try:
        return datetime.fromisoformat(value).strftime("%Y%m%d_%H%M%S")
    except (TypeError, ValueError) as exc:
        raise RecordError(f"{name} is no ISO time, and the key is made of it") from exc


@dataclass(frozen=True, slots=True)
class Key:
    """One attribute of the store's key or index, with the templates that make it: the first that can be rendered counts."""

    attribute: str
    templates: tuple[Template, ...]
    free: Template | None = None  # any value under this prefix is right: the application reads by it
    optional: bool = False  # an index attribute: a record without one is only missing in the index

    def render(self, kind: Kind, record: Record) -> str:
        problem = RecordError(f"no template for {self.attribute}")
        for template in self.templates:
            try:
                return template.render(kind, record)
            except RecordError as exc:
                problem = exc  # the last one asks for the least
        raise problem

    def is_right(self, kind: Kind, record: Record, value: Value) -> bool:
        """Whether a value that differs from what `render` makes is right all the same: it is under the prefix by which the application reads."""
        if self.free is None or not isinstance(value, str):
            return False
        try:
            return value.startswith(self.free.render(kind, record))
        except RecordError:
            return False
