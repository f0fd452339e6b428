"""Ctrl-C (SIGINT) ends the process within a second, whatever it is running.

Python raises KeyboardInterrupt between two steps of its own; a forward pass of onnxruntime, or loading a large graph,
is one step that can take minutes. So a thread waits for the signal too and, if the command has not ended by itself a
moment later, ends the process. Nothing is lost: rows are flushed when they are written, and a run from file to file
can be resumed after any end (:mod:`tokmarg.cli.resume.atomic_output`).

Where Python would only print the traceback of a KeyboardInterrupt and continue, as in a callback during an import, the
process ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from tokmarg.scratch import remove_scratch

from .exit_codes import INTERRUPTED
from .stderr_capture import real_stderr

__all__ = ["SigintHandler"]

_GRACE = 0.3  # seconds


class SigintHandler:
    """A context manager; does nothing outside the main thread, or where SIGINT is ignored or has a handler already.

    Attributes:
        received: whether the signal came.
        hint: returns what users should know about unfinished output; called when the signal came.
    """

    def __init__(self) -> None:
        self.received = False
        self.hint: Callable[[], str] = str
        self._ended = threading.Event()
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> SigintHandler:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._wait, args=(self._pipe[0],), daemon=True)
            self._thread.start()
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            sys.unraisablehook = self._previous_hook
            self._ended.set()
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._pipe[1])
            self._thread.join()
            os.close(self._pipe[0])

    def message(self) -> str:
        """The line that reports the interrupt."""
        hint = self.hint()
        return f"Aborted! {hint}." if hint else "Aborted!"

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._end_process()
        self._previous_hook(unraisable)

    def _wait(self, read: int) -> None:
        while signals := os.read(read, 16):
            if signal.SIGINT in signals:
                self.received = True
                if not self._ended.wait(_GRACE):
                    self._end_process()

    def _end_process(self) -> NoReturn:
        try:
            remove_scratch()
            os.write(real_stderr(), f"\n{self.message()}\n".encode())
        finally:
            os._exit(INTERRUPTED)
