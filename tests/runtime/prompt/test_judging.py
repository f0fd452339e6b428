"""Which messages of a conversation are judged."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import CONVERSATION, builder_of, resolved
from tokmarg.errors import ContentError, OptionError
from tokmarg.prompt.judging import check_judge, judged_records, judged_text, to_judge
from tokmarg.prompt.labels import ROLES
from tokmarg.prompt.messages import Record
from tokmarg.prompt.spec import Spec

TEMPLATE = resolved("instruct")["template"]
LOG = [{"role": "system", "content": "x"}, *CONVERSATION, {"role": "user", "content": "thanks"}]


@pytest.mark.parametrize(
    ("judge", "indices"), [("last", [None]), ("each", [1, 2, 3]), ("user", [1, 3]), ("assistant", [2])]
)
def test_a_record_for_each_judged_message(judge: Any, indices: list[int | None]) -> None:
    record = Record(LOG, "a")
    rows = to_judge(record, judge, ROLES)
    assert [row.index for row in rows] == indices
    assert all(isinstance(row, Record) and row.content is LOG and row.id == "a" for row in rows)


def test_a_bare_text_is_one_message() -> None:
    assert to_judge(Record("x", 1), "each", ROLES) == [Record("x", 1, None, 0)]
    assert to_judge(Record("x", 1, "assistant"), "assistant", ROLES) == [Record("x", 1, "assistant", 0)]
    (error,) = to_judge(Record("x", 1), "assistant", ROLES)
    assert isinstance(error, ContentError)
    assert (error.type, error.id) == ("unsupported_conversation", 1)


def test_each_message_that_the_guard_can_judge() -> None:
    assert [row.index for row in to_judge(Record(LOG), "each", ("assistant",))] == [2]
    (error,) = to_judge(Record(LOG[:2]), "each", ("assistant",))
    assert "the conversation has no assistant message to judge" in str(error)


@pytest.mark.parametrize("content", [7, [], [7], [{"role": "human", "content": "x"}]])
def test_a_conversation_that_cannot_be_read_is_one_row(content: Any) -> None:
    assert to_judge(Record(content, 3), "each", ROLES) == [Record(content, 3)]


def test_a_guard_may_not_judge_a_role() -> None:
    spec = builder_of("llama-guard-3-8b").spec
    check_judge("user", spec)
    with pytest.raises(OptionError, match="judge 'first' is not one of last, each, user, assistant"):
        check_judge("first", spec)  # type: ignore[arg-type]
    alone = Spec.parse({**resolved("instruct"), "template": {**TEMPLATE, "roles": {"assistant": "Agent"}}}, "x")
    check_judge("assistant", alone)
    with pytest.raises(OptionError, match="judge: instruct cannot judge user messages, only assistant messages"):
        check_judge("user", alone)


def test_errors_pass_through() -> None:
    error = ContentError("invalid_record", "x", 1)
    assert list(judged_records([error, "x"], "each", builder_of("llama-guard-3-8b").spec)) == [
        error,
        Record("x", index=0),
    ]


def test_the_judged_text() -> None:
    assert judged_text(Record("a")) == "a"
    assert judged_text(Record(LOG)) == "thanks"
    assert judged_text(Record([*LOG, {"role": "tool", "content": "x"}], index=2)) == CONVERSATION[1]["content"]
    assert judged_text(Record([7])) == judged_text(Record([])) == judged_text(Record(LOG, index=99)) == ""  # type: ignore[list-item]
