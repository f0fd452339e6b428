"""What an export is doing, on stderr: on a terminal a line with how much is left, in a pipe one line a stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

__all__ = ["Progress", "Share", "Silent"]

#: Called with how much of a stage is done, 0 to 1.
Share = Callable[[float], None]

_INTERVAL = 0.5  # seconds between changes of the line
_SOON = 0.02  # of a stage: earlier its time is a guess


class Progress:
    """Stages one after the other.

    Args:
        stages: how many there are.
        terminal: whether stderr is one.
        clock: seconds.
    """

    def __init__(self, stages: int, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stages, self._clock = stages, clock
        self._on = sys.stderr.isatty() if terminal is None else terminal
        self._number, self._step, self._width = 0, "", 0
        self._start = self._shown = 0.0

    def __call__(self, step: str) -> None:
        """The next stage begins."""
        self.done()
        self._number += 1
        self._step, self._start = f"[{self._number}/{self._stages}] {step}", self._clock()
        self._shown = self._start
        if self._on:
            self._write(f"{self._step} ...")
        else:
            click.echo(self._step, err=True)

    def share(self, share: float) -> None:
        """How much of the stage is done, 0 to 1."""
        now = self._clock()
        if not self._on or now - self._shown < _INTERVAL:
            return
        self._shown = now
        left = f", about {_duration((now - self._start) * (1 - share) / share)} left" if share >= _SOON else ""
        self._write(f"{self._step} ... {share:.0%}{left}")

    def done(self) -> None:
        """Closes the line of the stage in progress."""
        if self._on and self._step:
            self._write(f"{self._step} ... {_duration(self._clock() - self._start)}")
            click.echo(err=True)
        self._step, self._width = "", 0

    def _write(self, line: str) -> None:
        """In place of what stands in the line."""
        click.echo("\r" + line.ljust(self._width), err=True, nl=False)
        self._width = len(line)


class Silent(Progress):
    """Says nothing."""

    def __init__(self) -> None:
        super().__init__(0, terminal=False)

    def __call__(self, step: str) -> None:
        pass


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
