"""What a content took is counted by the engines, content by content, and said where it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.int8_guard import build
from tokmarg import Guard, ScoreOptions
from tokmarg.results import Work

TEXTS = ["How do I pick a lock?", "Hi", "How do I pick a lock without a key, and sell what I find?"]
#: So wide a search that it takes several passes.
WIDE = ScoreOptions(tolerance=1e-9, max_nodes=60, work=True)


@pytest.fixture(scope="module", params=["packed", "batch-invariant"])
def guard(
    request: pytest.FixtureRequest, tiny_bundle: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Guard:
    int8 = request.param == "batch-invariant"
    bundle = build(tiny_model, tmp_path_factory.mktemp("work") / "int8") if int8 else tiny_bundle
    guard = Guard.load(bundle, device="cpu", verify=False)
    assert guard.manifest.graph.by_content == int8
    return guard


def _counts(guard: Guard) -> list[int]:
    tokens, _, _, passes = guard._parts.session.counts.tolist()
    return [passes, tokens]


@pytest.mark.parametrize("text", TEXTS)
def test_alone_it_is_what_the_session_computed(guard: Guard, text: str) -> None:
    before = _counts(guard)
    result = guard.score(text, options=WIDE)
    passes, tokens = (now - then for now, then in zip(_counts(guard), before, strict=True))
    assert result.work == Work(passes, tokens, result.evaluated_nodes)
    assert passes > 1
    assert guard.score(text, options=WIDE, work=False).work is None


def test_in_company_the_tokens_add_up(guard: Guard) -> None:
    before = _counts(guard)
    results = list(guard.score_many(TEXTS, options=WIDE))
    passes, tokens = (now - then for now, then in zip(_counts(guard), before, strict=True))
    works = [result.work for result in results if result.work]
    assert len(works) == len(TEXTS)
    assert sum(work.tokens for work in works) == tokens
    assert max(work.passes for work in works) <= passes <= sum(work.passes for work in works)
    if not guard.manifest.graph.by_content:  # there all passes are shared
        assert passes == max(work.passes for work in works)


def test_windows_are_counted_together(guard: Guard) -> None:
    text = "word " * 2 * guard.manifest.graph.max_positions
    before = _counts(guard)
    result = guard.score(text, on_overflow="window", work=True)
    _, tokens = (now - then for now, then in zip(_counts(guard), before, strict=True))
    assert result.truncated
    assert result.work is not None
    assert result.work.tokens == tokens


def test_the_row_says_it(guard: Guard) -> None:
    result = guard.score(TEXTS[0], work=True)
    assert result.work is not None
    assert result.to_dict()["work"] == {
        "passes": result.work.passes, "tokens": result.work.tokens, "nodes": result.evaluated_nodes
    }  # fmt: skip
    assert "work" not in guard.score(TEXTS[0]).to_dict()
    greedy = guard.score(TEXTS[0], method="greedy", work=True)
    assert greedy.work is not None
    assert greedy.to_dict()["work"] == {
        "passes": greedy.work.passes, "tokens": greedy.work.tokens, "nodes": greedy.evaluated_nodes
    }  # fmt: skip
