"""Readers of input records, from a byte stream and one record at a time.

Output line n is record n. So a record that cannot be read raises nothing: a ContentError is yielded in its place, and
bytes that are not of the file's encoding affect their own record only.

    jsonl      one object per line with ``text`` or ``messages``, optional ``id``; other fields are ignored, but no
               field may be there twice
    json       an array of such objects
    csv, tsv   a header, a text column, and an optional ``id`` column; quoted fields may span lines
    lines      every line is one text

Every line is a record, a blank one too; the newline that ends the last line starts none. ``id`` is passed through as it
is; a record without one (an empty cell counts as none) has its 1-based number for id.

Reading can resume after any record (:class:`InputPosition`), and yields what reading from the start would have yielded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from tokmarg.errors import ContentError, TokmargError
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Record

from .delimited import Table, check_delimiter, delimiter_shown
from .formats import START, Format, InputPosition
from .json_array import CutOffError, JsonPieces
from .json_objects import json_record
from .lines import INVALID, Lines, check_encoding, shown

__all__ = ["ReadOptions", "Row", "read_records", "read_rows", "read_texts"]

#: A record, and the fields that it was read from: of JSON those of the object, of a table its cells.
Row = tuple[Record, Mapping[str, Any]]
_OWN_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How an input is read.

    Attributes:
        role: of bare texts; beside ``messages`` it makes the record an error when it is scored.
        text_field: JSON field or column that holds the text.
        delimiter: between the fields of a table; None looks for it in the header.
        encoding: of an input without byte order mark; None is UTF-8.
        columns: further columns of a table that are read; none may be there twice.
        notice: called with one line about a delimiter or encoding that was found and not asked for.

    Raises:
        OptionError: there is no such delimiter or encoding.
    """

    role: Role | None = None
    text_field: str = "text"
    delimiter: str | None = None
    encoding: str | None = None
    columns: tuple[str, ...] = ()
    notice: Callable[[str], object] = lambda message: None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", check_delimiter(self.delimiter))
        if self.encoding is not None:
            check_encoding(self.encoding)

    def tell(self, encoding: str, delimiter: str | None = None) -> None:
        """Tells what was found, if anything was."""
        found = [] if delimiter is None else [f"fields are separated by {delimiter_shown(delimiter)}"]
        if encoding != check_encoding(self.encoding or "utf-8"):
            found.append(f"the encoding is {shown(encoding)}")
        if found:
            self.notice(", ".join(found))


def read_texts(texts: Sequence[str], role: Role | None = None) -> Iterator[Record]:
    """Records of texts that were given as they are."""
    for number, text in enumerate(texts, 1):
        yield Record(text, number, role)


def read_records(
    stream: BinaryIO,
    format: Format,
    *,
    role: Role | None = None,
    text_field: str = "text",
    delimiter: str | None = None,
    encoding: str | None = None,
    start: InputPosition = START,
) -> Iterator[Record | ContentError]:
    """Reads records lazily; of a table the header is read at once, and of a JSON array the beginning.

    Args:
        stream: bytes.
        format: of the stream.
        role, text_field, delimiter, encoding: see :class:`ReadOptions`.
        start: position to start from; any but the beginning needs a stream that can seek.

    Raises:
        TokmargError: a table without the text column, or with two of a column that is read; JSON that is no array.
        OptionError: there is no such delimiter or encoding.
    """
    rows = read_rows(stream, format, ReadOptions(role, text_field, delimiter, encoding), start)
    return (row if isinstance(row, ContentError) else row[0] for row in rows)


def read_rows(
    stream: BinaryIO, format: Format, options: ReadOptions, start: InputPosition = START
) -> Iterator[Row | ContentError]:
    """Reads records as :func:`read_records` does, each with the fields it was read from."""
    if format in _OWN_DELIMITERS:
        return _read_table(stream, _OWN_DELIMITERS[format], options, start)
    if format == "json":
        return _read_json(stream, options, start)
    return (_read_lines if format == "lines" else _read_jsonl)(stream, options, start)


