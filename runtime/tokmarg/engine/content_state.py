"""A content in flight in the batch-invariant engine: what its next pass carries, from the content alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import TreeBatch
from .block_layout import Block
from .kv_buffer import KVBuffer
from .nodes_per_pass import single_first, single_later
from .prompt_cache import HostPromptCache
from .waiting_line import SequenceGroup

__all__ = ["PROMPT_TOKENS", "ContentState"]

#: Tokens of a prompt that a pass carries at most: attention takes as long for what a token may not see, most of which
#: stands after it in its own pass.
PROMPT_TOKENS = 256


class ContentState:
    """A content in flight: its sequences, the keys and values of its own tokens, and its part of the next pass.

    Args:
        group: the content.
        own: an empty buffer for the keys and values of the tokens that its passes carry.
        cache: of earlier prompts, which may have the first of those tokens; or None.

    Attributes:
        group, own: as given.
        own_positions: int64 [C], of the tokens that earlier passes carried.
        batch: tokens of the next pass, as the content alone determines them.
        block: the same pass for the attention.
    """

    block: Block

    def __init__(self, group: SequenceGroup, own: KVBuffer, cache: HostPromptCache | None = None) -> None:
        self.group, self.own, self._cache = group, own, cache
        self._unfinished = list(group.sequences)  # prompts that have not been laid out to their end
        self.own_positions = np.zeros(0, dtype=np.int64)
        self.batch = TreeBatch(group.prefix.cache.length)
        self._carried = 0  # tokens that the next pass would carry, but that the cache had
        if cache is not None:
            self._recall(cache)

    def _recall(self, cache: HostPromptCache) -> None:
        """Takes over what the cache has of the first prompt."""
        prefix, trunk = self.group.prefix, self.group.sequences[0]
        trunk.begin(prefix)
        for part in cache.longest((id(prefix), trunk.shared), trunk.token_ids[trunk.shared : -1]):
            self.own.extend(part.shape[1])[:] = part
        if count := self.own.count:
            trunk.spans, trunk.laid_out = [(prefix.cache.length, prefix.cache.length + count)], trunk.shared + count
            self.own_positions = np.arange(trunk.shared, trunk.laid_out, dtype=np.int64)
            # Passes end at the same tokens as without the cache: what stands beside a token decides its last bits.
            self._carried = count % PROMPT_TOKENS

    def keep(self, new: list[npt.NDArray[Any]], more: bool) -> None:
        """Takes the keys and values of a pass's tokens, where anything will read them.

        Args:
            new: [s * 2 * kv_heads, head_dim] of each layer.
            more: there is a next pass.
        """
        if more or self._cache is not None:
            self.own.append(new)
        trunk = self.group.sequences[0]
        length = len(trunk.token_ids) - trunk.shared  # its own tokens, which come first
        if self._cache is not None and self.own.count >= length:
            values = self.own.all[:, :length]
            self._cache.insert((id(self.group.prefix), trunk.shared), trunk.token_ids[trunk.shared :], values)
            self._cache = None

    @property
    def rows(self) -> int:
        """New tokens of the next pass."""
        return self.block.rows

    @property
    def seen(self) -> npt.NDArray[np.int64]:
        """The own cached tokens that come along in the next pass, int64 [c]."""
        return self.block.seen

    def advance(self) -> bool:
        """Lays out the next pass, after the last one; False where there is none, because the searches are done."""
        prefix = self.group.prefix.cache.length
        self.own_positions = np.concatenate([self.own_positions, self.batch.positions]).astype(np.int64)
        self.batch = batch = TreeBatch(prefix + len(self.own_positions))
        self._add_prompts(batch)
        if not batch.tokens:
            self._add_nodes(batch)
        mask = batch.mask()  # [s, P + C + s]
        seen = np.flatnonzero(mask[:, prefix : batch.past].any(axis=0))
        self.block = Block(mask, seen, self.own, self.own_positions)
        return bool(batch.tokens)

    def _add_prompts(self, batch: TreeBatch) -> None:
        """Adds prompt tokens, and the first nodes of each prompt that ends in this pass."""
        limit, self._carried = PROMPT_TOKENS - self._carried, 0
        while self._unfinished and len(batch.tokens) < limit:
            sequence = self._unfinished[0]
            if sequence.laid_out < 0:
                sequence.begin(self.group.prefix)
            if batch.add_prompt(sequence, limit):
                self._unfinished.pop(0)
                batch.add_nodes(sequence, single_first(len(self.group.sequences)))

    def _add_nodes(self, batch: TreeBatch) -> None:
        """Adds the next nodes of all searches."""
        active = [sequence for sequence in self.group.sequences if sequence.error is None]
        limit = single_later(len(active))
        for sequence in active:
            batch.add_nodes(sequence, limit, limit * len(active))
