"""Probabilities over the whole vocabulary, and their top-p nucleus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.errors import ContentError
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

__all__ = ["allowed_logits", "check_logits", "nucleus", "probabilities"]

#: Tokens that are looked at before the whole vocabulary is sorted: a guard's nucleus has a handful.
_FEW = 64


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The softmax [V] float64 of logits [V].

    Raises:
        ContentError: ``non_finite_logits``.
    """
    check_logits(logits)
    p = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(p / p.sum())


def nucleus(p: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """The smallest set of most probable tokens whose mass exceeds ``top_p``.

    Args:
        p: probabilities [V].
        top_p: a probability; with 1 all tokens are in.

    Returns:
        token ids, most probable first, ties by id.
    """
    for size in (_FEW, len(p)):
        ids = np.arange(len(p))
        if size < len(p):
            ids = np.sort(np.argpartition(-p, size)[:size])
        ids = ids[np.argsort(-p[ids], kind="stable")]
        mass = np.cumsum(p[ids])
        if size >= len(p) or mass[-2] > top_p:  # the last one's ties may lie outside
            break
    return ids[: int(np.searchsorted(mass, top_p, side="right")) + 1]


def check_logits(logits: npt.NDArray[np.floating[Any]]) -> None:
    """Raises ContentError ``non_finite_logits`` for NaN or positive infinity; a token may have probability zero."""
    if not logits.max() < np.inf:  # NaN is the maximum of what it is among
        raise ContentError("non_finite_logits", "the model returned NaN or infinite logits for this content")


def allowed_logits(
    trie: Trie, node: Node, logits: npt.NDArray[np.float32], columns: Mapping[int, int] | None
) -> npt.NDArray[np.float64]:
    """The logits of the tokens that the trie allows behind a node, in the order of its children, float64.

    Args:
        trie: of the node.
        node: where the model was asked.
        logits: [columns] float32.
        columns: token id -> column (None = the full vocabulary, column = token id).

    Raises:
        ContentError: ``non_finite_logits``.
    """
    tokens = list(trie.children(node))
    allowed = logits[tokens if columns is None else [columns[token] for token in tokens]].astype(np.float64)
    check_logits(allowed)
    if allowed.max() == -np.inf:
        raise ContentError("non_finite_logits", "the model gives probability zero to every allowed token")
    return allowed
