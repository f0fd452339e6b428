"""What an explanation says: verdict trees, and the effect of each part of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokmarg.documents import to_json
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.prompt.messages import Message
from tokmarg.results import Marginal
from tokmarg.scoring.exact import Bounds

from .segmentation import Unit
from .verdict_tree import CompleteVerdict, VerdictNode

__all__ = ["Effect", "Explanation", "Occlusion", "Segment", "VerdictTree"]

#: Events with a probability or an effect of at least this are leading events.
_NOTABLE = 0.05


@dataclass(frozen=True, slots=True)
class VerdictTree:
    """The verdicts to one prompt: on all labels (``label`` None), or on one label.

    Attributes:
        label: which label.
        coverage: raw probability of the verdict grammar; None with the ``verdict`` head.
        converged: every interval is narrower than the tolerance.
        root: the tree.
        verdicts: the most probable complete verdicts.
    """

    label: str | None
    coverage: float | None
    converged: bool
    root: VerdictNode
    verdicts: tuple[CompleteVerdict, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The outcome of :func:`explain`.

    Attributes:
        id: passed through.
        model: name of the model in the bundle's manifest.
        messages: the conversation; the last message is judged.
        probabilities: event -> raw bounds: ``unsafe``, the labels in the policy's order, further events.
        calibrated: ``unsafe`` and labels -> calibrated marginal, as in :meth:`tokmarg.Guard.score`; None where the
            guard has no calibration.
        titles: label id -> title.
        coverage, converged: as in :class:`tokmarg.Result`.
        trees: one; of guards with a prompt for each label one for each, most probable first.
        occlusion: effects of the parts of the judged message.
    """

    id: object
    model: str
    messages: tuple[Message, ...]
    probabilities: Mapping[str, Bounds]
    calibrated: Mapping[str, Marginal] | None
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
        """The leading events, ``unsafe`` first: likely ones, and those on which a part has an effect."""

        def weight(event: str) -> float:
            return max(self.probabilities[event].middle, self.occlusion.largest(event))

        others = [event for event in self.probabilities if event != UNSAFE and weight(event) >= _NOTABLE]
        return [UNSAFE, *sorted(others, key=lambda event: -weight(event))][:most]

    def hesitations(self) -> list[tuple[str | None, str, VerdictNode]]:
        """Nodes at which the guard hesitates: label of the prompt, verdict so far, node; most open first."""
        hesitations = [
            (tree.label, text, node) for tree in self.trees for text, node in tree.root.walk() if node.hesitates
        ]
        return sorted(hesitations, key=lambda item: -item[2].probability * (item[2].entropy or 0.0))

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
            "calibrated": self.calibrated
            and {
                event: {"probability": m.probability, "lower": m.lower, "upper": m.upper}
                for event, m in self.calibrated.items()
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
            "occlusion": self.occlusion.to_dict(),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as one line of JSON in ASCII."""
        return to_json(self.to_dict())


#: Effects below this count as zero: a content's probability depends on its batch in the fifth decimal.
_VISIBLE = 5e-4


@dataclass(frozen=True, slots=True)
class Effect:
    """Effect of a part on the probability of an event: P(with it) - P(without it), certified to [lower, upper]."""

    change: float
    lower: float
    upper: float

    @property
    def is_zero(self) -> bool:
        """Whether there may be no effect at all: the bounds leave it open, or it is below 0.0005."""
        return self.lower <= 0 <= self.upper or abs(self.change) < _VISIBLE


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the judged message, and its effects.

    Attributes:
        start, end: its characters in the message.
        text: those characters.
        effects: event -> effect; None where the text without the segment cannot be scored.
        unscored: why it cannot.
        inner: occlusion of the segment's own parts, where they were left out in turn.
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

    def to_dict(self) -> dict[str, object]:
        """Plain types only."""
        return {
            "unit": self.unit,
            "parts": self.parts,
            "segments": [
                {
                    "start": s.start,
                    "end": s.end,
                    "text": s.text,
                    "effects": None
                    if s.effects is None
                    else {k: {"change": e.change, "lower": e.lower, "upper": e.upper} for k, e in s.effects.items()},
                    "unscored": s.unscored,
                    "inner": None if s.inner is None else s.inner.to_dict(),
                }
                for s in self.segments
            ],
        }
