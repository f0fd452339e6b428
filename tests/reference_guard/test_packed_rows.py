"""Rows packed after one prefix have the loss and gradient of each row on its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from tests.support.reference_guard import script


@pytest.fixture(scope="module")
def packed_rows() -> Iterator[ModuleType]:
    with script("packed_rows") as module:
        yield module


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    return LlamaForCausalLM(config).eval()


def test_packed_loss_and_gradient_equal_those_of_separate_rows(packed_rows: ModuleType) -> None:
    rng = random.Random(3)
    model = small_model()
    prefix = tuple(rng.randrange(97) for _ in range(7))
    rows = []
    for i in range(9):
        token_ids = [rng.randrange(97) for _ in range(rng.randint(4, 25))]
        first = len(token_ids) - rng.randint(1, 4)
        targets = [(place, rng.randrange(97), 1.0) for place in range(first, len(token_ids))]
        if i == 4:  # one place, two targets
            targets = [(first, 3, 0.3), (first, 8, 0.7)]
        rows.append(packed_rows.TrainingRow(token_ids, targets))
    separate = torch.tensor(0.0)
    for row in rows:
        logits = model(input_ids=torch.tensor([[*prefix, *row.token_ids]])).logits[0, len(prefix) :]
        for place, target, weight in row.targets:
            separate = separate - weight * torch.log_softmax(logits[place], -1)[target]
    torch.autograd.backward(separate / len(rows))
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    AttentionInterface.register("rows", packed_rows.rows_attention)
    model.config._attn_implementation = "rows"
    packed = packed_rows.pack(prefix, rows)
    assert len(packed.groups) > 1
    loss = packed_rows.loss_of(SimpleNamespace(get_base_model=lambda: model), packed, len(rows))
    loss.backward()
    assert loss.item() == pytest.approx((separate / len(rows)).item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-5)


def test_rows_are_padded_to_the_longest_of_their_group(packed_rows: ModuleType) -> None:
    rows = [packed_rows.TrainingRow([1] * n, [(n - 1, n, 1.0)]) for n in (30, 2, 9, 4, 31, 10)]
    packed = packed_rows.pack((5, 5, 5), rows)
    assert packed.groups == [(2, 4), (2, 10), (2, 31)]
    assert packed.input_ids.shape[1] == 3 + 8 + 20 + 62
    assert packed.places.tolist() == [3 + 1, 3 + 7, 11 + 8, 11 + 19, 31 + 29, 31 + 61]
    assert packed.targets.tolist() == [2, 4, 9, 10, 30, 31]
