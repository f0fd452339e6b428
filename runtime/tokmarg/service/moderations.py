"""``POST /v1/moderations`` and ``GET /v1/models``, as OpenAI has them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from tokmarg.openai_format import moderation_response
from tokmarg.prompt.messages import Record

from .exchange import Asked, JSONAnswer, json_object
from .hosting import GuardHost, HostedGuard
from .problems import RequestError
from .scoring import Endpoint

__all__ = ["Moderations", "models_answer", "moderated_texts"]


class Moderations(Endpoint):
    """Answers with OpenAI's response: https://platform.openai.com/docs/api-reference/moderations

    Fields that are not known are ignored.
    """

    async def __call__(self, asked: Asked) -> Response:
        data = json_object(asked.body)
        hosted = self._host.of(data.get("model"))
        texts, params = moderated_texts(data)
        records = [Record(text, id=n) for n, text in enumerate(texts)]
        results = await self._scoring.results(hosted, records, asked.client, hosted.options, params)
        body = moderation_response(
            results,
            id=f"modr-{secrets.token_hex(12)}",
            thresholds=hosted.thresholds,
            table=hosted.table,
            details=True,
        )
        return JSONAnswer(body)


def moderated_texts(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The texts of ``input``, one for each result, and the field of each.

    Raises:
        RequestError: 400, it is not as OpenAI has it, or holds an image.
    """
    if "input" not in data:
        raise RequestError(400, "input is missing: a text, a list of texts, or a list of parts", param="input")
    given = data["input"]
    if isinstance(given, str):
        return [given], ["input"]
    if not isinstance(given, list) or not given:
        raise RequestError(400, f"input must be a text, or a list of texts or parts, not {given!r:.60}", param="input")
    if all(isinstance(item, str) for item in given):
        return given, [f"input[{n}]" for n in range(len(given))]
    return ["\n".join(_part(item, f"input[{n}]") for n, item in enumerate(given))], ["input"]


def _part(item: object, param: str) -> str:
    """The text of a part; all parts of an input are one content."""
    if not isinstance(item, dict):
        raise RequestError(400, f"{param} must be a part (an object with type), as the others are", param=param)
    if item.get("type") == "image_url":
        raise RequestError(
            400, f"{param} is an image: this guard reads text alone", code="unsupported_input_type", param=param
        )
    if item.get("type") != "text" or not isinstance(item.get("text"), str):
        message = f'{param} must be {{"type": "text", "text": "..."}}, not one of type {item.get("type")!r:.60}'
        raise RequestError(400, message, param=param)
    text: str = item["text"]
    return text


def models_answer(host: GuardHost, created: int) -> JSONAnswer:
    """The models, as OpenAI lists them.

    Args:
        host: the guards.
        created: seconds since 1970, of the server's start.
    """
    models: Sequence[dict[str, object]] = [
        {"id": hosted.name, "object": "model", "created": created, "owned_by": "tokmarg", "tokmarg": _about(hosted)}
        for hosted in host
    ]
    return JSONAnswer({"object": "list", "data": models})


def _about(hosted: HostedGuard) -> dict[str, object]:
    """What OpenAI's clients do not ask for: the bundle's model, its labels, and their titles."""
    guard = hosted.guard.guard
    titles = {label.id: label.title for label in guard.spec.labels}
    return {"model": guard.manifest.model_id, "labels": list(guard.labels), "titles": titles}
