"""Every family's verdict grammar with every tokenizer: the trie's paths are the verdicts' own tokens, and its events
are what a parser in the author's manner reads from the text. The expected side does not use the runtime's grammar."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.grammar.test_trie import complete_paths
from tests.support.searches import brute_force
from tests.support.tokenizers import NATIVE, TOKENIZERS, encoder_of, labels_of, modes, parts_of, spec_of, trie_of
from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.trie import Trie
from tokmarg.prompt.spec import Role
from tokmarg.scoring.exact import ExactSearch

Labels = list[tuple[str, str]]


def verdicts(parts: list[Any], labels: Labels) -> Iterator[str]:
    """Every text of a grammar, straight from its TOML form."""
    if not parts:
        yield ""
        return
    part, rest = parts[0], parts[1:]
    if isinstance(part, str):
        heads = [part]
    elif "choice" in part:
        heads = [
            option["text"] + text for option in part["choice"] for text in verdicts(option.get("then", []), labels)
        ]
    else:
        spelling = {"id": "{{id}}", "name": "{{name}}"}.get(part["labels"], part["labels"])
        heads = []
        for n in range(1, min(len(labels), part.get("max", len(labels))) + 1):
            for chosen in itertools.permutations(labels, n):
                spelt = [spelling.replace("{{id}}", i).replace("{{name}}", name) for i, name in chosen]
                for between in itertools.product(part.get("separators", []), repeat=n - 1):
                    heads.append("".join(itertools.chain(*itertools.zip_longest(spelt, between, fillvalue=""))))
    tails = list(verdicts(rest, labels))
    yield from (head + tail for head in heads for tail in tails)


def listed(text: str, separator: str = r",\s*") -> set[str]:
    return set(re.split(separator, text.strip())) - {"None", ""}


def read(name: str, role: Role, text: str, labels: Labels) -> set[str]:
    """The events of a verdict, read as the family's author reads it."""
    ids = {name: label_id for label_id, name in labels}
    answer = role == "assistant"
    if name.startswith(("llama-guard", "instruct", "md-judge", "reference-guard")):
        first, *more = text.strip().split("\n")
        return {"unsafe", *listed(more[0])} if first == "unsafe" else set()
    if name == "nemotron-safety-guard":
        verdict = json.loads(text)
        ratings = {
            "harmful_request": verdict["User Safety"],
            "harmful_response": verdict.get("Response Safety", "safe"),
        }
        assert ("Response Safety" in verdict) is answer
        assert ("Safety Categories" in verdict) is ("unsafe" in ratings.values())
        events = {event for event, rating in ratings.items() if rating == "unsafe"}
        if ratings["harmful_response" if answer else "harmful_request"] == "unsafe":
            events.add("unsafe")
        return events | {ids[x] for x in listed(verdict.get("Safety Categories", ""))}
    if name.startswith(("shieldgemma", "granite")):  # on the one policy that the prompt asks for
        first = re.search("yes|no", text.lower())[0]
        return {"unsafe"} if first == "yes" else set()
    if name == "wildguard":
        if not answer:
            return {"unsafe", "harmful_request"} if re.fullmatch(r".*:(.*)", text)[1].strip() == "yes" else set()
        request, refusal, response = (x.strip() for x in re.match(".*:(.*)\n.*:(.*)\n.*:(.*)", text).groups())
        yes = {"harmful_request": request, "refusal": refusal, "harmful_response": response, "unsafe": response}
        return {event for event, said in yes.items() if said == "yes"}
    if name == "polyguard":
        fields = {k.strip(): v.strip() for k, v in (line.split(":") for line in text.split("\n"))}
        request = listed(fields["Request safety violations"])
        events = {"harmful_request"} if fields["Harmful request"] == "yes" else set()
        if not answer:
            return events | request | ({"unsafe"} if events else set())
        events |= {f"request:{x}" for x in request} | listed(fields["Response safety violations"])
        events |= {"harmful_response", "unsafe"} if fields["Harmful response"] == "yes" else set()
        return events | ({"refusal"} if fields["Response refusal"] == "yes" else set())
    if name == "qwen3guard-gen":
        safety = re.search(r"Safety: (Safe|Unsafe|Controversial)", text)[1]
        known = sorted((re.escape(n) for n in ids), key=len, reverse=True)
        found = re.findall("|".join(known), text.split("\n")[1].removeprefix("Categories:"))
        refusal = re.search(r"Refusal: (Yes|No)", text)
        assert bool(refusal) is answer
        readings = {"Safe": [], "Unsafe": ["unsafe", "unsafe_loose"], "Controversial": ["unsafe", "controversial"]}
        return {*readings[safety], *(ids[x] for x in found), *(["refusal"] if refusal and refusal[1] == "Yes" else [])}
    if name == "yufeng-xguard":
        return set() if text == "sec" else {"unsafe", text}
    kanana = re.fullmatch(r"<SAFE>|<UNSAFE-(\w+)>", text)
    return {"unsafe", kanana[1]} if kanana[1] else set()


def expected(name: str, role: Role, tokenizer: str, labels: Labels, trie: Trie) -> dict[tuple[int, ...], set[str]]:
    """Token path -> events, for every verdict, from whole texts and the parsers above."""
    spec, encoder = spec_of(name), encoder_of(tokenizer)
    base = encoder.encode_verdict(trie._tail)
    found = {}
    for lead, text in itertools.product(spec.verdict.leads, verdicts(parts_of(spec, role), labels)):
        whole = encoder.encode_verdict(trie._tail + lead + text)
        assert whole[: len(base)] == base
        paths = [whole[len(base) :]]
        if tokenizer == NATIVE[name]:
            paths += [
                [
                    *(encoder.vocabulary_id(piece) for piece in pieces),
                    *whole[len(encoder.encode_verdict(trie._tail + word)) :],
                ]
                for word, pieces in ALTERNATIVES.get(name, [])
                if text.startswith(word)
            ]
        for path in paths:
            for end in trie._terminators:
                found[*path, *end] = read(name, role, text, labels)
    return found


#: What the two families list beside the tokenizer's own spelling.
SPLIT = [(" safe", ["safe"]), (" unsafe", ["un", "safe"]), (" unsafe", ["▁un", "safe"])]
ALTERNATIVES = {"llama-guard-1": SPLIT, "md-judge-0.1": SPLIT}


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS, "own"])
@pytest.mark.parametrize(("name", "role"), modes())
@settings(max_examples=2, deadline=None)
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
    vocabulary = list(trie.vocabulary())

    class Model:
        def logits(self, path: tuple[int, ...]) -> np.ndarray:
            logits = np.full(max(vocabulary) + 1, -4.0, dtype=np.float32)
            logits[vocabulary] = np.random.default_rng([3, *path]).normal(0, 2, len(vocabulary))
            return logits

    model = Model()
    model.trie = trie
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
