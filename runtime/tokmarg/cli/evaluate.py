"""``tokmarg evaluate``: how good a bundle's scores are on labelled data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..result import METHODS, Method
from .progress import Progress
from .quiet import quiet
from .score import Probability
from .terminal import echo

if TYPE_CHECKING:
    from ..guard import Guard

__all__ = ["evaluate"]

_FILE = click.Path(path_type=Path)


@click.command(short_help="Measure a bundle on labelled data.")
@click.option("--data", required=True, type=_FILE, metavar="FILE", help="JSONL or CSV with labels.")
@click.option("--input-format", type=click.Choice(["jsonl", "csv"]), help="[default: the extension's]")
@click.option("--text-field", default="text", show_default=True, metavar="NAME", help="Field or column with the text.")
@click.option("--role", type=click.Choice(["user", "assistant"]), help="Role of bare texts. [default: user]")
@click.option("--label-map", type=_FILE, metavar="FILE", help="TOML: joins another taxonomy.")
@click.option("--bundle", metavar="BUNDLE", help="Folder, or name of an installed bundle. [default: $TOKMARG_BUNDLE]")
@click.option(
    "--compare",
    multiple=True,
    metavar="BUNDLE|POLICY",
    help="Measure this bundle too, or the first one under this policy (.toml, .json). Repeatable.",
)
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
@click.option(
    "--tolerance",
    type=Probability(0, 1, min_open=True),
    default=1e-3,
    show_default=True,
    metavar="X",
    help="exact: widest interval that counts as converged.",
)
@click.option(
    "--max-nodes",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="exact: verdict nodes to expand at most.",
)
@click.option(
    "--on-overflow",
    type=click.Choice(["error", "window"]),
    default="error",
    show_default=True,
    help="Content beyond the context window: not scored, or overlapping windows.",
)
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
@click.option("--report", type=_FILE, metavar="FILE", help="Write a report too: one HTML file that opens offline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    data: Path,
    input_format: Any,
    text_field: str,
    role: Any,
    label_map: Path | None,
    bundle: str | None,
    compare: tuple[str, ...],
    methods: str,
    threshold: float,
    tolerance: float,
    max_nodes: int,
    on_overflow: Any,
    samples: int,
    device: Any,
    threads: int | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Score the records of FILE and compare the scores with its labels.

    A row has `text` or `messages`, and `labels` (ids that apply), `unsafe` (true or false), or both; `known` lists the
    labels that were looked at, where not all were. In CSV they are columns, ids joined by `;`.

    With --compare, the difference of each metric comes with an interval over the same resampled records.
    """
    names = _methods(methods)
    if report is not None:
        _check_report(report, data)

    from ..evaluation import check_methods
    from ..evaluation import evaluate as measure
    from ..labelled import read_label_map, read_labelled
    from .evaltable import describe

    with quiet():
        guards = _guards(bundle, compare, device, threads)
    check_methods(guards, names)
    labels = list(dict.fromkeys(label for guard in guards.values() for label in guard.labels))
    mapping = None if label_map is None else read_label_map(label_map, labels)
    examples = read_labelled(data, labels, mapping, role=role, text_field=text_field, format=input_format)
    progress = Progress(sys.stderr if sys.stderr.isatty() else None, len(examples) * len(guards) * len(names))
    try:
        evaluation = measure(
            guards,
            examples,
            methods=names,
            threshold=threshold,
            samples=samples,
            tolerance=tolerance,
            max_nodes=max_nodes,
            on_overflow=on_overflow,
            data=str(data),
            progress=lambda done: progress.update(done, done),
        )
    finally:
        progress.clear()
    if report is not None:
        evaluation.write_report(report)
        click.echo(f"report: {report}", err=True)
    for line in [evaluation.to_json()] if as_json else describe(evaluation):
        echo(line)


def _methods(names: str) -> list[Method]:
    if names == "all":
        return list(METHODS)
    found: list[Method] = []
    for name in (name.strip() for name in names.split(",")):
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(METHODS)}, all", param_hint="--methods")
        found.append(name)
    return found


def _guards(bundle: str | None, compare: tuple[str, ...], device: Any, threads: int | None) -> dict[str, Guard]:
    """The guards by name: as short as tells them apart."""
    from ..guard import Guard

    first = Guard.load(bundle, device=device, threads=threads)
    found = [(bundle or str(first.path), first)]
    for other in compare:
        if other.lower().endswith((".toml", ".json")):
            guard = Guard.load(bundle, device=device, threads=threads, policy=other)
        else:
            guard = Guard.load(other, device=device, threads=threads)
        found.append((other, guard))
    short = [os.path.basename(os.path.normpath(given)) for given, _ in found]
    names: dict[str, Guard] = {}
    for (given, guard), name in zip(found, short, strict=True):
        name = name if short.count(name) == 1 else given
        copies = sum(name == known or known.startswith(f"{name} (") for known in names)
        names[f"{name} ({copies + 1})" if copies else name] = guard
    return names


def _check_report(report: Path, data: Path) -> None:
    """Refuses a report that could not be written, before anything is scored; leaves what is there as it is."""
    if report.exists() and data.exists() and report.samefile(data):
        raise click.UsageError(f"--report: {report}: is the data file.")
    new = not report.exists()
    with report.open("ab"):  # an OSError names the path
        pass
    if new:
        report.unlink()
