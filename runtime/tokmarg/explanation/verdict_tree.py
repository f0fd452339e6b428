"""What a guard would say, as a tree of verdict text with exact probabilities.

:class:`tokmarg.scoring.exact.ExactSearch` leaves behind complete verdicts and open nodes as token paths, each with its
constrained mass, 1 in all. Read as moves of the grammar they make a tree that a person can follow, and every number in
it is a sum of those masses. The worked example of :mod:`tokmarg.scoring.exact`:

    0.500  safe
    0.500  unsafe
    0.300  ├─ A
    0.150  ├─ B
    0.075  │  ├─ ,A
    0.075  │  └─ end
    0.050  └─ C

Token paths that spell one text are one node, and so are texts that differ in white space only (``,S2`` and ``, S2``).
Text that the grammar forces is part of what it follows. Leads and terminators are not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tokmarg.grammar.trie import Trie
from tokmarg.scoring.exact import ExactSearch

__all__ = ["HESITATION", "Verdict", "VerdictNode", "verdict_tree", "verdicts"]

#: Entropy in bits from which on a node counts as hesitation: that of a choice between two at odds of 3 to 1.
HESITATION = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
#: Differences of sums that are rounding and nothing else.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class VerdictNode:
    """Verdicts that begin alike. ``probability`` = the children's + ``other``; the root's is 1.

    Attributes:
        text: what is said here, behind the parent's text; empty where the verdict ends but might have gone on (and at
            the root).
        probability: constrained probability that the verdict begins like this.
        share: the same, given the parent.
        events: what is certain to happen since here.
        complete: the verdict ends here for certain.
        children: what may follow, most probable first; those below the least mass are left out.
        other: probability of what is left out, and of what the search did not look into.
        unexplored: the part of it that the search did not look into.
        entropy: how open is what follows, in bits, over all that was looked into; None where nothing follows or less
            than half was looked into.
    """

    text: str
    probability: float
    share: float
    events: tuple[str, ...]
    complete: bool
    children: tuple[VerdictNode, ...]
    other: float
    unexplored: float
    entropy: float | None

    @property
    def hesitates(self) -> bool:
        """Whether what follows is as open as a choice at odds of 3 to 1, or more (0.81 bits)."""
        return self.entropy is not None and self.entropy >= HESITATION

    def walk(self, above: str = "") -> Iterator[tuple[str, VerdictNode]]:
        """This node and all below it, each with the verdict's text up to and including it."""
        text = above + self.text
        yield text, self
        for child in self.children:
            yield from child.walk(text)

    def to_dict(self) -> dict[str, object]:
        """Plain types only."""
        return {
            "text": self.text,
            "probability": self.probability,
            "share": self.share,
            "events": list(self.events),
            "complete": self.complete,
            "entropy": self.entropy,
            "hesitates": self.hesitates,
            "other": self.other,
            "unexplored": self.unexplored,
            "children": [child.to_dict() for child in self.children],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """A whole verdict with its constrained probability."""

    text: str
    probability: float


@dataclass(slots=True)
class _Draft:
    """A node while the leaves come in."""

    spellings: dict[str, float] = field(default_factory=dict)  # text -> mass
    masses: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    unexplored: list[float] = field(default_factory=list)
    certain: int = -1
    children: dict[tuple[str, int], _Draft] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The most probable spelling."""
        return max(self.spellings, key=lambda text: (self.spellings[text], text), default="")

    @property
    def probability(self) -> float:
        return min(1.0, math.fsum(self.masses))

    def count(self, mass: float, certain: int) -> None:
        """Takes in a leaf below."""
        self.masses.append(mass)
        self.certain &= certain


def verdict_tree(trie: Trie, search: ExactSearch, least: float = 0.01) -> VerdictNode:
    """The tree of a search that has run to its end.

    Args:
        trie: what was searched.
        search: the search.
        least: nodes with less probability are left out.
    """
    return _finished(_draft(trie, search), "", 1.0, 0, trie, least)


def verdicts(trie: Trie, search: ExactSearch, most: int = 5) -> tuple[Verdict, ...]:
    """The most probable verdicts that a search has seen whole.

    Args:
        trie: what was searched.
        search: the search, run to its end.
        most: how many at most.
    """
    found = []
    pending = [("", _draft(trie, search))]
    while pending:
        text, draft = pending.pop()
        if draft.ended:
            found.append(Verdict(text, min(1.0, math.fsum(draft.ended))))
        pending += [(text + child.text, child) for child in draft.children.values()]
    return tuple(sorted(found, key=lambda verdict: (-verdict.probability, verdict.text))[:most])


def _draft(trie: Trie, search: ExactSearch) -> _Draft:
    root = _Draft()
    for mass, node in search.leaves():
        readings = [
            [(("".join(move.text.split()), move.events), move.text) for move in said if move.text]
            for said in trie.readings(node)
        ]
        path = readings[0][: _common([[key for key, _ in reading] for reading in readings])]
        draft = root
        draft.count(mass, node.certain)
        for key, text in path:
            draft = draft.children.setdefault(key, _Draft())
            draft.count(mass, node.certain)
            draft.spellings[text] = draft.spellings.get(text, 0.0) + mass
        said = all(len(reading) == len(path) for reading in readings)  # else what is under way may be `S1` or `S10`
        (draft.ended if said and trie.has_ended(node) else draft.unexplored).append(mass)
    return root


def _common(readings: Sequence[Sequence[object]]) -> int:
    """How many moves all readings begin with together."""
    first, *others = readings
    return next((i for i, key in enumerate(first) if any(key not in other[i : i + 1] for other in others)), len(first))


def _finished(draft: _Draft, above: str, parent: float, happened: int, trie: Trie, least: float) -> VerdictNode:
    """The node of a draft, what is forced behind it joined to its text.

    Args:
        draft: the node.
        above: text to put in front of its own.
        parent: the parent's probability.
        happened: events certain at the parent, a bit set.
        trie: names the events.
        least: see :func:`verdict_tree`.
    """
    text, ended, unexplored = above + draft.text, math.fsum(draft.ended), math.fsum(draft.unexplored)
    if len(draft.children) == 1 and not draft.ended and not draft.unexplored:
        (child,) = draft.children.values()
        return _finished(child, text, parent, happened, trie, least)
    probability = draft.probability
    children = [
        _finished(child, "", probability, draft.certain, trie, least)
        for child in draft.children.values()
        if child.probability >= max(least, _ROUNDING)
    ]
    if ended >= max(least, _ROUNDING):
        children.append(VerdictNode("", ended, _ratio(ended, probability), (), True, (), 0.0, 0.0, None))
    children.sort(key=lambda node: (-node.probability, node.text))
    rest = probability - math.fsum(node.probability for node in children)
    complete = rest <= _ROUNDING and [(node.text, node.complete) for node in children] == [("", True)]
    return VerdictNode(
        text=text,
        probability=probability,
        share=_ratio(probability, parent),
        events=trie.grammar.names(draft.certain & ~happened),
        complete=complete,
        children=() if complete else tuple(children),
        other=rest if rest > _ROUNDING else 0.0,
        unexplored=unexplored,
        entropy=None
        if complete
        else _entropy([*(child.probability for child in draft.children.values()), ended], unexplored),
    )


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0


def _entropy(masses: Sequence[float], unexplored: float) -> float | None:
    """Entropy in bits of what follows; see :class:`VerdictNode`."""
    total = math.fsum(masses)
    if total == 0 or unexplored > total:
        return None
    return -math.fsum(mass / total * math.log2(mass / total) for mass in masses if mass > 0) + 0.0
