"""Calibrates a guard on a file of labelled records, and writes the result into a copy of its bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tokmarg.bundle.bundle import Bundle
from tokmarg.bundle.manifest import MANIFEST
from tokmarg.calibration.cross_validation import FOLDS, cross_validate
from tokmarg.calibration.document import Calibration
from tokmarg.calibration.observations import Observations
from tokmarg.calibration.operating_point import Target
from tokmarg.calibration.provenance import CALIBRATION, Data, Provenance, SearchSettings
from tokmarg.calibration.risk_control import Guarantee
from tokmarg.errors import TokmargError
from tokmarg.evaluation.dataset import Example
from tokmarg.evaluation.scoring_run import score_examples
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.guard import Guard
from tokmarg.prompt.labels import Role
from tokmarg.records import Format
from tokmarg.results import CALIBRATIONS, CalibrationMethod, Result, Thresholds

from .dataset import read_label_map, read_labelled

__all__ = ["fit", "observe", "write_bundle"]


def fit(
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
    tolerance: float = 1e-3,
    max_nodes: int = 256,
    on_overflow: Literal["error", "window"] = "error",
    folds: int = FOLDS,
    seed: int = 0,
    warn: Callable[[str], object] = lambda message: None,
    progress: Callable[[int, int], object] = lambda done, records: None,
) -> Calibration:
    """Fits a calibration.

    Args:
        guard: whose raw scores are calibrated (a calibration that it has does not matter).
        data: JSONL or CSV file, see :mod:`tokmarg.evaluation.dataset`.
        method: ``platt``, ``isotonic``, ``temperature`` or ``beta``.
        target: what thresholds shall reach, such as ``recall>=0.95`` (:mod:`tokmarg.calibration.operating_point`); None
        sets none.
        guarantee: what certified thresholds promise (:mod:`tokmarg.calibration.risk_control`).
        certify: labels, or ``unsafe``, that get a certified threshold; None takes all of which any truth is known.
        label_map: TOML file that joins the data's taxonomy.
        role, text_field, format: as for :func:`tokmarg.evaluation.dataset.read_labelled`.
        tolerance, max_nodes, on_overflow: as for :meth:`tokmarg.Guard.score`.
        folds, seed: of the cross-validation behind the figures.
        warn: called with one line for every name that falls short of what was asked for.
        progress: called with the number of records done and of all.

    Raises:
        TokmargError: the data cannot be read, or do not suffice for what is asked; names file and line, or label.
    """
    data = Path(data)
    if method not in CALIBRATIONS:
        raise TokmargError(f"method {method!r:.60} is not one of {', '.join(CALIBRATIONS)}")
    if folds < 2:
        raise TokmargError(f"folds must be 2 or more, not {folds!r}")
    aim = Target.parse(target) if isinstance(target, str) else target
    mapping = None if label_map is None else read_label_map(Path(label_map), guard.labels)
    examples = read_labelled(data, guard.labels, mapping, role=role, text_field=text_field, format=format)
    search = SearchSettings(tolerance, max_nodes, on_overflow)
    observed, failures = observe(guard, examples, search, lambda done: progress(done, len(examples)))
    scored = len(examples) - sum(failures.values())
    if failures:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in failures.items())
        warn(
            f"{data}: {len(examples) - scored:,} of {len(examples):,} records could not be scored ({reasons}) and "
            "do not count"
        )
    try:
        fitted = cross_validate(
            observed, method, target=aim, guarantee=guarantee, certify=certify, folds=folds, seed=seed
        )
    except TokmargError as error:
        raise TokmargError(f"{data}: {error}") from None
    for warning in fitted.warnings:
        warn(warning)
    from tokmarg.version import installed_version

    facts = Data(_sha256(data), len(examples), scored, None if label_map is None else _sha256(Path(label_map)))
    entries = dict(fitted.entries)
    unsafe = entries.pop(UNSAFE)
    return Calibration(
        method,
        Provenance.of(guard.manifest, guard.spec),
        facts,
        search,
        None if aim is None else str(aim),
        guarantee,
        unsafe,
        entries,
        fitted.figures,
        installed_version(),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_bundle(source: Bundle, calibration: Calibration, folder: Path) -> None:
    """Writes a copy of a bundle that has the calibration, with its manifest brought up to date.

    Args:
        source: the bundle; its files are checked against its manifest first.
        calibration: fitted on it.
        folder: the new bundle, which must not exist.

    Raises:
        TokmargError: it exists, or the calibration is another bundle's.
        BundleError: the source is damaged.
        OSError: it cannot be written.
    """
    if os.path.lexists(folder):
        raise TokmargError(f"{folder}: exists already; choose another folder, or a file (.json) beside the bundle")
    calibration.check(source.manifest, source.manifest.spec, "calibration")
    source.verify()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    scratch.mkdir()
    try:
        files = {name: {"sha256": sha, "size": size} for name, (sha, size) in source.manifest.files.items()}
        for name in files:
            if name != CALIBRATION:
                shutil.copyfile(source.file(name), scratch / name)
        calibration.write(scratch / CALIBRATION)
        written = (scratch / CALIBRATION).read_bytes()
        files[CALIBRATION] = {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}
        manifest = {**source.manifest.data, "files": files}
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def observe(
    guard: Guard, examples: Sequence[Example], search: SearchSettings, progress: Callable[[int], object] | None = None
) -> tuple[Observations, dict[str, int]]:
    """Scores labelled records.

    Nothing is searched further for a threshold's sake: a score with thresholds is then searched at least as far.

    Returns:
        truths and scores, and error type -> how many records could not be scored for it.

    Raises:
        TokmargError: none could.
    """
    scored = score_examples(
        guard,
        examples,
        max_nodes=search.max_nodes,
        tolerance=search.tolerance,
        thresholds=Thresholds(0.0),
        on_overflow=search.on_overflow,
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
