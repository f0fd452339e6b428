"""Input of a guard: contents (a text or a conversation), messages, and records (a content with an id)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokmarg.errors import ContentError

from .labels import ROLES, Role

__all__ = ["Content", "Message", "Record", "messages_of"]

#: A content: one text, or the messages of a conversation ({"role": ..., "content": ...}).
Content = str | Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A content with its id; ``role`` is the role of a bare text."""

    content: Content
    id: object = None
    role: Role | None = None


def messages_of(content: Content, role: Role | None = None) -> tuple[Message, ...]:
    """Reads content as messages.

    Args:
        content: a text, or messages with ``role`` and ``content``.
        role: the role of a bare text (``user`` if None); may not be given with messages.

    Raises:
        ContentError: wrong type, unknown role, lone surrogates, no message, or an empty last message.
    """
    if isinstance(content, str):
        if role is not None and role not in ROLES:
            raise ContentError("unknown_role", f"role {role!r:.60} is not one of {', '.join(ROLES)}")
        messages: tuple[Message, ...] = (Message(role or "user", content),)
    else:
        if role is not None:
            raise ContentError("invalid_record", "a role was given beside messages, which name their own roles")
        messages = tuple(_message(item, i) for i, item in enumerate(_sequence(content)))
    if not messages:
        raise ContentError("invalid_record", "the conversation has no messages")
    for i, message in enumerate(messages):
        place = "text" if isinstance(content, str) else f"messages[{i}].content"
        if not message.content.strip():
            raise ContentError("empty_text", f"{place} is empty or blank")
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ContentError(
                "invalid_encoding", f"{place} holds a lone surrogate at character {error.start}"
            ) from None
    return messages


def _sequence(content: object) -> Sequence[object]:
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise ContentError("invalid_record", f"content must be a text or a list of messages, not {content!r:.60}")
    return content


def _message(item: object, i: int) -> Message:
    if not isinstance(item, Mapping):
        raise ContentError("invalid_record", f"messages[{i}] must be an object with role and content")
    role, text = item.get("role"), item.get("content")
    if role not in ROLES:
        raise ContentError("unknown_role", f"messages[{i}].role {role!r:.60} is not one of {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise ContentError("invalid_record", f"messages[{i}].content must be a text, not {text!r:.60}")
    return Message(role, text)
