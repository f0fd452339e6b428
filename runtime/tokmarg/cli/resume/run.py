"""A run from an input file to an output file that can be resumed: input, output and fingerprint together."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from tokmarg.cli.io.source import Input, Source, is_columnar
from tokmarg.cli.io.tally import Tally
from tokmarg.cli.process.sigint import SigintHandler
from tokmarg.cli.render.terminal import printable
from tokmarg.dataframes.extras import check_extra
from tokmarg.dataframes.names import COLUMN
from tokmarg.errors import TokmargError

from .atomic_output import AtomicOutput
from .fingerprint import fingerprint, partial_fingerprint
from .hashing_reader import HashingReader, count_lines, digests
from .journal import JOURNAL, Checkpoint

if TYPE_CHECKING:
    from tokmarg.cli.render.columns import Columns
    from tokmarg.cli.render.renderer import Renderer
    from tokmarg.guard import Guard
    from tokmarg.prompt.labels import Role
    from tokmarg.records import ColumnarFormat
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


def check_names(names: Collection[str], path: str) -> None:
    """Refuses an input with a column that results will have the name of.

    Raises:
        TokmargError: it has one; names file and column.
    """
    if COLUMN in names:
        raise TokmargError(
            f"{path}: has a column {COLUMN!r} already, where results would stand: rename it (--format jsonl writes "
            "results alone)"
        )


class ResumableRun:
    """A run from file to file; a context manager. Making it reads the input once, for its sha256, and changes nothing.

    Args:
        source: the input file.
        output: the output file.
        output_format: of the output.
        resume: continue after the last checkpoint of the last run, if there is one.

    Raises:
        OSError: the input cannot be read.
        TokmargError: the output cannot be written, or another process writes it; a file of columns is damaged, or has
            no column of contents, or one that results will have the name of.
    """

    is_terminal = False

    def __init__(self, source: Source, output: str, output_format: str, resume: bool) -> None:
        self._source, self._output_name, self._output_format, self._resume = source, output, output_format, resume
        self._reader: HashingReader | None = None  # of files of columns, which are not read in one go, there is none
        to_columns = is_columnar(output_format)
        if to_columns:
            check_extra("arrow", "pyarrow", what=f"{output_format} ({output})")
        with ExitStack() as stack:
            self._file: BinaryIO = stack.enter_context(open(str(source.path), "rb", buffering=0))
            self._columns = source.columns(whole=to_columns) if source.is_columnar else None
            if self._columns is not None and to_columns:
                check_names(self._columns.file.schema.names, str(source.path))
            self._output = stack.enter_context(AtomicOutput(output, resume, to_columns))
            size, sha256, self._prefix_digests = digests(self._file, self._output.input_sizes)
            self._input = size, sha256
            self._stack = stack.pop_all()

    def __enter__(self) -> ResumableRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def check(self, ctx: click.Context) -> None:
        """Refuses a run that differs from the last one, as far as that is known before the guard is loaded.

        Raises:
            TokmargError: the last run had another input or other settings.
        """
        known = partial_fingerprint(ctx.params, self._input, str(self._source.format), self._output_format)
        self._output.check(known, whole=False)

    def fingerprint(self, ctx: click.Context, guard: Guard, thresholds: Thresholds) -> dict[str, Any]:
        """All that the output depends on."""
        formats = {"input_format": str(self._source.format), "output_format": self._output_format}
        return fingerprint(ctx.params, guard, thresholds, input=self._input, **formats)

    def start(
        self, ctx: click.Context, run: Mapping[str, Any], role: Role | None, name: str = ""
    ) -> tuple[Input, Tally]:
        """The records that are still to be scored, and the counts over those that are.

        Args:
            ctx: the command's, which is told how many rows are kept where it is interrupted.
            run: of :meth:`fingerprint`.
            role: of bare texts.
            name: of the input, where there are several; then it is said of one alone that was begun.

        Raises:
            TokmargError: the last run has another fingerprint; a CSV file without the text column.
        """
        from tokmarg.records import START, InputPosition, newline_of

        output, format = self._output, str(self._source.format)
        output.recall(run, self._prefix_digests)
        place, tally = START, Tally()
        if (checkpoint := output.checkpoint) is not None:
            lines = 0
            if format in ("csv", "tsv"):
                newline = newline_of(self._file, self._source.encoding)
                lines = count_lines(self._file, checkpoint.input, newline)
            place = InputPosition(checkpoint.records, checkpoint.input, lines)
            tally = restore_tally(checkpoint, self._output_name)
        if self._columns is not None:
            records = self._source.read_columns(self._columns, role, place)
        else:
            self._reader = HashingReader(self._file, place.bytes)
            stream = io.BufferedReader(self._reader, _READ_SIZE)
            records = self._source.read(cast(BinaryIO, stream), role, place)
        output.begin()
        if self._resume and not (name and checkpoint is None):
            where = f"after record {place.records:,}" if checkpoint is not None else "from the start"
            click.echo(f"{printable(name)}Resuming {where}.", err=True)
        if isinstance(ctx.obj, SigintHandler):
            ctx.obj.hint = output.kept
        return records, tally

    def remove_left(self) -> None:
        """Removes what an earlier run left beside its output, which is whole."""
        self._output.remove_left()

    def write(self, rows: str | bytes, tally: Tally, end: int) -> None:
        """Writes the rows of a pack, whose last record ends at byte ``end`` of the input."""
        read = self._input if self._reader is None else self._reader.hashed
        self._output.write(rows, records=tally.records, input=end, read=read, tally=tally.to_dict())

    def finish(self, tally: Tally, renderer: Renderer, named: Callable[[], None] = lambda: None) -> None:
        """Gives the output its name.

        Args:
            tally: of all records.
            renderer: of the rows; an output of columns is written from them now.
            named: called when the output has its name, before the journal is removed.

        Raises:
            TokmargError: the input has changed since the start, so that its rows are worth nothing.
        """
        if (self._read_again() if self._reader is None else self._reader.hashed) != self._input:
            self._output.discard()
            raise TokmargError(
                f"{self._source.path}: changed while it was scored; its rows were thrown away: try again"
            )
        convert = None
        if is_columnar(self._output_format):
            convert = partial(self._write_columns, cast("Columns", renderer))
        self._output.finish(self._input, tally.to_dict(), convert=convert, named=named)

    def _read_again(self) -> tuple[int, str]:
        """Size and sha256 of the file that has the input's name now."""
        with open(str(self._source.path), "rb", buffering=0) as file:
            return digests(file, ())[:2]

    def _write_columns(self, columns: Columns, rows: str) -> None:
        """Writes the output from the file of rows: the input's columns, where it has any, and the results."""
        from tokmarg.dataframes.scored_file import write_scored

        file = None if self._columns is None else self._columns.file
        schema = columns.schema if file is None else columns.after(file.schema)
        batches = None if file is None else file.batches()
        format = cast("ColumnarFormat", self._output_format)
        write_scored(self._output_name, format, schema, batches, columns.decoded(rows))
