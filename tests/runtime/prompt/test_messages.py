"""Contents are read as messages, or refused with the error type that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders import ANSWER, CONVERSATION, QUESTION
from tokmarg.errors import ContentError
from tokmarg.prompt.messages import Conversation, Message, messages_of, read_conversation


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
        ([{"role": "human", "content": "x"}], None, "unknown_role", r"messages\[0\]\.role 'human' is not one of"),
        (
            [{"role": "tool", "content": "x"}],
            None,
            "unsupported_conversation",
            "the conversation has no user or assistant message to judge",
        ),
        ([{"role": ["user"], "content": "x"}], None, "unknown_role", r"messages\[0\]\.role \['user'\] is not one of"),
        ([{"content": "x"}], None, "unknown_role", r"messages\[0\]\.role None is not one of user, assistant"),
        ([{"role": "user"}], None, "invalid_record", r"messages\[0\]\.content must be a text, not None"),
        (
            [{"role": "user", "content": [7]}],
            None,
            "invalid_record",
            r"messages\[0\]\.content\[0\] must be a text or an object with a type, not 7",
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


LOG: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [{"id": "1"}, {"id": "2"}]},
    {"role": "tool", "content": "a cat", "tool_call_id": "1"},
    {"role": "function", "name": "f", "content": "a dog"},
    {"role": "user", "content": " "},
    {"role": "assistant", "content": "A cat and a dog."},
    {"role": "developer", "content": "Be kind."},
]


def texts(read: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in read.messages]


def test_what_a_template_has_no_place_for_is_left_out_and_counted() -> None:
    read = read_conversation(LOG)
    assert texts(read) == [
        ("user", "What is\nthis?"),
        ("assistant", "Let me look."),
        ("assistant", "A cat and a dog."),
    ]
    assert read.skipped == {"system": 1, "tool_calls": 2, "tool": 1, "function": 1, "blank": 1, "developer": 1}
    assert read_conversation("x").skipped == {}


def test_a_template_may_have_places_for_them() -> None:
    read = read_conversation(LOG, places=("user", "assistant", "system", "tool"))
    assert [role for role, _ in texts(read)] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert read.skipped == {"tool_calls": 2, "blank": 1, "developer": 1}  # after the judged message nothing exists


def test_messages_of_one_role_that_left_out_ones_separate_become_one_turn() -> None:
    read = read_conversation(LOG, in_turn=True)
    assert texts(read)[1:] == [("assistant", "Let me look.\n\nA cat and a dog.")]
    two = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert texts(read_conversation(two, in_turn=True)) == [("user", "a"), ("user", "b")]  # the template refuses them


def test_one_message_is_judged_in_the_light_of_those_before_it() -> None:
    read = read_conversation(LOG, index=2)
    assert texts(read)[-1] == ("assistant", "Let me look.")
    assert read.skipped == {"system": 1, "tool_calls": 2}
    for index in (0, 3, 8, -1):
        with pytest.raises(ContentError, match=rf"messages\[{index}\] is no user or assistant message to judge"):
            read_conversation(LOG, index=index)


def test_a_blank_judged_message_is_an_error() -> None:
    with pytest.raises(ContentError, match=r"messages\[5\]\.content is empty or blank$") as caught:
        read_conversation(LOG, index=5)
    assert caught.value.type == "empty_text"
    called = [LOG[1], {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    with pytest.raises(ContentError, match=r"messages\[1\]\.content is empty or blank \(beside tool_calls\)$"):
        read_conversation(called)


def test_roles_without_a_place_may_be_errors() -> None:
    with pytest.raises(ContentError, match=r"^messages\[0\]\.role 'system' is not one of user, assistant$") as caught:
        read_conversation(LOG, on_role="error")
    assert caught.value.type == "unknown_role"
    with pytest.raises(ContentError, match=r"messages\[3\]\.role 'tool' is not"):
        read_conversation(LOG, places=("user", "assistant", "system"), on_role="error")
    assert read_conversation(LOG, places=("user", "assistant", "system", "tool"), on_role="error").messages


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from(["user"])
PARTS = st.dictionaries(st.sampled_from(["type", "text", "refusal"]), SCALARS | st.sampled_from(["text", "refusal"]))
MESSAGES = (
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "tool", "x"]) | SCALARS,
            "content": SCALARS | st.lists(SCALARS | PARTS, max_size=3),
            "name": SCALARS,
            "tool_calls": SCALARS | st.lists(SCALARS, max_size=2),
            "refusal": SCALARS,
        },
    )
    | SCALARS
)


@given(SCALARS | st.lists(MESSAGES, max_size=4) | MESSAGES, st.none() | SCALARS)
@example([{"role": "user", "content": "x" * 10**6 + "\ud800"}], None)
def test_arbitrary_content_raises_nothing_else(content: Any, role: Any) -> None:
    try:
        read = read_conversation(content, role)
    except ContentError as error:
        message = error.to_dict()["error"]["message"]  # type: ignore[index]
        assert json.dumps(message)
        assert len(message) < 300
    else:
        assert all(m.content.strip() for m in read.messages)
        assert read.messages[-1].role in ("user", "assistant")
        assert json.dumps(read.skipped)
