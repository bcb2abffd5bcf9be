"""The settings file, `migrator.toml`: stores by name, and defaults of options.

Knows where the file is looked for, its tables and keys, and `${VAR}`, so that it need hold no secret. What an address means is left to
`config`, which choices there are to `options`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from migrator.addresses import is_written_out, near, refuse_control
from migrator.choice import zone_of
from migrator.errors import ConfigError

FILE = "migrator.toml"
VARIABLE = "MIGRATOR_CONFIG"
"""The variable that names a settings file outright."""

_TABLES = ("stores", "options")
_STORE_KEYS = ("address", "zone")
_REPLACED = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class NamedStore:
    """A store of the file as it is written there: `${VAR}` is not replaced yet. `zone` is empty where none is said."""

    address: str
    zone: str = ""


@dataclass(frozen=True)
class Settings:
    """What a settings file says. `path` is absolute, and None where there is no file; `options` are by name, as they are written."""

    path: Path | None = None
    stores: Mapping[str, NamedStore] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where relative paths of the file begin."""
        assert self.path is not None
        return self.path.parent

    def place(self, *keys: str) -> str:
        """A key of the file, for people: `/home/ana/migrator.toml: stores.live.address`."""
        return f"{self.path}: {'.'.join(keys)}"


def load_settings(environ: Mapping[str, str], folder: Path) -> Settings:
    """The settings of the file that MIGRATOR_CONFIG names, else of the first there is: in the working folder, in the user's.

    A file is read whole; two are never merged. Raises ConfigError with file and place for one that cannot be read or says what is not known.
    """
    path = _find(environ, folder)
    return Settings() if path is None else _checked(path, _read(path))


def _find(environ: Mapping[str, str], folder: Path) -> Path | None:
    named = environ.get(VARIABLE)
    if named:
        path = folder / (os.path.expanduser(named) if named.startswith("~") else named)  # noqa: PTH111
        if not os.path.lexists(path):
            raise ConfigError(f"{VARIABLE}: there is no file {path}; correct the variable, or unset it")
        return path.absolute()
    users = Path(platformdirs.user_config_dir("migrator"))
    # lexists: a link that leads nowhere is told, a folder of somebody else's that may not be looked into is passed over.
    return next((each.absolute() for each in (folder / FILE, users / FILE) if os.path.lexists(each)), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}; a file in TOML is wanted here") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: byte {exc.start:,} is not UTF-8; save the file as UTF-8") from exc
    except (ValueError, RecursionError) as exc:
        why = "nested too deeply" if isinstance(exc, RecursionError) else exc  # with line and column
        raise ConfigError(f"{path}: not TOML: {why}; mend the file there") from exc


def _checked(path: Path, data: dict[str, Any]) -> Settings:
    refuse_unknown(str(path), data, _TABLES)
    stores, options = (_table(f"{path}: {name}", data.get(name, {})) for name in _TABLES)
    return Settings(path, {name: _store(path, name, body) for name, body in stores.items()}, options)


def _store(path: Path, name: str, body: Any) -> NamedStore:
    place = f"{path}: stores.{name}"
    if not name.strip() or not name.isprintable() or name.startswith("-"):
        raise ConfigError(f"{path}: stores: {name!r} cannot be the name of a store; choose a word")
    if is_written_out(name):
        raise ConfigError(f'{path}: stores: "{name}" reads as a URL or a path; name the store by a word')
    table = _table(place, body)
    refuse_unknown(place, table, _STORE_KEYS)
    for key in _STORE_KEYS:
        if not isinstance(table.get(key, ""), str):
            raise ConfigError(f"{place}.{key}: text in quotes is wanted")
    if not table.get("address", "").strip():
        raise ConfigError(f'{place}: the address is missing: address = "…"')
    zone = table.get("zone", "")
    if zone and "${" not in zone:
        refuse_wrong(f"{place}.zone", zone_of, zone)
    return NamedStore(table["address"], zone)


def _table(place: str, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ConfigError(f"{place}: a table is wanted, [{place.rpartition(': ')[2]}]")
    return body


def refuse_unknown(place: str, table: Iterable[str], known: Iterable[str]) -> None:
    """Raises ConfigError for the first key that is not known, with the nearest one that is."""
    names = list(known)
    for key in table:
        if key not in names:
            hint = near(key, names) or f"; there are {', '.join(names)}"
            raise ConfigError(f"{place}: unknown key {key!r}{hint}")


def refuse_wrong(place: str, ask: Callable[[str], object], value: str) -> None:
    """Raises what `ask` has against a value with the place where it stands."""
    try:
        ask(value)
    except ConfigError as exc:
        raise ConfigError(f"{place}: {str(exc).removeprefix('tz: ')}") from exc


def with_variables(text: str, place: str, environ: Mapping[str, str]) -> str:
    """A text of the file with each `${VAR}` replaced by the variable's value; `$${` stands for `${`.

    Raises ConfigError naming place and variable, and no value, for one that is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name = match[1]
        if not match[0].endswith("}") or not _NAME.fullmatch(name):
            raise ConfigError(f"{place}: ${{ begins the name of a variable, ${{NAME}}; as itself it is written $${{")
        if not environ.get(name):
            raise ConfigError(f"{place}: the variable {name} is not set, or empty; set it in the environment")
        return environ[name]

    replaced = _REPLACED.sub(value, text)
    refuse_control(replaced, f"{place}: a text")
    return replaced
