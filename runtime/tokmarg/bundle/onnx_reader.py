"""ONNX file reader: external data files and loop operators of a ``model.onnx``, read before onnxruntime opens it.

onnxruntime opens whatever file a graph names as external data. A bundle's graph may name the bundle's own files only,
those that the manifest lists with size and sha256. And a pass must end, so there may be no loops.

An ONNX file is one protobuf message (onnx.proto of https://github.com/onnx/onnx). This reads the few fields that lead
to tensors and nodes and steps over the rest, weights included, by their length.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokmarg.errors import BundleError
from tokmarg.system_calls import by_system

__all__ = ["References", "fields", "read_references"]

#: message type -> field number -> message type of the field. Other fields are skipped.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "StringStringEntryProto": {},
}  # fmt: skip
_OP_TYPE, _KEY, _VALUE = 4, 1, 2
_LOOPS = ("Loop", "Scan")
#: Graphs inside graphs, and what lies between them, at most.
_MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class References:
    """External data files that a graph names, as written (``files``), and its loop operators (``loops``)."""

    files: set[str] = field(default_factory=set)
    loops: set[str] = field(default_factory=set)


def read_references(path: Path) -> References:
    """Reads a graph file.

    Raises:
        BundleError: the file cannot be read, or is no ONNX graph; names it.
    """
    try:
        with path.open("rb") as stream:
            # A graph that holds its own weights may have 2 GB; an empty file cannot be mapped.
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        if not by_system(error):
            raise
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from None
    data = memoryview(mapped)
    references = References()
    try:
        graphs = _read(data, "ModelProto", references, 0)
    except ValueError as error:
        raise BundleError(f"{path}: not an ONNX graph: {error}") from None
    if not graphs:
        raise BundleError(f"{path}: not an ONNX graph: it holds none")
    return references


def _read(data: memoryview, message: str, references: References, depth: int) -> int:
    """Walks a message; returns how many messages of a known kind are directly in it."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages inside each other, more than {_MAX_DEPTH} deep")
    known, count = _MESSAGES[message], 0
    key, values = b"", []
    for number, content in fields(data):
        if not isinstance(content, memoryview):
            continue
        if number in known:
            count += 1
            _read(content, known[number], references, depth + 1)
        elif message == "NodeProto" and number == _OP_TYPE:
            name = bytes(content[:100]).decode("utf-8", "replace")
            if name in _LOOPS:
                references.loops.add(name)
        elif message == "StringStringEntryProto" and number == _KEY:
            key = bytes(content)
        elif message == "StringStringEntryProto" and number == _VALUE:
            values.append(bytes(content).decode("utf-8", "replace"))
    if message == "StringStringEntryProto" and key == b"location":
        references.files.update(values or [""])
    return count


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int | None]]:
    """The fields of a protobuf message: number, and content where it is bytes or an integer (unsigned).

    Raises:
        ValueError: the bytes are no message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has number 0")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field has wire type {kind}")
        if at + size > end:
            raise ValueError("it ends in the middle of a field")
        yield number, data[at : at + size] if kind == _BYTES else None
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than ten bytes")
