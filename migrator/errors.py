"""The errors of migrator, named by what to do next.

Knows nothing but names: which exit code an error ends with is one table in `cli`.
"""

from __future__ import annotations

import copyreg
from typing import Any


class MigratorError(Exception):
    """Base of all errors that are told to a person without a traceback.

    `report` is what the run had to say when it ended so, where there was a run.
    """

    report: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """As exceptions are copied between processes, but whatever a subclass's own __init__ asks for."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(MigratorError):
    """The plan cannot work: fix the address, the mapping or the options. Nothing was touched."""


class LockedError(MigratorError):
    """Another run holds the job or the sink file. Nothing was touched."""


class StoreError(MigratorError):
    """A store failed and repeating the call at once will not help. What is saved stays saved: run again to resume."""


class TransientStoreError(StoreError):
    """A store failed in passing: the same call may succeed later."""


class RecordError(MigratorError):
    """This one record cannot travel; the message says why, by field name and never by value."""


class AccountError(AssertionError):
    """Records that were read are not accounted for: a bug of ours, and the run must not look as if it had gone well.

    The message holds counts, and never a value.
    """


class Interrupted(MigratorError):
    """A person or the system asked the run to stop; it stopped behind the last saved slice."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
