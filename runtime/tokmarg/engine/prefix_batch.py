"""The contents in flight of the packed engine that have one policy prefix: they share passes and a cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import LogitsRouter, TreeBatch
from .forward import Forward
from .kv_cache import KVCache
from .nodes_per_pass import packed_first, packed_later
from .prefix import Prefix
from .prompt_cache import StorePromptCache
from .sequence import Sequence
from .session import Session
from .waiting_line import SequenceGroup

__all__ = ["PrefixBatch"]

#: Cached tokens that no new one sees are dropped before a pass where they are this many: copying costs something, too.
_MIN_UNSEEN = 24
#: Cached tokens of contents that have left are dropped for good where they are this many and more than all others.
_MIN_LEFT = 512


class _GrowingCache:
    """A cache that grows pass by pass; its parts are joined only when another pass needs them."""

    def __init__(self, prefix: KVCache) -> None:
        self._parts = [prefix]
        self.length = prefix.length

    def append(self, new: KVCache) -> None:
        self._parts.append(new)
        self.length += new.length

    def joined(self) -> KVCache:
        if len(self._parts) > 1:
            self._parts = [KVCache.joined(self._parts)]
        return self._parts[0]


class PrefixBatch:
    """Contents whose prompts begin with one prefix, from pass to pass.

    Args:
        session, router: of the engine.
        prefix: that the prompts begin with; one that lies elsewhere than the session's ``store`` is copied there.
        tokens: new ones that a pass carries at most.
        prompts: cache of earlier prompts, or None.

    Attributes:
        groups: the contents in flight.
    """

    def __init__(
        self,
        session: Session,
        router: LogitsRouter,
        prefix: Prefix,
        tokens: int,
        prompts: StorePromptCache | None = None,
    ) -> None:
        self._tokens = tokens
        self._session, self._router, self._prefix = session, router, prefix.moved(session.store)
        self._key, self._prompts = id(prefix), prompts
        self._cache = _GrowingCache(self._prefix.cache)
        self.groups: list[SequenceGroup] = []
        self._unfinished: list[Sequence[Any]] = []  # their prompts have not been laid out to their end
        self._searching: list[Sequence[Any]] = []  # the others, as long as they want more

    def add(self, group: SequenceGroup) -> None:
        """A content goes in flight."""
        self.groups.append(group)
        self._unfinished += group.sequences
        if self._prompts is not None:
            trunk = group.sequences[0]
            trunk.begin(self._prefix)
            start = self._cache.length
            for cache, _ in self._prompts.longest((self._key, trunk.shared), trunk.token_ids[trunk.shared : -1]):
                self._cache.append(cache)
            if count := self._cache.length - start:
                trunk.spans, trunk.laid_out = [(start, start + count)], trunk.shared + count

    def remove(self, groups: Iterable[SequenceGroup]) -> None:
        """Contents leave."""
        for group in groups:
            self.groups.remove(group)
            self._unfinished = [each for each in self._unfinished if not any(each is x for x in group.sequences)]
            self._searching = [each for each in self._searching if not any(each is x for x in group.sequences)]
        if not self.groups:
            self._cache = _GrowingCache(self._prefix.cache)
        else:
            self._drop_left()

    def run_pass(self) -> list[SequenceGroup]:
        """Runs the next pass, if any content needs one; returns the contents that are done and have left.

        Raises:
            DeviceError: onnxruntime cannot run the pass; all contents of the batch are lost.
        """
        batch, ended = self._lay_out()
        open_ones = {id(each) for each in (*self._unfinished, *self._searching)}
        done = [group for group in self.groups if not any(id(each) in open_ones for each in group.sequences)]
        if batch.tokens:
            self._run(batch)
            self._remember(ended)
        self.remove(done)
        return done

    def _lay_out(self) -> tuple[TreeBatch, list[Sequence[Any]]]:
        """Prompts, each with its first nodes, and then the next nodes of the searches that run already.

        Returns:
            the pass, and the sequences whose prompts end in it.
        """
        batch = TreeBatch(self._cache.length)
        before = [sequence for sequence in self._searching if sequence.error is None]
        started = self._add_prompts(batch)
        limit, still = packed_later(len(before), self._tokens // 2), []
        for sequence in before:
            requests, full = len(batch.requests), len(batch.tokens) >= self._tokens
            if not full:
                batch.add_nodes(sequence, limit)
            if full or len(batch.requests) > requests:
                still.append(sequence)
        self._searching = still + started
        return batch, started

    def _add_prompts(self, batch: TreeBatch) -> list[Sequence[Any]]:
        """The sequences whose prompts end in this pass."""
        ended: list[Sequence[Any]] = []
        limit = packed_first(sum(len(group.sequences) for group in self.groups), self._tokens // 2)
        while self._unfinished:
            sequence = self._unfinished[0]
            if sequence.laid_out < 0:
                sequence.begin(self._prefix)
            if not batch.add_prompt(sequence, self._tokens):
                break
            ended.append(self._unfinished.pop(0))
            batch.add_nodes(sequence, limit)
        return ended

    def _run(self, batch: TreeBatch) -> None:
        """Runs a pass, feeds the searches, and adds the new tokens to the cache."""
        positions = np.asarray(batch.positions, dtype=np.int64)  # [S]
        full, verdict = self._router.split(batch.requests)
        logit_rows, verdict_rows = self._router.rows(full, verdict)
        mask, past = batch.mask(), self._cache.joined()  # [S, P+S], P tokens
        seen = np.flatnonzero(mask[:, : past.length].any(axis=0))  # [P'], cache slots
        if past.length - len(seen) >= _MIN_UNSEEN:  # nodes without open descendants, contents that are done
            mask = np.concatenate([mask[:, seen], mask[:, past.length :]], axis=1)  # [S, P'+S]
            past = past.take(seen)
        reads = self._router.reads(full)
        outputs = self._session.run(Forward(batch.tokens, positions, mask, past, logit_rows, verdict_rows, reads=reads))
        self._router.feed(full, verdict, outputs)
        self._cache.append(outputs.new)

    def _remember(self, sequences: Iterable[Sequence[Any]]) -> None:
        """Keeps the prompts of some sequences, those that are no branches, in the cache of prompts."""
        for trunk in sequences:
            if self._prompts is not None and trunk.trunk is None:
                slots = np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in trunk.spans])
                tokens = trunk.token_ids[trunk.shared :]
                self._prompts.insert((self._key, trunk.shared), tokens, (self._cache.joined(), slots))

    def _drop_left(self) -> None:
        """Drops what contents that have left hold of the cache, and renumbers the slots of the others."""
        sequences = [sequence for group in self.groups for sequence in group.sequences]
        kept = np.zeros(self._cache.length, dtype=np.bool_)
        kept[: self._prefix.cache.length] = True
        for sequence in sequences:
            for start, end in sequence.spans:
                kept[start:end] = True
            kept[list(sequence.slots.values())] = True
        slots = np.flatnonzero(kept)
        if (left := self._cache.length - len(slots)) < _MIN_LEFT or left < len(slots):
            return
        self._cache = _GrowingCache(self._cache.joined().take(slots))
        renumbered: npt.NDArray[np.int64] = np.cumsum(kept) - 1
        for sequence in sequences:
            sequence.spans = [(int(renumbered[a]), int(renumbered[a]) + b - a) for a, b in sequence.spans]
            sequence.slots = {node: int(renumbered[slot]) for node, slot in sequence.slots.items()}
