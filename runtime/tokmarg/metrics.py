"""Metrics: ROC AUC, average precision, calibration error (ECE), Brier score, F1, Hamming loss, confusion counts.

Those that depend on ranks are computed for many weightings of the same cases at once.

A bootstrap resample of n cases is n whole weights. Sorting does not depend on them, so it is done once; what is left
for each resample is a few cumulative sums over the distinct scores:

    score      0.1   0.4   0.4   0.9          distinct    0.1   0.4   0.9
    truth        0     1     0     1     ->   positives     0     1     1
    weight       1     2     1     1          weighted      0     2     1      negatives   1   1   0

    ROC AUC = (2 * (1 + 1/2) + 1 * 2) / (3 * 2) = 5/6

With weights of one the numbers are those of scikit-learn (``roc_auc_score``, ``average_precision_score``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Bools, Floats, Ints

__all__ = [
    "BINS",
    "ConfusionCounts",
    "Masses",
    "Ranked",
    "auc",
    "average_precision",
    "brier",
    "expected_calibration_error",
    "f1",
    "hamming_loss",
    "ratio",
    "undefined",
]

#: Bins of the calibration error.
BINS = 15


@dataclass(frozen=True, slots=True)
class Masses:
    """Weight of the positives and negatives at each distinct score, for each weighting.

    Attributes:
        scores: distinct scores, ascending, float64 [D].
        positives, negatives: float64 [weightings, D].
    """

    scores: Floats
    positives: Floats
    negatives: Floats

    def roc_auc(self) -> Floats:
        """ROC AUC, ties counted half; NaN where a weighting has one class only. [weightings]"""
        below = np.cumsum(self.negatives, axis=1) - self.negatives / 2
        pairs = self.positives.sum(axis=1) * self.negatives.sum(axis=1)
        return ratio(np.einsum("sd,sd->s", self.positives, below), pairs)

    def average_precision(self) -> Floats:
        """Sum over the thresholds of precision times the recall gained there; NaN with one class only. [weightings]"""
        # Flagged at or above each distinct score, from the highest down. [weightings, D]
        true_positives = np.cumsum(self.positives[:, ::-1], axis=1)
        flagged = true_positives + np.cumsum(self.negatives[:, ::-1], axis=1)
        precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
        every = self.positives.sum(axis=1)
        average = ratio(np.einsum("sd,sd->s", self.positives[:, ::-1], precision), every)
        average[self.negatives.sum(axis=1) == 0] = np.nan
        return average

    def calibration_bins(self, bins: int = BINS) -> tuple[Floats, Floats, Floats]:
        """Bins of equal mass, in order of the scores, as ``numpy.array_split`` cuts the sorted cases.

        Cases of equal score are not told apart: where a cut falls among them, each side gets its share of their
        positives. So the numbers do not depend on the order of the records.

        Returns:
            mean score, share of positives, mass of each bin, float64 [weightings, bins]; of an empty bin NaN, NaN, 0.
        """
        mass = self.positives + self.negatives
        totals = mass.sum(axis=1).round().astype(np.int64)
        shape = (len(mass), bins)
        score, share, size = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
        for i, total in enumerate(totals):
            if total == 0:
                continue
            wide = np.arange(bins) < total % bins
            size[i] = total // bins + wide
            cuts = np.concatenate([[0], np.cumsum(size[i])])
            upto = np.concatenate([[0], np.cumsum(mass[i])])
            positives = np.concatenate([[0], np.cumsum(self.positives[i])])
            sums = np.concatenate([[0], np.cumsum(mass[i] * self.scores)])
            used = size[i] > 0
            score[i, used] = np.diff(np.interp(cuts, upto, sums))[used] / size[i, used]
            share[i, used] = np.diff(np.interp(cuts, upto, positives))[used] / size[i, used]
        return score, share, size

    def calibration_error(self, bins: int = BINS) -> Floats:
        """ECE: mean distance between score and frequency over bins of equal mass; NaN without cases. [weightings]"""
        score, share, size = self.calibration_bins(bins)
        return ratio(np.nansum(np.abs(score - share) * size, axis=1), size.sum(axis=1))


class Ranked:
    """Cases in order of their scores.

    Args:
        truth: 0 or 1, float64 [n]; no NaN.
        score: float64 [n]; no NaN.
        rows: which content each case belongs to, int64 [n]; weights are the contents'. None: each is its own.
    """

    def __init__(self, truth: Floats, score: Floats, rows: Ints | None = None) -> None:
        order = np.argsort(score, kind="stable")
        self._truth = truth[order]
        self._rows = order if rows is None else rows[order]
        self.scores, self._starts = np.unique(score[order], return_index=True)

    def masses(self, weights: Floats | None = None) -> Masses:
        """The masses under weights, float64 [weightings, contents]; None weighs every case once."""
        each = np.ones((1, len(self._rows))) if weights is None else weights[:, self._rows]
        if not len(self._starts):
            nothing = np.zeros((len(each), 0))
            return Masses(self.scores, nothing, nothing)
        every = np.add.reduceat(each, self._starts, axis=1)
        positives = np.add.reduceat(each * self._truth, self._starts, axis=1)
        return Masses(self.scores, positives, every - positives)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise quotient of two vectors [n]; NaN where the denominator is not positive."""
    out = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _number(value: Floats) -> float | None:
    return None if np.isnan(value[0]) else float(value[0])


