"""Threshold decisions: recall, false-positive rate and precision of a calibration's thresholds on labelled records.

The records are best others than those that the calibration was fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokmarg.calibration.calibration import Calibration
from tokmarg.errors import ContentError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.metrics import ConfusionCounts
from tokmarg.results import MethodResult, Result

from .measures import Cases

__all__ = ["FLAGGED", "ThresholdDecision", "threshold_decisions"]

#: Name of the decision on a whole record: any threshold is reached.
FLAGGED = "flagged"


@dataclass(frozen=True, slots=True)
class ThresholdDecision:
    """The confusion counts of one threshold.

    Attributes:
        threshold: on calibrated probabilities; None where nothing is ever flagged, and for ``flagged``.
        counts: over the records that were scored and of which the truth is known.
    """

    threshold: float | None
    counts: ConfusionCounts

    def to_dict(self) -> dict[str, float | None]:
        """Plain types."""
        return {"threshold": self.threshold, **self.counts.rates()}


def threshold_decisions(
    calibration: Calibration, cases: Cases, results: Sequence[Result | MethodResult | ContentError]
) -> dict[str, ThresholdDecision]:
    """The decisions of each threshold, by the name of its label or ``unsafe``, and ``flagged`` against the truth of
    ``unsafe``; empty where the calibration has no thresholds.

    Args:
        calibration: of the guard that gave the results, with no thresholds but the calibration's.
        cases: truths of the records.
        results: one for each record.
    """
    calibrations = {UNSAFE: calibration.unsafe, **calibration.labels}
    names = [name for name, each in calibrations.items() if each.threshold is not None]
    if not names:
        return {}
    scored = [(i, result) for i, result in enumerate(results) if isinstance(result, Result)]

    def counted(name: str) -> ConfusionCounts:
        truth = cases.unsafe_truth if name in (UNSAFE, FLAGGED) else cases.truth[:, cases.labels.index(name)]
        flagged, true = [], []
        for i, result in scored:
            marginal = result.unsafe if name in (UNSAFE, FLAGGED) else result.labels[name]
            if marginal is not None and not np.isnan(truth[i]):
                flagged.append(result.flagged if name == FLAGGED else marginal.flagged)
                true.append(truth[i])
        return ConfusionCounts.of(np.array(flagged, dtype=bool), np.array(true, dtype=np.float64))

    shown = calibration.shown_thresholds()
    limits = {UNSAFE: shown.unsafe, **shown.labels}
    decisions = {
        name: ThresholdDecision(limits[name] if np.isfinite(limits[name]) else None, counted(name)) for name in names
    }
    return decisions | {FLAGGED: ThresholdDecision(None, counted(FLAGGED))}
