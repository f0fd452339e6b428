"""Random truths and scores of three labels and ``unsafe``, some of them unknown."""

from __future__ import annotations

import numpy as np

from tokmarg.evaluation.measures import Cases

LABELS = ("A", "B", "C")


def cases(seed: int, count: int = 200, unknown: float = 0.2) -> Cases:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (count, 3)).astype(float)
    score = np.clip(truth * 0.3 + rng.random((count, 3)) * 0.7, 0, 1).round(2)  # with ties
    truth[rng.random((count, 3)) < unknown] = np.nan
    score[rng.random((count, 3)) < unknown / 4] = np.nan
    unsafe = rng.integers(0, 2, count).astype(float)
    unsafe[rng.random(count) < unknown] = np.nan
    return Cases(LABELS, truth, score, unsafe, rng.random(count))
