"""Grammars of one verdict, of one label, and of tokens that complete two events, by every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.edited_bundle import edit_spec, load
from tokmarg import SpecError
from tokmarg.results import METHODS, Method, MethodResult
from tokmarg.scoring.methods import UNCERTAINTIES

LABEL = [{"id": "A", "name": "Weapons"}]
LIST = {"text": "unsafe", "event": "unsafe", "then": ["\n", {"labels": "id", "separators": [","]}]}
SAFE = {"text": "safe"}
#: name -> labels, options, what is 0 by every method.
GRAMMARS: dict[str, tuple[list[Any], list[Any], set[str]]] = {
    "safe alone": ([], [SAFE], {"unsafe"}),
    "safe alone, and a label": (LABEL, [SAFE], {"unsafe", "A"}),
    "one label": (LABEL, [SAFE, LIST], set()),
    "no labels": ([], [SAFE, {"text": "unsafe", "event": "unsafe"}], set()),
    "two events at once": (LABEL, [SAFE, {"text": "unsafe", "events": ["unsafe", "A"]}], set()),
}


def scores(folder: Path, name: str, method: Method) -> dict[str, float]:
    labels, options, _ = GRAMMARS[name]
    edit_spec(folder, "policy", "labels", value=labels)
    edit_spec(folder, "verdict", "grammar", value=[{"choice": options}])
    found = load(folder).score("gun", method=method, max_depth=4)
    if isinstance(found, MethodResult):
        return {label: score for label, score in found.scores.items() if score is not None}
    marginals = {"unsafe": found.unsafe, **{label: each for label, each in found.labels.items() if each is not None}}
    return {event: each.probability for event, each in marginals.items()}


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("method", [method for method in METHODS if method not in UNCERTAINTIES])
def test_scores(bundle_copy: Path, name: str, method: Method) -> None:
    found = scores(bundle_copy, name, method)
    assert set(found) == {"unsafe", *(label["id"] for label in GRAMMARS[name][0])}
    assert {event for event, score in found.items() if score == 0} >= GRAMMARS[name][2]
    if not GRAMMARS[name][2]:
        assert found["unsafe"] > 0.5


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("method", UNCERTAINTIES)
def test_one_label_or_two_needs_two(bundle_copy: Path, name: str, method: Method) -> None:
    with pytest.raises(SpecError, match="no place at which it offers several labels"):
        scores(bundle_copy, name, method)


def test_a_token_is_one_factor(bundle_copy: Path) -> None:
    """Whatever it completes: arXiv:2511.22312 multiplies tokens."""
    fixed = scores(bundle_copy, "two events at once", "fixed-place")
    assert fixed["A"] == fixed["unsafe"] == scores(bundle_copy, "two events at once", "token")["unsafe"]
