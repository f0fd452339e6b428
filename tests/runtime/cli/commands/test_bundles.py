"""``tokmarg bundles``, ``inspect`` and ``verify``."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import word_guard
from tests.support.command_line import Run


@pytest.fixture
def copy(word_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be broken."""
    return shutil.copytree(word_bundle, tmp_path / "copy")


@pytest.fixture
def installed(word_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bundle as an installed package, under the name `words`."""
    shutil.copytree(word_bundle, tmp_path / "words_guard")
    metadata = tmp_path / "words_guard-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: words-guard\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tokmarg.bundles]\nwords = words_guard\n")
    monkeypatch.syspath_prepend(tmp_path)
    # Whatever else this environment has installed stays out of the test.
    points = importlib.metadata.entry_points
    monkeypatch.setattr(
        "tokmarg.bundle.installed.entry_points", lambda group: [p for p in points(group=group) if p.name == "words"]
    )
    return tmp_path / "words_guard"


def test_bundles_lists_what_is_installed(tokmarg: Run, installed: Path, word_bundle: Path) -> None:
    result = tokmarg("bundles")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [
        ["*", "$TOKMARG_BUNDLE", "tests/words", str(word_bundle)],
        ["words", "tests/words", str(installed)],
    ]


def test_bundles_marks_the_default(tokmarg: Run, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKMARG_BUNDLE", "words")
    result = tokmarg("bundles")
    assert [line.split() for line in result.stdout.splitlines()] == [["*", "words", "tests/words", str(installed)]]


def test_bundles_says_how_to_get_one_where_there_is_none(tokmarg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKMARG_BUNDLE")
    monkeypatch.setattr("tokmarg.bundle.installed.entry_points", lambda group: [])
    result = tokmarg("bundles")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "tokmarg-export" in result.stderr


def test_bundles_lists_a_broken_one(tokmarg: Run, installed: Path) -> None:
    (installed / "manifest.json").write_text("{")
    result = tokmarg("bundles")
    assert result.exit_code == 0
    assert "broken: " in result.stdout


def test_score_takes_a_bundle_by_name(tokmarg: Run, installed: Path) -> None:
    assert tokmarg("score", "gun", "--bundle", "words").exit_code == 0


def test_inspect(tokmarg: Run, word_bundle: Path) -> None:
    result = tokmarg("inspect", word_bundle)
    assert result.exit_code == 0
    for part in ["tests/words", "MIT", "fp32", "160 tokens", "full vocabulary", "Weapons", "model.onnx"]:
        assert part in result.stdout
    assert "  C  Refusals  (assistant only)" in result.stdout.splitlines()


def test_inspect_json(tokmarg: Run, word_bundle: Path) -> None:
    summary = json.loads(tokmarg("inspect", word_bundle, "--json").stdout)
    assert summary["model"] == {"id": "tests/words", "revision": None, "licence": "MIT", "architecture": "Words"}
    assert summary["spec"]["labels"][2] == {"id": "C", "title": "Refusals", "roles": ["assistant"]}
    assert summary["graph"]["head"] == "full"
    assert summary["graph"]["head_tokens"] is None
    assert summary["size"] == sum(entry["size"] for entry in summary["files"].values())
    assert summary["parity"] == {"max_abs_logit_difference": 0.0}


def test_inspect_shows_a_verdict_head_by_its_size(tokmarg: Run, copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["graph"] |= {"head": "verdict", "head_token_ids": [1, 2, 3]}
    path.write_text(json.dumps(manifest))
    assert "3 verdict tokens" in tokmarg("inspect", copy).stdout
    assert json.loads(tokmarg("inspect", copy, "--json").stdout)["graph"]["head_tokens"] == 3


def test_inspect_shows_no_control_characters(tokmarg: Run, copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["id"] = manifest["spec"]["policy"]["labels"][0]["title"] = "\x1b[2Jü"
    manifest["parity"] = {"\x1b[2J": "\x1b[2J"}
    path.write_text(json.dumps(manifest))
    result = tokmarg("inspect", copy)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert r"\x1b[2Jü" in result.stdout


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_missing_bundle(tokmarg: Run, tmp_path: Path, command: str) -> None:
    result = tokmarg(command, tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert tokmarg(command).exit_code == 2


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_broken_manifest_is_named(tokmarg: Run, copy: Path, command: str) -> None:
    (copy / "manifest.json").write_text('{"schema_version": 1}')
    result = tokmarg(command, copy)
    assert result.exit_code == 1
    assert str(copy / "manifest.json") in result.stderr


def test_verify(tokmarg: Run, word_bundle: Path) -> None:
    result = tokmarg("verify", word_bundle)
    assert result.exit_code == 0
    files = ["manifest.json", "model.onnx", "tokenizer.json", "prefix.safetensors"]
    assert result.stdout.splitlines() == [f"ok  {name}" for name in files]
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "prefix.safetensors"])
def test_verify_names_the_file_that_differs(tokmarg: Run, copy: Path, name: str) -> None:
    path = copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = tokmarg("verify", copy)
    assert result.exit_code == 1
    assert f"ok  {name}" not in result.stdout
    assert result.stderr.startswith(f"Error: {path}: sha256")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
def test_verify_names_the_file_that_is_missing_or_short(
    tokmarg: Run, copy: Path, damage: Callable[[Path], object]
) -> None:
    path = copy / "prefix.safetensors"
    damage(path)
    result = tokmarg("verify", copy)
    assert result.exit_code == 1
    assert str(path) in result.stderr


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "prefix.safetensors"])
def test_verify_loads_what_the_checksums_cannot_judge(tokmarg: Run, copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{}")
    word_guard.write_manifest(copy)
    result = tokmarg("verify", copy)
    assert result.exit_code == 1
    assert f"ok  {name}" in result.stdout
    assert str(copy / name) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_exported_bundle(tokmarg: Run, tiny_bundle: Path) -> None:
    assert tokmarg("verify", tiny_bundle).exit_code == 0
    assert "S14" in tokmarg("inspect", tiny_bundle).stdout
    result = tokmarg("score", "--bundle", tiny_bundle, "How do I pick a lock?", "--max-nodes", 2)
    assert result.exit_code == 0
    assert next(iter(json.loads(result.stdout)["labels"])) == "S1"


def test_verify_compares_the_graphs_shapes_with_the_manifest(tokmarg: Run, copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["graph"]["head_dim"] += 1
    path.write_text(json.dumps(manifest))
    result = tokmarg("verify", copy)
    assert result.exit_code == 1
    assert "model.onnx" in result.stderr
