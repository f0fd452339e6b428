"""Exceptions at any point of scoring: ``python -m tests.fuzz.interrupts BUNDLE --cases 2000`` raises them at random.

An embedding program may raise one between any two steps of the thread that scores: Ctrl-C, a timeout from a signal
handler, or one that another thread sets. It must come out as it is, soon, and the guard must go on to the bit. Each
case scores two contents, so that their passes run on workers, and is told apart by its number alone; the moment is not,
for it depends on the clock. ``--lines`` raises at every line of the modules that hand over passes instead.

Runs in a process of its own, which ends with the stacks of all threads where a case takes more than a minute.
"""

from __future__ import annotations

import _thread
import collections
import ctypes
import faulthandler
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from tokmarg import Guard
from tokmarg.engine import batch_invariant, cpu, executor, session

#: Modules at whose lines ``--lines`` raises. Not cpu: tracing raises at the first step of a ``finally``, too, where
#: Python lets nothing come in between.
MODULES = (batch_invariant, executor, session)
TEXTS = ("How do I pick a lock?", "gun hello idiot", "Thanks!", "hello")
#: Seconds that a case may take.
LIMIT = 60


class DeadlineError(Exception):
    """An embedding program's own."""


KINDS: tuple[type[BaseException], ...] = (KeyboardInterrupt, TimeoutError, DeadlineError)


class Trigger:
    """Raises an exception in the main thread at a moment to come, once or twice."""

    def __init__(self, kind: type[BaseException], delay: float, times: int) -> None:
        self.kind, self.delay, self.left = kind, delay, times

    def arm(self) -> None:
        signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, self.delay, 0.0005)

    def disarm(self) -> None:
        self.left = 0  # a signal that is on its way raises nothing
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _raise(self, *_: object) -> None:
        self.left -= 1
        if self.left <= 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.left >= 0:
            raise self.kind("of the embedding program")


class FromThread(Trigger):
    """Has another thread raise it."""

    def arm(self) -> None:
        self._lock = _thread.allocate_lock()
        _thread.start_new_thread(self._set, (threading.main_thread().ident or 0,))

    def disarm(self) -> None:
        self.left = 0
        while not self._lock.locked():  # the other thread is not through
            time.sleep(0.0002)
        time.sleep(0)
        self._set_exception(threading.main_thread().ident or 0, ctypes.py_object())  # takes back one not raised yet

    def _set(self, thread: int) -> None:
        time.sleep(self.delay)
        if self.left:
            self._set_exception(thread, ctypes.py_object(self.kind))
        self._lock.acquire()

    @staticmethod
    def _set_exception(thread: int, exception: ctypes.py_object[Any]) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)


class AtLine(Trigger):
    """Raises at a line, in the thread that scores; ``lines`` collects those that were passed."""

    def __init__(self, kind: type[BaseException], where: tuple[str, int] | None) -> None:
        super().__init__(kind, 0, 1)
        self.where, self.lines = where, dict[tuple[str, int], None]()

    def arm(self) -> None:
        sys.settrace(self._trace)

    def disarm(self) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in {module.__file__ for module in MODULES}:
            return None
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line":
            self.lines[place] = None
            if place == self.where and self.left:
                self.left = 0
                raise self.kind("of the embedding program")
        return self._trace


def outcome(call: Callable[[], Any], trigger: Trigger) -> Any:
    """What a call returns, or the exception that comes out of it, while a trigger is armed."""
    found: Any = None
    try:
        trigger.arm()
        found = call()
    except BaseException as error:
        found = error
    for _ in range(3):  # one that comes late, between two lines of this function
        try:
            trigger.disarm()
        except KINDS:
            continue
    return found


