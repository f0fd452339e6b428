"""What goes in flight, and when."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from tokmarg.engine.executor import PassExecutor
from tokmarg.engine.session import Session
from tokmarg.engine.waiting_line import BatchLine, InFlightLimit, SequenceGroup
from tokmarg.errors import DeviceError


@pytest.mark.parametrize(
    ("size", "in_flight", "fits"),
    [
        (10, [], True),
        (10, [50, 40], True),
        (11, [50, 40], False),  # tokens of short ones
        (10, [400, 500], True),  # long ones have a budget of their own
        (70, [50, 40], True),
        (70, [60], False),
        (9999, [], True),  # one always fits
        (9999, [10, 10], True),
        (1, [1, 1, 1, 1], False),  # contents
    ],
)
def test_in_flight_limit(size: int, in_flight: list[int], fits: bool) -> None:
    assert InFlightLimit(contents=4, tokens=100, long=50).fits(size, in_flight) is fits


def test_a_batch_is_taken_in_its_order_and_raises_what_goes_wrong() -> None:
    first, second = (cast(SequenceGroup, name) for name in ("first", "second"))
    line = BatchLine([first, second])
    assert line.take(lambda group: group is second) is None  # the first one waits until it fits
    assert line.wait()
    assert [line.take(lambda _: True) for _ in range(3)] == [first, second, None]
    assert not line.wait()
    line.done(first)
    with pytest.raises(DeviceError):
        line.done(second, DeviceError("as if"))


class Sleeping:
    """A session of one worker that computes until it is told to end."""

    workers = 1

    def __init__(self) -> None:
        self.end = threading.Event()

    def run_alone(self, forward: Any, *, pooled: bool) -> Any:
        assert self.end.wait(60)
        return forward


def test_waking_an_executor() -> None:
    """Once for any number of calls before it; a pass that is done is not lost over it."""
    session = Sleeping()
    with PassExecutor[str](cast(Session, session)) as executor:
        executor.start(cast(Any, "pass"), "tag")
        for _ in range(1000):
            executor.wake()
        assert executor.wait_or_wake() is None
        assert executor._done.qsize() == 0
        threading.Timer(0.1, executor.wake).start()
        assert executor.wait_or_wake() is None
        session.end.set()
        assert cast(Any, executor.wait_or_wake()) == ("tag", "pass")
        assert executor.running == 0
