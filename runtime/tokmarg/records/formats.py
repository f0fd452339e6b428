"""Formats of input files, and positions between records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, get_args

from tokmarg.errors import TokmargError

__all__ = [
    "COLUMNAR",
    "COLUMNAR_EXTENSIONS",
    "EXTENSIONS",
    "FORMATS",
    "START",
    "ColumnarFormat",
    "Format",
    "InputPosition",
    "check_text",
    "columnar_format_of",
    "format_of",
    "formats_shown",
]

Format = Literal["jsonl", "json", "csv", "tsv", "lines"]
FORMATS: tuple[Format, ...] = get_args(Format)
EXTENSIONS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "lines",
}
#: Formats of columns, which :mod:`tokmarg.dataframes` reads and writes.
ColumnarFormat = Literal["parquet", "arrow", "feather"]
COLUMNAR: tuple[ColumnarFormat, ...] = get_args(ColumnarFormat)
COLUMNAR_EXTENSIONS: dict[str, ColumnarFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "feather",
}
#: First bytes of files that are no text -> what they are, and the way out.
_BINARY = {
    b"PK\x03\x04": "a spreadsheet or another ZIP file: save the sheet as CSV, or unpack the file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"\x1f\x8b": "compressed: unpack it",
    b"BZh": "compressed: unpack it",
    b"\xfd7zXZ": "compressed: unpack it",
    b"(\xb5/\xfd": "compressed: unpack it",
    b"PAR1": "Parquet, which is no text",
    b"ARROW1": "Arrow, which is no text",
    b"%PDF-": "a PDF, which is no text",
    b"SQLite format 3": "a database, which is no text",
}


@dataclass(frozen=True, slots=True)
class InputPosition:
    """A position between two records: the number of records, bytes and lines (newlines) of the input before it.

    In a JSON array it is the number of records that counts; bytes and lines are those that had been read.
    """

    records: int
    bytes: int
    lines: int


START = InputPosition(0, 0, 0)


def format_of(path: str) -> Format | None:
    """The format that a file's extension names, or None.

    >>> format_of("posts.JSONL"), format_of("posts.dat")
    ('jsonl', None)
    """
    return EXTENSIONS.get(PurePath(path).suffix.lower())


def columnar_format_of(path: str) -> ColumnarFormat | None:
    """The format of columns that a file's extension names, or None."""
    return COLUMNAR_EXTENSIONS.get(PurePath(path).suffix.lower())


def formats_shown() -> str:
    """The extensions that name a format, for messages."""
    return " ".join(EXTENSIONS)


def check_text(head: bytes) -> None:
    """Refuses a file that is no text.

    Args:
        head: its first bytes, 16 or more where it has them.

    Raises:
        TokmargError: what it is instead.
    """
    for magic, what in _BINARY.items():
        if head.startswith(magic):
            raise TokmargError(f"is {what}")
