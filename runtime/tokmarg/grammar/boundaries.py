"""Boundaries between verdict texts: which of them a tokenizer treats alike, so that one of many has to be encoded.

A label list of 400 labels has 160,000 pairs of a label and the next one. Whether a text's tokens depend on the text
before it is decided at the border: where no entry of the vocabulary holds the last character before it beside the first
one after it, no token can cross it, and the tokenizer's pattern sees kinds of characters. So texts that end in the same
kinds of characters (their *shape*) have the same tokens after them. Where an entry does hold both (``),``), only the
*tail* of the text counts besides, from the last place that no token can cross: the pattern cuts there, or no entry of
the vocabulary holds both sides. That is ``)`` for all labels like ``Sexual (minor)``.
"""

from __future__ import annotations

import functools
import unicodedata

from tokmarg.tokenizer import Encoder

__all__ = ["Boundaries", "head_shape", "tail_shape"]

#: Characters of a text that its shape looks at, and kinds of characters that it keeps.
_LOOK, _KEPT = 16, 4


class Boundaries:
    """What one tokenizer's vocabulary says of the border between two texts."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[str, str], bool] = {}
        self._words: dict[str, list[int]] = {}

    def closed(self, before: str, after: str) -> bool:
        """Whether no token can hold both the last character of ``before`` and the first one of ``after``."""
        if not before or not after:
            return False
        pair = (before[-1], after[0])
        if pair not in self._known:
            self._known[pair] = self._closed(*pair)
        return self._known[pair]

    def tail(self, before: str, after: str) -> str:
        """The end of ``before`` that may share a token with the beginning of ``after``; empty where nothing can."""
        if self.closed(before, after):
            return ""
        border = len(before)
        cut = max((end for end in self._ends(before + after) if end <= border), default=0)
        return before[next((i for i in range(border - 1, cut, -1) if self.closed(before[:i], before[i:])), cut) :]

    def reach(self, before: str, after: str) -> tuple[str, ...]:
        """The beginning of ``after`` that may share a token with the end of ``before``, and the kinds of characters
        after that."""
        border = len(before)
        cut = min((end - border for end in self._ends(before + after) if end > border), default=len(after))
        end = next((i for i in range(1, cut) if self.closed(after[:i], after[i:])), cut)
        return (after[:end], *head_shape(after[end:])[1:])

    def _ends(self, text: str) -> list[int]:
        ends = self._words.get(text)
        if ends is None:
            ends = self._words[text] = self._encoder.word_ends(text)
        return ends

    def _closed(self, left: str, right: str) -> bool:
        if not (right.isascii() or unicodedata.category(right)[0] in "PSZ"):
            return False  # a normalizer may compose it with what stands before it
        text = self._encoder.vocabulary_text
        lefts, rights = _spellings(left, -1), _spellings(right, 0)
        # Unknown characters may be fused to one unknown token.
        return any(b in text for b in rights) and not any(a + b in text for a in lefts for b in rights)


def tail_shape(text: str) -> tuple[str, ...]:
    """The kinds of a text's last characters; a run of letters is one."""
    return _kinds(text[-_LOOK:])[-_KEPT:]


def head_shape(text: str) -> tuple[str, ...]:
    """The first character, and the kinds of the first ones."""
    return (text[:1], *_kinds(text[:_LOOK])[:_KEPT])


def _kinds(text: str) -> tuple[str, ...]:
    kinds: list[str] = []
    for character in text:
        kind = _kind(character)
        if len(kind) < 2 or not kinds or kinds[-1] != kind:
            kinds.append(kind)
    return tuple(kinds)


@functools.lru_cache(4096)
def _kind(character: str) -> str:
    """One character for what a pattern may tell apart by itself, more for a kind of letter."""
    category = unicodedata.category(character)
    if category[0] == "N":
        return "0"
    return f"{category} {unicodedata.name(character, '').split(' ')[0]}" if category[0] == "L" else character


@functools.lru_cache(4096)
def _spellings(character: str, byte: int) -> frozenset[str]:
    """How a vocabulary may write the character, or its byte at the border (GPT-2's names of bytes)."""
    forms = {character, character.lower(), unicodedata.normalize("NFKC", character)[byte]}
    spelled = {_byte_names()[form.encode("utf-8", "replace")[byte]] for form in forms}
    return frozenset(forms | spelled | ({"\u2581"} if character == " " else set()))


@functools.cache
def _byte_names() -> list[str]:
    """GPT-2's character for each byte: printable ones name themselves, the others follow after U+0100."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
