"""Tensors of a graph on disk while it is built: only the one that is being worked on is in memory.

A graph's initializers are large in number and size, and none is needed again before the graph is written. A spool
appends the values of each to one file, and gives an initializer that says where they are, as ONNX's external data.
:func:`values_of` reads them, :func:`append_to` copies them to where they stay.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

__all__ = ["StoreTensor", "TensorSpool", "append_to", "read_model", "size_of", "values_of"]

#: Name and values -> the initializer.
StoreTensor = Callable[[npt.NDArray[Any], str], TensorProto]

_IN_MEMORY = 1 << 16  # bytes: smaller tensors are kept as they are
_CHUNK = 1 << 24


class TensorSpool:
    """A file of tensors, new and empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")

    def store(self, value: npt.NDArray[Any], name: str) -> TensorProto:
        """An initializer, whose values are in the file."""
        if value.nbytes < _IN_MEMORY:
            return numpy_helper.from_array(value, name)
        with self._path.open("ab") as stream:
            offset = stream.tell()
            np.ascontiguousarray(value).tofile(stream)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=value.shape)
        _refer(tensor, str(self._path), offset, value.nbytes)
        return tensor


def read_model(path: Path, store: StoreTensor) -> onnx.ModelProto:
    """The model of a file, its large initializers where ``store`` puts them or in the file of weights beside it."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in (a.t for node in model.graph.node for a in node.attribute if a.HasField("t")):
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            location, offset, length = _place(tensor)
            _refer(tensor, str(path.parent / location), offset, length)
        else:
            tensor.CopyFrom(store(numpy_helper.to_array(tensor), tensor.name))
    return model


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _place(tensor: TensorProto) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's values."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Path(entries["location"]), int(entries["offset"]), int(entries["length"])


def size_of(tensor: TensorProto) -> int:
    """Bytes of a tensor's values."""
    return _place(tensor)[2] if tensor.data_location == TensorProto.EXTERNAL else len(tensor.raw_data)


def values_of(tensor: TensorProto) -> npt.NDArray[Any]:
    """A tensor's values; those of a spool as a view of the file, of which memory holds what is being read."""
    if tensor.data_location != TensorProto.EXTERNAL:
        kept: npt.NDArray[Any] = numpy_helper.to_array(tensor)
        return kept
    path, offset, _ = _place(tensor)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    view: npt.NDArray[Any] = np.memmap(path, kind, "r", offset, tuple(tensor.dims))
    return view


def append_to(stream: BinaryIO, tensor: TensorProto, location: str) -> None:
    """Append a tensor's values to a file of weights, and let the tensor refer to it by the name ``location``."""
    start, length = stream.tell(), size_of(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        path, offset, left = _place(tensor)
        with path.open("rb") as source:
            source.seek(offset)
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise EOFError(f"{path} has lost values of {tensor.name}")
                stream.write(chunk)
                left -= len(chunk)
    else:
        stream.write(tensor.raw_data)
        tensor.ClearField("raw_data")
    _refer(tensor, location, start, length)
