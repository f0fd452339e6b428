"""Keys and values that stay on the device: passes read them there and leave the new ones there.

A pass hands over token ids, positions and masks, and gets rows of logits; keys and values are joined and picked by two
small graphs on the same device. What is on it belongs to onnxruntime, and goes when the last cache that holds it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .kv_cache import Arrays, Tensors
from .onnx_builder import FLOAT, FLOAT16, INT64, Value, node, small_model
from .ort import ort

__all__ = ["DeviceKVStore"]


class DeviceKVStore:
    """Tensors as OrtValues of a device.

    Args:
        device: onnxruntime's name of it; with ``cpu`` everything runs as it does on ``cuda``, for tests.
        provider: of the sessions that join and pick, with its options.
        count: tensors of a cache, two for each layer.
        dtype: of their elements.
    """

    def __init__(
        self,
        device: Literal["cpu", "cuda"],
        provider: tuple[str, dict[str, str]],
        count: int,
        dtype: Literal["float32", "float16"],
    ) -> None:
        self._device = device
        kind = FLOAT16 if dtype == "float16" else FLOAT
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # none of its own, which a forked child would wait for at its end
        self._joining, self._picking = (
            ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)
            for model in (joining_model(count, kind), picking_model(count, kind))
        )
        self._outputs = [f"c{i}" for i in range(count)]

    def put(self, arrays: Arrays) -> Tensors:
        return tuple(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a), self._device) for a in arrays)

    def fetch(self, tensors: Tensors) -> Arrays:
        return tuple(tensor.numpy() for tensor in tensors)

    def join(self, parts: Sequence[Tensors]) -> Tensors:
        return reduce(self._join, parts)

    def _join(self, a: Tensors, b: Tensors) -> Tensors:
        feeds = {f"a{i}": tensor for i, tensor in enumerate(a)} | {f"b{i}": tensor for i, tensor in enumerate(b)}
        return self.run(self._joining, feeds, (), self._outputs)[1]

    def take(self, tensors: Tensors, slots: npt.NDArray[np.int64]) -> Tensors:
        feeds = {f"a{i}": tensor for i, tensor in enumerate(tensors)}
        return self.run(self._picking, {**feeds, "slots": slots}, (), self._outputs)[1]

    def run(
        self, session: ort.InferenceSession, feeds: Mapping[str, Any], heads: Sequence[str], presents: Sequence[str]
    ) -> tuple[list[npt.NDArray[Any]], Tensors]:
        binding = session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in heads:
            binding.bind_output(name)
        for name in presents:
            binding.bind_output(name, self._device)
        session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        return [output.numpy() for output in outputs[: len(heads)]], tuple(outputs[len(heads) :])


def joining_model(count: int, kind: int) -> bytes:
    """An ONNX model that puts each ``b`` [1, h, m, d] behind its ``a`` [1, h, n, d]: ``c`` [1, h, n + m, d]."""
    nodes = [node("Concat", (f"a{i}", f"b{i}"), f"c{i}", axis=2) for i in range(count)]
    return small_model(nodes, _cache("a", count, kind) | _cache("b", count, kind), _cache("c", count, kind))


def picking_model(count: int, kind: int) -> bytes:
    """An ONNX model that picks ``slots`` int64 [m] of each ``a`` [1, h, n, d]: ``c`` [1, h, m, d]."""
    nodes = [node("Gather", (f"a{i}", "slots"), f"c{i}", axis=2) for i in range(count)]
    return small_model(nodes, {**_cache("a", count, kind), "slots": (INT64, ("slots",))}, _cache("c", count, kind))


def _cache(name: str, count: int, kind: int) -> dict[str, Value]:
    return {f"{name}{i}": (kind, ("one", "heads", f"tokens_{name}", "head_dim")) for i in range(count)}
