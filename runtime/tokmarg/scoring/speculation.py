"""Which share of the probability verdict tokens usually have: what is worth evaluating before it is known to be needed.

A guess never enters a result. It is right more often the more alike the places are at which tokens are compared: a
label's first token behind as many labels, say. So shares are kept by

    events that are certain so far, the token before, the token

The exporter finds them on typical texts and writes them into the manifest (``guesses``); a search goes on from there
with what its own content shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tokmarg.documents import Fields

if TYPE_CHECKING:
    from tokmarg.grammar.trie import Node

__all__ = ["Guesses", "Habits", "parse_guesses"]

#: Events certain so far, token before, token -> mean share.
Guesses = Mapping[tuple[int, int, int], float]
#: How many of a content's own nodes a guess of the manifest counts for.
_WEIGHT = 2.0


class Habits:
    """Mean shares of tokens at the nodes of one content.

    Args:
        guesses: what is known before.
    """

    def __init__(self, guesses: Guesses) -> None:
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


def parse_guesses(f: Fields) -> Guesses:
    """Reads ``guesses`` of a manifest: a list of [events certain so far, token before or -1, token, mean share]."""
    found: dict[tuple[int, int, int], float] = {}
    for i, row in enumerate(f.get("guesses", list, [])):
        if not isinstance(row, list) or len(row) != 4 or not all(type(number) is int for number in row[:3]):
            raise f.fail(f"guesses[{i}]", "must be [events so far, token before, token, share], three of them integers")
        certain, before, token, share = row
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise f.fail(f"guesses[{i}]", "share must be a number from 0 to 1")
        if certain < 0 or before < -1 or token < 0:
            raise f.fail(f"guesses[{i}]", "has a negative number that is no token before")
        found[certain, before, token] = float(share)
    return found
