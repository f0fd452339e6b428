"""The text of a message in OpenAI's form, and what else it holds."""

from __future__ import annotations

from typing import Any

import pytest

from tokmarg.errors import ContentError
from tokmarg.prompt.message_parts import read_parts

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.invalid/cat.png"}}


@pytest.mark.parametrize(
    ("item", "text", "skipped"),
    [
        ({"content": "a"}, "a", {}),
        ({"content": [{"type": "text", "text": "a"}]}, "a", {}),
        ({"content": [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}]}, "a\nb", {}),
        ({"content": ["a", {"text": "b"}]}, "a\nb", {}),
        ({"content": [{"type": "text", "text": {"value": "a", "annotations": []}}]}, "a", {}),
        ({"content": [IMAGE, {"type": "text", "text": "a"}, IMAGE]}, "a", {"image_url": 2}),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No.", {}),
        ({"content": None, "refusal": "No."}, "No.", {}),
        ({"content": "", "refusal": None}, "", {}),
        ({"content": []}, "", {}),
        ({"content": [{"type": "text", "text": None}]}, "", {}),
        ({"content": None, "tool_calls": [{}, {}]}, "", {"tool_calls": 2}),
        ({"tool_calls": [{}]}, "", {"tool_calls": 1}),
        ({"content": "a", "tool_calls": [], "function_call": None, "audio": None}, "a", {}),
        ({"content": None, "function_call": {"name": "f"}}, "", {"function_call": 1}),
        ({"content": None, "audio": {"id": "x"}}, "", {"audio": 1}),
        ({"content": [{"type": "tool_use", "input": {}}], "name": "Bob"}, "", {"tool_use": 1}),
        ({"content": [{"type": "x" * 1000}]}, "", {"x" * 40: 1}),
    ],
)
def test_text_and_what_is_left_out(item: dict[str, Any], text: str, skipped: dict[str, int]) -> None:
    assert read_parts(item, "messages[0]") == (text, skipped)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "m.content must be a text, not None"),
        ({"content": {"type": "text"}}, "m.content must be a text, not {'type'"),
        ({"content": [None]}, r"m.content\[0\] must be a text or an object with a type, not None"),
        ({"content": [{}]}, r"m.content\[0\].type must be a text, not None"),
        ({"content": [{"type": "text", "text": 7}]}, r"m.content\[0\].text must be a text, not 7"),
        ({"content": ["a", {"type": "refusal", "refusal": []}]}, r"m.content\[1\].refusal must be a text, not \[\]"),
    ],
)
def test_wrong_types_are_named(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ContentError, match=message) as caught:
        read_parts(item, "m")
    assert caught.value.type == "invalid_record"
