"""Int8 quantization of products: activations per row, weights per column, one integer product.

    a_scale[s],    a[s, k] = round(x[s, k] / a_scale[s])          uint8 around 128
    w_scale[n],    w[k, n] = round(W[k, n] / w_scale[n])          int8, made here
    y[s, n] = a_scale[s] * w_scale[n] * sum_k a[s, k] * w[k, n]

The sum is one of integers: the same whatever the order, so a token's numbers do not depend on the batch.
Rows of a graph whose weights are rotated (`tokmarg_export.quantization.quarot`) have no outlier channels, and one scale
per row is enough. Rows after a norm of weight 1 need none of their own: their root mean square is 1, and the rotation
makes their coordinates normally distributed, so that `REACH` standard deviations hold all but a few in a million.
Products that share an input share its rounding.

On the reference guard half of the mean square of such rows is the square of their mean. Where the mean is known, it is
subtracted before the rounding, which then has a smaller range to cover, and its product is added exactly:

    x @ W = (x - mean) @ W + mean @ W            the first product in 8 bits, the second made here

`MatMulIntegerToFloat` has kernels for AMX, VNNI and plain AVX2. The last would saturate on uint8 x int8; the runtime
asks onnxruntime for its exact path there (session.x64quantprecision).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from tokmarg_export.graph.tensor_spool import StoreTensor, values_of

from .gptq import InputStatistics, gptq_levels
from .int4_blockwise import Bits
from .int4_columns import packed_levels, quantize_columns_4

__all__ = ["REACH", "StatisticsOf", "quantize_columns", "quantize_per_row"]

Floats = npt.NDArray[np.float32]
#: Name of a weight -> statistics of its inputs, or None; asked for in the order of the graph.
StatisticsOf = Callable[[str], InputStatistics | None]

#: What 127 steps reach, in standard deviations, after norms of weight 1.
REACH = 4.5
_MIN_TOKENS = 300  # below, the mean of calibration inputs says too little about other inputs
_NORMS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}  # operator -> input of its weight
_TINY = np.float32(1e-12)  # columns of zeros have a scale, too; rows of zeros need none, whatever they become times 0
_MICROSOFT = "com.microsoft"


def quantize_columns(weight: Floats, moments: Tensor | None = None) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantizes the columns of a matrix [K, N]: int8 [K, N] and scales float32 [N].

    ``moments``, float64 [K, K]: of the inputs, for rounding by GPTQ; without them weights are rounded to the nearest.
    """
    scale = (np.maximum(np.abs(weight).max(axis=0), _TINY) / np.float32(127)).astype(np.float32)
    if moments is not None:
        return gptq_levels(weight, scale, moments), scale
    return np.rint(weight / scale).astype(np.int8), scale


