"""The fused graph in a rotated basis (`..quantization.quarot`), made for products in 8 bits (`int8_per_row` there).

What differs from `llama_graph`: the weights; the norms, whose own weights are 1; a small product in front of the down
projection; float64 in front of output layers, where the order of a sum would show in the rounding behind it;
and attention, whose sums would show it, too. It is one operator, and works content by content:

    rows of the pass [1, N, ...]  ->  Gather  ->  contents [B, ..., S, ...]  ->  Attention  ->  Gather  ->  rows

Every content of a pass has S places for its rows and K for the tokens that they see, each of which names its slot among

    [ policy prefix | contents' own cached tokens | new tokens ]

Where a content has fewer, the mask says so: what it does not need stands behind all that it sees, where it changes no
bit of a sum. Everything else is computed row by row. A token has 2 * kv_heads rows in the cache: its keys, which are
the model's own, and its values, which are rotated.
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

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.quantization.gptq import Usual
from tokmarg_export.quantization.quarot import Rotation

from .llama_graph import MICROSOFT, Graph

__all__ = ["emit_rotated_graph"]


def emit_rotated_graph(
    model: PreTrainedModel, contract: GraphContract, usual: Mapping[int, Usual] | None = None
) -> tuple[onnx.ModelProto, dict[str, Usual]]:
    """The graph in float32 of a model for which :func:`tokmarg_export.graph.llama_graph.why_not_fused` is None.

    Args:
        model: unchanged afterwards.
        contract: the interface.
        usual: of :func:`tokmarg_export.quantization.gptq.usual_inputs`.

    Returns:
        the graph; and by name of a weight what it is multiplied with on average, nothing without ``usual``.
    """
    graph = _RotatedGraph(model, contract, usual or {})
    return graph.whole(), graph.usual


class _RotatedGraph(Graph):
    _opset, _ir = 23, 11  # of Attention

    def __init__(self, model: PreTrainedModel, contract: GraphContract, usual: Mapping[int, Usual]) -> None:
        super().__init__(model, contract, torch.float32)
        self._rotation, self._read = Rotation(model), usual
        self.usual: dict[str, Usual] = {}

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
            self.usual[f"{name}/weight"] = self._rotation.usual(layers[0], read)
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
        index, rows = self._places(), self._ints("shape/head_rows", [-1, dim])
        split = self._op("Reshape", [packed, self._ints("shape/each_head", [-1, 1, dim])], f"{at}/qkv/split")
        turned = self._op("RotaryEmbedding", [split, "rotary/index", *self._rotary], f"{at}/turned", MICROSOFT)
        turned_heads = self._op("Reshape", [turned, rows], f"{at}/turned/rows")
        new = self._op("Gather", [turned_heads, index["new"]], f"present.{layer}", axis=0)
        slots = self._op("Concat", [f"past_key_values.{layer}", f"own_key_values.{layer}", new], f"{at}/slots", axis=0)
        mixed = self._op(
            "Attention",
            [
                self._op("Gather", [turned_heads, index["query"]], f"{at}/queries", axis=0),
                self._op("Gather", [slots, index["key"]], f"{at}/keys", axis=0),
                self._op("Gather", [slots, index["value"]], f"{at}/values", axis=0),
                self._bias(self._mask_of(layer)),
            ],
            f"{at}/mixed",
            scale=float(module.scaling),
        )
        by_head = self._op("Reshape", [mixed, rows], f"{at}/mixed/rows")
        by_row = self._op("Gather", [by_head, index["row"]], f"{at}/mixed/heads", axis=0)
        return self._op("Reshape", [by_row, self._ints("shape/joined_heads", [1, 0, -1])], f"{at}/context")

    def _rotary_tables(self, rotary: Any) -> None:
        """One row for each token, and a last one that turns nothing: values are turned along, for one copy of them."""
        super()._rotary_tables(rotary)
        for i, (name, value) in enumerate({"cos": 1, "sin": 0}.items()):
            still = self._constant(f"rotary/{name}/still", np.full((1, rotary.inv_freq.numel()), value, np.float32))
            self._rotary[i] = self._op("Concat", [self._rotary[i], still], f"rotary/{name}/rows", axis=0)

    def _rotary_index(self, tokens: str, count: str) -> None:
        """For each head of each token, [N * heads, 1]: of queries and keys the token's row, of values the last one."""
        kv_heads = self._contract.kv_heads
        values = self._constant("rotary/values", np.arange((self._groups + 2) * kv_heads) // kv_heads > self._groups)
        column = self._op("Unsqueeze", [tokens, self._ints("places/axis", [1])], "rotary/column")
        each = self._op("Where", [values, count, column], "rotary/each")
        self._op("Reshape", [each, self._ints("shape/column", [-1, 1])], "rotary/index")

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
        """Where the heads that a content works with stand, and the way back.

        query [B, heads / stacked, stacked * S] and new [N * 2 * kv_heads] among the heads of all rows, key and value
        [B, kv_heads, K] among those of all slots, row [1, N, heads] among those that attention gives.
        """
        kv_heads, groups = self._contract.kv_heads, self._groups
        heads, names = groups * kv_heads, {part: f"places/{part}" for part in ("query", "new", "key", "value", "row")}
        if "places/every" in self._tensors:
            return names
        every = self._constant("places/every", np.arange(heads).reshape(kv_heads, groups, 1))
        axis, beside = self._ints("places/axis", [1]), self._constant("places/beside", np.array(heads + 2 * kv_heads))
        each = self._op("Mul", ["rotary/column", beside], "places/each")
        cached = self._constant("places/cached", heads + np.arange(2 * kv_heads))
        new = self._op("Add", [each, cached], "places/each/cached")
        self._op("Reshape", [new, self._ints("shape/all", [-1])], names["new"])
        slots = self._op("Unsqueeze", ["key_slots", axis], "places/slots")
        behind = self._op("Mul", [slots, self._constant("places/width", np.array(2 * kv_heads))], "places/behind")
        for i, part in enumerate(("key", "value")):
            which = self._constant(f"places/{part}s", (i * kv_heads + np.arange(kv_heads)).reshape(kv_heads, 1))
            self._op("Add", [behind, which], names[part])
        rows = self._op("Unsqueeze", ["attention_rows", axis], "places/rows")
        firsts = self._op("Mul", [rows, beside], "places/firsts")
        by_group = self._op("Unsqueeze", [firsts, axis], "places/by_group")
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
        return names
