"""Records through a guard to an output, pack by pack, counted on the way."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from tokmarg.cli.render.terminal import printable
from tokmarg.errors import ContentError, TokmargError
from tokmarg.results import Thresholds
from tokmarg.score_options import Judge, ScoreOptions

from .isatty import terminal_stderr
from .output_stream import Rows
from .progress import Progress
from .rows import Note, with_notes
from .source import Input
from .tally import Tally

if TYPE_CHECKING:
    from tokmarg.cli.render.renderer import Outcome, Renderer
    from tokmarg.guard import Guard
    from tokmarg.results import MethodResult, Result

__all__ = ["Scoring"]


@dataclass(slots=True)
class Scoring:
    """How the records of a command are scored.

    Attributes:
        guard, judge, options: as for :meth:`tokmarg.Guard.score_packs`.
        thresholds: as used, wherever they come from.
        decision: the line that says what flags a content; printed once there are results, before anything else is
            said of them, and then empty.
    """

    guard: Guard
    judge: Judge
    options: ScoreOptions
    thresholds: Thresholds
    decision: str

    def renderer(self, format: str, categories: str, *, colour: bool = False, with_ids: bool) -> Renderer:
        """What renders the outcomes; arguments as for :func:`tokmarg.cli.render.choice.renderer_of`."""
        from tokmarg.cli.render.choice import renderer_of

        method = self.options.method
        return renderer_of(format, self.guard, method, self.thresholds, categories, colour=colour, with_ids=with_ids)

    def to_output(
        self,
        records: Input,
        renderer: Renderer,
        stream: Rows,
        tally: Tally,
        *,
        one_response: bool = False,
    ) -> None:
        """Scores records and writes their rows; with ``one_response`` OpenAI's format as one object."""
        from tokmarg.cli.render.openai import OpenAI

        notes: deque[Note] = deque()
        contents = with_notes(self.guard, records, self.judge, renderer, notes)
        packs = self.guard.score_packs(contents, options=self.options)
        # On a terminal that shows the rows the progress line would stand among them.
        with Progress(None if stream.is_terminal else terminal_stderr(), records.size) as progress:
            packs = self._announced(packs, progress)
            if one_response and isinstance(renderer, OpenAI):
                results, texts = [], []
                for outcome, note in _count(itertools.chain.from_iterable(packs), notes, tally, progress):
                    results.append(_result(outcome))
                    texts.append(note.text)
                stream.write(renderer.response(results, texts), tally, 0)
                return
            for pack in packs:
                rows, end = [], 0
                for outcome, note in _count(pack, notes, tally, progress):
                    rows.append((outcome, note.text))
                    end = note.end
                    progress.update(tally.records, end)
                stream.write(renderer.rows(rows), tally, end)

    def _announced(self, packs: Iterator[list[Outcome]], progress: Progress) -> Iterator[list[Outcome]]:
        """The packs; prints what flags a content before the first one."""
        for pack in packs:
            if self.decision:
                progress.clear()
                click.echo(self.decision, err=True)
                self.decision = ""
            yield pack


def _count(
    outcomes: Iterable[Outcome], notes: deque[Note], tally: Tally, progress: Progress
) -> Iterator[tuple[Outcome, Note]]:
    """The outcomes with their notes; counts each, and prints the tally's warning."""
    for outcome in outcomes:
        note = notes.popleft()
        if warning := tally.add(outcome, further=note.further):
            progress.clear()
            click.echo(f"Warning: {printable(warning)}", err=True)
        yield outcome, note


def _result(outcome: Outcome) -> Result | MethodResult:
    """The result; the one response of all TEXTs has no place for an error."""
    if isinstance(outcome, ContentError):
        raise TokmargError(f"TEXT {outcome.id}: {outcome.type}: {outcome} (--format jsonl has error rows)")
    return outcome
