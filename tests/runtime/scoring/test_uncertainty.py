"""The uncertainties against PyTorch, the cut against trying all cuts."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokmarg.scoring import uncertainty
from tokmarg.scoring.uncertainty import (
    Right,
    digamma,
    entropy_uncertainty,
    fit_cut,
    logtoku,
    one_or_two,
    predict,
    probability_uncertainty,
)

LOGITS = st.lists(st.floats(0.01, 40), min_size=2, max_size=14)


def test_example_of_the_docstring() -> None:
    assert doctest.testmod(uncertainty, extraglobs={"np": np}).failed == 0


def test_digamma() -> None:
    x = np.concatenate([np.linspace(-20.3, 30, 2017), np.geomspace(1e-6, 1e8, 500)])
    expected = torch.digamma(torch.from_numpy(x)).numpy()
    assert digamma(x) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert digamma(1.0) == pytest.approx(-0.57721566490153286, abs=1e-15)
    assert np.isnan(digamma([0.0, -3.0])).all()


@given(z=LOGITS)
def test_uncertainties_equal_pytorch(z: list[float]) -> None:
    t = torch.tensor(z, dtype=torch.float64)
    p = torch.softmax(t, 0)
    assert probability_uncertainty(z) == pytest.approx(float(1 / (p.max() + 1)), rel=1e-12)
    distribution: Any = torch.distributions.Categorical(probs=p)  # its methods are not annotated
    assert entropy_uncertainty(z) == pytest.approx(float(distribution.entropy()), abs=1e-9)
    a = t.topk(2).values
    total = a.sum()
    aleatoric = -(a / total * (torch.digamma(a + 1) - torch.digamma(total + 1))).sum()
    assert logtoku(z) == pytest.approx(float(2 / (torch.relu(a).sum() + 2) / aleatoric), rel=1e-8)


def test_edges() -> None:
    assert entropy_uncertainty([0.0, -math.inf]) == 0.0
    assert probability_uncertainty([3.0, -math.inf]) == 0.5
    assert math.isnan(logtoku([2.0, -math.inf]))
    assert math.isnan(logtoku([0.0, 0.0]))


def test_cut_by_hand() -> None:
    u = [0.1, 0.2, 0.3, 0.4, 0.5]
    right: list[Right] = ["second", "second", "first", "neither", "first"]
    assert fit_cut(u, right) == 0.2
    assert predict([1.0, 3.0, 2.0], 0.2, cut=0.2) == (1, 2)
    assert predict([1.0, 3.0, 2.0], 0.21, cut=0.2) == (1,)
    assert predict([1.0, 3.0, 2.0], math.nan, cut=0.2) == (1,)
    assert fit_cut(u, ["first"] * 5) == -math.inf
    assert fit_cut([], []) == -math.inf
    with pytest.raises(ValueError, match="finite"):
        fit_cut([math.nan], ["first"])


def test_predictions_by_hand() -> None:
    """Of the first two contents the second label is right, too, and of the third only the first."""
    nan = math.nan
    scores = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1], [nan] * 3, [0.5, 0.4, nan]])
    truth = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [nan, 0, 0]])
    predicted, cut = one_or_two(scores, np.array([0.1, 0.2, 0.3, nan, 0.15]), truth)
    assert cut == 0.2
    assert predicted.tolist() == [
        [True, True, False], [False, True, True], [False, True, False], [False] * 3, [True, True, False],
    ]  # fmt: skip
    predicted, cut = one_or_two(scores[:1, :1], np.array([0.1]), truth[:1, :1])  # one label in all
    assert (predicted.tolist(), cut) == ([[True]], -math.inf)


@given(data=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["first", "second", "neither"])), max_size=20))
def test_cut_is_the_best_of_all(data: list[tuple[int, Right]]) -> None:
    def gain(cut: float) -> int:
        return sum({"first": -1, "second": 1, "neither": 0}[right] for u, right in data if u <= cut)

    cut = fit_cut([u for u, _ in data], [right for _, right in data])
    assert gain(cut) == max(gain(c) for c in [-math.inf, *(u for u, _ in data)])
