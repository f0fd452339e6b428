"""The report of an evaluation: one HTML file with everything in it, for a browser without network.

The page is ``report.html`` with ``report.css`` and ``report.js`` inside, and the numbers as JSON. Its own
content-security policy lets nothing run or load but that one script and that one style (by their sha256), so a text
that holds markup stays a text; besides, texts only ever become text nodes.

Of the texts the page has the worst errors: for each run and label the contents without the label that score highest and
those with it that score lowest, which are the worst errors at any threshold.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from tokmarg.arrays import Floats
from tokmarg.evaluation.measures import Cases
from tokmarg.metrics import Ranked, average_precision, undefined

if TYPE_CHECKING:
    from tokmarg.evaluation.dataset import Example
    from tokmarg.evaluation.evaluate import Evaluation, Run

__all__ = ["render"]

#: Errors of each kind that a label's list can show.
WORST = 100
#: Characters of a text that the page holds.
TEXT = 1000
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


def render(evaluation: Evaluation) -> str:
    """The page."""
    folder = files(__package__)
    page, style, script = (
        (folder / f"report.{kind}").read_text(encoding="utf-8").replace("\r\n", "\n") for kind in ("html", "css", "js")
    )
    parts = {
        "title": html.escape(f"{_clean(evaluation.data)}: evaluation"),
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "lead": html.escape(_lead(evaluation)),
        "summary": _summary(evaluation.runs),
        "differences": _differences(evaluation.runs),
        "data": _embedded(_data(evaluation)),
    }
    # One pass: what is filled in is never looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: object) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _clean(text: str) -> str:
    """The text with a mark in place of each half of a surrogate pair, which UTF-8 cannot hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _lead(evaluation: Evaluation) -> str:
    runs = evaluation.runs
    models = ", ".join(dict.fromkeys(f"{run.model} ({run.precision})" for run in runs))
    intervals = f"; 95 % intervals from {evaluation.samples:,} resamples" if evaluation.samples else ""
    return _clean(
        f"{len(evaluation.examples):,} records of {evaluation.data}, scored by {models}. A label counts as predicted "
        f"where its score reaches {evaluation.threshold:g}{intervals}."
    )


def _name(run: Run, several: bool) -> str:
    return _clean(f"{run.bundle}, {run.method}" if several else run.method)


def _several(runs: tuple[Run, ...]) -> bool:
    return len({run.bundle for run in runs}) > 1


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


def _summary(runs: tuple[Run, ...]) -> str:
    """The paper's table: runs as rows."""
    several = _several(runs)

    def rows() -> Iterator[tuple[str, list[str]]]:
        for run in runs:
            intervals, before = run.intervals or {}, run.metrics["before_calibration"] or {}
            cells = [
                _fixed(value(run))
                + _range(intervals.get(key))
                + (f"<small>before {_fixed(before[key])}</small>" if key in before else "")
                for _, key, value in _COLUMNS
            ]
            scored = run.scored
            low = "" if scored.low_coverage is None else f"<small>{scored.low_coverage:.1%} below 0.5</small>"
            failed = f"<small>{scored.failed:,} failed</small>" if scored.failed else ""
            yield (
                _name(run, several),
                [
                    *cells,
                    _fixed(scored.coverage) + low,
                    f"{scored.converged:.1%}{failed}",
                    f"{scored.seconds_per_item:.3g}",
                ],
            )

    headings = ["Bundle, method" if several else "Method", *(name for name, _, _ in _COLUMNS)]
    calibrated = any(run.metrics["before_calibration"] for run in runs)
    note = '<p class="note">“before”: of the scores before calibration.</p>' if calibrated else ""
    return _table([*headings, "Coverage", "Converged", "s/item"], rows()) + note


def _differences(runs: tuple[Run, ...]) -> str:
    """Each run minus the one it is compared with."""
    several = _several(runs)

    def rows() -> Iterator[tuple[str, list[str]]]:
        for run in runs:
            if run.reference is None or run.differences is None:
                continue
            cells = [html.escape(_name(runs[run.reference], several))]
            for _, key, _ in _COLUMNS:
                found = run.differences[key]
                sure = found.interval is not None and (found.interval[0] > 0 or found.interval[1] < 0)
                value = "–" if found.value is None else f"{found.value:+.3f}"
                cells.append((f"<strong>{value}</strong>" if sure else value) + _signed_range(found.interval))
            yield _name(run, several), cells

    table = _table(["Run", "minus", *(name for name, _, _ in _COLUMNS)], rows())
    if not table:
        return ""
    return (
        '<section><h2>Differences</h2><p class="note">On the cases that both runs have, over the same resamples. '
        f"Bold: the 95 % interval does not hold zero.</p>{table}</section>"
    )


