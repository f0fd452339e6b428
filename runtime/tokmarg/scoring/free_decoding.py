"""Free (unconstrained) decoding: which labels a generated token path spells, and which token completes each.

Greedy and nucleus decoding may leave the verdict grammar. A :class:`DecodedPath` therefore carries the grammar's trie
node as long as there is one, and its text:

on the grammar   an event is complete where its text stands in full and the trie is certain of it
off the grammar  a label is complete where the text ends with it, as in the published code of arXiv:2511.22312; the
                 longest one, where several end there. A path is off the grammar from the first token on that the
                 grammar does not allow; a repeated label is one.

Where the tokenizer spells one label by extending another, the shorter one stays *open* until the token that shows that
it is not the longer one, on the grammar and off it:

    S 1      open: S1
    S 1 0    completes S10
    S 1 ,    completes S1

A suffix match alone would count the mass of ``S10`` as mass of ``S1``, too; and so would the trie, where ``S10`` has
been named before and only ``S1`` may follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from tokmarg.grammar.compiler import shared_length
from tokmarg.grammar.grammar import UNSAFE, Grammar
from tokmarg.grammar.node import Node
from tokmarg.grammar.syntax import Move, Part, State
from tokmarg.grammar.trie import Trie
from tokmarg.tokenizer import Encoder

__all__ = ["DecodedPath", "PathReader"]


class DecodedPath:
    """A generated token path with the events that it completes; compared by identity.

    Attributes:
        token: last token (-1 at the root).
        parent: the path without its last token; None at the root.
        depth: number of tokens.
        node: of the verdict trie; None off the grammar.
        text: the tokens' text.
        completed: bit set of the events that the last token completes.
        open: bit set of the labels that are spelt, but may still be the beginning of another.
        spelt: bit set of the events whose text stands in full on the path, as long as it is on the grammar.
    """

    __slots__ = ("completed", "depth", "node", "open", "parent", "spelt", "text", "token")

    def __init__(
        self,
        token: int,
        parent: DecodedPath | None,
        node: Node | None,
        text: str,
        completed: int = 0,
        open: int = 0,
        spelt: int = 0,
    ) -> None:
        self.token, self.parent = token, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.node, self.text, self.completed = node, text, completed
        self.open, self.spelt = open, spelt

    @property
    def tokens(self) -> list[int]:
        """Token ids from the root."""
        tokens, path = [], self
        while path.parent is not None:
            tokens.append(path.token)
            path = path.parent
        return tokens[::-1]


class PathReader:
    """Extends paths by tokens and tracks the events that they complete. Safe to share between threads.

    Args:
        trie: the verdict trie of a role mode.
        encoder: the bundle's tokenizer.
        terminators: of the verdict; the special tokens among them end a path on and off the grammar.

    Attributes:
        events: names of the events; bit i of every bit set is event i.
        ends: token ids that end every path.
        counted: bit set of the events that are reported: the labels and ``unsafe``.
    """

    def __init__(self, trie: Trie, encoder: Encoder, terminators: tuple[str, ...]) -> None:
        self.trie, self._encoder = trie, encoder
        self.events = trie.events
        self.ends = frozenset(i for text in terminators if (i := encoder.token_id(text)) is not None)
        self.counted = (1 << len(trie.grammar.labels)) - 1 | trie.grammar.mask(UNSAFE)
        self._phrases, self._own_characters = _phrases(trie.grammar)
        self._longest_first = sorted(self._phrases, key=lambda text: (-len(text), text))
        self._longer = {text: _longer(text, self._longest_first, encoder) for text in self._phrases}
        self._extensible = sum({bit for text, bit in self._phrases.items() if self._longer[text]})
        self._compatible_tokens: dict[str, set[int]] = {}  # cache of :meth:`_compatible`

    def root(self) -> DecodedPath:
        """The empty path of a new search."""
        return DecodedPath(-1, None, self.trie.root, "")

    def extend(self, path: DecodedPath, token: int) -> DecodedPath:
        """The path with one more token."""
        texts = self._encoder.texts
        piece = texts[token] if token < len(texts) else ""  # a graph may have more columns than there are tokens
        text = path.text + piece
        ending = next((phrase for phrase in self._longest_first if piece and text.endswith(phrase)), "")
        bit = self._phrases.get(ending, 0)
        completed, open = self._settle(path, piece)
        if ending and self._longer[ending]:
            open, bit = open | bit, 0
        node = None if path.node is None else self.trie.children(path.node).get(token)
        if path.node is None or node is None:
            return DecodedPath(token, path, None, text, completed | bit, open)
        spelt = self.trie.spelled_events(node, path.spelt)
        certain = node.certain & spelt & ~(path.node.certain & path.spelt)
        return DecodedPath(token, path, node, text, completed | certain & self.counted & ~self._extensible, open, spelt)

    def ended(self, path: DecodedPath) -> bool:
        """Whether the path ends here: with an end of turn, or a complete verdict."""
        return path.token in self.ends or (path.node is not None and path.node.complete)

    def text(self, path: DecodedPath) -> str:
        """The path's text as the tokenizer decodes it, without an end of turn."""
        tokens = path.tokens
        return self._encoder.decode(tokens[:-1] if path.token in self.ends else tokens)

    def completions(self, path: DecodedPath) -> tuple[dict[int, int], int]:
        """The events that each next token completes.

        Returns:
            token -> bit set of the events it completes, and the bit set that every other token completes: those open
            labels that it shows to be no beginning of another.
        """
        tokens = set(() if path.node is None else self.trie.children(path.node))
        for before, finishing in self._finishing.items():
            if path.text.endswith(before):
                tokens |= finishing
        others = 0
        for phrase, bit, tail in self._open_phrases(path):
            others |= bit
            for rest in self._longer[phrase]:
                if rest.startswith(tail):
                    tokens |= self._compatible(rest[len(tail) :])
        return {token: self.extend(path, token).completed for token in tokens}, others

    def own_tokens(self, path: DecodedPath, bit: int) -> int:
        """How many of the last tokens of a path are the own ones of an event that stands in full at its end: those from
        the first that tells it from the others, the last at least. On the grammar the trie knows them; off it, they are
        those that spell its own characters: ``10`` of ``S10`` where all labels begin with ``S``.

        Args:
            path: on which the event is complete or open.
            bit: of the event.
        """
        own = None if path.node is None else self.trie.own_tokens(path.node, bit)
        if own is None:
            phrases = (text for text in self._longest_first if self._phrases[text] == bit and path.text.endswith(text))
            start = len(path.text) - self._own_characters.get(next(phrases, ""), 0)
            own, step = 1, path.parent
            while step is not None and len(step.text) > start:
                own, step = own + 1, step.parent
        return max(1, own)

    def _settle(self, path: DecodedPath, piece: str) -> tuple[int, int]:
        """Bit sets of the open labels that the next token's text completes, and of those that it leaves open."""
        completed, open = 0, 0
        for phrase, bit, tail in self._open_phrases(path):
            tail += piece
            if any(rest != tail and rest.startswith(tail) for rest in self._longer[phrase]):
                open |= bit
            elif not any(tail.startswith(rest) for rest in self._longer[phrase]):
                completed |= bit
        return completed, open

    def _open_phrases(self, path: DecodedPath) -> Iterator[tuple[str, int, str]]:
        """The open labels: phrase, bit, and the text after it."""
        if path.open:
            for phrase, bit in self._phrases.items():
                start = path.text.rfind(phrase)
                if path.open & bit and start >= 0:
                    yield phrase, bit, path.text[start + len(phrase) :]

    @cached_property
    def _finishing(self) -> dict[str, set[int]]:
        """Text before -> tokens that complete a phrase after it ("" = after any text)."""
        by_text: dict[str, set[int]] = {}
        finishing: dict[str, set[int]] = {"": set()}
        phrases = tuple(self._phrases)
        for token, text in enumerate(self._encoder.texts):
            by_text.setdefault(text, set()).add(token)
            if text.endswith(phrases):
                finishing[""].add(token)
        for phrase in phrases:
            for i in range(1, len(phrase)):
                if tokens := by_text.get(phrase[i:]):
                    finishing.setdefault(phrase[:i], set()).update(tokens)
        return finishing

    def _compatible(self, rest: str) -> set[int]:
        """Tokens that a text may begin with where ``rest`` begins it: one of the two is a prefix of the other."""
        tokens = self._compatible_tokens.get(rest)
        if tokens is None:
            texts = enumerate(self._encoder.texts)
            tokens = {i for i, text in texts if text.startswith(rest) or rest.startswith(text)}
            self._compatible_tokens[rest] = tokens
        return tokens


