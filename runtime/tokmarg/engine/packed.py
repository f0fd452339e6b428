"""Tree attention: many contents and their verdict nodes in one pass behind a shared prefix.

One pass is one sequence, laid out as

    [ policy prefix (cached) ][ content 1 + suffix ][ content 2 + suffix ] ... [ trie nodes ]

A token sees the prefix tokens its prompt shares, its own prompt before it, and its own ancestors in the trie;
``position_ids`` count along that path. So contents do not see each other, and a score does not depend on its company.
Guards that are asked for one label at a time have a prompt for each, which branch off behind the content:

    [ policy prefix (cached) ][ content + label 1 ][ label 2 ] ... [ trie nodes ]

Later rounds reuse the keys and values of all rounds before. Graphs whose attention goes content by content are run by
:mod:`tokmarg.engine.batch_invariant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as GenericSequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokmarg.prompt.labels import Role

from .batch import PACK_TOKENS, Logits, TreeBatch
from .batch_invariant import BatchInvariantEngine
from .forward import Forward
from .kv_cache import KVCache
from .prefix_cache import Prefix
from .sequence import Sequence
from .session import Session

__all__ = ["PACK_CONTENTS", "Engine", "PackedEngine", "engine_for"]

#: Contents that share passes at most.
PACK_CONTENTS = 32
#: Trie nodes evaluated per round at most: by one content, and by all contents of a pack together (4 each at least).
_AHEAD, _AHEAD_PACK = 32, 256
#: And in the first one, behind the prompts: most guards leave a benign content a probability of some hundredths, which
#: the first level of labels settles. A pass of its own for those costs more than they do beside the prompt.
_AHEAD_FIRST = 12
#: Cached tokens that no new one sees are left out of a pass where they are this many: copying costs something, too.
_FORGOTTEN = 24


class _Cache:
    """A cache that grows pass by pass; copied together only when another pass needs it."""

    def __init__(self, prefix: KVCache) -> None:
        self._parts = [prefix]
        self.length = prefix.length

    def append(self, new: KVCache) -> None:
        self._parts.append(new)
        self.length += new.length

    def whole(self) -> KVCache:
        if len(self._parts) > 1:
            self._parts = [KVCache.joined(self._parts)]
        return self._parts[0]


class PackedEngine:
    """Evaluates searches on a graph whose pass is one sequence.

    Args:
        session: the graph.
        prefixes: role mode -> stored policy prefix.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
    """

    #: Contents, and new tokens of theirs, that may share passes.
    pack_contents, pack_tokens = PACK_CONTENTS, PACK_TOKENS

    def __init__(self, session: Session, prefixes: Mapping[Role, Prefix], own_verdicts: bool = True) -> None:
        self._session = session
        # Where the passes run, once and for all of them.
        self._prefixes = {role: replace(p, cache=p.cache.moved(session.store)) for role, p in prefixes.items()}
        self._logits = Logits(session, own_verdicts)

    def run(self, role: Role, jobs: GenericSequence[Sequence[Any]]) -> None:
        """Runs the searches of ``jobs``, all of one role mode, to their end; sets ``error`` where one fails."""
        prefix = self._prefixes[role]
        cache = _Cache(prefix.cache)
        step = TreeBatch(cache.length)
        for job in jobs:
            job.begin(prefix)
            while not step.prompt(job, PACK_TOKENS):
                self._finish(step, cache)
                step = TreeBatch(cache.length)
            step.nodes(job, max(1, min(_AHEAD_FIRST, _AHEAD_PACK // len(jobs))))
        active = list(jobs)
        while step.tokens:
            self._finish(step, cache)
            step = TreeBatch(cache.length)
            active = [job for job in active if job.error is None]
            ahead = max(4, min(_AHEAD, _AHEAD_PACK // max(1, len(active))))
            for job in active:
                if len(step.tokens) < PACK_TOKENS:
                    step.nodes(job, ahead)

    def _finish(self, step: TreeBatch, cache: _Cache) -> None:
        """Runs a pass, feeds the searches, and puts the new tokens into the cache."""
        positions = np.asarray(step.positions, dtype=np.int64)
        whole, narrow = self._logits.split(step.logits_for)
        # A pass of prompt tokens alone still needs one row: the graph gathers before the output layer.
        rows = [row for _, _, row in whole] or ([] if narrow else [0])
        mask, past = step.mask(), cache.whole()
        seen = np.flatnonzero(mask[:, : past.length].any(axis=0))
        if past.length - len(seen) >= _FORGOTTEN:  # nodes whose descendants have been seen to, contents that are done
            mask = np.concatenate([mask[:, seen], mask[:, past.length :]], axis=1)
            past = past.take(seen)
        outputs = self._session.run(Forward(step.tokens, positions, mask, past, rows, [row for _, _, row in narrow]))
        self._logits.feed(whole, narrow, outputs)
        cache.append(outputs.new)


Engine = PackedEngine | BatchInvariantEngine


def engine_for(session: Session, prefixes: Mapping[Role, Prefix], own_verdicts: bool = True) -> Engine:
    """The engine that a session's graph is made for; arguments as for :class:`PackedEngine`."""
    kind = BatchInvariantEngine if session.graph.by_content else PackedEngine
    return kind(session, prefixes, own_verdicts)
