"""Branch priors: the mean share of probability that each next verdict token has, measured by the exporter.

A search evaluates the children with large priors before it knows that it needs them. Priors never enter a result;
see :mod:`tokmarg.scoring.speculation`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokmarg.documents import Fields

__all__ = ["BranchPriors", "parse_branch_priors"]

#: (number of events that are certain so far, token before or -1, token) -> mean share of the token, 0 to 1.
BranchPriors = Mapping[tuple[int, int, int], float]


def parse_branch_priors(f: Fields) -> BranchPriors:
    """Reads ``guesses`` of a manifest: a list of [events certain so far, token before or -1, token, mean share]."""
    priors: dict[tuple[int, int, int], float] = {}
    for i, row in enumerate(f.get("guesses", list, [])):
        if not isinstance(row, list) or len(row) != 4 or not all(type(number) is int for number in row[:3]):
            raise f.fail(f"guesses[{i}]", "must be [events so far, token before, token, share], three of them integers")
        certain, before, token, share = row
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise f.fail(f"guesses[{i}]", "share must be a number from 0 to 1")
        if certain < 0 or before < -1 or token < 0:
            raise f.fail(f"guesses[{i}]", "has a negative number that is no token before")
        priors[certain, before, token] = float(share)
    return priors
