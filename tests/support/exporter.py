"""The command tokmarg-export, run in this process: importing torch anew for each takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

__all__ = ["RunExport", "run_export"]

#: (arguments) -> the exit code and the lines on stderr.
RunExport = Callable[..., tuple[int, list[str]]]


def run_export(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Runs the command and returns its exit code."""
    from tokmarg_export.cli import main

    monkeypatch.setattr(sys, "argv", ["tokmarg-export", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)
