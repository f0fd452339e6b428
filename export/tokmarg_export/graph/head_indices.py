"""Index arithmetic of attention content by content: which heads of a pass each content reads, and the way back.

Sizes of a pass: N new tokens; B contents of at most S rows and K visible keys each. Of the model: H = kv_heads, G query
heads for each key head. A token of the pass has (G + 2) * H heads: H groups of G queries, H keys, H values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .onnx_graph_builder import OnnxGraphBuilder

__all__ = ["HeadIndices", "Indices"]


@dataclass(frozen=True)
class Indices:
    """Names of index tensors.

    Attributes:
        query: [B, H * G / stacked, stacked * S] among the heads of all tokens, [N * (G + 2) * H].
        new: [N * 2 * H], keys and values among the same.
        key, value: [B, H, K] among keys and values of all slots, [slots * 2 * H].
        row: [1, N, H * G] among the heads of attention's result, [B * H * G * S].
    """

    query: str = "places/query"
    new: str = "places/new"
    key: str = "places/key"
    value: str = "places/value"
    row: str = "places/row"


class HeadIndices:
    """Index tensors of a pass; the first layer that asks for them adds their nodes.

    Args:
        builder: of the graph, which has ``rotary/column``, the numbers of the tokens, int64 [N, 1].
        kv_heads: H.
        groups: G.
    """

    def __init__(self, builder: OnnxGraphBuilder, kv_heads: int, groups: int) -> None:
        self._builder, self._kv_heads, self._groups = builder, kv_heads, groups

    def mask_repeats(self) -> str:
        """How often a mask is repeated along each axis: int64 [4], [1, 1, stacked, 1]."""
        builder = self._builder
        if "mask/one" not in builder:
            one = builder.ints("mask/one", [1])
            builder.op("Concat", [one, one, self._stacked(), one], "mask/repeats", axis=0)
        return "mask/repeats"

    def _stacked(self) -> str:
        """How many query heads of one key head make one product: G, or 1 where ``stack_heads`` is false; int64 [1].

        The result is the same to the bit. A stack reads its keys once; single heads are shared out over threads.
        """
        builder = self._builder
        if "stacked/one" not in builder:
            one = builder.ints("stacked/one", [1])
            builder.op("Where", ["stack_heads", builder.ints("stacked/all", [self._groups]), one], "stacked")
        return "stacked"

    def indices(self) -> Indices:
        """The index tensors."""
        builder, indices = self._builder, Indices()
        kv_heads, groups = self._kv_heads, self._groups
        heads, width = groups * kv_heads, (groups + 2) * kv_heads  # queries of a token, and all its heads
        if "places/every" in builder:
            return indices
        every = builder.constant("places/every", np.arange(heads).reshape(kv_heads, groups, 1))  # [H, G, 1]
        axis, beside = builder.ints("places/axis", [1]), builder.constant("places/beside", np.array(width))
        # new = token * width + H * G + (0 to 2 * H - 1), [N, 2 * H] flattened
        each = builder.op("Mul", ["rotary/column", beside], "places/each")  # [N, 1]
        cached = builder.constant("places/cached", heads + np.arange(2 * kv_heads))  # [2 * H]
        new = builder.op("Add", [each, cached], "places/each/cached")
        builder.op("Reshape", [new, builder.ints("shape/all", [-1])], indices.new)
        self._keys_and_values(axis, indices)
        self._queries(axis, beside, every, indices)
        self._rows(indices)
        return indices

    def _keys_and_values(self, axis: str, indices: Indices) -> None:
        """key = slot * 2 * H + h and value = slot * 2 * H + H + h, [B, 1, K] + [H, 1] -> [B, H, K]."""
        builder, kv_heads = self._builder, self._kv_heads
        slots = builder.op("Unsqueeze", ["key_slots", axis], "places/slots")  # [B, 1, K]
        starts = builder.op("Mul", [slots, builder.constant("places/width", np.array(2 * kv_heads))], "places/behind")
        for i, (kind, name) in enumerate((("key", indices.key), ("value", indices.value))):
            offsets = (i * kv_heads + np.arange(kv_heads)).reshape(kv_heads, 1)
            builder.op("Add", [starts, builder.constant(f"places/{kind}s", offsets)], name)

    def _queries(self, axis: str, beside: str, every: str, indices: Indices) -> None:
        """query = token * width + head, [B, 1, 1, S] + [H, G, 1] -> [B, H, G, S] -> [B, H * G / stacked, -1]."""
        builder = self._builder
        rows = builder.op("Unsqueeze", ["attention_rows", axis], "places/rows")  # [B, 1, S]
        firsts = builder.op("Mul", [rows, beside], "places/firsts")
        by_group = builder.op("Unsqueeze", [firsts, axis], "places/by_group")  # [B, 1, 1, S]
        grouped = builder.op("Add", [by_group, every], "places/grouped")
        heads = builder.ints("places/all", [self._groups * self._kv_heads])
        stacks = builder.op("Div", [heads, self._stacked()], "places/stacks")
        shape = [builder.ints("places/same", [0]), stacks, builder.ints("places/rest", [-1])]
        builder.op("Reshape", [grouped, builder.op("Concat", shape, "shape/stacked_places", axis=0)], indices.query)

    def _rows(self, indices: Indices) -> None:
        """row = content * heads * S + head * S + s of the token at place = content * S + s; [1, N, 1] + [heads]."""
        builder, heads = self._builder, self._groups * self._kv_heads
        count = builder.op("Shape", ["attention_rows"], "places/count", start=1, end=2)  # S, [1]
        content = builder.op("Div", ["row_places", count], "places/content")  # [N]
        more = builder.op("Mul", [content, builder.constant("places/others", np.array(heads - 1))], "places/more")
        ahead = builder.op("Mul", [more, count], "places/ahead")  # content * (heads - 1) * S
        place = builder.op("Add", ["row_places", ahead], "places/place")  # content * heads * S + s
        column = builder.op("Reshape", [place, builder.ints("shape/place_column", [1, -1, 1])], "places/column")
        steps = builder.op("Mul", [builder.constant("places/heads", np.arange(heads)), count], "places/steps")
        builder.op("Add", [column, steps], indices.row)