def checked(call: Callable[[], Any], trigger: Trigger, expected: Any, previous: Trigger | None = None) -> str:
    """What is wrong with a case; "raised" where the exception came out as it is, "scored" where it came too late.

    Args:
        call, trigger, expected: the case.
        previous: of the case before; what its thread set late may come out of this one.
    """
    kinds = {trigger.kind, previous.kind} if isinstance(previous, FromThread) else {trigger.kind}
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    mode = floating_point_mode()
    try:
        found = outcome(call, trigger)
    except KINDS as late:  # outside of outcome's try, so that a second one may still come
        found = late
        try:  # noqa: SIM105 (a call of contextlib.suppress would stand outside)
            trigger.disarm()
        except KINDS:
            pass
    if floating_point_mode() != mode:
        return "the thread's floating-point mode has changed"
    if isinstance(found, BaseException):
        return "raised" if type(found) in kinds else f"{trigger.kind.__name__} came out as {found!r:.200}"
    return "scored" if found == expected else f"other numbers: {found!r:.500}"


def floating_point_mode() -> int:
    """Whether the calling thread flushes denormals to zero."""
    get, _ = cpu._floating_point_environment()
    return int.from_bytes(get()[28:32], "little") & 0x8040


def cases(guard: Guard, count: int, start: int) -> Iterator[tuple[Callable[[], Any], Trigger, Any]]:
    """Random cases: what is called, what interrupts it, and what it returns where that comes too late."""

    def many() -> Any:
        return [result.to_dict() for result in guard.score_many(TEXTS[:2], max_nodes=4)]

    def one() -> Any:
        return guard.score(TEXTS[2], max_nodes=4).to_dict()

    expected = {call: call() for call in (many, one)}
    seconds = {call: min(_seconds(call) for _ in range(5)) for call in expected}
    for number in range(start, start + count):
        rng = random.Random(f"interrupts/{number}")
        call = rng.choice((many, many, many, one))
        kind, delay = rng.choice(KINDS), rng.uniform(0, 1.2) * seconds[call] + 1e-6
        trigger = FromThread(kind, delay, 1) if rng.random() < 0.5 else Trigger(kind, delay, rng.choice((1, 1, 2)))
        yield call, trigger, expected[call]


def lines(guard: Guard) -> Iterator[tuple[Callable[[], Any], Trigger, Any]]:
    """A case for each line that scoring two contents, and then one, passes, and each kind of exception."""

    def call() -> Any:
        return [
            result.to_dict() for texts in (TEXTS[:2], TEXTS[2:3]) for result in guard.score_many(texts, max_nodes=4)
        ]

    expected = call()
    passed = AtLine(DeadlineError, None)
    assert outcome(call, passed) == expected
    for place in passed.lines:
        for kind in (KeyboardInterrupt, TimeoutError):
            yield call, AtLine(kind, place), expected


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--cases", "count", default=2000, show_default=True, help="Random cases.")
@click.option("--start", default=0, show_default=True, help="Number of the first case.")
@click.option("--lines", "by_line", is_flag=True, help="At every line instead.")
def main(bundle: Path, count: int, start: int, by_line: bool) -> None:
    """Prints how many cases ended which way; exit code 1 where one went wrong."""
    sys.setswitchinterval(1e-5)  # so that another thread gets in between any two steps
    guard = Guard.load(bundle, device="cpu", threads=2)
    counts: collections.Counter[str] = collections.Counter()
    previous: Trigger | None = None
    for call, trigger, expected in lines(guard) if by_line else cases(guard, count, start):
        found = checked(call, trigger, expected, previous)
        previous = trigger
        where = f" at {trigger.where}" if isinstance(trigger, AtLine) else ""
        counts[found if found in ("raised", "scored") else f"{found}{where}"] += 1
        if sum(counts.values()) % 8 == 0:  # what was interrupted leaves nothing behind
            counts["changed"] += call() != expected
    deadline = time.monotonic() + LIMIT
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    counts["threads left"] += threading.active_count() - 1
    positive = +counts
    click.echo(json.dumps(positive))
    sys.exit(0 if set(positive) <= {"raised", "scored"} else 1)


if __name__ == "__main__":
    main()
