"""Metrics against scikit-learn on the same arrays, and one example by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from tokmarg.errors import TokmargError
from tokmarg.metrics import Cases, auc, bootstrap, expected_calibration_error, measure

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


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.0, 0.2, 0.5, 0.77, 1.0]))
def test_metrics_equal_scikit_learn(seed: int, threshold: float) -> None:
    data = cases(seed)
    found = measure(data, threshold)
    known = ~(np.isnan(data.truth) | np.isnan(data.score))
    truth, score = data.truth[known], data.score[known]
    predicted = score >= threshold
    assert found["micro_f1"] == pytest.approx(sk.f1_score(truth, predicted, zero_division=0))
    assert found["hamming_loss"] == pytest.approx(sk.hamming_loss(truth, predicted))
    assert found["micro_auc"] == pytest.approx(sk.roc_auc_score(truth, score))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, score))
    columns = [(data.truth[known[:, i], i], data.score[known[:, i], i]) for i in range(3)]
    assert found["macro_auc"] == pytest.approx(np.mean([sk.roc_auc_score(*c) for c in columns]))
    assert found["macro_average_precision"] == pytest.approx(np.mean([sk.average_precision_score(*c) for c in columns]))
    for label, (t, s) in zip(LABELS, columns, strict=True):
        entry = found["labels"][label]
        assert entry["auc"] == pytest.approx(sk.roc_auc_score(t, s))
        assert entry["f1"] == pytest.approx(sk.f1_score(t, s >= threshold, zero_division=0))
        assert (entry["positives"], entry["negatives"]) == (t.sum(), (1 - t).sum())
    t, s = data.unsafe_truth[~np.isnan(data.unsafe_truth)], data.unsafe_score[~np.isnan(data.unsafe_truth)]
    assert found["unsafe"]["auc"] == pytest.approx(sk.roc_auc_score(t, s))
    assert found["unsafe"]["recall"] == pytest.approx(sk.recall_score(t, s >= 0.5))
    assert found["unsafe"]["false_positive_rate"] == pytest.approx(np.mean(s[t == 0] >= 0.5))


def test_by_hand() -> None:
    """Two contents, two labels; of one pair nothing is known."""
    truth = np.array([[1, 0], [np.nan, 1]], float)
    score = np.array([[0.9, 0.3], [0.9, 0.1]])
    found = measure(Cases(("A", "B"), truth, score, np.array([1.0, 1.0]), np.array([0.6, 0.4])), 0.2)
    assert found["micro_f1"] == pytest.approx(2 * 1 / (2 + 2))  # predicted 0.9 and 0.3, true 0.9 and 0.1
    assert found["hamming_loss"] == pytest.approx(2 / 3)
    assert found["micro_auc"] == pytest.approx(0.5)  # 0.9 above 0.3, 0.1 below
    assert found["brier"] == pytest.approx((0.01 + 0.09 + 0.81) / 3)
    assert found["labels"]["A"] == {"auc": None, "average_precision": None, "f1": 1.0, "positives": 1, "negatives": 0}
    assert found["unsafe"]["auc"] is None
    assert (found["unsafe"]["recall"], found["unsafe"]["false_positive_rate"]) == (0.5, None)


def test_calibration_error() -> None:
    score = np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8, 0.8])
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 1.0])
    assert expected_calibration_error(truth, score, bins=2) == pytest.approx((0.15 + 0.2) / 2)
    perfect = np.random.default_rng(0).random(60_000)
    happened = (np.random.default_rng(1).random(60_000) < perfect).astype(float)
    assert expected_calibration_error(happened, perfect) < 0.01
    assert expected_calibration_error(truth[:0], score[:0]) is None


def test_bootstrap_intervals_hold_the_value_as_often_as_they_say() -> None:
    """The AUC of a population whose AUC is known: normal scores one standard deviation apart."""
    rng = np.random.default_rng(3)
    expected = 0.7602499389  # Phi(1 / sqrt 2)
    hits = 0
    for _ in range(60):
        truth = rng.integers(0, 2, 150).astype(float)
        data = Cases((), np.zeros((150, 0)), np.zeros((150, 0)), truth, rng.normal(truth))
        low, high = bootstrap(data, {"auc": lambda c: auc(*c.unsafe())}, 120)["auc"]
        hits += low <= expected <= high
    assert hits >= 51


def test_bootstrap_is_seeded_and_undefined_where_the_metric_is() -> None:
    data = cases(1)
    metrics = {"auc": lambda c: auc(*c.pooled()), "none": lambda c: None}
    assert bootstrap(data, metrics, 20) == bootstrap(data, metrics, 20)
    assert bootstrap(data, metrics, 20)["none"] is None


def test_nothing_known() -> None:
    empty = np.full((3, 3), np.nan)
    found = measure(Cases(LABELS, empty, empty, empty[:, 0], empty[:, 0]), 0.2)
    assert all(found[name] is None for name in ("micro_f1", "hamming_loss", "micro_auc", "macro_auc", "ece", "brier"))


def test_scikit_learn_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(TokmargError, match=r'pip install "tokmarg\[eval\]"'):
        measure(cases(1), 0.2)
