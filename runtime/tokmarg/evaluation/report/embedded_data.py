"""Data of the report: truths and scores of all contents, calibration bins, and the texts of the worst errors.

Of the texts the page has the worst errors: for each run and label the contents without the label that score highest and
those with it that score lowest, which are the worst errors at any threshold.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tokmarg.arrays import Floats
from tokmarg.evaluation.dataset import Example
from tokmarg.evaluation.evaluation import Evaluation
from tokmarg.evaluation.measures import Cases
from tokmarg.metrics import Ranked, average_precision, undefined

from .text import clean, run_name, several_bundles

__all__ = ["embedded_data"]

#: Errors of each kind that a label's list can show.
WORST = 100
#: Characters of a text that the page holds.
TEXT = 1000


def embedded_data(evaluation: Evaluation) -> dict[str, Any]:
    """The data of the script, plain types. Matrices [contents, labels then ``unsafe``] are base64 of little-endian
    numbers; of a label about which the records say nothing there is no column."""
    labels = _known_labels(evaluation)
    count = len(evaluation.examples)
    truth = np.full((count, len(labels) + 1), np.nan)
    shown: set[int] = set()
    runs = []
    several = several_bundles(evaluation.runs)
    for run in evaluation.runs:
        cases = run.scored.cases
        known = [i for i, label in enumerate(cases.labels) if label in labels]
        at = [*(labels.index(cases.labels[i]) for i in known), len(labels)]
        own = np.column_stack([cases.truth[:, known], cases.unsafe_truth])
        truth[:, at] = np.where(np.isnan(own), truth[:, at], own)
        score = np.full_like(truth, np.nan)
        score[:, at] = np.column_stack([cases.score[:, known], cases.unsafe_score])
        shown.update(_worst(own, score[:, at]))
        before = cases.before()
        metrics = {**run.metrics["labels"], "unsafe": run.metrics["unsafe"]}
        runs.append(
            {
                "name": run_name(run, several),
                "score": _packed(score, "<f4"),
                "bins": _bins(cases),
                "before": None if before is None else _bins(before),
                "auc": {"*": run.metrics["micro_auc"]} | {label: of["auc"] for label, of in metrics.items()},
                "precision": {"*": average_precision(*cases.pooled())}
                | {label: of["average_precision"] for label, of in metrics.items()},
                "why": {label: undefined(of["positives"], of["negatives"]) for label, of in metrics.items()},
            }
        )
    return {
        "threshold": evaluation.threshold,
        "labels": [{"id": label, "name": evaluation.names.get(label, label)} for label in labels],
        "count": count,
        "truth": _packed(np.nan_to_num(truth, nan=-1.0), "i1"),
        "runs": runs,
        "texts": {str(i): _text_of(evaluation.examples[i]) for i in sorted(shown)},
        "worst": WORST,
    }


def _known_labels(evaluation: Evaluation) -> tuple[str, ...]:
    """The labels that some record has or lacks for certain, and some run scores."""
    found: dict[str, None] = {}
    for run in evaluation.runs:
        cases = run.scored.cases
        found |= dict.fromkeys(label for i, label in enumerate(cases.labels) if len(cases.label(i)[0]))
    order = dict.fromkeys(label for run in evaluation.runs for label in run.scored.cases.labels)
    return tuple(label for label in order if label in found)


def _packed(matrix: Floats, kind: str) -> str:
    return base64.b64encode(matrix.astype(kind).tobytes()).decode("ascii")


def _worst(truth: Floats, score: Floats) -> Iterator[int]:
    """Indices of the contents with the worst errors of each column; truth and score are [contents, columns]."""
    for column in range(truth.shape[1]):
        for wrong, sign in ((0, -1), (1, 1)):
            (at,) = np.nonzero((truth[:, column] == wrong) & ~np.isnan(score[:, column]))
            yield from at[np.argsort(sign * score[at, column], kind="stable")][:WORST].tolist()


def _bins(cases: Cases) -> dict[str, list[list[float]]]:
    """Label, ``unsafe`` or ``*`` (pooled) -> mean score, share of positives and size of each bin of equal mass."""
    of_name = {"*": cases.pooled(), "unsafe": cases.unsafe()}
    of_name |= {label: cases.label(i) for i, label in enumerate(cases.labels)}
    bins = {}
    for name, (truth, score) in of_name.items():
        columns = [part[0] for part in Ranked(truth, score).masses().calibration_bins()]
        bins[name] = [[round(float(x), 6) for x in bin] for bin in zip(*columns, strict=True) if bin[2] > 0]
    return bins


def _text_of(example: Example) -> dict[str, str]:
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
    return clean(text if len(text) <= characters else text[:characters] + "…")
