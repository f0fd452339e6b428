"""Speculation: estimates of the probability shares of next tokens, which decide the trie nodes to evaluate ahead.

An estimate never enters a result: from the same logits a search gives the same result to the bit, whatever it evaluates
ahead. (The logits are the same within the rounding of the precision only: they depend on which nodes share a pass, and
estimates choose those. ``docs/precision.md``, section Branch priors.)

An estimate is the better, the more alike the nodes are over which shares are averaged (a label's first token after the
same number of labels, say), so shares are kept by

    number of events that are certain, the token before, the token

The exporter measures mean shares on typical texts, the branch priors (``guesses`` in the manifest). A content's own
nodes correct them twice. Each token has a *lift*, the geometric mean of share / prior over the nodes evaluated so far:
a content on weapons has more of that label everywhere, and what the first list of labels shows holds for the lists that
follow. And what was seen at nodes of the same kind counts, against prior times lift for two nodes:

    prior 0.3, no node of any kind                                       0.3
    prior 0.3, elsewhere 0.2 where the prior was 0.1                     0.3 * 2 = 0.6
    prior 0.3, the same, and one node of this kind with 0.45             lift sqrt(2 * 1.5) = 1.73
                                                                         (2 * 0.3 * 1.73 + 0.45) / 3 = 0.50

Then all are scaled to add up to 1. Where there is no prior, all tokens of a node are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from tokmarg.grammar.branch_priors import BranchPriors

if TYPE_CHECKING:
    from tokmarg.grammar.node import Node

__all__ = ["BranchEstimates"]

K = TypeVar("K")

#: Number of the content's own nodes that prior times lift counts for.
_WEIGHT = 2.0
#: Added to shares, which may be 0.
_FLOOR = 1e-5


class BranchEstimates:
    """Mean shares of next tokens: of the branch priors and of one content's own nodes.

    Args:
        branch_priors: of the manifest; may be empty.
    """

    def __init__(self, branch_priors: BranchPriors) -> None:
        self._branch_priors = branch_priors
        self._seen: dict[tuple[int, int, int], tuple[float, int]] = {}  # key -> sum of the shares, their number
        self._lifts: dict[int, tuple[float, int]] = {}  # token -> sum of log(share / prior), their number
        self._known_priors: dict[Node, list[float]] = {}  # of nodes whose shares have been estimated

    def observe(self, node: Node, tokens: Iterable[int], shares: Iterable[float]) -> None:
        """Takes the shares of the tokens after a node that was evaluated."""
        certain, tokens = node.certain.bit_count(), list(tokens)
        for token, share, prior in zip(tokens, shares, self._priors(node, tokens), strict=True):
            _add(self._seen, (certain, node.token, token), share)
            _add(self._lifts, token, math.log((share + _FLOOR) / prior))

    def shares(self, node: Node, tokens: Sequence[int]) -> list[float]:
        """Estimated shares of the tokens after a node, 1 in all; equal ones where nothing is known."""
        certain, means = node.certain.bit_count(), []
        for token, prior in zip(tokens, self._priors(node, tokens), strict=True):
            total, count = self._seen.get((certain, node.token, token), (0.0, 0))
            logs, times = self._lifts.get(token, (0.0, 1))
            means.append((total + _WEIGHT * prior * math.exp(logs / times)) / (count + _WEIGHT))
        norm = sum(means)
        return [mean / norm for mean in means]

    def _priors(self, node: Node, tokens: Sequence[int]) -> list[float]:
        """Of the tokens after a node, about 1 in all, each above 0."""
        known = self._known_priors.get(node)
        if known is not None:
            return known
        certain, equal = node.certain.bit_count(), 1 / len(tokens)
        priors = [self._branch_priors.get((certain, node.token, token), equal) for token in tokens]
        norm = sum(priors)
        self._known_priors[node] = known = [(prior / norm if norm else equal) + _FLOOR for prior in priors]
        return known

    def totals(self) -> dict[tuple[int, int, int], tuple[float, int]]:
        """Key -> sum of the shares observed, and their number; without the priors."""
        return dict(self._seen)


def _add(sums: dict[K, tuple[float, int]], key: K, value: float) -> None:
    total, count = sums.get(key, (0.0, 0))
    sums[key] = (total + value, count + 1)
