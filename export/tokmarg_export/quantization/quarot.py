"""QuaRot: the weights of a Llama-shaped model in a rotated basis, in which no channel is an outlier.

Some channels of a language model's hidden states are a hundred times larger than the others, and 8 bits per row are
spent on them alone. Norms, residual sums and products do not depend on the basis of the hidden states, though: rotate
what is written to them by an orthogonal matrix R and what is read from them by its transpose, and the model computes
the same (arXiv:2404.00456). With a random R every channel becomes a sum over all, hence normally distributed.

    embedding        E R
    read             W diag(g) R                 q, k, v, gate, up; g is the weight of the norm before, which becomes 1
    written          R' W                        output, down
    values           of each head by H: H' W_v and W_o H, free of charge as well
    gated            what down reads, in blocks by B: W_down B; this one costs a small product in the graph
    output layer     W diag(g) R; where it is the embedding itself, the rows are rotated back before it:
                     x -> x R' diag(g) R, then E R

All of it is done on the weights at export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg_export.model.stored_parameters import own_values, values

from .gptq import InputStatistics

__all__ = ["Rotated", "Rotation", "orthogonal"]

_ROWS = 8192  # of the embedding or the output layer that are rotated in one go
_BLOCK = 64  # size of the blocks in which the down projection's input is rotated: larger ones cost more than they give
#: Weight [out, in] and bias [out].
Rotated = tuple[Tensor, Tensor | None]


def orthogonal(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, float64 [size, size], the same on every machine up to rounding."""
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(random)
    matrix: Tensor = q * torch.sign(torch.diagonal(r))
    return matrix


class Rotation:
    """Rotated weights of a model for which `llama_graph_mismatch` is None; the model itself stays as it is."""

    def __init__(self, model: PreTrainedModel) -> None:
        decoder = model.get_decoder()
        layers: Any = decoder.layers
        hidden = decoder.embed_tokens.weight.shape[1]
        dim = layers[0].self_attn.head_dim
        self._hidden, self._head = orthogonal(hidden, 0), orthogonal(dim, 1)
        #: Rotation of the down projection's input block by block, float64 [block, block]; None where blocks do not
        #: fit, or a row has but one: onnxruntime sums the product of a single row in an order of its own.
        blocks, rest = divmod(layers[0].mlp.down_proj.weight.shape[1], _BLOCK)
        self.blocks = orthogonal(_BLOCK, 2) if blocks > 1 and not rest else None
        self._final: Tensor = decoder.norm.weight  # perhaps in the file, as all weights: `values` reads it
        self._down = {id(layer.mlp.down_proj) for layer in layers}
        self._parameters: dict[int, Callable[[], Rotated]] = {}  # layer -> its rotated parameters
        self._rotations: dict[int, Callable[[Tensor], Tensor]] = {}  # layer -> rotation of rows of its input
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            before, middle = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            self._reads(before, attention.q_proj, attention.k_proj)
            self._reads(before, attention.v_proj, heads=True)
            self._reads(middle, mlp.gate_proj, mlp.up_proj)
            self._writes(attention.o_proj, self._head)
            self._writes(mlp.down_proj, self.blocks)

    def linear(self, layer: nn.Linear) -> Rotated:
        """Weight float64 [out, in] and bias [out] of a layer of the decoder."""
        return self._parameters[id(layer)]()

    def before(self, layer: nn.Linear) -> Tensor | None:
        """What the graph multiplies each block of a layer's input with, float64 [block, block]; None: nothing."""
        return self.blocks if id(layer) in self._down else None

    def gain(self, norm: Any) -> Tensor | None:
        """What a norm of hidden states multiplies by, [hidden]; None: nothing, since the weights after it do."""
        return None

    def statistics(self, layer: nn.Linear, statistics: InputStatistics) -> InputStatistics:
        """Statistics of the rotated layer's inputs, given those of the layer itself."""
        rotate = self._rotations[id(layer)]
        return replace(statistics, mean=rotate(statistics.mean[None])[0], moments=rotate(rotate(statistics.moments).T))

    def embedding(self, table: Tensor) -> Tensor:
        """Rows [V, hidden] as hidden states, float32."""
        return self._all_rows(table, torch.ones((), dtype=torch.float64))

    def output(self, weight: Tensor) -> Tensor:
        """An output layer of its own, [V, hidden], after a final norm of weight 1; float32."""
        return self._all_rows(weight, values(self._final).double())

    def output_rows(self, rows: Tensor) -> Tensor:
        """A few rows of the output layer, [tokens, hidden], after a final norm of weight 1; float64."""
        return (rows.detach().double() * values(self._final).double()) @ self._hidden

    def _all_rows(self, parameter: Tensor, factors: Tensor) -> Tensor:
        """Rows times factors, rotated: in float64, in the place of the rows, which are a model's largest tensor."""
        rows = own_values(parameter).float()
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            part.copy_((part.double() * factors) @ self._hidden)
        return rows

    def back(self) -> Tensor | None:
        """Matrix applied after the final norm where the embedding is the output layer, float64 [hidden, hidden]; None:
        nothing."""
        return self._hidden.T @ (values(self._final).double()[:, None] * self._hidden)

    def values_of_heads(self, values: Tensor) -> Tensor:
        """Values of attention heads, [..., head_dim], as the rotated model has them; float32."""
        return (values.double() @ self._head).float()

    def _reads(self, norm: Tensor, *layers: nn.Linear, heads: bool = False) -> None:
        def rotated(layer: nn.Linear) -> Rotated:
            weight = (values(layer.weight).double() * values(norm).double()) @ self._hidden
            bias = None if layer.bias is None else values(layer.bias).double()
            if heads:
                weight = torch.einsum("hi,nhk->nik", self._head, self._split(weight)).flatten(0, 1)
                bias = None if bias is None else (bias.view(-1, len(self._head)) @ self._head).flatten()
            return weight, bias

        def rotate(rows: Tensor) -> Tensor:
            weights = values(norm).double()
            return torch.where(weights == 0, 0.0, rows / weights) @ self._hidden

        for layer in layers:
            self._parameters[id(layer)] = lambda layer=layer: rotated(layer)  # type: ignore[misc]
            self._rotations[id(layer)] = rotate

    def _writes(self, layer: nn.Linear, blocks: Tensor | None) -> None:
        def rotate(rows: Tensor) -> Tensor:
            return rows if blocks is None else (rows.reshape(len(rows), -1, len(blocks)) @ blocks).flatten(1)

        def rotated() -> Rotated:
            weight = rotate(self._hidden.T @ values(layer.weight).double())
            return weight, None if layer.bias is None else values(layer.bias).double() @ self._hidden

        self._parameters[id(layer)], self._rotations[id(layer)] = rotated, rotate

    def _split(self, weight: Tensor) -> Tensor:
        return weight.view(-1, len(self._head), weight.shape[1])
