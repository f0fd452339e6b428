"""Columns of contents: every Arrow type that holds texts or conversations, and what is wrong with a value or a type."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokmarg.dataframes.contents import ContentColumns
from tokmarg.errors import ContentError, TokmargError
from tokmarg.prompt.messages import Record, read_conversation

TEXTS = ["a", None, "bé"]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def contents(table: pa.Table, **columns: Any) -> list[Any]:
    """What is read of the rows: contents, or types and messages of errors."""
    chosen = ContentColumns.choose(table.schema, columns.pop("text", None), columns.pop("messages", None), **columns)
    rows = [row for batch in table.to_batches() for row in chosen.of(batch)]
    return [row.content if isinstance(row, Record) else (row.type, str(row)) for row in rows]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS, pa.string()),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()).dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays([1, 2, 3], TEXTS),
        pa.chunked_array([["a"], [], [None, "bé"]], pa.string()),
    ],
    ids=lambda column: f"{column.type}",
)
def test_every_kind_of_text_column_is_read(column: pa.Array) -> None:
    assert contents(pa.table({"text": column})) == ["a", ("invalid_record", "text must be a text, not null"), "bé"]


PARTS = [
    [{"type": "text", "text": "a", "image_url": None}, {"type": "image_url", "text": None, "image_url": {"url": "x"}}]
]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([TALK]),
        pa.array([TALK], pa.large_list(pa.struct([("role", pa.string_view()), ("content", pa.large_string())]))),
        pa.array([TALK], pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]), 2)),
        pa.array([TALK], pa.list_view(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.array([[list(message.items()) for message in TALK]], pa.list_(pa.map_(pa.string(), pa.string()))),
        pa.array([[{**message, "name": None, "tool_calls": None, "refusal": None} for message in TALK]]),
        pa.array([[{**message, "content": [{"type": None, "text": message["content"]}]} for message in TALK]]),
        pa.array([json.dumps(TALK)]),
        pa.array([json.dumps(TALK)], pa.json_()),
    ],
    ids=lambda column: f"{column.type}"[:60],
)
def test_every_kind_of_conversation_column_is_read(column: pa.Array) -> None:
    (found,) = contents(pa.table({"messages": column}))
    assert [(message.role, message.content) for message in read_conversation(found).messages] == [
        ("user", "hi"),
        ("assistant", "yo"),
    ]


def test_parts_of_a_column_are_counted_by_their_type() -> None:
    (found,) = contents(pa.table({"messages": pa.array([[{"role": "user", "content": PARTS[0]}]])}))
    conversation = read_conversation(found)
    assert conversation.messages[0].content == "a"
    assert conversation.skipped == {"image_url": 1}


def test_rows_may_have_a_text_or_a_conversation() -> None:
    table = pa.table({"text": ["a", None, None, "b"], "messages": [None, TALK, None, TALK]})
    assert contents(table) == [
        "a",
        TALK,
        ("invalid_record", "text and messages must be a text, not null"),
        ("invalid_record", "the row has both text and messages; it needs one of them"),
    ]
    assert contents(table, text="text") == ["a", *[("invalid_record", "text must be a text, not null")] * 2, "b"]


def test_what_is_wrong_with_a_value_is_its_rows_error() -> None:
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], dtype=np.int32))
    broken = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xff\xfeb")])
    assert contents(pa.table({"text": broken})) == [
        "a",
        ("invalid_encoding", "text is not valid UTF-8 at byte 1"),
        "b",
    ]
    texts = ["{", '{"a": 1}', "[" * 1_000_000, '[{"role": "user", "role": "user"}]', json.dumps(TALK)]
    *errors, last = contents(pa.table({"chat": texts}), messages="chat")
    assert [kind for kind, _ in errors] == ["invalid_record"] * 4
    assert last == TALK


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ({"a": ["x"]}, {}, r"^there is no column 'text' or 'messages' \(columns: 'a'\)$"),
        ({"a": ["x"]}, {"text": "b"}, r"^there is no column 'b' \(columns: 'a'\)$"),
        ({}, {"text": "b"}, r"^there is no column 'b' \(columns: none\)$"),
        ({"text": [1]}, {}, "^column 'text' is of type int64, which holds no text$"),
        ({"text": [b"a"]}, {}, "^column 'text' is of type binary, which holds no text$"),
        ({"text": [["a"]]}, {}, "^column 'text' is of type list<"),
        ({"messages": [["a"]]}, {}, "^column 'messages' is of type list<.*>, which holds no conversation$"),
        ({"messages": [[{"role": "user"}]]}, {}, "^column 'messages' is of type list<"),
    ],
)
def test_a_missing_column_and_a_wrong_type_are_named(
    table: dict[str, Any], columns: dict[str, str], message: str
) -> None:
    with pytest.raises(TokmargError, match=message):
        contents(pa.table(table), **columns)


def test_ids_are_those_of_the_column_or_numbers() -> None:
    table = pa.table({"text": ["a", None, "c"], "id": pa.array(["x", "y", None])})
    rows = list(ContentColumns.choose(table.schema, None, None, id="id").of(table.to_batches()[0], first=11))
    assert [row.id for row in rows] == ["x", "y", 13]
    assert isinstance(rows[1], ContentError)
    table = pa.table({"text": ["a"], "id": pa.array([7], pa.timestamp("s"))})
    (row,) = ContentColumns.choose(table.schema, None, None, id="id").of(table.to_batches()[0])
    assert row.id == "1970-01-01 00:00:07"
