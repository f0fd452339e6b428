"""``tokmarg score``: scores texts or the records of a file, one output row per record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import click

from tokmarg.cli import options
from tokmarg.cli.engine import with_engine
from tokmarg.cli.io.file_set import is_file_set, scored_files
from tokmarg.cli.io.output_checks import check_output
from tokmarg.cli.io.output_stream import OutputStream
from tokmarg.cli.io.source import Source, is_columnar
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.exit_codes import DONE, FAILED
from tokmarg.cli.resume.atomic_output import can_be_atomic
from tokmarg.cli.resume.journal import JOURNAL, PART
from tokmarg.cli.resume.run import ResumableRun
from tokmarg.cli.score_files import score_files
from tokmarg.cli.scoring_guard import load_scoring
from tokmarg.score_options import JUDGE, Judge, ScoreOptions

__all__ = ["score"]


@click.command(short_help="Score texts, or the records of a file.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@options.bundle
@click.option(
    "--input",
    "path",
    metavar="FILE|-",
    help="Read records from a file, or stdin (-); from a folder's files, or a pattern's.",
)
@options.records
@options.role
@click.option(
    "--judge",
    type=click.Choice(JUDGE),
    default="last",
    show_default=True,
    help="Messages of a conversation to judge: the last, each, or those of a role; one row for each.",
)
@click.option(
    "--output", metavar="FILE", help="Write there instead of stdout; into this folder, for several input files."
)
@click.option("--resume", is_flag=True, help="Go on where the last run of --input to --output ended.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "jsonl", "openai", "parquet", "arrow", "feather"]),
    help="[default: that of columns of the output's extension; table on a terminal; else jsonl]",
)
@click.option(
    "--categories",
    type=click.Choice(["native", "openai"]),
    default="native",
    show_default=True,
    help="Of --format openai: label ids, or OpenAI's.",
)
@click.option(
    "--threshold",
    type=options.Probability(0, 1),
    metavar="X",
    help="Flag where P(unsafe) >= X. [default: the calibration's, else the spec's, mostly 0.5]",
)
@click.option("--thresholds", "thresholds_file", metavar="FILE", help="TOML or JSON: unsafe = X, [labels] S1 = X.")
@options.calibration
@click.option("--fail-on-flagged", is_flag=True, help="Exit with 3 if anything was flagged, else 1 if any row failed.")
@options.score_options(
    "prior",
    "method",
    "tolerance",
    "max_nodes",
    "top_p",
    "eps",
    "max_depth",
    "max_tokens",
    "on_overflow",
    "on_role",
    "work",
)
@options.device
@options.threads
@options.no_verify
@with_engine
@click.pass_context
def score(
    ctx: click.Context,
    texts: tuple[str, ...],
    bundle: str | None,
    path: str | None,
    reading: options.InputOptions,
    role: Any,
    judge: Judge,
    output: str | None,
    resume: bool,
    output_format: str | None,
    categories: str,
    threshold: float | None,
    thresholds_file: str | None,
    calibration_file: str | None,
    fail_on_flagged: bool,
    scoring: ScoreOptions,
    device: Any,
    threads: int | None,
    no_verify: bool,
) -> None:
    """Score TEXTs, or the records of --input; without either, the lines of stdin.

    Input files: .jsonl and .ndjson (text or messages, optional id), .json (an array of such objects), .csv and .tsv
    (header, text column, optional id), .txt (one text per line), .parquet, .arrow and .feather (columns text or
    messages). Output row n is input record n, unless --judge asks for a row per message. A record that cannot be scored
    becomes an error row. An output of columns has those of the input and one more, tokmarg.

    --input may be a folder or a pattern such as 'posts/*.parquet'; --output is a folder then, with a file for each.
    """
    options.check_scoring(threshold, thresholds_file, calibration_file, scoring)
    reads = {"thresholds": thresholds_file, "calibration": calibration_file}
    if is_file_set(path):
        _check_file_set(texts, output, output_format, judge)
        files = scored_files(str(path), str(output), reading, output_format)
        tally, failed = score_files(ctx, files, str(output), judge, scoring)
    else:
        source = Source.choose(texts, path, reading)
        resumable = _resumable(source, output, resume)
        output_format = output_format or _columns_of(output)
        _check_columns(output_format, resumable, judge)
        if output is not None:
            _check_output(output, source, reads)
        tally, failed = _score_source(ctx, source, output, resumable, output_format, judge, scoring), 0
    tally.report()
    ctx.exit(tally.exit_code(fail_on_flagged) or (FAILED if failed else DONE))


def _score_source(
    ctx: click.Context,
    source: Source,
    output: str | None,
    resumable: str | None,
    output_format: str | None,
    judge: Judge,
    options: ScoreOptions,
) -> Tally:
    """Scores one input; the counts over it."""
    role, resume = ctx.params["role"], ctx.params["resume"]
    with ExitStack() as stack:
        run = None
        if resumable is not None:
            run = stack.enter_context(ResumableRun(source, resumable, output_format or "jsonl", resume))
            run.check(ctx)
        records, tally = (source.open(stack, role) if run is None else None), Tally()
        scoring = load_scoring(ctx, judge, options)
        # Opened last: what fails before here leaves an older output as it was.
        stream = run or stack.enter_context(OutputStream(output))
        format = output_format or ("table" if stream.is_terminal else "jsonl")
        if run is not None:
            records, tally = run.start(ctx, run.fingerprint(ctx, scoring.guard, scoring.thresholds), role)
        assert records is not None
        colour, with_ids = stream.is_terminal, not source.is_columnar
        renderer = scoring.renderer(format, ctx.params["categories"], colour=colour, with_ids=with_ids)
        scoring.to_output(records, renderer, stream, tally, one_response=bool(source.texts))
        if run is not None:
            run.finish(tally, renderer)
    return tally


def _columns_of(output: str | None) -> str | None:
    """The format of columns that the output's extension names."""
    from tokmarg.records import columnar_format_of

    return None if output is None else columnar_format_of(output)


