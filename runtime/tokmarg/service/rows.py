"""``POST /v1/score``: the rows of ``tokmarg score``, for one record in JSON or for many in JSONL."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import fields, replace
from typing import Any

from starlette.responses import Response, StreamingResponse

from tokmarg.documents import to_json
from tokmarg.errors import ContentError, TokmargError
from tokmarg.records import json_record, read_records
from tokmarg.results import Thresholds
from tokmarg.score_options import ScoreOptions

from .exchange import Asked, JSONAnswer, json_object
from .hosting import HostedGuard
from .problems import RequestError, of_exception
from .scoring import Endpoint, Outcome

__all__ = ["Rows", "rows_of"]

#: Media types of a body with a record on each line.
_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/jsonlines")
_JSONL = "application/x-ndjson"
_OPTIONS = tuple(field.name for field in fields(ScoreOptions))


class Rows(Endpoint):
    """Answers with a row, or with one for each line of the request.

    A record is that of the command line: ``text`` or ``messages``, and an ``id``. Beside it a JSON body may have
    ``model``, ``role`` and ``options``, fields of :class:`tokmarg.ScoreOptions`; of JSONL these stand in the query.
    """

    async def __call__(self, asked: Asked) -> Response:
        kind = asked.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        return await (self._lines(asked) if kind in _LINES else self._one(asked))

    async def _one(self, asked: Asked) -> Response:
        data = json_object(asked.body)
        hosted = self._host.of(data.get("model"))
        options = _options(hosted, data.get("options", {}))
        try:
            record, _ = json_record(asked.body.decode("utf-8-sig"), None, data.get("role"), "text", "body")
        except ContentError as error:
            return JSONAnswer(error.to_dict(), 400)
        async with aclosing(self._scoring.stream(hosted, [record], asked.client, options)) as outcomes:
            outcome = await anext(outcomes)
        return JSONAnswer(outcome.to_dict(), 400 if isinstance(outcome, ContentError) else 200)

    async def _lines(self, asked: Asked) -> Response:
        query = dict(asked.request.query_params)
        hosted = self._host.of(query.pop("model", None))
        role: Any = query.pop("role", None)
        options = _options(hosted, {name: _value(name, text) for name, text in query.items()})
        records = read_records(io.BytesIO(asked.body), "jsonl", role=role)
        outcomes = self._scoring.stream(hosted, records, asked.client, options)
        try:  # what refuses the whole request does so before its answer begins
            first = await anext(outcomes)
        except StopAsyncIteration:
            return Response(b"", media_type=_JSONL)
        return StreamingResponse(rows_of(first, outcomes), media_type=_JSONL)


async def rows_of(first: Outcome, outcomes: AsyncGenerator[Outcome, None]) -> AsyncGenerator[str, None]:
    """The lines of a stream; the last one says why where it ends before its time."""
    async with aclosing(outcomes):
        yield to_json(first.to_dict()) + "\n"
        try:
            async for outcome in outcomes:
                yield to_json(outcome.to_dict()) + "\n"
        except TokmargError as error:  # a pass has failed: its status has been sent long ago
            yield to_json(of_exception(error).body) + "\n"


def _value(name: str, text: str) -> object:
    """An option's value from a query: a number, or true or false, where it looks like one."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _options(hosted: HostedGuard, given: object) -> ScoreOptions:
    """The guard's options, with those of a request.

    Raises:
        RequestError: 400, an option is unknown, wrong, or beyond what the server allows.
    """
    if not isinstance(given, Mapping):
        raise RequestError(400, f"options must be an object, not {given!r:.60}", param="options")
    changes = dict(given)
    for name in changes:
        if name not in _OPTIONS:
            raise RequestError(400, f"{name!r:.60} is no option ({', '.join(_OPTIONS)})", param=f"options.{name:.60}")
    limit, wanted = hosted.options.max_tokens, changes.get("max_tokens")
    if limit is not None and "max_tokens" in changes and (wanted is None or (type(wanted) is int and wanted > limit)):
        raise RequestError(400, f"max_tokens may be {limit:,} here at most", param="options.max_tokens")
    try:
        if isinstance(thresholds := changes.get("thresholds"), Mapping):
            changes["thresholds"] = Thresholds(**thresholds)
        own = hosted.options if changes.get("method", "exact") == "exact" else replace(hosted.options, prior=None)
        options = ScoreOptions.of(own, **changes)
        hosted.guard.check_options(options)
    except (TokmargError, TypeError) as error:
        raise RequestError(400, f"options: {error}", code="invalid_option", param="options") from None
    return options
