"""What every search asks of the logits that the model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokmarg.errors import ContentError
from tokmarg.grammar.trie import Node, Trie

__all__ = ["allowed_logits", "check_logits"]


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
