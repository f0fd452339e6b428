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

from .bundle import GraphContract

__all__ = ["Room", "Tokens"]

#: Tokens that there is room for at least, beyond those of a content's prompt; what is not used is not there either.
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


class Tokens:
    """Keys and values of a content's own tokens, one behind the other.

    Args:
        graph: that computes them.
    """

    def __init__(self, graph: GraphContract) -> None:
        self._graph, self._rows = graph, _memory(graph, 0)
        #: How many there are; 0 for the next content.
        self.count = 0

    @property
    def all(self) -> npt.NDArray[Any]:
        """[layers, count, 2 * kv_heads * head_dim]."""
        return self._rows[:, : self.count]

    def append(self, new: Sequence[npt.NDArray[Any]]) -> None:
        """Takes those of some more tokens, [tokens * 2 * kv_heads, head_dim] of each layer."""
        end = self.count + len(new[0]) // (2 * self._graph.kv_heads)
        if end > self._rows.shape[1]:
            larger = _memory(self._graph, max(end + _GROWTH, 2 * self.count))
            larger[:, : self.count] = self.all
            self._rows = larger
        for layer, rows in zip(self._rows, new, strict=True):
            layer[self.count : end] = rows.reshape(end - self.count, -1)
        self.count = end


class Room:
    """Room for the cached tokens of a pass, which a later pass takes again."""

    def __init__(self, graph: GraphContract) -> None:
        self._graph = graph
        self._flat = _memory(graph, 0).reshape(-1)

    def take(self, tokens: int) -> npt.NDArray[Any]:
        """[layers, tokens, 2 * kv_heads * head_dim], with anything in it."""
        layers, width = self._graph.layers, 2 * self._graph.kv_heads * self._graph.head_dim
        if layers * tokens * width > len(self._flat):
            self._flat = _memory(self._graph, max(tokens, _GROWTH)).reshape(-1)
        return self._flat[: layers * tokens * width].reshape(layers, tokens, width)
