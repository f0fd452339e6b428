"""``any-place``, method 3 of arXiv:2511.22312: a search over the token paths of the top-p nucleus.

A label's score is the sum, over all places where a path completes it, of the full-vocabulary probability of the path up
to there (its mass). A path of less mass than ``eps`` is not followed. Two cuts are the paper's: an end of turn with
p >= 0.7 drops its less probable siblings, and where an end of turn is in the nucleus at all, the third child is counted
but not followed, and later ones are dropped. A label counts at every place of a path where it stands, so scores may
exceed 1.

The paper's search is depth-first. Whether a path is followed depends on its own mass alone, not on the order, so this
one names all open paths at once and follows the same ones.
"""

from __future__ import annotations

import heapq
import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from .free_decoding import DecodedPath, PathReader
from .probabilities import Floats, full_vocabulary_probabilities, nucleus

__all__ = ["MAX_PATHS", "AnyPlaceSearch"]

#: Budget of paths for one prompt: with eps 0.01 and depth 20 no model can need more than 2,100.
MAX_PATHS = 4096
_SURE_END = 0.7
_CHILDREN = 3

Ids = npt.NDArray[np.int64]


class AnyPlaceSearch:
    """The nucleus search for one prompt; implements :class:`tokmarg.engine.sequence.Search`.

    Args:
        reader: of the prompt's role mode.
        top_p: mass of the nucleus.
        eps: least mass of a path that is followed.
        max_depth: most tokens of a path that is followed.

    Attributes:
        evaluated: paths followed.
        exhausted: whether the search ended by :data:`MAX_PATHS`.
    """

    def __init__(self, reader: PathReader, *, top_p: float, eps: float, max_depth: int) -> None:
        self._reader, self._top_p, self._eps, self._max_depth = reader, top_p, eps, max_depth
        self.root = reader.root()
        self.evaluated = 0
        self._open: dict[DecodedPath, float] = {self.root: 1.0}  # path to be followed -> mass
        self._ends = np.array(sorted(reader.ends), dtype=np.int64)
        self._masses: dict[int, list[float]] = {}  # bit of an event -> masses of the paths that complete it

    @property
    def exhausted(self) -> bool:
        """Whether paths are left that the budget does not allow."""
        return self.evaluated >= MAX_PATHS and bool(self._open)

    def wanted(self, limit: int) -> list[DecodedPath]:
        """The heaviest open paths."""
        limit = min(limit, MAX_PATHS - self.evaluated)
        return heapq.nlargest(limit, self._open, key=self._open.__getitem__)

    def reads(self, _: DecodedPath) -> Literal["logits"]:
        """What is enough to know after a path: no less than the whole vocabulary's logits."""
        return "logits"

    def feed(self, path: DecodedPath, logits: npt.NDArray[np.float32], *, normalized: bool = False) -> None:
        """Takes the logits, float32 [V], of the token after a path.

        Raises:
            ContentError: ``non_finite_logits``.
        """
        mass = self._open.pop(path)
        self.evaluated += 1
        p = full_vocabulary_probabilities(logits)
        ids = nucleus(p, self._top_p)
        counted, followed = self._cut(ids, p[ids])
        self._count(path, ids[:counted], mass * p[ids[:counted]])
        if path.depth < self._max_depth:
            for token in ids[:followed].tolist():
                if mass * p[token] < self._eps:
                    break  # sorted by probability: none after it has more
                child = self._reader.extend(path, token)
                if not self._reader.ended(child):
                    self._open[child] = mass * float(p[token])

    def scores(self) -> dict[str, float]:
        """Event -> score, of the events that some path completes."""
        # Exactly rounded, so that scores do not depend on the order in which paths were fed.
        return {self._reader.events[bit.bit_length() - 1]: math.fsum(masses) for bit, masses in self._masses.items()}

    def _cut(self, ids: Ids, p: Floats) -> tuple[int, int]:
        """The cuts of a nucleus: how many children are counted, and how many of those followed.

        Args:
            ids: the nucleus, int64 [n].
            p: its probabilities, descending, float64 [n].
        """
        ends = np.isin(ids, self._ends)
        last = len(ids)
        if ends.any():
            sure = np.flatnonzero(ends & (p >= _SURE_END))
            last = min(int(sure[0]) if len(sure) else last, _CHILDREN - 1)
        return min(last + 1, len(ids)), last

    def _count(self, path: DecodedPath, ids: Ids, masses: Floats) -> None:
        """Adds the masses [n] of the children ``ids`` [n] to the events that they complete."""
        completions, others = self._reader.completions(path)
        listed = np.isin(ids, np.fromiter(completions, dtype=np.int64, count=len(completions)))
        for token, mass in zip(ids[listed].tolist(), masses[listed].tolist(), strict=True):
            self._add(completions[token], mass)
        if others:
            self._add(others, math.fsum(masses[~listed].tolist()))

    def _add(self, events: int, mass: float) -> None:
        """Adds mass to every event of a bit set."""
        while events:
            bit = events & -events
            events ^= bit
            self._masses.setdefault(bit, []).append(mass)
