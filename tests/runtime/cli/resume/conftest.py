"""Fixtures of the tests of resumable runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import Kill, Killed, Unfinished, cut_off, left, lines
from tokmarg.cli.resume import atomic_output, journal


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Kill:
    kill = Kill()
    calls = kill.calls
    monkeypatch.setattr(atomic_output, "_SYNC", 0.0)  # how many calls there are may not depend on the clock

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls["made"] += 1
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return function(*arguments, **options)

        return call

    for module, name in [
        (journal, "write_all"),
        (atomic_output, "write_all"),
        (os, "fsync"),
        (os, "replace"),
        (os, "unlink"),
        (atomic_output, "sync_folder"),
        (journal, "sync_folder"),
        (atomic_output.AtomicOutput, "begin"),
        (atomic_output.AtomicOutput, "finish"),
        (journal.Journal, "clear"),
        (journal.Journal, "truncate"),
        (journal.Journal, "remove"),
    ]:
        monkeypatch.setattr(module, name, dying(getattr(module, name)))

    return kill


@pytest.fixture
def unfinished(tokmarg: Run, tmp_path: Path, kill: Kill) -> Unfinished:
    """Input, output and arguments of a run that was cut off in its middle."""
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    arguments = ["score", "--input", given, "--output", output]
    cut_off(tokmarg, kill, *arguments)
    assert left(output) == [journal.PART, journal.JOURNAL]
    return given, output, arguments
