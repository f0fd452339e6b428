"""Input records from files and streams: JSONL, JSON, CSV, TSV, plain lines."""

from .delimited import check_delimiter
from .formats import (
    COLUMNAR,
    FORMATS,
    START,
    ColumnarFormat,
    Format,
    InputPosition,
    check_text,
    columnar_format_of,
    format_of,
    formats_shown,
)
from .json_objects import json_record
from .lines import check_encoding, is_unicode_text, newline_of
from .reader import ReadOptions, Row, read_records, read_rows, read_texts

__all__ = [
    "COLUMNAR",
    "FORMATS",
    "START",
    "ColumnarFormat",
    "Format",
    "InputPosition",
    "ReadOptions",
    "Row",
    "check_delimiter",
    "check_encoding",
    "check_text",
    "columnar_format_of",
    "format_of",
    "formats_shown",
    "is_unicode_text",
    "json_record",
    "newline_of",
    "read_records",
    "read_rows",
    "read_texts",
]
