"""Which module speaks to which sort of store; each is imported on first use, for its libraries are slow to load."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from migrator.adapters.base import Adapter
from migrator.errors import ConfigError

MODULES = {
    "memory": "memory",
    "json": "jsonfile.adapter",
    "jsonl": "jsonfile.adapter",
    "sql": "sql.adapter",
    "dynamodb": "dynamodb.adapter",
}


def adapter_for(store: str) -> Adapter:
    """The adapter of a sort of store (`Address.store`)."""
    if store not in MODULES:
        raise ConfigError(f'no adapter for "{store}": there are {", ".join(sorted(MODULES))}')
    return cast(Adapter, import_module(f"migrator.adapters.{MODULES[store]}").ADAPTER)
