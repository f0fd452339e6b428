"""Distribution of the verdict's first label, after the forced ``unsafe`` (the baselines of arXiv:2511.22312).

It is read at the trie node where the grammar first offers several labels: for Llama Guard after ``unsafe``, newline,
``S``; where a lead is optional, with or without it, whichever is more probable. Where every label is one token there,
its logit is the model's own. Where the tokenizer splits digits, a label's logit is that of its first token plus the
constrained log-probability of the rest,

    S1    z("1") + log q(no digit)        S10   z("1") + log q("0")

so that the softmax is the distribution of whole labels, and a label of one token keeps its logit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

from .probabilities import Floats, allowed_logits, log_softmax

__all__ = ["FirstLabelSearch"]

#: Trie nodes at most; a grammar that needs more has no one place for a first label.
_MAX_NODES = 256

NodePredicate = Callable[[Node], bool]


class FirstLabelSearch:
    """P(unsafe) and the first label of one prompt; implements :class:`tokmarg.engine.sequence.Search`.

    Args:
        trie: the verdict trie of the prompt's role mode.
        columns: token id -> column of the logits (None = the full vocabulary).

    Raises:
        SpecError: the grammar has no place at which it offers several labels.
    """

    def __init__(self, trie: Trie, columns: Mapping[int, int] | None = None) -> None:
        self._trie, self._columns = trie, columns
        self.root = trie.root
        labels, unsafe = (1 << len(trie.grammar.labels)) - 1, trie.grammar.mask(UNSAFE)
        self._labels, self._unsafe_bit = labels, unsafe
        self._undecided: NodePredicate = lambda node: bool(node.possible & ~node.certain & unsafe)
        self._unlabelled: NodePredicate = lambda node: not (node.certain & labels)
        places = (self._place(u.node, u.decides) for u in trie.undecided(self.root))
        self._places = [place for place in dict.fromkeys(places) if place is not None]
        if not self._places:
            raise SpecError("the verdict grammar has no place at which it offers several labels")
        self._logits: dict[Node, Floats] = {}  # of each node's children, [children]
        needed = [
            node for place in self._places for node in (*_ancestors(place), *self._inner(place, self._unlabelled))
        ]
        needed += self._inner(self.root, self._undecided)
        self._needed = [node for node in dict.fromkeys(needed) if trie.only_child(node) is None]

    def wanted(self, limit: int) -> list[Node]:
        """All nodes that are not evaluated yet: they are known in advance, and few."""
        return [node for node in self._needed if node not in self._logits]

    def reads(self, _: Node) -> Literal["verdict_logits"]:
        """What is enough to know after a node: the allowed tokens' logits."""
        return "verdict_logits"

    def feed(self, node: Node, logits: npt.NDArray[np.float32], *, normalized: bool = False) -> None:
        """Takes the logits, float32 [columns], of the token after a node.

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

    def logits(self) -> Floats:
        """Logits z of the first label, float64 [labels], in the order of the trie's events."""
        place = max(self._places, key=self._log_mass)
        z = np.full(len(self._trie.grammar.labels), -np.inf)
        for child, logit in zip(self._trie.children(place).values(), self._logits[place].tolist(), strict=True):
            for node, log in self._leaves(child, self._unlabelled):
                for i in range(len(z)):
                    if node.certain >> i & 1:
                        z[i] = np.logaddexp(z[i], logit + log)
        return z

    def _place(self, node: Node, tokens: tuple[int, ...]) -> Node | None:
        """The node at which the grammar offers several labels: the first from ``node`` on that has more than one child
        from which a label is possible; None where there is none before a label is certain.

        Args:
            node: where to start.
            tokens: the children of ``node`` to look at.
        """
        children = [self._trie.children(node)[token] for token in tokens]
        while True:
            branches = [child for child in children if child.possible & self._labels]
            if len(branches) != 1 or not self._unlabelled(node):
                return node if branches and self._unlabelled(node) else None
            node = branches[0]
            children = list(self._trie.children(node).values())

    def _inner(self, start: Node, open: NodePredicate) -> list[Node]:
        """``start``, and the open incomplete nodes below it that it reaches through such nodes."""
        nodes = [start]
        for node in nodes:
            nodes += [child for child in self._trie.children(node).values() if open(child) and not child.complete]
            if len(nodes) > _MAX_NODES:
                raise SpecError("the verdict grammar has no one place for a first label: too many ways lead to one")
        return nodes

    def _leaves(self, node: Node, open: NodePredicate, log: float = 0.0) -> Iterator[tuple[Node, float]]:
        """The first nodes at and below ``node`` that are not open, each with ``log`` + its log-probability."""
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
        i = list(self._trie.children(parent)).index(child.token)
        return float(log_softmax(self._logits[parent])[i])

    def _log_mass(self, node: Node) -> float:
        """Constrained log-probability of the path to a node."""
        return math.fsum(self._log_q(other) for other in [*_ancestors(node), node])


def _ancestors(node: Node) -> list[Node]:
    """The ancestors of ``node``, from the root."""
    ancestors: list[Node] = []
    while node.parent is not None:
        node = node.parent
        ancestors.append(node)
    return ancestors[::-1]
