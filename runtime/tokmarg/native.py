"""Calls into native libraries: a panic of Rust becomes an ordinary exception, and a caller's exception is told apart.

pyo3 raises a panic as ``PanicException``, which is a BaseException: it passes every ``except Exception`` and ends the
program with a traceback. A hostile file must not be able to do that.

Libraries raise types of their own, none of them public, and Python's; so ``except Exception`` is what catches them. But
the exception can be a caller's: a signal handler or another thread may raise one anywhere, in the call, too. That one
must come out as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .system_calls import raiser

__all__ = ["PanicError", "first_line", "is_panic", "raised_by", "without_panic"]

T = TypeVar("T")


class PanicError(Exception):
    """A Rust library panicked."""


def without_panic(call: Callable[[], T]) -> T:
    """The result of a call.

    Raises:
        PanicError: in place of a ``PanicException``; other exceptions pass unchanged.
    """
    try:
        return call()
    except BaseException as error:
        if not is_panic(error):
            raise
        raise PanicError(str(error)) from None


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a Rust library; pyo3 makes a class for them in every library."""
    return type(error).__name__ == "PanicException"


def raised_by(error: Exception, *libraries: str) -> bool:
    """Whether libraries raised the exception, in a call to them, and not a signal handler or another thread.

    Another thread that raises a type of Python's own, but TimeoutError, is not told apart.

    Args:
        error: caught around the call.
        libraries: names of the packages that were called.
    """
    ours = ("tokmarg", *libraries)
    kind = type(error)
    if kind.__module__ != "builtins":
        return kind.__module__.partition(".")[0] in ours
    return not isinstance(error, TimeoutError) and raiser(error) in ours


def first_line(error: BaseException) -> str:
    """The first line of a library's message, not too long; the error's name where it has none.

    A line that ends in a colon says nothing without the next, and a KeyError's nothing without its name.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, KeyError):
        return f"{type(error).__name__}: {lines[0]}"[:1000]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:1000]
