"""A pass with rows that nobody reads gives what the pass without them gives, and no product has a single row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokmarg import Guard
from tokmarg.engine.forward import Forward
from tokmarg.engine.kv_cache import KVCache
from tokmarg.engine.row_padding import without_single_rows

TEXTS = ["gun", "hello idiot", "gun idiot " * 8]


@pytest.mark.parametrize("tokens", [1, 2, 128, 129, 257])
@pytest.mark.parametrize(("logits", "verdicts"), [(0, 1), (1, 0), (1, 1), (2, 127), (128, 1), (129, 0), (3, 3)])
def test_no_count_is_one_more_than_a_tile(tokens: int, logits: int, verdicts: int) -> None:
    mask = np.ones((tokens, 5 + tokens), np.bool_)
    past = KVCache((), np.arange(5, dtype=np.int64))
    asked = Forward([7] * tokens, np.arange(tokens), mask, past, [0] * logits, [0] * verdicts)
    padded = without_single_rows(asked)
    rows = len(padded.logit_rows), len(padded.verdict_rows)
    for count in (len(padded.input_ids), *rows, sum(rows)):
        assert count % 128 != 1
    assert 0 <= len(padded.input_ids) - tokens <= 1
    assert len(padded.positions) == len(padded.input_ids)
    assert (padded.mask[:tokens, : 5 + tokens] == mask).all()
    assert not padded.mask[:tokens, 5 + tokens :].any()
    assert (padded.mask[tokens:].sum(axis=1) == 1).all()


def test_passes_and_scores_are_the_same(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard.load(word_bundle, device="cpu", threads=1)
    session = guard._session
    alone = Forward([3], np.zeros(1, np.int64), np.ones((1, 1), np.bool_), session.empty(), [0])
    expected = [guard.score(text) for text in TEXTS], list(guard.score_many(TEXTS))
    plain = session.run(alone)
    shapes: list[int] = []
    store = session.store

    class Recording:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def run(self, session: Any, feeds: Mapping[str, Any], heads: Any, presents: Any, options: Any) -> Any:
            shapes.extend([feeds["input_ids"].shape[1], len(feeds["logit_positions"])])
            return store.run(session, feeds, heads, presents, options)

    monkeypatch.setattr(session, "store", Recording())
    monkeypatch.setattr("tokmarg.engine.kv_cache.KVCache.moved", lambda cache, _: cache)
    session.run(alone)
    assert shapes == [1, 1]
    shapes.clear()
    monkeypatch.setattr(session, "_pads", True)
    padded = session.run(alone)
    assert shapes == [2, 2]
    np.testing.assert_array_equal(padded.logits, plain.logits)
    assert padded.new.length == 1
    for mine, other in zip(padded.new.tensors, plain.new.tensors, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert ([guard.score(text) for text in TEXTS], list(guard.score_many(TEXTS))) == expected
    assert 1 not in shapes
