"""Metrics against scikit-learn on the same arrays, and one example by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import run_python
from tests.support.cases import LABELS, cases
from tests.support.optional import present
from tokmarg.evaluation.measures import Cases, measure
from tokmarg.metrics import expected_calibration_error, undefined


@settings(max_examples=30)
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
    assert found["labels"]["A"] == {
        "auc": None, "average_precision": None, "f1": 1.0, "ece": pytest.approx(0.1), "brier": pytest.approx(0.01),
        "positives": 1, "negatives": 0,
    }  # fmt: skip
    assert found["unsafe"]["auc"] is None
    assert (found["unsafe"]["recall"], found["unsafe"]["false_positive_rate"]) == (0.5, None)


def test_calibration_error() -> None:
    score = np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8, 0.8])
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 1.0])
    assert expected_calibration_error(truth, score, bins=2) == pytest.approx((0.15 + 0.2) / 2)
    perfect = np.random.default_rng(0).random(60_000)
    happened = (np.random.default_rng(1).random(60_000) < perfect).astype(float)
    assert present(expected_calibration_error(happened, perfect)) < 0.01
    assert expected_calibration_error(truth[:0], score[:0]) is None


def test_nothing_known() -> None:
    empty = np.full((3, 3), np.nan)
    found = measure(Cases(LABELS, empty, empty, empty[:, 0], empty[:, 0]), 0.2)
    assert all(found[name] is None for name in ("micro_f1", "hamming_loss", "micro_auc", "macro_auc", "ece", "brier"))


def test_scores_before_calibration() -> None:
    """Half of what is said is true, and the raw scores said 0.9."""
    truth, score = np.array([[1.0], [0.0]]), np.array([[0.5], [0.5]])
    data = Cases(("A",), truth, score, truth[:, 0], score[:, 0], score + 0.4, score[:, 0] + 0.3)
    found = measure(data, 0.2)
    assert (found["ece"], found["brier"], found["unsafe"]["ece"]) == pytest.approx((0.0, 0.25, 0.0))
    assert found["before_calibration"] == pytest.approx(
        {
            "ece": 0.4,
            "brier": (0.01 + 0.81) / 2,
            "micro_auc": 0.5,
            "macro_auc": 0.5,
            "unsafe_ece": 0.3,
            "unsafe_brier": (0.04 + 0.64) / 2,
            "unsafe_auc": 0.5,
        }
    )
    assert measure(cases(1), 0.2)["before_calibration"] is None


def test_why_there_is_no_auc() -> None:
    assert [undefined(*counts) for counts in [(1, 1), (0, 3), (3, 0), (0, 0)]] == [
        None, "no positives", "no negatives", "nothing is known",
    ]  # fmt: skip


def test_scikit_learn_is_not_needed() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
import tokmarg.cli.commands.evaluate, tokmarg.evaluation.evaluate, tokmarg.evaluation.report.page
assert not {"scipy", "matplotlib", "torch"} & set(sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
