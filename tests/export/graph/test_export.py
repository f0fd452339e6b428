"""The exported graph against PyTorch's own forward, for every supported family, on small random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from tokmarg_export.errors import ExportError
from tokmarg_export.graph.export import SUPPORTED_MODEL_TYPES, GraphContract, export_graph, graph_contract

VOCAB = 300
PROMPT = [5, 17, 42, 8, 99, 120, 3, 250, 61, 7, 33]
BRANCHES = [[11, 12, 13], [201, 12, 77]]

# What makes each family itself: caps, scales, windows smaller than the prompt, biases, tied and untied heads.
FAMILY: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 24},
    "gemma2": {
        "sliding_window": 4,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.0,
    },
    "gemma3_text": {
        "sliding_window": 4,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "granite": {
        "logits_scaling": 4.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 3.0,
    },
}


def tiny(model_type: str, **changes: Any) -> PreTrainedModel:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = CONFIG_MAPPING[model_type](**{**settings, **FAMILY[model_type], **changes})
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at initialization, which would hide a lost one
            torch.nn.init.normal_(parameter)
    return model


class Graph:
    """A session behind the contract, feeding numpy arrays; `run` keeps nothing between calls."""

    def __init__(self, folder: Path, contract: GraphContract) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self.contract = contract

    def run(
        self,
        ids: list[int],
        positions: list[int],
        visible: np.ndarray,
        wanted: list[int],
        past: Any,
        past_positions: list[int],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        contract = self.contract
        distance = np.array(positions)[:, None] - np.array(past_positions + positions)[None, :]
        feeds: dict[str, np.ndarray] = {
            "input_ids": np.array([ids]),
            "position_ids": np.array([positions]),
            "attention_mask": visible[None, None],
            "logit_positions": np.array(wanted, dtype=np.int64),
        }
        if contract.by_content:  # the rows are of one content, and all that is cached belongs to the prefix
            feeds |= {"attention_rows": np.arange(len(ids))[None], "row_places": np.arange(len(ids))}
            feeds |= {"key_slots": np.arange(len(distance[0]))[None], "stack_heads": np.array([True])}
            own = np.zeros(contract.cache_shape(0), contract.kv_dtype)
            feeds |= {f"own_key_values.{part}": own for part in contract.cache_parts}
        if contract.sliding_window is not None:
            feeds["sliding_attention_mask"] = (visible & (distance < contract.sliding_window))[None, None]
        names = contract.cache_parts
        if past is None:
            past = [np.zeros(contract.cache_shape(0), contract.kv_dtype)] * len(names)
        feeds |= {f"past_key_values.{name}": value for name, value in zip(names, past, strict=True)}
        logits, *present = self.session.run(["logits", *(f"present.{name}" for name in names)], feeds)
        return logits, present


def tree_logits(graph: Graph, split: int = 0) -> np.ndarray:
    """Logits at the last prompt token and all nodes of both branches, [1 + 6, V]; the tree in one pass."""
    length = len(PROMPT)
    past, past_positions, last = None, [], np.zeros(0)
    for start, end in [(0, split), (split, length)] if split else [(0, length)]:
        visible = np.tril(np.ones((end - start, end), bool), start)
        last, present = graph.run(
            PROMPT[start:end], list(range(start, end)), visible, [end - start - 1], past, past_positions
        )
        tokens = 0 if graph.contract.by_content else 2
        past = present if past is None else [np.concatenate(pair, tokens) for pair in zip(past, present, strict=True)]
        past_positions = list(range(end))
    depth = len(BRANCHES[0])
    block = np.tril(np.ones((depth, depth), bool))
    nodes = np.kron(np.eye(len(BRANCHES), dtype=bool), block)
    visible = np.concatenate([np.ones((len(nodes), length), bool), nodes], axis=1)
    positions = [length + i for _ in BRANCHES for i in range(depth)]
    ids = [token for branch in BRANCHES for token in branch]
    logits, _ = graph.run(ids, positions, visible, list(range(len(ids))), past, past_positions)
    return np.concatenate([last[0], logits[0]])


@torch.no_grad()
def reference_logits(model: PreTrainedModel) -> np.ndarray:
    """The same logits by one plain forward per branch: no cache, no mask of ours."""
    plain = [model(torch.tensor([PROMPT + branch])).logits[0].float().numpy() for branch in BRANCHES]
    return np.concatenate([plain[0][len(PROMPT) - 1 : len(PROMPT)], *(logits[len(PROMPT) :] for logits in plain)])


def exported(
    model: PreTrainedModel,
    folder: Path,
    ids: list[int] | None = None,
    precision: Any = "fp32",
    fused: bool = True,
    prompts: Any = None,
) -> Graph:
    export_graph(model, folder, head_token_ids=ids, precision=precision, fused=fused, prompts=prompts)
    return Graph(folder, graph_contract(model, head_token_ids=ids, precision=precision))


@pytest.mark.parametrize(
    ("model_type", "fused"), [*((name, True) for name in SUPPORTED_MODEL_TYPES), ("llama", False), ("qwen3", False)]
)
def test_two_branches_in_one_pass_equal_plain_forwards(model_type: str, fused: bool, tmp_path: Path) -> None:
    model = tiny(model_type)
    expected = reference_logits(model)
    graph = exported(model, tmp_path, fused=fused)
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
    graph = exported(model, tmp_path, fused=False)
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
