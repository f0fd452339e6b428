"""What a trained guard would say to a message, in place of the logits of random weights.

A pass of random weights costs what one of trained weights costs, but their verdicts never settle: every search would
take all its nodes. So every message has a belief, from the probabilities that the reference guard gives it. The passes
are real; before a search sees the logits of a node, those of verdict tokens are replaced by the belief's.

A belief as a distribution of verdicts: unsafe or not; if so, labels independent of each other, but at least one, named
in the policy's order. A share of ``STRAY`` goes elsewhere each time: to labels out of order, to another spelling, to
a verdict without the lead, to text that is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg import Guard
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

STRAY = 0.001
UNSAFE = "unsafe"


@dataclass(frozen=True)
class Belief:
    """Of one message.

    Attributes:
        unsafe: P(unsafe).
        labels: label -> its probability where the message is unsafe, in the policy's order.
    """

    unsafe: float
    labels: Mapping[str, float]
    _shares: dict[tuple[int, ...], list[float]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, unsafe: float, labels: Mapping[str, float]) -> Belief:
        """From probabilities of the message."""
        return cls(unsafe, {label: min(0.999, max(1e-4, p / max(unsafe, 1e-6))) for label, p in labels.items()})

    def shares(self, trie: Trie, node: Node) -> list[float]:
        """Constrained probabilities of a node's children, in their order."""
        known = self._shares.get(node.path)
        if known is None:
            weights = self._weights(trie, node, list(trie.children(node).values()))
            total = sum(weights)
            known = self._shares[node.path] = [weight / total for weight in weights]
        return known

    def _weights(self, trie: Trie, node: Node, children: Sequence[Node]) -> list[float]:
        bit = {event: 1 << i for i, event in enumerate(trie.events)}
        unsafe = bit[UNSAFE]
        if not node.certain & unsafe:
            if not node.possible & unsafe:
                return [1.0] * len(children)
            open_ = [bool(child.possible & unsafe and not child.certain & unsafe) for child in children]
            said = STRAY if any(open_) else 1.0  # a lead comes first
            chance = [self.unsafe if child.certain & unsafe else 1 - self.unsafe for child in children]
            return [1.0 if lead else said * p for lead, p in zip(open_, chance, strict=True)]
        following, end = self.following([label for label in self.labels if node.certain & bit[label]])
        weights = []
        seen: set[int] = set()
        for child in reversed(children):  # a token of a higher id is longer: "S1,S2" and not "S1, S2"
            new = child.certain & ~node.certain
            left = child.possible & ~child.certain
            if new:
                weight = sum(p for label, p in following.items() if new & bit[label])
            elif left:
                weight = sum(p for label, p in following.items() if left & bit[label])
                weight *= STRAY if left in seen else 1.0  # another spelling
                seen.add(left)
            else:
                weight = end
            weights.append(max(weight, 1e-9))
        return weights[::-1]

    def following(self, named: Sequence[str]) -> tuple[dict[str, float], float]:
        """Label -> probability that it is named next, and that of none, after some labels.

        >>> Belief(1.0, {"A": 0.5, "B": 0.5}).following(["A"])
        ({'B': 0.4995}, 0.4995)
        """
        order = list(self.labels)
        first = order.index(named[-1]) + 1 if named else 0
        chances: dict[str, float] = {}
        left = 1.0
        for label in order[first:]:
            chances[label] = left * self.labels[label]
            left -= chances[label]
        if not named:
            return {label: p / (1 - left) for label, p in chances.items()}, 0.0
        missed = {label: self.labels[label] for label in order[:first] if label not in named}
        kept = 1 - STRAY
        chances = {label: kept * p for label, p in chances.items()}
        total = sum(missed.values()) or 1.0
        return {**{label: STRAY * p / total for label, p in missed.items()}, **chances}, kept * left

    def verdict(self, trie: Trie) -> list[int]:
        """Tokens of the verdict that greedy decoding gives, its end included."""
        node = trie.root
        while not node.complete:
            shares = self.shares(trie, node)
            node = list(trie.children(node).values())[shares.index(max(shares))]
        return list(node.path)

    def lead(self, trie: Trie) -> list[int]:
        """The verdict's tokens before the one that says whether the message is unsafe."""
        bit, node, lead = 1 << trie.events.index(UNSAFE), trie.root, []
        for token in self.verdict(trie):
            node = trie.children(node)[token]
            if node.certain & bit or not node.possible & bit:
                break
            lead.append(token)
        return lead


def install(guard: Guard, beliefs: Mapping[tuple[int, ...], Belief]) -> None:
    """Makes exact searches of a guard see beliefs.

    Args:
        guard: with the full head.
        beliefs: by the token ids of the prompts.
    """
    calls = guard._pipeline.calls
    make = calls.exact_scorer
    vocabulary = guard.manifest.graph.vocab_size
    rest = math.log(STRAY / vocabulary)

    def exact_scorer(*arguments: Any) -> Any:
        scorer = make(*arguments)
        find = scorer.search

        def search(prompt: Any) -> Any:
            found = find(prompt)
            belief, trie, feed = beliefs[tuple(prompt.token_ids)], found._trie, found.feed
            believed = np.full(vocabulary, rest, dtype=np.float32)

            def feed_believed(node: Node, logits: npt.NDArray[np.float32], *, normalized: bool = False) -> None:
                tokens = list(trie.children(node))
                believed[tokens] = np.log(belief.shares(trie, node))
                feed(node, believed)
                believed[tokens] = rest

            found.feed = feed_believed
            return found

        scorer.search = search
        return scorer

    calls.exact_scorer = exact_scorer  # type: ignore[method-assign]
