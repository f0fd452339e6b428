"""Moderating an asynchronous stream of text: :mod:`tokmarg.moderation` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

from tokmarg.moderation import ModeratedText, TextSoFar
from tokmarg.prompt.messages import Content
from tokmarg.results import MethodResult, Result

from .task_stream import asynchronous

__all__ = ["moderated"]


async def moderated(
    chunks: Iterable[str] | AsyncIterable[str],
    text: TextSoFar,
    score: Callable[[Content], Awaitable[Result | MethodResult]],
) -> AsyncGenerator[ModeratedText, None]:
    """The parts of a stream; closes it at the end, if it can be closed.

    Args:
        chunks: of the text.
        text: what has come of it: nothing.
        score: scores a content.
    """
    try:
        async for chunk in asynchronous(chunks):
            if text.add(chunk):
                part = text.judged(await score(text.content))
                yield part
                if part.stopped:
                    return
        if text.unjudged:
            yield text.judged(await score(text.content))
    finally:
        close: Any = getattr(chunks, "aclose", None) or getattr(chunks, "close", None)  # of a generator, of a response
        closing = None if close is None else close()
        if closing is not None:
            await closing
