"""ONNX graph of a Llama-shaped model in a rotated basis (QuaRot), made for products in 8 bits.

The rotation is that of `tokmarg_export.quantization.quarot`, the products those of `int8_per_row` beside it. What
differs from `llama_graph`: the weights; norms, whose own weights are 1; a small product before the down projection;
float64 before the output layers, where the order of a sum would show in the rounding after it; and attention, whose
sums would show it, too. (Of Gemma norms keep their gains, and what q, k, v, gate and up read has the small product as
well: see `input_rotation`.) Attention is one operator, and works content by content:

    rows of the pass [1, N, ...]  ->  Gather  ->  contents [B, ..., S, ...]  ->  Attention  ->  Gather  ->  rows

Every content of a pass has S places for its rows and K for the tokens that they see, each of which names its slot among

    [ policy prefix | contents' own cached tokens | new tokens ]

Where a content has fewer, the mask hides the rest, which comes after all that the content sees, where it changes no
bit of a sum. Everything else is computed row by row. A token has 2 * kv_heads rows in the cache: its keys, which are
the model's own, and its values, which are rotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.engine.graph_signature import LEAST_RELEASE
from tokmarg_export.quantization.gptq import InputStatistics
from tokmarg_export.quantization.input_rotation import rotation_of
from tokmarg_export.quantization.input_statistics import LayerStatistics
from tokmarg_export.quantization.int8_per_row import StatisticsOf

from .blocks import AdditiveMasks, decoder_of, linear, output_rows, rotary_tables, split_heads, token_indices
from .family import Rotary, family_of, rotary_kind
from .head_indices import HeadIndices
from .llama_graph import assemble
from .onnx_graph_builder import MICROSOFT, OnnxGraphBuilder
from .tensor_spool import StoreTensor

__all__ = ["build_rotated_graph"]

_OPSET, _IR_VERSION = 23, 11  # of Attention


def build_rotated_graph(
    model: PreTrainedModel,
    contract: GraphContract,
    statistics: LayerStatistics | None = None,
    store: StoreTensor = numpy_helper.from_array,
) -> tuple[onnx.ModelProto, StatisticsOf]:
    """The float32 graph of a model for which :func:`tokmarg_export.graph.family.llama_graph_mismatch` is None.

    Args:
        model: unchanged afterwards.
        contract: of the graph.
        statistics: of the model's own inputs.
        store: of :class:`OnnxGraphBuilder`.

    Returns:
        the graph; and what gives the statistics of the rotated inputs by the name of the weight that they are
        multiplied with, None without ``statistics``.
    """
    builder = OnnxGraphBuilder(torch.float32, _OPSET, _IR_VERSION, store)
    blocks = _RotatedBlocks(builder, model, contract)
    graph = assemble(builder, model, contract, blocks)
    if family_of(model).score_cap(model.config) is not None:  # which releases before apply after the mask
        graph.metadata_props.add(key=LEAST_RELEASE, value="1.27")

    def statistics_of(weight: str) -> InputStatistics | None:
        if statistics is None or weight not in blocks.layers:
            return None
        linear = blocks.layers[weight]
        return blocks.rotation.statistics(linear, statistics.of(linear))

    return graph, statistics_of


class _RotatedBlocks:
    """Blocks with rotated weights, and attention content by content."""

    def __init__(
        self,
        builder: OnnxGraphBuilder,
        model: PreTrainedModel,
        contract: GraphContract,
    ) -> None:
        self._builder, self._model, self.rotation = builder, model, rotation_of(model)
        self._kv_heads, self._head_dim = contract.kv_heads, contract.head_dim
        self._groups = model.config.num_attention_heads // model.config.num_key_value_heads
        self._epsilon = float(model.config.rms_norm_eps)
        self._head_indices = HeadIndices(builder, self._kv_heads, self._groups)
        self._masks = AdditiveMasks(builder, model.config, contract, self._head_indices.mask_repeats)
        cap = family_of(model).score_cap(model.config)
        self._cap: dict[str, Any] = {} if cap is None else {"softcap": cap}
        self._tables: list[list[str]] = []  # of each layer cosines and sines, [N + 1, head_dim / 2]
        self._in_blocks: set[str] = set()  # rows that the graph has so
        self.layers: dict[str, nn.Linear] = {}  # name of a weight -> the first of the model's layers that it comes from

    def embedding(self) -> Tensor:
        return self.rotation.embedding(cast(Tensor, decoder_of(self._model).embed_tokens.weight))

    def norm_weight(self, name: str, norm: Any) -> str:
        if (gain := self.rotation.gain(norm)) is not None:
            return self._builder.weight(name, gain)
        return self._builder.weight("norm/ones", torch.ones(norm.weight.shape))

    def rotary(self, rotaries: Mapping[str, Rotary]) -> None:
        """One row for each token, and a last one, angle 0, for values: they pass the operator for one copy of all."""
        made = rotary_tables(self._builder, rotaries)
        self._rotary_index(*token_indices(self._builder))
        by_kind: dict[str, list[str]] = {kind: [] for kind in made}
        for kind, tables in made.items():
            size = rotaries[kind].frequencies.numel()
            for (name, value), table in zip((("cos", 1), ("sin", 0)), tables, strict=True):
                still = self._builder.constant(f"rotary/{name}/still", np.full((1, size), value, np.float32))
                rows = "/".join(filter(None, ("rotary", kind, name, "rows")))
                by_kind[kind].append(self._builder.op("Concat", [table, still], rows, axis=0))
        config = self._model.config
        self._tables = [by_kind[rotary_kind(config, layer)] for layer in range(config.num_hidden_layers)]

    def _rotary_index(self, tokens: str, count: str) -> None:
        """The table's row for each head of each token, [N * heads, 1]: the token's for queries and keys, else N."""
        builder, kv_heads = self._builder, self._kv_heads
        is_value = np.arange((self._groups + 2) * kv_heads) // kv_heads > self._groups  # [heads]
        values = builder.constant("rotary/values", is_value)
        column = builder.op("Unsqueeze", [tokens, builder.ints("places/axis", [1])], "rotary/column")  # [N, 1]
        each = builder.op("Where", [values, count, column], "rotary/each")  # [N, heads]
        builder.op("Reshape", [each, builder.ints("shape/column", [-1, 1])], "rotary/index")

    def attention(self, layer: int, module: Any, normed: str) -> str:
        """[1, N, hidden] -> [1, N, heads * head_dim]; names the new keys and values of all contents as outputs."""
        builder, at, dim = self._builder, f"layer.{layer}", self._head_dim
        packed = self._normed_heads(module, normed, at)
        indices, rows = self._head_indices.indices(), builder.ints("shape/head_rows", [-1, dim])
        split = builder.op("Reshape", [packed, builder.ints("shape/each_head", [-1, 1, dim])], f"{at}/qkv/split")
        rotated = builder.op(
            "RotaryEmbedding", [split, "rotary/index", *self._tables[layer]], f"{at}/turned", MICROSOFT
        )
        heads = builder.op("Reshape", [rotated, rows], f"{at}/turned/rows")  # [N * (groups + 2) * kv_heads, head_dim]
        new = builder.op("Gather", [heads, indices.new], f"present.{layer}", axis=0)
        cached = [f"past_key_values.{layer}", f"own_key_values.{layer}"]
        slots = builder.op("Concat", [*cached, new], f"{at}/slots", axis=0)  # [slots * 2 * kv_heads, head_dim]
        mixed = builder.op(
            "Attention",
            [
                builder.op("Gather", [heads, indices.query], f"{at}/queries", axis=0),
                builder.op("Gather", [slots, indices.key], f"{at}/keys", axis=0),
                builder.op("Gather", [slots, indices.value], f"{at}/values", axis=0),
                self._masks.of_layer(layer),
            ],
            f"{at}/mixed",
            scale=float(module.scaling),
            **self._cap,
        )
        by_head = builder.op("Reshape", [mixed, rows], f"{at}/mixed/rows")
        by_row = builder.op("Gather", [by_head, indices.row], f"{at}/mixed/heads", axis=0)
        return builder.op("Reshape", [by_row, builder.ints("shape/joined_heads", [1, 0, -1])], f"{at}/context")

    def _normed_heads(self, module: Any, normed: str, at: str) -> str:
        """Queries, keys and values side by side, [1, N, (groups + 2) * kv_heads * head_dim]."""
        builder, kv_heads, dim = self._builder, self._kv_heads, self._head_dim
        packed = self.linear(normed, [module.q_proj, module.k_proj, module.v_proj], f"{at}/qkv")
        norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        if norms == [None, None]:
            return packed
        sizes = builder.ints("sizes/qkv", [self._groups * kv_heads * dim, kv_heads * dim, kv_heads * dim])
        qkv = [f"{at}/{x}" for x in "qkv"]
        builder.node("Split", [packed, sizes], qkv, axis=2)
        each_head = [
            split_heads(builder, rows, norm, dim, self._epsilon) for rows, norm in zip(qkv, [*norms, None], strict=True)
        ]
        packed = builder.op("Concat", each_head, f"{at}/qkv/heads", axis=2)
        return builder.op("Reshape", [packed, builder.ints("shape/joined_heads", [1, 0, -1])], f"{at}/qkv/normed")

    def linear(self, rows: str, layers: Sequence[nn.Linear], name: str) -> str:
        self.layers[f"{name}/weight"] = layers[0]
        if (matrix := self.rotation.before(layers[0])) is not None:
            rows = self._rotated_in_blocks(rows, matrix)
        return linear(self._builder, rows, [self.rotation.linear(layer) for layer in layers], name)

    def _rotated_in_blocks(self, rows: str, matrix: Tensor) -> str:
        """What a product reads, [1, N, in], each block of it times a matrix [block, block]."""
        builder = self._builder
        if rows in self._in_blocks:
            return f"{rows}/unblocked"
        self._in_blocks.add(rows)
        blocks = builder.op("Reshape", [rows, builder.ints("shape/blocks", [1, 0, -1, len(matrix)])], f"{rows}/blocks")
        # Three dimensions, so that it is not taken for a product with weights, which would be rounded.
        weight = builder.constant("turn/blocks", matrix.float().numpy()[None])
        rotated = builder.op("MatMul", [blocks, weight], f"{rows}/turned")
        return builder.op("Reshape", [rotated, builder.ints("shape/unblocked", [1, 0, -1])], f"{rows}/unblocked")

    def output_rows(self, ids: list[int] | None) -> Tensor:
        if ids is None:
            return self.rotation.output(cast(nn.Linear, self._model.get_output_embeddings()).weight)
        return self.rotation.output_rows(output_rows(self._model, ids))

    def tied_head_input(self, normed: str) -> str:
        back = self.rotation.back()
        return normed if back is None else self._double_product(normed, back, "head/back")

    def verdict_product(self, normed: str, weight: Tensor) -> str:
        return self._double_product(normed, weight, "verdict/weight")

    def _double_product(self, rows: str, weight: Tensor, name: str) -> str:
        """A product in float64, rounded to float32."""
        matrix = self._builder.constant(name, weight.detach().double().contiguous().numpy())
        double = self._builder.op("Cast", [rows], f"{name}/rows", to=TensorProto.DOUBLE)
        product = self._builder.op("MatMul", [double, matrix], f"{name}/double")
        return self._builder.op("Cast", [product], f"{name}/product", to=TensorProto.FLOAT)
