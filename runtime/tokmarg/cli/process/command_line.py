"""The group of all commands: turns every failure into one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from tokmarg.cli.render.terminal import printable
from tokmarg.errors import TokmargError
from tokmarg.termination import ended_by_signals

from .exit_codes import FAILED, INTERRUPTED, PIPE_CLOSED
from .sigint import SigintHandler

__all__ = ["DEBUG", "CommandLine"]

#: Environment variable that adds the traceback to an unexpected error.
DEBUG = "TOKMARG_DEBUG"


class CommandLine(click.Group):
    """A group of commands that handles their exceptions."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command line and exits."""
        # On Windows click would take a TEXT with a question mark for a file pattern.
        kwargs |= {"standalone_mode": False, "windows_expand_args": False}
        sigint = SigintHandler()
        try:
            with sigint, ended_by_signals():
                code = self._run(sigint, *args, **kwargs)
        except KeyboardInterrupt:  # a second one, or one before the handler was installed
            code = INTERRUPTED if sigint.received else _abort(sigint)
        sys.exit(code)

    def _run(self, sigint: SigintHandler, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, obj=sigint, **kwargs)
        except Exception as error:
            # Interrupted code, such as an import, may turn the KeyboardInterrupt into an error of its own.
            if isinstance(error, click.Abort) or sigint.received:
                return _abort(sigint)
            return _fail_with(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; ends without a message when the reader of the output has gone away, as `head` does."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _discard_stdout()
            ctx.exit(PIPE_CLOSED)


def _fail_with(error: Exception) -> int:
    """Prints an exception as one line; returns the exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, TokmargError):
        return _fail(str(error))
    if isinstance(error, OSError):
        unflushed = _discard_stdout()
        name = "stdout" if error.filename is None and (unflushed or _by_printing(error)) else error.filename
        return _fail(f"{'' if name is None else f'{name}: '}{error.strerror or error}")
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}"
    return _fail(f"unexpected {what:.300} (a fault of tokmarg, please report it; {DEBUG}=1 shows where)")


def _by_printing(error: OSError) -> bool:
    """Whether click failed to print on stdout, which it does not name. Unbuffered, nothing is left to flush."""
    files = [
        frame.f_locals.get("file")
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code is click.echo.__code__
    ]
    # By number: where the locale is no UTF-8, click prints through a stream of its own.
    return any(file.fileno() == sys.stdout.fileno() for file in files if file is not None)


def _abort(sigint: SigintHandler) -> int:
    click.echo(sigint.message(), err=True)
    return INTERRUPTED


def _fail(message: str) -> int:
    click.echo(f"Error: {printable(message)}", err=True)
    return FAILED


def _discard_stdout() -> bool:
    """Redirects stdout to the null device if its buffer cannot be flushed: the interpreter's last flush would fail.

    Returns:
        whether it could not.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
