"""The fused graph in a rotated basis (`tokmarg_export.rotation`), made for products in 8 bits (`tokmarg_export.int8`).

What differs from `tokmarg_export.fused`: the weights; the norms, whose own weights are 1; a small product in front of
the down projection; float64 in front of output layers, where the order of a sum would show in the rounding behind it;
and attention, whose sums would show it, too. It is one operator, and works content by content:

    rows of the pass [1, N, ...]  ->  Gather  ->  contents [B, ..., S, ...]  ->  Attention  ->  Gather  ->  rows

Every content of a pass has S places for its rows and T for the cached tokens of its own; where it has fewer, the mask
says so. Keys are in the order prefix, new, own: what a content does not need of T stands behind all that it sees, where
it changes no bit of a sum. What it does not need of S does not stand at the end unless T is 0, so the runtime chooses S
by the content alone where it has tokens of its own (`tokmarg.contents`). Everything else is computed row by row. Keys
in the cache are the model's own, values are rotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def emit_rotated_graph(
    model: PreTrainedModel, contract: GraphContract, moments: Mapping[int, Tensor] | None = None
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """The graph in float32 of a model for which :func:`tokmarg_export.fused.why_not_fused` is None.

    Args:
        model: unchanged afterwards.
        contract: the interface.
        moments: of :func:`tokmarg_export.rounding.input_moments`.

    Returns:
        the graph; and by name of a weight the moments of what it is multiplied with, none without ``moments``.
    """
    graph = _RotatedGraph(model, contract, moments or {})
    return graph.whole(), graph.moments


class _RotatedGraph(Graph):
    _opset, _ir = 23, 11  # of Attention

    def __init__(self, model: PreTrainedModel, contract: GraphContract, moments: Mapping[int, Tensor]) -> None:
        super().__init__(model, contract, torch.float32)
        self._rotation, self._read = Rotation(model), moments
        self.moments: dict[str, Tensor] = {}

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

    def _product(self, rows: str, layers: Sequence[nn.Linear], name: str) -> str:
        if (read := self._read.get(id(layers[0]))) is not None:
            self.moments[f"{name}/weight"] = self._rotation.moments(layers[0], read)
        if name.endswith("/mlp") and (matrix := self._rotation.blocks) is not None:
            cut = self._op("Reshape", [rows, self._ints("shape/blocks", [1, 0, -1, len(matrix)])], f"{rows}/blocks")
            # Three dimensions, so that it is not taken for a product with weights, which would be rounded.
            turn = self._constant("turn/blocks", matrix.float().numpy()[None])
            turned = self._op("MatMul", [cut, turn], f"{rows}/turned")
            rows = self._op("Reshape", [turned, self._ints("shape/unblocked", [1, 0, -1])], f"{rows}/unblocked")
        return super()._product(rows, layers, name)

    def _attention(self, layer: int, module: Any, normed: str) -> str:
        """[1, N, hidden] -> [1, N, heads * head_dim]; names the new keys and values of each content as outputs."""
        at, kv_heads = f"layer.{layer}", self._contract.kv_heads
        heads, dim = self._groups * kv_heads, self._contract.head_dim
        packed = self._product(normed, [module.q_proj, module.k_proj, module.v_proj], f"{at}/qkv")
        norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        if norms != [None, None]:
            sizes = self._ints("sizes/qkv", [heads * dim, kv_heads * dim, kv_heads * dim])
            parts = [f"{at}/{x}" for x in "qkv"]
            self._nodes.append(helper.make_node("Split", [packed, sizes], parts, axis=2))
            each_head = [self._heads(rows, norm) for rows, norm in zip(parts, [*norms, None], strict=True)]
            packed = self._op("Concat", each_head, f"{at}/qkv/heads", axis=2)
            packed = self._op("Reshape", [packed, self._ints("shape/joined_heads", [1, 0, -1])], f"{at}/qkv/normed")
        # Values are turned along, and taken from in front of it: that costs less than to split them off.
        turned = self._op("RotaryEmbedding", [packed, "rotary/index", *self._rotary], f"{at}/qkv/rotated", MICROSOFT)
        index, flat = self._places(), self._ints("shape/head_rows", [-1, dim])
        turned_heads = self._op("Reshape", [turned, flat], f"{at}/qkv/rotated/rows")
        value_heads = self._op("Reshape", [packed, flat], f"{at}/qkv/rows")
        query = self._op("Gather", [turned_heads, index["query"]], f"{at}/queries", axis=0)
        new = {
            "key": self._op("Gather", [turned_heads, index["key"]], f"present.{layer}.key", axis=0),
            "value": self._op("Gather", [value_heads, index["value"]], f"present.{layer}.value", axis=0),
        }
        whole_cache = []
        for part, rows in new.items():
            prefix = self._op("Expand", [f"past_key_values.{layer}.{part}", index["each"]], f"{at}/{part}/prefix")
            whole_cache.append(
                self._op("Concat", [prefix, rows, f"own_key_values.{layer}.{part}"], f"{at}/{part}s", axis=2)
            )
        mixed = self._op(
            "Attention",
            [query, *whole_cache, self._bias(self._mask_of(layer))],
            f"{at}/mixed",
            scale=float(module.scaling),
        )
        by_head = self._op("Reshape", [mixed, flat], f"{at}/mixed/rows")
        by_row = self._op("Gather", [by_head, index["row"]], f"{at}/mixed/heads", axis=0)
        return self._op("Reshape", [by_row, self._ints("shape/joined_heads", [1, 0, -1])], f"{at}/context")

    def _repeats(self) -> str:
        if "mask/one" not in self._tensors:
            one = self._ints("mask/one", [1])
            self._op("Concat", [one, one, self._stacked(), one], "mask/repeats", axis=0)
        return "mask/repeats"

    def _stacked(self) -> str:
        """How many query heads of one key head make one product: all of them, or one where ``stack_heads`` is false.

        The result is the same to the bit. A stack reads its keys once; heads by themselves share out over threads.
        """
        if "stacked/one" not in self._tensors:
            one = self._ints("stacked/one", [1])
            self._op("Where", ["stack_heads", self._ints("stacked/all", [self._groups]), one], "stacked")
        return "stacked"

    def _places(self) -> dict[str, str]:
        """Where the heads of every place of every content stand among the heads of all rows, and the way back.

        query [B, heads / stacked, stacked * S], key and value [B, kv_heads, S], row [1, N, heads]; each [B, 1, 1, 1],
        the shape that the prefix is expanded to.
        """
        kv_heads, groups = self._contract.kv_heads, self._groups
        heads, names = groups * kv_heads, {part: f"places/{part}" for part in ("query", "key", "value", "row", "each")}
        if "places/every" in self._tensors:
            return names
        every = self._constant("places/every", np.arange(heads).reshape(kv_heads, groups, 1))
        keys = self._constant("places/keys", heads + np.arange(kv_heads).reshape(kv_heads, 1))
        values = self._constant("places/values", heads + kv_heads + np.arange(kv_heads).reshape(kv_heads, 1))
        beside = self._constant("places/beside", np.array(heads + 2 * kv_heads))
        rows = self._op("Unsqueeze", ["attention_rows", self._ints("places/axis", [1])], "places/rows")
        firsts = self._op("Mul", [rows, beside], "places/firsts")
        self._op("Add", [firsts, keys], names["key"])
        self._op("Add", [firsts, values], names["value"])
        by_group = self._op("Unsqueeze", [firsts, self._ints("places/axis", [1])], "places/by_group")
        grouped = self._op("Add", [by_group, every], "places/grouped")
        stacks = self._op("Div", [self._ints("places/all", [heads]), self._stacked()], "places/stacks")
        shape = self._op(
            "Concat",
            [self._ints("places/same", [0]), stacks, self._ints("places/rest", [-1])],
            "shape/stacked_places",
            axis=0,
        )
        self._op("Reshape", [grouped, shape], names["query"])
        # place = content * S + s stands at content * heads * S + head * S + s.
        count = self._op("Shape", ["attention_rows"], "places/count", start=1, end=2)
        content = self._op("Div", ["row_places", count], "places/content")
        more = self._op("Mul", [content, self._constant("places/others", np.array(heads - 1))], "places/more")
        ahead = self._op("Mul", [more, count], "places/ahead")
        place = self._op("Add", ["row_places", ahead], "places/place")
        column = self._op("Reshape", [place, self._ints("shape/place_column", [1, -1, 1])], "places/column")
        steps = self._op("Mul", [self._constant("places/heads", np.arange(heads)), count], "places/steps")
        self._op("Add", [column, steps], names["row"])
        contents = self._op("Shape", ["attention_rows"], "places/contents", start=0, end=1)
        self._op("Concat", [contents, self._ints("places/ones", [1, 1, 1])], names["each"], axis=0)
        return names
