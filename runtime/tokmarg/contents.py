"""Many contents in one pass, with sums that do not depend on the company: what shares a pass, and in which shape.

For graphs whose attention goes content by content (``graph.by_content``). Rows of all contents of a pass are packed for
everything that works row by row; for attention each content has a block of its own,

    S places x [ policy prefix | T cached tokens of the content's own | its S new ones ]

The sum over the keys is one of floats, whose last bits depend on how many terms there are and where they stand. So all
of that follows from the content alone: which of its tokens and nodes a pass carries, which cached tokens come along
(those that some new one sees, in the order they came), and S and T, which are rounded up. Contents share a pass where
S and T are equal. Their number then changes no bit, and neither does who they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import GraphContract
from .passes import PACK_TOKENS, Job, Logits, Pass
from .prefix import Prefix
from .session import Contents, Session
from .spec import Role

__all__ = ["ContentEngine"]

#: Nodes that a content asks for in the pass that ends its prompt, in the next one, and in all later ones. More of them
#: take fewer passes, and more of them turn out not to be needed. Measured on the messages of benchmarks/ and the
#: reference guard: 16 harmless ones take two passes and 20 nodes each, 16 harmful ones ten and 115, of which 94 are
#: needed; with twice as many nodes at a time two passes and 40, and six and 175.
_AHEAD_FIRST, _AHEAD_SECOND, _AHEAD = 6, 8, 16
#: S and T are multiples of these, and the larger they are, of a fourth to an eighth of them. Fewer sizes of T let more
#: contents share a pass, and a key costs little.
_PLACES, _KEYS = 16, 32
#: Contents, and tokens of their prompts, that are under way together; new ones begin when half of these are done. Each
#: token takes memory for its keys and values (46 kB in SmolLM2-135M). Measured there: 8 take 8 % more time than 16.
_UNDER_WAY, _TOKENS_UNDER_WAY = 12, 1024


def _rounded(count: int, least: int) -> int:
    """The next size, in steps of 16: 0, 16, 32, 48, 64, 80, ... 128, 160, ... 256, 320, ..."""
    step = max(least, 1 << max(0, (count - 1).bit_length() - 3))
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
        self._rounds = 0
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
            ahead = max(4, (_AHEAD if self._rounds else _AHEAD_SECOND) // max(1, len(active)))
            for job in active:
                step.nodes(job, ahead, _rounded(ahead * len(active), _PLACES))
            self._rounds += 1
        mask = step.mask()
        self._mask, self._seen = mask, np.flatnonzero(mask[:, behind : step.past].any(axis=0))
        self.shape = _rounded(len(step.tokens), _PLACES), _rounded(len(self._seen), _KEYS)
        return bool(step.tokens)

    def fill(self, mask: npt.NDArray[np.bool_], own: npt.NDArray[Any], positions: npt.NDArray[np.int64]) -> None:
        """Writes what the pass needs: mask [S, P+T+S], own keys and values [2 * layers, kv_heads, T, head_dim] and
        their positions [T]."""
        behind, rows, seen = self._prefix.cache.length, len(self.step.tokens), self._seen
        mask[:rows, :behind] = self._mask[:, :behind]
        mask[:rows, behind : behind + len(seen)] = self._mask[:, behind + seen]
        new = behind + own.shape[2]
        mask[:rows, new : new + rows] = self._mask[:, self.step.past :]
        positions[: len(seen)] = self._positions[seen]
        own[:, :, len(seen) :] = 0  # what is never seen must still be a number
        at = start = 0
        for part in self._parts:
            inside = seen[(start <= seen) & (seen < start + part.shape[2])] - start
            for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):  # slices are copied without a detour
                if len(run):
                    own[:, :, at : at + len(run)] = part[:, :, run[0] : run[-1] + 1]
                    at += len(run)
            start += part.shape[2]

    def keep(self, new: Sequence[npt.NDArray[Any]]) -> None:
        """Takes the keys and values of the pass, key 0, value 0, key 1, ... each [kv_heads, S, head_dim]."""
        rows = len(self.step.tokens)
        self._parts.append(np.stack([tensor[:, :rows] for tensor in new]))
        self._positions = np.concatenate([self._positions, self.step.positions])


class _Room:
    """Memory for the cached tokens of a pass, which the next pass takes again: new memory is slow to come by."""

    def __init__(self, graph: GraphContract) -> None:
        self._graph = graph
        self._flat = np.zeros(0, dtype=graph.kv_dtype)

    def take(self, contents: int, keys: int) -> npt.NDArray[Any]:
        """[2 * layers, contents, kv_heads, keys, head_dim], with anything in it."""
        graph = self._graph
        shape = (2 * graph.layers, contents, graph.kv_heads, keys, graph.head_dim)
        if (size := math.prod(shape)) > len(self._flat):
            self._flat = np.zeros(size, dtype=graph.kv_dtype)
        return self._flat[:size].reshape(shape)


class ContentEngine:
    """Evaluates searches on a graph whose attention goes content by content; arguments as for
    :class:`tokmarg.engine.PackedEngine`."""

    #: Contents, and new tokens of theirs, that are taken together: enough that passes are well filled whatever the
    #: lengths, and few enough that the first result does not keep one waiting.
    pack_contents, pack_tokens = 64, 4096

    def __init__(self, session: Session, prefixes: Mapping[Role, Prefix], own_verdicts: bool = True) -> None:
        self._session, self._prefixes = session, prefixes
        self._logits = Logits(session, own_verdicts)

    def run(self, role: Role, jobs: Sequence[Job[Any]]) -> None:
        """Runs the searches of ``jobs``, all of one role mode, to their end; sets ``error`` where one fails."""
        prefix = self._prefixes[role]
        contents = [_Content(group, prefix) for group in _by_content(jobs)]
        waiting = sorted(contents, key=lambda content: _rounded(content.size, _PLACES))[::-1]
        active: list[_Content] = []
        room = _Room(self._session.graph)
        while waiting or active:
            if len(active) <= _UNDER_WAY // 2:
                while waiting and len(active) < _UNDER_WAY:
                    if active and sum(c.size for c in active) + waiting[-1].size > _TOKENS_UNDER_WAY:
                        break
                    active.append(waiting.pop())
            active = [content for content in active if content.advance()]
            for together in _passes(active):
                self._finish(together, prefix, room)

    def _finish(self, contents: Sequence[_Content], prefix: Prefix, room: _Room) -> None:
        """Runs a pass of contents that have one shape, feeds their searches, and hands the new tokens out."""
        (places, keys), count = contents[0].shape, len(contents)
        lengths = [len(content.step.tokens) for content in contents]
        starts = np.cumsum([0, *lengths[:-1]])
        rows = starts[:, None] + np.minimum(np.arange(places), np.array(lengths)[:, None] - 1)
        mask = np.zeros((count, places, prefix.cache.length + keys + places), dtype=np.bool_)
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
        logits, narrow_logits, new = self._session.run(
            [token for content in contents for token in content.step.tokens],
            np.concatenate([content.step.positions for content in contents]),
            mask,
            prefix.cache,
            [row for _, _, row in whole] or ([] if narrow else [0]),
            [row for _, _, row in narrow],
            Contents(rows, at, own, positions),
        )
        self._logits.feed(whole, narrow, logits, narrow_logits)
        for i, content in enumerate(contents):
            content.keep([tensor[i] for tensor in new.tensors])


def _by_content(jobs: Sequence[Job[Any]]) -> Iterator[list[Job[Any]]]:
    """Jobs that share a trunk, in their order."""
    found: dict[int, list[Job[Any]]] = {}
    for job in jobs:
        found.setdefault(id(job.trunk or job), []).append(job)
    yield from found.values()


def _passes(contents: Sequence[_Content]) -> Iterator[list[_Content]]:
    """Contents that share a pass: of one shape, as many as there is room for."""
    by_shape: dict[tuple[int, int], list[_Content]] = {}
    for content in contents:
        by_shape.setdefault(content.shape, []).append(content)
    for (places, keys), group in by_shape.items():
        room = max(1, PACK_TOKENS // max(places, keys // 2))  # memory for cached tokens counts, too
        yield from (group[i : i + room] for i in range(0, len(group), room))
