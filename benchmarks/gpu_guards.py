"""Guards of random weights (benchmarks/shapes.py) on a GPU, and transformers beside them, for benchmarks/gpu.py.

A random verdict is no likelier than another, so scores take all the nodes that they are allowed: the worst case.
"""

from __future__ import annotations

from typing import Any

import torch
from shapes import SHAPES, random_model, tokenizer_of
from transformers import DynamicCache, PreTrainedTokenizerFast

from tokmarg_export.graph.contract import Precision
from tokmarg_export.model.loaded_model import LoadedModel

#: Shape -> precisions; times are of the last.
PRECISIONS: dict[str, tuple[Precision, ...]] = {"135m": ("fp32", "fp16"), "1b": ("fp16",)}


def make(name: str, device: str, layers: int | None) -> LoadedModel:
    """A model of a shape in float32, on the device; with fewer layers if wanted."""
    shape = SHAPES[name]
    file = tokenizer_of(shape)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    model = random_model(shape, layers, device)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        tokenizer_json=file.read_text(encoding="utf-8"),
        chat_template=None,
        model_id=f"random/{name}",
        revision=None,
        licence=None,
        max_positions=model.config.max_position_embeddings,
        eos_token_ids=tuple(sorted(tokenizer.convert_tokens_to_ids(list(shape.ends)))),
    )


class Transformers:
    """Greedy verdicts of a model, in the dtype that it has; not compiled. The policy prefix stays in its cache."""

    def __init__(self, model: Any, prefix: list[int]) -> None:
        self.model, self.prefix = model, len(prefix)
        self.cache = DynamicCache()
        self._fed(prefix)

    @torch.inference_mode()
    def verdict(self, ids: list[int], tokens: int) -> list[int]:
        """``tokens`` greedy tokens after the prefix and ``ids``."""
        self.cache.crop(self.prefix)
        generated = [self._fed(ids)]
        while len(generated) < tokens:
            generated.append(self._fed(generated[-1:]))
        return generated

    @torch.inference_mode()
    def verdicts(self, many: list[list[int]], tokens: int) -> list[list[int]]:
        """Those of many contents in one batch, padded on the left, each with a copy of the prefix."""
        count, width, prefix, device = len(many), max(map(len, many)), self.prefix, self.model.device
        gaps = torch.tensor([[width - len(ids)] for ids in many], device=device)
        new = torch.tensor([[0] * (width - len(ids)) + ids for ids in many], device=device)
        columns = torch.arange(width, device=device)
        mask = torch.cat([torch.ones(count, prefix, device=device).bool(), columns >= gaps], 1).long()
        positions = (columns - gaps).clamp(min=0) + prefix
        self.cache.crop(prefix)
        cache = DynamicCache()
        for i, layer in enumerate(self.cache.layers):
            cache.update(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1), i)
        generated = []
        while True:
            given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
            last = self.model(new, **given, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)
            generated.append(last)
            if len(generated) == tokens:
                return torch.stack(generated, 1).tolist()
            new, positions = last[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(count, 1)], 1)

    @torch.inference_mode()
    def _fed(self, ids: list[int]) -> int:
        given = torch.tensor([ids], device=self.model.device)
        logits = self.model(given, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())
