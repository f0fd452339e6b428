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

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import GraphContract
from .lanes import Lanes
from .passes import PACK_TOKENS, Job, Logits, Pass
from .prefix import Prefix
from .session import Contents, Forward, Outputs, Session
from .spec import Role

__all__ = ["ContentEngine"]

#: Nodes that a content asks for in the pass that ends its prompt, and in later ones. More of them take fewer passes,
#: and more of them turn out not to be needed. Measured with the reference guard on the messages of benchmarks/, of 47
#: tokens: 16 harmless ones take 1.2 passes and 67 tokens each, where 7 nodes are needed, 16 harmful ones five passes
#: and 171 tokens, where 79 nodes are, which one by one would take 143 tokens.
_AHEAD_FIRST, _AHEAD = 16, 32
#: S is a multiple of this. K is one of the longest vector that softmax is computed with: what is left over would be
#: added in another order.
_PLACES, _VECTOR = 8, 16
#: Contents share a pass where their new tokens are about as many, by this: attention takes as long for a place that
#: stays empty as for any other.
_ALIKE = 32
#: Contents that are under way together, for each lane and at least, and the tokens of all their prompts: each of them
#: takes memory for its keys and values (46 kB in SmolLM2-135M).
_UNDER_WAY, _LEAST_UNDER_WAY, _TOKENS_UNDER_WAY = 4, 8, 1024


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step


