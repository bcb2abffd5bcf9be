"""What `migrator inspect` says of a store to a person. Text that comes from data is shown harmless. Leaves the looking to `inspection`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from migrator.inspection import Inspection, Named
from migrator.model import counted
from migrator.screen import bars, columns, echo, harmless, labelled, n, size, some, table
from migrator.values import Value, to_json


def show(found: Inspection) -> None:
    """All of it but the last line."""
    lines = [*_head(found)]
    width = max(len(label) for label, _ in lines)
    for label, words in lines:
        labelled(label, harmless(words), width)
    if found.kinds:
        echo()
        echo(
            table(
                ["kind", "records", "unreadable", "mean", "largest", "expired", "oldest", "newest"],
                _rows(found),
                text=(0, 6, 7),
            )
        )
        _sizes(found)
    _forms(found)
    _users(found)
    for title, name in (
        ("near a limit of DynamoDB, or over it", "near"),
        ("LuminoraCore does not find", "unfound_why"),
    ):
        _named(title, name, found)
    _secrets(found)
    _samples(found)
    rest = list(_rest(found))
    if rest:
        echo()
    for words in rest:
        echo(words)


def summary(found: Inspection) -> str:
    """The last line: how much there is, and what somebody should look at."""
    kinds = [kind for kind in found.kinds.values() if kind.count or kind.rejected]
    if not kinds and not found.foreign and not found.ghosts:
        return "no records"
    parts = [
        (sum(kind.rejected for kind in kinds), "unreadable"),
        (sum(kind.expired for kind in kinds), "expired"),
        (sum(kind.unfound for kind in kinds), "not found by LuminoraCore"),
        (sum(named.count for kind in kinds for named in kind.near.values()), "near a limit"),
        (_secret_count(found), "secrets"),
        (found.ghosts, "ghosts"),
        (found.foreign, "foreign"),
    ]
    total = f"{counted(sum(kind.count for kind in kinds))}, {size(sum(kind.bytes for kind in kinds))}"
    return "; ".join([total, *(f"{n(count)} {words}" for count, words in parts if count)])


def _head(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "store", found.whereabouts
    yield "mapping", found.mapping
    yield "layout", f"{found.layout}: {found.why}"
    if found.named_by:
        yield "told by", f"store by {found.named_by}"
    yield from _reading_lines(found)


def _reading_lines(found: Inspection) -> Iterator[tuple[str, str]]:
    """Of a table: what LuminoraCore finds of what is there, counted, and of what it will write."""
    if not found.has_keys:
        return
    parts = [
        name if not kind.unfound else f"{name} {n(kind.count - kind.unfound)} of {n(kind.count)}"
        for name, kind in found.kinds.items()
        if kind.count
    ]
    yield "readable now", ", ".join(parts) or "nothing"
    reasons: dict[str, list[str]] = {}
    for name, why in found.unread_later.items():
        reasons.setdefault(why, []).append(name)
    words = [
        "all" if not reasons else "all others",
        *(f"not {', '.join(names)}: {why}" for why, names in reasons.items()),
    ]
    yield "after its next write", "; ".join(words)


def _rows(found: Inspection) -> list[list[str]]:
    return [
        [
            name,
            n(kind.count),
            n(kind.rejected),
            size(kind.bytes // kind.count if kind.count else 0),
            size(kind.largest),
            n(kind.expired),
            kind.oldest or "",
            kind.newest or "",
        ]
        for name, kind in found.kinds.items()
    ]


def _sizes(found: Inspection) -> None:
    """One line a kind, one bar a power of two, the same for all kinds."""
    powers = [int(each).bit_length() for kind in found.kinds.values() for each in kind.sizes]
    if not powers:
        return
    first, last = min(powers), max(powers)
    rows = [
        [name, bars([kind.sizes.get(str(1 << power - 1), 0) for power in range(first, last + 1)])]
        for name, kind in found.kinds.items()
        if kind.count
    ]
    echo()
    echo(f"sizes as JSON, from {size(1 << first - 1)} to {size(1 << last)}, a bar for each doubling")
    for name, drawn in rows:
        echo(f"{name:<{max(len(name) for name, _ in rows)}}  {drawn}".rstrip())


def _forms(found: Inspection) -> None:
    lines = [(form, name, n(count)) for name, kind in found.kinds.items() for form, count in sorted(kind.forms.items())]
    if lines:
        echo()
    for form, name, count in lines:
        echo(f"{count} {name} {_FORMS[form]}: too large for one item; no application reads it there, only migrator")


_FORMS = {"compressed": "compressed", "split": "in parts"}


def _users(found: Inspection) -> None:
    users = found.users
    if users is None or not users.count:
        return
    echo()
    most = f", the {n(len(users.heaviest))} with the most bytes" if users.count > len(users.heaviest) else ""
    echo(f"{counted(users.count, 'user')}, by the ids under which records lie{most}")
    width = min(max(len(harmless(each["user"])) for each in users.heaviest), max(12, columns(sys.stdout) - 28))
    for each in users.heaviest:
        echo(f"  {harmless(each['user']):<{width}}  {counted(each['records'])}, {size(each['bytes'])}", hang=4)
    if users.over_a_page:
        echo(
            f"{counted(users.over_a_page, 'user')} with more than 1 MB as items of a table: LuminoraCore lists one page of each (H27)"
        )


def _named(title: str, name: str, found: Inspection) -> None:
    findings: list[tuple[str, str, Named]] = [
        (kind, words, named) for kind, held in found.kinds.items() for words, named in getattr(held, name).items()
    ]
    if not findings:
        return
    echo()
    echo(f"{title}, in a table of the shape {found.measured_as}" if name == "near" else title)
    for kind, words, named in findings:
        echo(f"  {n(named.count)} {kind}: {harmless(words)}")
        for each in named.some:
            echo(f"    {harmless(each)}", hang=6)
        if named.count > len(named.some):
            echo(f"    … and {n(named.count - len(named.some))} more")


def _secrets(found: Inspection) -> None:
    places = [(name, kind.secrets) for name, kind in found.kinds.items()]
    places.append(("foreign", found.foreign_secrets))
    if not _secret_count(found):
        return
    echo()
    echo("what looks like a secret (a migration takes it along: change it, or clean the source first)")
    for name, secrets in places:
        for place, count in secrets.items():
            echo(f"  {n(count)} {name}: {harmless(place)}")


def _secret_count(found: Inspection) -> int:
    return sum(sum(kind.secrets.values()) for kind in found.kinds.values()) + sum(found.foreign_secrets.values())


def _samples(found: Inspection) -> None:
    for name, kind in found.kinds.items():
        if kind.sample:
            echo()
            echo(f"{name}, {n(len(kind.sample))} of {n(kind.count)}")
        for each in kind.sample:
            echo(f"  {harmless(each['identity'])}", hang=4)
            for field, value in each.get("fields", {}).items():
                echo(f"    {harmless(field)}: {_value(value)}", hang=6)


def _value(value: Value) -> str:
    return harmless(json.dumps(value, ensure_ascii=False) if isinstance(value, str) else to_json(value).decode())


def _rest(found: Inspection) -> Iterator[str]:
    if found.ghosts:
        yield f"{n(found.ghosts)} ghosts: items that LuminoraCore leaves by mistake (L5), or parts of a record that is not there"
    if found.foreign:
        yield f"{n(found.foreign)} foreign items, which no kind of the mapping describes: {some(found.foreign_seen)}"
    if found.unread_tables:
        yield f"tables that no layout names: {some(found.unread_tables)}"
    for reject in found.rejects:
        yield f"unreadable: {harmless(reject)}"
