"""Small ONNX models written as protobuf bytes, without the onnx package: probes of the machine and single operations on
the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FLOAT", "FLOAT16", "INT8", "INT64", "UINT8", "Value", "node", "one_operator", "small_model"]

#: Types of elements, as TensorProto numbers them.
FLOAT, UINT8, INT8, INT64, FLOAT16 = 1, 2, 3, 7, 10
#: Of an input or output: type of the elements, names of the axes.
Value = tuple[int, tuple[str, ...]]
_IR_VERSION, _OPSET, _MICROSOFT, _ATTRIBUTE_INT = 8, 17, "com.microsoft", 2


def one_operator(operator: str, kinds: tuple[int, int], weights: dict[str, tuple[int, Any]]) -> bytes:
    """An ONNX model: input ``a`` [rows, columns], one operator with fixed weights, output ``c``.

    Args:
        operator: its name.
        kinds: types of the elements of ``a`` and ``c``.
        weights: name -> type and array of the further inputs, in order.

    Source: onnx.proto of https://github.com/onnx/onnx, which the field numbers are of.
    """
    domain = "" if operator == "MatMul" else _MICROSOFT
    axes = ("rows", "columns")
    return small_model(
        [node(operator, ("a", *weights), "c", domain)], {"a": (kinds[0], axes)}, {"c": (kinds[1], axes)}, weights
    )


def small_model(
    nodes: Sequence[bytes],
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    weights: Mapping[str, tuple[int, Any]] | None = None,
) -> bytes:
    """An ONNX model of nodes; ``weights``: name -> type of the elements and array."""
    graph = b"".join(_bytes(1, each) for each in nodes) + _bytes(2, b"one")
    for name, (kind, array) in (weights or {}).items():
        dims = b"".join(_int(1, size) for size in array.shape)
        graph += _bytes(5, dims + _int(2, kind) + _bytes(8, name.encode()) + _bytes(9, array.tobytes()))
    for number, values in ((11, inputs), (12, outputs)):
        graph += b"".join(_bytes(number, _value(name, *value)) for name, value in values.items())
    sets = _bytes(8, _bytes(1, b"") + _int(2, _OPSET)) + _bytes(8, _bytes(1, _MICROSOFT.encode()) + _int(2, 1))
    return _int(1, _IR_VERSION) + _bytes(7, graph) + sets


def node(operator: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: int) -> bytes:
    """A node with one output and integer attributes."""
    message = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
    message += _bytes(4, operator.encode())
    for name, number in attributes.items():
        message += _bytes(5, _bytes(1, name.encode()) + _int(3, number) + _int(20, _ATTRIBUTE_INT))
    return message + (_bytes(7, domain.encode()) if domain else b"")


def _value(name: str, kind: int, axes: Sequence[str]) -> bytes:
    shape = b"".join(_bytes(1, _bytes(2, axis.encode())) for axis in axes)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _int(1, kind) + _bytes(2, shape)))


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
