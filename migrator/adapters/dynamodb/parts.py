"""Which parts of records may be left over: noted on the disk before anything is written, and looked after when a slice ends.

A record in parts takes several requests. Its parts are written before its head, and those of the text that was there before are deleted behind it:
whoever is killed between leaves a whole record, the old or the new, and parts that no record has. The note says where, so that the next attempt
takes them away. Knows files and keys; no request and no form.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from migrator.adapters.base import PARTS_FOLDER
from migrator.adapters.dynamodb.values import Item
from migrator.files import sync, sync_folder
from migrator.values import from_json, to_json


class Notes:
    """The notes of one job, a file for each slice. Safe to use from several threads; each slice is written by one process at a time."""

    def __init__(self, scratch: Path) -> None:
        self._folder = scratch / PARTS_FOLDER
        self._lock = threading.Lock()

    def add(self, slice_name: str, head: Item, parts: list[Item]) -> None:
        """The record under the key `head` may be left without these parts, by their keys. After it returns, that is on the disk."""
        with self._lock:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / f"{slice_name}.jsonl"
            is_new = not path.exists()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                file.write(
                    b"\n" + to_json({"head": head, "parts": parts}) + b"\n"
                )  # the line before may have been cut by a kill
                sync(file)
            if is_new:
                sync_folder(self._folder)

    def of(self, slice_name: str | None = None) -> Iterator[tuple[Item, list[Item]]]:
        """What a slice noted, in this attempt or one before; of all slices without a name."""
        for path in sorted(self._folder.glob(f"{slice_name or '*'}.jsonl")):
            for line in path.read_bytes().splitlines():
                with suppress(ValueError):  # a line that was cut: nothing had been written by then
                    note = from_json(line)
                    yield note["head"], note["parts"]

    def drop(self, slice_name: str | None = None) -> None:
        """They have been looked after."""
        for path in self._folder.glob(f"{slice_name or '*'}.jsonl"):
            path.unlink()
