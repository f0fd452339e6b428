"""A calibration as text for people: a table of the labels, with figures before and after calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .terminal import pad, printable

if TYPE_CHECKING:
    from tokmarg.calibration.calibration import Calibration
    from tokmarg.calibration.label_calibration import LabelCalibration

__all__ = ["describe"]


def describe(calibration: Calibration) -> list[str]:
    """The lines."""
    data, promise = calibration.data, calibration.guarantee
    lines = [
        f"{calibration.method}, {data.scored:,} of {data.records:,} records scored, "
        f"{printable(calibration.bundle.model_id)}; figures are out of fold, raw -> calibrated"
    ]
    if (share := calibration.unsafe.share) is not None:
        mix = " : ".join(f"{file.share:.4g}" for file in data.files)
        lines[0] += f"; base rate of unsafe {share:.4g}" + (f" in a mix of {mix}" if mix else "")
    if promise is not None:
        certified = [e for e in (*calibration.labels.values(), calibration.unsafe) if e.threshold]
        proofs = sum(e.threshold is not None and e.threshold.certificate is not None for e in certified)
        scope = f"all {proofs} thresholds together" if promise.simultaneous else "each threshold by itself"
        lines.append(
            f"certified (*): {promise.risk} <= {promise.level:g} on unseen records of the same source, with confidence "
            f"{promise.confidence:g} for {scope}; a record's `flagged` is any of them"
        )
    width = max(6, *(len(printable(label)) for label in calibration.labels), 6)
    lines += [
        "",
        f"{'':<{width}}{'positives':>10}{'negatives':>10}{'ECE':>17}{'Brier':>17}{'threshold':>12}{'recall':>8}"
        f"{'FPR':>8}{'precision':>10}",
    ]
    for name, entry in (("unsafe", calibration.unsafe), *calibration.labels.items()):
        lines.append(pad(printable(name), width) + _row(entry))
    if calibration.figures["ece"] is not None:
        lines.append(
            f"{'labels':<{width}}{'':>20}{_pair(calibration.figures, 'ece')}{_pair(calibration.figures, 'brier')}"
        )
    if "recall" in calibration.figures:
        lines.append(
            f"{'flagged':<{width}}{'(any threshold reached, on the data themselves)':>66}" + _rates(calibration.figures)
        )
    return lines


def _row(entry: LabelCalibration) -> str:
    threshold = ""
    if entry.threshold is not None:
        shown = entry.threshold.to_dict(entry.calibrator)["calibrated"]
        threshold = "never" if shown is None else f"{shown:.4g}"
        threshold += "*" if entry.threshold.certificate is not None else ""
    row = (
        f"{entry.positives:>10,}{entry.negatives:>10,}{_pair(entry.figures, 'ece')}{_pair(entry.figures, 'brier')}"
        f"{threshold:>12}" + (_rates(entry.figures) if entry.threshold is not None else "")
    )
    return row.rstrip() + (
        "" if entry.fitted_on == "own" else f"  {'pooled' if entry.fitted_on == 'pooled' else 'raw'}"
    )


def _pair(figures: Any, name: str) -> str:
    pair = figures[name]
    return f"{'-' if pair is None else f'{pair[0]:.3f} -> {pair[1]:.3f}':>17}"


def _rates(figures: Any) -> str:
    widths = (("recall", 8), ("false_positive_rate", 8), ("precision", 10))
    values = [(figures.get(name), width) for name, width in widths]
    return "".join(f"{'-' if value is None else f'{value:.3f}':>{width}}" for value, width in values)
