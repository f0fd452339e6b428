"""Overlapping windows over the last message, for content that exceeds the context window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokmarg.errors import BundleError, ContentError
from tokmarg.tokenizer import Encoder, Piece

from .builder import CHUNK, Prompt, PromptBuilder
from .messages import Message

__all__ = ["longest", "windows"]

#: Tokens at the end of a chunk whose borders may depend on what follows.
_UNCERTAIN = 64
#: Share of a window's tokens that the next window repeats.
OVERLAP = 0.25


def windows(prompt_builder: PromptBuilder, messages: Sequence[Message]) -> Iterator[tuple[Prompt, ...]]:
    """The prompts of windows that together cover the whole last message; each prompt fits.

    Windows start and end at token borders and overlap by a quarter, so that text at a border is whole in one.
    Stretches of white space that fill a whole window are left out.

    Raises:
        ContentError: ``content_too_long`` when the other messages already fill the prompt; ``not_encodable``.
    """
    *earlier, last = messages
    overhead = longest(prompt_builder.prompts([*earlier, Message(last.role, ".")]))
    max_size = prompt_builder.max_tokens - overhead
    # offsets[i]: characters [start, end) of the last message's token i; a window is tokens start .. start + size.
    offsets = list(_borders(prompt_builder.encoder, last.content))
    start = 0
    while start < len(offsets):
        size = min(max_size, len(offsets) - start)
        while True:
            if size < 1:
                raise prompt_builder.too_long(f"{overhead:,} tokens without the last message")
            text = last.content[offsets[start][0] : offsets[start + size - 1][1]]
            if not text.strip():
                break
            prompts = prompt_builder.prompts([*earlier, Message(last.role, text)])
            if longest(prompts) <= prompt_builder.max_tokens:
                yield prompts
                break
            # A cut text can have more tokens than it has inside the whole text.
            size -= longest(prompts) - prompt_builder.max_tokens
        if start + size == len(offsets):
            return
        start += max(1, int(size * (1 - OVERLAP)))


def _borders(encoder: Encoder, text: str) -> Iterator[tuple[int, int]]:
    """Characters ``[start, end)`` of each token of a text; long texts are encoded chunk by chunk."""
    at = 0
    while at < len(text):
        try:
            offsets = encoder.encode([Piece(text[at : at + CHUNK], True)]).offsets
        except BundleError as error:
            raise ContentError("not_encodable", str(error)) from None
        if at + CHUNK < len(text):
            offsets = offsets[:-_UNCERTAIN]
        yield from ((at + start, at + end) for start, end in offsets)
        at += max(offsets[-1][1] if offsets else CHUNK, 1)


def longest(prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt."""
    return max(len(prompt.token_ids) for prompt in prompts)
