"""Calls of the operating system, whose errors are told apart from a caller's exceptions.

A signal handler or another thread may raise an exception anywhere, in a call of the system, too, and it must come out
as it is. TimeoutError and InterruptedError, which handlers like to raise, are OSErrors, as a full disk is. So who
catches OSError asks :func:`by_system`; and what Python's library catches by itself, as ``os.path.isfile`` does, is not
used.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["by_system", "file_status", "make_folders", "raiser", "system_errors_suppressed"]


def by_system(error: OSError) -> bool:
    """Whether the operating system, or Python's library, raised an OSError, and no signal handler or other thread.

    The system's have an error number, and come up in a frame of tokmarg or of Python's library; what another thread
    sets is a class without one.
    """
    module = type(error).__module__
    if module == "builtins" and error.errno is None:
        return False
    return {module.partition(".")[0], raiser(error)} <= {"tokmarg", "tokmarg_export", *sys.stdlib_module_names}


def raiser(error: BaseException) -> str:
    """The package in whose frame an exception was raised: a signal handler's, where that raised it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0]


@contextmanager
def system_errors_suppressed() -> Iterator[None]:
    """Ends the block where the system refuses something, as ``suppress(OSError)`` does; a caller's OSError passes."""
    try:
        yield
    except OSError as error:
        if not by_system(error):
            raise


def file_status(path: str | os.PathLike[str]) -> os.stat_result | None:
    """The status of what is at a path, links followed; None where nothing can be found there."""
    try:
        return os.stat(path)
    except OSError as error:
        if not by_system(error):
            raise
        return None
    except ValueError:  # a name with NUL
        return None


def make_folders(path: Path) -> None:
    """Makes a folder, and those that it lies in, where nothing is; ``Path.mkdir`` catches every OSError.

    Raises:
        OSError: the system refuses it.
    """
    if file_status(path) is not None:
        return
    make_folders(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError as error:  # somebody else was faster
        if not by_system(error):
            raise
