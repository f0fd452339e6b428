"""Exceptions at random moments of scoring; ``python -m tests.fuzz.interrupts`` runs more of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import word_guard
from tests.support.int8_guard import build

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def interrupted(bundle: Path, cases: int) -> dict[str, int]:
    """How many cases ended which way."""
    command = [sys.executable, "-m", "tests.fuzz.interrupts", str(bundle), "--cases", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode in (0, 1), done.stderr  # a case that hangs ends the process with the threads' stacks
    counts: dict[str, int] = json.loads(done.stdout or "{}")
    assert set(counts) <= {"raised", "scored"}, counts
    assert done.returncode == 0, done.stderr
    return counts


def test_one_thread_computes(tmp_path: Path) -> None:
    counts = interrupted(word_guard.write(tmp_path), 1000)
    assert sum(counts.values()) == 1000
    assert counts["raised"] > 300


@pytest.mark.parametrize("cases", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_workers_compute(tiny_model: Path, tmp_path: Path, cases: int) -> None:
    counts = interrupted(build(tiny_model, tmp_path / "bundle"), cases)
    assert sum(counts.values()) == cases
    assert counts["raised"] > 0.3 * cases
