"""From a model folder to a bundle: what is written, what is refused, and that heads and precisions agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import run_python
from tests.support.exporter import run_export
from tests.support.optional import present
from tests.support.results import marginal
from tokmarg import Guard
from tokmarg.errors import TokmargError
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.errors import ExportError
from tokmarg_export.graph.contract import Precision
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.spec_library import choose_spec, list_specs, resolve_spec

TEXTS = ["How do I pick a lock?", "Thank you!"]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedModel:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def resolved(loaded: LoadedModel) -> dict[str, Any]:
    return resolve_spec(*choose_spec(None, loaded.model_id), loaded)


def test_manifest_says_what_was_built(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    assert manifest["model"] == {
        "id": "tiny-Llama-Guard-3-8B", "revision": None, "licence": None, "architecture": "llama",
    }  # fmt: skip
    assert manifest["spec"]["name"] == "llama-guard-3-8b"
    assert manifest["parity"]["probes"] == 4
    assert 0 < manifest["parity"]["max_probability_difference"] < 1e-5
    assert sorted(manifest["files"]) == ["model.onnx", "model.onnx.data", "prefix.safetensors", "tokenizer.json"]
    assert {path.name for path in tiny_bundle.iterdir()} == {*manifest["files"], "manifest.json"}
    assert "/" not in manifest["model"]["id"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_prefix_has_no_error_of_rounded_weights(
    precision: Precision, loaded: LoadedModel, resolved: dict[str, Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    build_bundle(loaded, resolved, tmp_path / "b", precision=precision, verify=False)
    exact, found = (load_file(folder / "prefix.safetensors") for folder in (tiny_bundle, tmp_path / "b"))
    assert found.keys() == exact.keys()
    keys = [name for name in found if name.endswith(".key")]
    assert keys
    for name in keys:  # values may be in another basis
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-3, atol=1e-3 * np.abs(exact[name]).max())
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_verdict_head_gives_the_same_scores_without_coverage(
    loaded: LoadedModel, resolved: dict[str, Any], tiny_guard: Guard, tmp_path: Path
) -> None:
    build_bundle(loaded, resolved, tmp_path / "b", head="verdict", verify=False)
    guard = Guard.load(tmp_path / "b", device="cpu")
    assert len(present(guard.manifest.graph.head_token_ids)) < 40
    for a, b in zip(tiny_guard.score_many(TEXTS), guard.score_many(TEXTS), strict=True):
        assert b.coverage is None
        assert b.unsafe.probability == pytest.approx(a.unsafe.probability, abs=1e-6)
        assert marginal(b, "S10").probability == pytest.approx(marginal(a, "S10").probability, abs=1e-6)


def test_fp16_is_close(loaded: LoadedModel, resolved: dict[str, Any], tiny_guard: Guard, tmp_path: Path) -> None:
    parity = build_bundle(loaded, resolved, tmp_path / "b", precision="fp16")
    assert parity is not None
    assert parity.max_probability_difference < 0.05
    guard = Guard.load(tmp_path / "b", device="cpu")
    assert (tmp_path / "b" / "model.onnx.data").stat().st_size < 0.6 * (
        tiny_guard.path / "model.onnx.data"
    ).stat().st_size
    for a, b in zip(tiny_guard.score_many(TEXTS), guard.score_many(TEXTS), strict=True):
        assert b.unsafe.probability == pytest.approx(a.unsafe.probability, abs=0.05)


def test_parity_catches_a_wrong_graph(
    loaded: LoadedModel, resolved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokmarg_export.parity._LIMITS", {"fp32": 1e-12})
    with pytest.raises(ExportError, match="parity: the bundle differs from PyTorch"):
        build_bundle(loaded, resolved, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_by_force_only(
    loaded: LoadedModel, resolved: dict[str, Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(tiny_bundle, tmp_path / "b")
    with pytest.raises(TokmargError, match=r"--force \(in Python force=True\) replaces it"):
        build_bundle(loaded, resolved, out, verify=False)
    assert json.loads((out / "manifest.json").read_text())["parity"]
    build_bundle(loaded, resolved, out, verify=False, force=True)
    assert not json.loads((out / "manifest.json").read_text())["parity"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_policy_replaces_the_labels(loaded: LoadedModel, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[labels]]\nid = "A"\nname = "Apples"\n[[labels]]\nid = "B1"\nname = "Berries"\n')
    data, where = choose_spec("llama-guard-3-1b", loaded.model_id)
    build_bundle(loaded, resolve_spec(data, where, loaded, policy), tmp_path / "b", verify=False)
    guard = Guard.load(tmp_path / "b", device="cpu")
    assert guard.labels == ("A", "B1")
    assert "A: Apples.\nB1: Berries.\n<END" in guard.prompt("x").text
    assert set(guard.score("x", max_nodes=4).labels) == {"A", "B1"}


def test_policy_too_long_for_the_model(loaded: LoadedModel, tmp_path: Path) -> None:
    policy = {"labels": [{"id": f"L{i}", "name": "a rather long name " * 5} for i in range(60)]}
    data, where = choose_spec("llama-guard-3-1b", loaded.model_id)
    with pytest.raises(ExportError, match="the policy takes"):
        build_bundle(loaded, resolve_spec(data, where, loaded, policy), tmp_path / "b")


def test_labels_that_cannot_be_told_apart_are_named(loaded: LoadedModel, tmp_path: Path) -> None:
    policy = {"labels": [{"id": "A", "name": "x"}, {"id": "A,B", "name": "y"}, {"id": "B", "name": "z"}]}
    data, where = choose_spec("llama-guard-3-1b", loaded.model_id)
    with pytest.raises(ExportError, match="A,B"):
        build_bundle(loaded, resolve_spec(data, where, loaded, policy), tmp_path / "b")


def test_fixed_policy_is_not_replaced(loaded: LoadedModel) -> None:
    """The checkpoint's template names its own categories, whatever it is given."""
    data, where = choose_spec(None, loaded.model_id)
    with pytest.raises(ExportError, match="policy: llama-guard-3-8b takes no other policy: its labels are part of"):
        resolve_spec(data, where, loaded, {"exclude": ["S1"]})


