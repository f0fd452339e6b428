"""What differs between transformers 4 and 5, both of which the exporter works with."""

from __future__ import annotations

import inspect

import transformers
from torch import nn

__all__ = ["TUPLE_LAYERS", "cache_argument"]

#: Architectures whose layers return a tuple; those of all others return a tensor.
TUPLE_LAYERS = ("gemma2", "gemma3_text", "granite") if transformers.__version__.startswith("4.") else ()


def cache_argument(module: nn.Module) -> str:
    """Under which name a model's forward takes a cache: it was renamed in transformers 5.24."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"
