"""The rows that records become, and what is kept of each until it is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tokmarg.errors import ContentError
from tokmarg.score_options import Judge

from .source import Input

if TYPE_CHECKING:
    from tokmarg.cli.render.renderer import Renderer
    from tokmarg.guard import Guard
    from tokmarg.prompt.messages import Record

__all__ = ["Note", "with_notes"]


class Note(NamedTuple):
    """What is kept of a row until it is written.

    Attributes:
        text: the renderer's note.
        end: the input's byte where the row's record ends.
        further: not the first row of its record.
    """

    text: str
    end: int
    further: bool


def with_notes(
    guard: Guard, records: Input, judge: Judge, renderer: Renderer, notes: deque[Note]
) -> Iterator[Record | ContentError]:
    """The records, or those for each judged message; appends the note of each."""
    from tokmarg.prompt.judging import to_judge

    for record in records.records:
        rows = [record] if isinstance(record, ContentError) else to_judge(record, judge, guard.spec.roles)
        for i, row in enumerate(rows):
            notes.append(Note(renderer.note(row), records.position(), i > 0))
            yield row
