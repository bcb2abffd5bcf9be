"""Finds mappings, shipped ones and files of a user's own, and tells which one fits what a store holds.

Knows where mappings lie and how a file extends another, table by table; leaves what the tables mean to `mapping_check`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from migrator.errors import ConfigError
from migrator.mapping import Mapping
from migrator.mapping_check import Checker, merged
from migrator.model import Shape


def shipped() -> list[str]:
    """The names of the mappings that come with migrator."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in files("migrator.mappings").iterdir()
        if entry.name.endswith(".toml")
    )


def load_mapping(name_or_path: str) -> Mapping:
    """The mapping of that name, or in that file. Raises ConfigError with file, table and reason."""
    return _shipped(name_or_path) if name_or_path in shipped() else _loaded(name_or_path)


def _loaded(name_or_path: str) -> Mapping:
    data, path = _read(name_or_path)
    return Checker(path).mapping(_extended(data, path, ()))


@cache
def _shipped(name: str) -> Mapping:
    """What a run asks for several times and never changes is read once."""
    return _loaded(name)


def recognise(shape: Shape, mappings: Iterable[Mapping] | None = None) -> Mapping:
    """The one mapping (of the shipped ones) that fits what a source holds. Raises ConfigError naming them if two do, or none."""
    known = list(mappings) if mappings is not None else [load_mapping(name) for name in shipped()]
    fitting = [mapping for mapping in known if mapping.fits(shape)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(mapping.name for mapping in fitting)
        raise ConfigError(f"{shape.words}: two mappings fit, {names}; choose with --mapping NAME")
    names = ", ".join(f"{mapping.name}{mapping.misses(shape)}" for mapping in known)
    raise ConfigError(
        f"{shape.words}: no mapping fits: {names}. Name one with --mapping, or write your own: see mappings/README.md"
    )


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    if name_or_path in shipped():
        entry = files("migrator.mappings").joinpath(f"{name_or_path}.toml")
        path, text = entry.name, entry.read_text("utf-8")
    else:
        file = Path(name_or_path)
        if not _is_file(file):
            near = difflib.get_close_matches(name_or_path, shipped(), 1)
            hint = f'did you mean "{near[0]}"?' if near else f"shipped mappings: {', '.join(shipped())}"
            raise ConfigError(
                f'no mapping "{name_or_path}": it is neither a file nor the name of a shipped mapping; {hint}'
            )
        path = str(file)
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"{path}: cannot be read: {exc}; name a file in TOML that you may read, or see `migrator mappings list`"
            ) from exc
    try:
        return tomllib.loads(text), path
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: {exc}; mend the file there") from exc


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _extended(data: dict[str, Any], path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    base = data.get("extends")
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: the name of a mapping in quotes is wanted")
    if base not in shipped():
        base = str((Path(path).parent / base).resolve())
    if base in seen:
        raise ConfigError(f"{path}: extends: {' → '.join([*seen, base])} goes in a circle; take one `extends` out")
    try:
        parent, parent_path = _read(base)
    except ConfigError as exc:
        raise ConfigError(f"{path}: extends: {exc}") from exc
    whole = merged(_without(_extended(parent, parent_path, (*seen, base)), data), data)
    whole.pop("extends")
    return whole


def _without(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base`, whose layouts no longer know the kinds that `over` takes away."""
    kinds, layouts = over.get("kinds"), base.get("layouts")
    gone = {name for name, body in kinds.items() if body is False} if isinstance(kinds, dict) else set()
    if not gone or not isinstance(layouts, dict):
        return base
    return base | {"layouts": {name: _freed(body, gone) for name, body in layouts.items()}}


def _freed(body: Any, gone: set[str]) -> Any:
    """A table, and the tables in it by kind, without the kinds that are gone."""
    if not isinstance(body, dict):
        return body
    left = {name: spec for name, spec in body.items() if name not in gone}
    return left | {name: _freed(left[name], gone) for name in ("unread", "unread_later") if name in left}
