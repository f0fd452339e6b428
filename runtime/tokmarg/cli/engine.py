"""``--engine ray`` of ``tokmarg score``: Parquet files scored by a Ray cluster, one output file a block of rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from tokmarg.cli import options
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.exit_codes import FAILED
from tokmarg.cli.render.terminal import printable
from tokmarg.cli.resume.fingerprint import versions
from tokmarg.documents import document_sha256
from tokmarg.errors import ContentError
from tokmarg.results import Thresholds
from tokmarg.version import VERSION

if TYPE_CHECKING:
    from tokmarg.dataframes.ray_files import RunCounts
    from tokmarg.dataframes.worker import WorkerScoring

__all__ = ["with_engine"]

#: Options that a run on Ray has no use for, and what they are here when they were not given.
_LOCAL_ONLY = {"texts": (), "judge": "last", "categories": "native"}
#: Failed blocks that are named.
_NAMED = 10


def with_engine(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--engine``, ``--workers`` and ``--block-rows``; with Ray, the command itself does not run."""

    @click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="ray: Parquet --input (FILE, DIR, pattern or URL) on a Ray cluster, to a folder --output.",
    )
    @click.option("--workers", type=click.IntRange(1), metavar="N", help="Of ray. [default: one per CPU]")
    @click.option("--block-rows", type=click.IntRange(1), metavar="N", help="Of ray: rows of an output file.")
    @functools.wraps(command)
    def run(*, engine: str, workers: int | None, block_rows: int | None, **given: Any) -> None:
        ctx = click.get_current_context()
        if engine == "ray":
            ctx.exit(_on_ray(workers, block_rows, given))
        for name, value in (("--workers", workers), ("--block-rows", block_rows)):
            if value is not None:
                raise click.UsageError(f"{name} goes with --engine ray.")
        command(**given)

    return run


def _on_ray(workers: int | None, block_rows: int | None, given: dict[str, Any]) -> int:
    """Runs ``tokmarg score --engine ray``; returns the exit code."""
    for name, default in _LOCAL_ONLY.items():
        if given[name] != default:
            shown = "TEXT" if name == "texts" else f"--{name}"
            raise click.UsageError(f"{shown} does not go with --engine ray.")
    if given["output_format"] not in (None, "parquet"):
        raise click.UsageError(f"--engine ray writes Parquet, not --format {given['output_format']}.")
    reading: options.InputOptions = given["reading"]
    if given["path"] in (None, "-") or given["output"] is None:
        raise click.UsageError("--engine ray needs --input and --output: Parquet files, and a folder.")
    if reading.format not in (None, "parquet") or (reading.delimiter, reading.encoding) != (None, None):
        raise click.UsageError("--engine ray reads Parquet: no other --input-format, no --delimiter or --encoding.")
    options.check_scoring(*(given[name] for name in ("threshold", "thresholds_file", "calibration_file", "scoring")))

    from tokmarg.dataframes.extras import check_extra

    check_extra("ray", "pyarrow", "fsspec", "ray.data", what="--engine ray")
    from tokmarg.dataframes.ray_files import plan_run

    scoring = _scoring(given)
    plan = functools.partial(plan_run, scoring, given["path"], given["output"], rows=block_rows)
    run = plan(fingerprint=_fingerprint(scoring), resume=given["resume"])
    if run.done:
        click.echo(f"{run.done:,} blocks are done already, {len(run.blocks):,} are left", err=True)
    return _told(run.run(workers), given["fail_on_flagged"])


def _scoring(given: dict[str, Any]) -> WorkerScoring:
    from tokmarg.calibration import read_thresholds
    from tokmarg.dataframes.worker import worker_scoring

    scoring = worker_scoring(
        given["bundle"],
        threads=given["threads"] or 1,
        device=given["device"],
        verify=not given["no_verify"],
        calibration=options.calibration_argument(given["calibration_file"]),
        text=given["reading"].text_field,
        role=given["role"],
        options=given["scoring"],
    ).by_content()
    thresholds = None if given["threshold"] is None else Thresholds(given["threshold"])
    if given["thresholds_file"] is not None:
        labels = [label.id for label in scoring.manifest().spec.labels]
        thresholds = read_thresholds(given["thresholds_file"], labels)
    return replace(scoring, options=replace(scoring.options, thresholds=thresholds))


def _fingerprint(scoring: WorkerScoring) -> dict[str, Any]:
    """All that the scores of a row depend on, as JSON."""
    from tokmarg.recipe import manifest_sha256

    calibration = scoring.load["calibration"]
    document = calibration.to_dict() if calibration else calibration
    as_read_back: dict[str, Any] = json.loads(
        json.dumps(
            {
                "bundle": manifest_sha256(scoring.manifest()),
                "calibration": document_sha256(document),
                "columns": scoring.columns,
                "device": scoring.load["device"],
                "options": asdict(scoring.options),
                "threads": scoring.load["threads"],
                "versions": {"tokmarg": VERSION, **versions()},
            }
        )
    )
    return as_read_back


def _told(counts: RunCounts, fail_on_flagged: bool) -> int:
    """Prints what became of the run, and returns its exit code."""
    rows = counts.rows
    tally = Tally(rows["scored"], rows["flagged"], rows["low_coverage"], rows["not_converged"], counts.errors)
    if counts.first_error is not None:
        tally.first_error = ContentError(*counts.first_error.split(": ", 1))
    tally.report()
    for line in counts.failures[:_NAMED]:
        click.echo(f"Error: {printable(line)}", err=True)
    if len(counts.failures) > _NAMED:
        click.echo(f"Error: {len(counts.failures) - _NAMED:,} more blocks like these", err=True)
    if counts.failures:
        click.echo("Blocks that failed have no output: the same command with --resume tries them again", err=True)
        return FAILED
    return tally.exit_code(fail_on_flagged)
