"""The exported graph against PyTorch's own forward, for every supported family, on small random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.support.graphs import VOCAB, exported, reference_logits, tiny, tree_logits
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.errors import ExportError
from tokmarg_export.graph.contract import SUPPORTED_MODEL_TYPES, graph_contract
from tokmarg_export.graph.export import export_graph


@pytest.mark.parametrize(
    ("model_type", "trace"), [*((name, False) for name in SUPPORTED_MODEL_TYPES), ("llama", True), ("qwen3", True)]
)
def test_two_branches_in_one_pass_equal_plain_forwards(model_type: str, trace: bool, tmp_path: Path) -> None:
    model = tiny(model_type)
    expected = reference_logits(model)
    graph = exported(model, tmp_path, trace=trace)
    assert np.abs(expected).max() > 0.3  # otherwise closeness would say nothing
    np.testing.assert_allclose(tree_logits(graph), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(tree_logits(graph, split=4), expected, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(reference_logits(model), expected)  # the export left the model as it was
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


@pytest.mark.parametrize("model_type", ["gemma2", "qwen2"])
def test_verdict_head_equals_columns_of_full_head(model_type: str, tmp_path: Path) -> None:
    model, ids = tiny(model_type), [250, 3, 77]
    graph = exported(model, tmp_path, ids)
    np.testing.assert_allclose(tree_logits(graph), reference_logits(model)[:, ids], atol=1e-4, rtol=0)


def test_verdict_head_keeps_the_bias(tmp_path: Path) -> None:
    model, ids = tiny("llama"), [9, 200]
    model.lm_head.bias = torch.nn.Parameter(torch.randn(VOCAB))
    graph = exported(model, tmp_path, ids)
    np.testing.assert_allclose(tree_logits(graph), reference_logits(model)[:, ids], atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", SUPPORTED_MODEL_TYPES)
def test_fp16_graph_is_close_and_has_fp32_logits(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type)
    graph = exported(model, tmp_path, precision="fp16")
    logits, expected = tree_logits(graph), reference_logits(model)
    assert logits.dtype == np.float32
    assert graph.session.get_inputs()[-1].type == "tensor(float16)"
    assert model.dtype == torch.float32
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_stored_once(tied: bool, tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=tied, vocab_size=5000)
    export_graph(model, tmp_path, head_token_ids=None, precision="fp32")
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    stored = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert weights < stored < weights + 200_000


def test_tracer_that_writes_external_data_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")  # what happens beyond 2 GB
    model = tiny("qwen3", head_dim=64)
    graph = exported(model, tmp_path, trace=True)
    np.testing.assert_allclose(tree_logits(graph), reference_logits(model), atol=1e-4, rtol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_no_logits_beyond_the_wanted_positions(tmp_path: Path) -> None:
    export_graph(tiny("llama"), tmp_path, head_token_ids=None, precision="fp32")
    nodes = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.node
    order = [node.op_type for node in nodes]
    (head,) = [index for index, op in enumerate(order) if op == "Gemm"]
    assert "MatMul" not in order[head:]
    assert any("logit_positions" in node.input for node in nodes[:head])


def test_node_sees_only_what_its_mask_allows(tmp_path: Path) -> None:
    graph = exported(tiny("qwen3"), tmp_path)
    ids, positions, visible = [5, 6, 7], [0, 0, 1], np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]], bool)
    seen, _ = graph.run(ids, positions, visible, [2], None, [])
    other, _ = graph.run([5, 99, 7], positions, visible, [2], None, [])
    np.testing.assert_array_equal(seen, other)


def test_contract_states_what_the_graph_has(tmp_path: Path) -> None:
    model = tiny("gemma2")
    graph = exported(model, tmp_path, [4, 2], "fp16")
    assert graph.contract == GraphContract(
        layers=2,
        kv_heads=2,
        head_dim=24,
        vocab_size=VOCAB,
        head="verdict",
        head_token_ids=(4, 2),
        sliding_window=4,
        kv_dtype="float16",
        max_positions=256,
    )
    assert graph.session.get_outputs()[0].shape == [1, "logits", 2]


@pytest.mark.parametrize("model_type", SUPPORTED_MODEL_TYPES)
def test_local_mask_is_an_input_only_where_a_layer_is_local(model_type: str, tmp_path: Path) -> None:
    local = {"sliding_window": None} if model_type == "mistral" else {"use_sliding_window": False}
    model = tiny(model_type, **(local if model_type in ("mistral", "qwen2", "qwen3") else {}))
    names = {value.name for value in exported(model, tmp_path).session.get_inputs()}
    assert "attention_mask" in names
    assert ("sliding_attention_mask" in names) == (model_type in ("gemma2", "gemma3_text"))


def test_unsupported_family_is_refused_by_name(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["gpt2"](vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(ExportError, match=r"'gpt2'.*llama"):
        export_graph(AutoModelForCausalLM.from_config(config), tmp_path, head_token_ids=None, precision="fp32")


def test_length_dependent_rope_is_refused(tmp_path: Path) -> None:
    model = tiny("qwen3", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(ExportError, match="'dynamic'"):
        export_graph(model, tmp_path, head_token_ids=None, precision="fp32")


@pytest.mark.parametrize(("ids", "message"), [([], "at least one"), ([300], "300"), ([-1], "-1"), ([4, 4], "distinct")])
def test_wrong_verdict_tokens_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        graph_contract(tiny("llama"), head_token_ids=ids, precision="fp32")
