"""No export deletes what is not a bundle, and no output that cannot be written is found out after the work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.exporter import run_export
from tests.support.model_files import write_folder, write_gguf
from tests.support.named_files import MANIFEST, bundle
from tokmarg_export.model import huggingface

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """refused(output, *more): the line with which an export by force ends; nothing is loaded, no file is changed."""
    write_folder(tmp_path / "model")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "texts.txt").write_text("hello\n")
    (tmp_path / "policy.toml").write_text("exclude = []\n")
    (tmp_path / "spec.toml").write_text("name = 'x'\n")

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(huggingface, "load_model", load)

    def contents() -> dict[str, Any]:
        return {
            str(path): path.read_bytes() if path.is_file() else os.readlink(path) if path.is_symlink() else None
            for path in sorted(tmp_path.rglob("*"))
        }

    def run(output: object, *more: object, model: str = "model") -> str:
        before = contents()
        names = {name: tmp_path / name for name in ("adapter", "texts.txt", "policy.toml", "spec.toml")}
        arguments: Sequence[object] = [names.get(str(each), each) for each in more]
        assert run_export(monkeypatch, tmp_path / model, "-o", output, "--force", *arguments) == 1
        assert contents() == before
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_the_model(refused: Refused, tmp_path: Path) -> None:
    model = tmp_path / "model"
    where = f"the model ({model}); choose another folder"
    assert refused(model) == f"Error: {model}: is {where}"
    assert refused(f"{model}/../model/.") == f"Error: {model}/../model: is {where}"
    assert refused(model / "a" / "b") == f"Error: {model / 'a' / 'b'}: lies in {where}"
    assert refused(tmp_path) == f"Error: {tmp_path}: contains {where}"


def test_a_model_that_is_reached_by_a_link(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("model")
    assert ": lies in the model (" in refused(tmp_path / "link" / "b")
    assert ": is the model (" in refused(tmp_path / "model", model="link")
    assert ": lies in the model (" in refused(tmp_path / "model" / "b", model="link")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "model").symlink_to(tmp_path / "model")
    assert ": contains the model (" in refused(tmp_path / "links", model="links/model")


def test_a_model_in_what_looks_like_a_bundle(refused: Refused, tmp_path: Path) -> None:
    """A manifest that lists the model's files makes no bundle of it."""
    write_gguf(tmp_path / "tiny.gguf")
    manifest = {"schema_version": 1, "files": {"model.onnx": {}, "tiny.gguf": {}}}
    folder = bundle(tmp_path / "b", manifest)
    (tmp_path / "tiny.gguf").rename(folder / "tiny.gguf")
    assert ": contains the model (" in refused(folder, model="b/tiny.gguf")
    assert ": is the model (" in refused(folder, "--gguf-file", "tiny.gguf", model="b")
    assert ": is no folder" in refused(tmp_path / "texts.txt", model="b/tiny.gguf")


@pytest.mark.parametrize(
    ("option", "name", "what"),
    [
        ("--adapter", "adapter", "an adapter"),
        ("--texts", "texts.txt", "the texts"),
        ("--policy", "policy.toml", "the policy"),
        ("--spec", "spec.toml", "the spec"),
    ],
)
def test_what_else_is_read(refused: Refused, tmp_path: Path, option: str, name: str, what: str) -> None:
    path = tmp_path / name
    assert refused(path, option, name).startswith(f"Error: {path}: is {what} ({path});")
    folder = bundle(tmp_path / "b", {"schema_version": 1, "files": {"model.onnx": {}, name: {}}})
    shutil.move(path, folder / name)
    path.symlink_to(folder / name)
    assert refused(folder, option, name).startswith(f"Error: {folder}: contains {what} ({path});")
    if option == "--adapter":
        assert ": lies in an adapter (" in refused(folder / name / "b", option, name)


def test_what_is_no_bundle_is_not_replaced(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    way_out = "; choose another folder, or empty this one"
    start = f"Error: {tmp_path / 'other'}: is not empty, and no bundle: "
    assert refused(tmp_path / "other") == f"{start}manifest.json is missing{way_out}"
    for manifest in ("", "[]", "{}", '{"schema_version": 1, "files": 5}', '{"schema_version": "", "files": {}}'):
        (tmp_path / "other" / "manifest.json").write_text(manifest)
        assert refused(tmp_path / "other") == f"{start}manifest.json is not a bundle's{way_out}"
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(MANIFEST))
    assert refused(tmp_path / "other") == f"{start}precious.txt is not a file of it{way_out}"
    (bundle(tmp_path / "b") / "notes").mkdir()
    assert "no bundle: notes is not a file of it" in refused(tmp_path / "b")
    (bundle(tmp_path / "c") / "model.onnx").unlink()
    (tmp_path / "c" / "model.onnx").symlink_to(tmp_path / "texts.txt")
    assert "no bundle: model.onnx is no plain file" in refused(tmp_path / "c")


def test_places_where_no_folder_can_be(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to").symlink_to(bundle(tmp_path / "b"))
    for name in ("dangling", "loop", "to"):
        assert refused(tmp_path / name) == f"Error: {tmp_path / name}: is a link; give the folder itself"
    below = tmp_path / "texts.txt" / "a" / "b"
    assert refused(below) == f"Error: {below}: Not a directory"
    assert refused(tmp_path / "dangling" / "b").endswith("No such file or directory")
    assert refused(tmp_path / ("x" * 300)).endswith("File name too long")
    assert refused(f"{tmp_path}/b/..").endswith("names no folder")
    if Path("/proc").is_mount():
        assert refused("/proc").endswith("is a mount point, which cannot be replaced; name a folder in it")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert refused(".") == "Error: .: is the current folder, which cannot be replaced; name a folder in it"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden here")
def test_no_permission(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0o500)
    assert refused(tmp_path / "closed" / "b").endswith("Permission denied")
    assert refused(tmp_path / "closed").endswith("Permission denied")