def _numbered(stream: BinaryIO, options: ReadOptions, start: InputPosition) -> Iterator[tuple[int, Lines, bytes]]:
    lines = Lines(stream, options.encoding, start)
    options.tell(lines.encoding)
    for number, line in enumerate(lines, start.records + 1):
        yield number, lines, lines.bare(line)


def _read_lines(stream: BinaryIO, options: ReadOptions, start: InputPosition) -> Iterator[Row | ContentError]:
    for number, lines, line in _numbered(stream, options, start):
        try:
            yield Record(lines.decode(line, number), number, options.role), {}
        except ContentError as error:
            yield error


def _read_jsonl(stream: BinaryIO, options: ReadOptions, start: InputPosition) -> Iterator[Row | ContentError]:
    for number, lines, line in _numbered(stream, options, start):
        try:
            yield json_record(lines.decode(line, number), number, options.role, options.text_field)
        except ContentError as error:
            yield error


def _read_json(stream: BinaryIO, options: ReadOptions, start: InputPosition) -> Iterator[Row | ContentError]:
    """The records of an array, after the first ``start.records`` of them, which are read past again."""
    pieces = JsonPieces(stream, options.encoding)
    if pieces.lines is not None:
        return itertools.islice(_read_jsonl(pieces.lines, options, START), start.records, None)
    options.tell(pieces.encoding)
    return _read_pieces(pieces, options, start.records)


def _read_pieces(pieces: JsonPieces, options: ReadOptions, before: int) -> Iterator[Row | ContentError]:
    number = 0
    try:
        for number, piece in enumerate(pieces, 1):
            if number <= before:
                continue
            try:
                if INVALID.search(piece):
                    message = f"the element is not valid {shown(pieces.encoding)}"
                    raise ContentError("invalid_encoding", message, number)
                yield json_record(piece, number, options.role, options.text_field, "element")
            except ContentError as error:
                yield error
    except CutOffError as error:
        if number >= before:
            yield ContentError("invalid_record", f"not valid JSON: {error}", number + 1)


def _read_table(stream: BinaryIO, own: str, options: ReadOptions, start: InputPosition) -> Iterator[Row | ContentError]:
    table = Table(stream, own, options.text_field, options.delimiter, options.encoding)
    if table.header is None:
        return iter(())
    header, text_field = table.header, options.text_field
    for name in ("id", *options.columns):
        if header.count(name) > 1:
            raise TokmargError(f"the CSV input has {header.count(name)} columns {name!r}")
    if (count := header.count(text_field)) != 1:
        has = f"{count} columns" if count else "no column"
        columns = ", ".join(map(repr, header))
        more = "; --encoding utf-16-le reads UTF-16 without a byte order mark" if "\\x00" in columns else ""
        raise TokmargError(
            f"the CSV input has {has} {text_field!r:.60} (columns: {columns:.300}; --text-field names another{more})"
        )
    options.tell(table.encoding, None if options.delimiter or table.delimiter == own else table.delimiter)
    return _table_rows(table, header, options, start)


def _table_rows(
    table: Table, header: list[str], options: ReadOptions, start: InputPosition
) -> Iterator[Row | ContentError]:
    text_at = header.index(options.text_field)
    id_at = header.index("id") if "id" in header else None
    for number, row in enumerate(table.rows(start), start.records + 1):
        if isinstance(row, str):
            yield ContentError("invalid_record", row, number)
        elif not row:
            yield ContentError("invalid_record", "the row is blank", number)
        elif any(map(INVALID.search, row)):
            yield ContentError("invalid_encoding", f"the row is not valid {shown(table.encoding)}", number)
        elif len(row) != len(header):
            # A text with unquoted delimiters would be cut at the first.
            quote = f"quote fields that hold {delimiter_shown(table.delimiter)}"
            message = f"the row has {len(row)} fields, the header {len(header)}; {quote}"
            yield ContentError("invalid_record", message, number)
        else:
            id = (row[id_at] if id_at is not None else "") or number
            yield Record(row[text_at], id, options.role), dict(zip(header, row, strict=True))
