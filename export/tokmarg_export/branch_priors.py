"""Branch priors for the manifest: mean shares of verdict tokens over calibration texts.

A search evaluates the likely nodes ahead by them, see :mod:`tokmarg.scoring.speculation`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokmarg.errors import ContentError
from tokmarg.guard import Guard
from tokmarg.prompt.messages import Content

__all__ = ["mean_branch_shares"]

_DIGITS = 4


def mean_branch_shares(guard: Guard, contents: Iterable[Content]) -> list[list[float]]:
    """Mean shares of verdict tokens over calibration contents, as rows of the manifest's ``guesses``.

    Raises:
        ContentError: a content cannot be scored.
    """
    sums: dict[tuple[int, int, int], tuple[float, int]] = {}
    for found in guard.unfold(contents):
        if isinstance(found, ContentError):
            raise found
        for _, _, search in found:
            for key, (total, count) in search.branch_estimates.totals().items():
                before, times = sums.get(key, (0.0, 0))
                sums[key] = (before + total, times + count)
    return [[*key, round(total / count, _DIGITS)] for key, (total, count) in sorted(sums.items())]
