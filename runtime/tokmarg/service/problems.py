"""What a request can be refused for, as OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping

from tokmarg.errors import ContentError, OptionError, Overloaded, TokmargError

__all__ = ["RequestError", "of_exception"]


class RequestError(Exception):
    """A request that gets no answer but this.

    Attributes:
        status: the HTTP status.
        body: the JSON.
        headers: of the response, beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


_TYPES = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error"}


def of_exception(error: Exception, param: str | None = None) -> RequestError:
    """The answer to what went wrong while a request was served.

    Args:
        error: the exception.
        param: the field that it is about, where that is known.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(error.retry_after)}
        return RequestError(429, str(error), code="overloaded", headers=headers)
    if isinstance(error, ContentError):
        return RequestError(400, str(error), code=error.type, param=param)
    if isinstance(error, OptionError):
        return RequestError(400, str(error), code="invalid_option", param=param)
    if isinstance(error, TimeoutError):
        return RequestError(408, "the request was not served in time: its work has been dropped", code="timeout")
    if isinstance(error, TokmargError):
        return RequestError(500, str(error), code="scoring_failed")
    return RequestError(500, "an error of the server's own: its log has the kind of it", code="internal_error")
