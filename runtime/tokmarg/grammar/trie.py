"""The verdict grammar compiled for one tokenizer: which token may come next, and what it decides.

Label lists have more orders than can be listed (14 labels: about 2.4e11 verdicts), so the trie is unfolded where
the search goes. A node is a token path; it holds *threads*, the grammar moves that are under way on that path:

    path  S 1      threads: label S1 is complete, behind it ",S2" ... or a terminator
                            label S10 needs "0", S11 needs "1", ...

so with tokenizers that split digits ``S1`` is told from ``S10`` by the token that follows, as it must be.
An event is *certain* at a node when every thread brings it, *possible* when some thread can.

Which tokens spell a move is :mod:`tokmarg.grammar.compiler`'s business.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokmarg.errors import SpecError
from tokmarg.tokenizer import Encoder

from .compiler import Place, Spelling, SpeltMove
from .grammar import Grammar, State

__all__ = ["Node", "Trie", "Undecided"]

# Unfolded nodes are shared by all searches. Beyond this many the next search starts a tree of its own, and the old one
# goes with the last search that uses it: memory stays bounded however many contents are scored.
_KEPT_NODES = 20_000


class _Thread(NamedTuple):
    """A move under way: ``rest`` tokens are still to come, then ``state`` at ``place``."""

    happened: int  # events on the path, the move under way included: nothing else can come of this thread
    rest: tuple[int, ...]
    state: State | None
    place: Place
    lead: bool = False
    ends: bool = False  # `rest` is a terminator: the verdict is complete behind it
    said: tuple[SpeltMove, ...] = ()  # the moves up to here, this one included


class Undecided(NamedTuple):
    """A node before the first decision: the tokens that decide there, and those that lead on to it."""

    node: Node
    decides: tuple[int, ...]
    passes: tuple[int, ...]


class Node:
    """A token path from the root.

    Attributes:
        token: last token of the path (-1 at the root).
        parent: the node before it.
        path: tokens from the root to this node.
        depth: number of tokens on the path.
        certain: bit set of events that happen in every verdict below.
        possible: bit set of events that happen in some verdict below.
        complete: the path is a whole verdict, terminator included.
    """

    __slots__ = (
        "_children", "_only", "_threads", "certain", "complete", "depth", "parent", "path", "possible", "token",
    )  # fmt: skip

    def __init__(self, token: int, parent: Node | None, threads: list[_Thread], certain: int, possible: int) -> None:
        self.token, self.parent = token, parent
        self.path: tuple[int, ...] = (*parent.path, token) if parent else ()
        self.depth = len(self.path)
        self.certain, self.possible = certain, possible
        self.complete = not threads
        self._threads = threads
        self._children: dict[int, Node] | None = None
        self._only: tuple[Node | None] | None = None  # the answer of Trie.only_child, once it has been asked


class Trie:
    """The token trie of one grammar, unfolded lazily. Safe to share between threads.

    Args:
        grammar: the verdict grammar of a role mode.
        encoder: the bundle's tokenizer.
        tail: the prompt's text behind its last special token.
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
        self._spelling = Spelling(grammar, encoder)
        self._terminators = tuple(self._spelling.terminator(text) for text in terminators)
        self._decided: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
        self._lock = threading.Lock()
        self._unfolded = 0
        self._starts = [self._spelling.lead(tail, text) for text in leads]
        self._threads = [_Thread(0, tokens, grammar.start, place, lead=True) for tokens, place in self._starts]
        self._root = self._node(-1, None, self._threads)

    @property
    def root(self) -> Node:
        """The root of the tree for a new search; keep it, the next one may be another."""
        if self._unfolded > _KEPT_NODES:
            self._unfolded = 0
            self._root = self._node(-1, None, self._threads)
            self._decided.clear()
        return self._root

    def children(self, node: Node) -> dict[int, Node]:
        """Allowed next tokens, in ascending order of token id, with the nodes behind them."""
        if node._children is None:
            with self._lock:  # one set of children for all threads: searches know nodes by identity
                if node._children is None:
                    node._children = self._unfold(node)
        return node._children

    def _unfold(self, node: Node) -> dict[int, Node]:
        by_token: dict[int, list[_Thread]] = {}
        for thread in self._opened(node._threads):
            by_token.setdefault(thread.rest[0], []).append(thread._replace(rest=thread.rest[1:]))
        self._unfolded += len(by_token)
        return {token: self._node(token, node, by_token[token]) for token in sorted(by_token)}

    def only_child(self, node: Node) -> Node | None:
        """The node behind the only allowed token; None where there is a choice, or the verdict is complete."""
        if node._only is None:
            node._only = (self._only_child(node),)
        return node._only[0]

    def _only_child(self, node: Node) -> Node | None:
        first = {thread.rest[0] for thread in node._threads if thread.rest}  # most nodes are settled by these
        if len(first) < 2:
            for thread in self._opened(thread for thread in node._threads if not thread.rest):
                first.add(thread.rest[0])
                if len(first) > 1:
                    break
        return self.children(node)[first.pop()] if len(first) == 1 else None

    def spelt(self, node: Node, before: int) -> int:
        """Events whose text the path to ``node`` holds in full, as a bit set.

        Those of them that are not certain there may still be the beginning of another text (``S1`` of ``S10``).

        Args:
            node: where the path leads.
            before: the same bit set, of the node's parent.
        """
        if node.complete:
            return node.certain
        ended = [thread.happened for thread in node._threads if not thread.rest]
        return reduce(or_, ended, before & reduce(or_, (thread.happened for thread in node._threads)))

    def said(self, node: Node) -> list[tuple[SpeltMove, ...]]:
        """Every reading of the path to ``node`` as moves of the grammar; the last move may still be under way."""
        if node.complete and node.parent is not None:
            ended = (t for t in self._opened(node.parent._threads) if t.ends and t.rest[0] == node.token)
            return [thread.said for thread in ended]
        return [thread.said for thread in node._threads]

    def has_ended(self, node: Node) -> bool:
        """Whether nothing but a terminator can follow the moves under way, or one has."""
        behind = (thread if thread.ends else thread._replace(rest=()) for thread in node._threads)
        return node.complete or all(thread.ends for thread in self._opened(behind))

    def decided(self, node: Node) -> npt.NDArray[np.float64]:
        """Which events are certain at a node, and which may still happen: 0 or 1, float64 [2, events]."""
        masks = (node.certain, node.possible & ~node.certain)
        found = self._decided.get(masks)
        if found is None:
            found = np.array([[mask >> i & 1 for i in range(len(self.events))] for mask in masks], dtype=np.float64)
            self._decided[masks] = found
        return found

    def undecided(self, root: Node) -> list[Undecided]:
        """The root and what leads and forced text pass through up to the first decision, parents first.

        The model's raw probabilities at these nodes make up the coverage.
        """
        found: list[Undecided] = []
        pending = [root]
        while pending:
            node = pending.pop(0)
            threads = list(self._opened(node._threads))
            passed = {t.rest[0] for t in threads if t.lead}
            decided = {t.rest[0] for t in threads if not t.lead} - passed
            if len(decided) == 1:
                passed, decided = passed | decided, set()
            found.append(Undecided(node, tuple(sorted(decided)), tuple(sorted(passed))))
            children = self.children(node)
            pending += [children[token] for token in sorted(passed)]
        return found

    def vocabulary(self) -> tuple[int, ...]:
        """Every token that some verdict uses, ascending. Compiles every move of the grammar in every context.

        Raises:
            SpecError: a move cannot be compiled; names its text.
        """
        found = {token for ids in self._terminators for token in ids}
        found |= {token for tokens, _ in self._starts for token in tokens}
        seen = set()
        pending = [(self.grammar.start.parts, place) for _, place in self._starts]
        while pending:
            key = pending.pop()
            if key in seen:
                continue
            seen.add(key)
            for move in self._spelling.moves(*key):
                found.update(move.tokens)
                if move.parts is not None:
                    pending.append((move.parts, move.place))
        return tuple(sorted(found))

    def check(self, samples: int = 100) -> None:
        """Compiles the whole grammar and compares random verdicts with the tokenizer's own encoding of prompt tail +
        verdict; walks the trie along each, and unfolds the nodes near the root.

        Raises:
            SpecError: a text cannot be compiled, or two different verdicts share one token path; names it.
        """
        self.vocabulary()
        rng = random.Random(0)
        base = self._encoder.encode_verdict(self._tail)
        for _ in range(samples):
            text, events = self._random_verdict(rng)
            whole = self._encoder.encode_verdict(self._tail + text)
            node = self.root
            for token in (*whole[len(base) :], *self._terminators[0]):
                children = self.children(node)
                if whole[: len(base)] != base or token not in children:
                    raise SpecError(f"the tokenizer encodes the verdict {text!r} differently as a whole and in steps")
                node = children[token]
            if not node.complete or node.certain != events:
                raise SpecError(f"the verdict {text!r} has more than one reading")
        frontier = [self.root]
        for _ in range(2000):
            if frontier:
                frontier += self.children(frontier.pop(0)).values()

    def _random_verdict(self, rng: random.Random) -> tuple[str, int]:
        text = rng.choice(self._leads)
        state: State | None = self.grammar.start
        events = 0
        while state is not None:
            move = rng.choice(self.grammar.moves(state))
            text, events, state = text + move.text, events | move.events, move.state
        return text, events

    def _node(self, token: int, parent: Node | None, threads: list[_Thread]) -> Node:
        going = [t for t in threads if t.rest or not t.ends]
        finished = {t.happened for t in threads if t.ends and not t.rest}
        if len(finished) > 1 or (finished and going):
            masks = sorted(finished | {t.happened for t in going})
            a = " and ".join(", ".join(self.grammar.names(mask)) or "nothing" for mask in masks)
            raise SpecError(
                f"verdicts with different events have the same tokens: {a} (both end at token "
                f"{self._encoder.token_text(token)!r})"
            )
        certain, possible = -1, 0
        for thread in threads:
            certain &= thread.happened
            possible |= thread.happened | self.grammar.reachable(thread.state)
        return Node(token, parent, going, certain, possible)

    def _opened(self, threads: Iterable[_Thread]) -> Iterator[_Thread]:
        """The threads with those behind a completed move in its place: each has a next token."""
        for thread in threads:
            if thread.rest:
                yield thread
            elif thread.state is None:
                for ids in self._terminators:
                    yield _Thread(thread.happened, ids, None, thread.place, ends=True, said=thread.said)
            else:
                used = thread.state.used
                for move in self._spelling.moves(thread.state.parts, thread.place):
                    if not move.used & used:
                        state = None if move.parts is None else State(move.parts, used | move.used)
                        said = (*thread.said, move)
                        after = _Thread(thread.happened | move.events, move.tokens, state, move.place, said=said)
                        if move.tokens:
                            yield after
                        else:
                            yield from self._opened([after])
