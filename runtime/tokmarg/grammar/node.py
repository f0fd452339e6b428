"""Nodes of the token trie: a token path, and the grammar moves that its tokens may be part of.

On the path ``S 1`` of a tokenizer that splits digits, the labels S1 to S14 and the terminator ``<end>``:

    partial move   tokens still to come   then
    label S1       none                   "," + another label, or <end>
    label S10      0                      "," + another label, or <end>
    label S11      1                      "," + another label, or <end>
    ...

An event is *certain* at a node when every partial move brings it, *possible* when some partial move can.
"""

from __future__ import annotations

from typing import NamedTuple

from .syntax import Part, State

__all__ = ["CompiledMove", "Node", "PartialMove", "TokenContext"]


class PartialMove(NamedTuple):
    """A grammar move of which the path ends somewhere in the middle: ``rest`` are its tokens still to come.

    Attributes:
        events: bit set of the events on the path, those of this move included; of no other event can this move tell.
        rest: tokens of the move still to come.
        state: state of the grammar after the move; None when only a terminator may follow.
        context: text that the tokens after the move depend on.
        is_lead: the move is a lead, text in front of the verdict.
        is_terminator: the move is a terminator; the verdict is complete after it.
        moves: every grammar move on the path, this one included.
    """

    events: int
    rest: tuple[int, ...]
    state: State | None
    context: TokenContext
    is_lead: bool = False
    is_terminator: bool = False
    moves: tuple[CompiledMove, ...] = ()


class Node:
    """A token path from the root. Only :class:`~tokmarg.grammar.trie.Trie` makes nodes and reads their partial moves.

    Attributes:
        token: last token of the path (-1 at the root).
        parent: the node before it.
        path: tokens from the root to this node.
        depth: number of tokens on the path.
        certain: bit set of events that happen in every verdict below.
        possible: bit set of events that happen in some verdict below.
        complete: the path is a whole verdict, terminator included.
        partial_moves: readings of the path that can go on; none if it is complete.
        known_children: children by token; None until they are unfolded.
        known_only_child: the answer of ``Trie.only_child`` in a tuple; None until it has been computed.
    """

    __slots__ = (
        "certain", "complete", "depth", "known_children", "known_only_child", "parent", "partial_moves", "path",
        "possible", "token",
    )  # fmt: skip

    def __init__(
        self, token: int, parent: Node | None, partial_moves: list[PartialMove], certain: int, possible: int
    ) -> None:
        self.token, self.parent = token, parent
        self.path: tuple[int, ...] = (*parent.path, token) if parent else ()
        self.depth = len(self.path)
        self.certain, self.possible = certain, possible
        self.complete = not partial_moves
        self.partial_moves = partial_moves
        self.known_children: dict[int, Node] | None = None
        self.known_only_child: tuple[Node | None] | None = None


class TokenContext(NamedTuple):
    """Text before the next token, as far as its encoding may depend on it.

    Attributes:
        encoded: text whose tokens are on the path.
        pending: text after it that is said already, but whose tokens depend on what follows.
    """

    encoded: str
    pending: str = ""


class CompiledMove(NamedTuple):
    """A grammar move with its tokens.

    Attributes:
        tokens: its token path.
        events: bit set of events that it brings.
        label: bit of the label that it is; 0 where it is none of a list.
        used: bit set of the labels that may not come any more after it, because of it.
        parts: grammar parts after it; None when only a terminator may follow.
        context: text that the tokens after it depend on.
        text: text of the move.
        alternative: the tokens are not the tokenizer's own; the spec lists them.
    """

    tokens: tuple[int, ...]
    events: int
    label: int
    used: int
    parts: tuple[Part, ...] | None
    context: TokenContext
    text: str
    alternative: bool = False
