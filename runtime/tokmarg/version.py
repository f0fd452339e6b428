"""The version, as the code itself has it: a frozen application has no package metadata to ask."""

from __future__ import annotations

__all__ = ["VERSION"]

#: That of pyproject.toml, which a test compares.
VERSION = "0.1.0"