class _Content:
    """A content under way: its jobs, the keys and values of its own tokens, and its next pass.

    Args:
        jobs: of one content: a prompt, and those that branch off it.
        prefix: that the prompts begin with.
    """

    def __init__(self, jobs: list[Job[Any]], prefix: Prefix) -> None:
        self._jobs, self._prefix = jobs, prefix
        self._waiting = list(jobs)  # prompts that have not been laid out whole
        self._parts: list[npt.NDArray[Any]] = []  # by pass, [layers, tokens, 2 * kv_heads * head_dim]
        self._positions = np.zeros(0, dtype=np.int64)
        #: Tokens of the prompts, about: what the trunk has counts for each branch.
        self.size = sum(len(job.token_ids) - prefix.shared(job.token_ids) for job in jobs)

    def advance(self) -> bool:
        """Lays out the next pass; False where there is none, because the searches are done."""
        behind = self._prefix.cache.length
        self.step = step = Pass(behind + len(self._positions))
        while self._waiting and len(step.tokens) < PACK_TOKENS:
            job = self._waiting[0]
            if job.laid_out < 0:
                job.begin(self._prefix)
            if step.prompt(job):
                self._waiting.pop(0)
                step.nodes(job, max(1, _AHEAD_FIRST // len(self._jobs)))
        if not step.tokens:
            active = [job for job in self._jobs if job.error is None]
            ahead = max(4, _AHEAD // max(1, len(active)))
            for job in active:
                step.nodes(job, ahead, ahead * len(active))
        mask = step.mask()
        self._mask, self._seen = mask, np.flatnonzero(mask[:, behind : step.past].any(axis=0))
        #: New tokens, and cached ones of the content's own that they see.
        self.rows, self.own = len(step.tokens), len(self._seen)
        #: All that they see.
        self.keys = behind + self.own + self.rows
        return bool(step.tokens)

    def see(self, mask: npt.NDArray[np.bool_], slots: npt.NDArray[np.int64], own: int, new: int) -> None:
        """Writes which slots the pass needs, and what of them each new token sees: int64 [K] and bool [S, K].

        Args:
            mask, slots: false, and zero.
            own, new: the first slots of the content's own cached tokens, and of its new ones.
        """
        behind, cached = self._prefix.cache.length, self._prefix.cache.length + self.own
        slots[:behind] = np.arange(behind)
        slots[behind:cached] = np.arange(own, own + self.own)
        slots[cached : self.keys] = np.arange(new, new + self.rows)
        mask[: self.rows, :behind] = self._mask[:, :behind]
        mask[: self.rows, behind:cached] = self._mask[:, behind + self._seen]
        mask[: self.rows, cached : self.keys] = self._mask[:, self.step.past :]

    def fill(self, own: npt.NDArray[Any], positions: npt.NDArray[np.int64]) -> None:
        """Writes keys and values of the cached tokens that are seen, [layers, own, 2 * kv_heads * head_dim], and their
        positions [own]."""
        positions[:] = self._positions[self._seen]
        at = start = 0
        for part in self._parts:
            inside = self._seen[(start <= self._seen) & (self._seen < start + part.shape[1])] - start
            for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):  # slices are copied without a detour
                if len(run):
                    own[:, at : at + len(run)] = part[:, run[0] : run[-1] + 1]
                    at += len(run)
            start += part.shape[1]

    def keep(self, new: npt.NDArray[Any]) -> None:
        """Takes the keys and values of the pass's tokens, [layers, rows, 2 * kv_heads * head_dim]."""
        self._parts.append(new)
        self._positions = np.concatenate([self._positions, self.step.positions])


class _Room:
    """Memory for the cached tokens of a pass, which a later pass takes again: new memory is slow to come by."""

    def __init__(self, graph: GraphContract) -> None:
        self._graph = graph
        self._flat = np.zeros(0, dtype=graph.kv_dtype)

    def take(self, tokens: int) -> npt.NDArray[Any]:
        """[layers, tokens, 2 * kv_heads * head_dim], with anything in it."""
        graph = self._graph
        shape = (graph.layers, tokens, 2 * graph.kv_heads * graph.head_dim)
        if (size := math.prod(shape)) > len(self._flat):
            memory = mmap.mmap(-1, size * self._flat.itemsize)  # of its own: all of it goes back, and no piece stays
            self._flat = np.frombuffer(memory, dtype=graph.kv_dtype)
        return self._flat[:size].reshape(shape)


@dataclass(frozen=True, slots=True)
class _Shared:
    """A pass that contents share: whose nodes its logits are for, and where its cached tokens lie."""

    contents: Sequence[_Content]
    whole: Sequence[Any]
    narrow: Sequence[Any]
    room: _Room


class ContentEngine:
    """Evaluates searches on a graph whose attention goes content by content; arguments as for
    :class:`tokmarg.engine.PackedEngine`."""

    #: Contents, and new tokens of theirs, that are taken together: enough that lanes are seldom idle, and few enough
    #: that the first result does not keep one waiting.
    pack_contents, pack_tokens = 64, 4096

    def __init__(self, session: Session, prefixes: Mapping[Role, Prefix], own_verdicts: bool = True) -> None:
        self._session, self._prefixes = session, prefixes
        self._logits = Logits(session, own_verdicts)

    def run(self, role: Role, jobs: Sequence[Job[Any]]) -> None:
        """Runs the searches of ``jobs``, all of one role mode, to their end; sets ``error`` where one fails."""
        prefix = self._prefixes[role]
        waiting = sorted((_Content(group, prefix) for group in _by_content(jobs)), key=lambda each: -each.size)
        under_way: list[_Content] = []
        ready: list[_Content] = []  # those whose next pass has not begun
        rooms: list[_Room] = []
        with Lanes[_Shared](self._session) as lanes:
            while waiting or under_way:
                for content in _begun(waiting, under_way, max(_LEAST_UNDER_WAY, _UNDER_WAY * self._session.lanes)):
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
                rooms.append(shared.room)
                at = 0
                for content in shared.contents:
                    content.keep(self._new(outputs, at, at + content.rows))
                    at += content.rows
                    if content.advance():
                        ready.append(content)
                    else:
                        under_way.remove(content)

    def _pass(self, contents: Sequence[_Content], prefix: Prefix, rooms: list[_Room]) -> tuple[_Shared, Forward]:
        """The next pass of contents that can share one."""
        graph, count = self._session.graph, len(contents)
        lengths, owns = (np.array([getattr(content, name) for content in contents]) for name in ("rows", "own"))
        starts, own_starts = np.cumsum(lengths) - lengths, np.cumsum(owns) - owns
        places = _rounded(int(lengths.max()), _PLACES)
        inside = np.arange(places) < lengths[:, None]
        rows = starts[:, None] + np.where(inside, np.arange(places), 0)
        keys = _rounded(max(content.keys for content in contents), _VECTOR)
        mask, slots = np.zeros((count, places, keys), dtype=np.bool_), np.zeros((count, keys), dtype=np.int64)
        room = rooms.pop() if rooms else _Room(graph)
        own, positions = room.take(int(owns.sum())), np.zeros(int(owns.sum()), dtype=np.int64)
        behind = prefix.cache.length
        for i, (content, start, at) in enumerate(zip(contents, starts.tolist(), own_starts.tolist(), strict=True)):
            content.see(mask[i], slots[i], behind + at, behind + len(positions) + start)
            content.fill(own[:, at : at + content.own], positions[at : at + content.own])
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
            Contents(rows, np.flatnonzero(inside), slots, own.reshape(len(own), -1, graph.head_dim), positions),
        )
        return _Shared(contents, whole, narrow, room), forward

    def _new(self, outputs: Outputs, start: int, end: int) -> npt.NDArray[Any]:
        """Keys and values of some of a pass's new tokens, [layers, tokens, 2 * kv_heads * head_dim]."""
        width = 2 * self._session.graph.kv_heads
        rows = np.stack([tensor[start * width : end * width] for tensor in outputs.new.tensors])
        return rows.reshape(len(rows), end - start, -1)


def _by_content(jobs: Sequence[Job[Any]]) -> Iterator[list[Job[Any]]]:
    """Jobs that share a trunk, in their order."""
    found: dict[int, list[Job[Any]]] = {}
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
    size = max(max(content.rows, content.own // 2) for content in alike)  # memory for cached tokens counts, too
    chosen = alike[: max(1, min(-(-len(alike) // parts), PACK_TOKENS // size))]
    for content in chosen:
        ready.remove(content)
    return chosen
