"""Reading a JSON or TOML file: the format, and one line for everything that goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokmarg.documents import read_document
from tokmarg.errors import SpecError


@pytest.mark.parametrize("name", ["a.json", "A.JSON", "a.Json"])
def test_json_by_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert read_document(tmp_path / name, SpecError) == {"a": [1]}


@pytest.mark.parametrize("name", ["a.toml", "a.TOML", "a", "a.json.txt"])
def test_toml_by_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfa = [1]\r\n")
    assert read_document(tmp_path / name, SpecError) == {"a": [1]}


def test_given_format(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("a = 1")
    assert read_document(tmp_path / "a.json", SpecError, format="toml") == {"a": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "not valid JSON: "),
        ("a.json", b"[" * 100_000, "not valid JSON: "),
        ("a.json", b"\xff", "not valid JSON: "),
        ("a.toml", b"a = ", "not valid TOML: "),
        ("a.toml", b"a = " + b"[" * 5000, "not valid TOML: "),
        ("a.toml", b"a = '\xff'", "not valid TOML: "),
        ("a.toml", None, "cannot be read: No such file or directory"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_document(tmp_path / name, SpecError)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(caught.value)


def test_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.toml").open("wb") as stream:
        os.truncate(stream.fileno(), 2**24 + 1)
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(SpecError, match=r"a\.toml: larger than 16 MiB$"):
        read_document(tmp_path / "a.toml", SpecError)
