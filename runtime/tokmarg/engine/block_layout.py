"""Block layout: a pass over several contents, one attention block per content, all blocks padded to one shape.

For graphs with ``by_content`` attention. The N new tokens of the pass are packed one after the other for everything
that works row by row; for attention each of the B contents has a block of its own, S query places by K key places:

    K:  [ shared prefix | own cached tokens that are seen | own new tokens | padding ]

Key places name *slots*, which count through all keys and values of the pass:

    slot:  0 ... P-1           P ... P+O-1                         P+O ... P+O+N-1
           policy prefix (P)   own cached tokens of contents (O)   new tokens of the pass (N)

The shared prefix is what the content's prompts have of the policy prefix, up to the first token that differs: all of
it, as a rule. Padding comes last in rows and columns, and the mask hides it: it adds zeros at the end of a sum, which
change no bit.
``docs/engine.md`` draws a batch of two contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract

from .kv_buffer import KVBuffer, KVBufferPool

__all__ = ["Block", "BlockLayout", "block_shape", "key_slots", "lay_out", "query_places"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: S is a multiple of the first. K is one of the second, the longest vector that softmax is computed with: a remainder
#: would be added up in another order.
_PLACES, _VECTOR = 8, 16


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """The B blocks of a pass, each of S query places and K key places.

    Attributes:
        rows: int64 [B, S], which new token of the pass stands at each query place; any at one of padding.
        places: int64 [N], at which of the B * S query places each new token of the pass stands.
        slots: int64 [B, K], which slot each key place reads; any at one of padding.
        own: keys and values of the contents' own cached tokens, [O * 2 * kv_heads, head_dim] of each layer.
        own_positions: int64 [O].
    """

    rows: Ints
    places: Ints
    slots: Ints
    own: Sequence[npt.NDArray[Any]]
    own_positions: Ints

    @classmethod
    def single(cls, graph: GraphContract, past: int, count: int) -> BlockLayout:
        """The layout of a pass with one content of ``count`` new tokens and none of its own in the cache."""
        own = [np.zeros(graph.cache_shape(0), dtype=graph.kv_dtype)] * graph.layers
        places, slots = np.arange(count, dtype=np.int64), np.arange(past + count, dtype=np.int64)
        return cls(places[None], places, slots[None], own, np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Block:
    """One content's part of a pass before padding: s new tokens, C own cached ones, c of which are seen.

    Attributes:
        mask: bool [s, P + C + s], what each new token sees: prefix, own cached tokens, new tokens.
        seen: int64 [c], which of the C own cached tokens some new one sees, ascending.
        own: keys and values of the C tokens.
        own_positions: int64 [C].
    """

    mask: Bools
    seen: Ints
    own: KVBuffer
    own_positions: Ints

    @property
    def rows(self) -> int:
        """s."""
        return len(self.mask)

    def shared(self, prefix: int) -> int:
        """p: how many of a prefix's P tokens some new token sees; they are the first ones."""
        return int(self.mask[:, :prefix].any(axis=0).sum())

    def keys(self, prefix: int) -> int:
        """Key places that the content needs with a prefix of P tokens: p + c + s."""
        return self.shared(prefix) + len(self.seen) + self.rows


def lay_out(
    blocks: Sequence[Block], prefix: int, graph: GraphContract, pool: KVBufferPool
) -> tuple[BlockLayout, Bools, KVBuffer | None]:
    """Lays out a pass.

    Args:
        blocks: of B contents, in the order in which their new tokens are packed.
        prefix: P.
        graph: that the pass runs on.
        pool: where a buffer for the own cached tokens comes from.

    Returns:
        the layout, its mask [B, S, K], and the buffer that the layout reads until the pass is done, if it took one.
    """
    own, own_positions, own_slots, buffer = _gather_own(blocks, prefix, pool)
    places, keys = block_shape(blocks, prefix)  # S, K
    counts = np.array([block.rows for block in blocks])  # [B]
    rows, used = query_places(counts, places)  # [B, S], [N]
    first_new = prefix + len(own_positions) + np.cumsum(counts) - counts  # [B]: slot of each block's first new token
    slots = np.zeros((len(blocks), keys), dtype=np.int64)  # [B, K]
    mask = np.zeros((len(blocks), places, keys), dtype=np.bool_)  # [B, S, K]
    for b, block in enumerate(blocks):
        shared = block.shared(prefix)  # p
        needed = key_slots(shared, own_slots[b], int(first_new[b]), block.rows)  # [p + c + s]
        slots[b, : len(needed)] = needed
        _write_mask(mask[b], block, prefix, shared)
    tensors = tuple(layer.reshape(-1, graph.head_dim) for layer in own)  # [O * 2 * kv_heads, head_dim] each
    return BlockLayout(rows, used, slots, tensors, own_positions), mask, buffer


