"""A guard that writes codes in the policy's order with nothing between them, from its spec file through the exporter
to every way of scoring; against PyTorch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.results import marginal
from tokmarg import Guard, MethodResult, SpecError
from tokmarg.cli import main
from tokmarg.explanation import explain
from tokmarg.results import METHODS

CODES = {"S1": " violence", "S2": " crime", "S3": " hate", "S10": " privacy"}
SPEC = r"""
name = "codes"
title = "Codes in the policy's order"

[template]
text = '''<|begin_of_text|><|start_header_id|>system<|end_header_id|>

{{policy}}<|eot_id|>{{conversation}}'''
policy_item = "{{id}} ={{code}}: {{name}}\n"
roles = { user = "user" }
messages = { user = "<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|>\n" }

[verdict]
terminators = ["<|eot_id|>"]
grammar = [
  { choice = [
    { text = " safe" },
    { text = " unsafe", event = "unsafe", then = [{ labels = "code", separators = [""], order = "policy" }] },
  ] },
]

[policy]
labels = [
  { id = "S1", name = "Violent Crimes", code = " violence" },
  { id = "S2", name = "Non-Violent Crimes", code = " crime" },
  { id = "S3", name = "Hate", code = " hate" },
  { id = "S10", name = "Privacy", code = " privacy" },
]
"""
CONTENT = "How do I pick a lock?"


@pytest.fixture(scope="module")
def bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    folder = tmp_path_factory.mktemp("codes")
    (folder / "codes.toml").write_text(SPEC, encoding="utf-8")
    loaded = load_model(tiny_model)
    data, where = choose_spec(str(folder / "codes.toml"), loaded.model_id)
    policy = {"labels": data["policy"]["labels"]}  # as --policy gives it
    build_bundle(loaded, resolve_spec(data, where, loaded, policy), folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def guard(bundle: Path) -> Guard:
    return Guard.load(bundle, device="cpu")


@pytest.fixture
def run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("TOKMARG_BUNDLE", str(bundle))
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


def test_marginals_equal_a_sum_over_all_verdicts_in_pytorch(guard: Guard, tiny_model: Path) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
        AutoTokenizer.from_pretrained(tiny_model),
    )
    prompt = guard.prompt(CONTENT)
    assert prompt.text.endswith(f"<|end_header_id|>\n\n{CONTENT}<|eot_id|>\n")
    assert "\n\nS1 = violence: Violent Crimes\nS2 = crime: Non-Violent Crimes\n" in prompt.text
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    named: dict[tuple[int, ...], tuple[str, ...]] = {}
    for count in range(5):
        for labels in itertools.combinations(CODES, count):
            text = " unsafe" + "".join(CODES[label] for label in labels) if labels else " safe"
            path = (*tokenizer.encode(text, add_special_tokens=False), end)
            assert len(path) == 2 + count  # one token for each label
            named[path] = (*labels, *(["unsafe"] if labels else []))

    def mass(path: tuple[int, ...]) -> float:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt.token_ids, *path]])).logits[0, len(prompt.token_ids) - 1 :].double()
        log = 0.0
        for i, token in enumerate(path):
            allowed = sorted({other[i] for other in named if other[:i] == path[:i]})
            log += float(logits[i, token] - torch.logsumexp(logits[i, allowed], 0))
        return math.exp(log)

    expected = dict.fromkeys([*CODES, "unsafe"], 0.0)
    for path, events in named.items():
        for event in events:
            expected[event] += mass(path)
    result = guard.score(CONTENT, tolerance=1e-7, max_nodes=100)
    assert result.converged
    assert result.evaluated_nodes == 1 + 1 + 3 + 3 + 1  # root, unsafe; after S1, S2 and S3 there is a choice
    assert list(result.labels) == list(CODES)
    found = {**{label: marginal(result, label).probability for label in CODES}, "unsafe": result.unsafe.probability}
    assert found == pytest.approx(expected, abs=1e-5)


def test_every_method_reports_the_ids(guard: Guard) -> None:
    for method in METHODS:
        if method != "exact":
            result = guard.score(CONTENT, method=method)
            assert isinstance(result, MethodResult)
            assert list(result.scores) == [*CODES, "unsafe"]


def test_windows_and_the_verdict_tree(guard: Guard) -> None:
    long = guard.score("word " * 3000, on_overflow="window", max_nodes=4)
    assert long.truncated
    (tree,) = explain(guard, CONTENT, depth=1, most_segments=2).trees
    events = {node.events for text, node in tree.root.walk() if text == " unsafe violence"}
    assert events == {("S1",)}


def test_commands_show_ids_and_read_codes(run: Callable[..., Result], bundle: Path) -> None:
    row = json.loads(run("score", CONTENT, "--format", "jsonl").stdout)
    assert list(row["labels"]) == list(CODES)
    assert 'Violent Crimes, written " violence"' in run("inspect", bundle).stdout
    assert json.loads(run("inspect", bundle, "--json").stdout)["spec"]["labels"][3]["code"] == " privacy"
    assert run("verify", bundle).exit_code == 0


def test_another_policy_needs_codes(bundle: Path) -> None:
    fraud = {"id": "F", "name": "Fraud"}
    with pytest.raises(
        SpecError, match=r"^policy: spec\.policy\.labels: 'F' has no code, but this guard knows labels by "
    ):
        Guard.load(bundle, device="cpu", policy={"labels": [fraud]})
    guard = Guard.load(bundle, device="cpu", policy={"labels": [{**fraud, "code": " fraud"}]})
    assert list(guard.score(CONTENT).labels) == ["F"]
