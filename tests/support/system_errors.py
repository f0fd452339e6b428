"""Errors of the operating system, raised where it raises them."""

from __future__ import annotations

import os
from typing import Any, NoReturn

__all__ = ["raise_in_os"]

_FRAME: dict[str, Any] = {"__name__": os.__name__}
exec("def refuse(error): raise error", _FRAME)  # tokmarg takes what comes up elsewhere for a caller's


def raise_in_os(error: OSError) -> NoReturn:
    """Raises an error as Python's own module ``os`` does."""
    _FRAME["refuse"](error)
    raise AssertionError
