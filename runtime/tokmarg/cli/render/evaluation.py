"""An evaluation as text for people: one row per run, as in the paper, then the labels of the first run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokmarg.evaluation.threshold_decisions import FLAGGED
from tokmarg.metrics import undefined

from .terminal import pad, printable

if TYPE_CHECKING:
    from tokmarg.evaluation.evaluation import Evaluation, Run

__all__ = ["describe"]

#: Heading, width and value of each column of the table.
_COLUMNS: tuple[tuple[str, int, Any], ...] = (
    ("micro F1", 10, lambda run: run.metrics["micro_f1"]),
    ("Hamming", 9, lambda run: run.metrics["hamming_loss"]),
    ("micro AUC", 11, lambda run: run.metrics["micro_auc"]),
    ("macro AUC", 11, lambda run: run.metrics["macro_auc"]),
    ("avg prec", 10, lambda run: run.metrics["macro_average_precision"]),
    ("ECE", 8, lambda run: run.metrics["ece"]),
    ("Brier", 8, lambda run: run.metrics["brier"]),
    ("unsafe AUC", 12, lambda run: run.metrics["unsafe"]["auc"]),
    ("coverage", 10, lambda run: run.scored.coverage),
    ("s/item", 9, lambda run: run.scored.seconds_per_item),
)
#: Metrics whose intervals and differences are shown; the JSON and the report have all.
_SHOWN = {
    "micro_f1": "micro F1",
    "hamming_loss": "Hamming",
    "micro_auc": "micro AUC",
    "macro_auc": "macro AUC",
    "ece": "ECE",
    "unsafe_auc": "unsafe AUC",
}


def describe(evaluation: Evaluation) -> Iterator[str]:
    """The lines."""
    runs = evaluation.runs
    several = len({run.bundle for run in runs}) > 1
    names = [f"{run.bundle}  {run.method}" if several else run.method for run in runs]
    width = max(22, *(len(name) for name in names)) + 2 if names else 24
    models = ", ".join(dict.fromkeys(printable(run.model) for run in runs))
    data = printable(os.path.basename(evaluation.data) or evaluation.data)
    yield f"{len(evaluation.examples):,} records of {data}, {models}, threshold {evaluation.threshold:g}"
    yield ""
    columns = [column for column in _COLUMNS if any(column[2](run) is not None for run in runs)]
    yield pad("method", width) + "".join(f"{heading:>{wide}}" for heading, wide, _ in columns)
    for run, name in zip(runs, names, strict=True):
        values = "".join(f"{_number(value(run)):>{wide}}" for _, wide, value in columns)
        yield pad(printable(name), width) + values
    yield from _all_notes(runs, names)
    yield from _of_unsafe(runs[0].metrics["unsafe"])
    yield from _of_labels(runs[0])
    yield from _of_decisions(runs[0])


def _all_notes(runs: tuple[Run, ...], names: Sequence[str]) -> Iterator[str]:
    """The notes of each run, under its name where there are several; those that are the same for all only once."""
    notes = [list(_notes(run, runs)) for run in runs]
    missing = [_undefined(run.metrics) for run in runs]
    alike = len(runs) > 1 and all(each == missing[0] for each in missing)
    for name, lines, reasons in zip(names, notes, missing, strict=True):
        if reasons and not alike:
            lines.append(_no_auc(reasons))
        if lines and len(runs) > 1:
            yield ""
            yield f"{printable(name)}:"
        yield from (f"  {line}" for line in lines)
    if alike and missing[0]:
        yield ""
        yield _no_auc(missing[0])


def _no_auc(reasons: Sequence[str]) -> str:
    return f"no AUC: {'; '.join(reasons)}"


def _notes(run: Run, runs: tuple[Run, ...]) -> Iterator[str]:
    known = {name: interval for name in _SHOWN if (interval := (run.intervals or {}).get(name))}
    if known:
        yield "95 %: " + ", ".join(f"{_SHOWN[name]} {_range(interval)}" for name, interval in known.items())
    if run.reference is not None and run.differences is not None:
        other = runs[run.reference]
        what = f"{other.bundle}  {other.method}" if other.bundle != run.bundle else other.method
        parts = [
            f"{_SHOWN[name]} {difference.value:+.3f}"
            + (f" {_range(difference.interval)}" if difference.interval else "")
            for name in _SHOWN
            if (difference := run.differences[name]).value is not None
        ]
        yield f"against {printable(what)}: " + (", ".join(parts) or "nothing that both can measure")
    if run.metrics["before_calibration"] is not None:
        yield from _calibrated(run.metrics, run.metrics["before_calibration"])
    if (cut := run.scored.cut) is not None:
        what = f"two labels up to the uncertainty {cut:.3g}, one above it" if math.isfinite(cut) else "always one label"
        yield f"predicts {what}; fitted on these records, as in the paper"
    if run.scored.low_coverage:
        yield f"coverage below 0.5 in {run.scored.low_coverage:.1%} of the records"
    if run.scored.converged < 1:
        yield f"{1 - run.scored.converged:.1%} of the records did not converge"
    if run.scored.failed:
        records = "record" if run.scored.failed == 1 else "records"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in run.scored.failures.items())
        yield f"{run.scored.failed:,} {records} could not be scored ({reasons})"


def _calibrated(metrics: Mapping[str, Any], before: Mapping[str, float | None]) -> Iterator[str]:
    """Figures before and after calibration."""
    unsafe = metrics["unsafe"]
    for what, figures in (
        ("labels", {"ECE": ("ece", "ece"), "Brier": ("brier", "brier"), "micro AUC": ("micro_auc", "micro_auc")}),
        ("unsafe", {"ECE": ("unsafe_ece", "ece"), "Brier": ("unsafe_brier", "brier"), "AUC": ("unsafe_auc", "auc")}),
    ):
        after = metrics if what == "labels" else unsafe
        pairs = (f"{name} {_number(before[old])} -> {_number(after[new])}" for name, (old, new) in figures.items())
        yield f"calibrated, {what}: {', '.join(pairs)}"


def _undefined(metrics: Mapping[str, Any]) -> list[str]:
    """The labels without an AUC, by reason; not those without any annotated record."""
    entries = {**metrics["labels"], "unsafe": metrics["unsafe"]}
    reasons: dict[str, list[str]] = {}
    for name, entry in entries.items():
        reason = undefined(entry["positives"], entry["negatives"])
        if reason is not None and (entry["positives"] or entry["negatives"]):
            reasons.setdefault(reason, []).append(printable(name))
    return [f"{reason} of {', '.join(names)}" for reason, names in reasons.items()]


def _of_unsafe(unsafe: Mapping[str, Any]) -> Iterator[str]:
    if unsafe["positives"] or unsafe["negatives"]:
        yield ""
        yield (
            f"unsafe or not: {unsafe['positives']:,} unsafe, {unsafe['negatives']:,} safe; at 0.5: recall "
            f"{_number(unsafe['recall'])}, false-positive rate {_number(unsafe['false_positive_rate'])}"
        )


def _of_labels(run: Run) -> Iterator[str]:
    measured = {label: e for label, e in run.metrics["labels"].items() if e["positives"] or e["negatives"]}
    if not measured:
        return
    yield ""
    yield f"{'label':<12}{'positives':>10}{'negatives':>10}{'AUC':>8}{'95 %':>16}{'avg prec':>10}{'F1':>8}{'ECE':>8}"
    for label, entry in measured.items():
        interval = (run.intervals or {}).get(f"auc:{label}")
        yield (
            f"{pad(printable(label), 12)}{entry['positives']:>10,}{entry['negatives']:>10,}{_number(entry['auc']):>8}"
            f"{_range(interval) if interval else '-':>16}{_number(entry['average_precision']):>10}"
            f"{_number(entry['f1']):>8}{_number(entry['ece']):>8}"
        )


def _of_decisions(run: Run) -> Iterator[str]:
    """Counts at the calibration's thresholds, as rates."""
    if not run.decisions:
        return
    yield ""
    yield "decisions of the calibration's thresholds"
    yield f"{'':<12}{'threshold':>10}{'recall':>8}{'FPR':>8}{'precision':>10}"
    for name, decision in run.decisions.items():
        rates = decision.counts.rates()
        limit = "any" if name == FLAGGED else "never" if decision.threshold is None else f"{decision.threshold:.4g}"
        yield (
            f"{pad(printable(name), 12)}{limit:>10}{_number(rates['recall']):>8}"
            f"{_number(rates['false_positive_rate']):>8}{_number(rates['precision']):>10}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(interval: list[float]) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"
