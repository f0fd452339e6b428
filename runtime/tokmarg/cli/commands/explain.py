"""``tokmarg explain``: the verdicts that a guard may give on one content, and which words drive each label."""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from tokmarg.arguments import MAX_LEVELS, MAX_SEGMENTS
from tokmarg.cli import options
from tokmarg.cli.io.load_progress import guard_loading
from tokmarg.cli.io.output_checks import check_output
from tokmarg.cli.io.output_stream import OutputStream
from tokmarg.cli.io.source import STDIN, Source
from tokmarg.errors import ContentError, TokmargError
from tokmarg.score_options import ScoreOptions
from tokmarg.whole_file import write_whole

if TYPE_CHECKING:
    from tokmarg.explanation.explanation import Explanation
    from tokmarg.prompt.messages import Record

__all__ = ["explain"]


@click.command(short_help="Show a content's verdicts, and the words that drive each label.")
@click.argument("text", required=False)
@options.bundle
@options.calibration
@click.option("--input", "path", metavar="FILE|-", help="Take the content from a file, or from stdin (-).")
@options.records
@click.option("--record", "number", type=click.IntRange(min=1), metavar="N", help="The input's record N, from 1.")
@click.option("--id", "wanted", metavar="ID", help="The input's first record with this id.")
@options.role
@click.option("--words", "by_words", is_flag=True, help="Leave out words at once, not sentences first.")
@click.option(
    "--depth",
    type=click.IntRange(1, MAX_LEVELS),
    default=2,
    show_default=True,
    metavar="N",
    help="Levels: the text's parts, then those of the most influential one, and so on.",
)
@click.option(
    "--max-segments",
    type=click.IntRange(1, MAX_SEGMENTS),
    default=64,
    show_default=True,
    metavar="N",
    help="Parts to leave out at each level; neighbours are joined.",
)
@click.option(
    "--least",
    type=options.Probability(0, 1, max_open=True),
    default=0.01,
    show_default=True,
    metavar="X",
    help="Verdicts that begin with less probability are 'other'.",
)
@options.score_options("prior", "tolerance", "max_nodes", "max_tokens", "on_role")
@click.option("--html", metavar="FILE", help="Write a page, too: one file that needs no network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.device
@options.threads
@options.no_verify
def explain(
    text: str | None,
    bundle: str | None,
    calibration_file: str | None,
    path: str | None,
    reading: options.InputOptions,
    number: int | None,
    wanted: str | None,
    role: Any,
    by_words: bool,
    depth: int,
    max_segments: int,
    least: float,
    scoring: ScoreOptions,
    html: str | None,
    as_json: bool,
    device: Any,
    threads: int | None,
    no_verify: bool,
) -> None:
    """Explain the score of TEXT, or of one record of --input; without either, of a line of stdin.

    First the verdicts that the guard could give, as a tree with probabilities, with a mark where it hesitates.
    Then what each part of the message that is judged adds to a label's probability, found by leaving it out.
    Both are raw; where there is a calibration, the calibrated probabilities stand above them.
    """
    _check_selection(text, number, wanted)
    source = Source.choose(() if text is None else (text,), path, reading)
    if source.is_file(html):
        raise click.UsageError(f"--html: {html}: is the input file.")
    if html is not None:
        check_output("--html", html, {}, anew=True)

    from tokmarg.explanation.explain import explain as explain_content
    from tokmarg.guard import Guard

    with ExitStack() as stack:
        record = _pick(source, stack, role, number, wanted)
        calibration = options.calibration_argument(calibration_file)
        with guard_loading():
            guard = Guard.load(bundle, device=device, threads=threads, verify=not no_verify, calibration=calibration)
        stream = stack.enter_context(OutputStream(None))
        try:
            explanation = explain_content(
                guard,
                record.content,
                id=record.id,
                role=record.role,
                options=scoring,
                least=least,
                by_words=by_words,
                depth=depth,
                most_segments=max_segments,
            )
        except ContentError as error:
            raise TokmargError(f"{error.type}: {error}") from None
        _write(explanation, stream, html, as_json)


def _check_selection(text: str | None, number: int | None, wanted: str | None) -> None:
    if number is not None and wanted is not None:
        raise click.UsageError("--record and --id exclude each other.")
    if text is not None and (number is not None or wanted is not None):
        raise click.UsageError("--record and --id go with --input or stdin, not with TEXT.")


def _pick(source: Source, stack: ExitStack, role: Any, number: int | None, wanted: str | None) -> Record:
    """The record to explain.

    Raises:
        TokmargError: it is missing or unreadable, or there are several and no option selects one.
    """
    records = source.open(stack, role).records
    where = "stdin" if source.path == STDIN else source.path
    if wanted is not None:
        record = next((record for record in records if str(record.id) == wanted), None)
        missing = f"no record has id {wanted!r:.60}"
    else:
        record = next(itertools.islice(records, (number or 1) - 1, None), None)
        missing = f"there is no record {number}" if number else "holds no record"
        if number is None and next(records, None) is not None:
            raise TokmargError(f"{where}: holds several records: --record N or --id ID says which one to explain")
    if record is None:
        raise TokmargError(f"{where}: {missing}")
    if isinstance(record, ContentError):
        raise TokmargError(f"{where}: {record.type}: {record}")
    return record


def _write(explanation: Explanation, stream: OutputStream, html: str | None, as_json: bool) -> None:
    """Writes the HTML page, if there is to be one, and the text or the JSON object."""
    from tokmarg.cli.render.explanation import ExplanationRenderer
    from tokmarg.explanation.html_page import html_page

    if html is not None:
        write_whole(html, html_page(explanation).encode())
    if as_json:
        stream.write(explanation.to_json() + "\n")
    else:
        colour = stream.is_terminal and not os.environ.get("NO_COLOR")
        stream.write(ExplanationRenderer(colour=colour).render(explanation))
