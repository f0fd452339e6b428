"""Blocks that the plain and the rotated Llama graph share: linear layers, heads, rotary embedding, additive masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.model.stored_parameters import values

from .family import Rotary, gain
from .onnx_graph_builder import OnnxGraphBuilder

__all__ = [
    "AdditiveMasks",
    "Blocks",
    "Parameters",
    "capped",
    "decoder_of",
    "linear",
    "output_rows",
    "rotary_tables",
    "split_heads",
    "token_indices",
]

#: Weight [out, in] and bias [out] of a linear layer.
Parameters = tuple[Tensor, Tensor | None]


class Blocks(Protocol):
    """What differs between the plain and the rotated graph. Methods add nodes and return the names of their outputs."""

    def embedding(self) -> Tensor:
        """The embedding, [V, hidden]."""

    def norm_weight(self, name: str, norm: Any) -> str:
        """The weight of a norm of hidden states, [hidden]."""

    def rotary(self, rotaries: Mapping[str, Rotary]) -> None:
        """Tables of the rotary embeddings, which :meth:`attention` reads."""

    def attention(self, layer: int, module: Any, normed: str) -> str:
        """[1, S, hidden] -> [1, S, heads * head_dim]; names the new keys and values as outputs."""

    def linear(self, rows: str, layers: Sequence[nn.Linear], name: str) -> str:
        """Linear layers of the same input side by side, [1, S, in] -> [1, S, sum of out]."""

    def output_rows(self, ids: list[int] | None) -> Tensor:
        """Rows of the output layer, [tokens, hidden]; None = all."""

    def tied_head_input(self, normed: str) -> str:
        """Hidden states [1, K, hidden] as the embedding takes them where it is the output layer."""

    def verdict_product(self, normed: str, weight: Tensor) -> str:
        """[1, N, hidden] times [hidden, columns]."""


def decoder_of(model: PreTrainedModel) -> Any:
    """The decoder without its output layer."""
    return model.get_decoder()


def output_rows(model: PreTrainedModel, ids: list[int] | None) -> Tensor:
    """Rows of the model's own output layer, [tokens, hidden]; None = all."""
    weight = values(cast(nn.Linear, model.get_output_embeddings()).weight)
    return weight if ids is None else weight[ids]


def linear(builder: OnnxGraphBuilder, rows: str, layers: Sequence[Parameters], name: str) -> str:
    """Linear layers of the same input side by side, [1, S, in] -> [1, S, sum of out]; all have a bias, or none."""
    weight = builder.weight(f"{name}/weight", torch.cat([weight for weight, _ in layers]).t())
    if layers[0][1] is None:
        return builder.op("MatMul", [rows, weight], name)
    product = builder.op("MatMul", [rows, weight], f"{name}/product")
    bias = builder.weight(f"{name}/bias", torch.cat([cast(Tensor, bias) for _, bias in layers]))
    return builder.op("Add", [product, bias], name)


def split_heads(builder: OnnxGraphBuilder, rows: str, norm: Any, head_dim: int, epsilon: float) -> str:
    """[1, S, n * head_dim] -> [1, S, n, head_dim], each head normed if the model does that."""
    heads = builder.op("Reshape", [rows, builder.ints("shape/split_heads", [1, 0, -1, head_dim])], f"{rows}/heads")
    if norm is None:
        return heads
    gamma = builder.weight(f"{rows}/norm", gain(norm))
    return builder.op("SimplifiedLayerNormalization", [heads, gamma], f"{rows}/normed", axis=-1, epsilon=epsilon)


def capped(builder: OnnxGraphBuilder, values: str, cap: float | None, name: str) -> str:
    """cap * tanh(values / cap), float32; the values themselves where there is no cap."""
    if cap is None:
        return values
    limit = builder.constant(f"{name}/cap", np.array(cap, np.float32))
    part = builder.op("Div", [values, limit], f"{name}/part_of_cap")
    return builder.op("Mul", [builder.op("Tanh", [part], f"{name}/tanh"), limit], f"{name}/capped")


def rotary_tables(builder: OnnxGraphBuilder, rotaries: Mapping[str, Rotary]) -> dict[str, tuple[str, str]]:
    """By kind, cosines and sines of the positions of the pass, [S, head_dim / 2] each, one row per token.

    A table of all positions of a long context would be larger than a layer.
    """
    column = builder.op("Reshape", ["position_ids", builder.ints("shape/column", [-1, 1])], "rotary/positions")
    positions = builder.op("Cast", [column], "rotary/positions/float", to=TensorProto.FLOAT)

    def table(at: str, angles: str, function: str, scaling: float) -> str:
        name = f"{at}/{function.lower()}"
        values = builder.op(function, [angles], f"{name}/raw")
        values = builder.scaled(values, float(scaling), f"{name}/scaled", np.float32)
        return builder.float_to_half(values, f"{name}/half")

    tables = {}
    for kind, rotary in rotaries.items():
        at = "/".join(filter(None, ("rotary", kind)))
        frequencies = builder.constant(f"{at}/frequencies", rotary.frequencies.numpy())
        angles = builder.op("Mul", [positions, frequencies], f"{at}/angles")
        tables[kind] = table(at, angles, "Cos", rotary.scaling), table(at, angles, "Sin", rotary.scaling)
    return tables


def token_indices(builder: OnnxGraphBuilder) -> tuple[str, str]:
    """0 to S - 1, [S]; and S itself, a scalar."""
    count = builder.op("Size", ["position_ids"], "rotary/tokens")
    start, step = builder.constant("rotary/start", np.array(0)), builder.constant("rotary/step", np.array(1))
    return builder.op("Range", [start, count, step], "rotary/rows"), count


class AdditiveMasks:
    """The masks as what is added to attention scores, made once for each mask input.

    Args:
        builder: of the graph.
        config: of the model.
        contract: of the graph.
        repeats: adds, when it is first called, how often a mask is repeated along each axis, int64 [4].
    """

    def __init__(
        self, builder: OnnxGraphBuilder, config: Any, contract: GraphContract, repeats: Callable[[], str]
    ) -> None:
        self._builder, self._config, self._contract, self._repeats = builder, config, contract, repeats
        self._made: dict[str, str] = {}  # mask input -> its additive form

    def of_layer(self, layer: int) -> str:
        """bool [B, 1, S, keys] -> float32 [B, 1, repeats * S, keys]: 0 where a key is visible.

        Elsewhere the finite minimum and not -inf: a row that sees nothing gives a mean and not NaN.
        """
        mask = self._input(layer)
        if mask not in self._made:
            visible = self._builder.constant("mask/seen", np.array(0, np.float32))
            masked = self._builder.constant("mask/unseen", np.array(np.finfo(np.float32).min))
            one = self._builder.op("Where", [mask, visible, masked], f"{mask}/bias")
            self._made[mask] = self._builder.op("Tile", [one, self._repeats()], f"{mask}/biases")
        return self._made[mask]

    def _input(self, layer: int) -> str:
        if self._contract.sliding_window is None:
            return "attention_mask"
        kinds = getattr(self._config, "layer_types", None)
        local = kinds is None or kinds[layer] == "sliding_attention"  # Mistral: all layers
        return "sliding_attention_mask" if local else "attention_mask"
