"""``tokmarg score``: texts or files in, one row per record out."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from tokmarg.cli import options
from tokmarg.cli.io.output_checks import check_output
from tokmarg.cli.io.output_stream import Sink
from tokmarg.cli.io.progress import Progress
from tokmarg.cli.io.source import Input, Source
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.stderr_capture import quiet
from tokmarg.cli.render.terminal import printable
from tokmarg.cli.resume.atomic_output import takes
from tokmarg.cli.resume.journal import JOURNAL, PART
from tokmarg.cli.resume.run import FileRun
from tokmarg.errors import ContentError, TokmargError
from tokmarg.results import MAX_DEPTH, METHODS

if TYPE_CHECKING:
    from tokmarg.cli.render.jsonl import Renderer
    from tokmarg.guard import Guard, Record
    from tokmarg.results import MethodResult, Result, Thresholds

__all__ = ["score"]

#: For each record that was read and not yet written: the renderer's note, and the input's byte where it ends.
Notes = deque[tuple[str, int]]


@click.command(short_help="Score texts, or the records of a file.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@options.bundle
@click.option("--input", "path", metavar="FILE|-", help="Read records from a file, or from stdin (-).")
@click.option("--input-format", type=click.Choice(["jsonl", "csv", "lines"]), help="[default: the extension's]")
@click.option("--text-field", metavar="NAME", help="CSV column or JSONL field with the text. [default: text]")
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
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="exact",
    show_default=True,
    help="What the scores are: exact marginals, or a method of arXiv:2511.22312.",
)
@options.tolerance
@options.max_nodes
@click.option(
    "--top-p",
    type=options.Probability(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    metavar="X",
    help="any-place: mass of the nucleus.",
)
@click.option(
    "--eps",
    type=options.Probability(0, 1),
    default=0.01,
    show_default=True,
    metavar="X",
    help="any-place: least mass of a path that is followed.",
)
@click.option(
    "--max-depth",
    type=click.IntRange(1, MAX_DEPTH),
    default=20,
    show_default=True,
    metavar="N",
    help="any-place: longest path in tokens; greedy, token, fixed-place: most tokens to generate.",
)
@options.on_overflow
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
    method: Any,
    tolerance: float,
    max_nodes: int,
    top_p: float,
    eps: float,
    max_depth: int,
    on_overflow: Any,
    device: Any,
    threads: int | None,
    no_verify: bool,
) -> None:
    """Score TEXTs, or the records of --input; without either, the lines of stdin.

    Input files: .jsonl and .ndjson (text or messages, optional id), .csv (header, text column, optional id),
    .txt (one text per line). Output row n is input record n. A record that cannot be scored becomes an error
    row.
    """
    if threshold is not None and thresholds_file is not None:
        raise click.UsageError("--threshold and --thresholds exclude each other.")
    if calibration_file not in (None, "none") and method != "exact":
        raise click.UsageError(f"--calibration is for --method exact, not {method}.")
    source = Source.choose(texts, path, input_format, text_field)
    if source.is_file(output):
        raise click.UsageError(f"--output: {output}: is the input file.")

    batch = output if output is not None and source.is_resumable and takes(output) else None
    if resume and batch is None:
        raise click.UsageError("--resume needs --input FILE and --output FILE: two files, no pipe, stdin or device.")
    if output is not None:
        _check_output(output, source, {"thresholds": thresholds_file, "calibration": calibration_file})

    from tokmarg.cli.render.openai import OpenAI
    from tokmarg.guard import Guard

    tally = Tally()
    notes: Notes = deque()
    with ExitStack() as stack:
        run = None if batch is None else stack.enter_context(FileRun(source, batch, resume))
        given = None if run is not None else source.open(stack, role)
        if run is not None:
            run.check(ctx, output_format or "jsonl")
        with quiet():
            guard = Guard.load(
                bundle,
                device=device,
                threads=threads,
                verify=not no_verify,
                calibration=options.chosen(calibration_file),
            )
        guard.check_method(method)
        thresholds = _thresholds(guard, threshold, thresholds_file)
        if thresholds is None and method == "exact":
            _check_search(guard, tolerance, max_nodes, on_overflow)
        # Opened last: what fails before here leaves an older output as it was.
        sink: Sink | FileRun = run or stack.enter_context(Sink(output))
        output_format = output_format or ("table" if sink.is_terminal else "jsonl")
        shown_thresholds = thresholds or _default_thresholds(guard, method)
        if run is not None:
            given, tally = run.start(ctx, guard, shown_thresholds, output_format, role)
        assert given is not None
        renderer = _renderer(output_format, guard, shown_thresholds, sink)
        # On a terminal that shows the rows the progress line would stand among them.
        shown = sys.stderr is not None and sys.stderr.isatty() and not sink.is_terminal
        progress = Progress(sys.stderr if shown else None, given.size)
        stack.callback(progress.clear)
        packs = guard.score_packs(
            _noted(given, renderer, notes),
            method=method,
            tolerance=tolerance,
            max_nodes=max_nodes,
            top_p=top_p,
            eps=eps,
            max_depth=max_depth,
            thresholds=thresholds,
            on_overflow=on_overflow,
        )
        if source.texts and output_format == "openai":
            results = [_result(outcome) for pack in packs for outcome in _counted(pack, tally, progress)]
            sink.write(OpenAI(shown_thresholds).response(results, [note for note, _ in notes]), tally, 0)
        else:
            for pack in packs:
                rows, end = [], 0
                for outcome in _counted(pack, tally, progress):
                    note, end = notes.popleft()
                    rows.append(renderer.render(outcome, note))
                    progress.update(tally.records, end)
                sink.write("".join(rows), tally, end)
        if run is not None:
            run.finish(tally)
    click.echo(tally.summary(), err=True)
    if failure := tally.failure():
        click.echo(f"Error: {printable(failure)}", err=True)
    ctx.exit(tally.exit_code(fail_on_flagged))


def _check_output(output: str, source: Source, reads: Mapping[str, str | None]) -> None:
    """Refuses what could not be written, and what would be written over something that is needed."""
    check_output("--output", output, reads)
    for suffix in (PART, JOURNAL):
        if output.endswith(suffix):
            raise click.UsageError(f"--output: {output}: a name that ends in {suffix} belongs to an unfinished run.")
        if source.is_file(os.path.realpath(output) + suffix):
            raise click.UsageError(f"--input: {source.path}: belongs to an unfinished run of this --output.")


def _thresholds(guard: Guard, threshold: float | None, file: str | None) -> Thresholds | None:
    from tokmarg.calibration import read_thresholds
    from tokmarg.results import Thresholds

    if file is not None:
        return read_thresholds(file, guard.labels)
    return None if threshold is None else Thresholds(threshold)


def _default_thresholds(guard: Guard, method: str) -> Thresholds:
    from tokmarg.results import Thresholds

    calibrated = guard.calibration is not None and method == "exact"
    if calibrated and guard.calibration:
        return guard.calibration.shown_thresholds()
    return Thresholds(guard.spec.threshold)


def _check_search(guard: Guard, tolerance: float, max_nodes: int, on_overflow: str) -> None:
    """Warns where the calibration's guarantee does not cover what is asked for."""
    if guard.calibration is None or guard.calibration.guarantee is None:
        return
    certified = guard.calibration.search
    if tolerance > certified.tolerance or max_nodes < certified.max_nodes or on_overflow != certified.on_overflow:
        click.echo(
            f"Warning: the calibration's guarantee is for --tolerance {certified.tolerance:g}, --max-nodes "
            f"{certified.max_nodes} and --on-overflow {certified.on_overflow}, or a further search",
            err=True,
        )


