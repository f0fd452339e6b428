"""Rows that nobody reads, so that no product of a pass has a single row.

onnxruntime sums a 4-bit product (MatMulNBits) of one row in another order than one of several, on processors with AVX2
and without VNNI; so it does with the last of 128 n + 1 rows, which it shares out among threads by 128. Those sums would
depend on what else is in the pass. So a pass has one row more wherever it would have such a number of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .forward import Forward, Outputs

__all__ = ["without_padding", "without_single_rows"]

#: Rows that onnxruntime gives to one thread at a time.
_TILE = 128


def without_single_rows(forward: Forward) -> Forward:
    """The pass with another token and rows of logits where their number asks for it: the token is of id 0, sees itself
    alone and is seen by none, and the rows are there already. Not for graphs with ``by_content``."""
    tokens, mask, positions = list(forward.input_ids), forward.mask, forward.positions
    if _single(len(tokens)):
        rows, columns = mask.shape
        tokens.append(0)
        positions = np.append(positions, np.int64(0))
        mask = np.zeros((rows + 1, columns + 1), np.bool_)
        mask[:rows, :columns] = forward.mask
        mask[rows, columns] = True
    logit_rows, verdict_rows = _twice(forward.logit_rows), _twice(forward.verdict_rows)
    if _single(len(logit_rows) + len(verdict_rows)):  # the last layer computes both together
        logit_rows = [*logit_rows, logit_rows[0]]
    return Forward(tokens, positions, mask, forward.past, logit_rows, verdict_rows, reads=forward.reads)


def without_padding(outputs: Outputs, forward: Forward) -> Outputs:
    """The outputs of the padded pass for the tokens and rows of ``forward``."""
    tokens, new = len(forward.input_ids), outputs.new
    if new.length != tokens:
        new = new.take(np.arange(tokens))
    rows, verdict_rows = len(forward.logit_rows), len(forward.verdict_rows)
    return Outputs(outputs.logits[:rows], outputs.log_probabilities[:rows], outputs.verdict_logits[:verdict_rows], new)


def _single(rows: int) -> bool:
    return rows % _TILE == 1


def _twice(rows: Sequence[int]) -> list[int]:
    return [*rows, rows[0]] if _single(len(rows)) else [*rows]
