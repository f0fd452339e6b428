"""Tree attention: many contents and their verdict nodes in one pass behind a shared prefix.

One pass is one sequence, laid out as

    [ policy prefix (cached) ][ content 1 + suffix ][ content 2 + suffix ] ... [ trie nodes ]

A token sees the prefix tokens its prompt shares, its own prompt before it, and its own ancestors in the trie;
``position_ids`` count along that path. So contents do not see each other, and a score does not depend on its company.
Guards that are asked for one label at a time have a prompt for each, which branch off behind the content:

    [ policy prefix (cached) ][ content + label 1 ][ label 2 ] ... [ trie nodes ]

Later rounds reuse the keys and values of all rounds before.

What is evaluated is up to the searches: the verdict trie's best-first expansion, or a free decode. A :class:`Search`
names token paths, each of which knows the path it extends, and is fed their logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import ContentError
from .prefix import Prefix, shared_tokens
from .session import KeyValues, Session
from .spec import Role

__all__ = ["PACK_CONTENTS", "PACK_TOKENS", "Engine", "Job", "Search", "TokenPath"]

#: New tokens that one pass carries at most; longer prompts are fed in several passes.
PACK_TOKENS = 512
#: Contents that share passes at most.
PACK_CONTENTS = 32
#: Trie nodes evaluated per round at most: by one content, and by all contents of a pack together (4 each at least).
_AHEAD, _AHEAD_PACK = 32, 256
#: And in the first one, behind the prompts: most guards leave a benign content a probability of some hundredths, which
#: the first level of labels settles. A pass of its own for those costs more than they do beside the prompt.
_AHEAD_FIRST = 12
#: Cached tokens that no new one sees are left out of a pass where they are this many: copying costs something, too.
_FORGOTTEN = 24


class TokenPath(Protocol):
    """Tokens behind a prompt, known by identity: the last of them, and the path before it (None at the root)."""

    @property
    def token(self) -> int: ...
    @property
    def parent(self) -> TokenPath | None: ...
    @property
    def depth(self) -> int: ...


P = TypeVar("P", bound=TokenPath)


class Search(Protocol[P]):
    """What decides which paths behind one prompt are evaluated."""

    @property
    def root(self) -> P:
        """The empty path."""

    def wanted(self, limit: int) -> Sequence[P]:
        """Paths to evaluate next, about ``limit`` at most; empty when done."""

    def whole(self, node: P, /) -> bool:
        """Whether the whole vocabulary's logits matter behind a path, and not only those of verdict tokens."""

    def feed(self, node: P, logits: npt.NDArray[np.float32], /) -> None:
        """Takes the logits [columns] behind a path that :meth:`wanted` named. The array is only lent; where
        :meth:`whole` is false, other tokens than a verdict's may be at minus infinity."""


@dataclass(slots=True)
class Job(Generic[P]):
    """One prompt on its way: its tokens, its search, and where its tokens lie in the cache.

    ``trunk`` is an earlier job of the same run, most of whose tokens this one begins with: their keys and values serve
    both. ``error`` is set instead of a result when the model's logits are not finite.
    """

    token_ids: Sequence[int]
    search: Search[P]
    trunk: Job[P] | None = None
    error: ContentError | None = None
    shared: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)  # cache slots [start, end) of the prompt's own tokens
    slots: dict[TokenPath, int] = field(default_factory=dict)  # cache slot of each path's last token


