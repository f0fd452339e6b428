"""The forms of a guard of random weights (benchmarks/shapes.py) that peers read; each is made once and kept.

All are made of one checkpoint in bf16: tokmarg's bundles by its exporter (without calibration texts, which random
weights have no use for), GGUF files by llama.cpp from a file in fp16, OpenVINO's by optimum-intel, onnxruntime-genai's
by its builder.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peer_weights import built_by_genai, called, kept, neighbours, quantized_gguf
from shapes import SHAPES, Shape, checkpoint

#: Run by the environment that has OpenVINO: checkpoint, folder, bits.
OPENVINO = """
import sys
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
bits = int(sys.argv[3])
sizes = {"bits": 4, "sym": True, "group_size": int(sys.argv[4]), "ratio": 1.0} if bits == 4 else {"bits": 8}
config = OVWeightQuantizationConfig(**sizes)
OVModelForCausalLM.from_pretrained(sys.argv[1], export=True, quantization_config=config).save_pretrained(sys.argv[2])
"""


def make_form(name: str, shape: str, layers: int | None, work: Path, pythons: Mapping[str, str | None]) -> Path:
    """The file or folder of a form, made where it is not there yet."""
    work = work / (shape if layers is None else f"{shape}-{layers}-layers")
    work.mkdir(parents=True, exist_ok=True)
    source = kept(work / "checkpoint", functools.partial(checkpoint, SHAPES[shape], layers))
    path = work / name
    if name == "checkpoint":
        return source
    if name in ("int8", "int4"):
        return kept(path, lambda out: _bundle(source, SHAPES[shape], name, out))
    if name == "f16.gguf":
        return kept(path, lambda out: _gguf(source, out))
    if name.endswith(".gguf"):
        full = make_form("f16.gguf", shape, layers, work.parent, pythons)
        return kept(path, lambda out: quantized_gguf(pythons["llama"], full, out, name.removesuffix(".gguf")))
    if name.startswith("openvino-int"):
        # Groups of 128 are the default; a row of SmolLM2's 576 columns holds none of them evenly.
        group = 128 if SHAPES[shape].config["hidden_size"] % 128 == 0 else 64
        bits = name.removeprefix("openvino-int")
        return kept(path, lambda out: called(pythons["openvino"], "-c", OPENVINO, source, out, bits, str(group)))
    if name == "genai-int4":
        return kept(path, lambda out: built_by_genai(pythons["genai"], source, out, "int4", "int4_accuracy_level=4"))
    raise ValueError(f"no form {name!r}")


def _bundle(source: Path, shape: Shape, precision: Any, out: Path) -> None:
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    loaded = load_model(source)
    resolved = resolve_spec(*choose_spec(shape.spec, loaded.model_id), loaded)
    build_bundle(loaded, resolved, out, precision=precision, verify=False)


def _gguf(source: Path, out: Path) -> None:
    """The checkpoint for llama.cpp: matrices in fp16, the rest in fp32."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads, layers = (
        config[f"num_{part}"] for part in ("attention_heads", "key_value_heads", "hidden_layers")
    )
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, json.loads((source / "tokenizer.json").read_text(encoding="utf-8")), config)
    if (scaling := config.get("rope_scaling")) is not None:
        writer.add_tensor("rope_freqs.weight", _rope_factors(scaling, config["rope_theta"], head_dim))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, weight in load_file(source / "model.safetensors").items():
        array = weight.to(torch.float32 if weight.ndim == 1 else torch.float16).numpy()
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:
                array = neighbours(array, count)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, document: dict[str, Any], config: dict[str, Any]) -> None:
    """Its tokens and merges. Nobody encodes text with it: peers are given token ids."""
    import gguf

    added = {each["content"]: each["id"] for each in document["added_tokens"]}
    by_id = {i: token for token, i in (document["model"]["vocab"] | added).items()}
    special = set(added.values())
    size = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if size == 128_256 else "smollm")
    writer.add_token_list([by_id.get(i, f"[unused{i}]") for i in range(size)])
    types = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED)
    writer.add_token_types([types[1] if i in special else types[0] if i in by_id else types[2] for i in range(size)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _rope_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> Any:
    """By how much each frequency is divided [head_dim / 2], as transformers computes them for Llama 3."""
    import numpy as np

    waves = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
