"""What sets families apart whose graph is written operator by operator, as far as modules do not say it themselves.

Names of modules decide most: a layer with `pre_feedforward_layernorm` has four norms (Gemma), an attention with
`q_norm` norms its heads (Qwen3, Gemma 3). What is left is in the configuration under one name or another, and in how a
norm reads its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokmarg_export.model.stored_parameters import values

__all__ = [
    "FAMILIES",
    "Family",
    "Rotary",
    "family_of",
    "gain",
    "layer_norms",
    "llama_graph_mismatch",
    "rotaries",
    "rotary_kind",
]


@dataclass(frozen=True)
class Family:
    """Fields of a configuration, and the parts of a layer.

    Attributes:
        activation: the field that names the MLP's activation, and the only one that the graph has.
        norms: of a layer's hidden states, from its beginning to its end.
        root_scaled: the embedding is multiplied by the root of its width.
        cap: the field of the cap on attention scores; Gemma 3 has the field, and does not read it.
    """

    activation: tuple[str, str] = ("hidden_act", "silu")
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    root_scaled: bool = False
    cap: str | None = None

    def embedding_scale(self, config: Any) -> float:
        """What the embedding is multiplied with, before it is rounded to the graph's precision."""
        scale = config.hidden_size**0.5 if self.root_scaled else getattr(config, "embedding_multiplier", 1.0)
        return float(scale)

    def score_cap(self, config: Any) -> float | None:
        """Of attention scores: cap * tanh(score / cap), before the mask."""
        return None if self.cap is None else getattr(config, self.cap)


_GEMMA_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_GEMMA_ACTIVATION = ("hidden_activation", "gelu_pytorch_tanh")

#: By model type.
FAMILIES = {
    **dict.fromkeys(("granite", "llama", "mistral", "qwen2", "qwen3"), Family()),
    "gemma2": Family(_GEMMA_ACTIVATION, _GEMMA_NORMS, root_scaled=True, cap="attn_logit_softcapping"),
    "gemma3_text": Family(_GEMMA_ACTIVATION, _GEMMA_NORMS, root_scaled=True),
}


def family_of(model: PreTrainedModel) -> Family:
    """Of a model whose graph is written operator by operator."""
    return FAMILIES[model.config.model_type]


#: Norms that multiply by 1 + weight.
_ONE_ADDED = ("Gemma2RMSNorm", "Gemma3RMSNorm")


_ATTENTION_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP_MODULES = {"gate_proj", "up_proj", "down_proj"}


def llama_graph_mismatch(model: PreTrainedModel) -> str | None:
    """Why a model cannot have this graph and must be traced; None if it can.

    Names of modules decide, and not a list of model types alone: a checkpoint with additional modules is traced.
    """
    config = model.config
    if (family := FAMILIES.get(config.model_type)) is None:
        return f"model_type {config.model_type} is not of Llama's shape"
    for i, layer in enumerate(model.get_decoder().layers):
        for module, required, optional in (
            (layer, {"self_attn", "mlp", *family.norms}, set()),
            (layer.self_attn, _ATTENTION_MODULES, {"q_norm", "k_norm"}),
            (layer.mlp, _MLP_MODULES, {"act_fn"}),
        ):
            names = {name for name, _ in module.named_children()}
            if unknown := (names ^ required) - optional:
                return f"layer {i} has other parts: {sorted(unknown)[0]}"
            for name, child in module.named_children():
                if name.endswith("_proj") and type(child) is not nn.Linear:
                    return f"layer {i}: {name} is a {type(child).__name__}"
    field, activation = family.activation
    if getattr(config, field) != activation:
        return f"{field} is {getattr(config, field)}"
    head_dim = model.get_decoder().layers[0].self_attn.head_dim
    if any(2 * rotary.frequencies.numel() != head_dim for rotary in rotaries(model).values()):
        return "the rotary embedding covers a part of the head"
    return None


def gain(norm: Any) -> Tensor:
    """What a norm multiplies by, [width]."""
    weight = values(norm.weight)
    return 1 + weight if type(norm).__name__ in _ONE_ADDED else weight


def layer_norms(layer: Any) -> tuple[Any, Any, Any]:
    """Norms of a layer beside its first: of what attention gives, of what the MLP reads, and of what it gives. Those of
    outputs are None where what is given is added as it is."""
    if hasattr(layer, "pre_feedforward_layernorm"):
        return layer.post_attention_layernorm, layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
    return None, layer.post_attention_layernorm, None


@dataclass(frozen=True)
class Rotary:
    """A rotary embedding: frequencies float32 [head_dim / 2], and what its cosines and sines are multiplied with."""

    frequencies: Tensor
    scaling: float


def rotaries(model: PreTrainedModel) -> dict[str, Rotary]:
    """Rotary embeddings by :func:`rotary_kind`: Gemma 3 has one for each kind of layer, all others have one."""
    decoder = model.get_decoder()
    rotary: Any = decoder.rotary_emb
    if hasattr(decoder, "rotary_emb_local"):
        both = {"full_attention": rotary, "sliding_attention": decoder.rotary_emb_local}
        return {kind: Rotary(_frequencies(one.inv_freq), one.attention_scaling) for kind, one in both.items()}
    if hasattr(rotary, "inv_freq"):
        return {"": Rotary(_frequencies(rotary.inv_freq), rotary.attention_scaling)}
    return {  # transformers 5
        kind: Rotary(_frequencies(getattr(rotary, f"{kind}_inv_freq")), getattr(rotary, f"{kind}_attention_scaling"))
        for kind in sorted(rotary.layer_types)
    }


def rotary_kind(config: Any, layer: int) -> str:
    """Which of the rotary embeddings a layer has."""
    return str(config.layer_types[layer]) if config.model_type == "gemma3_text" else ""


def _frequencies(buffer: Tensor) -> Tensor:
    return buffer.detach().to("cpu", torch.float32)
