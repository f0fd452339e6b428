"""Encoders of the real tokenizers, and a fake model for searches."""

from __future__ import annotations

import functools

import pytest

from tests.conftest import FAMILIES, tokenizer_file
from tokmarg.encoding import Encoder


@functools.cache
def encoder_of(family: str) -> Encoder:
    return Encoder(tokenizer_file(family).read_text(encoding="utf-8"))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param
