"""Block layout: the batch of two contents that docs/engine.md draws."""

from __future__ import annotations

import numpy as np

from tokmarg.bundle.graph_contract import GraphContract
from tokmarg.engine.block_layout import Block, block_shape, key_slots, lay_out, query_places
from tokmarg.engine.kv_buffer import KVBuffer, KVBufferPool

GRAPH = GraphContract(2, 1, 4, 10, "full", None, "float32", None, 100, by_content=True)
PREFIX = 4


def buffer_of(tokens: int, seed: int) -> KVBuffer:
    buffer = KVBuffer(GRAPH)
    buffer.extend(tokens)[:] = np.random.default_rng(seed).random((GRAPH.layers, tokens, 8), dtype=np.float32)
    return buffer


def block(drawn: list[str], own: KVBuffer, positions: list[int]) -> Block:
    """A block whose rows are drawn over prefix, own cached and new tokens."""
    mask = np.array([[sign == "x" for sign in row.replace(" ", "")] for row in drawn])
    seen = np.flatnonzero(mask[:, PREFIX : PREFIX + len(positions)].any(axis=0))
    return Block(mask, seen, own, np.array(positions))


#: Its second cached token is seen by none; the two others are those of the drawing.
A = block(["xxxx x.x x..", "xxxx x.x xx.", "xxxx x.x ..x"], buffer_of(3, 1), [4, 5, 5])
B = block(["xxxx x x.", "xxxx x xx"], buffer_of(1, 2), [4])


def test_two_contents_as_drawn() -> None:
    assert block_shape([A, B], PREFIX) == (8, 16)
    layout, mask, buffer = lay_out([A, B], PREFIX, GRAPH, KVBufferPool(GRAPH))
    assert layout.rows.tolist() == [[0, 1, 2, 0, 0, 0, 0, 0], [3, 4, 3, 3, 3, 3, 3, 3]]
    assert layout.places.tolist() == [0, 1, 2, 8, 9]
    assert layout.slots.tolist() == [[0, 1, 2, 3, 4, 5, 7, 8, 9] + [0] * 7, [0, 1, 2, 3, 6, 10, 11] + [0] * 9]
    assert layout.own_positions.tolist() == [4, 5, 4]
    drawn = ["".join("x" if sees else "." for sees in row).rstrip(".") for row in mask.reshape(16, 16)]
    assert drawn == ["xxxxxxx", "xxxxxxxx", "xxxxxx..x", *[""] * 5, "xxxxxx", "xxxxxxx", *[""] * 6]
    own = np.concatenate([A.own.all[:, [0, 2]], B.own.all], axis=1)
    for layer, expected in zip(layout.own, own, strict=True):
        np.testing.assert_array_equal(layer, expected.reshape(-1, GRAPH.head_dim))
    assert buffer is not None


def test_one_content_is_not_copied() -> None:
    layout, _, buffer = lay_out([A], PREFIX, GRAPH, KVBufferPool(GRAPH))
    assert buffer is None
    assert np.shares_memory(layout.own[0], A.own.all)
    assert layout.slots.tolist() == [[0, 1, 2, 3, 4, 6, 7, 8, 9] + [0] * 7]


def test_prefix_tokens_that_a_content_does_not_share_have_no_place() -> None:
    """Nothing stands between the tokens that a content sees: its own begin where the shared prefix ends."""
    part = block(["xx.. x x.", "xx.. x xx"], buffer_of(1, 2), [2])
    layout, mask, _ = lay_out([A, part], PREFIX, GRAPH, KVBufferPool(GRAPH))
    assert layout.slots[1].tolist() == [0, 1, 6, 10, 11] + [0] * 11
    assert ["".join("x" if sees else "." for sees in row).rstrip(".") for row in mask[1]] == [
        "xxxx",
        "xxxxx",
        *[""] * 6,
    ]
    assert layout.slots[0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9] + [0] * 7


def test_a_content_that_shares_no_prefix() -> None:
    part = block(["....x.", "....xx"], buffer_of(0, 2), [])
    layout, mask, _ = lay_out([part], PREFIX, GRAPH, KVBufferPool(GRAPH))
    assert layout.slots.tolist() == [[4, 5] + [0] * 14]
    assert mask[0, :2, :2].tolist() == [[True, False], [True, True]]
    assert not mask[0, :, 2:].any()


def test_query_places_and_key_slots() -> None:
    rows, places = query_places(np.array([3, 2]), 4)
    assert rows.tolist() == [[0, 1, 2, 0], [3, 4, 3, 3]]
    assert places.tolist() == [0, 1, 2, 4, 5]
    assert key_slots(2, np.array([5, 7]), 9, 3).tolist() == [0, 1, 5, 7, 9, 10, 11]
