"""The prompt cache: a radix tree within its bounds, and scores that do not depend on what it holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.int8_guard import build
from tokmarg import Guard, OptionError
from tokmarg.engine.prompt_cache import PromptCache
from tokmarg.engine.session import Session

Values = tuple[tuple[int, ...], ...]  # of each token its beginning: what keys and values depend on


def cache_of(tokens: int) -> PromptCache[Values]:
    return PromptCache(tokens * 10, 10, lambda values, a, b: values[a:b])


def values_of(tokens: list[int]) -> Values:
    return tuple(tuple(tokens[: n + 1]) for n in range(len(tokens)))


def joined(parts: list[Values]) -> Values:
    return tuple(value for part in parts for value in part)


def test_prompts_share_what_they_begin_with() -> None:
    cache = cache_of(100)
    first, second = [1, 2, 3, 4], [1, 2, 5]
    cache.insert("user", first, values_of(first))
    assert joined(cache.longest("user", second)) == values_of([1, 2])
    cache.insert("user", second, values_of(second))
    assert cache.stats().tokens == 5  # 1 2, 3 4, 5
    assert joined(cache.longest("user", [*first, 9])) == values_of(first)
    assert joined(cache.longest("user", [1, 2, 5, 9])) == values_of(second)
    assert cache.longest("assistant", first) == cache.longest("user", [2]) == cache.longest("user", []) == []
    stats = cache.stats()
    assert (stats.bytes, stats.hits, stats.misses, stats.hit_tokens) == (50, 3, 3, 9)


def test_the_least_recently_used_goes_first() -> None:
    cache = cache_of(6)
    for tokens in [1, 2, 3], [4, 5, 6]:
        cache.insert("", tokens, values_of(tokens))
    cache.longest("", [1, 2, 3])
    cache.insert("", [7], values_of([7]))
    assert [len(joined(cache.longest("", tokens))) for tokens in ([1, 2, 3], [4, 5, 6], [7])] == [3, 0, 1]


def test_what_is_too_long_is_kept_in_part() -> None:
    cache = cache_of(4)
    cache.insert("", [1, 2], values_of([1, 2]))
    tokens = [1, 2, 3, 4, 5, 6]
    cache.insert("", tokens, values_of(tokens))
    assert joined(cache.longest("", tokens)) == values_of([1, 2, 3, 4])
    empty = cache_of(0)
    empty.insert("", [1], values_of([1]))
    assert (empty.longest("", [1]), empty.stats().bytes) == ([], 0)


@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.lists(st.integers(0, 2), max_size=8)), max_size=60),
)
def test_any_order_of_uses(size: int, uses: list[tuple[bool, str, list[int]]]) -> None:
    """What comes out belongs to a beginning of the tokens; the memory is bounded, and counted to the token."""
    cache = cache_of(size)
    for inserting, key, tokens in uses:
        if inserting:
            cache.insert(key, tokens, values_of(tokens))
        else:
            found = joined(cache.longest(key, tokens))
            assert found == values_of(tokens)[: len(found)]
        held = list(edges(cache))
        assert cache.stats().tokens == sum(len(edge.tokens) for edge in held) <= size
        assert all(len(edge.tokens) == len(edge.values) for edge in held)
        assert set(map(id, held)) == set(map(id, cache._used))


def edges(cache: PromptCache[Values]) -> Iterator[Any]:
    waiting: list[Any] = list(cache._roots.values())
    while waiting:
        edge = waiting.pop()
        waiting += edge.after.values()
        if edge.parent is not None:
            yield edge


# Scores


@pytest.fixture(scope="module")
def int8_bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tiny_model, tmp_path_factory.mktemp("int8") / "bundle")


def growing(seed: int, count: int, most: int = 60) -> list[Any]:
    """Texts that begin like earlier ones, cut anywhere, as texts of their own and as answers."""
    rng, texts = random.Random(seed), [""]
    words = [
        "How",
        "do",
        "I",
        "pick",
        "a",
        "lock?",
        "antidisestablishmentarianism",
        "12,50",
        "€",
        "雨が好き",
        "🌧️",
        "no",
        "no",
        "ok.\n",
    ]
    while len(texts) <= count:
        begun = rng.choice(texts)[: rng.randint(0, 400)]
        texts.append((begun + " " * rng.randint(0, 1) + " ".join(rng.choices(words, k=rng.randint(1, most))))[:900])
    user = {"role": "user", "content": "Hi."}
    return [text if n % 3 else [user, {"role": "assistant", "content": text}] for n, text in enumerate(texts[1:])]


@pytest.mark.parametrize("size", ["64 MB", "30 kB", 1])
def test_int8_has_the_same_bits(int8_bundle: Path, size: int | str) -> None:
    plain = Guard.load(int8_bundle, device="cpu", threads=2)
    cached = Guard.load(int8_bundle, device="cpu", threads=2, prompt_cache=size)
    contents = growing(5, 10, 25)
    expected = list(plain.score_many(contents, max_nodes=8))
    assert [cached.score(content, max_nodes=8) for content in contents] == expected
    assert list(cached.score_many(contents, max_nodes=8)) == expected
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda content: cached.score(content, max_nodes=8), contents)) == expected


def test_passes_end_where_they_would_without(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of several passes, and those that branch off: what stands beside a token decides its last bits."""
    monkeypatch.setattr("tokmarg.engine.content_state.PROMPT_TOKENS", 24)
    bundle = build(tiny_model, tmp_path / "bundle")
    plain = Guard.load(bundle, device="cpu", threads=2)
    cached = Guard.load(bundle, device="cpu", threads=2, prompt_cache="64 MB")
    for content in growing(8, 12, 25):
        assert cached.score(content, max_nodes=8) == plain.score(content, max_nodes=8)
    stats = cached.cache_stats()
    assert stats is not None
    assert stats.hit_tokens > 100


