"""The output of results: stdout or a file, as UTF-8 whatever the locale, flushed row by row."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO, Protocol

from tokmarg.errors import TokmargError

from .isatty import is_terminal
from .tally import Tally

__all__ = ["OutputStream", "Rows"]


class Rows(Protocol):
    """Where the rows of a run go.

    Attributes:
        is_terminal: people see them come.
    """

    is_terminal: bool

    def write(self, rows: str | bytes, tally: Tally, end: int, /) -> None:
        """Writes the rows of a pack, whose last record ends at byte ``end`` of the input."""


class OutputStream:
    """The opened output; a context manager.

    Args:
        path: a file, replaced if it exists; None for stdout.

    Raises:
        OSError: here and while writing, with the name of what cannot be written.
        TokmargError: stdout is closed.
    """

    def __init__(self, path: str | None) -> None:
        self._name = path or "stdout"
        self._owned = path is not None
        self.is_terminal = path is None and is_terminal(sys.stdout)
        if path is not None:
            self._stream: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        elif sys.stdout is None:
            raise TokmargError("stdout is closed; --output FILE writes to a file")
        else:
            self._stream = sys.stdout.buffer

    def __enter__(self) -> OutputStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owned:
            with self._naming_errors():
                self._stream.close()

    def write(self, text: str | bytes, *_: object) -> None:
        """Writes rows and flushes them: a waiting reader gets them at once, and an interrupted run keeps them."""
        with self._naming_errors():
            rest = memoryview(text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace"))
            while rest:  # python -u makes stdout a raw stream, which may take less than it is given
                rest = rest[self._stream.write(rest) :]
            self._stream.flush()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self._name
            raise
