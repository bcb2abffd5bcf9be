"""Where a JSON value ends, and what it is, exactly.

Reads a text without losing a digit, and refuses what two readers would read differently; finds the values of a document that is larger
than memory. Knows bytes and JSON's grammar. Leaves tags and numbers to `values`, files and their lines to others.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import BinaryIO, NamedTuple

import orjson
from xxhash import xxh3_128_digest

from migrator.errors import RecordError
from migrator.model import Record, shortened
from migrator.values import DEEPEST, Value, from_json, is_too_deep, to_json, untag, written

try:
    from migrator.adapters.jsonfile.skimming import Skimmer
except ImportError:  # the extra `fast`
    Skimmer = None  # type: ignore[assignment,misc]

_CHUNK = 1 << 17  # bytes that are read in one go: what is made of them stays near the processor
_DEEP = b" " * (2 * DEEPEST - 2)  # what orjson writes before something that is nested about as deep as may be


class Broken(Exception):
    """Text that is no JSON, from this byte on."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parsed(text: bytes, *, plain: bool = False, around: int = 0) -> Value:
    """The exact value of a JSON text. What orjson would write the same way was read without a loss; the rest is looked at closely.

    `plain` text is not ours: what looks like a tag is none. `around`: levels that stand around values of records in it (`values.DEEPEST`).
    Raises Broken if it is none, RecordError if it says what no store could hold, or what two readers would read differently.
    """
    with suppress(ValueError, TypeError, RecursionError):
        read = orjson.loads(text)
        if orjson.dumps(read) == text.rstrip() and not is_too_deep(text, read, around):
            return read if plain or b'"$' not in text else untag(read)
    try:
        value = from_json(text, plain=plain, around=around)
        if b"\\u" in text and _SURROGATE.search(text):
            to_json(value)  # ValueError for a surrogate without its other half
    except (ValueError, ArithmeticError, RecursionError) as exc:
        _judge(text)
        reason = exc.msg if isinstance(exc, json.JSONDecodeError) else str(exc)
        raise RecordError(f"holds what cannot be kept: {reason}") from exc
    if _may_repeat_keys(text, value):
        _judge(text)
    return value


def _judge(text: bytes) -> None:
    """The slow way: raises Broken where the syntax is wrong, RecordError for a key that is there twice and for NaN."""
    try:
        json.loads(text.decode(), object_pairs_hook=_distinct, parse_constant=_refused, parse_int=str, parse_float=str)
    except json.JSONDecodeError as exc:
        raise Broken(len(exc.doc[: exc.pos].encode(errors="surrogatepass")), exc.msg) from exc
    except UnicodeDecodeError as exc:
        raise Broken(exc.start, "not UTF-8") from exc
    except RecursionError as exc:
        raise RecordError("holds what cannot be kept: it is nested too deep") from exc


