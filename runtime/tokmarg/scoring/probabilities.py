"""Softmax of logits: over the whole vocabulary, over the tokens that the grammar allows; and the top-p nucleus.

    full_vocabulary_probabilities   softmax over all V logits of a next token; nothing is renormalised
    allowed_logits, then softmax    constrained probabilities: renormalised over the tokens that the trie allows
    probabilities_within            full-vocabulary probabilities of a few tokens

All arithmetic is float64; the model's logits are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.errors import ContentError
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie

__all__ = [
    "Floats",
    "allowed_logits",
    "check_logits",
    "full_vocabulary_probabilities",
    "log_softmax",
    "nucleus",
    "probabilities_within",
    "softmax",
]

Floats = npt.NDArray[np.float64]
#: Tokens that are looked at before the whole vocabulary is sorted: a guard's nucleus has a handful.
_FEW = 64


def softmax(logits: npt.ArrayLike) -> Floats:
    """Probabilities [n] float64 of logits [n]; a logit may be -inf, not all of them."""
    z = np.asarray(logits, dtype=np.float64)
    p = np.exp(z - z.max())
    return np.asarray(p / p.sum())


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities [n] float64 of logits [n]."""
    return np.asarray(logits - np.logaddexp.reduce(logits))


def full_vocabulary_probabilities(logits: npt.NDArray[np.float32]) -> Floats:
    """The softmax [V] float64 of logits [V] float32.

    Raises:
        ContentError: ``non_finite_logits``.
    """
    check_logits(logits)
    return softmax(logits)


def probabilities_within(selected: Floats, logits: npt.NDArray[np.float32]) -> Floats:
    """Full-vocabulary probabilities of some tokens, without the array of all.

    Args:
        selected: logits of the tokens, float64 [k].
        logits: of the whole vocabulary, float32 [V].

    Returns:
        probabilities, float64 [k].

    Raises:
        ContentError: ``non_finite_logits``.
    """
    check_logits(logits)
    top = float(logits.max())
    total = float(np.exp(logits.astype(np.float64) - top).sum())
    return np.asarray(np.exp(selected - top) / total)


def nucleus(p: Floats, top_p: float) -> npt.NDArray[np.int64]:
    """The nucleus of Holtzman et al. (arXiv:1904.09751): the fewest most probable tokens whose mass exceeds ``top_p``.

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
    if not logits.max() < np.inf:  # false for NaN, and the maximum of an array with a NaN is NaN
        raise ContentError("non_finite_logits", "the model returned NaN or infinite logits for this content")


def allowed_logits(
    trie: Trie, node: Node, logits: npt.NDArray[np.float32], columns: Mapping[int, int] | None
) -> Floats:
    """The logits [children] float64 of the tokens that the trie allows after a node, in the order of its children.

    Args:
        trie: of the node.
        node: whose next token the logits are of.
        logits: float32 [columns].
        columns: token id -> column (None = the full vocabulary, column = token id).

    Raises:
        ContentError: ``non_finite_logits``.
    """
    tokens = list(trie.children(node))
    allowed = logits[tokens if columns is None else [columns[token] for token in tokens]].astype(np.float64)
    top = allowed.max()
    check_logits(top)
    if top == -np.inf:
        raise ContentError("non_finite_logits", "the model gives probability zero to every allowed token")
    return allowed
