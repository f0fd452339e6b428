"""Folding agrees with an independent rule."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from tokmarg.prompt.delimiters import fold


@settings(max_examples=300)
@given(text=st.text(max_size=60))
def test_folding(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert not set(" \t_\r\0\u200b") & set(folded)
    # An independent rule for single characters: what NFKC makes ASCII is ASCII, in lower case.
    for character in text:
        plain = unicodedata.normalize("NFKC", character)
        if plain.isascii() and plain.isalnum() and unicodedata.category(character) != "Cc":
            assert fold(character) == plain.lower(), hex(ord(character))
