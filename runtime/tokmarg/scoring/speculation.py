"""Which share of the probability verdict tokens usually have: what is worth evaluating before it is known to be needed.

A guess never enters a result. It is right more often the more alike the places are at which tokens are compared: a
label's first token behind as many labels, say. So shares are kept by

    events that are certain so far, the token before, the token

The exporter finds them on typical texts and writes them into the manifest (``guesses``); a search goes on from there
with what its own content shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tokmarg.grammar.branch_priors import BranchPriors

if TYPE_CHECKING:
    from tokmarg.grammar.node import Node

__all__ = ["BranchEstimates"]

#: How many of a content's own nodes a guess of the manifest counts for.
_WEIGHT = 2.0


class BranchEstimates:
    """Mean shares of tokens at the nodes of one content.

    Args:
        guesses: what is known before.
    """

    def __init__(self, guesses: BranchPriors) -> None:
        self._guesses = guesses
        self._seen: dict[tuple[int, int, int], tuple[float, int]] = {}  # sum of the shares, and how many

    def note(self, node: Node, tokens: Iterable[int], shares: Iterable[float]) -> None:
        """Takes the shares of the tokens behind a node."""
        for token, share in zip(tokens, shares, strict=True):
            key = (node.certain.bit_count(), node.token, token)
            total, count = self._seen.get(key, (0.0, 0))
            self._seen[key] = (total + share, count + 1)

    def shares(self, node: Node, tokens: Sequence[int]) -> list[float]:
        """A guess of the shares behind a node, 1 in all; even where nothing is known."""
        certain, means = node.certain.bit_count(), []
        for token in tokens:
            key = (certain, node.token, token)
            guess, (total, count) = self._guesses.get(key), self._seen.get(key, (0.0, 0))
            if guess is not None:
                means.append((total + guess * _WEIGHT) / (count + _WEIGHT))
            else:
                means.append(total / count if count else 1 / len(tokens))
        whole = sum(means)
        return [mean / whole for mean in means] if whole else [1 / len(tokens)] * len(tokens)

    def totals(self) -> dict[tuple[int, int, int], tuple[float, int]]:
        """What was noted: the sum of the shares, and how many there were."""
        return dict(self._seen)