def _renderer(format: str, guard: Guard, thresholds: Thresholds, sink: Sink | FileRun) -> Renderer:
    from tokmarg.cli.render.jsonl import JsonLines
    from tokmarg.cli.render.openai import OpenAI
    from tokmarg.cli.render.table import Table

    if format == "jsonl":
        return JsonLines()
    if format == "openai":
        return OpenAI(thresholds)
    titles = {label.id: label.title for label in guard.spec.labels}
    return Table(titles, colour=sink.is_terminal and not os.environ.get("NO_COLOR"))


def _noted(given: Input, renderer: Renderer, notes: Notes) -> Iterator[Record | ContentError]:
    for record in given.records:
        notes.append((renderer.note(record), given.position()))
        yield record


def _counted(
    outcomes: Iterable[Result | MethodResult | ContentError], tally: Tally, progress: Progress
) -> Iterator[Result | MethodResult | ContentError]:
    for outcome in outcomes:
        if warning := tally.add(outcome):
            progress.clear()
            click.echo(f"Warning: {printable(warning)}", err=True)
        yield outcome


def _result(outcome: Result | MethodResult | ContentError) -> Result | MethodResult:
    """The result; the one response of all TEXTs has no place for an error."""
    if isinstance(outcome, ContentError):
        raise TokmargError(f"TEXT {outcome.id}: {outcome.type}: {outcome} (--format jsonl has error rows)")
    return outcome
