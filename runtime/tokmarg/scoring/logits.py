"""What every search asks of the logits that the model returns."""

from __future__ import annotations

__all__ = []
