"""Readers of input records: JSONL, CSV or plain lines, from a byte stream and one record at a time.

Output line n is record n. So a record that cannot be read raises nothing: a ContentError is yielded in its place, and
bytes that are not UTF-8 affect their own record only.

    jsonl   one object per line with ``text`` or ``messages``, optional ``id``; other fields are ignored, but no field
            may be there twice
    csv     a header, a text column, and an optional ``id`` column; quoted fields may span lines
    lines   every line is one text

Every line is a record, a blank one too; the newline that ends the last line starts none. ``id`` is passed
through as it is; a record without one (an empty CSV cell counts as none) has its 1-based number for id.

Reading can resume after any record (:class:`InputPosition`), and yields what reading from the start would have yielded.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, Literal

from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Record

from .documents import unique_json
from .errors import ContentError, TokmargError

__all__ = ["FORMATS", "START", "Format", "InputPosition", "csv_rows", "format_of", "read_records", "read_texts"]

Format = Literal["jsonl", "csv", "lines"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "lines")
_EXTENSIONS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "lines"}
_BOM = b"\xef\xbb\xbf"
#: Characters that one CSV field may have: the largest limit that the csv module takes on every platform.
_FIELD_LIMIT = 2**31 - 1
#: Nesting that an id or messages may have. Later steps recurse into them; Python stops near 1000.
_DEPTH = 100
#: Characters that the ``surrogateescape`` decoder produces for bytes that are not UTF-8.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class InputPosition:
    """A position between two records: the number of records, bytes and lines (newlines) of the input before it."""

    records: int
    bytes: int
    lines: int


START = InputPosition(0, 0, 0)


def format_of(path: str) -> Format | None:
    """The format that a file's extension names, or None.

    >>> format_of("posts.JSONL"), format_of("posts.dat")
    ('jsonl', None)
    """
    return _EXTENSIONS.get(PurePath(path).suffix.lower())


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
    start: InputPosition = START,
) -> Iterator[Record | ContentError]:
    """Reads records lazily; of a CSV file the header is read at once.

    Args:
        stream: bytes, UTF-8 with or without byte order mark.
        format: of the stream.
        role: role of bare texts; beside ``messages`` it makes the record an error when it is scored.
        text_field: JSONL field or CSV column that holds the text.
        start: position to start from; any but the beginning needs a stream that can seek.

    Raises:
        TokmargError: a CSV file without the text column, or with two of a column that is read.
    """
    if format == "csv":
        return _read_csv(stream, role, text_field, start)
    if start.bytes:
        stream.seek(start.bytes)
    if format == "lines":
        return _read_lines(stream, role, start)
    return _read_jsonl(stream, role, text_field, start)


def _raw_lines(stream: BinaryIO, start: InputPosition = START) -> Iterator[bytes]:
    """Lines with their ends. Only a newline ends a line: text may hold any other separator."""
    first = stream.readline()
    if not start.bytes:
        first = first.removeprefix(_BOM)
    if first:  # nothing but a byte order mark is an empty file
        yield first
        yield from stream


def _lines(stream: BinaryIO, start: InputPosition) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their ends."""
    for number, line in enumerate(_raw_lines(stream, start), start.records + 1):
        yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the line is not valid UTF-8 at byte {error.start + 1}"
        raise ContentError("invalid_encoding", message, number) from None


def _read_lines(stream: BinaryIO, role: Role | None, start: InputPosition) -> Iterator[Record | ContentError]:
    for number, line in _lines(stream, start):
        try:
            yield Record(_decode(line, number), number, role)
        except ContentError as error:
            yield error


def _read_jsonl(
    stream: BinaryIO, role: Role | None, text_field: str, start: InputPosition
) -> Iterator[Record | ContentError]:
    for number, line in _lines(stream, start):
        try:
            yield _json_record(_decode(line, number), number, role, text_field)
        except ContentError as error:
            yield error


