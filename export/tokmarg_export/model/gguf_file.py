"""A GGUF file, or the series of files into which one was split: metadata fields, and tensors as float32.

A series is `name-00001-of-00003.gguf` and so on. Its first file holds the metadata, and every file a part of the
tensors. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from torch import Tensor

from tokmarg.native import first_line
from tokmarg_export.errors import ExportError

from .source import gguf_series

__all__ = ["GgufFile"]

_ROWS_AT_ONCE = 1 << 22  # values that are dequantized in one go: the method takes several times their memory


class GgufFile:
    """The file at `path`; of a series, any of its files stands for all.

    Raises ExportError where a file is missing, damaged or of another series.
    """

    def __init__(self, path: Path) -> None:
        self.paths = gguf_series(path)
        readers = [_reader(part) for part in self.paths]
        self._metadata = readers[0]
        for number, (part, reader) in enumerate(zip(self.paths, readers, strict=True)):
            stated = tuple(_field(reader, f"split.{name}") for name in ("no", "count"))
            if stated not in ((number, len(readers)), (None, None), (0, 1)):
                raise ExportError(f"{part}: split.no and split.count are {stated[0]} and {stated[1]}, unlike its name.")
        self._tensors: dict[str, ReaderTensor] = {t.name: t for reader in readers for t in reader.tensors}

    @property
    def tensor_names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def field(self, name: str) -> Any:
        """The value of a metadata field, or None where the file has no such field."""
        return _field(self._metadata, name)

    def needed(self, name: str) -> Any:
        """The value of a metadata field; raises ExportError where the file has no such field."""
        if (value := self.field(name)) is None:
            raise ExportError(f"GGUF field {name} is missing: export from the model's Hugging Face folder.")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor as PyTorch counts: the axis whose values lie side by side comes last."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name: str) -> Tensor:
        """A tensor's values, float32."""
        stored, shape = self._tensors[name], self.shape(name)
        rows = stored.data.reshape(-1, stored.data.shape[-1])  # quantized values as bytes, row by row
        values = np.empty((len(rows), shape[-1]), np.float32)
        step = max(1, _ROWS_AT_ONCE // shape[-1])
        for start in range(0, len(rows), step):
            values[start : start + step] = dequantize(rows[start : start + step], stored.tensor_type)
        return torch.from_numpy(values.reshape(shape))


def _reader(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except Exception as error:  # whatever parsing a damaged file brings up
        raise ExportError(f"{path} is not a readable GGUF file: {first_line(error)}") from error


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()
