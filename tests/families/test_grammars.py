"""Every family's verdict grammar with every tokenizer: the trie's paths are the verdicts' own tokens, and its events
are what a parser in the author's manner reads from the text. The expected side does not use the runtime's grammar."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.searches import SmallModel, brute_force
from tests.support.tokenizers import NATIVE, TOKENIZERS, encoder_of, labels_of, modes, spec_of, trie_of
from tests.support.tries import complete_paths
from tests.support.verdict_parsers import Labels, expected
from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.labels import Role
from tokmarg.scoring.exact import ExactSearch


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS, "own"])
@pytest.mark.parametrize(("name", "role"), modes())
@settings(max_examples=2)
@given(data=st.data())
def test_paths_and_events(name: str, role: Role, tokenizer: str, data: st.DataObject) -> None:
    tokenizer = NATIVE[name] if tokenizer == "own" else tokenizer
    known = labels_of(name, role)
    most = 2 if name in ("polyguard", "nemotron-safety-guard") else 3
    labels = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=most, unique=True)) if known else []
    trie = trie_of(name, role, tokenizer, labels)
    paths = {path: set(trie.grammar.names(mask)) for path, mask in complete_paths(trie).items()}
    assert paths == expected(name, role, tokenizer, labels, trie)


@pytest.mark.parametrize(("name", "role"), modes())
def test_whole_policy_compiles_for_the_family_s_own_tokenizer(name: str, role: Role) -> None:
    trie = trie_of(name, role, NATIVE[name], labels_of(name, role))
    trie.check(30)
    assert trie.grammar.names(trie.root.possible) == trie.events


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("polyguard", "assistant"),
        ("qwen3guard-gen", "assistant"),
        ("wildguard", "assistant"),
        ("llama-guard-1", "user"),
        ("nemotron-safety-guard", "assistant"),
    ],
)
def test_marginals_of_all_events_equal_brute_force(name: str, role: Role) -> None:
    labels = [(x.id, x.name) for x in spec_of(name).labels_of(role)][:2]
    trie = trie_of(name, role, NATIVE[name], labels)
    model = SmallModel(trie, 3, 2.0)
    exact, _ = brute_force(model)
    search = ExactSearch(trie, tolerance=1e-9, max_nodes=10**5, thresholds={})
    while wanted := search.wanted(8):
        for node in wanted:
            search.feed(node, model.logits(node.path))
    bounds = search.result().bounds
    assert set(bounds) == set(trie.events)
    for event, probability in exact.items():
        assert bounds[event].middle == pytest.approx(probability, abs=1e-8), event


def test_verdict_is_one_special_token() -> None:
    trie = trie_of("kanana-safeguard", "user", "kanana", [("S1", "Hate"), ("S4", "Crime")])
    encoder = encoder_of("kanana")
    assert set(trie.children(trie.root)) == {encoder.special_ids[x] for x in ("<SAFE>", "<UNSAFE-S1>", "<UNSAFE-S4>")}


def test_first_token_is_the_label() -> None:
    labels = [(x.id, x.name) for x in spec_of("yufeng-xguard").labels]
    trie = trie_of("yufeng-xguard", "user", "qwen3", labels)
    assert len(trie.children(trie.root)) == 29
    assert len(trie.undecided(trie.root)) == 1


def test_tokens_that_merge_with_what_follows_wait_for_it() -> None:
    """In Llama 3's tokenizer the bracket of "Sexual (minor)" is one token with the comma or the quote behind it."""
    trie = trie_of("nemotron-safety-guard", "user", "llama3", [("S7", "Sexual (minor)"), ("S1", "Violence")])
    encoder = encoder_of("llama3")
    whole = encoder.encode_verdict('{"User Safety": "unsafe", "Safety Categories": "Sexual (minor), Violence"}')
    assert ")," in [encoder.token_text(t) for t in whole]
    node = trie.root
    for token in whole:
        node = trie.children(node)[token]
    assert trie.grammar.names(node.certain) == ("S7", "S1", "unsafe", "harmful_request")


@pytest.mark.parametrize(
    ("parts", "labels", "message"),
    [
        ([{"choice": [{"text": "safe", "alternatives": [["sa", "nope!"]]}]}], [], "no token 'nope!', which an alter"),
        ([{"choice": [{"text": "safe", "alternatives": [["safe"]]}]}], [], r"\['safe'\] of 'safe' is listed twice, or"),
        (
            [{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe", "alternatives": [["safe"]]}]}],
            [],
            "same tokens: nothing and unsafe .both end at token '<.im_end.>'",
        ),
        ([{"labels": "{{name}}!", "max": 1}], [("a", "X"), ("b", "X")], "same tokens: a and b"),
    ],
)
def test_what_cannot_be_told_apart_is_an_error(parts: list[Any], labels: Labels, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Trie(Grammar.parse(parts, labels), encoder_of("qwen3"), "assistant\n", ("",), ("<|im_end|>",)).check()
