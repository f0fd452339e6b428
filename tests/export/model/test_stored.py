"""Models whose weights stay in their files: the same bundles, and one layer in memory at a time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import DynamicCache

from tests.support.graphs import FUSED, PROMPT, tiny
from tests.support.model_files import write_folder, write_gguf
from tokmarg_export.errors import ExportError
from tokmarg_export.graph import tensor_spool
from tokmarg_export.graph.export import export_graph
from tokmarg_export.model import huggingface
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.model.layer_by_layer import LayerByLayer, keys_and_values, last_logits
from tokmarg_export.model.stored_parameters import StoredParameter, in_memory, is_stored, read_all, store
from tokmarg_export.transformers_versions import cache_argument

PROMPTS = [PROMPT, PROMPT[:4], [*PROMPT, *PROMPT]]


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is a large one."""
    monkeypatch.setattr(huggingface, "_IN_MEMORY", 0)
    monkeypatch.setattr(tensor_spool, "_IN_MEMORY", 1024)


def put_away(model: Any) -> Any:
    """The model with its weights stored: in memory, but out of its sight."""
    for name, value in list(model.named_parameters()):
        store(model, name, value.detach().clone)
    return model


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("model_type", FUSED)
@torch.no_grad()
def test_layer_by_layer_has_the_bits_of_a_plain_forward(model_type: str) -> None:
    plain, stored = tiny(model_type), put_away(tiny(model_type))
    for ids, found in zip(PROMPTS, last_logits(stored, PROMPTS), strict=True):
        cache = DynamicCache()
        output = plain(torch.tensor([ids]), use_cache=True, logits_to_keep=1, **{cache_argument(plain): cache})
        assert torch.equal(found, output.logits[0, -1])
        for layer, (key, value) in zip(cache.layers, keys_and_values(stored, ids), strict=True):
            torch.testing.assert_close(key, layer.keys)
            torch.testing.assert_close(value, layer.values)
    assert all(parameter.is_meta for parameter in stored.parameters())


@pytest.mark.parametrize("model_type", FUSED)
@pytest.mark.parametrize("precision", ["fp32", "int4", "int8"])
def test_the_same_graph(
    model_type: str, precision: Any, tmp_path: Path, in_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [(PROMPT * 30, 4), (PROMPT[::-1] * 9, 0)] if precision == "int8" else None
    changes = {"intermediate_size": 128}
    export_graph(
        put_away(tiny(model_type, **changes)),
        tmp_path / "stored",
        head_token_ids=None,
        precision=precision,
        prompts=prompts,
        verdict_token_ids=[3, 4],
    )
    monkeypatch.undo()
    export_graph(
        tiny(model_type, **changes),
        tmp_path / "plain",
        head_token_ids=None,
        precision=precision,
        prompts=prompts,
        verdict_token_ids=[3, 4],
    )
    assert digests(tmp_path / "stored") == digests(tmp_path / "plain")


def test_modules_share_a_parameter_in_memory_and_out_of_it() -> None:
    model = put_away(tiny("qwen3"))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding.weight, StoredParameter)
    assert embedding.weight is head.weight
    with in_memory(embedding, head):
        assert embedding.weight is head.weight
        assert torch.equal(embedding.weight, tiny("qwen3").get_input_embeddings().weight)
    assert embedding.weight is head.weight
    assert is_stored(model)
    read_all(model)
    assert not is_stored(model)
    assert embedding.weight is head.weight


def test_a_layer_is_let_go_of_when_it_fails() -> None:
    model = put_away(tiny("llama"))
    run = LayerByLayer(model, [PROMPT])
    run.hidden[0] = torch.zeros(1, 1, 1)
    with pytest.raises(RuntimeError):
        run.run(0)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["folder", "shards", "gguf"])
def test_weights_are_read_from_files(kind: str, tmp_path: Path, in_files: None) -> None:
    if kind == "gguf":
        expected = write_gguf(tmp_path / "a.gguf")
        loaded = load_model(tmp_path / "a.gguf")
    else:
        expected = write_folder(tmp_path)
        if kind == "shards":
            (tmp_path / "model.safetensors").unlink()
            expected.save_pretrained(tmp_path, max_shard_size="20KB")
        loaded = load_model(tmp_path)
    assert is_stored(loaded.model)
    assert not loaded.model.training
    (found,) = last_logits(loaded.model, [[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(found, expected(torch.tensor([[1, 2, 3]])).logits[0, -1])


def test_weights_of_the_hub_stay_in_its_cache(tmp_path: Path, in_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, repository = "0" * 40, tmp_path / "models--org--tiny"
    expected = write_folder(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for cache in ("transformers.utils.hub.TRANSFORMERS_CACHE", "huggingface_hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(cache, str(tmp_path), raising=False)  # transformers 5 has the second alone
    loaded = load_model("org/tiny")
    assert is_stored(loaded.model)
    assert (loaded.model_id, loaded.revision, loaded.licence) == ("org/tiny", commit, "apache-2.0")
    (found,) = last_logits(loaded.model, [[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(found, expected(torch.tensor([[1, 2, 3]])).logits[0, -1])


def test_half_precision_in_the_files(tmp_path: Path, in_files: None) -> None:
    model = write_folder(tmp_path).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path).model
    with in_memory(loaded):
        assert loaded.get_input_embeddings().weight.dtype == torch.float32
        assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight.float())


def test_missing_weights_are_named(tmp_path: Path, in_files: None) -> None:
    write_folder(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(ExportError, match=r"lack model\.layers\.2\.input_layernorm\.weight and 8 more"):
        load_model(tmp_path)


@pytest.mark.slow
def test_the_same_bundle(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In int8, rounded for texts: files, parity and branch priors; the prefix is computed by PyTorch."""
    from tests.support.int8_guard import TEXTS
    from tokmarg.prompt.messages import messages_of
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    for name in ("plain", "stored"):
        loaded = load_model(tiny_model)
        assert is_stored(loaded.model) == (name == "stored")
        resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
        texts = [messages_of(text) for text in TEXTS]
        build_bundle(loaded, resolved, tmp_path / name, precision="int8", texts=texts)
        monkeypatch.setattr(huggingface, "_IN_MEMORY", 0)
    plain, stored = digests(tmp_path / "plain"), digests(tmp_path / "stored")
    assert plain.keys() == stored.keys()
    assert {name for name in plain if plain[name] != stored[name]} <= {"prefix.safetensors", "manifest.json"}
    theirs = load_file(tmp_path / "plain" / "prefix.safetensors")
    for name, values in load_file(tmp_path / "stored" / "prefix.safetensors").items():
        np.testing.assert_allclose(values.astype(float), theirs[name].astype(float), rtol=2e-3, atol=2e-3)
    parity = [json.loads((tmp_path / name / "manifest.json").read_text())["parity"] for name in ("plain", "stored")]
    assert parity[1]["max_probability_difference"] == pytest.approx(parity[0]["max_probability_difference"], abs=0.05)
