"""A folder with tokenizer.model alone: the tokenizer that the same vocabulary gives otherwise."""

from __future__ import annotations

import json
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.support.gguf_files import SPM
from tests.support.model_files import MESSAGES, TEMPLATE, random_model
from tokmarg_export.errors import ExportError
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.model.sentencepiece import Pieces, sentencepiece_json
from tokmarg_export.model.sentencepiece_file import read_pieces


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def protobuf(*, kind: int = 2, space: bool | None = None, fewer: bool | None = False, characters: bytes = b"") -> bytes:
    """As SentencePiece writes it, with fields that nothing here reads."""
    pieces = [field(1, field(1, t.encode()) + field(2, s) + (b"" if k == 1 else field(3, k))) for t, s, k in SPM]
    trainer = field(1, b"corpus.txt") + field(3, kind) + field(4, 8000) + field(10, 0.99)
    flags = [b"" if flag is None else field(n, int(flag)) for n, flag in ((3, space), (4, fewer))]
    normalizer = field(1, b"identity") + field(2, characters) + b"".join(flags)
    return b"".join(pieces) + field(2, trainer) + field(3, normalizer)


def write(folder: Path, content: bytes, **changes: Any) -> None:
    random_model(vocab_size=len(SPM) + 1).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(content)
    added = {"1": {"content": "<s>"}, str(len(SPM)): {"content": "[INST]", "special": True}}
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | changes))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


@pytest.mark.parametrize("space", [None, True, False])
def test_pieces_are_those_of_the_file(space: bool | None, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(protobuf(space=space))
    found = read_pieces(tmp_path / "tokenizer.model")
    texts, scores, types = zip(*SPM, strict=True)
    assert found == Pieces(list(texts), list(scores), list(types), space=None if space is False else "stretch")


def test_folder(tmp_path: Path) -> None:
    write(tmp_path, protobuf(space=True))
    loaded = load_model(tmp_path)
    expected = Tokenizer.from_str(sentencepiece_json(read_pieces(tmp_path / "tokenizer.model")))
    ours = Tokenizer.from_str(loaded.tokenizer_json)
    for text in ("safe", "unsafe un 12 ü", "<s> safe</s>"):
        assert ours.encode(text).ids == expected.encode(text).ids
    assert ours.encode("[INST]safe").tokens == ["[INST]", "▁safe"]
    assert ours.token_to_id("[INST]") == len(SPM)
    assert loaded.render_chat(MESSAGES) == "<s>[user]S12"
    assert loaded.eos_token_ids == (2, 257)  # the tokenizer's, and the configuration's


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, ["▁safe", "[INST]", "▁safe", "</s>", "▁", "unsafe"]),
        ({"legacy": True}, ["▁safe", "[INST]", "▁safe", "</s>", "▁", "unsafe"]),
        ({"legacy": False}, ["▁safe", "[INST]", "safe", "</s>", "unsafe"]),
        ({"legacy": False, "add_prefix_space": False}, ["safe", "[INST]", "safe", "</s>", "unsafe"]),
        ({"add_prefix_space": False}, ["safe", "[INST]", "safe", "</s>", "unsafe"]),
    ],
)
def test_spaces_in_front(changes: dict[str, Any], tokens: list[str], tmp_path: Path) -> None:
    """Of every stretch of text between special tokens, of the text alone, or nowhere."""
    write(tmp_path, protobuf(space=True), **changes)
    ours = Tokenizer.from_str(load_model(tmp_path).tokenizer_json)
    assert ours.encode("safe[INST]safe</s>unsafe").tokens == tokens
    assert ours.encode("safe a safe").tokens == [tokens[0], "▁", "a", "▁safe"]


def test_tokens_of_a_file_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, protobuf(), added_tokens_decoder={})
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[B]": len(SPM) + 1, "[A]": len(SPM)}))
    ours = Tokenizer.from_str(load_model(tmp_path).tokenizer_json)
    assert ours.encode("[B][A]").ids == [len(SPM) + 1, len(SPM)]


def test_tokens_with_a_gap_are_refused(tmp_path: Path) -> None:
    write(tmp_path, protobuf(), added_tokens_decoder={str(len(SPM) + 1): {"content": "[INST]"}})
    with pytest.raises(ExportError, match=r"added tokens leave a gap; take tokenizer\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a BPE model of SentencePiece"),
        (protobuf(kind=1), "is not a BPE model of SentencePiece"),
        (protobuf()[:500], "is not a SentencePiece model"),
        (b"IQ== 0\nIg== 1\n", "is not a BPE model of SentencePiece"),  # Llama 3's file of this name
        (b"\xff" * 99, "is not a SentencePiece model"),
        (protobuf(fewer=True), "normalizes texts"),
        (protobuf(fewer=None), "normalizes texts"),
        (protobuf(characters=b"map"), "normalizes texts"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(ExportError, match=rf"tokenizer\.model {message}.*take tokenizer\.json"):
        load_model(tmp_path)


def test_damaged_files_are_refused_or_other_pieces(tmp_path: Path) -> None:
    whole, file, rng = protobuf(), tmp_path / "tokenizer.model", random.Random(0)
    refused = 0
    for _ in range(500):
        changed = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(1, 4)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        file.write_bytes(changed)
        refused += 1
        with suppress(ExportError):
            assert len(read_pieces(file).texts) > 0
            refused -= 1
    assert 200 < refused < 500
