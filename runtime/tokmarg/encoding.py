"""Text to token ids, such that special tokens come from the scaffold only.

A prompt is text with known places of content. It is cut at the special tokens *of the scaffold*; everything
between two of them, scaffold and content together, is encoded as one string. So merges across the border come
out as they do when the whole prompt is tokenised (as in training), while a content that spells ``<|im_end|>`` is
encoded as plain characters.

To get there the tokenizer is rebuilt without its added tokens. ``encode_special_tokens = True`` would leave the
added tokens that are not marked special (Qwen's ``<think>``), so they are taken out altogether; only those made
of white space stay (Gemma's runs of newlines), since they are how the model reads plain text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from .errors import BundleError

__all__ = ["Encoder", "Encoding", "Piece"]


class Piece(NamedTuple):
    """A stretch of prompt text; special tokens are recognised in scaffold pieces only."""

    text: str
    is_content: bool


class Encoding(NamedTuple):
    """Token ids and, for each, the characters [start, end) of the whole text it stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """Encodes scaffold and content with one tokenizer.

    Args:
        tokenizer_json: contents of ``tokenizer.json`` (the `tokenizers` library's format).
        where: name for messages.

    Raises:
        BundleError: the JSON is not a tokenizer.
    """

    def __init__(self, tokenizer_json: str, where: str = "tokenizer.json") -> None:
        try:
            data: dict[str, Any] = json.loads(tokenizer_json)
            added = {str(t["content"]): t for t in data["added_tokens"]}
            self.special_ids = {text: int(t["id"]) for text, t in added.items() if not _is_blank(text)}
            self._strips = {text: (bool(t["lstrip"]), bool(t["rstrip"])) for text, t in added.items()}
            data["added_tokens"] = [t for t in data["added_tokens"] if _is_blank(str(t["content"]))]
            data["post_processor"] = data["truncation"] = data["padding"] = None
            self._plain = Tokenizer.from_str(json.dumps(data))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise BundleError(f"{where}: not a tokenizer of the tokenizers library: {error}") from error
        vocabulary = self._plain.get_vocab(with_added_tokens=True)
        self.longest_token = max((len(token) for token in vocabulary), default=1)  # in characters
        self.largest_id = max(vocabulary.values(), default=0)  # of what content can become
        # Tokenizers that put a space in front of the first word do so once per text, not behind a special token.
        # A stand-in special token in front of such a segment keeps the pipeline in that state. It is random, so
        # no content can contain it.
        self._stand_in = f"\ufdd0{secrets.token_hex(16)}\ufdd1"
        self._plain.add_special_tokens([AddedToken(self._stand_in, normalized=False)])
        self._stand_in_id = self._plain.token_to_id(self._stand_in)
        ordered = sorted(self.special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def token_id(self, text: str) -> int | None:
        """Id of the special token spelt ``text``, or None."""
        return self.special_ids.get(text)

    def encode(self, pieces: Sequence[Piece], *, behind: bool = False) -> Encoding:
        """Encodes a prompt, or a part of one.

        Args:
            pieces: the text; special tokens are recognised in scaffold pieces only.
            behind: a special token stands in front of it.

        Returns:
            ids and character offsets into the joined text of ``pieces``.
        """
        whole = "".join(piece.text for piece in pieces)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0  # where the current segment begins in `whole`
        for at, special in self._scaffold_specials(pieces):
            lstrip, rstrip = self._strips[special]
            self._segment(whole, start, at, behind, (False, lstrip), ids, offsets)
            ids.append(self.special_ids[special])
            start = at + len(special)
            offsets.append((at, start))
            behind = True
            while rstrip and start < len(whole) and whole[start].isspace():
                start += 1
        self._segment(whole, start, len(whole), behind, (False, False), ids, offsets)
        return Encoding(ids, offsets)

    def token_text(self, token: int) -> str:
        """A token as it stands in the vocabulary, for messages."""
        special = next((text for text, i in self.special_ids.items() if i == token), None)
        return str(special if special is not None else self._plain.id_to_token(token))

    def vocabulary_id(self, token: str) -> int | None:
        """Id of the vocabulary entry spelt ``token`` (as the vocabulary spells it), or None."""
        found: int | None = self.special_ids.get(token, self._plain.token_to_id(token))
        return found

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text that stands in the middle of a prompt; special tokens are not recognised."""
        return self.encode([Piece(text, True)], behind=True).ids

    def encode_verdict(self, text: str) -> list[int]:
        """Ids of a verdict, or of scaffold in front of one; some guards answer with special tokens."""
        return self.encode([Piece(text, False)], behind=True).ids

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token id, as it reads in the middle of a text; special tokens are spelt out.

        A token of broken UTF-8 reads U+FFFD, an id of no token the empty text.
        """
        special = {i: text for text, i in self.special_ids.items()}
        size = 1 + max(self.largest_id, *special)
        known = self._plain.decode_batch([[self._stand_in_id, i] for i in range(size)], skip_special_tokens=False)
        return [special.get(i, text[len(self._stand_in) :]) for i, text in enumerate(known)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a token path that stands in the middle of a prompt; special tokens are spelt out."""
        special = {i: text for text, i in self.special_ids.items()}
        found, plain = "", [self._stand_in_id]
        for i in [*ids, None]:
            if i is None or i in special:
                found += self._plain.decode(plain, skip_special_tokens=False)[len(self._stand_in) :]
                found, plain = found + special.get(-1 if i is None else i, ""), [self._stand_in_id]
            else:
                plain.append(i)
        return found

    def tail(self, scaffold: str) -> str:
        """The scaffold text behind its last special token: what a following text may merge with."""
        if self._special is None:
            return scaffold
        ends = [match.end() for match in self._special.finditer(scaffold)]
        return scaffold[ends[-1] :] if ends else scaffold

    def _scaffold_specials(self, pieces: Sequence[Piece]) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        at = 0
        for piece in pieces:
            if not piece.is_content and self._special is not None:
                found += [(at + m.start(), m[0]) for m in self._special.finditer(piece.text)]
            at += len(piece.text)
        return found

    def _segment(
        self,
        whole: str,
        start: int,
        end: int,
        behind: bool,
        strip: tuple[bool, bool],
        ids: list[int],
        offsets: list[tuple[int, int]],
    ) -> None:
        while strip[1] and end > start and whole[end - 1].isspace():
            end -= 1
        if end <= start:
            return
        if not behind:
            found = self._plain.encode(whole[start:end], add_special_tokens=False)
            ids += found.ids
            offsets += [(start + a, start + b) for a, b in found.offsets]
            return
        found = self._plain.encode(self._stand_in + whole[start:end], add_special_tokens=False)
        shift = start - len(self._stand_in)
        ids += found.ids[1:]
        offsets += [(shift + a, shift + b) for a, b in found.offsets[1:]]


def _is_blank(token: str) -> bool:
    return not token.replace("\u2581", " ").strip()
