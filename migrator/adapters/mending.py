"""What more than one ladder finds, and lines that mend more than one thing."""

from __future__ import annotations

import shlex
from pathlib import Path

from migrator.model import Address, Finding


def no_folder(folder: Path) -> Finding:
    return Finding("folder", "fault", f"there is no folder {folder}", f"mkdir -p {shlex.quote(str(folder))}")


def not_there_yet(address: Address) -> Finding:
    line = f"migrator init {shlex.quote(address.text)}"
    return Finding("file", "note", "not there yet; LuminoraCore makes it when it saves first", line)


def another_table(address: Address, is_filled: bool = False) -> str:
    """The line that makes a table of the shape that LuminoraCore can use, beside this one, and has LuminoraCore take it."""
    second = shlex.quote(address.text.replace(f"://{address.name}", f"://{address.name}-2", 1))
    move = f" && migrator migrate {shlex.quote(address.text)} {second}" if is_filled else ""
    return f"migrator init {second} --yes{move} && export LUMINORA_DYNAMODB_TABLE={address.name}-2"
