"""Bootstrap: 95 % intervals of metrics and of paired differences of metrics, by resampling the contents.

Contents are resampled with replacement. Copies of one text stay together, drawn or left out as one: they say the same
thing twice, and to draw them apart would make intervals look narrower than they are. Every run over the same records
gets the same resamples, so differences between runs are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tokmarg.arrays import Floats
from tokmarg.metrics import Ranked, ratio

from .measures import Cases

__all__ = ["Difference", "bootstrap", "difference", "paired"]

Interval = list[float] | None
#: Weights in one chunk of resamples, as many as fit a core's cache.
_CHUNK = 500_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric in one run minus the same metric in another, on the cases that both have.

    Attributes:
        value: the difference; None where the metric is not defined.
        interval: its 95 % interval by the paired bootstrap; None without resamples, or where it was never defined.
    """

    value: float | None
    interval: Interval


def bootstrap(cases: Cases, threshold: float, samples: int, seed: int = 0) -> dict[str, Interval]:
    """95 % percentile intervals of the metrics; None where a metric was never defined.

    Args:
        cases: what to resample.
        threshold: of F1 and Hamming loss.
        samples: how many resamples, at least one.
        seed: of the resampling.

    Returns:
        metric -> [low, high], for the metrics of :func:`tokmarg.evaluation.measures.measure` under ``micro_f1``,
        ``hamming_loss``, ``micro_auc``, ``macro_auc``, ``macro_average_precision``, ``ece``, ``brier``, ``unsafe_auc``,
        ``unsafe_average_precision``, ``unsafe_ece``, ``unsafe_brier``, and ``auc:S1`` and ``average_precision:S1`` for
        each label.
    """
    return {name: _interval(values) for name, values in _resampled(cases, threshold, samples, seed).items()}


def difference(first: Cases, second: Cases, threshold: float, samples: int, seed: int = 0) -> dict[str, Difference]:
    """Second minus first, metric by metric (the names of :func:`bootstrap`), over the same resamples.

    Labels that one of them lacks, and contents that one of them could not score, count for neither.

    Args:
        first, second: of the same records, in the same order.
        threshold, samples, seed: as for :func:`bootstrap`; ``samples`` may be 0.
    """
    first, second = paired(first, second)
    points = [_metrics(cases, threshold, None) for cases in (first, second)]
    drawn = [_resampled(cases, threshold, samples, seed) if samples else {} for cases in (first, second)]
    differences = {}
    for name, point in points[0].items():
        value = float(points[1][name][0] - point[0])
        interval = _interval(drawn[1][name] - drawn[0][name]) if samples else None
        differences[name] = Difference(None if np.isnan(value) else value, interval)
    return differences


def paired(first: Cases, second: Cases) -> tuple[Cases, Cases]:
    """Both with the labels and scores that both have."""
    labels = tuple(label for label in first.labels if label in second.labels)
    columns = [[cases.labels.index(label) for label in labels] for cases in (first, second)]
    scores = [cases.score[:, chosen] for cases, chosen in zip((first, second), columns, strict=True)]
    lost = np.isnan(scores[0]) | np.isnan(scores[1])
    lost_unsafe = np.isnan(first.unsafe_score) | np.isnan(second.unsafe_score)
    return tuple(  # type: ignore[return-value]
        replace(
            cases,
            labels=labels,
            truth=cases.truth[:, chosen],
            score=np.where(lost, np.nan, score),
            unsafe_score=np.where(lost_unsafe, np.nan, cases.unsafe_score),
            raw=None,
            raw_unsafe=None,
            chosen=None if cases.chosen is None else cases.chosen[:, chosen],
        )
        for cases, chosen, score in zip((first, second), columns, scores, strict=True)
    )


def _interval(values: Floats) -> Interval:
    defined = values[~np.isnan(values)]
    return [float(x) for x in np.percentile(defined, [2.5, 97.5])] if len(defined) else None


