"""Growable, reusable memory for keys and values, in the layout of graphs with ``by_content`` attention.

It comes from the system and goes back to it whole, so that what a search leaves behind does not fragment the heap. New
memory is slow (a page of 4 kB takes 2 µs, as long as copying ten times as much), so the next content or pass reuses a
buffer, and memory is requested in large pages.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.system_calls import by_system

__all__ = ["KVBuffer", "KVBufferPool"]

#: Spare tokens when a buffer grows; memory that is not written to is not there either.
_GROWTH = 128
#: Between contents so many buffers are kept, of so many tokens each at most: 24 MB in SmolLM2-135M. A message of
#: several passes would take 3 % longer if its memory were new.
_KEPT_BUFFERS, _KEPT_TOKENS = 2, 256
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def _allocate(graph: GraphContract, tokens: int) -> npt.NDArray[Any]:
    """Memory for keys and values, [layers, tokens, 2 * kv_heads * head_dim]."""
    shape = (graph.layers, tokens, 2 * graph.kv_heads * graph.head_dim)
    memory = mmap.mmap(-1, max(1, math.prod(shape)) * np.dtype(graph.kv_dtype).itemsize, **_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            if not by_system(error):
                raise  # else the kernel has none
    return np.frombuffer(memory, dtype=graph.kv_dtype)[: math.prod(shape)].reshape(shape)


class KVBuffer:
    """Keys and values of some tokens, one after the other.

    Args:
        graph: that computes them.
    """

    def __init__(self, graph: GraphContract) -> None:
        self._graph, self._rows = graph, _allocate(graph, 0)
        self._count = 0

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self._count

    @property
    def capacity(self) -> int:
        """Number of tokens that the memory is enough for."""
        return int(self._rows.shape[1])

    @property
    def all(self) -> npt.NDArray[Any]:
        """[layers, tokens, 2 * kv_heads * head_dim], contiguous within a layer."""
        return self._rows[:, : self._count]

    def clear(self) -> None:
        """Drops the tokens and keeps the memory."""
        self._count = 0

    def extend(self, tokens: int) -> npt.NDArray[Any]:
        """Adds some tokens, uninitialized: [layers, tokens, 2 * kv_heads * head_dim] to write to."""
        before, self._count = self._count, self._count + tokens
        if self._count > self._rows.shape[1]:
            larger = _allocate(self._graph, max(self._count + _GROWTH, 2 * before))
            larger[:, :before] = self._rows[:, :before]
            self._rows = larger
        return self._rows[:, before : self._count]

    def append(self, new: Sequence[npt.NDArray[Any]]) -> None:
        """Adds keys and values of some more tokens, [tokens * 2 * kv_heads, head_dim] of each layer."""
        for layer, rows in zip(self.extend(len(new[0]) // (2 * self._graph.kv_heads)), new, strict=True):
            layer[:] = rows.reshape(layer.shape)


class KVBufferPool:
    """Buffers for reuse; the one released last is taken first. Any thread may call.

    Args:
        graph: that computes the keys and values.
    """

    def __init__(self, graph: GraphContract) -> None:
        self._graph = graph
        self._free: list[KVBuffer] = []

    def take(self) -> KVBuffer:
        """An empty buffer."""
        try:
            buffer = self._free.pop()
        except IndexError:
            return KVBuffer(self._graph)
        buffer.clear()
        return buffer

    def release(self, buffer: KVBuffer) -> None:
        """Takes a buffer back that nothing reads any more."""
        self._free.append(buffer)

    def trim(self) -> None:
        """Gives memory back to the system, but for what the next short content will want."""
        self._free = [buffer for buffer in self._free if buffer.capacity <= _KEPT_TOKENS][:_KEPT_BUFFERS]
