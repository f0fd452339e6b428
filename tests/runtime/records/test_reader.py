"""Readers of input records: every record keeps its place, whatever is wrong with it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tokmarg.errors import ContentError, TokmargError
from tokmarg.prompt.messages import Record
from tokmarg.records import FORMATS, Format, format_of, read_records, read_texts


def read(data: bytes, format: Format, **options: Any) -> list[Any]:
    return list(read_records(io.BytesIO(data), format, **options))


def types(records: list[Any]) -> list[str]:
    return [r.type if isinstance(r, ContentError) else "ok" for r in records]


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("dir.csv/a.CSV", "csv"),
        ("a.txt", "lines"),
        ("a.json", "json"),
        ("a.tsv", "tsv"),
        ("a.csv.gz", None),
        ("a", None),
        (".csv", None),
    ],
)
def test_format_of_extension(path: str, format: Format | None) -> None:
    assert format_of(path) == format


def test_texts_are_numbered_from_one() -> None:
    assert list(read_texts(["a", "b"], "assistant")) == [Record("a", 1, "assistant"), Record("b", 2, "assistant")]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_empty_input_has_no_records(format: Format, data: bytes) -> None:
    assert read(data, format) == []


def test_lines_are_texts() -> None:
    assert read(b"a\nb", "lines", role="user") == [Record("a", 1, "user"), Record("b", 2, "user")]


def test_lines_blank_ones_are_records_and_last_newline_is_none() -> None:
    assert [r.content for r in read(b"a\n\n \nb\n", "lines")] == ["a", "", " ", "b"]
    assert [r.content for r in read(b"\n", "lines")] == [""]
    assert [r.content for r in read(b"a\n\n", "lines")] == ["a", ""]


def test_lines_end_at_newlines_only() -> None:
    text = "a\rb\x0bc\x0cd\x1ce\x85f\u2028g\u2029h"
    assert [r.content for r in read(text.encode() + b"\r\n\r\r\nz", "lines")] == [text, "\r", "z"]


def test_lines_byte_order_mark_is_dropped_at_the_start_only() -> None:
    assert [r.content for r in read(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", "lines")] == ["a", "\ufeffb"]


def test_invalid_utf8_spoils_its_own_line_only() -> None:
    records = read(b"a\nb\xff\xfec\n\xc3\nd\n\xed\xa0\x80\n", "lines")
    assert types(records) == ["ok", "invalid_encoding", "invalid_encoding", "ok", "invalid_encoding"]
    assert [r.id for r in records] == [1, 2, 3, 4, 5]
    assert "byte 2" in str(records[1])
    assert types(read(b'{"text":"a"}\n{"text":"\xff"}\n{"text":"b"}', "jsonl")) == ["ok", "invalid_encoding", "ok"]


def test_lines_are_read_lazily_and_one_at_a_time() -> None:
    class Endless(io.RawIOBase):
        served = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:2] = b"a\n"
            self.served += 1
            return 2

    source = Endless()
    records = read_records(io.BufferedReader(source, 2), "lines")
    assert source.served == 0
    record = next(records)
    assert isinstance(record, Record)
    assert record.content == "a"
    assert source.served < 5


def test_line_of_many_megabytes() -> None:
    text = "x" * (8 * 2**20)
    assert read(f'{{"text": "{text}"}}\n'.encode(), "jsonl")[0].content == text


def test_jsonl_text_and_messages() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    lines = [{"text": "a", "labels": ["S1"], "x": None}, {"messages": messages}]
    data = "\n".join(map(json.dumps, lines)).encode()
    assert read(data, "jsonl", role="assistant") == [Record("a", 1, "assistant"), Record(messages, 2, "assistant")]


@pytest.mark.parametrize(
    "id", ["x", "", "\ud800", 0, 10**400, 1.5, True, None, ["a", {"b": [1]}], {"k": "v"}, "ü\n\u2028"]
)
def test_jsonl_id_is_passed_through(id: object) -> None:
    (record,) = read(json.dumps({"id": id, "text": "a"}).encode(), "jsonl")
    assert record.id == id
    assert type(record.id) is type(id)


def test_jsonl_id_of_a_record_that_lacks_its_text_is_kept() -> None:
    (record,) = read(b'{"id": "seven"}', "jsonl")
    assert (record.type, record.id) == ("invalid_record", "seven")


@pytest.mark.parametrize("id", ["1e999", "NaN", "[-Infinity]", "[" * 500 + "]" * 500])
def test_jsonl_id_that_json_cannot_hold_is_an_error(id: str) -> None:
    records = read(b'{"text":"a"}\n' + f'{{"id": {id}, "text": "b"}}'.encode(), "jsonl")
    assert types(records) == ["ok", "invalid_record"]
    assert records[1].id == 2
    assert "id" in str(records[1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "blank"),
        (b" \t", "blank"),
        (b"{", "not valid JSON"),
        (b'{"text": "a"} x', "character 15"),
        (b"text", "not valid JSON"),
        (b'"text"', "not a string"),
        (b"[]", "not a list"),
        (b"null", "not null"),
        (b"true", "not true"),
        (b"3", "not a number"),
        (b"{}", "neither text nor messages"),
        (b'{"content": "a"}', "neither text nor messages"),
        (b'{"text": "a", "messages": []}', "both text and messages"),
        (b'{"text": null}', "must be a string, not null"),
        (b'{"text": ["a"]}', "must be a string, not a list"),
        (b'{"text": 5}', "must be a string, not a number"),
        (b'{"messages": "a"}', "must be a list, not a string"),
        (b'{"messages": {"role": "user"}}', "must be a list, not an object"),
        (b'{"messages": ' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_jsonl_invalid_record(line: bytes, message: str) -> None:
    records = read(b'{"text":"a"}\n' + line + b'\n{"text":"b"}\n', "jsonl")
    assert types(records) == ["ok", "invalid_record", "ok"]
    assert message in str(records[1])
    assert "\n" not in str(records[1])
    assert [r.id for r in records] == [1, 2, 3]


def test_jsonl_what_other_fields_hold_does_not_matter() -> None:
    line = b'{"text":"b","n":NaN,"m":-Infinity,"z":' + b"[" * 200 + b"]" * 200 + b"}"
    assert read(line, "jsonl") == [Record("b", 1)]


def test_jsonl_text_field() -> None:
    data = b'{"prompt":"a"}\n{"text":"b"}\n{"prompt":"c","text":"d"}'
    records = read(data, "jsonl", text_field="prompt")
    assert types(records) == ["ok", "invalid_record", "ok"]
    assert [records[0].content, records[2].content] == ["a", "c"]
    assert "prompt" in str(records[1])


def test_csv_columns() -> None:
    data = b"text,id,more\nhello,x1,1\nyou,,2\n"
    assert read(data, "csv", role="user") == [Record("hello", "x1", "user"), Record("you", 2, "user")]
    assert read(b"text,body\na,b\n", "csv", text_field="body") == [Record("b", 1)]


def test_csv_quoted_fields_span_lines() -> None:
    data = 'text\r\n"a, ""b""\r\nc\n\nd"\r\nlast \u2028 one'.encode()
    assert [r.content for r in read(data, "csv")] == ['a, "b"\r\nc\n\nd', "last \u2028 one"]


def test_csv_byte_order_mark_stands_before_a_quoted_header() -> None:
    assert [r.content for r in read(b'\xef\xbb\xbf"text"\na\n', "csv")] == ["a"]


def test_csv_blank_and_empty_cells_keep_their_place() -> None:
    records = read(b'text\na\n\n""\nb\n\n', "csv")
    assert types(records) == ["ok", "invalid_record", "ok", "ok", "invalid_record"]
    assert [r.id for r in records] == [1, 2, 3, 4, 5]
    assert records[2].content == ""


@pytest.mark.parametrize("row", [b"1", b"1,a,b", b""])
def test_csv_row_of_another_length_is_an_error(row: bytes) -> None:
    records = read(b"id,text\n0,a\n" + row + b"\n2,c\n", "csv")
    assert types(records) == ["ok", "invalid_record", "ok"]
    assert records[1].id == 2


def test_csv_unclosed_quote_is_an_error_not_a_long_text() -> None:
    records = read(b'text\na\n"b\nc\nd\n', "csv")
    assert types(records) == ["ok", "invalid_record"]
    assert "line 3" in str(records[1])


def test_csv_stray_quote_is_an_error_and_the_next_row_is_read() -> None:
    records = read(b'text\n"a"b\nc\n', "csv")
    assert types(records) == ["invalid_record", "ok"]


def test_csv_invalid_utf8_spoils_its_own_row_only() -> None:
    records = read(b'id,text\n1,"a\n\xff"\n\xfe,b\n3,c\n', "csv")
    assert types(records) == ["invalid_encoding", "invalid_encoding", "ok"]
    assert [r.id for r in records] == [1, 2, "3"]


def test_csv_field_beyond_the_modules_limit_and_the_limit_is_put_back() -> None:
    before = csv.field_size_limit()
    text = "x" * (before * 3)
    assert read(f"text\n{text}\n".encode(), "csv")[0].content == text
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"id,body\n1,a\n", ["no column 'text'", "'id', 'body'"]),
        (b"id;body\n1;a\n", ["no column 'text'", "'id', 'body'"]),
        (b"text,text\na,b\n", ["2 columns 'text'"]),
        (b'"text\na', ["header"]),
        (b"\n\na\n", ["no column"]),
    ],
)
def test_csv_header_without_the_column_fails_at_once(data: bytes, parts: list[str]) -> None:
    before = csv.field_size_limit()
    with pytest.raises(TokmargError) as caught:
        read_records(io.BytesIO(data), "csv")
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)
    assert csv.field_size_limit() == before


def test_csv_header_of_thousands_of_characters_is_shown_in_part() -> None:
    with pytest.raises(TokmargError, match="has no column 'text'") as caught:
        read(b"id," + b"9" * 5000 + b"\n1,2\n", "csv")
    assert len(str(caught.value)) < 500
