"""A run from an input file to an output file that can be resumed: input, output and fingerprint together."""

from __future__ import annotations

import io
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from tokmarg.cli.io.source import Input, Source
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.sigint import SigintHandler
from tokmarg.errors import TokmargError

from .atomic_output import AtomicOutput
from .fingerprint import fingerprint, partial_fingerprint
from .hashing_reader import HashingReader, count_lines, digests
from .journal import JOURNAL, Checkpoint

if TYPE_CHECKING:
    from tokmarg.guard import Guard
    from tokmarg.prompt.labels import Role
    from tokmarg.results import Thresholds

__all__ = ["ResumableRun", "restore_tally"]

_READ_SIZE = 1 << 16  # bytes


def restore_tally(checkpoint: Checkpoint, output: str) -> Tally:
    """The counts at a checkpoint.

    Raises:
        TokmargError: they do not add up to its number of records.
    """
    try:
        tally = Tally.from_dict(checkpoint.tally)
    except ValueError:
        tally = Tally()
    if tally.records != checkpoint.records:
        raise TokmargError(
            f"{output}: cannot be resumed: its journal holds other counts than of {checkpoint.records:,} records; "
            f"delete {output}{JOURNAL} to start anew"
        )
    return tally


class ResumableRun:
    """A run from file to file; a context manager. Making it reads the input once, for its sha256, and changes nothing.

    Args:
        source: the input file.
        output: the output file.
        resume: continue after the last checkpoint of the last run, if there is one.

    Raises:
        OSError: the input cannot be read.
        TokmargError: the output cannot be written, or another process writes it.
    """

    is_terminal = False

    def __init__(self, source: Source, output: str, resume: bool) -> None:
        self._source, self._output_name, self._resume = source, output, resume
        with ExitStack() as stack:
            self._file: BinaryIO = stack.enter_context(open(str(source.path), "rb", buffering=0))
            self._output = stack.enter_context(AtomicOutput(output, resume))
            size, sha256, self._prefix_digests = digests(self._file, self._output.input_sizes)
            self._input = size, sha256
            self._stack = stack.pop_all()

    def __enter__(self) -> ResumableRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def check(self, ctx: click.Context, output_format: str) -> None:
        """Refuses a run that differs from the last one, as far as that is known before the guard is loaded.

        Raises:
            TokmargError: the last run had another input or other settings.
        """
        known = partial_fingerprint(ctx.params, self._input, str(self._source.format), output_format)
        self._output.check(known, whole=False)

    def start(
        self, ctx: click.Context, guard: Guard, thresholds: Thresholds, output_format: str, role: Role | None
    ) -> tuple[Input, Tally]:
        """The records that are still to be scored, and the counts over those that are.

        Raises:
            TokmargError: the last run has another fingerprint; a CSV file without the text column.
        """
        from tokmarg.records import START, InputPosition

        output, format = self._output, str(self._source.format)
        run = fingerprint(
            ctx.params, guard, thresholds, input=self._input, input_format=format, output_format=output_format
        )
        output.recall(run, self._prefix_digests)
        place, tally = START, Tally()
        if (checkpoint := output.checkpoint) is not None:
            lines = count_lines(self._file, checkpoint.input) if format == "csv" else 0
            place = InputPosition(checkpoint.records, checkpoint.input, lines)
            tally = restore_tally(checkpoint, self._output_name)
        self._reader = HashingReader(self._file, place.bytes)
        stream = io.BufferedReader(self._reader, _READ_SIZE)
        records = self._source.read(cast(BinaryIO, stream), role, place)
        output.begin()
        if self._resume:
            where = f"after record {place.records:,}" if checkpoint is not None else "from the start"
            click.echo(f"Resuming {where}.", err=True)
        if isinstance(ctx.obj, SigintHandler):
            ctx.obj.hint = output.kept
        return records, tally

    def write(self, rows: str, tally: Tally, end: int) -> None:
        """Writes the rows of a pack, whose last record ends at byte ``end`` of the input."""
        self._output.write(rows, records=tally.records, input=end, read=self._reader.hashed, tally=tally.to_dict())

    def finish(self, tally: Tally) -> None:
        """Gives the output its name.

        Raises:
            TokmargError: the input has changed since the start, so that its rows are worth nothing.
        """
        if self._reader.hashed != self._input:
            self._output.discard()
            raise TokmargError(
                f"{self._source.path}: changed while it was scored; its rows were thrown away: try again"
            )
        self._output.finish(self._reader.hashed, tally.to_dict())
