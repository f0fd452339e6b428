"""The conformance sets: they are what tokmarg gives for their bundles, and their bundles what the script makes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tokmarg.bundle.manifest import SCHEMA_VERSION

FOLDER = Path(__file__).parents[2] / "examples" / "conformance"
SETS = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "contents")
#: Other processors round int8 otherwise.
LIMITS = {"fp32": 1e-5, "int8": 2e-3}


def run(script: str, *arguments: object) -> None:
    """Runs one of the scripts as its user does, wherever the project's code is."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def read(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="ascii")
    found: dict[str, Any] = json.loads(text)
    return found


def numbers(case: dict[str, Any]) -> list[float]:
    """Everything of a case that a model computes, in a fixed order."""
    nodes = [node for prompt in case.get("prompts", []) for node in prompt["nodes"]]
    found = [math.exp(value) for node in nodes for value in node["log_probabilities"].values()]
    found += [prompt["coverage"] or 0.0 for prompt in case.get("prompts", [])]
    return [*found, *case.get("unsafe", []), *(each for bounds in case.get("labels", {}).values() for each in bounds)]


def discrete(case: dict[str, Any]) -> object:
    """Everything else: contents, errors, token ids, the nodes' paths and tokens."""
    prompts = [
        (p["role"], p["label"], p["token_ids"], [(n["path"], list(n["log_probabilities"])) for n in p["nodes"]])
        for p in case.get("prompts", [])
    ]
    return case["id"], case["content"], case.get("error"), prompts, list(case.get("labels", {}))


def assert_alike(found: dict[str, Any], committed: dict[str, Any]) -> None:
    limit = LIMITS[committed["precision"]]
    assert [discrete(case) for case in found["cases"]] == [discrete(case) for case in committed["cases"]]
    for ours, theirs in zip(found["cases"], committed["cases"], strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), abs=limit, rel=0), ours["id"]


def test_there_are_four_with_all_contents() -> None:
    assert SETS == ["any-order-int8", "policy-order", "prompt-per-label", "spelt-codes"]
    contents = read_contents()
    assert len(contents) >= 60
    assert len({content["id"] for content in contents}) == len(contents)
    for name in SETS:
        made = read(FOLDER / f"{name}.json")
        assert made["bundle_schema_version"] == SCHEMA_VERSION
        assert [case["content"] for case in made["cases"]] == [content["content"] for content in contents]


def read_contents() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "contents.json").read_text(encoding="ascii"))
    return found


@pytest.mark.parametrize("name", SETS)
def test_the_runtime_agrees(name: str, tmp_path: Path) -> None:
    run("make_set.py", FOLDER / name, "-o", tmp_path / "set.json")
    found, committed = read(tmp_path / "set.json"), read(FOLDER / f"{name}.json")
    assert found["manifest_sha256"] == committed["manifest_sha256"]
    assert_alike(found, committed)


def test_nodes_give_the_probabilities() -> None:
    """A sum over verdicts by hand: mass of the paths on which ``unsafe``, and the first label, is the token taken."""
    for case in read(FOLDER / "policy-order.json")["cases"]:
        if "error" in case:
            continue
        (prompt,) = case["prompts"]
        shares = {tuple(node["path"]): node["log_probabilities"] for node in prompt["nodes"]}
        root = shares[()]
        (unsafe,) = {node[0] for node in shares if node}
        assert math.fsum(map(math.exp, root.values())) == pytest.approx(1)
        assert math.exp(root[str(unsafe)]) == pytest.approx(case["unsafe"][0], abs=1e-7)
        first = [math.exp(value) for value in shares[unsafe,].values()]
        assert math.fsum(first) == pytest.approx(1)
        # V comes first or not at all, so that it has one path.
        assert any(math.exp(root[str(unsafe)]) * p == pytest.approx(case["labels"]["V"][0], abs=1e-7) for p in first)


@pytest.mark.slow
def test_the_bundles_can_be_made_anew(tmp_path: Path) -> None:
    run("make_bundles.py", tmp_path)
    for name in SETS:
        made, committed = (json.loads((folder / name / "manifest.json").read_text()) for folder in (tmp_path, FOLDER))
        for field in ("schema_version", "model", "spec", "graph", "precision", "graph_form"):
            assert made[field] == committed[field], (name, field)
        assert made["files"]["tokenizer.json"] == committed["files"]["tokenizer.json"]
        assert_alike(read(tmp_path / f"{name}.json"), read(FOLDER / f"{name}.json"))
