"""ONNX graph of a Llama-shaped model, written operator by operator from the weights of the loaded module.

It computes what the traced graph does (`tokmarg_export.graph.traced`) with a fraction of the nodes:

    Gather                                     embedding
    per layer
        SkipSimplifiedLayerNormalization       residual sum and RMS norm in one
        MatMul                                 q, k and v packed, followed by a Split
        RotaryEmbedding                        with the cosines of this pass's positions, computed once per pass
        FusedMatMul, Softmax, MatMul           attention under the explicit mask, over cached and new keys and values
        MatMul, QuickGelu                      gate and up, and SiLU
    Gather                                     the rows at logit_positions, in the last layer already
    Gemm                                       output layer, the embedding itself where it is tied

Gemma has more: norms of what attention and the MLP give (SimplifiedLayerNormalization), GELU with tanh (FastGelu), caps
on scores and logits, and Gemma 3 a rotary embedding of its own in local layers. `family` says which model has what.

All of these run on CPU and CUDA. GroupQueryAttention, which other exporters use here, is not an option: it ignores
position_ids where there is no past and S > 1 (onnxruntime 1.32), and returns past and new keys together.

:func:`assemble` puts the blocks of a model together; `tokmarg_export.graph.rotated_graph` calls it with blocks of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.model.stored_parameters import values

from .blocks import (
    AdditiveMasks,
    Blocks,
    capped,
    decoder_of,
    linear,
    output_rows,
    rotary_tables,
    split_heads,
    token_indices,
)
from .family import Rotary, family_of, gain, layer_norms, rotaries, rotary_kind
from .onnx_graph_builder import MICROSOFT, OnnxGraphBuilder
from .tensor_spool import StoreTensor

__all__ = ["assemble", "build_llama_graph"]

_OPSET, _IR_VERSION = 18, 9


def build_llama_graph(
    model: PreTrainedModel, contract: GraphContract, dtype: torch.dtype, store: StoreTensor = numpy_helper.from_array
) -> onnx.ModelProto:
    """The graph of a model for which :func:`tokmarg_export.graph.family.llama_graph_mismatch` is None.

    Args:
        model: unchanged afterwards.
        contract: of the graph; inputs and outputs are not declared yet.
        dtype: of weights, keys and values: float32 or float16. Norms, softmax and positions are computed in float32.
        store: of :class:`OnnxGraphBuilder`.
    """
    builder = OnnxGraphBuilder(dtype, _OPSET, _IR_VERSION, store)
    return assemble(builder, model, contract, _PlainBlocks(builder, model, contract))


def assemble(
    builder: OnnxGraphBuilder, model: PreTrainedModel, contract: GraphContract, blocks: Blocks
) -> onnx.ModelProto:
    """Embedding, layers and output layers of a model, of these blocks."""
    graph = _Assembly(builder, model, contract, blocks)
    decoder = decoder_of(model)
    layers = list(decoder.layers)
    table = builder.weight("embedding", blocks.embedding())
    hidden = builder.op("Gather", [table, "input_ids"], "hidden", axis=0)
    hidden = builder.scaled(hidden, family_of(model).embedding_scale(model.config), "hidden/scaled")
    blocks.rotary(rotaries(model))
    normed = graph.norm(hidden, layers[0].input_layernorm, "layer.0/input_norm", "layer.0/normed")
    for i, layer in enumerate(layers):
        at = f"layer.{i}"
        context = blocks.attention(i, layer.self_attn, normed)
        if i == len(layers) - 1:  # from here on only the rows that the logits need
            context, hidden = graph.gather_logit_rows(context, hidden, at)
        attended = blocks.linear(context, [layer.self_attn.o_proj], f"{at}/attended")
        after_attention, before_mlp, after_mlp = layer_norms(layer)
        attended = graph.norm_of_output(attended, after_attention)
        normed, hidden = graph.add_norm(hidden, attended, before_mlp, f"{at}/middle")
        following = layers[i + 1].input_layernorm if i + 1 < len(layers) else decoder.norm
        change = graph.norm_of_output(graph.mlp(layer.mlp, normed, at), after_mlp)
        normed, hidden = graph.add_norm(hidden, change, following, f"{at}/end")
    graph.heads(normed, table)
    return builder.model()


class _Assembly:
    """Norms, MLPs and output layers, which all graphs have in common."""

    def __init__(
        self, builder: OnnxGraphBuilder, model: PreTrainedModel, contract: GraphContract, blocks: Blocks
    ) -> None:
        self._builder, self._model, self._contract, self._blocks = builder, model, contract, blocks
        self._config = model.config
        self._epsilon = float(model.config.rms_norm_eps)
        self._output = cast(nn.Linear, model.get_output_embeddings())

    def norm(self, hidden: str, norm: Any, weight_name: str, name: str) -> str:
        """RMS norm, [1, S, hidden]."""
        gamma = self._blocks.norm_weight(weight_name, norm)
        return self._builder.op("SimplifiedLayerNormalization", [hidden, gamma], name, axis=-1, epsilon=self._epsilon)

    def norm_of_output(self, change: str, norm: Any) -> str:
        """What a layer adds to its input, [1, S, hidden], normed if the model does that."""
        return change if norm is None else self.norm(change, norm, f"{change}/norm", f"{change}/normed")

    def add_norm(self, hidden: str, change: str, norm: Any, name: str) -> tuple[str, str]:
        """RMS norm of hidden + change, and the sum itself, [1, S, hidden] each."""
        change = self._builder.scaled(change, getattr(self._config, "residual_multiplier", 1.0), f"{name}/change")
        gamma = self._blocks.norm_weight(f"{name}/norm", norm)
        outputs = [f"{name}/normed", "", "", f"{name}/sum"]
        self._builder.node(
            "SkipSimplifiedLayerNormalization", [hidden, change, gamma], outputs, MICROSOFT, epsilon=self._epsilon
        )
        return outputs[0], outputs[3]

    def mlp(self, module: Any, normed: str, at: str) -> str:
        """[1, S, hidden] -> [1, S, hidden]."""
        gate = self._blocks.linear(normed, [module.gate_proj], f"{at}/gate")
        up = self._blocks.linear(normed, [module.up_proj], f"{at}/up")
        if family_of(self._model).activation[1] == "silu":
            active = self._builder.op("QuickGelu", [gate], f"{at}/active", MICROSOFT, alpha=1.0)  # x * sigmoid(x)
        else:
            active = self._builder.op("FastGelu", [gate], f"{at}/active", MICROSOFT)  # with tanh in place of erf
        gated = self._builder.op("Mul", [active, up], f"{at}/gated")
        return self._blocks.linear(gated, [module.down_proj], f"{at}/mlp")

    def gather_logit_rows(self, context: str, hidden: str, at: str) -> tuple[str, str]:
        """Rows of both at the logit positions, followed by those at the verdict positions: [1, K + N, ...] each."""
        positions = "logit_positions"
        if self._contract.verdict_token_ids is not None:
            positions = self._builder.op("Concat", [positions, "verdict_positions"], "positions/wanted", axis=0)
        context = self._builder.op("Gather", [context, positions], f"{at}/context/wanted", axis=1)
        return context, self._builder.op("Gather", [hidden, positions], f"{at}/hidden/wanted", axis=1)

    def heads(self, normed: str, table: str) -> None:
        """Both output layers, for [1, K + N, hidden]; ``table``: the embedding's initializer."""
        builder = self._builder
        if self._contract.verdict_token_ids is not None:
            count = builder.op("Shape", ["logit_positions"], "positions/whole")
            axis, start = builder.ints("axes/rows", [1]), builder.ints("positions/start", [0])
            end = builder.ints("positions/end", [np.iinfo(np.int64).max])
            self._verdict_head(builder.op("Slice", [normed, count, end, axis], "verdict/normed"))
            normed = builder.op("Slice", [normed, start, count, axis], "head/normed")
        self._head(normed, table)

    def _head(self, normed: str, table: str) -> None:
        """Logits [1, K, columns]; caps and scales are computed in float32. Log-probabilities [1, K, verdict tokens]."""
        builder, layer, ids = self._builder, self._output, self._contract.head_token_ids
        embedding = decoder_of(self._model).embed_tokens.weight
        if ids is None and layer.weight is embedding:
            weight, normed = table, self._blocks.tied_head_input(normed)
        else:
            weight = builder.weight("head", self._blocks.output_rows(None if ids is None else list(ids)))
        rows = builder.op("Reshape", [normed, builder.ints("shape/flat", [-1, embedding.shape[1]])], "head/rows")
        inputs = [rows, weight]
        if layer.bias is not None:
            inputs.append(
                builder.weight("head/bias", values(layer.bias) if ids is None else values(layer.bias)[list(ids)])
            )
        logits = self._scaled_logits(builder.op("Gemm", inputs, "head/logits", transB=1), "head")
        builder.op("Unsqueeze", [logits, builder.ints("axes/first", [0])], "logits")
        if self._contract.log_probabilities:
            within = builder.op("LogSoftmax", ["logits"], "head/log_probabilities", axis=-1)
            columns = builder.ints("head/verdict_tokens", list(self._contract.verdict_token_ids or ()))
            builder.op("Gather", [within, columns], "log_probabilities", axis=2)

    def _verdict_head(self, normed: str) -> None:
        """Logits [1, N, columns] of verdict tokens only."""
        builder, layer = self._builder, self._output
        ids = list(self._contract.verdict_token_ids or ())
        logits = self._blocks.verdict_product(normed, self._blocks.output_rows(ids).t())
        if layer.bias is not None:
            logits = builder.op(
                "Add", [logits, builder.weight("verdict/bias", values(layer.bias)[ids])], "verdict/biased"
            )
        builder.op("Identity", [self._scaled_logits(logits, "verdict")], "verdict_logits")

    def _scaled_logits(self, logits: str, name: str) -> str:
        """Granite divides its logits by a constant, Gemma 2 caps them."""
        logits = self._builder.half_to_float(logits, f"{name}/logits/float")
        scaling = getattr(self._config, "logits_scaling", 1.0)
        if scaling != 1.0:
            divisor = self._builder.constant("head/scaling", np.array(scaling, np.float32))
            logits = self._builder.op("Div", [logits, divisor], f"{name}/logits/scaled")
        return capped(self._builder, logits, getattr(self._config, "final_logit_softcapping", None), f"{name}/logits")


