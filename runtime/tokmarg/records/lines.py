"""Lines of a byte stream in any encoding whose lines end in newlines.

A file is UTF-8, unless a byte order mark or the caller says otherwise. It is cut into lines before it is decoded, so
that bytes that are not of the encoding affect their own line only, and the stream is never read beyond the line that
was asked for: its position is that of the next line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from tokmarg.errors import ContentError, OptionError

from .formats import START, InputPosition

__all__ = [
    "INVALID",
    "Lines",
    "check_encoding",
    "decode_marked",
    "encoding_at_start",
    "errors_of",
    "is_unicode_text",
    "mark_of",
    "newline_of",
    "shown",
]

#: Byte order marks; UTF-32's first, one of which begins like one of UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: What an encoding means that leaves the order of bytes to a mark, where there is none.
_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}
#: Characters that stand for bytes which are not of the encoding, see :func:`decode_marked`.
INVALID = re.compile("[\udc80-\udcff]")
_MARKING = "tokmarg.mark-invalid"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udc80", error.end


codecs.register_error(_MARKING, _mark)


def check_encoding(name: str) -> str:
    """The canonical name of an encoding.

    Raises:
        OptionError: there is no such encoding, or its lines do not end in newlines.
    """
    try:
        found = codecs.lookup(name).name
        newline = "\n".encode(_WITHOUT_MARK.get(found, found))
        newline.decode(found, _MARKING)  # which the codecs of domain names cannot do
    except (LookupError, UnicodeError, ValueError):
        raise OptionError(
            f"{name!r:.60} is no encoding that Python knows (such as cp1252, utf-16, shift_jis)"
        ) from None
    if b"\n" not in newline:
        raise OptionError(f"the lines of {name:.60} do not end in newlines")
    return _WITHOUT_MARK.get(found, found)


def mark_of(head: bytes) -> tuple[bytes, str] | None:
    """The byte order mark that a file begins with, and its encoding."""
    return next((mark for mark in _MARKS if head.startswith(mark[0])), None)


def is_unicode_text(head: bytes) -> bool:
    """Whether a file begins as a table that a spreadsheet wrote as "Unicode text": UTF-16, tabs in its first line."""
    mark = mark_of(head)
    if mark is None or not mark[1].startswith("utf-16"):
        return False
    return "\t" in head[len(mark[0]) :].decode(mark[1], "replace").split("\n", 1)[0]


def encoding_at_start(stream: BinaryIO, encoding: str | None) -> str:
    """The encoding of a stream that can seek; it is at its start afterwards."""
    stream.seek(0)
    mark = mark_of(stream.read(4))
    stream.seek(0)
    return mark[1] if mark else check_encoding(encoding or "utf-8")


def shown(encoding: str) -> str:
    """An encoding for people: ``UTF-16`` for ``utf-16-le``."""
    return re.sub(r"^utf-(16|32)-[lb]e$", r"utf-\1", encoding).upper() if encoding.startswith("utf-") else encoding


def errors_of(encoding: str) -> str:
    """The error handler of decoders that mark what is not of the encoding with characters of :data:`INVALID`."""
    return "surrogateescape" if encoding == "utf-8" else _MARKING


def decode_marked(line: bytes, encoding: str) -> str:
    """A text in which characters of :data:`INVALID` stand for bytes that are not of the encoding."""
    return line.decode(encoding, errors_of(encoding))


def newline_of(stream: BinaryIO, encoding: str | None) -> bytes:
    """The bytes of a newline in a stream that can seek; it is at its start afterwards."""
    return "\n".encode(encoding_at_start(stream, encoding))


class Lines:
    """The lines of a stream, with their ends. Only a newline ends a line: text may hold any other separator.

    Args:
        stream: bytes.
        encoding: where there is no byte order mark; None for UTF-8.
        start: position to start from; any but the beginning needs a stream that can seek.

    Attributes:
        encoding: the canonical name.
    """

    def __init__(self, stream: BinaryIO, encoding: str | None = None, start: InputPosition = START) -> None:
        self._stream = stream
        if start.bytes:
            self.encoding = encoding_at_start(stream, encoding)
            stream.seek(start.bytes)
            self._first = stream.readline()
        else:
            self._first = stream.readline()
            mark = mark_of(self._first)
            self.encoding = mark[1] if mark else check_encoding(encoding or "utf-8")
            self._first = self._first[len(mark[0]) :] if mark else self._first
        self._newline, self._return = (end.encode(self.encoding) for end in "\n\r")

    def __iter__(self) -> Iterator[bytes]:
        if len(self._newline) > 1:
            return self._wide()
        return self._narrow()

    def _narrow(self) -> Iterator[bytes]:
        if self._first:  # nothing but a byte order mark is an empty file
            yield self._first
            yield from self._stream

    def _wide(self) -> Iterator[bytes]:
        """Lines of characters of several bytes, of which a newline's last byte may be a part."""
        line, width = self._first, len(self._newline)
        while line:
            line += self._stream.read(-len(line) % width)
            while not line.endswith(self._newline) and (more := self._stream.readline()):
                line += more
                line += self._stream.read(-len(line) % width)
            yield line
            line = self._stream.readline()

    def texts(self) -> Iterator[str]:
        """The lines, with their ends, decoded as by :func:`decode_marked`."""
        return (decode_marked(line, self.encoding) for line in self)

    def bare(self, line: bytes) -> bytes:
        """A line without its end."""
        return line.removesuffix(self._newline).removesuffix(self._return)

    def decode(self, line: bytes, number: int) -> str:
        """A line's text.

        Raises:
            ContentError: it is not of the encoding.
        """
        try:
            return line.decode(self.encoding)
        except UnicodeDecodeError as error:
            message = f"the line is not valid {shown(self.encoding)} at byte {error.start + 1}"
            raise ContentError("invalid_encoding", message, number) from None
