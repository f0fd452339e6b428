"""Exceptions of tokmarg: every error that it raises on purpose.

    TokmargError
    ├── BundleError              a bundle is missing, broken, or newer than this tokmarg
    │   └── BundleNotFoundError  nothing at the path, under the name, or installed
    ├── SpecError                a spec, policy or verdict grammar cannot be used
    ├── DeviceError              the requested device is not available, or a forward pass on it failed
    ├── OptionError              an argument is of the wrong type or out of range (also a ValueError)
    ├── Overloaded               too many contents wait to be scored; ``retry_after`` says when to ask again
    └── ContentError             one content cannot be scored; ``type`` is one of ``ERROR_TYPES``

Messages are one line: they name the file, field or value, and say what to do.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ERROR_TYPES",
    "BundleError",
    "BundleNotFoundError",
    "ContentError",
    "DeviceError",
    "OptionError",
    "Overloaded",
    "SpecError",
    "TokmargError",
]

#: All row-error types (the ``error.type`` field of the JSONL output).
ERROR_TYPES: dict[str, str] = {
    "invalid_record": "the input record is not valid JSON or CSV, or a field is missing or of the wrong type",
    "invalid_encoding": "the input record is not UTF-8, or the text holds lone surrogates",
    "empty_text": "the text is empty or blank",
    "unknown_role": "a message role is not one of user, assistant, system, developer, tool, function; or, with on_role "
    "error, the guard's template has no place for it",
    "unsupported_conversation": "the guard's template cannot hold this conversation",
    "not_encodable": "the guard's tokenizer fails on the text",
    "content_too_long": "prompt and verdict do not fit the model's context window, or the content has more tokens than "
    "max_tokens allows",
    "non_finite_logits": "the model returned NaN or infinite logits",
}


class TokmargError(Exception):
    """Base of all errors raised by tokmarg."""


class BundleError(TokmargError):
    """A bundle is missing, broken, or written by a newer tokmarg."""


class BundleNotFoundError(BundleError):
    """No bundle at this path, under this name, or installed."""


class SpecError(TokmargError):
    """A spec, policy or verdict grammar cannot be used."""


class DeviceError(TokmargError):
    """The requested device is not available, or a forward pass on it failed."""


class OptionError(TokmargError, ValueError):
    """An argument is of the wrong type or out of range; the message names it."""


class Overloaded(TokmargError):  # noqa: N818  (no error of the caller's, as TimeoutError and Empty are none)
    """Too many contents wait to be scored already.

    Attributes:
        retry_after: seconds after which there is likely to be a free place, at least 1.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry_after), self.__dict__


class ContentError(TokmargError):
    """One content cannot be scored.

    Attributes:
        type: one of :data:`ERROR_TYPES`.
        id: the record's id, if one was given.
        index, role: of the message that was to be judged, where single ones are; else None.
    """

    index: int | None = None
    role: str | None = None

    def __init__(self, type: str, message: str, id: object = None) -> None:
        if type not in ERROR_TYPES:
            raise ValueError(f"unknown error type {type!r}")
        super().__init__(message)
        self.type = type
        self.id = id

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made anew from its args, which are the message alone: a worker process could not hand it back.
        return type(self), (self.type, str(self), self.id), self.__dict__

    def to_dict(self) -> dict[str, object]:
        """The JSONL row of a content that could not be scored."""
        judged = {} if self.index is None else {"index": self.index, "role": self.role}
        return {"schema_version": 1, "id": self.id, **judged, "error": {"type": self.type, "message": str(self)}}
