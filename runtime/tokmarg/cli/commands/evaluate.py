"""``tokmarg evaluate``: measures a bundle's scores on labelled data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tokmarg.arguments import MAX_SAMPLES
from tokmarg.cli import options
from tokmarg.cli.io.isatty import terminal_stderr
from tokmarg.cli.io.load_progress import guard_loading
from tokmarg.cli.io.output_checks import check_output
from tokmarg.cli.io.progress import Progress
from tokmarg.cli.render.terminal import echo, printable
from tokmarg.errors import TokmargError
from tokmarg.results import METHODS, Method
from tokmarg.score_options import ScoreOptions

if TYPE_CHECKING:
    from tokmarg.evaluation.dataset import Example
    from tokmarg.evaluation.evaluation import Evaluation
    from tokmarg.guard import Guard

__all__ = ["evaluate"]


@click.command(short_help="Measure a bundle on labelled data.")
@options.data
@options.labelled_records
@options.role
@options.label_map
@options.bundle
@options.calibration
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
    type=options.Probability(0, 1),
    default=0.2,
    show_default=True,
    metavar="X",
    help="A label is predicted where its score reaches this; 0.2 is the paper's.",
)
@options.score_options("prior", "tolerance", "max_nodes", "max_tokens", "on_overflow", "on_role")
@click.option(
    "--bootstrap",
    "samples",
    type=click.IntRange(0, MAX_SAMPLES),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples for the 95 % intervals; 0 for none.",
)
@options.device
@options.threads
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report too: one HTML file that opens offline.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    data: Path,
    reading: options.InputOptions,
    role: Any,
    label_map: Path | None,
    bundle: str | None,
    calibration_file: str | None,
    compare: tuple[str, ...],
    methods: str,
    threshold: float,
    scoring: ScoreOptions,
    samples: int,
    device: Any,
    threads: int | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Score the records of FILE and compare the scores with its labels.

    A row has `text` or `messages`, and `labels` (ids that apply), `unsafe` (true or false), or both; `known` lists the
    labels that were looked at, where not all were. In CSV they are columns, ids joined by `;`.

    With --compare, the difference of each metric comes with an interval over the same resampled records. Bundles that
    mean different labels by one id are compared with a --label-map only.

    Where a bundle is calibrated, ECE, Brier score and AUC before calibration are given too; measure that on records
    that the calibration was not fitted on. --calibration is that of --bundle; none is for every bundle.
    """
    names = _methods(methods)
    _check_exact({"--calibration": calibration_file not in (None, "none"), "--prior": scoring.prior is not None}, names)
    if report is not None:
        check_output("--report", report, {"data": data, "label map": label_map}, anew=True)

    from tokmarg.evaluation.evaluate import check_methods
    from tokmarg.evaluation.evaluate import evaluate as measure
    from tokmarg.evaluation.report.page import page_files

    if report is not None:
        page_files()  # what is missing is said before the work, not after it
    with guard_loading():
        guards = _guards(bundle, compare, calibration_file, device, threads)
    check_methods(guards, names)
    _check_names(guards, label_map is not None)
    examples = _read(guards, data, label_map, role, reading)
    _warn_of_fitting_data(guards, data)
    with Progress(terminal_stderr(), len(examples) * len(guards) * len(names)) as progress:
        evaluation = measure(
            guards,
            examples,
            methods=names,
            threshold=threshold,
            samples=samples,
            options=scoring,
            data=data,
            progress=lambda done, total: progress.update(done, done),
        )
    _write(evaluation, report, as_json)


def _read(
    guards: dict[str, Guard], data: Path, label_map: Path | None, role: Any, reading: options.InputOptions
) -> list[Example]:
    """The labelled records, with the labels of all guards."""
    from tokmarg.evaluation.dataset import read_label_map, read_labelled

    labels = list(dict.fromkeys(label for guard in guards.values() for label in guard.labels))
    return read_labelled(
        data,
        labels,
        None if label_map is None else read_label_map(label_map, labels),
        role=role,
        text_field=reading.text_field or "text",
        format=reading.format,
        delimiter=reading.delimiter,
        encoding=reading.encoding,
        notice=lambda message: click.echo(f"{printable(str(data))}: {message}", err=True),
    )


