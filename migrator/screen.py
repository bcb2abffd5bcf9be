"""Lines, tables and progress as they fit a screen: folded at words where somebody looks, whole in a pipe.

Uses no colour and moves no cursor but to the start of a line; what the terminal's encoding lacks is written in ASCII. Text that comes from data
is made `harmless`, here for every line, and before where a line end in it must not begin another. Knows streams and their width; leaves what is said to `console` and its neighbours.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from migrator.errors import StoreError

_PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
_NARROWEST = 24  # columns beside a label in which words can still be read
_ASCII = {
    ord(sign): plain
    for sign, plain in {"→": "->", "…": "...", "–": "-", "—": "-", "·": ".", "’": "'", "█": "#", "░": "."}.items()
}
_EIGHTHS = "▁▂▃▄▅▆▇█"
_TONES = ".:-=+*#@"  # as many, for a terminal that has no blocks


def harmless(text: str) -> str:
    """Text as it may be shown: control characters, escape sequences and what is no character at all are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def harmless_json(text: str) -> str:
    """JSON text that says the same, with what is not printable escaped as JSON escapes it; it stands only in texts."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text).replace("\x7f", "\\u007f")


# Lines -----------------------------------------------------------------------------------------------------------------


def echo(text: str = "", err: bool = False, hang: int = 2, folded: bool = True) -> None:
    """Show some lines, each harmless, folded to the terminal at words, and on from column `hang`. A word is never cut: a path can be copied.

    Whoever read may have gone (`| head -1`): the work goes on without an audience. Raises StoreError where results cannot be written for another
    reason (a full disk).
    """
    stream = sys.stderr if err else sys.stdout
    lines = [harmless(line) for line in text.split("\n")]
    if folded and is_terminal(stream):
        lines = [_folded(line, columns(stream), hang) for line in lines]
    text = "\n".join(lines)
    try:
        click.echo(_encodable(text, stream), err=err)
    except OSError as exc:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if not err and not isinstance(exc, BrokenPipeError):
            raise StoreError(f"the output cannot be written: {exc.strerror}; mend that and run again") from exc


def labelled(label: str, words: str, width: int, err: bool = False) -> None:
    """Show words behind a label of so many columns, folded under themselves; under the label where the terminal is too narrow."""
    stream = sys.stderr if err else sys.stdout
    hang = width + 2 if columns(stream) - width - 2 >= _NARROWEST else 4
    echo(f"{label:<{width}}  {words}", err, hang)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks, on something that can move its cursor; a stream that was closed (`2>&-`) is None."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO | None) -> int:
    """Of the terminal behind a stream, or as COLUMNS says; 80 where there is none."""
    if not is_terminal(stream):
        return 80
    assert stream is not None
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size((80, 24)).columns


def _folded(line: str, width: int, hang: int) -> str:
    if len(line) <= width:
        return line
    fold = textwrap.TextWrapper(
        width,
        subsequent_indent=" " * min(hang, width // 2),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return "\n".join(fold.wrap(line))


def _encodable(text: str, stream: TextIO | None) -> str:
    """The text as the stream's encoding can write it: our own signs in ASCII, what else it lacks by its number."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        pass
    return text


# Tables ----------------------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], text: tuple[int, ...] = (0,)) -> str:
    """A table for a terminal: numbers to the right. One too wide for the terminal is written as a block a row."""
    last = len(heads) - 1
    left = {*text, last} if heads[last] == "digest" else set(text)
    safe = [[harmless(cell) for cell in row] for row in rows]
    widths = [max([len(head), *(len(row[i]) for row in safe)]) for i, head in enumerate(heads)]
    room = columns(sys.stdout) if is_terminal(sys.stdout) else 10_000
    if sum(widths) + 2 * last > room and len(heads) > 3:
        width = max(len(head) for head in heads)
        return "\n".join(
            "\n".join(f"{head:<{width}}  {cell}" for head, cell in zip(heads, row, strict=True)) + "\n" for row in safe
        ).rstrip("\n")
    lines = [
        "  ".join(_cell(cell, widths[i], i in left) for i, cell in enumerate(row)).rstrip()
        for row in [list(heads), *safe]
    ]
    return "\n".join(lines)


