"""The graph that is written operator by operator: what it is made of, and random trees against plain forwards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from tests.support.graphs import VOCAB, Graph, exported, nodes_of, reference_logits, tiny, tree_logits
from tokmarg_export.graph.contract import SUPPORTED_MODEL_TYPES
from tokmarg_export.graph.export import export_graph, tracer
from tokmarg_export.graph.family import llama_graph_mismatch


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Graph]:
    model = tiny("llama", num_hidden_layers=3)
    return model, exported(model, tmp_path_factory.mktemp("fused"))


@pytest.mark.parametrize("layers", [1, 3])
def test_what_a_layer_is_made_of(layers: int, tmp_path: Path) -> None:
    assert (
        export_graph(tiny("llama", num_hidden_layers=layers), tmp_path, head_token_ids=None, precision="fp32")
        == "fused"
    )
    nodes = nodes_of(tmp_path)
    count = Counter(node.op_type for node in nodes)
    assert count["SkipSimplifiedLayerNormalization"] == 2 * layers
    assert count["SimplifiedLayerNormalization"] == 1
    assert count["RotaryEmbedding"] == 2 * layers
    assert (
        count["MatMul"] == (1 + 1 + 1 + 3) * layers
    )  # q, k and v in one; weights times values; output; gate, up, down
    assert (count["FusedMatMul"], count["Softmax"], count["QuickGelu"]) == (layers, layers, layers)
    assert (count["Cos"], count["Sin"], count["Where"], count["Gemm"]) == (1, 1, 1, 1)
    assert count["Cast"] == 1  # of the positions
    assert len(nodes) <= 28 * layers + 20


def test_rows_are_gathered_in_the_last_layer(tmp_path: Path) -> None:
    export_graph(tiny("llama"), tmp_path, head_token_ids=None, precision="fp32")
    nodes = nodes_of(tmp_path)
    gathers = [i for i, node in enumerate(nodes) if "logit_positions" in node.input]
    behind = Counter(node.op_type for node in nodes[gathers[0] :])
    assert behind["MatMul"] == 4  # output, gate, up and down of one layer: for the wanted rows alone
    assert behind["Gemm"] == 1
    assert behind["Softmax"] == 0


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embedding_is_the_output_layer(tied: bool, tmp_path: Path) -> None:
    export_graph(tiny("llama", tie_word_embeddings=tied), tmp_path, head_token_ids=None, precision="fp32")
    nodes = nodes_of(tmp_path)
    (head,) = [node.input[1] for node in nodes if node.op_type == "Gemm"]
    (table,) = [node.input[0] for node in nodes if node.op_type == "Gather" and node.input[1] == "input_ids"]
    assert (head == table) is tied


def test_biases_and_local_layers(tmp_path: Path) -> None:
    model = tiny("llama", attention_bias=True, mlp_bias=True)
    np.testing.assert_allclose(
        tree_logits(exported(model, tmp_path / "biases"), split=3), reference_logits(model), atol=1e-4, rtol=0
    )
    model = tiny("qwen3", use_sliding_window=True, sliding_window=3, max_window_layers=1)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    np.testing.assert_allclose(
        tree_logits(exported(model, tmp_path / "local"), split=3), reference_logits(model), atol=1e-4, rtol=0
    )


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, VOCAB - 1), st.integers(0, 6)), min_size=1, max_size=12), st.integers(0, 5))
def test_random_trees_equal_plain_forwards(
    llama: tuple[PreTrainedModel, Graph], tree: list[tuple[int, int]], cached: int
) -> None:
    """Node i extends node i - 1 - back (or is a root); all in one pass, behind a few cached tokens or none.

    Without cached tokens this is the pass in which GroupQueryAttention would count positions by itself.
    """
    model, graph = llama
    prefix = [7, 3, 250, 9, 81][:cached]
    past = None
    if prefix:
        visible = np.tri(cached, dtype=bool)
        _, past = graph.run(prefix, list(range(cached)), visible, [0], None, [])
    parents = [i - 1 - back if back < i else -1 for i, (_, back) in enumerate(tree)]
    paths: list[list[int]] = []
    visible = np.zeros((len(tree), cached + len(tree)), bool)
    visible[:, :cached] = True
    for i, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), i])
        visible[i, [cached + j for j in paths[i]]] = True
    ids = [token for token, _ in tree]
    positions = [cached + len(path) - 1 for path in paths]
    logits, _ = graph.run(ids, positions, visible, list(range(len(ids))), past, list(range(cached)))
    for path, row in zip(paths, logits[0], strict=True):
        with torch.no_grad():
            plain = model(torch.tensor([prefix + [ids[j] for j in path]])).logits[0, -1].numpy()
        np.testing.assert_allclose(row, plain, atol=1e-4, rtol=0)


def test_rows_do_not_depend_on_their_company(llama: tuple[PreTrainedModel, Graph]) -> None:
    _, graph = llama
    ids = list(range(10, 50))
    together, _ = graph.run(ids, [0] * 40, np.eye(40, dtype=bool), list(range(40)), None, [])
    for i, token in enumerate(ids):
        alone, _ = graph.run([token], [0], np.ones((1, 1), bool), [0], None, [])
        np.testing.assert_allclose(alone[0, 0], together[0, i], atol=1e-5, rtol=0)


def test_wanted_rows_may_repeat_and_come_in_any_order(llama: tuple[PreTrainedModel, Graph]) -> None:
    _, graph = llama
    ids, visible = [4, 90, 17], np.tri(3, dtype=bool)
    every, _ = graph.run(ids, [0, 1, 2], visible, [0, 1, 2], None, [])
    some, _ = graph.run(ids, [0, 1, 2], visible, [2, 0, 2], None, [])
    np.testing.assert_allclose(some[0], every[0][[2, 0, 2]], atol=1e-5, rtol=0)


# What does not fit is traced, and the manifest says why


@pytest.mark.parametrize("model_type", SUPPORTED_MODEL_TYPES)
def test_every_family_fits(model_type: str) -> None:
    assert llama_graph_mismatch(tiny(model_type)) is None


class Patched(nn.Linear):
    """What an unmerged adapter looks like."""


def test_a_part_that_is_not_known_is_no_reason_to_guess() -> None:
    model = tiny("llama")
    model.model.layers[1].self_attn.k_norm_too = nn.LayerNorm(4)
    assert llama_graph_mismatch(model) == "layer 1 has other parts: k_norm_too"
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj = Patched(64, 96, bias=False)
    assert llama_graph_mismatch(model) == "layer 0: up_proj is a Patched"
    assert llama_graph_mismatch(tiny("llama", hidden_act="gelu")) == "hidden_act is gelu"
    assert llama_graph_mismatch(tiny("gemma2", hidden_activation="gelu")) == "hidden_activation is gelu"
    model = tiny("llama")
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq[:3]
    assert llama_graph_mismatch(model) == "the rotary embedding covers a part of the head"


def test_what_does_not_fit_is_traced(tmp_path: Path) -> None:
    model: Any = tiny("llama", hidden_act="gelu")
    form = export_graph(model, tmp_path, head_token_ids=None, precision="fp32")
    assert form == f"traced by {tracer()}: hidden_act is gelu"
    assert "SkipSimplifiedLayerNormalization" not in {node.op_type for node in nodes_of(tmp_path)}
