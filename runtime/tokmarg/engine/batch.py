"""Batch layout: the tokens that one pass carries, the cache slots each of them sees, and where their logits go.

:class:`TreeBatch` lays out prompts and verdict-trie nodes as one tree-attention batch. :class:`LogitsRouter` sends each
row to the output layer that is enough for it, and feeds the searches.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.errors import ContentError

from .forward import Outputs
from .sequence import Carried, LogitsRequest, Reads, Sequence, TokenPath

__all__ = ["PACK_SIZES", "LogitsRouter", "PackSize", "TreeBatch"]


class PackSize(NamedTuple):
    """Contents that share passes at most, and new tokens that one pass carries at most; longer prompts are fed in
    several."""

    contents: int
    tokens: int


#: By device. Launching kernels takes longer than small ones compute. On an H200 a guard of a billion parameters was
#: fastest with 1,024 tokens, as then the logits of the whole vocabulary went to the host (benchmarks/README.md, CUDA).
PACK_SIZES = {"cpu": PackSize(32, 512), "cuda": PackSize(64, 1024)}


@dataclass(slots=True)
class TreeBatch:
    """A pass being laid out after P cached tokens. Row r is the r-th new token; its cache slot is P + r.

    Attributes:
        past: P.
        tokens, positions: of the S new tokens.
        sees: (start, end, ranges): rows [start, end) are consecutive tokens, which see those slot ranges and each
            other causally.
        requests: logits that searches want of this pass.
    """

    past: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sees: list[tuple[int, int, list[tuple[int, int]]]] = field(default_factory=list)
    requests: list[LogitsRequest] = field(default_factory=list)
    _carried: list[Carried] = field(default_factory=list)

    def add_prompt(self, sequence: Sequence[Any], max_tokens: int) -> bool:
        """Lays out as much of a prompt as a pass of ``max_tokens`` has space for; returns whether that was the rest."""
        done, end = sequence.laid_out, len(sequence.token_ids)
        part = sequence.token_ids[done : done + max(0, max_tokens - len(self.tokens))]
        if part:
            slot = self._add(sequence, part, done, [(0, sequence.shared), *sequence.spans])
            sequence.spans.append((slot, slot + len(part)))
            sequence.laid_out += len(part)
        if sequence.laid_out < end:
            return False
        sequence.slots[sequence.search.root] = sequence.spans[-1][1] - 1
        return True

    def add_nodes(self, sequence: Sequence[Any], limit: int, max_tokens: int | None = None) -> None:
        """Lays out the nodes that a search wants next, with those of their ancestors that no pass has carried yet.

        Args:
            sequence: its prompt has been laid out.
            limit: about how many nodes at most.
            max_tokens: of the pass. Nodes beyond wait for the next one; the first always goes in.
        """
        for node in sequence.search.wanted(limit):
            missing = [] if sequence.slots.get(node, -1) >= self.past else _missing(sequence, node)
            if max_tokens is not None and self.requests and len(self.tokens) + len(missing) > max_tokens:
                return
            for step in missing:
                visible = [(0, sequence.shared), *sequence.spans, *_ancestors(sequence, step)]
                position = len(sequence.token_ids) + step.depth - 1
                sequence.slots[step] = self._add(sequence, [step.token], position, visible)
            self.requests.append(LogitsRequest(sequence, node, sequence.slots[node] - self.past))

    def _add(
        self,
        sequence: Sequence[Any],
        tokens: GenericSequence[int],
        position: int,
        visible: list[tuple[int, int]],
    ) -> int:
        """Adds consecutive tokens that see ``visible`` slots and each other causally; returns the first slot."""
        carried = sequence.carried
        carried.tokens += len(tokens)
        if not any(carried is each for each in self._carried):
            carried.passes += 1
            self._carried.append(carried)
        row = len(self.tokens)
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.sees.append((row, row + len(tokens), visible))
        return self.past + row

    def mask(self) -> npt.NDArray[np.bool_]:
        """The attention mask, bool [S, P + S]: columns are the cache slots, then the new tokens."""
        rows, past = len(self.tokens), self.past
        mask = np.zeros((rows, past + rows), dtype=np.bool_)
        for start, end, visible in self.sees:
            for a, b in visible:
                mask[start:end, a:b] = True
            mask[start:end, past + start : past + end] = (
                np.tri(end - start, dtype=np.bool_) if end - start > 1 else True
            )
        return mask


def _missing(sequence: Sequence[Any], node: TokenPath) -> list[TokenPath]:
    """The node and those of its ancestors that no pass has carried yet, from the top."""
    upwards = [node]
    while node.parent is not None and node.parent not in sequence.slots:
        node = node.parent
        upwards.append(node)
    return upwards[::-1]


def _ancestors(sequence: Sequence[Any], node: TokenPath) -> list[tuple[int, int]]:
    """Slot ranges of the tokens between the prompt and a node."""
    ranges = []
    ancestor = node.parent
    while ancestor is not None and ancestor is not sequence.search.root:
        ranges.append((sequence.slots[ancestor], sequence.slots[ancestor] + 1))
        ancestor = ancestor.parent
    return ranges


class LogitsRouter:
    """Routes requests to the full or the small (verdict) output layer, and feeds what comes of it to the searches.

    Args:
        graph: whose output layers they are.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
    """

    def __init__(self, graph: GraphContract, own_verdicts: bool) -> None:
        ids = graph.verdict_token_ids if own_verdicts else None
        self._verdict_ids = None if ids is None else np.asarray(ids)
        self._log_probabilities = ids is not None and graph.log_probabilities
        self._vocab_size = graph.vocab_size
        self._of_thread = threading.local()

    def _spread_out(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of the verdict tokens as those of the vocabulary, with -inf for all others; until the thread's next
        call."""
        kept = self._of_thread  # an array of the vocabulary's size takes longer to make than all else here
        if not hasattr(kept, "spread"):
            kept.spread = np.full(self._vocab_size, -np.inf, dtype=np.float32)
        spread: npt.NDArray[np.float32] = kept.spread
        spread[self._verdict_ids] = logits
        return spread

    def split(self, requests: GenericSequence[LogitsRequest]) -> tuple[list[LogitsRequest], list[LogitsRequest]]:
        """The requests that need the full output layer, and those that the verdict layer is enough for."""
        full: list[LogitsRequest] = []
        verdict: list[LogitsRequest] = []
        for request in requests:
            (verdict if self._output(request) == "verdict_logits" else full).append(request)
        return full, verdict

    def _output(self, request: LogitsRequest) -> Reads:
        """The output of the graph that serves a request."""
        if self._verdict_ids is None:
            return "logits"
        reads: Reads = request.sequence.search.reads(request.node)
        return "logits" if reads == "log_probabilities" and not self._log_probabilities else reads

    def reads(self, full: GenericSequence[LogitsRequest]) -> set[Reads]:
        """What is read of the full output layer's rows: ``reads`` of :class:`tokmarg.engine.forward.Forward`."""
        return {self._output(request) for request in full}

    def feed(
        self, full: GenericSequence[LogitsRequest], verdict: GenericSequence[LogitsRequest], outputs: Outputs
    ) -> None:
        """Feeds the searches: of the full output layer those of ``full``, of the verdict layer those of ``verdict``."""
        for row, request in enumerate(full):
            if self._output(request) == "logits":
                _feed(request, outputs.logits[row])
            else:
                _feed(request, self._spread_out(outputs.log_probabilities[row]), normalized=True)
        for request, logits in zip(verdict, outputs.verdict_logits, strict=True):
            _feed(request, self._spread_out(logits))

    @staticmethod
    def rows(
        full: GenericSequence[LogitsRequest], verdict: GenericSequence[LogitsRequest]
    ) -> tuple[list[int], list[int]]:
        """The rows of a pass that go through the full and through the verdict layer: ``logit_rows``, ``verdict_rows``
        of :class:`tokmarg.engine.forward.Forward`."""
        # The graph needs one row at least, for passes of prompt tokens alone, too.
        return [request.row for request in full] or ([] if verdict else [0]), [request.row for request in verdict]


def _feed(request: LogitsRequest, logits: npt.NDArray[np.float32], *, normalized: bool = False) -> None:
    sequence = request.sequence
    try:
        if sequence.error is None:
            sequence.search.feed(request.node, logits, normalized=normalized)
    except ContentError as error:
        sequence.error = error
