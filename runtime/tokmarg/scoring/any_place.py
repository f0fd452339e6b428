"""``any-place``, method 3 of arXiv:2511.22312: a depth-first search over the tokens of the top-p nucleus.

A label's score is the sum, over all places where the search sees it completed, of the raw probability of the path up
to there. A path of less mass than ``eps`` is not followed. Two cuts are the method's own: an end of turn with
p >= 0.7 ends its siblings, and where an end of turn is in the nucleus at all, the third child is counted but not
followed, and later ones are dropped. A label counts at every place of a path where it stands, so scores may exceed 1.

Which paths are followed depends on their own mass alone, not on the order: the search asks for all open paths at
once, and gets what the depth-first order gets.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import numpy.typing as npt

from .free_decoding import Path, Reader
from .probabilities import nucleus, probabilities

__all__ = ["MAX_PATHS", "AnyPlace"]

#: Paths that one content may take: with eps 0.01 and depth 20 no model can need more than 2,100.
MAX_PATHS = 4096
_SURE_END = 0.7
_CHILDREN = 3

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class AnyPlace:
    """The search for one content; a search of the engine.

    Args:
        reader: of the content's role mode.
        top_p: mass of the nucleus.
        eps: least mass of a path that is followed.
        max_depth: most tokens of a path that is followed.

    Attributes:
        evaluated: paths followed.
        exhausted: whether the search ended by :data:`MAX_PATHS`.
    """

    def __init__(self, reader: Reader, *, top_p: float, eps: float, max_depth: int) -> None:
        self._reader, self._top_p, self._eps, self._max_depth = reader, top_p, eps, max_depth
        self.root = reader.root()
        self.evaluated = 0
        self._open: dict[Path, float] = {self.root: 1.0}  # mass of each path to be followed
        self._ends = np.array(sorted(reader.ends), dtype=np.int64)
        self._found: dict[int, list[float]] = {}  # bit of an event -> masses

    @property
    def exhausted(self) -> bool:
        """Whether paths are left that the budget does not allow."""
        return self.evaluated >= MAX_PATHS and bool(self._open)

    def wanted(self, limit: int) -> list[Path]:
        """The heaviest open paths."""
        limit = min(limit, MAX_PATHS - self.evaluated)
        return heapq.nlargest(limit, self._open, key=self._open.__getitem__)

    def whole(self, _: Path) -> bool:
        """Whether the whole vocabulary's logits matter behind a path: they do behind all."""
        return True

    def feed(self, path: Path, logits: npt.NDArray[np.float32]) -> None:
        """Takes the logits [V] behind a path.

        Raises:
            ContentError: ``non_finite_logits``.
        """
        mass = self._open.pop(path)
        self.evaluated += 1
        p = probabilities(logits)
        ids = nucleus(p, self._top_p)
        seen, followed = self._cut(ids, p[ids])
        self._count(path, ids[:seen], mass * p[ids[:seen]])
        if path.depth < self._max_depth:
            for token in ids[:followed].tolist():
                if mass * p[token] < self._eps:
                    break  # sorted by probability: none behind it has more
                child = self._reader.extend(path, token)
                if not self._reader.ended(child):
                    self._open[child] = mass * float(p[token])

    def scores(self) -> dict[str, float]:
        """Event -> score, of the events that were seen."""
        # Exactly rounded, so that the order in which paths were fed does not show.
        return {self._reader.events[bit.bit_length() - 1]: math.fsum(parts) for bit, parts in self._found.items()}

    def _cut(self, ids: Ids, p: Floats) -> tuple[int, int]:
        """How many children of a nucleus (descending probabilities ``p``) are seen, and how many of them followed."""
        ends = np.isin(ids, self._ends)
        last = len(ids)
        if ends.any():
            sure = np.flatnonzero(ends & (p >= _SURE_END))
            last = min(int(sure[0]) if len(sure) else last, _CHILDREN - 1)
        return min(last + 1, len(ids)), last

    def _count(self, path: Path, ids: Ids, masses: Floats) -> None:
        """Adds what the children complete."""
        completes, others = self._reader.completions(path)
        listed = np.isin(ids, np.fromiter(completes, dtype=np.int64, count=len(completes)))
        for token, mass in zip(ids[listed].tolist(), masses[listed].tolist(), strict=True):
            self._add(completes[token], mass)
        if others:
            self._add(others, math.fsum(masses[~listed].tolist()))

    def _add(self, events: int, mass: float) -> None:
        while events:
            bit = events & -events
            events ^= bit
            self._found.setdefault(bit, []).append(mass)
