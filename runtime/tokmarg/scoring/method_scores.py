"""The scores of one prompt by another method than ``exact``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MethodScores"]


@dataclass(frozen=True, slots=True)
class MethodScores:
    """Scores of one prompt, or of one content.

    Attributes:
        values: every label of the role mode, and ``unsafe`` -> score.
        complete: nothing was cut off by ``max_depth`` (generated verdicts) or the budget (any-place).
        evaluated: token paths at which the model was evaluated.
        verdict: the generated text, where the method generates one.
        uncertainty: where the method has one; NaN where its formula has no value.
    """

    values: Mapping[str, float]
    complete: bool
    evaluated: int
    verdict: str | None = None
    uncertainty: float | None = None
