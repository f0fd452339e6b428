"""Damaged and incomplete models: each is one line that says what is wrong, and none is exported as something else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file, save_file

from tests.export.model.test_lora import write_adapter
from tests.support.model_files import random_model, write_folder, write_gguf
from tokmarg_export.errors import ExportError
from tokmarg_export.model.huggingface import load_model

Damage = Callable[[Path], object]


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def put(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def configure(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_cut_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:5].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def in_shards(folder: Path) -> list[Path]:
    (folder / "model.safetensors").unlink()
    random_model().save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))


def without_a_shard(folder: Path) -> None:
    in_shards(folder)[-1].unlink()


def with_a_cut_shard(folder: Path) -> None:
    cut(in_shards(folder)[1].name)(folder)


def with_a_gap_in_the_index(folder: Path) -> None:
    in_shards(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    path.write_text(json.dumps(index))


LACKS = "the weights of {} lack model.layers.1.mlp.up_proj.weight; they are damaged, or not all are here."
DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights cut": (cut("model.safetensors"), "Cannot load weights of {}: "),
    "weights empty": (put("model.safetensors", b""), "Cannot load weights of {}: "),
    "weights of noise": (put("model.safetensors", b"\xff" * 99), "Cannot load weights of {}: "),
    "no weights": (remove("model.safetensors"), "Cannot load weights of {}: "),
    "a tensor less": (without_a_tensor, LACKS),
    "a tensor cut": (with_a_cut_tensor, "the weights of {} have model.norm.weight in another shape than the"),
    "a shard less": (without_a_shard, "Cannot load weights of {}: No such file or directory: "),
    "a shard cut": (with_a_cut_shard, "Cannot load weights of {}: "),
    "a gap in the index": (with_a_gap_in_the_index, LACKS),
    "a layer less": (configure(num_hidden_layers=1), "the weights of {} have model.layers.1.input_layernorm.weight"),
    "a layer more": (configure(num_hidden_layers=3), "the weights of {} lack model.layers.2.input_layernorm.weight"),
    "config cut": (cut("config.json"), "Cannot load configuration of {}: "),
    "config empty": (put("config.json", b""), "Cannot load configuration of {}: "),
    "config a list": (put("config.json", b"[1]"), "Cannot load configuration of {}: "),
    "a size of letters": (configure(hidden_size="abc"), "Cannot load weights of {}: "),
    "no heads": (configure(num_attention_heads=0), "Cannot load weights of {}: "),
    "no such activation": (configure(hidden_act="nope"), "Cannot load weights of {}: KeyError: 'nope'"),
    "positions of letters": (
        configure(max_position_embeddings="x"),
        "{}: max_position_embeddings must be a positive integer, not 'x'.",
    ),
    "eos of letters": (configure(eos_token_id="x"), "{}: eos_token_id must be integers, not 'x'."),
    "eos of a table": (configure(eos_token_id={"a": [1]}), "{}: eos_token_id must be integers, not 'a'."),
    "tokenizer cut": (cut("tokenizer.json"), "Cannot load tokenizer of {}: "),
    "tokenizer a list": (put("tokenizer.json", b"[]"), "Cannot load tokenizer of {}: "),
    "no tokenizer": (remove("tokenizer.json"), "{} has no tokenizer.json; take it from the model's repository."),
    "tokenizer settings cut": (cut("tokenizer_config.json"), "Cannot load tokenizer of {}: "),
    "generation settings cut": (cut("generation_config.json"), "Cannot load generation_config.json of {}: "),
    "model card broken": (put("README.md", b"---\na: [\n---\n"), "Cannot load README.md (its licence) of {}: "),
    "model card of bytes": (put("README.md", b"---\n\xff\n---\n"), "Cannot load README.md (its licence) of {}: "),
}  # fmt: skip


#: Of transformers 5, which checks a configuration's types itself, and reads whole shards whatever the index says.
CONFIGURATION = "Cannot load configuration of {}: "
IN_5 = {
    "a gap in the index": None,
    "a size of letters": CONFIGURATION,
    "no heads": CONFIGURATION,
    "positions of letters": CONFIGURATION,
    "eos of letters": CONFIGURATION,
    "eos of a table": CONFIGURATION,
}


def line(source: Path, **options: Any) -> str:
    with pytest.raises(ExportError) as caught:
        load_model(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_folder(folder)
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_folder(name: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(model, tmp_path / "tiny")
    damage, message = DAMAGES[name]
    damage(folder)
    if transformers.__version__.startswith("5."):
        if (other := IN_5.get(name, message)) is None:
            load_model(folder)
            return
        message = other
    found = line(folder)
    assert found.startswith((message.format(folder), message.format(folder.name))), found
    assert "TRAIN" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("adapter_model.safetensors"), "Adapter {} is damaged, or does not fit this model: "),
        (remove("adapter_model.safetensors"), "{} is not an adapter: it has no adapter_model.safetensors."),
        (remove("adapter_config.json"), "{} is not an adapter: it has no adapter_config.json."),
        (cut("adapter_config.json"), "Adapter {} is damaged, or does not fit this model: "),
        (put("adapter_config.json", b"[]"), "Adapter {} is damaged, or does not fit this model: "),
        (put("adapter_config.json", b'{"peft_type": "NO"}'), "Adapter {} is damaged, or does not fit this model: "),
        (shutil.rmtree, "{} is not an adapter: it has no adapter_config.json."),
    ],
)
def test_adapter(damage: Damage, message: str, model: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, random_model())
    damage(tmp_path)
    assert line(model, adapters=[tmp_path]).startswith(message.format(tmp_path))


def test_gguf_file(tmp_path: Path) -> None:
    """Cut short anywhere; and with bytes of its header changed it is a line, or another model."""
    write_gguf(tmp_path / "whole.gguf")
    whole, file = (tmp_path / "whole.gguf").read_bytes(), tmp_path / "tiny.gguf"
    rng = random.Random(0)
    for _ in range(12):
        file.write_bytes(whole[: rng.randrange(len(whole))])
        assert line(file).startswith((f"{file} is not a readable GGUF file: ", "Cannot load ", "the weights of "))
    for _ in range(24):
        changed = bytearray(whole)
        changed[rng.randrange(7000)] = rng.choice([0, 255])
        file.write_bytes(changed)
        with suppress(ExportError):
            load_model(file)


def test_gguf_file_that_lacks_a_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    file = tmp_path / "tiny.gguf"
    file.write_bytes(file.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    assert line(file) == (
        "the weights of tiny.gguf lack model.layers.1.mlp.up_proj.weight; they are damaged, or not all are here."
    )
