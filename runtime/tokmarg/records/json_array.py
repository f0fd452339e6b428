"""Elements of a JSON array, or objects one after the other, from a stream: as much of it is kept as one element takes.

The text is cut where commas and brackets outside of strings say so, and each piece is parsed by itself. So an element
that is not valid JSON is one error, and the next one is read.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from tokmarg.errors import TokmargError

from .lines import check_encoding, errors_of, mark_of

__all__ = ["CutOffError", "JsonPieces"]

_CHUNK = 1 << 16  # bytes
#: Characters of one element at most: a bracket that is never closed would take the rest of the file for one.
_LONGEST = 1 << 28
#: What stands between brackets, and at the top between commas, too; whole strings, whatever they hold.
_TOP, _NESTED = (
    re.compile(rf'(?:[^"{{}}\[\]{more}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL) for more in (",", "")
)
_BLANK = " \t\r\n"


class _Again(io.RawIOBase):
    """A stream whose first bytes have been read already, from its start."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or self._stream.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class CutOffError(Exception):
    """The text ends, or goes wrong, where no further element can be found; says why."""


class JsonPieces:
    """The JSON texts of a stream, one for each element. The stream's first chunk is read at once.

    Args:
        stream: bytes.
        encoding: where there is no byte order mark; None for UTF-8.

    Attributes:
        encoding: the canonical name.
        lines: the stream from its start, where its first line is a whole object: that is JSONL under another name.

    Raises:
        TokmargError: the text begins neither an array nor an object.
    """

    def __init__(self, stream: BinaryIO, encoding: str | None) -> None:
        self._stream, self._size = stream, _CHUNK
        head = stream.read(_CHUNK)
        mark = mark_of(head)
        self.encoding = mark[1] if mark else check_encoding(encoding or "utf-8")
        self._decoder = codecs.getincrementaldecoder(self.encoding)(errors_of(self.encoding))
        self._head = self._decoder.decode(head[len(mark[0]) if mark else 0 :])
        while not self._head.strip(_BLANK) and (chunk := stream.read(_CHUNK)):
            self._head = self._decoder.decode(chunk)
        self.lines: BinaryIO | None = None
        if _is_object(self._head.split("\n", 1)[0]):
            self.lines = io.BufferedReader(_Again(head, stream))
        self._head = self._head.lstrip(_BLANK)
        if self._head and self._head[0] not in "[{":
            raise TokmargError(
                f"the JSON input must be an array of objects, but begins with {self._head[0]!r} (--input-format names "
                "another format)"
            )

    def __iter__(self) -> Iterator[str]:
        """The pieces.

        Raises:
            CutOffError: after the last one.
        """
        return self._pieces(self._head.startswith("["))

    def _chunks(self, first: str) -> Iterator[str]:
        yield first
        while chunk := self._stream.read(self._size):
            yield self._decoder.decode(chunk)
        yield self._decoder.decode(b"", final=True)

    def _pieces(self, array: bool) -> Iterator[str]:
        buffer, at, start, depth, done = "", 0, 0, 0, not self._head
        for chunk in self._chunks(self._head[array:]):
            buffer, at, start = buffer[start:] + chunk, at - start, 0
            while not done:
                top = depth == 0
                found = (_TOP if top else _NESTED).match(buffer, at)
                assert found is not None  # it matches an empty text, too
                at = found.end()
                sign = buffer[at : at + 1]
                if sign in ('"', ""):  # a string that has not ended, or the end of what was read
                    break
                at += 1
                depth += (sign in "{[") - (sign in "}]" and not top)
                ends = array and top and sign in ",]"
                if ends or (not array and sign in "}]" and depth == 0):
                    piece = buffer[start : at - ends].strip(_BLANK)
                    start, done = at, ends and sign == "]"
                    if piece or not done:
                        yield piece
            self._size = max(_CHUNK, len(buffer) - start)  # a long element is copied a few times, not a thousand
            if done and buffer[start:].strip(_BLANK):
                raise CutOffError("text follows the end of the array")
            if len(buffer) - start > _LONGEST:
                raise CutOffError(
                    f"an element has more than {_LONGEST:,} characters: a bracket or a quote is never closed"
                )
        if not done and buffer[start:].strip(_BLANK):
            yield buffer[start:].strip(_BLANK)
        if array and not done:
            raise CutOffError("the array is never closed: the file may be cut off")
