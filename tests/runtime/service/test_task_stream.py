"""A stream of tasks: lazily read, bounded, in order or as done, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from tokmarg.service.task_stream import task_stream

AHEAD = 4


class Work:
    """Items are how long they take, in milliseconds; counts what is at work."""

    def __init__(self) -> None:
        self.now = self.most = self.read = 0

    def items(self, *takes: int) -> Iterator[int]:
        for each in takes:
            self.read += 1
            yield each

    async def start(self, takes: int) -> Coroutine[Any, Any, int]:
        return self._work(takes)

    async def _work(self, takes: int) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(takes / 1000)
        finally:
            self.now -= 1
        if takes == 13:
            raise ValueError(takes)
        return takes


async def results(work: Work, items: Any, ordered: bool) -> list[int]:
    return [each async for each in task_stream(items, work.start, ahead=AHEAD, ordered=ordered)]


def test_in_order_or_as_done() -> None:
    work = Work()
    assert asyncio.run(results(work, [200, 1, 100], True)) == [200, 1, 100]
    assert asyncio.run(results(work, [200, 1, 100], False)) == [1, 100, 200]
    assert asyncio.run(results(work, [], False)) == []


def test_an_asynchronous_iterable() -> None:
    async def items() -> AsyncIterator[int]:
        for each in (3, 1, 2):
            await asyncio.sleep(0)
            yield each

    assert asyncio.run(results(Work(), items(), True)) == [3, 1, 2]


@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_is_read_than_is_taken(ordered: bool) -> None:
    work = Work()

    async def take_some() -> None:
        stream = task_stream(work.items(*[1] * 100), work.start, ahead=AHEAD, ordered=ordered)
        for _ in range(3):
            await anext(stream)
        await asyncio.sleep(0.05)
        assert work.read <= 3 + AHEAD + 1
        await stream.aclose()

    asyncio.run(take_some())
    assert (work.now, work.most <= AHEAD) == (0, True)


def test_what_is_left_is_cancelled() -> None:
    work = Work()

    async def leave() -> None:
        async for _ in (stream := task_stream([1, 10_000, 10_000], work.start, ahead=AHEAD, ordered=True)):
            break
        await stream.aclose()

    asyncio.run(asyncio.wait_for(leave(), 5))
    assert work.now == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_an_iterator_that_fails_does_so_after_its_items(ordered: bool) -> None:
    def items() -> Iterator[int]:
        yield from (2, 1)
        raise OSError("the file is gone")

    found: list[int] = []

    async def run() -> None:
        async for each in task_stream(items(), Work().start, ahead=AHEAD, ordered=ordered):
            found.append(each)

    with pytest.raises(OSError, match="the file is gone"):
        asyncio.run(run())
    assert sorted(found) == [1, 2]


def test_work_that_fails() -> None:
    with pytest.raises(ValueError, match="13"):
        asyncio.run(results(Work(), [1, 13, 1], True))
