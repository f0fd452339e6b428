"""The guard of ``tokmarg score``: loaded as the options say, checked against them, and how it scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from tokmarg.cli import options
from tokmarg.results import Thresholds
from tokmarg.score_options import Judge, ScoreOptions

from .io.load_progress import guard_loading
from .io.scored_rows import Scoring

if TYPE_CHECKING:
    from tokmarg.guard import Guard

__all__ = ["load_scoring"]


def load_scoring(ctx: click.Context, judge: Judge, scoring: ScoreOptions) -> Scoring:
    """Loads the guard of a command.

    Args:
        ctx: of the command, whose parameters name bundle, device, calibration and thresholds.
        judge, scoring: as given.

    Raises:
        TokmargError: it cannot be loaded, or what is asked for does not go with it.
    """
    from tokmarg.cli.render.decision import decide
    from tokmarg.guard import Guard
    from tokmarg.prompt.judging import check_judge

    given = ctx.params
    calibration = options.calibration_argument(given["calibration_file"])
    with guard_loading():
        guard = Guard.load(
            given["bundle"],
            device=given["device"],
            threads=given["threads"],
            verify=not given["no_verify"],
            calibration=calibration,
        )
    guard.check_method(scoring.method)
    check_judge(judge, guard.spec)
    scoring = replace(scoring, thresholds=_thresholds(guard, given["threshold"], given["thresholds_file"]))
    _check_guarantee(guard, scoring)
    option = "--threshold" if given["thresholds_file"] is None else "--thresholds"
    thresholds, decision = decide(guard, scoring, option)
    return Scoring(guard, judge, scoring, thresholds, decision)


def _thresholds(guard: Guard, threshold: float | None, file: str | None) -> Thresholds | None:
    from tokmarg.calibration import read_thresholds

    if file is not None:
        return read_thresholds(file, guard.labels)
    return None if threshold is None else Thresholds(threshold)


def _check_guarantee(guard: Guard, scoring: ScoreOptions) -> None:
    """Warns where the calibration's guarantee does not hold for this search."""
    is_default = scoring.method == "exact" and scoring.thresholds is None
    if not is_default or guard.calibration is None or guard.calibration.guarantee is None:
        return
    certified = guard.calibration.search
    if (
        scoring.tolerance > certified.tolerance
        or scoring.max_nodes < certified.max_nodes
        or scoring.on_overflow != certified.on_overflow
    ):
        click.echo(
            f"Warning: the calibration's guarantee is for --tolerance {certified.tolerance:g}, --max-nodes "
            f"{certified.max_nodes} and --on-overflow {certified.on_overflow}, or a further search",
            err=True,
        )
