"""What an AsyncGuard does and has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokmarg.engine.prompt_cache import CacheStats

from .engine_line import LineCounts

__all__ = ["GuardStats"]


@dataclass(frozen=True, slots=True)
class GuardStats:
    """What an :class:`AsyncGuard` does and has done.

    Attributes:
        waiting: contents in the waiting line, those that are being encoded among them.
        waiting_tokens: tokens of their prompts.
        in_flight: contents whose passes run.
        done: contents that were scored, or found impossible to score by the model.
        failed: contents that were lost with their pass.
        cancelled: contents given up by their callers, at a timeout or otherwise.
        refused: contents refused because the line was full.
        passes: forward passes of the guard's session, by other callers, too.
        tokens: new tokens that those carried.
        cache: of the guard's prompt cache; zeros without one.
    """

    waiting: int
    waiting_tokens: int
    in_flight: int
    done: int
    failed: int
    cancelled: int
    refused: int
    passes: int
    tokens: int
    cache: CacheStats

    @classmethod
    def of(cls, counts: LineCounts, session: Sequence[int], cache: CacheStats | None) -> GuardStats:
        """Those of a line, a session's counts, and a cache."""
        return cls(
            counts.waiting,
            counts.waiting_tokens,
            counts.in_flight,
            counts.done,
            counts.failed,
            counts.cancelled,
            counts.refused,
            passes=session[3],
            tokens=session[0],
            cache=cache or CacheStats(),
        )
