"""Marginals of events, by best-first expansion of the token trie, with certified bounds.

The constrained probability of a verdict is the product of q(token | path) = p(token | path) / sum of p over the
tokens the trie allows there; the marginal of an event is the sum over all verdicts in which it happens. The trie
is unfolded from the root, always at the open node with the most mass, ties by token ids. At any moment

    lower(event) = mass of nodes where the event has happened for certain
    upper(event) = lower + mass of open nodes below which it still can

A worked example with three labels A, B, C and made-up probabilities:

    safe 0.5                 A 0.6 -> end 1.0                           P(unsafe) = 0.5
    unsafe 0.5 ->            B 0.3 -> end 0.5 | ,A 0.5 -> end 1.0       P(A) = 0.5 * (0.6 + 0.3 * 0.5) = 0.375
                             C 0.1 -> end 1.0                           P(B) = 0.5 * 0.3 = 0.15, P(C) = 0.05

A :class:`ExactSearch` does not run the model: it says which nodes it wants evaluated and is fed their logits, so that
many searches can share one pass. Nodes evaluated beyond the sequential order are ignored until their turn comes,
therefore what rides along never changes a result.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokmarg.grammar.branch_priors import BranchPriors
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

from .probabilities import allowed_logits, check_logits
from .speculation import BranchEstimates

__all__ = ["Bounds", "ExactSearch", "Marginals"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Certified interval of one event's probability."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """The point estimate."""
        return (self.lower + self.upper) / 2


@dataclass(frozen=True, slots=True)
class Marginals:
    """Outcome of a search: event name -> bounds, the coverage, and how far the search went."""

    bounds: Mapping[str, Bounds]
    coverage: float | None
    converged: bool
    evaluated: int


class ExactSearch:
    """Best-first expansion for one content.

    Args:
        trie: the verdict trie of the content's role mode.
        tolerance: stop when the widest interval is at most this wide.
        max_nodes: stop after this many expanded nodes.
        thresholds: event name -> flagging threshold, or several; while one lies strictly inside its event's interval,
            the expansion goes on within the budget.
        columns: token id -> column of the logits (None = the full vocabulary, column = token id). With a partial
            head there is no coverage.
        guesses: of the manifest; decide what is evaluated ahead, and no result.
    """

    def __init__(
        self,
        trie: Trie,
        *,
        tolerance: float,
        max_nodes: int,
        thresholds: Mapping[str, float | tuple[float, ...]],
        columns: Mapping[int, int] | None = None,
        guesses: BranchPriors | None = None,
    ) -> None:
        self._trie, self._tolerance, self._max_nodes = trie, tolerance, max_nodes
        self._columns = columns
        self.root = trie.root
        self._thresholds = [
            (event, value)
            for event, values in thresholds.items()
            if event in trie.events
            for value in (values if isinstance(values, tuple) else (values,))
        ]
        self._undecided = trie.undecided(self.root) if columns is None else []
        self._shares: dict[Node, list[float]] = {}  # constrained probability of each allowed token, until expanded
        self._raw: dict[Node, dict[int, float]] = {}  # raw probability of each allowed token, at undecided nodes
        #: Shares of tokens at the nodes seen so far.
        self.habits = BranchEstimates(guesses or {})
        self._open: list[tuple[float, tuple[int, ...], Node]] = []  # heap of (-mass, path, node)
        self._closed: list[tuple[float, Node]] = []  # complete verdicts
        # Of each event: mass of nodes where it is certain, and of those below which it may still happen.
        self._lower, self._pending = self._masses = np.zeros((2, len(trie.events)))
        self._expanded = 0
        self._add(self.root, 1.0)

    def wanted(self, limit: int) -> list[Node]:
        """Expands as far as the logits at hand allow.

        Args:
            limit: how many nodes to ask for at most (more only where the coverage needs them).

        Returns:
            nodes to evaluate next, the needed one first, then those likely to be needed; empty when done.
        """
        if missing := [u.node for u in self._undecided if u.node not in self._raw]:
            first = [self._open[0][2]] if self._open else [self.root]
            return list(dict.fromkeys([*missing, *first, *self._ahead(limit - len(missing))]))
        while self._open and self._expanded < self._max_nodes and not self._settled():
            node = self._open[0][2]
            if node not in self._shares:
                return self._ahead(min(limit, self._max_nodes - self._expanded))
            self._expand()
        return []

    def _ahead(self, limit: int) -> list[Node]:
        """The next nodes of the best-first order, by a guess where the model has not been asked yet.

        No more than would settle the search if the guess were right, which saves a part of every last pass.
        """
        found: list[Node] = []
        guess = list(self._open)  # a copy of a heap is a heap
        mass = -sum(negative for negative, _, _ in guess)  # of open nodes: about what the widest interval is wide
        # Where the intervals are narrow and a threshold lies in one, nobody knows what settles it.
        enough = self._tolerance if float(self._pending.max()) > self._tolerance else 0.0
        while guess and len(found) < limit and (mass > enough or not found):
            negative, _, node = heapq.heappop(guess)
            node = self._through(node)
            mass += negative
            if node.complete:
                continue
            below = self._trie.children(node)
            shares = self._shares.get(node)
            if shares is None:
                found.append(node)
                shares = self.habits.shares(node, list(below))
            for child, share in zip(below.values(), shares, strict=True):
                if not child.complete:
                    mass -= negative * share
                    heapq.heappush(guess, (negative * share, child.path, child))
        return found

    def whole(self, node: Node) -> bool:
        """Whether the coverage needs the whole vocabulary's logits behind a node."""
        return any(u.node is node for u in self._undecided)

    def feed(self, node: Node, logits: npt.NDArray[np.float32]) -> None:
        """Takes the logits [columns] float32 that the model gives behind ``node``'s path.

        Raises:
            ContentError: ``non_finite_logits``.
        """
        allowed = allowed_logits(self._trie, node, logits, self._columns)
        self._shares[node] = shares = _softmax(allowed).tolist()
        self.habits.note(node, self._trie.children(node), shares)
        if self.whole(node):
            check_logits(logits)
            top = float(logits.max())
            total = float(np.exp(logits.astype(np.float64) - top).sum())
            self._raw[node] = dict(
                zip(self._trie.children(node), (np.exp(allowed - top) / total).tolist(), strict=True)
            )

    def result(self) -> Marginals:
        """Bounds of every event; call when :meth:`wanted` is empty."""
        # Summed afresh and exactly rounded, so that no drift of the running sums enters the certified bounds.
        masses, nodes = zip(*self.leaves(), strict=True)
        every = np.array(masses)
        certain, open = np.array([self._trie.decided(node) for node in nodes], dtype=bool).transpose(1, 2, 0)
        bounds = {}
        for event, happened, may in zip(self._trie.events, certain, open, strict=True):
            lower, upper = (math.fsum(every[which].tolist()) for which in (happened, happened | may))
            bounds[event] = Bounds(min(1.0, lower), min(1.0, upper))
        narrow = all(b.upper - b.lower <= self._tolerance + 1e-12 for b in bounds.values())
        decided = not any(bounds[e].lower < t < bounds[e].upper for e, t in self._thresholds)
        return Marginals(bounds, self._coverage(), narrow and decided, self._expanded)

    def leaves(self) -> list[tuple[float, Node]]:
        """Where the expansion stands: complete verdicts and open nodes with their constrained mass, 1 in all."""
        return self._closed + [(-negative, node) for negative, _, node in self._open]

    def _settled(self) -> bool:
        if float(self._pending.max()) > self._tolerance:
            return False
        for event, threshold in self._thresholds:
            i = self._trie.events.index(event)
            if self._lower[i] < threshold < self._lower[i] + self._pending[i]:
                return False
        return True

    def _expand(self) -> None:
        negative, _, node = heapq.heappop(self._open)
        self._count(node, negative)
        self._expanded += 1
        for child, share in zip(self._trie.children(node).values(), self._shares.pop(node), strict=True):
            self._add(child, -negative * share)

    def _add(self, node: Node, mass: float) -> None:
        """Opens the node, or the first one below it at which there is a choice; closes a complete verdict."""
        node = self._through(node)
        self._count(node, mass)
        if node.complete:
            self._closed.append((mass, node))
        else:
            heapq.heappush(self._open, (-mass, node.path, node))

    def _through(self, node: Node) -> Node:
        """The node, or the first one below it at which there is a choice."""
        while (child := self._trie.only_child(node)) is not None:
            node = child
        return node

    def _count(self, node: Node, mass: float) -> None:
        self._masses += mass * self._trie.decided(node)

    def _coverage(self) -> float | None:
        if not self._undecided:
            return None
        reach = {self.root: 1.0}
        total = 0.0
        for node, decides, passes in self._undecided:
            raw = self._raw[node]
            total += reach[node] * sum(raw[token] for token in decides)
            children = self._trie.children(node)
            reach |= {children[token]: reach[node] * raw[token] for token in passes}
        return min(1.0, total)


def _softmax(logits: Floats) -> Floats:
    q = np.exp(logits - logits.max())
    total: float = q.sum()
    return np.asarray(q / total)
