"""``tokmarg calibrate``: probabilities that mean frequencies, and thresholds that mean something."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokmarg.cli import options
from tokmarg.cli.io.output_checks import check_folder, check_output
from tokmarg.cli.io.progress import Progress
from tokmarg.cli.process.stderr_capture import quiet
from tokmarg.cli.render.terminal import echo, pad, printable
from tokmarg.errors import TokmargError
from tokmarg.results import CALIBRATIONS

if TYPE_CHECKING:
    from tokmarg.calibration import Calibration
    from tokmarg.calibration.label_calibration import LabelCalibration

__all__ = ["calibrate"]


@click.command(short_help="Fit calibrators and thresholds on labelled data.")
@options.data
@options.labelled_format
@options.labelled_text_field
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
@options.tolerance
@options.max_nodes
@options.on_overflow
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="N", help="Behind figures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the folds.")
@options.device
@options.threads
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as one JSON object.")
def calibrate(
    data: Path,
    input_format: Any,
    text_field: str,
    role: Any,
    label_map: Path | None,
    bundle: str | None,
    output: Path | None,
    method: Any,
    target: str | None,
    promise: str | None,
    confidence: float,
    simultaneous: bool,
    certify: str | None,
    tolerance: float,
    max_nodes: int,
    on_overflow: Any,
    folds: int,
    seed: int,
    device: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Fit calibrators and thresholds to the labelled records of FILE, whose form `tokmarg evaluate` describes.

    Every label, and unsafe, gets a calibrator of its own; a label with too few records gets one pooled over all labels.
    --guarantee sets thresholds that, with the confidence, keep a rate on records that were never seen; --target those
    of the rest.
    """
    from tokmarg.bundle.bundle import Bundle
    from tokmarg.bundle.installed import find_bundle
    from tokmarg.calibration import Guarantee, Target
    from tokmarg.documents import to_json
    from tokmarg.evaluation import calibrate as fit_calibration
    from tokmarg.evaluation import write_calibrated_bundle
    from tokmarg.guard import Guard

    if promise is None and (certify is not None or simultaneous):
        raise click.UsageError("--certify and --simultaneous belong to --guarantee.")
    try:
        aim = None if target is None else Target.parse(target)
        guarantee = None if promise is None else Guarantee.parse(promise, confidence, simultaneous)
    except TokmargError as error:
        raise click.UsageError(f"{error}.") from None
    source = Bundle.open(find_bundle(bundle))
    alone = output is not None and output.suffix == ".json"
    if output is not None and not alone and (output.exists() or output.is_symlink()):
        raise TokmargError(f"{output}: exists already; choose another folder, or a file that ends in .json")
    if output is not None and alone:
        check_output("--output", output, {"data": data, "label map": label_map}, anew=True)
    elif output is not None:
        check_folder(output)
    with quiet():
        guard = Guard.load(source.path, device=device, threads=threads, calibration=False)
    progress = Progress(sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None, None)

    def warn(message: str) -> None:
        progress.clear()
        click.echo(f"Warning: {printable(message)}", err=True)

    try:
        calibration = fit_calibration(
            guard,
            data,
            method=method,
            target=aim,
            guarantee=guarantee,
            certify=None if certify is None else [name.strip() for name in certify.split(",")],
            label_map=label_map,
            role=role,
            text_field=text_field,
            format=input_format,
            tolerance=tolerance,
            max_nodes=max_nodes,
            on_overflow=on_overflow,
            folds=folds,
            seed=seed,
            warn=warn,
            progress=lambda done, total: progress.update(done, done),
        )
    finally:
        progress.clear()
    if output is not None and alone:
        calibration.write(output)
    elif output is not None:
        write_calibrated_bundle(source.path, calibration, output)
    for line in [to_json(calibration.to_dict())] if as_json else describe(calibration):
        echo(line)
    if output is not None:
        click.echo(f"wrote {printable(str(output))}", err=True)


def describe(calibration: Calibration) -> list[str]:
    """The calibration as lines for people."""
    data, promise = calibration.data, calibration.guarantee
    lines = [
        f"{calibration.method}, {data.scored:,} of {data.records:,} records scored, "
        f"{printable(calibration.bundle.model_id)}; figures are out of fold, raw -> calibrated"
    ]
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
