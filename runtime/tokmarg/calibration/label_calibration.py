"""Label calibration: calibrator, threshold, certificate and figures of ``unsafe`` or one label, and their JSON form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from tokmarg.documents import Fields

from .calibrators import Calibrator, parse_calibrator

__all__ = ["Certificate", "FittedOn", "LabelCalibration", "Threshold", "count", "parse_figures", "unit"]

FittedOn = Literal["own", "pooled", "none"]
#: Mapped values of one machine are another's but for the last bits of exp and log.
_SAME = 1e-9
#: Figures before and after calibration, and those of decisions.
_PAIRS, _RATES = ("ece", "brier"), ("recall", "false_positive_rate", "precision")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Evidence for a threshold's guarantee: errors among the cases of the class it is about, and the Clopper-Pearson
    upper bound of the risk at the confidence of this one threshold."""

    cases: int
    errors: int
    bound: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """Raw probability at or above which is flagged (infinity: nothing is), and its certificate where it has one."""

    raw: float
    certificate: Certificate | None = None

    def to_dict(self, calibrator: Calibrator) -> dict[str, object]:
        """The JSON form; null stands for infinity."""
        never = math.isinf(self.raw)
        certificate = self.certificate
        return {
            "raw": None if never else self.raw,
            "calibrated": None if never else float(calibrator(self.raw)),
            "certificate": certificate
            and {"cases": certificate.cases, "errors": certificate.errors, "bound": certificate.bound},
        }

    @classmethod
    def parse(cls, f: Fields, calibrator: Calibrator) -> Threshold:
        """Reads the JSON form."""
        f.only(["raw", "calibrated", "certificate"])
        raw, calibrated = maybe_unit(f, "raw"), maybe_unit(f, "calibrated")
        if (raw is None) != (calibrated is None):
            raise f.fail("calibrated", "must be null where raw is, and a number where raw is one")
        if raw is not None and calibrated is not None and abs(float(calibrator(raw)) - calibrated) > _SAME:
            raise f.fail("calibrated", f"is {calibrated!r}, but the calibrator maps raw to {float(calibrator(raw))!r}")
        certificate = None
        if f.get("certificate", dict, None) is not None:
            table = f.table("certificate")
            table.only(["cases", "errors", "bound"])
            certificate = Certificate(count(table, "cases"), count(table, "errors"), unit(table, "bound"))
        return cls(math.inf if raw is None else raw, certificate)


@dataclass(frozen=True, slots=True)
class LabelCalibration:
    """Calibrator and threshold of ``unsafe`` or a label.

    Attributes:
        calibrator: maps raw probabilities.
        fitted_on: ``own`` data, data ``pooled`` over all labels (too few of its own), or ``none`` (the identity).
        positives, negatives: scored records of which the truth is known.
        threshold: None where there is none (``unsafe`` is then flagged from a calibrated 0.5).
        figures: ``ece`` and ``brier``, each [raw, calibrated out of fold] or None; with a threshold ``recall``,
            ``false_positive_rate`` and ``precision``, out of fold but for certified thresholds.
        share: of positives among the cases that the calibrator was fitted on, by their weights; None where unknown.
        unsafe_share: of unsafe records among these cases; None where unknown.
    """

    calibrator: Calibrator
    fitted_on: FittedOn
    positives: int
    negatives: int
    threshold: Threshold | None
    figures: Mapping[str, object]
    share: float | None = None
    unsafe_share: float | None = None

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "calibrator": self.calibrator.to_dict(),
            "fitted_on": self.fitted_on,
            "positives": self.positives,
            "negatives": self.negatives,
            "threshold": None if self.threshold is None else self.threshold.to_dict(self.calibrator),
            "figures": dict(self.figures),
            "share": self.share,
            "unsafe_share": self.unsafe_share,
        }

    @classmethod
    def parse(cls, f: Fields) -> LabelCalibration:
        """Reads the JSON form."""
        f.only(cls.__slots__)
        calibrator = parse_calibrator(f.table("calibrator"))
        fitted_on = f.get("fitted_on", str)
        if fitted_on not in get_args(FittedOn):
            raise f.fail("fitted_on", f"must be one of {', '.join(get_args(FittedOn))}, not {fitted_on!r:.60}")
        threshold = None
        if f.get("threshold", dict, None) is not None:
            threshold = Threshold.parse(f.table("threshold"), calibrator)
        positives, negatives = count(f, "positives"), count(f, "negatives")
        share, unsafe_share = (maybe_unit(f, key) if key in f.data else None for key in ("share", "unsafe_share"))
        if "share" not in f.data and fitted_on == "own" and positives + negatives:
            share = positives / (
                positives + negatives
            )  # of a file that was written before shares were, without weights
        return cls(
            calibrator,
            cast(FittedOn, fitted_on),
            positives,
            negatives,
            threshold,
            parse_figures(f),
            share,
            unsafe_share,
        )


def parse_figures(f: Fields) -> dict[str, object]:
    """Reads ``figures``: a pair of numbers from 0 to 1 for ``ece`` and ``brier``, a number for each rate; null if
    unknown."""
    table = f.table("figures")
    table.only([*_PAIRS, *_RATES])
    figures: dict[str, object] = {}
    for key in _PAIRS:
        pair = table.get(key, list, None)
        if pair is not None:
            if len(pair) != 2:
                raise table.fail(key, f"must be the raw and the calibrated figure, not {len(pair)} numbers")
            inner = Fields(dict(zip(("0", "1"), pair, strict=True)), f.where, f.error, f"{table.path}.{key}")
            pair = [unit(inner, "0"), unit(inner, "1")]
        figures[key] = pair
    return figures | {key: maybe_unit(table, key) for key in _RATES if key in table.data}


def count(f: Fields, key: str) -> int:
    """A number of things."""
    value = f.get(key, int)
    if not 0 <= value < 2**53:
        raise f.fail(key, f"must be a number of cases, not {value}")
    return value


def unit(f: Fields, key: str) -> float:
    """A number from 0 to 1."""
    value = f.get(key, float)
    if not 0 <= value <= 1:  # false for NaN too
        raise f.fail(key, f"must lie between 0 and 1, not {value!r}")
    return value


def maybe_unit(f: Fields, key: str) -> float | None:
    """A number from 0 to 1, or null; the field must be there."""
    if f.data.get(key, f) is None:
        return None
    return unit(f, key)
