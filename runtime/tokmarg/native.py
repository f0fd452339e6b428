"""Calls into native libraries written in Rust: a panic becomes an ordinary exception.

pyo3 raises a panic as ``PanicException``, which is a BaseException: it passes every ``except Exception`` and ends the
program with a traceback. A hostile file must not be able to do that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["PanicError", "first_line", "without_panic"]

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
        if type(error).__name__ != "PanicException":
            raise
        raise PanicError(str(error)) from None


def first_line(error: BaseException) -> str:
    """The first line of a library's message, not too long; the error's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:1000]
