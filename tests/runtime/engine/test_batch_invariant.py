"""Batch invariance: contents that share passes have the results of a batch of one, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.int8_guard import TEXTS, build
from tokmarg import ContentError, Guard, Record, ScoreOptions
from tokmarg.engine.batch_invariant import BatchInvariantEngine, _together
from tokmarg.engine.forward import Forward
from tokmarg.engine.kv_cache import KVCache
from tokmarg.engine.prefix import Prefix
from tokmarg.engine.sequence import Reads, Search, Sequence
from tokmarg.engine.session import Session
from tokmarg.engine.waiting_line import SequenceGroup
from tokmarg.scoring.exact import ExactSearch, Marginals

CONTENTS: tuple[Any, ...] = (
    *TEXTS,
    [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi! What can I do for you?"}],
    [{"role": "user", "content": "Hello. " * 20}, {"role": "assistant", "content": "No."}],
    "",
)
SETTINGS: dict[str, Any] = {"max_nodes": 40}


@pytest.fixture(scope="module")
def guard(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The tiny guard in int8."""
    return Guard.load(build(tiny_model, tmp_path_factory.mktemp("int8") / "bundle"), device="cpu", threads=2)


@pytest.fixture(scope="module")
def singles(guard: Guard) -> list[Any]:
    return [scored_on_its_own(guard, content) for content in CONTENTS]


def scored_on_its_own(guard: Guard, content: Any, **more: Any) -> Any:
    (result,) = guard.score_many([content], on_error="return", **{**SETTINGS, **more})
    return shown(result)


