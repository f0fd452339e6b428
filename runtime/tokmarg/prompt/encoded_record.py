"""Encoded record: a record with the prompts that are scored for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .builder import Prompt
from .labels import Role

__all__ = ["EncodedRecord"]


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A record whose prompts are encoded.

    Attributes:
        id: the record's id.
        windows: for each window of the content its prompts: one for all labels, or one per label.
        truncated: the content is longer than one window.
        suspicious: signs of prompt injection, see :data:`tokmarg.prompt.injection.SUSPICIONS`.
        skipped: what was left out of the content, see :class:`tokmarg.prompt.messages.Conversation`.
        index: which message is judged; None for the last one.
        conversation: what consecutive records have in common (the same object) whose messages are judged one by one;
            they share passes. None: shared with no other record.
    """

    id: object
    windows: tuple[tuple[Prompt, ...], ...]
    truncated: bool
    suspicious: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    index: int | None = None
    conversation: object = None

    @property
    def role(self) -> Role:
        """The role that is judged."""
        return self.windows[0][0].role
