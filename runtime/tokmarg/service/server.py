"""Running the application under uvicorn: signals, draining, logs without contents."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

__all__ = ["Listen", "serve"]

#: Seconds beyond the deadline of a request after which a draining server ends anyway.
_SPARE = 5
#: Seconds in which requests arrive on connections that were accepted just before the end of listening.
_ARRIVAL = 0.3
_LOGS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False} for name in ("uvicorn", "tokmarg.service")
    },
}


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens.

    Attributes:
        host, port: address; port 0 takes a free one.
        certificate, key: files for TLS; None without.
        drain: seconds between the signal to end and the end of listening, in which load balancers see that the server
            is not ready any more.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: str | None = None
    key: str | None = None
    drain: float = 1.0


class Served(Protocol):
    """What a server serves (:class:`tokmarg.service.app.Service`)."""

    draining: bool

    def reload(self) -> None:
        """Reads files again."""


class _Server(uvicorn.Server):
    """Drains at SIGTERM and SIGINT, and reloads at SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Served, drain: float) -> None:
        super().__init__(config)
        self._service, self._drain = service, drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if sys.platform == "win32":  # its loops have no handlers
            with super().capture_signals():
                yield
            return
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: self._service.reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(_ARRIVAL)
        await super().shutdown(sockets)

    def _end(self) -> None:
        """The first signal begins to drain; a second one ends listening, and a third one the server."""
        self.force_exit, again = self.should_exit, self._service.draining
        self._service.draining = True
        if again:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(self._drain, setattr, self, "should_exit", True)


def serve(app: ASGIApp, service: Served, listen: Listen, seconds: float) -> None:
    """Serves until a signal ends it; accepted requests are answered first.

    Args:
        app: the application.
        service: what it serves.
        listen: where.
        seconds: deadline of a request.
    """
    config = uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        log_config=_LOGS,
        access_log=False,
        server_header=False,
        ssl_certfile=listen.certificate,
        ssl_keyfile=listen.key,
        timeout_graceful_shutdown=int(seconds) + _SPARE,
    )
    _Server(config, service, listen.drain).run()
