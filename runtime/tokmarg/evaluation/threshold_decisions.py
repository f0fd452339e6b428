"""What a calibration's thresholds decide on labelled records, which are best others than those it was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokmarg.calibration.document import Calibration
from tokmarg.calibration.operating_point import Counts
from tokmarg.errors import ContentError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.results import MethodResult, Result

from .measures import Cases

__all__ = ["FLAGGED", "Decision", "decisions"]

#: Name of the decision on a whole record: any threshold is reached.
FLAGGED = "flagged"


@dataclass(frozen=True, slots=True)
class Decision:
    """How a threshold's decisions and the truth fall together.

    Attributes:
        threshold: on calibrated probabilities; None where nothing is ever flagged, and for ``flagged``.
        counts: over the records that were scored and of which the truth is known.
    """

    threshold: float | None
    counts: Counts

    def to_dict(self) -> dict[str, float | None]:
        """Plain types."""
        return {"threshold": self.threshold, **self.counts.rates()}


def decisions(
    calibration: Calibration, cases: Cases, results: Sequence[Result | MethodResult | ContentError]
) -> dict[str, Decision]:
    """What each threshold decides, by the name of its label or ``unsafe``, and ``flagged`` against the truth of
    ``unsafe``; empty where the calibration has no thresholds.

    Args:
        calibration: of the guard that gave the results, with no thresholds but the calibration's.
        cases: truths of the records.
        results: one for each record.
    """
    entries = {UNSAFE: calibration.unsafe, **calibration.labels}
    thresholds = {name: entry for name, entry in entries.items() if entry.threshold is not None}
    if not thresholds:
        return {}
    scored = [(i, result) for i, result in enumerate(results) if isinstance(result, Result)]

    def counted(name: str) -> Counts:
        truth = cases.unsafe_truth if name in (UNSAFE, FLAGGED) else cases.truth[:, cases.labels.index(name)]
        flagged, true = [], []
        for i, result in scored:
            marginal = result.unsafe if name in (UNSAFE, FLAGGED) else result.labels[name]
            if marginal is not None and not np.isnan(truth[i]):
                flagged.append(result.flagged if name == FLAGGED else marginal.flagged)
                true.append(truth[i])
        return Counts.of(np.array(flagged, dtype=bool), np.array(true, dtype=np.float64))

    shown = calibration.shown_thresholds()
    limits = {UNSAFE: shown.unsafe, **shown.labels}
    found = {name: Decision(limits[name] if np.isfinite(limits[name]) else None, counted(name)) for name in thresholds}
    return found | {FLAGGED: Decision(None, counted(FLAGGED))}
