"""Marginals equal brute-force enumeration; bounds always hold; the worked example by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.encoders import encoder_of
from tests.support.optional import present
from tests.support.searches import VOCABULARY, RandomModel, brute_force
from tests.support.tries import build
from tokmarg.errors import ContentError
from tokmarg.grammar.node import Node
from tokmarg.scoring.exact import ExactSearch


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.1, 8), n=st.integers(1, 4))
def test_equals_brute_force(seed: int, spread: float, n: int) -> None:
    model = RandomModel(build("smollm2", ["S1", "S10", "S2", "S14"][:n]), seed, spread)
    exact, coverage = brute_force(model)
    result = model.run(tolerance=1e-9, max_nodes=10_000)
    assert result.converged
    for event, probability in exact.items():
        assert result.bounds[event].middle == pytest.approx(probability, abs=1e-9)
    assert result.coverage == pytest.approx(coverage, abs=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.1, 8), budget=st.integers(1, 40))
def test_bounds_hold_at_any_budget(seed: int, spread: float, budget: int) -> None:
    model = RandomModel(build("llama3", ["S1", "S2", "S3", "S10"]), seed, spread)
    exact, _ = brute_force(model)
    result = model.run(max_nodes=budget)
    assert result.evaluated <= budget
    for event, probability in exact.items():
        bounds = result.bounds[event]
        assert bounds.lower - 1e-12 <= probability <= bounds.upper + 1e-12
        assert bounds.upper <= result.bounds["unsafe"].upper + 1e-12
    if result.converged:
        assert all(b.upper - b.lower <= 1e-3 + 1e-9 for b in result.bounds.values())


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), limit=st.integers(2, 40))
def test_what_rides_along_changes_nothing(seed: int, limit: int) -> None:
    model = RandomModel(build("llama3", ["S1", "S2", "S3", "S10"]), seed, 2.0)
    assert model.run(limit=limit, max_nodes=30) == model.run(limit=1, max_nodes=30)


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_no_node_beyond_the_budget_rides_along(budget: int) -> None:
    model = RandomModel(build("llama3", ["S1", "S2", "S3", "S10"]), 0, 2.0)
    search = ExactSearch(model.trie, tolerance=1e-9, max_nodes=budget, thresholds={})
    leads = len(model.trie.undecided(model.trie.root))  # the coverage needs them, whatever the budget
    while wanted := search.wanted(12):
        assert len(wanted) <= max(leads, budget)
        for node in wanted:
            search.feed(node, model.logits(node.path))


def test_worked_example_by_hand() -> None:
    """The example of the module's docstring."""
    trie = build("llama3", ["A", "B", "C"])
    encoder = encoder_of("llama3")
    a, b, c = (encoder.encode_text(f"unsafe\n{x}")[-1] for x in "ABC")
    comma_a = encoder.encode_text("unsafe\nB,A")[-1]
    end = present(encoder.token_id("<|eot_id|>"))
    safe, unsafe = encoder.encode_text("safe")[0], encoder.encode_text("unsafe")[0]
    given_: dict[tuple[int, ...], dict[int, float]] = {
        (): {safe: 0.5, unsafe: 0.5},
        (a,): {end: 1.0},
        (b,): {end: 0.5, comma_a: 0.5},
        (comma_a,): {end: 1.0},
        (c,): {end: 1.0},
    }

    def logits(node: Node) -> np.ndarray:
        values = np.full(VOCABULARY, -np.inf, dtype=np.float32)
        table = given_.get(node.path[-1:])
        if table is None:  # behind "unsafe\n"
            table = {a: 0.6, b: 0.3, c: 0.1}
        for token, p in table.items():
            values[token] = math.log(p)
        return values

    search = ExactSearch(trie, tolerance=1e-9, max_nodes=256, thresholds={})
    while wanted := search.wanted(1):
        for node in wanted:
            search.feed(node, logits(node))
    bounds = search.result().bounds
    expected = {"unsafe": 0.5, "A": 0.375, "B": 0.15, "C": 0.05}
    assert {event: round(b.middle, 6) for event, b in bounds.items()} == expected


ORDERED = [
    {
        "choice": [
            {"text": " safe"},
            {
                "text": " unsafe",
                "event": "unsafe",
                "then": [" ", {"labels": "id", "separators": [" "], "order": "policy"}],
            },
        ]
    }
]


