"""Fixtures of the tests of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def environment(word_bundle: Path) -> dict[str, str]:
    """No locale, no colours wanted or refused, output buffered as usual."""
    unset = ("NO_COLOR", "PYTHONUTF8", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "TOKMARG_BUNDLE": str(word_bundle), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
