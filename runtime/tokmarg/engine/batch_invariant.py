"""Many contents side by side, with sums that do not depend on the company: what shares a pass, and in which shape.

For graphs whose attention goes content by content (``graph.by_content``). Rows of all contents of a pass are packed for
everything that works row by row; for attention each content has a block of its own,

    S new tokens  x  K seen ones: [ policy prefix | cached tokens of the content's own | its new tokens | what is left ]

The sum over what is seen is one of floats, whose last bits depend on where its terms stand. That follows from the
content alone: which of its tokens and nodes a pass carries, and which cached tokens come along (those that some new one
sees, in the order they came). S and K may be larger than a content needs, for the company's sake, since what is added
comes last: zeros at the end of its sums change no bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.prompt.labels import Role

from .batch import PACK_TOKENS, Logits, TreeBatch
from .executor import PassExecutor
from .forward import BlockLayout, Forward
from .kv_buffer import KVBuffer
from .prefix_cache import Prefix
from .sequence import Sequence
from .session import Session

__all__ = ["BatchInvariantEngine"]

#: Nodes that a content asks for in the pass that ends its prompt, and in later ones. More of them take fewer passes,
#: and more of them turn out not to be needed. Measured with the reference guard on the messages of benchmarks/, of 47
#: tokens: 16 harmless ones take 1.2 passes and 67 tokens each, where 7 nodes are needed, 16 harmful ones five passes
#: and 171 tokens, where 79 nodes are, which one by one would take 143 tokens.
_AHEAD_FIRST, _AHEAD = 16, 32
#: Tokens of a prompt that a pass carries at most: attention takes as long for what a token may not see, most of which
#: stands behind it in its own pass.
_PROMPT = 256
#: S is a multiple of this. K is one of the longest vector that softmax is computed with: what is left over would be
#: added in another order.
_PLACES, _VECTOR = 8, 16
#: Contents share a pass where their new tokens are about as many, by this: attention takes as long for a place that
#: stays empty as for any other.
_ALIKE = 32
#: Contents that are under way together, for each lane and at least, and the tokens of all their prompts: each of them
#: takes memory for its keys and values (46 kB a token in SmolLM2-135M).
_UNDER_WAY, _LEAST_UNDER_WAY, _TOKENS_UNDER_WAY = 4, 8, 1024


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step


class _Content:
    """A content under way: its jobs, the keys and values of its own tokens, and its next pass.

    Args:
        jobs: of one content: a prompt, and those that branch off it.
        prefix: that the prompts begin with.

    Attributes:
        own: keys and values of the tokens that earlier passes carried; given to the content when it begins.
    """

    own: KVBuffer

    def __init__(self, jobs: list[Sequence[Any]], prefix: Prefix) -> None:
        self._jobs, self._prefix = jobs, prefix
        self._waiting = list(jobs)  # prompts that have not been laid out whole
        #: Positions of the content's own tokens, int64.
        self.positions = np.zeros(0, dtype=np.int64)
        self.step = TreeBatch(prefix.cache.length)
        #: Tokens of the prompts, about: what the trunk has counts for each branch.
        self.size = sum(len(job.token_ids) - prefix.shared(job.token_ids) for job in jobs)

    def advance(self) -> bool:
        """Lays out the next pass, behind the last one; False where there is none, because the searches are done."""
        behind = self._prefix.cache.length
        self.positions = np.concatenate([self.positions, self.step.positions]).astype(np.int64)
        self.step = step = TreeBatch(behind + len(self.positions))
        while self._waiting and len(step.tokens) < _PROMPT:
            job = self._waiting[0]
            if job.laid_out < 0:
                job.begin(self._prefix)
            if step.prompt(job, _PROMPT):
                self._waiting.pop(0)
                step.nodes(job, max(1, _AHEAD_FIRST // len(self._jobs)))
        if not step.tokens:
            active = [job for job in self._jobs if job.error is None]
            ahead = max(4, _AHEAD // max(1, len(active)))
            for job in active:
                step.nodes(job, ahead, ahead * len(active))
        self._mask = mask = step.mask()
        #: Those of the content's own cached tokens that new ones see.
        self.seen = np.flatnonzero(mask[:, behind : step.past].any(axis=0))
        #: New tokens, and all that they see.
        self.rows, self.keys = len(step.tokens), behind + len(self.seen) + len(step.tokens)
        return bool(step.tokens)

    def see(
        self, mask: npt.NDArray[np.bool_], slots: npt.NDArray[np.int64], own: npt.NDArray[np.int64], new: int
    ) -> None:
        """Writes which slots the pass needs, and what of them each new token sees: int64 [K] and bool [S, K].

        Args:
            mask, slots: false, and zero.
            own: slots of the cached tokens that are seen.
            new: the first slot of the new ones.
        """
        behind = self._prefix.cache.length
        cached = behind + len(own)
        slots[:behind] = np.arange(behind)
        slots[behind:cached] = own
        slots[cached : self.keys] = np.arange(new, new + self.rows)
        mask[: self.rows, :behind] = self._mask[:, :behind]
        mask[: self.rows, behind:cached] = self._mask[:, behind + self.seen]
        mask[: self.rows, cached : self.keys] = self._mask[:, self.step.past :]

    def fill(self, room: npt.NDArray[Any]) -> None:
        """Writes keys and values of those that are seen, [layers, seen, 2 * kv_heads * head_dim]."""
        rows, at = self.own.all, 0
        for run in np.split(self.seen, np.flatnonzero(np.diff(self.seen) > 1) + 1):  # slices: copied without a detour
            if len(run):
                room[:, at : at + len(run)] = rows[:, run[0] : run[-1] + 1]
                at += len(run)


@dataclass(frozen=True, slots=True)
class _Shared:
    """A pass that contents share: whose nodes its logits are for, and what else its cached tokens take."""

    contents: GenericSequence[_Content]
    whole: GenericSequence[Any]
    narrow: GenericSequence[Any]
    rooms: GenericSequence[KVBuffer]


class BatchInvariantEngine:
    """Evaluates searches on a graph whose attention goes content by content; arguments as for
    :class:`tokmarg.engine.packed.PackedEngine`."""

    #: Contents, and new tokens of theirs, that are taken together: enough that lanes are seldom idle, and few enough
    #: that the first result does not keep one waiting.
    pack_contents, pack_tokens = 64, 4096

    def __init__(self, session: Session, prefixes: Mapping[Role, Prefix], own_verdicts: bool = True) -> None:
        self._session, self._prefixes = session, prefixes
        self._logits = Logits(session, own_verdicts)

    def run(self, role: Role, jobs: GenericSequence[Sequence[Any]]) -> None:
        """Runs the searches of ``jobs``, all of one role mode, to their end; sets ``error`` where one fails."""
        graph, prefix = self._session.graph, self._prefixes[role]
        waiting = sorted((_Content(group, prefix) for group in _by_content(jobs)), key=lambda each: -each.size)
        under_way: list[_Content] = []
        ready: list[_Content] = []  # those whose next pass has not begun
        rooms: list[KVBuffer] = []  # of contents and passes that are done
        with PassExecutor[_Shared](self._session) as lanes:
            while waiting or under_way:
                for content in _begun(waiting, under_way, max(_LEAST_UNDER_WAY, _UNDER_WAY * self._session.lanes)):
                    content.own = _room(rooms, graph)
                    content.advance()
                    ready.append(content)
                if ready and (self._session.lanes == 1 or len(under_way) == 1):  # all threads work for one pass
                    shared, forward = self._pass(_together(ready, 1), prefix, rooms)
                    outputs = self._session.run(forward)
                else:
                    while ready and lanes.running <= self._session.lanes:  # one more: no lane waits for its next pass
                        parts = self._session.lanes + 1 - lanes.running
                        shared, forward = self._pass(_together(ready, parts), prefix, rooms)
                        lanes.start(forward, shared)
                    shared, outputs = lanes.wait()
                self._logits.feed(shared.whole, shared.narrow, outputs)
                rooms += shared.rooms
                start = 0
                for content in shared.contents:
                    end = start + content.rows * 2 * graph.kv_heads
                    if content.advance():
                        content.own.append([tensor[start:end] for tensor in outputs.new.tensors])
                        ready.append(content)
                    else:
                        under_way.remove(content)
                        rooms.append(content.own)
                    start = end

    def _pass(
        self, contents: GenericSequence[_Content], prefix: Prefix, rooms: list[KVBuffer]
    ) -> tuple[_Shared, Forward]:
        """The next pass of contents that can share one."""
        graph, behind, count = self._session.graph, prefix.cache.length, len(contents)
        seen = [content.seen for content in contents]
        own_ends = np.cumsum([len(slots) for slots in seen])
        if count == 1:  # all of its own are there already, one behind the other
            taken, own, positions = [], contents[0].own.all, contents[0].positions
        else:
            taken = [_room(rooms, graph)]
            own = taken[0].extend(int(own_ends[-1]))
            positions = np.concatenate([content.positions[content.seen] for content in contents])
            for content, slots, end in zip(contents, seen, own_ends.tolist(), strict=True):
                content.fill(own[:, end - len(slots) : end])
            seen = np.split(np.arange(len(positions)), own_ends[:-1])
        lengths = np.array([content.rows for content in contents])
        starts = np.cumsum(lengths) - lengths
        places = _rounded(int(lengths.max()), _PLACES)
        inside = np.arange(places) < lengths[:, None]
        rows = starts[:, None] + np.where(inside, np.arange(places), 0)
        keys = _rounded(max(content.keys for content in contents), _VECTOR)
        mask, slots = np.zeros((count, places, keys), dtype=np.bool_), np.zeros((count, keys), dtype=np.int64)
        for i, (content, start) in enumerate(zip(contents, starts.tolist(), strict=True)):
            content.see(mask[i], slots[i], behind + seen[i], behind + len(positions) + start)
        wanted = [
            (job, node, start + row)
            for start, content in zip(starts.tolist(), contents, strict=True)
            for job, node, row in content.step.logits_for
        ]
        whole, narrow = self._logits.split(wanted)
        forward = Forward(
            [token for content in contents for token in content.step.tokens],
            np.concatenate([content.step.positions for content in contents]),
            mask,
            prefix.cache,
            [row for _, _, row in whole] or ([] if narrow else [0]),
            [row for _, _, row in narrow],
            BlockLayout(
                rows, np.flatnonzero(inside), slots, tuple(each.reshape(-1, graph.head_dim) for each in own), positions
            ),
        )
        return _Shared(contents, whole, narrow, taken), forward


def _room(rooms: list[KVBuffer], graph: GraphContract) -> KVBuffer:
    """One of those that are free, or a new one; empty."""
    room = rooms.pop() if rooms else KVBuffer(graph)
    room.clear()
    return room


def _by_content(jobs: GenericSequence[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    """Jobs that share a trunk, in their order."""
    found: dict[int, list[Sequence[Any]]] = {}
    for job in jobs:
        found.setdefault(id(job.trunk or job), []).append(job)
    yield from found.values()


def _begun(waiting: list[_Content], under_way: list[_Content], most: int) -> list[_Content]:
    """Moves contents from the end of ``waiting`` to ``under_way``, where there are two places: two share a pass."""
    found: list[_Content] = []
    if len(under_way) > max(0, most - 2):
        return found
    while waiting and len(under_way) < most:
        size = sum(content.size for content in under_way)
        if under_way and size + waiting[-1].size > _TOKENS_UNDER_WAY:
            break
        found.append(waiting.pop())
        under_way.append(found[-1])
    return found


def _together(ready: list[_Content], parts: int) -> list[_Content]:
    """Takes contents that share a pass: of those that are alike, one of ``parts``, or as many as there is room for."""
    alike = [content for content in ready if abs(content.rows - ready[0].rows) <= _ALIKE]
    size = max(max(content.rows, len(content.seen) // 2) for content in alike)  # memory for cached tokens counts, too
    chosen = alike[: max(1, min(-(-len(alike) // parts), PACK_TOKENS // size))]
    for content in chosen:
        ready.remove(content)
    return chosen
