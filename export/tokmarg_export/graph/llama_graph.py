"""The graph of a Llama-shaped model, written operator by operator from the weights of the loaded module.

It computes what the traced graph does (`tokmarg_export.graph.traced`) with a fraction of the nodes:

    Gather                                     embedding
    per layer
        SkipSimplifiedLayerNormalization       residual sum and RMS norm in one
        MatMul                                 q, k and v packed, or with a norm of their own (Qwen 3) behind a Split
        RotaryEmbedding                        with the cosines of this pass's positions, computed once per pass
        FusedMatMul, Softmax, MatMul           attention under the explicit mask, behind the cached keys and values
        MatMul, QuickGelu                      gate and up, and SiLU
    Gather                                     the rows at logit_positions, in the last layer already
    Gemm                                       output layer, the embedding itself where it is tied

All of these run on CPU and CUDA. GroupQueryAttention, which other exporters use here, is not an option: it ignores
position_ids where there is no past and S > 1 (onnxruntime 1.32), and returns past and new keys together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg.bundle.graph_contract import GraphContract

__all__ = ["MICROSOFT", "Graph", "emit_graph", "why_not_fused"]

MICROSOFT = "com.microsoft"
_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj"}


def why_not_fused(model: PreTrainedModel) -> str | None:
    """What of a model has no place in the fused graph; None if it fits.

    Names of modules decide, and not a list of models alone: a checkpoint with parts of its own is traced.
    """
    config = model.config
    if config.model_type not in ("granite", "llama", "mistral", "qwen2", "qwen3"):
        return f"model_type {config.model_type} is not of Llama's shape"
    for i, layer in enumerate(_decoder(model).layers):
        for module, wanted, optional in (
            (layer, _LAYER_PARTS, set()),
            (layer.self_attn, _ATTENTION_PARTS, {"q_norm", "k_norm"}),
            (layer.mlp, _MLP_PARTS, {"act_fn"}),
        ):
            parts = {name for name, _ in module.named_children()}
            if unknown := (parts ^ wanted) - optional:
                return f"layer {i} has other parts: {sorted(unknown)[0]}"
            for name, part in module.named_children():
                if name.endswith("_proj") and type(part) is not nn.Linear:
                    return f"layer {i}: {name} is a {type(part).__name__}"
    if config.hidden_act != "silu":
        return f"hidden_act is {config.hidden_act}"
    if 2 * _decoder(model).rotary_emb.inv_freq.numel() != _decoder(model).layers[0].self_attn.head_dim:
        return "the rotary embedding covers a part of the head"
    return None


def emit_graph(model: PreTrainedModel, contract: GraphContract, dtype: torch.dtype) -> onnx.ModelProto:
    """The graph of a model for which :func:`why_not_fused` is None.

    Args:
        model: unchanged afterwards.
        contract: the interface; inputs and outputs are not declared yet.
        dtype: of weights, keys and values: float32 or float16. Norms, softmax and positions are computed in float32.
    """
    return Graph(model, contract, dtype).whole()


def _decoder(model: PreTrainedModel) -> Any:
    return model.get_decoder()


class Graph:
    """Nodes and tensors under construction. Methods add nodes and return the names of their outputs."""

    _opset, _ir = 18, 9

    def __init__(self, model: PreTrainedModel, contract: GraphContract, dtype: torch.dtype) -> None:
        self._model, self._contract, self._dtype = model, contract, dtype
        self._config = model.config
        self._half = dtype == torch.float16
        self._nodes: list[NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._groups = self._config.num_attention_heads // self._config.num_key_value_heads
        self._biases: dict[str, str] = {}  # mask input -> its additive form
        self._rotary: list[str] = []  # cosines and sines, [S, head_dim / 2]
        self._eps = float(self._config.rms_norm_eps)

    def whole(self) -> onnx.ModelProto:
        decoder = _decoder(self._model)
        layers = list(decoder.layers)
        table = self._weight("embedding", self._table())
        hidden = self._op("Gather", [table, "input_ids"], "hidden", axis=0)
        hidden = self._scaled(hidden, getattr(self._config, "embedding_multiplier", 1.0), "hidden/scaled")
        self._rotary_tables(decoder.rotary_emb)
        gamma = self._gamma("layer.0/input_norm", layers[0].input_layernorm)
        normed = self._op("SimplifiedLayerNormalization", [hidden, gamma], "layer.0/normed", axis=-1, epsilon=self._eps)
        for i, layer in enumerate(layers):
            at = f"layer.{i}"
            context = self._attention(i, layer.self_attn, normed)
            if i == len(layers) - 1:  # from here on only what the logits need
                wanted = "logit_positions"
                if self._contract.verdict_token_ids is not None:
                    wanted = self._op("Concat", [wanted, "verdict_positions"], "positions/wanted", axis=0)
                context = self._op("Gather", [context, wanted], f"{at}/context/wanted", axis=1)
                hidden = self._op("Gather", [hidden, wanted], f"{at}/hidden/wanted", axis=1)
            attended = self._product(context, [layer.self_attn.o_proj], f"{at}/attended")
            normed, hidden = self._add_norm(hidden, attended, layer.post_attention_layernorm, f"{at}/middle")
            following = layers[i + 1].input_layernorm if i + 1 < len(layers) else decoder.norm
            normed, hidden = self._add_norm(hidden, self._mlp(layer.mlp, normed, at), following, f"{at}/end")
        if self._contract.verdict_token_ids is not None:
            whole = self._op("Shape", ["logit_positions"], "positions/whole")
            axis, start = self._ints("axes/rows", [1]), self._ints("positions/start", [0])
            end = self._ints("positions/end", [np.iinfo(np.int64).max])
            self._verdict_head(self._op("Slice", [normed, whole, end, axis], "verdict/normed"))
            normed = self._op("Slice", [normed, start, whole, axis], "head/normed")
        self._head(normed, table)
        graph = helper.make_graph(self._nodes, "tokmarg", [], [], list(self._tensors.values()))
        opsets = [helper.make_opsetid("", self._opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self._ir, producer_name="tokmarg")

    # Parts of a layer

    def _attention(self, layer: int, module: Any, normed: str) -> str:
        """[1, S, hidden] -> [1, S, heads * head_dim]; names the new keys and values as outputs."""
        at, dim, groups = f"layer.{layer}", self._contract.head_dim, self._groups
        kv_heads = self._contract.kv_heads
        packed = self._product(normed, [module.q_proj, module.k_proj, module.v_proj], f"{at}/qkv")
        sizes = self._ints("sizes/qkv", [groups * kv_heads * dim, kv_heads * dim, kv_heads * dim])
        parts = [f"{at}/{x}" for x in "qkv"]
        self._nodes.append(helper.make_node("Split", [packed, sizes], parts, axis=2))
        return self._attend(layer, module, parts)

    def _attend(self, layer: int, module: Any, parts: Sequence[str]) -> str:
        """Queries, keys and values [1, S, n * head_dim] -> [1, S, heads * head_dim]."""
        at, dim, groups, kv_heads = f"layer.{layer}", self._contract.head_dim, self._groups, self._contract.kv_heads
        new = {x: f"present.{layer}.{x}" for x in ("key", "value")}
        query = self._rotated(parts[0], getattr(module, "q_norm", None), f"{at}/q/rotated")
        self._rotated(parts[1], getattr(module, "k_norm", None), new["key"])
        self._by_head(parts[2], new["value"])
        key, value = (
            self._op("Concat", [f"past_key_values.{layer}.{x}", new[x]], f"{at}/{x}s", axis=2) for x in ("key", "value")
        )
        # The query heads of one key head are stacked, so that no key is copied: [1, kv_heads, groups * S, head_dim].
        stacked = self._op("Reshape", [query, self._ints("shape/stacked", [1, kv_heads, -1, dim])], f"{at}/q/stacked")
        scores = self._op(
            "FusedMatMul", [stacked, key], f"{at}/scores", MICROSOFT, transB=1, alpha=float(module.scaling)
        )
        if self._half:
            scores = self._op("Cast", [scores], f"{at}/scores/float", to=TensorProto.FLOAT)
        masked = self._op("Add", [scores, self._bias(self._mask_of(layer))], f"{at}/scores/masked")
        weights = self._op("Softmax", [masked], f"{at}/weights", axis=-1)
        if self._half:
            weights = self._op("Cast", [weights], f"{at}/weights/half", to=TensorProto.FLOAT16)
        mixed = self._op("MatMul", [weights, value], f"{at}/mixed")
        heads = self._op("Reshape", [mixed, self._ints("shape/heads", [1, groups * kv_heads, -1, dim])], f"{at}/heads")
        by_token = self._op("Transpose", [heads], f"{at}/tokens", perm=[0, 2, 1, 3])
        return self._op(
            "Reshape", [by_token, self._ints("shape/rows", [1, -1, groups * kv_heads * dim])], f"{at}/context"
        )

    def _by_head(self, rows: str, name: str, norm: Any = None) -> str:
        """[1, S, n * head_dim] -> [1, n, S, head_dim], each head normed if the model does that."""
        return self._op("Transpose", [self._heads(rows, norm)], name, perm=[0, 2, 1, 3])

    def _heads(self, rows: str, norm: Any) -> str:
        """[1, S, n * head_dim] -> [1, S, n, head_dim], each head normed if the model does that."""
        shape = self._ints("shape/split_heads", [1, 0, -1, self._contract.head_dim])
        heads = self._op("Reshape", [rows, shape], f"{rows}/heads")
        if norm is None:
            return heads
        gamma = self._weight(f"{rows}/norm", norm.weight)
        return self._op("SimplifiedLayerNormalization", [heads, gamma], f"{rows}/normed", axis=-1, epsilon=self._eps)

    def _rotated(self, rows: str, norm: Any, name: str) -> str:
        heads = self._by_head(rows, f"{rows}/by_head", norm)
        return self._op("RotaryEmbedding", [heads, "rotary/index", *self._rotary], name, MICROSOFT)

    def _rotary_tables(self, rotary: Any) -> None:
        """Cosines and sines of the pass's positions, row by row; RotaryEmbedding then looks up row s for token s.

        A table of all positions of a long context would be larger than a layer.
        """
        column = self._op("Reshape", ["position_ids", self._ints("shape/column", [-1, 1])], "rotary/positions")
        positions = self._op("Cast", [column], "rotary/positions/float", to=TensorProto.FLOAT)
        frequencies = self._constant("rotary/frequencies", rotary.inv_freq.detach().float().cpu().numpy())
        angles = self._op("Mul", [positions, frequencies], "rotary/angles")
        for function in ("Cos", "Sin"):
            name = f"rotary/{function.lower()}"
            values = self._op(function, [angles], f"{name}/raw")
            values = self._scaled(values, float(rotary.attention_scaling), f"{name}/scaled", np.float32)
            if self._half:
                values = self._op("Cast", [values], f"{name}/half", to=TensorProto.FLOAT16)
            self._rotary.append(values)
        tokens = self._op("Size", ["position_ids"], "rotary/tokens")
        start, step = self._constant("rotary/start", np.array(0)), self._constant("rotary/step", np.array(1))
        self._rotary_index(self._op("Range", [start, tokens, step], "rotary/rows"), tokens)

    def _rotary_index(self, tokens: str, count: str) -> None:
        """For each token its row of the tables: itself, of ``count`` ones."""
        self._op("Reshape", [tokens, self._ints("shape/row", [1, -1])], "rotary/index")

    def _mlp(self, module: Any, normed: str, at: str) -> str:
        gate = self._product(normed, [module.gate_proj], f"{at}/gate")
        up = self._product(normed, [module.up_proj], f"{at}/up")
        active = self._op("QuickGelu", [gate], f"{at}/active", MICROSOFT, alpha=1.0)  # x * sigmoid(x)
        gated = self._op("Mul", [active, up], f"{at}/gated")
        return self._product(gated, [module.down_proj], f"{at}/mlp")

    def _add_norm(self, hidden: str, change: str, norm: Any, name: str) -> tuple[str, str]:
        """The norm of hidden + change, and the sum itself."""
        change = self._scaled(change, getattr(self._config, "residual_multiplier", 1.0), f"{name}/change")
        gamma = self._gamma(f"{name}/norm", norm)
        outputs = [f"{name}/normed", "", "", f"{name}/sum"]
        self._nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [hidden, change, gamma],
                outputs,
                domain=MICROSOFT,
                epsilon=self._eps,
            )
        )
        return outputs[0], outputs[3]

    def _head(self, normed: str, table: str) -> None:
        """Logits [1, K, columns]; what is done to them behind the output layer is done in float32."""
        layer = cast(nn.Linear, self._model.get_output_embeddings())
        ids = self._contract.head_token_ids
        embedding = _decoder(self._model).embed_tokens.weight
        if ids is None and layer.weight.data_ptr() == embedding.data_ptr():
            weight, normed = table, self._before_table(normed)
        else:
            weight = self._weight("head", self._output_rows(None if ids is None else list(ids)))
        inputs = [
            self._op("Reshape", [normed, self._ints("shape/flat", [-1, embedding.shape[1]])], "head/rows"),
            weight,
        ]
        if layer.bias is not None:
            inputs.append(self._weight("head/bias", layer.bias if ids is None else layer.bias[list(ids)]))
        logits = self._op("Gemm", inputs, "head/logits", transB=1)
        logits = self._finished(logits, "head")
        self._op("Unsqueeze", [logits, self._ints("axes/first", [0])], "logits")

    def _verdict_head(self, normed: str) -> None:
        """Logits [1, N, columns] of verdict tokens alone."""
        layer = cast(nn.Linear, self._model.get_output_embeddings())
        ids = list(self._contract.verdict_token_ids or ())
        logits = self._verdict_product(normed, self._output_rows(ids).t())
        if layer.bias is not None:
            logits = self._op("Add", [logits, self._weight("verdict/bias", layer.bias[ids])], "verdict/biased")
        self._op("Identity", [self._finished(logits, "verdict")], "verdict_logits")

    def _finished(self, logits: str, name: str) -> str:
        """What is done to logits behind the output layer."""
        if self._half:
            logits = self._op("Cast", [logits], f"{name}/logits/float", to=TensorProto.FLOAT)
        scaling = getattr(self._config, "logits_scaling", 1.0)
        if scaling != 1.0:
            divisor = self._constant("head/scaling", np.array(scaling, np.float32))
            logits = self._op("Div", [logits, divisor], f"{name}/logits/scaled")
        return logits

    # What a graph in another basis does differently

    def _table(self) -> Tensor:
        """The embedding, [V, hidden]."""
        return cast(Tensor, _decoder(self._model).embed_tokens.weight)

    def _linear(self, layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Weight [out, in] and bias [out] of a layer of the decoder."""
        return layer.weight, layer.bias

    def _gamma(self, name: str, norm: Any) -> str:
        """The weight of a norm of hidden states."""
        return self._weight(name, norm.weight)

    def _output_rows(self, ids: list[int] | None) -> Tensor:
        """Rows of the output layer, [tokens, hidden]; None = all."""
        weight: Tensor = cast(nn.Linear, self._model.get_output_embeddings()).weight
        return weight if ids is None else weight[ids]

    def _before_table(self, normed: str) -> str:
        """What the embedding is multiplied with where it is the output layer."""
        return normed

    def _verdict_product(self, normed: str, weight: Tensor) -> str:
        """[1, N, hidden] times [hidden, columns]."""
        return self._op("MatMul", [normed, self._weight("verdict/weight", weight)], "verdict/product")

    # Masks

    def _mask_of(self, layer: int) -> str:
        if self._contract.sliding_window is None:
            return "attention_mask"
        kinds = getattr(self._config, "layer_types", None)
        local = kinds is None or kinds[layer] == "sliding_attention"  # Mistral: all layers
        return "sliding_attention_mask" if local else "attention_mask"

    def _bias(self, mask: str) -> str:
        """bool [1, 1, S, P+S] -> what is added to the scores, float32 [1, 1, groups * S, P+S].

        The finite minimum and not -inf: a row that sees nothing gives a mean and not NaN.
        """
        if mask not in self._biases:
            seen = self._constant("mask/seen", np.array(0, np.float32))
            unseen = self._constant("mask/unseen", np.array(np.finfo(np.float32).min))
            one = self._op("Where", [mask, seen, unseen], f"{mask}/bias")
            self._biases[mask] = self._op("Tile", [one, self._repeats()], f"{mask}/biases")
        return self._biases[mask]

    def _repeats(self) -> str:
        """How often the mask stands below itself: once for each query head in the stack of a key head."""
        return self._ints("mask/groups", [1, 1, self._groups, 1])

    # Nodes and tensors

    def _op(self, kind: str, inputs: Sequence[str], output: str, domain: str | None = None, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def _product(self, rows: str, layers: Sequence[nn.Linear], name: str) -> str:
        """Linear layers of the same input side by side, [1, S, in] -> [1, S, sum of out]."""
        parts = [self._linear(layer) for layer in layers]
        weight = self._weight(f"{name}/weight", torch.cat([weight for weight, _ in parts]).t())
        product = self._op("MatMul", [rows, weight], name if layers[0].bias is None else f"{name}/product")
        if layers[0].bias is None:
            return product
        bias = self._weight(f"{name}/bias", torch.cat([cast(Tensor, bias) for _, bias in parts]))
        return self._op("Add", [product, bias], name)

    def _scaled(self, value: str, factor: float, name: str, dtype: Any = None) -> str:
        if factor == 1.0:
            return value
        number = np.array(factor, dtype or (np.float16 if self._half else np.float32))
        return self._op("Mul", [value, self._constant(f"{name}/factor", number)], name)

    def _weight(self, name: str, value: Tensor) -> str:
        with torch.no_grad():
            return self._constant(name, value.detach().to(device="cpu", dtype=self._dtype).contiguous().numpy())

    def _ints(self, name: str, values: Sequence[int]) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(value, name)
        return name
