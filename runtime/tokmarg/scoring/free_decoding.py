"""What a freely generated token path says: which labels it spells, and which token completes each.

Greedy and nucleus decoding may leave the verdict grammar. A :class:`Path` therefore carries the grammar's trie node
as long as there is one, and its text:

on the grammar   an event is complete where its text stands in full and the trie is certain of it
off the grammar  a label is complete where the text ends with it, as in the published code of arXiv:2511.22312; the
                 longest one, where several end there. Off the grammar is everything behind the first token that the
                 grammar does not allow, a repeated label included.

Where the tokenizer spells one label by going on from another (``S``, ``1`` and ``S``, ``1``, ``0``), the shorter one
stays *open* until the token that shows it is not the longer one, on the grammar and off it. A suffix match alone
would count the mass of ``S10`` as mass of ``S1``, too; and so would the trie, where ``S10`` has been named before and
only ``S1`` may follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from tokmarg.grammar.grammar import UNSAFE, Grammar, Part, State
from tokmarg.grammar.node import Node
from tokmarg.grammar.trie import Trie
from tokmarg.tokenizer import Encoder

__all__ = ["Path", "Reader"]


class Path:
    """A token path; known by identity.

    Attributes:
        token: last token (-1 at the root).
        parent: the path before it.
        depth: number of tokens.
        node: where the path stands in the verdict trie; None off the grammar.
        text: what the path reads.
        completed: bit set of the events that the last token completes.
        open: bit set of the labels that are spelt, but may still be the beginning of another.
        spelt: bit set of the events whose text stands on the path, as long as it is on the grammar.
    """

    __slots__ = ("completed", "depth", "node", "open", "parent", "spelt", "text", "token")

    def __init__(
        self,
        token: int,
        parent: Path | None,
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
        """The tokens from the root."""
        found, path = [], self
        while path.parent is not None:
            found.append(path.token)
            path = path.parent
        return found[::-1]


class Reader:
    """Extends paths by tokens and says what they complete. Safe to share between threads.

    Args:
        trie: the verdict trie of a role mode.
        encoder: the bundle's tokenizer.
        terminators: what ends a verdict; the special tokens among them end a path on and off the grammar.

    Attributes:
        ends: token ids that end every path.
        counted: bit set of the events that are reported: the labels and ``unsafe``.
    """

    def __init__(self, trie: Trie, encoder: Encoder, terminators: tuple[str, ...]) -> None:
        self.trie, self._encoder = trie, encoder
        self.events = trie.events
        self.ends = frozenset(i for text in terminators if (i := encoder.token_id(text)) is not None)
        self.counted = (1 << len(trie.grammar.labels)) - 1 | trie.grammar.mask(UNSAFE)
        self._phrases = _phrases(trie.grammar)
        self._longest_first = sorted(self._phrases, key=lambda text: (-len(text), text))
        self._longer = {text: _longer(text, self._longest_first, encoder) for text in self._phrases}
        self._growing = sum({bit for text, bit in self._phrases.items() if self._longer[text]})
        self._begins: dict[str, set[int]] = {}

    def root(self) -> Path:
        """The empty path of a new search."""
        return Path(-1, None, self.trie.root, "")

    def extend(self, path: Path, token: int) -> Path:
        """The path one token further."""
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
            return Path(token, path, None, text, completed | bit, open)
        spelt = self.trie.spelled_events(node, path.spelt)
        certain = node.certain & spelt & ~(path.node.certain & path.spelt)
        return Path(token, path, node, text, completed | certain & self.counted & ~self._growing, open, spelt)

    def ended(self, path: Path) -> bool:
        """Whether nothing follows: an end of turn, or a complete verdict."""
        return path.token in self.ends or (path.node is not None and path.node.complete)

    def text(self, path: Path) -> str:
        """What the path reads, without an end of turn."""
        tokens = path.tokens
        return self._encoder.decode(tokens[:-1] if path.token in self.ends else tokens)

    def completions(self, path: Path) -> tuple[dict[int, int], int]:
        """What each next token completes.

        Returns:
            token -> bit set of the events it completes, and the bit set that every token not listed completes: it
            shows that an open label is not the beginning of another.
        """
        tokens = set(() if path.node is None else self.trie.children(path.node))
        for before, tokens_ in self._finishing.items():
            if path.text.endswith(before):
                tokens |= tokens_
        others = 0
        for phrase, bit, tail in self._open(path):
            others |= bit
            for rest in self._longer[phrase]:
                if rest.startswith(tail):
                    tokens |= self._compatible(rest[len(tail) :])
        return {token: self.extend(path, token).completed for token in tokens}, others

    def continues(self, open: int, bit: int) -> bool:
        """Whether the label of ``bit`` is spelt by going on from one of the labels ``open``."""
        shorter = [phrase for phrase, other in self._phrases.items() if open & other]
        longer = [phrase for phrase, other in self._phrases.items() if bit & other]
        return any(b[len(a) :] in self._longer[a] for a in shorter for b in longer if b.startswith(a))

    def _settle(self, path: Path, piece: str) -> tuple[int, int]:
        """Which open labels the next token's text completes, and which it leaves open."""
        completed, open = 0, 0
        for phrase, bit, tail in self._open(path):
            tail += piece
            if any(rest != tail and rest.startswith(tail) for rest in self._longer[phrase]):
                open |= bit
            elif not any(tail.startswith(rest) for rest in self._longer[phrase]):
                completed |= bit
        return completed, open

    def _open(self, path: Path) -> Iterator[tuple[str, int, str]]:
        """Phrase, bit, and the text behind it, of the open labels."""
        if path.open:
            for phrase, bit in self._phrases.items():
                at = path.text.rfind(phrase)
                if path.open & bit and at >= 0:
                    yield phrase, bit, path.text[at + len(phrase) :]

    @cached_property
    def _finishing(self) -> dict[str, set[int]]:
        """Text before -> tokens that complete a phrase behind it ("" = wherever they stand)."""
        by_text: dict[str, set[int]] = {}
        found: dict[str, set[int]] = {"": set()}
        phrases = tuple(self._phrases)
        for token, text in enumerate(self._encoder.texts):
            by_text.setdefault(text, set()).add(token)
            if text.endswith(phrases):
                found[""].add(token)
        for phrase in phrases:
            for i in range(1, len(phrase)):
                if tokens := by_text.get(phrase[i:]):
                    found.setdefault(phrase[:i], set()).update(tokens)
        return found

    def _compatible(self, rest: str) -> set[int]:
        """Tokens that may stand where ``rest`` stands: those that begin it, and those that begin with it."""
        found = self._begins.get(rest)
        if found is None:
            texts = enumerate(self._encoder.texts)
            found = self._begins[rest] = {i for i, text in texts if text.startswith(rest) or rest.startswith(text)}
        return found


