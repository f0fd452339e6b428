"""Inputs and outputs of one forward pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .block_layout import BlockLayout
from .kv_cache import KVCache

__all__ = ["Forward", "Outputs", "token_distances"]


@dataclass(frozen=True, slots=True)
class Forward:
    """Inputs of a forward pass of S new tokens after P cached ones.

    Attributes:
        input_ids: the new tokens.
        positions: int64 [S].
        mask: bool [S, P+S], True where the row's token sees the column's; with ``blocks`` [B, S, K] of their places.
        past: cache of P tokens; one that lies elsewhere than the session's ``store`` is copied there.
        logit_rows: indices of the new tokens whose logits are wanted.
        verdict_rows: more of them, where the columns of ``graph.verdict_token_ids`` are enough; none without those.
        reads: what is read of ``logit_rows``: ``logits``, ``log_probabilities`` (of graphs that have them), both or
            nothing.
        blocks: for graphs with ``by_content``; None where all new tokens are one content's.
    """

    input_ids: Sequence[int]
    positions: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    past: KVCache
    logit_rows: Sequence[int]
    verdict_rows: Sequence[int] = ()
    blocks: BlockLayout | None = None
    reads: Collection[str] = ("logits",)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a forward pass. An output that the graph does not have, or that was not to be read, has no rows.

    Attributes:
        logits: float32 [logit_rows, columns of the head].
        log_probabilities: float32 [logit_rows, verdict_token_ids], within the whole vocabulary.
        verdict_logits: float32 [verdict_rows, verdict_token_ids].
        new: keys and values of the new tokens, in the session's ``store``.
    """

    logits: npt.NDArray[np.float32]
    log_probabilities: npt.NDArray[np.float32]
    verdict_logits: npt.NDArray[np.float32]
    new: KVCache


def token_distances(
    past: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], blocks: BlockLayout | None
) -> npt.NDArray[np.int64]:
    """Distances in tokens from each query back to each key, for sliding windows.

    Args:
        past: int64 [P], positions of the cached tokens.
        positions: int64 [S], of the new ones.
        blocks: the pass's layout, where it has one.

    Returns:
        [S, P+S], or [B, 1, S, K] by the places of ``blocks``.
    """
    if blocks is None:
        queries, keys = positions, np.concatenate([past, positions])  # [S], [P+S]
    else:
        queries = positions[blocks.rows][:, None]  # [B, 1, S]
        keys = np.concatenate([past, blocks.own_positions, positions])[blocks.slots][:, None]  # [B, 1, K]
    distances: npt.NDArray[np.int64] = queries[..., :, None] - keys[..., None, :]
    return distances
