"""Scores of one content from its parts: of prompts that each ask for one label, and of overlapping windows.

Some guards have one prompt for each label. The event ``unsafe`` of each prompt's verdict is then its label. The
marginals of the labels do not determine the probability that any of them is violated, so the content is as unsafe as
its highest label: [highest lower bound, highest upper bound]. The coverage is the lowest.

    prompt for A   P(unsafe) = 0.9            P(A) = 0.9
    prompt for B   P(unsafe) = 0.3     ->     P(B) = 0.3     P(unsafe) = 0.9

Windows of a long content are joined alike: each event is as probable as in the window where it is highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokmarg.grammar.grammar import UNSAFE

from .exact import Bounds, Marginals
from .method_scores import MethodScores

__all__ = ["join_label_marginals", "join_label_scores", "join_window_marginals", "join_window_scores"]


def join_label_marginals(parts: Sequence[tuple[str | None, Marginals]], threshold: float) -> Marginals:
    """The marginals of one content, or of one window of it.

    Args:
        parts: label of each prompt (None: the only prompt, which has all labels), and the marginals of its verdict.
        threshold: flagging threshold of ``unsafe``.
    """
    if parts[0][0] is None:
        return parts[0][1]
    bounds = {str(label): part.bounds[UNSAFE] for label, part in parts}
    lower, upper = max(b.lower for b in bounds.values()), max(b.upper for b in bounds.values())
    return Marginals(
        {**bounds, UNSAFE: Bounds(lower, upper)},
        _lowest_coverage([part for _, part in parts]),
        all(part.converged for _, part in parts) and not lower < threshold < upper,
        sum(part.evaluated for _, part in parts),
    )


def join_label_scores(parts: Sequence[tuple[str | None, MethodScores]]) -> MethodScores:
    """The scores of one content, or of one window of it, by another method; ``verdict`` is the highest label's.

    Args:
        parts: label of each prompt (None: the only prompt, which has all labels), and the scores of its verdict.
    """
    if parts[0][0] is None:
        return parts[0][1]
    top = max((part for _, part in parts), key=lambda part: part.values[UNSAFE])
    return replace(
        top,
        values={str(label): part.values[UNSAFE] for label, part in parts} | {UNSAFE: top.values[UNSAFE]},
        complete=all(part.complete for _, part in parts),
        evaluated=sum(part.evaluated for _, part in parts),
    )


def join_window_marginals(parts: Sequence[Marginals]) -> Marginals:
    """The marginals of a content in windows: maximum of each event, minimum coverage, converged if all are."""
    bounds = {
        event: Bounds(max(p.bounds[event].lower for p in parts), max(p.bounds[event].upper for p in parts))
        for event in parts[0].bounds
    }
    return Marginals(bounds, _lowest_coverage(parts), all(p.converged for p in parts), sum(p.evaluated for p in parts))


def join_window_scores(parts: Sequence[MethodScores]) -> MethodScores:
    """The scores of a content in windows: the highest of each label; verdict and uncertainty are those of the window
    whose ``unsafe`` is highest, and so are the labels of a method with an uncertainty (they are conditional on it)."""
    top = max(parts, key=lambda part: part.values[UNSAFE])
    values = top.values
    if top.uncertainty is None:
        values = {event: max(part.values[event] for part in parts) for event in values}
    evaluated = sum(part.evaluated for part in parts)
    return replace(top, values=values, complete=all(part.complete for part in parts), evaluated=evaluated)


def _lowest_coverage(parts: Sequence[Marginals]) -> float | None:
    """The lowest coverage of those that have one."""
    coverages = [part.coverage for part in parts if part.coverage is not None]
    return min(coverages) if coverages else None