def _check_columns(format: str | None, output: str | None, judge: Judge) -> None:
    """Refuses an output of columns that cannot be: its rows are those of a file."""
    if format is None or not is_columnar(format):
        return
    if judge != "last":
        raise click.UsageError(f"--judge {judge} gives several rows a record, and {format} one: say --format jsonl.")
    if output is None:
        raise click.UsageError(f"{format} output needs --input FILE and --output FILE: no pipe, stdin or device.")


def _check_file_set(texts: tuple[str, ...], output: str | None, format: str | None, judge: Judge) -> None:
    """Refuses what does not go with several input files."""
    if texts:
        raise click.UsageError("TEXT and --input exclude each other.")
    if output is None:
        raise click.UsageError("--input names several files: --output must name a folder for theirs.")
    if format == "table":
        raise click.UsageError("--format table goes with one input.")
    _check_columns(format, output, judge)


def _resumable(source: Source, output: str | None, resume: bool) -> str | None:
    """The output of a run from file to file, else None."""
    if source.is_file(output):
        raise click.UsageError(f"--output: {output}: is the input file.")
    if output is not None and source.is_resumable and can_be_atomic(output):
        return output
    if resume:
        raise click.UsageError("--resume needs --input FILE and --output FILE: two files, no pipe, stdin or device.")
    return None


def _check_output(output: str, source: Source, reads: Mapping[str, str | None]) -> None:
    """Refuses an output that could not be written, or that would replace a file of an unfinished run."""
    check_output("--output", output, reads)
    for suffix in (PART, JOURNAL):
        if output.endswith(suffix):
            raise click.UsageError(f"--output: {output}: a name that ends in {suffix} belongs to an unfinished run.")
        if source.is_file(os.path.realpath(output) + suffix):
            raise click.UsageError(f"--input: {source.path}: belongs to an unfinished run of this --output.")
