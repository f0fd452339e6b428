"""Roofline of a bundle: the machine's peak of matrix products, and the products that a pass of the graph needs.

The peak is what onnxruntime reaches in a model of one operator, a product with fixed weights: the same kernels and
threads as a guard's graph has, and nothing else to do. The graph's need is read from its file: each product of
activations with weights counts, once per new token, or after the gathering of rows once per row of the logits that it
leads to. Products of activations with each other, in attention, do not count.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from tokmarg.bundle.onnx_reader import fields
from tokmarg.errors import BundleError
from tokmarg.system_calls import by_system

from .cuda import CPU, CUDA, CUDA_OPTIONS
from .onnx_builder import FLOAT, FLOAT16, INT8, UINT8, one_operator
from .ort import ort, session_options

__all__ = ["Peak", "Products", "matrix_peak", "read_products"]

#: Operators that multiply with weights, in the graphs that exporters write.
_PRODUCTS = frozenset({
    "DynamicQuantizeMatMul", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits",
})  # fmt: skip
#: Inputs that say which rows are gathered, and outputs that those lead to.
_GATHERS, _LOGITS = ("logit_positions", "verdict_positions"), ("logits", "verdict_logits")
# onnx.proto of https://github.com/onnx/onnx: field numbers.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
#: Rows of activations, and sides of the square of weights, of large products; the best of them is the peak. On a GPU
#: smaller ones would measure the launch of a kernel.
_SHAPES = {"cpu": ((512, 1024), (512, 2048)), "cuda": ((4096, 4096), (8192, 8192))}


@dataclass(frozen=True, slots=True)
class Products:
    """Multiplications with weights that a pass needs, each with its addition: per new token, per row of logits, and per
    row of verdict logits."""

    per_token: int
    per_row: int
    per_verdict_row: int = 0

    def operations(self, tokens: int, rows: int, verdict_rows: int = 0) -> int:
        """Multiplications and additions of a pass."""
        return 2 * (self.per_token * tokens + self.per_row * rows + self.per_verdict_row * verdict_rows)


@dataclass(frozen=True, slots=True)
class Peak:
    """The operator that was measured, and how many multiplications and additions it did per second."""

    operator: str
    per_second: float


@dataclass(slots=True)
class _Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  # integer attributes


def read_products(path: Path) -> Products:
    """Counts the products that a pass of a graph file needs.

    Raises:
        BundleError: the file cannot be read, or is no ONNX graph.
    """
    try:
        with path.open("rb") as stream:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        nodes, weights = _read_graph(data)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not by_system(error):
            raise
        raise BundleError(f"{path}: cannot be read as an ONNX graph: {error}") from None
    # Nodes stand in the order in which they can run.
    gathered = set(_GATHERS)
    sizes: list[tuple[_Node, int]] = []
    for node in nodes:
        known = [weights[name] for name in node.inputs if name in weights]
        if node.inputs and len(known) == len(node.inputs):  # weights in another form
            weights |= dict.fromkeys(node.outputs, max(known))
            continue
        if not gathered.isdisjoint(node.inputs):
            gathered.update(node.outputs)
        if node.operator in _PRODUCTS and known:
            given = node.numbers
            sizes.append((node, given["K"] * given["N"] if {"K", "N"} <= set(given) else max(known)))
    needed = [_leading_to(nodes, output) for output in _LOGITS]
    early = [(node, size) for node, size in sizes if gathered.isdisjoint(node.outputs)]
    late = [(node, size) for node, size in sizes if not gathered.isdisjoint(node.outputs)]
    return Products(
        sum(size for _, size in early),
        *(sum(size for node, size in late if not names.isdisjoint(node.outputs)) for names in needed),
    )


def _leading_to(nodes: list[_Node], output: str) -> set[str]:
    """Names of all that an output depends on, and its own."""
    names = {output}
    for node in reversed(nodes):
        if not names.isdisjoint(node.outputs):
            names.update(node.inputs)
    return names


def _read_graph(data: memoryview) -> tuple[list[_Node], dict[str, int]]:
    """The nodes, and name -> number of elements of each initializer."""
    nodes, weights = [], {}
    for graph in _messages(data, _MODEL_GRAPH):
        for number, content in fields(graph):
            if not isinstance(content, memoryview):
                continue
            if number == _GRAPH_NODE:
                nodes.append(_read_node(content))
            elif number == _GRAPH_INITIALIZER:
                name, dims = _read_tensor(content)
                weights[name] = prod(dims)
    return nodes, weights


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, content in fields(data):
        if number == wanted and isinstance(content, memoryview):
            yield content


def _read_node(data: memoryview) -> _Node:
    node = _Node()
    for number, content in fields(data):
        if not isinstance(content, memoryview):
            continue
        if number in (1, 2) and content:  # an optional input that is left out has an empty name
            (node.inputs if number == 1 else node.outputs).append(_text(content))
        elif number == 4:
            node.operator = _text(content)
        elif number == 5:
            attribute = dict(fields(content))
            name, value = attribute.get(1), attribute.get(3)
            if isinstance(name, memoryview) and isinstance(value, int):
                node.numbers[_text(name)] = value
    return node


def _read_tensor(data: memoryview) -> tuple[str, list[int]]:
    """Name and dimensions, which a writer may pack into one field."""
    name, dims = "", []
    for number, content in fields(data):
        if number == 1 and isinstance(content, int):
            dims.append(content)
        elif number == 1 and isinstance(content, memoryview):
            dims += _packed(content)
        elif number == 8 and isinstance(content, memoryview):
            name = _text(content)
    return name, dims


def _packed(data: memoryview) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "replace")


def matrix_peak(precision: str, device: str, threads: int | None, seconds: float) -> Peak:
    """Measures the machine.

    Args:
        precision: the bundle's; int8 and int4 are multiplied as integers of 8 bits on the CPU.
        device: ``cpu`` or ``cuda``.
        threads: intra-op threads (None: one per core).
        seconds: how long, about.
    """
    shapes = _SHAPES[device]
    peaks = [_measured(precision, device, threads, rows, side, seconds / len(shapes)) for rows, side in shapes]
    return max(peaks, key=lambda peak: peak.per_second)


def _measured(precision: str, device: str, threads: int | None, rows: int, side: int, seconds: float) -> Peak:
    random = np.random.default_rng(0)
    if device == "cpu" and precision in ("int8", "int4"):
        # What per-row quantization needs: scales for each column, zero points, and floats for a result.
        operator, kinds, a = "MatMulIntegerToFloat", (UINT8, FLOAT), random.integers(0, 256, (rows, side), np.uint8)
        b = random.integers(-127, 128, (side, side), np.int8)
        weights = {
            "b": (INT8, b),
            "a_scale": (FLOAT, np.ones((), np.float32)),
            "b_scale": (FLOAT, np.ones(side, np.float32)),
            "a_zero": (UINT8, np.full((), 128, np.uint8)),
        }
    else:
        half = device == "cuda" and precision == "fp16"
        dtype, kind = (np.float16, FLOAT16) if half else (np.float32, FLOAT)
        a, b = (random.standard_normal(shape, np.float32).astype(dtype) for shape in ((rows, side), (side, side)))
        operator, kinds, weights = "MatMul", (kind, kind), {"b": (kind, b)}
    options = session_options(threads, {"session.intra_op.allow_spinning": "0"})
    provider = (CUDA, CUDA_OPTIONS) if device == "cuda" else (CPU, {})
    session = ort.InferenceSession(one_operator(operator, kinds, weights), options, providers=[provider])
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(a, device, 0))
    binding.bind_output("c", device)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        best = min(best, time.perf_counter() - started)
    return Peak(operator, 2 * rows * side * side / best)
