"""Passes side by side: each comes back with its tag, never more at a time than there are workers, and none is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.int8_guard import TEXTS, build
from tokmarg import Guard
from tokmarg.engine.executor import PassExecutor
from tokmarg.engine.forward import Forward, Outputs
from tokmarg.engine.session import Session
from tokmarg.errors import DeviceError


class Slow:
    """Computes what it is given by waiting; ``forward`` is how long, or what goes wrong."""

    def __init__(self, workers: int) -> None:
        self.workers, self.now, self.most, self.pooled = workers, 0, 0, 0
        self._lock = threading.Lock()

    def run_alone(self, forward: Any, *, pooled: bool) -> Any:
        if forward == "at once":
            raise RuntimeError(forward)
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.pooled += pooled
        time.sleep(0.01 if isinstance(forward, str) else forward)
        with self._lock:
            self.now -= 1
        if isinstance(forward, str):
            raise DeviceError(forward)
        return forward


def executor_of(session: Any) -> PassExecutor[int]:
    return PassExecutor[int](cast(Session, session))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_pass_comes_back_once(count: int) -> None:
    session = Slow(count)
    with executor_of(session) as executor:
        for tag in range(12):
            executor.start(cast(Any, 0.02 if tag % 3 else 0.002), tag)
        assert executor.running == 12
        assert sorted(executor.wait()[0] for _ in range(12)) == list(range(12))
        assert executor.running == 0
    assert session.most == count
    assert (session.pooled > 0) == (count > 1)


@pytest.mark.parametrize("wrong", ["at once", "later"])
def test_what_goes_wrong_is_raised_and_the_rest_goes_on(wrong: str) -> None:
    with executor_of(Slow(2)) as executor:
        for tag, forward in enumerate([0.01, wrong, 0.01, wrong, 0.01]):
            executor.start(cast(Any, forward), tag)
        found: list[object] = []
        for _ in range(5):
            try:
                found.append(executor.wait()[0])
            except (DeviceError, RuntimeError) as error:
                found.append(str(error))
    assert sorted(found, key=str) == [0, 2, 4, wrong, wrong]


def test_leaving_waits_for_what_is_in_flight_and_begins_nothing() -> None:
    session = Slow(2)

    def leave() -> None:
        with executor_of(session) as executor:
            for tag in range(9):
                executor.start(cast(Any, 0.05), tag)
            while session.now < 2:
                time.sleep(0.001)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert session.now == 0
    assert session.most == 2
    assert time.monotonic() - started < 10


def test_side_by_side_is_the_same_as_one_by_one(tiny_model: Path, tmp_path: Path) -> None:
    guard = Guard.load(build(tiny_model, tmp_path / "bundle"), device="cpu", threads=3)
    session = guard._pipeline._engine._session
    asked: list[Forward] = []
    run = session.run

    def noted(forward: Forward) -> Outputs:
        asked.append(forward)
        return run(forward)

    session.run = noted  # type: ignore[method-assign]
    for text in TEXTS[:3]:
        guard.score(text, max_nodes=12)
    expected = [run(forward) for forward in asked]
    with PassExecutor[int](session) as executor:
        for tag, forward in enumerate(asked):
            executor.start(forward, tag)
        for _ in asked:
            tag, outputs = executor.wait()
            np.testing.assert_array_equal(outputs.logits, expected[tag].logits)
            np.testing.assert_array_equal(outputs.verdict_logits, expected[tag].verdict_logits)
            for a, b in zip(outputs.new.tensors, expected[tag].new.tensors, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_pass_that_onnxruntime_refuses(tiny_model: Path, tmp_path: Path, pooled: bool) -> None:
    guard = Guard.load(build(tiny_model, tmp_path / "bundle"), device="cpu", threads=2)
    session = guard._pipeline._engine._session
    cache = guard._parts.prefixes["user"].cache
    wrong = Forward([10**7], np.array([cache.length]), np.ones((1, cache.length + 1), np.bool_), cache, [0])
    with pytest.raises(DeviceError, match=r"^onnxruntime failed on cpu in a pass of 1 tokens: "):
        session.run_alone(wrong, pooled=pooled)
