"""Which messages of a conversation are judged: the last one, or single ones, each in the light of those before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tokmarg.arguments import check_choice
from tokmarg.errors import ContentError, OptionError
from tokmarg.score_options import JUDGE, Judge

from .labels import ROLES, Role
from .message_parts import read_parts
from .messages import Content, Record, roles_of
from .spec import Spec

__all__ = ["check_judge", "judged_records", "judged_text", "of_record", "to_judge"]


def check_judge(judge: Judge, spec: Spec) -> None:
    """Checks that a guard can judge these messages.

    Raises:
        OptionError: ``judge`` is no such choice, or names a role that the guard cannot judge.
    """
    check_choice("judge", judge, JUDGE)
    if judge in ROLES and judge not in spec.roles:
        raise OptionError(f"judge: {spec.name} cannot judge {judge} messages, only {spec.roles[0]} messages")


def judged_records(
    contents: Iterable[Content | Record | ContentError], judge: Judge, spec: Spec
) -> Iterable[Content | Record | ContentError]:
    """The contents, or for each a record for every message of it that is judged.

    Raises:
        OptionError: as :func:`check_judge` does.
    """
    check_judge(judge, spec)
    return contents if judge == "last" else _each(contents, judge, spec.roles)


def _each(
    contents: Iterable[Content | Record | ContentError], judge: Judge, roles: tuple[Role, ...]
) -> Iterator[Record | ContentError]:
    for content in contents:
        if isinstance(content, ContentError):
            yield content
        else:
            yield from to_judge(content if isinstance(content, Record) else Record(content), judge, roles)


def to_judge(record: Record, judge: Judge, judged: Sequence[Role]) -> list[Record | ContentError]:
    """The records that judge the messages of one, in their order; the record itself for ``last``.

    Args:
        record: a text or a conversation.
        judge: which messages.
        judged: the roles that the guard can judge, for ``each``.

    Returns:
        one record for each message; or one error, where there is none.
    """
    if judge == "last":
        return [record]
    wanted: Sequence[str] = judged if judge == "each" else (judge,)
    try:
        roles = [record.role or "user"] if isinstance(record.content, str) else roles_of(record.content)
    except ContentError:
        return [record]  # the same error when it is read
    if not roles or (record.role is not None and not isinstance(record.content, str)):
        return [record]
    of_messages: list[Record | ContentError] = [
        replace(record, index=i) for i, role in enumerate(roles) if role in wanted
    ]
    message = f"the conversation has no {' or '.join(wanted)} message to judge"
    return of_messages or [ContentError("unsupported_conversation", message, record.id)]


def of_record(error: ContentError, record: Record) -> ContentError:
    """An error with the id of its record, and the judged message where single ones are judged."""
    error.id, error.index = record.id, record.index
    if record.index is not None:
        error.role = _role_of(record.content, record.index) or record.role or "user"
    return error


def _role_of(content: Content, index: int) -> str | None:
    try:
        return None if isinstance(content, str) else roles_of(content)[index]
    except (ContentError, IndexError):
        return None


def judged_text(record: Record) -> str:
    """The text that a record judges, for people; empty where it cannot be read."""
    if isinstance(record.content, str):
        return record.content
    try:
        roles = roles_of(record.content)
        judged = [i for i, role in enumerate(roles) if role in ROLES] if record.index is None else [record.index]
        return read_parts(record.content[judged[-1]], "")[0]
    except (ContentError, IndexError):
        return ""
