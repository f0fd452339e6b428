"""HTML tables of the report: the metrics of each run, and the differences between runs."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from tokmarg.evaluation.evaluation import Run

from .text import run_name, several_bundles

__all__ = ["differences_section", "summary_table"]

#: Heading, key in the intervals and differences, and value of each column.
_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("Micro F1", "micro_f1", lambda run: run.metrics["micro_f1"]),
    ("Hamming loss", "hamming_loss", lambda run: run.metrics["hamming_loss"]),
    ("Micro AUC", "micro_auc", lambda run: run.metrics["micro_auc"]),
    ("Macro AUC", "macro_auc", lambda run: run.metrics["macro_auc"]),
    ("Avg precision", "macro_average_precision", lambda run: run.metrics["macro_average_precision"]),
    ("ECE", "ece", lambda run: run.metrics["ece"]),
    ("Brier", "brier", lambda run: run.metrics["brier"]),
    ("Unsafe AUC", "unsafe_auc", lambda run: run.metrics["unsafe"]["auc"]),
)


def summary_table(runs: tuple[Run, ...]) -> str:
    """The metrics, as in the paper: runs as rows; without those that no run has."""
    several = several_bundles(runs)
    columns = [column for column in _COLUMNS if any(column[2](run) is not None for run in runs)]

    def rows() -> Iterator[tuple[str, list[str]]]:
        for run in runs:
            intervals, before = run.intervals or {}, run.metrics["before_calibration"] or {}
            cells = [
                _fixed(value(run))
                + _range(intervals.get(key))
                + (f"<small>before {_fixed(before[key])}</small>" if key in before else "")
                for _, key, value in columns
            ]
            scored = run.scored
            low = "" if scored.low_coverage is None else f"<small>{scored.low_coverage:.1%} below 0.5</small>"
            failed = f"<small>{scored.failed:,} failed</small>" if scored.failed else ""
            yield (
                run_name(run, several),
                [
                    *cells,
                    _fixed(scored.coverage) + low,
                    f"{scored.converged:.1%}{failed}",
                    f"{scored.seconds_per_item:.3g}",
                ],
            )

    headings = ["Bundle, method" if several else "Method", *(name for name, _, _ in columns)]
    calibrated = any(run.metrics["before_calibration"] for run in runs)
    note = '<p class="note">“before”: of the scores before calibration.</p>' if calibrated else ""
    return _table([*headings, "Coverage", "Converged", "s/item"], rows()) + note


def differences_section(runs: tuple[Run, ...]) -> str:
    """Each run minus the one it is compared with; empty where none is."""
    several = several_bundles(runs)
    compared = [run.differences for run in runs if run.differences is not None]
    columns = [(name, key) for name, key, _ in _COLUMNS if any(each[key].value is not None for each in compared)]

    def rows() -> Iterator[tuple[str, list[str]]]:
        for run in runs:
            if run.reference is None or run.differences is None:
                continue
            cells = [html.escape(run_name(runs[run.reference], several))]
            for _, key in columns:
                difference = run.differences[key]
                interval = difference.interval
                significant = interval is not None and (interval[0] > 0 or interval[1] < 0)
                value = "–" if difference.value is None else f"{difference.value:+.3f}"
                cells.append((f"<strong>{value}</strong>" if significant else value) + _signed_range(interval))
            yield run_name(run, several), cells

    table = _table(["Run", "minus", *(name for name, _ in columns)], rows())
    if not table:
        return ""
    return (
        '<section><h2>Differences</h2><p class="note">On the cases that both runs have, over the same resamples. '
        f"Bold: the 95 % interval does not hold zero.</p>{table}</section>"
    )


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _range(interval: list[float] | None) -> str:
    return f"<small>{interval[0]:.3f}–{interval[1]:.3f}</small>" if interval else ""


def _signed_range(interval: list[float] | None) -> str:
    return f"<small>{interval[0]:+.3f} … {interval[1]:+.3f}</small>" if interval else ""


def _table(headings: list[str], rows: Iterator[tuple[str, list[str]]]) -> str:
    """A table; headings and row names are escaped here, cells are HTML already."""
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        if body
        else ""
    )
