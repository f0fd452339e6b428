"""Areas and calibration error under weights, against scikit-learn and numpy on the repeated cases."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from tokmarg.metrics import ConfusionCounts, Ranked


def drawn(seed: int, count: int, distinct: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, count).astype(float)
    score = rng.integers(0, distinct, count) / distinct
    return truth, score, rng.integers(0, 4, (3, count)).astype(float)


def test_the_worked_example() -> None:
    ranked = Ranked(np.array([0, 1, 0, 1.0]), np.array([0.1, 0.4, 0.4, 0.9]))
    masses = ranked.masses(np.array([[1, 2, 1, 1.0]]))
    assert masses.positives.tolist() == [[0, 2, 1]]
    assert masses.negatives.tolist() == [[1, 1, 0]]
    assert masses.roc_auc() == pytest.approx([5 / 6])
    assert masses.average_precision() == pytest.approx([1 / 3 * 1 + 2 / 3 * 3 / 4])


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 80), distinct=st.sampled_from([1, 2, 7, 10**6]))
def test_areas_equal_scikit_learn(seed: int, count: int, distinct: int) -> None:
    truth, score, weights = drawn(seed, count, distinct)
    masses = Ranked(truth, score).masses(weights)
    for i, weight in enumerate(weights):
        is_, said = truth[weight > 0], score[weight > 0]
        if len(np.unique(is_)) < 2:
            assert np.isnan(masses.roc_auc()[i])
            assert np.isnan(masses.average_precision()[i])
            continue
        weight = weight[weight > 0]
        assert masses.roc_auc()[i] == pytest.approx(sk.roc_auc_score(is_, said, sample_weight=weight), abs=1e-12)
        expected = sk.average_precision_score(is_, said, sample_weight=weight)
        assert masses.average_precision()[i] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), bins=st.integers(1, 20))
def test_bins_are_those_of_array_split(seed: int, count: int, bins: int) -> None:
    """On scores that all differ; with weights, on the cases repeated as often."""
    truth, _, weights = drawn(seed, count, 2)
    score = np.random.default_rng(seed).permutation(count) / count
    for weight in [np.ones(count), *weights]:
        repeated = np.repeat(np.arange(count), weight.astype(int))
        order = repeated[np.argsort(score[repeated], kind="stable")]
        masses = Ranked(truth, score).masses(weight[None])
        if not len(order):
            assert np.isnan(masses.calibration_error(bins)[0])
            continue
        parts = np.array_split(order, bins)
        _, share, size = (part[0] for part in masses.calibration_bins(bins))
        assert size.tolist() == [len(part) for part in parts]
        assert share[size > 0] == pytest.approx([truth[part].mean() for part in parts if len(part)], abs=1e-9)
        expected = sum(abs(score[p].mean() - truth[p].mean()) * len(p) for p in parts if len(p)) / len(order)
        assert masses.calibration_error(bins)[0] == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 10**6))
def test_nothing_depends_on_the_order_of_the_records(seed: int) -> None:
    truth, score, _ = drawn(seed, 50, 3)
    other = np.random.default_rng(seed + 1).permutation(50)
    first, second = Ranked(truth, score).masses(), Ranked(truth[other], score[other]).masses()
    assert first.calibration_error() == pytest.approx(second.calibration_error())
    assert first.roc_auc() == pytest.approx(second.roc_auc(), nan_ok=True)


def test_weights_are_the_contents() -> None:
    """Two cases of each of two contents."""
    ranked = Ranked(np.array([1, 0, 0, 1.0]), np.array([0.9, 0.2, 0.7, 0.1]), np.array([0, 0, 1, 1]))
    found = ranked.masses(np.array([[1, 0], [0, 1], [1, 1.0]])).roc_auc()
    assert found == pytest.approx([1.0, 0.0, 0.5])


def test_no_cases() -> None:
    masses = Ranked(np.zeros(0), np.zeros(0)).masses()
    assert np.isnan([masses.roc_auc()[0], masses.average_precision()[0], masses.calibration_error()[0]]).all()


def test_rates() -> None:
    score, truth = np.array([0.9, 0.8, 0.8, 0.6, 0.3, 0.1]), np.array([1.0, 1, 0, 1, 0, 0])
    counts = ConfusionCounts.of(score >= 0.8, truth)
    assert (counts.true_positives, counts.false_negatives, counts.false_positives, counts.true_negatives) == (
        2,
        1,
        1,
        2,
    )
    assert counts.rates() == {"recall": 2 / 3, "false_positive_rate": 1 / 3, "precision": 2 / 3}
    assert ConfusionCounts(0, 0, 0, 0).rates() == {"recall": None, "false_positive_rate": None, "precision": None}
