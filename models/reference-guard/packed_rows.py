"""Packed training rows: many rows after one policy prefix in one sequence, and attention that keeps them apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
        groups: rows of like length attend together, padded to the longest of them: rows and padded length of each
            group, in the order of the sequence; S is the sum of their products.
        places, targets: int64 [K]: places in the sequence whose next token is supervised, and that token.
        weights: float32 [K].
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    prefix: int
    groups: list[tuple[int, int]]
    places: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def pack(prefix: tuple[int, ...], rows: list[TrainingRow], device: str = "cpu") -> Packed:
    """Lays out the rows of a step, the shortest first."""
    rows = sorted(rows, key=lambda row: len(row.token_ids))
    ids, positions = list(prefix), list(range(len(prefix)))
    supervised: list[tuple[int, int, float]] = []
    groups = []
    for group in _groups(rows, alike=1.15 if device == "cpu" else 1.5):  # elsewhere every operation has its price
        longest = len(group[-1].token_ids)
        for row in group:
            supervised += [(len(ids) + place, target, weight) for place, target, weight in row.targets]
            ids += row.token_ids + [0] * (longest - len(row.token_ids))
            positions += range(len(prefix), len(prefix) + longest)
        groups.append((len(group), longest))
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


def _groups(rows: list[TrainingRow], alike: float) -> Iterator[list[TrainingRow]]:
    """Sorted rows, cut where a row is longer than ``alike`` times the first of its group."""
    first = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or len(rows[end].token_ids) > alike * len(rows[first].token_ids) + 2:
            yield rows[first:end]
            first = end


def rows_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Any, layout: Packed, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attention of :class:`Packed`, [1, heads, P+S, head_dim] -> [1, P+S, heads, head_dim]: a mask over the whole
    sequence would cost most of a step, nearly all of it for pairs that do not see each other."""
    _, heads, _, head_dim = query.shape
    kv_heads, p = key.shape[1], layout.prefix
    query = query.view(kv_heads, heads // kv_heads, -1, head_dim)  # [kv heads, sharers of one, P+S, head_dim]
    prefix_k, prefix_v = key[0, :, None, :p], value[0, :, None, :p]  # [kv heads, 1, P, head_dim]
    parts = [_attend(query[:, :, None, :p], prefix_k, prefix_v)]
    start = p
    for rows, longest in layout.groups:
        end = start + rows * longest
        q = query[:, :, start:end].reshape(*query.shape[:2], rows, longest, head_dim)
        own_k, own_v = (x[0, :, start:end].reshape(kv_heads, rows, longest, head_dim) for x in (key, value))
        k = torch.cat([prefix_k.expand(-1, rows, -1, -1), own_k], 2)
        v = torch.cat([prefix_v.expand(-1, rows, -1, -1), own_v], 2)
        parts.append(_attend(q, k, v))
        start = end
    return torch.cat(parts)[None], None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of rows whose keys begin with a common prefix, in plain products:
    scaled_dot_product_attention's backward pass takes a quarter of a step on a CPU.

    Args:
        query: [G, H, R, T, D]: kv heads, query heads that share one, rows, tokens, head_dim.
        key, value: [G, R, P+T, D].

    Returns:
        [R*T, G*H, D].
    """
    g, h, r, t, d = query.shape
    query = query.transpose(1, 2).reshape(g * r, h * t, d)
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    scores = (query @ key.transpose(1, 2) * d**-0.5).view(g * r, h, t, -1)
    causal = torch.ones(t, scores.shape[-1], dtype=torch.bool, device=query.device).tril(scores.shape[-1] - t)
    shares = torch.softmax(scores.masked_fill(~causal, -math.inf), -1).to(value.dtype)
    return (shares.flatten(1, 2) @ value).view(g, r, h, t, d).permute(1, 3, 0, 2, 4).reshape(r * t, g * h, d)


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
