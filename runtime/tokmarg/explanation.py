"""Why a content scores as it does: the guard's verdicts as a tree, and which words drive each label.

    from tokmarg import Guard
    from tokmarg.explanation import explain

    found = explain(Guard.load("bundle"), "How do I pick a lock?")
    found.trees[0].root.children          # what the guard would say first, and how likely
    found.occlusion.segments[3].effects["unsafe"].change

What a part of the text does is measured by leaving it out (occlusion; Zeiler and Fergus 2014, section 4): effect =
P(text as it is) - P(text without the part). All variants are packed in one pass behind the policy's prefix, as any
contents are. An effect says what this guard would make of the text without that part, no more: two parts that say the
same hide each other's effect, and the effects do not add up to the probability.

Probabilities here are the guard's own: no calibration, no thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import ContentError
from .grammar import UNSAFE
from .guard import Guard
from .marginals import Bounds, Marginals, Search
from .output import to_json
from .prompt import Content, Message, Prompt, messages_of
from .segments import Part, Unit, grouped, sentences, words
from .separate import join_marginals
from .spec import Role
from .trie import Trie
from .verdicts import Verdict, VerdictNode, verdict_tree, verdicts

__all__ = ["Effect", "Explanation", "Occlusion", "Segment", "VerdictTree", "explain"]

#: Parts left out in turn, at each level.
MOST_SEGMENTS = 64
#: A text of fewer sentences is cut into words at once.
_FEW_SENTENCES = 3
#: Effects below this are nothing: the same content gives the same probability to 1e-5 only, whatever shares its pass.
_VISIBLE = 5e-4
#: Probabilities and effects from which on an event is worth a look.
_NOTABLE = 0.05


@dataclass(frozen=True, slots=True)
class Effect:
    """What a part adds to the probability of an event: P(with it) - P(without it), in [lower, upper] for certain."""

    change: float
    lower: float
    upper: float

    @property
    def is_zero(self) -> bool:
        """Whether there may be no effect at all: the bounds leave it open, or it is below 0.0005."""
        return self.lower <= 0 <= self.upper or abs(self.change) < _VISIBLE


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the judged message, and what it adds.

    Attributes:
        start, end: its characters in the message.
        text: those characters.
        effects: event -> effect; None where what is left without it cannot be scored.
        unscored: why it cannot.
        inner: the segment's own parts, where it was looked into.
    """

    start: int
    end: int
    text: str
    effects: Mapping[str, Effect] | None
    unscored: str | None = None
    inner: Occlusion | None = None

    @property
    def influence(self) -> float:
        """The largest effect on any event, without its sign."""
        changes = (abs(effect.change) for effect in (self.effects or {}).values() if not effect.is_zero)
        return max(changes, default=0.0)


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Parts of a text that were left out in turn. Of ``parts`` parts of that unit, neighbours were joined where they
    were too many: each of the ``segments`` is one of them, or several."""

    unit: Unit
    parts: int
    segments: tuple[Segment, ...]

    def largest(self, event: str) -> float:
        """The largest effect of a segment on an event, without its sign."""
        effects = [segment.effects[event] for segment in self.segments if segment.effects is not None]
        return max((abs(effect.change) for effect in effects if not effect.is_zero), default=0.0)

    @property
    def unit_name(self) -> str:
        """The unit, in the number that goes with ``parts``."""
        return self.unit.removesuffix("s") if self.parts == 1 else self.unit

    @property
    def per_segment(self) -> int:
        """Parts in one segment (the last may have fewer)."""
        return -(-self.parts // len(self.segments)) if self.segments else 1


@dataclass(frozen=True, slots=True)
class VerdictTree:
    """The verdicts on one question: on all labels (``label`` None), or on the label that was asked for.

    Attributes:
        label: which label.
        coverage: raw probability of the verdict grammar; None with the ``verdict`` head.
        converged: every interval is narrower than the tolerance.
        root: the tree.
        verdicts: the most probable whole verdicts.
    """

    label: str | None
    coverage: float | None
    converged: bool
    root: VerdictNode
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What :func:`explain` finds.

    Attributes:
        id: passed through.
        model: name of the model in the bundle's manifest.
        messages: the conversation; the last message is judged.
        probabilities: event -> bounds: ``unsafe``, the labels in the policy's order, further events.
        titles: label id -> what people read.
        coverage, converged: as in :class:`tokmarg.Result`.
        trees: one; of guards that are asked for one label at a time one for each, most probable first.
        occlusion: the judged message's parts.
    """

    id: object
    model: str
    messages: tuple[Message, ...]
    probabilities: Mapping[str, Bounds]
    titles: Mapping[str, str]
    coverage: float | None
    converged: bool
    trees: tuple[VerdictTree, ...]
    occlusion: Occlusion

    @property
    def text(self) -> str:
        """The message that is judged."""
        return self.messages[-1].content

    def leading_events(self, most: int) -> list[str]:
        """The events that are worth a look, ``unsafe`` first: likely ones, and those on which a part has an effect."""

        def weight(event: str) -> float:
            return max(self.probabilities[event].middle, self.occlusion.largest(event))

        others = [event for event in self.probabilities if event != UNSAFE and weight(event) >= _NOTABLE]
        return [UNSAFE, *sorted(others, key=lambda event: -weight(event))][:most]

    def hesitations(self) -> list[tuple[str | None, str, VerdictNode]]:
        """Where the guard hesitates: label that was asked for, verdict so far, node; what matters most comes first."""
        found = [(tree.label, text, node) for tree in self.trees for text, node in tree.root.walk() if node.hesitates]
        return sorted(found, key=lambda item: -item[2].probability * (item[2].entropy or 0.0))

    def to_dict(self) -> dict[str, object]:
        """Plain types only; the form of ``tokmarg explain --json``."""
        return {
            "schema_version": 1,
            "id": self.id,
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "probabilities": {
                event: {"probability": b.middle, "lower": b.lower, "upper": b.upper}
                for event, b in self.probabilities.items()
            },
            "coverage": self.coverage,
            "converged": self.converged,
            "trees": [
                {
                    "label": tree.label,
                    "coverage": tree.coverage,
                    "converged": tree.converged,
                    "verdicts": [{"text": v.text, "probability": v.probability} for v in tree.verdicts],
                    "root": tree.root.to_dict(),
                }
                for tree in self.trees
            ],
            "occlusion": _occlusion_dict(self.occlusion),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as one line of JSON in ASCII."""
        return to_json(self.to_dict())


def _occlusion_dict(occlusion: Occlusion) -> dict[str, object]:
    return {
        "unit": occlusion.unit,
        "parts": occlusion.parts,
        "segments": [
            {
                "start": s.start,
                "end": s.end,
                "text": s.text,
                "effects": None
                if s.effects is None
                else {k: {"change": e.change, "lower": e.lower, "upper": e.upper} for k, e in s.effects.items()},
                "unscored": s.unscored,
                "inner": None if s.inner is None else _occlusion_dict(s.inner),
            }
            for s in occlusion.segments
        ],
    }


def explain(
    guard: Guard,
    content: Content,
    *,
    id: object = None,
    role: Role | None = None,
    tolerance: float = 1e-3,
    max_nodes: int = 256,
    least: float = 0.01,
    by_words: bool = False,
    depth: int = 2,
    most_segments: int = MOST_SEGMENTS,
) -> Explanation:
    """Explains the score of one content.

    Args:
        guard: the guard.
        content: a text, or messages; the last one is judged, and its parts are left out in turn.
        id: passed through.
        role: role of a bare text (default ``user``).
        tolerance, max_nodes: as in :meth:`tokmarg.Guard.score`, for the content and for every variant.
        least: verdicts that begin with less probability are left out of the tree.
        by_words: cut a text into words at once, not into sentences first.
        depth: levels: the text's sentences or words, the parts of the most influential of them, and so on.
        most_segments: parts left out in turn at each level; neighbours are joined to keep to it.

    Raises:
        ContentError: the content cannot be scored; ``type`` says why.
        ValueError: an option is out of its range.
    """
    if depth < 1 or most_segments < 1 or not 0 <= least < 1:
        raise ValueError(
            f"depth and most_segments must be >= 1 and least in [0, 1), not {depth!r}, {most_segments!r} and {least!r}"
        )
    messages = messages_of(content, role)
    occluder = _Occluder(guard, messages, tolerance, max_nodes, most_segments)
    unit, parts = _first_cut(messages[-1].content, by_words)
    whole, occlusion = occluder.occlude(unit, parts, depth)
    marginals = _joined(whole)
    trees = [
        VerdictTree(
            prompt.label,
            (found := search.result()).coverage,
            found.converged,
            verdict_tree(trie, search, least),
            verdicts(trie, search),
        )
        for prompt, trie, search in whole
    ]
    if len(trees) > 1:
        trees.sort(key=lambda tree: -marginals.bounds[str(tree.label)].middle)
    return Explanation(
        id=id,
        model=guard.manifest.model_id,
        messages=messages,
        probabilities=occluder.full,
        titles={label.id: label.title for label in guard.spec.labels},
        coverage=marginals.coverage,
        converged=marginals.converged,
        trees=tuple(trees),
        occlusion=occlusion,
    )


Unfolded = Sequence[tuple[Prompt, Trie, Search]]


def _joined(unfolded: Unfolded) -> Marginals:
    return join_marginals([(prompt.label, search.result()) for prompt, _, search in unfolded], 0.5)


class _Occluder:
    """Scores a content without some of its parts."""

    def __init__(self, guard: Guard, messages: Sequence[Message], tolerance: float, max_nodes: int, most: int) -> None:
        self._guard, self._tolerance, self._max_nodes, self._most = guard, tolerance, max_nodes, most
        self._earlier = [{"role": m.role, "content": m.content} for m in messages[:-1]]
        self._role, self._text = messages[-1].role, messages[-1].content
        self._events = (UNSAFE, *guard.labels, *guard.events)
        self.full: Mapping[str, Bounds] = {}  # of the content as it is, once :meth:`occlude` has run

    def occlude(self, unit: Unit, parts: Sequence[Part], depth: int) -> tuple[Unfolded, Occlusion]:
        """The content as it is, and its parts left out in turn; both in one stream, which packs them."""
        groups = grouped(parts, self._most)
        outcomes = self._unfold([self._text, *map(self._without, groups)])
        whole = next(outcomes)
        if isinstance(whole, ContentError):
            # Windows, which the message speaks of, have no tree in common.
            raise ContentError(whole.type, str(whole).split(" (--")[0])
        bounds = _joined(whole).bounds
        self.full = {event: bounds[event] for event in self._events if event in bounds}
        return whole, self._level(unit, parts, groups, outcomes, depth)

    def _level(
        self,
        unit: Unit,
        parts: Sequence[Part],
        groups: Sequence[Part],
        outcomes: Iterator[Unfolded | ContentError],
        depth: int,
    ) -> Occlusion:
        segments = [self._segment(group, outcome) for group, outcome in zip(groups, outcomes, strict=True)]
        top = max(range(len(segments)), key=lambda i: segments[i].influence, default=-1)
        if depth > 1 and top >= 0 and segments[top].influence > 0:
            start, end = segments[top].start, segments[top].end
            unit_within, within = unit, [part for part in parts if start <= part.start and part.end <= end]
            if len(within) == 1 and unit == "sentences":
                unit_within, within = _words(segments[top].text, start)
            if len(within) > 1:
                inner = grouped(within, self._most)
                found = self._level(unit_within, within, inner, self._unfold(map(self._without, inner)), depth - 1)
                segments[top] = replace(segments[top], inner=found)
        return Occlusion(unit, len(parts), tuple(segments))

    def _segment(self, group: Part, outcome: Unfolded | ContentError) -> Segment:
        if isinstance(outcome, ContentError):
            return Segment(*group, effects=None, unscored=f"{outcome.type}: {outcome}")
        without = _joined(outcome).bounds
        effects = {
            event: Effect(
                full.middle - without[event].middle,
                full.lower - without[event].upper,
                full.upper - without[event].lower,
            )
            for event, full in self.full.items()
        }
        return Segment(*group, effects=effects)

    def _without(self, part: Part) -> str:
        left = self._text[: part.start] + self._text[part.end :]
        # White space belongs to the part before it: without the last part some would be left over.
        return left.rstrip() if part.end == len(self._text) else left

    def _unfold(self, texts: Sequence[str] | Iterator[str]) -> Iterator[Unfolded | ContentError]:
        contents = ([*self._earlier, {"role": self._role, "content": text}] for text in texts)
        return self._guard.unfold(contents, tolerance=self._tolerance, max_nodes=self._max_nodes)


def _first_cut(text: str, by_words: bool) -> tuple[Unit, list[Part]]:
    found = sentences(text)
    if by_words or len(found) < _FEW_SENTENCES:
        return _words(text, 0)
    return "sentences", found


def _words(text: str, start: int) -> tuple[Unit, list[Part]]:
    """Words of a text that begins at ``start``; called characters where most are cut between two letters."""
    found = [Part(start + part.start, start + part.end, part.text) for part in words(text)]
    cut = sum(not part.text[-1:].isspace() for part in found[:-1])
    return ("characters" if 2 * cut > len(found) - 1 else "words"), found
