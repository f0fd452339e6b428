"""The weights of a Llama-shaped model in another basis, in which no channel stands out.

Some channels of a language model's hidden states are a hundred times larger than the others, and 8 bits per row are
spent on them alone. Norms, residual sums and products do not care about the basis of the hidden states, though: turn
what is written to them by an orthogonal matrix R and what is read from them by its transpose, and the model computes
the same (QuaRot, arXiv:2404.00456). With a random R every channel becomes a sum over all, hence normally distributed.

    embedding        E R
    read             W diag(g) R                 q, k, v, gate, up; g is the weight of the norm before, which becomes 1
    written          R' W                        output, down
    values           of each head by H: H' W_v and W_o H, free of charge as well
    gated            what down reads, in blocks by B: W_down B; this one costs a small product in the graph
    output layer     W diag(g) R; where it is the embedding itself, the rows are turned back before it:
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

from .gptq import Usual

__all__ = ["Rotation"]

_BLOCK = 64  # what the down projection reads is turned in blocks of this size: larger ones cost more than they give
Turned = tuple[Tensor, Tensor | None]


def _orthogonal(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix, float64 [size, size], the same on every machine up to rounding."""
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(random)
    turned: Tensor = q * torch.sign(torch.diagonal(r))
    return turned


class Rotation:
    """Turns the weights of a model for which `llama_graph.why_not_fused` is None; it stays as it is."""

    def __init__(self, model: PreTrainedModel) -> None:
        decoder = model.get_decoder()
        layers: Any = decoder.layers
        hidden = decoder.embed_tokens.weight.shape[1]
        dim = layers[0].self_attn.head_dim
        self._hidden, self._head = _orthogonal(hidden, 0), _orthogonal(dim, 1)
        #: Turns blocks of what the down projection reads, float64 [block, block]; None where they do not fit, or a row
        #: has but one: onnxruntime sums the product of a single row in an order of its own.
        blocks, rest = divmod(layers[0].mlp.down_proj.weight.shape[1], _BLOCK)
        self.blocks = _orthogonal(_BLOCK, 2) if blocks > 1 and not rest else None
        self._final: Tensor = decoder.norm.weight
        self._how: dict[int, Callable[[], Turned]] = {}
        self._turns: dict[int, Callable[[Tensor], Tensor]] = {}
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            before, middle = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            self._reads(before, attention.q_proj, attention.k_proj)
            self._reads(before, attention.v_proj, heads=True)
            self._reads(middle, mlp.gate_proj, mlp.up_proj)
            self._writes(attention.o_proj, self._head)
            self._writes(mlp.down_proj, self.blocks)

    def linear(self, layer: nn.Linear) -> Turned:
        """Weight float64 [out, in] and bias [out] of a layer of the decoder."""
        return self._how[id(layer)]()

    def usual(self, layer: nn.Linear, usual: Usual) -> Usual:
        """What the turned layer reads on average, given what the layer itself reads."""
        turn = self._turns[id(layer)]
        return replace(usual, mean=turn(usual.mean[None])[0], moments=turn(turn(usual.moments).T))

    def embedding(self, table: Tensor) -> Tensor:
        """Rows [V, hidden] as hidden states, float64."""
        return table.detach().double() @ self._hidden

    def output(self, weight: Tensor) -> Tensor:
        """An output layer of its own, [V, hidden], behind a final norm of weight 1; float64."""
        return (weight.detach().double() * self._final.detach().double()) @ self._hidden

    def back(self) -> Tensor:
        """What hidden states behind a final norm of weight 1 are multiplied with before the embedding as output layer:
        float64 [hidden, hidden]."""
        return self._hidden.T @ (self._final.detach().double()[:, None] * self._hidden)

    def _reads(self, norm: Tensor, *layers: nn.Linear, heads: bool = False) -> None:
        def turned(layer: nn.Linear) -> Turned:
            weight = (layer.weight.detach().double() * norm.detach().double()) @ self._hidden
            bias = None if layer.bias is None else layer.bias.detach().double()
            if heads:
                weight = torch.einsum("hi,nhk->nik", self._head, self._split(weight)).flatten(0, 1)
                bias = None if bias is None else (bias.view(-1, len(self._head)) @ self._head).flatten()
            return weight, bias

        def turn(rows: Tensor) -> Tensor:
            weights = norm.detach().double()
            return torch.where(weights == 0, 0.0, rows / weights) @ self._hidden

        for layer in layers:
            self._how[id(layer)] = lambda layer=layer: turned(layer)  # type: ignore[misc]
            self._turns[id(layer)] = turn

    def _writes(self, layer: nn.Linear, blocks: Tensor | None) -> None:
        def turn(rows: Tensor) -> Tensor:
            return rows if blocks is None else (rows.reshape(len(rows), -1, len(blocks)) @ blocks).flatten(1)

        def turned() -> Turned:
            weight = turn(self._hidden.T @ layer.weight.detach().double())
            return weight, None if layer.bias is None else layer.bias.detach().double() @ self._hidden

        self._how[id(layer)], self._turns[id(layer)] = turned, turn

    def _split(self, weight: Tensor) -> Tensor:
        return weight.view(-1, len(self._head), weight.shape[1])
