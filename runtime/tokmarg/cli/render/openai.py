"""Scores as OpenAI's moderation response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokmarg.documents import to_json
from tokmarg.errors import ContentError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.results import MethodResult, Result, Thresholds

from .renderer import Outcome

if TYPE_CHECKING:
    from tokmarg.prompt.messages import Record

__all__ = ["OpenAI"]


@dataclass(frozen=True, slots=True)
class OpenAI:
    """The moderation response of OpenAI's API; the categories are the label ids.

    https://platform.openai.com/docs/api-reference/moderations/object

    The format has a number for every category and no place for an error. A label that does not exist in the
    role mode is therefore false with score 0.0 and applies to no input type; a record that cannot be scored
    becomes the error row of the JSONL format.

    Scores of other methods than ``exact`` are cut to [0, 1]. Label scores that are conditional on ``unsafe`` (the
    methods with an uncertainty) are multiplied by its probability.

    Args:
        thresholds: a category is true where its probability reaches the label's own threshold, or the general
            one where it has none.
    """

    thresholds: Thresholds

    def note(self, record: Record | ContentError) -> str:
        """A digest of id and content, for the response's id."""
        known = [record.id, str(record) if isinstance(record, ContentError) else record.content]
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
        body = {"id": f"modr-{digest[:24]}", "model": model, "results": [self._result(r) for r in results]}
        return to_json(body) + "\n"

    def _result(self, result: Result | MethodResult) -> dict[str, object]:
        scores = _probabilities(result)
        return {
            "flagged": result.flagged,
            "categories": {label: self._applies(result, label, p) for label, p in scores.items()},
            "category_scores": {label: 0.0 if p is None else p for label, p in scores.items()},
            "category_applied_input_types": {label: [] if p is None else ["text"] for label, p in scores.items()},
        }

    def _applies(self, result: Result | MethodResult, label: str, p: float | None) -> bool:
        if isinstance(result, Result) and result.calibrated and label in self.thresholds.labels:
            marginal = result.labels[label]  # thresholds of a calibration are decided on raw probabilities
            return marginal is not None and marginal.flagged
        return p is not None and p >= self.thresholds.labels.get(label, self.thresholds.unsafe)


def _probabilities(result: Result | MethodResult) -> dict[str, float | None]:
    """Label -> its probability, or what the format shows for it; None where it does not exist in the role mode."""
    if isinstance(result, Result):
        return {label: None if m is None else m.probability for label, m in result.labels.items()}
    unsafe = result.scores[UNSAFE]
    factor = 1.0 if result.uncertainty is None or unsafe is None else unsafe
    labels = {label: p for label, p in result.scores.items() if label != UNSAFE}
    return {label: None if p is None else min(1.0, p * factor) for label, p in labels.items()}
