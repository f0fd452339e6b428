"""Fits a calibrator and a threshold for each label and ``unsafe`` on all data, with cross-validated figures.

A label with fewer than ``LEAST`` positives or negatives gets the calibrator (and target threshold) pooled over all
labels; ``unsafe`` is calibrated on its own or not at all. Figures come from folds: every score is mapped by a
calibrator, and decided by a threshold, that were fitted without it. Certified thresholds are chosen on raw scores,
which were not fitted to the data, so that calibrators fitted on the same data do not touch their guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tokmarg.arrays import Bools, Floats, Ints
from tokmarg.errors import TokmargError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.results import CalibrationMethod

from .calibrators import IDENTITY, Calibrator
from .figures import compared, share_of, weighted_rates
from .fitting import fit_calibrator
from .label_calibration import Certificate, FittedOn, LabelCalibration, Threshold
from .observations import Observations
from .operating_point import Target
from .risk_control import Guarantee, least_cases, upper_bound

#: Scores, truths and weights of cases, each float64 [cases].
Cases = tuple[Floats, Floats, Floats]

__all__ = ["FOLDS", "LEAST", "CrossValidation", "cross_validate"]

#: Fewest positives, and fewest negatives, that a label's own calibrator is fitted on.
LEAST = 10
FOLDS = 5


@dataclass(slots=True)
class CrossValidation:
    """Outcome of :func:`cross_validate`.

    Attributes:
        calibrations: label id, or ``unsafe`` -> its calibration, in the order of the observations' names.
        figures: over all labels.
        warnings: one line for every name that falls short.
    """

    calibrations: dict[str, LabelCalibration]
    figures: dict[str, object]
    warnings: list[str] = field(default_factory=list)


def cross_validate(
    observed: Observations,
    method: CalibrationMethod = "platt",
    *,
    target: Target | None = None,
    guarantee: Guarantee | None = None,
    certify: Sequence[str] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> CrossValidation:
    """Fits calibrators and thresholds.

    Args:
        observed: truths and raw scores. Weights count in everything but a guarantee, with which there are none.
        method: of the calibrators.
        target: what thresholds reach on the data.
        guarantee: of certified thresholds.
        certify: names that get a certified threshold (default: all of which any truth is known); of the others the
            target decides.
        folds: parts of the data that are left out in turn.
        seed: of the split.

    Raises:
        TokmargError: nothing can be calibrated, a name is unknown, or the data cannot certify the guarantee.
    """
    return _Fit(observed, method, folds, seed).run(target, guarantee, certify)


class _Fit:
    """The state of one fit; index ``k`` is a column of the observations: a label, or ``unsafe`` (the last)."""

    def __init__(self, observed: Observations, method: CalibrationMethod, folds: int, seed: int) -> None:
        self.observed, self.method, self.folds = observed, method, folds
        self.rng = np.random.default_rng(seed)
        self.known = observed.known
        self.weight = np.broadcast_to(observed.weights[:, None], observed.truth.shape)
        self.warnings: list[str] = []
        self.row_fold = self._folds(np.nan_to_num(observed.truth[:, -1], nan=2.0))

    def run(self, target: Target | None, guarantee: Guarantee | None, certify: Sequence[str] | None) -> CrossValidation:
        observed = self.observed
        self._check_classes()
        thresholds = self._certified(guarantee, certify)
        calibrations: dict[str, LabelCalibration] = {}
        after = observed.score.copy()  # out of fold
        columns = (observed.truth, observed.score, after, self.weight)  # [records, names] each
        for k, name in enumerate(observed.names):
            calibrator, fitted_on = self._calibrator(k)
            after[:, k] = self._out_of_fold(k, fitted_on)
            figures: dict[str, object] = compared(*(a[:, k] for a in columns))
            self._note_worse(name, figures)
            threshold = thresholds.get(name)
            if threshold is not None:
                figures |= self._rates(k, self.observed.score[:, k] >= threshold.raw)
            elif target is not None:
                threshold, decided = self._targeted(k, fitted_on, target)
                figures |= {} if decided is None else self._rates(k, decided)
            truth = observed.truth[self.known[:, k], k]
            counts, shares = (int(truth.sum()), int((1 - truth).sum())), self._shares(k, fitted_on)
            calibrations[name] = LabelCalibration(calibrator, fitted_on, *counts, threshold, figures, *shares)
        if all(each.fitted_on == "none" for each in calibrations.values()):
            raise TokmargError(f"too few records: a calibrator takes {LEAST} positives and {LEAST} negatives")
        overall: dict[str, object] = {"ece": None, "brier": None}
        if len(observed.labels):
            overall = compared(*(a[:, :-1].ravel() for a in columns))
        return CrossValidation(calibrations, overall | self._flagged(calibrations), self.warnings)

    def _check_classes(self) -> None:
        """Refuses data in which neither ``unsafe`` nor any label has both classes; one that has suffices."""
        truths = [self.observed.truth[self.known[:, k], k] for k in range(len(self.observed.names))]
        if any(len(np.unique(truth)) == 2 for truth in truths):
            return
        *labels, unsafe = truths
        if not any(len(truth) for truth in truths):
            raise TokmargError("of no scored record anything is known")
        state = "no record says whether it is unsafe"
        if len(unsafe):
            state = f"every scored record is {'unsafe' if unsafe[0] else 'safe'}"
        if any(len(truth) for truth in labels):
            state += ", and no label applies to some records and not to others"
        raise TokmargError(f"one class only: {state}; calibration needs both")

    def _pool(self, rows: Bools) -> Cases:
        """The cases of all labels in some records."""
        known = self.known[:, :-1] & rows[:, None]
        return self.observed.score[:, :-1][known], self.observed.truth[:, :-1][known], self.weight[:, :-1][known]

    def _own(self, k: int, rows: Bools) -> Cases:
        known = self.known[:, k] & rows
        return self.observed.score[known, k], self.observed.truth[known, k], self.weight[known, k]

    def _shares(self, k: int, fitted_on: FittedOn) -> tuple[float | None, float | None]:
        """Shares of positives and of unsafe records among the cases that a calibrator was fitted on."""
        if fitted_on == "none":
            return None, None
        columns = slice(None, -1) if fitted_on == "pooled" else slice(k, k + 1)
        known, weight, truth = self.known[:, columns], self.weight[:, columns], self.observed.truth
        unsafe = np.broadcast_to(truth[:, -1:], known.shape)
        judged = known & ~np.isnan(unsafe)
        return share_of(truth[:, columns][known], weight[known]), share_of(unsafe[judged], weight[judged])

    def _calibrator(self, k: int) -> tuple[Calibrator, FittedOn]:
        name, every = self.observed.names[k], np.ones(len(self.observed.truth), dtype=bool)
        score, truth, weight = self._own(k, every)
        if enough := _enough(truth):
            calibrator = fit_calibrator(self.method, score, truth, weight)
            if calibrator is not None:
                return calibrator, "own"
            why = "higher scores do not go with more positives, so no calibrator fits"
        elif len(truth) and len(np.unique(truth)) == 1:
            why = f"every record {self._has(name, truth)}, and a calibrator needs both kinds"
        else:
            counted = f"{_many(int(truth.sum()), 'positive')} and {_many(int((1 - truth).sum()), 'negative')}"
            why = f"{counted} are too few for a calibrator of its own ({LEAST} of each)"
        if name != UNSAFE:
            score, truth, weight = self._pool(every)
            calibrator = fit_calibrator(self.method, score, truth, weight) if _enough(truth) else None
            if calibrator is not None:
                self.warnings.append(f"{name}: {why}; it gets the one pooled over all labels")
                return calibrator, "pooled"
        if name != UNSAFE or enough or len(self._own(k, every)[1]):
            self.warnings.append(f"{name}: {why}; its raw probabilities stay")
        else:
            self.warnings.append(f"{name}: no record says whether it is unsafe; its raw probabilities stay")
        return IDENTITY, "none"

    @staticmethod
    def _has(name: str, truth: Floats) -> str:
        if name == UNSAFE:
            return "is unsafe" if truth[0] else "is safe"
        return "has it" if truth[0] else "lacks it"

    def _folds(self, strata: Floats) -> Ints:
        """A fold for each case, dealt out within each stratum."""
        order = self.rng.permutation(len(strata))
        order = order[np.argsort(strata[order], kind="stable")]
        fold = np.empty(len(strata), dtype=np.int64)
        fold[order] = np.arange(len(strata)) % self.folds
        return fold

    def _splits(self, k: int, fitted_on: FittedOn) -> list[tuple[Bools, Bools, Cases]]:
        """(records to fit on, records left out, cases to fit on) of each fold."""
        fold = (
            self.row_fold if fitted_on == "pooled" else self._folds(np.nan_to_num(self.observed.truth[:, k], nan=2.0))
        )
        take = self._pool if fitted_on == "pooled" else lambda rows: self._own(k, rows)
        return [(fold != i, fold == i, take(fold != i)) for i in range(self.folds)]

    def _out_of_fold(self, k: int, fitted_on: FittedOn) -> Floats:
        mapped = self.observed.score[:, k].copy()
        if fitted_on == "none":
            return mapped
        for _, out, (score, truth, weight) in self._splits(k, fitted_on):
            out = out & self.known[:, k]
            calibrator = fit_calibrator(self.method, score, truth, weight) if len(np.unique(truth)) == 2 else None
            mapped[out] = (calibrator or IDENTITY)(mapped[out])
        return mapped

    def _targeted(self, k: int, fitted_on: FittedOn, target: Target) -> tuple[Threshold | None, Bools | None]:
        """The threshold that reaches a target on everything, and decisions out of fold."""
        name = self.observed.names[k]
        if fitted_on == "none":
            self.warnings.append(f"{name}: gets no threshold, for want of data")
            return None, None
        every = np.ones(len(self.observed.truth), dtype=bool)
        threshold = target.threshold(*(self._pool(every) if fitted_on == "pooled" else self._own(k, every)))
        if threshold is None:
            self.warnings.append(f"{name}: no threshold reaches {target}; it gets none")
            return None, None
        if math.isinf(threshold):
            self.warnings.append(f"{name}: nothing reaches {target} but a threshold that flags nothing; it gets that")
        decided = np.zeros(len(self.observed.truth), dtype=bool)
        for _, out, cases in self._splits(k, fitted_on):
            limit = target.threshold(*cases)
            decided |= out & (self.observed.score[:, k] >= (math.inf if limit is None else limit))
        return Threshold(threshold), decided

    def _certified(self, guarantee: Guarantee | None, certify: Sequence[str] | None) -> dict[str, Threshold]:
        observed = self.observed
        if guarantee is None:
            return {}
        chosen = (
            [n for k, n in enumerate(observed.names) if self.known[:, k].any()] if certify is None else list(certify)
        )
        for name in chosen:
            if name not in observed.names:
                raise TokmargError(f"certify: {name!r:.60} is none of {', '.join(observed.names)}")
        delta, certified, lacking = guarantee.delta(len(chosen)), {}, {}
        for name in chosen:
            k = observed.names.index(name)
            known = self.known[:, k]
            truth, lower, upper = (a[known, k] for a in (observed.truth, observed.lower, observed.upper))
            raw = guarantee.certify(lower, upper, truth, len(chosen))
            about = truth == (guarantee.risk == "fnr")
            if raw is None:
                lacking[name] = int(about.sum())
                continue
            wrong = (lower < raw) if guarantee.risk == "fnr" else (upper >= raw)
            errors, cases = int(np.sum(wrong & about)), int(about.sum())
            certified[name] = Threshold(raw, Certificate(cases, errors, upper_bound(errors, cases, delta)))
            if math.isinf(raw) or raw == 0:
                what = "nothing" if raw else "everything"
                self.warnings.append(f"{name}: the certified threshold flags {what}")
        if lacking:
            able = [name for name in chosen if name in certified]
            raise TokmargError(
                f"{guarantee.risk}={guarantee.level:g} at confidence {guarantee.confidence:g} takes at least "
                f"{least_cases(guarantee.level, delta):,} {guarantee.about} of each"
                f"{f' of {len(chosen)} at once' if guarantee.simultaneous else ''}; there are "
                f"{', '.join(f'{n:,} of {name}' for name, n in lacking.items())}: give more data, a higher level"
                + (f", or certify the others only (--certify {','.join(able)})" if able else "")
            )
        return certified

    def _rates(self, k: int, decided: Bools) -> dict[str, object]:
        known = self.known[:, k]
        return weighted_rates(decided[known], self.observed.truth[known, k], self.weight[known, k])

    def _flagged(self, calibrations: dict[str, LabelCalibration]) -> dict[str, object]:
        """Rates of the flag (any threshold reached) against the truth of ``unsafe``, on the data themselves."""
        limits = [(k, each.threshold.raw) for k, each in enumerate(calibrations.values()) if each.threshold is not None]
        known = self.known[:, -1]
        if not limits or not known.any():
            return {}
        flagged = np.any([self.observed.score[:, k] >= raw for k, raw in limits], axis=0)
        return weighted_rates(flagged[known], self.observed.truth[known, -1], self.weight[known, -1])

    def _note_worse(self, name: str, figures: dict[str, object]) -> None:
        pair = figures["brier"]
        if isinstance(pair, list) and pair[1] > pair[0] * 1.1 + 1e-4:
            self.warnings.append(
                f"{name}: out of fold the Brier score rises from {pair[0]:.4f} to {pair[1]:.4f}: another --method, or "
                "more data, may do better"
            )


def _enough(truth: Floats) -> bool:
    return min(float(truth.sum()), float(len(truth) - truth.sum())) >= LEAST


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