def _json_record(line: str, number: int, role: Role | None, text_field: str) -> Record:
    def invalid(message: str, id: object = number) -> ContentError:
        return ContentError("invalid_record", message, id)

    if not line.strip():
        raise invalid("the line is blank")
    try:
        data = unique_json(line)
    except json.JSONDecodeError as error:
        raise invalid(f"not valid JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise invalid("not valid JSON: nested too deeply") from None
    except ValueError as error:  # a field twice, or an integer of thousands of digits
        raise invalid(f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise invalid(f"the line must hold a JSON object, not {_kind(data)}")
    id = data.get("id", number)
    if _is_deep(id, _DEPTH) or not _is_finite(id):
        raise invalid("id cannot be passed through: it is nested too deeply, or not finite")
    has_text, has_messages = text_field in data, "messages" in data
    if has_text and has_messages:
        raise invalid(f"the record has both {text_field} and messages; it needs one of them", id)
    if has_text:
        if not isinstance(data[text_field], str):
            raise invalid(f"{text_field} must be a string, not {_kind(data[text_field])}", id)
        return Record(data[text_field], id, role)
    if not has_messages:
        raise invalid(f"the record has neither {text_field} nor messages", id)
    if not isinstance(data["messages"], list):
        raise invalid(f"messages must be a list, not {_kind(data['messages'])}", id)
    if _is_deep(data["messages"], _DEPTH):
        raise invalid("messages are nested too deeply", id)
    return Record(data["messages"], id, role)


def _kind(value: object) -> str:
    """The JSON type of a value, for messages."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds: list[tuple[type, str]] = [(str, "a string"), (list, "a list"), (dict, "an object")]
    return next((name for kind, name in kinds if isinstance(value, kind)), "a number")


def _is_deep(value: object, levels: int) -> bool:
    """Whether lists and objects are nested more than so many levels deep."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deep(item, levels - 1) for item in value))


def _is_finite(id: object) -> bool:
    """Whether an id can be written as JSON again: ``1e999`` was read as infinity."""
    try:
        json.dumps(id, allow_nan=False)
    except ValueError:
        return False
    return True


def _read_csv(
    stream: BinaryIO, role: Role | None, text_field: str, start: InputPosition
) -> Iterator[Record | ContentError]:
    rows = csv_rows(stream)
    header = next(rows, None)
    if header is None:
        return iter(())
    if isinstance(header, str):
        raise TokmargError(f"the CSV header cannot be read: {header}")
    columns = ", ".join(map(repr, header))
    if header.count("id") > 1:
        raise TokmargError(f"the CSV input has {header.count('id')} columns 'id'")
    if (count := header.count(text_field)) != 1:
        has = f"{count} columns" if count else "no column"
        raise TokmargError(
            f"the CSV input has {has} {text_field!r:.60} (columns: {columns:.300}; --text-field names another)"
        )
    if start.bytes:  # the csv module reads no further than the row it returns
        stream.seek(start.bytes)
        rows = csv_rows(stream, start)
    return _csv_records(rows, header, role, text_field, start.records)


def _csv_records(
    rows: Iterator[list[str] | str], header: list[str], role: Role | None, text_field: str, before: int
) -> Iterator[Record | ContentError]:
    text_at = header.index(text_field)
    id_at = header.index("id") if "id" in header else None
    for number, row in enumerate(rows, before + 1):
        if isinstance(row, str):
            yield ContentError("invalid_record", row, number)
        elif not row:
            yield ContentError("invalid_record", "the row is blank", number)
        elif any(map(_NOT_UTF8.search, row)):
            yield ContentError("invalid_encoding", "the row is not valid UTF-8", number)
        elif len(row) != len(header):
            # A text with unquoted commas would be cut at the first.
            message = f"the row has {len(row)} fields, the header {len(header)}; quote fields that hold commas"
            yield ContentError("invalid_record", message, number)
        else:
            id = (row[id_at] if id_at is not None else "") or number
            yield Record(row[text_at], id, role)


def csv_rows(stream: BinaryIO, position: InputPosition = START) -> Iterator[list[str] | str]:
    """Rows of a CSV file, the header first; for a row that cannot be read, an error message instead."""
    text = (line.decode("utf-8", "surrogateescape") for line in _raw_lines(stream, position))
    # strict: else a quote that is never closed silently swallows the rest of the file.
    reader = csv.reader(text, strict=True)
    while True:
        start = position.lines + reader.line_num + 1
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
