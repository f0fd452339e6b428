"""Encoded record: a record with the prompts that are scored for it."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    id: object
    windows: tuple[tuple[Prompt, ...], ...]
    truncated: bool
    suspicious: tuple[str, ...] = ()

    @property
    def role(self) -> Role:
        """The role that is judged."""
        return self.windows[0][0].role