def _phrases(grammar: Grammar) -> tuple[dict[str, int], dict[str, int]]:
    """Text by which each reported event is known off the grammar -> its bit; ambiguous texts are left out. And how many
    of its last characters are its own, those that not all options at its decision share."""
    labels = {1 << i: label for i, label in enumerate(grammar.labels)}
    reported = (1 << len(labels)) - 1 | grammar.mask(UNSAFE)
    by_text: dict[str, set[int]] = {}  # text -> bit sets of the moves that it may be
    own: dict[str, int] = {}
    seen: set[tuple[Part, ...]] = set()
    pending = [grammar.start.parts]
    while pending:
        parts = pending.pop()
        if parts in seen:
            continue
        seen.add(parts)
        moves = grammar.moves(State(parts, 0))
        for move in moves:
            events = move.events & reported  # an option may bring others, too
            texts = [text for text in labels.get(events, ()) if text and move.text.endswith(text)]
            phrase = max(texts, key=len, default=move.text.strip())
            by_text.setdefault(phrase, set()).add(events)
            own[phrase] = max(own.get(phrase, 1), min(len(phrase), len(move.text.rstrip()) - _shared(move, moves)))
            if move.state is not None:
                pending.append(move.state.parts)
    single = {*labels, grammar.mask(UNSAFE)}
    return {text: bit for text, bits in by_text.items() if text and len(bits) == 1 for bit in bits & single}, own


def _shared(move: Move, moves: list[Move]) -> int:
    """How many first characters of a move all options of its decision share; see :meth:`GrammarCompiler.shared`."""

    options = [(each.label or each.text, each.text) for each in moves if bool(each.label) == bool(move.label)]
    return shared_length(move.text, options)


def _longer(text: str, phrases: list[str], encoder: Encoder) -> tuple[str, ...]:
    """What other phrases add to ``text``, where the tokenizer spells them with the tokens of ``text`` first."""
    ids = encoder.encode_text(text)
    longer = [phrase for phrase in phrases if phrase.startswith(text) and phrase != text]
    return tuple(phrase[len(text) :] for phrase in longer if encoder.encode_text(phrase)[: len(ids)] == ids)