class _PlainBlocks:
    """Blocks with the weights as they are, and attention over the whole pass."""

    def __init__(self, builder: OnnxGraphBuilder, model: PreTrainedModel, contract: GraphContract) -> None:
        self._builder, self._model = builder, model
        self._kv_heads, self._head_dim = contract.kv_heads, contract.head_dim
        self._groups = groups = model.config.num_attention_heads // model.config.num_key_value_heads
        self._epsilon = float(model.config.rms_norm_eps)
        # The query heads of one key head are stacked, and the mask with them.
        self._masks = AdditiveMasks(
            builder, model.config, contract, lambda: builder.ints("mask/groups", [1, 1, groups, 1])
        )
        self._cap = family_of(model).score_cap(model.config)
        self._tables: dict[str, tuple[str, str]]  # cosines and sines by kind of layer, [S, head_dim / 2]

    def embedding(self) -> Tensor:
        return cast(Tensor, decoder_of(self._model).embed_tokens.weight)

    def norm_weight(self, name: str, norm: Any) -> str:
        return self._builder.weight(name, gain(norm))

    def rotary(self, rotaries: Mapping[str, Rotary]) -> None:
        self._tables = rotary_tables(self._builder, rotaries)
        tokens, _ = token_indices(self._builder)  # token s reads row s
        self._builder.op("Reshape", [tokens, self._builder.ints("shape/row", [1, -1])], "rotary/index")

    def attention(self, layer: int, module: Any, normed: str) -> str:
        builder, at = self._builder, f"layer.{layer}"
        dim, groups, kv_heads = self._head_dim, self._groups, self._kv_heads
        packed = self.linear(normed, [module.q_proj, module.k_proj, module.v_proj], f"{at}/qkv")
        sizes = builder.ints("sizes/qkv", [groups * kv_heads * dim, kv_heads * dim, kv_heads * dim])
        q, k, v = (f"{at}/{x}" for x in "qkv")
        builder.node("Split", [packed, sizes], [q, k, v], axis=2)
        new = {x: f"present.{layer}.{x}" for x in ("key", "value")}
        tables = self._tables[rotary_kind(self._model.config, layer)]
        query = self._rotate_positions(q, getattr(module, "q_norm", None), tables, f"{at}/q/rotated")
        self._rotate_positions(k, getattr(module, "k_norm", None), tables, new["key"])
        self._by_head(v, new["value"])
        key, value = (
            builder.op("Concat", [f"past_key_values.{layer}.{x}", new[x]], f"{at}/{x}s", axis=2)
            for x in ("key", "value")
        )
        # The query heads of one key head are stacked, so that no key is copied: [1, kv_heads, groups * S, head_dim].
        stacked = builder.op(
            "Reshape", [query, builder.ints("shape/stacked", [1, kv_heads, -1, dim])], f"{at}/q/stacked"
        )
        scores = builder.op(
            "FusedMatMul", [stacked, key], f"{at}/scores", MICROSOFT, transB=1, alpha=float(module.scaling)
        )
        scores = capped(builder, builder.half_to_float(scores, f"{at}/scores/float"), self._cap, f"{at}/scores")
        masked = builder.op("Add", [scores, self._masks.of_layer(layer)], f"{at}/scores/masked")
        weights = builder.op("Softmax", [masked], f"{at}/weights", axis=-1)
        weights = builder.float_to_half(weights, f"{at}/weights/half")
        mixed = builder.op("MatMul", [weights, value], f"{at}/mixed")  # [1, kv_heads, groups * S, head_dim]
        heads = builder.op(
            "Reshape", [mixed, builder.ints("shape/heads", [1, groups * kv_heads, -1, dim])], f"{at}/heads"
        )
        by_token = builder.op("Transpose", [heads], f"{at}/tokens", perm=[0, 2, 1, 3])
        rows = builder.ints("shape/rows", [1, -1, groups * kv_heads * dim])
        return builder.op("Reshape", [by_token, rows], f"{at}/context")

    def linear(self, rows: str, layers: Sequence[nn.Linear], name: str) -> str:
        parameters = [(values(layer.weight), None if layer.bias is None else values(layer.bias)) for layer in layers]
        return linear(self._builder, rows, parameters, name)

    def output_rows(self, ids: list[int] | None) -> Tensor:
        return output_rows(self._model, ids)

    def tied_head_input(self, normed: str) -> str:
        return normed

    def verdict_product(self, normed: str, weight: Tensor) -> str:
        return self._builder.op("MatMul", [normed, self._builder.weight("verdict/weight", weight)], "verdict/product")

    def _by_head(self, rows: str, name: str, norm: Any = None) -> str:
        """[1, S, n * head_dim] -> [1, n, S, head_dim], each head normed if the model does that."""
        heads = split_heads(self._builder, rows, norm, self._head_dim, self._epsilon)
        return self._builder.op("Transpose", [heads], name, perm=[0, 2, 1, 3])

    def _rotate_positions(self, rows: str, norm: Any, tables: tuple[str, str], name: str) -> str:
        """The rotary embedding of each head: [1, S, n * head_dim] -> [1, n, S, head_dim]."""
        heads = self._by_head(rows, f"{rows}/by_head", norm)
        return self._builder.op("RotaryEmbedding", [heads, "rotary/index", *tables], name, MICROSOFT)
