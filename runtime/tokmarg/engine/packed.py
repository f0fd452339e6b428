"""Packed engine: many contents and their verdict nodes in one tree-attention pass after a shared policy prefix.

One pass is one sequence, laid out as

    [ policy prefix (cached) ][ content 1 + suffix ][ content 2 + suffix ] ... [ trie nodes ]

A token sees the prefix tokens its prompt shares, its own prompt before it, and its own ancestors in the trie;
``position_ids`` count along that path. So contents do not see each other, and a score does not depend on the batch.
Guards with one prompt per label have a prompt for each, which branch off after the content:

    [ policy prefix (cached) ][ content + label 1 ][ label 2 ] ... [ trie nodes ]

Later passes reuse the keys and values of all passes before. Contents join between passes and leave when they are done
(:mod:`tokmarg.engine.waiting_line`); :mod:`tokmarg.engine.prefix_batch` lays the passes out. Graphs with ``by_content``
attention are run by :mod:`tokmarg.engine.batch_invariant`.
"""

from __future__ import annotations

from collections.abc import Sequence as GenericSequence

from tokmarg.errors import DeviceError

from .batch import PACK_SIZES, LogitsRouter
from .prefix_batch import PrefixBatch
from .prompt_cache import StorePromptCache
from .session import Session
from .waiting_line import BatchLine, InFlightLimit, SequenceGroup, WaitingLine

__all__ = ["PackedEngine"]


class PackedEngine:
    """Evaluates searches on a graph whose pass is one sequence.

    Args:
        session: the graph.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
        cache: of earlier prompts (:func:`tokmarg.engine.prompt_cache.new_prompt_cache`), or None.

    Attributes:
        pack_contents, pack_tokens: contents, and new tokens of theirs, that may share passes.
    """

    def __init__(self, session: Session, own_verdicts: bool = True, cache: StorePromptCache | None = None) -> None:
        self._session, self._cache = session, cache
        self._router = LogitsRouter(session.graph, own_verdicts)
        self.pack_contents, self.pack_tokens = PACK_SIZES[session.device]

    def run(self, groups: GenericSequence[SequenceGroup]) -> None:
        """Runs the searches of contents to their end; sets the ``error`` of a sequence where one fails."""
        self.serve(BatchLine(groups))

    def serve(self, line: WaitingLine) -> None:
        """Runs the searches of contents from a line, until none will come.

        Raises:
            DeviceError: a pass failed, and the line of its contents does not take that.
        """
        batches: dict[int, PrefixBatch] = {}
        # In flight: a pack, and long contents that take turns.
        limit = InFlightLimit(self.pack_contents, 4 * self.pack_tokens, self.pack_tokens)

        def fits(group: SequenceGroup) -> bool:
            return limit.fits(group.size, [each.size for batch in batches.values() for each in batch.groups])

        while batches or line.wait():
            for batch in batches.values():
                batch.remove([group for group in batch.groups if line.cancelled(group)])
            while (group := line.take(fits)) is not None:
                key = id(group.prefix)
                if key not in batches:
                    batches[key] = PrefixBatch(self._session, self._router, group.prefix, self.pack_tokens, self._cache)
                batches[key].add(group)
            for batch in batches.values():
                self._run_pass(batch, line)
            batches = {key: batch for key, batch in batches.items() if batch.groups}

    @staticmethod
    def _run_pass(batch: PrefixBatch, line: WaitingLine) -> None:
        try:
            done = batch.run_pass()
        except DeviceError as error:
            lost = list(batch.groups)
            batch.remove(lost)
            for group in lost:
                line.done(group, error)
            return
        for group in done:
            line.done(group)