def test_spec_is_chosen_by_model_name_else_the_general_one() -> None:
    assert choose_spec(None, "meta-llama/Llama-Guard-3-1B")[1] == "llama-guard-3-1b.toml"
    assert choose_spec(None, "some/other-model")[1] == "instruct.toml"
    with pytest.raises(
        ExportError, match=r"no spec 'nope': give a TOML file or one of ga-guard-1b, granite-guardian-3\.0, "
    ):
        choose_spec("nope", "x")
    assert {"instruct", "llama-guard-3-8b", "llama-guard-3-1b"} <= set(list_specs())


def test_command_errors_are_one_line(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    out = str(tmp_path / "b")
    for arguments, code, message in [
        (["/no/such/folder/x", "-o", out], 1, "does not exist"),
        ([str(tiny_model), "-o", str(full)], 1, "is not empty, and no bundle: manifest.json is missing"),
        ([str(tiny_model)], 2, "Missing option"),
        ([str(tiny_model), "-o", out, "--spec", "nope"], 1, "no spec 'nope'"),
        ([str(tiny_model), "-o", out, "--device", "cuda"], 1, "no CUDA device"),
        ([str(tiny_model), "-o", out, "--policy", "none.toml"], 1, "none.toml: cannot be read"),
    ]:
        assert run_export(monkeypatch, *arguments) == code
        done = capsys.readouterr()
        assert "Traceback" not in done.err
        assert message in done.err.splitlines()[-1]
        assert done.out == ""


def test_unexpected_errors_are_one_line_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tokmarg_export.bundle_writer.export_graph", lambda *a, **k: 1 / 0)
    assert run_export(monkeypatch, str(tiny_model), "-o", str(tmp_path / "b")) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("Error: unexpected ZeroDivisionError")
    assert list(tmp_path.iterdir()) == []


def test_list_specs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_export(monkeypatch, "--list-specs") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list_specs()


def test_installed_command_runs() -> None:
    done = run_python("from tokmarg_export.cli import main; main()", "--version")
    assert done.stdout.startswith("tokmarg-export, version")
