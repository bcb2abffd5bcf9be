"""Lines that mend more than one thing that can be wrong with a store."""

from __future__ import annotations

import shlex

from migrator.model import Address


def another_table(address: Address, is_filled: bool = False) -> str:
    """The line that makes a table of the shape that LuminoraCore can use, beside this one, and has LuminoraCore take it."""
    second = shlex.quote(address.text.replace(f"://{address.name}", f"://{address.name}-2", 1))
    move = f" && migrator migrate {shlex.quote(address.text)} {second}" if is_filled else ""
    return f"migrator init {second} --yes{move} && export LUMINORA_DYNAMODB_TABLE={address.name}-2"