def _phrases(grammar: Grammar) -> dict[str, int]:
    """The text of each reported event, off the grammar -> its bit. What reads like another part is left out."""
    labels = {1 << i: label for i, label in enumerate(grammar.labels)}
    reported = (1 << len(labels)) - 1 | grammar.mask(UNSAFE)
    found: dict[str, set[int]] = {}
    seen: set[tuple[Part, ...]] = set()
    pending = [grammar.start.parts]
    while pending:
        parts = pending.pop()
        if parts in seen:
            continue
        seen.add(parts)
        for move in grammar.moves(State(parts, 0)):
            events = move.events & reported  # an option may bring others, too
            texts = [text for text in labels.get(events, ()) if move.text.endswith(text)]
            found.setdefault(max(texts, key=len, default=move.text.strip()), set()).add(events)
            if move.state is not None:
                pending.append(move.state.parts)
    one = {*labels, grammar.mask(UNSAFE)}
    return {text: bit for text, bits in found.items() if text and len(bits) == 1 for bit in bits & one}


def _longer(text: str, phrases: list[str], encoder: Encoder) -> tuple[str, ...]:
    """What other phrases add to ``text`` where the tokenizer spells them by going on from its tokens."""
    ids = encoder.encode_text(text)
    longer = [phrase for phrase in phrases if phrase.startswith(text) and phrase != text]
    return tuple(phrase[len(text) :] for phrase in longer if encoder.encode_text(phrase)[: len(ids)] == ids)
