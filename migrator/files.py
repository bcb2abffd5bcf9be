"""Files that are whole or absent, and their owner's alone: written aside, fsynced, renamed, the folder fsynced.

Knows the system's calls and nothing of what the files hold; errors are the system's own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def private(path: Path) -> BinaryIO:
    """A new file, or an old one emptied, that its owner alone may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def sync(file: BinaryIO) -> None:
    """What was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Names that were made or changed in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_whole(path: Path, data: bytes) -> None:
    """Put a file in place whole; on failure what was there stays, and nothing is left beside it."""
    aside = path.with_name(path.name + ".tmp")
    try:
        with private(aside) as file:
            file.write(data)
            sync(file)
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)
