"""Rows as training sees them, in the runtime's own prompts, with verdicts of one token a label; what a run saves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.reference_guard import BUNDLE, script
from tokmarg.loading import prompt_builder_of
from tokmarg.prompt.spec import Spec
from tokmarg.tokenizer import Encoder
from tokmarg_export.spec_library import choose_spec


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    with script("train") as module:
        yield module


@pytest.fixture(scope="module")
def verdicts(train: ModuleType) -> Any:
    document, where = choose_spec("reference-guard", "")
    document.pop("models")
    encoder = Encoder((BUNDLE / "tokenizer.json").read_text(encoding="utf-8"))
    return train.Verdicts(prompt_builder_of(Spec.parse(document, where), encoder, 2048))


def row(text: str, labels: list[str] | None, unsafe: float) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "labels": labels, "unsafe": unsafe}


def tokens(verdicts: Any, targets: list[tuple[int, int, float]]) -> str:
    text: str = verdicts.prompter.encoder.decode([token for _, token, _ in targets])
    return text


def test_a_verdict_is_one_token_a_label_in_the_policys_order(verdicts: Any) -> None:
    role, encoded = verdicts.encode(row("hello", ["S10", "S1"], 1.0))
    assert role == "user"
    assert tokens(verdicts, encoded.targets) == " unsafe violence hate<|im_end|>"
    end = len(encoded.token_ids)
    assert [place for place, _, _ in encoded.targets] == [end - 4, end - 3, end - 2, end - 1]


def test_unknown_category_supervises_the_decision_alone(verdicts: Any) -> None:
    _, encoded = verdicts.encode(row("hello", None, 1.0))
    assert tokens(verdicts, encoded.targets) == " unsafe"
    _, encoded = verdicts.encode(row("hello", [], 0.0))
    assert tokens(verdicts, encoded.targets) == " safe<|im_end|>"


def test_rude_rows_are_trained_between_safe_and_unsafe(verdicts: Any) -> None:
    _, encoded = verdicts.encode(row("hello", None, 0.4))
    (first, second) = encoded.targets
    assert first[0] == second[0] == len(encoded.token_ids) - 1
    assert tokens(verdicts, [first, second]) == " unsafe safe"
    assert (first[2], second[2]) == (0.4, 0.6)


def test_a_conversation_may_begin_with_the_assistant(verdicts: Any) -> None:
    messages = [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Hi."}]
    role, encoded = verdicts.encode({"messages": messages, "labels": [], "unsafe": 0.0})
    assert role == "user"
    text = verdicts.prompter.encoder.decode(encoded.token_ids)
    assert "assistant\nHello!" in text
    assert text.endswith("<|im_end|>\n safe")


@pytest.mark.parametrize("horizon", [1, 100])
def test_the_adapter_is_the_mean_of_the_states_of_the_run(train: ModuleType, tmp_path: Path, horizon: int) -> None:
    options = argparse.Namespace(steps=6, lr=0.1, average=horizon, out=tmp_path)

    def new_trainer() -> Any:
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        base = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))
        return train.Trainer(get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])), options)

    trainer = new_trainer()
    states = []
    for number in range(1, 7):
        if number == 4:  # stopped, and resumed from the checkpoint
            trainer.save(3)
            trainer = new_trainer()
            assert trainer.resume() == 3
        trainer.step(trainer.model(torch.arange(4)[None]).logits[..., number].sum(), number)
        states.append([p.detach().clone() for p in trainer.parameters])
    trainer.save(6)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    used = states[-1:] if horizon == 1 else states
    for name, *values in zip(trainer.names, *used, strict=True):
        tensor = saved[name.replace(".default.", ".")]
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), torch.stack(values).mean(0), atol=1e-3, rtol=1e-3)