def auc(truth: Floats, score: Floats) -> float | None:
    """ROC AUC, or None where there is one class only."""
    return _number(Ranked(truth, score).masses().roc_auc())


def average_precision(truth: Floats, score: Floats) -> float | None:
    """Average precision, or None where there is one class only."""
    return _number(Ranked(truth, score).masses().average_precision())


def expected_calibration_error(
    truth: Floats, score: Floats, bins: int = BINS, weight: Floats | None = None
) -> float | None:
    """ECE over bins of equal mass: the mean distance between score and frequency. None without cases.

    Args:
        truth, score: float64 [cases].
        bins: how many.
        weight: how often each case counts, float64 [cases]; scaled to as many cases as there are. None: once.
    """
    scaled = None if weight is None or not len(weight) else weight[None] * (len(weight) / weight.sum())
    return _number(Ranked(truth, score).masses(scaled).calibration_error(bins))


def brier(truth: Floats, score: Floats) -> float | None:
    """Mean squared distance between score and truth; None without cases."""
    return float(np.mean((truth - score) ** 2)) if len(truth) else None


def f1(truth: Floats, predicted: Bools) -> float | None:
    """F1 of predictions; None without cases."""
    true_positives = float(np.sum(predicted & (truth == 1)))
    total = float(np.sum(predicted)) + float(np.sum(truth == 1))
    return None if not len(truth) else 2 * true_positives / total if total else 0.0


def hamming_loss(truth: Floats, predicted: Bools) -> float | None:
    """Share of pairs that are predicted wrong; None without cases."""
    return float(np.mean(truth != predicted)) if len(truth) else None


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """Counts of decisions against truths."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    @classmethod
    def of(cls, flagged: Bools, truth: Floats) -> ConfusionCounts:
        """Counts decisions [cases] against truths, 1 or 0 [cases]."""
        negative = truth == 0
        return cls(
            int(np.sum(flagged & ~negative)),
            int(np.sum(~flagged & ~negative)),
            int(np.sum(flagged & negative)),
            int(np.sum(~flagged & negative)),
        )

    def rates(self) -> dict[str, float | None]:
        """``recall``, ``false_positive_rate`` and ``precision``; None where there is nothing to divide by."""
        return {
            "recall": _share(self.true_positives, self.true_positives + self.false_negatives),
            "false_positive_rate": _share(self.false_positives, self.false_positives + self.true_negatives),
            "precision": _share(self.true_positives, self.true_positives + self.false_positives),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def undefined(positives: int, negatives: int) -> str | None:
    """Why ROC AUC and average precision have no value among so many cases; None where they have one."""
    if positives and negatives:
        return None
    return "no positives" if negatives else "no negatives" if positives else "nothing is known"
