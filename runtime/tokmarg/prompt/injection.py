"""Signs of prompt injection in a content: the template's delimiters, names of special tokens, invisible characters.

A report, and nothing else: it changes no prompt, no probability and no flag. A content that is not reported may be an
attack all the same, and a reported one may be harmless (a pasted chat log has ``User:`` at the start of its lines).
Every search is linear in the content.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from tokmarg.tokenizer import Encoder

from .delimiters import TAG, delimiters_of, fold
from .messages import Message
from .spec import Spec

__all__ = ["SUSPICIONS", "InjectionDetector"]

#: All values that ``suspicious`` in a result can hold. A delimiter is called ``fence`` there.
SUSPICIONS: dict[str, str] = {
    "fence": "the content holds text with which the guard's template marks its parts: a delimiter, a role in front of "
    "a message, a verdict",
    "special-token": "the content spells a special token of the guard's tokenizer; it was encoded as plain text",
    "invisible": "the content holds characters that nobody sees: zero-width ones, controls, tags, direction overrides",
}

#: Text in one kind of brackets, across line ends too. One search per kind, so that ``<a [/INST] b>`` hides neither.
_BRACKETED = (re.compile(r"<[^<>]{1,120}>"), re.compile(r"\[[^\[\]]{1,120}\]"))
_INVISIBLE = re.compile(
    # Controls, soft hyphens, zero-width spaces and joiners, overrides of direction, fillers, tags.
    "[\\x00-\\x08\\x0e-\\x1f\\x7f\\x80-\\x84\\x86-\\x9f\\xad\\u115f\\u1160\\u180e\\u200b\\u202a-\\u202e\\u2060-\\u206f"
    "\\u3164\\uffa0\\ufff0-\\ufffb\\U000e0000-\\U000e01ef]|(?!\\A)\\ufeff"
    # Joiners and marks of direction belong to scripts and emoji that need them; between ASCII they hide.
    "|(?<![^\\x00-\\x7f])[\\u061c\\u200c-\\u200f]+(?![^\\x00-\\x7f])|[\\u061c\\u200c-\\u200f]{3}"
)
#: The flags of England, Scotland and Wales, the only emoji that are made with tags.
_FLAGS = re.compile(
    "|".join(
        "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in f"gb{nation}") + "\U000e007f"
        for nation in ("eng", "sct", "wls")
    )
)


class InjectionDetector:
    """Detects signs of prompt injection against one guard.

    Args:
        spec: its template and grammar say which texts are delimiters.
        encoder: its tokenizer, for the names of the special tokens.
    """

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        delimiters = delimiters_of(spec)
        special = {folded for text in encoder.marked if len(folded := fold(text)) > 2 and not folded.isalnum()}
        # A text that is both, as `<|im_end|>`, counts as a special token: it cannot be forged.
        kinds = dict.fromkeys(delimiters.tags, "fence") | dict.fromkeys(special, "special-token")
        self._tags: Mapping[str, str] = {tag: kind for tag, kind in kinds.items() if TAG.fullmatch(tag)}
        self._others = [
            (kind, re.compile("|".join(re.escape(text) for text in sorted(texts))))
            for kind in ("fence", "special-token")
            if (texts := [text for text, own in kinds.items() if own == kind and text not in self._tags])
        ]
        openings = [re.escape(text) for text in sorted(delimiters.openings)]
        openings += [f"{re.escape(text)}(?=\n)" for text in sorted(delimiters.lines)]
        words = [f"{re.escape(text)}(?=\n)" for text in sorted(delimiters.words)]
        self._starts, self._words = (re.compile(f"\n(?:{'|'.join(t)})") if t else None for t in (openings, words))

    def detect(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """The signs in a conversation, in the order of :data:`SUSPICIONS`."""
        signs = {kind for message in messages for kind in self._detect(message.content)}
        return tuple(kind for kind in SUSPICIONS if kind in signs)

    def _detect(self, text: str) -> set[str]:
        folded = f"\n{fold(text)}\n"
        signs = set()
        for match in itertools.chain(*(pattern.finditer(folded) for pattern in _BRACKETED)):
            kind = self._tags.get(match[0].replace("\n", ""))
            if kind is not None:
                signs.add(kind)
                if len(signs) == 2:
                    break
        for kind, pattern in self._others:
            if kind not in signs and pattern.search(folded):
                signs.add(kind)
        # A message that is nothing but a verdict's word is an everyday message.
        starts = (self._starts, self._words if "\n" in folded.strip("\n") else None)
        if "fence" not in signs and any(pattern is not None and pattern.search(folded) for pattern in starts):
            signs.add("fence")
        if has_invisible(text):
            signs.add("invisible")
        return signs


def has_invisible(text: str) -> bool:
    """Whether a text holds invisible characters that no script needs in their place."""
    if "\U0001f3f4" in text:
        text = _FLAGS.sub("", text)
    return _INVISIBLE.search(text) is not None
