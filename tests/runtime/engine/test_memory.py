"""Memory that is free again goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tokmarg import Guard
from tokmarg.engine.cpu import release_free_memory

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
    monkeypatch.setattr("tokmarg.guard.release_free_memory", lambda: given.append(len(seen)))
    seen: list[object] = []
    tiny_guard.score("one", max_nodes=4)
    assert given == []
    for result in tiny_guard.score_many(["one", "two", "three"], max_nodes=4):
        seen.append(result)
    assert given == [3]
