"""Makes the small bundles of the conformance sets, and the sets: random weights, tokenizers and specs stated here.

    python examples/conformance/make_bundles.py FOLDER

Needs the exporter (``pip install "tokmarg[export]"``). FOLDER gets a folder and a set for each of ``SPECS``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from make_set import CONTENTS, as_text, make_set

SPECS = Path(__file__).parent / "specs.toml"
#: Words that are one token each, in both tokenizers.
WORDS = [
    "safe", "unsafe", "yes", "no", "user", "assistant", "system", "violence", "privacy", "hate", "the", "ing", "er",
    "an", "one", "un", "S1", "policy",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    contents = json.loads(CONTENTS.read_text(encoding="utf-8"))
    for name in make_bundles(folder):
        made = make_set(folder / name, contents)
        (folder / f"{name}.json").write_text(as_text(made), encoding="utf-8")
        print(f"{folder / name}: {len(made['cases'])} contents")


def make_bundles(folder: Path) -> list[str]:
    """Writes the bundles that are missing in a folder; gives the names of all."""
    from tokmarg_export.bundle_writer import build_bundle
    from tokmarg_export.model.huggingface import load_model
    from tokmarg_export.spec_library import resolve_spec

    specs = tomllib.loads(SPECS.read_text(encoding="utf-8"))
    for seed, (name, spec) in enumerate(specs.items()):
        how = spec.pop("export")
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory() as scratch:
                model = Path(scratch) / name
                write_model(model, sentencepiece() if how["sentencepiece"] else byte_level(), seed, how["window"])
                loaded = load_model(model)
                resolved = resolve_spec(spec, SPECS.name, loaded)
                folder.mkdir(parents=True, exist_ok=True)
                build_bundle(loaded, resolved, folder / name, precision=how["precision"], head=how["head"])
    return list(specs)


def write_model(folder: Path, tokenizer: dict[str, Any], seed: int, window: int) -> None:
    """A Hugging Face folder: two layers of Llama or, with a sliding window, of Mistral; numpy's random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    size = len(tokenizer["model"]["vocab"])
    shape: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    model = (
        MistralForCausalLM(MistralConfig(**shape, sliding_window=window))
        if window
        else LlamaForCausalLM(LlamaConfig(**shape))
    )
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in dict(model.named_parameters()).values():
            if parameter.dim() > 1:  # large, so that probabilities differ from token to token
                parameter.copy_(torch.from_numpy(rng.normal(0, 0.4, tuple(parameter.shape))))
    model.save_pretrained(folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    PreTrainedTokenizerFast(tokenizer_file=str(file)).save_pretrained(folder)


def byte_level() -> dict[str, Any]:
    """Byte-level BPE as GPT-2's, numeric characters one by one: bytes, and words with and without a space."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    merges = chains(["\u0120" + word for word in WORDS] + WORDS)
    # A space and the first byte of `①` and `½` are one token, unless these are numeric characters that stand alone.
    merges += [["\u0120", "\u00e2"], ["\u0120", "\u00c2"]]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*special, *letters, *("".join(pair) for pair in merges)]
    steps = [{"type": "Digits", "individual_digits": True}]
    steps += [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]
    return whole(
        vocabulary,
        merges,
        special,
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        decoder={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    )


def sentencepiece() -> dict[str, Any]:
    """BPE as SentencePiece's, with bytes for what it does not know: a space before the first word, but not after a
    special token."""
    letters = ["\u2581", *map(chr, range(0x21, 0x7F)), *"éüñßøλжא中\u0301"]
    merges = chains(["\u2581" + word for word in WORDS] + WORDS)
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    vocabulary = [*special, *(f"<0x{i:02X}>" for i in range(256)), *letters, *("".join(pair) for pair in merges)]
    return whole(
        vocabulary,
        merges,
        special,
        pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
        decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
        model={"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
    )


def chains(words: list[str]) -> list[list[str]]:
    """Merges that build each word letter by letter, each once."""
    pairs = [(word[:i], word[i]) for word in words for i in range(1, len(word))]
    return [list(pair) for pair in dict.fromkeys(pairs)]


def whole(
    vocabulary: list[str],
    merges: list[list[str]],
    special: list[str],
    model: dict[str, Any] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """A tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bpe: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    bpe |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **flags} for token in special],
        "normalizer": None,
        "post_processor": None,
        **parts,
        "model": bpe | (model or {}) | {"vocab": ids, "merges": merges},
    }


if __name__ == "__main__":
    main()
