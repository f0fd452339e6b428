"""Fixtures of the tests of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.resumable_runs import Kill, Killed
from tokmarg.cli.resume import atomic_output, journal


@pytest.fixture
def environment(word_bundle: Path) -> dict[str, str]:
    """No locale, no colours wanted or refused, output buffered as usual."""
    unset = ("NO_COLOR", "PYTHONUTF8", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "TOKMARG_BUNDLE": str(word_bundle), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}


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