def _write(evaluation: Evaluation, report: Path | None, as_json: bool) -> None:
    """Writes the HTML report, if there is to be one, and prints the text or the JSON object."""
    from tokmarg.cli.render.evaluation import describe
    from tokmarg.evaluation.report.page import write_report

    if report is not None:
        write_report(evaluation, report)
        click.echo(f"report: {report}", err=True)
    for line in [evaluation.to_json()] if as_json else describe(evaluation):
        echo(line)


def _methods(names: str) -> list[Method]:
    if names == "all":
        return list(METHODS)
    methods: list[Method] = []
    for name in (name.strip() for name in names.split(",")):
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(METHODS)}, all", param_hint="--methods")
        methods.append(name)
    return methods


def _check_exact(given: dict[str, bool], methods: list[Method]) -> None:
    """Refuses options for exact scores where none are measured."""
    for option, is_given in given.items():
        if is_given and "exact" not in methods:
            raise click.UsageError(f"{option} is for --methods exact, not {','.join(methods)}.")


def _guards(
    bundle: str | None, compare: tuple[str, ...], calibration_file: str | None, device: Any, threads: int | None
) -> dict[str, Guard]:
    """The guards by name: as short as tells them apart."""
    from tokmarg.guard import Guard

    calibration = options.calibration_argument(calibration_file)
    first = Guard.load(bundle, device=device, threads=threads, calibration=calibration)
    others: Literal[False] | None = False if calibration is False else None
    given = [(bundle or str(first.path), first)]
    for other in compare:
        if other.lower().endswith((".toml", ".json")):
            guard = Guard.load(bundle, device=device, threads=threads, policy=other, calibration=others)
        else:
            guard = Guard.load(other, device=device, threads=threads, calibration=others)
        given.append((other, guard))
    short = [os.path.basename(os.path.normpath(path)) for path, _ in given]
    names: dict[str, Guard] = {}
    for (path, guard), name in zip(given, short, strict=True):
        name = name if short.count(name) == 1 else path
        copies = sum(name == known or known.startswith(f"{name} (") for known in names)
        names[f"{name} ({copies + 1})" if copies else name] = guard
    return names


def _check_names(guards: dict[str, Guard], mapped: bool) -> None:
    """Refuses bundles that mean different labels by one id: the data's truth would be right for one of them only.

    With a label map, which says what is meant, and for a policy, which may only reword, it is a warning.
    """
    from tokmarg.evaluation.label_names import name_conflicts

    bundles: dict[Path, tuple[str, Guard]] = {}
    for name, guard in guards.items():
        bundles.setdefault(guard.path, (name, guard))
    refused = {} if mapped else name_conflicts(dict(bundles.values()))
    if refused:
        id, meanings = next(iter(refused.items()))
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise TokmargError(
            f"--compare: {id} is {meanings}{more}: the data's {id} cannot mean both; a --label-map says which labels "
            "of the data are meant by each id"
        )
    for id, meanings in name_conflicts(guards).items():
        click.echo(f"Warning: {printable(f'{id} is {meanings}')}", err=True)


def _warn_of_fitting_data(guards: dict[str, Guard], data: Path) -> None:
    """Warns where a calibration is measured on the file that it was fitted on."""
    calibrated = {name: guard.calibration for name, guard in guards.items() if guard.calibration is not None}
    digest = hashlib.sha256(data.read_bytes()).hexdigest() if calibrated else ""
    for name, calibration in calibrated.items():
        if digest in {calibration.data.sha256, *(file.sha256 for file in calibration.data.files)}:
            click.echo(
                f"Warning: {printable(str(data))}: the calibration of {printable(name)} was fitted on this very file, "
                "so it looks better here than it is: measure it on other records",
                err=True,
            )
