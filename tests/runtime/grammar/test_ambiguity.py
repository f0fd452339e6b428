"""Verdicts that share a token path are found at load, and none is refused that does not."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import Grammar
from tokmarg.grammar.trie import Trie
from tokmarg.tokenizer import Encoder

LETTERS = "ab;."


def letters() -> Encoder:
    """A tokenizer with one token for each letter."""
    end = {"id": len(LETTERS), "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False}
    return Encoder(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [{**end, "normalized": False, "special": True}],
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "."},
                    "behavior": "Isolated",
                    "invert": False,
                },
                "post_processor": None,
                "decoder": None,
                "model": {
                    "type": "WordLevel",
                    "vocab": {letter: i for i, letter in enumerate(LETTERS)},
                    "unk_token": LETTERS[-1],
                },
            }
        )
    )


def ambiguous(codes: list[str], separators: list[str], most: int | None) -> bool:
    """Whether two sets of labels, written in the policy's order, read the same."""
    found: dict[str, tuple[int, ...]] = {}
    for n in range(1, min(len(codes), most or len(codes)) + 1):
        for chosen in itertools.combinations(range(len(codes)), n):
            for between in itertools.product(separators, repeat=n - 1):
                text = codes[chosen[0]] + "".join(s + codes[i] for s, i in zip(between, chosen[1:], strict=True))
                if found.setdefault(text, chosen) != chosen:
                    return True
    return False


@settings(max_examples=300)
@given(
    codes=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=6, unique=True),
    separators=st.sampled_from([[""], [";"], ["", ";"], ["a"], ["", "ab"]]),
    most=st.sampled_from([None, 2, 3]),
)
def test_lists_in_the_policys_order(codes: list[str], separators: list[str], most: int | None) -> None:
    listed = {"labels": "code", "separators": separators, "order": "policy", "max": most}
    grammar = Grammar.parse([".", listed], [(str(i), str(i), code) for i, code in enumerate(codes)])
    trie = Trie(grammar, letters(), "", ("",), ("<|end|>",))
    if ambiguous(codes, separators, most):
        with pytest.raises(SpecError, match="verdicts with different events have the same tokens"):
            trie.check(samples=0)
    else:
        trie.check(samples=5)


def test_the_order_tells_labels_apart() -> None:
    """``a`` and ``b`` never come as ``ab`` where b is first in the policy."""

    def trie(order: str) -> Trie:
        parts = [{"labels": "id", "separators": [""], "order": order}]
        return Trie(Grammar.parse(parts, [(x, x) for x in ("b", "a", "ab")]), letters(), "", ("",), ("<|end|>",))

    trie("policy").check()
    with pytest.raises(SpecError, match="same tokens: b, a and ab"):
        trie("any").check()
