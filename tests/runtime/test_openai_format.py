"""OpenAI's response: categories by a table or by label, and that they agree with ``flagged``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmarg import Marginal, Result, Thresholds, moderation_response
from tokmarg.documents import Fields
from tokmarg.errors import SpecError
from tokmarg.openai_format import OPENAI_CATEGORIES, flagged_labels, parse_openai

TABLE = {"A": ("violence", "illicit"), "B": ("illicit",), "C": ()}


def result(unsafe: float, labels: dict[str, float | None], limits: Thresholds) -> Result:
    def marginal(p: float, limit: float | None) -> Marginal:
        return Marginal(p, p, p, limit is not None and p >= limit)

    found = {name: None if p is None else marginal(p, limits.labels.get(name)) for name, p in labels.items()}
    whole = marginal(unsafe, limits.unsafe)
    flagged = whole.flagged or any(m is not None and m.flagged for m in found.values())
    return Result(None, flagged, whole, found, 1.0, True, "exact", "org/model")


def only(response: dict[str, object]) -> dict[str, Any]:
    results = response["results"]
    assert isinstance(results, list)
    (found,) = results
    return dict(found)


def test_the_worked_example() -> None:
    limits = Thresholds(0.9, {"B": 0.2})
    found = only(
        moderation_response(
            [result(0.5, {"A": 0.4, "B": 0.3, "C": None}, limits)], id="m", thresholds=limits, table=TABLE
        )
    )
    assert found["flagged"] is True
    assert [name for name, value in found["categories"].items() if value] == ["illicit"]  # B reached its own
    assert (found["category_scores"]["illicit"], found["category_scores"]["violence"]) == (0.4, 0.4)
    assert found["category_applied_input_types"]["hate"] == []
    assert set(found["categories"]) == set(OPENAI_CATEGORIES)


def test_a_label_without_a_category_is_flagged_and_has_none() -> None:
    limits = Thresholds()
    found = only(
        moderation_response([result(0.9, {"A": 0.0, "C": 0.9}, limits)], id="m", thresholds=limits, table=TABLE)
    )
    assert found["flagged"] is True
    assert not any(found["categories"].values())


@given(
    st.floats(0, 1), st.dictionaries(st.sampled_from("ABC"), st.none() | st.floats(0, 1), min_size=1), st.floats(0, 1),
    st.dictionaries(st.sampled_from("ABC"), st.floats(0, 1)),
)  # fmt: skip
def test_categories_agree_with_flagged(
    unsafe: float, labels: dict[str, float | None], limit: float, own: dict[str, float]
) -> None:
    limits = Thresholds(limit, own)
    scored = result(unsafe, labels, limits)
    found = only(moderation_response([scored], id="m", thresholds=limits, details=True))
    there = [name for name, p in labels.items() if p is not None]
    assert any(found["categories"].values()) == (scored.flagged and bool(there))
    applying = flagged_labels(scored, limits)
    assert applying == {name for name, value in found["categories"].items() if value}
    assert applying >= {name for name, m in scored.labels.items() if m is not None and m.flagged}
    assert found["tokmarg"] == scored.to_dict()


def test_tables() -> None:
    assert parse_openai(Fields({"A": ["violence"], "B": []}, "spec", SpecError)) == {"A": ("violence",), "B": ()}
    with pytest.raises(SpecError, match="'Violence' is none of OpenAI's categories"):
        parse_openai(Fields({"A": ["Violence"]}, "spec", SpecError))
    with pytest.raises(SpecError, match="must be a list"):
        parse_openai(Fields({"A": "violence"}, "spec", SpecError))
