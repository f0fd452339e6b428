"""Exact marginals of events: best-first expansion of the token trie, with certified bounds.

The constrained probability of a verdict is the product of q(token | path) = p(token | path) / sum of p over the
tokens the trie allows there; the marginal of an event is the sum over all verdicts in which it happens. The trie
is unfolded from the root, always at the open node with the most mass, ties by token ids. At any moment

    lower(event) = mass of nodes where the event has happened for certain
    upper(event) = lower + mass of open nodes below which it still can

A worked example with three labels A, B, C and made-up probabilities:

    safe 0.5                 A 0.6 -> end 1.0                           P(unsafe) = 0.5
    unsafe 0.5 ->            B 0.3 -> end 0.5 | ,A 0.5 -> end 1.0       P(A) = 0.5 * (0.6 + 0.3 * 0.5) = 0.375
                             C 0.1 -> end 1.0                           P(B) = 0.5 * 0.3 = 0.15, P(C) = 0.05

An :class:`ExactSearch` does not run the model: it names the nodes to evaluate and is fed their logits, so that many
searches can share one pass. Nodes evaluated ahead of the sequential order are ignored until their turn comes, so
speculation (:mod:`tokmarg.scoring.speculation`) changes no result, given the same logits.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokmarg.grammar.branch_priors import BranchPriors
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

from .probabilities import Floats, allowed_logits, probabilities_within, softmax
from .speculation import BranchEstimates

__all__ = ["Bounds", "ExactSearch", "Marginals"]


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
        branch_priors: of the manifest; they decide which nodes are evaluated ahead, and given the same logits
            change no result.
    """

    def __init__(
        self,
        trie: Trie,
        *,
        tolerance: float,
        max_nodes: int,
        thresholds: Mapping[str, float | tuple[float, ...]],
        columns: Mapping[int, int] | None = None,
        branch_priors: BranchPriors | None = None,
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
        self._shares: dict[Node, list[float]] = {}  # constrained probability of each child, until expanded
        self._raw: dict[Node, dict[int, float]] = {}  # full-vocabulary probability of each child, at undecided nodes
        #: Mean shares of next tokens at the nodes evaluated so far.
        self.branch_estimates = BranchEstimates(branch_priors or {})
        self._open: list[tuple[float, tuple[int, ...], Node]] = []  # heap of (-mass, path, node)
        self._closed: list[tuple[float, Node]] = []  # complete verdicts
        # float64 [2, events]: mass of nodes where the event is certain, and of open ones below which it may happen
        self._masses: Floats = np.zeros((2, len(trie.events)))
        self._lower, self._pending = self._masses  # views
        self._expanded = 0
        self._add(self.root, 1.0)

    def wanted(self, limit: int) -> list[Node]:
        """Expands as far as the logits at hand allow.

        Args:
            limit: most nodes to name (more only where the coverage needs them).

        Returns:
            nodes to evaluate next: the one that is needed, then those that probably will be; empty when done.
        """
        if missing := [u.node for u in self._undecided if u.node not in self._raw]:
            first = [self._open[0][2]] if self._open else [self.root]
            ahead = self._ahead(min(limit - len(missing), self._max_nodes - self._expanded))
            return list(dict.fromkeys([*missing, *first, *ahead]))
        while self._open and self._expanded < self._max_nodes and not self._settled():
            node = self._open[0][2]
            if node not in self._shares:
                return self._ahead(min(limit, self._max_nodes - self._expanded))
            self._expand()
        return []

    def _ahead(self, limit: int) -> list[Node]:
        """The next nodes of the best-first order, by estimated shares where a node has not been evaluated.

        No more than would settle the search if the estimates were right, which saves a part of every last pass.
        """
        nodes: list[Node] = []
        heap = list(self._open)  # a copy of a heap is a heap
        mass = -sum(negative for negative, _, _ in heap)  # of open nodes: about the width of the widest interval
        # Where all intervals are narrow and a threshold lies in one, the nodes that would settle it are unknown.
        enough = self._tolerance if float(self._pending.max()) > self._tolerance else 0.0
        while heap and len(nodes) < limit and (mass > enough or not nodes):
            negative, _, node = heapq.heappop(heap)
            node = self._next_choice(node)
            mass += negative
            if node.complete:
                continue
            children = self._trie.children(node)
            shares = self._shares.get(node)
            if shares is None:
                nodes.append(node)
                shares = self.branch_estimates.shares(node, list(children))
            for child, share in zip(children.values(), shares, strict=True):
                if not child.complete:
                    mass -= negative * share
                    heapq.heappush(heap, (negative * share, child.path, child))
        return nodes

    def reads(self, node: Node) -> Literal["log_probabilities", "verdict_logits"]:
        """What is enough to know after a node: where the coverage needs it, shares of the whole vocabulary."""
        return "log_probabilities" if any(u.node is node for u in self._undecided) else "verdict_logits"

    def feed(self, node: Node, logits: npt.NDArray[np.float32], *, normalized: bool = False) -> None:
        """Takes the logits, float32 [columns], of the token after ``node``'s path.

        Args:
            node: that :meth:`wanted` named.
            logits: of the whole vocabulary where :meth:`reads` says ``log_probabilities``.
            normalized: they are log-probabilities already, and those of the allowed tokens are enough.

        Raises:
            ContentError: ``non_finite_logits``.
        """
        allowed = allowed_logits(self._trie, node, logits, self._columns)
        self._shares[node] = shares = softmax(allowed).tolist()
        self.branch_estimates.observe(node, self._trie.children(node), shares)
        if self.reads(node) == "log_probabilities":
            raw = np.exp(allowed) if normalized else probabilities_within(allowed, logits)
            self._raw[node] = dict(zip(self._trie.children(node), raw.tolist(), strict=True))

    def result(self) -> Marginals:
        """Bounds of every event; call when :meth:`wanted` is empty."""
        # Summed afresh and exactly rounded, so that no drift of the running sums enters the certified bounds.
        leaf_masses, nodes = zip(*self.leaves(), strict=True)
        masses = np.array(leaf_masses)  # [leaves]
        decided = np.array([self._trie.decided(node) for node in nodes], dtype=bool)  # [leaves, 2, events]
        bounds = {}
        for event, certain, open in zip(self._trie.events, *decided.transpose(1, 2, 0), strict=True):  # [leaves] each
            lower, upper = (math.fsum(masses[which].tolist()) for which in (certain, certain | open))
            bounds[event] = Bounds(min(1.0, lower), min(1.0, upper))
        narrow = all(b.upper - b.lower <= self._tolerance + 1e-12 for b in bounds.values())
        straddled = any(bounds[e].lower < t < bounds[e].upper for e, t in self._thresholds)
        return Marginals(bounds, self._coverage(), narrow and not straddled, self._expanded)

    def leaves(self) -> list[tuple[float, Node]]:
        """Where the expansion stands: complete verdicts and open nodes with their constrained mass, 1 in all."""
        return self._closed + [(-negative, node) for negative, _, node in self._open]

    def _settled(self) -> bool:
        """Whether every interval is narrow and no threshold lies inside one."""
        if float(self._pending.max()) > self._tolerance:
            return False
        for event, threshold in self._thresholds:
            i = self._trie.events.index(event)
            if self._lower[i] < threshold < self._lower[i] + self._pending[i]:
                return False
        return True

    def _expand(self) -> None:
        """Replaces the heaviest open node by its children."""
        negative, _, node = heapq.heappop(self._open)
        self._count(node, negative)
        self._expanded += 1
        for child, share in zip(self._trie.children(node).values(), self._shares.pop(node), strict=True):
            self._add(child, -negative * share)

    def _add(self, node: Node, mass: float) -> None:
        """Opens the node, or the first choice below it; closes a complete verdict."""
        node = self._next_choice(node)
        self._count(node, mass)
        if node.complete:
            self._closed.append((mass, node))
        else:
            heapq.heappush(self._open, (-mass, node.path, node))

    def _next_choice(self, node: Node) -> Node:
        """The node, or the first one below it with more than one child (or none)."""
        while (child := self._trie.only_child(node)) is not None:
            node = child
        return node

    def _count(self, node: Node, mass: float) -> None:
        """Adds mass to the sums of the events that are certain at a node, or still possible."""
        self._masses += mass * self._trie.decided(node)

    def _coverage(self) -> float | None:
        """Full-vocabulary probability that the first decision of the verdict is one of the grammar's."""
        if not self._undecided:
            return None
        reach = {self.root: 1.0}  # full-vocabulary probability of the path to each undecided node
        total = 0.0
        for node, decides, passes in self._undecided:
            raw = self._raw[node]
            total += reach[node] * sum(raw[token] for token in decides)
            children = self._trie.children(node)
            reach |= {children[token]: reach[node] * raw[token] for token in passes}
        return min(1.0, total)
