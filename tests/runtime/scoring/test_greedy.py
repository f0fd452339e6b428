"""``token`` and ``fixed-place``: an event's own tokens count as one, whether the tokenizer splits it or not.

The reference is an independent walk in PyTorch: it decodes greedily, looks for the events in the text that came out,
and multiplies the probabilities of the tokens that spell their own characters.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.support.encoders import encoder_of
from tests.support.free_decoding import RandomLogits, reader_of, run
from tests.support.tries import S14, TAIL
from tokmarg.grammar.compiler import shared_length
from tokmarg.scoring.greedy import GreedySearch

FAMILIES = ["smollm2", "llama3", "gemma3", "qwen3"]
LABELS = ["S1", "S2", "S10"]
VERDICTS = [
    ["unsafe\nS10,S1"],
    ["unsafe\nS1,S2,S10"],
    ["unsafe\n\nS10", " unsafe", "S1"],
    ["safe"],
    ["unsafe\nS10,S10"],
]


class Talker(RandomLogits):
    """Random logits that say a verdict, with more or less certainty."""

    def __init__(self, family: str, seed: int, texts: list[str]) -> None:
        super().__init__(family, seed)
        encoder = encoder_of(family)
        base = encoder.encode_text(TAIL[family])
        self.said = encoder.encode_text(TAIL[family] + texts[0])[len(base) :]
        for text in texts[1:]:
            self.said += encoder.encode_text(text)
        self.said.append(self.end)

    def __call__(self, path: tuple[int, ...]) -> np.ndarray:
        logits = super().__call__(path)
        if list(path) == self.said[: len(path)]:
            logits[self.said[len(path)]] = logits.max() + 0.5
        return logits


def walk(logits: Talker, family: str, labels: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of ``token`` and ``fixed-place``."""
    texts = encoder_of(family).texts
    path: tuple[int, ...] = ()
    steps: list[torch.Tensor] = []
    spans: list[tuple[int, int]] = []
    text = ""
    while not path or path[-1] != logits.end:
        p = torch.softmax(torch.as_tensor(logits(path)).double(), -1)
        token = int(p.argmax())
        steps.append(p)
        path += (token,)
        spans.append((len(text), len(text) + len(texts[token])))
        text += texts[token]
    splits = len(encoder_of(family).encode_text("10")) > 1
    names = "|".join(sorted((label[1:] for label in labels), key=len, reverse=True))
    scores, products, running = {}, {}, 1.0
    for found in re.finditer(f"(unsafe)|S({names})", text):
        group = 1 if found[1] else 2
        start, end = found.span(group)
        own = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
        score = 1.0
        for i in own:
            score *= float(steps[i][path[i]])
        if splits and found[2] == "1":  # it could have become S10
            longer = [i for i, other in enumerate(texts) if other.startswith("0")]
            score *= 1.0 - float(steps[own[-1] + 1][[i for i in longer if i < len(steps[0])]].sum())
        running *= score
        event = "unsafe" if found[1] else f"S{found[2]}"
        scores[event], products[event] = score, running
    return scores, products


@pytest.mark.parametrize("verdict", VERDICTS, ids=repr)
@pytest.mark.parametrize("family_", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_own_tokens_count_as_one(family_: str, seed: int, verdict: list[str]) -> None:
    logits = Talker(family_, seed, verdict)
    search = GreedySearch(reader_of(family_, LABELS), 30)
    run(search, logits)
    scores, products = walk(logits, family_, LABELS)
    assert len(scores) > (0 if verdict == ["safe"] else 1) or verdict == ["safe"]
    assert search.token_scores == pytest.approx(scores, rel=1e-9)
    assert search.fixed_place_scores == pytest.approx(products, rel=1e-9)


def test_split_unsafe_is_both_its_pieces() -> None:
    """SmolLM2 says ``uns`` and ``afe``: the first decides, the second is nearly certain."""
    reader = reader_of("smollm2")
    encoder = encoder_of("smollm2")
    uns, afe = encoder.encode_text("unsafe")
    search = GreedySearch(reader, 20)
    for path_length, (token, p) in enumerate([(uns, 0.75), (afe, 0.999)]):
        (path,) = search.wanted(1)
        assert path.depth == path_length
        logits = np.full(encoder.largest_id + 2, -np.inf, dtype=np.float32)
        logits[token], logits[0 if token else 1] = np.log(p), np.log(1 - p)
        search.feed(path, logits)
    assert search.token_scores == pytest.approx({"unsafe": 0.75 * 0.999})
    assert search.fixed_place_scores == pytest.approx({"unsafe": 0.75 * 0.999})


@pytest.mark.parametrize(
    ("labels", "text", "own"),
    [
        (["S1", "S10"], "unsafe\nS10", ["1", "0"]),  # all share the S, and S1 is itself no beginning that they share
        (["S2", "S10"], "unsafe\nS10", ["1", "0"]),
        (["S10", "S11", "S12"], "unsafe\nS10", ["0"]),  # all share S1
        (["S10", "S11"], "unsafe\nS11,S10", ["0"]),  # the last one that is left
        (["S10"], "unsafe\nS10", ["0"]),  # the only one: the last token is its own
        (["Hate", "Harm"], "unsafe\nHarm", None),
        (S14, "unsafe", ["uns", "afe"]),
    ],
)
def test_where_own_tokens_begin(labels: list[str], text: str, own: list[str] | None) -> None:
    encoder, reader = encoder_of("smollm2"), reader_of("smollm2", labels)
    path = reader.root()
    for token in encoder.encode_text(text):
        path = reader.extend(path, token)
    name = text.rsplit("\n", 1)[-1].rsplit(",", 1)[-1]
    expected = own or [encoder.texts[i] for i in encoder.encode_text(name)]
    count = reader.own_tokens(path, reader.trie.grammar.mask(name))
    assert [encoder.texts[i] for i in path.tokens[-count:]] == expected


def test_option_that_shares_its_beginning() -> None:
    """``Unsafe`` of ``Safety: Unsafe`` begins after what ``Safety: Safe`` has, too."""
    options = [{"text": "Safety: Safe"}, {"text": "Safety: Unsafe", "event": "unsafe"}]
    encoder, reader = encoder_of("smollm2"), reader_of("smollm2", [], parts=[{"choice": options}])
    path = reader.root()
    for token in encoder.encode_text("Safety: Unsafe"):
        path = reader.extend(path, token)
    count = reader.own_tokens(path, reader.trie.grammar.mask("unsafe"))
    assert encoder.decode(path.tokens[-count:]).strip() == "Unsafe"


def test_shared_length() -> None:
    commas = [("S1", "S1"), ("S1", ",S1"), ("S10", "S10"), ("S10", ",S10")]
    assert shared_length("S1", commas) == 1
    assert shared_length(",S10", commas) == 2
    assert shared_length("unsafe", [("safe", "safe"), ("unsafe", "unsafe")]) == 0
    assert shared_length("S1", [("S1", "S1")]) == 1
    assert shared_length("", [("", "")]) == 0
