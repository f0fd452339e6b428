"""Base rates: calibrations shifted to other traffic, against populations whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.runtime.calibration.test_calibration import CALIBRATION, VALIDATOR
from tests.support.optional import present
from tokmarg import TokmargError
from tokmarg.calibration import Calibration, with_prior
from tokmarg.calibration.calibrators import IDENTITY, Identity, Isotonic, Shifted, Sigmoid, inverse
from tokmarg.calibration.cross_validation import cross_validate
from tokmarg.calibration.label_calibration import LabelCalibration
from tokmarg.calibration.observations import Observations
from tokmarg.calibration.prior_shift import odds_factor, shifted
from tokmarg.metrics import expected_calibration_error
from tokmarg.results import CalibrationMethod, Marginal

#: Mean and standard deviation of the logit of raw scores: of positives +MEAN, of negatives -MEAN.
MEAN, DEVIATION = 1.5, 1.5
#: Share of the unsafe contents that have the label, and of unsafe ones in the data of the calibration.
OF_UNSAFE, FITTED = 0.3, 0.4


def sigmoid(z: np.ndarray | float) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.asarray(z))))


def population(seed: int, count: int, unsafe_share: float) -> tuple[Observations, np.ndarray]:
    """Records of traffic in which scores say the same of each class, whatever the base rate; and the true probabilities
    of the label and of ``unsafe`` given the score. [records, names]"""
    rng = np.random.default_rng(seed)
    unsafe = rng.random(count) < unsafe_share
    label = unsafe & (rng.random(count) < OF_UNSAFE)
    truth = np.column_stack([label, unsafe]).astype(float)
    z = rng.normal(MEAN * (2 * truth - 1), DEVIATION)
    rates = np.array([unsafe_share * OF_UNSAFE, unsafe_share])
    posterior = sigmoid(2 * MEAN / DEVIATION**2 * z + np.log(rates / (1 - rates)))
    score = sigmoid(z)
    return Observations(("A", "unsafe"), truth, score, score, score), posterior


def fitted(method: CalibrationMethod) -> Calibration:
    observed, _ = population(1, 20_000, FITTED)
    entries = cross_validate(observed, method).calibrations
    return replace(CALIBRATION, labels={"A": entries["A"]}, unsafe=entries["unsafe"])


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic"])
@pytest.mark.parametrize("prior", [0.01, 0.9])
def test_probabilities_are_true_where_the_base_rate_is_another(method: CalibrationMethod, prior: float) -> None:
    calibration = fitted(method)
    assert calibration.unsafe.share == pytest.approx(FITTED, abs=0.01)
    assert calibration.labels["A"].share == pytest.approx(FITTED * OF_UNSAFE, abs=0.01)
    assert calibration.labels["A"].unsafe_share == calibration.unsafe.share
    moved = present(with_prior(calibration, prior))
    observed, posterior = population(2, 40_000, prior)
    for k, name in enumerate(observed.names):
        found = moved.of(name).calibrator(observed.score[:, k])
        assert np.abs(found - posterior[:, k]).mean() < 0.015
        unshifted = calibration.of(name).calibrator(observed.score[:, k])
        assert np.abs(unshifted - posterior[:, k]).mean() > 0.05
        assert present(expected_calibration_error(observed.truth[:, k], found)) < 0.01
    assert moved.unsafe.share == prior
    assert moved.labels["A"].share == pytest.approx(prior * OF_UNSAFE, rel=0.05)


def test_worked_example() -> None:
    """Half of the calibration's records are unsafe, of the user's one in a hundred."""
    entry = LabelCalibration(Sigmoid(1.0, 1.0, 0.0), "own", 50, 50, None, {}, 0.5, 0.5)
    label = LabelCalibration(Sigmoid(1.0, 1.0, 0.0), "own", 20, 80, None, {}, 0.2, 0.5)
    moved = present(with_prior(replace(CALIBRATION, unsafe=entry, labels={"A": label}), 0.01))
    assert float(moved.unsafe.calibrator(0.9)) == pytest.approx(9 / 99 / (1 + 9 / 99))
    # Of the unsafe contents 0.4 have the label: 0.2 of the calibration's, 0.004 of the user's.
    odds = 9 * (0.004 / 0.996) / (0.2 / 0.8)
    assert float(moved.labels["A"].calibrator(0.9)) == pytest.approx(odds / (1 + odds))
    assert moved.labels["A"].share == pytest.approx(0.004)
    assert moved.labels["A"].unsafe_share == 0.01


def test_there_and_back() -> None:
    for method in ("platt", "isotonic"):
        calibration = fitted(method)
        there = present(with_prior(calibration, 0.001))
        back = present(with_prior(there, present(calibration.unsafe.share)))
        p = np.linspace(0, 1, 101)
        for name in ("A", "unsafe"):
            assert back.of(name).calibrator(p) == pytest.approx(calibration.of(name).calibrator(p), abs=1e-9)


@pytest.mark.parametrize("factor", [1e-12, 0.01, 7.0, 1e9])
def test_shifted_isotonic_maps_are_monotone_and_keep_certainty(factor: float) -> None:
    steps = Isotonic((0.1, 0.4, 0.40000001, 0.9), (0.0, 0.3, 0.3, 1.0))
    moved = shifted(steps, factor)
    assert isinstance(moved, Shifted)
    p = np.sort(np.concatenate([np.linspace(0, 1, 20_001), np.nextafter(0.4, [0, 1])]))
    assert np.all(np.diff(moved(p)) >= 0)
    assert moved([0.0, 0.05, 0.95, 1.0]).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert float(moved(0.4)) == pytest.approx(0.3 * factor / (0.3 * factor + 0.7))
    limit = inverse(moved, 0.5)
    assert float(moved(limit)) >= 0.5 > float(moved(np.nextafter(limit, 0)))


def test_bounds_stay_in_order_and_the_default_threshold_is_of_the_shifted_probability() -> None:
    calibration = fitted("isotonic")
    moved = present(with_prior(calibration, 0.02))
    for middle in (0.2, 0.7, 0.95, 0.999):
        raw = Marginal(middle, max(0.0, middle - 0.1), min(1.0, middle + 0.0005))
        found, before = moved.calibrated("unsafe", raw), calibration.calibrated("unsafe", raw)
        assert found.lower <= found.probability <= found.upper
        assert found.upper <= before.upper
        assert (middle >= moved.thresholds().unsafe) == (found.probability >= 0.5)
    assert moved.thresholds().unsafe > calibration.thresholds().unsafe


def test_thresholds_of_its_own_stay() -> None:
    """What a threshold misses, or flags of the harmless, does not depend on the base rate."""
    moved = present(with_prior(CALIBRATION, 0.01))
    assert moved.thresholds() == CALIBRATION.thresholds()
    assert moved.shown_thresholds().unsafe < CALIBRATION.shown_thresholds().unsafe


def test_labels_of_unknown_shares_stay() -> None:
    moved = present(with_prior(CALIBRATION, 0.01))
    assert [moved.labels[x] == CALIBRATION.labels[x] for x in "ABC"] == [True, False, True]
    assert (moved.labels["B"].share, moved.labels["B"].unsafe_share) == (0.01 * 0.1 / 0.4, 0.01)


def test_what_cannot_be_shifted_is_refused() -> None:
    assert with_prior(None, None) is None
    assert with_prior(CALIBRATION, None) is CALIBRATION
    with pytest.raises(TokmargError, match=r"prior: .* the guard is not calibrated"):
        with_prior(None, 0.5)
    raw = replace(CALIBRATION, unsafe=replace(CALIBRATION.unsafe, calibrator=IDENTITY, fitted_on="none", share=0.5))
    for calibration in (raw, replace(CALIBRATION, unsafe=replace(CALIBRATION.unsafe, share=None))):
        with pytest.raises(TokmargError, match=r"prior: the calibration has no share of unsafe records"):
            with_prior(calibration, 0.5)
    for prior in (0, 1, -0.1, math.nan, "0.5", True):
        with pytest.raises(TokmargError, match=r"prior must lie in \(0, 1\)"):
            with_prior(CALIBRATION, prior)  # type: ignore[arg-type]


def test_a_shifted_calibration_is_a_calibration() -> None:
    moved = present(with_prior(fitted("isotonic"), 0.01))
    document = json.loads(json.dumps(moved.to_dict()))
    VALIDATOR.validate(document)
    assert Calibration.parse(document, "c.json") == moved
    assert document["unsafe"]["calibrator"]["kind"] == "shifted"
    assert document["unsafe"]["calibrator"]["factor"] == odds_factor(present(fitted("isotonic").unsafe.share), 0.01)
    assert isinstance(present(with_prior(fitted("platt"), 0.01)).unsafe.calibrator, Sigmoid)


def test_files_written_before_shares_were() -> None:
    document = json.loads(json.dumps(CALIBRATION.to_dict()))
    for entry in (document["unsafe"], *document["labels"].values()):
        del entry["share"], entry["unsafe_share"]
    old = Calibration.parse(document, "c.json")
    assert old.unsafe.share == 20 / 100
    assert (old.labels["A"].share, old.labels["A"].unsafe_share) == (11 / 91, None)
    assert old.labels["B"].share is None
    assert not isinstance(present(with_prior(old, 0.01)).unsafe.calibrator, Identity)
