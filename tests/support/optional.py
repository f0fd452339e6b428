"""Values that may be None, where a test knows that they are not."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["present"]

T = TypeVar("T")


def present(value: T | None) -> T:
    assert value is not None
    return value
