"""Small random models, their exported graphs, and logits of a tree of tokens from both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.engine.cpu import int8_products_saturate
from tokmarg_export.graph.contract import graph_contract
from tokmarg_export.graph.export import export_graph
from tokmarg_export.graph.llama_graph import build_llama_graph
from tokmarg_export.graph.onnx_writer import save_onnx, state_interface
from tokmarg_export.graph.rotated_graph import build_rotated_graph

VOCAB = 300
PROMPT = [5, 17, 42, 8, 99, 120, 3, 250, 61, 7, 33]
#: Families whose graph is written operator by operator.
FUSED = ("gemma2", "gemma3_text", "granite", "llama", "mistral", "qwen2", "qwen3")

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


def cpu_session(model: onnx.ModelProto | Path, threads: int = 0) -> ort.InferenceSession:
    """A session on the CPU in which 8-bit products are exact, as in :class:`tokmarg.engine.session.Session`.

    Args:
        model: a model, or the path of a file.
        threads: 0 = as many as onnxruntime chooses.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def nodes_of(folder: Path) -> list[onnx.NodeProto]:
    """Nodes of an exported graph, without its weights."""
    return list(onnx.load(str(folder / "model.onnx"), load_external_data=False).graph.node)


class Graph:
    """A session behind the contract, feeding numpy arrays; `run` keeps nothing between calls."""

    def __init__(self, folder: Path, contract: GraphContract) -> None:
        self.session = cpu_session(folder / "model.onnx", threads=1)
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
    past: list[np.ndarray] | None = None
    past_positions: list[int] = []
    last = np.zeros(0)
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
    trace: bool = False,
    prompts: Any = None,
) -> Graph:
    export_graph(model, folder, head_token_ids=ids, precision=precision, trace=trace, prompts=prompts)
    contract = graph_contract(model, head_token_ids=ids, precision=precision)
    return Graph(folder, replace(contract, by_content=contract.by_content and not trace))


def written(model: Any, folder: Path, contract: GraphContract, rotated: bool = True) -> Graph:
    """The graph before weights are rounded, in a rotated basis or in the model's own."""
    graph = build_rotated_graph(model, contract)[0] if rotated else build_llama_graph(model, contract, torch.float32)
    state_interface(graph.graph, contract)
    folder.mkdir(exist_ok=True)
    save_onnx(graph, folder)
    return Graph(folder, contract)
