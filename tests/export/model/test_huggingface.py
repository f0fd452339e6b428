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


def test_chat_template_of_a_file_of_its_own(tmp_path: Path) -> None:
    """Beside that of the settings, which it takes precedence over, or instead of it."""
    write_folder(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    (tmp_path / "chat_template.jinja").write_text("the file: {{ messages[0]['content'] }}")
    for old in ({"chat_template": "the settings"}, {}):
        known = {k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}
        settings.write_text(json.dumps(known | old))
        assert load_model(tmp_path).render_chat(MESSAGES) == "the file: S12"
    (tmp_path / "chat_template.jinja").unlink()
    settings.write_text(json.dumps(known | {"chat_template": "the settings"}))
    assert load_model(tmp_path).render_chat(MESSAGES) == "the settings"


def test_merges_as_strings_and_as_pairs(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    pairs = [list(merge) if isinstance(merge, list) else merge.split(" ") for merge in document["model"]["merges"]]
    found = []
    for merges in (pairs, [" ".join(pair) for pair in pairs]):
        document["model"]["merges"] = merges
        path.write_text(json.dumps(document))
        found.append(Tokenizer.from_str(load_model(tmp_path).tokenizer_json).encode("safe 12 10 S12").ids)
    assert found[0] == found[1]


def test_transformers_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither bars for shards nor advice, and what it says elsewhere is as before."""
    from transformers.utils import logging

    model = write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    capfd.readouterr()
    load_model(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_links_to_files_load(tmp_path: Path) -> None:
    """Hard links, as uv installs, and symbolic ones, as the hub's cache has."""
    model = write_folder(tmp_path / "model")
    for name, link in (("hard", Path.hardlink_to), ("symbolic", Path.symlink_to)):
        (tmp_path / name).mkdir()
        for file in (tmp_path / "model").iterdir():
            link(tmp_path / name / file.name, file)
        torch.testing.assert_close(logits(load_model(tmp_path / name).model, [1, 2, 3]), logits(model, [1, 2, 3]))
