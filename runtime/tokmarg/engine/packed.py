"""Packed engine: many contents and their verdict nodes in one tree-attention pass after a shared policy prefix.

One pass is one sequence, laid out as

    [ policy prefix (cached) ][ content 1 + suffix ][ content 2 + suffix ] ... [ trie nodes ]

A token sees the prefix tokens its prompt shares, its own prompt before it, and its own ancestors in the trie;
``position_ids`` count along that path. So contents do not see each other, and a score does not depend on the batch.
Guards with one prompt per label have a prompt for each, which branch off after the content:

    [ policy prefix (cached) ][ content + label 1 ][ label 2 ] ... [ trie nodes ]

Later passes reuse the keys and values of all passes before. Graphs with ``by_content`` attention are run by
:mod:`tokmarg.engine.batch_invariant`.
"""

from __future__ import annotations

from collections.abc import Sequence as GenericSequence
from typing import Any

import numpy as np

from .batch import PACK_TOKENS, LogitsRouter, TreeBatch
from .forward import Forward
from .kv_cache import KVCache
from .nodes_per_pass import packed_first, packed_later
from .prefix import Prefix
from .sequence import Sequence
from .session import Session

__all__ = ["PACK_CONTENTS", "PackedEngine"]

#: Contents that share passes at most.
PACK_CONTENTS = 32
#: Cached tokens that no new one sees are dropped before a pass where they are this many: copying costs something, too.
_MIN_UNSEEN = 24


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


class PackedEngine:
    """Evaluates searches on a graph whose pass is one sequence.

    Args:
        session: the graph.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
    """

    #: Contents, and new tokens of theirs, that may share passes.
    pack_contents, pack_tokens = PACK_CONTENTS, PACK_TOKENS

    def __init__(self, session: Session, own_verdicts: bool = True) -> None:
        self._session = session
        self._router = LogitsRouter(session.graph, own_verdicts)

    def run(self, prefix: Prefix, sequences: GenericSequence[Sequence[Any]]) -> None:
        """Runs the searches of ``sequences``, whose prompts begin with ``prefix``, to their end; sets ``error`` where
        one fails. A prefix that lies elsewhere than the session's ``store`` is copied there."""
        cache = _GrowingCache(prefix.cache.moved(self._session.store))
        batch = TreeBatch(cache.length)
        for sequence in sequences:
            sequence.begin(prefix)
            while not batch.add_prompt(sequence, PACK_TOKENS):
                self._run_pass(batch, cache)
                batch = TreeBatch(cache.length)
            batch.add_nodes(sequence, packed_first(len(sequences)))
        active = list(sequences)
        while batch.tokens:
            self._run_pass(batch, cache)
            batch = TreeBatch(cache.length)
            active = [sequence for sequence in active if sequence.error is None]
            limit = packed_later(len(active))
            for sequence in active:
                if len(batch.tokens) < PACK_TOKENS:
                    batch.add_nodes(sequence, limit)

    def _run_pass(self, batch: TreeBatch, cache: _GrowingCache) -> None:
        """Runs a pass, feeds the searches, and adds the new tokens to the cache."""
        positions = np.asarray(batch.positions, dtype=np.int64)  # [S]
        full, verdict = self._router.split(batch.requests)
        logit_rows, verdict_rows = self._router.rows(full, verdict)
        mask, past = batch.mask(), cache.joined()  # [S, P+S], P tokens
        seen = np.flatnonzero(mask[:, : past.length].any(axis=0))  # [P'], cache slots
        if past.length - len(seen) >= _MIN_UNSEEN:  # nodes without open descendants, contents that are done
            mask = np.concatenate([mask[:, seen], mask[:, past.length :]], axis=1)  # [S, P'+S]
            past = past.take(seen)
        outputs = self._session.run(Forward(batch.tokens, positions, mask, past, logit_rows, verdict_rows))
        self._router.feed(full, verdict, outputs)
        cache.append(outputs.new)
