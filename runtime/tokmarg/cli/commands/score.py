"""``tokmarg score``: scores texts or the records of a file, one output row per record."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from tokmarg.cli import options
from tokmarg.cli.io.isatty import terminal_stderr
from tokmarg.cli.io.output_checks import check_output
from tokmarg.cli.io.output_stream import OutputStream
from tokmarg.cli.io.progress import Progress
from tokmarg.cli.io.source import Input, Source
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.stderr_capture import capture_stderr
from tokmarg.cli.render.terminal import printable
from tokmarg.cli.resume.atomic_output import can_be_atomic
from tokmarg.cli.resume.journal import JOURNAL, PART
from tokmarg.cli.resume.run import ResumableRun
from tokmarg.errors import ContentError, TokmargError
from tokmarg.results import Thresholds
from tokmarg.score_options import ScoreOptions

if TYPE_CHECKING:
    from tokmarg.cli.render.renderer import Outcome, Renderer
    from tokmarg.guard import Guard
    from tokmarg.prompt.messages import Record
    from tokmarg.results import MethodResult, Result

__all__ = ["score"]

#: For each record that was read and not yet written: the renderer's note, and the input's byte where it ends.
Notes = deque[tuple[str, int]]


@click.command(short_help="Score texts, or the records of a file.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@options.bundle
@click.option("--input", "path", metavar="FILE|-", help="Read records from a file, or from stdin (-).")
@options.input_format
@options.text_field
@options.role
@click.option("--output", metavar="FILE", help="Write there instead of stdout.")
@click.option("--resume", is_flag=True, help="Go on where the last run of --input to --output ended.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "jsonl", "openai"]),
    help="[default: table on a terminal, else jsonl]",
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
@options.score_options("method", "tolerance", "max_nodes", "top_p", "eps", "max_depth", "max_tokens", "on_overflow")
@options.device
@options.threads
@options.no_verify
@click.pass_context
def score(
    ctx: click.Context,
    texts: tuple[str, ...],
    bundle: str | None,
    path: str | None,
    input_format: Any,
    text_field: str | None,
    role: Any,
    output: str | None,
    resume: bool,
    output_format: str | None,
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

    Input files: .jsonl and .ndjson (text or messages, optional id), .csv (header, text column, optional id),
    .txt (one text per line). Output row n is input record n. A record that cannot be scored becomes an error
    row.
    """
    _check_usage(threshold, thresholds_file, calibration_file, scoring.method)
    source = Source.choose(texts, path, input_format, text_field)
    resumable = _resumable(source, output, resume)
    if output is not None:
        _check_output(output, source, {"thresholds": thresholds_file, "calibration": calibration_file})

    from tokmarg.guard import Guard

    with ExitStack() as stack:
        run = None if resumable is None else stack.enter_context(ResumableRun(source, resumable, resume))
        records, tally = (source.open(stack, role) if run is None else None), Tally()
        if run is not None:
            run.check(ctx, output_format or "jsonl")
        calibration = options.calibration_argument(calibration_file)
        with capture_stderr():
            guard = Guard.load(bundle, device=device, threads=threads, verify=not no_verify, calibration=calibration)
        guard.check_method(scoring.method)
        scoring = replace(scoring, thresholds=_thresholds(guard, threshold, thresholds_file))
        _check_guarantee(guard, scoring)
        # Opened last: what fails before here leaves an older output as it was.
        stream = run or stack.enter_context(OutputStream(output))
        output_format = output_format or ("table" if stream.is_terminal else "jsonl")
        thresholds = scoring.thresholds or _default_thresholds(guard, scoring.method)
        if run is not None:
            records, tally = run.start(ctx, guard, thresholds, output_format, role)
        assert records is not None
        renderer = _renderer(output_format, guard, thresholds, stream)
        _score(guard, records, scoring, renderer, stream, tally, one_response=bool(source.texts))
        if run is not None:
            run.finish(tally)
    _print_summary(tally)
    ctx.exit(tally.exit_code(fail_on_flagged))


