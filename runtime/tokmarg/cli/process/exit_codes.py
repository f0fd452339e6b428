"""Every way to fail, as one line on stderr and an exit code; never a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from tokmarg.cli.render.terminal import printable
from tokmarg.errors import TokmargError

from .sigint import INTERRUPTED, Interrupts

__all__ = ["DEBUG", "CommandLine"]

#: Environment variable that adds the traceback to an unexpected error.
DEBUG = "TOKMARG_DEBUG"
FAILED = 1
PIPE_CLOSED = 141  # 128 + SIGPIPE: what `yes | head` leaves behind


class CommandLine(click.Group):
    """A group of commands whose failures all end here."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command line and exits."""
        # On Windows click would take a TEXT with a question mark for a file pattern.
        kwargs |= {"standalone_mode": False, "windows_expand_args": False}
        interrupts = Interrupts()
        try:
            with interrupts:
                code = self._run(interrupts, *args, **kwargs)
        except KeyboardInterrupt:  # once more, while the first was dealt with, or before anybody could deal with it
            code = INTERRUPTED if interrupts.seen else _aborted(interrupts)
        sys.exit(code)

    def _run(self, interrupts: Interrupts, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, obj=interrupts, **kwargs)
        except Exception as error:
            # Code that was interrupted, an import say, may make an error of its own of it.
            if isinstance(error, click.Abort) or interrupts.seen:
                return _aborted(interrupts)
            return _failed(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a reader that has gone away, as `head` does, ends it without a word."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _drop_output()
            ctx.exit(PIPE_CLOSED)


def _failed(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, TokmargError):
        return _fail(str(error))
    if isinstance(error, OSError):
        _drop_output()
        name = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{name}{error.strerror or error}")
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}"
    return _fail(f"unexpected {what:.300} (a fault of tokmarg, please report it; {DEBUG}=1 shows where)")


def _aborted(interrupts: Interrupts) -> int:
    click.echo(interrupts.message(), err=True)
    return INTERRUPTED


def _fail(message: str) -> int:
    click.echo(f"Error: {printable(message)}", err=True)
    return FAILED


def _drop_output() -> None:
    """What stdout still holds and cannot take goes nowhere, else the interpreter's last flush fails once more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
