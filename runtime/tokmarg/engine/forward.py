"""One forward pass: what the graph is given, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract

from .kv_cache import KVCache

__all__ = ["BlockLayout", "Forward", "Outputs"]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """The B contents of a pass through a graph whose attention goes content by content (``graph.by_content``).

    Each has S places for its new tokens and K for what those see; what stands at a place that it does not need is never
    seen. Slots count through the P tokens of the prefix, the O cached ones of the contents' own, and the N new ones.

    Attributes:
        rows: int64 [B, S], which new token of the pass stands at each place.
        places: int64 [N], at which of the B * S places each new token of the pass stands.
        slots: int64 [B, K], which token is seen at each place.
        own: of the contents' own cached tokens, [O * 2 * kv_heads, head_dim] of each layer.
        positions: int64 [O], theirs.
    """

    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    own: Sequence[npt.NDArray[Any]]
    positions: npt.NDArray[np.int64]

    @classmethod
    def one(cls, graph: GraphContract, past: int, count: int) -> BlockLayout:
        """All ``count`` new tokens of a pass are of one content, which has none of its own in the cache."""
        own = [np.zeros(graph.cache_shape(0), dtype=graph.kv_dtype)] * graph.layers
        places, slots = np.arange(count, dtype=np.int64), np.arange(past + count, dtype=np.int64)
        return cls(places[None], places, slots[None], own, np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Forward:
    """What a forward pass of S new tokens is given.

    Attributes:
        input_ids: the new tokens.
        positions: int64 [S].
        mask: bool [S, P+S], True where the row's token sees the column's; with ``contents`` [B, S, K] of their places.
        past: cache of P tokens; one that lies elsewhere than the session's ``store`` is copied there.
        logit_rows: K indices into the new tokens.
        verdict_rows: N more, where the columns of ``graph.verdict_token_ids`` are enough; none without those.
        contents: of a graph that is ``by_content``; None if all new tokens are of one.
    """

    input_ids: Sequence[int]
    positions: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    past: KVCache
    logit_rows: Sequence[int]
    verdict_rows: Sequence[int] = ()
    contents: BlockLayout | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward pass gives.

    Attributes:
        logits: float32 [K, columns of the head].
        verdict_logits: float32 [N, verdict_token_ids]; N = 0 without those.
        new: keys and values of the new tokens, in the session's ``store``.
    """

    logits: npt.NDArray[np.float32]
    verdict_logits: npt.NDArray[np.float32]
    new: KVCache


def _distances(
    past: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], contents: BlockLayout | None
) -> npt.NDArray[np.int64]:
    """How far in front of each token those stand that it may see: [S, P+S], or [B, 1, S, K] of contents' places."""
    if contents is None:
        queries, keys = positions, np.concatenate([past, positions])
    else:
        queries = positions[contents.rows][:, None]
        keys = np.concatenate([past, contents.positions, positions])[contents.slots][:, None]
    distances: npt.NDArray[np.int64] = queries[..., :, None] - keys[..., None, :]
    return distances
