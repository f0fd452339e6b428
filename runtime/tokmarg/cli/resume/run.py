"""A run from a file to a file: what the command needs of :mod:`.batch`, in its order."""

from __future__ import annotations

import io
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from tokmarg.cli.io.source import Input, Source
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.sigint import Interrupts
from tokmarg.errors import TokmargError

from .atomic_output import Batch
from .fingerprint import foresee, identify
from .hashing_reader import Witness, count_lines, digests
from .journal import JOURNAL, Mark

if TYPE_CHECKING:
    from tokmarg.guard import Guard
    from tokmarg.prompt.spec import Role
    from tokmarg.results import Thresholds

__all__ = ["FileRun", "counted"]

_BUFFER = 1 << 16


def counted(mark: Mark, output: str) -> Tally:
    """The counts at a mark.

    Raises:
        TokmargError: they are not of so many records.
    """
    try:
        tally = Tally.from_dict(mark.tally)
    except ValueError:
        tally = Tally()
    if tally.records != mark.records:
        raise TokmargError(
            f"{output}: cannot be resumed: its journal holds other counts than of {mark.records:,} records; delete "
            f"{output}{JOURNAL} to start anew"
        )
    return tally


class FileRun:
    """A context manager. Opened, it has read the input through once, and changed nothing.

    Args:
        source: names the input file.
        output: the file to make.
        resume: go on where the last run ended, if there is something to go on with.

    Raises:
        OSError: the input cannot be read.
        TokmargError: the output cannot be written, or another process writes it.
    """

    is_terminal = False

    def __init__(self, source: Source, output: str, resume: bool) -> None:
        self._source, self._output, self._resume = source, output, resume
        with ExitStack() as stack:
            self._file: BinaryIO = stack.enter_context(open(str(source.path), "rb", buffering=0))
            self._batch = stack.enter_context(Batch(output, resume))
            size, sha256, self._beginnings = digests(self._file, self._batch.wanted)
            self._input = size, sha256
            self._stack = stack.pop_all()

    def __enter__(self) -> FileRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def check(self, ctx: click.Context, output_format: str) -> None:
        """Refuses what needs no guard to be known.

        Raises:
            TokmargError: the last run had another input or other settings.
        """
        known = foresee(ctx.params, self._input, str(self._source.format), output_format)
        self._batch.check(known, whole=False)

    def start(
        self, ctx: click.Context, guard: Guard, thresholds: Thresholds, output_format: str, role: Role | None
    ) -> tuple[Input, Tally]:
        """The records that are still to be scored, and the counts over those that are.

        Raises:
            TokmargError: the last run was another one; a CSV file without the text column.
        """
        from tokmarg.records import START, InputPosition

        batch, format = self._batch, str(self._source.format)
        run = identify(
            ctx.params, guard, thresholds, input=self._input, input_format=format, output_format=output_format
        )
        batch.recall(run, self._beginnings)
        place, tally = START, Tally()
        if (mark := batch.mark) is not None:
            lines = count_lines(self._file, mark.input) if format == "csv" else 0
            place, tally = InputPosition(mark.records, mark.input, lines), counted(mark, self._output)
        self._witness = Witness(self._file, place.bytes)
        stream = io.BufferedReader(self._witness, _BUFFER)
        given = self._source.read(cast(BinaryIO, stream), role, place)
        batch.begin()
        if self._resume:
            where = f"behind record {place.records:,}" if mark is not None else "at the start"
            click.echo(f"Going on {where}.", err=True)
        if isinstance(ctx.obj, Interrupts):
            ctx.obj.hint = batch.kept
        return given, tally

    def write(self, rows: str, tally: Tally, end: int) -> None:
        """Adds the rows of a pack, whose last record ends at byte ``end`` of the input."""
        self._batch.write(rows, records=tally.records, input=end, read=self._witness.seen, tally=tally.to_dict())

    def finish(self, tally: Tally) -> None:
        """Gives the output its name.

        Raises:
            TokmargError: the input is not what it was at the start; the rows are worth nothing then.
        """
        if self._witness.seen != self._input:
            self._batch.discard()
            raise TokmargError(
                f"{self._source.path}: changed while it was scored; its rows were thrown away: try again"
            )
        self._batch.finish(self._witness.seen, tally.to_dict())
