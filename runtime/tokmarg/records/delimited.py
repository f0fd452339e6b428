"""Tables: rows of fields between delimiters, as CSV and TSV files have them, and how spreadsheets write them.

Spreadsheets separate fields by what the system's language wants: where a comma is the decimal sign that is ``;``. The
delimiter that makes a column of the header the wanted one is taken, the format's own first; or the one that a line
``sep=;`` in front of the header names.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from typing import BinaryIO

from tokmarg.errors import OptionError, TokmargError

from .formats import START, InputPosition
from .lines import Lines

__all__ = ["Table", "check_delimiter", "delimiter_shown"]

#: Delimiters that are looked for, and their names for people.
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
#: Characters that one field may have: the largest limit that the csv module takes on every platform.
_FIELD_LIMIT = 2**31 - 1
_SEP = re.compile(r'"?sep=([^\r\n])"?\r?\n?')


def check_delimiter(delimiter: str) -> str:
    """The delimiter that an option names: one character, or ``tab``.

    Raises:
        OptionError: it is something else.
    """
    found = "\t" if delimiter.lower() in ("tab", "\\t") else delimiter
    if len(found) != 1 or found in '"\r\n\0':
        raise OptionError(f"a delimiter is one character, or tab, not {delimiter!r:.60}")
    return found


def delimiter_shown(delimiter: str) -> str:
    """A delimiter for people."""
    return _NAMES.get(delimiter, repr(delimiter))


class Table:
    """The rows of a stream; its header is read at once.

    Args:
        stream: bytes.
        own: the format's delimiter.
        column: the header has it, if the delimiter is right.
        delimiter: given by the caller; None looks for it.
        encoding: where there is no byte order mark; None for UTF-8.

    Attributes:
        header: column names; None where the stream is empty.
        delimiter, encoding: as used.

    Raises:
        TokmargError: the header cannot be read.
    """

    def __init__(
        self, stream: BinaryIO, own: str, column: str, delimiter: str | None = None, encoding: str | None = None
    ) -> None:
        self._stream = stream
        lines = Lines(stream, encoding)
        self.encoding = lines.encoding
        texts = lines.texts()
        first = next(texts, None)
        self._skipped = 0
        if first is not None and (named := _SEP.fullmatch(first)):
            delimiter, first, self._skipped = delimiter or named[1], next(texts, None), 1
        self.delimiter = delimiter or _delimiter(first or "", own, column)
        self._rows = _rows(itertools.chain([] if first is None else [first], texts), self.delimiter, self._skipped)
        header = next(self._rows, None)
        if isinstance(header, str):
            raise TokmargError(f"the CSV header cannot be read: {_hint(header)}")
        self.header = header

    def rows(self, start: InputPosition = START) -> Iterator[list[str] | str]:
        """The rows after the header, or after ``start``; for a row that cannot be read, an error message instead."""
        if not start.bytes:  # the csv module reads no further than the row it returns
            return self._rows
        return _rows(Lines(self._stream, self.encoding, start).texts(), self.delimiter, start.lines)


def _delimiter(line: str, own: str, column: str) -> str:
    """The delimiter of a header: one with which it has the column, else the one with which it has the most."""
    found = {each: _fields(line, each) for each in (own, *(name for name in _NAMES if name != own))}
    for delimiter, fields in found.items():
        if column in fields:
            return delimiter
    return max(found, key=lambda each: len(found[each]))


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _hint(message: str) -> str:
    if "new-line character" in message:
        return "its lines end in carriage returns alone, as in 'CSV (Macintosh)': save it as CSV UTF-8"
    return message


def _rows(texts: Iterator[str], delimiter: str, lines: int) -> Iterator[list[str] | str]:
    """Rows of lines, of which ``lines`` have gone before; for a row that cannot be read, an error message instead."""
    # strict: else a quote that is never closed silently swallows the rest of the file.
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    while True:
        start = lines + reader.line_num + 1
        # The csv module's limit (131,072 characters) is global to the process, so it is raised for a row at a time.
        limit = csv.field_size_limit(_FIELD_LIMIT)
        row: list[str] | str
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = f"not valid CSV from line {start} on: {error}"
        finally:
            csv.field_size_limit(limit)
        yield row
