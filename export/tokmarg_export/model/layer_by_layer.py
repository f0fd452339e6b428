"""A model's forward with one layer in memory at a time, over several prompts.

The model's own forward is run twice with its layers taken out: once to learn what it gives to each layer, and once to
make logits of what the last layer returned. In between each layer is read, run over all prompts, and let go of. It
computes what the plain forward does, operation for operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from tokmarg_export.transformers_versions import TUPLE_LAYERS, cache_argument

from .stored_parameters import in_memory

__all__ = ["LayerByLayer", "keys_and_values", "last_logits"]


class _TakenOut(nn.Module):
    """Stands in for a layer: keeps what it is given, and returns that, or what it is told to return."""

    def __init__(self, layer: nn.Module, as_tuple: bool, returned: Tensor | None) -> None:
        super().__init__()
        self._as_tuple, self._returned = as_tuple, returned
        if hasattr(layer, "attention_type"):  # by which the model chooses a mask
            self.attention_type = layer.attention_type
        self.hidden: Tensor
        self.settings: dict[str, Any] = {}

    def forward(self, hidden: Tensor, **settings: Any) -> Any:
        self.hidden, self.settings = hidden, settings
        returned = hidden if self._returned is None else self._returned
        return (returned,) if self._as_tuple else returned


@contextmanager
def _without_layers(model: PreTrainedModel, returned: Tensor | None = None) -> Iterator[list[_TakenOut]]:
    decoder = model.get_decoder()
    layers = decoder.layers
    as_tuple = model.config.model_type in TUPLE_LAYERS
    stand_ins = [_TakenOut(layer, as_tuple, returned) for layer in layers]
    decoder.layers = nn.ModuleList(stand_ins)
    try:
        yield stand_ins
    finally:
        decoder.layers = layers


class LayerByLayer:
    """Prompts on their way through the layers.

    Args:
        model: with its weights in memory or in their file.
        prompts: token ids.
        caches: one for each prompt, which take its keys and values.

    Attributes:
        hidden: what the last layer that was run returned for each prompt, [1, tokens, hidden].
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], caches: Sequence[DynamicCache] | None = None
    ) -> None:
        self._decoder = decoder = model.get_decoder()
        self.hidden: list[Tensor] = []
        self._settings: list[list[dict[str, Any]]] = []
        with torch.inference_mode(), in_memory(decoder.embed_tokens, decoder.norm):
            for i, ids in enumerate(prompts):
                options: dict[str, Any] = {"use_cache": caches is not None}
                if caches is not None:
                    options[cache_argument(decoder)] = caches[i]
                with _without_layers(model) as stand_ins:
                    decoder(input_ids=torch.tensor([list(ids)], device=model.device), **options)
                self.hidden.append(stand_ins[0].hidden)
                self._settings.append([each.settings for each in stand_ins])

    @torch.inference_mode()
    def run(self, number: int) -> None:
        """Runs all prompts through a layer; layers are run in their order."""
        layer = self._decoder.layers[number]
        with in_memory(layer):
            for i, states in enumerate(self.hidden):
                returned = layer(states, **self._settings[i][number])
                self.hidden[i] = returned[0] if isinstance(returned, tuple) else returned

    def run_all(self) -> list[Tensor]:
        """Runs all layers; returns ``hidden``."""
        for number in range(len(self._decoder.layers)):
            self.run(number)
        return self.hidden


@torch.inference_mode()
def last_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [V] after the last token of each prompt."""
    found = []
    returned = LayerByLayer(model, prompts).run_all()
    with in_memory(model.get_decoder().embed_tokens, model.get_decoder().norm, model.get_output_embeddings()):
        for ids, hidden in zip(prompts, returned, strict=True):
            with _without_layers(model, hidden):
                output = model(
                    input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=1
                )
            found.append(output.logits[0, -1])
    return found


def keys_and_values(model: PreTrainedModel, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of a prompt, [1, kv_heads, tokens, head_dim] each, layer by layer."""
    cache = DynamicCache()
    LayerByLayer(model, [ids], [cache]).run_all()
    return [(layer.keys, layer.values) for layer in cache.layers]
