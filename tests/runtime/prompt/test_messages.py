"""Contents are read as messages, or refused with the error type that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders import ANSWER, CONVERSATION, QUESTION
from tokmarg.errors import ContentError
from tokmarg.prompt.messages import Message, messages_of


@pytest.mark.parametrize(
    ("content", "role", "type_", "message"),
    [
        ("", None, "empty_text", "text is empty or blank"),
        (" \n\t\u3000", None, "empty_text", "text is empty or blank"),
        ([{"role": "user", "content": " "}], None, "empty_text", r"messages\[0\]\.content is empty or blank"),
        ([*CONVERSATION, {"role": "user", "content": ""}], None, "empty_text", r"messages\[2\]\.content is empty"),
        ("ab\ud83d", None, "invalid_encoding", "text holds a lone surrogate at character 2"),
        (
            [{"role": "user", "content": "\udc00"}],
            None,
            "invalid_encoding",
            r"messages\[0\]\.content holds a lone surr",
        ),
        ("x", "system", "unknown_role", "role 'system' is not one of user, assistant"),
        ("x", "", "unknown_role", "role '' is not one of user, assistant"),
        ([{"role": "tool", "content": "x"}], None, "unknown_role", r"messages\[0\]\.role 'tool' is not one of"),
        ([{"role": ["user"], "content": "x"}], None, "unknown_role", r"messages\[0\]\.role \['user'\] is not one of"),
        ([{"content": "x"}], None, "unknown_role", r"messages\[0\]\.role None is not one of user, assistant"),
        ([{"role": "user"}], None, "invalid_record", r"messages\[0\]\.content must be a text, not None"),
        (
            [{"role": "user", "content": ["x"]}],
            None,
            "invalid_record",
            r"messages\[0\]\.content must be a text, not \[",
        ),
        (["x"], None, "invalid_record", r"messages\[0\] must be an object with role and content"),
        ([], None, "invalid_record", "the conversation has no messages"),
        (CONVERSATION, "user", "invalid_record", "a role was given beside messages"),
        (None, None, "invalid_record", "content must be a text or a list of messages, not None"),
        (7, None, "invalid_record", "content must be a text or a list of messages, not 7"),
        (b"x", None, "invalid_record", "content must be a text or a list of messages, not b'x'"),
        (CONVERSATION[0], None, "invalid_record", "content must be a text or a list of messages, not {'role'"),
    ],
)
def test_content_that_cannot_be_read(content: Any, role: Any, type_: str, message: str) -> None:
    with pytest.raises(ContentError, match=message) as caught:
        messages_of(content, role)
    assert caught.value.type == type_
    assert len(str(caught.value)) < 200


def test_messages_of() -> None:
    assert messages_of(" x ") == (Message("user", " x "),)
    assert messages_of("x", "assistant") == (Message("assistant", "x"),)
    assert messages_of(tuple(CONVERSATION)) == (Message("user", QUESTION), Message("assistant", ANSWER))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from(["user"])


MESSAGES = (
    st.dictionaries(st.sampled_from(["role", "content", "name"]), SCALARS | st.lists(SCALARS, max_size=2)) | SCALARS
)


@given(SCALARS | st.lists(MESSAGES, max_size=3) | MESSAGES, st.none() | SCALARS)
@example([{"role": "user", "content": "x" * 10**6 + "\ud800"}], None)
def test_arbitrary_content_raises_nothing_else(content: Any, role: Any) -> None:
    try:
        messages = messages_of(content, role)
    except ContentError as error:
        message = error.to_dict()["error"]["message"]  # type: ignore[index]
        assert json.dumps(message)
        assert len(message) < 200
    else:
        assert all(m.content.strip() for m in messages)
