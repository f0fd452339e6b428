"""Messages of a conversation that are judged one by one: the scores of single conversations, at the cost of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.optional import present
from tests.support.reference_guard import BUNDLE
from tokmarg import ContentError, Guard, ScoreOptions
from tokmarg.branching import in_stages
from tokmarg.prompt.messages import Record
from tokmarg.results import Result


def talk(turns: int) -> list[dict[str, Any]]:
    words = ["hello", "gun", "idiot", "hello gun", "idiot idiot"]
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": words[i % len(words)]} for i in range(turns)]


def same(a: Any, b: Any, tolerance: float) -> None:
    assert a.unsafe.probability == pytest.approx(b.unsafe.probability, abs=tolerance)
    for label, marginal in a.labels.items():
        other = b.labels[label]
        assert (marginal is None) == (other is None)
        assert marginal is None or marginal.probability == pytest.approx(other.probability, abs=tolerance)


@pytest.mark.parametrize("judge", ["each", "user", "assistant"])
def test_scores_are_those_of_the_conversations_that_end_there(word_bundle: Path, judge: Any) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    conversation = talk(7)
    results = list(guard.score_many([conversation, "gun", conversation], judge=judge, on_error="return"))
    wanted = [i for i in range(7) if judge == "each" or ("user", "assistant")[i % 2] == judge]
    of_text = None if judge == "assistant" else 0
    assert [result.index for result in results] == [*wanted, of_text, *wanted]
    for result, i in zip(results, [*wanted, None, *wanted], strict=True):
        if i is not None:
            same(result, guard.score(conversation[: i + 1]), 1e-6)
    assert isinstance(results[len(wanted)], ContentError) == (judge == "assistant")


def test_real_attention_gives_the_same_scores(tiny_bundle: Path) -> None:
    guard = Guard.load(tiny_bundle, device="cpu")
    conversation = talk(9)
    for result in guard.score_many([conversation], judge="each", tolerance=1e-2, max_nodes=32):
        assert result.index is not None
        assert result.role == conversation[result.index]["role"]
        alone = guard.score(conversation[: result.index + 1], tolerance=1e-2, max_nodes=32)
        assert alone.index is None
        same(result, alone, 1e-5)


def test_int8_gives_the_same_bits() -> None:
    guard, conversation = Guard.load(BUNDLE, device="cpu"), talk(9)
    for result in guard.score_many([conversation, "hello", conversation], judge="each"):
        if result.index is not None:
            alone = guard.score(conversation[: result.index + 1])
            assert replace(result, id=None, index=None, role=None) == replace(alone, id=None)


def test_the_beginning_is_computed_once(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    conversation = [{"role": "user", "content": "hello"} for _ in range(40)]

    def tokens(run: Any) -> int:
        before = guard._session.counts[0]
        assert all(isinstance(result, Result) for result in run)
        return int(guard._session.counts[0] - before)

    once = tokens(guard.score_many([conversation], tolerance=1e-2))
    each = tokens(guard.score_many([conversation], judge="each", tolerance=1e-2))
    single = tokens(guard.score_many([conversation[: i + 1] for i in range(40)], tolerance=1e-2))
    assert each <= once + 39 * 6  # the end of each prompt, and its verdict's nodes
    assert single > 5 * each


def test_packs_hold_whole_conversations(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    conversation = [{"role": "user", "content": "hello"} for _ in range(40)]
    packs = list(guard.score_packs([conversation, conversation, "gun"] * 3, judge="each"))
    assert sum(map(len, packs)) == 3 * 81
    assert all(pack[-1].index in (39, 0) for pack in packs)
    assert len(packs) > 3


def test_branches_run_after_their_trunks(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    conversation = talk(5)
    records = [Record("gun"), *(Record(conversation, None, None, i) for i in range(5))]
    (pack,) = guard._pipeline.packs(records, ScoreOptions())
    assert in_stages(pack) == ([0], [5, 4], [1, 3, 2])  # of the user and of the assistant


@pytest.mark.parametrize(("size", "serves"), [("1 MB", True), ("2 kB", False)])
def test_the_guard_s_own_prompt_cache_serves_where_it_holds_the_trunks(
    word_bundle: Path, size: str, serves: bool
) -> None:
    conversation, plain = talk(9), Guard.load(word_bundle, device="cpu")
    guard = Guard.load(word_bundle, device="cpu", prompt_cache=size)
    expected = plain.score_many([conversation], judge="each")
    for result, other in zip(guard.score_many([conversation], judge="each"), expected, strict=True):
        same(result, other, 1e-6)
    assert (present(guard.cache_stats()).hits >= 7) == serves


def test_a_blank_message_and_a_window_are_rows_like_others(word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    conversation = [*talk(2), {"role": "user", "content": ""}, {"role": "assistant", "content": "hello " * 300}]
    rows = list(guard.score_many([conversation], judge="each", on_error="return", on_overflow="window"))
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert isinstance(rows[2], ContentError)
    assert (rows[2].type, rows[2].role, rows[2].to_dict()["index"]) == ("empty_text", "user", 2)
    assert isinstance(rows[3], Result)
    assert rows[3].truncated
    assert rows[3].skipped == {"blank": 1}
    assert rows[3].to_dict()["role"] == "assistant"
    assert "index" not in guard.score("gun").to_dict()
