"""The fused graph in a rotated basis (`tokmarg_export.rotation`), made for products in 8 bits (`tokmarg_export.int8`).

What differs from `tokmarg_export.fused`: the weights; the norms, whose own weights are 1; a small product in front of
the down projection; attention in one operator, `GroupQueryAttention`, whose sums depend in the last bit on what is
masked, so that a pass of such a graph carries one content (`graph.alone` in the manifest); float64 in front of output
layers, where the order of a sum would show in the rounding behind it. Keys in the cache are the model's own, values are
rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg.bundle import GraphContract

from .fused import MICROSOFT, Graph
from .rotation import Rotation

__all__ = ["emit_rotated_graph"]


def emit_rotated_graph(model: PreTrainedModel, contract: GraphContract) -> onnx.ModelProto:
    """The graph in float32 of a model for which :func:`tokmarg_export.fused.why_not_fused` is None.

    The model is unchanged afterwards.
    """
    return _RotatedGraph(model, contract, torch.float32).whole()


class _RotatedGraph(Graph):
    def __init__(self, model: PreTrainedModel, contract: GraphContract, dtype: torch.dtype) -> None:
        super().__init__(model, contract, dtype)
        self._rotation = Rotation(model)

    def _table(self) -> Tensor:
        return self._rotation.embedding(super()._table())

    def _linear(self, layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
        return self._rotation.linear(layer)

    def _gamma(self, name: str, norm: Any) -> str:
        return self._weight("norm/ones", torch.ones_like(norm.weight))

    def _output_rows(self, ids: list[int] | None) -> Tensor:
        return self._rotation.output(super()._output_rows(ids))

    def _before_table(self, normed: str) -> str:
        return self._double_product(normed, self._rotation.back(), "head/back")

    def _verdict_product(self, normed: str, weight: Tensor) -> str:
        return self._double_product(normed, weight, "verdict/weight")

    def _double_product(self, rows: str, weight: Tensor, name: str) -> str:
        matrix = self._constant(name, weight.detach().double().contiguous().numpy())
        double = self._op("Cast", [rows], f"{name}/rows", to=TensorProto.DOUBLE)
        product = self._op("MatMul", [double, matrix], f"{name}/double")
        return self._op("Cast", [product], f"{name}/product", to=TensorProto.FLOAT)

    def _stacked(self, mask: str, bias: str) -> str:
        return bias

    def _product(self, rows: str, layers: Sequence[nn.Linear], name: str) -> str:
        if name.endswith("/mlp") and (matrix := self._rotation.blocks) is not None:
            cut = self._op("Reshape", [rows, self._ints("shape/blocks", [1, 0, -1, len(matrix)])], f"{rows}/blocks")
            # Three dimensions, so that it is not taken for a product with weights, which would be rounded.
            turn = self._constant("turn/blocks", matrix.float().numpy()[None])
            turned = self._op("MatMul", [cut, turn], f"{rows}/turned")
            rows = self._op("Reshape", [turned, self._ints("shape/unblocked", [1, 0, -1])], f"{rows}/unblocked")
        return super()._product(rows, layers, name)

    def _attend(self, layer: int, module: Any, parts: Sequence[str]) -> str:
        """In one operator. Cached and new keys come back together; the new ones are cut off again."""
        at, past = f"layer.{layer}", [f"past_key_values.{layer}.{x}" for x in ("key", "value")]
        query, key = (
            self._rotated_rows(rows, getattr(module, norm, None), f"{rows}/rotated")
            for rows, norm in zip(parts[:2], ("q_norm", "k_norm"), strict=True)
        )
        if "tokens/last" not in self._tensors:
            self._constant("tokens/last", np.array(1, np.int32))
            mask = self._mask_of(layer)
            length = self._op("Shape", [mask], "tokens/length", start=3, end=4)
            total = self._op("Cast", [length], "tokens/total", to=TensorProto.INT32)
            self._op("Sub", [total, "tokens/last"], "tokens/behind")
            self._op("Squeeze", [total], "tokens/count")
            self._op("Shape", [f"past_key_values.{layer}.key"], "tokens/past", start=2, end=3)
        bias = self._bias(self._mask_of(layer))
        cached = [f"{at}/{x}s" for x in ("key", "value")]
        self._nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [query, key, parts[2], *past, "tokens/behind", "tokens/count", "", "", "", bias],
                [f"{at}/context", *cached],
                domain=MICROSOFT,
                num_heads=self._groups * self._contract.kv_heads,
                kv_num_heads=self._contract.kv_heads,
                scale=float(module.scaling),
            )
        )
        end, axis = self._ints("tokens/end", [np.iinfo(np.int64).max]), self._ints("tokens/axis", [2])
        for whole, part in zip(cached, ("key", "value"), strict=True):
            self._op("Slice", [whole, "tokens/past", end, axis], f"present.{layer}.{part}")
        return f"{at}/context"

    def _rotated_rows(self, rows: str, norm: Any, name: str) -> str:
        """Rotary embedding of [1, S, n * head_dim]."""
        if norm is not None:
            normed = self._heads(rows, norm)
            rows = self._op("Reshape", [normed, self._ints("shape/joined_heads", [1, 0, -1])], f"{rows}/joined")
        return self._op("RotaryEmbedding", [rows, "rotary/index", *self._rotary], name, MICROSOFT)
