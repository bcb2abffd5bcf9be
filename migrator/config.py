"""From what a person writes to where a store is: the one door, `resolve`.

Knows the order in which a text is understood: a URL or a path, a name of the settings file, a bare word that LuminoraCore's own
configuration explains. LuminoraCore's built-in guesses are never used: what nobody configured is asked for, with the candidates listed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.addresses import (
    SPELLINGS,
    WORDS,
    file_at,
    in_zone,
    is_written_out,
    no_address,
    parse,
    refuse_control,
    refuse_later,
    scheme_by_suffix,
    table_at,
)
from migrator.errors import ConfigError
from migrator.model import Address
from migrator.settings import NamedStore, Settings, load_settings, with_variables

if TYPE_CHECKING:
    from migrator.luminoracore import Told


def resolve(text: str, environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Address:
    """The address a person means; `named_by` says who explained a name or a bare word. Raises ConfigError with the right spelling.

    `environ` and `folder` (the working folder: where migrator.toml and luminora_config.json are looked for, and where relative paths
    begin) are the process's own by default.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    if not text.strip():
        raise ConfigError(f"an empty address. Addresses look like {SPELLINGS}")
    refuse_control(text)
    if is_written_out(text):
        return parse(text, folder)
    settings = load_settings(environ, folder)
    if text in settings.stores:
        return _named(text, settings, environ, folder)
    if text in WORDS:
        return _from_word(text, environ, folder)
    others = f" {settings.path} names {', '.join(settings.stores)}." if settings.stores else ""
    raise ConfigError(f"{no_address(text, settings.stores)}.{others} Addresses look like {SPELLINGS}")


# Names of migrator.toml ------------------------------------------------------------------------------------------------


def _named(name: str, settings: Settings, environ: Mapping[str, str], folder: Path) -> Address:
    store, place = settings.stores[name], settings.place("stores", name)
    text = with_variables(store.address, f"{place}.address", environ)
    try:
        address = _from_word(text, environ, folder) if text in WORDS else parse(text, settings.folder)
    except ConfigError as exc:
        if text != store.address:  # what is wrong may hold the value of a variable
            words = f"no address with what its variables hold (it is not shown). Addresses look like {SPELLINGS}"
            raise ConfigError(f"{place}.address: {words}") from None
        raise ConfigError(f"{place}.address: {exc}") from exc
    by = f"{place} by {address.named_by}" if address.named_by else place
    return replace(_in_zone(address, store, f"{place}.zone", environ), named_by=by)


def _in_zone(address: Address, store: NamedStore, place: str, environ: Mapping[str, str]) -> Address:
    zone = with_variables(store.zone, place, environ)
    if not zone:
        return address
    if "tz" in address.options:
        raise ConfigError(f"{place}: the address says a zone too (?tz=); leave one of them out")
    if zone != store.zone:
        try:
            return in_zone(address, zone)
        except ConfigError:
            raise ConfigError(f'{place}: "{store.zone}" is no zone with what the variables hold; zones look like Europe/Madrid') from None  # fmt: skip
    return in_zone(address, zone)


# Bare words ------------------------------------------------------------------------------------------------------------


def _from_word(word: str, environ: Mapping[str, str], folder: Path) -> Address:
    refuse_later(word)
    if word == "sqlite":
        told = _told(environ, folder, word, "database_path")
        if not told:
            raise _nobody_says(word, "sqlite:///FILE", folder)
        return replace(file_at(word, _agreed(word, told), folder), named_by=_by(told))
    if word == "dynamodb":
        told = _told(environ, folder, word, "table_name")
        if not told:
            raise _nobody_says(word, "dynamodb://TABLE?region=REGION", folder)
        regions = _told(environ, folder, word, "region")
        region = _agreed("dynamodb region", regions) if regions else ""
        return replace(table_at(_agreed(word, told), region), named_by=_by([*told, *regions]))
    if word in ("json", "jsonl"):
        raise _nobody_says(word, f"{word}:FILE", folder)
    raise ConfigError(f'"{word}" needs a name: {word}:NAME')


def _told(environ: Mapping[str, str], folder: Path, sort: str, key: str) -> Sequence[Told]:
    from migrator import luminoracore  # only a bare word needs it

    return luminoracore.configuration(environ, folder).stores[sort].items[key].told


def _by(told: Sequence[Told]) -> str:
    return " and ".join(each.by for each in told)


def _agreed(what: str, told: Sequence[Told]) -> str:
    if len({each.value for each in told}) > 1:
        words = " and ".join(f"{each.by} says {each.value}" for each in told)
        raise ConfigError(f"{what}: {words}. Write the address out")
    return told[0].value


def _nobody_says(word: str, spelling: str, folder: Path) -> ConfigError:
    from migrator.luminoracore import FILE

    where = {
        "sqlite": f"LUMINORA_SQLITE_PATH nor {FILE} (storage.sqlite.database_path)",
        "dynamodb": f"LUMINORA_DYNAMODB_TABLE nor {FILE} (storage.dynamodb.table_name)",
    }
    asked = f"neither {where[word]} names one" if word in where else "nothing configured names one"
    candidates = _candidates(folder, word)
    here = f" (in this folder: {', '.join(candidates[:5])})" if candidates else ""
    return ConfigError(f'"{word}" has no address: {asked}. Write it out: {spelling}{here}')


def _candidates(folder: Path, scheme: str) -> list[str]:
    from migrator.luminoracore import FILE

    try:
        return sorted(
            each.name
            for each in folder.iterdir()
            if each.is_file() and scheme_by_suffix(each.name) == scheme and each.name != FILE
        )
    except OSError:
        return []
