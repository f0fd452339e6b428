"""Scoring run: one guard scores labelled records with one method; truths and scores side by side, for metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from tokmarg.arrays import Ints
from tokmarg.errors import ContentError, TokmargError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.guard import Guard
from tokmarg.results import LOW_COVERAGE, Marginal, MethodResult, Result
from tokmarg.score_options import OptionChanges, ScoreOptions
from tokmarg.scoring.methods import UNCERTAINTIES
from tokmarg.scoring.uncertainty import one_or_two

from .dataset import Example
from .evaluation import ScoringRun, failures
from .measures import Cases

__all__ = ["score_examples"]

_Values = Mapping[str, float | None]


def score_examples(
    guard: Guard,
    examples: Sequence[Example],
    *,
    options: ScoreOptions | None = None,
    progress: Callable[[int, int], object] | None = None,
    **changes: Unpack[OptionChanges],
) -> ScoringRun:
    """Scores labelled records.

    Args:
        guard: what to score with.
        examples: from :func:`tokmarg.evaluation.dataset.read_labelled`.
        options, changes: how records are scored, see :class:`tokmarg.ScoreOptions`.
        progress: called with the number of records done and of all.

    Raises:
        TokmargError: there are no records, none could be scored, or the method does not go with the bundle.
    """
    options = ScoreOptions.of(options, **changes)
    if not examples:
        raise TokmargError("there are no records to score")
    results: list[Result | MethodResult | ContentError] = []
    began = time.perf_counter()
    for result in _scored(guard, examples, options):
        results.append(result)
        if progress is not None:
            progress(len(results), len(examples))
    seconds = (time.perf_counter() - began) / len(examples)
    scored = [result for result in results if not isinstance(result, ContentError)]
    if not scored:
        raise TokmargError(_all_failed(examples, results))
    cases, cut = _cases(guard.labels, examples, results), None
    if options.method in UNCERTAINTIES:
        uncertainties = [r.uncertainty if isinstance(r, MethodResult) else None for r in results]
        known = np.array([np.nan if u is None else u for u in uncertainties], dtype=np.float64)
        chosen, cut = one_or_two(cases.score, known, cases.truth)
        cases = replace(cases, chosen=chosen)
    coverages = [r.coverage for r in scored if isinstance(r, Result) and r.coverage is not None]
    return ScoringRun(
        cases=cases,
        results=tuple(results),
        coverage=float(np.mean(coverages)) if coverages else None,
        low_coverage=float(np.mean([coverage < LOW_COVERAGE for coverage in coverages])) if coverages else None,
        converged=sum(result.converged for result in scored) / len(scored),
        failed=len(results) - len(scored),
        seconds_per_item=seconds,
        cut=cut,
    )


def _scored(
    guard: Guard, examples: Sequence[Example], options: ScoreOptions
) -> Iterator[Result | MethodResult | ContentError]:
    return guard.score_many((example.record for example in examples), options=options, on_error="return")


def _cases(
    labels: tuple[str, ...], examples: Sequence[Example], results: Sequence[Result | MethodResult | ContentError]
) -> Cases:
    """Truths and scores side by side, and the scores before calibration where there was one."""
    names = (*labels, UNSAFE)
    truth, score, raw = (np.full((len(examples), len(names)), np.nan) for _ in range(3))
    calibrated = False
    for i, (example, result) in enumerate(zip(examples, results, strict=True)):
        truth[i] = _row({**example.labels, UNSAFE: example.unsafe}, names)
        if isinstance(result, ContentError):
            continue
        score[i] = raw[i] = _row(_values(result), names)
        if (before := getattr(result, "raw", None)) is not None:
            calibrated = True
            raw[i] = _row(_values(before), names)
    return Cases(
        labels=labels,
        truth=truth[:, :-1],
        score=score[:, :-1],
        unsafe_truth=truth[:, -1],
        unsafe_score=score[:, -1],
        raw=raw[:, :-1] if calibrated else None,
        raw_unsafe=raw[:, -1] if calibrated else None,
        groups=_groups(examples),
    )


def _all_failed(examples: Sequence[Example], results: Sequence[Result | MethodResult | ContentError]) -> str:
    """The message: the most frequent reason, how frequent it is, and the first record that failed for it."""
    reason, count = next(iter(failures(results).items()))
    errors = ((e.record.id, r) for e, r in zip(examples, results, strict=True) if isinstance(r, ContentError))
    id, first = next((id, error) for id, error in errors if error.type == reason)
    return f"no record could be scored: {reason} in {count:,} of {len(results):,}; first record {id!r:.40}: {first}"


def _values(result: Any) -> _Values:
    """Label, or ``unsafe`` -> score; of a result, or of its raw values."""
    if isinstance(result, MethodResult):
        return result.scores
    values = {**result.labels, UNSAFE: result.unsafe}
    return {name: value.probability if isinstance(value, Marginal) else value for name, value in values.items()}


def _row(values: Mapping[str, float | None], names: Sequence[str]) -> list[float]:
    ordered = [values.get(name) for name in names]
    return [np.nan if value is None else float(value) for value in ordered]


def _groups(examples: Sequence[Example]) -> Ints:
    """The same number for the same content, which may stand in the data more than once."""
    numbers: dict[str, int] = {}
    keys = [json.dumps([example.record.content, example.record.role], default=str) for example in examples]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
