"""Guards of real shapes with random weights: no download, and a pass of a trained one costs no more.

:func:`random_model` makes one in memory, :func:`checkpoint` one in files: bf16, as guards are published, with the real
tokenizer. Sizes of the models: Llama-Guard-3-1B is Llama-3.2-1B, 3b is Llama-3.2-3B, and Llama-Guard-3-8B is
Llama-3.1-8B, here with 4 of its 32 layers, so that all peers' forms of it fit into memory side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Where tests keep the tokenizers that they fetch.
TOKENIZERS = Path(__file__).parents[1] / "tests" / ".cache"
SEED = 11


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and the guard that it stands for.

    Attributes:
        title: of the model.
        spec: of the guard.
        tokenizer: family, see TOKENIZERS of tests/conftest.py.
        ends: tokens that end a verdict.
        config: of transformers' LlamaConfig.
        layers: how many of the model's layers there are, where not all.
    """

    title: str
    spec: str
    tokenizer: str
    ends: tuple[str, ...]
    config: dict[str, Any] = field(repr=False)
    layers: int | None = None


def _llama3(**sizes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 128_256,
        "head_dim": 128,
        "num_key_value_heads": 8,
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
        "tie_word_embeddings": True,
        "bos_token_id": 128_000,
        "eos_token_id": 128_009,
        **sizes,
    }


_LLAMA3_ENDS = ("<|eot_id|>", "<|end_of_text|>")
SHAPES = {
    "135m": Shape(
        title="SmolLM2-135M",
        spec="reference-guard",
        tokenizer="smollm2",
        ends=("<|im_end|>",),
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
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "1b": Shape(
        title="Llama-3.2-1B",
        spec="llama-guard-3-1b",
        tokenizer="llama3",
        ends=_LLAMA3_ENDS,
        config=_llama3(
            hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, head_dim=64, intermediate_size=8192
        ),
    ),
    "3b": Shape(
        title="Llama-3.2-3B",
        spec="llama-guard-3-1b",
        tokenizer="llama3",
        ends=_LLAMA3_ENDS,
        config=_llama3(hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, intermediate_size=8192),
    ),
    "8b": Shape(
        title="Llama-3.1-8B",
        spec="llama-guard-3-8b",
        tokenizer="llama3",
        ends=_LLAMA3_ENDS,
        config=_llama3(
            hidden_size=4096,
            num_hidden_layers=32,
            num_attention_heads=32,
            intermediate_size=14_336,
            tie_word_embeddings=False,
        ),
        layers=4,
    ),
}


def tokenizer_of(shape: Shape) -> Path:
    """Its tokenizer.json."""
    file = TOKENIZERS / shape.tokenizer / "tokenizer.json"
    if not file.is_file():
        raise SystemExit(f"{file} is missing: benchmarks/README.md, CUDA, has the command that fetches it")
    return file


def random_model(shape: Shape, layers: int | None = None, device: str = "cpu", dtype: str = "float32") -> Any:
    """The model, with fewer layers if wanted."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    kept = layers or shape.layers or shape.config["num_hidden_layers"]
    config = LlamaConfig(**{**shape.config, "num_hidden_layers": kept}, attn_implementation="sdpa")
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    # As peaked as a trained model: in its logits, and in what its tokens look at.
    model.model.norm.weight.mul_(4.0)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.mul_(3.0)
    return model


def checkpoint(shape: Shape, layers: int | None, out: Path) -> None:
    """Writes the model in bf16 with its tokenizer, as a Hugging Face folder."""
    from transformers import PreTrainedTokenizerFast

    model = random_model(shape, layers, dtype="bfloat16")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_of(shape)), eos_token=shape.ends[0])
    model.config.eos_token_id = tokenizer.convert_tokens_to_ids(shape.ends[0])
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.config.dtype = "bfloat16"
    model.save_pretrained(out, max_shard_size="100GB")
    tokenizer.save_pretrained(out)
