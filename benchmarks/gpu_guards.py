"""Guards of real shapes with random weights, for benchmarks/gpu.py: no download, and a trained one costs no more.

A random verdict is no likelier than another, so scores take all the nodes that they are allowed: the worst case.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokmarg_export.graph.contract import Precision
from tokmarg_export.model.loaded_model import LoadedModel

#: Where tests keep the tokenizers that they fetch.
TOKENIZERS = Path(__file__).parents[1] / "tests" / ".cache"


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and the guard family that it stands for."""

    spec: str
    tokenizer: str
    ends: tuple[str, ...]
    precisions: tuple[Precision, ...]  # times are of the last
    config: dict[str, Any]


SHAPES = {
    "smollm2": Shape(
        spec="reference-guard",
        tokenizer="smollm2",
        ends=("<|im_end|>",),
        precisions=("fp32", "fp16"),
        config={
            "vocab_size": 49_152,
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100_000.0,
        },
    ),
    "llama-1b": Shape(
        spec="llama-guard-3-1b",
        tokenizer="llama3",
        ends=("<|eot_id|>", "<|end_of_text|>"),
        precisions=("fp16",),
        config={
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
}


def make(name: str, device: str, layers: int | None) -> LoadedModel:
    """A model of a shape in float32, on the device; with fewer layers if wanted."""
    shape = SHAPES[name]
    file = TOKENIZERS / shape.tokenizer / "tokenizer.json"
    if not file.is_file():
        raise SystemExit(f"{file} is missing: benchmarks/README.md, CUDA, has the command that fetches it")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    sizes = shape.config if layers is None else {**shape.config, "num_hidden_layers": layers}
    torch.manual_seed(11)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True, attn_implementation="sdpa"))
    model = model.float().eval().requires_grad_(False)
    # As peaked as a trained model: in its logits, and in what its tokens look at.
    model.model.norm.weight.mul_(4.0)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.mul_(3.0)
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
