"""``tokmarg evaluate``: how good a bundle's scores are on labelled data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ..result import METHODS, Method
from .progress import Progress
from .quiet import quiet
from .score import Probability
from .terminal import echo, printable

if TYPE_CHECKING:
    from ..guard import Guard
    from ..labelled import Example
    from ..metrics import Cases

__all__ = ["evaluate"]


@click.command(short_help="Measure a bundle on labelled data.")
@click.option("--data", required=True, type=click.Path(path_type=Path), metavar="FILE", help="JSONL with labels.")
@click.option("--bundle", metavar="BUNDLE", help="Folder, or name of an installed bundle. [default: $TOKMARG_BUNDLE]")
@click.option(
    "--methods", default="exact", show_default=True, metavar="NAMES|all", help="Scoring methods, joined by commas."
)
@click.option(
    "--threshold",
    type=Probability(0, 1),
    default=0.2,
    show_default=True,
    metavar="X",
    help="A label is predicted where its score reaches this; 0.2 is the paper's.",
)
@click.option("--label-map", type=click.Path(path_type=Path), metavar="FILE", help="TOML: joins another taxonomy.")
@click.option("--max-nodes", type=click.IntRange(min=1), default=256, show_default=True, metavar="N", help="exact.")
@click.option(
    "--bootstrap",
    "samples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples behind the 95 % intervals; 0 for none.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    data: Path,
    bundle: str | None,
    methods: str,
    threshold: float,
    label_map: Path | None,
    max_nodes: int,
    samples: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score the records of FILE and compare the scores with its labels.

    A row has `text` or `messages`, and `labels` (ids that apply), `unsafe` (true or false), or both; `known` lists the
    labels that were looked at, where not all were.
    """
    from ..guard import Guard
    from ..labelled import read_label_map, read_labelled
    from ..output import to_json

    names = list(METHODS) if methods == "all" else [name.strip() for name in methods.split(",")]
    for name in names:
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(METHODS)}, all", param_hint="--methods")
    with quiet():
        guard = Guard.load(bundle, device=cast(Any, device), threads=threads)
    for name in names:  # before anything is scored
        guard.check_method(cast(Method, name))
    mapping = None if label_map is None else read_label_map(label_map, guard.labels)
    examples = read_labelled(data, guard.labels, mapping)
    report = {
        "schema_version": 1,
        "data": str(data),
        "records": len(examples),
        "model": guard.manifest.model_id,
        "threshold": threshold,
        "methods": {
            name: _evaluate(guard, examples, cast(Method, name), threshold, max_nodes, samples) for name in names
        },
    }
    if as_json:
        echo(to_json(report))
    else:
        for line in describe(report):
            echo(line)


def _evaluate(
    guard: Guard, examples: Sequence[Example], method: Method, threshold: float, max_nodes: int, samples: int
) -> dict[str, Any]:
    from ..metrics import bootstrap, measure
    from ..scored import score_examples

    progress = Progress(sys.stderr if sys.stderr.isatty() else None, len(examples))
    try:
        scored = score_examples(
            guard, examples, method=method, max_nodes=max_nodes, progress=lambda done: progress.update(done, done)
        )
    finally:
        progress.clear()
    return {
        **measure(scored.cases, threshold),
        "intervals": bootstrap(scored.cases, _headline(threshold), samples) if samples else None,
        "coverage": scored.coverage,
        "converged": scored.converged,
        "failed": scored.failed,
        "seconds_per_item": scored.seconds_per_item,
    }


def _headline(threshold: float) -> dict[str, Any]:
    """The metrics that get intervals."""
    from ..metrics import auc, f1, hamming_loss

    def pooled(metric: Any, *more: float) -> Any:
        return lambda cases: metric(*cases.pooled(), *more)

    def unsafe(cases: Cases) -> float | None:
        return auc(*cases.unsafe())

    return {
        "micro_f1": pooled(f1, threshold),
        "hamming_loss": pooled(hamming_loss, threshold),
        "micro_auc": pooled(auc),
        "unsafe_auc": unsafe,
    }


def describe(report: dict[str, Any]) -> list[str]:
    """The report as lines for people: methods as rows, as in the paper, then the labels of the first method."""
    lines = [
        f"{report['records']:,} records of {printable(report['data'])}, {printable(report['model'])}, "
        f"threshold {report['threshold']:g}",
        "",
        f"{'method':<24}{'micro F1':>10}{'Hamming':>9}{'micro AUC':>11}{'macro AUC':>11}{'avg prec':>10}{'ECE':>8}"
        f"{'Brier':>8}{'unsafe AUC':>12}{'coverage':>10}{'s/item':>9}",
    ]
    for name, found in report["methods"].items():
        values = [
            (found["micro_f1"], 10), (found["hamming_loss"], 9), (found["micro_auc"], 11), (found["macro_auc"], 11),
            (found["macro_average_precision"], 10), (found["ece"], 8), (found["brier"], 8),
            (found["unsafe"]["auc"], 12), (found["coverage"], 10), (found["seconds_per_item"], 9),
        ]  # fmt: skip
        lines.append(f"{name:<24}" + "".join(f"{_number(value):>{width}}" for value, width in values))
        intervals = (found["intervals"] or {}).items()
        if known := [f"{k} [{_number(v[0])}, {_number(v[1])}]" for k, v in intervals if v]:
            lines.append("  95 %: " + ", ".join(known))
        if found["failed"]:
            lines.append(f"  {found['failed']:,} records could not be scored")
    first = next(iter(report["methods"].values()))
    unsafe = first["unsafe"]
    if unsafe["positives"] or unsafe["negatives"]:
        lines += [
            "",
            f"unsafe or not: {unsafe['positives']:,} unsafe, {unsafe['negatives']:,} safe; at 0.5: recall "
            f"{_number(unsafe['recall'])}, false-positive rate {_number(unsafe['false_positive_rate'])}",
        ]
    measured = {label: entry for label, entry in first["labels"].items() if entry["positives"] or entry["negatives"]}
    if measured:
        lines += ["", f"{'label':<12}{'positives':>10}{'negatives':>10}{'AUC':>8}{'avg prec':>10}{'F1':>8}"]
        lines += [
            f"{printable(label):<12}{entry['positives']:>10,}{entry['negatives']:>10,}{_number(entry['auc']):>8}"
            f"{_number(entry['average_precision']):>10}{_number(entry['f1']):>8}"
            for label, entry in measured.items()
        ]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
