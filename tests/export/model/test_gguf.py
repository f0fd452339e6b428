"""GGUF files: weights, tokenizer and rotary factors as the file has them, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.support.model_files import MESSAGES, logits, write_gguf
from tokmarg_export.errors import ExportError
from tokmarg_export.model.huggingface import load_model


@pytest.mark.parametrize("by_name", [True, False])
def test_gguf_gives_model_tokenizer_and_facts(by_name: bool, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    loaded = load_model(tmp_path, gguf_file="tiny.gguf") if by_name else load_model(tmp_path / "tiny.gguf")
    assert (loaded.model_id, loaded.revision, loaded.licence) == ("tiny.gguf", None, "mit")
    assert (loaded.max_positions, loaded.eos_token_ids) == (128, (257,))
    torch.testing.assert_close(logits(loaded.model, [1, 2, 3]), logits(model, [1, 2, 3]))
    assert loaded.render_chat(MESSAGES) == "<s>[user]S12"


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        ("smollm", ["ĠS", "1", "2", "2"]),  # every digit alone
        ("qwen2", ["ĠS", "1", "2", "2"]),
        (
            "llama-bpe",
            ["ĠS", "122"],
        ),  # three digits, and a piece that is a token is taken whole: no merge makes it
        ("gpt-2", ["ĠS", "12", "2"]),
    ],
)
def test_gguf_pre_tokenizer_decides_about_digits(pre: str, tokens: list[str], tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre=pre)
    tokenizer = Tokenizer.from_str(load_model(tmp_path / "tiny.gguf").tokenizer_json)
    assert tokenizer.encode(" S122").tokens == tokens
    text = "<s>Grüße,\n\n  safe <tool> 10"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    assert added == {"<s>": True, "</s>": True, "<tool>": False}


def test_gguf_rope_factors_are_not_lost(tmp_path: Path) -> None:
    factors = np.array([1.0, 1.0, 4.0, 8.0], np.float32)
    model = write_gguf(tmp_path / "tiny.gguf", factors=factors)
    model.model.rotary_emb.inv_freq /= torch.tensor(factors)
    ids = list(range(40, 80))
    torch.testing.assert_close(logits(load_model(tmp_path / "tiny.gguf").model, ids), logits(model, ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "jais"}, "tokenizer.ggml.pre is 'jais'.*Hugging Face folder"),
        ({"pre": "default"}, "tokenizer.ggml.pre is 'default'"),
        ({"pre": None}, "tokenizer.ggml.pre is None"),
        ({"kind": "t5"}, "tokenizer.ggml.model is 't5'"),
        ({"kind": "llama"}, r"tokenizer\.ggml\.scores is missing"),
        ({"scaling": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
    ],
)
def test_gguf_that_would_be_read_wrongly_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(ExportError, match=message):
        load_model(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no gguf, but long enough to hold a header"])
def test_broken_gguf_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ExportError, match="not a readable GGUF file") as caught:
        load_model(tmp_path / "a.gguf")
    assert "\n" not in str(caught.value)


def test_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no file b\.gguf"):
        load_model(tmp_path, gguf_file="b.gguf")
