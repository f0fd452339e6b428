"""Memory that is free again, given back to the system.

glibc's heap ends with the last block in use: whatever is free below it stays the process's. After a pack of contents
that is half as much again as all that a guard has loaded, in pieces between blocks that stay.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["give_back"]


def give_back() -> None:
    """Gives free memory of glibc's heap back, which takes some milliseconds; nothing where the C library is another."""
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no library of no name
        return None
