"""Captures what native libraries print to stderr while a bundle is loaded: a TokmargError says the same in one line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tokmarg.errors import TokmargError

__all__ = ["capture_stderr", "real_stderr"]

_STDERR = 2  # file descriptor
_MAX_BYTES = 2**20
_saved: list[int] = []  # duplicates of the real stderr, one per active capture


def real_stderr() -> int:
    """File descriptor of the real stderr, inside :func:`capture_stderr` too."""
    return _saved[-1] if _saved else _STDERR


@contextmanager
def capture_stderr() -> Iterator[None]:
    """Captures writes to file descriptor 2; drops them if a TokmargError ends the block, else prints them afterwards.

    Rust libraries print a panic and its backtrace there themselves, before any Python code hears of it.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        saved = os.dup(_STDERR)
    except OSError:  # there is no stderr at all
        yield
        return
    with _anonymous_file() as captured:
        os.dup2(captured.fileno(), _STDERR)
        _saved.append(saved)
        dropped = False
        try:
            yield
        except TokmargError:
            dropped = True
            raise
        finally:
            os.dup2(saved, _STDERR)
            _saved.pop()
            os.close(saved)
            captured.seek(0)
            if not dropped and (output := captured.read(_MAX_BYTES)):
                os.write(_STDERR, output)


def _anonymous_file() -> BinaryIO:
    """A file without a name; in memory where the system has that, since scoring writes nothing to disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()  # type: ignore[return-value,unused-ignore]