def quantize_per_row(
    model: onnx.ModelProto,
    statistics: StatisticsOf = lambda weight: None,
    store: StoreTensor = numpy_helper.from_array,
    bits: Bits = 8,
) -> int:
    """Rewrites, in place, every product of float32 activations [1, S, K] and a constant matrix; returns how many.

    Args:
        model: with its weights.
        statistics: of the inputs; for weights that share an input the same.
        store: makes initializers.
        bits: of the weights; they are multiplied as integers of 8 bits.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    rewriter = _Rewriter(_unit_rows(graph, tensors), store, bits)
    nodes: list[NodeProto] = []
    weights: set[str] = set()
    for node in graph.node:
        rewriter.follow(node)
        weight = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
            nodes.append(node)
            continue
        if weight.name not in weights:
            rewriter.store(weight, node.input[0], statistics(weight.name))
            weights.add(weight.name)
        nodes += rewriter.product(node)
    kept = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.node[:]
    graph.node.extend([*rewriter.unpacking, *nodes])
    del graph.initializer[:]
    graph.initializer.extend([*kept, *rewriter.tensors.values()])
    return len(weights)


def _unit_rows(graph: onnx.GraphProto, tensors: dict[str, TensorProto]) -> set[str]:
    """Outputs of norms whose weight is all ones."""
    outputs = set()
    for node in graph.node:
        if node.op_type in _NORMS:
            weight = tensors.get(node.input[_NORMS[node.op_type]])
            if weight is not None and (values_of(weight) == 1).all():
                outputs.add(node.output[0])
    return outputs


class _Rewriter:
    """Makes nodes and tensors of the quantized graph; an input is rounded once, however many products read it."""

    def __init__(self, unit_rows: set[str], store: StoreTensor, bits: Bits) -> None:
        self._store, self._bits = store, bits
        self._unit_rows = unit_rows
        self._rounded: dict[str, tuple[str, str, str | None]] = {}  # input -> levels, scale, scale per row
        self._rows: dict[
            str, str
        ] = {}  # tensor -> which of the pass's rows it has, as the name of the index that selected them
        self._middles: dict[str, str] = {}  # which rows -> the zero point once for each of them
        self._statistics: dict[str, InputStatistics] = {}  # input after a norm of weight 1 -> its statistics
        self.tensors: dict[str, TensorProto] = {}
        self.unpacking: list[NodeProto] = []  # nodes that make the levels of weights of 4 bits
        for name, value in (
            ("int8/middle", np.array(128, np.uint8)),
            ("int8/one", np.array(1, np.float32)),
            ("int8/part", np.array(1 / 127, np.float32)),
            ("int8/last", np.array([-1])),
            ("int8/axes", np.array([0, 2])),
        ):
            self.tensors[name] = numpy_helper.from_array(value, name)
        self._middle = helper.make_tensor("value", TensorProto.UINT8, [1], [128])

    def follow(self, node: NodeProto) -> None:
        """Note which rows the outputs of a node have: all, until some are selected."""
        rows = next((self._rows[name] for name in node.input if name in self._rows), "all")
        if node.op_type == "Gather" and any(a.name == "axis" and a.i == 1 for a in node.attribute):
            rows = node.input[1]
        elif node.op_type == "Slice":
            rows = node.output[0]
        self._rows.update(dict.fromkeys(node.output, rows))

    def store(self, weight: TensorProto, rows: str, statistics: InputStatistics | None) -> None:
        """Keeps a matrix: levels [K, N], scales [N], and the product of the rows' mean where that is known, [N]."""
        values = np.array(values_of(weight))
        moments = None if statistics is None else statistics.moments
        if statistics is not None and statistics.tokens >= _MIN_TOKENS and rows in self._unit_rows:
            self._statistics, moments = {rows: statistics}, statistics.covariance  # of the next product's input alone
            product = statistics.mean.numpy() @ values.astype(np.float64)
            self._keep(f"{weight.name}/of_mean", product.astype(np.float32))
        levels_name = f"{weight.name}/levels"
        if self._bits == 4:
            levels, scales = quantize_columns_4(values, moments)
            packed, unpack = packed_levels(levels_name, levels, self._store)
            self.tensors[packed.name] = packed
            self.unpacking.append(unpack)
        else:
            levels, scales = quantize_columns(values, moments)
            self._keep(levels_name, levels)
        self._keep(f"{weight.name}/scales", scales)

    def _keep(self, name: str, value: npt.NDArray[Any]) -> None:
        self.tensors[name] = self._store(value, name)

    def product(self, node: NodeProto) -> list[NodeProto]:
        """A quantized product."""
        rows, weight = node.input
        (output,) = node.output
        nodes = [] if rows in self._rounded else self._round(rows)
        levels, scale, per_row = self._rounded[rows]
        product = output if per_row is None else f"{output}/steps"
        inputs = [levels, f"{weight}/levels", scale, f"{weight}/scales", "int8/middle"]
        if f"{weight}/of_mean" in self.tensors:
            inputs += ["", f"{weight}/of_mean"]  # no zero point of the weights
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [product], domain=_MICROSOFT))
        if per_row is not None:
            nodes.append(helper.make_node("Mul", [product, per_row], [output]))
        return nodes

    def _round(self, rows: str) -> list[NodeProto]:
        at = f"{rows}/int8"
        if (statistics := self._statistics.get(rows)) is not None:
            self._rounded[rows] = (at, f"{at}/step", None)
            spread = statistics.covariance.diagonal().mean().clamp(min=0).sqrt()
            self._keep(f"{at}/step", np.maximum(np.float32(float(spread) * REACH / 127), _TINY))
            self._keep(f"{rows}/mean", statistics.mean.float().numpy()[None, None])
            return [
                helper.make_node("Sub", [rows, f"{rows}/mean"], [f"{rows}/centred"]),
                helper.make_node("QuantizeLinear", [f"{rows}/centred", f"{at}/step", "int8/middle"], [at]),
            ]
        if rows in self._unit_rows:
            self._rounded[rows] = (at, "int8/unit_step", None)
            self._keep("int8/unit_step", np.array(REACH / 127, np.float32))
            return [helper.make_node("QuantizeLinear", [rows, "int8/unit_step", "int8/middle"], [at])]
        self._rounded[rows] = (at, "int8/one", f"{at}/steps")
        return [
            helper.make_node("Abs", [rows], [f"{at}/sizes"]),
            helper.make_node("ReduceMax", [f"{at}/sizes", "int8/axes"], [f"{at}/peaks"], keepdims=0),
            helper.make_node("Mul", [f"{at}/peaks", "int8/part"], [f"{at}/row"]),
            *self._middle_rows(rows, f"{at}/row"),
            helper.make_node("QuantizeLinear", [rows, f"{at}/row", self._middles[self._picked(rows)]], [at], axis=1),
            helper.make_node("Unsqueeze", [f"{at}/row", "int8/last"], [f"{at}/steps"]),
        ]

    def _picked(self, rows: str) -> str:
        return self._rows.get(rows, "all")

    def _middle_rows(self, rows: str, steps: str) -> list[NodeProto]:
        """The zero point once for each row, made where no tensor of the same rows has it yet."""
        if (picked := self._picked(rows)) in self._middles:
            return []
        self._middles[picked] = middles = f"{rows}/int8/middles"
        return [
            helper.make_node("Shape", [steps], [f"{rows}/int8/count"]),
            helper.make_node("ConstantOfShape", [f"{rows}/int8/count"], [middles], value=self._middle),
        ]
