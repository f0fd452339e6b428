"""Speculation: estimates of the probability shares of next tokens, which decide the trie nodes to evaluate ahead.

An estimate never enters a result: from the same logits a search gives the same result to the bit, whatever it evaluates
ahead. (The logits are the same within the rounding of the precision only: they depend on which nodes share a pass, and
estimates choose those. ``docs/precision.md``, section Branch priors.)

An estimate is the better, the more alike the nodes are over which shares are averaged (a label's first token after the
same number of labels, say), so shares are kept by

    number of events that are certain, the token before, the token

The exporter measures mean shares on typical texts, the branch priors (``guesses`` in the manifest); a search updates
them with the nodes of its own content. A prior counts like two nodes:

    prior 0.9, no node seen            0.9
    prior 0.9, one node with 0.3       (2 * 0.9 + 0.3) / 3 = 0.7
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tokmarg.grammar.branch_priors import BranchPriors

if TYPE_CHECKING:
    from tokmarg.grammar.node import Node

__all__ = ["BranchEstimates"]

#: Number of the content's own nodes that a prior counts for.
_WEIGHT = 2.0


class BranchEstimates:
    """Mean shares of next tokens: of the branch priors and of one content's own nodes.

    Args:
        branch_priors: of the manifest; may be empty.
    """

    def __init__(self, branch_priors: BranchPriors) -> None:
        self._branch_priors = branch_priors
        self._seen: dict[tuple[int, int, int], tuple[float, int]] = {}  # key -> sum of the shares, their number

    def observe(self, node: Node, tokens: Iterable[int], shares: Iterable[float]) -> None:
        """Takes the shares of the tokens after a node that was evaluated."""
        for token, share in zip(tokens, shares, strict=True):
            key = (node.certain.bit_count(), node.token, token)
            total, count = self._seen.get(key, (0.0, 0))
            self._seen[key] = (total + share, count + 1)

    def shares(self, node: Node, tokens: Sequence[int]) -> list[float]:
        """Estimated shares of the tokens after a node, 1 in all; equal ones where nothing is known."""
        certain, means = node.certain.bit_count(), []
        for token in tokens:
            key = (certain, node.token, token)
            prior, (total, count) = self._branch_priors.get(key), self._seen.get(key, (0.0, 0))
            if prior is not None:
                means.append((total + prior * _WEIGHT) / (count + _WEIGHT))
            else:
                means.append(total / count if count else 1 / len(tokens))
        norm = sum(means)
        return [mean / norm for mean in means] if norm else [1 / len(tokens)] * len(tokens)

    def totals(self) -> dict[tuple[int, int, int], tuple[float, int]]:
        """Key -> sum of the shares observed, and their number; without the priors."""
        return dict(self._seen)
