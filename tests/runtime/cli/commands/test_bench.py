"""``tokmarg bench``: what it says, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run

SHORT = ("--seconds", 0.01, "--threads", 1)


@pytest.fixture(scope="module")
def found(word_bundle: Path) -> Any:
    """The figures of the word guard, by the command in a process of its own, as users run it."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "tokmarg", "bench", "--bundle", str(word_bundle), "--json", *map(str, SHORT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_json_has_every_figure(found: dict[str, Any], word_bundle: Path) -> None:
    assert found["schema_version"] == 1
    assert found["bundle"] == {
        "path": str(word_bundle),
        "model": "tests/words",
        "precision": "fp32",
        "labels": 3,
        "bytes": sum(path.stat().st_size for path in word_bundle.iterdir() if path.name != "manifest.json"),
    }
    assert (found["device"], found["gpu"], found["threads"]) == ("cpu", None, 1)
    assert found["memory"]["gpu_bytes"] is None
    for latency in (found["all_labels"], found["unsafe"]):
        assert 0 < latency["p50_ms"] <= latency["p99_ms"]
        assert latency["runs"] >= 8
        assert latency["passes"] >= 1  # of all labels the first pass may have all nodes
        assert latency["tokens"] >= 30  # of a text alone
    assert found["packed"]["messages"] % 32 == 0
    assert found["packed"]["tokens_per_second"] > found["packed"]["messages_per_second"] > 0
    assert found["cold_start"]["runs"] == 3
    assert 0 < found["memory"]["resident_bytes"] <= found["memory"]["peak_bytes"]
    assert found["matrix"]["operator"] == "MatMul"


def test_p_unsafe_alone_needs_the_decision_only(found: dict[str, Any]) -> None:
    assert found["unsafe"]["max_nodes"] == 1


def test_table(tokmarg: Run) -> None:
    result = tokmarg("bench", *SHORT)
    assert result.exit_code == 0
    names = [line[:24].strip() for line in result.stdout.splitlines()]
    assert names == [
        "machine", "run on", "bundle", "", "one message, all labels", "one message, P(unsafe)", "packed", "cold start",
        "memory", "matrix peak", "packed scoring reaches",
    ]  # fmt: skip
    assert "tests/words, fp32, 3 labels" in result.stdout
    # A toy bundle's memory, in a large process, is tens of thousands of times its size: a longer line than a guard's.
    assert all(len(line) < 110 for line in result.stdout.splitlines()[2:])


def test_a_missing_bundle_is_one_line(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("bench", "--bundle", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--threads", "0"], ["TEXT"]])
def test_wrong_usage(tokmarg: Run, arguments: list[str]) -> None:
    assert tokmarg("bench", *arguments).exit_code == 2
