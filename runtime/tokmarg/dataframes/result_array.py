"""Outcomes of scoring as an Arrow array: one struct a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tokmarg.errors import ContentError
from tokmarg.results import Marginal, MethodResult, Raw, Result

from .result_type import ResultType

__all__ = ["result_array"]


def result_array(outcomes: Sequence[Result | MethodResult | ContentError], type: ResultType) -> pa.StructArray:
    """The outcomes as an array of :attr:`ResultType.struct`; its type is the same whatever they are, and for none."""
    return pa.array([_row(outcome) for outcome in outcomes], type.struct)


def _row(outcome: Result | MethodResult | ContentError) -> dict[str, Any]:
    """Fields that are null are left out."""
    if isinstance(outcome, ContentError):
        return {"error": {"type": outcome.type, "message": _valid(str(outcome))}}
    common: dict[str, Any] = {
        "flagged": outcome.flagged,
        "converged": outcome.converged,
        "truncated": outcome.truncated,
        "suspicious": list(outcome.suspicious),
        "skipped": [{"what": _valid(what), "count": count} for what, count in outcome.skipped.items()],
    }
    if isinstance(outcome, Result):
        common |= {
            "coverage": outcome.coverage,
            "events": _numbers(outcome.events),
            **_probabilities(outcome, outcome.events),
        }
        return common if outcome.raw is None else common | {"raw": _probabilities(outcome.raw, {})}
    data = outcome.to_dict()
    return common | {"scores": data["scores"], "uncertainty": data["uncertainty"]} | _verdict(outcome)


def _verdict(outcome: MethodResult) -> dict[str, Any]:
    return {} if outcome.verdict is None else {"verdict": _valid(outcome.verdict)}


def _probabilities(result: Result | Raw, events: Mapping[str, Marginal | None]) -> dict[str, Any]:
    marginals = {"unsafe": result.unsafe, **result.labels, **events}
    return {
        "unsafe": result.unsafe.probability,
        "labels": _numbers(result.labels),
        "bounds": {name: None if m is None else {"lower": m.lower, "upper": m.upper} for name, m in marginals.items()},
    }


def _numbers(marginals: Mapping[str, Marginal | None]) -> dict[str, float | None]:
    return {name: None if m is None else m.probability for name, m in marginals.items()}


def _valid(text: str) -> str:
    """A text that Arrow can hold: lone surrogates as the commands write them."""
    return text.encode("utf-8", "backslashreplace").decode()
