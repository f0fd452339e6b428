"""Figures of a calibration: shares, rates, ECE and Brier score, each case counted by its weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokmarg.arrays import Bools, Floats
from tokmarg.metrics import ConfusionCounts, expected_calibration_error

__all__ = ["compared", "share_of", "weighted_rates"]


def share_of(truth: Floats, weight: Floats) -> float | None:
    """Share of positives; None without cases."""
    return float(np.average(truth, weights=weight)) if len(truth) else None


def weighted_rates(flagged: Bools, truth: Floats, weight: Floats) -> dict[str, object]:
    """Rates of decisions, each counted by its weight; None where there is nothing to divide by."""
    if np.all(weight == 1):
        return dict(ConfusionCounts.of(flagged, truth).rates())
    positive = truth == 1

    def rate(part: Bools, whole: Bools) -> float | None:
        return float(weight[part & whole].sum() / weight[whole].sum()) if whole.any() else None

    return {
        "recall": rate(flagged, positive),
        "false_positive_rate": rate(flagged, ~positive),
        "precision": rate(positive, flagged),
    }


def compared(truth: Floats, before: Floats, after: Floats, weight: Floats) -> dict[str, object]:
    """``ece`` and ``brier``, each [before, after], of the cases of which truth and score are known (no NaN)."""
    known = ~(np.isnan(truth) | np.isnan(before))
    truth, before, after, weight = truth[known], before[known], after[known], weight[known]
    if not len(truth):
        return {"ece": None, "brier": None}
    measures: dict[str, Callable[[Floats], float | None]] = {
        "ece": lambda p: expected_calibration_error(truth, p, weight=weight),
        "brier": lambda p: float(np.average((truth - p) ** 2, weights=weight)),
    }
    return {name: [measure(before), measure(after)] for name, measure in measures.items()}
