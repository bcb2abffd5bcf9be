"""How the bytes of a file are packed, and how its lines are found: plain, gzip and zstd.

Knows suffixes, compressors, and seeking where a file can. Offsets are of the text, not of the bytes on the disk. Leaves what the text
says to whoever reads it, and the words for a damaged file too: it lets DAMAGED, EOFError and OSError through.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from migrator.errors import ConfigError

try:  # several times faster, the same data
    _gzip: Any = import_module("isal.igzip")
    DAMAGED: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error, import_module("isal.isal_zlib").error)
except ImportError:
    _gzip, DAMAGED = gzip, (gzip.BadGzipFile, zlib.error)

CHUNK = 1 << 18
"""Bytes that are read or copied in one go."""


@dataclass(frozen=True)
class Compression:
    """How the bytes of a file are packed. `compress` makes a piece that can stand behind another."""

    name: str
    suffix: str
    magic: bytes
    compress: Callable[[bytes], bytes]
    decompressed: Callable[[BinaryIO], BinaryIO]


class _ZstdFile(io.RawIOBase):
    """Decompresses frame after frame. The library's own reader takes a truncated file for one that ends."""

    _INPUT = 1 << 13  # one step may give thousands of times as much

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._input, self._output = raw, b"", memoryview(b"")
        self._decompressor = _zstandard().ZstdDecompressor()
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._output:
            data = self._input or self._raw.read(self._INPUT)
            if not data and self._frame is None:
                return 0
            if not data:
                raise EOFError("Compressed file ended before the end of a frame")
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(data))
            except _zstandard().ZstdError as exc:
                raise zlib.error(str(exc)) from exc
            self._input = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        size = min(len(target), len(self._output))
        target[:size], self._output = self._output[:size], self._output[size:]
        return size


def _zstandard() -> Any:
    try:
        return import_module("zstandard")
    except ImportError as exc:
        raise ConfigError("a file ending in .zst needs the package zstandard: pip install 'migrator[zstd]'") from exc


def _zstd(data: bytes) -> bytes:
    return cast(bytes, _zstandard().ZstdCompressor(level=3, write_checksum=True).compress(data))


PLAIN = Compression("plain", "", b"", lambda data: data, lambda raw: raw)
GZIP = Compression(
    "gzip",
    ".gz",
    b"\x1f\x8b",
    lambda data: cast(bytes, _gzip.compress(data, 1, mtime=0)),  # the same data is the same bytes
    lambda raw: io.BufferedReader(_gzip.GzipFile(fileobj=raw), CHUNK),
)
ZSTD = Compression("zstd", ".zst", b"\x28\xb5\x2f\xfd", _zstd, lambda raw: io.BufferedReader(_ZstdFile(raw), CHUNK))


def compression_of(path: Path) -> Compression:
    return {GZIP.suffix: GZIP, ZSTD.suffix: ZSTD}.get(path.suffix.lower(), PLAIN)


@contextmanager
def opened(path: Path, compression: Compression | None = None) -> Iterator[BinaryIO]:
    """The file's text, decompressed as its name or `compression` says."""
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb", buffering=CHUNK))
        yield stack.enter_context((compression or compression_of(path)).decompressed(raw))


def go_to(file: BinaryIO, offset: int) -> int:
    """Pass everything before an offset, by seeking where the file can."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        return file.seek(offset)
    left = offset
    while left and (data := file.read(min(left, CHUNK))):
        left -= len(data)
    return offset


def line_from(file: BinaryIO, offset: int) -> int:
    """Go to the first line that starts at an offset or behind it."""
    if not offset:
        return 0
    go_to(file, offset - 1)
    _, size = next_line(file, 0)
    return offset - 1 + size


def next_line(file: BinaryIO, limit: int) -> tuple[bytes | None, int]:
    """The next line and its size, 0 at the end; a line over the limit is passed without being held."""
    line = file.readline(limit + 2)  # with its end, CR LF
    if line.endswith(b"\n") or len(line) < limit + 2:
        return line, len(line)
    size, rest = len(line), line
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(CHUNK)
        size += len(rest)
    return None, size


def line_at(path: Path, offset: int, known: tuple[int, int] = (0, 1)) -> tuple[int, int]:
    """The offset with its line number, counted on from a known one."""
    at, line = known if known[0] <= offset else (0, 1)
    with opened(path) as file:
        go_to(file, at)
        while at < offset and (data := file.read(min(offset - at, CHUNK))):
            at, line = at + len(data), line + data.count(b"\n")
    return offset, line
