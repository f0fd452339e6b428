"""Prompt cache: keys and values of earlier prompts, shared by token prefix, in bounded memory.

A radix tree: each edge holds some tokens and their keys and values, and prompts that begin alike share a path:

    [ Hello , ] ── [ how are you? <end> ]              "Hello, how are you?"
               └── [ I need help ] ── [ . <end> ]      "Hello, I need help."
                                  └── [  with ... ]    "Hello, I need help with ..."

A token's keys and values depend on the tokens before it, so there is a tree for each policy prefix that prompts begin
with. Compared are token ids, never text: where a longer text is cut otherwise, its tokens leave the path there.

The edge that was used least recently goes first. An edge is used whenever one after it is, so that is always a leaf.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract

from .kv_cache import KVCache
from .prefix import shared_tokens

__all__ = [
    "CacheStats",
    "HostPromptCache",
    "PromptCache",
    "StorePromptCache",
    "new_prompt_cache",
]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a prompt cache holds and has done.

    Attributes:
        bytes: of keys and values now.
        tokens: that these belong to.
        hits: prompts of which it had some token.
        misses: prompts of which it had none.
        hit_tokens: tokens that need not be computed again.
    """

    bytes: int = 0
    tokens: int = 0
    hits: int = 0
    misses: int = 0
    hit_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Edge(Generic[S]):
    """Some tokens after those of ``parent``, and their keys and values; a root has none."""

    parent: _Edge[S] | None
    tokens: tuple[int, ...]
    values: S | None
    after: dict[int, _Edge[S]] = field(default_factory=dict)  # first token -> edge


class PromptCache(Generic[S]):
    """Keys and values by token prefix. Safe to use from many threads.

    Args:
        max_bytes: of keys and values at most; the tokens themselves take a hundredth of that.
        token_bytes: of the keys and values of one token.
        cut: (values, start, end) -> a copy of the values of some of the tokens. What it has given is never changed.
    """

    def __init__(self, max_bytes: int, token_bytes: int, cut: Callable[[S, int, int], S]) -> None:
        #: Tokens that it holds at most.
        self.max_tokens = max_bytes // token_bytes
        self._token_bytes, self._cut = token_bytes, cut
        self._roots: dict[Hashable, _Edge[S]] = {}
        self._used: OrderedDict[_Edge[S], None] = OrderedDict()  # the least recently used first
        self._tokens = self._hits = self._misses = self._hit_tokens = 0
        self._lock = threading.Lock()

    def stats(self) -> CacheStats:
        """As of now."""
        with self._lock:
            size = self._tokens * self._token_bytes
            return CacheStats(size, self._tokens, self._hits, self._misses, self._hit_tokens)

    def longest(self, key: Hashable, tokens: Sequence[int]) -> list[S]:
        """Values of the longest beginning of ``tokens`` that is cached, in parts; the last may be a copy.

        Args:
            key: of the tokens before these.
            tokens: of a prompt.
        """
        parts: list[tuple[S, int]] = []  # values, and how many of them
        with self._lock:
            edge, at = self._roots.get(key), 0
            while edge is not None and at < len(tokens) and (following := edge.after.get(tokens[at])) is not None:
                assert following.values is not None
                shared = shared_tokens(following.tokens, tokens[at : at + len(following.tokens)])
                parts.append((following.values, shared))
                edge, at = following, at + shared
                if shared < len(following.tokens):
                    cut_last = True
                    break
            else:
                cut_last = False
            self._use(edge)
            self._hits, self._misses = self._hits + (at > 0), self._misses + (at == 0)
            self._hit_tokens += at
        found = [values for values, _ in parts]
        if cut_last:
            found[-1] = self._cut(found[-1], 0, parts[-1][1])
        return found

    def insert(self, key: Hashable, tokens: Sequence[int], values: S) -> None:
        """Keeps a prompt, or as much of its beginning as there is memory for.

        Args:
            key: of the tokens before these.
            tokens: of the prompt.
            values: of all of them; they are copied.
        """
        with self._lock:
            edge, at = self._roots.setdefault(key, _Edge(None, (), None)), 0
            while at < len(tokens) and (following := edge.after.get(tokens[at])) is not None:
                shared = shared_tokens(following.tokens, tokens[at : at + len(following.tokens)])
                edge = following if shared == len(following.tokens) else self._split(following, shared)
                at += shared
            self._use(edge)
            end = min(len(tokens), at + self._evict(len(tokens) - at, edge))
            if end > at:
                added = _Edge(edge, tuple(tokens[at:end]), self._cut(values, at, end))
                edge.after[tokens[at]] = added
                self._tokens += end - at
                self._use(added)

    def _split(self, edge: _Edge[S], shared: int) -> _Edge[S]:
        """Cuts an edge in two after ``shared`` tokens; returns the first."""
        assert edge.values is not None
        assert edge.parent is not None
        first = _Edge(edge.parent, edge.tokens[:shared], self._cut(edge.values, 0, shared))
        edge.parent.after[edge.tokens[0]] = first
        edge.parent, edge.values = first, self._cut(edge.values, shared, len(edge.tokens))
        edge.tokens = edge.tokens[shared:]
        first.after[edge.tokens[0]] = edge
        self._used[first] = None
        self._use(first)
        return first

    def _use(self, edge: _Edge[S] | None) -> None:
        """Marks an edge and all before it as used last, those nearer to the root later."""
        while edge is not None and edge.parent is not None:
            self._used[edge] = None
            self._used.move_to_end(edge)
            edge = edge.parent

    def _evict(self, tokens: int, path: _Edge[S]) -> int:
        """Drops leaves until ``tokens`` more fit in, or nothing is left but the path to ``path``; how many fit in."""
        kept = set()
        edge: _Edge[S] | None = path
        while edge is not None:
            kept.add(id(edge))
            edge = edge.parent
        while self._tokens + tokens > self.max_tokens and self._used:
            leaf = next(iter(self._used))
            if id(leaf) in kept:
                break
            assert leaf.parent is not None
            del self._used[leaf], leaf.parent.after[leaf.tokens[0]]
            self._tokens -= len(leaf.tokens)
        return max(0, min(tokens, self.max_tokens - self._tokens))


#: For graphs with ``by_content``: [layers, n, 2 * kv_heads * head_dim] of each edge.
HostPromptCache = PromptCache[npt.NDArray[Any]]
#: For other graphs: a cache in the session's store, and which of its slots int64 [n] are the edge's.
StorePromptCache = PromptCache[tuple[KVCache, npt.NDArray[np.int64]]]


def _token_bytes(graph: GraphContract) -> int:
    return graph.layers * 2 * graph.kv_heads * graph.head_dim * np.dtype(graph.kv_dtype).itemsize


def new_prompt_cache(graph: GraphContract, max_bytes: int) -> PromptCache[Any]:
    """A cache of the kind that the graph's engine takes: :data:`HostPromptCache` where attention is ``by_content``, and
    else :data:`StorePromptCache`, wherever its session keeps keys and values."""
    if graph.by_content:
        return PromptCache(max_bytes, _token_bytes(graph), lambda values, a, b: values[:, a:b].copy())
    return PromptCache(max_bytes, _token_bytes(graph), _cut_slots)


def _cut_slots(
    values: tuple[KVCache, npt.NDArray[np.int64]], start: int, end: int
) -> tuple[KVCache, npt.NDArray[np.int64]]:
    cache, slots = values
    return cache.take(slots[start:end]), np.arange(end - start, dtype=np.int64)
