"""Calibrate: fits a calibration of a guard to a file of labelled records.

:func:`calibrate` is long for its many documented arguments; its body only hands them on.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack, cast

import numpy as np

from tokmarg.arguments import (
    MAX_FOLDS,
    MAX_SEED,
    check_choice,
    check_integer,
    check_number,
    check_path,
    check_texts,
    check_type,
    number,
    shown,
)
from tokmarg.arrays import Floats
from tokmarg.calibration.calibration import Calibration
from tokmarg.calibration.cross_validation import FOLDS, cross_validate
from tokmarg.calibration.observations import Observations
from tokmarg.calibration.operating_point import Target
from tokmarg.calibration.provenance import BundleProvenance, DataFile, DataProvenance, SearchSettings
from tokmarg.calibration.risk_control import Guarantee
from tokmarg.errors import OptionError, TokmargError
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
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    weights: Sequence[float] | None = None,
    method: CalibrationMethod = "platt",
    target: Target | str | None = None,
    guarantee: Guarantee | None = None,
    certify: Sequence[str] | None = None,
    label_map: str | os.PathLike[str] | None = None,
    role: Role | None = None,
    text_field: str = "text",
    format: Format | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    options: ScoreOptions | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    warn: Callable[[str], object] | None = None,
    notice: Callable[[str], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **changes: Unpack[OptionChanges],
) -> Calibration:
    """Fits a calibration to labelled records.

    Args:
        guard: whose raw scores are calibrated (a calibration that it has does not matter).
        data: JSONL, JSON, CSV or TSV file, see :mod:`tokmarg.evaluation.dataset`; or several.
        weights: of several files, one for each: their shares in the mix of contents that the calibration is for, up to
            a factor. Records of one file weigh the same. None: every record weighs the same.
        method: ``platt``, ``isotonic``, ``temperature`` or ``beta``.
        target: the target of thresholds, such as ``recall>=0.95`` (:mod:`tokmarg.calibration.operating_point`); None
            sets none.
        guarantee: of certified thresholds (:mod:`tokmarg.calibration.risk_control`).
        certify: labels, or ``unsafe``, that get a certified threshold; None takes all of which any truth is known.
        label_map: TOML file that joins the data's taxonomy.
        role, text_field, format, delimiter, encoding: as for :func:`tokmarg.evaluation.dataset.read_labelled`.
        options, changes: how records are scored, see :class:`tokmarg.ScoreOptions`; exact raw scores are calibrated,
            whatever method, thresholds and prior.
        folds, seed: of the cross-validation that gives the figures.
        warn: called with one line for every label, or ``unsafe``, that falls short of the target.
        notice: called with one line about a delimiter or encoding of the data that was found and not asked for.
        progress: called with the number of records done and of all.

    Raises:
        TokmargError: the data cannot be read, or do not suffice for the fit; names file and line, or label.
        OptionError: an argument or option is of the wrong type or out of range; names it.
    """
    files = [Path(file) for file in _files(data)]
    shares = _shares(weights, len(files), guarantee)
    _check(guard, method, target, guarantee, certify, label_map, folds, seed)
    aim = Target.parse(target) if isinstance(target, str) else target
    mapping = None if label_map is None else read_label_map(label_map, guard.labels)
    of_files = [
        read_labelled(
            file,
            guard.labels,
            mapping,
            role=role,
            text_field=text_field,
            format=format,
            delimiter=delimiter,
            encoding=encoding,
            notice=None if notice is None else partial(_notice_of, notice, file),
        )
        for file in files
    ]
    examples, where = list(itertools.chain(*of_files)), ", ".join(map(str, files))
    options = ScoreOptions.of(options, **changes)
    observed, failures = observe(guard, examples, options, progress)
    if failures and warn is not None:
        warn(_failed(where, len(examples), failures))
    if shares is not None:
        observed = replace(observed, weight=_record_weights(shares, [len(each) for each in of_files], observed))
    try:
        fitted = cross_validate(
            observed, method, target=aim, guarantee=guarantee, certify=certify, folds=folds, seed=seed
        )
    except TokmargError as error:
        raise TokmargError(f"{where}: {error}") from None
    if warn is not None:
        for warning in fitted.warnings:
            warn(warning)
    labels = dict(fitted.calibrations)
    unsafe = labels.pop(UNSAFE)
    return Calibration(
        method=method,
        bundle=BundleProvenance.of(guard.manifest, guard.spec),
        data=DataProvenance(
            sha256=_sha256(*files),
            records=len(examples),
            scored=len(examples) - sum(failures.values()),
            label_map=None if label_map is None else _sha256(Path(label_map)),
            files=_data_files(files, [len(each) for each in of_files], shares),
        ),
        search=SearchSettings.of(options),
        target=None if aim is None else str(aim),
        guarantee=guarantee,
        unsafe=unsafe,
        labels=labels,
        figures=fitted.figures,
        tokmarg_version=VERSION,
    )


def _notice_of(notice: Callable[[str], object], file: Path, message: str) -> None:
    notice(f"{file}: {message}")


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


def _files(data: object) -> Sequence[str | os.PathLike[str]]:
    """The files of the argument ``data``."""
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        if not data:
            raise OptionError("data must name at least one file")
        for file in data:
            check_path("data", file)
        return data
    check_path("data", data, ", or several")
    return [cast("str | os.PathLike[str]", data)]


def _shares(weights: Sequence[float] | None, files: int, guarantee: Guarantee | None) -> list[float] | None:
    """The weights, 1 in all; None where there are none."""
    if weights is None:
        return None
    if not isinstance(weights, Sequence) or len(weights) != files:
        raise OptionError(f"weights must be one number for each of the data's files ({files}), not {shown(weights)}")
    for i, weight in enumerate(weights):
        check_number(f"weights[{i}]", weight, 0 < number(weight) < math.inf, "(0, inf)")
    if guarantee is not None:
        raise OptionError(
            "guarantee is for records drawn as the data were, which weights change: leave one of them out"
        )
    total = math.fsum(weights)
    return [float(weight) / total for weight in weights]


def _record_weights(shares: Sequence[float], sizes: Sequence[int], observed: Observations) -> Floats:
    """The weight of each record, 1 on average, so that the scored ones of each file have its share. [records]"""
    scored = ~np.isnan(observed.score).all(axis=1)
    of_file = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(of_file[scored], minlength=len(sizes))
    of_records: Floats = np.array(shares) * scored.sum() / np.maximum(counts, 1)  # [files]
    return of_records[of_file]


def _data_files(files: Sequence[Path], sizes: Sequence[int], shares: Sequence[float] | None) -> tuple[DataFile, ...]:
    """What the calibration says of its files, if there are several."""
    if len(files) == 1:
        return ()
    of_mix = [size / sum(sizes) for size in sizes] if shares is None else shares
    return tuple(DataFile(_sha256(file), size, share) for file, size, share in zip(files, sizes, of_mix, strict=True))


def _failed(data: str, records: int, failures: Mapping[str, int]) -> str:
    """The warning that some records could not be scored."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in failures.items())
    return f"{data}: {sum(failures.values()):,} of {records:,} records could not be scored ({reasons}) and do not count"


def _sha256(*files: Path) -> str:
    """Of the files' bytes, one file after the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


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
        options=replace(options, method="exact", thresholds=Thresholds(0.0), prior=None),
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
