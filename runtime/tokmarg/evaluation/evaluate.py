"""Evaluation: labelled records scored by one guard or several, with one method or several, and what came of it.

from tokmarg import Guard
from tokmarg.evaluation import evaluate
from tokmarg.evaluation.dataset import read_labelled

guard = Guard.load("bundle-folder")
evaluation = evaluate(guard, read_labelled(Path("posts.jsonl"), guard.labels))
evaluation.runs[0].metrics["micro_auc"]
evaluation.write_report("report.html")

A *run* is one guard with one method. Each run but the first is also compared with another one on the same resamples:
with the same method of the first guard, or, of the first guard itself, with its first method.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokmarg.documents import to_json
from tokmarg.errors import TokmargError
from tokmarg.guard import Guard
from tokmarg.results import Method
from tokmarg.score_options import OnOverflow

from .bootstrap import Difference, Interval, bootstrap, difference
from .dataset import Example
from .measures import measure
from .scoring_run import ScoringRun, score_examples
from .threshold_decisions import Decision, decisions

__all__ = ["Evaluation", "Run", "check_methods", "evaluate"]


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
        decisions: of :func:`tokmarg.evaluation.threshold_decisions.decisions`; None where the guard's calibration has
        no thresholds.
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
    decisions: Mapping[str, Decision] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        data: what the records are called.
        examples: the records and what is known of them.
        threshold: at which a label counts as predicted.
        samples: resamples behind the intervals.
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
        found = [self._of_guard(name) for name in guards]
        return {
            "schema_version": 1,
            "data": self.data,
            "records": len(self.examples),
            "threshold": self.threshold,
            "resamples": self.samples,
            **found[0],
            **({"compared": found[1:]} if found[1:] else {}),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as one line."""
        return to_json(self.to_dict())

    def write_report(self, path: str | os.PathLike[str]) -> None:
        """Writes the report: one HTML file that needs nothing else, neither files nor network.

        It holds the texts of the worst errors.

        Raises:
            TokmargError: the file cannot be written.
        """
        from tokmarg.evaluation.report.page import render

        try:
            Path(path).write_text(render(self), encoding="utf-8", newline="\n")
        except OSError as error:
            raise TokmargError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from None

    def _of_guard(self, name: str) -> dict[str, Any]:
        runs = [run for run in self.runs if run.bundle == name]
        return {
            "bundle": name,
            "model": runs[0].model,
            "precision": runs[0].precision,
            "methods": {run.method: self._entry(run) for run in runs},
        }

    def _entry(self, run: Run) -> dict[str, Any]:
        found = {
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
            found["cut"] = cut if math.isfinite(cut) else None
        if run.reference is not None and run.differences is not None:
            other = self.runs[run.reference]
            found["difference"] = {
                "from": {"bundle": other.bundle, "method": other.method},
                **{name: {"value": d.value, "interval": d.interval} for name, d in run.differences.items()},
            }
        return found


def check_methods(guards: Mapping[str, Guard], methods: Sequence[Method]) -> None:
    """Checks that every method goes with every guard, before anything is scored.

    Raises:
        TokmargError: one does not, or there is nothing to do.
    """
    if not guards or not methods:
        raise TokmargError("an evaluation needs a guard and a method")
    for guard in guards.values():
        for method in methods:
            guard.check_method(method)


def evaluate(
    guard: Guard | Mapping[str, Guard],
    examples: Sequence[Example],
    *,
    methods: Sequence[Method] = ("exact",),
    threshold: float = 0.2,
    samples: int = 1000,
    tolerance: float = 1e-3,
    max_nodes: int = 256,
    on_overflow: OnOverflow = "error",
    data: str = "records",
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Scores labelled records and measures the scores.

    Args:
        guard: what is measured; or several guards by name, of which the first is what the others are compared with.
        examples: from :func:`tokmarg.evaluation.dataset.read_labelled`, read with the labels of all guards.
        methods: scoring methods; each runs on each guard.
        threshold: a label is predicted where its score reaches it; 0.2 is the paper's.
        samples: resamples behind the 95 % intervals; 0 for none.
        tolerance, max_nodes, on_overflow: as for :meth:`tokmarg.Guard.score`.
        data: what the records are called in the outcome.
        progress: called with the number of records done, over all runs.

    Raises:
        TokmargError: there are no records, none could be scored, or a method does not go with a guard.
    """
    guards = {guard.path.name: guard} if isinstance(guard, Guard) else dict(guard)
    methods = tuple(dict.fromkeys(methods))
    check_methods(guards, methods)
    runs: list[Run] = []
    for name, each in guards.items():
        for method in methods:
            done = len(runs) * len(examples)
            scored = score_examples(
                each,
                examples,
                method=method,
                tolerance=tolerance,
                max_nodes=max_nodes,
                on_overflow=on_overflow,
                progress=None if progress is None else lambda n, done=done: progress(done + n),  # type: ignore[misc]
            )
            reference = None if not runs else len(runs) % len(methods) if len(runs) >= len(methods) else 0
            other = None if reference is None else runs[reference].scored.cases
            runs.append(
                Run(
                    name,
                    each.manifest.model_id,
                    each.manifest.precision,
                    method,
                    scored,
                    measure(scored.cases, threshold),
                    bootstrap(scored.cases, threshold, samples) if samples else None,
                    reference,
                    None if other is None else difference(other, scored.cases, threshold, samples),
                    None
                    if each.calibration is None or method != "exact"
                    else decisions(each.calibration, scored.cases, scored.results) or None,
                )
            )
    names = {label.id: label.title for each in guards.values() for label in each.spec.labels}
    return Evaluation(data, tuple(examples), threshold, samples, names, tuple(runs))