def _data(evaluation: Evaluation) -> dict[str, Any]:
    """What the script draws from. Matrices are base64 of little-endian numbers, contents × (labels, then unsafe)."""
    labels = tuple(dict.fromkeys(label for run in evaluation.runs for label in run.scored.cases.labels))
    count = len(evaluation.examples)
    truth = np.full((count, len(labels) + 1), np.nan)
    shown: set[int] = set()
    runs = []
    several = _several(evaluation.runs)
    for run in evaluation.runs:
        cases = run.scored.cases
        at = [*(labels.index(label) for label in cases.labels), len(labels)]
        own = np.column_stack([cases.truth, cases.unsafe_truth])
        truth[:, at] = np.where(np.isnan(own), truth[:, at], own)
        score = np.full_like(truth, np.nan)
        score[:, at] = np.column_stack([cases.score, cases.unsafe_score])
        shown.update(_worst(own, score[:, at]))
        before = cases.before()
        metrics = {**run.metrics["labels"], "unsafe": run.metrics["unsafe"]}
        runs.append(
            {
                "name": _name(run, several),
                "score": _packed(score, "<f4"),
                "bins": _bins(cases),
                "before": None if before is None else _bins(before),
                "auc": {"*": run.metrics["micro_auc"]} | {label: entry["auc"] for label, entry in metrics.items()},
                "precision": {"*": average_precision(*cases.pooled())}
                | {label: entry["average_precision"] for label, entry in metrics.items()},
                "why": {label: undefined(entry["positives"], entry["negatives"]) for label, entry in metrics.items()},
            }
        )
    return {
        "threshold": evaluation.threshold,
        "labels": [{"id": label, "name": evaluation.names.get(label, label)} for label in labels],
        "count": count,
        "truth": _packed(np.nan_to_num(truth, nan=-1.0), "i1"),
        "runs": runs,
        "texts": {str(i): _shown(evaluation.examples[i]) for i in sorted(shown)},
        "worst": WORST,
    }


def _packed(matrix: Floats, kind: str) -> str:
    return base64.b64encode(matrix.astype(kind).tobytes()).decode("ascii")


def _worst(truth: Floats, score: Floats) -> Iterator[int]:
    for column in range(truth.shape[1]):
        for wrong, sign in ((0, -1), (1, 1)):
            (at,) = np.nonzero((truth[:, column] == wrong) & ~np.isnan(score[:, column]))
            yield from at[np.argsort(sign * score[at, column], kind="stable")][:WORST].tolist()


def _bins(cases: Cases) -> dict[str, list[list[float]]]:
    """Label, ``unsafe`` or ``*`` (pooled) -> mean score, share of positives and size of each bin of equal mass."""
    found = {"*": cases.pooled(), "unsafe": cases.unsafe()}
    found |= {label: cases.label(i) for i, label in enumerate(cases.labels)}
    bins = {}
    for name, (truth, score) in found.items():
        columns = [part[0] for part in Ranked(truth, score).masses().calibration_bins()]
        bins[name] = [[round(float(x), 6) for x in bin] for bin in zip(*columns, strict=True) if bin[2] > 0]
    return bins


def _shown(example: Example) -> dict[str, str]:
    """Id and text of a record, as much as the page shows of them."""
    record = example.record
    content = record.content
    if not isinstance(content, str):
        content = "\n\n".join(
            f"{message.get('role')}: {message.get('content')}" if isinstance(message, Mapping) else str(message)
            for message in content
        )
    id = record.id if isinstance(record.id, str) else json.dumps(record.id, default=str)
    return {"id": _cut(id, 80), "text": _cut(content, TEXT)}


def _cut(text: str, characters: int) -> str:
    return _clean(text if len(text) <= characters else text[:characters] + "…")
