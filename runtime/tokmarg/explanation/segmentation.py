r"""Segmentation: cuts a text into sentences, words or groups of characters, as spans.

Spans cover the text: each ends where the next begins, white space belongs to the span before it.

>>> [s.text for s in sentences("Hello there. How do I pick a lock?")]
['Hello there. ', 'How do I pick a lock?']
>>> [s.text for s in words("pick a lock?")]
['pick ', 'a ', 'lock?']

Scripts that put no space between words (Chinese, Japanese, Thai, Khmer, ...) are cut into groups of characters instead,
and so are words longer than any real one. What a reader sees as one character (letter and accents, emoji with its
modifiers, flags) is never cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

__all__ = ["Span", "Unit", "grouped", "sentences", "words"]

Unit = Literal["sentences", "words", "characters"]
#: Characters of a group where a script has no spaces, and of the pieces of an overlong word.
_GROUP, _PIECE = 2, 12
#: Letters that a word may have before it counts as something else (a key, a run of letters).
_LONGEST_WORD = 40

#: End of a sentence, with the quotes and brackets after it; the full-width marks need no space.
_CLOSE = "[\"'”’»)\\]」』】]*"
_END = re.compile(rf"(?:[.!?…؟।॥։።]+{_CLOSE}(?=\s)|[。！？｡]+{_CLOSE}|\n)\s*")
#: Words whose full stop ends no sentence.
_ABBREVIATIONS = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "no",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "cf",
        "fig",
        "approx",
        "inc",
        "ltd",
        "jr",
        "sr",
    )
)
_LAST_WORD = re.compile(r"(\S+?)\.[\"'”’)\]]*\s*$")
_WORD = re.compile(r"\S+\s*")
#: Scripts written without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han, and their extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)


class Span(NamedTuple):
    """Characters ``[start, end)`` of a text."""

    start: int
    end: int
    text: str


def sentences(text: str) -> list[Span]:
    """The sentences of a text; lines end sentences, too."""
    ends = []
    for match in _END.finditer(text):
        before, after = text[max(0, match.end() - 40) : match.end()], text[match.end() : match.end() + 1]
        if "\n" not in match[0] and (after.islower() or _is_abbreviation(before)):
            continue
        ends.append(match.end())
    return _spans(text, ends)


def words(text: str) -> list[Span]:
    """The words of a text, with the punctuation that touches them; groups of characters where there are no words."""
    ends: list[int] = []
    for match in _WORD.finditer(text):
        start = match.start()
        for piece in _pieces(match[0]):
            start += len(piece)
            ends.append(start)
    return _spans(text, ends)


def grouped(spans: Sequence[Span], most: int) -> list[Span]:
    """Neighbours joined, equally many in each group, so that there are ``most`` groups or fewer."""
    size = max(1, -(-len(spans) // most))
    groups = (spans[i : i + size] for i in range(0, len(spans), size))
    return [Span(group[0].start, group[-1].end, "".join(span.text for span in group)) for group in groups]


def _spans(text: str, ends: Sequence[int]) -> list[Span]:
    """Spans that end at ``ends``; the rest of the text, and spans of white space, are joined to a neighbour."""
    spans: list[Span] = []
    start = 0
    for end in [*ends, len(text)]:
        if text[start:end].strip():
            spans.append(Span(start, end, text[start:end]))
            start = end
    if spans and start < len(text):
        last = spans[-1]
        spans[-1] = Span(last.start, len(text), text[last.start :])
    return spans


def _is_abbreviation(before: str) -> bool:
    match = _LAST_WORD.search(before)
    if match is None:
        return False
    word = match[1].lstrip("\"'“‘(").lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "i")


def _pieces(word: str) -> Iterator[str]:
    """A stretch between white space as one piece, or as groups of characters."""
    if not _UNSPACED.search(word):
        if len(word) <= _LONGEST_WORD:
            yield word
        else:
            yield from _joined(_graphemes(word), _PIECE)
        return
    run: list[str] = []  # of characters of one kind
    for grapheme in _graphemes(word):
        unspaced = bool(_UNSPACED.match(grapheme))
        attached = not unspaced and not any(map(str.isalnum, grapheme))  # punctuation stays with what it follows
        if run and not attached and unspaced != bool(_UNSPACED.match(run[0])):
            yield from _joined(run, _GROUP if _UNSPACED.match(run[0]) else _PIECE)
            run = []
        run.append(grapheme)
    yield from _joined(run, _GROUP if _UNSPACED.match(run[0]) else _PIECE)


def _joined(graphemes: Sequence[str], size: int) -> Iterator[str]:
    """Groups of ``size`` letters; what is no letter stays with those before it."""
    group, letters = "", 0
    for grapheme in graphemes:
        letter = any(map(str.isalnum, grapheme))
        if letter and letters == size:
            yield group
            group, letters = "", 0
        group += grapheme
        letters += letter
    yield group


def _graphemes(text: str) -> list[str]:
    """Grapheme clusters, nearly (Unicode's annex 29 has a few more cases)."""
    graphemes: list[str] = []
    for character in text:
        if graphemes and _extends(graphemes[-1], character):
            graphemes[-1] += character
        else:
            graphemes.append(character)
    return graphemes


def _extends(before: str, character: str) -> bool:
    flag = "\U0001f1e6" <= character <= "\U0001f1ff"
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
        or before.endswith("\u200d")
        or (flag and len(before) == 1 and "\U0001f1e6" <= before <= "\U0001f1ff")
    )
