"""Guesses are shares, go from what is known before to what a content shows, and change no result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.searches import VOCABULARY, RandomModel
from tests.support.tries import build
from tokmarg.grammar.node import Node
from tokmarg.scoring.exact import ExactSearch
from tokmarg.scoring.speculation import BranchEstimates

TRIE = build("smollm2", [f"S{i}" for i in range(1, 15)])
FEW = build("smollm2", ["A", "B", "C", "D"])
NODE = TRIE.root
TOKENS = list(TRIE.children(NODE))


def test_nothing_known_means_all_alike() -> None:
    assert BranchEstimates({}).shares(NODE, TOKENS) == [0.5, 0.5]
    assert BranchEstimates({(0, -1, token): 0.0 for token in TOKENS}).shares(NODE, TOKENS) == [0.5, 0.5]


def test_by_hand() -> None:
    """What a content shows at one node counts at others of the same tokens; shares of other tokens do not count."""
    a, b = TOKENS
    after = Node(-1, None, [], certain=1, possible=1)  # the same tokens after an event
    estimates = BranchEstimates({(0, -1, a): 0.9, (0, -1, b): 0.1, (1, -1, a): 0.5, (1, -1, b): 0.5, (0, 7, a): 0.0})
    assert estimates.shares(NODE, TOKENS) == pytest.approx([0.9, 0.1], abs=1e-3)
    estimates.observe(NODE, TOKENS, [0.3, 0.7])
    lift = np.array([0.3 / 0.9, 0.7 / 0.1])
    assert estimates.shares(NODE, TOKENS) == pytest.approx([0.3, 0.7], abs=1e-3)
    assert estimates.shares(after, TOKENS) == pytest.approx(lift / lift.sum(), abs=1e-3)
    assert estimates.totals() == {(0, -1, a): (0.3, 1), (0, -1, b): (0.7, 1)}
    estimates.observe(after, TOKENS, [0.5, 0.5])
    lift **= 0.5  # nobody expected other shares here: half as many logarithms on average
    means = (2 * 0.5 * lift + 0.5) / 3
    assert estimates.shares(after, TOKENS) == pytest.approx(means / means.sum(), abs=1e-3)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.lists(st.floats(0, 1), max_size=5))
def test_shares_are_shares(guesses: list[float], noted: list[float]) -> None:
    estimates = BranchEstimates({(0, -1, token): guess for token, guess in zip(TOKENS, guesses, strict=True)})
    for share in noted:
        estimates.observe(NODE, TOKENS, [share, 1 - share])
    shares = estimates.shares(NODE, TOKENS)
    assert sum(shares) == pytest.approx(1)
    assert all(share >= 0 for share in shares)


@settings(max_examples=25)
@given(st.data(), st.integers(0, 1000), st.sampled_from([1e-6, 1e-3, 0.1]), st.integers(1, 60))
def test_any_priors_give_the_same_bits(data: st.DataObject, seed: int, tolerance: float, max_nodes: int) -> None:
    """Priors of any kind (zeros, the truth reversed, nonsense), any limits from pass to pass, thresholds inside
    intervals: bounds, coverage, expanded nodes and open masses are those of the sequential order."""
    model = RandomModel(TRIE, seed, 2.0)
    options: dict[str, Any] = {
        "tolerance": tolerance,
        "max_nodes": max_nodes,
        "thresholds": {"unsafe": 0.5, "S1": 0.02},
    }
    plain = ExactSearch(TRIE, **options)
    while wanted := plain.wanted(1):
        plain.feed(wanted[0], model.logits(wanted[0].path))
    tokens = [-1, *TRIE.vocabulary()]
    keys = st.tuples(st.integers(0, 3), st.sampled_from(tokens), st.sampled_from(tokens[1:]))
    priors = data.draw(st.dictionaries(keys, st.sampled_from([0.0, 1e-300, 0.3, 1.0]), max_size=60))
    search = ExactSearch(TRIE, **options, branch_priors=priors)
    while wanted := search.wanted(data.draw(st.integers(1, 40))):
        for node in data.draw(st.permutations(wanted)):
            search.feed(node, model.logits(node.path))
    assert search.result() == plain.result()
    assert search.leaves() == plain.leaves()


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_guesses_change_no_result(seed: int, chance: int, limit: int) -> None:
    model = RandomModel(TRIE, seed, 2.0)
    plain = model.run(max_nodes=60)
    shares = np.random.default_rng(chance).random
    tokens = [-1, *TRIE.vocabulary()]
    guesses = {(n, a, b): float(shares()) for n in range(4) for a in tokens for b in tokens[1:] if shares() < 0.7}
    search = ExactSearch(TRIE, tolerance=1e-3, max_nodes=60, thresholds={}, branch_priors=guesses)
    while wanted := search.wanted(limit):
        for node in wanted:
            search.feed(node, model.logits(node.path))
    assert search.result() == plain


def test_good_guesses_need_fewer_rounds() -> None:
    model = RandomModel(TRIE, 3, 4.0)
    rounds = []
    known: dict[tuple[int, int, int], float] = {}
    for _ in range(2):
        search = ExactSearch(TRIE, tolerance=1e-2, max_nodes=256, thresholds={}, branch_priors=known)
        rounds.append(0)
        while wanted := search.wanted(8):
            rounds[-1] += 1
            for node in wanted:
                search.feed(node, model.logits(node.path))
        known = {key: total / count for key, (total, count) in search.branch_estimates.totals().items()}
    assert rounds[1] < rounds[0]


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(1.0, 6.0), st.sampled_from([1e-2, 1e-3]))
def test_no_more_nodes_than_would_settle_the_search(seed: int, spread: float, tolerance: float) -> None:
    """Where the guess is right there is one round, and what it asks for is needed, or nearly."""
    tokens = [-1, *FEW.vocabulary()]
    weights = np.exp(np.random.default_rng(seed).normal(0, spread, (20, len(tokens), len(tokens))))
    known = {
        (n, a, b): float(weights[n, i, j]) / float(weights.max())
        for n in range(20)
        for i, a in enumerate(tokens)
        for j, b in enumerate(tokens)
    }
    search = ExactSearch(FEW, tolerance=tolerance, max_nodes=10**6, thresholds={}, branch_priors=known)
    rounds, asked = 0, 0
    while wanted := search.wanted(10**6):
        rounds, asked = rounds + 1, asked + len(wanted)
        for node in wanted:
            logits = np.full(VOCABULARY, -np.inf, np.float32)
            for token in FEW.children(node):
                logits[token] = np.log(known[node.certain.bit_count(), node.token, token])
            search.feed(node, logits)
    result = search.result()
    assert result.converged
    assert rounds <= 2
    assert asked <= 1.5 * result.evaluated + 2


@pytest.mark.parametrize(("seed", "rounds"), [(0, 10), (2, 5), (5, 4)])
def test_a_threshold_within_a_narrow_interval_is_not_settled_node_by_node(seed: int, rounds: int) -> None:
    model = RandomModel(TRIE, seed, 2.0)
    plain = model.run(tolerance=0.2)
    event, bounds = max(plain.bounds.items(), key=lambda item: item[1].upper - item[1].lower)
    search = ExactSearch(TRIE, tolerance=0.2, max_nodes=200, thresholds={event: bounds.lower + 1e-9})
    asked = []
    while wanted := search.wanted(16):
        asked.append(len(wanted))
        for node in wanted:
            search.feed(node, model.logits(node.path))
    assert search.result().evaluated > plain.evaluated + 10
    assert len(asked) <= rounds
