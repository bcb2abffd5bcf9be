"""A person's choices: which there are, what they may be, and who made them, whether given, of the settings file or built in.

Wrong values are told in the words of the command line, so that a file and a Python caller hear the same. What a choice does is left to
those who read it.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from migrator.checkpoint import STATE_VARIABLE
from migrator.errors import ConfigError
from migrator.settings import Settings, load_settings, refuse_unknown, with_variables
from migrator.values import is_unicode

GIVEN, BUILT_IN = "given", "built in"
"""Who made a choice, if neither the settings file nor a variable did: the command line or the caller, or nobody."""

_LEAST = {"limit": 1, "users": 1}  # of the others 0
_ABOVE = ("read_rate", "write_rate")  # more than 0: nothing would ever end
_MOST = 2**63 - 1  # what a report can hold
_OF_ONE_RUN = ("dry_run", "restart", "user", "users", "since", "limit")
"""No default makes these: nobody could take them back on the command line, and a nightly run would silently do less."""


@dataclass(frozen=True)
class Options:
    """A person's choices, with their defaults; the command line's options of the same names.

    `told_by` says of a name who made that choice: GIVEN, BUILT_IN, a variable, or `FILE: options.NAME`; empty unless `from_file` made it.
    """

    dry_run: bool = False
    price: float = 0.625
    existing: Literal["refuse", "keep", "newer", "replace"] = "refuse"
    create: bool | None = None
    on_reject: Literal["stop", "continue"] | None = None
    on_duplicate: Literal["newest", "stop"] = "newest"
    unknown_fields: Literal["keep", "drop"] = "keep"
    allow_empty: bool = False
    foreign: tuple[str, ...] = ()
    expired: Literal["reject", "write"] = "reject"
    oversize: Literal["reject", "compress", "split"] = "reject"
    kinds: tuple[str, ...] = ()
    user: str | None = None
    since: str | None = None
    limit: int | None = None
    proof: Literal["digest", "counts", "rows", "app", "none"] = "digest"
    users: int | None = None
    one_way: bool = False
    workers: int = 0
    processes: bool = False
    read_rate: float | None = None
    write_rate: float | None = None
    mapping: str | None = None
    state: str | None = None
    restart: bool = False
    table_shape: str | None = None
    snapshot_limit: float = 3.0
    told_by: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ConfigError for a choice that there is not."""
        for name in NAMES:
            if why := _wrong(name, getattr(self, name)):
                raise ConfigError(f"{name}: {why}")

    @classmethod
    def from_file(
        cls,
        among: Collection[str] | None = None,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        **given: Any,
    ) -> Options:
        """The choices that are given; for the others the defaults of the settings file, where there is one.

        `among`: the names that the file may make a choice for, all by default. MIGRATOR_STATE goes before the file's `state`. `environ`
        and `folder`, the working folder, are the process's own by default. Raises ConfigError with file and key; the whole of [options] is
        checked, whatever is given.
        """
        environ = os.environ if environ is None else environ
        settings = load_settings(environ, Path.cwd() if folder is None else folder)
        told = {name: GIVEN if name in given else BUILT_IN for name in NAMES}
        for name, value in _defaults(settings, environ).items():
            if name not in given and (among is None or name in among):
                given[name], told[name] = value, settings.place("options", name)
        if environ.get(STATE_VARIABLE) and told["state"] != GIVEN:
            given["state"], told["state"] = environ[STATE_VARIABLE], STATE_VARIABLE
        return replace(cls(**given), told_by=told)

    def to_plain(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in ("processes", "told_by")
        }

    def is_given(self, name: str) -> bool:
        """Whether the command line or the caller made this choice, rather than the settings file."""
        return self.told_by.get(name, GIVEN) == GIVEN

    @property
    def defaulted(self) -> dict[str, str]:
        """The choices that the settings file or a variable made, each with who did."""
        return {name: by for name, by in self.told_by.items() if by not in (GIVEN, BUILT_IN)}

    @property
    def worker_count(self) -> int:
        return (
            self.workers
            if self.workers > 0
            else max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        )


def _sort_of(hint: Any) -> tuple[Any, bool]:
    """From a type hint: what a value is, and whether it may be None."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    return next(each for each in get_args(hint) if each is not NoneType), NoneType in get_args(hint)


_SORTS = {name: _sort_of(hint) for name, hint in get_type_hints(Options).items() if name != "told_by"}
NAMES = tuple(_SORTS)
"""All choices, by name."""


def _wrong(name: str, value: Any, shown: str = "") -> str:
    """What is wrong with a value, in click's words; empty if nothing is. `shown` stands for one that must not be shown."""
    shown = shown or reprlib.repr(value)
    sort, may_be_none = _SORTS[name]
    if value is None and may_be_none:
        return ""
    if get_origin(sort) is Literal:
        choices = get_args(sort)
        return "" if value in choices else f"{shown} is not one of {', '.join(map(repr, choices))}."
    if sort is bool:
        return "" if isinstance(value, bool) else f"{shown} is not a valid boolean."
    if sort in (int, float):
        if isinstance(value, bool) or not isinstance(value, int if sort is int else int | float):
            return f"{shown} is not a valid {'integer' if sort is int else 'float'}."
        if name in _ABOVE:
            return "" if 0 < value <= _MOST else f"{shown} is not in the range x>0."
        least = _LEAST.get(name, 0)
        return "" if least <= value <= _MOST else f"{shown} is not in the range x>={least}."
    if get_origin(sort) is tuple:
        if not isinstance(value, tuple) or not all(isinstance(each, str) and is_unicode(each) for each in value):
            return f"{shown} is not a tuple of texts (in TOML an array)."
        return "a name is empty; leave the option out for all kinds" if name == "kinds" and "" in value else ""
    return "" if isinstance(value, str) and is_unicode(value) else f"{shown} is not a valid text."


def _defaults(settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """The [options] of the file, checked, with variables replaced and paths that begin in the file's folder."""
    known = [name for name in NAMES if name != "processes" and name not in _OF_ONE_RUN]
    for name in _OF_ONE_RUN:
        if name in settings.options:
            place = settings.place("options", name)
            raise ConfigError(f"{place}: it is said for each run, on the command line; take it out of the file")
    refuse_unknown(settings.place("options"), settings.options, known)
    return {name: _default(settings, name, written, environ) for name, written in settings.options.items()}


def _default(settings: Settings, name: str, written: Any, environ: Mapping[str, str]) -> Any:
    place = settings.place("options", name)
    value = _replaced(written, place, environ)
    if why := _wrong(name, value, reprlib.repr(written)):
        raise ConfigError(f"{place}: {why}")
    if value == "":
        raise ConfigError(f"{place}: an empty text says nothing; take it out of the file")
    is_path = name == "state" or (name == "mapping" and (value.endswith(".toml") or "/" in value))
    return str(settings.folder / Path(value).expanduser()) if is_path else value


def _replaced(written: Any, place: str, environ: Mapping[str, str]) -> Any:
    if isinstance(written, list):
        return tuple(_replaced(each, place, environ) for each in written)
    return with_variables(written, place, environ) if isinstance(written, str) else written
