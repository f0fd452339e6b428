"""The HTTP application: which path is answered by what."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokmarg.errors import TokmargError

from .access import Access
from .classify import Classify
from .exchange import Asked, Exchange, JSONAnswer, Limits
from .hosting import GuardHost
from .litellm_guardrail import LITELLM_PATH, LiteLLMGuardrail
from .measurements import CONTENT_TYPE, Measurements
from .moderations import Moderations, models_answer
from .page import ExplanationPage, page_answer
from .problems import RequestError
from .rows import Rows
from .scoring import Scoring

__all__ = ["Service", "application"]

_log = logging.getLogger("tokmarg.service")


@dataclass(slots=True)
class Service:
    """What a server is made of.

    Attributes:
        host: the guards.
        access: who may ask.
        limits: of a request.
        draining: no new requests are wanted: the server is about to end.
        started: seconds since 1970.
    """

    host: GuardHost
    access: Access
    limits: Limits = field(default_factory=Limits)
    draining: bool = False
    started: int = field(default_factory=lambda: int(time.time()))

    def reload(self) -> None:
        """Reads tokens, calibrations and thresholds again; what cannot be read stays as it was, and is logged."""
        for what in (self.access.reload, self.host.reload):
            try:
                what()
            except TokmargError as error:
                _log.error("not reloaded: %s", error)
        _log.info("reloaded")


def application(service: Service) -> ASGIApp:
    """The application of a service."""
    measurements = Measurements(service.host)
    scoring = Scoring(measurements.row, service.limits.contents)

    def endpoint(path: str, method: str, answer: Callable[[Asked], Awaitable[Response]]) -> Route:
        return Route(path, Exchange(answer, service.limits, service.access, measurements.request), methods=[method])

    async def models(_: Asked) -> Response:
        return models_answer(service.host, service.started)

    async def metrics(_: Asked) -> Response:
        return Response(measurements.text(), media_type=CONTENT_TYPE)

    async def healthy(_: Request) -> Response:
        return JSONAnswer({"status": "ok"})

    async def ready(_: Request) -> Response:
        status = "draining" if service.draining else "ready"
        return JSONAnswer({"status": status}, 503 if service.draining else 200)

    routes = [
        endpoint("/v1/moderations", "POST", Moderations(service.host, scoring)),
        endpoint("/v1/score", "POST", Rows(service.host, scoring)),
        endpoint("/classify", "POST", Classify(service.host, scoring)),
        endpoint(LITELLM_PATH, "POST", LiteLLMGuardrail(service.host, scoring)),
        endpoint("/explanation", "POST", ExplanationPage(service.host)),
        endpoint("/v1/models", "GET", models),
        endpoint("/metrics", "GET", metrics),
        Route("/", page_answer()),
        Route("/healthz", healthy),
        Route("/readyz", ready),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for hosted in service.host:
            await hosted.guard.close()

    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route}, lifespan=lifespan)
    return _closing_connections(app, service)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "there is no such path" if error.status_code == 404 else str(error.detail)
    problem = RequestError(error.status_code, message)
    return JSONAnswer(problem.body, error.status_code, error.headers)


def _closing_connections(app: ASGIApp, service: Service) -> ASGIApp:
    """Asks clients to leave their connections while the server drains: the next request on one could meet its end."""

    async def asking(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and service.draining:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, with_header)

    return asking
