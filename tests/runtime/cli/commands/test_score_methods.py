"""``tokmarg score --method``: options, rows, table and OpenAI's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.support.command_line import Run
from tokmarg import MethodResult, Thresholds
from tokmarg.cli.render.openai import OpenAI
from tokmarg.cli.render.table import Table
from tokmarg.guard import Guard
from tokmarg.results import METHODS, Method


def rows(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def scored(**changes: Any) -> MethodResult:
    fields = {
        "id": "r1",
        "flagged": True,
        "scores": {"S2": 1.25, "S1": 0.4, "S9": None, "unsafe": 0.8},
        "converged": False,
        "method": "any-place",
        "model": "org/model",
    }
    return MethodResult(**{**fields, **changes})


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_those_of_the_library(tokmarg: Run, word_bundle: Path, method: Method) -> None:
    expected = Guard.load(word_bundle, device="cpu").score("gun idiot", id=1, method=method, max_depth=6).to_dict()
    result = tokmarg("score", "gun idiot", "--method", method, "--max-depth", 6)
    assert result.exit_code == 0
    assert rows(result) == [json.loads(json.dumps(expected))]
    assert rows(result)[0]["method"] == method
    assert result.stderr.partition("\n")[2].startswith("1 scored, ")


def test_settings_reach_the_method(tokmarg: Run, word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")

    def scores(**settings: Any) -> Any:
        options = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", value)]
        (row,) = rows(tokmarg("score", "gun idiot", "--method", "any-place", *options))
        result = guard.score("gun idiot", method="any-place", **settings)
        assert isinstance(result, MethodResult)
        assert row["scores"] == result.scores
        return row["scores"]

    few = {"top_p": 0.5, "eps": 0.3, "max_depth": 2}
    found = [scores(), scores(**few), *(scores(**few | {k: v}) for k, v in [("eps", 1e-3), ("max_depth", 9)])]
    assert len({json.dumps(scores) for scores in found}) >= 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", "best"],
        ["--top-p", 0],
        ["--top-p", "nan"],
        ["--eps", 1.5],
        ["--max-depth", 0],
        ["--max-depth", 65],
    ],
)
def test_wrong_usage(tokmarg: Run, arguments: list[str]) -> None:
    assert tokmarg("score", "hello", *arguments).exit_code == 2


def test_refusal_leaves_an_older_output_as_it_was(tokmarg: Run, word_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(word_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graph"] |= {"head": "verdict", "head_token_ids": list(range(manifest["graph"]["vocab_size"]))}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    result = tokmarg("score", "hello", "--bundle", bundle, "--method", "greedy", "--output", out)
    assert result.exit_code == 1
    assert "method greedy reads the probabilities of the whole vocabulary" in result.stderr
    assert out.read_text() == "old"
    assert tokmarg("score", "hello", "--bundle", bundle, "--method", "logtoku").exit_code == 0


def test_table() -> None:
    table = Table({"S1": "Violent Crimes", "S2": "Other", "S9": "Third"}, colour=False)
    assert table.render(scored(), "some text").split("\n") == [
        "r1  some text",
        "   flagged: yes   unsafe 0.800   any-place   not converged",
        "   S2  Other                           1.250 ██████████",
        "   S1  Violent Crimes                  0.400 ████",
        "   S9  Third                           does not apply",
        "",
        "",
    ]
    generated = table.render(scored(method="greedy", verdict="unsafe\nS2", converged=True), "").split("\n")
    assert generated[1:3] == ["   flagged: yes   unsafe 0.800   greedy", '   "unsafe\\nS2"']
    uncertain = table.render(scored(method="logtoku", uncertainty=0.25, converged=True), "").split("\n")
    assert uncertain[1] == "   flagged: yes   unsafe 0.800   logtoku   uncertainty 0.250"


def test_openai_scores_are_cut_to_probabilities() -> None:
    format = OpenAI(Thresholds(0.5, {"S1": 0.4}))
    (result,) = json.loads(format.render(scored(), ""))["results"]
    assert result == {
        "flagged": True,
        "categories": {"S2": True, "S1": True, "S9": False},
        "category_scores": {"S2": 1.0, "S1": 0.4, "S9": 0.0},
        "category_applied_input_types": {"S2": ["text"], "S1": ["text"], "S9": []},
    }


def test_openai_scores_are_not_conditional() -> None:
    result = scored(scores={"S2": 0.9, "S1": 0.1, "unsafe": 0.5}, method="logtoku", uncertainty=0.2)
    (row,) = json.loads(OpenAI(Thresholds()).render(result, ""))["results"]
    assert row["category_scores"] == {"S2": 0.45, "S1": 0.05}
    assert row["categories"] == {"S2": True, "S1": False}  # it is flagged, so the most probable one


def test_undefined_uncertainty_is_null() -> None:
    assert scored(uncertainty=float("nan")).to_dict()["uncertainty"] is None
