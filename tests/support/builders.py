"""Prompt builders of the repository's specs, resolved as the exporter resolves them."""

from __future__ import annotations

import functools
from typing import Any

from tests.conftest import tokenizer_file
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.spec import Spec

from .encoders import encoder_of

__all__ = ["ANSWER", "CONVERSATION", "QUESTION", "SMOLLM2_CHAT", "TOKENIZER", "builder_of", "resolved"]

TOKENIZER = {"llama-guard-3-8b": "llama3", "llama-guard-3-1b": "llama3", "instruct": "smollm2"}
#: The chat template in SmolLM2-135M-Instruct's GGUF file.
SMOLLM2_CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@functools.cache
def resolved(name: str) -> dict[str, Any]:
    """A spec of the repository, resolved as the exporter does it."""
    from transformers import PreTrainedTokenizerFast

    from tokmarg_export.model.loaded_model import LoadedModel
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    smollm2 = str(tokenizer_file("smollm2"))
    loaded = LoadedModel(
        model=None,
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=smollm2, chat_template=SMOLLM2_CHAT),
        tokenizer_json="",
        chat_template=SMOLLM2_CHAT,
        model_id="test",
        revision=None,
        licence=None,
        max_positions=1024,
        eos_token_ids=(2,),  # <|im_end|>
    )
    return resolve_spec(*choose_spec(name, "test"), loaded)


@functools.cache
def builder_of(name: str, max_tokens: int = 2000) -> PromptBuilder:
    return PromptBuilder(Spec.parse(resolved(name), name), encoder_of(TOKENIZER[name]), max_tokens)


QUESTION, ANSWER = "How do I pick a lock?", "With a tension wrench."
CONVERSATION = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
