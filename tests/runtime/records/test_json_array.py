"""Elements of a JSON array: in pieces of any size, whatever is wrong with one of them."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmarg.errors import ContentError, TokmargError
from tokmarg.prompt.messages import Record
from tokmarg.records import InputPosition, json_array, read_records
from tokmarg.records.json_array import JsonPieces

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(data: bytes, **options: Any) -> list[Any]:
    """Text of each record, or the message of its error."""
    records = read_records(io.BytesIO(data), "json", **options)
    return [str(each) if isinstance(each, ContentError) else each.content for each in records]


@given(st.lists(VALUES), st.sampled_from([None, 2]), st.booleans(), st.integers(1, 40))
def test_the_pieces_are_the_elements(values: list[Any], indent: int | None, ascii: bool, chunk: int) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK", chunk)
        found = [json.loads(piece) for piece in JsonPieces(io.BytesIO(data), None)]
    assert json.dumps(found) == json.dumps(values)


def test_an_element_that_is_not_valid_is_one_error() -> None:
    data = b'[{"text":"a"},\n{"text": "b",}, 7, "x",, {"text": "\xff"}, {"text": "]},{"}, ]\n'
    assert read(data) == [
        "a",
        "not valid JSON: Expecting property name enclosed in double quotes at character 14",
        "the element must hold a JSON object, not a number",
        "the element must hold a JSON object, not a string",
        "the element is blank",
        "the element is not valid UTF-8",
        "]},{",
    ]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[]", []),
        (b" \n", []),
        (b'[{"text":"a"}', ["a", "not valid JSON: the array is never closed: the file may be cut off"]),
        (b'[{"text":"a"}] []', ["a", "not valid JSON: text follows the end of the array"]),
        (b'{\n "text": "a"\n}\n', ["a"]),
        (b'{\n"text": "a"}\n{"text": "b"}', ["a", "b"]),
        # JSONL under another name: a line that is not valid is one error.
        (
            b'{"text":"a"}\n{"text":"b"\n\n{"text":"c"}\n',
            ["a", "not valid JSON: Expecting ',' delimiter at character 12", "the line is blank", "c"],
        ),
        ('[{"text":"ü漢"}]'.encode("utf-16"), ["ü漢"]),
        ('\ufeff[{"text":"ü"}]'.encode(), ["ü"]),
    ],
)
def test_what_a_json_file_may_be(data: bytes, found: list[str]) -> None:
    assert read(data) == found


@pytest.mark.parametrize("data", [b"text\na\n", b'"a"', b"7"])
def test_what_it_may_not_be(data: bytes) -> None:
    with pytest.raises(TokmargError, match="the JSON input must be an array of objects, but begins with"):
        read(data)


def test_another_encoding() -> None:
    assert read('[{"text":"schön"}]'.encode("cp1252"), encoding="cp1252") == ["schön"]
    assert read('[{"text":"schön"}]'.encode("cp1252")) == ["the element is not valid UTF-8"]


@pytest.mark.parametrize(
    "data", [b'[{"text":"a"},{"id":5,"text":"b"},7,{"text":"c"}]x', b'{"text":"a"}\n7\n{"text":"b"}']
)
def test_reading_goes_on_after_any_record(data: bytes) -> None:
    whole = [str(each) for each in read_records(io.BytesIO(data), "json")]
    for n in range(len(whole) + 1):
        rest = read_records(io.BytesIO(data), "json", start=InputPosition(n, 3, 0))
        assert [str(each) for each in rest] == whole[n:]


def test_no_more_is_kept_than_an_element_takes() -> None:
    class Array:
        """A stream of 200 MB."""

        served = 0

        def read(self, size: int) -> bytes:
            data = b',{"text": "' + b"word " * 190 + b'"}' if self.served else b'[{"text": "a"}'
            self.served += len(data)
            return data

    stream: Any = Array()
    records = read_records(stream, "json")
    tracemalloc.start()
    try:
        for _ in range(5000):
            assert isinstance(next(records), Record)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_a_bracket_that_is_never_closed_ends_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "_LONGEST", 1 << 17)
    data = b'[{"text":"a"},{"text":["b"},' + b'{"text":"c"},' * 30_000 + b"{}]"
    first, error = read(data)
    assert first == "a"
    assert "an element has more than 131,072 characters: a bracket or a quote is never closed" in error
