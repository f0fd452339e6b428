"""Worker threads for forward passes: as many at a time as the session has workers, while the caller lays out the next.

An exception can be raised between any two steps of the calling thread: KeyboardInterrupt at Ctrl-C, a timeout from a
signal handler or from another thread. So that thread hands a pass over, and waits for the passes, in single steps of
C code, and what it leaves unfinished at any of them is right:

- It takes no lock, which it could leave locked, and counts nothing that others wait for.
- It adds a pass to those that wait, and then sees to it that a thread serves them. Session and pass meet in that thread
  alone, where no signal handler runs.
- A thread serves until no pass waits, and ends. Nobody has to tell it to.
- Whether passes are in flight is asked of the workers that are not idle. A message that gets lost on the way to the
  caller leaves that as it is.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from .forward import Forward, Outputs
from .session import Session

__all__ = ["PassExecutor"]

T = TypeVar("T")

#: Seconds after which the caller looks whether a thread serves what waits. An exception that is set for a thread can,
#: in Python 3.11, reach one that it is just starting instead, and end that.
_LOOK_AGAIN = 0.2


class PassExecutor(Generic[T]):
    """Runs passes on a session's workers, and queues those that wait for one.

    A context manager, which is left when no pass is in flight: they need the interpreter when they end. Exceptions that
    are raised in the meantime wait, too.

    Args:
        session: computes the passes; as many at a time as it has workers.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._idle = list(range(session.workers))
        self._waiting: deque[tuple[Forward, T]] = deque()
        #: None where a worker has become idle, and () where somebody called :meth:`wake`.
        self._done: SimpleQueue[tuple[T, Outputs | BaseException] | tuple[()] | None] = SimpleQueue()
        self._woken = False  # there is a () in it
        #: Passes that were started and not waited for.
        self.running = 0

    def __enter__(self) -> PassExecutor[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        interrupt: BaseException | None = None
        while True:
            try:
                self._waiting.clear()
                while len(self._idle) < self._session.workers:
                    self._done.get()
                break
            except BaseException as another:
                interrupt = another
        if interrupt is not None:
            raise interrupt

    def start(self, forward: Forward, tag: T) -> None:
        """Queues a pass; ``tag`` comes back with its outputs."""
        self.running += 1
        self._waiting.append((forward, tag))
        self._see_to_it()

    def _see_to_it(self) -> None:
        """Starts a thread that serves, where a pass waits and a worker is idle."""
        if self._waiting and self._idle:  # else the busy workers look for waiting passes before they become idle
            thread = threading.Thread(target=self._serve, name="tokmarg", daemon=False)
            # Thread.start is many steps, in the middle of which an exception breaks it: so it runs in another thread.
            _thread.start_new_thread(self._launch, (thread,))

    def wait(self) -> tuple[T, Outputs]:
        """The next pass that is done, waiting for it.

        Raises:
            DeviceError: onnxruntime could not run it, or this is another process than the session's.
        """
        done = None
        while done is None:
            done = self.wait_or_wake()
        tag, outcome = done
        if isinstance(outcome, BaseException):
            raise outcome
        return tag, outcome

    def wait_or_wake(self) -> tuple[T, Outputs | BaseException] | None:
        """The next pass that is done, or the exception that ended it; None where :meth:`wake` was called before."""
        done: tuple[T, Outputs | BaseException] | tuple[()] | None = None
        while done is None:
            try:
                done = self._done.get(timeout=_LOOK_AGAIN)
            except Empty:
                self._see_to_it()
        if not done:
            self._woken = False  # before the caller looks what it was woken for
            return None
        self.running -= 1
        return done

    def wake(self) -> None:
        """Ends a :meth:`wait_or_wake`, this one or the next; from any thread."""
        if not self._woken:
            self._woken = True
            self._done.put(())

    def _launch(self, thread: threading.Thread) -> None:
        try:
            thread.start()  # the interpreter does not end before such a thread does
        except RuntimeError:  # no more threads
            self._serve()

    def _serve(self) -> None:
        """Runs waiting passes, as long as there are some and an idle worker."""
        # A pass that the caller adds after the last look at those that wait finds the worker idle.
        while self._waiting:
            try:
                worker = self._idle.pop()
            except IndexError:
                return
            try:
                self._run_waiting(pooled=worker > 0)
            finally:
                self._idle.append(worker)
                self._done.put(None)

    def _run_waiting(self, *, pooled: bool) -> None:
        """Runs passes on one worker until none waits."""
        while True:
            try:
                forward, tag = self._waiting.popleft()
            except IndexError:
                return
            outcome: Outputs | BaseException
            try:
                outcome = self._session.run_alone(forward, pooled=pooled)
            except BaseException as error:  # the caller's, to see: here nobody would
                outcome = error
            self._done.put((tag, outcome))
            del forward, tag, outcome  # the caller's alone from here on, as long as it wants
