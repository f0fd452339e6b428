"""Memory of the exporter: a large checkpoint, of which one layer is in memory at a time, under a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, PreTrainedTokenizerFast

from tests.conftest import tokenizer_file

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")]

#: The command under a limit of 6 GB of addresses; it says how much memory it had at most, in bytes. VmHWM, since
#: ru_maxrss begins with the memory of the process that started it.
EXPORT = """
import atexit, re, resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9, 6 * 10**9))
status = Path("/proc/self/status")
atexit.register(lambda: print("peak", int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1]) * 1024))
from tokmarg_export.cli import main
main()
"""
_VOCAB, _HIDDEN, _MLP = 128_256, 2048, 8192


def write_checkpoint(folder: Path, layers: int) -> int:
    """Random weights of Llama-Guard-3-1B's shape but for the number of layers, a shard each, in bf16; how many."""
    config = LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=_HIDDEN,
        intermediate_size=_MLP,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=128_000,
        eos_token_id=128_009,
    )
    config.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file("llama3")), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    ).save_pretrained(folder)
    kv = _HIDDEN // 4
    attention = {"q_proj": (_HIDDEN, _HIDDEN), "k_proj": (kv, _HIDDEN), "v_proj": (kv, _HIDDEN)}
    attention["o_proj"] = (_HIDDEN, _HIDDEN)
    mlp = {"gate_proj": (_MLP, _HIDDEN), "up_proj": (_MLP, _HIDDEN), "down_proj": (_HIDDEN, _MLP)}
    shards: list[dict[str, tuple[int, ...]]] = [
        {"model.embed_tokens.weight": (_VOCAB, _HIDDEN), "model.norm.weight": (_HIDDEN,)}
    ]
    for layer in range(layers):
        parts = {f"self_attn.{name}": shape for name, shape in attention.items()}
        parts |= {f"mlp.{name}": shape for name, shape in mlp.items()}
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (_HIDDEN,))
        shards.append({f"model.layers.{layer}.{name}.weight": shape for name, shape in (parts | norms).items()})
    index: dict[str, str] = {}
    generator = torch.Generator().manual_seed(1)
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            tensor: torch.randn(shape, generator=generator, dtype=torch.bfloat16) * 0.02
            if len(shape) == 2
            else torch.ones(shape, dtype=torch.bfloat16)
            for tensor, shape in shapes.items()
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(torch.Size(shape).numel() for shapes in shards for shape in shapes.values())


def test_one_layer_at_a_time(tmp_path: Path) -> None:
    """In int8, comparison with PyTorch included: 3 GB and 1.5 times the embedding in bf16."""
    weights = write_checkpoint(tmp_path / "Llama-Guard-3-1B", layers=2)
    assert weights == 384_313_344
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "Llama-Guard-3-1B"), "-o", str(tmp_path / "b")]
    done = subprocess.run([*command, "--precision", "int8"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, (_, peak) = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1].split()
    assert said[-1].startswith("difference from PyTorch")
    assert int(peak) < 3 * 10**9 + 1.5 * 2 * _VOCAB * _HIDDEN
