"""One label or two? Uncertainties over the logits of the first label, and the cut that decides.

The baselines of arXiv:2511.22312. After the forced ``unsafe`` the model gives each label a logit z; an uncertainty
u(z) decides whether the most probable label or the two most probable ones are predicted:

    u <= cut   two labels        u > cut   one label

and the cut is fitted on labelled data. There is no universal one: u depends on the model, its labels and its logits'
scale. An example with the label probabilities 0.5, 0.4, 0.1 (logits are their logs):

>>> z = np.log([0.5, 0.4, 0.1])
>>> round(probability_uncertainty(z), 4), round(entropy_uncertainty(z), 4)
(0.6667, 0.9433)
>>> predict(z, 0.6667, cut=0.7)
(0, 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from .probabilities import Floats, softmax

__all__ = [
    "digamma",
    "entropy_uncertainty",
    "fit_cut",
    "logtoku",
    "one_or_two",
    "predict",
    "probability_uncertainty",
]

#: Which of a content's two most probable labels are right: the "first" only, the "second", or neither.
Right = Literal["first", "second", "neither"]


def probability_uncertainty(z: npt.ArrayLike) -> float:
    """1 / (highest probability + 1), between 0.5 and 1, of label logits [labels]."""
    return float(1 / (softmax(z).max() + 1))


def entropy_uncertainty(z: npt.ArrayLike) -> float:
    """Shannon entropy of the label probabilities, in nats, of label logits [labels]."""
    p = softmax(z)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def logtoku(z: npt.ArrayLike, k: int = 2) -> float:
    """LogTokU (Ma et al. 2025): epistemic over aleatoric uncertainty of the k highest logits as Dirichlet evidence a.

        (k / (sum max(0, a) + k)) / sum -(a / a0) (digamma(a + 1) - digamma(a0 + 1)),   a0 = sum a

    Args:
        z: logits [labels].
        k: number of logits that count as evidence.

    Returns:
        the ratio; NaN where the formula has no value (evidence that is infinite, sums to zero, or meets a pole).
    """
    a = np.sort(np.asarray(z, dtype=np.float64))[::-1][:k]
    total = a.sum()
    with np.errstate(all="ignore"):
        epistemic = k / (np.maximum(a, 0.0).sum() + k)
        aleatoric = -(a / total * (digamma(a + 1) - digamma(total + 1))).sum()
        value = float(epistemic / aleatoric)
    return value if np.isfinite(value) else float("nan")


def digamma(x: npt.ArrayLike) -> Floats:
    """The logarithmic derivative of the gamma function, to about 1e-13 (relative above 1); NaN at its poles.

    Reflection below 1/2, recurrence up to 10, then the asymptotic series (Abramowitz and Stegun 6.3.18).
    """
    x = np.array(x, dtype=np.float64)
    with np.errstate(all="ignore"):
        reflected = x < 0.5
        pole = reflected & (x == np.floor(x))
        y = np.where(reflected, 1 - x, x)
        shift = np.zeros_like(y)
        for _ in range(10):
            small = y < 10
            shift -= np.where(small, 1 / y, 0.0)
            y = np.where(small, y + 1, y)
        s = 1 / (y * y)
        # B(2n) / 2n of the Bernoulli numbers, n = 1 ... 7
        terms = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
        series = np.zeros_like(y)
        for term in reversed(terms):
            series = (series + term) * s
        value = shift + np.log(y) - 0.5 / y - series
        value = np.where(reflected, value - np.pi / np.tan(np.pi * x), value)
    return np.where(pole, np.nan, value)


def fit_cut(uncertainties: Sequence[float], right: Sequence[Right]) -> float:
    """The cut that gets most labels right on labelled data.

    In ascending order of u, a content counts +1 where its second label is right, and -1 where only the first is; the
    cut is the u at which the running sum is highest.

    Args:
        uncertainties: u of each content, finite.
        right: of each content: "second" where the second most probable label is right, "first" where only the most
            probable one is, else "neither".

    Returns:
        the cut (the lowest of equally good ones); -inf where predicting one label always is at least as good.
    """
    gain = {"first": -1, "second": 1, "neither": 0}
    u = np.asarray(uncertainties, dtype=np.float64)
    if len(u) != len(right) or not np.isfinite(u).all():
        raise ValueError(f"{len(u)} uncertainties for {len(right)} contents, or not all of them finite")
    order = np.argsort(u, kind="stable")
    running = np.cumsum([gain[right[i]] for i in order])
    last = np.append(u[order][1:] > u[order][:-1], True)[: len(u)]  # contents of equal u fall on one side together
    best, cut = 0, -np.inf
    for total, value in zip(running[last].tolist(), u[order][last].tolist(), strict=True):
        if total > best:
            best, cut = total, value
    return float(cut)


def predict(z: npt.ArrayLike, uncertainty: float, cut: float) -> tuple[int, ...]:
    """The predicted labels.

    Args:
        z: logits or probabilities [labels].
        uncertainty: u of this content.
        cut: of :func:`fit_cut`.

    Returns:
        index of the most probable label, and of the next one unless the uncertainty is above the cut (or NaN).
    """
    best = np.argsort(-np.asarray(z, dtype=np.float64), kind="stable")
    return tuple(best[: 2 if uncertainty <= cut else 1].tolist())


def one_or_two(scores: Floats, uncertainties: Floats, truth: Floats) -> tuple[npt.NDArray[np.bool_], float]:
    """Predictions for labelled contents, at the cut fitted on the same contents, as arXiv:2511.22312 does it.

    Args:
        scores: of the labels, float64 [contents, labels]; NaN where there is none.
        uncertainties: float64 [contents]; NaN where there is none.
        truth: 1, 0, or NaN where unknown, float64 [contents, labels].

    Returns:
        predictions, bool [contents, labels], all false where a content has no scores; and the cut.
    """
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    best = np.argsort(-ranked, axis=1, kind="stable")[:, :2]  # [contents, 2]
    truth_of_best = np.take_along_axis(truth, best, axis=1)  # [contents, 2]
    usable = np.isfinite(uncertainties) & ~np.isnan(truth_of_best).any(axis=1)
    right: list[Right] = [
        "second" if row[1:] == [1.0] else "first" if row[0] == 1 else "neither"
        for row in truth_of_best[usable].tolist()
    ]
    cut = fit_cut(uncertainties[usable].tolist(), right)
    predicted = np.zeros(scores.shape, dtype=bool)
    for i in np.flatnonzero(~np.isnan(scores).all(axis=1)):
        predicted[i, list(predict(ranked[i], float(uncertainties[i]), cut))] = True
    return predicted, cut
