"""Weights of 4 bits that are multiplied as integers of 8: half the file, the products and the speed of int8.

    W[k, n] = scale[n] * q[k, n]            q from -8 to 7

The file has q, two to a byte. The graph makes integers of 8 bits of them, which onnxruntime does once, when it loads
the graph, and `int8_per_row` multiplies these like any others.

One scale for a column is enough because the weights are rotated (`quarot`, `input_rotation`): they are normally
distributed, without outliers. Blocks of 32 with scales of their own would lower the rounding error of such weights by
a fifth, and cost half a bit and either slower products or seconds and gigabytes at load.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from tokmarg_export.graph.tensor_spool import StoreTensor

from .gptq import gptq_levels

__all__ = ["packed_levels", "quantize_columns_4"]

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]

_TINY = np.float32(1e-12)  # columns of zeros have a scale, too
_VALUES = 1 << 22  # that are looked at in one go: it takes some times their memory
#: Parts of a column's largest weight that the levels may reach. Clipping the largest makes all others finer: of
#: normally distributed weights the least error is where the levels reach 2.7 standard deviations.
_REACHES = np.linspace(0.4, 1.0, 25, dtype=np.float32)


def quantize_columns_4(weight: Floats, moments: Tensor | None = None) -> tuple[Levels, Floats]:
    """Quantizes the columns of a matrix [K, N] to 4 bits.

    Args:
        weight: float32.
        moments: of the inputs, float64 [K, K], for rounding by GPTQ; without them weights are rounded to the nearest.

    Returns:
        q, int8 [K, N], -8 to 7; scales, float32 [N].
    """
    channels, columns = weight.shape
    scale = np.empty(columns, np.float32)
    width = max(1, _VALUES // channels)
    for start in range(0, columns, width):
        scale[start : start + width] = _scales(weight[:, start : start + width])
    if moments is not None:
        return gptq_levels(weight, scale, moments, bits=4), scale
    return _rounded(weight, scale).astype(np.int8), scale


def _scales(weight: Floats) -> Floats:
    """The scale of each column with the least square error, [N]."""
    whole = np.maximum(np.abs(weight).max(axis=0), _TINY) / np.float32(7.5)
    best, scales = np.full(whole.shape, np.inf, np.float32), whole
    for reach in _REACHES:
        trial = whole * reach
        error = np.square(_rounded(weight, trial) * trial - weight).sum(axis=0)
        scales, best = np.where(error < best, trial, scales), np.minimum(error, best)
    return np.asarray(scales, np.float32)


def _rounded(weight: Floats, scale: Floats) -> Floats:
    return np.asarray(np.clip(np.rint(weight / scale), -8, 7), np.float32)


def packed_levels(name: str, levels: Levels, store: StoreTensor) -> tuple[TensorProto, NodeProto]:
    """An initializer of 4 bits, and the node that makes ``name``, int8 [K, N], of it.

    Args:
        name: of the levels.
        levels: -8 to 7, int8 [K, N].
        store: makes initializers.
    """
    halves = np.pad(levels.reshape(-1).view(np.uint8) & 15, (0, levels.size % 2))
    packed = store(halves[0::2] | (halves[1::2] << 4), f"{name}/packed")
    packed.data_type = TensorProto.INT4  # two to a byte, the first in the low half
    packed.dims[:] = levels.shape
    return packed, helper.make_node("Cast", [packed.name], [name], to=TensorProto.INT8)
