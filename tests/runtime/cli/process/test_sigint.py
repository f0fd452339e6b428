"""Ctrl-C while onnxruntime is busy, and in a run from file to file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.resumable_runs import COMMAND
from tokmarg.cli.resume import journal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")


#: A call into C that never comes back and that no signal cuts short, as a long pass of onnxruntime: a lock taken twice.
STUCK = """import ctypes, os, tokmarg.engine.session as s
def stuck(self, *arguments):
    open(os.environ["READY"], "w").close()
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
s.Session.NAME = stuck
"""


def interrupted(
    environment: dict[str, str], ready: Callable[[], bool], *arguments: str, **streams: Any
) -> tuple[int, float, str]:
    """Runs until ``ready`` exists, presses Ctrl-C: exit code, seconds until the end, stderr."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | streams
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True, **streams)
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    return process.returncode, time.monotonic() - start, stderr


@pytest.mark.parametrize("name", ["run", "__init__"], ids=["a pass", "loading the graph"])
def test_interrupt_while_onnxruntime_is_busy(word_bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(STUCK.replace("NAME", name))
    environment = {
        **os.environ,
        "TOKMARG_BUNDLE": str(word_bundle),
        "READY": str(tmp_path / "ready"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
    }
    taken: list[float] = []
    while (
        len(taken) < 3 and min(taken, default=1) >= 1
    ):  # a second is short where the machine is busy with other things
        (tmp_path / "ready").unlink(missing_ok=True)
        code, seconds, stderr = interrupted(environment, (tmp_path / "ready").exists, "hello")
        assert code == 130
        assert stderr.strip() == "Aborted!"
        taken.append(seconds)
    assert min(taken) < 1


def test_interrupted_run_says_what_is_kept(word_bundle: Path, tmp_path: Path) -> None:
    given, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    given.write_text("hello gun\n" * 20_000)
    environment = {**os.environ, "TOKMARG_BUNDLE": str(word_bundle)}
    marks = Path(f"{output}{journal.JOURNAL}")
    code, _, stderr = interrupted(
        environment,
        lambda: marks.exists() and marks.read_bytes().count(b"\n") > 3,
        *("--input", str(given), "--output", str(output)),
    )
    assert code == 130
    kept = json.loads(marks.read_bytes().rpartition(b"}\n")[0].splitlines()[-1] + b"}")["records"]
    decision, aborted = (line for line in stderr.splitlines() if line)
    assert decision == "flagged: unsafe >= 0.5 (the default)"
    assert aborted == f"Aborted! {kept:,} rows are kept, --resume continues after them."


def test_ignored_interrupts_stay_ignored(word_bundle: Path, tmp_path: Path) -> None:
    given = tmp_path / "in.txt"
    given.write_text("hello\n" * 300)
    environment = {**os.environ, "TOKMARG_BUNDLE": str(word_bundle)}
    marks = tmp_path / f"out{journal.JOURNAL}"
    code, _, _ = interrupted(
        environment,
        marks.exists,
        *("--input", str(given), "--output", str(tmp_path / "out")),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert code == 0
