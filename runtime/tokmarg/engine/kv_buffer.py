"""Memory for keys and values of tokens, as graphs that go content by content take them.

It is the system's, and its again when it goes: what a search leaves behind stands between nothing that stays. Since new
memory is slow (a page of 4 kB takes 2 µs, as long as copying ten times as much), it is taken over by the next content
or pass, and asked for in large pages.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract

__all__ = ["KVBuffer"]

#: Tokens that there is room for beyond those that made it too small; what is not used is not there either.
_GROWTH = 128
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def _memory(graph: GraphContract, tokens: int) -> npt.NDArray[Any]:
    """Room for keys and values, [layers, tokens, 2 * kv_heads * head_dim]."""
    shape = (graph.layers, tokens, 2 * graph.kv_heads * graph.head_dim)
    memory = mmap.mmap(-1, max(1, math.prod(shape)) * np.dtype(graph.kv_dtype).itemsize, **_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel may have none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=graph.kv_dtype)[: math.prod(shape)].reshape(shape)


class KVBuffer:
    """Keys and values of some tokens, one behind the other.

    Args:
        graph: that computes them.
    """

    def __init__(self, graph: GraphContract) -> None:
        self._graph, self._rows = graph, _memory(graph, 0)
        self._count = 0

    @property
    def all(self) -> npt.NDArray[Any]:
        """[layers, tokens, 2 * kv_heads * head_dim], contiguous within a layer."""
        return self._rows[:, : self._count]

    def clear(self) -> None:
        """Holds no tokens, and keeps the memory."""
        self._count = 0

    def extend(self, tokens: int) -> npt.NDArray[Any]:
        """Room for some more tokens, [layers, tokens, 2 * kv_heads * head_dim], with anything in it."""
        before, self._count = self._count, self._count + tokens
        if self._count > self._rows.shape[1]:
            larger = _memory(self._graph, max(self._count + _GROWTH, 2 * before))
            larger[:, :before] = self._rows[:, :before]
            self._rows = larger
        return self._rows[:, before : self._count]

    def append(self, new: Sequence[npt.NDArray[Any]]) -> None:
        """Takes keys and values of some more tokens, [tokens * 2 * kv_heads, head_dim] of each layer."""
        for layer, rows in zip(self.extend(len(new[0]) // (2 * self._graph.kv_heads)), new, strict=True):
            layer[:] = rows.reshape(layer.shape)
