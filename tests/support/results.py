"""Marginals of results, and comparison of results."""

from __future__ import annotations

import pytest

from tokmarg import Marginal, Result

__all__ = ["assert_same", "marginal"]


def marginal(result: Result, label: str) -> Marginal:
    """The marginal of a label that exists in the result's role mode."""
    found = result.labels[label]
    assert found is not None
    return found


def assert_same(a: Result, b: Result, within: float) -> None:
    for x, y in [(a.unsafe, b.unsafe), *((a.labels[k], b.labels[k]) for k in a.labels)]:
        assert x is not None
        assert y is not None
        assert x.probability == pytest.approx(y.probability, abs=within)
        assert x.lower == pytest.approx(y.lower, abs=within)
        assert x.upper == pytest.approx(y.upper, abs=within)
    assert a.coverage == pytest.approx(b.coverage, abs=within)
