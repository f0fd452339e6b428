"""Key/value store on the device (CUDA): passes read keys and values there and leave the new ones there.

Only token ids, positions, masks and rows of logits cross between host and device; keys and values are joined and taken
by two small graphs on the device. Its memory is onnxruntime's, freed when the last cache that holds it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .kv_cache import Arrays, Tensors
from .onnx_builder import FLOAT, FLOAT16, INT64, Value, node, small_model
from .ort import ort, session_options

__all__ = ["DeviceKVStore"]


class DeviceKVStore:
    """Tensors as OrtValues of a device.

    Args:
        device: onnxruntime's name of it; with ``cpu`` everything runs as it does on ``cuda``, for tests.
        provider: of the sessions that join and take, with its options.
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
        options = session_options(threads=1)  # none of its own, which a forked child would wait for at its end
        self._join_session, self._take_session = (
            ort.InferenceSession(model, options, providers=[provider], enable_fallback=0)
            for model in (join_model(count, kind), take_model(count, kind))
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
        return self.run(self._join_session, feeds, (), self._outputs)[1]

    def take(self, tensors: Tensors, slots: npt.NDArray[np.int64]) -> Tensors:
        feeds = {f"a{i}": tensor for i, tensor in enumerate(tensors)}
        return self.run(self._take_session, {**feeds, "slots": slots}, (), self._outputs)[1]

    def run(
        self,
        session: ort.InferenceSession,
        feeds: Mapping[str, Any],
        heads: Sequence[str],
        presents: Sequence[str],
        options: ort.RunOptions | None = None,
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
        session.run_with_iobinding(binding, options)
        outputs = binding.get_outputs()
        return [output.numpy() for output in outputs[: len(heads)]], tuple(outputs[len(heads) :])


def join_model(count: int, kind: int) -> bytes:
    """An ONNX model that appends each ``b`` [1, h, m, d] to its ``a`` [1, h, n, d]: ``c`` [1, h, n + m, d]."""
    nodes = [node("Concat", (f"a{i}", f"b{i}"), f"c{i}", axis=2) for i in range(count)]
    return small_model(nodes, _cache("a", count, kind) | _cache("b", count, kind), _cache("c", count, kind))


def take_model(count: int, kind: int) -> bytes:
    """An ONNX model that takes ``slots`` int64 [m] of each ``a`` [1, h, n, d]: ``c`` [1, h, m, d]."""
    nodes = [node("Gather", (f"a{i}", "slots"), f"c{i}", axis=2) for i in range(count)]
    return small_model(nodes, {**_cache("a", count, kind), "slots": (INT64, ("slots",))}, _cache("c", count, kind))


def _cache(name: str, count: int, kind: int) -> dict[str, Value]:
    return {f"{name}{i}": (kind, ("one", "heads", f"tokens_{name}", "head_dim")) for i in range(count)}
