"""A rotated model computes what the model computes; the small output layer gives the large one's columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export.graph.test_export import PROMPT, Graph, reference_logits, tiny, tree_logits
from tests.export.graph.test_llama_graph import FUSED
from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.graph.export import graph_contract
from tokmarg_export.graph.llama_graph import emit_graph
from tokmarg_export.graph.onnx_writer import save_onnx, state_interface
from tokmarg_export.graph.rotated_graph import emit_rotated_graph
from tokmarg_export.quantization.quarot import Rotation

COLUMNS = [7, 250, 3, 11]


def written(model: Any, folder: Path, contract: GraphContract, rotated: bool = True) -> Graph:
    graph = emit_rotated_graph(model, contract)[0] if rotated else emit_graph(model, contract, torch.float32)
    state_interface(graph.graph, contract)
    folder.mkdir(exist_ok=True)
    save_onnx(graph, folder)
    return Graph(folder, contract)


CASES = [
    *((family, {}) for family in FUSED),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True, "intermediate_size": 128}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
]


@pytest.mark.parametrize(("model_type", "changes"), CASES)
def test_rotated_graph_equals_pytorch(model_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(model_type, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # ones at initialization, which would hide a lost one
                parameter.uniform_(0.3, 2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    contract = replace(graph_contract(model, head_token_ids=None, precision="fp32"), by_content=True)
    graph = written(model, tmp_path, contract)
    expected = reference_logits(model)
    for split in (0, 3):
        np.testing.assert_allclose(tree_logits(graph, split=split), expected, rtol=1e-4, atol=2e-4)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


def test_no_channel_stands_out() -> None:
    model = tiny("llama", hidden_size=128)
    table = model.get_input_embeddings().weight.detach()
    table[:, 5] *= 100
    rows = Rotation(model).embedding(table)

    def peaks(x: torch.Tensor) -> float:
        """The largest channel of a row, in root mean squares; the padding's row is zero."""
        return float((x[1:].abs().amax(dim=1) / x[1:].pow(2).mean(dim=1).sqrt()).mean())

    assert peaks(table.double()) > 9
    assert peaks(rows) < 3.5
    torch.testing.assert_close(rows.norm(dim=1), table.double().norm(dim=1))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "granite", "qwen3"])
def test_verdict_logits_are_columns_of_the_logits(model_type: str, rotated: bool, tmp_path: Path) -> None:
    model = tiny(model_type)
    contract = graph_contract(model, head_token_ids=None, precision="fp32", verdict_token_ids=COLUMNS)
    contract = replace(contract, by_content=rotated)
    assert contract.verdict_token_ids == tuple(COLUMNS)
    graph = written(model, tmp_path, contract, rotated)
    length = len(PROMPT)
    feeds = {
        "input_ids": np.array([PROMPT]),
        "position_ids": np.arange(length)[None],
        "attention_mask": np.tri(length, dtype=bool)[None, None],
    }
    if rotated:
        feeds |= {"attention_rows": np.arange(length)[None], "row_places": np.arange(length)}
        feeds |= {"key_slots": np.arange(length)[None], "stack_heads": np.array([False])}
    for kind in ("past_key_values", "own_key_values") if rotated else ("past_key_values",):
        feeds |= {f"{kind}.{part}": np.zeros(contract.cache_shape(0), np.float32) for part in contract.cache_parts}
    for whole, few in (([0, 5, 10], [10, 2]), ([3], []), ([], [4, 4, 1])):
        positions = {"logit_positions": np.array(whole, np.int64), "verdict_positions": np.array(few, np.int64)}
        logits, verdict = graph.session.run(["logits", "verdict_logits"], feeds | positions)
        with torch.no_grad():
            expected = model(torch.tensor([PROMPT])).logits[0].numpy()
        np.testing.assert_allclose(logits[0], expected[whole], rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(verdict[0], expected[few][:, COLUMNS], rtol=1e-4, atol=2e-4)
