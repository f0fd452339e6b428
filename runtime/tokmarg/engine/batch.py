"""Batch layout: which tokens one pass carries, and what each of them sees.

What is evaluated is up to the searches: the verdict trie's best-first expansion, or a free decode. A
:class:`~tokmarg.engine.sequence.Search` names token paths and is fed their logits. A :class:`TreeBatch` takes tokens of
sequences and remembers which cached ones they see.
"""

from __future__ import annotations

from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.errors import ContentError

from .forward import Outputs
from .sequence import Sequence, TokenPath
from .session import Session

__all__ = ["PACK_TOKENS", "Logits", "TreeBatch"]

#: New tokens that one pass carries at most; longer prompts are fed in several passes.
PACK_TOKENS = 512


@dataclass(slots=True)
class TreeBatch:
    """A pass being laid out behind ``past`` cached tokens: rows are new tokens, columns cache slots, then the rows."""

    past: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sees: list[tuple[int, int, list[tuple[int, int]]]] = field(default_factory=list)  # rows [start, end) and slots
    logits_for: list[tuple[Sequence[Any], Any, int]] = field(default_factory=list)

    def prompt(self, job: Sequence[Any], most: int) -> bool:
        """Lays out what of a job's prompt a pass of ``most`` tokens has room for; returns whether that was the rest."""
        at, end = job.laid_out, len(job.token_ids)
        part = job.token_ids[at : at + max(0, most - len(self.tokens))]
        if part:
            slot = self._add(part, at, [(0, job.shared), *job.spans])
            job.spans.append((slot, slot + len(part)))
            job.laid_out += len(part)
        if job.laid_out < end:
            return False
        job.slots[job.search.root] = job.spans[-1][1] - 1
        return True

    def nodes(self, job: Sequence[Any], ahead: int, rows: int | None = None) -> None:
        """Lays out the nodes that a job's search wants next, with what is missing of their paths.

        Args:
            job: its prompt has been laid out.
            ahead: about how many nodes at most.
            rows: nodes that do not fit into a pass of so many rows wait for the next one, but for the first.
        """
        for node in job.search.wanted(ahead):
            missing = [] if job.slots.get(node, -1) >= self.past else _missing(job, node)
            if rows is not None and self.logits_for and len(self.tokens) + len(missing) > rows:
                return
            for step in missing:
                visible = [(0, job.shared), *job.spans, *_ancestors(job, step)]
                job.slots[step] = self._add([step.token], len(job.token_ids) + step.depth - 1, visible)
            self.logits_for.append((job, node, job.slots[node] - self.past))

    def _add(self, tokens: GenericSequence[int], position: int, visible: list[tuple[int, int]]) -> int:
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
            mask[start:end, past + start : past + end] = (
                np.tri(end - start, dtype=np.bool_) if end - start > 1 else True
            )
        return mask


def _missing(job: Sequence[Any], node: TokenPath) -> list[TokenPath]:
    """The node and those of its ancestors that no pass has carried yet, from the top."""
    found = [node]
    while node.parent is not None and node.parent not in job.slots:
        node = node.parent
        found.append(node)
    return found[::-1]


def _ancestors(job: Sequence[Any], node: TokenPath) -> list[tuple[int, int]]:
    """Slots of the tokens between the prompt and a node."""
    found = []
    above = node.parent
    while above is not None and above is not job.search.root:
        found.append((job.slots[above], job.slots[above] + 1))
        above = above.parent
    return found


class Logits:
    """Which output layer serves which node, and feeding the searches what it says.

    Args:
        session: the graph.
        own_verdicts: the policy is the bundle's own, whose verdict tokens the graph's small output layer has.
    """

    def __init__(self, session: Session, own_verdicts: bool) -> None:
        ids = session.graph.verdict_token_ids if own_verdicts else None
        self._verdict_ids = None if ids is None else np.asarray(ids)
        self._columns = session.graph.vocab_size

    def split(self, wanted: GenericSequence[tuple[Sequence[Any], Any, int]]) -> tuple[list[Any], list[Any]]:
        """What needs the whole vocabulary, and what verdict tokens are enough for; each as (job, node, row)."""
        whole: list[tuple[Sequence[Any], Any, int]] = []
        narrow: list[tuple[Sequence[Any], Any, int]] = []
        for one in wanted:
            job, node, _ = one
            (whole if self._verdict_ids is None or job.search.whole(node) else narrow).append(one)
        return whole, narrow

    def feed(
        self,
        whole: GenericSequence[tuple[Sequence[Any], Any, int]],
        narrow: GenericSequence[tuple[Sequence[Any], Any, int]],
        outputs: Outputs,
    ) -> None:
        """Feeds the searches: the first logits to those of ``whole``, verdict logits to those of ``narrow``."""
        for (job, node, _), row in zip(whole, outputs.logits, strict=False):
            _feed(job, node, row)
        if narrow:
            spread = np.full(self._columns, -np.inf, dtype=np.float32)
            for (job, node, _), row in zip(narrow, outputs.verdict_logits, strict=True):
                spread[self._verdict_ids] = row
                _feed(job, node, spread)


def _feed(job: Sequence[Any], node: TokenPath, logits: npt.NDArray[np.float32]) -> None:
    try:
        if job.error is None:
            job.search.feed(node, logits)
    except ContentError as error:
        job.error = error
