"""Fits one calibrator to raw probabilities and truths: Platt, temperature and beta scaling, isotonic regression.

The three sigmoids are logistic regressions without penalty on ln p and ln(1 - p), against Platt's targets
(N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0, which keep the fit finite where the classes do not overlap
(Platt 1999). Isotonic regression is pool-adjacent-violators. Both are small enough to need no library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokmarg.arrays import Floats
from tokmarg.results import CalibrationMethod

from .calibrators import STEEPEST, Calibrator, Isotonic, Sigmoid, logs

__all__ = ["fit_calibrator", "isotonic", "logistic", "platt_targets"]


def fit_calibrator(
    method: CalibrationMethod, p: Floats, truth: Floats, weight: Floats | None = None
) -> Calibrator | None:
    """Fits a calibrator.

    Args:
        method: ``platt``, ``temperature``, ``beta`` or ``isotonic``.
        p: raw probabilities, float64 [cases].
        truth: 1 or 0, float64 [cases]; both occur.
        weight: how often each case counts, float64 [cases]; None: once.

    Returns:
        the calibrator; None where higher scores do not mean a higher frequency, or next to no difference in score means
        a great one, so that no sensible sigmoid keeps their order.
    """
    if method == "isotonic":
        return isotonic(p, truth, weight)
    ln_p, ln_q = logs(p)
    targets = platt_targets(truth, weight)
    one = np.ones_like(ln_p)
    if method == "temperature":
        (a,) = logistic([ln_p - ln_q], targets, weight)
        return _sigmoid(a, a, 0.0)
    if method == "platt":
        a, c = logistic([ln_p - ln_q, one], targets, weight)
        return _sigmoid(a, a, c)
    a, b, c = logistic([ln_p, -ln_q, one], targets, weight)
    if a < 0:  # as Kull et al. do: a side that would bend the map down is left out
        a = 0.0
        b, c = logistic([-ln_q, one], targets, weight)
    elif b < 0:
        b = 0.0
        a, c = logistic([ln_p, one], targets, weight)
    return _sigmoid(a, b, c)


def _sigmoid(a: float, b: float, c: float) -> Sigmoid | None:
    usable = a >= 0 and b >= 0 and a + b > 0 and max(a, b, abs(c)) <= STEEPEST
    return Sigmoid(float(a), float(b), float(c)) if usable else None


def platt_targets(truth: Floats, weight: Floats | None = None) -> Floats:
    """Platt's targets of truths [cases], each counted by its weight."""
    counted = np.ones_like(truth) if weight is None else weight
    positives = float((truth * counted).sum())
    negatives = float(counted.sum()) - positives
    return np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def logistic(features: Sequence[Floats], targets: Floats, weight: Floats | None = None) -> list[float]:
    """Weights of a logistic regression without penalty, by Newton's method with step halving.

    Args:
        features: columns, each float64 [cases]; a column of ones for an intercept.
        targets: probabilities, float64 [cases].
        weight: how often each case counts, float64 [cases]; None: once.
    """
    counted = np.ones_like(targets) if weight is None else weight
    scale = np.array([max(float(np.abs(column).max()), 1e-300) for column in features])
    x = np.column_stack(list(features)) / scale
    weights = np.zeros(x.shape[1])
    loss = _loss(x @ weights, targets, counted)
    for _ in range(200):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -700, 700)))
        gradient = x.T @ (counted * (p - targets))
        hessian = (x * (counted * p * (1 - p))[:, None]).T @ x
        hessian += np.eye(len(weights)) * (1e-12 * max(1.0, float(np.trace(hessian))))
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (new := _loss(x @ (weights - size * step), targets, counted)) > loss and size > 1e-9:
            size /= 2
        if new > loss:
            break
        weights = weights - size * step
        done = float(np.abs(size * step).max()) <= 1e-11 * max(1.0, float(np.abs(weights).max()))
        loss = new
        if done:
            break
    return [float(w) for w in weights / scale]


def _loss(z: Floats, targets: Floats, counted: Floats) -> float:
    return float(np.sum(counted * (np.logaddexp(0, z) - targets * z)))


def isotonic(p: Floats, truth: Floats, weight: Floats | None = None) -> Isotonic:
    """Isotonic regression of truths on probabilities, cases with equal probability joined first."""
    counted = np.ones_like(truth) if weight is None else weight
    x, index = np.unique(p, return_inverse=True)
    counts = np.bincount(index, weights=counted, minlength=len(x))
    means = np.bincount(index, weights=truth * counted, minlength=len(x)) / counts
    blocks: list[tuple[float, float, int, int]] = []  # (mean, weight, first x, last x)
    for i, (mean, count) in enumerate(zip(means.tolist(), counts.tolist(), strict=True)):
        block = (mean, float(count), i, i)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            block = ((before[0] * before[1] + block[0] * block[1]) / total, total, before[2], i)
        blocks.append(block)
    knots = [(float(x[end]), min(1.0, max(0.0, m))) for m, _, first, last in blocks for end in sorted({first, last})]
    return Isotonic(tuple(k[0] for k in knots), tuple(k[1] for k in knots))
