"""Path readers of the real tokenizers, and random logits for searches that decode freely."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tests.support.encoders import encoder_of
from tests.support.grammars import LLAMA_GUARD
from tests.support.tries import EOT, S14, build
from tokmarg.scoring.any_place import AnyPlaceSearch
from tokmarg.scoring.free_decoding import PathReader
from tokmarg.scoring.greedy import GreedySearch

#: Families whose tokenizers split a number into digits.
SPLITS = ["gemma3", "qwen3", "smollm2"]


def reader_of(family: str, labels: Iterable[str] = S14, parts: object = LLAMA_GUARD) -> PathReader:
    return PathReader(build(family, list(labels), parts=parts), encoder_of(family), (EOT[family],))


class RandomLogits:
    """Made-up logits for every path, over a few tokens that verdicts and near-verdicts use."""

    def __init__(self, family: str, seed: int, more: Iterable[str] = ("\n\n", " ", ".")) -> None:
        encoder = encoder_of(family)
        end = encoder.token_id(EOT[family])
        assert end is not None
        self.seed, self.end, self.size = seed, end, max(encoder.largest_id, end) + 1
        tokens = set(build(family, ["S1", "S10", "S2"]).vocabulary())
        self.tokens = sorted(tokens | {encoder.encode_text(text)[0] for text in more})

    def __call__(self, path: tuple[int, ...]) -> np.ndarray:
        logits = np.full(self.size, -30.0, dtype=np.float32)
        logits[self.tokens] = np.random.default_rng([self.seed, *path]).normal(0, 2.0, len(self.tokens))
        return logits


def run(search: GreedySearch | AnyPlaceSearch, logits: RandomLogits) -> None:
    while wanted := search.wanted(7):
        for path in wanted:
            search.feed(path, logits(tuple(path.tokens)))
