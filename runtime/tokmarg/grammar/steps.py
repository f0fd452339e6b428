"""The grammar as steps of tokens between places, for :mod:`.ambiguity`: contexts that are alike are one place."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

from .ambiguity import END, Step
from .node import CompiledMove, TokenContext
from .syntax import Part

__all__ = ["BEFORE", "GrammarSteps"]

#: The place before leads and verdict.
BEFORE: Hashable = "before"


class CompiledMoves(Protocol):
    """What is asked of a grammar's compiler."""

    def moves(self, parts: tuple[Part, ...], context: TokenContext, /) -> list[CompiledMove]:
        """The moves from ``parts`` after a context."""

    def shared_context(self, parts: tuple[Part, ...], context: TokenContext, /) -> TokenContext:
        """The context whose moves stand for those of ``context``."""


class GrammarSteps:
    """The steps from a place: before the verdict, before a move in a context, or before the end.

    Args:
        compiler: of the grammar.
        starts: tokens of each lead, and parts and context after it.
        terminators: their tokens.
    """

    def __init__(
        self,
        compiler: CompiledMoves,
        starts: Sequence[tuple[tuple[int, ...], tuple[Part, ...], TokenContext]],
        terminators: Sequence[tuple[int, ...]],
    ) -> None:
        self._compiler, self._starts, self._terminators = compiler, starts, terminators

    def __call__(self, place: Any) -> list[Step]:
        """The steps from a place."""
        if place is BEFORE:
            return [step for start in self._starts for step in self._to(start[0], 0, start[1], start[2])]
        parts, context = place
        if parts is None:
            return [Step(ids, 0, END) for ids in self._terminators]
        moves = self._compiler.moves(parts, context)
        return [step for move in moves for step in self._to(move.tokens, move.events, move.parts, move.context)]

    def _to(
        self, tokens: tuple[int, ...], events: int, parts: tuple[Part, ...] | None, context: TokenContext
    ) -> Iterator[Step]:
        """One step; where it has no tokens, the steps after it."""
        place = (parts, None if parts is None else self._compiler.shared_context(parts, context))
        if tokens:
            yield Step(tokens, events, place)
        else:
            yield from (Step(step.tokens, step.events | events, step.to) for step in self(place))
