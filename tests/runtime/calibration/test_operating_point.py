"""Thresholds by target against a search over every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.optional import present
from tokmarg.calibration.operating_point import Target
from tokmarg.errors import TokmargError
from tokmarg.metrics import ConfusionCounts

SCORE = np.array([0.9, 0.8, 0.8, 0.6, 0.3, 0.1])
TRUTH = np.array([1.0, 1, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("fpr<=0", 0.9),
        ("fpr<=0.34", 0.6),
        ("fpr <= 0.7", 0.3),
        ("recall>=0.3", 0.9),
        ("recall>=0.5", 0.8),
        ("recall >= 1", 0.6),
        ("precision>=1", 0.9),
        ("precision>=0.75", 0.6),
        ("precision>=0.5", 0.1),
        ("max-f1", 0.6),
    ],
)
def test_by_hand(text: str, threshold: float) -> None:
    assert Target.parse(text).threshold(SCORE, TRUTH) == threshold


def test_where_no_threshold_will_do() -> None:
    worst = np.array([1.0, 0.5]), np.array([0.0, 1.0])
    assert Target.parse("fpr<=0.5").threshold(*worst) == math.inf  # flags nothing
    assert Target.parse("precision>=0.9").threshold(*worst) is None
    for text in ("recall>=0.5", "precision>=0.5", "max-f1"):
        assert Target.parse(text).threshold(np.array([0.5]), np.array([0.0])) is None
    assert Target.parse("fpr<=0.5").threshold(np.array([0.5]), np.array([1.0])) is None
    assert Target.parse("max-f1").threshold(np.array([]), np.array([])) is None


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=2, max_size=25),
    st.sampled_from(["fpr<=0.2", "fpr<=0", "recall>=0.7", "recall>=1", "precision>=0.6", "precision>=1", "max-f1"]),
)
def test_nothing_better_exists(cases: list[tuple[float, bool]], text: str) -> None:
    score, truth = np.array([s for s, _ in cases]), np.array([float(t) for _, t in cases])
    target = Target.parse(text)
    found = target.threshold(score, truth)
    rates = {t: ConfusionCounts.of(score >= t, truth) for t in {*score.tolist(), math.inf}}

    def f1(c: ConfusionCounts) -> float:
        return 2 * c.true_positives / (2 * c.true_positives + c.false_negatives + c.false_positives)

    lacking = truth.all() if target.quantity == "fpr" else not truth.any()
    if lacking:
        assert found is None
        return
    if target.quantity == "max-f1":
        best = max(f1(c) for c in rates.values())
        assert found == max(t for t, c in rates.items() if f1(c) >= best - 1e-12)
        return
    if target.quantity == "fpr":
        fine = [t for t, c in rates.items() if present(c.rates()["false_positive_rate"]) <= target.level]
        assert found == min(fine)
    elif target.quantity == "recall":
        fine = [t for t, c in rates.items() if present(c.rates()["recall"]) >= target.level]
        assert found == max(fine)
    else:
        fine = [t for t, c in rates.items() if c.true_positives and present(c.rates()["precision"]) >= target.level]
        assert found == (min(fine) if fine else None)


@pytest.mark.parametrize("text", ["fpr<=0.01", "recall>=0.95", "precision>=0.9", "max-f1"])
def test_text_form(text: str) -> None:
    assert str(Target.parse(text)) == text
    assert Target.parse(str(Target.parse(text))) == Target.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "f1", "fpr>=0.1", "recall<=0.9", "fpr<=", "fpr<=x", "fpr<=1", "fpr<=nan", "recall>=0", "precision>=1.1",
     "recall>=inf", "fpr<=-0.1", "fpr<=0.1<=2", "max-f1>=0.5"],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(TokmargError, match=r"^target ") as caught:
        Target.parse(text)
    assert repr(text) in str(caught.value)
