"""Overlapping windows over the last message, for content that exceeds the context window.

Every window repeats the earlier messages. So that they cannot multiply the cost of a content, the judged message has at
least a quarter of what messages may take in a prompt: the oldest messages are left out until it does. A window then
moves on by three quarters of a quarter of what is computed for it, and all windows together hold at most
:data:`WORST_FACTOR` times as many tokens of messages as the content, and one window more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokmarg.errors import ContentError

from .builder import Prompt, PromptBuilder
from .messages import Message
from .token_borders import token_borders

__all__ = ["OVERLAP", "SHARE", "WORST_FACTOR", "longest", "windows"]

#: Share of a window's tokens that the next window repeats.
OVERLAP = 0.25
#: Least share of the tokens of messages in a prompt that the judged message has.
SHARE = 0.25
#: Tokens of messages in all windows, for each token of the content: the limit for a content much longer than a window.
WORST_FACTOR = 1 / (SHARE * (1 - OVERLAP))


def windows(prompt_builder: PromptBuilder, messages: Sequence[Message]) -> Iterator[tuple[Prompt, ...]]:
    """The prompts of windows that together cover the whole last message; each prompt fits.

    Windows start and end at token borders and overlap by a quarter, so that text at a border is whole in one.
    Stretches of white space that fill a whole window are left out, and so are the oldest messages where the others
    would leave the last one less than a quarter of what messages may take.

    Raises:
        ContentError: ``content_too_long`` when a message that the template needs before the last one leaves it less;
            ``unsupported_conversation``; ``not_encodable``.
    """
    prompt_builder.check(messages)
    *earlier, last = _recent(prompt_builder, messages)
    max_size = _buffer(prompt_builder, [*earlier, last])
    # offsets[i]: characters [start, end) of the last message's token i; a window is tokens start .. start + size.
    offsets = list(token_borders(prompt_builder.encoder, last.content))
    start = 0
    while start < len(offsets):
        size = min(max_size, len(offsets) - start)
        while True:
            if size < 1:
                raise prompt_builder.too_long("of characters that take more tokens than a window has")
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


def _recent(prompt_builder: PromptBuilder, messages: Sequence[Message]) -> Sequence[Message]:
    """The conversation without its oldest messages, if those leave the last one too few tokens."""
    # Where turns alternate, a conversation begins with the user, so that messages go in pairs.
    in_turn = prompt_builder.spec.template.turns != "any"
    starts = [i for i, message in enumerate(messages) if i == 0 or not in_turn or message.role == "user"]
    shortest = messages[starts[-1] :]
    least = max(1, int(SHARE * _buffer(prompt_builder, [replace(message, content=".") for message in shortest])))
    first = bisect_left(starts, True, key=lambda start: _buffer(prompt_builder, messages[start:]) >= least)
    if first < len(starts):
        return messages[starts[first] :]
    needed = "" if len(shortest) == 1 else f" ({prompt_builder.spec.name} needs the message before it)"
    raise prompt_builder.too_long(
        f"so long without the judged message that less than a quarter of a window is left for that{needed}"
    )


def _buffer(prompt_builder: PromptBuilder, messages: Sequence[Message]) -> int:
    """Tokens that a window of the last message may have beside the earlier ones; 0 where those are too long alone."""
    *earlier, last = messages
    try:
        overhead = longest(prompt_builder.prompts([*earlier, replace(last, content=".")]))
    except ContentError as error:
        if error.type != "content_too_long":
            raise
        return 0
    return prompt_builder.max_tokens - overhead


def longest(prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt."""
    return max(len(prompt.token_ids) for prompt in prompts)
