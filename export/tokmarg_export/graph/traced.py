"""The module that is traced: a causal LM with exactly the graph's inputs and outputs, batch size 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg_export.transformers_versions import cache_argument

#: Of traced graphs.
OPSET = 18

# Sizes of the example that is traced; all different, so that no two axes can be mistaken for each other.
_PAST, _NEW, _LOGITS = 5, 7, 3

# These take one mask per kind of layer, as a dictionary; the others take one mask for all layers.
DICT_MASK_TYPES = ("gemma2", "gemma3_text", "qwen2", "qwen3")

_ATTENTION = "tokmarg_grouped"


class NewKeyValues(Cache):  # type: ignore[misc]  # transformers is not followed by the type checker
    """A cache that attends over past and new tokens together, but keeps the new ones apart for output."""

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[])
        self.past = past
        self.new: list[tuple[Tensor, Tensor]] = []

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor]:
        """Take new [1, kv_heads, S, head_dim], return past and new [1, kv_heads, P+S, head_dim]."""
        key, value = self.past[layer_idx]
        self.new.append((key_states, value_states))
        return torch.cat([key, key_states], dim=2), torch.cat([value, value_states], dim=2)


class ScoringPass(nn.Module):
    """Forward of the graph contract. optimum turns the pairs of past keys and values into a DynamicCache."""

    def __init__(self, model: PreTrainedModel, *, takes_local_mask: bool) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.takes_local_mask = takes_local_mask
        self.groups = model.config.num_attention_heads // model.config.num_key_value_heads

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        logit_positions: Tensor,
        past_key_values: DynamicCache | Sequence[tuple[Tensor, Tensor]],
        sliding_attention_mask: Tensor | None = None,
    ) -> dict[str, Any]:
        if isinstance(past_key_values, DynamicCache):
            past_key_values = [(cast(Tensor, x.keys), cast(Tensor, x.values)) for x in past_key_values.layers]
        cache = NewKeyValues(past_key_values)
        masks: Tensor | dict[str, Tensor]
        if self.config.model_type in DICT_MASK_TYPES:
            masks = {"full_attention": self._additive(attention_mask)}
            if sliding_attention_mask is not None:
                masks["sliding_attention"] = self._additive(sliding_attention_mask)
        else:
            masks = self._additive(attention_mask if sliding_attention_mask is None else sliding_attention_mask)
        output = self.model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=masks,
            use_cache=True,
            logits_to_keep=logit_positions,
            **{cache_argument(self.model): cache},
        )
        return {"logits": output.logits, "present": tuple(cache.new)}

    def _additive(self, visible: Tensor) -> Tensor:
        """bool [1, 1, S, P+S] -> float32 [1, 1, groups*S, P+S], as `grouped_attention` has it.

        The finite minimum instead of -inf: a row that sees nothing gives a mean and not NaN. float32 even in
        an fp16 graph, because the scores are float32 there and the minimum of float16 plus a negative score
        overflows.
        """
        mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
        return mask.repeat(1, 1, self.groups, 1)


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Eager attention that stacks the query heads of one key head instead of copying that key head.

    query [1, heads, S, d], key, value [1, kv_heads, P+S, d], mask [1, 1, groups*S, P+S] -> [1, S, heads, d].
    Softmax in float32 whatever the dtype, as transformers does. Unlike sdpa it honours Gemma 2's cap on the
    scores.
    """
    heads, kv_heads, head_dim = int(query.shape[1]), int(key.shape[1]), int(query.shape[3])
    stacked = (query * scaling).reshape(1, kv_heads, -1, head_dim)
    scores = (stacked @ key.transpose(2, 3)).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = torch.softmax(scores + attention_mask, dim=-1).to(value.dtype)
    return (weights @ value).reshape(1, heads, -1, head_dim).transpose(1, 2), None


class OutputHead(nn.Module):
    """The output layer as one Gemm on [K, hidden] that reads the weight as it is stored, rows = tokens.

    A Linear on [1, K, hidden] would be a MatMul with the transposed weight, a second copy of tied ones.
    Returns float32, so that caps and scales after it are not rounded to half.
    """

    def __init__(self, layer: nn.Linear, token_ids: Sequence[int] | None) -> None:
        super().__init__()
        bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(1)
        if token_ids is None:
            self.weight, self.bias = layer.weight, bias  # the very tensors, which may be tied
        else:
            rows = torch.tensor(token_ids, device=layer.weight.device)
            self.weight = nn.Parameter(layer.weight.detach()[rows], requires_grad=False)
            self.bias = nn.Parameter(bias.detach()[rows] if len(bias) > 1 else bias, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, self.weight.shape[1])
        return torch.addmm(self.bias, rows, self.weight.t()).unsqueeze(0).float()


def example_inputs(contract: GraphContract, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What the tracers call :class:`ScoringPass` with, by name: new tokens after cached ones."""
    past = torch.zeros(1, contract.kv_heads, _PAST, contract.head_dim, dtype=dtype, device=device)
    mask = torch.ones(_NEW, _PAST + _NEW, dtype=torch.bool, device=device).tril(_PAST)[None, None]
    local = contract.sliding_window is not None
    return {
        "input_ids": torch.arange(_NEW, device=device)[None],
        "position_ids": torch.arange(_PAST, _PAST + _NEW, device=device)[None],
        "attention_mask": mask,
        "logit_positions": torch.arange(_LOGITS, device=device),
        "past_key_values": [(past.clone(), past.clone()) for _ in range(contract.layers)],
        **({"sliding_attention_mask": mask.clone()} if local else {}),
    }


@contextmanager
def as_traceable(
    model: PreTrainedModel, dtype: torch.dtype, head_token_ids: Sequence[int] | None, name: str
) -> Iterator[None]:
    """Give the model our attention, our head and `dtype` for the export, and put back what was there.

    Only parameters change dtype: rounding the buffers of the rotary embedding to half would shift positions.
    `name` replaces the model's name, which optimum would look up, on the hub too, for a tokenizer to save.
    """
    config = model.config
    head = cast(nn.Linear, model.get_output_embeddings())
    saved_parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    # optimum moves generation settings from one of these to the other.
    holders = [vars(holder) for holder in (config, model.generation_config) if holder is not None]
    training = model.training
    AttentionInterface.register(_ATTENTION, grouped_attention)
    with ExitStack() as undo:
        undo.callback(model.train, training)
        for attributes in holders:
            undo.callback(attributes.update, dict(attributes))
            undo.callback(attributes.clear)
        undo.callback(model.set_output_embeddings, head)
        for parameter, data in saved_parameters:
            undo.callback(setattr, parameter, "data", data)
            parameter.data = data.to(dtype)
        config._attn_implementation = _ATTENTION
        config._name_or_path = name
        # optimum asks fn_get_submodels only for architectures it does not know.
        config.export_model_type = "tokmarg"
        model.set_output_embeddings(OutputHead(head, head_token_ids))
        model.eval()
        yield
