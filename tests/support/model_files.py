"""Models on disk, made on the spot: folders and GGUF files of tiny weights and a tokenizer of a few merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokmarg_export.model.huggingface import _without_advice

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("1", "2"), ("1", "0"), ("Ġ", "S"), ("s", "a"), ("f", "e"), ("sa", "fe"), ("1", "22")]
TOKENS = [*BYTES, "<s>", "</s>", "<tool>", "12", "10", "ĠS", "sa", "fe", "safe", "22", "122"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "S12"}]


def config(**changes: Any) -> LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": len(TOKENS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    return LlamaConfig(**{**settings, **changes})


def random_model(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(config(initializer_range=0.3, **changes)).eval()


def write_folder(folder: Path, **changes: Any) -> LlamaForCausalLM:
    model = random_model(**changes)
    with _without_advice():  # transformers 5 has a bar for saving, too
        model.save_pretrained(folder)
    vocab = {token: i for i, token in enumerate(TOKENS)}
    backend = Tokenizer(models.BPE(vocab, MERGES[:-1]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.enable_truncation(4)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return model


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order that llama.cpp wants them for its rotary embedding."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    file: Path,
    *,
    pre: str | None = "smollm",
    kind: str = "gpt2",
    factors: np.ndarray | None = None,
    scaling: str | None = None,
) -> LlamaForCausalLM:
    model = random_model()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model(kind)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([{"<s>": 3, "</s>": 3, "<tool>": 4}.get(token, 1) for token in TOKENS])
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_chat_template(TEMPLATE)
    if scaling is not None:
        writer.add_string("llama.rope.scaling.type", scaling)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(2):
        for theirs, ours in names.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            heads = {"attn_q": 4, "attn_k": 2}.get(ours)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", weight if heads is None else permuted(weight, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    output: torch.Tensor = model(torch.tensor([ids])).logits
    return output
