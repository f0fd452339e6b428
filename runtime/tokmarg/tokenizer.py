"""Tokenizer: prompt text to token ids, with special tokens recognised in the scaffold only.

A prompt is scaffold text with content in known spans. It is split at the special tokens *of the scaffold*; everything
between two of them, scaffold and content together, is encoded as one string. So merges across the border come
out as they do when the whole prompt is tokenised (as in training), while a content that spells ``<|im_end|>`` is
encoded as plain characters.

For that the tokenizer is rebuilt without its added tokens. ``encode_special_tokens = True`` would leave the
added tokens that are not marked special (Qwen's ``<think>``), so they are taken out altogether; only those made
of white space stay (Gemma's runs of newlines), since they are how the model reads plain text. Where the vocabulary
holds special tokens as well, they are renamed there to names that no content can guess: a tokenizer that looks up whole
words, or whose normalizer makes ``<|im_end|>`` of ``＜｜im_end｜＞``, must not find them either.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers import __version__ as tokenizers_version

from .documents import unique_json
from .errors import BundleError
from .native import PanicError, first_line, raised_by, without_panic

__all__ = ["Encoder", "Encoding", "Piece"]

#: Token ids stay below this; the largest vocabularies have some 300,000 entries.
_MAX_ID = 2**24
#: Segments of scaffold whose encoding is kept: a policy's roles and labels have a few each.
_KEPT_SEGMENTS = 256
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
#: Texts that every tokenizer must encode when it is loaded: runs that make a hostile pattern backtrack forever.
_PROBES = [character * 256 + "\x01" for character in "aA1 !\n"]


class Piece(NamedTuple):
    """A stretch of prompt text; special tokens are recognised in scaffold pieces only."""

    text: str
    is_content: bool


class Encoding(NamedTuple):
    """Token ids, and for each the characters ``[start, end)`` of the whole text that it encodes; of equal length."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """Encodes scaffold and content with one tokenizer.

    Args:
        tokenizer_json: contents of ``tokenizer.json`` (the `tokenizers` library's format).
        where: name for messages.

    Attributes:
        fingerprint: sha256 of what the token ids depend on, the version of the library included.
        special_ids: name -> id of every added token that is not white space.
        vocabulary_text: every entry of the vocabulary in its own spelling, with NUL between.
        marked: names of those that the tokenizer marks as special; the others (Gemma's ``<b>``) may be everyday text.

    Raises:
        BundleError: the JSON is not a tokenizer, or the tokenizer fails on plain text.
    """

    def __init__(self, tokenizer_json: str, where: str = "tokenizer.json") -> None:
        self._where = where
        # All prompts share the scaffold, and a policy takes as long to encode as a content.
        self._encode_scaffold = lru_cache(_KEPT_SEGMENTS)(self._encode_segment)
        self.fingerprint = hashlib.sha256(f"{tokenizers_version} {tokenizer_json}".encode()).hexdigest()
        secret = secrets.token_hex(16)

        def load() -> Tokenizer:
            data: dict[str, Any] = unique_json(tokenizer_json)
            added = {_added(t)["content"]: t for t in data["added_tokens"]}
            self.special_ids: dict[str, int] = {text: t["id"] for text, t in added.items() if not _is_blank(text)}
            self.marked = tuple(text for text in self.special_ids if added[text]["special"])
            self._strips = {text: (bool(t["lstrip"]), bool(t["rstrip"])) for text, t in added.items()}
            data["added_tokens"] = [t for t in data["added_tokens"] if _is_blank(t["content"])]
            data["post_processor"] = data["truncation"] = data["padding"] = None
            if "dropout" in data["model"]:  # merges left out at random, which training wants
                data["model"]["dropout"] = None
            _rename(data["model"], self.special_ids, f"\ufdd2{secret}")
            return Tokenizer.from_str(json.dumps(data))

        try:
            self._plain = without_panic(load)
        except (Exception, PanicError) as error:  # the tokenizers library raises bare Exception
            if not raised_by(error, "tokenizers", "json"):
                raise
            what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise BundleError(f"{where}: not a tokenizer of the tokenizers library: {what:.300}") from error
        vocabulary = self._plain.get_vocab(with_added_tokens=True)
        self.largest_id = max(vocabulary.values(), default=0)  # of plain text
        self.vocabulary_text = "\0".join(vocabulary)
        self.longest_token = max((len(token) for token in vocabulary if secret not in token), default=1)  # characters
        # Some tokenizers put a space before the first word of a text, but not after a special token. So a segment after
        # one is encoded with a stand-in special token before it. Its name is random: no content can hold it.
        self._stand_in = f"\ufdd0{secret}\ufdd1"
        self._plain.add_special_tokens([AddedToken(self._stand_in, normalized=False)])
        self._stand_in_id = self._plain.token_to_id(self._stand_in)
        ordered = sorted(self.special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        for probe in _PROBES:
            self._encoded(probe)

    def token_id(self, text: str) -> int | None:
        """Id of the special token named ``text``, or None."""
        return self.special_ids.get(text)

    def encode(self, pieces: Sequence[Piece], *, after_special: bool = False) -> Encoding:
        """Encodes a prompt, or a part of one.

        Args:
            pieces: the text; special tokens are recognised in scaffold pieces only.
            after_special: a special token stands before the text.

        Returns:
            ids and character offsets into the joined text of ``pieces``.

        Raises:
            BundleError: the tokenizer fails on the text.
        """
        whole = "".join(piece.text for piece in pieces)
        ends = list(itertools.accumulate(len(piece.text) for piece in pieces))
        contents = [(end - len(piece.text), end) for piece, end in zip(pieces, ends, strict=True) if piece.is_content]
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0  # of the current segment in `whole`
        for at, special in [*self._scaffold_specials(pieces), (len(whole), None)]:
            lstrip, rstrip = (False, False) if special is None else self._strips[special]
            end = at
            while lstrip and end > start and whole[end - 1].isspace():
                end -= 1
            if end > start:
                is_scaffold = all(b <= start or end <= a for a, b in contents)
                encode = self._encode_scaffold if is_scaffold else self._encode_segment
                segment = encode(whole[start:end], after_special)
                ids += segment.ids
                offsets += [(start + a, start + b) for a, b in segment.offsets]
            if special is not None:
                ids.append(self.special_ids[special])
                start = at + len(special)
                offsets.append((at, start))
                after_special = True
                while rstrip and start < len(whole) and whole[start].isspace():
                    start += 1
        return Encoding(ids, offsets)

    def token_text(self, token: int) -> str:
        """A token's entry in the vocabulary, for messages."""
        special = next((text for text, i in self.special_ids.items() if i == token), None)
        return str(special if special is not None else self._plain.id_to_token(token))

    def vocabulary_id(self, token: str) -> int | None:
        """Id of the vocabulary entry ``token`` (in the vocabulary's own spelling), or None."""
        token_id: int | None = self.special_ids.get(token, self._plain.token_to_id(token))
        return token_id

    def count(self, text: str) -> int:
        """How many tokens plain text has; cheaper than :meth:`encode`."""
        return len(self._encoded(text))

    def word_ends(self, text: str) -> list[int]:
        """Where the pieces of a text end that are encoded each by itself (words, mostly), as numbers of characters.

        No token holds parts of two of them. Where the tokenizer has no such pieces, or they cannot be told since it
        changes the text's length before, all of the text is one.
        """
        normalizer, cut = self._plain.normalizer, self._plain.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        if cut is None or len(normal) != len(text):
            return [len(text)]
        return [end for _, (_, end) in cut.pre_tokenize_str(normal)]

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text in the middle of a prompt; special tokens are not recognised."""
        return self.encode([Piece(text, True)], after_special=True).ids

    def encode_verdict(self, text: str) -> list[int]:
        """Ids of a verdict, or of the scaffold before one; some guards answer with special tokens."""
        return self.encode([Piece(text, False)], after_special=True).ids

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token id, as it reads in the middle of a text; special tokens by their name.

        An incomplete UTF-8 sequence reads U+FFFD, an id of no token the empty text.
        """
        special = {i: text for text, i in self.special_ids.items()}
        size = 1 + max(self.largest_id, *special)
        known = self._plain.decode_batch([[self._stand_in_id, i] for i in range(size)], skip_special_tokens=False)
        return [special.get(i, text[len(self._stand_in) :]) for i, text in enumerate(known)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a token path in the middle of a prompt; special tokens by their name."""
        special = {i: text for text, i in self.special_ids.items()}
        text, plain = "", [self._stand_in_id]
        for i in [*ids, None]:
            if i is None or i in special:
                text += self._plain.decode(plain, skip_special_tokens=False)[len(self._stand_in) :]
                text, plain = text + special.get(-1 if i is None else i, ""), [self._stand_in_id]
            else:
                plain.append(i)
        return text

    def special_ids_in(self, scaffold: str) -> set[int]:
        """Ids of the special tokens in a piece of scaffold."""
        return {self.special_ids[text] for _, text in self._scaffold_specials([Piece(scaffold, False)])}

    def tail(self, scaffold: str) -> str:
        """The scaffold text after its last special token: what a following text may merge with."""
        if self._special is None:
            return scaffold
        ends = [match.end() for match in self._special.finditer(scaffold)]
        return scaffold[ends[-1] :] if ends else scaffold

    def _scaffold_specials(self, pieces: Sequence[Piece]) -> list[tuple[int, str]]:
        """The special tokens in scaffold pieces, each with its character position in the joined text."""
        specials: list[tuple[int, str]] = []
        at = 0
        for piece in pieces:
            if not piece.is_content and self._special is not None:
                specials += [(at + m.start(), m[0]) for m in self._special.finditer(piece.text)]
            at += len(piece.text)
        return specials

    def _encode_segment(self, text: str, after_special: bool) -> Encoding:
        """Encodes text between two special tokens."""
        if not after_special:
            encoding = self._encoded(text)
            return Encoding(encoding.ids, encoding.offsets)
        # The stand-in takes the special token's place; its own id and offset, the first, are dropped.
        encoding = self._encoded(self._stand_in + text)
        shift = len(self._stand_in)
        return Encoding(encoding.ids[1:], [(a - shift, b - shift) for a, b in encoding.offsets[1:]])

    def _encoded(self, text: str) -> Any:
        try:
            return without_panic(lambda: self._plain.encode(text, add_special_tokens=False))
        except (Exception, PanicError) as error:  # a pattern that backtracks too far, a word without an unknown token
            if not raised_by(error, "tokenizers"):
                raise
            raise BundleError(
                f"{self._where}: the tokenizer fails on a text of {len(text):,} characters: {first_line(error)}"
            ) from error


def _added(token: Any) -> dict[str, Any]:
    """An entry of ``added_tokens``; raises ValueError where it is malformed."""
    if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not token["content"]:
        raise ValueError("added_tokens: an entry has no content")
    number = token.get("id")
    if type(number) is not int or not 0 <= number < _MAX_ID:
        raise ValueError(f"added_tokens: the id of {token['content']!r:.60} is {number!r:.60}, not below {_MAX_ID:,}")
    return token


def _rename(model: Any, special: Iterable[str], prefix: str) -> None:
    """Renames special tokens in the vocabulary, and drops the merges that would produce them.

    The unknown token keeps its name, for the tokenizer itself falls back to it. So do the tokens of single bytes.
    """
    kept = model.get("unk_token")
    names = {text: f"{prefix}{i}" for i, text in enumerate(special) if text != kept and not _BYTE.fullmatch(text)}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    else:  # Unigram: pieces with their scores, the unknown one by its index
        unknown = model.get("unk_id")
        model["vocab"] = [
            [piece if i == unknown else names.get(piece, piece), *rest] for i, (piece, *rest) in enumerate(vocabulary)
        ]
    merges = model.get("merges")
    if isinstance(merges, list):
        model["merges"] = [merge for merge in merges if _product(merge) not in names]


def _product(merge: Any) -> str:
    """The token that a merge produces: ``"a b"`` and ``["a", "b"]`` give ab."""
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _is_blank(token: str) -> bool:
    return not token.replace("\u2581", " ").strip()
