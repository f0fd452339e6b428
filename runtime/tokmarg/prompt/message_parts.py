"""The text of one message of a chat log in OpenAI's form, and what else the message holds.

``content`` is a text, null, or a list of parts. Parts with text are joined by line ends, in their order:

    {"type": "text", "text": "..."}                  and input_text, output_text
    {"type": "refusal", "refusal": "..."}            the assistant's words, too
    "..."

All others (``image_url``, ``input_audio``, ``file``, ``thinking``, ``tool_use`` ...) are left out and counted by their
type, and so are a message's ``tool_calls``, ``function_call`` and ``audio``. Fields that hold no content, such as
``name``, do not matter.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tokmarg.errors import ContentError

from .plain_values import plain

__all__ = ["read_parts"]

#: Type of a part with text -> its field.
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
#: Fields beside ``content``, other than text, that an assistant's message may have instead of it.
_BESIDE = ("tool_calls", "function_call", "audio")
#: Characters of a part's type that are kept; it comes from the data.
_TYPE = 40


def read_parts(item: Mapping[str, Any], place: str) -> tuple[str, Counter[str]]:
    """The text of a message, and how many parts of which type are left out.

    Args:
        item: the message.
        place: its name in errors, such as ``messages[2]``.

    Raises:
        ContentError: ``invalid_record`` where content or a part is of the wrong type.
    """
    skipped: Counter[str] = Counter()
    for field in _BESIDE:
        if value := plain(item.get(field)):
            skipped[field] += len(value) if isinstance(value, list) else 1
    content, texts = plain(item.get("content")), []
    if isinstance(content, list):
        texts = [
            text for j, part in enumerate(content) if (text := _part(plain(part), f"{place}.content[{j}]", skipped))
        ]
    elif isinstance(content, str):
        texts = [content]
    elif content is not None or not ("content" in item or skipped or isinstance(plain(item.get("refusal")), str)):
        raise ContentError("invalid_record", f"{place}.content must be a text, not {content!r:.60}")
    if isinstance(refusal := plain(item.get("refusal")), str) and refusal:
        texts.append(refusal)
    return "\n".join(texts), skipped


def _part(part: object, place: str, skipped: Counter[str]) -> str | None:
    """The text of a part; None for one that has none, which is counted."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ContentError("invalid_record", f"{place} must be a text or an object with a type, not {part!r:.60}")
    type_ = plain(part.get("type"))
    if type_ is None and "text" in part:  # where it may be null: in columns, parts have all fields that one has
        type_ = "text"
    if not isinstance(type_, str):
        raise ContentError("invalid_record", f"{place}.type must be a text, not {type_!r:.60}")
    if type_ not in _TEXTS:
        skipped[type_[:_TYPE]] += 1
        return None
    text = plain(part.get(_TEXTS[type_]))
    if isinstance(text, Mapping):  # of the Assistants API, beside its annotations
        text = plain(text.get("value"))
    if text is not None and not isinstance(text, str):
        raise ContentError("invalid_record", f"{place}.{_TEXTS[type_]} must be a text, not {text!r:.60}")
    return text
