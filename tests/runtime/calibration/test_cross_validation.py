"""Fits on made-up scores whose true frequencies are known: figures, fallbacks, thresholds, guarantees."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.support.optional import present
from tokmarg.calibration.calibrators import IDENTITY, Isotonic, Sigmoid
from tokmarg.calibration.cross_validation import LEAST, cross_validate
from tokmarg.calibration.fitting import fit_calibrator
from tokmarg.calibration.observations import Observations
from tokmarg.calibration.operating_point import Target
from tokmarg.calibration.risk_control import Guarantee, Risk
from tokmarg.errors import TokmargError
from tokmarg.metrics import expected_calibration_error
from tokmarg.results import CALIBRATIONS, CalibrationMethod

LABELS = ("A", "B", "C")


def frequency(p: np.ndarray) -> np.ndarray:
    """What a raw probability is worth: the made-up guard is overconfident and calls too much unsafe."""
    return np.asarray(1 / (1 + np.exp(-(0.5 * np.log(p / (1 - p)) - 1))))


def observed(seed: int, count: int = 600, labels: tuple[str, ...] = LABELS, width: float = 0.0) -> Observations:
    rng = np.random.default_rng(seed)
    score = np.clip(1 / (1 + np.exp(-rng.normal(0, 4, (count, len(labels) + 1)))), 1e-6, 1 - 1e-6)
    truth = (rng.random(score.shape) < frequency(score)).astype(float)
    lower, upper = np.clip(score - width / 2, 0, 1), np.clip(score + width / 2, 0, 1)
    return Observations((*labels, "unsafe"), truth, score, lower, upper)


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic"])
def test_unseen_rows_of_the_same_source_are_calibrated(method: CalibrationMethod) -> None:
    """The goal: an expected calibration error of at most 0.03, over the labels of unseen rows."""
    fitted = cross_validate(observed(1, 2000), method)
    unseen = observed(2, 2000)
    before, after = [], []
    for k, name in enumerate(unseen.names):
        mapped = fitted.calibrations[name].calibrator(unseen.score[:, k])
        assert np.abs(mapped - frequency(unseen.score[:, k])).mean() < 0.05
        before.append(unseen.score[:, k])
        after.append(mapped)
    truth = unseen.truth.T.ravel()
    assert present(expected_calibration_error(truth, np.concatenate(before))) > 0.15
    assert present(expected_calibration_error(truth, np.concatenate(after))) <= 0.03


def test_figures_out_of_fold_are_those_of_unseen_rows() -> None:
    fitted, unseen = cross_validate(observed(3, 1000), "isotonic"), observed(4, 20_000)
    entry = fitted.calibrations["A"]
    raw, mapped = unseen.score[:, 0], entry.calibrator(unseen.score[:, 0])
    truth = unseen.truth[:, 0]
    assert entry.figures["brier"] == pytest.approx(
        [np.mean((truth - raw) ** 2), np.mean((truth - mapped) ** 2)], abs=0.02
    )
    seen = observed(3, 1000)
    inside = np.mean((seen.truth[:, 0] - entry.calibrator(seen.score[:, 0])) ** 2)
    brier = entry.figures["brier"]
    assert isinstance(brier, list)
    assert brier[1] > inside  # what was fitted looks better than it is


def test_every_entry_is_its_own_fit_on_everything() -> None:
    data = observed(5)
    fitted = cross_validate(data, "platt")
    for k, name in enumerate(data.names):
        entry = fitted.calibrations[name]
        assert entry.calibrator == fit_calibrator("platt", data.score[:, k], data.truth[:, k])
        assert (entry.fitted_on, entry.threshold) == ("own", None)
        assert entry.positives == data.truth[:, k].sum()
        assert entry.positives + entry.negatives == 600
    assert fitted.warnings == []


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_the_same_data_give_the_same_fit(method: CalibrationMethod) -> None:
    first, second = (cross_validate(observed(6), method, target=Target.parse("max-f1")) for _ in range(2))
    assert (first.calibrations, first.figures) == (second.calibrations, second.figures)


def rare(positives: int) -> Observations:
    data = observed(7)
    data.truth[:, 1] = 0
    data.truth[np.argsort(data.score[:, 1])[-positives:], 1] = 1
    return data


def test_too_few_positives_get_the_pooled_calibrator_and_a_warning() -> None:
    assert cross_validate(rare(LEAST)).calibrations["B"].fitted_on == "own"
    data = rare(LEAST - 1)
    fitted = cross_validate(data, target=Target.parse("recall>=0.8"))
    entry = fitted.calibrations["B"]
    assert (entry.fitted_on, entry.positives, entry.negatives) == ("pooled", 9, 591)
    pool = data.score[:, :3].ravel(), data.truth[:, :3].ravel()
    assert entry.calibrator == fit_calibrator("platt", *pool)
    assert present(entry.threshold).raw == Target.parse("recall>=0.8").threshold(*pool)
    (warning,) = [w for w in fitted.warnings if "too few" in w]
    assert warning == (
        "B: 9 positives and 591 negatives are too few for a calibrator of its own (10 of each); it gets the one pooled "
        "over all labels"
    )


def test_unsafe_is_calibrated_on_its_own_or_not_at_all() -> None:
    data = observed(8)
    data.truth[:, 3] = 0
    data.truth[:5, 3] = 1
    fitted = cross_validate(data, target=Target.parse("max-f1"))
    assert (fitted.calibrations["unsafe"].calibrator, fitted.calibrations["unsafe"].fitted_on) == (IDENTITY, "none")
    assert fitted.calibrations["unsafe"].threshold is None
    assert any(
        re.match("unsafe: 5 positives and 595 negatives are too few .* raw probabilities stay", w)
        for w in fitted.warnings
    )
    data.truth[:, 3] = np.nan
    assert cross_validate(data).warnings == ["unsafe: no record says whether it is unsafe; its raw probabilities stay"]


def test_labels_of_which_nothing_is_known_stay_raw() -> None:
    data = observed(9)
    data.truth[:, :3] = np.nan
    fitted = cross_validate(data)
    assert [e.fitted_on for e in fitted.calibrations.values()] == ["none", "none", "none", "own"]
    assert [w.split(":")[0] for w in fitted.warnings] == ["A", "B", "C"]
    assert fitted.figures["ece"] is None


def test_scores_that_rank_the_wrong_way_fall_back() -> None:
    data = observed(10)
    data.truth[:, 0] = (np.random.default_rng(0).random(600) < 1 - frequency(data.score[:, 0])).astype(float)
    fitted = cross_validate(data)
    assert fitted.calibrations["A"].fitted_on == "pooled"
    assert fitted.warnings[0].startswith("A: higher scores do not go with more positives")


def test_worse_figures_are_told() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0.001, 0.999, (40, 2))
    truth = (rng.random(score.shape) < score).astype(float)  # calibrated as it is
    fitted = cross_validate(Observations(("A", "unsafe"), truth, score, score, score), "isotonic")
    assert any("out of fold the Brier score rises" in warning for warning in fitted.warnings)


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_one_class_only(truth: float) -> None:
    """Neither unsafe nor any label has both classes, whatever the labels have together."""
    data, state = observed(11), "unsafe" if truth else "safe"
    data.truth[:, :3], data.truth[:, 3] = [1.0, 0.0, np.nan], truth
    no_label = "and no label applies to some records and not to others; calibration needs both"
    with pytest.raises(TokmargError, match=f"^one class only: every scored record is {state}, {no_label}$"):
        cross_validate(data)
    data.truth[:, 3] = np.nan
    with pytest.raises(TokmargError, match=f"^one class only: no record says whether it is unsafe, {no_label}$"):
        cross_validate(data)
    data.truth[:, :3], data.truth[:, 3] = np.nan, truth
    with pytest.raises(TokmargError, match=f"^one class only: every scored record is {state}; calibration needs both$"):
        cross_validate(data)


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_labels_are_calibrated_where_unsafe_has_one_class_only(truth: float) -> None:
    """As in a set that only holds unsafe records: the labels have both classes, and unsafe stays as it is."""
    data = observed(11)
    data.truth[:, 3] = truth
    fitted = cross_validate(data, target=Target.parse("max-f1"))
    for k, name in enumerate(LABELS):
        assert fitted.calibrations[name].fitted_on == "own"
        assert fitted.calibrations[name].calibrator == fit_calibrator("platt", data.score[:, k], data.truth[:, k])
    unsafe = fitted.calibrations["unsafe"]
    assert (unsafe.calibrator, unsafe.fitted_on, unsafe.threshold) == (IDENTITY, "none", None)
    assert fitted.warnings == [
        f"unsafe: every record is {'unsafe' if truth else 'safe'}, and a calibrator needs both kinds; its raw "
        "probabilities stay",
        "unsafe: gets no threshold, for want of data",
    ]


def test_a_label_of_one_class_gets_the_pooled_calibrator() -> None:
    data = observed(11)
    data.truth[:, 1] = 0
    fitted = cross_validate(data)
    assert [e.fitted_on for e in fitted.calibrations.values()] == ["own", "pooled", "own", "own"]
    assert fitted.warnings == [
        "B: every record lacks it, and a calibrator needs both kinds; it gets the one pooled over all labels"
    ]


def test_too_few_records() -> None:
    with pytest.raises(TokmargError, match="too few records: a calibrator takes 10 positives and 10 negatives"):
        cross_validate(observed(12, 12, ()))
    data = observed(12)
    data.truth[:] = np.nan
    with pytest.raises(TokmargError, match="of no scored record anything is known"):
        cross_validate(data)


def test_rows_without_score_or_truth_do_not_count() -> None:
    data, few = observed(13), observed(13)
    few.score[:100] = few.lower[:100] = few.upper[:100] = np.nan
    few.truth[100:200] = np.nan
    kept = Observations(data.names, *(a[200:] for a in (data.truth, data.score, data.lower, data.upper)))
    for name, entry in cross_validate(few).calibrations.items():
        assert entry.calibrator == cross_validate(kept).calibrations[name].calibrator
        assert entry.positives + entry.negatives == 400


def test_targets_are_reached_on_the_data_and_nearly_out_of_fold() -> None:
    data = observed(14, 2000)
    for text, figure in (
        ("fpr<=0.1", "false_positive_rate"),
        ("recall>=0.9", "recall"),
        ("precision>=0.4", "precision"),
    ):
        target = Target.parse(text)
        fitted = cross_validate(data, target=target)
        for k, entry in enumerate(fitted.calibrations.values()):
            threshold = present(entry.threshold)
            assert threshold.raw == target.threshold(data.score[:, k], data.truth[:, k])
            assert threshold.certificate is None
            assert entry.figures[figure] == pytest.approx(target.level, abs=0.03)
        flagged = np.any(
            [data.score[:, k] >= present(e.threshold).raw for k, e in enumerate(fitted.calibrations.values())], axis=0
        )
        assert fitted.figures["recall"] == np.mean(flagged[data.truth[:, 3] == 1])


def test_a_target_out_of_reach_is_told() -> None:
    data = observed(15)
    data.truth[np.argmax(data.score[:, 0]), 0] = 0
    fitted = cross_validate(data, target=Target.parse("precision>=0.999"))
    assert fitted.calibrations["A"].threshold is None
    assert "A: no threshold reaches precision>=0.999; it gets none" in fitted.warnings
    fitted = cross_validate(data, target=Target.parse("fpr<=0"))
    assert present(fitted.calibrations["A"].threshold).raw == np.inf
    assert "A: nothing reaches fpr<=0.0 but a threshold that flags nothing; it gets that" in fitted.warnings


@pytest.mark.parametrize("risk", ["fnr", "fpr"])
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_promise_holds_through_the_whole_fit(risk: Risk, method: CalibrationMethod) -> None:
    """Calibrator and threshold see the same rows; the threshold is certified on raw scores, so the promise stands.

    The population's risk is known: of a score with density f, positives have density f * frequency.
    """
    grid = 1 / (1 + np.exp(-(4 * np.random.default_rng(99).normal(0, 1, 200_000))))
    grid = np.sort(np.clip(grid, 1e-6, 1 - 1e-6))
    weight = frequency(grid) if risk == "fnr" else 1 - frequency(grid)
    kept = 0
    for seed in range(200):
        fitted = cross_validate(observed(seed, 150, ()), method, guarantee=Guarantee(risk, 0.2, 0.95), folds=2)
        threshold = present(fitted.calibrations["unsafe"].threshold)
        wrong = grid < threshold.raw if risk == "fnr" else grid >= threshold.raw
        kept += weight[wrong].sum() / weight.sum() <= 0.2
        assert present(threshold.certificate).bound <= 0.2
    assert kept >= 180


def test_certified_thresholds_and_the_targets_of_the_rest() -> None:
    data = observed(16, width=0.02)
    guarantee = Guarantee("fnr", 0.1)
    fitted = cross_validate(data, target=Target.parse("max-f1"), guarantee=guarantee, certify=["unsafe", "A"])
    for name, entry in fitted.calibrations.items():
        assert (present(entry.threshold).certificate is not None) == (name in ("unsafe", "A")), name
    entry = fitted.calibrations["A"]
    positive = data.truth[:, 0] == 1
    threshold = present(entry.threshold)
    proof = present(threshold.certificate)
    assert proof.cases == positive.sum()
    assert proof.errors == np.sum(data.lower[positive, 0] < threshold.raw)
    assert entry.figures["recall"] == np.mean(data.score[positive, 0] >= threshold.raw)


def test_simultaneous_is_stricter() -> None:
    data = observed(17)
    alone = cross_validate(data, guarantee=Guarantee("fnr", 0.1))
    together = cross_validate(data, guarantee=Guarantee("fnr", 0.1, simultaneous=True))
    assert all(
        present(together.calibrations[n].threshold).raw < present(alone.calibrations[n].threshold).raw
        for n in data.names
    )


def test_data_that_cannot_certify_are_refused() -> None:
    data = rare(30)
    with pytest.raises(TokmargError) as caught:
        cross_validate(data, guarantee=Guarantee("fnr", 0.05))
    assert str(caught.value) == (
        "fnr=0.05 at confidence 0.95 takes at least 59 positives of each; there are 30 of B: give more data, a higher "
        "level, or certify the others only (--certify A,C,unsafe)"
    )
    assert (
        cross_validate(data, guarantee=Guarantee("fnr", 0.05), certify=["A", "C"]).calibrations["B"].threshold is None
    )
    with pytest.raises(TokmargError, match="certify: 'Z' is none of A, B, C, unsafe"):
        cross_validate(data, guarantee=Guarantee("fnr", 0.05), certify=["Z"])


def test_kinds() -> None:
    kinds = {m: type(cross_validate(observed(18), m).calibrations["A"].calibrator) for m in CALIBRATIONS}
    assert kinds == {"platt": Sigmoid, "temperature": Sigmoid, "beta": Sigmoid, "isotonic": Isotonic}


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_a_record_of_weight_three_is_three_records(method: CalibrationMethod) -> None:
    once = observed(20, 400, width=0.01)
    weight = np.where(np.arange(400) < 150, 3.0, 1.0)
    repeated = np.repeat(np.arange(400), weight.astype(int))
    thrice = Observations(once.names, *(a[repeated] for a in (once.truth, once.score, once.lower, once.upper)))
    target = Target.parse("fpr<=0.1")
    weighted = cross_validate(replace(once, weight=weight), method, target=target).calibrations
    for name, entry in cross_validate(thrice, method, target=target).calibrations.items():
        p = np.linspace(0.001, 0.999, 50)
        assert weighted[name].calibrator(p) == pytest.approx(entry.calibrator(p), abs=1e-7)
        assert present(weighted[name].threshold).raw == present(entry.threshold).raw
        assert weighted[name].share == pytest.approx(present(entry.share))
        assert weighted[name].unsafe_share == pytest.approx(present(entry.unsafe_share))
        for figure in ("ece", "brier"):  # the same but for the folds
            assert weighted[name].figures[figure] == pytest.approx(entry.figures[figure], abs=0.03)
        assert weighted[name].figures["recall"] == pytest.approx(entry.figures["recall"], abs=0.1)


def test_weights_make_the_probabilities_those_of_the_mix() -> None:
    """Two sources of which one is nearly all unsafe: calibrated on half of each, true on traffic with a tenth of it."""
    rng = np.random.default_rng(4)
    count, share = 20_000, np.repeat([0.05, 0.95], 10_000)
    truth = (rng.random((count, 1)) < share[:, None]).astype(float)
    z = rng.normal(1.5 * (2 * truth - 1), 1.5)
    score = 1 / (1 + np.exp(-z))
    weight = np.repeat([1.8, 0.2], 10_000)
    fitted = cross_validate(Observations(("unsafe",), truth, score, score, score, weight)).calibrations["unsafe"]
    base = 0.9 * 0.05 + 0.1 * 0.95
    assert fitted.share == pytest.approx(base, abs=0.005)
    true = 1 / (1 + np.exp(-(2 * 1.5 / 1.5**2 * z + np.log(base / (1 - base)))))
    assert np.abs(fitted.calibrator(score) - true).mean() < 0.01
