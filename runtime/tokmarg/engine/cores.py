"""How many threads are worth having."""

from __future__ import annotations

__all__ = []
