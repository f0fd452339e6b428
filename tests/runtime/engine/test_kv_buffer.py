"""Memory for keys and values keeps what is put there, grows, and is taken over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.engine.kv_buffer import KVBuffer, KVBufferPool
from tokmarg.engine.kv_cache import heads_by_token, key_and_value

LAYERS, KV_HEADS, HEAD_DIM = 3, 2, 4
GRAPH = GraphContract(LAYERS, KV_HEADS, HEAD_DIM, 10, "full", None, "float32", None, 100, by_content=True)


def some(count: int, seed: int) -> np.ndarray:
    """Keys and values of new tokens, [layers, count * 2 * kv_heads, head_dim]."""
    return np.random.default_rng(seed).random((LAYERS, *GRAPH.cache_shape(count)), dtype=np.float32)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 300), max_size=6), st.lists(st.integers(1, 300), max_size=3))
def test_tokens_are_kept_in_their_order(counts: list[int], counts_of_next: list[int]) -> None:
    tokens = KVBuffer(GRAPH)
    for part in (counts, counts_of_next):  # the second content takes the first one's memory over
        tokens.clear()
        parts = [some(count, i) for i, count in enumerate(part)]
        for new in parts:
            tokens.append(list(new))
        wanted = np.concatenate([some(0, 0), *parts], axis=1).reshape(LAYERS, sum(part), 2 * KV_HEADS * HEAD_DIM)
        np.testing.assert_array_equal(tokens.all, wanted)
        assert all(layer.flags.c_contiguous for layer in tokens.all)


def test_a_cleared_buffer_reuses_its_memory_where_it_is_large_enough() -> None:
    buffer = KVBuffer(GRAPH)

    def take(tokens: int) -> np.ndarray:
        buffer.clear()
        return buffer.extend(tokens)

    first = take(20)
    assert first.shape == (LAYERS, 20, 2 * KV_HEADS * HEAD_DIM)
    assert all(layer.flags.c_contiguous for layer in first)
    assert np.shares_memory(first, take(7))
    assert not np.shares_memory(first, take(10_000))
    assert take(0).shape == (LAYERS, 0, 2 * KV_HEADS * HEAD_DIM)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_heads_by_token_and_back(count: int) -> None:
    rng = np.random.default_rng(0)
    key, value = (rng.random((1, KV_HEADS, count, HEAD_DIM)) for _ in range(2))
    rows = heads_by_token(key, value)
    assert rows.shape == GRAPH.cache_shape(count)
    for token in range(count):
        here = rows[token * 2 * KV_HEADS :]
        np.testing.assert_array_equal(here[1], key[0, 1, token])
        np.testing.assert_array_equal(here[KV_HEADS], value[0, 0, token])
    for found, wanted in zip(key_and_value(rows, KV_HEADS), (key, value), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_pool_keeps_little_and_gives_back_what_was_large() -> None:
    pool = KVBufferPool(GRAPH)
    taken = [pool.take() for _ in range(6)]
    for buffer, tokens in zip(taken, [10, 5000, 20, 4000, 30, 40], strict=True):
        buffer.extend(tokens)
        pool.release(buffer)
    pool.trim()
    kept = [pool.take() for _ in range(6)]
    assert [buffer.count for buffer in kept] == [0] * 6
    assert sum(buffer.capacity > 0 for buffer in kept) == 2
    assert all(buffer.capacity < 1000 for buffer in kept)
    assert len({id(buffer) for buffer in kept}) == 6


def test_threads_never_get_the_same_buffer() -> None:
    pool, held, twice = KVBufferPool(GRAPH), set[int](), list[int]()

    def work(_: int) -> None:
        for _ in range(300):
            buffer = pool.take()
            if id(buffer) in held:
                twice.append(id(buffer))
            held.add(id(buffer))
            buffer.extend(3)
            held.discard(id(buffer))
            pool.release(buffer)
            pool.trim()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert not twice
