"""What peers.py and shape_peers.py measure on: the machine, and the messages' prompts."""

from __future__ import annotations

import os
import statistics
from typing import Any

from graphs import machine


def load_average() -> float:
    """Of the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def prefix_and_rests(guard: Any, texts: list[str]) -> tuple[list[int], list[list[int]]]:
    """Token ids that all prompts begin with, and what each has after them."""
    from tokmarg.engine.prefix import shared_tokens

    prompts = [list(guard.prompt(text).token_ids) for text in texts]
    shared = min(shared_tokens(prompts[0], prompt) for prompt in prompts)
    return prompts[0][:shared], [prompt[shared:] for prompt in prompts]


def facts(threads: int, rounds: int, sizes: list[int], prefix: int, load: float) -> str:
    """The machine, the threads, the messages."""
    mean = statistics.mean(sizes)
    return (
        f"{machine()}, {threads} threads; load average before the rounds {load:.1f}. {len(sizes)} messages, half of "
        f"them harmless; {min(sizes)} to {max(sizes)} new tokens each, {mean:.0f} on average, after a cached prefix "
        f"of {prefix}; {rounds} rounds.\n"
    )