def _cell(text: str, width: int, left: bool) -> str:
    return f"{text:<{width}}" if left else f"{text:>{width}}"


def bars(counts: Sequence[int]) -> str:
    """A histogram in one line: a bar for each count, as high as its part of the highest; nothing for nothing."""
    levels = _TONES if _encodable(_EIGHTHS, sys.stdout) != _EIGHTHS else _EIGHTHS
    highest = max(counts, default=0)
    return "".join(levels[max(1, round(count * len(levels) / highest)) - 1] if count else " " for count in counts)


def some(names: Sequence[str]) -> str:
    shown = ", ".join(harmless(name) for name in names[:5])
    return f"{shown}, …" if len(names) > 5 else shown


def n(count: int | None) -> str:
    return f"{count or 0:,}"


def size(count: int) -> str:
    for unit, one in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= one:
            return f"{count / one:,.1f} {unit}"
    return f"{count} B"


# Progress --------------------------------------------------------------------------------------------------------------


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[tuple[Callable[[int], None], Any]]:
    """Something long, on stderr: a line that is written over in a terminal, else a line now and then. Gives what takes the records done.

    The second is what must be cleared before somebody else writes a line, or None.
    """
    if not is_terminal(sys.stderr):
        plain = _PlainProgress(doing, total)
        yield plain.tick, None
        plain.end()
        return
    from tqdm import tqdm

    class Line(tqdm):  # type: ignore[type-arg]
        """tqdm's pace and its care for the line, with our words: its own are cut off where the terminal ends."""

        def __str__(self) -> str:
            told = self.format_dict
            seconds = told["elapsed"]
            return _encodable(
                fitted(doing, int(self.n), int(self.total or 0), seconds, columns(sys.stderr) - 1), sys.stderr
            )

    with Line(total=total, leave=False, file=sys.stderr, dynamic_ncols=True) as line:
        yield lambda records: _move(line, records), line


def fitted(doing: str, done: int, total: int, seconds: float, width: int) -> str:
    """Progress in so many columns: the words that fit, most wanted first, and a bar in what is left."""
    line = ""
    for words in _progress_words(doing, done, total, seconds):
        if len(line) + len(words) > width:
            break
        line += words
    room = width - len(line) - 3
    if total and room >= 10:
        room = min(room, 30)
        full = min(room, room * done // total)
        line += f"  {'█' * full}{'░' * (room - full)}"
    return line


def _progress_words(doing: str, done: int, total: int | None, seconds: float) -> Iterator[str]:
    """In the order in which they are wanted."""
    rate = done / max(seconds, 0.001)
    yield doing
    if total:
        yield f" {min(100, 100 * done // total)} %"
    yield f": {done:,}"
    yield f" of ~{max(total, done):,} records" if total else " records"
    if done:
        yield f", {rate:,.0f} a second"
    if total and total > done and rate:
        yield f", ~{(total - done) / rate:,.0f} s left"


def _move(line: Any, records: int) -> None:
    if line.total is not None and line.n + records > line.total:
        line.total = line.n + records  # the total was only a hint
    line.update(records)


class _PlainProgress:
    """A line now and then, for a log."""

    def __init__(self, doing: str, total: int | None) -> None:
        self.doing, self.total = doing, total
        self.done, self.began, self.last = 0, time.monotonic(), time.monotonic()

    def tick(self, records: int) -> None:
        self.done += records
        if time.monotonic() - self.last >= _PLAIN_EVERY:
            self.last = time.monotonic()
            self._line()

    def _line(self) -> None:
        echo("".join(_progress_words(self.doing, self.done, self.total, self.last - self.began)), err=True)

    def end(self) -> None:
        if self.done and self.last - self.began >= _PLAIN_EVERY:
            self.last = time.monotonic()
            self._line()
