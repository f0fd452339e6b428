"""Prior shift: calibrated probabilities for traffic with another base rate than the data of the calibration.

What a content says for or against harm is one thing, how common harm is another. Where the contents of each class are
alike in both, and only the shares of the classes differ, Bayes' rule gives the probability p' under the user's share
of unsafe contents r' from the probability p under the calibration's share r (Saerens et al. 2002):

    p' / (1 - p') = p / (1 - p) * (r' / (1 - r')) / (r / (1 - r))

    r = 0.5, r' = 0.01, p = 0.9:    9 * (0.01 / 0.99) / 1 = 0.0909    p' = 0.0833

A label is shifted by its own shares. Labels keep their shares among the unsafe contents, so the user's share of a label
is r' times that (never more than r').
"""

from __future__ import annotations

import math
from dataclasses import replace

from tokmarg.arguments import check_number, number
from tokmarg.errors import TokmargError

from .calibration import Calibration
from .calibrators import MOST_FACTOR, STEEPEST, Calibrator, Identity, Shifted, Sigmoid
from .label_calibration import LabelCalibration

__all__ = ["check_prior", "odds_factor", "shifted", "with_prior"]


def check_prior(prior: object) -> None:
    """Raises OptionError where a base rate is no number between 0 and 1, both excluded."""
    check_number("prior", prior, 0 < number(prior) < 1, "(0, 1)")


def with_prior(calibration: Calibration | None, prior: float | None) -> Calibration | None:
    """The calibration for traffic of which the share ``prior`` is unsafe; as it is where that is None.

    Thresholds of its own stay where they are, on raw probabilities; 0.5 is a calibrated probability, and moves on them.

    Raises:
        OptionError: the prior is no number between 0 and 1.
        TokmargError: there is no calibration, or it does not know the share of unsafe records that it was fitted on.
    """
    if prior is None:
        return calibration
    check_prior(prior)
    if calibration is None:
        raise TokmargError(
            "prior: shifts calibrated probabilities, but the guard is not calibrated (tokmarg calibrate does that)"
        )
    share = calibration.unsafe.share
    if isinstance(calibration.unsafe.calibrator, Identity) or share is None or not 0 < share < 1:
        raise TokmargError(
            "prior: the calibration has no share of unsafe records to shift from (unsafe.share): calibrate anew, on "
            "records of which some are unsafe and some are safe"
        )
    labels = {name: _shifted_label(each, prior) for name, each in calibration.labels.items()}
    unsafe = replace(_moved(calibration.unsafe, share, prior), unsafe_share=prior)
    return replace(calibration, unsafe=unsafe, labels=labels)


def odds_factor(share: float, other: float) -> float:
    """By what a prior shift from one share to another multiplies odds."""
    return other / (1 - other) / (share / (1 - share))


def shifted(calibrator: Calibrator, factor: float) -> Calibrator:
    """The calibrator with the odds of its images multiplied; a sigmoid stays one."""
    if isinstance(calibrator, Shifted):
        return shifted(calibrator.of, calibrator.factor * factor)
    factor = min(max(factor, 1 / MOST_FACTOR), MOST_FACTOR)
    if isinstance(calibrator, Sigmoid):
        return replace(calibrator, c=min(max(calibrator.c + math.log(factor), -STEEPEST), STEEPEST))
    return Shifted(calibrator, factor)


def _shifted_label(entry: LabelCalibration, prior: float) -> LabelCalibration:
    """A label's calibration; as it is where its probabilities are raw, or its shares are not known."""
    if isinstance(entry.calibrator, Identity) or not entry.unsafe_share or entry.share is None:
        return entry
    if not 0 < entry.share < 1:
        return entry
    return replace(_moved(entry, entry.share, prior * min(1.0, entry.share / entry.unsafe_share)), unsafe_share=prior)


def _moved(entry: LabelCalibration, share: float, other: float) -> LabelCalibration:
    return replace(entry, calibrator=shifted(entry.calibrator, odds_factor(share, other)), share=other)
