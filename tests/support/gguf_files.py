"""GGUF files of random models of every architecture, written as llama.cpp's conversion does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.support.model_files import permuted

__all__ = ["SPM", "write_gguf_of", "write_spm"]

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LLAMA_NORMS = {"post_attention_layernorm": "ffn_norm"}
_GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
#: A SentencePiece vocabulary: piece, score, type.
SPM = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    ("▁▁", -1.0, 1),
    ("▁s", -2.0, 1),
    ("af", -3.0, 1),
    ("un", -4.0, 1),
    ("saf", -5.0, 1),
    ("▁saf", -6.0, 1),
    ("▁safe", -7.0, 1),
    ("unsafe", -8.0, 1),
    ("safe", -9.0, 1),
    *((character, -20.0 - i, 1) for i, character in enumerate("▁abcdefghijklmnopqrstuvwxyz0123456789.,ü")),
]


def write_spm(writer: gguf.GGUFWriter, pieces: Sequence[tuple[str, float, int]] = SPM, **flags: bool) -> None:
    """A SentencePiece vocabulary; ``space``: whether a text gets a space in front."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types([kind for _, _, kind in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if "space" in flags:
        writer.add_add_space_prefix(flags["space"])


def rope_theta(config: Any) -> float:
    """Base of the rotary embedding; transformers 5 keeps it with the scaling."""
    parameters = getattr(config, "rope_parameters", None)
    if parameters is None:
        return float(config.rope_theta)
    return float(parameters.get("full_attention", parameters)["rope_theta"])


def write_gguf_of(model: Any, file: Path, architecture: str, **options: Any) -> None:
    """A model of transformers, in float32; ``options``: of GGUFWriter, such as ``split_max_tensors``, and ``space``."""
    flags = {"space": options.pop("space")} if "space" in options else {}
    config, gemma = model.config, architecture.startswith("gemma")
    writer = gguf.GGUFWriter(str(file), architecture, **options)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(model.get_decoder().layers[0].self_attn.head_dim)
    writer.add_value_length(model.get_decoder().layers[0].self_attn.head_dim)
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if gemma:
        writer.add_sliding_window(config.sliding_window)
        if config.attn_logit_softcapping:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    write_spm(writer, [*SPM, *((f"x{i}", -99.0, 5) for i in range(config.vocab_size - len(SPM)))], **flags)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        stem, _, ending = name.rpartition(".")
        weight = tensor.numpy()
        if gemma and stem.endswith("norm"):
            weight = weight + 1
        _, _, rest = stem.partition(".layers.")
        if rest:
            layer, _, part = rest.partition(".")
            ours = (_NAMES | (_GEMMA_NORMS if gemma else _LLAMA_NORMS))[part]
            if architecture in ("llama", "granite") and ours in heads:
                weight = permuted(weight, heads[ours])
            writer.add_tensor(f"blk.{layer}.{ours}.{ending}", np.ascontiguousarray(weight))
        elif stem != "lm_head" or not config.tie_word_embeddings:
            top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[stem]
            writer.add_tensor(f"{top}.{ending}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
