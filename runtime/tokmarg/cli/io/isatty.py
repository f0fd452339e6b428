"""Whether a standard stream is a terminal. A process without a console (pythonw, frozen programs) has None for them."""

from __future__ import annotations

import sys
from typing import TextIO

__all__ = ["is_terminal", "terminal_stderr"]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream exists and is a terminal."""
    return stream is not None and stream.isatty()


def terminal_stderr() -> TextIO | None:
    """stderr if it is a terminal, else None."""
    return sys.stderr if is_terminal(sys.stderr) else None
