"""Encoders of the real tokenizers."""

from __future__ import annotations

import functools

from tests.conftest import tokenizer_file
from tokmarg.tokenizer import Encoder

__all__ = ["encoder_of"]


@functools.cache
def encoder_of(family: str) -> Encoder:
    return Encoder(tokenizer_file(family).read_text(encoding="utf-8"))
