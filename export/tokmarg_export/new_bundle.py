"""The folder in which a bundle is built, beside its place: moved there when it is whole, and gone after any other end.

A signal that ends the process (SIGTERM, SIGHUP) is no exception to Python, which would leave the scratch folder behind:
gigabytes, in a hidden folder. :func:`ended_by_signals` makes it one.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tokmarg.bundle.manifest import MANIFEST

from .output_checks import Source, check_output

__all__ = ["NewBundle", "ended_by_signals", "new_bundle"]

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
#: Seconds that a step of a native library, during which Python raises nothing, has to end after a signal.
_GRACE = 3.0
#: Scratch folders of this process.
_scratches: set[str] = set()


class NewBundle:
    """A bundle under construction.

    Attributes:
        scratch: a folder for whatever is not part of the bundle; on the same disk.
        folder: the bundle.
    """

    def __init__(self, scratch: Path, out: Path, sources: Sequence[Source], force: bool) -> None:
        self.scratch, self.folder = scratch, scratch / "bundle"
        self._out, self._sources, self._force = out, sources, force

    def finish(self) -> None:
        """Puts the finished folder in the place of what is at ``out``, which is looked at again: time has passed.

        Raises:
            ExportError: something has come there that is no bundle.
        """
        mode = (self.folder / MANIFEST).stat().st_mode
        for path in self.folder.iterdir():  # some writers make files that only their owner may read
            path.chmod(mode)
        check_output(self._out, self._sources, force=self._force)
        replaced = self.scratch / "replaced"
        try:
            if self._out.exists():
                self._out.rename(replaced)
            self.folder.rename(self._out)
        except BaseException:  # an interrupt between the two would lose the bundle that was there
            if replaced.exists() and not self._out.exists():
                replaced.rename(self._out)
            raise


@contextmanager
def new_bundle(out: Path, sources: Sequence[Source], *, force: bool) -> Iterator[NewBundle]:
    """A scratch folder beside ``out``, and what is built in it; ``out`` has passed :func:`check_output`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tokmarg-export-", dir=out.parent) as scratch:
        _scratches.add(scratch)
        try:
            yield NewBundle(Path(scratch), out, sources, force)
        finally:
            _scratches.discard(scratch)


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
    waiting = threading.Thread(target=_wait, args=(read, ended), daemon=True)
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
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


def _wait(read: int, ended: threading.Event) -> None:
    """Ends the process when a signal was not heeded in time. A library may write on meanwhile: deleted until it is."""
    while signals := os.read(read, 16):
        fatal = [number for number in signals if number in _SIGNALS]
        if fatal and not ended.wait(_GRACE):
            for scratch in list(_scratches):
                for _ in range(100):
                    shutil.rmtree(scratch, ignore_errors=True)
                    if not os.path.lexists(scratch):
                        break
            os._exit(128 + fatal[0])
