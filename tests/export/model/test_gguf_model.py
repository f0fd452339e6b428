"""GGUF files of every architecture give the model that was written; split files and quantized tensors are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize

from tests.support.gguf_files import SPM, write_gguf_of
from tests.support.graphs import tiny
from tests.support.llama_cpp import LlamaCpp
from tests.support.model_files import logits
from tokmarg_export.errors import ExportError
from tokmarg_export.model import gguf_file
from tokmarg_export.model.gguf_file import GgufFile
from tokmarg_export.model.huggingface import load_model

#: `general.architecture` -> transformers' model type.
ARCHITECTURES = {
    "llama": "llama",
    "granite": "granite",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
IDS = [1, *range(260, 300), 5, 9, 31, 270, 270]


def model_of(architecture: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {"vocab_size": len(SPM) + 11, "pad_token_id": None, "initializer_range": 0.1}
    if architecture == "llama":
        settings["rope_scaling"] = None  # a tensor in such files, which has a test of its own
    elif architecture == "qwen2":
        settings["use_sliding_window"] = False  # of which such files know nothing
    elif architecture.startswith("gemma"):
        # llama.cpp has Gemma's pattern of local layers, and the scale of its attention scores follows from its heads
        layers = {"gemma2": 4, "gemma3": 8}[architecture]
        kinds = {"gemma2": 2, "gemma3": 6}[architecture]
        types = ["full_attention" if (i + 1) % kinds == 0 else "sliding_attention" for i in range(layers)]
        settings |= {"num_hidden_layers": layers, "layer_types": types, "sliding_window": 8, "head_dim": 32}
        settings |= {"query_pre_attn_scalar": 32, "hidden_activation": "gelu_pytorch_tanh"}
    return tiny(ARCHITECTURES[architecture], **settings | changes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, tmp_path: Path) -> None:
    model = model_of(architecture)
    write_gguf_of(model, tmp_path / "a.gguf", architecture)
    loaded = load_model(tmp_path / "a.gguf")
    assert type(loaded.model) is type(model)
    torch.testing.assert_close(logits(loaded.model, IDS), logits(model, IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_says_the_same(architecture: str, tmp_path: Path) -> None:
    """The tokens that llama.cpp finds likeliest: its own reading of metadata and tensors."""
    write_gguf_of(model_of(architecture), tmp_path / "a.gguf", architecture)
    ours = torch.log_softmax(logits(load_model(tmp_path / "a.gguf").model, IDS)[0, -1], -1)
    for token, theirs in LlamaCpp(tmp_path / "a.gguf").log_probabilities(IDS, 20).items():
        assert float(ours[token]) == pytest.approx(theirs, abs=0.02), token  # its keys and values are float16


def test_linear_scaling_is_read(tmp_path: Path) -> None:
    model = model_of("llama", rope_scaling={"rope_type": "linear", "factor": 4.0})
    write_gguf_of(model, tmp_path / "a.gguf", "llama")
    plain = load_model(tmp_path / "a.gguf").model
    assert not torch.allclose(logits(plain, IDS), logits(model, IDS), atol=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
        known = GgufFile.field
        patch.setattr(GgufFile, "field", lambda self, name: scaling.get(name, known(self, name)))
        loaded = load_model(tmp_path / "a.gguf").model
    torch.testing.assert_close(logits(loaded, IDS), logits(model, IDS), rtol=1e-5, atol=1e-5)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    write_gguf_of(model_of("llama"), tmp_path / "a.gguf", "llama", split_max_tensors=8)
    return sorted(tmp_path.glob("*.gguf"))


def test_split_file(series: list[Path]) -> None:
    """Whichever file of the series is named."""
    assert [path.name for path in series] == [f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    expected = logits(model_of("llama"), IDS)
    for path in (series[0], series[2]):
        torch.testing.assert_close(logits(load_model(path).model, IDS), expected, rtol=1e-5, atol=1e-5)


def test_split_file_without_a_part(series: list[Path]) -> None:
    series[1].unlink()
    with pytest.raises(ExportError, match=r"a-00002-of-00003\.gguf is missing: a-00001-of-00003\.gguf is one of 3"):
        load_model(series[0])


def test_parts_in_each_others_place(series: list[Path]) -> None:
    series[1].rename(series[1].with_name("b"))
    series[2].rename(series[1])
    series[1].with_name("b").rename(series[2])
    with pytest.raises(ExportError, match=r"split\.no and split\.count are 2 and 3, unlike its name"):
        load_model(series[0])


TYPES = ["Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ4_NL", "BF16"]


@pytest.mark.parametrize("name", [*TYPES, "F16"])
def test_quantized_tensor_is_read_in_parts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.random.default_rng(0).integers(0, 60, (7, 512 // block * size), np.uint8)  # scales are finite numbers
    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "llama")
    writer.add_tensor("w", rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr(gguf_file, "_ROWS_AT_ONCE", 1024)
    found = GgufFile(tmp_path / "a.gguf").read("w").numpy()
    assert found.shape == (7, 512)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, dequantize(rows, kind))


@pytest.mark.parametrize("architecture", ["phi3", "olmo2"])
def test_other_architectures_are_refused(architecture: str, tmp_path: Path) -> None:
    write_gguf_of(model_of("llama"), tmp_path / "a.gguf", architecture)
    with pytest.raises(ExportError, match=rf"general\.architecture is '{architecture}'; readable are llama, granite"):
        load_model(tmp_path / "a.gguf")