def _first(spans: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The first ``count`` slots of some spans."""
    found = []
    for start, end in spans:
        if count > 0:
            found.append((start, min(end, start + count)))
            count -= end - start
    return found


class _Cache:
    """A cache that grows pass by pass; copied together only when another pass needs it."""

    def __init__(self, prefix: KeyValues) -> None:
        self._parts = [prefix]
        self.length = prefix.length

    def append(self, new: KeyValues) -> None:
        self._parts.append(new)
        self.length += new.length

    def whole(self) -> KeyValues:
        if len(self._parts) > 1:
            self._parts = [KeyValues.joined(self._parts)]
        return self._parts[0]


@dataclass(slots=True)
class _Pass:
    """A pass being laid out behind ``past`` cached tokens: rows are new tokens, columns cache slots, then the rows."""

    past: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sees: list[tuple[int, int, list[tuple[int, int]]]] = field(default_factory=list)  # rows [start, end) and slots
    logits_for: list[tuple[Job[Any], Any, int]] = field(default_factory=list)

    def add(self, tokens: Sequence[int], position: int, visible: list[tuple[int, int]]) -> int:
        """Adds consecutive tokens that see ``visible`` slot ranges and each other causally; returns their slot."""
        row = len(self.tokens)
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.sees.append((row, row + len(tokens), visible))
        return self.past + row

    def mask(self) -> npt.NDArray[np.bool_]:
        """bool [S, P+S]."""
        rows, past = len(self.tokens), self.past
        mask = np.zeros((rows, past + rows), dtype=np.bool_)
        for start, end, visible in self.sees:
            for a, b in visible:
                mask[start:end, a:b] = True
            mask[start:end, past + start : past + end] = np.tri(end - start, dtype=np.bool_)
        return mask


class Engine:
    """Evaluates searches on a session.

    Args:
        session: the graph.
        prefixes: role mode -> stored policy prefix.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
    """

    def __init__(self, session: Session, prefixes: Mapping[Role, Prefix], own_verdicts: bool = True) -> None:
        self._session, self._prefixes = session, prefixes
        ids = session.graph.verdict_token_ids if own_verdicts else None
        self._verdict_ids = None if ids is None else np.asarray(ids)
        #: Contents that may share passes.
        self.pack_contents = 1 if session.graph.alone else PACK_CONTENTS

    def run(self, role: Role, jobs: Sequence[Job[Any]]) -> None:
        """Runs the searches of ``jobs``, all of one role mode, to their end; sets ``error`` where one fails."""
        prefix = self._prefixes[role]
        cache = _Cache(prefix.cache)
        step = _Pass(cache.length)
        for job in jobs:
            job.shared = at = prefix.shared(job.token_ids)
            if job.trunk is not None and job.trunk.shared == job.shared:
                at = max(at, shared_tokens(job.trunk.token_ids, job.token_ids[:-1]))
                job.spans = _first(job.trunk.spans, at - job.shared)
            while at < len(job.token_ids):
                room = PACK_TOKENS - len(step.tokens)
                if room <= 0:
                    self._finish(step, cache)
                    step = _Pass(cache.length)
                    continue
                part = job.token_ids[at : at + room]
                slot = step.add(part, at, [(0, job.shared), *job.spans])
                job.spans.append((slot, slot + len(part)))
                at += len(part)
            job.slots[job.search.root] = job.spans[-1][1] - 1
            self._want(step, job, max(1, min(_AHEAD_FIRST, _AHEAD_PACK // len(jobs))))
        active = list(jobs)
        while step.tokens:
            self._finish(step, cache)
            step = _Pass(cache.length)
            active = [job for job in active if job.error is None]
            ahead = max(4, min(_AHEAD, _AHEAD_PACK // max(1, len(active))))
            for job in active:
                if len(step.tokens) < PACK_TOKENS:
                    self._want(step, job, ahead)

    def _want(self, step: _Pass, job: Job[Any], ahead: int) -> None:
        """Lays out the nodes that a job's search wants next, with what is missing of their paths."""
        for node in job.search.wanted(ahead):
            if job.slots.get(node, -1) < step.past:
                self._place(step, job, node)
            step.logits_for.append((job, node, job.slots[node] - step.past))

    def _place(self, step: _Pass, job: Job[Any], node: TokenPath) -> None:
        """Adds the node's token, and before it those of its ancestors that no pass has carried yet."""
        missing = [node]
        while node.parent is not None and node.parent not in job.slots:
            node = node.parent
            missing.append(node)
        for node in reversed(missing):
            ancestors = []
            above = node.parent
            while above is not None and above is not job.search.root:
                ancestors.append((job.slots[above], job.slots[above] + 1))
                above = above.parent
            visible = [(0, job.shared), *job.spans, *ancestors]
            job.slots[node] = step.add([node.token], len(job.token_ids) + node.depth - 1, visible)

    def _finish(self, step: _Pass, cache: _Cache) -> None:
        """Runs a pass, feeds the searches, and puts the new tokens into the cache."""
        positions = np.asarray(step.positions, dtype=np.int64)
        whole: list[tuple[Job[Any], Any, int]] = []
        narrow: list[tuple[Job[Any], Any, int]] = []
        for wanted in step.logits_for:
            job, node, _ = wanted
            (whole if self._verdict_ids is None or job.search.whole(node) else narrow).append(wanted)
        # A pass of prompt tokens alone still needs one row: the graph gathers before the output layer.
        rows = [row for _, _, row in whole] or ([] if narrow else [0])
        mask, past = step.mask(), cache.whole()
        seen = np.flatnonzero(mask[:, : past.length].any(axis=0))
        if past.length - len(seen) >= _FORGOTTEN:  # nodes whose descendants have been seen to, contents that are done
            mask = np.concatenate([mask[:, seen], mask[:, past.length :]], axis=1)
            past = past.take(seen)
        logits, narrow_logits, new = self._session.run(
            step.tokens, positions, mask, past, rows, [row for _, _, row in narrow]
        )
        for (job, node, _), row in zip(whole, logits, strict=False):
            self._feed(job, node, row)
        if narrow:
            spread = np.full(self._session.graph.vocab_size, -np.inf, dtype=np.float32)
            for (job, node, _), row in zip(narrow, narrow_logits, strict=True):
                spread[self._verdict_ids] = row
                self._feed(job, node, spread)
        cache.append(new)

    def _feed(self, job: Job[Any], node: TokenPath, logits: npt.NDArray[np.float32]) -> None:
        try:
            if job.error is None:
                job.search.feed(node, logits)
        except ContentError as error:
            job.error = error
