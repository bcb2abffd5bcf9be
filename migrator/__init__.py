"""migrator moves chat sessions and memories between stores: checkpointed, idempotent, verified.

    import migrator
    report = migrator.migrate("chat.db", "chat.jsonl.gz")
    assert report.outcome == "done"

The names below are public; each is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migrator.certificate import Certificate, Terms
    from migrator.commands import doctor, init, inspect, migrate, open_store, verify
    from migrator.cutting_over import cutover
    from migrator.errors import (
        ConfigError,
        Interrupted,
        LockedError,
        MigratorError,
        RecordError,
        StoreError,
        TransientStoreError,
    )
    from migrator.mapping_file import load_mapping
    from migrator.options import Options
    from migrator.report import Report
    from migrator.rescuing import rescue, rescue_async

__all__ = [
    "Certificate",
    "ConfigError",
    "Interrupted",
    "LockedError",
    "MigratorError",
    "Options",
    "RecordError",
    "Report",
    "StoreError",
    "Terms",
    "TransientStoreError",
    "cutover",
    "doctor",
    "init",
    "inspect",
    "load_mapping",
    "migrate",
    "open_store",
    "rescue",
    "rescue_async",
    "verify",
]

_HOMES = {
    "certificate": ("Certificate", "Terms"),
    "commands": ("doctor", "init", "inspect", "migrate", "open_store", "verify"),
    "cutting_over": ("cutover",),
    "errors": (
        "ConfigError",
        "Interrupted",
        "LockedError",
        "MigratorError",
        "RecordError",
        "StoreError",
        "TransientStoreError",
    ),
    "mapping_file": ("load_mapping",),
    "options": ("Options",),
    "report": ("Report",),
    "rescuing": ("rescue", "rescue_async"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"migrator.{module}"), name)
    raise AttributeError(f"module 'migrator' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
