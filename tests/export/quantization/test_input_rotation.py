"""Products of rotated inputs and rotated weights are those of the model; and what is rotated where."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.graphs import tiny
from tokmarg_export.quantization.gptq import InputStatistics
from tokmarg_export.quantization.input_rotation import InputRotation, rotation_of
from tokmarg_export.quantization.quarot import Rotation


def turned(rows: Tensor, matrix: Tensor | None) -> Tensor:
    """Each block of each row times the matrix."""
    return rows if matrix is None else (rows.reshape(len(rows), -1, len(matrix)) @ matrix).flatten(1)


@pytest.mark.parametrize(("hidden", "intermediate", "block"), [(128, 192, 64), (256, 384, 128), (64, 192, None)])
def test_products_are_those_of_the_model(hidden: int, intermediate: int, block: int | None) -> None:
    model = tiny("gemma2", hidden_size=hidden, intermediate_size=intermediate)
    rotation, layer = InputRotation(model), model.model.layers[1]
    rows = torch.randn(5, hidden, dtype=torch.float64)
    for linear in (layer.self_attn.q_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
        matrix = rotation.before(linear)
        assert (None if matrix is None else len(matrix)) == block
        weight, _ = rotation.linear(linear)
        torch.testing.assert_close(turned(rows, matrix) @ weight.T, rows @ linear.weight.double().T)
    gated = torch.randn(5, intermediate, dtype=torch.float64)
    weight, _ = rotation.linear(layer.mlp.down_proj)
    before = rotation.before(layer.mlp.down_proj)
    torch.testing.assert_close(turned(gated, before) @ weight.T, gated @ layer.mlp.down_proj.weight.double().T)


def test_values_are_rotated_by_head_and_the_output_projection_undoes_it() -> None:
    model = tiny("gemma2", hidden_size=128, intermediate_size=128, attention_bias=True)
    rotation, attention = InputRotation(model), model.model.layers[0].self_attn
    rows = torch.randn(5, 128, dtype=torch.float64)
    weight, bias = rotation.linear(attention.v_proj)
    assert bias is not None
    values = attention.v_proj.double()(rows)
    found = turned(rows, rotation.before(attention.v_proj)) @ weight.T + bias
    torch.testing.assert_close(found.float(), rotation.values_of_heads(values.reshape(5, 2, 24)).flatten(1))
    assert rotation.before(attention.o_proj) is None
    heads = torch.randn(5, 4, 24, dtype=torch.float64)
    weight, _ = rotation.linear(attention.o_proj)
    mixed = rotation.values_of_heads(heads).double().flatten(1) @ weight.T
    torch.testing.assert_close(mixed.float(), (heads.flatten(1) @ attention.o_proj.weight.double().T).float())


def test_statistics_are_those_of_the_rotated_inputs() -> None:
    model = tiny("gemma3_text", hidden_size=128, intermediate_size=192)
    rotation, layer = InputRotation(model), model.model.layers[0]
    for linear, width, matrix in (
        (layer.self_attn.q_proj, 128, rotation.before(layer.self_attn.q_proj)),
        (layer.self_attn.o_proj, 96, rotation._head),
        (layer.mlp.down_proj, 192, rotation.before(layer.mlp.down_proj)),
    ):
        rows = torch.randn(50, width, dtype=torch.float64)
        found = rotation.statistics(linear, InputStatistics(rows.mean(dim=0), rows.T @ rows / 50, 50))
        after = turned(rows, matrix)
        torch.testing.assert_close(found.mean, after.mean(dim=0))
        torch.testing.assert_close(found.moments, after.T @ after / 50)


def test_hidden_states_stay_as_they_are() -> None:
    model = tiny("gemma2")
    rotation, table = InputRotation(model), model.get_input_embeddings().weight
    assert torch.equal(rotation.embedding(table), table)
    assert rotation.back() is None
    gain = rotation.gain(model.model.norm)
    assert gain is not None
    assert torch.equal(gain, 1 + model.model.norm.weight)


def test_which_rotation() -> None:
    assert isinstance(rotation_of(tiny("gemma3_text")), InputRotation)
    assert isinstance(rotation_of(tiny("qwen3")), Rotation)
