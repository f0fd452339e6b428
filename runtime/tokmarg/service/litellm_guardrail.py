"""``POST /beta/litellm_basic_guardrail_api``: LiteLLM's generic guardrail API, which its proxy calls for each message.

https://docs.litellm.ai/docs/adding_provider/generic_guardrail_api

A request is judged by its conversation, the last message of the user; a response by the answer in that conversation.
Where the guard's template cannot hold the conversation, the text is judged on its own. Images are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from tokmarg.errors import ContentError
from tokmarg.openai_format import flagged_labels
from tokmarg.prompt.message_parts import read_parts
from tokmarg.prompt.messages import Record
from tokmarg.results import MethodResult, Result

from .exchange import Asked, JSONAnswer, json_object
from .hosting import HostedGuard
from .problems import RequestError, of_exception
from .scoring import Endpoint

__all__ = ["LITELLM_PATH", "LiteLLMGuardrail", "judged_records"]

LITELLM_PATH = "/beta/litellm_basic_guardrail_api"


class LiteLLMGuardrail(Endpoint):
    """Answers ``BLOCKED`` where a text is flagged, else ``NONE``.

    ``additional_provider_specific_params.model`` in LiteLLM's configuration names one of several guards.
    """

    async def __call__(self, asked: Asked) -> Response:
        data = json_object(asked.body)
        params = data.get("additional_provider_specific_params") or {}
        if not isinstance(params, Mapping):
            raise RequestError(400, "additional_provider_specific_params must be an object")
        hosted = self._host.of(params.get("model"))
        for ways in judged_records(data):
            result = await self._result(hosted, ways, asked.client)
            if result.flagged:
                return JSONAnswer({"action": "BLOCKED", "blocked_reason": _reason(hosted, result)})
        return JSONAnswer({"action": "NONE"})

    async def _result(self, hosted: HostedGuard, ways: Sequence[Record], client: str) -> Result | MethodResult:
        """The result of the first of several ways to ask that the guard's template can hold."""
        outcomes = []
        for record in ways:
            async for outcome in self._scoring.stream(hosted, [record], client, hosted.options):
                outcomes.append(outcome)
            if not isinstance(outcomes[-1], ContentError):
                return outcomes[-1]
            if outcomes[-1].type != "unsupported_conversation":
                break
        assert isinstance(outcomes[-1], ContentError)
        raise of_exception(outcomes[-1], "texts")


def judged_records(data: Mapping[str, Any]) -> list[list[Record]]:
    """What is judged, each in the ways in which a guard may take it.

    Raises:
        RequestError: 400, the request is not as LiteLLM has it.
    """
    kind, texts = data.get("input_type"), data.get("texts") or []
    if kind not in ("request", "response"):
        raise RequestError(400, f"input_type must be request or response, not {kind!r:.60}", param="input_type")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, "texts must be a list of texts", param="texts")
    talk, texts = _conversation(data.get("structured_messages")), [text for text in texts if text.strip()]
    if kind == "response":
        while talk and talk[-1]["role"] == "assistant":
            talk.pop()
        answers = [{"role": "assistant", "content": text} for text in texts]
        return [[*([Record([*talk, a])] if talk else []), Record([a]), Record(a["content"])] for a in answers]
    if talk and talk[-1]["role"] == "user":
        return [[Record(talk), Record(talk[-1]["content"])]]
    return [[Record(text)] for text in texts]


def _conversation(messages: object) -> list[dict[str, str]]:
    """The messages of user and assistant that have text; a system prompt is the operator's own.

    Raises:
        RequestError: 400, a message is none.
    """
    talk: list[dict[str, str]] = []
    for n, message in enumerate(messages if isinstance(messages, list) else []):
        if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant"):
            continue
        place = f"structured_messages[{n}]"
        try:
            text, _ = read_parts(message, place)
        except ContentError as error:
            raise of_exception(error, place) from None
        if text.strip():
            talk.append({"role": str(message["role"]), "content": text})
    return talk


def _reason(hosted: HostedGuard, result: Result | MethodResult) -> str:
    titles = {label.id: label.title for label in hosted.guard.guard.spec.labels}
    labels = ", ".join(
        f"{label} {titles[label]}" for label in titles if label in flagged_labels(result, hosted.thresholds)
    )
    return f"flagged by {hosted.name}" + (f": {labels}" if labels else "")
