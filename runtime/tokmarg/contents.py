"""Many contents side by side, with sums that do not depend on the company: what shares a pass, and in which shape.

For graphs whose attention goes content by content (``graph.by_content``). Rows of all contents of a pass are packed for
everything that works row by row; for attention each content has a block of its own,

    S places x [ policy prefix | S new tokens | T cached tokens of the content's own ]

The sum over the keys is one of floats, whose last bits depend on where its terms stand. All of that follows from the
content alone: which of its tokens and nodes a pass carries, and which cached tokens come along (those that some new one
sees, in the order they came). S and T may be larger than a content needs, for the company's sake, where what is added
comes last: zeros at the end of its sums change no bit. That is so for T, and for S where there are no cached tokens.
Otherwise S is rounded up from what the content needs, and those share a pass for which it is the same.
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
from .session import Contents, Forward, Session
from .spec import Role

__all__ = ["ContentEngine"]

#: Nodes that a content asks for in the pass that ends its prompt, and in later ones. More of them take fewer passes, and
#: more of them turn out not to be needed. Measured with the reference guard on the messages of benchmarks/, of 47
#: tokens: 16 harmless ones take 1.2 passes and 67 tokens each, where 7 nodes are needed, 16 harmful ones five passes and
#: 171 tokens, where 79 nodes are, which one by one would take 143 tokens.
_AHEAD_FIRST, _AHEAD = 16, 32
#: S is a multiple of this where the content has cached tokens, and of that elsewhere. All keys together are a multiple
#: of the longest vector that softmax is computed with: what is left over would be added in another order.
_PLACES, _STEP, _VECTOR = 16, 8, 16
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
        self._parts: list[npt.NDArray[Any]] = []  # by pass, [2 * layers, kv_heads, tokens, head_dim]
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
                step.nodes(job, ahead, _rounded(ahead * len(active), _PLACES))
        mask = step.mask()
        self._mask, self._seen = mask, np.flatnonzero(mask[:, behind : step.past].any(axis=0))
        #: Places and keys that the pass needs.
        self.places, self.keys = len(step.tokens), len(self._seen)
        return bool(step.tokens)

    @property
    def fixed_places(self) -> int:
        """How many places the pass has to have; 0 where any number will do that is enough."""
        return _rounded(self.places, _PLACES) if self.keys else 0

    def fill(self, mask: npt.NDArray[np.bool_], own: npt.NDArray[Any], positions: npt.NDArray[np.int64]) -> None:
        """Writes what the pass needs: mask [S, P+S+T], own keys and values [2 * layers, kv_heads, T, head_dim] and
        their positions [T]."""
        behind, rows, seen = self._prefix.cache.length, len(self.step.tokens), self._seen
        cached = mask.shape[1] - own.shape[2]
        mask[:rows, :behind] = self._mask[:, :behind]
        mask[:rows, behind : behind + rows] = self._mask[:, self.step.past :]
        mask[:rows, cached : cached + len(seen)] = self._mask[:, behind + seen]
        positions[: len(seen)] = self._positions[seen]
        at = start = 0
        for part in self._parts:
            inside = seen[(start <= seen) & (seen < start + part.shape[2])] - start
            for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):  # slices are copied without a detour
                if len(run):
                    own[:, :, at : at + len(run)] = part[:, :, run[0] : run[-1] + 1]
                    at += len(run)
            start += part.shape[2]
        own[:, :, at:] = 0  # what is never seen must still be a number

    def keep(self, new: Sequence[npt.NDArray[Any]]) -> None:
        """Takes the keys and values of the pass, key 0, value 0, key 1, ... each [kv_heads, S, head_dim]."""
        rows = len(self.step.tokens)
        self._parts.append(np.stack([tensor[:, :rows] for tensor in new]))
        self._positions = np.concatenate([self._positions, self.step.positions])


class _Room:
    """Memory for the cached tokens of a pass, which a later pass takes again: new memory is slow to come by."""

    def __init__(self, graph: GraphContract) -> None:
        self._graph = graph
        self._flat = np.zeros(0, dtype=graph.kv_dtype)

    def take(self, contents: int, keys: int) -> npt.NDArray[Any]:
        """[2 * layers, contents, kv_heads, keys, head_dim], with anything in it."""
        graph = self._graph
        shape = (2 * graph.layers, contents, graph.kv_heads, keys, graph.head_dim)
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
                for i, content in enumerate(shared.contents):
                    content.keep([tensor[i] for tensor in outputs.new.tensors])
                    if content.advance():
                        ready.append(content)
                    else:
                        under_way.remove(content)

    def _pass(self, contents: Sequence[_Content], prefix: Prefix, rooms: list[_Room]) -> tuple[_Shared, Forward]:
        """The next pass of contents that can share one."""
        count = len(contents)
        places = contents[0].fixed_places or _rounded(max(content.places for content in contents), _STEP)
        before = prefix.cache.length + places
        keys = _rounded(before + max(content.keys for content in contents), _VECTOR) - before
        lengths = [content.places for content in contents]
        starts = np.cumsum([0, *lengths[:-1]])
        inside = np.arange(places) < np.array(lengths)[:, None]
        rows = starts[:, None] + np.where(inside, np.arange(places), 0)
        mask = np.zeros((count, places, before + keys), dtype=np.bool_)
        room = rooms.pop() if rooms else _Room(self._session.graph)
        own = room.take(count, keys)
        positions = np.zeros((count, keys), dtype=np.int64)
        for i, content in enumerate(contents):
            content.fill(mask[i], own[:, i], positions[i])
        at = np.concatenate([i * places + np.arange(length) for i, length in enumerate(lengths)])
        wanted = [
            (job, node, int(start) + row)
            for start, content in zip(starts, contents, strict=True)
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
            Contents(rows, at, own, positions),
        )
        return _Shared(contents, whole, narrow, room), forward


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
    """Takes contents that share a pass: of those that can, one of ``parts``, or as many as there is room for."""
    alike = [content for content in ready if content.fixed_places == ready[0].fixed_places]
    size = max(max(content.places, content.keys // 2) for content in alike)  # memory for cached tokens counts, too
    chosen = alike[: max(1, min(-(-len(alike) // parts), PACK_TOKENS // size))]
    for content in chosen:
        ready.remove(content)
    return chosen
