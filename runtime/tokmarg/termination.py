"""Signals that end a process, SIGTERM and SIGHUP, leave no scratch files.

Such a signal is no exception to Python, which would leave half-written bundles behind: gigabytes, in a hidden folder.
:func:`ended_by_signals` makes it one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .scratch import remove_scratch

__all__ = ["ended_by_signals"]

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
#: Seconds that a step of a native library, during which Python raises nothing, has to end after a signal.
_GRACE = 3.0


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Signals that end the process raise SystemExit in the block, and if that takes long end it after cleaning up.

    Does nothing outside the main thread, and to signals that are ignored or handled already.
    """
    taken = [each for each in _SIGNALS if signal.getsignal(each) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread() or not taken:
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    ended = threading.Event()
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    waiting = threading.Thread(target=_wait, args=(read, previous, ended), daemon=True)
    waiting.start()
    try:
        for each in taken:
            signal.signal(each, _raise)
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        ended.set()
        signal.set_wakeup_fd(previous)
        os.close(write)
        waiting.join()
        os.close(read)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:  # once: a second signal must not interrupt the cleaning up
        if signal.getsignal(each) is _raise:
            signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _wait(read: int, previous: int, ended: threading.Event) -> None:
    """Ends the process when a signal was not heeded in time, and tells who was told of signals before."""
    while signals := os.read(read, 16):
        if previous != -1:
            os.write(previous, signals)
        fatal = [number for number in signals if number in _SIGNALS]
        if fatal and not ended.wait(_GRACE):
            remove_scratch()
            os._exit(128 + fatal[0])
