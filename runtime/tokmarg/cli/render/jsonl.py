"""Scores as JSON lines: one row per record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokmarg.documents import to_json
from tokmarg.errors import ContentError

from .renderer import Outcome, TextRenderer

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["JsonLines"]


class JsonLines(TextRenderer):
    """Renders the outcome's ``to_dict`` as one line."""

    def note(self, record: Record | ContentError) -> str:
        """Empty: a row needs nothing of the content."""
        return ""

    def render(self, outcome: Outcome, note: str) -> str:
        """One line."""
        return to_json(outcome.to_dict()) + "\n"
