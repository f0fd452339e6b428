"""Fixtures of the tests of resumable runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import Kill, Unfinished, cut_off, left, lines
from tokmarg.cli.resume import journal


@pytest.fixture
def unfinished(tokmarg: Run, tmp_path: Path, kill: Kill) -> Unfinished:
    """Input, output and arguments of a run that was cut off in its middle."""
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    arguments = ["score", "--input", given, "--output", output]
    cut_off(tokmarg, kill, *arguments)
    assert left(output) == [journal.PART, journal.JOURNAL]
    return given, output, arguments
