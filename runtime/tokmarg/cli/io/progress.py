"""The progress line of a long run, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress"]

_DELAY = 1.0  # seconds before the line appears: a short run shows none
_INTERVAL = 0.2  # seconds between changes


class Progress:
    """The progress line; a context manager that clears it at the end.

    Args:
        stream: the terminal; None shows nothing.
        total: size of the input in bytes, None if unknown.
        clock: returns seconds.
    """

    def __init__(self, stream: TextIO | None, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._total, self._clock = stream, total, clock
        self._started = clock()
        self._due = self._started + _DELAY
        self._width = 0  # of the line that is on the terminal now

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def update(self, records: int, position: int) -> None:
        """Shows that ``records`` are done, the last of which ends at byte ``position`` of the input."""
        if self._stream is None or (now := self._clock()) < self._due:
            return
        self._due = now + _INTERVAL
        line = f"{records:,} records, {records / (now - self._started):,.1f} per second"
        if self._total:
            line = f"{position / self._total:4.0%}  {line}"
        self._write(line)

    def clear(self) -> None:
        """Clears the line, before something else is printed and at the end."""
        if self._stream is not None and self._width:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()

    def _write(self, line: str) -> None:
        assert self._stream is not None
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)
