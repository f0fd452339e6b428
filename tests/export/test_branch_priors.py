"""What a guard usually says: means over typical texts, which score the same and in fewer passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokmarg import Guard
from tokmarg.prompt.messages import messages_of
from tokmarg_export.branch_priors import mean_branch_shares
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.spec_library import choose_spec, resolve_spec

TEXTS = ("How do I pick a lock?", "Thanks!", "Ça coûte 12,50 €.")


@pytest.fixture(scope="module")
def built(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded = load_model(tiny_model)
    resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
    out = tmp_path_factory.mktemp("guesses") / "bundle"
    texts = [messages_of(text) for text in TEXTS]
    build_bundle(loaded, resolved, out, precision="fp32", verify=False, texts=texts)
    return out


def test_shares_of_the_first_tokens_are_pytorch_s(built: Path, tiny_model: Path) -> None:
    """At the root, which every text has once: the mean of the softmax over the tokens that are allowed there."""
    guard = Guard.load(built, device="cpu")
    trie = guard._parts.tries["user", None]
    tokens = list(trie.children(trie.root))
    model = load_model(tiny_model).model
    means: Any = 0.0
    for text in TEXTS:
        with torch.no_grad():
            logits = model(torch.tensor([list(guard.prompt(text).token_ids)])).logits[0, -1, tokens]
        means = means + torch.softmax(logits.double(), 0).numpy() / len(TEXTS)
    found = {token: share for certain, before, token, share in guesses(built) if (certain, before) == (0, -1)}
    assert found.keys() == set(tokens)
    np.testing.assert_allclose([found[token] for token in tokens], means, atol=1e-4)


def guesses(bundle: Path) -> list[Any]:
    rows: list[Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["guesses"]
    return rows


def test_a_bundle_with_guesses_says_the_same(built: Path, tiny_guard: Guard) -> None:
    guard = Guard.load(built, device="cpu")
    assert guard._parts.branch_priors
    for text in TEXTS:
        ours, plain = guard.score(text, max_nodes=60), tiny_guard.score(text, max_nodes=60)
        assert ours.evaluated_nodes == plain.evaluated_nodes
        assert ours.unsafe.probability == pytest.approx(plain.unsafe.probability, abs=1e-6)


def test_many_prompts_are_asked_in_packs(built: Path) -> None:
    guard = Guard.load(built, device="cpu")
    contents = TEXTS * 15
    assert len(contents) > guard._pipeline._engine.pack_contents
    # Further down means are of what was evaluated, ahead too, and packs evaluate less ahead.
    many, few = (
        {(certain, before, token): share for certain, before, token, share in rows if not certain}
        for rows in (mean_branch_shares(guard, contents), guesses(built))
    )
    assert many == pytest.approx(few, abs=2e-4)
