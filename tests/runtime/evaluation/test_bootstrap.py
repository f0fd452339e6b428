"""The fast bootstrap against the plain one: draw rows, measure them, again and again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.cases import LABELS, cases
from tests.support.optional import present
from tokmarg.evaluation.bootstrap import bootstrap, difference, paired
from tokmarg.evaluation.measures import Cases, measure


def flat(data: Cases, threshold: float) -> dict[str, float | None]:
    """The metrics of ``measure`` under the names of the bootstrap."""
    found = measure(data, threshold)
    unsafe = {f"unsafe_{name}": found["unsafe"][name] for name in ("auc", "average_precision", "ece", "brier")}
    labels = {
        f"{name}:{label}": entry[name]
        for name in ("auc", "average_precision")
        for label, entry in found["labels"].items()
    }
    overall = ["micro_f1", "hamming_loss", "micro_auc", "macro_auc", "macro_average_precision", "ece", "brier"]
    return {**{name: found[name] for name in overall}, **unsafe, **labels}


def slow(data: Cases, threshold: float, samples: int) -> list[dict[str, float | None]]:
    """Each resample by itself. Groups are drawn by their number, and all rows of a drawn group are taken."""
    rng = np.random.default_rng(0)
    groups = np.arange(len(data.truth)) if data.groups is None else data.groups
    number = len(np.unique(groups))
    resamples = []
    for _ in range(samples):
        chosen = np.concatenate([np.flatnonzero(groups == group) for group in rng.integers(0, number, number)])
        resamples.append(flat(data.rows(chosen), threshold))
    return resamples


@pytest.mark.parametrize("copies", [1, 3])
def test_equals_the_plain_bootstrap(copies: int) -> None:
    data = cases(5, count=60)
    if copies > 1:
        data = replace(data, groups=np.arange(60) // copies)
    fast, plain = bootstrap(data, 0.4, 25), slow(data, 0.4, 25)
    assert set(fast) == set(plain[0])
    for name, interval in fast.items():
        values = [value for found in plain if (value := found[name]) is not None]
        assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9), name


def test_differences_are_paired() -> None:
    """Second minus first in each resample, not interval minus interval."""
    first, second = cases(5, count=60), cases(5, count=60)
    second = replace(second, score=second.score**2)
    found = difference(first, second, 0.4, 25)
    pairs = list(zip(slow(first, 0.4, 25), slow(second, 0.4, 25), strict=True))
    for name in ("micro_f1", "hamming_loss", "ece", "brier"):
        expected = np.percentile([present(b[name]) - present(a[name]) for a, b in pairs], [2.5, 97.5])
        assert found[name].interval == pytest.approx(expected, abs=1e-9), name
        before, after = present(flat(first, 0.4)[name]), present(flat(second, 0.4)[name])
        assert found[name].value == pytest.approx(after - before)
    assert found["micro_auc"].value == pytest.approx(0)  # squares keep the order
    assert found["micro_auc"].interval == pytest.approx([0, 0])
    assert found["brier"].value != 0


def test_a_difference_counts_what_both_have() -> None:
    """Of labels A, B and C, A, only the middle one is shared; a row that one could not score counts for neither."""
    first, second = cases(1, count=40, unknown=0), cases(2, count=40, unknown=0)
    first = Cases(("A", "B"), first.truth[:, :2], first.score[:, :2], first.unsafe_truth, first.unsafe_score)
    second = Cases(("C", "B"), first.truth[:, :2], second.score[:, :2], first.unsafe_truth, second.unsafe_score)
    second.score[3] = np.nan
    second.unsafe_score[3] = np.nan
    one, two = paired(first, second)
    assert one.labels == two.labels == ("B",)
    assert len(one.pooled()[0]) == len(two.pooled()[0]) == 39
    assert len(one.unsafe()[0]) == 39
    rest = np.delete(np.arange(40), 3)
    expected = np.mean((second.truth[rest, 1] - second.score[rest, 1]) ** 2) - np.mean(
        (first.truth[rest, 1] - first.score[rest, 1]) ** 2
    )
    assert difference(first, second, 0.5, 0)["brier"].value == pytest.approx(expected)
    assert difference(first, second, 0.5, 0)["brier"].interval is None


def test_copies_of_one_text_widen_the_interval() -> None:
    """Each content three times: drawn apart they would pass for three times as many contents."""
    one = cases(3, count=80, unknown=0)
    three = one.rows(np.repeat(np.arange(80), 3))
    apart = present(bootstrap(three, 0.4, 300)["unsafe_auc"])
    together = present(bootstrap(replace(three, groups=np.repeat(np.arange(80), 3)), 0.4, 300)["unsafe_auc"])
    alone = bootstrap(one, 0.4, 300)["unsafe_auc"]
    assert together == pytest.approx(alone, abs=1e-9)
    assert (together[1] - together[0]) > 1.4 * (apart[1] - apart[0])


def test_intervals_hold_the_value_as_often_as_they_say() -> None:
    """The AUC of a population whose AUC is known: normal scores one standard deviation apart."""
    rng = np.random.default_rng(3)
    expected = 0.7602499389  # Phi(1 / sqrt 2)
    hits = 0
    for _ in range(100):
        truth = rng.integers(0, 2, 150).astype(float)
        data = Cases((), np.zeros((150, 0)), np.zeros((150, 0)), truth, rng.normal(truth))
        low, high = present(bootstrap(data, 0.2, 200)["unsafe_auc"])
        hits += low <= expected <= high
    assert 88 <= hits <= 100


def test_seeded_and_undefined_where_the_metric_is() -> None:
    data = cases(1)
    data = replace(data, truth=np.where(np.arange(3) == 1, 1.0, data.truth))
    assert bootstrap(data, 0.2, 20) == bootstrap(data, 0.2, 20) != bootstrap(data, 0.2, 20, seed=1)
    assert bootstrap(data, 0.2, 20)["auc:B"] is None
    empty = np.full((3, 3), np.nan)
    nothing = Cases(LABELS, empty, empty, empty[:, 0], empty[:, 0])
    assert set(bootstrap(nothing, 0.2, 5).values()) == {None}
    assert {found.value for found in difference(nothing, nothing, 0.2, 5).values()} == {None}
