"""Fits against scikit-learn: logistic regression without penalty, its sigmoid calibration, isotonic regression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tokmarg.calibration.calibrators import Sigmoid, logs
from tokmarg.calibration.fitting import fit_calibrator, isotonic, logistic, platt_targets
from tokmarg.results import CALIBRATIONS, CalibrationMethod


def sample(seed: int, count: int = 300, decimals: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Raw probabilities that are too extreme and too low, and truths."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, count)
    p = np.clip(1 / (1 + np.exp(-(2 * x - 1))), 1e-6, 1 - 1e-6).round(decimals)
    truth = (rng.random(count) < 1 / (1 + np.exp(-x))).astype(float)
    truth[:2] = 0, 1
    return np.clip(p, 1e-6, 1 - 1e-6), truth


def logit(p: np.ndarray) -> np.ndarray:
    ln_p, ln_q = logs(p)
    return ln_p - ln_q


def regression(
    features: np.ndarray, truth: np.ndarray, intercept: bool = True, weights: np.ndarray | None = None
) -> LogisticRegression:
    """Without penalty: C is infinite."""
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, fit_intercept=intercept, solver="newton-cholesky")
    return model.fit(features, truth, sample_weight=weights)


@pytest.mark.parametrize("seed", range(5))
def test_logistic_equals_logistic_regression_without_penalty(seed: int) -> None:
    p, truth = sample(seed)
    model = regression(logit(p)[:, None], truth)
    slope, intercept = logistic([logit(p), np.ones_like(p)], truth)
    assert slope == pytest.approx(model.coef_[0, 0], rel=1e-5)
    assert intercept == pytest.approx(model.intercept_[0], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_sigmoids_equal_logistic_regression_without_penalty_on_platts_targets(seed: int) -> None:
    p, truth = sample(seed)
    targets = platt_targets(truth)
    assert sorted(set(targets)) == [1 / (2 + (truth == 0).sum()), (truth.sum() + 1) / (truth.sum() + 2)]
    ln_p, ln_q = logs(p)
    both, weights = np.repeat([1.0, 0.0], len(p)), np.concatenate([targets, 1 - targets])
    all_columns: dict[CalibrationMethod, list[np.ndarray]] = {
        "platt": [ln_p - ln_q],
        "temperature": [ln_p - ln_q],
        "beta": [ln_p, -ln_q],
    }
    for method, columns in all_columns.items():
        features = np.tile(np.column_stack(columns), (2, 1))
        model = regression(features, both, method != "temperature", weights)
        found = fit_calibrator(method, p, truth)
        assert isinstance(found, Sigmoid)
        assert [found.a, found.b][: len(columns)] == pytest.approx(list(model.coef_[0]), rel=1e-4), method
        assert found.c == pytest.approx(model.intercept_[0] if method != "temperature" else 0, rel=1e-4, abs=1e-6)
        assert found(p) == pytest.approx(model.predict_proba(np.column_stack(columns))[:, 1], abs=1e-6)


def test_platt_equals_scikit_learns_sigmoid_calibration() -> None:
    p, truth = sample(11)
    reference = _SigmoidCalibration().fit(logit(p), truth)
    found = fit_calibrator("platt", p, truth)
    assert found is not None
    assert found(p) == pytest.approx(reference.predict(logit(p)), abs=1e-4)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([1, 2, 6]), count=st.integers(2, 80))
def test_isotonic_equals_isotonic_regression(seed: int, decimals: int, count: int) -> None:
    p, truth = sample(seed, count, decimals)
    reference = IsotonicRegression(out_of_bounds="clip").fit(p, truth)
    grid = np.concatenate([p, np.linspace(0, 1, 101)])
    assert isotonic(p, truth)(grid) == pytest.approx(reference.predict(grid), abs=1e-9)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_ranking_is_kept(method: CalibrationMethod) -> None:
    p, truth = sample(5)
    found = fit_calibrator(method, p, truth)
    assert found is not None
    order = np.argsort(p)
    steps = np.diff(found(p[order]))
    assert (steps >= 0).all()
    if method != "isotonic":
        assert (steps[np.diff(p[order]) > 0] > 0).all()


@pytest.mark.parametrize("method", ["platt", "temperature", "beta"])
def test_separate_classes_have_a_finite_fit(method: CalibrationMethod) -> None:
    p = np.concatenate([np.linspace(0.01, 0.2, 20), np.linspace(0.7, 0.9, 20)])
    found = fit_calibrator(method, p, (p > 0.5).astype(float))
    assert isinstance(found, Sigmoid)
    assert 0 < float(found(0.01)) < 0.1
    assert 0.9 < float(found(0.9)) < 1


@pytest.mark.parametrize("method", ["platt", "temperature", "beta"])
def test_scores_that_rank_the_wrong_way_have_no_sigmoid(method: CalibrationMethod) -> None:
    p, truth = sample(3)
    assert fit_calibrator(method, p, 1 - truth) is None


def test_beta_leaves_out_the_side_that_would_bend_down() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.001, 0.999, 2000)
    ln_p, ln_q = logs(p)
    for a, b in ((2.0, -0.5), (-0.5, 2.0)):
        truth = (rng.random(2000) < 1 / (1 + np.exp(-(a * ln_p - b * ln_q)))).astype(float)
        found = fit_calibrator("beta", p, truth)
        assert isinstance(found, Sigmoid)
        assert (found.a == 0, found.b == 0) == (a < 0, b < 0)


def test_extreme_probabilities_are_finite() -> None:
    p = np.array([0.0, 5e-324, 1e-9, 0.3, 0.6, 1 - 2**-53, 1.0] * 10)
    truth = np.array([0.0, 0, 0, 1, 0, 1, 1] * 10)
    for method in CALIBRATIONS:
        found = fit_calibrator(method, p, truth)
        assert found is not None
        assert np.isfinite(found(p)).all()