def _check_usage(
    threshold: float | None, thresholds_file: str | None, calibration_file: str | None, method: str
) -> None:
    if threshold is not None and thresholds_file is not None:
        raise click.UsageError("--threshold and --thresholds exclude each other.")
    if calibration_file not in (None, "none") and method != "exact":
        raise click.UsageError(f"--calibration is for --method exact, not {method}.")


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


def _thresholds(guard: Guard, threshold: float | None, file: str | None) -> Thresholds | None:
    from tokmarg.calibration import read_thresholds

    if file is not None:
        return read_thresholds(file, guard.labels)
    return None if threshold is None else Thresholds(threshold)


def _default_thresholds(guard: Guard, method: str) -> Thresholds:
    if guard.calibration is not None and method == "exact":
        return guard.calibration.shown_thresholds()
    return Thresholds(guard.spec.threshold)


def _check_guarantee(guard: Guard, scoring: ScoreOptions) -> None:
    """Warns where the calibration's guarantee does not hold for this search."""
    if scoring.method != "exact" or scoring.thresholds is not None:
        return
    if guard.calibration is None or guard.calibration.guarantee is None:
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


def _renderer(format: str, guard: Guard, thresholds: Thresholds, stream: OutputStream | ResumableRun) -> Renderer:
    from tokmarg.cli.render.jsonl import JsonLines
    from tokmarg.cli.render.openai import OpenAI
    from tokmarg.cli.render.table import Table

    if format == "jsonl":
        return JsonLines()
    if format == "openai":
        return OpenAI(thresholds)
    titles = {label.id: label.title for label in guard.spec.labels}
    return Table(titles, colour=stream.is_terminal and not os.environ.get("NO_COLOR"))


def _score(
    guard: Guard,
    records: Input,
    scoring: ScoreOptions,
    renderer: Renderer,
    stream: OutputStream | ResumableRun,
    tally: Tally,
    *,
    one_response: bool,
) -> None:
    """Scores the records and writes their rows, pack by pack; with ``one_response`` OpenAI's format as one object."""
    from tokmarg.cli.render.openai import OpenAI

    notes: Notes = deque()
    packs = guard.score_packs(_with_notes(records, renderer, notes), options=scoring)
    # On a terminal that shows the rows the progress line would stand among them.
    with Progress(None if stream.is_terminal else terminal_stderr(), records.size) as progress:
        if one_response and isinstance(renderer, OpenAI):
            results = [_result(outcome) for pack in packs for outcome in _count(pack, tally, progress)]
            stream.write(renderer.response(results, [note for note, _ in notes]), tally, 0)
            return
        for pack in packs:
            rows, end = [], 0
            for outcome in _count(pack, tally, progress):
                note, end = notes.popleft()
                rows.append(renderer.render(outcome, note))
                progress.update(tally.records, end)
            stream.write("".join(rows), tally, end)


def _with_notes(records: Input, renderer: Renderer, notes: Notes) -> Iterator[Record | ContentError]:
    """The records; appends the note of each."""
    for record in records.records:
        notes.append((renderer.note(record), records.position()))
        yield record


def _count(outcomes: Iterable[Outcome], tally: Tally, progress: Progress) -> Iterator[Outcome]:
    """The outcomes; counts each, and prints the tally's warning."""
    for outcome in outcomes:
        if warning := tally.add(outcome):
            progress.clear()
            click.echo(f"Warning: {printable(warning)}", err=True)
        yield outcome


def _result(outcome: Outcome) -> Result | MethodResult:
    """The result; the one response of all TEXTs has no place for an error."""
    if isinstance(outcome, ContentError):
        raise TokmargError(f"TEXT {outcome.id}: {outcome.type}: {outcome} (--format jsonl has error rows)")
    return outcome


def _print_summary(tally: Tally) -> None:
    click.echo(tally.summary(), err=True)
    if failure := tally.failure():
        click.echo(f"Error: {printable(failure)}", err=True)
