"""``POST /classify``, as vLLM has it: https://docs.vllm.ai/en/latest/serving/online_serving (classification API)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import Response

from tokmarg.errors import ContentError
from tokmarg.guard import Guard
from tokmarg.prompt.messages import Record
from tokmarg.results import MethodResult, Result

from .exchange import Asked, JSONAnswer, json_object
from .problems import RequestError
from .scoring import Endpoint

__all__ = ["Classify"]

#: The classes, in the order of ``probs``.
_CLASSES = ("safe", "unsafe")


class Classify(Endpoint):
    """Answers with the classes ``safe`` and ``unsafe``: labels of a guard are no classes, since several can hold.

    The label is ``unsafe`` where the content is flagged. The guard's own row stands beside, under ``tokmarg``.
    """

    async def __call__(self, asked: Asked) -> Response:
        data = json_object(asked.body)
        hosted = self._host.of(data.get("model"))
        given = data.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise RequestError(400, f"input must be a text or a list of texts, not {given!r:.60}", param="input")
        records = [Record(text, id=n) for n, text in enumerate(texts)]
        params = ["input"] if isinstance(given, str) else [f"input[{n}]" for n in range(len(texts))]
        results = await self._scoring.results(hosted, records, asked.client, hosted.options, params)
        tokens = await asyncio.to_thread(_prompt_tokens, hosted.guard.guard, texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
        body = {
            "id": f"classify-{secrets.token_hex(16)}",
            "object": "list",
            "created": int(time.time()),
            "model": hosted.name,
            "data": [_item(n, result) for n, result in enumerate(results)],
            "usage": usage,
        }
        return JSONAnswer(body)


def _prompt_tokens(guard: Guard, texts: Sequence[str]) -> int:
    """Tokens of the prompts; of a text that was scored in windows, none are counted."""
    count = 0
    for text in texts:
        with suppress(ContentError):
            count += len(guard.prompt(text).token_ids)
    return count


def _item(index: int, result: Result | MethodResult) -> dict[str, Any]:
    unsafe = result.unsafe.probability if isinstance(result, Result) else (result.scores["unsafe"] or 0.0)
    unsafe = min(1.0, unsafe)
    return {
        "index": index,
        "label": _CLASSES[result.flagged],
        "probs": [1.0 - unsafe, unsafe],
        "num_classes": len(_CLASSES),
        "tokmarg": result.to_dict(),
    }
