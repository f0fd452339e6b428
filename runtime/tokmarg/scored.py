"""Labelled records scored: truths and scores side by side, which metrics and calibration work on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import ContentError, TokmargError
from .guard import Guard
from .labelled import Example
from .metrics import Cases
from .packing import OnOverflow
from .result import Method, MethodResult, Result, Thresholds

__all__ = ["Scored", "score_examples"]


@dataclass(frozen=True, slots=True)
class Scored:
    """What scoring labelled records gave.

    Attributes:
        cases: truths and scores; NaN where a record could not be scored.
        results: one for each record, the error where it could not be scored.
        coverage: mean coverage; None where results have none.
        converged: share of the scored records.
        failed: how many records could not be scored.
        seconds_per_item: wall-clock time over the records.
    """

    cases: Cases
    results: tuple[Result | MethodResult | ContentError, ...]
    coverage: float | None
    converged: float
    failed: int
    seconds_per_item: float


def score_examples(
    guard: Guard,
    examples: Sequence[Example],
    *,
    method: Method = "exact",
    max_nodes: int = 256,
    tolerance: float = 1e-3,
    thresholds: Thresholds | None = None,
    on_overflow: OnOverflow = "error",
    progress: Callable[[int], object] | None = None,
) -> Scored:
    """Scores labelled records.

    Args:
        guard: what to score with.
        examples: from :func:`tokmarg.labelled.read_labelled`.
        method, max_nodes, tolerance, thresholds, on_overflow: as for :meth:`tokmarg.Guard.score`.
        progress: called with the number of records done.

    Raises:
        TokmargError: no record could be scored, or the method does not go with the bundle.
    """
    labels = guard.labels
    truth = np.full((len(examples), len(labels)), np.nan)
    score = np.full_like(truth, np.nan)
    unsafe_truth, unsafe_score = np.full(len(examples), np.nan), np.full(len(examples), np.nan)
    coverages: list[float] = []
    found: list[Result | MethodResult | ContentError] = []
    began = time.perf_counter()
    results = guard.score_many(
        (example.record for example in examples),
        method=method,
        max_nodes=max_nodes,
        tolerance=tolerance,
        thresholds=thresholds,
        on_overflow=on_overflow,
        on_error="return",
    )
    for i, (example, result) in enumerate(zip(examples, results, strict=True)):
        if progress is not None:
            progress(i + 1)
        found.append(result)
        for k, label in enumerate(labels):
            if label in example.labels:
                truth[i, k] = example.labels[label]
        if example.unsafe is not None:
            unsafe_truth[i] = example.unsafe
        if isinstance(result, ContentError):
            continue
        if isinstance(result, Result):
            values = {k: None if m is None else m.probability for k, m in result.labels.items()}
            unsafe_score[i] = result.unsafe.probability
            coverages += [] if result.coverage is None else [result.coverage]
        else:
            values = dict(result.scores)
            unsafe_score[i] = values["unsafe"]
        score[i] = [np.nan if values[label] is None else values[label] for label in labels]
    seconds = (time.perf_counter() - began) / len(examples)
    scored = [result for result in found if not isinstance(result, ContentError)]
    if not scored:
        raise TokmargError("no record could be scored")
    return Scored(
        Cases(labels, truth, score, unsafe_truth, unsafe_score),
        tuple(found),
        float(np.mean(coverages)) if coverages else None,
        sum(result.converged for result in scored) / len(scored),
        len(found) - len(scored),
        seconds,
    )
