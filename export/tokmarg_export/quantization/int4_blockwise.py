"""Blockwise int4 and int8 quantization: products with a constant matrix become one MatMulNBits each.

The form of int4; and of int8 where the graph is traced, or what `tokmarg_export.quantization.int8_per_row` leaves: the
embedding.

Channels are cut into blocks of 32. For token s, output n and block b,

    a_scale[s, b] = max |x[s, b]| / 127,      a[s, k] = round(x[s, k] / a_scale)           made by the kernel, int8
    w_scale[n, b],                            w[k, n] = round(W[k, n] / w_scale)           made here, stored unsigned
    y[s, n] = sum_b  a_scale[s, b] * w_scale[n, b] * sum_{k in b} a[s, k] * w[k, n]

(``accuracy_level=4``). Every row has scales of its own, so a token's scales do not depend on the batch, as they would
with one for the whole tensor; and an outlier channel costs only its block precision.

Batch invariance, onnxruntime 1.32. With AVX-512 VNNI the kernels for blocks of 32 sum in one order whatever the number
of rows: in a batch and in a batch of one the results are equal to the last bit (blocks of 128 differ by rounding). With
AVX2 and no VNNI that holds in 8 bits; in 4 bits the kernel for one row sums in an order of its own. It runs where a
product has one row, and where 128 n + 1 rows are shared out over threads, for the last one. Such a row differs by
rounding (2e-6 in a product of 576 channels), which the rounding of activations in the layers above may amplify: in a
random model of 6 layers a pass of a single token moved logits by 0.54, their standard deviation being 4.7. Passes with
two rows or more in every product have the same bits, and the runtime runs no others
(:mod:`tokmarg.engine.row_padding`). Neither processor saturates (largest weights and activations).

The embedding is stored the same way, always in 8 bits; where it is the output layer too, both share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tokmarg_export.graph.tensor_spool import StoreTensor, values_of

__all__ = ["BLOCK", "pack_blocks", "quantize_blockwise"]

Floats = npt.NDArray[np.float32]
Bits = Literal[4, 8]

#: Channels that share a scale.
BLOCK = 32
_VALUES = 1 << 24  # that are rounded in one go: it takes a few times their memory
_TINY = np.float32(1e-12)  # blocks of zeros have a scale, too
# Clipping a block's largest weight a little often lowers the error of the others by more than it costs.
_SHRINK = (1.0, 0.95, 0.9, 0.85)


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of activations and a constant: the node, the weight's name, whether it lies as [N, K]."""

    node: NodeProto
    weight: str
    transposed: bool
    bias: str | None


def pack_blocks(weight: Floats, bits: Bits) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Quantize the rows of a matrix block by block.

    Args:
        weight: float32 [N, K].
        bits: 4 or 8.

    Returns:
        as MatMulNBits has them: uint8 [N, blocks, 32 * bits / 8], zero point 2^(bits-1), at 4 bits the even channel in
        the low half; and scales float32 [N, blocks]. The last block is filled up with zeros.
    """
    rows, channels = weight.shape
    blocks = -(-channels // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :channels] = weight
    cut = padded.reshape(rows, blocks, BLOCK)
    peak = np.abs(cut).max(axis=-1, keepdims=True)
    if bits == 8:
        scale = np.maximum(peak, _TINY) / np.float32(127)
        return (np.rint(cut / scale) + 128).astype(np.uint8), scale[..., 0]
    # Sixteen levels, -8 to 7: the largest weight of a block, whatever its sign, takes the -8.
    signed = np.take_along_axis(cut, np.abs(cut).argmax(axis=-1, keepdims=True), axis=-1)
    whole = np.where(peak > _TINY, signed, _TINY) / np.float32(-8)
    best = np.full(peak.shape, np.inf, np.float32)
    levels, scale = np.zeros(cut.shape, np.float32), whole
    for shrink in _SHRINK:
        trial = whole * np.float32(shrink)
        rounded = np.clip(np.rint(cut / trial), -8, 7)
        error = np.square(rounded * trial - cut).sum(axis=-1, keepdims=True)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, trial, scale)
        levels = np.where(better, rounded, levels)
    stored = (levels + 8).astype(np.uint8)
    halves = stored[..., 0::2] | (stored[..., 1::2] << 4)
    return halves.astype(np.uint8), scale[..., 0].astype(np.float32)


def quantize_blockwise(model: onnx.ModelProto, bits: Bits, store: StoreTensor = numpy_helper.from_array) -> None:
    """Quantize, in place, every product with a constant matrix, and the embedding.

    Args:
        model: float32, weights loaded.
        bits: of the products' weights.
        store: makes initializers.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = {id(p.node): p for p in _products(graph, tensors)}
    lookups = {id(node): node for node in graph.node if node.op_type == "Gather" and _is_matrix(tensors, node.input[0])}
    tables = {node.input[0] for node in lookups.values()}
    by_row = tables | {p.weight for p in products.values() if p.transposed}
    rewriter = _Rewriter(store)
    for name in dict.fromkeys([*tables, *(p.weight for p in products.values())]):
        weight = values_of(tensors[name])
        rewriter.store(name, weight if name in by_row else weight.T, 8 if name in tables else bits)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if id(node) in products:
            nodes += rewriter.product(products[id(node)])
        elif id(node) in lookups:
            nodes += rewriter.lookup(node)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name not in rewriter.matrices]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *rewriter.tensors.values()])
    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _is_matrix(tensors: Mapping[str, TensorProto], name: str) -> bool:
    tensor = tensors.get(name)
    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT


