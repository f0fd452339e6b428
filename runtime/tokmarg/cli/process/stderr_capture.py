"""What libraries print while a bundle is loaded: nobody sees it where an error of one line says the same."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tokmarg.errors import TokmargError

__all__ = ["quiet", "stderr_now"]

_STDERR = 2
_MOST = 2**20
_saved: list[int] = []  # where stderr is while it is held back


def stderr_now() -> int:
    """File descriptor of the real stderr, inside :func:`quiet` too."""
    return _saved[-1] if _saved else _STDERR


def _memory() -> BinaryIO:
    """A file without a name; in memory where the system has that, since scoring writes nothing to disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()  # type: ignore[return-value,unused-ignore]


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; drops it where a TokmargError ends the block, else prints it.

    Rust libraries print a panic and its backtrace there themselves, before any Python code hears of it.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        saved = os.dup(_STDERR)
    except OSError:  # there is no stderr at all
        yield
        return
    with _memory() as held:
        os.dup2(held.fileno(), _STDERR)
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
            held.seek(0)
            if not dropped and (said := held.read(_MOST)):
                os.write(_STDERR, said)
