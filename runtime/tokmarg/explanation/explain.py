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
from typing import Unpack

from tokmarg.arguments import MAX_LEVELS, MAX_SEGMENTS, check_integer, check_number, check_type, number
from tokmarg.calibration.calibration import Calibration
from tokmarg.calibration.prior_shift import with_prior
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.guard import Guard
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import Content
from tokmarg.results import Marginal
from tokmarg.score_options import OptionChanges, ScoreOptions
from tokmarg.scoring.exact import Bounds, Marginals

from .explanation import Effect, Explanation, Occlusion, Segment, VerdictTree
from .occlusion import MOST_SEGMENTS, Occluder, Searches, first_cut, joined
from .verdict_tree import complete_verdicts, verdict_tree

__all__ = ["Effect", "Occlusion", "Segment", "explain"]


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
        content: a text, or messages; the last one of the user or the assistant is judged, and its parts are left out in
            turn.
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
        OptionError: an argument or option is of the wrong type or out of range; names it.
    """
    check_type("guard", guard, Guard, "a tokmarg.Guard")
    check_integer("depth", depth, MAX_LEVELS)
    check_integer("most_segments", most_segments, MAX_SEGMENTS)
    check_number("least", least, 0 <= number(least) < 1, "[0, 1)")
    check_type("by_words", by_words, bool, "True or False")
    options = ScoreOptions.of(options, **changes)
    calibration = with_prior(guard.calibration, options.prior)
    messages = guard.read(content, role=role, on_role=options.on_role).messages
    occluder = Occluder(guard, messages, most_segments, options=options)
    unit, parts = first_cut(messages[-1].content, by_words)
    searches, occlusion = occluder.occlude(unit, parts, depth)
    marginals = joined(searches)
    return Explanation(
        id=id,
        model=guard.manifest.model_id,
        messages=messages,
        probabilities=occluder.full,
        calibrated=None if calibration is None else _calibrated(calibration, occluder.full),
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


def _calibrated(calibration: Calibration, raw: Mapping[str, Bounds]) -> dict[str, Marginal]:
    names = [name for name in raw if name == UNSAFE or name in calibration.labels]
    return {
        name: calibration.calibrated(name, Marginal(raw[name].middle, raw[name].lower, raw[name].upper))
        for name in names
    }
