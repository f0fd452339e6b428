r"""Delimiters of a guard's template: plain text that marks where messages, policy and verdict begin and end.

Special tokens cannot be forged (:mod:`tokmarg.tokenizer`), but ``<END CONVERSATION>`` or ``Agent:`` is ordinary text,
and a content that holds it looks to the model like the template itself. The delimiters are taken from the spec:

    tags      ``<END CONVERSATION>``, ``[/INST]``, ``<score>``: in brackets, anywhere
    openings  ``Agent:``, ``### Criteria:``, ``Safety: Unsafe``: text before a message or after the conversation, or a
              verdict of more than one word, at the start of a line
    lines     ``===``, and whole lines of the template: lines of their own
    words     ``unsafe``: a verdict of one word, as one line among others

Delimiters are kept *folded*, and so is the text that is searched for them: case, spaces, underscores, invisible
characters, combining accents, typographic variants of ASCII characters (``＜ＥＮＤ ＣＯＮＶＥＲＳＡＴＩＯＮ＞``) and
letters of other scripts that look like them (:mod:`.confusables`) make no difference.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokmarg.grammar.syntax import Choice, LabelTexts, Part, parse_parts

from .confusables import CONFUSABLES
from .spec import Spec

__all__ = ["TAG", "Delimiters", "delimiters_of", "fold"]

#: A tag: text in brackets, folded. No bracket of its kind stands inside, so a search is linear.
TAG = re.compile(r"<[^<>\n]{1,80}>|\[[^\[\]\n]{1,80}\]")
#: Tags and placeholders, which divide a line of a template into segments.
_DIVIDER = re.compile(rf"{TAG.pattern}|\{{\{{\w+\}}\}}")
#: A line of three or more equal signs, dashes and the like.
_RULE = re.compile(r"([-=#*_~+])\1{2,}")
#: Shorter lines of a template are no delimiters: they may be ordinary text.
_LONG_LINE = 24
#: Verdicts of one word are delimiters from this length on: ``safe`` is; ``Yes`` and ``No`` are everyday lines.
_LONG_WORD = 4

#: Code points whose compatibility form (NFKC) can be ASCII text: fullwidth, small, mathematical, circled, ...
_VARIANTS = (
    (0xA0, 0x300), (0x1D00, 0x1DC0), (0x2000, 0x2500), (0x3000, 0x3400), (0xFB00, 0xFB07), (0xFE10, 0xFFF0),
    (0x1D400, 0x1D800), (0x1F100, 0x1F200),
)  # fmt: skip
#: Combining marks, variation selectors, and invisible characters.
_DROPPED = (
    (0x00, 0x09), (0x0E, 0x20), (0x7F, 0x85), (0x86, 0xA0), (0xAD, 0xAE), (0x300, 0x370), (0x61C, 0x61D),
    (0x115F, 0x1161), (0x17B4, 0x17B6), (0x180B, 0x1810), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x200B, 0x2010),
    (0x202A, 0x202F), (0x2060, 0x2070), (0x20D0, 0x2100), (0x3164, 0x3165), (0xFE00, 0xFE10), (0xFE20, 0xFE30),
    (0xFEFF, 0xFF00), (0xFFA0, 0xFFA1), (0xFFF0, 0xFFFC), (0xE0000, 0xE0200),
)  # fmt: skip
_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_SPACE = 0x2581  # "▁", as sentencepiece writes a space


@functools.cache
def _foldings() -> dict[int, str]:
    """Code point -> its folded text."""
    table = {**CONFUSABLES, _SPACE: ""}
    for start, end in _VARIANTS:
        for code in range(start, end):
            plain = unicodedata.normalize("NFKC", chr(code))
            if plain != chr(code) and (plain := plain.translate(CONFUSABLES)).isascii():
                table[code] = plain.lower()
    for start, end in _DROPPED:
        table.update(dict.fromkeys(range(start, end), ""))
    table.update(dict.fromkeys(map(ord, _LINE_ENDS), "\n"))
    return table


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def fold(text: str) -> str:
    r"""Folds a text for comparison: lower case, ASCII where there is an ASCII form, no spaces but line ends.

    >>> fold("＜ＥＮＤ\u200b of_Turn＞\r\nAgent :")
    '<endofturn>\n\nagent:'
    """
    if not text.isascii():  # before lower(): "Η" looks like an H, "η" like an n
        text = text.translate(CONFUSABLES)
    text = text.lower()  # before the rest: it can add combining marks
    if not text.isascii() or _CONTROLS.search(text):
        text = text.translate(_foldings())
    return text.replace(" ", "").replace("\t", "").replace("_", "")


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The delimiters of a guard, folded, by where they count; see the module docstring."""

    tags: frozenset[str]
    openings: frozenset[str]
    lines: frozenset[str]
    words: frozenset[str]