def test_worked_example_in_the_policys_order() -> None:
    """Labels hate, crime and privacy in this order:

    safe 0.5                hate 0.6 -> end 0.5 | crime 0.3 -> end 0.5 | privacy 0.5
    unsafe 0.5 ->                                privacy 0.2 -> end
                            crime 0.3 -> end 0.5 | privacy 0.5
                            privacy 0.1 -> end

    P(hate) = 0.5 * 0.6 = 0.3, P(crime) = 0.5 * (0.6 * 0.3 + 0.3) = 0.24,
    P(privacy) = 0.5 * (0.6 * (0.3 * 0.5 + 0.2) + 0.3 * 0.5 + 0.1) = 0.23
    """
    trie = build("smollm2", ["hate", "crime", "privacy"], parts=ORDERED)
    encoder = encoder_of("smollm2")
    (safe,), (unsafe,), (hate,), (crime,), (privacy,) = (
        encoder.encode_text(f" {word}") for word in ("safe", "unsafe", "hate", "crime", "privacy")
    )
    end = present(encoder.token_id("<|im_end|>"))
    after: dict[int | None, dict[int, float]] = {
        None: {safe: 0.5, unsafe: 0.5},
        unsafe: {hate: 0.6, crime: 0.3, privacy: 0.1},
        hate: {end: 0.5, crime: 0.3, privacy: 0.2},
        crime: {end: 0.5, privacy: 0.5},
    }
    search = ExactSearch(trie, tolerance=1e-9, max_nodes=256, thresholds={})
    while wanted := search.wanted(1):
        for node in wanted:
            logits = np.full(VOCABULARY, -np.inf, dtype=np.float32)
            for token, p in after[node.path[-1] if node.path else None].items():
                logits[token] = math.log(p)
            search.feed(node, logits)
    result = search.result()
    assert result.evaluated == 5  # the root, unsafe, hate, crime after hate, crime; each label is one node
    expected = {"hate": 0.3, "crime": 0.24, "privacy": 0.23, "unsafe": 0.5}
    assert {event: round(b.middle, 6) for event, b in result.bounds.items()} == expected


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    spread=st.floats(0.1, 8),
    n=st.integers(1, 5),
    between=st.sampled_from([",", ", ", ""]),
    most=st.sampled_from([None, 2]),
)
def test_lists_in_the_policys_order_equal_a_sum_over_texts(
    seed: int, spread: float, n: int, between: str, most: int | None
) -> None:
    """From the tokens of every subset of the labels as a text; a token is allowed where one of these goes on so."""
    labels = ["S1", "S10", "S2", "S14", "S3"][:n] if between else ["hate", "crime", "privacy", "advice", "porn"][:n]
    head, spelling = ("\n", "id") if between else ("", " {{id}}")
    listed = {"labels": spelling, "separators": [between], "order": "policy", "max": most}
    then = [head, listed] if head else [listed]
    choice = [{"text": "safe"}, {"text": "unsafe", "event": "unsafe", "then": then}]
    model = RandomModel(build("smollm2", labels, parts=[{"choice": choice}]), seed, spread)
    encoder = encoder_of("smollm2")
    base, end = len(encoder.encode_text("assistant\n")), present(encoder.token_id("<|im_end|>"))
    named: dict[tuple[int, ...], tuple[str, ...]] = {}
    for count in range((min(n, most) if most else n) + 1):
        for chosen in itertools.combinations(labels, count):
            spelt = between.join(label if between else f" {label}" for label in chosen)
            text = f"unsafe{head}{spelt}" if chosen else "safe"
            named[(*encoder.encode_text(f"assistant\n{text}")[base:], end)] = (*chosen, *(["unsafe"] if chosen else []))
    expected = dict.fromkeys([*labels, "unsafe"], 0.0)
    for path, events in named.items():
        log = 0.0
        for i, token in enumerate(path):
            z = model.logits(path[:i]).astype(float)
            log += z[token] - np.logaddexp.reduce([z[t] for t in {p[i] for p in named if p[:i] == path[:i]}])
        for event in events:
            expected[event] += math.exp(log)
    bounds = model.run(tolerance=1e-9, max_nodes=10_000).bounds
    assert {event: b.middle for event, b in bounds.items()} == pytest.approx(expected, abs=1e-8)


