"""Engines of tests, which are skipped where one is not installed, unless $TOKMARG_TEST_ENGINES says that it must be."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["need_java", "need_module"]

_REQUIRED = bool(os.environ.get("TOKMARG_TEST_ENGINES"))


def need_module(name: str, extra: str) -> None:
    """Skips the tests of a module where a package of an extra is missing."""
    if not _REQUIRED:
        pytest.importorskip(name, reason=f"the extra {extra} is not installed")


def need_java() -> None:
    """Skips the tests of a module where there is no Java."""
    if not _REQUIRED and shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java", allow_module_level=True)
