"""Labelled records scored for calibration: truths and raw scores with their bounds, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokmarg.evaluation.dataset import Example
from tokmarg.evaluation.scoring_run import score_examples
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.guard import Guard
from tokmarg.results import Result, Thresholds

from .provenance import Search

__all__ = ["Observed", "observe"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observed:
    """Truths and raw scores.

    Attributes:
        names: label ids in the policy's order, then ``unsafe``: the columns.
        truth: 1, 0, or NaN where unknown, float64 [records, names].
        score, lower, upper: raw probabilities and their bounds; NaN where a record could not be scored or has no such
            label.
    """

    names: tuple[str, ...]
    truth: Floats
    score: Floats
    lower: Floats
    upper: Floats

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where truth and score are known, [records, names]."""
        return ~(np.isnan(self.truth) | np.isnan(self.score))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names but ``unsafe``."""
        return self.names[:-1]


def observe(
    guard: Guard, examples: Sequence[Example], search: Search, progress: Callable[[int], object] | None = None
) -> tuple[Observed, dict[str, int]]:
    """Scores labelled records.

    Nothing is searched further for a threshold's sake: a score with thresholds is then searched at least as far.

    Returns:
        truths and scores, and error type -> how many records could not be scored for it.

    Raises:
        TokmargError: none could.
    """
    scored = score_examples(
        guard,
        examples,
        max_nodes=search.max_nodes,
        tolerance=search.tolerance,
        thresholds=Thresholds(0.0),
        on_overflow=search.on_overflow,
        progress=progress,
    )
    names = (*guard.labels, UNSAFE)
    bounds = np.full((3, len(examples), len(names)), np.nan)
    for i, result in enumerate(scored.results):
        if isinstance(result, Result):
            raw = result.raw or result
            for k, marginal in enumerate([*(raw.labels[label] for label in guard.labels), raw.unsafe]):
                if marginal is not None:
                    bounds[:, i, k] = marginal.probability, marginal.lower, marginal.upper
    truth = np.column_stack([scored.cases.truth, scored.cases.unsafe_truth])
    return Observed(names, truth, *bounds), scored.failures
