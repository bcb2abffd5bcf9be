"""What the system, the decompressors and the scanner say of a file, as errors of ours with the next step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrator.adapters.jsonfile.text import Broken
from migrator.adapters.packing import (
    DAMAGED,
    line_at,
)
from migrator.errors import MigratorError, StoreError


@contextmanager
def sorted_errors(path: Path, kind: type[MigratorError] = StoreError) -> Iterator[None]:
    """What the system, the decompressors and the scanner say, as `kind`, with the next step."""
    try:
        yield
    except Broken as exc:
        with sorted_errors(path, kind):
            line = line_at(path, exc.offset)[1]
        raise kind(
            f"{path}: not JSON: {exc.reason} (byte {exc.offset}, line {line}); mend the file or take an older copy"
        ) from exc
    except EOFError as exc:
        raise kind(
            f"{path}: truncated, or something stands behind its end: the compressed data ends too early; take a whole copy of it"
        ) from exc
    except DAMAGED as exc:
        raise kind(f"{path}: its compressed data is damaged ({exc}); take another copy of it") from exc
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{path}: the disk is full; free space there and run again to resume") from exc
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise kind(
                f"{exc.filename or path}: no permission ({exc.strerror}); change its mode or run as its owner"
            ) from exc
        raise kind(f"{path}: {exc.strerror or exc}; mend that and run again") from exc
