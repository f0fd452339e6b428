"""Verdict tree: the verdicts that a guard could generate, as a tree of their text with exact probabilities.

:class:`tokmarg.scoring.exact.ExactSearch` ends with complete verdicts and unexpanded nodes as token paths, each with
its constrained mass, 1 in all. Read as moves of the grammar they make a tree that a person can follow, and every
number in it is a sum of those masses. The worked example of :mod:`tokmarg.scoring.exact`:

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

__all__ = ["HESITATION", "CompleteVerdict", "VerdictNode", "complete_verdicts", "verdict_tree"]

#: Entropy in bits from which on a node counts as hesitation: that of a choice between two at odds of 3 to 1.
HESITATION = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
#: Differences of sums that are rounding and nothing else.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class VerdictNode:
    """Verdicts that begin alike. ``probability`` = the children's + ``other``; the root's is 1.

    Attributes:
        text: text after the parent's; empty where the verdict ends but might have gone on (and at
            the root).
        probability: constrained probability that the verdict begins like this.
        share: the same, given the parent.
        events: events that are certain from here on, and were not at the parent.
        complete: the verdict ends here for certain.
        children: what may follow, most probable first; those below the least mass are left out.
        other: probability of the children that are left out, and of what the search did not expand.
        unexplored: the part of it that the search did not expand.
        entropy: entropy in bits of what follows, over all that was expanded; None where nothing follows or less than
            half was expanded.
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
        """Whether the entropy of what follows is at least that of a choice at odds of 3 to 1 (0.81 bits)."""
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
class CompleteVerdict:
    """A verdict from its first to its last character, and its constrained probability."""

    text: str
    probability: float


@dataclass(slots=True)
class _Draft:
    """A node under construction: leaves of the search are added to it one by one."""

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

    def add(self, mass: float, certain: int) -> None:
        """Adds a leaf at or below this node."""
        self.masses.append(mass)
        self.certain &= certain


def verdict_tree(trie: Trie, search: ExactSearch, least: float = 0.01) -> VerdictNode:
    """Root of the verdict tree of a search that has run to its end.

    Args:
        trie: what was searched.
        search: the search.
        least: nodes with less probability are left out.
    """
    return _node(_draft_tree(trie, search), "", 1.0, 0, trie, least)


def complete_verdicts(trie: Trie, search: ExactSearch, most: int = 5) -> tuple[CompleteVerdict, ...]:
    """The most probable verdicts that a search has expanded to their end.

    Args:
        trie: what was searched.
        search: the search, run to its end.
        most: how many at most.
    """
    complete = []
    pending = [("", _draft_tree(trie, search))]
    while pending:
        text, draft = pending.pop()
        if draft.ended:
            complete.append(CompleteVerdict(text, min(1.0, math.fsum(draft.ended))))
        pending += [(text + child.text, child) for child in draft.children.values()]
    return tuple(sorted(complete, key=lambda verdict: (-verdict.probability, verdict.text))[:most])


def _draft_tree(trie: Trie, search: ExactSearch) -> _Draft:
    """The tree of all leaves of the search, nothing left out."""
    root = _Draft()
    for mass, node in search.leaves():
        readings = [
            [(("".join(move.text.split()), move.events), move.text) for move in said if move.text]
            for said in trie.readings(node)
        ]
        moves = readings[0][: _common_length([[key for key, _ in reading] for reading in readings])]
        draft = root
        draft.add(mass, node.certain)
        for key, text in moves:
            draft = draft.children.setdefault(key, _Draft())
            draft.add(mass, node.certain)
            draft.spellings[text] = draft.spellings.get(text, 0.0) + mass
        said = all(len(reading) == len(moves) for reading in readings)  # else the last label may be `S1` or `S10`
        (draft.ended if said and trie.has_ended(node) else draft.unexplored).append(mass)
    return root


def _common_length(readings: Sequence[Sequence[object]]) -> int:
    """Number of moves that all readings begin with."""
    first, *others = readings
    return next((i for i, key in enumerate(first) if any(key not in other[i : i + 1] for other in others)), len(first))


def _node(draft: _Draft, above: str, parent: float, certain_above: int, trie: Trie, least: float) -> VerdictNode:
    """The node of a draft, with the text that must follow joined to its own.

    Args:
        draft: the node.
        above: text that is put before its own.
        parent: the parent's probability.
        certain_above: events certain at the parent, a bit set.
        trie: names the events.
        least: see :func:`verdict_tree`.
    """
    text, ended, unexplored = above + draft.text, math.fsum(draft.ended), math.fsum(draft.unexplored)
    if len(draft.children) == 1 and not draft.ended and not draft.unexplored:
        (child,) = draft.children.values()
        return _node(child, text, parent, certain_above, trie, least)
    probability = draft.probability
    children = [
        _node(child, "", probability, draft.certain, trie, least)
        for child in draft.children.values()
        if child.probability >= max(least, _ROUNDING)
    ]
    if ended >= max(least, _ROUNDING):
        children.append(VerdictNode("", ended, _share(ended, probability), (), True, (), 0.0, 0.0, None))
    children.sort(key=lambda node: (-node.probability, node.text))
    rest = probability - math.fsum(node.probability for node in children)
    complete = rest <= _ROUNDING and [(node.text, node.complete) for node in children] == [("", True)]
    return VerdictNode(
        text=text,
        probability=probability,
        share=_share(probability, parent),
        events=trie.grammar.names(draft.certain & ~certain_above),
        complete=complete,
        children=() if complete else tuple(children),
        other=rest if rest > _ROUNDING else 0.0,
        unexplored=unexplored,
        entropy=None
        if complete
        else _entropy([*(child.probability for child in draft.children.values()), ended], unexplored),
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0


def _entropy(masses: Sequence[float], unexplored: float) -> float | None:
    """Entropy in bits of what follows; see :class:`VerdictNode`."""
    total = math.fsum(masses)
    if total == 0 or unexplored > total:
        return None
    return -math.fsum(mass / total * math.log2(mass / total) for mass in masses if mass > 0) + 0.0
