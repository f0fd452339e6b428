"""What Gemma adds to Llama's shape, one by one: graphs against PyTorch's own forward."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.support.graphs import exported, nodes_of, reference_logits, tiny, tree_logits
from tokmarg_export.graph.family import family_of, gain, rotaries, rotary_kind

CASES: list[tuple[str, dict[str, Any]]] = [
    ("gemma2", {}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None, "query_pre_attn_scalar": 7}),
    ("gemma2", {"attention_bias": True, "tie_word_embeddings": False}),
    ("gemma3_text", {}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("gemma3_text", {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0}),  # the second is not read
    ("gemma3_text", {"layer_types": ["full_attention", "full_attention"]}),
]


def with_norms(model: PreTrainedModel) -> PreTrainedModel:
    """Weights of norms are 0 or 1 at initialization, which would hide a lost one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(-0.6, 1.2)
    return model


@pytest.mark.parametrize(("model_type", "changes"), CASES)
def test_gemma_equals_pytorch(model_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = with_norms(tiny(model_type, **changes))
    graph, expected = exported(model, tmp_path), reference_logits(model)
    for split in (0, 4):
        np.testing.assert_allclose(tree_logits(graph, split=split), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_what_a_layer_of_gemma_is_made_of(model_type: str, tmp_path: Path) -> None:
    exported(tiny(model_type, num_hidden_layers=3, layer_types=["sliding_attention"] * 3), tmp_path)
    count = Counter(node.op_type for node in nodes_of(tmp_path))
    heads = 2 * 3 if model_type == "gemma3_text" else 0
    assert count["SkipSimplifiedLayerNormalization"] == 2 * 3
    assert count["SimplifiedLayerNormalization"] == 1 + 2 * 3 + heads
    assert (count["FastGelu"], count["QuickGelu"]) == (3, 0)
    assert count["Tanh"] == (3 + 1 if model_type == "gemma2" else 0)
    assert count["Cos"] == (1 if model_type == "gemma2" else 2)


def test_the_embedding_s_scale_is_rounded_as_transformers_does(tmp_path: Path) -> None:
    """In half precision the root of 3072 is 55.4375 and not 55.4256."""
    for dtype in (torch.float32, torch.float16):
        theirs = torch.tensor(3072**0.5, dtype=dtype).item()
        ours = np.array(family_of(tiny("gemma2")).embedding_scale(tiny("gemma2", hidden_size=3072).config))
        assert ours.astype(str(dtype).removeprefix("torch.")) == theirs


def test_gains() -> None:
    gemma, llama = with_norms(tiny("gemma2")), with_norms(tiny("llama"))
    assert torch.equal(gain(gemma.model.norm), 1 + gemma.model.norm.weight)
    assert torch.equal(gain(llama.model.norm), llama.model.norm.weight)


def test_rotary_embeddings_of_each_kind() -> None:
    model = tiny("gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0})
    found = rotaries(model)
    assert sorted(found) == ["full_attention", "sliding_attention"]
    powers = torch.arange(0, 24, 2) / 24
    torch.testing.assert_close(found["full_attention"].frequencies, 1_000_000.0**-powers / 8)
    torch.testing.assert_close(found["sliding_attention"].frequencies, 10_000.0**-powers)
    assert [rotary_kind(model.config, layer) for layer in range(2)] == ["sliding_attention", "full_attention"]
    assert list(rotaries(tiny("qwen3"))) == [""] == [rotary_kind(tiny("qwen3").config, 1)]
