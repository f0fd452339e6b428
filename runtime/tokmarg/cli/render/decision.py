"""The line that says what flags a content: the threshold, and whose it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tokmarg.results import Thresholds

from .terminal import printable

if TYPE_CHECKING:
    from tokmarg.calibration.calibration import Calibration
    from tokmarg.guard import Guard
    from tokmarg.score_options import ScoreOptions

__all__ = ["decide"]

_DEFAULT = Thresholds().unsafe
#: Labels whose thresholds are listed at most.
_SHOWN = 4


def decide(guard: Guard, scoring: ScoreOptions, option: str) -> tuple[Thresholds, str]:
    """The thresholds, on the probabilities that results show, and the line that says what they are.

    Args:
        guard: what scores.
        scoring: how.
        option: of the command line that gave the thresholds, if ``scoring`` has any.
    """
    from tokmarg.calibration.calibration import default_thresholds
    from tokmarg.calibration.prior_shift import with_prior

    calibration = with_prior(guard.calibration, scoring.prior) if scoring.method == "exact" else None
    thresholds = scoring.thresholds or default_thresholds(calibration, guard.spec)
    whose = None if scoring.thresholds is None else option
    return thresholds, _described(guard, calibration, thresholds, whose, scoring.prior)


def _described(
    guard: Guard, calibration: Calibration | None, thresholds: Thresholds, option: str | None, prior: float | None
) -> str:
    """The line.

    Args:
        guard: what scores.
        calibration: what results go through, shifted to the prior; None where results are raw.
        thresholds: as used, on the probabilities that results show.
        option: of the command line that gave them; None where none did.
        prior: base rate that was given.
    """
    if option is not None:
        whose = option
    elif calibration is not None:
        whose = "the default" if calibration.unsafe.threshold is None else "the calibration's"
    else:
        whose = "the default" if guard.spec.threshold == _DEFAULT else "the guard's spec"
    line = f"flagged: {'' if calibration is None else 'calibrated '}unsafe {_limit(thresholds.unsafe)} ({whose})"
    if labels := [f"{printable(label)} {_limit(value)}" for label, value in thresholds.labels.items()]:
        more = f" and {len(labels) - _SHOWN} more labels" if len(labels) > _SHOWN else ""
        of_labels = option or "the calibration's"
        line += f", {', '.join(labels[:_SHOWN])}{more} ({of_labels})"
    if prior is not None and guard.calibration is not None:
        line += f"; base rate {prior:g} (--prior), {guard.calibration.unsafe.share or math.nan:.4g} in the calibration"
    return line


def _limit(threshold: float) -> str:
    return "never" if math.isinf(threshold) else f">= {threshold:.4g}"
