"""The input of records: TEXT arguments, a file, or stdin, and its format."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import click

from tokmarg.cli.render.terminal import printable
from tokmarg.errors import ContentError, TokmargError

from .isatty import is_terminal

if TYPE_CHECKING:
    from tokmarg.cli.options import InputOptions
    from tokmarg.prompt.labels import Role
    from tokmarg.prompt.messages import Record
    from tokmarg.records import ColumnarFormat, Format, InputPosition

    from .columns_source import ColumnsSource

__all__ = ["STDIN", "Input", "Source", "is_columnar"]

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Input:
    """An opened input: its records, its size in bytes (None if unknown), and how much of it has been read."""

    records: Iterator[Record | ContentError]
    size: int | None
    position: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Source:
    """The input that a command line names: ``texts``, or ``path`` (``-`` is stdin) with its ``format``."""

    texts: tuple[str, ...]
    path: str | None
    format: Format | ColumnarFormat | None = None
    text_field: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    @classmethod
    def choose(cls, texts: tuple[str, ...], path: str | None, reading: InputOptions) -> Source:
        """The source for the given options.

        Raises:
            click.UsageError: the options contradict each other, or there is no input.
        """
        if texts and path is not None:
            raise click.UsageError("TEXT and --input exclude each other.")
        if texts and (reading.format is not None or reading.text_field is not None):
            raise click.UsageError("--input-format and --text-field go with --input or stdin, not with TEXT.")
        if texts and (reading.delimiter is not None or reading.encoding is not None):
            raise click.UsageError("--delimiter and --encoding go with --input or stdin, not with TEXT.")
        if texts == (STDIN,):
            raise click.UsageError("To read stdin, leave TEXT out or say --input -.")
        if texts:
            return cls(texts, None)
        if path is None:
            if sys.stdin is None or is_terminal(sys.stdin):
                raise click.UsageError("Nothing to score: give a TEXT, --input FILE, or pipe lines in.")
            path = STDIN
        format = reading.format or _format_of(path)
        if format == "lines" and reading.text_field is not None:
            raise click.UsageError("--text-field goes with csv and jsonl input, not with plain lines.")
        if is_columnar(format) and path == STDIN:
            raise click.UsageError(f"--input-format {format} goes with a file, not with stdin.")
        if is_columnar(format) and reading.encoding is not None:
            raise click.UsageError(f"--encoding goes with text, not with {format}.")
        if reading.delimiter is not None and format not in ("csv", "tsv"):
            raise click.UsageError(f"--delimiter goes with csv and tsv input, not with {format}.")
        return cls((), path, format, reading.text_field, reading.delimiter, reading.encoding)

    @property
    def is_columnar(self) -> bool:
        """Whether it is a file of columns."""
        return is_columnar(self.format)

    def columns(self, whole: bool) -> ColumnsSource:
        """The file of columns, opened; arguments and errors as for :class:`ColumnsSource`."""
        from .columns_source import ColumnsSource

        return ColumnsSource(str(self.path), cast("ColumnarFormat", self.format), self.text_field, whole)

    @property
    def is_resumable(self) -> bool:
        """Whether it can be read again from any position: a regular file that was named."""
        return self.path not in (None, STDIN) and os.path.isfile(str(self.path))

    def open(self, stack: ExitStack, role: Role | None) -> Input:
        """Opens it; the stack closes it.

        Raises:
            OSError: the file cannot be read.
            TokmargError: it is no text, or a table without the text column, or JSON that is no array.
        """
        from tokmarg.records import START, read_texts

        if self.is_columnar:
            return self.read_columns(self.columns(whole=False), role, START)
        if self.path is None:
            return Input(read_texts(self.texts, role), None, lambda: 0)
        stream: BinaryIO = sys.stdin.buffer
        if self.path != STDIN:
            stream = stack.enter_context(open(self.path, "rb"))  # noqa: SIM115 (closed by the stack)
        return self.read(stream, role, START)

    def read(self, stream: BinaryIO, role: Role | None, start: InputPosition) -> Input:
        """The records of an opened input, from ``start`` on.

        Raises:
            TokmargError: it is no text, or a table without the text column, or JSON that is no array.
        """
        from tokmarg.records import ReadOptions, check_text, read_rows

        assert self.format is not None
        assert not self.is_columnar
        size = _size(stream)
        options = ReadOptions(role, self.text_field or "text", self.delimiter, self.encoding, notice=self._notice)
        if size is not None and not start.bytes:
            try:
                check_text(getattr(stream, "peek", lambda n: b"")(16))
            except TokmargError as error:
                raise TokmargError(f"{self.path}: {error}") from None
        rows = read_rows(stream, cast("Format", self.format), options, start)
        records = (row if isinstance(row, ContentError) else row[0] for row in rows)
        return Input(records, size, (lambda: 0) if size is None else stream.tell)

    def read_columns(self, columns: ColumnsSource, role: Role | None, start: InputPosition) -> Input:
        """The records of an opened file of columns, from ``start`` on; its position is the share of rows, in bytes."""
        size = os.path.getsize(str(self.path))
        return Input(columns.records(role, start.records), size, lambda: int(columns.done * size))

    def _notice(self, message: str) -> None:
        click.echo(f"{'stdin' if self.path == STDIN else printable(str(self.path))}: {message}", err=True)

    def is_file(self, path: str | None) -> bool:
        """Whether ``path`` is the file that is read."""
        if path is None or self.path in (None, STDIN) or not os.path.exists(path):
            return False
        assert self.path is not None
        return os.path.exists(self.path) and os.path.samefile(self.path, path)


def is_columnar(format: str | None) -> bool:
    """Whether a format is one of columns."""
    from tokmarg.records import COLUMNAR

    return format in COLUMNAR


def _format_of(path: str) -> Format | ColumnarFormat:
    from tokmarg.records import columnar_format_of, format_of, formats_shown, is_unicode_text

    if path == STDIN:
        return "lines"  # never sniffed: the format may not depend on the data
    if (columnar := columnar_format_of(path)) is not None:
        return columnar
    format = format_of(path)
    if format is None:
        raise click.UsageError(
            f"--input: {path}: its extension names no format ({formats_shown()} .parquet .arrow .feather); add "
            "--input-format."
        )
    if format == "lines" and os.path.isfile(path):
        with open(path, "rb") as stream:
            if is_unicode_text(stream.read(1 << 16)):
                click.echo(f"{printable(path)}: UTF-16 with tabs, as spreadsheets write it: read as tsv", err=True)
                return "tsv"
    return format


def _size(stream: BinaryIO) -> int | None:
    """Bytes in a regular file, else None."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
