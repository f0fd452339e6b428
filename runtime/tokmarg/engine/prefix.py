"""A policy prefix: its token ids, and their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .kv_cache import KVCache, KVStore

__all__ = ["Prefix", "shared_tokens"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of a role mode's policy prefix, and the token ids they belong to."""

    token_ids: tuple[int, ...]
    cache: KVCache

    def shared(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens a prompt shares with the prefix (its last token always stays to be fed)."""
        return shared_tokens(self.token_ids, token_ids[:-1])

    def moved(self, store: KVStore) -> Prefix:
        """The same prefix with its cache in another store."""
        return replace(self, cache=self.cache.moved(store))


def shared_tokens(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
