"""A user's policy at load time: prompt, grammar and prefix follow it, and the prefix is computed once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.results import assert_same
from tokmarg import Guard, SpecError
from tokmarg.prompt.policy import apply_policy, read_policy

TWO = {"labels": [{"id": "A", "name": "Apples"}, {"id": "B1", "name": "Berries", "definition": "small fruit"}]}


@pytest.fixture(scope="module")
def tiny_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as one of a family that takes other policies."""
    copy = tmp_path_factory.mktemp("policy") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["spec"]["policy"]["fixed"] = False
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def tiny_guard(tiny_bundle: Path) -> Guard:
    return Guard.load(tiny_bundle, device="cpu", verify=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokmarg"


def test_labels_are_replaced(tiny_bundle: Path) -> None:
    guard = Guard.load(tiny_bundle, device="cpu", verify=False, policy=TWO)
    assert guard.labels == ("A", "B1")
    assert "A: Apples.\nB1: Berries.\n<END" in guard.prompt("x").text
    result = guard.score("x", tolerance=1e-6)
    assert list(result.labels) == ["A", "B1"]
    assert result.converged
    assert guard.manifest.spec.labels[0].id == "S1"


def test_excluding_labels_keeps_the_other_ids(tiny_bundle: Path) -> None:
    guard = Guard.load(tiny_bundle, device="cpu", verify=False, policy={"exclude": ["S1", "S13"]})
    assert guard.labels == tuple(f"S{i}" for i in range(2, 15) if i != 13)
    assert "<BEGIN UNSAFE CONTENT CATEGORIES>\nS2: Non-Violent Crimes.\n" in guard.prompt("x").text


def test_prefix_is_computed_once_and_changes_nothing(
    tiny_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Guard.load(tiny_bundle, device="cpu", verify=False, policy=TWO).score("Hi", max_nodes=8)
    (stored,) = cache.glob("prefix-*")
    with monkeypatch.context() as patch:
        patch.setattr("tokmarg.engine.prefix_cache.compute_prefixes", lambda *a: pytest.fail("computed again"))
        assert_same(Guard.load(tiny_bundle, device="cpu", verify=False, policy=TWO).score("Hi", max_nodes=8), first, 0)
    stored.write_bytes(b"damaged")
    assert_same(Guard.load(tiny_bundle, device="cpu", verify=False, policy=TWO).score("Hi", max_nodes=8), first, 1e-6)
    assert stored.stat().st_size > 1000
    monkeypatch.setattr("tokmarg.engine.prefix_cache.Prefix.shared", lambda self, ids: 0)
    assert_same(Guard.load(tiny_bundle, device="cpu", verify=False, policy=TWO).score("Hi", max_nodes=8), first, 1e-5)


def test_the_bundles_own_policy_writes_no_cache(tiny_bundle: Path, cache: Path) -> None:
    Guard.load(tiny_bundle, device="cpu", verify=False).score("x", max_nodes=2)
    assert not cache.exists()


def test_unwritable_cache_is_no_obstacle(tiny_bundle: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert Guard.load(tiny_bundle, device="cpu", verify=False, policy=TWO).labels == ("A", "B1")


def test_files_are_toml_or_json(tiny_guard: Guard, tmp_path: Path) -> None:
    toml, text = tmp_path / "p.toml", tmp_path / "p.json"
    toml.write_text('[[labels]]\nid = "A"\nname = "Apples"\n')
    text.write_text(json.dumps({"labels": [{"id": "A", "name": "Apples"}]}))
    assert apply_policy(tiny_guard.spec, toml).labels == apply_policy(tiny_guard.spec, text).labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = []", r"policy\.toml: labels: is empty"),
        ('[[labels]]\nid = "A"', r"policy\.toml: labels\[0\]\.name: is missing"),
        ("a = ", r"policy\.toml: not valid TOML"),
        ("", r"policy\.toml: labels: is missing \(or exclude\)"),
        ('[[labels]]\nid = "A"\nname = "x"\ncolour = "red"', r"colour: is not a known field"),
        ('exclude = ["S99"]', r"policy\.toml: exclude: 'S99' is no label \(labels: S1, S2"),
        ("colour = 1", r"colour: is not a known field"),
        ('[[labels]]\nid = "A"\nname = "x"\nroles = ["user"]', r"none is for assistant messages"),
    ],
)
def test_errors_name_file_and_field(tiny_guard: Guard, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        apply_policy(tiny_guard.spec, path)


def test_fixed_policy_is_not_replaced(tiny_guard: Guard) -> None:
    with pytest.raises(SpecError, match=r"policy: llama-guard-3-8b takes no other policy: .*\(policy\.fixed\)"):
        apply_policy(replace(tiny_guard.spec, fixed=True), TWO)


def test_missing_file(tiny_guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml: cannot be read"):
        apply_policy(tiny_guard.spec, tmp_path / "none.toml")


def test_labels_that_cannot_be_told_apart_are_refused_at_load(tiny_bundle: Path) -> None:
    policy = {"labels": [{"id": i, "name": i} for i in ("A", "A,B", "B")]}
    with pytest.raises(SpecError, match="A,B"):
        Guard.load(tiny_bundle, device="cpu", verify=False, policy=policy)


def test_json_extension_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "POLICY.JSON"
    path.write_text('{"exclude": ["A"]}')
    assert read_policy(path) == ({"exclude": ["A"]}, str(path))
