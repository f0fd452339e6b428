"""A JSON object with ``text`` or ``messages`` as a record."""

from __future__ import annotations

import json
from typing import Any

from tokmarg.documents import unique_json
from tokmarg.errors import ContentError
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Record

__all__ = ["NESTING", "is_deep", "json_record"]

#: Nesting that an id or messages may have. Later steps recurse into them; Python stops near 1000.
NESTING = 100


def json_record(
    text: str, number: int | None, role: Role | None, text_field: str, what: str = "line"
) -> tuple[Record, dict[str, Any]]:
    """The record of a JSON object, and the object.

    Args:
        text: the JSON text.
        number: of the record, which is its id where the object has none.
        role: of a bare text.
        text_field: the field that holds the text.
        what: the text's name in messages.

    Raises:
        ContentError: ``invalid_record``.
    """

    def invalid(message: str, id: object = number) -> ContentError:
        return ContentError("invalid_record", message, id)

    if not text.strip():
        raise invalid(f"the {what} is blank")
    try:
        data = unique_json(text)
    except json.JSONDecodeError as error:
        raise invalid(f"not valid JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise invalid("not valid JSON: nested too deeply") from None
    except ValueError as error:  # a field twice, or an integer of thousands of digits
        raise invalid(f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise invalid(f"the {what} must hold a JSON object, not {_kind(data)}")
    id = data.get("id", number)
    if is_deep(id, NESTING) or not _is_finite(id):
        raise invalid("id cannot be passed through: it is nested too deeply, or not finite")
    has_text, has_messages = text_field in data, "messages" in data
    if has_text and has_messages:
        raise invalid(f"the record has both {text_field} and messages; it needs one of them", id)
    if has_text:
        if not isinstance(data[text_field], str):
            raise invalid(f"{text_field} must be a string, not {_kind(data[text_field])}", id)
        return Record(data[text_field], id, role), data
    if not has_messages:
        raise invalid(f"the record has neither {text_field} nor messages", id)
    if not isinstance(data["messages"], list):
        raise invalid(f"messages must be a list, not {_kind(data['messages'])}", id)
    if is_deep(data["messages"], NESTING):
        raise invalid("messages are nested too deeply", id)
    return Record(data["messages"], id, role), data


def _kind(value: object) -> str:
    """The JSON type of a value, for messages."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds: list[tuple[type, str]] = [(str, "a string"), (list, "a list"), (dict, "an object")]
    return next((name for kind, name in kinds if isinstance(value, kind)), "a number")


def is_deep(value: object, levels: int) -> bool:
    """Whether lists and objects are nested more than so many levels deep."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(is_deep(item, levels - 1) for item in value))


def _is_finite(id: object) -> bool:
    """Whether an id can be written as JSON again: ``1e999`` was read as infinity."""
    try:
        json.dumps(id, allow_nan=False)
    except ValueError:
        return False
    return True
