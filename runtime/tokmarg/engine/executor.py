"""Worker pool for forward passes: as many at a time as the session has workers, while the caller lays out the next."""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from .forward import Forward, Outputs
from .session import Session

__all__ = ["PassExecutor"]

T = TypeVar("T")


class PassExecutor(Generic[T]):
    """Runs passes on a session's workers, and queues those that wait for one.

    A context manager, which is left when no pass is in flight: they need the interpreter when they end.

    Args:
        session: computes the passes; as many at a time as it has workers.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._idle = list(range(session.workers))
        self._waiting: deque[tuple[Forward, T]] = deque()
        self._done: SimpleQueue[tuple[T, Outputs | Exception]] = SimpleQueue()
        #: Passes that were started and not waited for.
        self.running = 0

    def __enter__(self) -> PassExecutor[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self.running -= len(self._waiting)
            self._waiting.clear()
        while self.running:
            self._done.get()
            self.running -= 1

    def start(self, forward: Forward, tag: T) -> None:
        """Queues a pass; ``tag`` comes back with its outputs."""
        self.running += 1
        with self._lock:
            self._waiting.append((forward, tag))
        self._next()

    def wait(self) -> tuple[T, Outputs]:
        """The next pass that is done, waiting for it.

        Raises:
            DeviceError: onnxruntime could not run it, or this is another process than the session's.
        """
        tag, outcome = self._done.get()
        self.running -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return tag, outcome

    def _next(self) -> None:
        """Begins a waiting pass, if there is one and an idle worker."""
        with self._lock:
            if not (self._idle and self._waiting):
                return
            worker = self._idle.pop()
            forward, tag = self._waiting.popleft()

        def done(outcome: Outputs | Exception) -> None:
            with self._lock:
                self._idle.append(worker)
            self._next()  # first, so that no worker waits for the caller
            self._done.put((tag, outcome))

        try:
            self._session.start(forward, done, pooled=worker > 0)
        except Exception as error:  # this may be a thread of the pool, whose errors nobody sees
            done(error)
