"""Risk control: certified thresholds by an exact binomial (Clopper-Pearson) bound, free of the scores' distribution.

    fnr <= level   of the positives, at most that share is not flagged
    fpr <= level   of the negatives, at most that share is flagged

The guarantee is about cases that were never seen: over the draw of the calibration data, with the given confidence, the
threshold's true risk is at most ``level``. It needs nothing of the scores' distribution (ties are fine), only that the
data and what is scored later are independent draws from one population.

Thresholds are tested in one fixed order, from the safest (flag everything for ``fnr``, nothing for ``fpr``) towards the
other end, each at the full error probability delta = 1 - confidence, and the last one before the first failure is
taken (fixed-sequence testing: Learn then Test, Angelopoulos et al. 2021; for a risk that is monotone in the threshold
the same as the upper-confidence-bound procedure of Bates et al. 2021). A threshold passes if P(Bin(n, level) <= errors)
<= delta. So with n positives, k the most errors that pass and x(1) <= ... <= x(n) their scores, the threshold is
x(k + 1), a one-sided tolerance limit. Its false-negative rate exceeds the level only if at most k scores fall at or
below the level's quantile, which has at most the probability P(Bin(n, level) <= k) <= delta.

>>> most_errors(59, 0.05, 0.05), most_errors(58, 0.05, 0.05), least_cases(0.05, 0.05)
(0, None, 59)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

from tokmarg.arguments import check_choice, check_type, number, shown
from tokmarg.arrays import Floats
from tokmarg.errors import OptionError, TokmargError

__all__ = ["Guarantee", "Risk", "least_cases", "most_errors", "upper_bound"]

Risk = Literal["fnr", "fpr"]
_FORM = re.compile(r"(fnr|fpr)(?:<=|=)(.+)")


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A bound on the false-negative or false-positive rate, with a confidence.

    Attributes:
        risk: ``fnr`` or ``fpr``.
        level: the highest risk, between 0 and 1.
        confidence: probability that it holds, over the draw of the calibration data.
        simultaneous: it is about all thresholds at once (Bonferroni), not about each on its own.
    """

    risk: Risk
    level: float
    confidence: float = 0.95
    simultaneous: bool = False

    def __post_init__(self) -> None:
        check_choice("guarantee: risk", self.risk, get_args(Risk))
        check_type("guarantee: simultaneous", self.simultaneous, bool, "True or False")
        for name, value in (("level", self.level), ("confidence", self.confidence)):
            if not 0 < number(value) < 1:
                raise OptionError(f"guarantee: {name} must lie strictly between 0 and 1, not {shown(value)}")

    @classmethod
    def parse(cls, text: str, confidence: float = 0.95, simultaneous: bool = False) -> Guarantee:
        """Reads ``fnr=0.05`` or ``fpr=0.01``.

        Raises:
            TokmargError: it is neither, or a number is not strictly between 0 and 1; quotes it.
        """
        match = _FORM.fullmatch("".join(text.split()))
        try:
            level = float(match[2]) if match else math.nan
        except ValueError:
            level = math.nan
        if match is None or math.isnan(level):
            raise TokmargError(f"guarantee {text!r:.60} is not fnr=X or fpr=X")
        return cls(cast(Risk, match[1]), level, confidence, simultaneous)

    @property
    def about(self) -> str:
        """The class that the risk is a share of."""
        return "positives" if self.risk == "fnr" else "negatives"

    def delta(self, thresholds: int) -> float:
        """Error probability of one of so many thresholds."""
        return (1 - self.confidence) / (thresholds if self.simultaneous else 1)

    def certify(self, lower: Floats, upper: Floats, truth: Floats, thresholds: int = 1) -> float | None:
        """The threshold that is best at the other error and still certified.

        A score that is known to an interval only counts as wrong unless the whole interval is right: more search can
        then only help, and the guarantee holds for scores that were searched at least as far.

        Args:
            lower, upper: bounds of the raw scores, float64 [cases].
            truth: 1 or 0, float64 [cases].
            thresholds: how many are certified.

        Returns:
            the threshold, at or above which a case is flagged; infinity for flagging nothing; None where there are too
            few cases.
        """
        cases = np.sort(lower[truth == 1]) if self.risk == "fnr" else np.sort(upper[truth == 0])
        errors = most_errors(len(cases), self.level, self.delta(thresholds))
        if errors is None:
            return None
        if self.risk == "fnr":
            return float(cases[errors])
        highest = float(np.nextafter(cases[len(cases) - 1 - errors], math.inf))
        return highest if highest <= 1 else math.inf


def most_errors(cases: int, level: float, delta: float) -> int | None:
    """The most errors k among so many cases with P(Bin(cases, level) <= k) <= delta; None where not even 0 passes."""
    total, most = 0.0, None
    for k in range(cases):
        total += math.exp(_log_term(k, cases, level))
        if total * (1 + 1e-9) > delta:  # the terms' rounding must not decide in favour
            break
        most = k
    return most


def _log_term(k: int, n: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


def least_cases(level: float, delta: float) -> int:
    """Fewest cases that certify a level, if not one of them is an error."""
    n = max(1, math.ceil(math.log(delta) / math.log1p(-level)) - 1)
    while most_errors(n, level, delta) is None:  # rounding of the quotient
        n += 1
    return n


def upper_bound(errors: int, cases: int, delta: float) -> float:
    """Clopper-Pearson's upper bound of a risk: the level p with P(Bin(cases, p) <= errors) = delta."""
    if errors >= cases:
        return 1.0
    low, high = errors / cases, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if math.fsum(math.exp(_log_term(k, cases, middle)) for k in range(errors + 1)) > delta:
            low = middle
        else:
            high = middle
    return high
