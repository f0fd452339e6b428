"""The first label's distribution equals enumeration, also where digits are split; P(unsafe) is the exact one."""

import numpy as np
import pytest

from tests.support.encoders import encoder_of
from tests.support.free_decoding import SPLITS
from tests.support.searches import RandomModel
from tests.support.tries import S14, TAIL, build
from tokmarg.errors import ContentError, SpecError
from tokmarg.scoring.first_label import FirstLabelSearch
from tokmarg.scoring.probabilities import softmax


class Model(RandomModel):
    """Made-up logits for every path, over the whole vocabulary of any tokenizer."""

    def logits(self, path: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *path])
        return rng.normal(0, self.spread, 270_000).astype(np.float32)


def test_labels_of_one_token_keep_their_logits() -> None:
    listed = {"labels": "id", "separators": [" "], "order": "policy"}
    choice = [{"text": " safe"}, {"text": " unsafe", "event": "unsafe", "then": [" ", listed]}]
    words = ["violence", "hate", "privacy"]
    model = Model(build("smollm2", words, parts=[{"choice": choice}]), 4, 2.0)
    encoder = encoder_of("smollm2")
    unsafe = encoder.encode_text(" unsafe")
    expected = model.logits(tuple(unsafe))[[encoder.encode_text(f" {word}")[0] for word in words]]
    assert run(model).logits() == pytest.approx(expected)


def run(model: Model) -> FirstLabelSearch:
    search = FirstLabelSearch(model.trie)
    while wanted := search.wanted(1):
        for node in wanted:
            search.feed(node, model.logits(node.path))
    return search


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_exact_probability_of_unsafe(family: str, seed: int) -> None:
    trie = build(family, S14, leads=("", "\n\n") if family == "llama3" else ("",))
    model = Model(trie, seed, 2.0)
    exact = model.run(tolerance=1.0, max_nodes=3, thresholds={"unsafe": 0.999})
    unsafe = run(model).unsafe()
    assert exact.bounds["unsafe"].lower - 1e-12 <= unsafe <= exact.bounds["unsafe"].upper + 1e-12


@pytest.mark.parametrize("family_", SPLITS)
def test_split_digits_are_whole_labels(family_: str) -> None:
    trie = build(family_, S14)
    model = Model(trie, 1, 2.0)
    search = run(model)
    z = dict(zip(S14, search.logits(), strict=True))
    encoder = encoder_of(family_)
    base = len(encoder.encode_text(TAIL[family_]))
    stem = tuple(encoder.encode_text(f"{TAIL[family_]}unsafe\nS")[base:])
    logits = model.logits(stem).astype(float)
    digit = {str(i): encoder.encode_text(str(i))[0] for i in range(10)}
    for i in range(2, 10):
        assert z[f"S{i}"] == pytest.approx(logits[digit[str(i)]], rel=1e-12)  # the model's own logit
    after = model.logits((*stem, digit["1"])).astype(float)
    node = trie.root
    for token in (*stem, digit["1"]):
        node = trie.children(node)[token]
    allowed = list(trie.children(node))
    q = dict(zip(allowed, softmax(after[allowed]), strict=True))
    tens = {f"S1{i}": q[digit[str(i)]] for i in range(5)}
    ones = 1 - sum(tens.values())
    for label, share in {**tens, "S1": ones}.items():
        assert z[label] == pytest.approx(logits[digit["1"]] + np.log(share), rel=1e-9)
    assert np.logaddexp.reduce(list(z.values())) == pytest.approx(
        np.logaddexp.reduce(logits[[digit[str(i)] for i in range(1, 10)]]), rel=1e-12
    )


def test_partial_head_gives_the_same() -> None:
    trie = build("llama3", ["S1", "S2", "S3"])
    model = Model(trie, 4, 2.0)
    tokens = trie.vocabulary()
    search = FirstLabelSearch(trie, {t: i for i, t in enumerate(tokens)})
    while wanted := search.wanted(1):
        for node in wanted:
            search.feed(node, model.logits(node.path)[list(tokens)])
    full = run(model)
    assert search.logits().tolist() == full.logits().tolist()
    assert search.unsafe() == full.unsafe()


def test_labels_that_decide_unsafe_by_themselves() -> None:
    parts = [
        {"choice": [{"text": "none"}, {"text": "", "event": "unsafe", "then": [{"labels": "id", "separators": [","]}]}]}
    ]
    model = Model(build("llama3", ["Violence", "Hate"], parts=parts), 3, 1.0)
    search = run(model)
    assert search.evaluated == 1
    logits = model.logits(()).astype(float)
    labels = [encoder_of("llama3").encode_text(label)[0] for label in ("Violence", "Hate")]
    assert search.logits() == pytest.approx(logits[labels])


def test_refusals() -> None:
    parts = [{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe"}]}]
    with pytest.raises(SpecError, match="no place at which it offers several labels"):
        FirstLabelSearch(build("llama3", ["S1", "S2"], parts=parts))
    search = FirstLabelSearch(build("llama3", ["S1", "S2"]))
    bad = np.full(128_256, np.nan, dtype=np.float32)
    with pytest.raises(ContentError, match="NaN"):
        search.feed(search.root, bad)
    with pytest.raises(ContentError, match="probability zero to every allowed token"):
        search.feed(search.root, np.full(128_256, -np.inf, dtype=np.float32))