def _products(graph: onnx.GraphProto, tensors: Mapping[str, TensorProto]) -> Iterator[_Product]:
    for node in graph.node:
        if node.op_type == "MatMul" and _is_matrix(tensors, node.input[1]):
            yield _Product(node, node.input[1], False, None)
        elif node.op_type == "Gemm" and _is_matrix(tensors, node.input[1]):
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if values.get("transA", 0) or values.get("alpha", 1.0) != 1.0 or values.get("beta", 1.0) != 1.0:
                continue
            bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
            yield _Product(node, node.input[1], bool(values.get("transB", 0)), bias)


class _Rewriter:
    """Nodes and tensors of the quantized graph."""

    def __init__(self, store: StoreTensor) -> None:
        self._store = store
        self.tensors: dict[str, TensorProto] = {}
        self.matrices: dict[str, tuple[int, int, int]] = {}  # weight -> N, K, bits
        self._tensor("nbits/zero", np.array(128, np.float32))
        self._tensor("nbits/last", np.array([-1]))
        self._tensor("nbits/start", np.array([0]))

    def _tensor(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.tensors[name] = self._store(np.ascontiguousarray(value), name)
        return name

    def store(self, name: str, weight: Floats, bits: Bits) -> None:
        """Store a matrix [N, K] as blocks and their scales."""
        self.matrices[name] = (*weight.shape, bits)
        step = max(1, _VALUES // weight.shape[1])
        parts = [pack_blocks(weight[start : start + step], bits) for start in range(0, len(weight), step)]
        self._tensor(f"{name}/blocks", np.concatenate([blocks for blocks, _ in parts]))
        self._tensor(f"{name}/scales", np.concatenate([scales for _, scales in parts]))

    def product(self, product: _Product) -> list[NodeProto]:
        """A quantized product."""
        outputs, channels, bits = self.matrices[product.weight]
        (output,) = product.node.output
        result = output if product.bias is None else f"{output}/product"
        nodes = [
            helper.make_node(
                "MatMulNBits",
                [product.node.input[0], f"{product.weight}/blocks", f"{product.weight}/scales"],
                [result],
                domain="com.microsoft",
                K=channels,
                N=outputs,
                bits=bits,
                block_size=BLOCK,
                accuracy_level=4,
            )
        ]
        if product.bias is not None:
            nodes.append(helper.make_node("Add", [result, product.bias], [output]))
        return nodes

    def lookup(self, node: NodeProto) -> list[NodeProto]:
        """Rows of a quantized table, ids [1, S] -> float32 [1, S, K]."""
        table, ids = node.input
        (output,) = node.output
        _, channels, _ = self.matrices[table]
        flat = self._tensor(f"{output}/flat", np.array([0, 0, -1]))
        width = self._tensor(f"{output}/width", np.array([channels]))
        at = f"{output}/looked_up"
        return [
            helper.make_node("Gather", [f"{table}/blocks", ids], [f"{at}/stored"], axis=0),
            helper.make_node("Cast", [f"{at}/stored"], [f"{at}/float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{at}/float", "nbits/zero"], [f"{at}/levels"]),
            helper.make_node("Gather", [f"{table}/scales", ids], [f"{at}/scale"], axis=0),
            helper.make_node("Unsqueeze", [f"{at}/scale", "nbits/last"], [f"{at}/column"]),
            helper.make_node("Mul", [f"{at}/levels", f"{at}/column"], [f"{at}/blocks"]),
            helper.make_node("Reshape", [f"{at}/blocks", flat], [f"{at}/padded"]),
            helper.make_node("Slice", [f"{at}/padded", "nbits/start", width, "nbits/last"], [output]),
        ]
