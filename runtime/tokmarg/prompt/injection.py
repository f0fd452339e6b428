"""What is odd about a content, beside its score: fences, spelt special tokens, characters that nobody sees.

A report, and nothing else: it changes no prompt, no probability and no flag. A content that is not reported may be an
attack all the same, and one that is may be harmless (a pasted chat log has ``User:`` at the start of its lines).
Every search is linear in the content.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from tokmarg.tokenizer import Encoder

from .delimiters import TAG, fences_of, fold
from .messages import Message
from .spec import Spec

__all__ = ["SUSPICIONS", "Suspicions"]

#: The closed list of what ``suspicious`` in a result can hold.
SUSPICIONS: dict[str, str] = {
    "fence": "the content holds text with which the guard's template marks its parts: a delimiter, a role in front of "
    "a message, a verdict",
    "special-token": "the content spells a special token of the guard's tokenizer; it was encoded as plain text",
    "invisible": "the content holds characters that nobody sees: zero-width ones, controls, tags, direction overrides",
}

#: What stands in brackets of one kind, over line ends too. A search for each, so that ``<a [/INST] b>`` hides none.
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


class Suspicions:
    """Looks at contents for one guard.

    Args:
        spec: whose template and grammar say what its fences are.
        encoder: its tokenizer, whose special tokens are looked for.
    """

    def __init__(self, spec: Spec, encoder: Encoder) -> None:
        fences = fences_of(spec)
        spelt = {folded for text in encoder.marked if len(folded := fold(text)) > 2 and not folded.isalnum()}
        # What is both, `<|im_end|>` say, cannot be forged: it is a special token.
        kinds = dict.fromkeys(fences.tags, "fence") | dict.fromkeys(spelt, "special-token")
        self._tags: Mapping[str, str] = {tag: kind for tag, kind in kinds.items() if TAG.fullmatch(tag)}
        self._others = [
            (kind, re.compile("|".join(re.escape(text) for text in sorted(texts))))
            for kind in ("fence", "special-token")
            if (texts := [text for text, own in kinds.items() if own == kind and text not in self._tags])
        ]
        openings = [re.escape(text) for text in sorted(fences.openings)]
        openings += [f"{re.escape(text)}(?=\n)" for text in sorted(fences.lines)]
        words = [f"{re.escape(text)}(?=\n)" for text in sorted(fences.words)]
        self._starts, self._words = (re.compile(f"\n(?:{'|'.join(t)})") if t else None for t in (openings, words))

    def of(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """What is odd about a conversation, in the order of :data:`SUSPICIONS`."""
        found = {kind for message in messages for kind in self._of(message.content)}
        return tuple(kind for kind in SUSPICIONS if kind in found)

    def _of(self, text: str) -> set[str]:
        folded = f"\n{fold(text)}\n"
        found = set()
        for match in itertools.chain(*(pattern.finditer(folded) for pattern in _BRACKETED)):
            kind = self._tags.get(match[0].replace("\n", ""))
            if kind is not None:
                found.add(kind)
                if len(found) == 2:
                    break
        for kind, pattern in self._others:
            if kind not in found and pattern.search(folded):
                found.add(kind)
        # A verdict's word is a message like any other where it is all of it.
        starts = (self._starts, self._words if "\n" in folded.strip("\n") else None)
        if "fence" not in found and any(pattern is not None and pattern.search(folded) for pattern in starts):
            found.add("fence")
        if is_invisible(text):
            found.add("invisible")
        return found


def is_invisible(text: str) -> bool:
    """Whether a text holds characters that nobody sees and that no script needs where they stand."""
    if "\U0001f3f4" in text:
        text = _FLAGS.sub("", text)
    return _INVISIBLE.search(text) is not None
