"""Which labels a freely generated token path spells, and the scores that follow, where a tokenizer splits digits."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from tests.support.encoders import encoder_of
from tests.support.free_decoding import SPLITS, RandomLogits, reader_of, run
from tests.support.optional import present
from tests.support.published import Published
from tests.support.tries import EOT, TAIL
from tokmarg.scoring.any_place import AnyPlaceSearch
from tokmarg.scoring.free_decoding import DecodedPath, PathReader
from tokmarg.scoring.greedy import GreedySearch


def follow(reader: PathReader, tokens: Iterable[int]) -> list[DecodedPath]:
    path, found = reader.root(), []
    for token in tokens:
        path = reader.extend(path, token)
        found.append(path)
    return found


def said(reader: PathReader, family: str, *texts: str) -> list[str]:
    """What completes along the path of the texts, each encoded on its own, and an end of turn."""
    encoder = encoder_of(family)
    base = encoder.encode_text(TAIL[family])
    whole = encoder.encode_text(TAIL[family] + texts[0])[len(base) :]
    for text in texts[1:]:
        whole += encoder.encode_text(text)
    end = encoder.token_id(EOT[family])
    assert end is not None
    paths = follow(reader, [*whole, end])
    before = reader.root()
    for path in paths:
        listed, others = reader.completions(before)
        assert listed.get(path.token, others) == path.completed
        before = path
    assert reader.ended(paths[-1])
    assert reader.text(paths[-1]) == "".join(texts)
    return [name for path in paths for name in reader.trie.grammar.names(path.completed)]


def test_on_the_grammar(family: str) -> None:
    reader = reader_of(family)
    assert said(reader, family, "unsafe\nS10,S1,S2") == ["unsafe", "S10", "S1", "S2"]
    assert said(reader, family, "unsafe\nS1") == ["unsafe", "S1"]
    assert said(reader, family, "safe") == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["unsafe\n\nS10, S2"], ["unsafe", "S10", "S2"]),  # another newline than the grammar's
        (["Sure, unsafe", "\n", "S1", "."], ["unsafe", "S1"]),
        (["unsafe\nS1,S1"], ["unsafe", "S1", "S1"]),  # a label named twice
        (["unsafe\nS10,S10"], ["unsafe", "S10", "S10"]),
        (["unsafe\nS2 and S14"], ["unsafe", "S2", "S14"]),
        (["unsafe\nS99"], ["unsafe", "S9"]),  # no label goes on like that
    ],
)
def test_off_the_grammar(family: str, texts: list[str], expected: list[str]) -> None:
    if texts == ["unsafe\nS99"] and family not in SPLITS:
        expected = ["unsafe"]  # one token, and no label
    assert said(reader_of(family), family, *texts) == expected


def test_longer_label_named_again_is_not_the_shorter(family: str) -> None:
    """With S1 and S10 alone, the grammar knows S1 at the digit 1 once S10 has been named."""
    assert said(reader_of(family, ["S1", "S10"]), family, "unsafe\nS10,S10") == ["unsafe", "S10", "S10"]
    assert said(reader_of(family, ["S1", "S10"]), family, "unsafe\nS10,S1") == ["unsafe", "S10", "S1"]


def test_tokens_that_spell_a_longer_label_by_detour_count_as_published() -> None:
    """Llama 3 has a token for 10: S1 is certain at once, and ``S``, ``1``, ``0`` reads S10 only by its text."""
    assert said(reader_of("llama3"), "llama3", "unsafe\nS1", "0") == ["unsafe", "S1", "S10"]


def test_names_that_begin_each_other(family: str) -> None:
    parts = ["Labels: ", {"labels": "name", "separators": [", "]}]
    reader = reader_of(family, ["Sex", "Sex Crimes", "Hate"], parts=[{"choice": [{"text": "unsafe"}]}, *parts])
    assert said(reader, family, "unsafeLabels: Sex Crimes, Sex") == ["Sex Crimes", "Sex"]
    assert said(reader, family, "unsafeLabels: Sex, Hate") == ["Sex", "Hate"]
    assert said(reader, family, "Well: Sex Crimes; Sex") == ["Sex Crimes", "Sex"]


CODED = [
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
WORDS = ["violence", "hate", "privacy"]


@pytest.mark.parametrize("family_", ["smollm2", "llama3"])
def test_codes_in_the_policys_order(family_: str) -> None:
    family, reader = family_, reader_of(family_, WORDS, parts=CODED)
    assert said(reader, family, " unsafe violence privacy") == ["unsafe", "violence", "privacy"]
    assert said(reader, family, " unsafe hate") == ["unsafe", "hate"]
    assert said(reader, family, " safe") == []
    # Off the grammar: another order, a comma, a label twice.
    assert said(reader, family, " unsafe privacy violence") == ["unsafe", "privacy", "violence"]
    assert said(reader, family, " unsafe hate,", " privacy") == ["unsafe", "hate", "privacy"]
    assert said(reader, family, " unsafe hate hate") == ["unsafe", "hate", "hate"]


@pytest.mark.parametrize("seed", range(6))
def test_methods_on_codes_equal_the_published_ones(seed: int) -> None:
    reader = reader_of("smollm2", WORDS, parts=CODED)
    logits = RandomLogits("smollm2", seed, [" safe", " unsafe", *(f" {word}" for word in WORDS), ","])
    texts = encoder_of("smollm2").texts
    reference = Published(logits, lambda path: "".join(texts[i] for i in path), [*WORDS, "unsafe"], [logits.end])
    nucleus = AnyPlaceSearch(reader, top_p=0.95, eps=0.01, max_depth=5)
    run(nucleus, logits)
    assert nucleus.scores() == pytest.approx(reference.any_place(0.95, 0.01, 5), rel=1e-9)
    greedy = GreedySearch(reader, 12)
    run(greedy, logits)
    assert greedy.token_scores == pytest.approx(reference.token(12), rel=1e-6)
    assert greedy.fixed_place_scores == pytest.approx(reference.fixed_place(12), rel=1e-6)


def published(family: str, logits: RandomLogits, labels: list[str]) -> Published:
    texts = encoder_of(family).texts
    return Published(logits, lambda path: "".join(texts[i] for i in path), [*labels, "unsafe"], [logits.end])


@pytest.mark.parametrize("seed", range(8))
def test_any_place_equals_the_published_search_where_no_label_begins_another(seed: int) -> None:
    labels = ["S1", "S2", "S10"]
    logits = RandomLogits("llama3", seed)
    search = AnyPlaceSearch(reader_of("llama3", labels), top_p=0.95, eps=0.01, max_depth=7)
    run(search, logits)
    expected = published("llama3", logits, labels).any_place(0.95, 0.01, 7)
    assert search.scores() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("family_", SPLITS)
@pytest.mark.parametrize("seed", range(4))
def test_any_place_does_not_count_the_longer_label_as_the_shorter(family_: str, seed: int) -> None:
    """The published search counts S1 at the digit 1, whatever follows. Ours is its score of ``S``, ``1`` and a next
    token, summed over all next tokens but ``0``. (A bar between the tokens makes it match whole ones.)"""
    labels = ["S1", "S2", "S10"]
    logits = RandomLogits(family_, seed)
    search = AnyPlaceSearch(reader_of(family_, labels), top_p=0.95, eps=0.002, max_depth=7)
    run(search, logits)
    ours = search.scores()
    texts = encoder_of(family_).texts
    told = [f"S|1|{texts[t]}" for t in [*logits.tokens, logits.end] if texts[t] != "0"]
    matched = ["S|1", "S|2", "S|1|0", *dict.fromkeys(told)]
    reference = Published(logits, lambda path: "|".join(texts[i] for i in path), matched, [logits.end])
    scores = reference.any_place(0.95, 0.002, 7)
    assert ours.get("S2", 0.0) == pytest.approx(scores.get("S|2", 0.0), rel=1e-9)
    assert ours.get("S10", 0.0) == pytest.approx(scores.get("S|1|0", 0.0), rel=1e-9)
    assert ours.get("S1", 0.0) == pytest.approx(sum(scores.get(text, 0.0) for text in set(told)), rel=1e-9)
    assert ours.get("S1", 0.0) + ours.get("S10", 0.0) <= scores.get("S|1", 0.0) + 1e-12


@pytest.mark.parametrize("family_", SPLITS)
def test_greedy_scores_of_split_digits(family_: str) -> None:
    """p("S1") = p("1") p(no 0), p("S10") = p("1") p("0"): together p("1"), as with one token per label."""
    encoder = encoder_of(family_)
    end = present(encoder.token_id(EOT[family_]))
    verdict = encoder.encode_text("unsafe\nS10,S1")
    unsafe = len(encoder.encode_text("unsafe"))
    one = [i for i, token in enumerate(verdict) if encoder.texts[token] == "1"]
    zero = encoder.encode_text("0")[0]
    other = encoder.encode_text("2")[0]
    size = max(encoder.largest_id, end) + 1
    base = len(encoder.encode_text(TAIL[family_]))
    assert encoder.encode_text(TAIL[family_] + "unsafe\nS10,S1")[base:] == verdict

    def p_of(depth: int) -> dict[int, float]:
        token = [*verdict, end][depth]
        if depth == one[0]:
            return {token: 0.6, other: 0.4}
        if depth == one[0] + 1:
            return {token: 0.7, end: 0.3}  # S10 rather than S1
        if depth == one[1]:
            return {token: 0.9, other: 0.1}
        if depth == one[1] + 1:
            return {token: 0.5, zero: 0.2, other: 0.3}  # an end, S10 once more, or S12, which is no label here
        return {token: 0.8, other: 0.2}

    search = GreedySearch(reader_of(family_, ["S1", "S10"]), 20)
    while wanted := search.wanted(1):
        (path,) = wanted
        logits = np.full(size, -np.inf, dtype=np.float32)
        for token, p in p_of(path.depth).items():
            logits[token] = math.log(p)
        search.feed(path, logits)
    assert search.ended
    assert search.text == "unsafe\nS10,S1"
    p_unsafe = 0.8**unsafe  # its tokens count together, too
    assert search.token_scores == pytest.approx({"unsafe": p_unsafe, "S10": 0.6 * 0.7, "S1": 0.9 * 0.8}, rel=1e-6)
    fixed = {"unsafe": p_unsafe, "S10": p_unsafe * 0.42, "S1": p_unsafe * 0.42 * 0.72}
    assert search.fixed_place_scores == pytest.approx(fixed, rel=1e-6)
    assert unsafe < one[0]
