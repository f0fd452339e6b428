"""The model of a GGUF file: its configuration, and where its weights are.

llama.cpp has names of its own for metadata and tensors, and stores some weights otherwise: rows of queries and keys of
Llama in the order of its rotary embedding, weights of Gemma's norms with the 1 that the model adds to them. The
conversions undone here are those of llama.cpp's conversion/ (LlamaModel, GraniteModel, Gemma2Model, Gemma3Model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tokmarg_export.errors import ExportError

from .gguf_file import GgufFile
from .stored_parameters import store

__all__ = ["gguf_config", "gguf_model"]

_COMMON = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "rope.freq_base": "rope_theta",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
#: Those of them that a file may lack: the value follows from others, or is the architecture's usual one.
_OPTIONAL = {"attention.head_count_kv", "attention.key_length", "rope.freq_base"}
_SOFT_CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_WINDOW = {"attention.sliding_window": "sliding_window"}


@dataclass(frozen=True)
class _Architecture:
    """How a `general.architecture` is read: transformers' model type, further fields, and what is undone."""

    model_type: str
    fields: dict[str, str]
    permuted: bool = False  # rows of queries and keys
    one_added: bool = False  # to the weights of norms
    large: int = 0  # number of layers of the one size whose attention scores have a scale of their own


_ARCHITECTURES = {
    "llama": _Architecture("llama", {"rope.dimension_count": "head_dim"}, permuted=True),
    "granite": _Architecture(
        "granite",
        {
            "attention.scale": "attention_multiplier",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "logit_scale": "logits_scaling",
        },
        permuted=True,
    ),
    "qwen2": _Architecture("qwen2", {}),
    "qwen3": _Architecture("qwen3", {}),
    "gemma2": _Architecture("gemma2", _SOFT_CAPS | _WINDOW, one_added=True, large=46),
    "gemma3": _Architecture(
        "gemma3_text",
        _SOFT_CAPS | _WINDOW | {"rope.freq_base_swa": "rope_local_base_freq"},
        one_added=True,
        large=62,
    ),
}


def gguf_config(file: GgufFile) -> PretrainedConfig:
    """The configuration. Raises ExportError, naming the field, where it cannot be read."""
    name, architecture = _architecture(file)
    settings: dict[str, Any] = {}
    for field, setting in (_COMMON | architecture.fields).items():
        read = file.needed if field in _COMMON.keys() - _OPTIONAL else file.field
        if (value := read(f"{name}.{field}")) is not None and setting not in settings:
            settings[setting] = value
    settings.setdefault("num_key_value_heads", settings["num_attention_heads"])
    settings.setdefault("head_dim", settings["hidden_size"] // settings["num_attention_heads"])
    if wrong := [value for value in settings.values() if not isinstance(value, (int, float)) or value <= 0]:
        raise ExportError(f"GGUF: {name} has a setting {wrong[0]!r:.60}, where a positive number belongs.")
    if architecture.one_added:
        large = settings["num_hidden_layers"] == architecture.large
        settings["query_pre_attn_scalar"] = (
            settings["hidden_size"] // settings["num_attention_heads"] if large else settings["head_dim"]
        )
        for cap in _SOFT_CAPS.values():
            settings.setdefault(cap, None)
    settings["rope_scaling"] = _rope_scaling(file, name)
    return CONFIG_MAPPING[architecture.model_type](
        **settings,
        vocab_size=file.shape("token_embd.weight")[0] if "token_embd.weight" in file.tensor_names else 0,
        tie_word_embeddings="output.weight" not in file.tensor_names,
        attention_bias="blk.0.attn_q.bias" in file.tensor_names,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )


def _architecture(file: GgufFile) -> tuple[str, _Architecture]:
    name = file.field("general.architecture")
    if name not in _ARCHITECTURES:
        raise ExportError(
            f"GGUF field general.architecture is {name!r:.60}; readable are {', '.join(_ARCHITECTURES)}: "
            "export from the model's Hugging Face folder."
        )
    return name, _ARCHITECTURES[name]


def _rope_scaling(file: GgufFile, name: str) -> dict[str, Any] | None:
    """Of metadata; Llama 3.1 and later have it in a tensor instead, see :func:`gguf_model`."""
    scaling = file.field(f"{name}.rope.scaling.type")
    if scaling in (None, "none"):
        return None
    factor = file.field(f"{name}.rope.scaling.factor")
    if scaling != "linear" or factor is None:
        raise ExportError(
            f"GGUF field {name}.rope.scaling.type is {scaling!r}, which cannot be read from GGUF: "
            "export from the model's Hugging Face folder."
        )
    return {"rope_type": "linear", "factor": float(factor)}


def gguf_model(file: GgufFile, config: PretrainedConfig, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with its weights in the file, and which of them are missing or too many, by transformers' names."""
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    model.tie_weights()
    name, architecture = _architecture(file)
    numbers = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[name], config.num_hidden_layers)
    missing, used = [], {"rope_freqs.weight"}
    for parameter, value in list(model.named_parameters()):
        stem, _, ending = parameter.rpartition(".")
        stored = f"{names.get_name(stem)}.{ending}"
        if stored not in file.tensor_names:
            missing.append(parameter)
            continue
        if file.shape(stored) != tuple(value.shape):
            raise ExportError(f"GGUF tensor {stored} has shape {file.shape(stored)}, not {tuple(value.shape)}.")
        used.add(stored)
        store(model, parameter, _reader(file, stored, stem, architecture, config))
    _apply_rope_factors(file, model)
    surplus = [_layer_name(tensor) for tensor in sorted(file.tensor_names - used)]
    return model, {"missing_keys": missing, "unexpected_keys": surplus}


def _layer_name(tensor: str) -> str:
    """A tensor of a layer, so named that it is recognised as one of a layer."""
    return tensor.replace("blk.", "model.layers.", 1) if tensor.startswith("blk.") else tensor


def _reader(
    file: GgufFile, stored: str, stem: str, architecture: _Architecture, config: PretrainedConfig
) -> Callable[[], Tensor]:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(stem.rpartition(".")[2])

    def read() -> Tensor:
        values = file.read(stored)
        if architecture.one_added and stem.endswith("norm"):
            return values - 1
        if architecture.permuted and heads is not None:
            halves = values.reshape(heads, -1, 2, *values.shape[1:])
            return halves.swapaxes(1, 2).reshape(values.shape)
        return values

    return read


def _apply_rope_factors(file: GgufFile, model: PreTrainedModel) -> None:
    """Llama 3.1 and later store one divisor per frequency of the rotary embedding in a tensor."""
    if "rope_freqs.weight" in file.tensor_names:
        rotary = model.get_decoder().rotary_emb
        rotary.inv_freq = rotary.original_inv_freq = rotary.inv_freq / file.read("rope_freqs.weight")
