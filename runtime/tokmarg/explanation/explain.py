"""Explain the score of one content: the guard's verdicts as a tree, and the effect of each word on each label.

    from tokmarg import Guard
    from tokmarg.explanation import explain

    explanation = explain(Guard.load("bundle"), "How do I pick a lock?")
    explanation.trees[0].root.children    # beginnings of the verdict, with their probabilities
    explanation.occlusion.segments[3].effects["unsafe"].change

An effect is P(text as it is) - P(text without the part), see :mod:`tokmarg.explanation.occlusion`. It says what this
guard would make of the text without that part, no more: two parts that say the same hide each other's effect, and the
effects do not add up to the probability.

Trees and effects are the guard's own, raw: a calibrator maps the probability of a label, not that of a verdict. Where
the guard has a calibration, ``calibrated`` has the labels' calibrated probabilities beside the raw ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

from tokmarg.documents import to_json
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.guard import Guard
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content, Message, messages_of
from tokmarg.results import Marginal
from tokmarg.score_options import OptionChanges, ScoreOptions
from tokmarg.scoring.exact import Bounds, Marginals

from .occlusion import MOST_SEGMENTS, Effect, Occluder, Occlusion, Searches, Segment, first_cut, joined
from .verdict_tree import CompleteVerdict, VerdictNode, complete_verdicts, verdict_tree

__all__ = ["Effect", "Explanation", "Occlusion", "Segment", "VerdictTree", "explain"]

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


def explain(
    guard: Guard,
    content: Content,
    *,
    id: object = None,
    role: Role | None = None,
    options: ScoreOptions | None = None,
    least: float = 0.01,
    by_words: bool = False,
    depth: int = 2,
    most_segments: int = MOST_SEGMENTS,
    **changes: Unpack[OptionChanges],
) -> Explanation:
    """Explains the score of one content.

    Args:
        guard: the guard.
        content: a text, or messages; the last one is judged, and its parts are left out in turn.
        id: passed through.
        role: role of a bare text (default ``user``).
        options, changes: how the content and every variant are scored, see :class:`tokmarg.ScoreOptions`; explanations
            are of exact raw scores, so that only ``tolerance``, ``max_nodes`` and ``max_tokens`` matter.
        least: verdicts that begin with less probability are left out of the tree.
        by_words: cut a text into words at once, not into sentences first.
        depth: levels: the text's sentences or words, the parts of the most influential of them, and so on.
        most_segments: parts left out in turn at each level; neighbours are joined to keep to it.

    Raises:
        ContentError: the content cannot be scored; ``type`` says why.
        ValueError: an argument is out of its range.
        OptionError: so is one of the options.
    """
    if depth < 1 or most_segments < 1 or not 0 <= least < 1:
        raise ValueError(
            f"depth and most_segments must be >= 1 and least in [0, 1), not {depth!r}, {most_segments!r} and {least!r}"
        )
    messages = messages_of(content, role)
    occluder = Occluder(guard, messages, most_segments, options=options, **changes)
    unit, parts = first_cut(messages[-1].content, by_words)
    searches, occlusion = occluder.occlude(unit, parts, depth)
    marginals = joined(searches)
    return Explanation(
        id=id,
        model=guard.manifest.model_id,
        messages=messages,
        probabilities=occluder.full,
        calibrated=_calibrated(guard, occluder.full),
        titles={label.id: label.title for label in guard.spec.labels},
        coverage=marginals.coverage,
        converged=marginals.converged,
        trees=_trees(searches, marginals, least),
        occlusion=occlusion,
    )


def _trees(searches: Searches, marginals: Marginals, least: float) -> tuple[VerdictTree, ...]:
    """The tree of each prompt, that of the most probable label first."""
    trees = []
    for prompt, trie, search in searches:
        of_prompt = search.result()
        trees.append(
            VerdictTree(
                label=prompt.label,
                coverage=of_prompt.coverage,
                converged=of_prompt.converged,
                root=verdict_tree(trie, search, least),
                verdicts=complete_verdicts(trie, search),
            )
        )
    if len(trees) > 1:
        trees.sort(key=lambda tree: -marginals.bounds[str(tree.label)].middle)
    return tuple(trees)


def _calibrated(guard: Guard, raw: Mapping[str, Bounds]) -> dict[str, Marginal] | None:
    if (calibration := guard.calibration) is None:
        return None
    names = [name for name in raw if name == UNSAFE or name in calibration.labels]
    return {
        name: calibration.calibrated(name, Marginal(raw[name].middle, raw[name].lower, raw[name].upper))
        for name in names
    }
