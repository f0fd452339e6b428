"""any-place: its cuts, its budget, and where it converges to: the raw-mass version of the exact marginals."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.free_decoding import RandomLogits, reader_of, run
from tests.support.tries import build
from tokmarg.grammar.node import Node
from tokmarg.scoring.any_place import AnyPlaceSearch
from tokmarg.scoring.free_decoding import DecodedPath, PathReader

A, B, C, D, END = range(5)


def cut(*children: tuple[int, float]) -> tuple[int, int]:
    """Children seen and followed, of a nucleus."""
    search = AnyPlaceSearch(reader_of("llama3", ["S1"]), top_p=0.99, eps=0.01, max_depth=20)
    search._ends = np.array([END])
    ids, p = zip(*children, strict=True)
    return search._cut(np.array(ids), np.array(p))


def test_cuts() -> None:
    assert cut((A, 0.5), (B, 0.2), (C, 0.2), (D, 0.1)) == (4, 4)
    assert cut((A, 0.3), (B, 0.3), (C, 0.2), (END, 0.2)) == (3, 2)  # an end anywhere: the third is not followed
    assert cut((A, 0.5), (END, 0.5)) == (2, 2)
    assert cut((END, 0.7), (A, 0.2), (B, 0.1)) == (1, 0)  # a sure end has no siblings
    assert cut((A, 1.0)) == (1, 1)


class Restricted(AnyPlaceSearch):
    """Without the two cuts, on the grammar only, and with labels counted at the end of the verdict."""

    def __init__(self, reader: PathReader, *, top_p: float, eps: float, max_depth: int) -> None:
        super().__init__(AtTerminator(reader), top_p=top_p, eps=eps, max_depth=max_depth)

    def _cut(self, ids: np.ndarray, p: np.ndarray) -> tuple[int, int]:
        return len(ids), len(ids)


class AtTerminator(PathReader):
    def __init__(self, reader: PathReader) -> None:
        self.__dict__ = dict(reader.__dict__)

    def extend(self, path: DecodedPath, token: int) -> DecodedPath:
        node = None if path.node is None else self.trie.children(path.node).get(token)
        return DecodedPath(token, path, node, "", node.certain & self.counted if node and node.complete else 0)

    def ended(self, path: DecodedPath) -> bool:
        return path.node is None or path.node.complete

    def completions(self, path: DecodedPath) -> tuple[dict[int, int], int]:
        assert path.node is not None
        return {token: self.extend(path, token).completed for token in self.trie.children(path.node)}, 0


@pytest.mark.parametrize("family", ["llama3", "smollm2"])
def test_converges_to_the_raw_mass_of_the_verdicts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The raw-mass version of ``exact``: for each label, the sum over all verdicts that name it of the product of the
    model's own probabilities, not renormalised."""
    labels = ["S1", "S10", "S2"]
    logits = RandomLogits(family, 5, more=())
    trie = build(family, labels)

    def verdicts(node: Node, mass: float) -> dict[str, float]:
        if node.complete:
            return dict.fromkeys(trie.grammar.names(node.certain), mass)
        row = logits(node.path).astype(float)
        p = np.exp(row - row.max())
        p /= p.sum()
        total: dict[str, float] = {}
        for token, child in trie.children(node).items():
            for event, part in verdicts(child, mass * p[token]).items():
                total[event] = total.get(event, 0.0) + part
        return total

    exact = verdicts(trie.root, 1.0)
    monkeypatch.setattr("tokmarg.scoring.any_place.MAX_PATHS", 10**6)
    gaps = []
    for top_p, eps in [(0.9, 1e-1), (0.99, 1e-2), (0.9999, 1e-4), (1.0, 0.0)]:
        search = Restricted(reader_of(family, labels), top_p=top_p, eps=eps, max_depth=10**6)
        run(search, logits)
        scores = search.scores()
        assert all(score <= exact[event] + 1e-12 for event, score in scores.items())
        gaps.append(max(1 - scores.get(event, 0.0) / mass for event, mass in exact.items()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-9


def test_depth_limit_and_order_of_rounds() -> None:
    logits = RandomLogits("llama3", 2)
    reader = reader_of("llama3", ["S1", "S2", "S10"])
    results = []
    for limit in (1, 3, 100):
        search = AnyPlaceSearch(reader, top_p=0.95, eps=0.01, max_depth=3)
        deepest = 0
        while wanted := search.wanted(limit):
            for path in wanted:
                deepest = max(deepest, path.depth)
                search.feed(path, logits(tuple(path.tokens)))
        results.append((search.scores(), search.evaluated, deepest))
    assert results[0][2] == 3
    assert results[0] == results[1] == results[2]
