"""The verdict tree has the probabilities of whole texts, enumerated by brute force; the worked example by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.encoders import encoder_of
from tests.support.grammars import language
from tests.support.optional import present
from tests.support.searches import VOCABULARY, RandomModel, SmallModel
from tests.support.tokenizers import NATIVE, labels_of, parts_of, spec_of, trie_of
from tests.support.tries import EOT, TAIL, build
from tests.support.verdict_parsers import expected
from tests.support.verdict_parsers import verdicts as language_of
from tokmarg.explanation.verdict_tree import HESITATION, VerdictNode, complete_verdicts, verdict_tree
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.labels import Role
from tokmarg.scoring.exact import ExactSearch


def searched(model: RandomModel, **changes: Any) -> ExactSearch:
    options: dict[str, Any] = {"tolerance": 1e-9, "max_nodes": 20_000, "thresholds": {}, **changes}
    search = ExactSearch(model.trie, **options)
    while wanted := search.wanted(8):
        for node in wanted:
            search.feed(node, model.logits(node.path))
    return search


def probability(model: RandomModel, path: list[int], known: dict[tuple[int, ...], dict[int, float]]) -> float:
    """Of one token path, straight from the definition; ``known`` keeps the distributions."""
    node, mass = model.trie.root, 1.0
    for token in path:
        children = model.trie.children(node)
        if node.path not in known:
            logits = model.logits(node.path).astype(float)
            total = sum(math.exp(logits[t]) for t in children)
            known[node.path] = {t: math.exp(logits[t]) / total for t in children}
        mass *= known[node.path][token]
        node = children[token]
    assert node.complete
    return mass


def squeezed(text: str) -> str:
    return "".join(text.split())


def worked_example() -> tuple[Trie, ExactSearch]:
    """That of :mod:`tokmarg.scoring.exact`."""
    trie = build("llama3", ["A", "B", "C"])
    encoder = encoder_of("llama3")
    a, b, c = (encoder.encode_text(f"unsafe\n{x}")[-1] for x in "ABC")
    comma_a = encoder.encode_text("unsafe\nB,A")[-1]
    end = present(encoder.token_id("<|eot_id|>"))
    safe, unsafe = encoder.encode_text("safe")[0], encoder.encode_text("unsafe")[0]
    following: dict[int | None, dict[int, float]] = {None: {safe: 0.5, unsafe: 0.5}, a: {end: 1.0}, c: {end: 1.0}}
    following |= {b: {end: 0.5, comma_a: 0.5}, comma_a: {end: 1.0}}
    search = ExactSearch(trie, tolerance=1e-9, max_nodes=256, thresholds={})
    while wanted := search.wanted(1):
        for node in wanted:
            logits = np.full(VOCABULARY, -np.inf, dtype=np.float32)
            for token, p in following.get(node.token if node.depth else None, {a: 0.6, b: 0.3, c: 0.1}).items():
                logits[token] = math.log(p)
            search.feed(node, logits)
    return trie, search


def test_worked_example_by_hand() -> None:
    trie, search = worked_example()
    root = verdict_tree(trie, search)
    found = [(text, round(n.probability, 6), round(n.share, 6), n.events, n.complete) for text, n in root.walk()]
    assert found == [
        ("", 1.0, 1.0, (), False),
        ("safe", 0.5, 0.5, (), True),
        ("unsafe", 0.5, 0.5, ("unsafe",), False),
        ("unsafe\nA", 0.3, 0.6, ("A",), True),
        ("unsafe\nB", 0.15, 0.3, ("B",), False),
        ("unsafe\nB", 0.075, 0.5, (), True),
        ("unsafe\nB,A", 0.075, 0.5, ("A",), True),
        ("unsafe\nC", 0.05, 0.1, ("C",), True),
    ]
    by_text = {text: node for text, node in root.walk() if not node.complete}
    assert root.entropy == pytest.approx(1.0)
    expected = -(0.6 * math.log2(0.6) + 0.3 * math.log2(0.3) + 0.1 * math.log2(0.1))
    assert by_text["unsafe"].entropy == pytest.approx(expected)
    assert root.children[0].entropy is None  # nothing follows
    assert [text for text, node in root.walk() if node.hesitates] == ["", "unsafe", "unsafe\nB"]
    top = complete_verdicts(trie, search, most=3)
    assert [(v.text, round(v.probability, 6)) for v in top] == [("safe", 0.5), ("unsafe\nA", 0.3), ("unsafe\nB", 0.075)]


def test_pruning_keeps_the_sum() -> None:
    trie, search = worked_example()
    root = verdict_tree(trie, search, least=0.1)
    unsafe = root.children[1]
    assert [child.text for child in unsafe.children] == ["\nA", "\nB"]
    assert unsafe.other == pytest.approx(0.05)
    b = unsafe.children[1]
    assert b.children == ()
    assert b.other == pytest.approx(0.15)  # both continuations are below 0.1
    check_sums(root)
    assert all(node.unexplored == 0 for _, node in root.walk())


def check_sums(root: VerdictNode) -> None:
    assert root.probability == pytest.approx(1.0, abs=1e-9)
    for _, node in root.walk():
        if not node.complete:
            total = math.fsum(child.probability for child in node.children) + node.other
            assert total == pytest.approx(node.probability, abs=1e-9)
        assert -1e-12 <= node.unexplored <= node.other + 1e-9


def check_seen(trie: Trie, search: ExactSearch, expected: dict[str, float]) -> None:
    """What the search has seen whole is listed, nothing else; with what it left open it is 1."""
    seen = complete_verdicts(trie, search, most=len(expected) + 1)
    assert len({v.text for v in seen}) == len(seen)
    assert {v.text: v.probability for v in seen} == pytest.approx({v.text: expected[v.text] for v in seen}, abs=1e-9)
    left = [mass for mass, node in search.leaves() if not trie.has_ended(node)]
    assert bool(left) == (len(seen) < len(expected))
    assert math.fsum([*(v.probability for v in seen), *left]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("family_", ["llama3", "smollm2"])
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.1, 6), n=st.integers(1, 3))
@example(seed=508, spread=5.0, n=2)  # two verdicts of five share 5e-11, and the search stops at 1e-9
def test_equals_enumeration_of_texts(family_: str, seed: int, spread: float, n: int) -> None:
    """One tokenizer knows whole numbers, the other splits S10 into digits."""
    trie = build(family_, ["S1", "S10", "S2"][:n])
    model = RandomModel(trie, seed, spread)
    encoder = encoder_of(family_)
    base, end = len(encoder.encode_text(TAIL[family_])), present(encoder.token_id(EOT[family_]))
    known: dict[tuple[int, ...], dict[int, float]] = {}
    expected = {
        text: probability(model, [*encoder.encode_text(TAIL[family_] + text)[base:], end], known)
        for text in language(trie.grammar)
    }
    assert math.fsum(expected.values()) == pytest.approx(1.0)
    search = searched(model)
    root = verdict_tree(trie, search, least=0.0)
    check_sums(root)
    complete = {text: node.probability for text, node in root.walk() if node.complete}
    assert set(complete) <= set(expected)  # what has next to no mass is not looked into
    assert {text: complete.get(text, 0.0) for text in expected} == pytest.approx(expected, abs=1e-9)
    whole = searched(model, tolerance=-1.0)  # no interval is as narrow: the search goes on until nothing is open
    found = complete_verdicts(trie, whole, most=len(expected) + 1)
    assert sorted(v.text for v in found) == sorted(expected)
    assert {v.text: v.probability for v in found} == pytest.approx(expected, rel=1e-6, abs=0.0)
    assert [v.probability for v in found] == sorted((v.probability for v in found), reverse=True)
    assert complete_verdicts(trie, whole, most=4) == found[:4]
    check_seen(trie, search, expected)
    for text, node in root.walk():  # a node is the sum of the verdicts that begin with its labels
        said = text.split("\n")
        labels = said[1].split(",") if len(said) > 1 else []
        begins = [
            p
            for other, p in expected.items()
            if not text
            or (other.startswith(said[0]) and other.split("\n")[-1].split(",")[: len(labels)] == labels)
            or (said[0] == other)
        ]
        if not node.complete:
            assert node.probability == pytest.approx(math.fsum(begins), abs=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), budget=st.integers(1, 12))
def test_what_was_not_looked_into_is_said(seed: int, budget: int) -> None:
    model = RandomModel(build("smollm2", ["S1", "S10", "S2", "S14"]), seed, 0.5)
    search = searched(model, max_nodes=budget)
    root = verdict_tree(model.trie, search, least=0.0)
    check_sums(root)
    unexplored = math.fsum(node.unexplored for _, node in root.walk())
    bounds = search.result().bounds
    assert unexplored == pytest.approx(
        math.fsum(m for m, node in search.leaves() if not model.trie.has_ended(node)), abs=1e-9
    )
    sure = math.fsum(node.probability for _, node in root.walk() if "unsafe" in node.events)
    assert sure == pytest.approx(bounds["unsafe"].lower, abs=1e-9)


FIELDS = [("qwen3guard-gen", "assistant"), ("wildguard", "assistant")]
LISTS = [("llama-guard-1", "user"), ("llama-guard-3-8b", "user")]


@pytest.mark.parametrize(
    ("name", "role"), [*FIELDS, *LISTS, pytest.param("polyguard", "assistant", marks=pytest.mark.slow)]
)
def test_families(name: str, role: Role) -> None:
    """Several fields, alternative spellings, optional leads, several terminators: a text is the sum of its paths."""
    labels = labels_of(name, role)[:2]
    trie = trie_of(name, role, NATIVE[name], labels)
    model = SmallModel(trie, 7, 1.0)
    paths = expected(name, role, NATIVE[name], labels, trie)
    events: Counter[str] = Counter()
    known: dict[tuple[int, ...], dict[int, float]] = {}
    for path, happened in paths.items():
        p = probability(model, list(path), known)
        events.update(dict.fromkeys(happened, p))
    root = verdict_tree(trie, searched(model), least=0.0)
    check_sums(root)
    texts = [squeezed(text) for text, node in root.walk() if node.complete]
    assert len(set(texts)) == len(texts)
    assert set(texts) == {squeezed(text) for text in language_of(parts_of(spec_of(name), role), labels)}
    found: Counter[str] = Counter()
    before_text: dict[str, frozenset[str]] = {"": frozenset()}
    for text, node in root.walk():
        before = next(before_text[text[:i]] for i in range(len(text), -1, -1) if text[:i] in before_text)
        before_text[text] = before | frozenset(node.events)
        if node.complete:
            found.update(dict.fromkeys(before_text[text], node.probability))
    assert dict(found) == pytest.approx(dict(events), abs=1e-9)


def test_hesitation_is_odds_of_three_to_one() -> None:
    assert pytest.approx(2 - 0.75 * math.log2(3)) == HESITATION


def test_spellings_that_differ_in_white_space_are_one() -> None:
    trie = trie_of("llama-guard-3-8b", "user", "llama3", [("S1", "a"), ("S2", "b")])
    root = verdict_tree(trie, searched(RandomModel(trie, 3, 1.0)), least=0.0)
    texts = [squeezed(text) for text, node in root.walk() if node.complete]
    assert sorted(texts) == sorted(["safe", "unsafeS1", "unsafeS2", "unsafeS1,S2", "unsafeS2,S1"])
