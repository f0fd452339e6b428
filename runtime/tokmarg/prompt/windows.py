"""Content beyond the context window: overlapping windows over the last message, and how their scores join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokmarg.errors import BundleError, ContentError
from tokmarg.prompt.labels import Role
from tokmarg.tokenizer import Encoder, Piece

from .builder import PART, Prompt, PromptBuilder
from .messages import Message

__all__ = ["EncodedRecord", "longest", "windows"]

#: Tokens at the end of a part whose borders depend on what follows.
_LOOSE = 64
#: Share of a window that the next one repeats.
OVERLAP = 0.25


def windows(prompter: PromptBuilder, messages: Sequence[Message]) -> Iterator[tuple[Prompt, ...]]:
    """The prompts of windows that together cover the whole last message; each prompt fits.

    Windows end where tokens do and overlap by a quarter, so that what stands at a border is seen whole once.
    Stretches of white space that fill a whole window are left out.

    Raises:
        ContentError: ``content_too_long`` when the earlier messages alone leave no room; ``not_encodable``.
    """
    *earlier, last = messages
    overhead = longest(prompter.prompts([*earlier, Message(last.role, ".")]))
    room = prompter.max_tokens - overhead
    offsets = list(_borders(prompter.encoder, last.content))
    start = 0
    while start < len(offsets):
        size = min(room, len(offsets) - start)
        while True:
            if size < 1:
                raise prompter.too_long(f"{overhead:,} tokens without the last message")
            text = last.content[offsets[start][0] : offsets[start + size - 1][1]]
            if not text.strip():
                break
            prompts = prompter.prompts([*earlier, Message(last.role, text)])
            if longest(prompts) <= prompter.max_tokens:
                yield prompts
                break
            size -= longest(prompts) - prompter.max_tokens  # cut text can take more tokens than it did
        if start + size == len(offsets):
            return
        start += max(1, int(size * (1 - OVERLAP)))


def _borders(encoder: Encoder, text: str) -> Iterator[tuple[int, int]]:
    """Where the tokens of a text start and end; long texts are encoded in parts."""
    at = 0
    while at < len(text):
        try:
            offsets = encoder.encode([Piece(text[at : at + PART], True)]).offsets
        except BundleError as error:
            raise ContentError("not_encodable", str(error)) from None
        if at + PART < len(text):
            offsets = offsets[:-_LOOSE]
        yield from ((at + start, at + end) for start, end in offsets)
        at += max(offsets[-1][1] if offsets else PART, 1)


def longest(prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt."""
    return max(len(prompt.token_ids) for prompt in prompts)


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A record whose prompts are encoded: one for each thing the guard is asked, in each window of the content."""

    id: object
    windows: tuple[tuple[Prompt, ...], ...]
    truncated: bool
    suspicious: tuple[str, ...] = ()

    @property
    def role(self) -> Role:
        """The role that is judged."""
        return self.windows[0][0].role
