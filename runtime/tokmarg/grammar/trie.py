"""Token trie: the verdict grammar compiled for one tokenizer; which token may come next, and which events it decides.

Label lists have more orders than can be listed (14 labels: about 2.4e11 verdicts), so the trie is unfolded lazily, only
where a search looks. :mod:`tokmarg.grammar.node` describes a node, :mod:`tokmarg.grammar.compiler` finds the tokens of
a grammar move.

A guard that says ``safe``, or ``unsafe`` and a list of the labels A and B, has with one token per word the trie

    root ── safe ── <end>
     └───── unsafe ── \\n ── A ── <end>
                        │    └── , ── B ── <end>
                        └─── B ── <end>
                             └── , ── A ── <end>

Longer than 300 lines: the check walks the tree with the same contexts and partial moves that unfolding uses.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokmarg.errors import SpecError
from tokmarg.tokenizer import Encoder

from .ambiguity import suspicious_paths
from .compiler import GrammarCompiler
from .grammar import Grammar
from .node import CompiledMove, Node, PartialMove, TokenContext
from .steps import BEFORE, GrammarSteps
from .syntax import Part, State

__all__ = ["Trie", "Undecided"]

#: Unfolded nodes are shared by all searches. Beyond this many the next search starts a new tree, and the old one is
#: freed with the last search that uses it: memory stays bounded however many contents are scored.
_KEPT_NODES = 20_000
#: The same for the partial moves of these nodes: with many labels a node has many.
_KEPT_READINGS = 300_000
#: Partial moves that a node and its children may have: two labels with the same tokens double them at every step.
_MAX_READINGS = 50_000
#: Of a check: partial moves of the nodes that it unfolds from the root on, and paths with two readings that it walks.
_NEAR_ROOT, _MAX_SUSPICIONS = 10_000, 300


class Undecided(NamedTuple):
    """A node before the first decision: the child tokens that decide, and those that lead to another such node."""

    node: Node
    decides: tuple[int, ...]
    passes: tuple[int, ...]


class Trie:
    """The token trie of one grammar, unfolded lazily. Safe to share between threads.

    Args:
        grammar: the verdict grammar of a role mode.
        encoder: the bundle's tokenizer.
        tail: the prompt's text after its last special token.
        leads: texts that may precede the verdict.
        terminators: what ends a verdict: special tokens or plain text.

    Raises:
        SpecError: a terminator is no single token path, or the verdict's first characters merge with the prompt.
    """

    def __init__(
        self, grammar: Grammar, encoder: Encoder, tail: str, leads: tuple[str, ...], terminators: tuple[str, ...]
    ) -> None:
        self.grammar, self._encoder, self._tail = grammar, encoder, tail
        self.events = grammar.events
        self._leads = leads
        self._compiler = GrammarCompiler(grammar, encoder)
        self._terminators = tuple(self._compiler.terminator(text) for text in terminators)
        self._decided: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
        self._lock = threading.Lock()
        self._unfolded = self._readings = 0
        self._vocabulary: tuple[int, ...] | None = None
        self._begin()

    def _begin(self) -> None:
        self._starts = [self._compiler.lead(self._tail, text) for text in self._leads]
        self._lead_moves = [
            PartialMove(0, tokens, self.grammar.start, context, is_lead=True) for tokens, context in self._starts
        ]
        self._root = self._node(-1, None, self._lead_moves)

    @property
    def root(self) -> Node:
        """The root of the tree for a new search; the search must keep it, the next call may return another."""
        if self._unfolded > _KEPT_NODES or self._readings > _KEPT_READINGS:
            self._unfolded = self._readings = 0
            self._root = self._node(-1, None, self._lead_moves)
            self._decided.clear()
        return self._root

    def children(self, node: Node) -> dict[int, Node]:
        """Allowed next tokens, in ascending order of token id, with their nodes."""
        if node.known_children is None:
            with self._lock:  # one set of children for all threads: searches compare nodes by identity
                if node.known_children is None:
                    node.known_children = self._unfold(node)
        return node.known_children

    def _unfold(self, node: Node) -> dict[int, Node]:
        by_token: dict[int, list[PartialMove]] = {}
        for count, move in enumerate(self._expanded(node.partial_moves), 1):
            by_token.setdefault(move.rest[0], []).append(move._replace(rest=move.rest[1:]))
            if count > _MAX_READINGS:
                raise SpecError(f"a beginning of verdicts has more than {_MAX_READINGS:,} readings")
        self._readings += sum(map(len, by_token.values()))
        self._unfolded += len(by_token)
        return {token: self._node(token, node, by_token[token]) for token in sorted(by_token)}

    def only_child(self, node: Node) -> Node | None:
        """The child of the only allowed token; None where there is a choice, or the verdict is complete."""
        if node.known_only_child is None:
            node.known_only_child = (self._only_child(node),)
        return node.known_only_child[0]

    def _only_child(self, node: Node) -> Node | None:
        tokens = {move.rest[0] for move in node.partial_moves if move.rest}  # enough to answer for most nodes
        if len(tokens) < 2:
            for move in self._expanded(move for move in node.partial_moves if not move.rest):
                tokens.add(move.rest[0])
                if len(tokens) > 1:
                    break
        return self.children(node)[tokens.pop()] if len(tokens) == 1 else None

    def spelled_events(self, node: Node, before: int) -> int:
        """Events whose text the path to ``node`` holds in full, as a bit set.

        Those of them that are not certain there may still be the beginning of another text (``S1`` of ``S10``).

        Args:
            node: the end of the path.
            before: the same bit set of the node's parent.
        """
        if node.complete:
            return node.certain
        ended = [move.events for move in node.partial_moves if not move.rest]
        return reduce(or_, ended, before & reduce(or_, (move.events for move in node.partial_moves)))

    def own_tokens(self, node: Node, event: int) -> int | None:
        """How many of the last tokens of the path are the event's own: those from the first that tells its option from
        the others at that decision (:meth:`GrammarCompiler.shared`). None where no move of the path brings the event.

        Args:
            node: the end of the path; not a complete verdict.
            event: bit of the event.
        """
        for partial in node.partial_moves:
            parts = self.grammar.start.parts
            contexts = [context for _, context in self._starts]
            for i, move in enumerate(partial.moves):
                if move.events & event:
                    context = next(each for each in contexts if move in self._compiler.moves(parts, each))
                    since = sum(len(each.tokens) for each in partial.moves[i:]) - len(partial.rest)
                    return since - self._compiler.shared(move, parts, context)
                parts, contexts = move.parts or (), [move.context]
        return None

    def readings(self, node: Node) -> list[tuple[CompiledMove, ...]]:
        """Every reading of the path to ``node`` as moves of the grammar; the last move may be incomplete."""
        if node.complete and node.parent is not None:
            moves = self._expanded(node.parent.partial_moves)
            return [move.moves for move in moves if move.is_terminator and move.rest[0] == node.token]
        return [move.moves for move in node.partial_moves]

    def has_ended(self, node: Node) -> bool:
        """Whether nothing but a terminator can follow the moves of the path, or one has."""
        ended = (move if move.is_terminator else move._replace(rest=()) for move in node.partial_moves)
        return node.complete or all(move.is_terminator for move in self._expanded(ended))

    def decided(self, node: Node) -> npt.NDArray[np.float64]:
        """Which events are certain at a node, and which are possible but not certain: 0 or 1, float64 [2, events]."""
        masks = (node.certain, node.possible & ~node.certain)
        rows = self._decided.get(masks)
        if rows is None:
            rows = np.array([[mask >> i & 1 for i in range(len(self.events))] for mask in masks], dtype=np.float64)
            self._decided[masks] = rows
        return rows

    def undecided(self, root: Node) -> list[Undecided]:
        """The nodes up to the first decision, parents first: the root, and the nodes along leads and forced text.

        The model's raw probabilities at these nodes make up the coverage.
        """
        nodes: list[Undecided] = []
        pending = [root]
        while pending:
            node = pending.pop(0)
            moves = list(self._expanded(node.partial_moves))
            passes = {move.rest[0] for move in moves if move.is_lead}
            decides = {move.rest[0] for move in moves if not move.is_lead} - passes
            # Where the grammar leaves no choice at all, its last token counts as the decision.
            if len(decides) == 1 and not self.children(node)[min(decides)].complete:
                passes, decides = passes | decides, set()
            nodes.append(Undecided(node, tuple(sorted(decides)), tuple(sorted(passes))))
            children = self.children(node)
            pending += [children[token] for token in sorted(passes)]
        return nodes

    def identity(self) -> tuple[object, ...]:
        """What the trie follows from, for a hash: its representation is the same in every process."""
        grammar = self.grammar
        return grammar.start, grammar.labels, self._tail, self._leads, self._terminators, self._encoder.fingerprint

    @property
    def shares(self) -> bool:
        """Whether contexts that look alike share their compiled moves, as far as is known by now."""
        return self._compiler.sharing

    def take_as_checked(self, vocabulary: tuple[int, ...], shares: bool) -> None:
        """Takes what a check of a trie of the same identity found."""
        if not shares:
            self._compiler.stop_sharing()
            self._begin()
        self._vocabulary = vocabulary

    def vocabulary(self) -> tuple[int, ...]:
        """Every token that some verdict uses, ascending. Compiles every move of the grammar in every context.

        Raises:
            SpecError: a move cannot be compiled; names its text.
        """
        if self._vocabulary is None:
            while (used := self._compiled_tokens()) is None:  # twice at most: contexts are then not shared any more
                self._begin()
            self._vocabulary = tuple(sorted(used))
        return self._vocabulary

    def _compiled_tokens(self) -> set[int] | None:
        """Tokens of all moves; None where contexts that were taken for alike are not."""
        used = {token for ids in self._terminators for token in ids}
        used |= {token for tokens, _ in self._starts for token in tokens}
        rng = random.Random(0)
        seen: set[tuple[tuple[Part, ...], TokenContext]] = set()
        pending = [(self.grammar.start.parts, context) for _, context in self._starts]
        while pending:
            key = pending.pop()
            if key in seen:
                continue
            seen.add(key)
            if not self._compiler.verify(*key, rng):
                return None
            if self._compiler.shared_context(*key) != key[1]:
                continue  # the context that stands for it has been seen, or waits
            for move in self._compiler.moves(*key):
                used.update(move.tokens)
                if move.parts is not None:
                    pending.append((move.parts, move.context))
        return used

    def check(self, samples: int = 100) -> None:
        """Compiles the whole grammar and compares random verdicts with the tokenizer's own encoding of prompt tail +
        verdict; walks the trie along each, along every path that may have two readings, and near the root.

        Args:
            samples: random verdicts; with none the nodes near the root are left out, too.

        Raises:
            SpecError: a text cannot be compiled, or two different verdicts share one token path; names it.
        """
        self.vocabulary()
        starts = [(tokens, self.grammar.start.parts, context) for tokens, context in self._starts]
        for path in itertools.islice(
            suspicious_paths(GrammarSteps(self._compiler, starts, self._terminators, self.grammar.ordered), BEFORE),
            _MAX_SUSPICIONS,
        ):
            self._walk(path)
        rng = random.Random(0)
        base = self._encoder.encode_verdict(self._tail)
        for _ in range(samples):
            text, events = self.grammar.random_verdict(rng, self._leads)
            whole = self._encoder.encode_verdict(self._tail + text)
            node = self._walk([*whole[len(base) :], *self._terminators[0]])
            if whole[: len(base)] != base or node is None:
                raise SpecError(f"the tokenizer encodes the verdict {text!r} differently as a whole and in steps")
            if not node.complete or node.certain != events:
                raise SpecError(f"the verdict {text!r} has more than one reading")
        frontier, work = deque([self.root] if samples else []), 0
        while frontier and work < _NEAR_ROOT:
            children = self.children(frontier.popleft()).values()
            work += sum(1 + len(child.partial_moves) for child in children)
            frontier += children

    def _walk(self, path: Iterable[int]) -> Node | None:
        """The node at the end of a path; None if it leaves the trie."""
        node: Node | None = self.root
        for token in path:
            node = self.children(node).get(token) if node is not None else None
        return node

    def _node(self, token: int, parent: Node | None, moves: list[PartialMove]) -> Node:
        going_on = [move for move in moves if move.rest or not move.is_terminator]
        ended = {move.events for move in moves if move.is_terminator and not move.rest}
        if len(ended) > 1 or (ended and going_on):
            masks = sorted(ended | {move.events for move in going_on})
            verdicts = " and ".join(", ".join(self.grammar.names(mask)) or "nothing" for mask in masks)
            raise SpecError(
                f"verdicts with different events have the same tokens: {verdicts} (both end at token "
                f"{self._encoder.token_text(token)!r})"
            )
        certain, possible = -1, 0
        for move in moves:
            certain &= move.events
            possible |= move.events | self.grammar.reachable(move.state)
        return Node(token, parent, going_on, certain, possible)

    def _expanded(self, moves: Iterable[PartialMove]) -> Iterator[PartialMove]:
        """Partial moves with at least one token to come: a completed move is replaced by the moves that may follow."""
        for move in moves:
            if move.rest:
                yield move
            elif move.state is None:
                for ids in self._terminators:
                    yield PartialMove(move.events, ids, None, move.context, is_terminator=True, moves=move.moves)
            else:
                used = move.state.used
                for following in self._compiler.moves(move.state.parts, move.context):
                    if not following.label & used:
                        state = None if following.parts is None else State(following.parts, used | following.used)
                        events, path = move.events | following.events, (*move.moves, following)
                        after = PartialMove(events, following.tokens, state, following.context, moves=path)
                        if following.tokens:
                            yield after
                        else:
                            yield from self._expanded([after])
