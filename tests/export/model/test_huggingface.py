"""Loading from folders and GGUF files made on the spot: tiny weights, a tokenizer of a few merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokmarg_export.errors import ExportError
from tokmarg_export.model.huggingface import load_model

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
    return model(torch.tensor([ids])).logits


def test_folder_gives_model_tokenizer_and_facts(tmp_path: Path) -> None:
    folder = tmp_path / "my-guard"
    model = write_folder(folder)
    loaded = load_model(folder)
    assert (loaded.model_id, loaded.revision, loaded.licence) == ("my-guard", None, "apache-2.0")
    assert (loaded.max_positions, loaded.eos_token_ids) == (128, (257,))
    assert not loaded.model.training
    torch.testing.assert_close(logits(loaded.model, [1, 2, 3]), logits(model, [1, 2, 3]))
    assert loaded.render_chat(MESSAGES) == "<s>[user]S12"
    encoding = Tokenizer.from_str(loaded.tokenizer_json).encode("safe safe safe safe safe")
    assert len(encoding.ids) > 4  # a saved truncation would cut prompts silently
    assert str(tmp_path) not in loaded.tokenizer_json


def test_folder_in_half_precision(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert load_model(tmp_path, dtype=torch.float16).model.dtype == torch.float16


@pytest.mark.parametrize("by_name", [True, False])
def test_gguf_gives_model_tokenizer_and_facts(by_name: bool, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    loaded = load_model(tmp_path, gguf_file="tiny.gguf") if by_name else load_model(tmp_path / "tiny.gguf")
    assert (loaded.model_id, loaded.revision, loaded.licence) == ("tiny.gguf", None, "mit")
    assert (loaded.max_positions, loaded.eos_token_ids) == (128, (257,))
    torch.testing.assert_close(logits(loaded.model, [1, 2, 3]), logits(model, [1, 2, 3]))
    assert loaded.render_chat(MESSAGES) == "<s>[user]S12"


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        ("smollm", ["ĠS", "1", "2", "2"]),  # every digit alone
        ("qwen2", ["ĠS", "1", "2", "2"]),
        (
            "llama-bpe",
            ["ĠS", "122"],
        ),  # three digits, and a piece that is a token is taken whole: no merge makes it
        ("gpt-2", ["ĠS", "12", "2"]),
    ],
)
def test_gguf_pre_tokenizer_decides_about_digits(pre: str, tokens: list[str], tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre=pre)
    tokenizer = Tokenizer.from_str(load_model(tmp_path / "tiny.gguf").tokenizer_json)
    assert tokenizer.encode(" S122").tokens == tokens
    text = "<s>Grüße,\n\n  safe <tool> 10"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    assert added == {"<s>": True, "</s>": True, "<tool>": False}


def test_gguf_rope_factors_are_not_lost(tmp_path: Path) -> None:
    factors = np.array([1.0, 1.0, 4.0, 8.0], np.float32)
    model = write_gguf(tmp_path / "tiny.gguf", factors=factors)
    model.model.rotary_emb.inv_freq /= torch.tensor(factors)
    ids = list(range(40, 80))
    torch.testing.assert_close(logits(load_model(tmp_path / "tiny.gguf").model, ids), logits(model, ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "jais"}, "tokenizer.ggml.pre is 'jais'.*Hugging Face folder"),
        ({"pre": "default"}, "tokenizer.ggml.pre is 'default'"),
        ({"pre": None}, "tokenizer.ggml.pre is None"),
        ({"kind": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"scaling": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
    ],
)
def test_gguf_that_would_be_read_wrongly_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(ExportError, match=message):
        load_model(tmp_path / "tiny.gguf")


def write_adapter(folder: Path, model: LlamaForCausalLM) -> torch.Tensor:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, lora).eval()
    expected = logits(adapted, [1, 2, 3])
    adapted.save_pretrained(folder)
    return expected


def test_adapter_is_merged(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "base")
    plain = logits(model, [1, 2, 3])
    expected = write_adapter(tmp_path / "adapter", model)
    loaded = load_model(tmp_path / "base", adapters=[tmp_path / "adapter"])
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(logits(loaded.model, [1, 2, 3]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("other", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_adapter_of_another_model_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    write_folder(tmp_path / "base")
    write_adapter(tmp_path / "adapter", random_model(**other))
    with pytest.raises(ExportError, match=r"Adapter .* does not fit"):
        load_model(tmp_path / "base", adapters=[tmp_path / "adapter"])


def test_folder_without_adapter_config_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "base")
    with pytest.raises(ExportError, match=r"no adapter_config\.json"):
        load_model(tmp_path / "base", adapters=[tmp_path])


def test_folder_of_gguf_files_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no config\.json.*--gguf-file a\.gguf"):
        load_model(tmp_path)


def test_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"model\.bin is a file but not \.gguf"):
        load_model(tmp_path / "model.bin")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no gguf, but long enough to hold a header"])
def test_broken_gguf_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ExportError, match="not a readable GGUF file") as caught:
        load_model(tmp_path / "a.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_missing_path_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        load_model(name)


def test_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no file b\.gguf"):
        load_model(tmp_path, gguf_file="b.gguf")


def test_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="configuration of nobody/no-model from the Hugging Face hub") as caught:
        load_model("nobody/no-model")
    assert "\n" not in str(caught.value)


def test_unsupported_family_is_refused_before_its_weights(tmp_path: Path) -> None:
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"'gpt2'.*supported are gemma2"):
        load_model(tmp_path)


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="tokenizer"):
        load_model(tmp_path)


def test_broken_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ExportError, match="Cannot load configuration"):
        load_model(tmp_path)


def test_template_that_rejects_the_messages_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path)
    file = tmp_path / "chat_template.jinja"
    assert file.is_file() or "chat_template" in json.loads((tmp_path / "tokenizer_config.json").read_text())
    file.write_text("{{ raise_exception('only user turns') }}")
    with pytest.raises(ExportError, match="only user turns"):
        load_model(tmp_path).render_chat(MESSAGES)
