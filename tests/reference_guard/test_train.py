"""Rows packed behind one prefix train on what each row alone would."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parents[2] / "models" / "reference-guard"


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        import train

        yield train
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("train", "data"):
            sys.modules.pop(name, None)


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


def test_packed_loss_and_gradient_equal_those_of_rows_alone(train: ModuleType) -> None:
    rng = random.Random(3)
    model = small_model()
    prefix = tuple(rng.randrange(97) for _ in range(7))
    rows = [
        ([rng.randrange(97) for _ in range(rng.randint(1, 25))], [rng.randrange(97) for _ in range(rng.randint(1, 4))])
        for _ in range(9)
    ]
    alone = torch.tensor(0.0)
    for own, verdict in rows:
        ids = torch.tensor([[*prefix, *own, *verdict]])
        logits = model(input_ids=ids).logits[0, -len(verdict) - 1 : -1]
        alone = alone + torch.nn.functional.cross_entropy(logits, torch.tensor(verdict), reduction="sum")
    (alone / len(rows)).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    AttentionInterface.register("rows", train.rows_attention)
    model.config._attn_implementation = "rows"
    packed = train.pack(prefix, rows)
    assert len(packed.groups) > 1
    loss = train.loss_of(SimpleNamespace(get_base_model=lambda: model), packed, len(rows))
    loss.backward()
    assert loss.item() == pytest.approx((alone / len(rows)).item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-5)


def test_every_token_lies_in_one_group_in_order(train: ModuleType) -> None:
    rows = [([1] * n, [2, 3]) for n in (30, 2, 9, 2, 31, 10)]
    packed = train.pack((5, 5, 5), rows)
    places = torch.cat([group[group >= 0] for group in packed.groups])
    assert places.tolist() == list(range(packed.input_ids.shape[1] - 3))
