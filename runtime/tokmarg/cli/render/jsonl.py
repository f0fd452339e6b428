"""Scores as JSON: one line per record, or OpenAI's moderation response.

A renderer takes each record twice: ``note`` when it is read, to keep what the output will need of it
(contents may be megabytes and are not kept), and ``render`` when its outcome is there. The terminal's table is
the third renderer, in :mod:`tokmarg.cli.render.table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tokmarg.documents import to_json
from tokmarg.errors import ContentError
from tokmarg.results import MethodResult, Result

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["JsonLines", "Renderer"]

Outcome = Result | MethodResult | ContentError


class Renderer(Protocol):
    """Turns outcomes into text."""

    def note(self, record: Record | ContentError) -> str:
        """What :meth:`render` will need of the record."""

    def render(self, outcome: Outcome, note: str) -> str:
        """The record's output, with its last newline."""


class JsonLines:
    """``to_dict`` of the outcome, one line each."""

    def note(self, record: Record | ContentError) -> str:
        """Nothing: the row needs no content."""
        return ""

    def render(self, outcome: Outcome, note: str) -> str:
        """One line."""
        return to_json(outcome.to_dict()) + "\n"
