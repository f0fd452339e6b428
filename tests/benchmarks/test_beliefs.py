"""Beliefs, which stand in for trained weights in `benchmarks/peers.py --shape`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.builders import builder_of
from tests.support.tries import S14, build
from tokmarg.grammar.trie import Trie
from tokmarg.loading import build_tries
from tokmarg.scoring.exact import ExactSearch, Marginals


@pytest.fixture(scope="module")
def beliefs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module("beliefs")


def searched(trie: Trie, belief: Any) -> Marginals:
    search = ExactSearch(trie, tolerance=1e-4, max_nodes=5_000, thresholds={})
    while wanted := search.wanted(1):
        for node in wanted:
            logits = np.full(128_256, -30, dtype=np.float32)
            logits[list(trie.children(node))] = np.log(belief.shares(trie, node))
            search.feed(node, logits)
    return search.result()


@pytest.mark.parametrize("family", ["llama3", "smollm2"])
def test_a_search_of_a_belief_finds_its_probabilities(beliefs: Any, family: str) -> None:
    trie = build(family, S14[:4], leads=("", "\n\n") if family == "llama3" else ("",))
    belief = beliefs.Belief.of(0.8, {"S1": 0.72, "S2": 0.2, "S3": 0.01, "S4": 0.6})
    found = searched(trie, belief)
    assert found.converged
    assert found.bounds["unsafe"].middle == pytest.approx(0.8, abs=1e-3)
    at_least_one = 1 - np.prod([1 - p for p in belief.labels.values()])
    for label, share in belief.labels.items():
        assert found.bounds[label].middle == pytest.approx(0.8 * share / at_least_one, abs=3e-3)


def test_the_verdict_is_what_llama_guard_writes(beliefs: Any) -> None:
    trie = build_tries(builder_of("llama-guard-3-8b"))["user", None]
    labels = dict.fromkeys(S14, 0.001) | {"S2": 0.99, "S7": 0.9}
    harmful, harmless = beliefs.Belief.of(0.99, labels), beliefs.Belief.of(0.01, labels)
    lead, unsafe, safe, end = [271], [39257, 198], [19193], [128009]
    assert harmful.verdict(trie) == [
        *lead,
        *unsafe,
        50,
        17,
        21861,
        22,
        *end,
    ]  # "\n\n", "unsafe", "\n", "S", "2", ",S", "7"
    assert harmless.verdict(trie) == [*lead, *safe, *end]
    assert harmful.lead(trie) == harmless.lead(trie) == lead
