"""The fused graph in a rotated basis (`tokmarg_export.rotation`), made for products in 8 bits (`tokmarg_export.int8`).

What differs from `tokmarg_export.fused`: the weights; the norms, whose own weights are 1; a small product in front of
the down projection; float64 in front of output layers, where the order of a sum would show in the rounding behind it;
and attention, whose sums would show it, too. It is one operator, and works content by content:

    rows of the pass [1, N, ...]  ->  Gather  ->  contents [B, ..., S, ...]  ->  Attention  ->  Gather  ->  rows

Every content of a pass has S places for its rows and T for the cached tokens of its own; where it has fewer, the mask
says so. The sums of a content have the same shape then whoever else is in the pass, and the runtime chooses S and T by
the content alone (`tokmarg.contents`). Everything else is computed row by row. Keys in the cache are the model's own,
values are rotated.
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
        turned, values = f"{at}/qk", f"{at}/v"
        if norms == [None, None]:
            sizes = self._ints("sizes/qk_v", [(heads + kv_heads) * dim, kv_heads * dim])
            self._nodes.append(helper.make_node("Split", [packed, sizes], [turned, values], axis=2))
        else:
            sizes = self._ints("sizes/q_k_v", [heads * dim, kv_heads * dim, kv_heads * dim])
            parts = [f"{at}/q", f"{at}/k"]
            self._nodes.append(helper.make_node("Split", [packed, sizes], [*parts, values], axis=2))
            normed_heads = [self._heads(rows, norm) for rows, norm in zip(parts, norms, strict=True)]
            whole = self._op("Concat", normed_heads, f"{turned}/heads", axis=2)
            self._op("Reshape", [whole, self._ints("shape/joined_heads", [1, 0, -1])], turned)
        rotated = self._op("RotaryEmbedding", [turned, "rotary/index", *self._rotary], f"{turned}/rotated", MICROSOFT)
        index, flat = self._places(), self._ints("shape/head_rows", [-1, dim])
        turned_heads = self._op("Reshape", [rotated, flat], f"{turned}/rows")
        value_heads = self._op("Reshape", [values, flat], f"{values}/rows")
        query = self._op("Gather", [turned_heads, index["query"]], f"{at}/queries", axis=0)
        new = {
            "key": self._op("Gather", [turned_heads, index["key"]], f"present.{layer}.key", axis=0),
            "value": self._op("Gather", [value_heads, index["value"]], f"present.{layer}.value", axis=0),
        }
        whole_cache = []
        for part, rows in new.items():
            prefix = self._op("Expand", [f"past_key_values.{layer}.{part}", index["each"]], f"{at}/{part}/prefix")
            whole_cache.append(
                self._op("Concat", [prefix, f"own_key_values.{layer}.{part}", rows], f"{at}/{part}s", axis=2)
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

    def _places(self) -> dict[str, str]:
        """Where the heads of every place of every content stand among the heads of all rows, and the way back.

        query [B, kv_heads, groups * S] (the query heads of one key head are stacked), key and value [B, kv_heads, S],
        row [1, N, heads]; each [B, 1, 1, 1], the shape that the prefix is expanded to.
        """
        kv_heads, groups = self._contract.kv_heads, self._groups
        heads, names = groups * kv_heads, {part: f"places/{part}" for part in ("query", "key", "value", "row", "each")}
        if "places/every" in self._tensors:
            return names
        every = self._constant("places/every", np.arange(heads).reshape(kv_heads, groups, 1))
        keys = self._constant("places/keys", heads + np.arange(kv_heads).reshape(kv_heads, 1))
        values = self._constant("places/values", np.arange(kv_heads).reshape(kv_heads, 1))
        beside = self._constant("places/beside", np.array(heads + kv_heads))
        rows = self._op("Unsqueeze", ["attention_rows", self._ints("places/axis", [1])], "places/rows")
        firsts = self._op("Mul", [rows, beside], "places/firsts")
        self._op("Add", [firsts, keys], names["key"])
        among_values = self._op("Mul", [rows, self._constant("places/kv_heads", np.array(kv_heads))], "places/by_value")
        self._op("Add", [among_values, values], names["value"])
        by_group = self._op("Unsqueeze", [firsts, self._ints("places/axis", [1])], "places/by_group")
        grouped = self._op("Add", [by_group, every], "places/grouped")
        self._op("Reshape", [grouped, self._ints("shape/stacked_places", [0, kv_heads, -1])], names["query"])
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
