"""The grammar as steps of tokens between places, for :mod:`.ambiguity`: contexts that are alike are one place."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol, cast

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
        ordered: bit set of the labels of lists in the policy's order (:attr:`.grammar.Grammar.ordered`).
    """

    def __init__(
        self,
        compiler: CompiledMoves,
        starts: Sequence[tuple[tuple[int, ...], tuple[Part, ...], TokenContext]],
        terminators: Sequence[tuple[int, ...]],
        ordered: int,
    ) -> None:
        self._compiler, self._starts, self._terminators, self._ordered = compiler, starts, terminators, ordered

    def __call__(self, place: Any) -> list[Step]:
        """The steps from a place."""
        if place is BEFORE:
            return [
                step for tokens, parts, context in self._starts for step in self._to(Step(tokens, 0, (parts, context)))
            ]
        parts, context = place
        if parts is None:
            return [Step(ids, 0, END) for ids in self._terminators]
        return [step for move in self._compiler.moves(parts, context) for step in self._to(self._step(move))]

    def _step(self, move: CompiledMove) -> Step:
        label, used = move.label & self._ordered, move.used & self._ordered
        return Step(move.tokens, move.events, (move.parts, move.context), label, used)

    def _to(self, step: Step) -> Iterator[Step]:
        """The step to a place that is shared; where it has no tokens, the steps after it with its events and labels."""
        parts, context = cast("tuple[tuple[Part, ...] | None, TokenContext]", step.to)
        place = (parts, None if parts is None else self._compiler.shared_context(parts, context))
        if step.tokens:
            yield step._replace(to=place)
        else:
            for after in self(place):
                if not after.label & step.used:
                    label, used = after.label | step.label, after.used | step.used
                    yield after._replace(events=after.events | step.events, label=label, used=used)