def shown(result: Any) -> Any:
    return (result.type, str(result)) if isinstance(result, ContentError) else result


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tokens and contents of every pass that is run."""
    found: list[tuple[int, int]] = []
    for name in ("run", "run_alone"):
        begin = getattr(Session, name)

        def counted(self: Session, forward: Forward, *more: Any, begin: Any = begin, **options: Any) -> Any:
            assert forward.blocks is not None
            found.append((len(forward.input_ids), len(forward.blocks.rows)))
            return begin(self, forward, *more, **options)

        monkeypatch.setattr(Session, name, counted)
    return found


@settings(max_examples=15)
@given(st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=24))
def test_any_batch_in_any_order(guard: Guard, singles: list[Any], chosen: list[int]) -> None:
    results = guard.score_many([CONTENTS[i] for i in chosen], on_error="return", **SETTINGS)
    assert [shown(result) for result in results] == [singles[i] for i in chosen]


@pytest.mark.parametrize("method", ["greedy", "any-place", "probability-uncertainty"])
def test_other_methods(guard: Guard, method: Any) -> None:
    single = [guard.score(text, method=method, max_depth=6) for text in TEXTS]
    together = list(guard.score_many([*TEXTS, *TEXTS[::-1]], method=method, max_depth=6))
    assert together == [*single, *single[::-1]]


def test_long_prompts_fed_in_several_passes(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr("tokmarg.engine.content_state.PROMPT_TOKENS", 24)
    monkeypatch.setattr("tokmarg.engine.batch_invariant._PASS_TOKENS", 24)
    single = [guard.score(text, **SETTINGS) for text in TEXTS]
    assert max(tokens for tokens, _ in passes) < 24 + 24  # nodes come on top
    assert list(guard.score_many(TEXTS[::-1], **SETTINGS)) == single[::-1]


def test_windows_of_overlong_content(guard: Guard) -> None:
    long = "all of it " * 300
    single = guard.score(long, on_overflow="window", **SETTINGS)
    assert single.truncated
    together = list(guard.score_many([TEXTS[0], long, TEXTS[2], long], on_overflow="window", **SETTINGS))
    assert together[1] == together[3] == single


def test_how_many_are_in_flight_changes_nothing(
    guard: Guard, singles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokmarg.engine.batch_invariant._IN_FLIGHT_PER_WORKER", 1)
    for contents, tokens in ((1, 10**6), (3, 10**6), (16, 30)):
        monkeypatch.setattr("tokmarg.engine.batch_invariant._MIN_IN_FLIGHT", contents)
        monkeypatch.setattr("tokmarg.engine.batch_invariant._TOKENS_IN_FLIGHT", tokens)
        assert list(guard.score_many(TEXTS, **SETTINGS)) == singles[: len(TEXTS)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_how_many_threads_there_are_changes_nothing(guard: Guard, singles: list[Any], threads: int) -> None:
    other = Guard.load(guard.path, device="cpu", threads=threads)
    assert [shown(result) for result in other.score_many(CONTENTS * 2, on_error="return", **SETTINGS)] == singles * 2
    assert [scored_on_its_own(other, content) for content in CONTENTS] == singles


def test_contents_share_passes(guard: Guard, passes: list[tuple[int, int]]) -> None:
    guard.score(TEXTS[0], **SETTINGS)
    single = len(passes)
    passes.clear()
    list(guard.score_many([TEXTS[0]] * 16, **SETTINGS))
    contents = [count for _, count in passes]
    assert sum(contents) == 16 * single  # each takes the passes that it takes on its own
    assert len(contents) <= 8 * single
    assert max(contents) >= 3


def test_what_is_about_as_long_shares_a_pass() -> None:
    """Whatever it has cached; as many as are one part of them, and no more than a pass may carry."""

    def taken(*rows_and_own: tuple[int, int], parts: int = 1) -> tuple[list[int], list[int]]:
        group = SimpleNamespace(prefix=None)
        ready: list[Any] = [SimpleNamespace(rows=rows, seen=range(own), group=group) for rows, own in rows_and_own]
        chosen = _together(ready, parts)
        return [content.rows for content in chosen], [content.rows for content in ready]

    assert taken((20, 0), (5, 40), (90, 0), (32, 7), (52, 0)) == ([20, 5, 32, 52], [90])
    assert taken((90, 0), (20, 0), (100, 50)) == ([90, 100], [20])
    assert taken(*[(16, 0)] * 7, parts=3) == ([16] * 3, [16] * 4)
    assert taken(*[(128, 0)] * 6) == ([128] * 4, [128] * 2)
    assert taken(*[(16, 512)] * 6) == ([16] * 2, [16] * 4)
    assert taken((4000, 0), (4000, 0)) == ([4000], [4000])


def test_a_pass_is_no_larger_than_it_may_be(guard: Guard, passes: list[tuple[int, int]]) -> None:
    list(guard.score_many([*TEXTS] * 12, **SETTINGS))
    assert max(tokens for tokens, _ in passes) <= 512
    assert max(contents for _, contents in passes) >= 3


@pytest.fixture(scope="module")
def per_label_guard(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """Asked for one label at a time: the prompts branch off after the content."""
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import choose_spec, resolve_spec

    resolved = resolve_spec(*choose_spec(None, "tiny-Llama-Guard-3-8B"), load_model(tiny_model))
    template = {**resolved["template"], "text": "<|begin_of_text|>Judge:\n{{conversation}}\n{{policy}}<|eot_id|>"}
    grammar = [{"choice": [{"text": "safe"}, {"text": "unsafe", "event": "unsafe"}]}]
    folder = build(
        tiny_model,
        tmp_path_factory.mktemp("per-label") / "bundle",
        template=template,
        policy={**resolved["policy"], "aggregate": "max"},
        verdict={**resolved["verdict"], "grammar": grammar},
    )
    return Guard.load(folder, device="cpu", threads=2)


def test_one_label_at_a_time(per_label_guard: Guard, passes: list[tuple[int, int]]) -> None:
    single = [per_label_guard.score(text) for text in TEXTS]
    assert len(single[0].labels) == 14
    assert passes[0][1] == 1  # all prompts of a content stand in one block
    assert list(per_label_guard.score_many([*TEXTS[::-1], TEXTS[0]])) == [*single[::-1], single[0]]


class Fails:
    """A search that wants the logits after its prompt, and refuses them."""

    def __init__(self, real: Any) -> None:
        self.root = real.root

    def wanted(self, limit: int) -> list[Any]:
        return [self.root]

    def reads(self, _: Any) -> Reads:
        return "logits"

    def feed(self, node: Any, logits: np.ndarray, *, normalized: bool = False) -> None:
        raise ContentError("non_finite_logits", "as if")


def test_one_that_fails_takes_none_with_it(guard: Guard) -> None:
    engine = guard._pipeline._engine
    assert isinstance(engine, BatchInvariantEngine)
    results: dict[bool, list[Marginals]] = {}
    for failing in (False, True):
        sequences = list(sequences_of(guard))
        if failing:
            sequences[1].search = Fails(sequences[1].search)
        engine.run(groups(sequences, guard._parts.prefixes["user"]))
        assert [sequence.error is not None for sequence in sequences] == [False, failing, False]
        results[failing] = [result_of(sequence.search) for sequence in (sequences[0], sequences[2])]
    assert results[True] == results[False]


def result_of(search: Search[Any]) -> Marginals:
    assert isinstance(search, ExactSearch)
    return search.result()


def test_prefix_tokens_that_no_prompt_shares_change_no_bit(guard: Guard) -> None:
    """A prefix that goes on after the first token that differs is used up to there, and the rest has no place."""
    prefix = guard._parts.prefixes["user"]
    graph = guard._parts.session.graph
    rng = np.random.default_rng(0)
    results = []
    for more in (0, 3, 20):
        shape = (more * 2 * graph.kv_heads, graph.head_dim)
        rest = [rng.normal(0, 1, shape).astype(tensor.dtype) for tensor in prefix.cache.tensors]
        tensors = tuple(np.concatenate(pair) for pair in zip(prefix.cache.tensors, rest, strict=True))
        positions = np.arange(prefix.cache.length + more, dtype=np.int64)
        longer = Prefix((*prefix.token_ids, *[-1] * more), KVCache(tensors, positions))
        sequences = list(sequences_of(guard))
        guard._pipeline._engine.run(groups(sequences, longer))
        results.append([result_of(sequence.search) for sequence in sequences])
    assert results[1] == results[2] == results[0]


def groups(sequences: list[Sequence[Any]], prefix: Prefix) -> list[SequenceGroup]:
    """Contents of one sequence each."""
    return [SequenceGroup([sequence], prefix) for sequence in sequences]


def sequences_of(guard: Guard) -> Iterator[Sequence[Any]]:
    """Sequences of three texts."""
    way = guard._pipeline.calls.of(ScoreOptions(max_nodes=40)).scorer
    for text in TEXTS[:3]:
        prompt = guard.prompt(text)
        yield Sequence(prompt.token_ids, way.search(prompt))


def test_results_keep_their_records_and_order(guard: Guard) -> None:
    records = [Record(text, id=i) for i, text in enumerate(TEXTS * 3)]
    assert [result.id for result in guard.score_many(records, **SETTINGS)] == list(range(len(records)))
