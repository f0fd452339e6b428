"""Calibrators: monotone maps from a raw probability to a calibrated one, their inverses and their JSON form.

    identity   p
    sigmoid    1 / (1 + exp(-(a ln p - b ln(1 - p) + c))), a, b >= 0, not both 0
    isotonic   straight lines between knots (x, y), constant beyond the first and the last
    shifted    another calibrator's image p with its odds p / (1 - p) multiplied by a factor

Platt scaling (Platt 1999, on the logit of p) has a = b, temperature scaling (Guo et al. 2017) a = b and c = 0, beta
calibration (Kull et al. 2017) has all three free. A sigmoid is strictly increasing as far as doubles can tell; of an
isotonic map the flat parts make ties, and nothing else ever changes an order.

>>> half = Sigmoid(0.5, 0.5, 0.0)  # temperature 2
>>> round(float(half(0.9)), 4), round(inverse(half, 0.75), 4)
(0.75, 0.9)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tokmarg.arrays import Floats
from tokmarg.documents import Fields

__all__ = [
    "IDENTITY",
    "MOST_FACTOR",
    "STEEPEST",
    "Calibrator",
    "Identity",
    "Isotonic",
    "Shifted",
    "Sigmoid",
    "inverse",
    "logs",
    "parse_calibrator",
]

#: Doubles next to 0 and 1: a raw probability that was rounded to 0 or 1 has no logarithm of its own.
_LEAST, _MOST = 5e-324, 1 - 2.0**-53
#: Largest weight of a sigmoid: far beyond what a sensible fit gives, and safe from overflow.
STEEPEST = 1e6
#: Largest factor of odds: more than any two base rates that doubles can tell from 0 and 1 differ by.
MOST_FACTOR = 1e300
_ONE_BITS = int(np.float64(1.0).view(np.int64))


def logs(p: npt.ArrayLike) -> tuple[Floats, Floats]:
    """ln p and ln(1 - p) of probabilities, both finite."""
    p = np.asarray(p, dtype=np.float64)
    return np.log(np.maximum(p, _LEAST)), np.log1p(-np.minimum(p, _MOST))


@dataclass(frozen=True, slots=True)
class Identity:
    """Leaves probabilities as they are."""

    def __call__(self, p: npt.ArrayLike) -> Floats:
        """Calibrated probabilities, float64 of the same shape."""
        return np.asarray(p, dtype=np.float64)

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {"kind": "identity"}


IDENTITY = Identity()


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """A sigmoid of the logarithms of p and 1 - p."""

    a: float
    b: float
    c: float

    def __call__(self, p: npt.ArrayLike) -> Floats:
        """Calibrated probabilities, float64 of the same shape."""
        ln_p, ln_q = logs(p)
        # Every step is monotone in doubles, too; e/(1+e) would not be.
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-(self.a * ln_p - self.b * ln_q + self.c))))

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {"kind": "sigmoid", "a": self.a, "b": self.b, "c": self.c}


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between knots: ``x`` strictly increasing, ``y`` not decreasing, both in [0, 1]."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, p: npt.ArrayLike) -> Floats:
        """Calibrated probabilities, float64 of the same shape."""
        p = np.asarray(p, dtype=np.float64)
        x, y = np.array(self.x), np.array(self.y)
        i = np.clip(np.searchsorted(x, p, side="right") - 1, 0, len(x) - 1)
        j = np.minimum(i + 1, len(x) - 1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # knots may be the smallest doubles apart
            share = np.where(j > i, np.clip((p - x[i]) / (x[j] - x[i]), 0, 1), 0.0)
        return np.asarray(np.minimum(y[i] + share * (y[j] - y[i]), y[j]))

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {"kind": "isotonic", "x": list(self.x), "y": list(self.y)}


@dataclass(frozen=True, slots=True)
class Shifted:
    """Another calibrator, the odds of whose image are multiplied by ``factor`` (:mod:`.prior_shift`); 0 and 1 stay."""

    of: Identity | Sigmoid | Isotonic
    factor: float

    def __call__(self, p: npt.ArrayLike) -> Floats:
        """Calibrated probabilities, float64 of the same shape."""
        mapped = self.of(p)
        with np.errstate(divide="ignore", over="ignore"):  # every step is monotone in doubles
            return np.asarray(1 / (1 + (1 - mapped) / (mapped * self.factor)))

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {"kind": "shifted", "factor": self.factor, "of": self.of.to_dict()}


Calibrator = Identity | Sigmoid | Isotonic | Shifted


@lru_cache(maxsize=256)  # every score asks for the same few
def inverse(calibrator: Calibrator, value: float) -> float:
    """The smallest raw probability whose calibrated one reaches ``value``; infinity where none does.

    By bisection over the doubles in [0, 1], so that ``calibrator(p) >= value`` and ``p >= inverse`` always agree.
    """
    if float(calibrator(0.0)) >= value:
        return 0.0
    if not float(calibrator(1.0)) >= value:
        return math.inf
    low, high = 0, _ONE_BITS  # doubles of one sign are ordered as their bits are
    while high - low > 1:
        middle = (low + high) // 2
        if float(calibrator(np.int64(middle).view(np.float64))) >= value:
            high = middle
        else:
            low = middle
    return float(np.int64(high).view(np.float64))


def parse_calibrator(f: Fields) -> Calibrator:
    """Reads the JSON form; raises the table's error for a field that is missing, unknown or out of range."""
    kind = f.get("kind", str)
    if kind == "identity":
        f.only(["kind"])
        return IDENTITY
    if kind == "sigmoid":
        f.only(["kind", "a", "b", "c"])
        a, b, c = (_within(f, "a", 0.0), _within(f, "b", 0.0), _within(f, "c", -STEEPEST))
        if a + b == 0:
            raise f.fail("a", "and b are both 0: no order would be left")
        return Sigmoid(a, b, c)
    if kind == "isotonic":
        f.only(["kind", "x", "y"])
        x, y = _numbers(f, "x"), _numbers(f, "y")
        if len(x) != len(y):
            raise f.fail("y", f"has {len(y)} numbers, x has {len(x)}")
        if any(x[i] >= x[i + 1] for i in range(len(x) - 1)):
            raise f.fail("x", "must increase")
        if any(y[i] > y[i + 1] for i in range(len(y) - 1)):
            raise f.fail("y", "must not decrease")
        return Isotonic(x, y)
    if kind == "shifted":
        f.only(["kind", "factor", "of"])
        of = parse_calibrator(f.table("of"))
        if isinstance(of, Shifted):
            raise f.fail("of.kind", "is shifted, too")
        factor = f.get("factor", float)
        if not 1 / MOST_FACTOR <= factor <= MOST_FACTOR:  # false for NaN too
            raise f.fail("factor", f"must lie between {1 / MOST_FACTOR:g} and {MOST_FACTOR:g}, not {factor!r}")
        return Shifted(of, factor)
    raise f.fail("kind", f"must be identity, sigmoid, isotonic or shifted, not {kind!r:.60}")


def _within(f: Fields, key: str, low: float) -> float:
    value = f.get(key, float)
    if not low <= value <= STEEPEST:  # false for NaN too
        raise f.fail(key, f"must lie between {low:g} and {STEEPEST:g}, not {value!r}")
    return value


def _numbers(f: Fields, key: str) -> tuple[float, ...]:
    values: Sequence[object] = f.get(key, list)
    if not values:
        raise f.fail(key, "is empty")
    numbers = []
    for i, value in enumerate(values):
        item = Fields({str(i): value}, f.where, f.error, f"{f.path}.{key}".lstrip("."))
        number = item.get(str(i), float)
        if not 0 <= number <= 1:
            raise item.fail(str(i), f"must lie between 0 and 1, not {number!r}")
        numbers.append(number)
    return tuple(numbers)
