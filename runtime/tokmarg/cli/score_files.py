"""``tokmarg score`` over several files: one output for each, what is whole skipped, what cannot be read reported."""

from __future__ import annotations

import os
from contextlib import ExitStack

import click

from tokmarg.errors import TokmargError
from tokmarg.score_options import Judge, ScoreOptions
from tokmarg.system_calls import by_system

from .io.file_set import ScoredFile
from .io.scored_rows import Scoring
from .io.tally import Tally
from .render.terminal import printable
from .resume.ledger import Ledger
from .resume.run import ResumableRun
from .scoring_guard import load_scoring

__all__ = ["score_files"]


def score_files(
    ctx: click.Context, files: list[ScoredFile], folder: str, judge: Judge, options: ScoreOptions
) -> tuple[Tally, int]:
    """Scores files.

    Args:
        ctx: of the command.
        files: with their outputs, in ``folder``, which is made where it is missing.
        judge, options: as given.

    Returns:
        the counts over all that are whole now, and how many files are not.

    Raises:
        OSError: the folder cannot be made.
        TokmargError: the guard cannot be loaded, or another process writes into the folder.
    """
    total, failed, skipped = Tally(), 0, 0
    os.makedirs(folder, exist_ok=True)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(folder))
        scoring = load_scoring(ctx, judge, options)
        for number, file in enumerate(files, 1):
            try:
                tally, was_whole = _score_file(ctx, file, scoring, ledger)
            except (TokmargError, OSError) as error:
                if isinstance(error, OSError) and not by_system(error):
                    raise
                failed += 1
                click.echo(f"Error: {printable(_line(error, file))} (file {number} of {len(files)})", err=True)
                continue
            total.merge(tally)
            skipped += was_whole
    whole = f", {skipped:,} of them already" if skipped else ""
    click.echo(f"{len(files) - failed:,} of {len(files):,} files are whole{whole}", err=True)
    return total, failed


def _score_file(ctx: click.Context, file: ScoredFile, scoring: Scoring, ledger: Ledger) -> tuple[Tally, bool]:
    """The counts over a file, once its output is whole, and whether it had been."""
    role, resume = ctx.params["role"], ctx.params["resume"]
    os.makedirs(os.path.dirname(file.output), exist_ok=True)
    with ResumableRun(file.source, file.output, file.format, resume) as run:
        run.check(ctx)
        known = run.fingerprint(ctx, scoring.guard, scoring.thresholds)
        if resume and (tally := ledger.tally_of(file.name, known)) is not None:
            run.remove_left()
            return tally, True
        records, tally = run.start(ctx, known, role, f"{file.source.path}: ")
        renderer = scoring.renderer(file.format, ctx.params["categories"], with_ids=not file.source.is_columnar)
        scoring.to_output(records, renderer, run, tally)
        run.finish(tally, renderer, lambda: ledger.add(file.name, known, tally))
    return tally, False


def _line(error: TokmargError | OSError, file: ScoredFile) -> str:
    """What is wrong, with the name of the file."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename or file.source.path}: {error.strerror or error}"
    path = str(file.source.path)
    return text if path in text or file.output in text else f"{path}: {text}"
