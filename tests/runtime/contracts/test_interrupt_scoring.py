"""An exception that an embedding program raises in the middle of scoring comes out as it is, and the guard works on."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from tests.support.int8_guard import build
from tokmarg import Guard
from tokmarg.engine import session as session_module
from tokmarg.engine.executor import PassExecutor
from tokmarg.engine.ort import ort
from tokmarg.engine.session import Session
from tokmarg.errors import BundleError, DeviceError
from tokmarg.native import raised_by


class OwnError(Exception):
    """An embedding program's own."""


class Slow:
    """A session of two workers; ``forward`` is how long a pass takes."""

    workers = 2

    def __init__(self) -> None:
        self.started: list[float] = []
        self.ended: list[float] = []

    def run_alone(self, forward: Any, *, pooled: bool) -> Any:
        self.started.append(forward)
        time.sleep(forward)
        self.ended.append(forward)
        return forward


@pytest.fixture(scope="module")
def int8_bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tiny_model, tmp_path_factory.mktemp("int8") / "bundle")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_at_every_line_that_hands_over_passes(int8_bundle: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.interrupts", str(int8_bundle), "--lines"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode in (0, 1), done.stderr
    counts = json.loads(done.stdout or "{}")
    assert set(counts) == {"raised"}, counts
    assert counts["raised"] > 200


@pytest.mark.parametrize("handed_over", [False, True])
def test_while_a_pass_is_handed_over(monkeypatch: pytest.MonkeyPatch, handed_over: bool) -> None:
    session = Slow()
    start = _thread.start_new_thread

    def interrupted(*arguments: Any) -> int:
        if handed_over:
            start(*arguments)
        raise KeyboardInterrupt

    def leave() -> None:
        with PassExecutor[int](cast(Session, session)) as executor:
            executor.start(cast(Any, 0.05), 0)
            monkeypatch.setattr("_thread.start_new_thread", interrupted)
            executor.start(cast(Any, 0.06), 1)

    with pytest.raises(KeyboardInterrupt):
        in_time(leave)
    assert sorted(session.started) == sorted(session.ended)  # whatever was begun


def test_a_thread_that_an_exception_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start = _thread.start_new_thread
    refused: list[object] = []

    def refuse(*arguments: Any) -> int:
        if len(refused) < 2:
            refused.append(arguments)
            return 0
        return start(*arguments)

    def run() -> None:
        with PassExecutor[int](cast(Session, Slow())) as executor:
            monkeypatch.setattr("tokmarg.engine.executor._thread.start_new_thread", refuse)
            executor.start(cast(Any, 0.01), 5)
            assert executor.wait()[0] == 5

    in_time(run)
    assert len(refused) == 2


def test_again_and_again_while_passes_end() -> None:
    session = Slow()
    executor = PassExecutor[int](cast(Session, session))
    queue = executor._done

    class Interrupted:
        left = 3

        def put(self, item: Any) -> None:
            queue.put(item)

        def get(self, timeout: float | None = None) -> Any:
            item = queue.get()  # it is lost
            self.left -= 1
            if self.left >= 0:
                raise OwnError(str(self.left))
            return item

    executor._done = cast("SimpleQueue[Any]", Interrupted())

    def leave() -> None:
        with executor:
            for tag in range(3):
                executor.start(cast(Any, 0.05), tag)
            while len(session.started) < 2:
                time.sleep(0.001)
            raise KeyboardInterrupt

    with pytest.raises(OwnError) as caught:
        in_time(leave)
    assert isinstance(caught.value.__context__, (KeyboardInterrupt, OwnError))
    assert len(session.ended) == len(session.started)


def in_time(call: Callable[[], None]) -> None:
    """Calls, and raises what it raises; a call that hangs fails the test."""
    found: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            found.append(None)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "it hangs"
    if found[0] is not None:
        raise found[0]


FAIL = ort.capi.onnxruntime_pybind11_state.Fail


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TimeoutError("mine"), TimeoutError),
        (OwnError("mine"), OwnError),
        (KeyboardInterrupt("mine"), KeyboardInterrupt),
        (FAIL("onnxruntime's"), DeviceError),
    ],
)
def test_out_of_a_pass(
    int8_bundle: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[BaseException]
) -> None:
    guard = Guard.load(int8_bundle, device="cpu", threads=2)
    before = guard.score("hello", max_nodes=4)

    class Store:
        def run(self, *_: object) -> Any:
            raise raised

    monkeypatch.setattr(guard._session, "store", Store())
    monkeypatch.setattr("tokmarg.engine.kv_cache.KVCache.moved", lambda cache, _: cache)
    with pytest.raises(expected) as caught:
        guard.score("hello", max_nodes=4)
    assert (caught.value is raised) == (expected is not DeviceError)
    monkeypatch.undo()
    assert guard.score("hello", max_nodes=4) == before


@pytest.mark.parametrize(
    ("raised", "expected"), [(TimeoutError("mine"), TimeoutError), (FAIL("onnxruntime's"), BundleError)]
)
def test_out_of_loading(
    word_bundle: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    monkeypatch.setattr(session_module, "int8_products_saturate", lambda: False)
    with pytest.raises(expected):
        Guard.load(word_bundle, device="cpu")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("kind", [TimeoutError, RuntimeError, ValueError, OwnError])
def test_a_signal_handlers_exception_is_told_apart(kind: type[Exception]) -> None:
    def handler(*_: object) -> None:
        raise kind("mine")

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(kind) as caught:
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert not raised_by(caught.value, "onnxruntime")


def test_a_librarys_exception_is_told_apart(word_bundle: Path) -> None:
    session = Guard.load(word_bundle, device="cpu")._session._session
    for feeds in ({}, {"input_ids": object()}):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - a class that is not public
            session.run(None, feeds)
        assert raised_by(caught.value, "onnxruntime")
