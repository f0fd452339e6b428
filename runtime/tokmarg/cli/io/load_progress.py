"""Loading a guard in a command: what libraries print is held back, and a terminal shows that it goes on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tokmarg.cli.process.stderr_capture import capture_stderr, real_stderr

from .isatty import terminal_stderr

__all__ = ["guard_loading"]

#: Seconds before the line appears, and between its changes.
_DELAY, _INTERVAL = 1.0, 1.0


@contextmanager
def guard_loading() -> Iterator[None]:
    """Captures stderr as :func:`capture_stderr` does; on a terminal a line counts the seconds of a long load."""
    shows = terminal_stderr() is not None
    with capture_stderr():
        if not shows:
            yield
            return
        ended = threading.Event()
        line = threading.Thread(target=_count, args=(real_stderr(), ended), daemon=True)
        line.start()
        try:
            yield
        finally:
            ended.set()
            line.join()


def _count(terminal: int, ended: threading.Event) -> None:
    start, width, wait = time.monotonic(), 0, _DELAY
    while not ended.wait(wait):
        line = f"loading the guard: {time.monotonic() - start:.0f} s"
        width, wait = len(line), _INTERVAL
        os.write(terminal, f"\r{line}".encode())
    if width:
        os.write(terminal, f"\r{' ' * width}\r".encode())
