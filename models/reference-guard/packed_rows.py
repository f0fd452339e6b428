"""Packed training rows: many rows after one policy prefix in one sequence, and attention that keeps them apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row after the policy prefix.

    Attributes:
        token_ids: prompt, then verdict without its last token: T of them.
        targets: what is supervised: a place in the T tokens, the token that should follow it, the weight of that. A
            place with two targets is trained towards probabilities in the ratio of their weights.
    """

    token_ids: list[int]
    targets: list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: the prefix, then the rows, each of which sees the prefix and itself.

    Attributes:
        input_ids, position_ids: int64 [1, P+S].
        prefix: P.
        groups: rows of like length attend together: int64 [rows, longest], indices into the S tokens, -1 after a
            row's end. The groups follow each other in the sequence, row by row.
        places, targets: int64 [K]: places in the sequence whose next token is supervised, and that token.
        weights: float32 [K].
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    prefix: int
    groups: list[torch.Tensor]
    places: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def pack(prefix: tuple[int, ...], rows: list[TrainingRow], device: str = "cpu") -> Packed:
    """Lays out the rows of a step, the shortest first."""
    rows = sorted(rows, key=lambda row: len(row.token_ids))
    ids, positions = list(prefix), list(range(len(prefix)))
    supervised: list[tuple[int, int, float]] = []
    slots: list[list[int]] = []
    for row in rows:
        start = len(ids)
        ids += row.token_ids
        positions += range(len(prefix), len(prefix) + len(row.token_ids))
        slots.append(list(range(start - len(prefix), len(ids) - len(prefix))))
        supervised += [(start + place, target, weight) for place, target, weight in row.targets]
    groups, first = [], 0
    alike = 1.25 if device == "cpu" else math.inf  # elsewhere padding is cheap, and every operation has its price
    for end in range(1, len(slots) + 1):
        if end == len(slots) or len(slots[end]) > alike * len(slots[first]) + 4:
            longest = len(slots[end - 1])
            groups.append(torch.tensor([row + [-1] * (longest - len(row)) for row in slots[first:end]], device=device))
            first = end
    places, targets, weights = zip(*supervised, strict=True)
    return Packed(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        len(prefix),
        groups,
        torch.tensor(places, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(weights, device=device),
    )


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
    """scaled_dot_product_attention in plain products: on a CPU its backward pass takes a quarter of a step."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~attn_mask, -math.inf), -1).to(value.dtype) @ value


def rows_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Any, layout: Packed, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attention of :class:`Packed`, [1, heads, P+S, head_dim] -> [1, P+S, heads, head_dim]: a mask over the whole
    sequence would cost most of a step, nearly all of it for pairs that do not see each other."""
    attend = attention if query.device.type == "cpu" else torch.nn.functional.scaled_dot_product_attention
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    p = layout.prefix
    causal = torch.ones(p, p, dtype=torch.bool, device=query.device).tril()
    parts = [attend(query[:, :, :p], key[:, :, :p], value[:, :, :p], attn_mask=causal)[0].transpose(0, 1)]
    for group in layout.groups:
        rows, longest = group.shape
        places = group.clamp(min=0) + p
        q, own_k, own_v = (x[0][:, places].transpose(0, 1) for x in (query, key, value))
        k, v = (torch.cat([x[:, :, :p].expand(rows, -1, -1, -1), own], 2) for x, own in ((key, own_k), (value, own_v)))
        mask = torch.ones(longest, p + longest, dtype=torch.bool, device=q.device).tril(p)
        parts.append(attend(q, k, v, attn_mask=mask).transpose(1, 2)[group >= 0])
    return torch.cat(parts)[None], None


def loss_of(model: Any, batch: Packed, rows: int) -> torch.Tensor:
    """Cross entropy of a verdict, averaged over rows."""
    base = model.get_base_model()
    unused = torch.zeros(1, 1, 1, 1, device=batch.input_ids.device)  # four dimensions: transformers makes no mask
    hidden = base.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=unused,
        use_cache=False,
        layout=batch,
    ).last_hidden_state
    logits = base.lm_head(hidden[0, batch.places]).float()
    losses = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    return (losses * batch.weights).sum() / rows
