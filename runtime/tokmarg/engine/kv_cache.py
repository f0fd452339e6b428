"""Key/value cache of tokens, on the host or on the device.

A :class:`KVCache` has a length and positions, can be joined with others, and some of its tokens can be taken, wherever
its tensors lie. Their type, and how they are joined, is up to its store: numpy arrays on the host
(:class:`HostKVStore`), or onnxruntime's values on the device (:class:`tokmarg.engine.device_kv.DeviceKVStore`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .ort import ort

__all__ = ["HOST", "HostKVStore", "KVCache", "KVStore", "heads_by_token", "key_and_value"]

Arrays = tuple[npt.NDArray[Any], ...]
#: Tensors of a store: key 0, value 0, key 1, value 1, ..., each [1, kv_heads, n, head_dim]; or, of graphs with
#: ``by_content``, one per layer in the layout of :func:`heads_by_token`, which are neither joined nor taken from.
Tensors = tuple[Any, ...]


def heads_by_token(key: npt.NDArray[Any], value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Interleaves a layer's keys and values [1, kv_heads, n, head_dim] to rows [n * 2 * kv_heads, head_dim]: of each
    token the heads of its key, then those of its value."""
    both = np.concatenate([key[0], value[0]]).transpose(1, 0, 2)
    return np.ascontiguousarray(both).reshape(-1, key.shape[-1])


def key_and_value(rows: npt.NDArray[Any], kv_heads: int) -> Arrays:
    """The inverse of :func:`heads_by_token`: key and value [1, kv_heads, n, head_dim]."""
    both = rows.reshape(-1, 2, kv_heads, rows.shape[-1]).transpose(1, 2, 0, 3)
    return both[:1], both[1:]


class KVStore(Protocol):
    """Memory for the tensors of caches, and running passes on them there."""

    def put(self, arrays: Arrays) -> Tensors:
        """Brings arrays here."""

    def fetch(self, tensors: Tensors) -> Arrays:
        """Brings tensors to the host."""

    def join(self, parts: Sequence[Tensors]) -> Tensors:
        """Concatenates tensors along the tokens."""

    def take(self, tensors: Tensors, slots: npt.NDArray[np.int64]) -> Tensors:
        """The tokens at ``slots`` int64 [n]."""

    def run(
        self,
        session: ort.InferenceSession,
        feeds: Mapping[str, Any],
        heads: Sequence[str],
        presents: Sequence[str],
        options: ort.RunOptions | None = None,
    ) -> tuple[list[npt.NDArray[Any]], Tensors]:
        """One pass: the outputs called ``heads`` on the host, those called ``presents`` here.

        Args:
            session: the graph.
            feeds: input -> array, or tensor of this store.
            heads, presents: names of outputs.
            options: of the pass.
        """


class HostKVStore:
    """Arrays in this process's memory."""

    def put(self, arrays: Arrays) -> Tensors:
        return arrays

    def fetch(self, tensors: Tensors) -> Arrays:
        return tensors

    def join(self, parts: Sequence[Tensors]) -> Tensors:
        return tuple(np.concatenate(layer, axis=2) for layer in zip(*parts, strict=True))

    def take(self, tensors: Tensors, slots: npt.NDArray[np.int64]) -> Tensors:
        return tuple(np.take(tensor, slots, axis=2) for tensor in tensors)

    def run(
        self,
        session: ort.InferenceSession,
        feeds: Mapping[str, Any],
        heads: Sequence[str],
        presents: Sequence[str],
        options: ort.RunOptions | None = None,
    ) -> tuple[list[npt.NDArray[Any]], Tensors]:
        outputs = session.run([*heads, *presents], feeds, options)
        return outputs[: len(heads)], tuple(outputs[len(heads) :])


HOST = HostKVStore()


@dataclass(frozen=True, slots=True)
class KVCache:
    """A key/value cache of P tokens.

    ``positions`` int64 [P] are the positions at which the tokens stand; ``store`` is where the tensors lie.
    """

    tensors: Tensors
    positions: npt.NDArray[np.int64]
    store: KVStore = HOST

    @property
    def length(self) -> int:
        """Number of cached tokens P."""
        return len(self.positions)

    def take(self, slots: npt.NDArray[np.int64]) -> KVCache:
        """The cache of some of the tokens, ``slots`` int64 [n]."""
        return KVCache(self.store.take(self.tensors, slots), self.positions[slots], self.store)

    @classmethod
    def joined(cls, parts: Sequence[KVCache]) -> KVCache:
        """Concatenates caches of one store."""
        store = parts[0].store
        tensors = store.join([part.tensors for part in parts])
        return cls(tensors, np.concatenate([part.positions for part in parts]), store)

    def moved(self, store: KVStore) -> KVCache:
        """The same cache in another store; itself where it lies there already."""
        if store is self.store:
            return self
        return KVCache(store.put(self.store.fetch(self.tensors)), self.positions, store)
