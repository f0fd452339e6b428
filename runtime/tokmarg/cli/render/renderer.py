"""The interface of the renderers of scores: JSON lines, OpenAI's moderation response, the terminal's table, columns.

A renderer gets each record twice: ``note`` when it is read, to keep what the output will need of it (contents may be
megabytes and are not kept), and its outcome among the ``rows`` of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tokmarg.errors import ContentError
from tokmarg.results import MethodResult, Result

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["Outcome", "Renderer", "TextRenderer"]

Outcome = Result | MethodResult | ContentError


class Renderer(Protocol):
    """Turns outcomes into output."""

    def note(self, record: Record | ContentError) -> str:
        """What :meth:`rows` will need of the record."""

    def rows(self, outcomes: Sequence[tuple[Outcome, str]]) -> str | bytes:
        """The output of records, each an outcome and its note."""


class TextRenderer:
    """A renderer whose output is one text after the other."""

    def render(self, outcome: Outcome, note: str) -> str:
        """The record's output, with its last newline."""
        raise NotImplementedError

    def rows(self, outcomes: Sequence[tuple[Outcome, str]]) -> str:
        """The texts of some records."""
        return "".join(self.render(outcome, note) for outcome, note in outcomes)
