"""Compiles the moves of a verdict grammar to token paths of one tokenizer.

The tokens of a move are those that the tokenizer gives for verdict-so-far + move, in the context of the prompt's last
characters: the canonical path. Other paths count where the spec lists them (``alternatives``):

    "[/INST]" + " unsafe"   ->   "▁unsafe"   and, if listed,   "▁un" "safe"   "un" "safe"

Where the end of a move merges with what may follow, its last characters wait for it: after ``Sexual (minor)`` Llama 3
may say ``),`` or ``)"}``, so the move's tokens end before the bracket, which is ``pending``.

Contexts after which the tokenizer does the same (:mod:`.boundaries`) share their compiled moves, so that the work grows
with the labels and not with their pairs. :meth:`GrammarCompiler.verify` compares samples with the tokenizer's own
encoding, and has every context compiled by itself where one differs.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Iterable, Sequence

from tokmarg.errors import SpecError
from tokmarg.tokenizer import Encoder, Piece

from .boundaries import Boundaries, head_shape, tail_shape
from .grammar import Grammar, Part
from .node import CompiledMove, TokenContext
from .syntax import Move, State

__all__ = ["GrammarCompiler", "shared_length"]


class GrammarCompiler:
    """Compiles the moves of one grammar for one tokenizer, each once for all contexts that are alike.

    Attributes:
        compiled: moves that have been compiled, of all contexts together.
        sharing: whether contexts that are alike share them.
    """

    def __init__(self, grammar: Grammar, encoder: Encoder) -> None:
        self._grammar, self._encoder = grammar, encoder
        self._boundaries, self.sharing = Boundaries(encoder), True
        self.compiled = 0
        #: Texts of the moves from a state, by the shape of their beginnings.
        self._heads: dict[tuple[Part, ...], dict[tuple[str, ...], list[str]]] = {}
        self._same: dict[tuple[Hashable, ...], TokenContext] = {}
        self._shared: dict[tuple[tuple[Part, ...], TokenContext], TokenContext] = {}
        self._moves: dict[tuple[tuple[Part, ...], TokenContext], list[CompiledMove]] = {}
        self._merging_texts: dict[tuple[Hashable, ...], tuple[str, ...]] = {}
        self._encoded: dict[str, tuple[int, ...]] = {}

    def lead(self, tail: str, text: str) -> tuple[tuple[int, ...], TokenContext]:
        """Tokens of a lead after the prompt's ``tail``, and the context after them, where the verdict begins.

        Raises:
            SpecError: it merges with the prompt.
        """
        return self._settled(TokenContext(tail), text, self._grammar.start)

    def moves(self, parts: tuple[Part, ...], context: TokenContext) -> list[CompiledMove]:
        """Moves from ``parts`` with no label used up yet: which labels are used never changes a move's tokens.

        Raises:
            SpecError: a move merges with the prompt, or an alternative of it does not exist; names the text.
        """
        context = self.shared_context(parts, context)
        compiled = self._moves.get((parts, context))
        if compiled is None:
            compiled = []
            for move in self._grammar.moves(State(parts, 0)):
                used, parts_after = (move.state.used, move.state.parts) if move.state else (0, None)
                tokens, after = self._settled(context, move.text, move.state)
                compiled.append(CompiledMove(tokens, move.events, move.label, used, parts_after, after, move.text))
                whole = TokenContext(context.pending + move.text or context.encoded)
                for tokens in self._alternatives(context, move):
                    compiled.append(compiled[-1]._replace(tokens=tokens, context=whole, alternative=True))
            self._moves[parts, context] = compiled
            self.compiled += len(compiled)
        return compiled

    def shared(self, move: CompiledMove, parts: tuple[Part, ...], context: TokenContext) -> int:
        """How many first tokens of a move from ``parts`` all options of its decision share: those of a label are the
        other labels of its list, used or not; those of a choice's option its other options."""
        return shared_length(
            move.tokens,
            ((m.label or m.text, m.tokens) for m in self.moves(parts, context) if bool(m.label) == bool(move.label)),
        )

    def shared_context(self, parts: tuple[Part, ...], context: TokenContext) -> TokenContext:
        """The context whose compiled moves stand for those of ``context``: the first one that was alike, or itself."""
        if not self.sharing:
            return context
        shared = self._shared.get((parts, context))
        if shared is None:
            alike = (parts, context.pending, *self._ending(context.encoded, parts, context.pending))
            shared = self._shared[parts, context] = self._same.setdefault(alike, context)
        return shared

    def _ending(self, encoded: str, parts: tuple[Part, ...], pending: str = "") -> tuple[Hashable, ...]:
        """What the tokens of a move from ``parts`` depend on in the text before it, of which ``pending`` is no part."""
        firsts = [pending] if pending else [alike[0] for alike in self._beginnings(parts).values()]
        return (tail_shape(encoded), *(self._boundaries.tail(encoded, first) for first in firsts))

    def verify(self, parts: tuple[Part, ...], context: TokenContext, rng: random.Random) -> bool:
        """Whether a random move after a context, and one after that, have the tokens that the whole text has there.

        If not, no context is shared from now on: what has been compiled is compiled again.
        """
        if self.shared_context(parts, context) == context:
            return True
        first = rng.choice(self.moves(parts, context))
        tokens, text, last = first.tokens, first.text, first
        if first.parts is not None:
            last = rng.choice(self.moves(first.parts, first.context))
            tokens, text = tokens + last.tokens, text + last.text
        base, whole = self._encode(context.encoded), self._encode(context.encoded + context.pending + text)
        path = (*base, *tokens)
        if (whole[: len(path)] if last.context.pending else whole) == path or first.alternative or last.alternative:
            return True
        self.stop_sharing()
        return False

    def stop_sharing(self) -> None:
        """Has every context compiled by itself from now on."""
        self.sharing = False
        self._moves.clear()
        self._merging_texts.clear()

    def terminator(self, text: str) -> tuple[int, ...]:
        """Tokens that end a verdict.

        Raises:
            SpecError: ``text`` is not one token.
        """
        special = self._encoder.token_id(text)
        if special is not None:
            return (special,)
        # After a word, as in a verdict: some tokenizers put a space in front of a text's first character.
        word, whole = self._encode("a"), self._encode("a" + text)
        if whole[:-1] != word:
            raise SpecError(f"the terminator {text!r} is not one token of this tokenizer")
        return whole[-1:]

    def _settled(self, context: TokenContext, text: str, state: State | None) -> tuple[tuple[int, ...], TokenContext]:
        """Those tokens of ``text`` after ``context`` that are the same whatever follows, and the context after them."""
        text = context.pending + text
        tokens = self._tokens(context.encoded, text)
        if text and not tokens:
            raise SpecError(f"the tokenizer has no tokens for the verdict text {text!r:.60}")
        # One move is context enough (`Trie.check` verifies it), and keeps the number of cached contexts small.
        encoded = text or context.encoded
        merging = self._merging(encoded, state.parts) if state else ()
        if not merging:
            return tokens, TokenContext(encoded)
        kept = min(_common_length(tokens, self._tokens(context.encoded, text + other)) for other in merging)
        offsets = self._encoder.encode([Piece(context.encoded + text, False)], after_special=True).offsets
        # ends[i]: characters of `text` that its first i tokens cover, for i = 0 .. len(tokens).
        ends = [0, *(end - len(context.encoded) for _, end in offsets[len(offsets) - len(tokens) :])]
        # A token may end inside a character.
        while kept and self._tokens(context.encoded, text[: ends[kept]]) != tokens[:kept]:
            kept -= 1
        return tokens[:kept], TokenContext(text[: ends[kept]] or context.encoded, text[ends[kept] :])

    def _merging(self, encoded: str, parts: tuple[Part, ...]) -> tuple[str, ...]:
        """Texts of moves from ``parts`` that change the tokens of ``encoded`` before them; one of those alike."""
        key = (parts, *self._ending(encoded, parts)) if self.sharing else (parts, encoded)
        texts = self._merging_texts.get(key)
        if texts is None:
            base = self._encode(encoded)
            merging: list[str] = []
            alike: Collection[str]
            for alike in self._beginnings(parts).values():
                first = next(iter(alike))
                closed = self.sharing and not self._boundaries.tail(encoded, first)
                if closed and self._encode(encoded + first)[: len(base)] == base:
                    continue
                if self.sharing:  # one for all that are the same as far as a token can reach
                    alike = {self._boundaries.reach(encoded, text): text for text in reversed(alike)}.values()
                merging += [text for text in alike if self._encode(encoded + text)[: len(base)] != base]
            texts = self._merging_texts[key] = tuple(merging)
        return texts

    def _beginnings(self, parts: tuple[Part, ...]) -> dict[tuple[str, ...], list[str]]:
        """Texts of the moves from ``parts``, by the shape of their beginnings; an empty text merges with nothing."""
        heads = self._heads.get(parts)
        if heads is None:
            heads = {}
            for move in self._grammar.moves(State(parts, 0)):
                if move.text:
                    heads.setdefault(head_shape(move.text), []).append(move.text)
            self._heads[parts] = heads
        return heads

    def _alternatives(self, context: TokenContext, move: Move) -> list[tuple[int, ...]]:
        """Token paths of a move that the spec lists beside the canonical one."""
        paths = [self._tokens(context.encoded, context.pending + move.text)]
        for other in move.alternatives:
            path = list(self._tokens(context.encoded, context.pending + other.before))
            for piece in other.pieces:
                token = self._encoder.vocabulary_id(piece)
                if token is None:
                    raise SpecError(
                        f"the tokenizer has no token {piece!r}, which an alternative spelling of {move.text!r} uses"
                    )
                path.append(token)
            if tuple(path) in paths:
                raise SpecError(
                    f"the alternative spelling {list(other.pieces)!r} of {move.text!r} is listed twice, "
                    "or the tokenizer's own"
                )
            paths.append(tuple(path))
        return paths[1:]

    def _tokens(self, before: str, text: str) -> tuple[int, ...]:
        """Tokens of ``text`` after the text ``before``."""
        base, whole = self._encode(before), self._encode(before + text)
        if whole[: len(base)] != base:
            raise SpecError(
                f"the verdict text {text!r} merges with {before[-20:]!r} before it: this tokenizer has no "
                "token path that keeps them apart"
            )
        return whole[len(base) :]

    def _encode(self, text: str) -> tuple[int, ...]:
        tokens = self._encoded.get(text)
        if tokens is None:
            tokens = self._encoded[text] = tuple(self._encoder.encode_verdict(text))
        return tokens


def shared_length(spelling: Sequence[object], options: Iterable[tuple[Hashable, Sequence[object]]]) -> int:
    """Length of the longest beginning of a spelling with which each option has a longer spelling, too.

    ``shared_length("S1", [("S1", "S1"), ("S1", ",S1"), ("S10", "S10"), ("S10", ",S10")]) == 1``

    Args:
        spelling: its last item is never shared.
        options: (which option, one of its spellings).
    """
    longest: dict[Hashable, int] = {}
    for option, other in options:
        common = _common_length(spelling, other)
        longest[option] = max(longest.get(option, 0), min(common, len(other) - 1))
    return max(0, min([len(spelling) - 1, *longest.values()]))


def _common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the longest common prefix of two sequences."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
