"""The methods of arXiv:2511.22312 as published, straight from their description: text and recursion, nothing shared.

A label is wherever the text ends with it; so where a tokenizer splits digits, S10 is an S1 first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

Logits = Callable[[tuple[int, ...]], "np.ndarray | torch.Tensor"]
Decode = Callable[[Sequence[int]], str]


class Published:
    """The methods over a model that is a function from token path to logits [V]."""

    def __init__(self, logits: Logits, decode: Decode, labels: Sequence[str], ends: Sequence[int]) -> None:
        self.logits, self.decode, self.labels, self.ends = logits, decode, labels, set(ends)
        self.visited: list[tuple[int, ...]] = []

    def children(self, path: tuple[int, ...], top_p: float) -> list[tuple[int, float]]:
        """The nucleus: tokens in descending order of probability until their sum exceeds top_p."""
        self.visited.append(path)
        p = torch.softmax(torch.as_tensor(self.logits(path)).double(), -1)
        p, order = torch.sort(p, descending=True, stable=True)
        size = int((torch.cumsum(p, 0) <= top_p).sum()) + 1
        return list(zip(order[:size].tolist(), p[:size].tolist(), strict=True))

    def greedy(self, max_depth: int) -> list[tuple[tuple[int, ...], float]]:
        """The greedy decode: every path on it with the probability of its last token."""
        path: tuple[int, ...] = ()
        found = []
        while len(path) < max_depth and not (path and path[-1] in self.ends):
            token, p = self.children(path, 0.5)[0]
            path += (token,)
            found.append((path, p))
        return found

    def named(self, max_depth: int) -> list[tuple[str, dict[int, float]]]:
        """Labels on the greedy path, each with the probabilities of its own tokens by their places: of one in the
        paper, whose labels are one token; of all that spell what follows the S that all labels share, or all of
        ``unsafe``."""
        steps = self.greedy(max_depth)
        named = []
        for i, (path, p) in enumerate(steps):
            label = next((label for label in self.labels if self.decode(path).endswith(label)), None)
            if label is not None:
                own = {i: p}
                start = len(self.decode(path)) - len(label.removeprefix("S"))
                for j in reversed(range(i)):
                    before, p_before = steps[j]
                    if len(self.decode(before)) <= start:
                        break
                    own[j] = p_before
                named.append((label, own))
        return named

    def token(self, max_depth: int) -> dict[str, float]:
        return {label: math.prod(own.values()) for label, own in self.named(max_depth)}

    def fixed_place(self, max_depth: int) -> dict[str, float]:
        """Running products, in which each token is a factor once."""
        scores, factors = {}, dict[int, float]()
        for label, own in self.named(max_depth):
            factors |= own
            scores[label] = math.prod(factors.values())
        return scores

    def any_place(self, top_p: float, eps: float, max_depth: int) -> dict[str, float]:
        scores: dict[str, float] = defaultdict(float)

        def visit(path: tuple[int, ...], mass: float) -> None:
            if mass < eps:
                return
            children = self.children(path, top_p)
            for i, (token, p) in enumerate(children):
                text = self.decode((*path, token))
                for label in self.labels:
                    if text.endswith(label):
                        scores[label] += mass * p
                if token in self.ends and p >= 0.7:
                    break
                if i == 2 and any(t in self.ends for t, _ in children):
                    break
                if len(path) != max_depth and token not in self.ends:
                    visit((*path, token), mass * p)

        visit((), 1.0)
        return dict(scores)
