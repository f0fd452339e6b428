"""One adapter in place of those that were trained one on top of the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.reference_guard import script

IDS = torch.tensor([[1, 5, 2, 7]])


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def train(
    base: LlamaForCausalLM, folder: Path, rank: int, layers: list[int] | None, modules: list[str]
) -> LlamaForCausalLM:
    """An adapter with random factors, saved, and the model it is merged into."""
    torch.manual_seed(rank)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, layers_to_transform=layers)
    adapted = get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(str(folder))
    merged: LlamaForCausalLM = adapted.merge_and_unload()
    return merged


@pytest.mark.parametrize(("rank", "equal"), [(8, True), (2, False)])
def test_logits_are_those_of_the_chain_where_the_rank_allows_it(tmp_path: Path, rank: int, equal: bool) -> None:
    chain = train(model(), tmp_path / "a", 4, None, ["q_proj", "up_proj"])
    chain = train(chain, tmp_path / "b", 3, [1], ["q_proj", "down_proj"])
    with script("join_adapters") as module:
        lost = module.join([tmp_path / "a", tmp_path / "b"], rank, tmp_path / "joined")
    joined = PeftModel.from_pretrained(model(), str(tmp_path / "joined")).merge_and_unload()
    with torch.no_grad():
        difference = (joined(IDS).logits - chain(IDS).logits).abs().max().item()
    assert (difference < 1e-2) == equal
    assert (lost < 1e-3) == equal
    config = json.loads((tmp_path / "joined" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
