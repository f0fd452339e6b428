"""The tokenizer of a GGUF file, in the JSON of the `tokenizers` library.

transformers converts it without looking at `tokenizer.ggml.pre`, the name of the rule that cuts text into pieces before
merging. The result encodes most words as the model was trained on them, and digits, say, otherwise. Here the tokenizer
is built from the file's own vocabulary, merges or scores and token types, with the rule that `pre` names. The rules are
those of llama.cpp (src/llama-vocab.cpp), written as the families' own tokenizer.json have them.
"""

from __future__ import annotations

import json
from typing import Any

from tokmarg_export.errors import ExportError

from .gguf_file import GgufFile
from .sentencepiece import Pieces, added_tokens, sentencepiece_json

__all__ = ["special_token", "tokenizer_json"]

_WAY_OUT = "export from the model's Hugging Face folder, whose tokenizer.json says it all"

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_GPT2 = _byte_level(use_regex=True)
_DIGITS = [{"type": "Digits", "individual_digits": True}, _GPT2]
_LLAMA3 = [_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _byte_level(use_regex=False)]
_QWEN2 = [_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), _byte_level(use_regex=False)]
_QWEN35 = [
    _split(
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    _byte_level(use_regex=False),
]
# Words begin anew at a capital after a small letter.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OPENED = r"[^\r\n\p{L}\p{N}]?"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(contractions: str, digits: str) -> list[dict[str, Any]]:
    words = rf"{_OPENED}{_UPPER}*{_LOWER}+{contractions}|{_OPENED}{_UPPER}+{_LOWER}*{contractions}"
    return [_split(rf"{words}|{digits}|{_SLASHES}"), _byte_level(use_regex=False)]


_GPT4O = _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")
_TEKKEN = _cased("", r"\p{N}")


def _sequence(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": parts}


_NFC = {"type": "NFC"}
# `tokenizer.ggml.pre` -> pre-tokenizer, normalizer, ignore_merges (a piece that is a token is taken whole), as in the
# tokenizer.json of these families. "default" is missing on purpose: it says that whoever converted the model did not
# know the rule.
_PRE: dict[str, tuple[dict[str, Any], dict[str, Any] | None, bool]] = {
    **dict.fromkeys(("gpt-2", "granite-docling"), (_GPT2, None, False)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), (_sequence(_LLAMA3), None, True)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), (_sequence(_LLAMA3), None, False)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), (_sequence(_QWEN2), _NFC, False)),
    "qwen35": (_sequence(_QWEN35), _NFC, False),
    **dict.fromkeys(("smollm", "starcoder", "refact"), (_sequence(_DIGITS), None, False)),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), (_sequence(_GPT4O), None, False)),
    "tekken": (_sequence(_TEKKEN), None, True),
}


def tokenizer_json(file: GgufFile) -> str:
    """The file's tokenizer.

    No post-processor: special tokens come from the template alone. Raises ExportError, naming the field, for
    vocabularies of another kind and for pre-tokenizers that are not in the table.
    """
    kind = file.field("tokenizer.ggml.model")
    if kind == "llama":
        return sentencepiece_json(_pieces(file))
    if kind == "gpt2":
        return _byte_level_json(file)
    raise ExportError(
        f"GGUF field tokenizer.ggml.model is {kind!r}; readable are 'gpt2' (byte-level) and 'llama' (SentencePiece): "
        f"{_WAY_OUT}."
    )


def _pieces(file: GgufFile) -> Pieces:
    texts, scores, types = (_list(file, name) for name in ("tokens", "scores", "token_type"))
    in_front = file.field("tokenizer.ggml.add_space_prefix")
    return Pieces(texts, scores, types, space="stretch" if in_front is None or in_front else None)


def _list(file: GgufFile, name: str) -> list[Any]:
    return list(file.needed(f"tokenizer.ggml.{name}"))


def _byte_level_json(file: GgufFile) -> str:
    pre = file.field("tokenizer.ggml.pre")
    if pre not in _PRE:
        raise ExportError(f"GGUF field tokenizer.ggml.pre is {pre!r}; known are {', '.join(_PRE)}: {_WAY_OUT}.")
    pre_tokenizer, normalizer, ignore_merges = _PRE[pre]
    tokens, types, merges = (_list(file, name) for name in ("tokens", "token_type", "merges"))
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(tokens, types),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False)


def special_token(file: GgufFile, role: str) -> str | None:
    """The string of `tokenizer.ggml.{role}_token_id`, where the file has it."""
    token_id = file.field(f"tokenizer.ggml.{role}_token_id")
    return None if token_id is None else str(_list(file, "tokens")[int(token_id)])
