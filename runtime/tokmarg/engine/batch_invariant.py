"""Batch-invariant engine: contents share passes, and each has the bits of a batch of one.

For graphs with ``by_content`` attention, those with int8 products: quantization turns a difference in the last bit of a
float into a difference of a whole step, so sums must not depend on the rest of the batch. Their last bits depend on
where their terms stand. Here that follows from the content alone: which of its tokens and nodes a pass carries, and
which of its cached tokens come along (those that some new one sees, in the order they came).
:mod:`tokmarg.engine.block_layout` puts them into blocks; ``docs/engine.md`` explains both.

A content goes through passes until its searches are done: :class:`_ContentState` lays out its next one. The engine
chooses which contents are in flight, and which of those share a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import PACK_TOKENS, LogitsRouter, TreeBatch
from .block_layout import Block, lay_out
from .executor import PassExecutor
from .forward import Forward, Outputs
from .kv_buffer import KVBuffer, KVBufferPool
from .nodes_per_pass import single_first, single_later
from .prefix import Prefix
from .sequence import LogitsRequest, Sequence
from .session import Session

__all__ = ["BatchInvariantEngine"]

#: Tokens of a prompt that a pass carries at most: attention takes as long for what a token may not see, most of which
#: stands after it in its own pass.
_PROMPT_TOKENS = 256
#: Contents share a pass where their counts of new tokens differ by this at most: attention takes as long for padding as
#: for any other place.
_SIMILAR_ROWS = 32
#: Contents in flight at most, for each worker and at least, and the tokens of all their prompts: each takes memory for
#: its keys and values (46 kB a token in SmolLM2-135M).
_IN_FLIGHT_PER_WORKER, _MIN_IN_FLIGHT, _TOKENS_IN_FLIGHT = 4, 8, 1024


class _ContentState:
    """A content in flight: its sequences, the keys and values of its own tokens, and its part of the next pass.

    Args:
        sequences: of one content: a prompt, and those that branch off it.
        prefix: that the prompts begin with.

    Attributes:
        own: keys and values of the tokens that earlier passes carried; set when the content goes in flight.
        own_positions: int64 [C], of those tokens.
        batch: tokens of the next pass, as the content alone determines them.
        block: the same pass for the attention.
        size: tokens of the prompts, about: those of the trunk count for each branch.
    """

    own: KVBuffer
    block: Block

    def __init__(self, sequences: list[Sequence[Any]], prefix: Prefix) -> None:
        self._sequences, self._prefix = sequences, prefix
        self._unfinished = list(sequences)  # prompts that have not been laid out to their end
        self.own_positions = np.zeros(0, dtype=np.int64)
        self.batch = TreeBatch(prefix.cache.length)
        self.size = sum(len(each.token_ids) - prefix.shared(each.token_ids) for each in sequences)

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
        prefix = self._prefix.cache.length
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
        while self._unfinished and len(batch.tokens) < _PROMPT_TOKENS:
            sequence = self._unfinished[0]
            if sequence.laid_out < 0:
                sequence.begin(self._prefix)
            if batch.add_prompt(sequence, _PROMPT_TOKENS):
                self._unfinished.pop(0)
                batch.add_nodes(sequence, single_first(len(self._sequences)))

    def _add_nodes(self, batch: TreeBatch) -> None:
        """Adds the next nodes of all searches."""
        active = [sequence for sequence in self._sequences if sequence.error is None]
        limit = single_later(len(active))
        for sequence in active:
            batch.add_nodes(sequence, limit, limit * len(active))


@dataclass(frozen=True, slots=True)
class _SharedPass:
    """A pass that contents share: their order in it, the requests for its logits, and a buffer that it reads."""

    contents: GenericSequence[_ContentState]
    full: GenericSequence[LogitsRequest]
    verdict: GenericSequence[LogitsRequest]
    buffer: KVBuffer | None


class BatchInvariantEngine:
    """Evaluates searches on a graph with ``by_content`` attention.

    Args:
        session: the graph.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
    """

    #: Contents, and new tokens of theirs, in a pack: enough that workers are seldom idle, and few enough that the first
    #: result does not keep one waiting.
    pack_contents, pack_tokens = 64, 4096

    def __init__(self, session: Session, own_verdicts: bool = True) -> None:
        self._session = session
        self._router = LogitsRouter(session.graph, own_verdicts)

    def run(self, prefix: Prefix, sequences: GenericSequence[Sequence[Any]]) -> None:
        """Runs the searches of ``sequences``, whose prompts begin with ``prefix``, to their end; sets ``error`` where
        one fails."""
        waiting = sorted((_ContentState(each, prefix) for each in _by_content(sequences)), key=lambda each: -each.size)
        limit = max(_MIN_IN_FLIGHT, _IN_FLIGHT_PER_WORKER * self._session.workers)
        in_flight: list[_ContentState] = []
        ready: list[_ContentState] = []  # those in flight whose next pass has not begun
        pool = KVBufferPool(self._session.graph)
        with PassExecutor[_SharedPass](self._session) as executor:
            while waiting or in_flight:
                for content in _admitted(waiting, in_flight, limit):
                    content.own = pool.take()
                    content.advance()
                    ready.append(content)
                if ready and (self._session.workers == 1 or len(in_flight) == 1):  # all threads compute one pass
                    shared, forward = self._shared_pass(_together(ready, 1), prefix, pool)
                    outputs = self._session.run(forward)
                else:
                    self._start_passes(executor, ready, prefix, pool)
                    shared, outputs = executor.wait()
                self._router.feed(shared.full, shared.verdict, outputs)
                if shared.buffer is not None:
                    pool.release(shared.buffer)
                for content, new in _by_owner(shared.contents, outputs, 2 * self._session.graph.kv_heads):
                    if content.advance():
                        content.own.append(new)
                        ready.append(content)
                    else:
                        in_flight.remove(content)
                        pool.release(content.own)

    def _start_passes(
        self, executor: PassExecutor[_SharedPass], ready: list[_ContentState], prefix: Prefix, pool: KVBufferPool
    ) -> None:
        """Starts a pass for each worker, and one more, so that no worker waits for its next."""
        while ready and executor.running <= self._session.workers:
            parts = self._session.workers + 1 - executor.running
            shared, forward = self._shared_pass(_together(ready, parts), prefix, pool)
            executor.start(forward, shared)

    def _shared_pass(
        self, contents: GenericSequence[_ContentState], prefix: Prefix, pool: KVBufferPool
    ) -> tuple[_SharedPass, Forward]:
        """The next pass of contents that share one: new tokens packed content by content, and their blocks."""
        blocks = [content.block for content in contents]
        layout, mask, buffer = lay_out(blocks, prefix.cache.length, self._session.graph, pool)
        full, verdict = self._router.split(_packed_requests(contents))
        logit_rows, verdict_rows = self._router.rows(full, verdict)
        forward = Forward(
            [token for content in contents for token in content.batch.tokens],
            np.concatenate([content.batch.positions for content in contents]),
            mask,
            prefix.cache,
            logit_rows,
            verdict_rows,
            layout,
        )
        return _SharedPass(contents, full, verdict, buffer), forward


def _packed_requests(contents: GenericSequence[_ContentState]) -> list[LogitsRequest]:
    """The requests of all contents, their rows counted through the pass."""
    requests: list[LogitsRequest] = []
    start = 0
    for content in contents:
        requests += [request._replace(row=start + request.row) for request in content.batch.requests]
        start += content.rows
    return requests


def _by_owner(
    contents: GenericSequence[_ContentState], outputs: Outputs, rows_per_token: int
) -> Iterator[tuple[_ContentState, list[npt.NDArray[Any]]]]:
    """Each content of a pass with the keys and values of its new tokens, [s * rows_per_token, head_dim] of each layer.

    Contents may be advanced in between.
    """
    ends = np.cumsum([content.rows * rows_per_token for content in contents]).tolist()
    for content, start, end in zip(contents, [0, *ends], ends, strict=False):
        yield content, [layer[start:end] for layer in outputs.new.tensors]


def _by_content(sequences: GenericSequence[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    """Sequences grouped by their trunk, in their order."""
    groups: dict[int, list[Sequence[Any]]] = {}
    for sequence in sequences:
        groups.setdefault(id(sequence.trunk or sequence), []).append(sequence)
    return list(groups.values())


def _admitted(waiting: list[_ContentState], in_flight: list[_ContentState], limit: int) -> list[_ContentState]:
    """Moves contents from the end of ``waiting`` to ``in_flight`` once two fit in, which can share a pass."""
    admitted: list[_ContentState] = []
    if len(in_flight) > max(0, limit - 2):
        return admitted
    while waiting and len(in_flight) < limit:
        size = sum(content.size for content in in_flight)
        if in_flight and size + waiting[-1].size > _TOKENS_IN_FLIGHT:
            break
        admitted.append(waiting.pop())
        in_flight.append(admitted[-1])
    return admitted


def _together(ready: list[_ContentState], parts: int) -> list[_ContentState]:
    """Takes contents that share a pass from ``ready``: of those similar to the first one of ``parts`` equal shares, or
    as many as a pass may carry."""
    similar = [content for content in ready if abs(content.rows - ready[0].rows) <= _SIMILAR_ROWS]
    size = max(max(content.rows, len(content.seen) // 2) for content in similar)  # cached tokens take memory, too
    chosen = similar[: max(1, min(-(-len(similar) // parts), PACK_TOKENS // size))]
    for content in chosen:
        ready.remove(content)
    return chosen
