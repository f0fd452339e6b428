"""Calibrate: fits a calibration of a guard to a file of labelled records.

:func:`calibrate` is long for its many documented arguments; its body only hands them on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from tokmarg.arguments import (
    MAX_FOLDS,
    MAX_SEED,
    check_choice,
    check_integer,
    check_path,
    check_texts,
    check_type,
)
from tokmarg.calibration.calibration import Calibration
from tokmarg.calibration.cross_validation import FOLDS, cross_validate
from tokmarg.calibration.observations import Observations
from tokmarg.calibration.operating_point import Target
from tokmarg.calibration.provenance import BundleProvenance, DataProvenance, SearchSettings
from tokmarg.calibration.risk_control import Guarantee
from tokmarg.errors import TokmargError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.guard import Guard
from tokmarg.prompt.labels import Role
from tokmarg.records import Format
from tokmarg.results import CALIBRATIONS, CalibrationMethod, Result, Thresholds
from tokmarg.score_options import OptionChanges, ScoreOptions
from tokmarg.version import VERSION

from .dataset import Example, read_label_map, read_labelled
from .scoring_run import score_examples

__all__ = ["calibrate", "observe"]


def calibrate(
    guard: Guard,
    data: str | os.PathLike[str],
    *,
    method: CalibrationMethod = "platt",
    target: Target | str | None = None,
    guarantee: Guarantee | None = None,
    certify: Sequence[str] | None = None,
    label_map: str | os.PathLike[str] | None = None,
    role: Role | None = None,
    text_field: str = "text",
    format: Format | None = None,
    options: ScoreOptions | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    warn: Callable[[str], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **changes: Unpack[OptionChanges],
) -> Calibration:
    """Fits a calibration to labelled records.

    Args:
        guard: whose raw scores are calibrated (a calibration that it has does not matter).
        data: JSONL or CSV file, see :mod:`tokmarg.evaluation.dataset`.
        method: ``platt``, ``isotonic``, ``temperature`` or ``beta``.
        target: the target of thresholds, such as ``recall>=0.95`` (:mod:`tokmarg.calibration.operating_point`); None
            sets none.
        guarantee: of certified thresholds (:mod:`tokmarg.calibration.risk_control`).
        certify: labels, or ``unsafe``, that get a certified threshold; None takes all of which any truth is known.
        label_map: TOML file that joins the data's taxonomy.
        role, text_field, format: as for :func:`tokmarg.evaluation.dataset.read_labelled`.
        options, changes: how records are scored, see :class:`tokmarg.ScoreOptions`; exact raw scores are calibrated,
            whatever the method and thresholds.
        folds, seed: of the cross-validation that gives the figures.
        warn: called with one line for every label, or ``unsafe``, that falls short of the target.
        progress: called with the number of records done and of all.

    Raises:
        TokmargError: the data cannot be read, or do not suffice for the fit; names file and line, or label.
        OptionError: an argument or option is of the wrong type or out of range; names it.
    """
    check_path("data", data)
    _check(guard, method, target, guarantee, certify, label_map, folds, seed)
    data = Path(data)
    aim = Target.parse(target) if isinstance(target, str) else target
    mapping = None if label_map is None else read_label_map(label_map, guard.labels)
    examples = read_labelled(data, guard.labels, mapping, role=role, text_field=text_field, format=format)
    options = ScoreOptions.of(options, **changes)
    observed, failures = observe(guard, examples, options, progress)
    if failures and warn is not None:
        warn(_failed(data, len(examples), failures))
    try:
        fitted = cross_validate(
            observed, method, target=aim, guarantee=guarantee, certify=certify, folds=folds, seed=seed
        )
    except TokmargError as error:
        raise TokmargError(f"{data}: {error}") from None
    if warn is not None:
        for warning in fitted.warnings:
            warn(warning)
    labels = dict(fitted.calibrations)
    unsafe = labels.pop(UNSAFE)
    return Calibration(
        method=method,
        bundle=BundleProvenance.of(guard.manifest, guard.spec),
        data=DataProvenance(
            sha256=_sha256(data),
            records=len(examples),
            scored=len(examples) - sum(failures.values()),
            label_map=None if label_map is None else _sha256(Path(label_map)),
        ),
        search=SearchSettings.of(options),
        target=None if aim is None else str(aim),
        guarantee=guarantee,
        unsafe=unsafe,
        labels=labels,
        figures=fitted.figures,
        tokmarg_version=VERSION,
    )


def _check(
    guard: object,
    method: object,
    target: object,
    guarantee: object,
    certify: object,
    label_map: object,
    folds: object,
    seed: object,
) -> None:
    check_type("guard", guard, Guard, "a tokmarg.Guard")
    check_choice("method", method, CALIBRATIONS)
    check_type("target", target, (Target, str, type(None)), "a target such as 'recall>=0.95', or None")
    check_type("guarantee", guarantee, (Guarantee, type(None)), "a tokmarg.calibration.Guarantee or None")
    if certify is not None:
        check_texts("certify", certify)
    if label_map is not None:
        check_path("label_map", label_map, " or None")
    check_integer("folds", folds, MAX_FOLDS, least=2)
    check_integer("seed", seed, MAX_SEED, least=0)


def _failed(data: Path, records: int, failures: Mapping[str, int]) -> str:
    """The warning that some records could not be scored."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in failures.items())
    return f"{data}: {sum(failures.values()):,} of {records:,} records could not be scored ({reasons}) and do not count"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def observe(
    guard: Guard,
    examples: Sequence[Example],
    options: ScoreOptions,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Observations, dict[str, int]]:
    """Scores labelled records for calibration: exactly, whatever the method and thresholds of the options.

    Nothing is searched further for a threshold's sake: a score with thresholds is then searched at least as far.

    Returns:
        truths and scores, and error type -> how many records could not be scored for it.

    Raises:
        TokmargError: none could.
    """
    scored = score_examples(
        guard,
        examples,
        options=replace(options, method="exact", thresholds=Thresholds(0.0)),
        progress=progress,
    )
    names = (*guard.labels, UNSAFE)
    bounds = np.full((3, len(examples), len(names)), np.nan)
    for i, result in enumerate(scored.results):
        if isinstance(result, Result):
            raw = result.raw or result
            for k, marginal in enumerate([*(raw.labels[label] for label in guard.labels), raw.unsafe]):
                if marginal is not None:
                    bounds[:, i, k] = marginal.probability, marginal.lower, marginal.upper
    truth = np.column_stack([scored.cases.truth, scored.cases.unsafe_truth])
    return Observations(names, truth, *bounds), scored.failures
