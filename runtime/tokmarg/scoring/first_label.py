"""The distribution of the verdict's first label, behind the forced ``unsafe``.

The place is where the grammar first offers several labels: for Llama Guard behind ``unsafe``, newline, ``S``; where
a lead is optional, on the side of the lead that has more probability. Where every label is one token there, its logit
is the model's own. Where the tokenizer splits digits, a label's logit is that of its first token plus the
log-probability of what follows among what the grammar allows,

    S1    z("1") + log q(no digit)        S10   z("1") + log q("0")

so that the softmax is the distribution of whole labels, and a label of one token keeps its logit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

from .probabilities import allowed_logits

__all__ = ["FirstLabel"]

#: Trie nodes at most; a grammar that needs more has no one place for a first label.
_MAX_NODES = 256

Open = Callable[[Node], bool]


class FirstLabel:
    """Evaluates the decision and the first label of one content; a search of the engine.

    Args:
        trie: the verdict trie of the content's role mode.
        columns: token id -> column of the logits (None = the full vocabulary).

    Raises:
        SpecError: the grammar has no place at which it offers several labels.
    """

    def __init__(self, trie: Trie, columns: Mapping[int, int] | None = None) -> None:
        self._trie, self._columns = trie, columns
        self.root = trie.root
        labels, unsafe = (1 << len(trie.grammar.labels)) - 1, trie.grammar.mask(UNSAFE)
        self._labels, self._unsafe_bit = labels, unsafe
        self._undecided: Open = lambda node: bool(node.possible & ~node.certain & unsafe)
        self._unlabelled: Open = lambda node: not (node.certain & labels)
        places = (self._place(u.node, u.decides) for u in trie.undecided(self.root))
        self._places = [place for place in dict.fromkeys(places) if place is not None]
        if not self._places:
            raise SpecError("the verdict grammar has no place at which it offers several labels")
        self._logits: dict[Node, npt.NDArray[np.float64]] = {}
        needed = [node for place in self._places for node in (*_above(place), *self._inner(place, self._unlabelled))]
        needed += self._inner(self.root, self._undecided)
        self._needed = [node for node in dict.fromkeys(needed) if trie.only_child(node) is None]

    def wanted(self, limit: int) -> list[Node]:
        """All nodes at once: they are known beforehand, and few."""
        return [node for node in self._needed if node not in self._logits]

    def whole(self, _: Node) -> bool:
        """Whether the whole vocabulary's logits matter behind a node: the labels' own are enough."""
        return False

    def feed(self, node: Node, logits: npt.NDArray[np.float32]) -> None:
        """Takes the logits [columns] behind a node.

        Raises:
            ContentError: ``non_finite_logits``.
        """
        self._logits[node] = allowed_logits(self._trie, node, logits, self._columns)

    @property
    def evaluated(self) -> int:
        """Nodes at which the model was evaluated."""
        return len(self._logits)

    def unsafe(self) -> float:
        """P(verdict is unsafe), constrained to the grammar."""
        leaves = self._leaves(self.root, self._undecided)
        return min(1.0, math.fsum(math.exp(log) for node, log in leaves if node.certain & self._unsafe_bit))

    def logits(self) -> npt.NDArray[np.float64]:
        """z [labels] of the first label, in the order of the trie's events."""
        place = max(self._places, key=self._log_mass)
        z = np.full(len(self._trie.grammar.labels), -np.inf)
        for child, logit in zip(self._trie.children(place).values(), self._logits[place].tolist(), strict=True):
            for node, log in self._leaves(child, self._unlabelled):
                for i in range(len(z)):
                    if node.certain >> i & 1:
                        z[i] = np.logaddexp(z[i], logit + log)
        return z

    def _place(self, node: Node, tokens: tuple[int, ...]) -> Node | None:
        """The first node behind ``tokens`` of ``node`` at which the way to the labels forks."""
        children = [self._trie.children(node)[token] for token in tokens]
        while True:
            ways = [child for child in children if child.possible & self._labels]
            if len(ways) != 1 or not self._unlabelled(node):
                return node if ways and self._unlabelled(node) else None
            node = ways[0]
            children = list(self._trie.children(node).values())

    def _inner(self, start: Node, open: Open) -> list[Node]:
        """The nodes at and below ``start`` that are open, without those at and behind the first that is not."""
        found = [start]
        for node in found:
            found += [child for child in self._trie.children(node).values() if open(child) and not child.complete]
            if len(found) > _MAX_NODES:
                raise SpecError("the verdict grammar has no one place for a first label: too many ways lead to one")
        return found

    def _leaves(self, node: Node, open: Open, log: float = 0.0) -> Iterator[tuple[Node, float]]:
        """The first nodes at and below ``node`` that are not open, with their log-probabilities."""
        if node.complete or not open(node):
            yield node, log
            return
        for child in self._trie.children(node).values():
            yield from self._leaves(child, open, log + self._log_q(child))

    def _log_q(self, child: Node) -> float:
        """Log-probability of a node's token among those its parent allows."""
        parent = child.parent
        if parent is None or self._trie.only_child(parent) is not None:
            return 0.0
        logits = self._logits[parent]
        at = list(self._trie.children(parent)).index(child.token)
        return float(logits[at] - np.logaddexp.reduce(logits))

    def _log_mass(self, node: Node) -> float:
        """Log-probability of the path to a node."""
        return math.fsum(self._log_q(other) for other in [*_above(node), node])


def _above(node: Node) -> list[Node]:
    """The nodes before ``node``, from the root."""
    found: list[Node] = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found[::-1]
