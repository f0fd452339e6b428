"""Certified thresholds: the bound against scipy, and the promise on populations whose risk is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from tokmarg.calibration.risk_control import Guarantee, Risk, least_cases, most_errors, upper_bound
from tokmarg.errors import TokmargError


@settings(max_examples=150)
@given(st.integers(1, 3000), st.floats(0.001, 0.6), st.floats(0.001, 0.3))
def test_most_errors_equal_scipys_binomial(cases: int, level: float, delta: float) -> None:
    passing = np.flatnonzero(binom.cdf(np.arange(cases), cases, level) <= delta * (1 - 1e-8))
    allowed = np.flatnonzero(binom.cdf(np.arange(cases), cases, level) <= delta)
    found = most_errors(cases, level, delta)
    assert found in ({passing[-1] if len(passing) else None, allowed[-1] if len(allowed) else None})


@settings(max_examples=80)
@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0.001, 0.3))
def test_upper_bound_equals_clopper_pearson(cases: int, share: float, delta: float) -> None:
    errors = int(share * cases)
    expected = 1.0 if errors == cases else beta.ppf(1 - delta, errors + 1, cases - errors)
    assert upper_bound(errors, cases, delta) == pytest.approx(expected, rel=1e-6)


def test_bound_and_test_agree() -> None:
    """P(Bin(n, level) <= k) <= delta says the same as an upper bound at or below the level."""
    for cases in (40, 59, 60, 100, 500):
        errors = most_errors(cases, 0.1, 0.05)
        assert errors is not None
        assert upper_bound(errors, cases, 0.05) <= 0.1 < upper_bound(errors + 1, cases, 0.05)


@pytest.mark.parametrize(("level", "delta", "needed"), [(0.05, 0.05, 59), (0.1, 0.05, 29), (0.01, 0.05, 299)])
def test_least_cases_are_the_textbooks(level: float, delta: float, needed: int) -> None:
    assert least_cases(level, delta) == needed
    assert most_errors(needed, level, delta) == 0
    assert most_errors(needed - 1, level, delta) is None


def test_thresholds_by_hand() -> None:
    """Of 93 cases one may be an error at 0.05 and 0.95 (the textbook's numbers: 59, 93, 124 for 0, 1, 2)."""
    assert [most_errors(n, 0.05, 0.05) for n in (59, 92, 93, 123, 124)] == [0, 0, 1, 1, 2]
    score = np.arange(1, 94) / 100
    ones = np.ones(93)
    assert Guarantee("fnr", 0.05).certify(score, score, ones) == 0.02  # misses 0.01
    assert Guarantee("fpr", 0.05).certify(score, score, 1 - ones) == math.nextafter(0.92, 1)  # flags 0.93
    assert Guarantee("fnr", 0.05).certify(score[:58], score[:58], ones[:58]) is None
    assert Guarantee("fnr", 0.05, simultaneous=True).certify(score, score, ones, 10) is None  # at 0.995 each
    assert Guarantee("fpr", 0.05).certify(np.ones(93), np.ones(93), 1 - ones) == math.inf


def test_intervals_count_as_wrong_unless_they_are_right_whole() -> None:
    lower, upper = np.full(59, 0.3), np.full(59, 0.5)
    assert Guarantee("fnr", 0.05).certify(lower, upper, np.ones(59)) == 0.3
    assert Guarantee("fpr", 0.05).certify(lower, upper, np.zeros(59)) == math.nextafter(0.5, 1)


class Population:
    """Scores of cases of one class: a mixture of atoms and a stretch, with every risk known in closed form."""

    atoms = {0.05: 0.03, 0.2: 0.04, 0.9: 0.2, 1.0: 0.05}  # noqa: RUF012
    low, high = 0.1, 0.9  # uniform in between, with the rest of the mass

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        values = [*self.atoms, -1.0]
        masses = [*self.atoms.values(), 1 - sum(self.atoms.values())]
        found = rng.choice(values, count, p=masses)
        return np.where(found < 0, rng.uniform(self.low, self.high, count), found)

    def below(self, threshold: float) -> float:
        """P(score < threshold)."""
        stretch = min(1.0, max(0.0, (threshold - self.low) / (self.high - self.low)))
        rest = 1 - sum(self.atoms.values())
        return rest * stretch + sum(mass for value, mass in self.atoms.items() if value < threshold)

    def risk(self, guarantee: Guarantee, threshold: float) -> float:
        return self.below(threshold) if guarantee.risk == "fnr" else 1 - self.below(threshold)


@pytest.mark.parametrize("risk", ["fnr", "fpr"])
@pytest.mark.parametrize(("level", "cases"), [(0.05, 80), (0.1, 150), (0.3, 400)])
def test_promise_holds_on_unseen_draws(risk: Risk, level: float, cases: int) -> None:
    """At least 180 of 200 at confidence 0.95: a right procedure fails here once in 1,000."""
    guarantee, population = Guarantee(risk, level, 0.95), Population()
    rng = np.random.default_rng(cases)
    kept, tight = 0, []
    for _ in range(200):
        score = population.draw(rng, cases)
        threshold = guarantee.certify(score, score, np.full(cases, float(risk == "fnr")))
        assert threshold is not None
        true_risk = population.risk(guarantee, threshold)
        fresh = population.draw(rng, 20_000)
        seen = np.mean(fresh < threshold) if risk == "fnr" else np.mean(fresh >= threshold)
        assert seen == pytest.approx(true_risk, abs=0.02)  # the closed form is right
        kept += true_risk <= level
        tight.append(true_risk)
    assert kept >= 180
    assert max(tight) > level / 2  # and not by flagging everything or nothing


def test_simultaneous_promise_holds_for_all_at_once() -> None:
    guarantee, population, rng = Guarantee("fnr", 0.1, 0.9, simultaneous=True), Population(), np.random.default_rng(1)
    kept = alone = 0
    for _ in range(200):
        scores = [population.draw(rng, 120) for _ in range(8)]
        found = [guarantee.certify(s, s, np.ones(120), len(scores)) for s in scores]
        kept += all(t is not None and population.below(t) <= 0.1 for t in found)
        found = [Guarantee("fnr", 0.1, 0.9).certify(s, s, np.ones(120)) for s in scores]
        alone += all(t is not None and population.below(t) <= 0.1 for t in found)
    assert kept >= 172  # 180 expected at least
    assert alone < kept  # what each threshold by itself does not promise


@pytest.mark.parametrize("text", ["", "fnr", "fnr=", "fnr=x", "recall=0.9", "fnr>=0.1", "fnr=nan"])
def test_refused_forms(text: str) -> None:
    with pytest.raises(TokmargError, match="is not fnr=X or fpr=X"):
        Guarantee.parse(text)


@pytest.mark.parametrize("text", ["fnr=0", "fpr=1", "fpr=-0.1", "fnr=inf"])
def test_refused_levels(text: str) -> None:
    with pytest.raises(TokmargError, match="level must lie strictly between 0 and 1"):
        Guarantee.parse(text)


def test_forms() -> None:
    assert Guarantee.parse("fnr=0.05") == Guarantee("fnr", 0.05, 0.95)
    assert Guarantee.parse(" fpr <= 0.01 ", 0.9, True) == Guarantee("fpr", 0.01, 0.9, True)
    with pytest.raises(TokmargError, match="confidence must lie strictly"):
        Guarantee.parse("fnr=0.05", 1.0)