def _resampled(cases: Cases, threshold: float, samples: int, seed: int) -> dict[str, Floats]:
    """Metric -> its value in each resample, NaN where it is not defined."""
    prepared = _Prepared(cases, threshold)
    chunks = [prepared.metrics(weights) for weights in _weights(cases, samples, seed)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _metrics(cases: Cases, threshold: float, weights: Floats | None) -> dict[str, Floats]:
    return _Prepared(cases, threshold).metrics(weights)


def _weights(cases: Cases, samples: int, seed: int) -> Iterator[Floats]:
    """How often each content was drawn, in chunks of resamples, float64 [chunk, contents]."""
    rng = np.random.default_rng(seed)
    count = len(cases.unsafe_truth)
    groups = np.arange(count)
    if cases.groups is not None:
        _, groups = np.unique(cases.groups, return_inverse=True)
    number = int(groups.max()) + 1
    step = max(1, _CHUNK // max(1, count * max(1, len(cases.labels))))
    for start in range(0, samples, step):
        # One draw after the other, so that they do not depend on how many labels there are.
        drawn = [
            np.bincount(rng.integers(0, number, number), minlength=number)
            for _ in range(start, min(samples, start + step))
        ]
        yield np.stack(drawn)[:, groups].astype(np.float64)


class _Prepared:
    """Cases sorted and counted once, for any number of weightings."""

    def __init__(self, cases: Cases, threshold: float) -> None:
        known = ~(np.isnan(cases.truth) | np.isnan(cases.score))
        truth, score = np.where(known, cases.truth, 0.0), np.where(known, cases.score, 0.0)
        predicted = known & cases.predicted(threshold)
        # Per content, float64 [contents, 5]: known pairs, true positives, predicted plus true, wrong, squared distance.
        self._sums = np.stack(
            [
                known.sum(axis=1),
                (predicted & (truth == 1)).sum(axis=1),
                predicted.sum(axis=1) + truth.sum(axis=1),
                (known & (predicted != (truth == 1))).sum(axis=1),
                ((truth - score) ** 2).sum(axis=1),
            ],
            axis=1,
        ).astype(np.float64)
        rows, _ = np.nonzero(known)
        self._pooled = Ranked(truth[known], score[known], rows)
        self._labels = {
            label: Ranked(truth[at, i], score[at, i], at)
            for i, label in enumerate(cases.labels)
            for at in [np.flatnonzero(known[:, i])]
        }
        (at,) = np.nonzero(~(np.isnan(cases.unsafe_truth) | np.isnan(cases.unsafe_score)))
        self._unsafe = Ranked(cases.unsafe_truth[at], cases.unsafe_score[at], at)
        self._unsafe_sums = np.zeros((len(known), 2))  # known, squared distance
        self._unsafe_sums[at, 0] = 1
        self._unsafe_sums[at, 1] = (cases.unsafe_truth[at] - cases.unsafe_score[at]) ** 2

    def metrics(self, weights: Floats | None) -> dict[str, Floats]:
        """Metric -> its value under each weighting, float64 [weightings].

        Args:
            weights: float64 [weightings, contents]; None weighs every content once.
        """
        given = np.ones((1, len(self._sums))) if weights is None else weights
        pairs, true_positives, named, wrong, squares = (given @ self._sums).T
        known, unsafe_squares = (given @ self._unsafe_sums).T
        pooled, unsafe = self._pooled.masses(given), self._unsafe.masses(given)
        per_label = {label: ranked.masses(given) for label, ranked in self._labels.items()}
        aucs = {f"auc:{label}": masses.roc_auc() for label, masses in per_label.items()}
        precisions = {f"average_precision:{label}": masses.average_precision() for label, masses in per_label.items()}
        micro_f1 = np.divide(2 * true_positives, named, out=np.zeros_like(named), where=named > 0)
        return {
            "micro_f1": np.where(pairs > 0, micro_f1, np.nan),
            "hamming_loss": ratio(wrong, pairs),
            "micro_auc": pooled.roc_auc(),
            "macro_auc": _mean(aucs, len(given)),
            "macro_average_precision": _mean(precisions, len(given)),
            "ece": pooled.calibration_error(),
            "brier": ratio(squares, pairs),
            "unsafe_auc": unsafe.roc_auc(),
            "unsafe_average_precision": unsafe.average_precision(),
            "unsafe_ece": unsafe.calibration_error(),
            "unsafe_brier": ratio(unsafe_squares, known),
            **aucs,
            **precisions,
        }


def _mean(values: Mapping[str, Floats], weightings: int) -> Floats:
    """Mean over the labels for which the metric is defined."""
    if not values:
        return np.full(weightings, np.nan)
    table = np.stack(list(values.values()))
    defined = ~np.isnan(table)
    return ratio(np.where(defined, table, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))
