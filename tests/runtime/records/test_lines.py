"""Lines of any encoding, and positions between them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmarg.errors import OptionError
from tokmarg.records.formats import InputPosition
from tokmarg.records.lines import Lines, check_encoding, is_unicode_text, newline_of

#: Characters of which a byte, or two neighbours' bytes, look like a newline in UTF-16.
LOOKALIKES = "\u0a0a\u0a00\u010a\u0a0d਀ਊ"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "gb18030"])
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n") | st.sampled_from(LOOKALIKES)))
)
def test_lines_and_positions(encoding: str, texts: list[str]) -> None:
    data = "\n".join(texts).encode(encoding)
    stream = io.BytesIO(data)
    lines = Lines(stream, encoding)
    found, ends = [], []
    for line in lines:
        found.append(line)
        ends.append(stream.tell())
    assert b"".join(found) == data
    decoded = [line.decode(encoding).removesuffix("\n") for line in found]
    assert decoded == (texts[:-1] if texts and not texts[-1] else texts)
    for i, end in enumerate(ends[:-1]):
        assert list(Lines(stream, encoding, InputPosition(i + 1, end, i + 1))) == found[i + 1 :]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_byte_order_marks(encoding: str) -> None:
    stream = io.BytesIO("a\nü\n".encode(encoding))
    lines = Lines(stream, "cp1252")  # the mark says more
    assert list(lines.texts()) == ["a\n", "ü\n"]
    assert newline_of(stream, None) == "\n".encode(lines.encoding)
    assert list(Lines(io.BytesIO("".encode(encoding)))) == []


def test_line_ends_are_those_of_the_encoding() -> None:
    lines = Lines(io.BytesIO("a\r\nb\r\r\n".encode("utf-16")))
    assert [lines.decode(lines.bare(line), 1) for line in lines] == ["a", "b\r"]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("UTF8", "utf-8"),
        ("utf-16", "utf-16-le"),
        ("Latin1", "iso8859-1"),
        ("windows-1252", "cp1252"),
        ("sjis", "shift_jis"),
    ],
)
def test_encodings_have_many_names(name: str, canonical: str) -> None:
    assert check_encoding(name) == canonical


@pytest.mark.parametrize("name", ["", "nope", "base64", "rot13", "idna", "punycode", "a\0b", "x" * 1000, "undefined"])
def test_names_that_are_no_encoding(name: str) -> None:
    with pytest.raises(OptionError, match="is no encoding that Python knows") as caught:
        check_encoding(name)
    assert len(str(caught.value)) < 200


def test_lines_must_end_in_newlines() -> None:
    with pytest.raises(OptionError, match="the lines of cp037 do not end in newlines"):
        check_encoding("cp037")


def test_unicode_text_of_a_spreadsheet() -> None:
    assert is_unicode_text("id\ttext\n".encode("utf-16"))
    assert not is_unicode_text("id text\na\tb\n".encode("utf-16"))
    assert not is_unicode_text(b"id\ttext\n")
