"""Evaluation: scores labelled records with one guard or several, by one method or several, and measures the scores.

    from tokmarg import Guard
    from tokmarg.evaluation import evaluate, read_labelled, write_report

    guard = Guard.load("bundle-folder")
    evaluation = evaluate(guard, read_labelled("posts.jsonl", guard.labels))
    evaluation.runs[0].metrics["micro_auc"]
    write_report(evaluation, "report.html")

A *run* is one guard with one method. Each run but the first is also compared with another one on the same resamples:
with the same method of the first guard, or, of the first guard itself, with its first method.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from tokmarg.arguments import (
    MAX_SAMPLES,
    check_integer,
    check_number,
    check_path,
    check_texts,
    check_type,
    number,
    shown,
)
from tokmarg.calibration.prior_shift import with_prior
from tokmarg.errors import OptionError, TokmargError
from tokmarg.guard import Guard
from tokmarg.results import Method
from tokmarg.score_options import OptionChanges, ScoreOptions

from .bootstrap import bootstrap, difference
from .dataset import Example
from .evaluation import Evaluation, Run, ScoringRun
from .label_names import label_titles
from .measures import measure
from .scoring_run import score_examples
from .threshold_decisions import threshold_decisions

__all__ = ["check_methods", "evaluate"]


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
    options: ScoreOptions | None = None,
    data: str | os.PathLike[str] = "records",
    progress: Callable[[int, int], object] | None = None,
    **changes: Unpack[OptionChanges],
) -> Evaluation:
    """Scores labelled records and measures the scores.

    Args:
        guard: what is measured; or several guards by name, of which the first is what the others are compared with.
        examples: from :func:`tokmarg.evaluation.dataset.read_labelled`, read with the labels of all guards.
        methods: scoring methods; each runs on each guard.
        threshold: a label is predicted where its score reaches it; 0.2 is the paper's.
        samples: number of resamples of the 95 % intervals; 0 for none.
        options, changes: how records are scored, see :class:`tokmarg.ScoreOptions`; ``methods`` are the methods.
        data: the file that the examples were read from, or another name for them in the outcome.
        progress: called with the number of records done and of all, over all runs.

    Raises:
        TokmargError: there are no records, none could be scored, or a method does not go with a guard.
        OptionError: an argument or option is of the wrong type or out of range; names it.
    """
    options = ScoreOptions.of(options, **changes)
    _check(guard, examples, methods, threshold, samples, data)
    guards = {guard.path.name: guard} if isinstance(guard, Guard) else dict(guard)
    methods = tuple(dict.fromkeys(methods))
    check_methods(guards, methods)
    _check_prior(guards, methods, options.prior)
    total = len(guards) * len(methods) * len(examples)
    runs: list[Run] = []
    for name, each in guards.items():
        for method in methods:
            of_run = replace(options, method=method, prior=options.prior if method == "exact" else None)
            reference = None if not runs else len(runs) % len(methods) if len(runs) >= len(methods) else 0
            runs.append(
                _run(
                    name,
                    each,
                    score_examples(
                        each,
                        examples,
                        options=of_run,
                        progress=_counting(progress, len(runs) * len(examples), total),
                    ),
                    of_run,
                    threshold,
                    samples,
                    reference,
                    None if reference is None else runs[reference],
                )
            )
    return Evaluation(os.fspath(data), tuple(examples), threshold, samples, label_titles(guards), tuple(runs))


def _check(guard: object, examples: object, methods: object, threshold: object, samples: object, data: object) -> None:
    check_type("guard", guard, (Guard, Mapping), "a tokmarg.Guard, or guards by name")
    if not isinstance(examples, Sequence) or not all(isinstance(example, Example) for example in examples):
        raise OptionError(f"examples must be those of read_labelled, not {shown(examples)}")
    check_texts("methods", methods)
    check_number("threshold", threshold, 0 <= number(threshold) <= 1, "[0, 1]")
    check_integer("samples", samples, MAX_SAMPLES, least=0)
    check_path("data", data, " or another name")


def _check_prior(guards: Mapping[str, Guard], methods: Sequence[Method], prior: float | None) -> None:
    """Refuses a prior that some guard's probabilities cannot be shifted to, before the work."""
    for guard in guards.values() if "exact" in methods else ():
        with_prior(guard.calibration, prior)


def _counting(progress: Callable[[int, int], object] | None, before: int, total: int) -> Callable[[int, int], object]:
    """Progress of one run as progress over all runs, of which ``before`` records were done earlier."""
    return lambda done, of_run: None if progress is None else progress(before + done, total)


def _run(
    name: str,
    guard: Guard,
    scored: ScoringRun,
    options: ScoreOptions,
    threshold: float,
    samples: int,
    reference: int | None,
    other: Run | None,
) -> Run:
    """Measures the scores of one guard and method, and compares them with another run's."""
    cases = scored.cases
    decisions = None
    if guard.calibration is not None and options.method == "exact" and options.thresholds is None:
        shifted = with_prior(guard.calibration, options.prior) or guard.calibration
        decisions = threshold_decisions(shifted, cases, scored.results) or None
    return Run(
        bundle=name,
        model=guard.manifest.model_id,
        precision=guard.manifest.precision,
        method=options.method,
        scored=scored,
        metrics=measure(cases, threshold),
        intervals=bootstrap(cases, threshold, samples) if samples else None,
        reference=reference,
        differences=None if other is None else difference(other.scored.cases, cases, threshold, samples),
        decisions=decisions,
    )