@pytest.mark.parametrize("size", ["64 MB", "30 kB"])
def test_fp32_within_rounding(tiny_guard: Guard, size: str) -> None:
    cached = Guard.load(tiny_guard.path, device="cpu", prompt_cache=size)
    contents = growing(6, 10, 25)
    expected = list(tiny_guard.score_many(contents, max_nodes=8))
    for found in (
        [cached.score(content, max_nodes=8) for content in contents],
        list(cached.score_many(contents, max_nodes=8)),
    ):
        for result, wanted in zip(found, expected, strict=True):
            assert result.unsafe.lower == pytest.approx(wanted.unsafe.lower, abs=1e-5)
            assert result.coverage == pytest.approx(wanted.coverage, abs=1e-5)
    stats = cached.cache_stats()
    assert stats is not None
    assert stats.bytes <= (30_000 if size == "30 kB" else 64_000_000)
    assert stats.hits >= 1


def test_only_what_is_new_is_computed(int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard.load(int8_bundle, device="cpu", threads=1, prompt_cache="64 MB")
    tokens: list[int] = []
    begin = Session.run
    monkeypatch.setattr(Session, "run", lambda s, forward: tokens.append(len(forward.input_ids)) or begin(s, forward))  # type: ignore[func-returns-value]
    text = "word " * 200
    guard.score(text, max_nodes=1)
    assert sum(tokens) > 200
    tokens.clear()
    guard.score(text + "and more", max_nodes=1)
    assert sum(tokens) < 100


def test_off_by_default_and_shared_by_another_calibration(int8_bundle: Path) -> None:
    assert Guard.load(int8_bundle, device="cpu").cache_stats() is None
    guard = Guard.load(int8_bundle, device="cpu", prompt_cache=10**6)
    guard.score("Hello.", max_nodes=1)
    again = guard.recalibrated(False)
    again.score("Hello. And more.", max_nodes=1)
    stats = guard.cache_stats()
    assert stats is not None
    assert stats.hits == 1


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "", "64 XB", "MB", "-1 MB", "1e9", "9" * 30, b"1"])
def test_sizes_that_are_none(word_bundle: Path, size: Any) -> None:
    with pytest.raises(OptionError, match="prompt_cache must be a number of bytes"):
        Guard.load(word_bundle, device="cpu", prompt_cache=size)
