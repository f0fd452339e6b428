"""The waiting line of a service, fed by many callers while the engine runs, in a thread that comes and goes.

add ──> fair queue ── take (engine's thread) ──> passes ── done ──> ticket.finish
leave: the caller does not want it any more, wherever it is
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from tokmarg.engine.cpu import release_free_memory
from tokmarg.engine.waiting_line import SequenceGroup
from tokmarg.errors import Overloaded, TokmargError

from .fair_queue import FairQueue

__all__ = ["EngineLine", "LineCounts", "Ticket"]

#: Seconds without work after which the engine's thread ends. The next content starts another, which takes 0.1 ms.
_IDLE = 0.5
#: What a content costs beside the tokens of its prompt: about as many verdict nodes.
_NODES = 32
#: Seconds that the rate of work is a mean over, about.
_RECENT = 10.0
#: Seconds after which to ask again, at most.
_MOST_RETRY = 60


@dataclass(slots=True, eq=False)
class Ticket:
    """One content's place in the line.

    Attributes:
        groups: what the engine runs; empty as long as the content is being encoded.
        finish: called once, by the engine's thread, where the searches are done, or with the error that ended them.
        left: groups that are not done.
        waiting: groups that are not in flight; 1 while the content is being encoded.
        gone: nobody wants it any more.
    """

    groups: Sequence[SequenceGroup] = ()
    finish: Callable[[TokmargError | None], None] = lambda error: None
    left: int = 0
    waiting: int = 1
    gone: bool = False


@dataclass(slots=True)
class LineCounts:
    """What a line has seen: contents waiting and in flight now, tokens that wait, contents that were done, that failed
    with their pass, that were given up by their callers, and that were refused."""

    waiting: int = 0
    waiting_tokens: int = 0
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Rate:
    """Tokens a second while there is work, a mean that forgets."""

    per_second: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def resume(self) -> None:
        """Time until now is none of work."""
        self._since = time.monotonic()

    def add(self, tokens: int) -> None:
        now = time.monotonic()
        passed = max(1e-3, now - self._since)
        weight = math.exp(-passed / _RECENT)
        self.per_second = weight * self.per_second + (1 - weight) * tokens / passed
        self._since = now


class EngineLine:
    """A waiting line (:class:`tokmarg.engine.waiting_line.WaitingLine`) that any thread may add to.

    Args:
        serve: runs the engine on this line.
        max_waiting: contents that wait at most, those that are being encoded among them.

    Attributes:
        counts: as of now.
    """

    def __init__(self, serve: Callable[[EngineLine], None], max_waiting: int) -> None:
        self._serve, self._max_waiting = serve, max_waiting
        self._changed = threading.Condition()  # guards everything below
        self._tickets: dict[SequenceGroup, Ticket] = {}  # of groups that wait or are in flight
        self._queue: FairQueue[SequenceGroup] = FairQueue(lambda group: group not in self._tickets)
        self._hopeful: deque[Callable[[], None]] = deque()
        self._running = False
        self._wake: Callable[[], None] = lambda: None
        self._rate = _Rate()
        self.counts = LineCounts()

    # By callers

    def reserve(self) -> Ticket:
        """A place in the line, for a content that is still to be encoded.

        Raises:
            Overloaded: there is none.
        """
        with self._changed:
            if self.counts.waiting >= self._max_waiting:
                self.counts.refused += 1
                what = f"{self.counts.waiting:,} contents wait to be scored already, as many as may"
                raise Overloaded(f"{what}: ask again later", self._retry_after())
            self.counts.waiting += 1
            return Ticket()

    def _retry_after(self) -> int:
        rate = self._rate.per_second
        seconds = self.counts.waiting_tokens / rate if rate else 1
        return min(_MOST_RETRY, max(1, math.ceil(seconds)))

    def hope(self, call: Callable[[], None]) -> None:
        """Asks for a call, from some thread, once a place may be free; right now where one is."""
        with self._changed:
            if self.counts.waiting >= self._max_waiting:
                self._hopeful.append(call)
                return
        call()

    def add(
        self,
        ticket: Ticket,
        groups: Sequence[SequenceGroup],
        flow: tuple[Hashable, Hashable],
        finish: Callable[[TokmargError | None], None],
    ) -> None:
        """Adds the encoded content of a ticket.

        Args:
            ticket: of :meth:`reserve`.
            groups: what the engine is to run.
            flow: whose it is, and of which request.
            finish: called once, by the engine's thread, where the searches are done, or with the error that ended them;
                not after :meth:`leave`.
        """
        with self._changed:
            if ticket.gone:
                return
            ticket.groups, ticket.left, ticket.waiting, ticket.finish = groups, len(groups), len(groups), finish
            for group in groups:
                self._tickets[group] = ticket
                self._queue.push(flow, group.size + _NODES, group)
                self.counts.waiting_tokens += group.size
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="tokmarg-engine").start()
            self._changed.notify()
            self._wake()

    def leave(self, ticket: Ticket) -> None:
        """The caller is served, or does not want the content any more. Its passes in flight are the last."""
        with self._changed:
            if ticket.gone:
                return
            if ticket.groups:
                self.counts.cancelled += 1
            self._forget(ticket)
            self._wake()

    def _forget(self, ticket: Ticket) -> None:
        """Takes a ticket off all lists, wherever it is."""
        ticket.gone = True
        if ticket.waiting:
            self._leave_waiting()
            self.counts.waiting_tokens -= sum(group.size for group in ticket.groups[-ticket.waiting :])
        else:
            self.counts.in_flight -= 1
        for group in ticket.groups:
            self._tickets.pop(group, None)

    def _leave_waiting(self) -> None:
        self.counts.waiting -= 1
        if self._hopeful:
            self._hopeful.popleft()()

    # By the engine, in its thread

    def watch(self, wake: Callable[[], None]) -> None:
        with self._changed:
            self._wake = wake

    def take(self, fits: Callable[[SequenceGroup], bool]) -> SequenceGroup | None:
        with self._changed:
            if (found := self._queue.take(fits)) is None:
                return None
            group = found[1]
            ticket = self._tickets[group]
            ticket.waiting -= 1
            self.counts.waiting_tokens -= group.size
            if not ticket.waiting:
                self._leave_waiting()
                self.counts.in_flight += 1
            return group

    def wait(self) -> bool:
        with self._changed:
            if self._queue.next_cost() is None:
                self._changed.wait(_IDLE)
                self._rate.resume()
            self._running = self._queue.next_cost() is not None
            return self._running

    def cancelled(self, group: SequenceGroup) -> bool:
        with self._changed:
            return group not in self._tickets

    def done(self, group: SequenceGroup, error: TokmargError | None = None) -> None:
        with self._changed:
            self._rate.add(group.size + _NODES)
            if (ticket := self._tickets.pop(group, None)) is None:
                return
            ticket.left -= 1
            if ticket.left and error is None:
                return
            self._forget(ticket)
            if error is None:
                self.counts.done += 1
            else:
                self.counts.failed += 1
        ticket.finish(error)

    def _run(self) -> None:
        try:
            self._serve(self)
            release_free_memory()  # there was no work for a while
        except BaseException as error:  # none that is known of: the callers are told, and the next content starts anew
            with self._changed:
                self._running = False
                lost = list(dict.fromkeys(self._tickets.values()))
                for ticket in lost:
                    self._forget(ticket)
                self.counts.failed += len(lost)
            for ticket in lost:
                ticket.finish(TokmargError(f"the engine failed: {type(error).__name__}: {error}"))
