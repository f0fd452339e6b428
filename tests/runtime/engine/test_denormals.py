"""Denormals are zero for the thread that says so, while it says so."""

from __future__ import annotations

import platform
import threading

import numpy as np
import pytest

from tokmarg.engine.cpu import denormals_as_zero

SMALL = np.array([1e-38], np.float32)
FLUSHES = (platform.system(), platform.machine()) == ("Linux", "x86_64")


def tenth() -> float:
    return float((SMALL * np.float32(0.1))[0])


def test_inside_and_outside() -> None:
    assert tenth() > 0
    with denormals_as_zero():
        assert (tenth() == 0) == FLUSHES
        with denormals_as_zero():
            assert (tenth() == 0) == FLUSHES
        assert (tenth() == 0) == FLUSHES
        assert float((SMALL * np.float32(10))[0]) == float(np.float32(1e-38) * np.float32(10))
    assert tenth() > 0


def test_what_fails_leaves_the_thread_as_it_was() -> None:
    with pytest.raises(KeyError), denormals_as_zero():
        raise KeyError
    assert tenth() > 0


def test_other_threads_are_left_alone() -> None:
    inside, found = threading.Event(), []

    def other() -> None:
        inside.wait()
        found.append(tenth())

    thread = threading.Thread(target=other)
    thread.start()
    with denormals_as_zero():
        inside.set()
        thread.join()
    assert found[0] > 0


def test_rounding_is_left_as_it_is() -> None:
    rows = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    with denormals_as_zero():
        inside = rows / np.float32(3)
    np.testing.assert_array_equal(inside, rows / np.float32(3))
