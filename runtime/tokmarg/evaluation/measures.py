"""Measures: the paper's metrics and the usual ones beside them, of truths and scores, over what is known.

The paper (arXiv:2511.22312) reports micro F1 at a threshold, Hamming loss and micro ROC AUC: every (content, label)
pair is one case. Pairs of which nothing is known are left out. The numbers equal scikit-learn's on the same arrays,
which the tests check; numpy is enough to compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokmarg.arrays import Bools, Floats, Ints
from tokmarg.metrics import auc, average_precision, brier, expected_calibration_error, f1, hamming_loss

__all__ = ["Cases", "measure"]


@dataclass(frozen=True, slots=True)
class Cases:
    """Truths and scores, NaN where unknown or not scored.

    Attributes:
        labels: label ids, the columns.
        truth: 1, 0 or NaN, float64 [contents, labels].
        score: float64 [contents, labels].
        unsafe_truth: 1, 0 or NaN, float64 [contents].
        unsafe_score: float64 [contents].
        raw: of a calibrated guard, ``score`` before calibration; else None.
        raw_unsafe: likewise.
        groups: contents with the same number are the same text, int64 [contents]; None where all differ.
        chosen: labels that the method itself predicts, bool [contents, labels]; None where a threshold decides.
    """

    labels: tuple[str, ...]
    truth: Floats
    score: Floats
    unsafe_truth: Floats
    unsafe_score: Floats
    raw: Floats | None = None
    raw_unsafe: Floats | None = None
    groups: Ints | None = None
    chosen: Bools | None = None

    def rows(self, indices: Ints) -> Cases:
        """The contents at some indices."""
        return Cases(
            self.labels,
            self.truth[indices],
            self.score[indices],
            self.unsafe_truth[indices],
            self.unsafe_score[indices],
            None if self.raw is None else self.raw[indices],
            None if self.raw_unsafe is None else self.raw_unsafe[indices],
            None if self.groups is None else self.groups[indices],
            None if self.chosen is None else self.chosen[indices],
        )

    def before(self) -> Cases | None:
        """The same cases with the scores before calibration; None where there was none."""
        if self.raw is None or self.raw_unsafe is None:
            return None
        return replace(self, score=self.raw, unsafe_score=self.raw_unsafe, raw=None, raw_unsafe=None)

    def predicted(self, threshold: float) -> Bools:
        """Labels that are predicted, bool [contents, labels]; false where there is no score."""
        with np.errstate(invalid="ignore"):
            return self.score >= threshold if self.chosen is None else self.chosen & ~np.isnan(self.score)

    def pooled(self) -> tuple[Floats, Floats]:
        """Truth and score of every pair that has both."""
        return _both(self.truth.ravel(), self.score.ravel())

    def label(self, column: int) -> tuple[Floats, Floats]:
        """Truth and score of one label, of every content that has both."""
        return _both(self.truth[:, column], self.score[:, column])

    def unsafe(self) -> tuple[Floats, Floats]:
        """Truth and score of every content that has both."""
        return _both(self.unsafe_truth, self.unsafe_score)


def _both(truth: Floats, score: Floats) -> tuple[Floats, Floats]:
    known = ~(np.isnan(truth) | np.isnan(score))
    return truth[known], score[known]


def measure(cases: Cases, threshold: float) -> dict[str, Any]:
    """Every metric at once; None where it is not defined (no cases, or one class only).

    Args:
        cases: what to measure.
        threshold: a label is predicted where its score reaches it, unless the method itself predicts labels.

    Returns:
        plain types: ``micro_f1``, ``hamming_loss``, ``micro_auc`` as in the paper; ``macro_auc`` and
        ``macro_average_precision`` over the labels with both classes; ``ece`` (pooled, 15 bins of equal mass) and
        ``brier``; ``before_calibration`` with ``ece``, ``brier``, ``micro_auc``, ``macro_auc``, ``unsafe_ece``,
        ``unsafe_brier`` and ``unsafe_auc`` of the raw scores, or None; ``unsafe`` with ``auc``, ``average_precision``,
        ``ece``, ``brier``, ``positives``, ``negatives`` and, at 0.5, ``recall`` and ``false_positive_rate``; ``labels``
        with ``auc``, ``average_precision``, ``f1``, ``ece``, ``brier``, ``positives`` and ``negatives`` for each.
    """
    truth, score = cases.pooled()
    known, predicted = ~(np.isnan(cases.truth) | np.isnan(cases.score)), cases.predicted(threshold)
    per_label = {label: _of_label(*cases.label(i), predicted[known[:, i], i]) for i, label in enumerate(cases.labels)}
    before = cases.before()
    return {
        "micro_f1": f1(truth, predicted[known]),
        "hamming_loss": hamming_loss(truth, predicted[known]),
        "micro_auc": auc(truth, score),
        "macro_auc": _mean([each["auc"] for each in per_label.values()]),
        "macro_average_precision": _mean([each["average_precision"] for each in per_label.values()]),
        "ece": expected_calibration_error(truth, score),
        "brier": brier(truth, score),
        "before_calibration": None if before is None else _before(before),
        "unsafe": _of_unsafe(*cases.unsafe()),
        "labels": per_label,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _before(raw: Cases) -> dict[str, float | None]:
    return {
        "ece": expected_calibration_error(*raw.pooled()),
        "brier": brier(*raw.pooled()),
        "micro_auc": auc(*raw.pooled()),
        "macro_auc": _mean([auc(*raw.label(i)) for i in range(len(raw.labels))]),
        "unsafe_ece": expected_calibration_error(*raw.unsafe()),
        "unsafe_brier": brier(*raw.unsafe()),
        "unsafe_auc": auc(*raw.unsafe()),
    }


def _of_label(truth: Floats, score: Floats, predicted: Bools) -> dict[str, Any]:
    return {
        "auc": auc(truth, score),
        "average_precision": average_precision(truth, score),
        "f1": f1(truth, predicted) if truth.any() else None,
        "ece": expected_calibration_error(truth, score),
        "brier": brier(truth, score),
        "positives": int(truth.sum()),
        "negatives": int((1 - truth).sum()),
    }


def _of_unsafe(truth: Floats, score: Floats) -> dict[str, Any]:
    positive, flagged = truth == 1, score >= 0.5
    return {
        "auc": auc(truth, score),
        "average_precision": average_precision(truth, score),
        "ece": expected_calibration_error(truth, score),
        "brier": brier(truth, score),
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "recall": float(flagged[positive].mean()) if positive.any() else None,
        "false_positive_rate": float(flagged[~positive].mean()) if (~positive).any() else None,
    }
