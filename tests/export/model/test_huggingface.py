"""Loading from folders: model, tokenizer and metadata, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig

from tests.support.model_files import MESSAGES, logits, random_model, write_folder
from tokmarg_export.errors import ExportError
from tokmarg_export.model.huggingface import load_model


def test_folder_gives_model_tokenizer_and_facts(tmp_path: Path) -> None:
    folder = tmp_path / "my-guard"
    model = write_folder(folder)
    loaded = load_model(folder)
    assert (loaded.model_id, loaded.revision, loaded.licence) == ("my-guard", None, "apache-2.0")
    assert (loaded.max_positions, loaded.eos_token_ids) == (128, (257,))
    assert not loaded.model.training
    torch.testing.assert_close(logits(loaded.model, [1, 2, 3]), logits(model, [1, 2, 3]))
    assert loaded.render_chat(MESSAGES) == "<s>[user]S12"
    encoding = Tokenizer.from_str(loaded.tokenizer_json).encode("safe safe safe safe safe")
    assert len(encoding.ids) > 4  # a saved truncation would cut prompts silently
    assert str(tmp_path) not in loaded.tokenizer_json


def test_folder_in_half_precision(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert load_model(tmp_path, dtype=torch.float16).model.dtype == torch.float16


def test_folder_of_gguf_files_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no config\.json.*--gguf-file a\.gguf"):
        load_model(tmp_path)


def test_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"model\.bin is a file but not \.gguf"):
        load_model(tmp_path / "model.bin")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_missing_path_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        load_model(name)


def test_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="configuration of nobody/no-model from the Hugging Face hub") as caught:
        load_model("nobody/no-model")
    assert "\n" not in str(caught.value)


def test_unsupported_family_is_refused_before_its_weights(tmp_path: Path) -> None:
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"'gpt2'.*supported are gemma2"):
        load_model(tmp_path)


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="tokenizer"):
        load_model(tmp_path)


def test_broken_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ExportError, match="Cannot load configuration"):
        load_model(tmp_path)


def test_template_that_rejects_the_messages_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path)
    file = tmp_path / "chat_template.jinja"
    assert file.is_file() or "chat_template" in json.loads((tmp_path / "tokenizer_config.json").read_text())
    file.write_text("{{ raise_exception('only user turns') }}")
    with pytest.raises(ExportError, match="only user turns"):
        load_model(tmp_path).render_chat(MESSAGES)
