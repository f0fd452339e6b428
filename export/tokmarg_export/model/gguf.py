"""What transformers does not read from a GGUF file: the tokenizer as it really is, and rotary factors.

transformers converts the tokenizer without looking at `tokenizer.ggml.pre`, the name of the rule that cuts
text into pieces before merging. The result encodes most words as the model was trained on them, and digits,
say, otherwise. Here the tokenizer is built from the file's own vocabulary, merges and token types, with the
rule that `pre` names.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from gguf import GGUFReader
from transformers import PreTrainedModel

from tokmarg_export.errors import ExportError

# Token types of the GGUF format that are matched as whole strings before anything else.
_CONTROL, _USER_DEFINED = 3, 4

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_GPT2 = _byte_level(use_regex=True)
_SMOLLM = [{"type": "Digits", "individual_digits": True}, _GPT2]
_LLAMA3 = [_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _byte_level(use_regex=False)]
_QWEN2 = [_split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), _byte_level(use_regex=False)]

# `tokenizer.ggml.pre` -> pre-tokenizer, normalizer, ignore_merges (a piece that is a token is taken whole),
# as in the tokenizer.json of these families. "default" is missing on purpose: it says that whoever converted
# the model did not know the rule.
_PRE: dict[str, tuple[dict[str, Any], dict[str, Any] | None, bool]] = {
    "gpt-2": (_GPT2, None, False),
    "llama-bpe": ({"type": "Sequence", "pretokenizers": _LLAMA3}, None, True),
    "qwen2": ({"type": "Sequence", "pretokenizers": _QWEN2}, {"type": "NFC"}, False),
    "smollm": ({"type": "Sequence", "pretokenizers": _SMOLLM}, None, False),
}


def read_field(reader: GGUFReader, name: str) -> Any:
    """The value of a metadata field, or None where the file has no such field."""
    field = reader.get_field(name)
    return None if field is None else field.contents()


def tokenizer_json(reader: GGUFReader) -> str:
    """The file's byte-level BPE tokenizer in the JSON of the `tokenizers` library.

    No post-processor: special tokens come from the template alone. Raises ExportError, naming the field, for
    vocabularies of another kind (SentencePiece) and for pre-tokenizers that are not in the table.
    """
    way_out = "export from the model's Hugging Face folder, whose tokenizer.json says it all"
    kind = read_field(reader, "tokenizer.ggml.model")
    if kind != "gpt2":
        raise ExportError(
            f"GGUF field tokenizer.ggml.model is {kind!r}; only 'gpt2' (byte-level) is readable: {way_out}."
        )
    pre = read_field(reader, "tokenizer.ggml.pre")
    if pre not in _PRE:
        raise ExportError(f"GGUF field tokenizer.ggml.pre is {pre!r}; known are {', '.join(_PRE)}: {way_out}.")
    pre_tokenizer, normalizer, ignore_merges = _PRE[pre]
    tokens = read_field(reader, "tokenizer.ggml.tokens")
    types = read_field(reader, "tokenizer.ggml.token_type")
    merges = read_field(reader, "tokenizer.ggml.merges")
    for name, value in (("tokens", tokens), ("token_type", types), ("merges", merges)):
        if value is None:
            raise ExportError(f"GGUF field tokenizer.ggml.{name} is missing: {way_out}.")
    added = [
        {
            "id": i,
            "content": token,
            "special": token_type == _CONTROL,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for i, (token, token_type) in enumerate(zip(tokens, types, strict=True))
        if token_type in (_CONTROL, _USER_DEFINED)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
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


def special_token(reader: GGUFReader, role: str) -> str | None:
    """The string of `tokenizer.ggml.{role}_token_id`, where the file has it."""
    token_id = read_field(reader, f"tokenizer.ggml.{role}_token_id")
    if token_id is None:
        return None
    field = reader.get_field("tokenizer.ggml.tokens")
    return None if field is None else str(field.contents(int(token_id)))


def apply_rope_factors(reader: GGUFReader, model: PreTrainedModel) -> None:
    """Put the file's rotary scaling into `model`, in place; transformers ignores it.

    Llama 3.1 and later store one divisor per frequency in the tensor `rope_freqs.weight`. Raises ExportError
    for scaling that is given as metadata instead.
    """
    architecture = read_field(reader, "general.architecture")
    scaling = read_field(reader, f"{architecture}.rope.scaling.type")
    if scaling not in (None, "none"):
        raise ExportError(
            f"GGUF field {architecture}.rope.scaling.type is {scaling!r}, which cannot be read from GGUF: "
            "export from the model's Hugging Face folder."
        )
    divisors = [tensor for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    if divisors:
        rotary = model.get_decoder().rotary_emb
        rotary.inv_freq = rotary.original_inv_freq = rotary.inv_freq / torch.tensor(divisors[0].data)
