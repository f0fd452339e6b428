"""Waiting line: the contents that an engine has yet to begin, and who is told when one is done.

An engine takes contents from a line between its passes, whenever one more fits, and goes on until the line says that
none will come. The line of a batch is a list; that of a service is fed while the engine runs.

    line ── take ──> in flight: pass, pass, ... ──> line.done
             ^ between passes: the next takes the place of who is done or cancelled
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as GenericSequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tokmarg.errors import TokmargError

from .prefix import Prefix
from .sequence import Sequence

__all__ = ["BatchLine", "InFlightLimit", "SequenceGroup", "WaitingLine"]


@dataclass(slots=True, eq=False)
class SequenceGroup:
    """A content for an engine: a prompt, and those that branch off it.

    Attributes:
        sequences: the trunk first.
        prefix: that the prompts begin with.
        size: tokens of the prompts after the prefix, about: those of the trunk count for each branch.
    """

    sequences: list[Sequence[Any]]
    prefix: Prefix
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(len(each.token_ids) - self.prefix.shared(each.token_ids) for each in self.sequences)


class WaitingLine(Protocol):
    """Where an engine's contents come from. All methods are called by the thread that runs the engine."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Takes what to call, from any thread, where a content joins the line or is cancelled while passes run."""

    def take(self, fits: Callable[[SequenceGroup], bool]) -> SequenceGroup | None:
        """The next content that fits; None where none does now."""

    def wait(self) -> bool:
        """Called where nothing is in flight: waits for a content. False where none will come."""

    def cancelled(self, group: SequenceGroup) -> bool:
        """Whether nobody wants a content in flight any more: it is dropped, and not reported."""

    def done(self, group: SequenceGroup, error: TokmargError | None = None) -> None:
        """A content's searches are done; or a pass that carried it has failed."""


class BatchLine:
    """The line of a batch.

    Args:
        groups: the contents, in the order in which they begin.
    """

    def __init__(self, groups: Iterable[SequenceGroup]) -> None:
        self._waiting = list(groups)[::-1]

    def watch(self, wake: Callable[[], None]) -> None:
        pass  # nobody joins later

    def take(self, fits: Callable[[SequenceGroup], bool]) -> SequenceGroup | None:
        return self._waiting.pop() if self._waiting and fits(self._waiting[-1]) else None

    def wait(self) -> bool:
        return bool(self._waiting)

    def cancelled(self, group: SequenceGroup) -> bool:
        return False

    def done(self, group: SequenceGroup, error: TokmargError | None = None) -> None:
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class InFlightLimit:
    """How much may be in flight at the same time. Each content takes memory for its keys and values.

    Long contents have a budget of their own: they take many passes, and short ones must not wait for their end.

    Attributes:
        contents: at most.
        tokens: of the prompts of all short contents, and of all long ones, at most; one always fits.
        long: tokens beyond which a content is long.
    """

    contents: int
    tokens: int
    long: int

    def fits(self, size: int, in_flight: GenericSequence[int]) -> bool:
        """Whether a content of ``size`` tokens may go in flight beside others, given their sizes."""
        if len(in_flight) >= self.contents:
            return False
        alike = [other for other in in_flight if (other > self.long) == (size > self.long)]
        return not alike or sum(alike) + size <= self.tokens
