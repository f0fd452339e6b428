"""8-bit products, denormals of one thread, and free memory that goes back to the system."""

from __future__ import annotations

import platform
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tokmarg import Guard
from tokmarg.engine.cpu import denormals_as_zero, int8_products_saturate, release_free_memory
from tokmarg.engine.onnx_builder import FLOAT, INT8, UINT8, one_operator


def test_this_machine_multiplies_bytes_exactly_or_is_told_apart() -> None:
    """Either sums of bytes are exact here, or onnxruntime's exact path is: ``int8_products_saturate`` decides which."""
    a, b = np.full((3, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    weights = {
        "b": (INT8, b),
        "a_scale": (FLOAT, np.ones((), np.float32)),
        "b_scale": (FLOAT, np.ones(16, np.float32)),
        "a_zero": (UINT8, np.zeros((), np.uint8)),
    }
    options = onnxruntime.SessionOptions()
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    model = one_operator("MatMulIntegerToFloat", (UINT8, FLOAT), weights)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert (session.run(None, {"a": a})[0] == a.astype(int) @ b.astype(int)).all()


SMALL = np.array([1e-38], np.float32)


FLUSHES = (platform.system(), platform.machine()) == ("Linux", "x86_64")


def tenth() -> float:
    return float((SMALL * np.float32(0.1))[0])


def test_inside_and_outside() -> None:
    def inside() -> None:
        assert (tenth() == 0) == FLUSHES
        assert (denormals_as_zero(tenth) == 0) == FLUSHES
        assert (tenth() == 0) == FLUSHES
        assert float((SMALL * np.float32(10))[0]) == float(np.float32(1e-38) * np.float32(10))

    assert tenth() > 0
    denormals_as_zero(inside)
    assert tenth() > 0


def test_what_fails_leaves_the_thread_as_it_was() -> None:
    nothing: dict[str, int] = {}
    with pytest.raises(KeyError):
        denormals_as_zero(lambda: nothing["missing"])
    assert tenth() > 0


def test_other_threads_are_left_alone() -> None:
    inside, found = threading.Event(), []

    def other() -> None:
        inside.wait()
        found.append(tenth())

    thread = threading.Thread(target=other)
    thread.start()

    def let_other_compute() -> None:
        inside.set()
        thread.join()

    denormals_as_zero(let_other_compute)
    assert found[0] > 0


def test_rounding_is_left_as_it_is() -> None:
    rows = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    inside = denormals_as_zero(lambda: rows / np.float32(3))
    np.testing.assert_array_equal(inside, rows / np.float32(3))


GLIBC = platform.libc_ver()[0] == "glibc"


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(not GLIBC, reason="another C library keeps its heap in another way")
def test_what_is_free_between_blocks_in_use_is_given_back() -> None:
    size, count = 50_000, 4000
    blocks = [b"x" * size for _ in range(count)]
    kept = blocks[::40]
    del blocks
    before = resident()
    release_free_memory()
    assert resident() < before - 0.7 * size * count
    assert all(block == b"x" * len(block) for block in kept)


def test_it_does_nothing_where_the_c_library_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmarg.engine.cpu._malloc_trim", lambda: None)
    release_free_memory()


def test_a_guard_gives_back_what_many_contents_took(tiny_guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr("tokmarg.pipeline.release_free_memory", lambda: given.append(len(seen)))
    seen: list[object] = []
    tiny_guard.score("one", max_nodes=4)
    assert given == []
    for result in tiny_guard.score_many(["one", "two", "three"], max_nodes=4):
        seen.append(result)
    assert given == [3]
