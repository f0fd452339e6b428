"""The interface of the renderers of scores: JSON lines, OpenAI's moderation response, the terminal's table.

A renderer gets each record twice: ``note`` when it is read, to keep what the output will need of it (contents may be
megabytes and are not kept), and ``render`` with its outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tokmarg.errors import ContentError
from tokmarg.results import MethodResult, Result

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["Outcome", "Renderer"]

Outcome = Result | MethodResult | ContentError


class Renderer(Protocol):
    """Turns outcomes into text."""

    def note(self, record: Record | ContentError) -> str:
        """What :meth:`render` will need of the record."""

    def render(self, outcome: Outcome, note: str) -> str:
        """The record's output, with its last newline."""
