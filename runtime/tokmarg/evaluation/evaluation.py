"""What an evaluation found: records scored, metrics, intervals, comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokmarg.documents import to_json
from tokmarg.errors import ContentError
from tokmarg.results import Method, MethodResult, Result

from .bootstrap import Difference, Interval
from .dataset import Example
from .measures import Cases
from .threshold_decisions import ThresholdDecision

__all__ = ["Evaluation", "Run", "ScoringRun", "failures"]


@dataclass(frozen=True, slots=True)
class Run:
    """One guard with one method over the records.

    Attributes:
        bundle: name of the guard, as :func:`evaluate` was given it, else its folder's.
        model, precision: from the bundle's manifest.
        method: of scoring.
        scored: truths, scores and results, record by record.
        metrics: of :func:`tokmarg.evaluation.measures.measure`.
        intervals: of :func:`tokmarg.evaluation.bootstrap.bootstrap`; None without resamples.
        reference: the run this one is compared with, by its place in the list; None for the first.
        differences: metric -> this run minus the reference; None for the first.
        decisions: of :func:`tokmarg.evaluation.threshold_decisions.threshold_decisions`; None where the guard's
            calibration has no thresholds, or others were given.
    """

    bundle: str
    model: str
    precision: str
    method: Method
    scored: ScoringRun
    metrics: Mapping[str, Any]
    intervals: Mapping[str, Interval] | None
    reference: int | None = None
    differences: Mapping[str, Difference] | None = None
    decisions: Mapping[str, ThresholdDecision] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of :func:`evaluate`.

    Attributes:
        data: the file of the records, or their name.
        examples: the records and what is known of them.
        threshold: at which a label counts as predicted.
        samples: number of resamples of the intervals.
        names: label id -> title, of all guards.
        runs: guard by guard, method by method.
    """

    data: str
    examples: tuple[Example, ...]
    threshold: float
    samples: int
    names: Mapping[str, str]
    runs: tuple[Run, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types: the first guard's methods under ``methods``, further guards under ``compared``."""
        guards = list(dict.fromkeys(run.bundle for run in self.runs))
        documents = [self._guard_document(name) for name in guards]
        return {
            "schema_version": 1,
            "data": self.data,
            "records": len(self.examples),
            "threshold": self.threshold,
            "resamples": self.samples,
            **documents[0],
            **({"compared": documents[1:]} if documents[1:] else {}),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as one line."""
        return to_json(self.to_dict())

    def _guard_document(self, name: str) -> dict[str, Any]:
        runs = [run for run in self.runs if run.bundle == name]
        return {
            "bundle": name,
            "model": runs[0].model,
            "precision": runs[0].precision,
            "methods": {run.method: self._run_document(run) for run in runs},
        }

    def _run_document(self, run: Run) -> dict[str, Any]:
        document = {
            **run.metrics,
            "intervals": run.intervals,
            "coverage": run.scored.coverage,
            "low_coverage": run.scored.low_coverage,
            "converged": run.scored.converged,
            "failed": run.scored.failed,
            "failures": run.scored.failures,
            "seconds_per_item": run.scored.seconds_per_item,
            "decisions": run.decisions and {name: decision.to_dict() for name, decision in run.decisions.items()},
        }
        if (cut := run.scored.cut) is not None:
            document["cut"] = cut if math.isfinite(cut) else None
        if run.reference is not None and run.differences is not None:
            other = self.runs[run.reference]
            document["difference"] = {
                "from": {"bundle": other.bundle, "method": other.method},
                **{name: {"value": d.value, "interval": d.interval} for name, d in run.differences.items()},
            }
        return document


@dataclass(frozen=True, slots=True)
class ScoringRun:
    """The scores of labelled records, by one guard and method.

    Attributes:
        cases: truths and scores; NaN where a record could not be scored.
        results: one for each record, the error where it could not be scored.
        coverage: mean coverage; None where results have none.
        low_coverage: share of the scored records whose coverage is below 0.5; None where results have none.
        converged: share of the scored records.
        failed: how many records could not be scored.
        seconds_per_item: wall-clock time over the records.
        cut: of a method with an uncertainty, fitted on the records (:func:`tokmarg.scoring.uncertainty.one_or_two`):
            above it one label is predicted, else two; minus infinity: always one. None for other methods.
    """

    cases: Cases
    results: tuple[Result | MethodResult | ContentError, ...]
    coverage: float | None
    low_coverage: float | None
    converged: float
    failed: int
    seconds_per_item: float
    cut: float | None = None

    @property
    def failures(self) -> dict[str, int]:
        """Error type -> how many records could not be scored for it, most frequent first."""
        return failures(self.results)


def failures(results: Iterable[Result | MethodResult | ContentError]) -> dict[str, int]:
    """Error type -> how often it occurs, most frequent first."""
    return dict(Counter(result.type for result in results if isinstance(result, ContentError)).most_common())
