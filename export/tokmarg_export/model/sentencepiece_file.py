"""SentencePiece's own file, `tokenizer.model`, where a folder has no tokenizer.json.

The file is a protocol buffer (sentencepiece_model.proto): pieces with text, score and type; whether a text gets a space
in front; and how it is normalized, which is refused: no guard's vocabulary does it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tokmarg_export.errors import ExportError

from .sentencepiece import USER_DEFINED, Pieces, Space, sentencepiece_json

__all__ = ["read_pieces", "tokenizer_of_folder"]

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # of ModelProto
_BPE = 2  # of TrainerSpec's model_type, its field 3
_CHARACTER_MAP, _SPACE_IN_FRONT, _FEWER_SPACES = 2, 3, 4  # of NormalizerSpec


def tokenizer_of_folder(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `tokenizer.model`, with the special tokens and the chat template that the folder states.

    Raises ExportError where the file is not a SentencePiece BPE model, or the folder's further tokens leave a gap.
    """
    settings = _json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    chat = template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template")
    pieces = read_pieces(folder / "tokenizer.model")
    pieces = replace(pieces, space=_space(pieces.space, settings))
    names = {role: _text(settings[role]) for role in ("bos_token", "eos_token", "unk_token") if settings.get(role)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(sentencepiece_json(pieces)), chat_template=chat, **names
    )
    added = {int(i): token for token, i in _json(folder / "added_tokens.json").items()}
    added |= {int(i): _text(token) for i, token in settings.get("added_tokens_decoder", {}).items()}
    beyond = sorted(i for i in added if i >= len(pieces.texts))
    if beyond != [*range(len(pieces.texts), len(pieces.texts) + len(beyond))]:
        raise ExportError(f"{folder}: added tokens leave a gap; take tokenizer.json from the model's repository.")
    tokenizer.add_special_tokens({"additional_special_tokens": [added[i] for i in beyond]})
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    """The file's object; an empty one where there is no such file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _space(of_file: Space, settings: Mapping[str, Any]) -> Space:
    """What gets a space in front, as transformers' LlamaConverter reads a folder's settings."""
    if settings.get("add_prefix_space") is False:
        return None
    return "text" if of_file is not None and settings.get("legacy") is False else of_file


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)


def read_pieces(path: Path) -> Pieces:
    """The vocabulary of a SentencePiece file. Raises ExportError where it is none, not of BPE, or normalizes texts."""
    texts, scores, types = [], [], []
    kind = 1  # the format's default: unigram
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == _PIECES:
                piece = dict(_fields(value))
                text = piece[1].decode("utf-8")
                types.append(piece.get(3, 1))
                # What users define is matched in the text itself, where spaces are spaces.
                texts.append(text.replace("▁", " ") if types[-1] == USER_DEFINED else text)
                scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
            elif number == _TRAINER:
                kind = dict(_fields(value)).get(3, kind)
            elif number == _NORMALIZER:
                normalizer = dict(_fields(value))
    except (KeyError, IndexError, struct.error, TypeError, ValueError, AttributeError) as error:
        raise ExportError(f"{path} is not a SentencePiece model; take tokenizer.json from the repository.") from error
    if kind != _BPE or not texts:
        raise ExportError(f"{path} is not a BPE model of SentencePiece; take tokenizer.json from the repository.")
    if normalizer.get(_CHARACTER_MAP) or normalizer.get(_FEWER_SPACES, True):
        raise ExportError(f"{path} normalizes texts, which is not read; take tokenizer.json from the repository.")
    return Pieces(texts, scores, types, space="stretch" if normalizer.get(_SPACE_IN_FRONT, True) else None)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protocol buffer: integers, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("cut short")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
