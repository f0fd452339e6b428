"""Tables as spreadsheets write them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tokmarg.errors import ContentError, OptionError, TokmargError
from tokmarg.records import Format, ReadOptions, read_rows

#: A German sheet: decimal commas, quotes, a line end and the delimiter inside a field; lines end as on Windows.
SHEET = 'id;text;Wert\r\n1;"Grüße; ""ja""\r\nzwei";1,5\r\n2;schön, oder?;2,5\r\n'
EXPECTED = [('Grüße; "ja"\r\nzwei', "1"), ("schön, oder?", "2")]


def read(data: bytes, format: Format = "csv", **options: Any) -> tuple[list[Any], list[str]]:
    """Text and id of each record, or the message of its error; and what was noticed."""
    noticed: list[str] = []
    rows = read_rows(io.BytesIO(data), format, ReadOptions(notice=noticed.append, **options))
    found = [str(row) if isinstance(row, ContentError) else (row[0].content, row[0].id) for row in rows]
    return found, noticed


@pytest.mark.parametrize(
    ("encoding", "noticed"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", ", the encoding is UTF-16"),
        ("utf-32", ", the encoding is UTF-32"),
    ],
)
def test_semicolons_and_byte_order_marks_are_found(encoding: str, noticed: str) -> None:
    assert read(SHEET.encode(encoding)) == (EXPECTED, [f"fields are separated by semicolons{noticed}"])


def test_big_endian_utf_16() -> None:
    data = b"\xfe\xff" + SHEET.encode("utf-16-be")
    assert read(data) == (EXPECTED, ["fields are separated by semicolons, the encoding is UTF-16"])


@pytest.mark.parametrize("encoding", ["cp1252", "iso-8859-15", "mac_roman", "utf-16-le"])
def test_other_encodings_are_given(encoding: str) -> None:
    found, noticed = read(SHEET.encode(encoding), encoding=encoding, delimiter=";")
    assert (found, noticed) == (EXPECTED, [])


def test_a_byte_that_is_not_of_the_encoding_spoils_its_row_only() -> None:
    found, _ = read(b"text;x\nsch\xf6n;1\nb;2\n")
    assert found == ["the row is not valid UTF-8", ("b", 2)]
    found, _ = read(b"text;x\n\x81;1\nb;2\n", encoding="cp1252")
    assert found == ["the row is not valid cp1252", ("b", 2)]
    lone = "text;x\n".encode("utf-16") + b"\x00\xd8;\x001\x00\n\x00" + "b;2\n".encode("utf-16-le")
    assert read(lone)[0] == ["the row is not valid UTF-16", ("b", 2)]


@pytest.mark.parametrize("format", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_that_which_makes_the_column(format: Format, delimiter: str) -> None:
    data = f'"a b"{delimiter}text{delimiter}id\nx{delimiter}"one{delimiter} two"{delimiter}7\n'.encode()
    found, noticed = read(data, format)
    assert found == [(f"one{delimiter} two", "7")]
    assert bool(noticed) == ((format, delimiter) not in [("csv", ","), ("tsv", "\t")])
    assert read(data, format, delimiter=delimiter) == (found, [])


def test_the_formats_own_delimiter_comes_first() -> None:
    """A column whose name holds another delimiter changes nothing."""
    assert read(b"text,a;b;c\nx,y\n") == ([("x", 1)], [])
    assert read(b"text\na;b\n") == ([("a;b", 1)], [])


def test_the_delimiter_may_be_named_in_front_of_the_header() -> None:
    assert read(b"sep=;\r\ntext;x\r\na, b;c\r\n")[0] == [("a, b", 1)]
    assert read(b"sep=,\ntext,x\na;b,c\n") == ([("a;b", 1)], [])
    assert read(b"sep=\t\ntext\tx\na\tb\n", delimiter="tab")[0] == [("a", 1)]


def test_rows_with_more_fields_name_the_delimiter() -> None:
    assert read(b"text;x\na;b;c\n")[0] == ["the row has 3 fields, the header 2; quote fields that hold semicolons"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id;Beitrag\n1;a\n", r"has no column 'text' \(columns: 'id', 'Beitrag'; --text-field names another\)"),
        (b"text\ra\rb\r", "carriage returns alone, as in 'CSV \\(Macintosh\\)'"),
        ("text\tid\na\t1\n".encode("utf-16-le"), "--encoding utf-16-le reads UTF-16 without a byte order mark"),
        (b"text,text\na,b\n", "2 columns 'text'"),
        (b"text,labels,labels\na,b,c\n", "2 columns 'labels'"),
    ],
)
def test_headers_that_cannot_be_used(data: bytes, message: str) -> None:
    with pytest.raises(TokmargError, match=message):
        read(data, columns=("labels",))


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "tabs"])
def test_delimiters_that_cannot_be(delimiter: str) -> None:
    with pytest.raises(OptionError, match="a delimiter is one character, or tab, not"):
        ReadOptions(delimiter=delimiter)
