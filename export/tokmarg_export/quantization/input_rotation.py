"""Weights of a Gemma-shaped model for products in 8 bits: what a layer reads is rotated before it is rounded.

Gemma norms what attention and the MLP give before it is added to the hidden states, and a norm's gain, channel by
channel, lets no rotation of the hidden states pass. Nor would one help: the gains before the products hold down the
channels that are large, and a rotation that comes before the gain spreads them over all others. On Gemma 3 270M the
rotation of `quarot` moved the logits as far as they are from each other, this one by a twentieth of that.

So hidden states stay as they are, and the graph rotates the inputs of products, block by block:

    read             x B, then (W B)             q, k, v, gate, up, down; x has been multiplied by the norm's gain
    values           of each head by H: H' W_v and W_o H, free of charge, as there
    output layer     as it is
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg_export.graph.family import family_of, gain
from tokmarg_export.model.stored_parameters import values

from .gptq import InputStatistics
from .quarot import Rotated, Rotation, orthogonal

__all__ = ["InputRotation", "WeightRotation", "rotation_of"]

#: Sizes of blocks, the best first. Larger ones cost more than they give.
_BLOCKS = (128, 64)


class InputRotation:
    """Rotated weights; the model itself stays as it is. Methods as those of :class:`Rotation`."""

    def __init__(self, model: PreTrainedModel) -> None:
        layers: Any = model.get_decoder().layers
        widths = {layers[0].mlp.gate_proj.weight.shape[1], layers[0].mlp.down_proj.weight.shape[1]}
        # A row has two blocks at least: onnxruntime sums the product of a single row in an order of its own.
        fitting = [size for size in _BLOCKS if all(width % size == 0 and width > size for width in widths)]
        self._blocks = orthogonal(fitting[0], 2) if fitting else None
        self._head = orthogonal(layers[0].self_attn.head_dim, 1)
        self._values = {id(layer.self_attn.v_proj) for layer in layers}
        self._outputs = {id(layer.self_attn.o_proj) for layer in layers}

    def before(self, layer: nn.Linear) -> Tensor | None:
        return None if id(layer) in self._outputs else self._blocks

    def gain(self, norm: Any) -> Tensor | None:
        return gain(norm)

    def linear(self, layer: nn.Linear) -> Rotated:
        weight = self._turned(layer)(values(layer.weight).double())
        bias = None if layer.bias is None else values(layer.bias).double()
        if id(layer) in self._values:
            weight = torch.einsum("hi,nhk->nik", self._head, weight.view(-1, len(self._head), weight.shape[1]))
            weight = weight.flatten(0, 1)
            bias = None if bias is None else (bias.view(-1, len(self._head)) @ self._head).flatten()
        return weight, bias

    def statistics(self, layer: nn.Linear, statistics: InputStatistics) -> InputStatistics:
        turn = self._turned(layer)
        return replace(statistics, mean=turn(statistics.mean[None])[0], moments=turn(turn(statistics.moments).T))

    def embedding(self, table: Tensor) -> Tensor:
        return values(table).float()

    def output(self, weight: Tensor) -> Tensor:
        return values(weight).float()

    def output_rows(self, rows: Tensor) -> Tensor:
        return rows.detach().double()

    def back(self) -> Tensor | None:
        return None

    def values_of_heads(self, values: Tensor) -> Tensor:
        return (values.double() @ self._head).float()

    def _turned(self, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        """The rotation of rows of a layer's input, float64 [rows, in]; those of the output projection are of heads."""
        matrix = self._head if id(layer) in self._outputs else self._blocks
        if matrix is None:
            return lambda rows: rows
        return lambda rows: (rows.reshape(len(rows), -1, len(matrix)) @ matrix).flatten(1)


WeightRotation = Rotation | InputRotation


def rotation_of(model: PreTrainedModel) -> WeightRotation:
    """The rotation for a model that `llama_graph_mismatch` has no objection to."""
    return InputRotation(model) if len(family_of(model).norms) > 2 else Rotation(model)