def delimiters_of(spec: Spec) -> Delimiters:
    """The delimiters in a spec's template and verdict grammar."""
    template = spec.template
    tags = {tag for text in template.messages.values() for tag in _tags(text)}
    openings = set(_message_openings(template.messages.values()))
    lines: set[str] = set()
    words: set[str] = set()
    for role in spec.roles:
        text = template.text if isinstance(template.text, str) else template.text[role]
        tags |= set(_tags(text))
        after_conversation = False
        for line in text.replace("{{role}}", template.roles[role]).split("\n"):
            before, conversation, _ = line.partition("{{conversation}}")
            after_conversation = after_conversation or bool(conversation)
            openings |= set(_openings(before)) if conversation else set()
            for segment in _DIVIDER.split(line):
                bare = segment.strip()
                if _RULE.fullmatch(bare) or len(bare) >= _LONG_LINE:
                    lines.add(bare)
                if after_conversation and bare.startswith("#") and ":" in bare:
                    openings.add(bare[: bare.index(":") + 1])
        raw = spec.verdict.grammar
        parts = parse_parts(raw if isinstance(raw, tuple) else raw[role], "spec", "verdict.grammar")
        for text in _verdict_texts(parts, spec.label_texts(role)):
            tags |= set(_tags(text))
            openings |= {line for line in text.split("\n") if ":" in line}
        if isinstance(parts[0], Choice):
            verdicts = [option.text.strip() for option in parts[0].options]
            words |= {text for text in verdicts if len(text) >= _LONG_WORD and text.isalpha()}
    return Delimiters(_folded(tags), _folded(openings), _folded(lines), _folded(words))


def _folded(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(folded for text in texts if (folded := fold(text).strip("\n")))


def _tags(text: str) -> Iterator[str]:
    for tag in TAG.findall(text):
        if "{{" not in tag:
            yield tag


def _message_openings(messages: Iterable[str]) -> Iterator[str]:
    for text in messages:
        for scaffold in text.split("{{content}}"):
            for line in scaffold.split("\n"):
                yield from _openings(line)


def _openings(line: str) -> Iterator[str]:
    """``response: agent:`` is an opening, and so is ``agent:``; a name without a colon is an everyday word."""
    bare = _DIVIDER.sub("", line).strip()
    if bare.endswith(":") and len(bare) > 2:
        yield bare
        last = bare[:-1].rpartition(":")[2].strip()
        if len(last) > 1:
            yield f"{last}:"


def _verdict_texts(parts: Iterable[Part], labels: list[LabelTexts], before: str = "") -> Iterator[str]:
    """Pieces of verdicts, each with the text that leads to it: ``Safety:`` on its own is an everyday word."""
    for part in parts:
        if isinstance(part, str):
            before += part
            continue
        if isinstance(part, Choice):
            for option in part.options:
                yield from _verdict_texts((option.text, *option.then), labels, before)
        else:
            for label in labels:
                yield before + part.spell(label)
        before = ""
    if before:
        yield before
