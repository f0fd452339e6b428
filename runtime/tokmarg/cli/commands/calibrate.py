"""``tokmarg calibrate``: fits calibrators and thresholds to labelled data, and writes a calibration or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokmarg.arguments import MAX_FOLDS, MAX_SEED
from tokmarg.cli import options
from tokmarg.cli.io.isatty import terminal_stderr
from tokmarg.cli.io.load_progress import guard_loading
from tokmarg.cli.io.output_checks import check_output
from tokmarg.cli.io.progress import Progress
from tokmarg.cli.render.terminal import echo, printable
from tokmarg.errors import TokmargError
from tokmarg.results import CALIBRATIONS
from tokmarg.score_options import ScoreOptions

if TYPE_CHECKING:
    from tokmarg.bundle.bundle import Bundle
    from tokmarg.calibration import Calibration, Guarantee, Target

__all__ = ["calibrate"]


@click.command(short_help="Fit calibrators and thresholds on labelled data.")
@click.option(
    "--data",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSONL, JSON, CSV or TSV with labels; may be given several times.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=options.Number(0, min_open=True),
    metavar="X",
    help="Of each --data, in the same order: its share in the mix. [default: each record weighs the same]",
)
@options.labelled_records
@options.role
@options.label_map
@options.bundle
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE.json",
    help="A calibrated copy of the bundle, or the calibration alone. Without it nothing is written.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is at DIR.")
@click.option("--method", type=click.Choice(CALIBRATIONS), default="platt", show_default=True)
@click.option(
    "--target",
    metavar="TARGET",
    help="Thresholds that reach it on the data: fpr<=X, recall>=X, precision>=X or max-f1. [default: no thresholds]",
)
@click.option(
    "--guarantee", "promise", metavar="RISK", help="Thresholds that keep fnr=X or fpr=X on unseen records as well."
)
@click.option(
    "--confidence",
    type=options.Probability(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    metavar="X",
    help="Of the guarantee.",
)
@click.option("--simultaneous", is_flag=True, help="The guarantee is about all thresholds at once, not about each.")
@click.option("--certify", metavar="NAMES", help="Labels, or unsafe, that the guarantee is for. [default: all]")
@options.score_options("tolerance", "max_nodes", "max_tokens", "on_overflow", "on_role")
@click.option(
    "--folds", type=click.IntRange(2, MAX_FOLDS), default=5, show_default=True, metavar="N", help="Behind figures."
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, metavar="N", help="Of the folds."
)
@options.device
@options.threads
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as one JSON object.")
def calibrate(
    data: tuple[Path, ...],
    weights: tuple[float, ...],
    reading: options.InputOptions,
    role: Any,
    label_map: Path | None,
    bundle: str | None,
    output: Path | None,
    force: bool,
    method: Any,
    target: str | None,
    promise: str | None,
    confidence: float,
    simultaneous: bool,
    certify: str | None,
    scoring: ScoreOptions,
    folds: int,
    seed: int,
    device: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Fit calibrators and thresholds to the labelled records of FILE, whose form `tokmarg evaluate` describes.

    Every label, and unsafe, gets a calibrator of its own, a label with too few records one pooled over all labels.
    --guarantee sets thresholds that keep a rate on records that were never seen; --target those of the rest.
    """
    from tokmarg.evaluation.calibrate import calibrate as fit
    from tokmarg.guard import Guard

    _check_weights(weights, len(data), promise)
    aim, guarantee = _parse_aims(target, promise, confidence, simultaneous, certify)
    source = _opened(bundle)
    _check_output(output, source.path, _files(data) | {"label map": label_map}, force)
    with guard_loading():
        guard = Guard.load(source.path, device=device, threads=threads, calibration=False)
    with Progress(terminal_stderr(), None) as progress:
        calibration = fit(
            guard,
            data,
            weights=weights or None,
            method=method,
            target=aim,
            guarantee=guarantee,
            certify=None if certify is None else [name.strip() for name in certify.split(",")],
            label_map=label_map,
            role=role,
            text_field=reading.text_field or "text",
            format=reading.format,
            delimiter=reading.delimiter,
            encoding=reading.encoding,
            options=scoring,
            folds=folds,
            seed=seed,
            warn=lambda message: _warn(message, progress),
            notice=lambda message: click.echo(printable(message), err=True),
            progress=lambda done, records: progress.update(done, done),
        )
    _write(calibration, source, output, force, as_json)


def _opened(bundle: str | None) -> Bundle:
    from tokmarg.bundle.bundle import Bundle
    from tokmarg.bundle.installed import find_bundle

    return Bundle.open(find_bundle(bundle))


def _files(data: tuple[Path, ...]) -> dict[str, Path | None]:
    """The data, by the names that messages have for them."""
    return {f"data {i}" if i > 1 else "data": file for i, file in enumerate(data, 1)}


def _parse_aims(
    target: str | None, promise: str | None, confidence: float, simultaneous: bool, certify: str | None
) -> tuple[Target | None, Guarantee | None]:
    """The values of --target and --guarantee."""
    from tokmarg.calibration import Guarantee, Target

    if promise is None and (certify is not None or simultaneous):
        raise click.UsageError("--certify and --simultaneous belong to --guarantee.")
    try:
        return (
            None if target is None else Target.parse(target),
            None if promise is None else Guarantee.parse(promise, confidence, simultaneous),
        )
    except TokmargError as error:
        raise click.UsageError(f"{error}.") from None


def _check_weights(weights: tuple[float, ...], files: int, promise: str | None) -> None:
    if weights and len(weights) != files:
        raise click.UsageError(f"--weight is given {len(weights)} times and --data {files} times: one for each.")
    if weights and promise is not None:
        raise click.UsageError("--guarantee is for records drawn as the data were, which --weight changes.")


def _is_file(output: Path) -> bool:
    """Whether the output is a calibration file; else it is a folder, a calibrated copy of the bundle."""
    return output.suffix == ".json"


def _check_output(output: Path | None, bundle: Path, reads: dict[str, Path | None], force: bool) -> None:
    """Refuses an output that could not be written, lies in the bundle, or would replace a folder that is no bundle."""
    from tokmarg.bundle import replaceable

    if force and (output is None or _is_file(output)):
        raise click.UsageError("--force belongs to --output DIR.")
    if output is None:
        return
    if _is_file(output):
        check_output("--output", output, reads, anew=True)
        replaceable.check_apart(output, [("the bundle", bundle)], "choose a file elsewhere")
        return
    read = [("the bundle", bundle), *((f"the {what}", path) for what, path in reads.items() if path is not None)]
    replaceable.check_output(output, read, force=force)


def _warn(message: str, progress: Progress) -> None:
    progress.clear()
    click.echo(f"Warning: {printable(message)}", err=True)


def _write(calibration: Calibration, source: Bundle, output: Path | None, force: bool, as_json: bool) -> None:
    """Writes the calibration, or a copy of the bundle with it, and prints it."""
    from tokmarg.cli.render.calibration import describe
    from tokmarg.documents import to_json
    from tokmarg.evaluation.calibrated_bundle import write_calibrated_bundle

    if output is not None and _is_file(output):
        calibration.write(output)
    elif output is not None:
        write_calibrated_bundle(source.path, calibration, output, force=force)
    for line in [to_json(calibration.to_dict())] if as_json else describe(calibration):
        echo(line)
    if output is not None:
        click.echo(f"wrote {printable(str(output))}", err=True)
