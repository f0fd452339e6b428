"""How a tokenizer spells what the verdict grammar says: moves of text as paths of tokens.

Tokens of a move are those that the tokenizer gives for verdict-so-far + move, in the context of the prompt's last
characters: the canonical path. Other paths count where the spec lists them (``alternatives``):

    "[/INST]" + " unsafe"   ->   "▁unsafe"   and, if listed,   "▁un" "safe"   "un" "safe"

Where the end of a move merges with what may follow, its last tokens wait for it: behind ``Sexual (minor)`` Llama 3 may
say ``),`` or ``)"}``, so the move's tokens end before the bracket, which is ``pending``.
"""

from __future__ import annotations

from typing import NamedTuple

from tokmarg.errors import SpecError
from tokmarg.tokenizer import Encoder, Piece

from .grammar import Grammar, Move, Part, State

__all__ = ["Place", "Spelling", "SpeltMove"]


class Place(NamedTuple):
    """Where a token path stands: behind the text ``done``. ``pending`` is said, too, but in tokens that depend on
    what follows. Of the text before, only what the next tokens may depend on is kept."""

    done: str
    pending: str = ""


class SpeltMove(NamedTuple):
    """A grammar move with its tokens; ``used`` are the labels it uses up, ``parts`` and ``place`` what lies behind.
    ``text`` is what it says."""

    tokens: tuple[int, ...]
    events: int
    used: int
    parts: tuple[Part, ...] | None
    place: Place
    text: str


class Spelling:
    """The moves of one grammar, spelt by one tokenizer."""

    def __init__(self, grammar: Grammar, encoder: Encoder) -> None:
        self._grammar, self._encoder = grammar, encoder
        self._moves: dict[tuple[tuple[Part, ...], Place], list[SpeltMove]] = {}
        self._mergers: dict[tuple[str, tuple[Part, ...]], tuple[str, ...]] = {}
        self._encoded: dict[str, tuple[int, ...]] = {}

    def lead(self, tail: str, text: str) -> tuple[tuple[int, ...], Place]:
        """Tokens of a lead behind the prompt's ``tail``, and the place behind them, where the verdict begins.

        Raises:
            SpecError: it merges with the prompt.
        """
        return self._settled(Place(tail), text, self._grammar.start)

    def moves(self, parts: tuple[Part, ...], place: Place) -> list[SpeltMove]:
        """Moves from ``parts`` with no label used up yet: which labels are used never changes a move's tokens.

        Raises:
            SpecError: a move merges with the prompt, or an alternative of it does not exist; names the text.
        """
        found = self._moves.get((parts, place))
        if found is None:
            found = self._moves[parts, place] = []
            for move in self._grammar.moves(State(parts, 0)):
                used, behind = (move.state.used, move.state.parts) if move.state else (0, None)
                tokens, at = self._settled(place, move.text, move.state)
                found.append(SpeltMove(tokens, move.events, used, behind, at, move.text))
                whole = Place(place.pending + move.text or place.done)
                for tokens in self._alternatives(place, move):
                    found.append(SpeltMove(tokens, move.events, used, behind, whole, move.text))
        return found

    def terminator(self, text: str) -> tuple[int, ...]:
        """Tokens that end a verdict.

        Raises:
            SpecError: ``text`` is not one token.
        """
        special = self._encoder.token_id(text)
        if special is not None:
            return (special,)
        # Behind a word, as it stands in a verdict: some tokenizers put a space in front of a text's first character.
        word, whole = self._encode("a"), self._encode("a" + text)
        if whole[:-1] != word:
            raise SpecError(f"the terminator {text!r} is not one token of this tokenizer")
        return whole[-1:]

    def _settled(self, place: Place, text: str, state: State | None) -> tuple[tuple[int, ...], Place]:
        """Those tokens of ``text`` behind ``place`` that are the same whatever follows, and the place behind them."""
        text = place.pending + text
        tokens = self._tokens(place.done, text)
        context = text or place.done  # one move is context enough (`Trie.check` verifies it), and keeps the memo small
        merging = self._merging(context, state.parts) if state else ()
        if not merging:
            return tokens, Place(context)
        kept = min(_common(tokens, self._tokens(place.done, text + t)) for t in merging)
        offsets = self._encoder.encode([Piece(place.done + text, False)], behind=True).offsets
        ends = [0, *(end - len(place.done) for _, end in offsets[len(offsets) - len(tokens) :])]
        # Not every token boundary is one between characters.
        while kept and self._tokens(place.done, text[: ends[kept]]) != tokens[:kept]:
            kept -= 1
        return tokens[:kept], Place(text[: ends[kept]] or place.done, text[ends[kept] :])

    def _merging(self, context: str, parts: tuple[Part, ...]) -> tuple[str, ...]:
        """Texts of moves from ``parts`` that change the tokens of ``context``."""
        found = self._mergers.get((context, parts))
        if found is None:
            alone = self._encode(context)
            texts = [move.text for move in self._grammar.moves(State(parts, 0))]
            found = tuple(text for text in texts if self._encode(context + text)[: len(alone)] != alone)
            self._mergers[context, parts] = found
        return found

    def _alternatives(self, place: Place, move: Move) -> list[tuple[int, ...]]:
        """Token paths of a move that the spec lists beside the canonical one."""
        found = [self._tokens(place.done, place.pending + move.text)]
        for other in move.alternatives:
            path = list(self._tokens(place.done, place.pending + other.before))
            for piece in other.pieces:
                token = self._encoder.vocabulary_id(piece)
                if token is None:
                    raise SpecError(
                        f"the tokenizer has no token {piece!r}, which an alternative spelling of {move.text!r} uses"
                    )
                path.append(token)
            if tuple(path) in found:
                raise SpecError(
                    f"the alternative spelling {list(other.pieces)!r} of {move.text!r} is listed twice, "
                    "or the tokenizer's own"
                )
            found.append(tuple(path))
        return found[1:]

    def _tokens(self, context: str, text: str) -> tuple[int, ...]:
        """Tokens of ``text`` behind ``context``."""
        base, whole = self._encode(context), self._encode(context + text)
        if whole[: len(base)] != base:
            raise SpecError(
                f"the verdict text {text!r} merges with {context[-20:]!r} before it: this tokenizer has no "
                "token path that keeps them apart"
            )
        return whole[len(base) :]

    def _encode(self, text: str) -> tuple[int, ...]:
        found = self._encoded.get(text)
        if found is None:
            found = self._encoded[text] = tuple(self._encoder.encode_verdict(text))
        return found


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two paths begin with together."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
