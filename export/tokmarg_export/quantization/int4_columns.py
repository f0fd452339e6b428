"""Weights of 4 bits that are multiplied as integers of 8: half the file, the products and the speed of int8.

Each column of a matrix has a scale, and each block of 32 channels of it a whole number, its step:

    W[k, n] = scale[n] * step[k // 32, n] * q[k, n]            q from -8 to 7, |step| from 1 to 15

step * q is an integer from -120 to 120, so `int8_per_row` multiplies these weights like any of 8 bits. The file has q,
two to a byte, and the steps; the graph has the nodes that make the integers of them, which onnxruntime computes once,
when it loads the graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from tokmarg_export.graph.tensor_spool import StoreTensor

from .gptq import gptq_levels

__all__ = ["BLOCK", "quantize_blocks", "stored_levels"]

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]

#: Channels that share a step.
BLOCK = 32
_MOST = 15  # times 8 it is within 8 bits
_TINY = np.float32(1e-12)  # columns of zeros have a scale, too
_VALUES = 1 << 22  # that are looked at in one go: it takes some times their memory
# Clipping a block's largest weight a little often lowers the error of the others by more than it costs.
_SHRINK = (1.0, 0.94, 0.88, 0.82)


def quantize_blocks(weight: Floats, moments: Tensor | None = None) -> tuple[Levels, Levels, Floats]:
    """Quantizes a matrix [K, N] to 4 bits.

    Args:
        weight: float32.
        moments: of the inputs, float64 [K, K], for rounding by GPTQ; without them weights are rounded to the nearest.

    Returns:
        q, int8 [K, N], -8 to 7; steps, int8 [ceil(K / 32), N]; scales, float32 [N].
    """
    channels, columns = weight.shape
    scale = (np.maximum(np.abs(weight).max(axis=0), _TINY) / np.float32(8 * _MOST)).astype(np.float32)
    steps = np.empty((-(-channels // BLOCK), columns), np.int8)
    width = max(1, _VALUES // channels)
    for start in range(0, columns, width):
        part = slice(start, start + width)
        steps[:, part] = _steps(weight[:, part] / scale[part])
    of_channel = np.repeat(steps, BLOCK, axis=0)[:channels]  # [K, N]
    if moments is not None:
        return gptq_levels(weight, scale, moments, of_channel), steps, scale
    levels = np.clip(np.rint(weight / (scale * of_channel)), -8, 7)
    return levels.astype(np.int8), steps, scale


def _steps(weight: Floats) -> Levels:
    """The step of each block with the least error, [blocks, N]; weights [K, N] in units of their column's scale."""
    channels, columns = weight.shape
    blocks = -(-channels // BLOCK)
    padded = np.zeros((blocks * BLOCK, columns), np.float32)
    padded[:channels] = weight
    cut = padded.reshape(blocks, BLOCK, columns)
    # The largest weight of a block, whatever its sign, takes the -8.
    peak = np.take_along_axis(cut, np.abs(cut).argmax(axis=1, keepdims=True), axis=1) / np.float32(-8)
    sign = np.where(peak < 0, np.float32(-1), np.float32(1))
    best = np.full(peak.shape, np.inf, np.float32)
    steps = np.ones(peak.shape, np.float32)
    trials = [np.ceil(np.abs(peak)), *(np.rint(np.abs(peak) * np.float32(shrink)) for shrink in _SHRINK)]
    for trial in trials:
        step = sign * np.clip(trial, 1, _MOST)
        error = np.square(np.clip(np.rint(cut / step), -8, 7) * step - cut).sum(axis=1, keepdims=True)
        better = error < best
        best, steps = np.where(better, error, best), np.where(better, step, steps)
    return steps[:, 0].astype(np.int8)


def stored_levels(
    name: str, levels: Levels, steps: Levels, store: StoreTensor
) -> tuple[list[TensorProto], list[NodeProto]]:
    """Initializers, and the nodes that make the integers ``{name}/levels`` int8 [K, N] of them.

    Args:
        name: of the weight.
        levels, steps: of :func:`quantize_blocks`; N is even.
        store: makes initializers.
    """
    halves = levels.astype(np.uint8) & 15
    packed = store((halves[:, 0::2] | (halves[:, 1::2] << 4)).astype(np.uint8), f"{name}/q")
    packed.data_type = TensorProto.INT4  # two to a byte, the first in the low half
    packed.dims[:] = levels.shape
    nodes = [
        helper.make_node("Cast", [f"{name}/steps"], [f"{name}/steps/float"], to=TensorProto.FLOAT),
        helper.make_node(
            "DequantizeLinear", [f"{name}/q", f"{name}/steps/float"], [f"{name}/whole"], axis=0, block_size=BLOCK
        ),
        helper.make_node("Cast", [f"{name}/whole"], [f"{name}/levels"], to=TensorProto.INT8),
    ]
    return [packed, store(steps, f"{name}/steps")], nodes
