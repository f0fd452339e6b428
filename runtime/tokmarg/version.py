"""The version of the installed package."""

from __future__ import annotations

__all__ = ["installed_version"]


def installed_version() -> str:
    """The version, as the package's metadata has it; ``0+unknown`` in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow: imported where somebody asks

    try:
        return version("tokmarg")
    except PackageNotFoundError:
        return "0+unknown"
