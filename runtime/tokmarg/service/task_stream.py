"""A stream of tasks: reads an iterable as results are taken, with some of its items at work at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["asynchronous", "task_stream"]

T = TypeVar("T")
R = TypeVar("R")


async def task_stream(
    items: Iterable[T] | AsyncIterable[T],
    start: Callable[[T], Awaitable[Coroutine[Any, Any, R]]],
    *,
    ahead: int,
    ordered: bool,
) -> AsyncGenerator[R, None]:
    """The results of a stream's items.

    Args:
        items: read one by one, no further ahead of the results that were taken than ``ahead``.
        start: what becomes of an item, once it may start.
        ahead: items at work, or done and not taken, at most.
        ordered: results come in the order of the items; else each as soon as it is there.

    Raises:
        Exception: of the items' iterator, or of ``start``, after the results of the items before; of an item's work.
    """
    free = asyncio.Semaphore(ahead)
    results: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[R]] = set()

    async def read() -> None:
        try:
            async for item in asynchronous(items):
                await free.acquire()
                task = asyncio.create_task(await start(item))
                tasks.add(task)
                if ordered:
                    results.put_nowait(task)
                else:
                    task.add_done_callback(results.put_nowait)
        finally:
            if tasks and not ordered:
                await asyncio.wait(tasks)
            results.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await results.get()) is not None:
            outcome = await task
            tasks.discard(task)
            free.release()
            yield outcome
        await reader
    finally:
        left = [reader, *tasks]
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def asynchronous(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items of an iterable of either kind."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
