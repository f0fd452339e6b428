"""LoRA adapters: merged into the weights, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.support.model_files import logits, random_model, write_folder
from tokmarg_export.errors import ExportError
from tokmarg_export.model.huggingface import load_model


def write_adapter(folder: Path, model: LlamaForCausalLM) -> torch.Tensor:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, lora).eval()
    expected = logits(adapted, [1, 2, 3])
    adapted.save_pretrained(folder)
    return expected


def test_adapter_is_merged(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "base")
    plain = logits(model, [1, 2, 3])
    expected = write_adapter(tmp_path / "adapter", model)
    loaded = load_model(tmp_path / "base", adapters=[tmp_path / "adapter"])
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(logits(loaded.model, [1, 2, 3]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("other", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_adapter_of_another_model_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    write_folder(tmp_path / "base")
    write_adapter(tmp_path / "adapter", random_model(**other))
    with pytest.raises(ExportError, match=r"Adapter .* does not fit"):
        load_model(tmp_path / "base", adapters=[tmp_path / "adapter"])


def test_folder_without_adapter_config_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "base")
    with pytest.raises(ExportError, match=r"no adapter_config\.json"):
        load_model(tmp_path / "base", adapters=[tmp_path])
