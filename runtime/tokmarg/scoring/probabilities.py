"""Probabilities over the whole vocabulary, and their top-p nucleus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .logits import check_logits

__all__ = ["nucleus", "probabilities"]

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
