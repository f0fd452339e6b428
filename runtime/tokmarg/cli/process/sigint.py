"""Ctrl-C within a second, whatever the process is busy with.

Python raises KeyboardInterrupt between two steps of its own; a pass of onnxruntime, or loading a large graph, is one
step that can take minutes. So a thread waits for the signal, too, and if the command has not ended by itself a moment
later, ends the process. That loses nothing: rows are out when they are written, and a run on files can be gone on with
after any end (:mod:`.batch`).

Where Python would only print the traceback of a KeyboardInterrupt and go on, in a callback in the middle of an import
say, the process ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from .stderr_capture import stderr_now

__all__ = ["INTERRUPTED", "Interrupts"]

INTERRUPTED = 130  # 128 + SIGINT, as shells count
_GRACE = 0.3  # seconds


class Interrupts:
    """A context manager; does nothing outside the main thread, or where SIGINT means something else or nothing.

    Attributes:
        seen: whether the signal came.
        hint: what people should know about what is left, asked for when it came.
    """

    def __init__(self) -> None:
        self.seen = False
        self.hint: Callable[[], str] = str
        self._ended = threading.Event()
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Interrupts:
        mine = threading.current_thread() is threading.main_thread()
        if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._wait, args=(self._pipe[0],), daemon=True)
            self._thread.start()
            self._reports, sys.unraisablehook = sys.unraisablehook, self._report
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            sys.unraisablehook = self._reports
            self._ended.set()
            signal.set_wakeup_fd(self._before)
            os.close(self._pipe[1])
            self._thread.join()
            os.close(self._pipe[0])

    def message(self) -> str:
        """The line that says so."""
        hint = self.hint()
        return f"Aborted! {hint}." if hint else "Aborted!"

    def _report(self, unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._end()
        self._reports(unraisable)

    def _wait(self, read: int) -> None:
        while received := os.read(read, 16):
            if signal.SIGINT in received:
                self.seen = True
                if not self._ended.wait(_GRACE):
                    self._end()

    def _end(self) -> NoReturn:
        try:
            os.write(stderr_now(), f"\n{self.message()}\n".encode())
        finally:
            os._exit(INTERRUPTED)
