"""The input of records: TEXT arguments, a file, or stdin, and its format."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import click

from .isatty import is_terminal

if TYPE_CHECKING:
    from tokmarg.errors import ContentError
    from tokmarg.prompt.labels import Role
    from tokmarg.prompt.messages import Record
    from tokmarg.records import Format, InputPosition

__all__ = ["STDIN", "Input", "Source"]

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
    format: Format | None
    text_field: str | None

    @classmethod
    def choose(cls, texts: tuple[str, ...], path: str | None, format: Format | None, text_field: str | None) -> Source:
        """The source for the given options.

        Raises:
            click.UsageError: the options contradict each other, or there is no input.
        """
        if texts and path is not None:
            raise click.UsageError("TEXT and --input exclude each other.")
        if texts and (format is not None or text_field is not None):
            raise click.UsageError("--input-format and --text-field go with --input or stdin, not with TEXT.")
        if texts == (STDIN,):
            raise click.UsageError("To read stdin, leave TEXT out or say --input -.")
        if texts:
            return cls(texts, None, None, None)
        if path is None:
            if sys.stdin is None or is_terminal(sys.stdin):
                raise click.UsageError("Nothing to score: give a TEXT, --input FILE, or pipe lines in.")
            path = STDIN
        format = format or _format_of(path)
        if format == "lines" and text_field is not None:
            raise click.UsageError("--text-field goes with csv and jsonl input, not with plain lines.")
        return cls((), path, format, text_field)

    @property
    def is_resumable(self) -> bool:
        """Whether it can be read again from any position: a regular file that was named."""
        return self.path not in (None, STDIN) and os.path.isfile(str(self.path))

    def open(self, stack: ExitStack, role: Role | None) -> Input:
        """Opens it; the stack closes it.

        Raises:
            OSError: the file cannot be read.
            TokmargError: a CSV file without the text column.
        """
        from tokmarg.records import START, read_texts

        if self.path is None:
            return Input(read_texts(self.texts, role), None, lambda: 0)
        stream: BinaryIO = sys.stdin.buffer
        if self.path != STDIN:
            stream = stack.enter_context(open(self.path, "rb"))  # noqa: SIM115 (closed by the stack)
        return self.read(stream, role, START)

    def read(self, stream: BinaryIO, role: Role | None, start: InputPosition) -> Input:
        """The records of an opened input, from ``start`` on.

        Raises:
            TokmargError: a CSV file without the text column.
        """
        from tokmarg.records import read_records

        assert self.format is not None
        records = read_records(stream, self.format, role=role, text_field=self.text_field or "text", start=start)
        size = _size(stream)
        return Input(records, size, (lambda: 0) if size is None else stream.tell)

    def is_file(self, path: str | None) -> bool:
        """Whether ``path`` is the file that is read."""
        if path is None or self.path in (None, STDIN) or not os.path.exists(path):
            return False
        assert self.path is not None
        return os.path.exists(self.path) and os.path.samefile(self.path, path)


def _format_of(path: str) -> Format:
    from tokmarg.records import format_of

    if path == STDIN:
        return "lines"  # never sniffed: the format may not depend on the data
    format = format_of(path)
    if format is None:
        raise click.UsageError(
            f"--input: {path}: its extension names no format (.jsonl .ndjson .csv .txt); add --input-format."
        )
    return format


def _size(stream: BinaryIO) -> int | None:
    """Bytes in a regular file, else None."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
