"""Guards that are asked for one label at a time: what the verdicts on single labels say together.

Each verdict's event ``unsafe`` is its label. The marginals of the labels do not determine the probability that any of
them is violated, so the content counts as unsafe as its highest label: [highest lower bound, highest upper bound]. The
coverage is the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokmarg.grammar.grammar import UNSAFE

from .exact import Bounds, Marginals
from .methods import Scores

__all__ = ["join_marginals", "join_scores", "join_windows"]


def join_marginals(parts: Sequence[tuple[str | None, Marginals]], threshold: float) -> Marginals:
    """The marginals of one content.

    Args:
        parts: label that was asked for (None: all of them, in the only prompt), and the marginals of its verdict.
        threshold: flagging threshold of ``unsafe``.
    """
    if parts[0][0] is None:
        return parts[0][1]
    bounds = {str(label): part.bounds[UNSAFE] for label, part in parts}
    lower, upper = max(b.lower for b in bounds.values()), max(b.upper for b in bounds.values())
    coverages = [part.coverage for _, part in parts if part.coverage is not None]
    return Marginals(
        {**bounds, UNSAFE: Bounds(lower, upper)},
        min(coverages) if coverages else None,
        all(part.converged for _, part in parts) and not lower < threshold < upper,
        sum(part.evaluated for _, part in parts),
    )


def join_scores(parts: Sequence[tuple[str | None, Scores]]) -> Scores:
    """The scores of one content by another method; ``verdict`` is that of the highest label.

    Args:
        parts: label that was asked for (None: all of them, in the only prompt), and the scores of its verdict.
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


def join_windows(parts: Sequence[Marginals]) -> Marginals:
    """Maximum per event, minimum coverage, converged if all are."""
    bounds = {
        event: Bounds(max(p.bounds[event].lower for p in parts), max(p.bounds[event].upper for p in parts))
        for event in parts[0].bounds
    }
    coverages = [p.coverage for p in parts if p.coverage is not None]
    return Marginals(
        bounds,
        min(coverages) if coverages else None,
        all(p.converged for p in parts),
        sum(p.evaluated for p in parts),
    )
