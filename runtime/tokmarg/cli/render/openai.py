"""Scores as OpenAI's moderation response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokmarg.documents import to_json
from tokmarg.errors import ContentError
from tokmarg.openai_format import OpenAITable, moderation_response
from tokmarg.results import MethodResult, Result, Thresholds

from .renderer import Outcome, TextRenderer

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["OpenAI"]


@dataclass(frozen=True, slots=True)
class OpenAI(TextRenderer):
    """The moderation response of OpenAI's API.

    https://platform.openai.com/docs/api-reference/moderations/object

    A record that cannot be scored becomes the error row of the JSONL format.

    Args:
        thresholds: that flag the results.
        table: for OpenAI's categories; None for label ids.
    """

    thresholds: Thresholds
    table: OpenAITable | None = None

    def note(self, record: Record | ContentError) -> str:
        """A digest of id and content, for the response's id."""
        known = [record.id, str(record) if isinstance(record, ContentError) else record.content]
        known += [] if record.index is None else [record.index]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def render(self, outcome: Outcome, note: str) -> str:
        """A response of its own for every record."""
        if isinstance(outcome, ContentError):
            return to_json(outcome.to_dict()) + "\n"
        return self.response([outcome], [note])

    def response(self, results: Sequence[Result | MethodResult], notes: Sequence[str]) -> str:
        """One response for several results (at least one). Its id depends on model, ids and contents only."""
        model = results[0].model
        digest = hashlib.sha256(json.dumps([model, *notes]).encode()).hexdigest()
        response = moderation_response(results, id=f"modr-{digest[:24]}", thresholds=self.thresholds, table=self.table)
        return to_json(response) + "\n"
