"""Greedy decoding, and the two scores of arXiv:2511.22312 along its path.

``greedy`` gives the labels that the generated verdict names. ``token`` and ``fixed-place`` are the paper's methods 1
and 2: the probability of the token that completes an event (``unsafe``, a label), and the running product of those
probabilities, ``unsafe`` being the first factor. A label that is named twice keeps its last score, and both times are
factors. The factors are tokens: one that completes two events, as ``<UNSAFE-S1>`` does, or that is of two events' own
tokens, is a factor once, and what it completes has one product.

Where the tokenizer spells an event with several tokens, its *own tokens* count as one: from the first that tells it
from the other options of its decision to the one that completes it. Of ``S10`` they are what follows the ``S`` that all
labels share; of ``unsafe`` all, since ``safe`` begins otherwise:

    uns afe    p("uns") p("afe")
    S 1 0      p("1") p("0")
    S 1 ,      p("1") times the probability of all tokens that do not go on to another label
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from .free_decoding import DecodedPath, PathReader
from .probabilities import full_vocabulary_probabilities

__all__ = ["GreedySearch"]


class GreedySearch:
    """Greedy decoding of one prompt; implements :class:`tokmarg.engine.sequence.Search`.

    Args:
        reader: of the prompt's role mode.
        max_depth: most tokens to generate.

    Attributes:
        path: the tokens generated so far.
        token_scores, fixed_place_scores: event -> score, of the events that the path completes.
    """

    def __init__(self, reader: PathReader, max_depth: int) -> None:
        self._reader, self._max_depth = reader, max_depth
        self.root = self.path = reader.root()
        self.token_scores: dict[str, float] = {}
        self.fixed_place_scores: dict[str, float] = {}
        self._running = 1.0
        self._factors: set[int] = set()  # depths of the tokens in it
        self._probabilities: list[float] = []  # of the path's tokens
        self._starts: dict[int, int] = {}  # bit of an open label -> depth at which its own tokens begin

    @property
    def ended(self) -> bool:
        """Whether the verdict has ended, rather than reached the depth limit."""
        return self._reader.ended(self.path)

    @property
    def text(self) -> str:
        """The generated text, without the end of turn."""
        return self._reader.text(self.path)

    def wanted(self, limit: int) -> list[DecodedPath]:
        """The path so far, until it ends."""
        return [] if self.ended or self.path.depth == self._max_depth else [self.path]

    def reads(self, _: DecodedPath) -> Literal["logits"]:
        """What is enough to know after a path: no less than the whole vocabulary's logits."""
        return "logits"

    def feed(self, path: DecodedPath, logits: npt.NDArray[np.float32], *, normalized: bool = False) -> None:
        """Takes the logits, float32 [V], of the token after the path, and appends the most probable one (ties: the
        lowest id).

        Raises:
            ContentError: ``non_finite_logits``.
        """
        p = full_vocabulary_probabilities(logits)
        token = int(np.argmax(p))
        self.path = self._reader.extend(path, token)
        self._probabilities.append(float(p[token]))
        settled = self.path.completed & path.open  # labels that were open, and turn out to be no longer label
        last: dict[int, float] = {}  # bit of a completed event -> probability of what completes it
        starts: dict[int, int] = {}
        if settled:
            completions, others = self._reader.completions(path)
            for bit in _bits(settled):
                listed = sum(p[t] for t, mask in completions.items() if mask & bit)
                unlisted = 1.0 - sum(p[t] for t in completions) if others & bit else 0.0
                last[bit], starts[bit] = float(listed + max(0.0, unlisted)), self._starts[bit]
        for bit in _bits(self.path.completed & ~settled):
            last[bit], starts[bit] = self._probabilities[-1], self._own_start(bit)
        self._score(last, starts)
        for bit in _bits(self.path.open & (settled | ~path.open)):  # spelt by this token, perhaps once more
            self._starts[bit] = self._own_start(bit)

    def _own_start(self, bit: int) -> int:
        """Depth of the path before the own tokens of an event that stands at its end."""
        return self.path.depth - self._reader.own_tokens(self.path, bit)

    def _score(self, last: dict[int, float], starts: dict[int, int]) -> None:
        """Sets both scores of the events that the last token completes.

        Args:
            last: bit of each event -> probability of its last token.
            starts: bit -> depth at which its own tokens begin.
        """
        if not last:
            return
        own, end = self._probabilities, len(self._probabilities) - 1
        new = [i for i in range(min(starts.values()), end) if i not in self._factors]
        for bit, probability in last.items():
            event = self._reader.events[bit.bit_length() - 1]
            self.token_scores[event] = math.prod([*own[starts[bit] : end], probability])
            self.fixed_place_scores[event] = self._running * math.prod([*(own[i] for i in new), probability])
        self._running *= math.prod([*(own[i] for i in new), max(last.values())])
        self._factors.update(new, [end])


def _bits(mask: int) -> Iterator[int]:
    """The bits of a bit set, from the lowest on."""
    while mask:
        yield mask & -mask
        mask &= mask - 1
