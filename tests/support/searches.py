"""Random logits for any token path, exact searches over them, and brute-force enumeration of a trie's verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tokmarg.grammar.branch_priors import BranchPriors
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie
from tokmarg.scoring.exact import ExactSearch, Marginals

VOCABULARY = 128_256


class RandomModel:
    """Made-up logits for every path: reproducible, different at each."""

    def __init__(self, trie: Trie, seed: int, spread: float) -> None:
        self.trie, self.seed, self.spread = trie, seed, spread
        self.calls: list[tuple[int, ...]] = []

    def logits(self, path: tuple[int, ...]) -> np.ndarray:
        self.calls.append(path)
        rng = np.random.default_rng([self.seed, *path])
        logits = np.full(VOCABULARY, -4.0, dtype=np.float32)
        vocabulary = list(self.trie.vocabulary())
        logits[vocabulary] = rng.normal(0, self.spread, len(vocabulary))
        return logits

    def run(
        self,
        limit: int = 1,
        *,
        tolerance: float = 1e-3,
        max_nodes: int = 256,
        thresholds: Mapping[str, float | tuple[float, ...]] | None = None,
        branch_priors: BranchPriors | None = None,
    ) -> Marginals:
        search = ExactSearch(
            self.trie,
            tolerance=tolerance,
            max_nodes=max_nodes,
            thresholds=thresholds or {},
            branch_priors=branch_priors,
        )
        while wanted := search.wanted(limit):
            for node in wanted:
                search.feed(node, self.logits(node.path))
        return search.result()


class SmallModel(RandomModel):
    """Logits of as many tokens as the trie's vocabulary needs, whatever the tokenizer."""

    def __init__(self, trie: Trie, seed: int, spread: float) -> None:
        super().__init__(trie, seed, spread)
        self.vocabulary = list(trie.vocabulary())

    def logits(self, path: tuple[int, ...]) -> np.ndarray:
        logits = np.full(max(self.vocabulary) + 1, -4.0, dtype=np.float32)
        logits[self.vocabulary] = np.random.default_rng([self.seed, *path]).normal(0, self.spread, len(self.vocabulary))
        return logits


def brute_force(model: RandomModel) -> tuple[dict[str, float], float]:
    """Marginals by summing over every verdict, and the coverage, straight from the definitions."""
    trie = model.trie
    marginals = dict.fromkeys(trie.events, 0.0)

    def walk(node: Node, mass: float) -> None:
        if node.complete:
            for event in trie.grammar.names(node.certain):
                marginals[event] += mass
            return
        logits = model.logits(node.path).astype(float)
        children = trie.children(node)
        total = sum(math.exp(logits[t]) for t in children)
        for token, child in children.items():
            walk(child, mass * math.exp(logits[token]) / total)

    walk(trie.root, 1.0)
    logits = model.logits(()).astype(float)
    raw = np.exp(logits - np.logaddexp.reduce(logits))
    return marginals, sum(raw[t] for t in trie.children(trie.root))
