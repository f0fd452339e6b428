"""How good scores are: the paper's metrics and the usual ones beside them, over what is known.

The paper (arXiv:2511.22312) reports micro F1 at a threshold, Hamming loss and micro ROC AUC: every (content, label)
pair is one case. Pairs of which nothing is known are left out. Needs scikit-learn (``tokmarg[eval]``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TokmargError

__all__ = ["Cases", "auc", "bootstrap", "expected_calibration_error", "f1", "hamming_loss", "measure"]

Floats = npt.NDArray[np.float64]
_BINS = 15


@dataclass(frozen=True, slots=True)
class Cases:
    """Truths and scores, NaN where unknown or not scored.

    Attributes:
        labels: label ids, the columns.
        truth: 1, 0 or NaN, float64 [contents, labels].
        score: float64 [contents, labels].
        unsafe_truth: 1, 0 or NaN, float64 [contents].
        unsafe_score: float64 [contents].
    """

    labels: tuple[str, ...]
    truth: Floats
    score: Floats
    unsafe_truth: Floats
    unsafe_score: Floats

    def rows(self, chosen: npt.NDArray[np.int64]) -> Cases:
        """The contents at some indices."""
        return Cases(
            self.labels,
            self.truth[chosen],
            self.score[chosen],
            self.unsafe_truth[chosen],
            self.unsafe_score[chosen],
        )

    def pooled(self) -> tuple[Floats, Floats]:
        """Truth and score of every pair that has both."""
        return _both(self.truth.ravel(), self.score.ravel())

    def unsafe(self) -> tuple[Floats, Floats]:
        """Truth and score of every content that has both."""
        return _both(self.unsafe_truth, self.unsafe_score)


def _both(truth: Floats, score: Floats) -> tuple[Floats, Floats]:
    known = ~(np.isnan(truth) | np.isnan(score))
    return truth[known], score[known]


def _sklearn() -> Any:
    try:
        import sklearn.metrics
    except ImportError:
        raise TokmargError('scikit-learn is not installed: pip install "tokmarg[eval]"') from None
    return sklearn.metrics


def auc(truth: Floats, score: Floats) -> float | None:
    """ROC AUC, or None where there is one class only."""
    return float(_sklearn().roc_auc_score(truth, score)) if len(np.unique(truth)) == 2 else None


def _average_precision(truth: Floats, score: Floats) -> float | None:
    return float(_sklearn().average_precision_score(truth, score)) if len(np.unique(truth)) == 2 else None


def expected_calibration_error(truth: Floats, score: Floats, bins: int = _BINS) -> float | None:
    """ECE over bins of equal mass: the mean distance between score and frequency. None without cases."""
    if not len(truth):
        return None
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(abs(score[p].mean() - truth[p].mean()) * len(p) for p in parts) / len(truth))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def measure(cases: Cases, threshold: float) -> dict[str, Any]:
    """Every metric at once; None where it is not defined (no cases, or one class only).

    Args:
        cases: what to measure.
        threshold: a label is predicted where its score reaches it.

    Returns:
        plain types: ``micro_f1``, ``hamming_loss``, ``micro_auc`` as in the paper; ``macro_auc`` and
        ``macro_average_precision`` over the labels with both classes; ``ece`` (pooled, 15 bins of equal mass) and
        ``brier``; ``unsafe`` with ``auc``, ``average_precision``, ``ece``, ``brier``, ``positives``, ``negatives`` and,
        at 0.5, ``recall`` and ``false_positive_rate``; ``labels`` with ``auc``, ``average_precision``, ``f1``,
        ``positives`` and ``negatives`` for each.
    """
    truth, score = cases.pooled()
    per_label = {
        label: _of_label(*_both(cases.truth[:, i], cases.score[:, i]), threshold)
        for i, label in enumerate(cases.labels)
    }
    return {
        "micro_f1": f1(truth, score, threshold),
        "hamming_loss": hamming_loss(truth, score, threshold),
        "micro_auc": auc(truth, score),
        "macro_auc": _mean([entry["auc"] for entry in per_label.values()]),
        "macro_average_precision": _mean([entry["average_precision"] for entry in per_label.values()]),
        "ece": expected_calibration_error(truth, score),
        "brier": float(np.mean((truth - score) ** 2)) if len(truth) else None,
        "unsafe": _of_unsafe(*cases.unsafe()),
        "labels": per_label,
    }


def f1(truth: Floats, score: Floats, threshold: float) -> float | None:
    """F1 of the pairs whose score reaches the threshold; None without cases."""
    predicted = score >= threshold
    hits = float(np.sum(predicted & (truth == 1)))
    every = float(np.sum(predicted)) + float(np.sum(truth == 1))
    return None if not len(truth) else 2 * hits / every if every else 0.0


def hamming_loss(truth: Floats, score: Floats, threshold: float) -> float | None:
    """Share of pairs that are predicted wrong; None without cases."""
    return float(np.mean(truth != (score >= threshold))) if len(truth) else None


def _of_label(truth: Floats, score: Floats, threshold: float) -> dict[str, Any]:
    return {
        "auc": auc(truth, score),
        "average_precision": _average_precision(truth, score),
        "f1": f1(truth, score, threshold) if truth.any() else None,
        "positives": int(truth.sum()),
        "negatives": int((1 - truth).sum()),
    }


def _of_unsafe(truth: Floats, score: Floats) -> dict[str, Any]:
    positive, flagged = truth == 1, score >= 0.5
    return {
        "auc": auc(truth, score),
        "average_precision": _average_precision(truth, score),
        "ece": expected_calibration_error(truth, score),
        "brier": float(np.mean((truth - score) ** 2)) if len(truth) else None,
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "recall": float(flagged[positive].mean()) if positive.any() else None,
        "false_positive_rate": float(flagged[~positive].mean()) if (~positive).any() else None,
    }


def bootstrap(
    cases: Cases, metrics: Mapping[str, Callable[[Cases], float | None]], samples: int, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % percentile intervals over resampled contents; None where a metric was never defined.

    Args:
        cases: what to resample.
        metrics: name -> function of the cases.
        samples: how many resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    count = len(cases.unsafe_truth)
    found: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(samples):
        drawn = cases.rows(rng.integers(0, count, count))
        for name, metric in metrics.items():
            value = metric(drawn)
            if value is not None:
                found[name].append(value)
    return {
        name: [float(x) for x in np.percentile(values, [2.5, 97.5])] if values else None
        for name, values in found.items()
    }
