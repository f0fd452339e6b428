"""How a content is scored: the options that every call shares."""

from __future__ import annotations

from typing import Literal

__all__ = ["OnOverflow"]

OnOverflow = Literal["error", "window"]
