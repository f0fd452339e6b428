"""Batch-invariant engine: contents share passes, and each has the bits of a batch of one.

For graphs with ``by_content`` attention, those with int8 products: quantization turns a difference in the last bit of a
float into a difference of a whole step, so sums must not depend on the rest of the batch. Their last bits depend on
where their terms stand. Here that follows from the content alone: which of its tokens and nodes a pass carries, and
which of its cached tokens come along (those that some new one sees, in the order they came).
:mod:`tokmarg.engine.block_layout` puts them into blocks; ``docs/engine.md`` explains both.

A content goes through passes until its searches are done: :class:`tokmarg.engine.content_state.ContentState` lays out
its next one. The engine takes contents from a waiting line as others end, and chooses which of those in flight share a
pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.errors import DeviceError

from .batch import PACK_SIZES, LogitsRouter
from .block_layout import lay_out
from .content_state import PROMPT_TOKENS, ContentState
from .executor import PassExecutor
from .forward import Forward, Outputs
from .kv_buffer import KVBuffer, KVBufferPool
from .prompt_cache import HostPromptCache
from .sequence import LogitsRequest
from .session import Session
from .waiting_line import BatchLine, InFlightLimit, SequenceGroup, WaitingLine

__all__ = ["BatchInvariantEngine"]

#: Contents share a pass where their counts of new tokens differ by this at most: attention takes as long for padding as
#: for any other place.
_SIMILAR_ROWS = 32
#: Contents in flight at most, for each worker and at least, and the tokens of all their prompts, of short and of long
#: ones: each takes memory for its keys and values (46 kB a token in SmolLM2-135M).
_IN_FLIGHT_PER_WORKER, _MIN_IN_FLIGHT, _TOKENS_IN_FLIGHT = 4, 8, 1024
#: New tokens of a pass that contents share, at most.
_PASS_TOKENS = PACK_SIZES["cpu"].tokens


@dataclass(frozen=True, slots=True)
class _SharedPass:
    """A pass that contents share: their order in it, the requests for its logits, and a buffer that it reads."""

    contents: GenericSequence[ContentState]
    full: GenericSequence[LogitsRequest]
    verdict: GenericSequence[LogitsRequest]
    buffer: KVBuffer | None


class BatchInvariantEngine:
    """Evaluates searches on a graph with ``by_content`` attention.

    Args:
        session: the graph.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
        cache: of earlier prompts (:func:`tokmarg.engine.prompt_cache.new_prompt_cache`), or None.
    """

    #: Contents, and new tokens of theirs, in a pack: enough that workers are seldom idle, and few enough that the first
    #: result does not keep one waiting.
    pack_contents, pack_tokens = 64, 4096

    def __init__(self, session: Session, own_verdicts: bool = True, cache: HostPromptCache | None = None) -> None:
        self._session, self._cache = session, cache
        self._router = LogitsRouter(session.graph, own_verdicts)
        self._pool = KVBufferPool(session.graph)

    def run(self, groups: GenericSequence[SequenceGroup]) -> None:
        """Runs the searches of contents to their end; sets the ``error`` of a sequence where one fails."""
        self.serve(BatchLine(sorted(groups, key=lambda group: group.size)))

    def serve(self, line: WaitingLine) -> None:
        """Runs the searches of contents from a line, until none will come.

        Raises:
            DeviceError: a pass failed, and the line of its contents does not take that.
        """
        with PassExecutor[_SharedPass](self._session) as executor:
            line.watch(executor.wake)
            flight = _Flight(self._session, self._router, executor, line, self._cache, self._pool)
            while flight.has_contents() or line.wait():
                flight.admit()
                flight.run_passes()


class _Flight:
    """The contents in flight of one call of :meth:`BatchInvariantEngine.serve`.

    Args:
        session, router: of the engine.
        executor: runs passes side by side.
        line: where contents come from.
        cache: of earlier prompts, or None.
        pool: of memory for keys and values.
    """

    def __init__(
        self,
        session: Session,
        router: LogitsRouter,
        executor: PassExecutor[_SharedPass],
        line: WaitingLine,
        cache: HostPromptCache | None,
        pool: KVBufferPool,
    ) -> None:
        self._cache, self._pool = cache, pool
        self._session, self._router, self._executor, self._line = session, router, executor, line
        contents = max(_MIN_IN_FLIGHT, _IN_FLIGHT_PER_WORKER * session.workers)
        self._limit = InFlightLimit(contents, _TOKENS_IN_FLIGHT, PROMPT_TOKENS)
        self._in_flight: list[ContentState] = []
        self._ready: list[ContentState] = []  # those in flight whose next pass has not begun

    def has_contents(self) -> bool:
        """Whether any is in flight."""
        if not self._in_flight:
            self._pool.trim()
        return bool(self._in_flight)

    def admit(self) -> None:
        """Drops contents that nobody wants any more; begins others once two fit in, which can share a pass."""
        for content in [each for each in self._ready if self._line.cancelled(each.group)]:
            self._ready.remove(content)
            self._leave(content)
        if len(self._in_flight) > max(0, self._limit.contents - 2):
            return
        while (group := self._line.take(self._fits)) is not None:
            content = ContentState(group, self._pool.take(), self._cache)
            content.advance()
            self._in_flight.append(content)
            self._ready.append(content)

    def _fits(self, group: SequenceGroup) -> bool:
        return self._limit.fits(group.size, [content.group.size for content in self._in_flight])

    def _leave(self, content: ContentState) -> None:
        self._in_flight.remove(content)
        self._pool.release(content.own)

    def run_passes(self) -> None:
        """Runs passes until one is done, or a content has joined the line."""
        if self._ready and (self._session.workers == 1 or len(self._in_flight) == 1):  # all threads compute one pass
            shared, forward = self._shared_pass(_together(self._ready, 1))
            outcome: Outputs | BaseException
            try:
                outcome = self._session.run(forward)
            except DeviceError as error:
                outcome = error
            self._finish(shared, outcome)
        elif self._in_flight:
            self._start_passes()
            if (done := self._executor.wait_or_wake()) is not None:
                self._finish(*done)

    def _start_passes(self) -> None:
        """Starts a pass for each worker, and one more, so that no worker waits for its next."""
        while self._ready and self._executor.running <= self._session.workers:
            parts = self._session.workers + 1 - self._executor.running
            shared, forward = self._shared_pass(_together(self._ready, parts))
            self._executor.start(forward, shared)

    def _finish(self, shared: _SharedPass, outcome: Outputs | BaseException) -> None:
        """Feeds the searches of a pass, and lays out the next one of each content."""
        if isinstance(outcome, DeviceError):
            for content in shared.contents:
                self._leave(content)
                self._line.done(content.group, outcome)
            return
        if isinstance(outcome, BaseException):
            raise outcome
        self._router.feed(shared.full, shared.verdict, outcome)
        if shared.buffer is not None:
            self._pool.release(shared.buffer)
        for content, new in _by_owner(shared.contents, outcome, 2 * self._session.graph.kv_heads):
            more = content.advance()
            content.keep(new, more)
            if more:
                self._ready.append(content)
            else:
                self._leave(content)
                self._line.done(content.group)

    def _shared_pass(self, contents: GenericSequence[ContentState]) -> tuple[_SharedPass, Forward]:
        """The next pass of contents that share one: new tokens packed content by content, and their blocks."""
        prefix = contents[0].group.prefix
        blocks = [content.block for content in contents]
        layout, mask, buffer = lay_out(blocks, prefix.cache.length, self._session.graph, self._pool)
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
            self._router.reads(full),
        )
        return _SharedPass(contents, full, verdict, buffer), forward


def _packed_requests(contents: GenericSequence[ContentState]) -> list[LogitsRequest]:
    """The requests of all contents, their rows counted through the pass."""
    requests: list[LogitsRequest] = []
    start = 0
    for content in contents:
        requests += [request._replace(row=start + request.row) for request in content.batch.requests]
        start += content.rows
    return requests


def _by_owner(
    contents: GenericSequence[ContentState], outputs: Outputs, rows_per_token: int
) -> Iterator[tuple[ContentState, list[npt.NDArray[Any]]]]:
    """Each content of a pass with the keys and values of its new tokens, [s * rows_per_token, head_dim] of each layer.

    Contents may be advanced in between.
    """
    ends = np.cumsum([content.rows * rows_per_token for content in contents]).tolist()
    for content, start, end in zip(contents, [0, *ends], ends, strict=False):
        yield content, [layer[start:end] for layer in outputs.new.tensors]


def _together(ready: list[ContentState], parts: int) -> list[ContentState]:
    """Takes contents that share a pass from ``ready``: of those similar to the first, which have its prefix, one of
    ``parts`` equal shares, or as many as a pass may carry."""
    first = ready[0]
    similar = [
        content
        for content in ready
        if content.group.prefix is first.group.prefix and abs(content.rows - first.rows) <= _SIMILAR_ROWS
    ]
    size = max(max(content.rows, len(content.seen) // 2) for content in similar)  # cached tokens take memory, too
    chosen = similar[: max(1, min(-(-len(similar) // parts), _PASS_TOKENS // size))]
    for content in chosen:
        ready.remove(content)
    return chosen