def _gather_own(
    blocks: Sequence[Block], prefix: int, pool: KVBufferPool
) -> tuple[npt.NDArray[Any], Ints, list[Ints], KVBuffer | None]:
    """Own cached tokens of all blocks, one content after the other.

    Returns:
        keys and values [layers, O, 2 * kv_heads * head_dim], positions [O], slots [c] of each block's seen tokens, and
        the buffer they were copied to, if they were.
    """
    if len(blocks) == 1:  # they lie together already; those that nobody sees stay in between
        (block,) = blocks
        return block.own.all, block.own_positions, [prefix + block.seen], None
    ends = np.cumsum([len(block.seen) for block in blocks])  # [B]
    buffer = pool.take()
    own = buffer.extend(int(ends[-1]))  # [layers, O, 2 * kv_heads * head_dim]
    for block, end in zip(blocks, ends.tolist(), strict=True):
        _copy_seen(block, own[:, end - len(block.seen) : end])
    positions = np.concatenate([block.own_positions[block.seen] for block in blocks])  # [O]
    return own, positions, np.split(prefix + np.arange(len(positions)), ends[:-1]), buffer


def _copy_seen(block: Block, out: npt.NDArray[Any]) -> None:
    """Copies keys and values of the seen tokens to ``out`` [layers, c, 2 * kv_heads * head_dim]."""
    rows, at = block.own.all, 0  # [layers, C, 2 * kv_heads * head_dim]
    # Consecutive tokens are copied as slices, without the temporary array of an index.
    for run in np.split(block.seen, np.flatnonzero(np.diff(block.seen) > 1) + 1):
        if len(run):
            out[:, at : at + len(run)] = rows[:, run[0] : run[-1] + 1]
            at += len(run)


def block_shape(blocks: Sequence[Block], prefix: int) -> tuple[int, int]:
    """S and K: what the largest block needs, rounded up."""
    places = max(block.rows for block in blocks)
    keys = max(block.keys(prefix) for block in blocks)
    return _rounded_up(places, _PLACES), _rounded_up(keys, _VECTOR)


def query_places(counts: Ints, places: int) -> tuple[Ints, Ints]:
    """Which new token stands at which query place; padding repeats a block's first token.

    ``query_places([3, 2], 4)`` is ``rows [[0, 1, 2, 0], [3, 4, 3, 3]]`` and ``places [0, 1, 2, 4, 5]``.

    Args:
        counts: int64 [B], new tokens of each block.
        places: S.

    Returns:
        ``rows`` [B, S] and ``places`` [N] of :class:`BlockLayout`.
    """
    starts = np.cumsum(counts) - counts  # [B]
    used = np.arange(places) < counts[:, None]  # [B, S]
    rows = starts[:, None] + np.where(used, np.arange(places), 0)  # [B, S]
    return rows, np.flatnonzero(used)


def key_slots(shared: int, own: Ints, first_new: int, rows: int) -> Ints:
    """The slots [p + c + s] that a block reads, without padding: shared prefix, own cached tokens, new tokens.

    Args:
        shared: p.
        own: int64 [c], slots of the own cached tokens that are seen.
        first_new: slot of the block's first new token.
        rows: s.
    """
    return np.concatenate([np.arange(shared), own, np.arange(first_new, first_new + rows)])


def _write_mask(out: Bools, block: Block, prefix: int, shared: int) -> None:
    """Writes the block's mask to the top left corner of ``out`` [S, K], without the cached columns that no row sees."""
    rows, cached = block.rows, shared + len(block.seen)
    past = block.mask.shape[1] - rows  # P + C
    out[:rows, :shared] = block.mask[:, :shared]
    out[:rows, shared:cached] = block.mask[:, prefix + block.seen]
    out[:rows, cached : cached + rows] = block.mask[:, past:]


def _rounded_up(count: int, step: int) -> int:
    return -(-count // step) * step
