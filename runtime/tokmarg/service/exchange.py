"""One request from its first byte to its answer: limits, deadline, and no work for a client that has gone."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tokmarg.documents import strict_json, to_json

from .access import Access
from .problems import RequestError, of_exception

__all__ = ["Asked", "Exchange", "JSONAnswer", "Limits", "json_object"]

R = TypeVar("R")
_log = logging.getLogger("tokmarg.service")
#: What stands in the measurements for a client that has gone.
_GONE = 499
#: Answers that may come before the body has been read: the connection cannot be used any further.
_UNREAD = (401, 408, 413)
#: Seconds in which the rest of such a body is read and dropped.
_LINGER = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request.

    Attributes:
        body: bytes.
        seconds: from the first byte to the answer, or to the first row of a stream.
        contents: that one request other than a stream may hold.
    """

    body: int = 2**20
    seconds: float = 30.0
    contents: int = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has been read.

    Attributes:
        request: its headers and its address.
        body: all bytes.
        client: who asks, for fair shares.
    """

    request: Request
    body: bytes
    client: str


class JSONAnswer(Response):
    """An answer in JSON: ASCII, as the rows of the command line."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return (to_json(content) + "\n").encode()


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RequestError: 400, it is none.
    """
    try:
        data = strict_json(body)
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the body is no JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise RequestError(400, "the body is no JSON: nested too deeply") from None
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8 at byte {error.start + 1}") from None
    except ValueError as error:  # a field twice, NaN
        raise RequestError(400, f"the body is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError(400, "the body must be a JSON object")
    return data


class Exchange:
    """Serves an endpoint: an ASGI application.

    Args:
        answer: reads what was asked and makes the response.
        limits: of a request.
        access: who may ask.
        count: called with path, status (499: the client has gone) and seconds of each request.
    """

    def __init__(
        self,
        answer: Callable[[Asked], Awaitable[Response]],
        limits: Limits,
        access: Access,
        count: Callable[[str, int, float], None],
    ) -> None:
        self._answer, self._limits, self._access, self._count = answer, limits, access, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), _GONE

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with suppress(ClientDisconnect):  # nobody is there to be answered
            try:
                response = await self._response(Request(scope, receive), receive)
                if response.status_code in _UNREAD:
                    await _lingering(response, scope, receive, counting)
                else:
                    await _unless_gone(response(scope, _never, counting), receive)
            except OSError:  # of the connection, which broke while the answer was sent
                status = _GONE
            except Exception as error:  # it ends in the middle, without a traceback, which may hold a text
                _log.error("%s: %s", scope["path"], _place(error))
        self._count(scope["path"], status, time.perf_counter() - started)

    async def _response(self, request: Request, receive: Receive) -> Response:
        """The answer, or why there is none."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                client = self._access.client(request)
                asked = Asked(request, await self._body(request), client)
                return await _unless_gone(self._answer(asked), receive)
        except ClientDisconnect:
            raise
        except Exception as error:
            problem = of_exception(error)
            if problem.status >= 500:
                _log.error("%s: %s", request.url.path, _place(error))
            if problem.status in _UNREAD:
                problem.headers["Connection"] = "close"
            return JSONAnswer(problem.body, problem.status, problem.headers)

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.body
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise _too_large(limit)
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            if (size := size + len(part)) > limit:
                raise _too_large(limit)
        return b"".join(parts)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body has more than {limit:,} bytes", code="body_too_large")


async def _lingering(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an answer to a body that has not been read, and closes only when the client has sent the rest: a connection
    that is closed with bytes unread is reset, and a client that is still sending loses the answer."""

    async def unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, _never, unfinished)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


async def _unless_gone(work: Awaitable[R], receive: Receive) -> R:
    """What some work gives; it is cancelled where the client goes first.

    Raises:
        ClientDisconnect: the client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Message:
    """For responses that look out for a disconnect themselves: somebody else does."""
    await asyncio.Event().wait()
    raise AssertionError


def _place(error: BaseException) -> str:
    """An error's kind and where it came from, without its message, which may hold a text."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return type(error).__name__ + (f" at {last.filename}:{last.lineno}" if last is not None else "")