def _distinct(pairs: list[tuple[str, Value]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError(f'the key "{shortened(twice)}" is there twice')
    return record


def _refused(name: str) -> Value:
    raise RecordError(f"holds {name}, which is no JSON number")


def _may_repeat_keys(text: bytes, value: Value) -> bool:
    """False only if no object in `text` has a key twice, told cheaply: `":` occurs exactly once for each key that was read.

    An escaped quote before a colon is no end of a key; text that starts with a colon makes the count too high, which is harmless.
    """
    if b'\\\\"' in text or b" :" in text or b"\n:" in text or b"\t:" in text or b"\r:" in text:
        return True
    return _ends_of_keys(text) != _count_keys(value)


def _ends_of_keys(text: bytes) -> int:
    return text.count(b'":') - text.count(b'\\":')


def _count_keys(value: Value) -> int:
    if type(value) is dict:
        return len(value) + sum([_count_keys(each) for each in value.values() if type(each) in (dict, list)])
    if type(value) is list:
        return sum([_count_keys(each) for each in value if type(each) in (dict, list)])
    return 0


class Found(NamedTuple):
    """A value of a document: `position` is its number in the array under `key`, None if it is that key's value itself.

    `text` is None where it is over the limit.
    """

    key: str
    position: int | None
    offset: int
    size: int
    text: bytes | None


class Entries(NamedTuple):
    """Entries of a map, in their order, that were read in one go and without a loss: their values by name, how long their text is, and whether all reads plain
    (`values.written`)."""

    values: Record
    size: int
    is_plain: bool


class Names:
    """The names that a map has had so far, in about ten bytes each: by 80 bits of their digests."""

    _BUCKETS = 1 << 16

    def __init__(self) -> None:
        self._tails = [b""] * self._BUCKETS

    def take(self, names: Collection[str]) -> bool:
        """Take names in; none of them, and False, if one was there, or is there twice."""
        tails = self._tails
        digests = [xxh3_128_digest(name.encode()) for name in names]
        for count, digest in enumerate(digests):
            bucket, tail = digest[0] << 8 | digest[1], digest[2:10]
            known = tails[bucket]
            if tail in known and _is_among(tail, known):
                for other in reversed(digests[:count]):
                    tails[other[0] << 8 | other[1]] = tails[other[0] << 8 | other[1]][:-8]
                return False
            tails[bucket] = known + tail
        return True


def _is_among(tail: bytes, known: bytes) -> bool:
    """Whether a tail is one of those that are known, rather than the end of one and the beginning of the next."""
    return any(known.startswith(tail, at) for at in range(0, len(known), 8))


class Proof:
    """Which stretches of a map hold entries that can be read in one go, as was seen when it was read through: they are JSON, and no name is there twice.

    Sixteen bytes a stretch of about 128 KB.
    """

    def __init__(self) -> None:
        self._starts, self._ends = array("Q"), array("Q")

    def add(self, start: int, end: int, reads: Reads) -> None:
        self._starts.append(start)
        self._ends.append(end << 2 | reads)

    def __iter__(self) -> Iterator[tuple[int, int, Reads]]:
        """Start and end of each stretch, and how it reads."""
        return ((start, end >> 2, Reads(end & 3)) for start, end in zip(self._starts, self._ends))


class Reads(IntEnum):
    """What is known of a stretch: whether it reads without a loss was not looked at; it does; it does and is plain (`values.written`)."""

    PERHAPS, EXACTLY, PLAIN = range(3)


def _entries(text: bytes, reads: Reads = Reads.PERHAPS) -> Entries | None:
    """The entries of a stretch; None if they are none that read without a loss.

    That orjson writes what it read as it is in the file proves that nothing was lost, rounded or there twice.
    """
    try:
        values = orjson.loads(b"{%b}" % text)
        if reads is not Reads.PERHAPS:
            return Entries(values, len(text), reads is Reads.PLAIN)
        said, is_plain = written(values, indent=True)
        return Entries(values, len(text), is_plain) if said == b"{\n  %b\n}" % text else None
    except (ValueError, TypeError, RecursionError):
        return None


def _alone(found: Found) -> Found | Entries:
    """A value at the top, as an entry of its own if it is an object that was indented as Python's `json` does it."""
    if found.text is None or not found.text.startswith(b"{\n    ") or _DEEP in found.text:
        return found
    return _entries(b"%b: %b" % (orjson.dumps(found.key), found.text)) or found


class Scanner:
    """Finds the values in a document without holding more than one of them.

    It knows where a value ends, and checks what stands between values; whether a value is JSON, whoever parses it will tell. (ijson would
    parse, but its yajl turns half a surrogate into "?" without a word, and tells neither the byte of an error nor a key that repeats.)
    """

    # Possessive: a long value must cost neither stack nor a second look.
    _RUN = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.S)
    _IN_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.S)
    _SIMPLE_KEY = re.compile(rb'"([^"\\\x00-\x1f]*+)"')
    _WORD = re.compile(rb'[^\s",:{}\[\]]*+')
    _SPACE = re.compile(rb"[ \t\r\n]*+")
    _QUOTE, _BACKSLASH = b'"\\'
    _OPENING = b"{["

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._limit = file, limit
        self._buffer, self._at, self._base = b"", 0, 0
        self.keys: dict[str, None] = {}
        self._tried = 0  # whether many entries could be read at once is asked again from this offset on

    @property
    def offset(self) -> int:
        return self._base + self._at

    def items(self, whole: bool = False) -> Iterator[Found]:
        """Each value in an array at the top, and each value at the top that is no array. `whole`: each value at the top, arrays too."""
        for _ in self._each():
            key = self._key()
            if key in self.keys:
                raise self._twice(key)
            self.keys[key] = None
            self._take(b":")
            yield from (self._value(key, None),) if whole else self._values(key)

    def prove(self, proof: Proof) -> Iterator[Found]:
        """Read a map through, fill its proof, and give the values at the top that are not in it: each must be looked at by itself."""
        names, skimmer = Names(), Skimmer() if Skimmer is not None else None
        for _ in self._each():
            if not self._is_sound(names, proof, skimmer):
                yield self._named(names)

    def entries(self, proof: Proof | None = None) -> Iterator[Found | Entries]:
        """Each value at the top; many at once where they are indented as Python's `json` does it, which tells the end of one cheaply.

        `proof`: of the same text.
        """
        if proof is None:
            yield from self._unproven()
            return
        stretches = iter(proof)
        stretch = next(stretches, None)
        for _ in self._each():
            many = None
            if stretch is not None and stretch[0] == self.offset:
                many, stretch = self._again(*stretch), next(stretches, None)
            yield many or _alone(self._named(None))

    def _unproven(self) -> Iterator[Found | Entries]:
        names = Names()
        for _ in self._each():
            text = self._stretch()
            many = _entries(text) if text else None
            if many is not None and names.take(many.values):
                self._at += len(text)
                yield many
            else:
                yield _alone(self._named(names))

    def _named(self, names: Names | None) -> Found:
        """The next value at the top. Raises Broken if its name is one of those that there have been."""
        key = self._key()
        if names is not None and not names.take([key]):
            raise self._twice(key)
        self._take(b":")
        return self._value(key, None)

    def _each(self) -> Iterator[None]:
        """Stop before each name at the top; whoever goes on has taken it and its value, or several."""
        if self._peek() not in (b"{", b""):
            raise Broken(self.offset, 'a document is one object, such as {"facts": […]}')
        self._take(b"{")
        is_last = self._peek() == b"}" and bool(self._take(b"}"))
        while not is_last:
            self._peek()
            yield
            is_last = self._take(b",}") == b"}"
        if self._peek():
            raise Broken(self.offset, "more follows behind the end of the document (JSON Lines are named .jsonl)")

    def _twice(self, key: str) -> Broken:
        return Broken(self.offset, f'the key "{shortened(key)}" is there twice')

    def _again(self, start: int, end: int, reads: Reads) -> Entries | None:
        """The entries of a stretch of the proof; None where each must be looked at by itself."""
        while self._base + len(self._buffer) < end and self._more():
            pass
        stop = end - self._base
        text = self._buffer[self._at : stop]
        found = _entries(text, reads)
        if found is not None:
            self._at = stop
        return found

    def _is_sound(self, names: Names, proof: Proof, skimmer: Skimmer | None) -> bool:
        """Go on to the end of a stretch that is JSON, and whose names have not been there yet; False if there is none."""
        text = self._stretch()
        if not text:
            return False
        found: Collection[str] | None = None
        reads = Reads.PERHAPS
        if skimmer is not None:
            found = skimmer.names(text)
        elif (many := _entries(text)) is not None:
            found, reads = many.values, Reads.PLAIN if many.is_plain else Reads.EXACTLY
        if found is None or not names.take(found):
            return False
        start = self.offset
        self._at += len(text)
        proof.add(start, self.offset, reads)
        return True

    def _stretch(self) -> bytes:
        """The entries up to the last end of one in the buffer, as far as can be guessed; empty where that was tried.

        The guess is right if they are an object once they have braces: no other beginning of the rest of an object is one.
        """
        if self._peek() != b'"' or self.offset < self._tried:
            return b""
        if len(self._buffer) - self._at < _CHUNK // 2:
            self._more()
        while not (end := self._buffer.rfind(b'},\n  "', self._at) + 1):
            if len(self._buffer) - self._at >= 4 * _CHUNK or not self._more():
                break
        self._tried = self._base + (end or len(self._buffer))
        text = self._buffer[self._at : end]
        return text if len(text) <= self._limit and _DEEP not in text else b""

    def _values(self, key: str) -> Iterator[Found]:
        if self._peek() != b"[":
            yield self._value(key, None)
            return
        self._take(b"[")
        is_last = self._peek() == b"]" and bool(self._take(b"]"))
        position = 0
        while not is_last:
            yield self._value(key, position)
            position += 1
            is_last = self._take(b",]") == b"]"

    def _key(self) -> str:
        if self._peek() != b'"':
            raise self._unexpected(b'"')
        if simple := self._SIMPLE_KEY.match(self._buffer, self._at):
            with suppress(UnicodeDecodeError):
                name = simple[1].decode()
                self._at = simple.end()
                return name
        found = self._value("", None)
        try:
            key = parsed(found.text) if found.text is not None else None
        except RecordError as exc:
            raise Broken(found.offset, f"a key {exc}") from exc
        if not isinstance(key, str):
            raise Broken(found.offset, "a key is wanted")
        return key

    def _value(self, key: str, position: int | None) -> Found:
        first = self._peek()
        start = self.offset
        depth, in_text, is_large = 0, first == b'"', False
        if first not in (b'"', b"{", b"["):
            return self._word(key, position)
        i = self._at + in_text
        while True:
            i = (self._IN_TEXT if in_text else self._RUN).match(self._buffer, i).end()  # type: ignore[union-attr]
            if i >= len(self._buffer) or (in_text and self._buffer[i] == self._BACKSLASH):
                if is_large or i - self._at > self._limit:
                    is_large, self._at = True, i
                i -= self._at
                if not self._more():
                    raise Broken(self._base + len(self._buffer), "the document ends within a value")
                continue
            char = self._buffer[i]
            i += 1
            if char == self._QUOTE:  # a run stops at a text whose end is not yet there
                in_text = not in_text
            else:
                depth += 1 if char in self._OPENING else -1
            if depth <= 0 and not in_text:
                break
        text = None if is_large else self._buffer[self._at : i]
        self._at = i
        size = self.offset - start
        return Found(key, position, start, size, text if size <= self._limit else None)

    def _word(self, key: str, position: int | None) -> Found:
        """A number, true, false or null."""
        while (end := self._WORD.match(self._buffer, self._at).end()) == len(self._buffer):  # type: ignore[union-attr]
            if end - self._at > self._limit or not self._more():
                break
        found = Found(key, position, self.offset, end - self._at, self._buffer[self._at : end])
        if not found.text:
            raise self._unexpected(b"a value")
        self._at = end
        return found

    def _peek(self) -> bytes:
        """The next character that is no space, not yet taken; nothing at the end."""
        while True:
            self._at = self._SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._more():
                return b""

    def _take(self, wanted: bytes) -> bytes:
        """The next character, which must be one of those wanted."""
        char = self._peek()
        if not char or char not in wanted:
            raise self._unexpected(wanted)
        self._at += 1
        return char

    def _unexpected(self, wanted: bytes) -> Broken:
        words = " or ".join(wanted.decode()) if len(wanted) < 3 else wanted.decode()
        return Broken(self.offset, f"{words} is wanted" if self._peek() else "the document is truncated")

    def _more(self) -> bool:
        """Drop what was taken and read on, in growing steps, so that a long value is not copied over and over."""
        rest = self._buffer[self._at :]
        more = self._file.read(max(_CHUNK, len(rest)))
        self._base, self._at, self._buffer = self._base + self._at, 0, rest + more
        return bool(more)
