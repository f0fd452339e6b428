"""Fair queue: whoever asks for much does not keep those waiting who ask for little.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each flow has a clock that counts the cost of what it
got, and that does not lag behind the queue's own. Served is the flow whose next item would end first, so that of two
flows that are level the cheaper item comes first, and none waits for ever. Flows have flows of their own: clients, and
their requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class _Line(Generic[T]):
    """The items of one flow, in their order; those that are not wanted any more are left out."""

    def __init__(self, gone: Callable[[T], bool]) -> None:
        self._gone = gone
        self._items: deque[tuple[float, T]] = deque()

    def push(self, path: tuple[Hashable, ...], cost: float, item: T) -> None:
        self._items.append((cost, item))

    def next_cost(self) -> float | None:
        while self._items and self._gone(self._items[0][1]):
            self._items.popleft()
        return self._items[0][0] if self._items else None

    def take(self, fits: Callable[[T], bool]) -> tuple[float, T] | None:
        return self._items.popleft() if self.next_cost() is not None and fits(self._items[0][1]) else None


@dataclass(slots=True)
class _Flow(Generic[T]):
    """A flow's items and its clock."""

    queue: _Line[T] | FairQueue[T]
    clock: float


class FairQueue(Generic[T]):
    """Items by flow.

    Args:
        gone: whether an item is not wanted any more; it is left out.
    """

    def __init__(self, gone: Callable[[T], bool]) -> None:
        self._gone = gone
        self._flows: dict[Hashable, _Flow[T]] = {}
        self._now = 0.0

    def push(self, path: tuple[Hashable, ...], cost: float, item: T) -> None:
        """Adds an item to the end of a flow.

        Args:
            path: the flow's name, after the name of the flow it belongs to; all paths are of one length.
            cost: what serving it takes, above 0.
            item: the item.
        """
        name, *below = path
        if name not in self._flows:
            self._flows[name] = _Flow(FairQueue(self._gone) if below else _Line(self._gone), self._now)
        flow = self._flows[name]
        if flow.queue.next_cost() is None:  # it cannot save up what it did not ask for
            flow.clock = max(flow.clock, self._now)
        flow.queue.push(tuple(below), cost, item)

    def next_cost(self) -> float | None:
        """The cost of the item that comes next; None where there is none."""
        ends = [(flow.clock + cost, cost) for flow in self._flows.values() if (cost := flow.queue.next_cost())]
        return min(ends)[1] if ends else None

    def take(self, fits: Callable[[T], bool]) -> tuple[float, T] | None:
        """The cost of the next item that fits, of those that are first in their flow, and the item; None where none
        does."""
        ends = {name: flow.clock + cost for name, flow in self._flows.items() if (cost := flow.queue.next_cost())}
        for name in sorted(ends, key=ends.__getitem__):
            flow = self._flows[name]
            if (found := flow.queue.take(fits)) is not None:
                self._now = max(self._now, flow.clock)
                flow.clock += found[0]
                # A flow that has nothing and is not ahead of the others is as good as a new one.
                self._flows = {n: f for n, f in self._flows.items() if n in ends or f.clock > self._now}
                return found
        return None