def test_benign_content_needs_one_node() -> None:
    trie = build("smollm2", [f"S{i}" for i in range(1, 15)])
    safe, unsafe = trie.children(trie.root)
    if trie.children(trie.root)[safe].certain:
        safe, unsafe = unsafe, safe
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    logits[safe] = 20.0
    search = ExactSearch(trie, tolerance=1e-3, max_nodes=256, thresholds={"unsafe": 0.5})
    (node,) = search.wanted(1)
    search.feed(node, logits)
    assert search.wanted(16) == []
    result = search.result()
    assert (result.evaluated, result.converged) == (1, True)
    assert result.bounds["unsafe"].upper < 1e-3


def test_threshold_inside_an_interval_keeps_the_search_going() -> None:
    model = RandomModel(build("llama3", ["S1", "S2", "S3", "S10"]), 3, 1.0)
    coarse = model.run(tolerance=0.3)
    inside = coarse.bounds["S1"].middle
    assert coarse.bounds["S1"].lower < inside < coarse.bounds["S1"].upper
    finer = model.run(tolerance=0.3, thresholds={"S1": inside})
    assert finer.evaluated > coarse.evaluated
    assert not finer.bounds["S1"].lower < inside < finer.bounds["S1"].upper


def test_coverage_sums_over_leads_and_forced_tokens() -> None:
    trie = build("llama3", ["S1"], leads=("", "\n\n"))
    model = RandomModel(trie, 5, 1.0)
    (lead,) = encoder_of("llama3").encode_text("\n\n")

    def raw(path: tuple[int, ...]) -> np.ndarray:
        logits = model.logits(path).astype(float)
        return np.asarray(np.exp(logits - np.logaddexp.reduce(logits)))

    decides = trie.undecided(trie.root)[0].decides
    expected = raw(())[list(decides)].sum() + raw(())[lead] * raw((lead,))[list(decides)].sum()
    assert model.run().coverage == pytest.approx(expected, rel=1e-9)


def test_partial_head_gives_the_same_marginals_and_no_coverage() -> None:
    trie = build("llama3", ["S1", "S2", "S3"])
    model = RandomModel(trie, 11, 2.0)
    tokens = trie.vocabulary()
    full = model.run()
    search = ExactSearch(
        trie, tolerance=1e-3, max_nodes=256, thresholds={}, columns={t: i for i, t in enumerate(tokens)}
    )
    while wanted := search.wanted(1):
        for node in wanted:
            search.feed(node, model.logits(node.path)[list(tokens)])
    assert search.result().coverage is None
    assert search.result().bounds == full.bounds


def test_log_probabilities_of_the_allowed_tokens_are_enough() -> None:
    trie = build("llama3", ["S1", "S2", "S3"])
    model = RandomModel(trie, 12, 2.0)
    whole = model.run()
    search = ExactSearch(trie, tolerance=1e-3, max_nodes=256, thresholds={})
    while wanted := search.wanted(1):
        for node in wanted:
            logits = model.logits(node.path).astype(np.float64)
            shown = np.full(VOCABULARY, -np.inf, dtype=np.float32)
            tokens = list(trie.children(node))
            normalized = search.reads(node) == "log_probabilities"
            shown[tokens] = (logits - (np.logaddexp.reduce(logits) if normalized else 0))[tokens]
            search.feed(node, shown, normalized=normalized)
    found = search.result()
    assert found.coverage == pytest.approx(whole.coverage, rel=1e-6)
    assert found.coverage is not None
    assert 0 < found.coverage < 1
    for event, bounds in whole.bounds.items():
        assert found.bounds[event].lower == pytest.approx(bounds.lower, abs=1e-6)
        assert found.bounds[event].upper == pytest.approx(bounds.upper, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_logits_are_refused(value: float) -> None:
    trie = build("llama3", ["S1"])
    search = ExactSearch(trie, tolerance=1e-3, max_nodes=256, thresholds={})
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    logits[77] = value
    with pytest.raises(ContentError, match="NaN or infinite") as error:
        search.feed(search.wanted(1)[0], logits)
    assert error.value.type == "non_finite_logits"


def test_all_allowed_tokens_impossible_is_refused() -> None:
    trie = build("llama3", ["S1"])
    search = ExactSearch(trie, tolerance=1e-3, max_nodes=256, thresholds={})
    with pytest.raises(ContentError, match="probability zero to every allowed token"):
        search.feed(search.wanted(1)[0], np.full(VOCABULARY, -np.inf, dtype=np.float32))
