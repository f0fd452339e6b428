"""ONNX models of one operator, for finding out what a machine does with it; the onnx package is not needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .onnx_runtime import ort

__all__ = ["FLOAT", "FLOAT16", "INT8", "UINT8", "one_operator", "saturates"]

#: Types of elements, as TensorProto numbers them.
FLOAT, UINT8, INT8, FLOAT16 = 1, 2, 3, 10
_IR_VERSION, _OPSET, _MICROSOFT = 8, 17, "com.microsoft"


@cache
def saturates() -> bool:
    """Whether sums of uint8 times int8 are cut off at 16 bits on this machine, as AVX2 without VNNI does."""
    a, b = np.full((2, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    weights = {
        "b": (INT8, b),
        "a_scale": (FLOAT, np.ones((), np.float32)),
        "b_scale": (FLOAT, np.ones(16, np.float32)),
        "a_zero": (UINT8, np.zeros((), np.uint8)),
    }
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    model = one_operator("MatMulIntegerToFloat", (UINT8, FLOAT), weights)
    (found,) = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"a": a})
    return bool((found != 64 * 255 * 127).any())


def one_operator(operator: str, kinds: tuple[int, int], weights: dict[str, tuple[int, Any]]) -> bytes:
    """An ONNX model: input ``a`` [rows, columns], one operator with fixed weights, output ``c``.

    Args:
        operator: its name.
        kinds: types of the elements of ``a`` and ``c``.
        weights: name -> type and array of the further inputs, in order.

    Source: onnx.proto of https://github.com/onnx/onnx, which the field numbers are of.
    """
    node = (
        b"".join(_bytes(1, name.encode()) for name in ("a", *weights)) + _bytes(2, b"c") + _bytes(4, operator.encode())
    )
    if operator != "MatMul":
        node += _bytes(7, _MICROSOFT.encode())
    graph = _bytes(1, node) + _bytes(2, b"one")
    for name, (kind, array) in weights.items():
        dims = b"".join(_int(1, size) for size in array.shape)
        graph += _bytes(5, dims + _int(2, kind) + _bytes(8, name.encode()) + _bytes(9, array.tobytes()))
    for number, side, kind in ((11, b"a", kinds[0]), (12, b"c", kinds[1])):
        shape = b"".join(_bytes(1, _bytes(2, size)) for size in (b"rows", b"columns"))
        graph += _bytes(number, _bytes(1, side) + _bytes(2, _bytes(1, _int(1, kind) + _bytes(2, shape))))
    sets = _bytes(8, _bytes(1, b"") + _int(2, _OPSET)) + _bytes(8, _bytes(1, _MICROSOFT.encode()) + _int(2, 1))
    return _int(1, _IR_VERSION) + _bytes(7, graph) + sets


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
