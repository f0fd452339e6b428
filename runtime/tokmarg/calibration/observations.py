"""Observations: the truths and raw scores, with their bounds, that a calibration is fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokmarg.arrays import Bools, Floats

__all__ = ["Observations"]


@dataclass(frozen=True, slots=True)
class Observations:
    """Truths and raw scores.

    Attributes:
        names: label ids in the policy's order, then ``unsafe``: the columns.
        truth: 1, 0, or NaN where unknown, float64 [records, names].
        score, lower, upper: raw probabilities and their bounds; NaN where a record could not be scored or has no such
            label.
        weight: how often each record counts, float64 [records], positive; None: once each.
    """

    names: tuple[str, ...]
    truth: Floats
    score: Floats
    lower: Floats
    upper: Floats
    weight: Floats | None = None

    @property
    def weights(self) -> Floats:
        """How often each record counts, float64 [records]."""
        return np.ones(len(self.truth)) if self.weight is None else self.weight

    @property
    def known(self) -> Bools:
        """Where truth and score are known, [records, names]."""
        return ~(np.isnan(self.truth) | np.isnan(self.score))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names but ``unsafe``."""
        return self.names[:-1]
