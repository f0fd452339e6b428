"""Contents as tables hand them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tokmarg.errors import ContentError
from tokmarg.prompt.messages import Message, Record, read_conversation

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [{"type": "text", "text": "yo"}]},
]
PLAIN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
#: Messages whose parts, and what holds them, are arrays: what pandas reads from Parquet.
NESTED = np.array([TALK[0], {"role": "assistant", "content": np.array(TALK[1]["content"])}], dtype=object)


@pytest.mark.parametrize(
    "content",
    [
        pa.array([PLAIN])[0],
        pa.array([PLAIN])[0].values,
        list(pa.array(PLAIN)),
        [{"role": pa.scalar(each["role"]), "content": pa.scalar(each["content"])} for each in PLAIN],
        np.array(TALK, dtype=object),
        NESTED,
        pl.Series([PLAIN])[0],
        pd.Series(PLAIN),
    ],
    ids=lambda content: type(content).__name__,
)
def test_conversations_of_tables_are_read(content: Any) -> None:
    found = read_conversation(Record(content).content)
    assert found.messages == (Message("user", "hi"), Message("assistant", "yo"))
    assert found.skipped == {}


@pytest.mark.parametrize("text", [pa.scalar("hi"), pa.scalar("hi", pa.string_view()), np.str_("hi"), np.array("hi")])
def test_texts_of_tables_are_read(text: Any) -> None:
    assert read_conversation(Record(text).content).messages == (Message("user", "hi"),)


@pytest.mark.parametrize("value", [None, float("nan"), pd.NA, np.float64("nan"), pa.scalar(None), pa.scalar(1), b"a"])
def test_what_is_no_content_is_refused(value: Any) -> None:
    with pytest.raises(ContentError, match="content must be a text or a list of messages") as found:
        read_conversation(Record(value).content)
    assert found.value.type == "invalid_record"


def test_bytes_that_are_not_utf8_are_refused() -> None:
    offsets = pa.py_buffer(np.array([0, 2], dtype=np.int32))
    (scalar,) = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(ContentError, match="content must be a text"):
        read_conversation(Record(scalar).content)
