"""llama.cpp itself, from the PyPI package xllamacpp, as the reference for GGUF files."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

__all__ = ["LlamaCpp"]


class LlamaCpp:
    """llama.cpp with the model of a file, in this process, behind a port of this machine."""

    def __init__(self, file: Path) -> None:
        xllamacpp = pytest.importorskip("xllamacpp", reason="pip install -c constraints.txt xllamacpp")
        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.cpuparams.n_threads = 512, 1
        settings.warmup, settings.verbosity = False, 0
        self._server = xllamacpp.Server(settings)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are recognised, without a beginning-of-text token."""
        return list(self._ask("/tokenize", content=text, add_special=False, parse_special=True)["tokens"])

    def log_probabilities(self, ids: list[int], count: int) -> dict[int, float]:
        """Log-probabilities of the `count` likeliest next tokens."""
        # It answers with a token that is text: probabilities of one that ends within a character are left out.
        options = {"n_predict": 1, "n_probs": count, "temperature": 0, "logit_bias": [[ids[1], 100]]}
        answer = self._ask("/completion", prompt=ids, **options)
        return {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}

    def _ask(self, path: str, **question: Any) -> Any:
        body = json.dumps(question).encode()
        request = urllib.request.Request(
            self._server.listening_address + path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
