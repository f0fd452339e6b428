"""Input of a guard: contents (a text or a conversation), messages, records, and how a chat log becomes messages.

A chat log holds more than a guard's template does. What the template has no place for is left out and counted
(``skipped``): turns of the system, the developer and tools, parts that are no text, and messages without any text
before the one that is judged. The judged message is the last one of the user or the assistant, or the one that is
asked for; what follows it does not exist for the guard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokmarg.arguments import shown
from tokmarg.errors import ContentError
from tokmarg.score_options import OnRole

from .labels import ROLES, ContextRole, Role
from .message_parts import read_parts
from .plain_values import plain

__all__ = [
    "Content",
    "Conversation",
    "Message",
    "Record",
    "messages_of",
    "read_conversation",
    "roles_of",
]

#: A content: one text, or the messages of a conversation ({"role": ..., "content": ...}) in OpenAI's form.
Content = str | Sequence[Mapping[str, Any]]
#: Role in a chat log -> the template's place for it.
_PLACES: dict[str, Role | ContextRole] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role | ContextRole
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A content with its id.

    Attributes:
        content: the content; an Arrow scalar, a numpy array or a series becomes a text or a list.
        id: passed through to the result.
        role: of a bare text.
        index: which message is judged, from 0, in the light of those before it; None for the last one. Consecutive
            records that share one conversation (the same object) share its beginning when they are scored.
    """

    content: Content
    id: object = None
    role: Role | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if (content := plain(self.content)) is not self.content:
            object.__setattr__(self, "content", content)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template gets of a content.

    Attributes:
        messages: at least one; the last one is judged, and has text.
        skipped: what was left out -> how often: roles, types of parts, ``blank`` for messages without text.
    """

    messages: tuple[Message, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def messages_of(content: Content, role: Role | None = None) -> tuple[Message, ...]:
    """The messages that a template gets which has a place for users and assistants alone.

    Raises:
        ContentError: as :func:`read_conversation` does.
    """
    return read_conversation(content, role).messages


def read_conversation(
    content: Content,
    role: Role | None = None,
    *,
    places: Collection[str] = ROLES,
    in_turn: bool = False,
    on_role: OnRole = "skip",
    index: int | None = None,
) -> Conversation:
    """Reads content as messages.

    Args:
        content: a text, or messages with ``role`` and ``content``.
        role: the role of a bare text (``user`` if None); may not be given with messages.
        places: roles that the template has a place for, ``developer`` counting as ``system`` and ``function`` as
            ``tool``.
        in_turn: the template wants user and assistant in turn: messages of one role that only left-out ones separate
            (a tool's turn between two of the assistant) become one.
        on_role: what to do with messages of the other roles.
        index: the message that is judged; None for the last one of a user or assistant.

    Raises:
        ContentError: wrong type, unknown role, lone surrogates, no message to judge, or a blank one.
    """
    if isinstance(content, str):
        if role is not None and role not in ROLES:
            raise ContentError("unknown_role", f"role {role!r:.60} is not one of {', '.join(ROLES)}")
        return Conversation((Message(role or "user", _checked(content, "text")),))
    if role is not None:
        raise ContentError("invalid_record", "a role was given beside messages, which name their own roles")
    items, roles = content, roles_of(content)
    judged = _judged(roles, index)
    messages: list[Message] = []
    skipped, gap = Counter[str](), False
    for i in range(len(items) if index is None else index + 1):  # a log may end with a tool's turn
        place = _PLACES[roles[i]]
        if roles[i] not in ROLES and place not in places and on_role == "error":
            raise ContentError("unknown_role", f"messages[{i}].role {roles[i]!r} is not one of {', '.join(ROLES)}")
        if roles[i] not in ROLES and (place not in places or i > judged):
            skipped[roles[i]] += 1
            gap = True
            continue
        text, parts = read_parts(plain(items[i]), f"messages[{i}]")
        skipped += parts
        if i == judged or text.strip():
            beside = f" (beside {', '.join(parts)})" if parts else ""
            message = Message(place, _checked(text, f"messages[{i}].content", beside))
            if in_turn and gap and messages and messages[-1].role == place and place in ROLES:
                message = Message(place, f"{messages.pop().content}\n\n{message.content}")
            messages.append(message)
            gap = False
        else:
            gap = True
            if not parts:
                skipped["blank"] += 1
    if judged < 0:
        raise ContentError("unsupported_conversation", "the conversation has no user or assistant message to judge")
    return Conversation(tuple(messages), dict(skipped))


def roles_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The role of each message, as the chat log names it.

    Raises:
        ContentError: these are no messages, or one has an unknown role.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes, bytearray)):
        raise ContentError("invalid_record", f"content must be a text or a list of messages, not {shown(messages)}")
    return [_role(plain(item), i) for i, item in enumerate(messages)]


def _role(item: object, i: int) -> str:
    if not isinstance(item, Mapping):
        raise ContentError("invalid_record", f"messages[{i}] must be an object with role and content")
    role = plain(item.get("role"))
    if not isinstance(role, str) or role not in _PLACES:
        raise ContentError("unknown_role", f"messages[{i}].role {role!r:.60} is not one of {', '.join(_PLACES)}")
    return role


def _judged(roles: Sequence[str], index: int | None) -> int:
    """The place of the judged message."""
    if not roles:
        raise ContentError("invalid_record", "the conversation has no messages")
    if index is None:
        return next((i for i in reversed(range(len(roles))) if roles[i] in ROLES), -1)
    if not 0 <= index < len(roles) or roles[index] not in ROLES:
        raise ContentError("invalid_record", f"messages[{index}] is no user or assistant message to judge")
    return index


def _checked(text: str, place: str, beside: str = "") -> str:
    """A text that has something to read, and is made of characters."""
    if not text.strip():
        raise ContentError("empty_text", f"{place} is empty or blank{beside}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ContentError("invalid_encoding", f"{place} holds a lone surrogate at character {error.start}") from None
    return text
