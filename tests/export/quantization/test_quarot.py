"""A rotation leaves no channel that stands out, and keeps lengths."""

from __future__ import annotations

import torch

from tests.support.graphs import tiny
from tokmarg_export.quantization.quarot import Rotation


def test_no_channel_stands_out() -> None:
    model = tiny("llama", hidden_size=128)
    table = model.get_input_embeddings().weight.detach()
    table[:, 5] *= 100
    rows = Rotation(model).embedding(table)

    def peaks(x: torch.Tensor) -> float:
        """The largest channel of a row, in root mean squares; the padding's row is zero."""
        return float((x[1:].abs().amax(dim=1) / x[1:].pow(2).mean(dim=1).sqrt()).mean())

    assert peaks(table.double()) > 9
    assert peaks(rows) < 3.5
    torch.testing.assert_close(rows.double().norm(dim=1), table.double().norm(dim=1))


def test_rows_of_the_output_layer() -> None:
    """All of them, rotated in parts, and a few of them; the model's own stay as they are."""
    model = tiny("llama", hidden_size=128, vocab_size=9000, tie_word_embeddings=False)
    weight = model.get_output_embeddings().weight
    before, rotation, some = weight.detach().clone(), Rotation(model), [5, 8999]
    rows = rotation.output(weight)
    assert (rows.dtype, rotation.output_rows(before[some]).dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(rows[some], rotation.output_rows(before[some]).float())
    assert torch.equal(weight, before)
