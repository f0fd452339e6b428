"""SentencePiece BPE vocabularies, in the JSON of the `tokenizers` library.

Such a vocabulary is a list of pieces with scores. An encoder starts from characters and joins, again and again, the two
neighbours whose joint piece has the highest score. The `tokenizers` library wants merges in their order instead: every
way to cut a piece into two others is one, and they are ordered by the score of the piece that they make.

    pieces (score)   a  b  c  ab (-1)  bc (-2)  abc (-3)
    merges           a b    b c    ab c    a bc

Spaces are written ▁. Characters without a piece are spelt in UTF-8 bytes, for each of which there is a piece <0x00>.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["BYTE", "CONTROL", "UNKNOWN", "USER_DEFINED", "Pieces", "Space", "added_tokens", "sentencepiece_json"]

#: Types of pieces, the same numbers in GGUF files and in SentencePiece's own.
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6

_SPACE = "▁"

#: What gets a space in front: every stretch of text between special tokens, or the text as a whole; None = neither.
Space = Literal["stretch", "text"] | None
_METASPACE = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}


@dataclass(frozen=True)
class Pieces:
    """A vocabulary: texts, scores and types by token id; and what gets a space in front."""

    texts: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    space: Space


def sentencepiece_json(pieces: Pieces) -> str:
    """The tokenizer. No post-processor: special tokens come from the template alone."""
    unknown = [text for text, kind in zip(pieces.texts, pieces.types, strict=True) if kind == UNKNOWN]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if pieces.space is not None:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(pieces.texts, pieces.types),
        "normalizer": _normalizer(pieces.space),
        "pre_tokenizer": _METASPACE if pieces.space == "text" else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown[0] if unknown else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": BYTE in pieces.types,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(pieces.texts)},
            "merges": _merges(pieces),
        },
    }
    return json.dumps(document, ensure_ascii=False)


def _normalizer(space: Space) -> dict[str, Any] | None:
    if space == "text":
        return None  # the pre-tokenizer spells spaces
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    return replace if space is None else {"type": "Sequence", "normalizers": [prepend, replace]}


def added_tokens(texts: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    """The tokens that are matched as whole strings before anything else, as `tokenizers` lists them."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": i, "content": text, "special": kind != USER_DEFINED, **flags}
        for i, (text, kind) in enumerate(zip(texts, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _merges(pieces: Pieces) -> list[tuple[str, str]]:
    known = set(pieces.texts)
    found = [
        (score, at, len(text) - at, text)
        for text, score in zip(pieces.texts, pieces.scores, strict=True)
        for at in range(1, len(text))
        if text[:at] in known and text[at:] in known
    ]
    # Of two ways to make the same piece the one with the longer left part comes first: runs grow from the left.
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(text[:at], text[at:]) for _, at, _, text in found]
